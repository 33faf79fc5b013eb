//! Nodes that die, and what becomes of their members.

use handover_protocol::wire::message::Member;

use super::losses::{key, server};
use super::server::{Redis, begin, nodes, nodes_by};
use super::sessions::resume;
use super::*;
use crate::broker::Retired;
use crate::broker::redis::Options;

/// Looks after the room again and again, as a node that lives does, until it is as it should be.
async fn look_after(node: &Node, seconds: u64, is_so: impl Fn(&[Member]) -> bool) {
    let patience = tokio::time::timeout(Duration::from_secs(40), async {
        for passed in 0.. {
            node.broker.beat().await.unwrap();
            let node = node.later(seconds + passed);
            node.broker.trim(node.now, &node.room, None).await.unwrap();
            if is_so(&node.snapshot(author("bob")).await.unwrap().members) {
                return;
            }
            tokio::time::sleep(crate::broker::BEAT_EVERY).await;
        }
    });
    patience.await.expect("it does not become so");
}

/// What the log says of ann.
async fn told(node: &Node) -> Vec<Event> {
    let state = node.load("late").await;
    let of_ann = state.entries.signal.iter().filter(|entry| entry.peer == author("ann").peer);
    of_ann.map(|entry| entry.event.clone()).collect()
}

#[tokio::test]
async fn what_was_applied_stays_known_when_its_node_is_taken_for_dead() {
    let (here, there) = Nodes::with::<Redis>(limits(GENEROUS), &["ann", "bob"]).await;
    let at_first = |node: &Node| Node { now: at(0), room: room(), ..node.clone() };
    let (here, there) = (at_first(&here), at_first(&there));
    let ann = author("ann");
    there.broker.beat().await.unwrap();
    here.join(author("bob")).await.unwrap();
    there.join(ann).await.unwrap();
    assert!(matches!(there.send(ann, LogLane::Bulk, 1).await, Ok(Sent::Appended(_))));
    // Cut off: it says nothing from now on, and its client keeps its connection.
    look_after(&here, 0, |members| members.iter().any(|m| m.peer == ann.peer && m.away)).await;
    look_after(&here, 100, |members| members.len() == 1).await;
    let [Event::Joined { .. }, Event::Away, Event::Left { reason: LeaveReason::Expired }] =
        &told(&here).await[..]
    else {
        panic!("{:?}", told(&here).await)
    };
    // It is back, and says again what it was not answered.
    let later = there.later(200);
    assert_eq!(later.join(ann).await.unwrap().snapshot.seq, PerLane { signal: 0, bulk: 1 });
    assert!(matches!(later.send(ann, LogLane::Bulk, 1).await, Ok(Sent::Duplicate(_))));
    let past = server(&here).line().await;
    let fields = async || {
        let asked = ::redis::cmd("HKEYS").arg(key("past")).query_async(&mut past.clone()).await;
        asked.unwrap_or_else(|error| panic!("{error}"))
    };
    let names: Vec<String> = fields().await;
    assert!(!names.contains(&"x:ann".to_owned()), "as long as it lives it is known: {names:?}");
    // At its end it is forgotten.
    assert!(matches!(there.broker.retire(ann).await.unwrap(), Retired::From(_)));
    there.leave(ann).await;
    there.broker.end(ann).await.unwrap();
    let names: Vec<String> = fields().await;
    assert!(names.iter().all(|name| !name.ends_with(":ann")), "{names:?}");
}

#[tokio::test]
async fn whom_no_node_has_any_more_is_no_member_for_ever() {
    let (here, there) = Nodes::with::<Redis>(limits(GENEROUS), &["ann", "bob"]).await;
    let at_first = |node: &Node| Node { now: at(0), room: room(), ..node.clone() };
    let (here, there) = (at_first(&here), at_first(&there));
    there.broker.beat().await.unwrap();
    there.join(author("ann")).await.unwrap();
    // Long enough for its node to be known to everybody.
    let has_died = async {
        let mut said = 0;
        while !here.broker.beat().await.unwrap() {
            if said < 6 {
                there.broker.beat().await.unwrap();
            } else {
                there.broker.part().await.unwrap();
            }
            said += 1;
            tokio::time::sleep(crate::broker::BEAT_EVERY).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), has_died).await.expect("nobody notices");
    // Nobody has had the room for far longer than a session lives.
    let here = here.later(2_000);
    here.join(author("bob")).await.unwrap();
    look_after(&here, 0, |members| members.iter().any(|member| member.away)).await;
    look_after(&here, 6, |members| members.len() == 1).await;
    // Who never comes back is forgotten in the end.
    let here = here.later(8 * 86_400);
    here.broker.trim(here.now, &here.room, None).await.unwrap();
    let mut line = server(&here).line().await;
    let names = ::redis::cmd("HKEYS").arg(key("past")).query_async::<Vec<String>>(&mut line).await;
    let names = names.unwrap();
    assert!(names.iter().all(|name| !name.ends_with(":ann")), "{names:?}");
}

