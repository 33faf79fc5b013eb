//! Sessions that go from node to node, and what one node knows better than another.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use handover_protocol::pace::{Pace, PaceLimits};
use handover_protocol::room::entry::Event;
use handover_redis_servers::{Server, ask};

use super::*;
use crate::broker::redis::{Options, RedisBroker};

/// Two routers on one broker, as two nodes.
fn two_routers() -> [Router; 2] {
    let limits = limits();
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new(limits));
    [(); 2].map(|()| start_on(broker.clone(), limits))
}

fn resuming(opened: Opened<SharedLog>) -> Hello {
    let Opened { session, secret, .. } = opened;
    hello(Some(Resume { session, secret, rooms: Default::default() }))
}

/// Joins a room of which its connection learns nothing.
async fn join_unheard(router: &Router, seat: &Seat, room: &RoomName) {
    let epoch = Epoch::parse("e").unwrap();
    let broker = &router.0.broker;
    broker.load(router.0.clock.now(), room, epoch).await.unwrap();
    let change = Change::Join { user: None, metadata: None };
    let op = RoomOp { author: seat.author, change };
    let done = broker.apply(router.0.clock.now(), room, None, vec![op]).await.unwrap().unwrap();
    assert!(matches!(done[..], [Ok(Done::Joined(_))]), "{done:?}");
}

async fn is_member(router: &Router, seat: &Seat, room: &RoomName) -> bool {
    let op = RoomOp { author: seat.author, change: Change::MarkAway(true) };
    let asked = router.0.broker.apply(router.0.clock.now(), room, None, vec![op]).await;
    matches!(asked.unwrap().unwrap()[..], [Ok(Done::Marked(Some(_)))])
}

