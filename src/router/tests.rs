//! Rooms and sessions on a broker in memory. The runtime has one thread, so what is put into a
//! room's mailboxes without waiting reaches it in one batch.

mod budget;
mod nodes;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use handover_protocol::limits::Retention;
use handover_protocol::room::Snapshot;
use handover_protocol::session::{Op, Outcome};
use handover_protocol::time::Time;
use handover_protocol::wire::message::{Positions, Send};
use handover_protocol::wire::{Codec, Epoch, Json, Secret, UserId};
use tokio::sync::watch;

use super::*;
use crate::broker::memory::MemoryBroker;
use crate::broker::{AtHand, Change, Done, KEEP_EVERY, Keeping, Retired, RoomOp, RoomState};

struct Member {
    seat: Arc<Seat>,
    secret: Secret,
    room: RoomName,
    handle: RoomHandle,
}

const SLOT: Slot = Slot { index: 0, generation: 0 };

/// A broker with a fault, once it is asked to.
#[derive(Debug)]
struct Faulty {
    sound: MemoryBroker,
    fails: Arc<AtomicBool>,
    at_hand: bool,
    /// How often it was told that the node lives. The first time is one too many.
    beats: Arc<AtomicUsize>,
    /// How often it was told which sessions are here: none of them can be kept.
    kept: watch::Sender<u64>,
    losses: watch::Sender<u64>,
}

impl Faulty {
    fn new(limits: RoomLimits, fails: &Arc<AtomicBool>, at_hand: bool) -> Self {
        let (sound, fails) = (MemoryBroker::new(limits), fails.clone());
        let (beats, kept, losses) =
            (Arc::new(AtomicUsize::new(1)), Default::default(), Default::default());
        Faulty { sound, fails, at_hand, beats, kept, losses }
    }

    fn fail(&self) {
        assert!(!self.fails.swap(false, Ordering::SeqCst), "a fault on purpose");
    }
}

#[async_trait]
impl Broker for Faulty {
    async fn open(&self, record: SessionRecord) -> Result<(), Unavailable> {
        self.sound.open(record).await
    }

    async fn resume(
        &self,
        session: SessionId,
        hash: SecretHash,
        presented: Option<Admission>,
        unix_now: u64,
    ) -> Result<SessionRecord, ResumeError> {
        self.sound.resume(session, hash, presented, unix_now).await
    }

    async fn readmit(&self, author: Author, admission: Admission) -> Result<bool, Unavailable> {
        self.sound.readmit(author, admission).await
    }

    async fn retire(&self, author: Author) -> Result<Retired, Unavailable> {
        self.fail();
        self.sound.retire(author).await
    }

    async fn end(&self, author: Author) -> Result<(), Unavailable> {
        self.sound.end(author).await
    }

    async fn keep(&self, _: Vec<Author>) -> Keeping {
        self.kept.send_modify(|kept| *kept += 1);
        Keeping { strangers: Vec::new(), failed: Some(Unavailable("on purpose".to_owned())) }
    }

    fn losses(&self) -> Option<watch::Receiver<u64>> {
        Some(self.losses.subscribe())
    }

    async fn beat(&self) -> Result<bool, Unavailable> {
        assert!(self.beats.fetch_add(1, Ordering::SeqCst) > 0, "a fault on purpose");
        Ok(false)
    }

    async fn load(&self, now: Time, room: &RoomName, e: Epoch) -> Result<RoomState, Unavailable> {
        self.sound.load(now, room, e).await
    }

    async fn read(
        &self,
        room: &RoomName,
        after: PerLane<u64>,
    ) -> Result<Option<RoomState>, Unavailable> {
        self.sound.read(room, after).await
    }

    async fn apply(
        &self,
        now: Time,
        room: &RoomName,
        known: Option<Positions>,
        ops: Vec<RoomOp>,
    ) -> Result<Option<Vec<Result<Done, Refusal>>>, Unavailable> {
        self.fail();
        self.sound.apply(now, room, known, ops).await
    }

    fn at_hand(&self) -> Option<&dyn AtHand> {
        self.at_hand.then_some(self)
    }

    async fn trim(
        &self,
        now: Time,
        room: &RoomName,
        known: Option<Positions>,
    ) -> Result<Option<Positions>, Unavailable> {
        self.sound.trim(now, room, known).await
    }