#[tokio::test]
async fn whose_node_dies_before_anybody_sees_it_is_no_member_for_ever() {
    let (here, there) = Nodes::with::<Redis>(limits(GENEROUS), &["ann", "bob"]).await;
    let at_first = |node: &Node| Node { now: at(0), room: room(), ..node.clone() };
    let (here, there) = (at_first(&here), at_first(&there));
    here.join(author("bob")).await.unwrap();
    let mut line = server(&here).line().await;
    let mut is_swept = async || {
        let asked = format!("HGET {} swept", key("meta"));
        handover_redis_servers::ask(&mut line, &asked).await != ::redis::Value::Nil
    };
    while !is_swept().await {
        here.broker.beat().await.unwrap();
        here.broker.trim(here.now, &here.room, None).await.unwrap();
        tokio::time::sleep(crate::broker::BEAT_EVERY / 4).await;
    }
    // It has begun since, and dies before the room is looked at again.
    there.join(author("ann")).await.unwrap();
    look_after(&here, 0, |members| members.iter().any(|member| member.away)).await;
}

#[tokio::test]
async fn everything_about_a_room_goes_by_itself_one_day() {
    let (here, there) = Nodes::joined::<Redis>(limits(GENEROUS), &["ann", "bob"]).await;
    here.append(author("ann"), LogLane::Bulk, 1).await;
    // Even of a room that is gone, when it is fenced.
    let elsewhere = RoomName::parse("elsewhere").unwrap();
    let known = SessionRecord { rooms: vec![elsewhere], ..record("ann") };
    assert!(there.broker.revive(known).await.unwrap());
    resume(&there, "ann").await.unwrap();
    let mut line = server(&here).line().await;
    let keys = ::redis::cmd("KEYS").arg("handover:{*").query_async::<Vec<String>>(&mut line).await;
    let mut kept = 0;
    for key in keys.unwrap() {
        let ends = ::redis::cmd("PTTL").arg(&key).query_async::<i64>(&mut line).await.unwrap();
        assert!(ends > 0, "{key} stays");
        kept += usize::from(key.contains("{r:"));
    }
    assert_eq!(kept, 6, "five of the one room, and what is known of the other");
}

