//! What the logs of all rooms may hold.

use handover_protocol::room::log::Read;
use handover_protocol::session::{Reply, RoomLog};
use handover_protocol::wire::message::ResetReason;

use super::*;

fn body(bytes: usize) -> Json {
    Json::parse(format!("\"{}\"", "x".repeat(bytes - 2)).as_bytes()).unwrap()
}

impl Member {
    /// What is told of a send that the room serves at once; nothing if it was taken.
    fn send_now(&self, seq: u64, bytes: usize) -> Option<ErrorCode> {
        let (room, body) = (self.room.clone(), body(bytes));
        let op = Op::Send(Send { room, lane: LogLane::Bulk, seq, to: None, body });
        let ask = Command::Request(Box::new((self.seat.clone(), SLOT, op)));
        self.handle.ask(LogLane::Bulk, ask).unwrap();
        match self.seat.mailbox.take_notice() {
            Some(Notice::Reply(Reply { outcome: Outcome::Refused { refusal, .. }, .. })) => {
                Some(refusal.code)
            }
            None => None,
            other => panic!("{other:?}"),
        }
    }
}

/// Who fills its rooms has nobody refused anything, and the logs hold what they may before long.
#[tokio::test]
async fn logs_have_a_budget_and_beyond_it_a_room_keeps_its_share() {
    const KIB: usize = 1024;
    const BUDGET: usize = 600 * KIB;
    let router = router();
    router.bound(Bounds { log_bytes: BUDGET, ..Bounds::default() });
    let (ann, bob) =
        (Member::join_room(&router, "full").await, Member::join_room(&router, "small").await);
    // What a room holds that nobody is in counts for as long as it holds it.
    let dan = Member::join_room(&router, "left").await;
    assert_eq!(dan.send_now(1, 20 * KIB), None);
    dan.ask(Op::Leave { id: 2 });
    assert!(matches!(soon(dan.outcome()).await, Outcome::Left { .. }));
    let held = || usize::try_from(router.0.metrics.log_bytes.get()).unwrap();
    let settled = async || {
        soon(async {
            while held() > BUDGET {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    };
    let read = async |member: &Member, lane| {
        member.ask(Op::Snapshot { reason: ResetReason::Trimmed });
        let Outcome::Snapshot { log, .. } = soon(member.outcome()).await else { panic!("refused") };
        log.read(lane, 0)
    };
    assert_eq!((1..=60).find_map(|seq| ann.send_now(seq, 20 * KIB)), None);
    assert_eq!((1..=3).find_map(|seq| bob.send_now(seq, 20 * KIB)), None);
    settled().await;
    assert!(matches!(read(&ann, LogLane::Bulk).await, Read::Trimmed));
    assert!(matches!(read(&bob, LogLane::Bulk).await, Read::Entry(_)), "a small room keeps all");
    // Joining, showing something and leaving adds to a log as sending does.
    let cid = Member::join_room(&router, "coming and going").await;
    for id in 0..100 {
        cid.ask(Op::Leave { id });
        assert!(matches!(soon(cid.outcome()).await, Outcome::Left { .. }));
        cid.ask(Op::Join { id, metadata: Some(body(4 * KIB)) });
        assert!(matches!(soon(cid.outcome()).await, Outcome::Joined { .. }));
    }
    settled().await;
    assert!(matches!(read(&cid, LogLane::Signal).await, Read::Trimmed));
    assert!(matches!(read(&bob, LogLane::Bulk).await, Read::Entry(_)), "it has its share");
    assert_eq!(ann.send_now(61, 20 * KIB), None, "they go on");
    let names: Vec<RoomName> = router.0.rooms().keys().cloned().collect();
    let mut bytes = 0;
    for name in names {
        let epoch = router.0.identifiers.epoch().unwrap();
        let state = router.0.broker.load(router.0.clock.now(), &name, epoch).await.unwrap();
        let entries = state.entries.signal.iter().chain(&state.entries.bulk);
        bytes += entries.map(|entry| entry.bytes()).sum::<usize>();
    }
    assert_eq!(held(), bytes, "to the byte, and the broker lets go of the same");
}