    async fn remove_if_empty(&self, now: Time, room: &RoomName) -> Result<bool, Unavailable> {
        self.sound.remove_if_empty(now, room).await
    }
}

impl AtHand for Faulty {
    fn apply_one(&self, now: Time, room: &RoomName, op: RoomOp) -> Result<Done, Refusal> {
        self.fail();
        self.sound.apply_one(now, room, op)
    }

    fn dormant(&self) -> usize {
        self.sound.dormant()
    }

    fn shrink(&self, now: Time, room: &RoomName, bytes: usize, spared: Duration) {
        self.sound.shrink(now, room, bytes, spared);
    }
}

fn router() -> Router {
    router_on(MemoryBroker::new)
}

fn router_on<B: Broker>(broker: impl FnOnce(RoomLimits) -> B) -> Router {
    let limits = limits();
    start_on(Arc::new(broker(limits)), limits)
}

const WINDOW: Duration = Duration::from_secs(120);

fn limits() -> RoomLimits {
    let retention = PerLane { signal: Retention::signal(WINDOW), bulk: Retention::bulk(WINDOW) };
    RoomLimits { members: 9, metadata_bytes: usize::MAX, retention }
}

fn start_on(broker: Arc<dyn Broker>, limits: RoomLimits) -> Router {
    start_with(broker, limits, WINDOW)
}

fn start_with(broker: Arc<dyn Broker>, limits: RoomLimits, window: Duration) -> Router {
    start_by(Clock::start(), broker, limits, window)
}

fn start_by(clock: Clock, broker: Arc<dyn Broker>, limits: RoomLimits, window: Duration) -> Router {
    let metrics = Arc::default();
    let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
    Router::start(broker, clock, metrics, limits, window, tasks, stopping)
}

fn hello(resume: Option<Resume>) -> Hello {
    Hello { version: 1, token: None, agent: None, resume }
}

fn mailbox() -> Arc<Mailbox> {
    Arc::new(Mailbox::new(Codec::Json))
}

/// What a connection is told next.
async fn told(seat: &Seat) -> Notice {
    loop {
        if let Some(notice) = seat.mailbox.take_notice() {
            return notice;
        }
        tokio::task::yield_now().await;
    }
}

impl Member {
    async fn join(router: &Router) -> Member {
        Member::join_room(router, "r").await
    }

    async fn join_room(router: &Router, room: &str) -> Member {
        let (seat, opened, _) =
            router.open(hello(None), Some(Admission::anonymous()), mailbox()).await.unwrap();
        let room = RoomName::parse(room).unwrap();
        let handle = router.room(&room);
        let member = Member { seat, secret: opened.secret, room, handle };
        member.ask(Op::Join { id: 1, metadata: None });
        assert!(matches!(member.outcome().await, Outcome::Joined { .. }));
        member
    }

    fn ask(&self, op: Op) {
        let lane = op.lane();
        let command = Command::Request(Box::new((self.seat.clone(), SLOT, op)));
        self.handle.sender(lane).try_send(command).unwrap();
    }

    fn send(&self, lane: LogLane, seq: u64) {
        let (room, body) = (self.room.clone(), Json::parse(b"1").unwrap());
        self.ask(Op::Send(Send { room, lane, seq, to: None, body }));
    }