#[tokio::test]
async fn databases_do_not_hear_each_other() {
    let server = handover_redis_servers::Server::on_socket();
    let [here] = nodes(&server.address, limits(GENEROUS), 0).await;
    let [there] = nodes(&format!("{}?db=1", server.address), limits(GENEROUS), 0).await;
    let node = |broker| Node { broker, _behind: None, room: room(), now: at(10) };
    let (here, there) = (node(here as Arc<dyn Broker>), node(there as Arc<dyn Broker>));
    let mut news = Vec::new();
    for node in [&here, &there] {
        node.broker.open(record("ann")).await.unwrap();
        news.push(node.broker.follow(&room()).await.unwrap().unwrap());
        node.load("first").await;
        node.join(author("ann")).await.unwrap();
    }
    here.append(author("ann"), LogLane::Bulk, 1).await;
    there.append(author("ann"), LogLane::Signal, 1).await;
    // Of its own it hears everything, in order: the last is the one it waits for.
    let mut heard = Vec::new();
    loop {
        match std::future::poll_fn(|cx| news[1].poll_heard(cx)).await.expect("news go on") {
            crate::broker::Heard::Entry(entry) => {
                heard.push((entry.lane, entry.offset));
                if entry.lane == LogLane::Signal && entry.offset == 2 {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(heard.iter().all(|(lane, _)| *lane == LogLane::Signal), "{heard:?}");
}

#[tokio::test]
async fn members_are_told_once_in_a_go() {
    let many: Vec<String> = (0..100).map(|n| format!("peer-{n}")).collect();
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    let limits = RoomLimits { members: 100, metadata_bytes: usize::MAX, ..limits(GENEROUS) };
    let (here, _) = Nodes::with::<Redis>(limits, &names).await;
    let metadata = Some(json(&format!("\"{}\"", "x".repeat(1_000))));
    let join = Change::Join { user: None, metadata };
    here.ask_all(names.iter().map(|name| (author(name), join.clone())).collect()).await;
    let mut line = server(&here).line().await;
    let mut sent = async || {
        let stats = ::redis::cmd("INFO").arg("stats").query_async::<String>(&mut line).await;
        let stats = stats.unwrap();
        let bytes = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
        bytes.unwrap().parse::<usize>().unwrap()
    };
    let before = sent().await;
    let done = here.ask_all(names.iter().map(|n| (author(n), Change::Snapshot)).collect()).await;
    assert!(
        done.iter().all(|done| matches!(done, Ok(Done::Snapshot(s)) if s.members.len() == 100))
    );
    let took = sent().await - before;
    assert!(took < 300_000, "{took} bytes for a list of 100,000");
}

#[tokio::test]
async fn who_is_taken_over_and_never_arrives_is_no_member_for_ever() {
    let (here, there) = Nodes::with::<Redis>(limits(GENEROUS), &["ann", "bob"]).await;
    here.broker.beat().await.unwrap();
    there.broker.beat().await.unwrap();
    here.join(author("bob")).await.unwrap();
    there.join(author("ann")).await.unwrap();
    // Her node lives, but speaks for her no more; and the one that takes her over fails.
    resume(&here, "ann").await.unwrap();
    there.broker.beat().await.unwrap();
    for (later, present) in [(45, &["ann", "bob"][..]), (75, &["bob"])] {
        let there = there.later(later);
        there.broker.trim(there.now, &there.room, None).await.unwrap();
        let mut names = Vec::new();
        for member in there.snapshot(author("bob")).await.unwrap().members {
            names.push(member.peer.as_str().to_owned());
        }
        names.sort();
        assert_eq!(names, present);
    }
}

#[tokio::test]
async fn a_loss_that_is_read_of_expels_nobody() {
    let server = handover_redis_servers::Server::on_socket();
    let window = Duration::from_millis(1_500);
    let options = Options { limits: limits(GENEROUS), resume_window: window, replicas: 0 };
    let [broker] = nodes_by(&server.address, [options]).await;
    let clock = crate::clock::Clock::start();
    let node = || Node { broker: broker.clone(), _behind: None, room: room(), now: clock.now() };
    node().broker.open(record("ann")).await.unwrap();
    let _news = broker.follow(&room()).await.unwrap();
    node().load("first").await;
    node().join(author("ann")).await.unwrap();
    // Long after the node has begun.
    tokio::time::sleep(window * 2).await;
    let mut line = server.line().await;
    handover_redis_servers::ask(&mut line, &format!("HSET {} s 0", key("meta"))).await;
    // However long it takes to read: of the time before, nobody is late.
    let now = clock.now();
    let state = broker.read(&room(), PerLane::default()).await.unwrap().unwrap();
    assert_ne!(state.positions.epoch, epoch("first"));
    broker.trim(now, &room(), None).await.unwrap().unwrap();
    assert_eq!(names(&node().snapshot(author("ann")).await.unwrap()), ["ann"]);
}

#[tokio::test]
async fn nodes_find_out_that_they_go_by_different_settings() {
    let server = handover_redis_servers::Server::on_socket();
    let options =
        Options { limits: limits(GENEROUS), resume_window: Duration::from_secs(60), replicas: 0 };
    let other = Options { resume_window: Duration::from_secs(61), ..options };
    let [one, two, odd] = nodes_by(&server.address, [options, options, other]).await;
    for (node, at_odds) in [(&one, 0), (&two, 0), (&odd, 2), (&one, 1)] {
        node.beat().await.unwrap();
        assert_eq!(*node.at_odds().borrow(), at_odds);
    }
    odd.part().await.unwrap();
    one.beat().await.unwrap();
    assert_eq!(*one.at_odds().borrow(), 0, "it has gone");
}

#[tokio::test]
async fn whose_node_finds_redis_again_later_than_another_stays() {
    let server = handover_redis_servers::Server::on_socket();
    let [here, there] = nodes(&server.address, limits(GENEROUS), 0).await;
    let clock = crate::clock::Clock::start();
    let on = |broker: &Arc<crate::broker::redis::RedisBroker>| {
        let broker: Arc<dyn Broker> = broker.clone();
        Node { broker, _behind: None, room: room(), now: clock.now() }
    };
    let mut line = server.line().await;
    let mut set = async |key, field, value| {
        let set = format!("HSET {key} {field} {value}");
        handover_redis_servers::ask(&mut line, &set).await;
    };
    let is_away = |members: &[Member]| members.iter().any(|member| member.away);
    let ann = author("ann");
    here.open(record("ann")).await.unwrap();
    here.open(record("bob")).await.unwrap();
    on(&here).load("first").await;
    on(&here).join(author("bob")).await.unwrap();
    there.beat().await.unwrap();
    on(&there).join(ann).await.unwrap();
    // Redis answers nobody, for far longer than sessions are kept.
    tokio::time::sleep(crate::broker::BEAT_EVERY * 3).await;
    set(key("meta"), "looked", "1").await;
    look_after(&on(&here), 0, is_away).await;
    let members = |node: Node| async move {
        node.broker.beat().await.unwrap();
        node.broker.trim(node.now, &node.room, None).await.unwrap();
        names(&node.snapshot(author("bob")).await.unwrap()).join(" ")
    };
    assert_eq!(members(on(&here).later(45)).await, "bob ann");
    there.beat().await.unwrap();
    on(&there).ask(ann, Change::MarkAway(false)).await.unwrap();
    assert_eq!(members(on(&here).later(90)).await, "bob ann");
    // It is gone again, and who has it has ended while nobody was answered.
    tokio::time::sleep(crate::broker::BEAT_EVERY * 3).await;
    set(key("past"), "h:ann", "!1").await;
    set(key("meta"), "orphans", "1").await;
    assert_eq!(members(on(&here)).await, "bob ann");
    assert_eq!(members(on(&here).later(16)).await, "bob");
}

#[tokio::test]
async fn who_finds_redis_again_later_than_a_new_node_stays() {
    let server = handover_redis_servers::Server::on_socket();
    let options =
        Options { limits: limits(GENEROUS), resume_window: Duration::from_secs(60), replicas: 0 };
    let on = |broker: &Arc<crate::broker::redis::RedisBroker>| {
        let now = crate::clock::Clock::start().now();
        Node { broker: broker.clone(), _behind: None, room: room(), now }
    };
    let mut line = server.line().await;
    let mut set = async |key, field, value| {
        let set = format!("HSET {key} {field} {value}");
        handover_redis_servers::ask(&mut line, &set).await;
    };
    let members = |node: Node| async move {
        node.broker.beat().await.unwrap();
        node.broker.trim(node.now, &node.room, None).await.unwrap();
        names(&node.snapshot(author("bob")).await.unwrap()).join(" ")
    };
    let [ann, bob] = ["ann", "bob"].map(author);
    let first = begin(&server.address, options);
    first.up().wait_for(|up| *up).await.unwrap();
    first.open(record("ann")).await.unwrap();
    first.open(record("bob")).await.unwrap();
    let node = on(&first);
    node.load("first").await;
    node.join(bob).await.unwrap();
    node.join(ann).await.unwrap();
    // Who has ann had until now, and this node cannot know whether Redis has just come back.
    set(key("past"), "h:ann", "!1").await;
    set(key("meta"), "orphans", "1").await;
    assert_eq!(members(node.later(0)).await, "bob ann");
    assert_eq!(members(node.later(17)).await, "bob");
    node.join(ann).await.unwrap();
    // Another begins while Redis answers nobody, for far longer than sessions are kept.
    server.signal("STOP");
    let second = begin(&server.address, options);
    let unheard = tokio::time::timeout(crate::broker::BEAT_EVERY, second.beat()).await;
    assert!(!matches!(unheard, Ok(Ok(_))));
    tokio::time::sleep(crate::broker::BEAT_EVERY * 3).await;
    server.signal("CONT");
    second.up().wait_for(|up| *up).await.unwrap();
    let node = on(&second);
    node.ask(bob, Change::MarkAway(false)).await.unwrap();
    set(key("past"), "h:ann", "gone").await;
    set(key("meta"), "looked", "1").await;
    look_after(&node, 0, |members| members.iter().any(|member| member.away)).await;
    assert_eq!(members(node.later(45)).await, "bob ann");
    assert_eq!(members(node.later(90)).await, "bob");
}