#[tokio::test]
async fn a_session_leaves_rooms_that_only_its_record_knows() {
    let router = router();
    let ann = Member::join(&router).await;
    let unheard = RoomName::parse("unheard").unwrap();
    join_unheard(&router, &ann.seat, &unheard).await;
    let left = router.end(ann.seat.author, [ann.room.clone()], LeaveReason::Bye).await.unwrap();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[tokio::test]
async fn who_is_in_more_rooms_than_there_are_places_leaves_some() {
    let router = router();
    let open = router.open(hello(None), Some(Admission::anonymous()), mailbox());
    let (seat, opened, _) = open.await.unwrap();
    let rooms: Vec<_> = (0..70).map(|n| RoomName::parse(&format!("r{n}")).unwrap()).collect();
    for room in &rooms {
        join_unheard(&router, &seat, room).await;
    }
    let again = router.open(resuming(opened), Some(Admission::anonymous()), mailbox());
    let (seat, opened, handles) = again.await.unwrap();
    assert_eq!((opened.resumed.unwrap().len(), handles.len()), (ROOMS_MAX, ROOMS_MAX));
    assert!(handles.iter().all(|(slot, ..)| usize::from(slot.index) < ROOMS_MAX));
    let kept: Vec<_> = handles.iter().map(|(_, room, _)| room).collect();
    for room in &rooms {
        assert_eq!(is_member(&router, &seat, room).await, kept.contains(&room), "{room}");
    }
}

#[tokio::test]
async fn who_comes_from_another_node_is_one_of_its_user_here() {
    let [here, there] = two_routers();
    let admission = || Admission { user: Some(UserId::new("ada")), ..Admission::anonymous() };
    let (_, first, _) = here.open(hello(None), Some(admission()), mailbox()).await.unwrap();
    let (_, second, _) = here.open(hello(None), Some(admission()), mailbox()).await.unwrap();
    there.bound(Bounds { sessions_per_user: 1, ..Bounds::default() });
    // Neither is refused: they were not where they began.
    let (seat, ..) = there.open(resuming(first), Some(admission()), mailbox()).await.unwrap();
    let (seat_too, ..) = there.open(resuming(second), Some(admission()), mailbox()).await.unwrap();
    let more = async || there.open(hello(None), Some(admission()), mailbox()).await;
    assert_eq!(more().await.err().unwrap().code, ErrorCode::RateLimited);
    there.end(seat.author, [], LeaveReason::Bye).await.unwrap();
    assert_eq!(more().await.err().unwrap().code, ErrorCode::RateLimited, "there is one still");
    there.end(seat_too.author, [], LeaveReason::Bye).await.unwrap();
    more().await.unwrap();
}

#[tokio::test]
async fn who_refreshes_where_it_is_no_more_is_told_so() {
    let [here, there] = two_routers();
    let open = here.open(hello(None), Some(Admission::anonymous()), mailbox());
    let (seat, opened, _) = open.await.unwrap();
    there.open(resuming(opened), Some(Admission::anonymous()), mailbox()).await.unwrap();
    here.readmit(&seat, Admission::anonymous(), &[]).await.unwrap();
    assert!(matches!(soon(told(&seat)).await, Notice::Replaced));
}

/// Two nodes on a Redis, by a clock.
async fn on_redis(server: &Server, clock: Clock) -> [RedisBroker; 2] {
    let nodes = [(); 2].map(|()| {
        let options = Options { limits: limits(), resume_window: WINDOW, replicas: 0 };
        let opened = RedisBroker::open(&server.address, options, clock);
        let (broker, keeper) = opened.unwrap();
        tokio::spawn(keeper.run(CancellationToken::new()));
        broker
    });
    for node in &nodes {
        node.up().wait_for(|up| *up).await.unwrap();
    }
    nodes
}

#[tokio::test]
async fn who_resumes_no_further_than_its_record_is_no_member_for_ever() {
    let server = Server::on_socket();
    let [here, there] = on_redis(&server, Clock::start()).await;
    let router = start_with(Arc::new(here), limits(), Duration::from_millis(50));
    let (ann, bob) = (Member::join(&router).await, Member::join(&router).await);
    let (cid, dan) = (Member::join(&router).await, Member::join(&router).await);
    // As if their resumes had been cut short: no room was told.
    let mut line = server.line().await;
    for cut in [&ann, &bob] {
        let record = format!("handover:{{s:{}}}:record", cut.seat.author.session);
        ask(&mut line, &format!("HSET {record} generation 2")).await;
    }
    // He got through, and his old connection is gone without a word.
    let (session, secret) = (cid.seat.author.session, SecretHash::of(&cid.secret));
    let resumed = there.resume(session, secret, Some(Admission::anonymous()), 0).await.unwrap();
    // Some other room was told of bob.
    bob.seat.replace();
    for away in [&ann, &bob, &cid] {
        router.lost(&away.seat, vec![(away.room.clone(), away.handle.clone())]).await;
    }
    let shown = async || {
        dan.ask(Op::Members { id: 2 });
        let members = loop {
            if let Outcome::Members { snapshot, .. } = dan.outcome().await {
                break snapshot.members;
            }
        };
        Vec::from_iter(members.into_iter().map(|member| member.peer))
    };
    let stay = [cid.seat.author.peer, dan.seat.author.peer];
    soon(async {
        while shown().await != stay {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    // Neither later nor twice: the older connection is refused, and who is out stays out.
    for author in [ann.seat.author, bob.seat.author, cid.seat.author] {
        let remove = |done| Command::Remove(author, LeaveReason::Expired, Some(done));
        router.ask_until_done(&dan.room, remove).await.unwrap();
    }
    assert_eq!(shown().await, stay);
    let state = there.read(&dan.room, PerLane::default()).await.unwrap().unwrap();
    let left = state.entries.signal.iter().filter(|e| matches!(e.event, Event::Left { .. }));
    assert_eq!(left.count(), 2);
    let author = Author { generation: resumed.generation, ..cid.seat.author };
    assert!(matches!(there.retire(author).await, Ok(Retired::From(_))), "the session lives on");
}

/// A little longer than a node has to have known Redis before it takes anybody out.
const KNOWN_FOR: Duration = Duration::from_secs(16);

#[tokio::test]
async fn who_is_long_gone_is_shown_to_nobody_even_if_the_room_is_had_at_the_second_try() {
    let server = Server::on_socket();
    // A node that has just met its Redis lets nobody go.
    let clock = Clock::started(KNOWN_FOR);
    let nodes = on_redis(&server, clock).await;
    let [router, other] = nodes.map(|node| {
        node.has_met(Time::ZERO);
        start_by(clock, Arc::new(node), limits(), WINDOW)
    });
    let gone = Member::join(&other).await;
    let key = |part: &str| format!("handover:{{r:{}}}:{part}", URL_SAFE_NO_PAD.encode("r"));
    let mut line = server.line().await;
    // It was to be taken in by another node, and was not.
    ask(&mut line, &format!("HSET {} h:{} !1", key("past"), gone.seat.author.peer)).await;
    ask(&mut line, &format!("HSET {} orphans 1", key("meta"))).await;
    // The room is followed, and no more than that.
    ask(&mut line, &format!("RENAME {} elsewhere", key("meta"))).await;
    ask(&mut line, &format!("SET {} nothing", key("meta"))).await;
    let open = router.open(hello(None), Some(Admission::anonymous()), mailbox());
    let (seat, ..) = open.await.unwrap();
    let handle = router.room(&gone.room);
    let ann = Member { seat, handle, ..gone };
    ann.ask(Op::Join { id: 1, metadata: None });
    assert!(matches!(ann.outcome().await, Outcome::Refused { .. }));
    ask(&mut line, &format!("RENAME elsewhere {}", key("meta"))).await;
    ann.ask(Op::Join { id: 2, metadata: None });
    let Outcome::Joined { snapshot, .. } = ann.outcome().await else { panic!("refused") };
    let present = Vec::from_iter(snapshot.members.iter().map(|member| member.peer));
    assert_eq!(present, [ann.seat.author.peer]);
}

#[tokio::test]
async fn who_is_replaced_on_another_node_is_known_here_for_a_while() {
    let [here, there] = two_routers();
    let open = here.open(hello(None), Some(Admission::anonymous()), mailbox());
    let (seat, opened, _) = open.await.unwrap();
    let fresh = || Arc::new(Mutex::new(Pace::new(&PaceLimits::default(), Time::ZERO)));
    let session = seat.author.session;
    let pace = here.pace(session, fresh());
    seat.replace();
    here.lost(&seat, Vec::new()).await;
    assert!(here.0.sessions().presence.poll_timeout().is_some(), "it is seen to");
    // A new connection is no new pace.
    there.open(resuming(opened), Some(Admission::anonymous()), mailbox()).await.unwrap();
    assert!(Arc::ptr_eq(&pace, &here.pace(session, fresh())));
}

#[tokio::test]
async fn who_is_away_while_redis_is_emptied_goes_on_elsewhere() {
    let server = Server::on_socket();
    let nodes = on_redis(&server, Clock::start()).await;
    let [here, there] = nodes.map(|node| start_on(Arc::new(node), limits()));
    let open = here.open(hello(None), Some(Admission::anonymous()), mailbox());
    let (seat, opened, _) = open.await.unwrap();
    here.lost(&seat, Vec::new()).await;
    let Hello { resume, .. } = resuming(opened);
    let mut line = server.line().await;
    ask(&mut line, "FLUSHALL").await;
    let mut refused = 0;
    let resumed = soon(async {
        loop {
            let resuming = hello(resume.clone());
            match there.open(resuming, Some(Admission::anonymous()), mailbox()).await {
                Ok((_, opened, _)) => break opened,
                Err(refusal) => assert_eq!(refusal.code, ErrorCode::Unavailable),
            }
            refused += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let resumed = resumed.await;
    assert_eq!((resumed.session, resumed.resumed.is_some()), (seat.author.session, true));
    assert!(refused > 0, "before it was told again there was no record");
}

#[tokio::test]
async fn who_has_left_without_hearing_of_it_is_sent_to_come_back() {
    let server = Server::on_socket();
    let [here, there] = on_redis(&server, Clock::start()).await;
    let router = start_on(Arc::new(here), limits());
    let ann = Member::join(&router).await;
    let rooms = || ann.seat.kept.as_ref().unwrap().record(ann.seat.author).rooms;
    assert_eq!(rooms(), std::slice::from_ref(&ann.room), "should its record be lost");
    // As if it had asked, and the answer had not come in time.
    let left = RoomOp { author: ann.seat.author, change: Change::Leave(LeaveReason::Left) };
    there.apply(router.0.clock.now(), &ann.room, None, vec![left]).await.unwrap().unwrap();
    assert!(matches!(soon(told(&ann.seat)).await, Notice::RoomLost));
    assert!(rooms().is_empty());
}