    async fn outcome(&self) -> Outcome<SharedLog> {
        match told(&self.seat).await {
            Notice::Reply(reply) => reply.outcome,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn all_bulk_sends_before_a_leave_are_applied_in_order() {
    let router = router();
    let (ann, bob) = (Member::join(&router).await, Member::join(&router).await);
    for seq in 1..=200 {
        ann.send(LogLane::Bulk, seq);
    }
    for seq in 1..=20 {
        bob.send(LogLane::Bulk, seq);
    }
    ann.ask(Op::Leave { id: 2 });
    let Outcome::Left { at, .. } = ann.outcome().await else { panic!("refused") };
    assert_eq!(at.bulk, 220);
}

#[tokio::test]
async fn what_was_sent_before_bye_is_applied() {
    let router = router();
    let ann = Member::join(&router).await;
    for lane in LogLane::ALL {
        (1..=100).for_each(|seq| ann.send(lane, seq));
    }
    let left = router.end(ann.seat.author, [ann.room.clone()], LeaveReason::Bye).await.unwrap();
    // Beside the sends, signal has the join and the end.
    assert_eq!(left, [(ann.room.clone(), PerLane { signal: 102, bulk: 100 })]);
}

#[tokio::test]
async fn a_seat_taken_and_given_up_at_once_is_free() {
    let router = router();
    let (ann, bob) = (Member::join(&router).await, Member::join(&router).await);
    let again = Arc::new(Seat::new(bob.seat.author, None, mailbox(), None));
    let (attached, waiting) = oneshot::channel();
    let attach = Attach { seat: again.clone(), slot: SLOT, attached };
    bob.handle.sender(LogLane::Signal).try_send(Command::Attach(Box::new(attach))).unwrap();
    bob.handle.sender(LogLane::Signal).try_send(Command::Detach(again.clone())).unwrap();
    assert!(waiting.await.is_ok());
    again.mailbox.take_news();
    ann.send(LogLane::Signal, 1);
    ann.ask(Op::Members { id: 2 });
    ann.outcome().await;
    assert_eq!(again.mailbox.take_news(), PerLane::default());
}

#[tokio::test]
async fn an_older_resume_that_comes_late_takes_nothing_over() {
    let router = router();
    let ann = Member::join(&router).await;
    let newer = Author { generation: 3, ..ann.seat.author };
    let newer = Arc::new(Seat::new(newer, None, mailbox(), None));
    router.take_seat(&newer);
    assert!(matches!(told(&ann.seat).await, Notice::Replaced));
    router.lost(&newer, Vec::new()).await;
    let older = Author { generation: 2, ..ann.seat.author };
    let older = Arc::new(Seat::new(older, None, mailbox(), None));
    router.take_seat(&older);
    assert!(matches!(told(&older).await, Notice::Replaced));
    assert!(router.0.sessions().presence.poll_timeout().is_some(), "the session still expires");
}

#[tokio::test]
async fn who_comes_while_the_gateway_goes_is_told_so() {
    let router = router();
    let ann = Member::join(&router).await;
    router.drain(10);
    assert!(matches!(told(&ann.seat).await, Notice::Draining { reconnect_in: 0..10 }));
    let (bob, ..) =
        router.open(hello(None), Some(Admission::anonymous()), mailbox()).await.unwrap();
    assert!(matches!(told(&bob).await, Notice::Draining { .. }));
    router.stop();
    let (cid, ..) =
        router.open(hello(None), Some(Admission::anonymous()), mailbox()).await.unwrap();
    for seat in [&bob, &cid] {
        assert!(matches!(told(seat).await, Notice::Stop));
    }
}

#[tokio::test]
async fn a_room_that_waits_for_nothing_serves_at_once() {
    let ann = Member::join(&router()).await;
    let command = Command::Request(Box::new((ann.seat.clone(), SLOT, Op::Members { id: 2 })));
    ann.handle.ask(LogLane::Signal, command).unwrap();
    let Some(Notice::Reply(reply)) = ann.seat.mailbox.take_notice() else { panic!("not served") };
    assert!(matches!(reply.outcome, Outcome::Members { id: 2, .. }));
}

#[tokio::test]
async fn nothing_overtakes_what_waits_for_the_room() {
    let ann = Member::join(&router()).await;
    let send = |seq| {
        let (room, body) = (ann.room.clone(), Json::parse(b"1").unwrap());
        let op = Op::Send(Send { room, lane: LogLane::Bulk, seq, to: None, body });
        Command::Request(Box::new((ann.seat.clone(), SLOT, op)))
    };
    ann.handle.sender(LogLane::Bulk).try_send(send(1)).unwrap();
    ann.handle.ask(LogLane::Bulk, send(2)).unwrap();
    ann.ask(Op::Leave { id: 2 });
    let Outcome::Left { at, .. } = ann.outcome().await else { panic!("overtaken") };
    assert_eq!(at.bulk, 2);
}

#[tokio::test]
async fn a_user_has_so_many_sessions_and_a_place_again_when_one_ends() {
    let router = router();
    router.bound(Bounds { sessions_per_user: 1, ..Bounds::default() });
    let of = |user: &str| Some(UserId::new(user));
    let admission = |user: &str| Admission { user: of(user), ..Admission::anonymous() };
    let open = |user: &str| router.open(hello(None), Some(admission(user)), mailbox());
    let (seat, opened, _) = open("ada").await.unwrap();
    assert_eq!(open("ada").await.err().unwrap().code, ErrorCode::RateLimited);
    open("bob").await.unwrap();
    let Opened { session, secret, .. } = opened;
    let resume = Resume { session, secret, rooms: Default::default() };
    let again = router.open(hello(Some(resume)), Some(admission("ada")), mailbox());
    let (seat_again, ..) = again.await.unwrap();
    assert!(seat_again.author.generation > seat.author.generation, "it may come back");
    assert_eq!(open("ada").await.err().unwrap().code, ErrorCode::RateLimited);
    router.end(seat_again.author, [], LeaveReason::Bye).await.unwrap();
    open("ada").await.unwrap();
}

/// The members of a room that is lost to a fault are sent to come back, and meet in a new one.
async fn a_fault_costs_nobody_the_room(at_hand: bool) {
    let fails = Arc::new(AtomicBool::new(false));
    let router = router_on(|limits| Faulty::new(limits, &fails, at_hand));
    let (ann, bob) = (Member::join(&router).await, Member::join(&router).await);
    fails.store(true, Ordering::SeqCst);
    let ask = |member: &Member, op| {
        let command = Command::Request(Box::new((member.seat.clone(), SLOT, op)));
        member.handle.ask(LogLane::Signal, command)
    };
    let asking = std::panic::AssertUnwindSafe(|| ask(&ann, Op::Members { id: 2 }));
    // Served at once, the fault is the asker's; otherwise that of the room's task.
    assert_eq!(std::panic::catch_unwind(asking).is_err(), at_hand);
    for member in [&ann, &bob] {
        assert!(matches!(soon(told(&member.seat)).await, Notice::RoomLost));
    }
    assert!(ask(&bob, Op::Members { id: 3 }).is_err(), "the room is gone");
    let again = Member { handle: router.room(&bob.room), ..bob };
    assert!(ask(&again, Op::Members { id: 4 }).is_ok());
    let Outcome::Members { snapshot, .. } = soon(again.outcome()).await else { panic!("refused") };
    assert_eq!(snapshot.members.len(), 2);
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("this takes too long")
}

#[tokio::test]
async fn a_fault_while_a_connection_serves_costs_nobody_the_room() {
    a_fault_costs_nobody_the_room(true).await;
}

#[tokio::test]
async fn a_fault_in_a_rooms_task_costs_nobody_the_room() {
    a_fault_costs_nobody_the_room(false).await;
}

#[tokio::test]
async fn who_resumes_into_a_session_that_ends_meanwhile_is_told_and_leaves_nothing() {
    let router = router();
    let ann = Member::join(&router).await;
    let resumed = async || {
        let secret = ann.secret.clone();
        let resume = Resume { session: ann.seat.author.session, secret, rooms: Default::default() };
        router.open(hello(Some(resume)), Some(Admission::anonymous()), mailbox()).await.unwrap().0
    };
    let (early, late) = (resumed().await, resumed().await);
    router.end(late.author, [ann.room.clone()], LeaveReason::Bye).await.unwrap();
    // Its resume was granted before the other one's, and it is seated only now.
    let early = Arc::new(Seat::new(early.author, None, mailbox(), None));
    router.take_seat(&early);
    let op = Op::Members { id: 2 };
    let ask = Command::Request(Box::new((early.clone(), SLOT, op)));
    ann.handle.ask(LogLane::Signal, ask).unwrap();
    assert!(matches!(soon(told(&early)).await, Notice::Replaced));
    router.lost(&early, Vec::new()).await;
    router.end(early.author, [], LeaveReason::Expired).await.unwrap();
    let sessions = router.0.sessions();
    assert!(sessions.here.is_empty());
    assert_eq!(sessions.presence.poll_timeout(), None);
}

/// What waits for a room behind what fails is told as well, and not only what fails.
#[tokio::test]
async fn a_fault_leaves_nobody_waiting_in_a_mailbox() {
    let fails = Arc::new(AtomicBool::new(false));
    let router = router_on(|limits| Faulty::new(limits, &fails, false));
    let ann = Member::join(&router).await;
    fails.store(true, Ordering::SeqCst);
    // More than one batch, from somebody whom the room does not know yet.
    let (stranger, ..) =
        router.open(hello(None), Some(Admission::anonymous()), mailbox()).await.unwrap();
    for id in 0..100 {
        ann.ask(Op::Members { id });
    }
    let join = Op::Join { id: 1, metadata: None };
    let ask = Command::Request(Box::new((stranger.clone(), SLOT, join)));
    ann.handle.sender(LogLane::Signal).try_send(ask).unwrap();
    assert!(matches!(soon(told(&stranger)).await, Notice::RoomLost));
}

impl Member {
    async fn members(&self) -> Snapshot {
        self.ask(Op::Members { id: 9 });
        match soon(self.outcome()).await {
            Outcome::Members { snapshot, .. } => snapshot,
            other => panic!("{other:?}"),
        }
    }
}

fn fixing(role: &str) -> Admission {
    let shown = format!("{{\"role\":\"{role}\"}}");
    let mut grant = Grant::everything();
    grant.rooms[0].metadata = Some(Json::parse(shown.as_bytes()).unwrap());
    Admission { grant: Arc::new(grant), ..Admission::anonymous() }
}

/// What a newer token says of a member is what the others see, without it doing anything.
#[tokio::test]
async fn what_a_newer_token_fixes_is_shown_in_the_rooms_one_is_in() {
    let router = router();
    let (ann, bob) = (Member::join(&router).await, Member::join(&router).await);
    let shown = |snapshot: &Snapshot| {
        let ann = snapshot.members.iter().find(|member| member.peer == ann.seat.author.peer);
        ann.unwrap().metadata.as_str().to_owned()
    };
    assert_eq!(shown(&bob.members().await), "{}");
    let rooms = [(ann.room.clone(), ann.handle.clone())];
    for (role, at) in [("guest", 3), ("guest", 3), ("host", 4)] {
        router.readmit(&ann.seat, fixing(role), &rooms).await.unwrap();
        let seen = bob.members().await;
        assert_eq!(shown(&seen), format!("{{\"role\":\"{role}\"}}"));
        assert_eq!(seen.positions.signal, at, "told once");
    }
    // On the way back as well; and one that fixes nothing changes nothing.
    let mut at = 4;
    for (admission, role, told) in [
        (fixing("guest"), "guest", 1),
        (fixing("guest"), "guest", 0),
        (Admission::anonymous(), "guest", 0),
    ] {
        let (session, secret) = (ann.seat.author.session, ann.secret.clone());
        let resume = Resume { session, secret, rooms: Default::default() };
        router.open(hello(Some(resume)), Some(admission), mailbox()).await.unwrap();
        let seen = bob.members().await;
        at += told;
        assert_eq!((shown(&seen), seen.positions.signal), (format!("{{\"role\":\"{role}\"}}"), at));
    }
}

/// What the router sees to by itself goes on after a fault.
#[tokio::test]
async fn a_fault_does_not_end_what_looks_after_the_node() {
    let fails = Arc::default();
    let beats = Arc::new(AtomicUsize::new(0));
    let router =
        router_on(|limits| Faulty { beats: beats.clone(), ..Faulty::new(limits, &fails, false) });
    soon(async {
        while beats.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(router.0.metrics.encode().unwrap().contains("handover_panics_total 1"));
}

#[tokio::test]
async fn sessions_that_could_not_be_kept_are_kept_soon() {
    let (losses, kept) = (watch::Sender::new(0), watch::Sender::new(0));
    let _router = router_on(|limits| Faulty {
        losses: losses.clone(),
        kept: kept.clone(),
        ..Faulty::new(limits, &Arc::default(), false)
    });
    let mut kept = kept.subscribe();
    soon(async {
        while losses.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    losses.send_modify(|losses| *losses += 1);
    let again = tokio::time::timeout(KEEP_EVERY / 2, kept.wait_for(|kept| *kept >= 2));
    again.await.expect("long before the next time").unwrap();
}

#[tokio::test]
async fn a_session_that_cannot_end_for_a_fault_ends_later() {
    let fails = Arc::new(AtomicBool::new(false));
    let broker = Arc::new(Faulty::new(limits(), &fails, false));
    let router = start_with(broker, limits(), Duration::from_millis(50));
    let ann = Member::join(&router).await;
    fails.store(true, Ordering::SeqCst);
    router.lost(&ann.seat, Vec::new()).await;
    soon(async {
        while !router.0.sessions().here.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(router.0.metrics.encode().unwrap().contains("handover_panics_total 1"));
}
