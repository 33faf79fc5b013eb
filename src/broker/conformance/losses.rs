//! What a Redis may do to what it was given, and what becomes of it.

use std::future::poll_fn;

use handover_protocol::wire::ErrorCode;
use handover_redis_servers::{Cluster, Server, ask, own_host, until};

use super::replicas::with_replica;
use super::server::{Redis, nodes};
use super::sessions::{resume, resumed};
use super::*;
use crate::broker::redis::RedisBroker;
use crate::broker::{Heard, News, Retired};
use crate::clock::Clock;

const KEYS: [&str; 5] = ["meta", "members", "s", "b", "past"];

pub(super) fn key(part: &str) -> String {
    use base64::Engine;
    let name = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(room().as_str());
    format!("handover:{{r:{name}}}:{part}")
}

pub(super) fn server(node: &Node) -> &Server {
    node._behind.as_ref().and_then(|behind| behind.downcast_ref()).expect("a server")
}

/// Both nodes of a broker, and ann in the room; the second follows it.
pub(super) async fn followed(address: &str, replicas: u32) -> (Node, Node, News) {
    following(nodes(address, limits(GENEROUS), replicas).await).await
}

/// The same with nodes of one's own.
pub(super) async fn following([here, there]: [Arc<RedisBroker>; 2]) -> (Node, Node, News) {
    let node = |broker| Node { broker, _behind: None, room: room(), now: at(10) };
    let (here, there) = (node(here as Arc<dyn Broker>), node(there as Arc<dyn Broker>));
    here.broker.open(record("ann")).await.unwrap();
    here.load("first").await;
    here.join(author("ann")).await.unwrap();
    let news = there.broker.follow(&room()).await.unwrap().unwrap();
    there.load("second").await;
    (here, there, news)
}

/// Asks until it is answered.
pub(super) async fn send_on(node: &Node, seq: u64) -> Sent {
    send_as(node, author("ann"), seq).await
}

/// The same of somebody else. Time goes on meanwhile.
pub(super) async fn send_as(node: &Node, author: Author, seq: u64) -> Sent {
    let clock = Clock::start();
    loop {
        let op = RoomOp { author, change: node.message(LogLane::Bulk, seq, "1") };
        let now = node.now + clock.now().since(Time::ZERO);
        match node.broker.apply(now, &node.room, None, vec![op]).await {
            Ok(done) => match done.expect("any life will do").remove(0) {
                Ok(Done::Sent(sent)) => return sent,
                other => panic!("{other:?}"),
            },
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Listens, and reads where there is doubt, until the offset is there.
pub(super) async fn hear_of(node: &Node, news: &mut News, offset: u64) {
    let mut known = 0;
    while known < offset {
        match poll_fn(|cx| news.poll_heard(cx)).await.expect("news go on") {
            Heard::Entry(entry) if entry.lane == LogLane::Bulk => known = known.max(entry.offset),
            Heard::Doubt => {
                let read = node.broker.read(&node.room, PerLane::default()).await;
                if let Ok(Some(state)) = read {
                    known = known.max(state.positions.bulk);
                }
            }
            _ => {}
        }
    }
}

/// What is kept under some keys, each with its key.
type Copies = Vec<(String, Option<Vec<u8>>)>;

/// All there is of the room.
async fn copy(server: &Server) -> Copies {
    copy_of(server, KEYS.map(key)).await
}

async fn copy_of(server: &Server, keys: impl IntoIterator<Item = String>) -> Copies {
    let mut line = server.line().await;
    let mut copies = Vec::new();
    for key in keys {
        let dump = ::redis::cmd("DUMP").arg(&key).query_async(&mut line).await;
        copies.push((key, dump.unwrap()));
    }
    copies
}

async fn put_back(server: &Server, copies: Copies) {
    let mut line = server.line().await;
    for (key, copy) in copies {
        let mut back = ::redis::cmd(if copy.is_some() { "RESTORE" } else { "DEL" });
        back.arg(key);
        if let Some(copy) = copy {
            back.arg(0).arg(copy).arg("REPLACE");
        }
        back.query_async::<::redis::Value>(&mut line).await.unwrap();
    }
}

/// Gateways of an earlier version change members without counting what they show.
#[tokio::test]
async fn what_is_shown_and_not_counted_is_counted_within_a_minute() {
    let (here, there) = Nodes::with::<Redis>(limits(GENEROUS), &["ann", "bob", "cid"]).await;
    let join = |bytes| Change::Join { user: None, metadata: Some(shown(bytes)) };
    here.ask(author("ann"), join(900)).await.unwrap();
    let mut line = server(&here).line().await;
    let mut set = async |metadata: Json| {
        let text = format!("1 0 null\n{}", metadata.as_str());
        let mut set = ::redis::cmd("HSET");
        set.arg(key("members")).arg("ann").arg(text);
        set.query_async::<::redis::Value>(&mut line).await.unwrap();
    };
    set(shown(400)).await;
    let too_much = Some(handover_protocol::wire::ErrorCode::TooLarge);
    assert_eq!(code(there.ask(author("bob"), join(600)).await), too_much, "as it was counted");
    assert_eq!(code(there.later(60).ask(author("bob"), join(600)).await), None);
    there.later(60).leave(author("bob")).await;
    set(shown(900)).await;
    assert_eq!(code(there.later(120).ask(author("cid"), join(600)).await), too_much);
    // Without the count, as in a room that an earlier version began.
    set(shown(500)).await;
    let mut del = ::redis::cmd("HDEL");
    del.arg(key("meta")).arg("shown").arg("counted");
    del.query_async::<::redis::Value>(&mut server(&here).line().await).await.unwrap();
    assert_eq!(code(there.later(121).ask(author("cid"), join(500)).await), None);
    assert_eq!(code(there.later(121).ask(author("bob"), join(334)).await), too_much);
}

#[tokio::test]
async fn a_log_that_has_lost_entries_begins_a_new_epoch() {
    let (here, there) = Nodes::joined::<Redis>(limits(GENEROUS), &["ann", "bob"]).await;
    let ann = author("ann");
    let _news = here.broker.follow(&room()).await.unwrap();
    here.append(ann, LogLane::Bulk, 1).await;
    let earlier = copy(server(&here)).await;
    here.append(ann, LogLane::Bulk, 2).await;
    assert_eq!(here.append(ann, LogLane::Bulk, 3).await.offset, 3);
    put_back(server(&here), earlier).await;
    // Of it, seq 1 alone is known to be applied.
    let again = here.append(ann, LogLane::Bulk, 2).await;
    assert_ne!(again.epoch, epoch("first"));
    assert_eq!(again.offset, 1);
    let state = there.load("late").await;
    assert_eq!((state.positions.epoch, state.positions.bulk), (again.epoch, 1));
    assert_eq!(state.positions.signal, 2, "two have come");
    assert_eq!(offsets(&state, LogLane::Bulk), [1]);
    assert!(offsets(&state, LogLane::Signal).is_empty());
    assert_eq!(names(&there.snapshot(ann).await.unwrap()), ["ann", "bob"]);
    // Once is enough.
    assert_eq!(here.append(ann, LogLane::Bulk, 3).await.epoch, again.epoch);
}

#[tokio::test]
async fn a_log_that_went_on_differently_begins_a_new_epoch() {
    let (here, there) = Nodes::joined::<Redis>(limits(GENEROUS), &["ann", "bob"]).await;
    let (ann, bob) = (author("ann"), author("bob"));
    let _news = here.broker.follow(&room()).await.unwrap();
    let earlier = copy(server(&here)).await;
    here.append(ann, LogLane::Bulk, 1).await;
    put_back(server(&here), earlier).await;
    // Who has not seen the first of them cannot know.
    for seq in [1, 2] {
        assert_eq!(there.append(bob, LogLane::Bulk, seq).await.epoch, epoch("first"));
    }
    let read = here.broker.read(&room(), PerLane { signal: 0, bulk: 1 }).await.unwrap().unwrap();
    assert_ne!(read.positions.epoch, epoch("first"));
    assert_eq!(read.positions.bulk, 0);
}

#[tokio::test]
async fn a_lost_beat_is_told_until_the_node_has_noted_it() {
    let server = Server::on_socket();
    let line = server.line().await;
    let beat = async |note: &str| {
        let mut beat = ::redis::cmd("EVAL");
        beat.arg(include_str!("../redis/pulse.lua")).arg(1).arg("beat");
        beat.arg(60_000).arg("PUBLISH").arg(note);
        let (_, was_lost) = beat.query_async::<(bool, bool)>(&mut line.clone()).await.unwrap();
        was_lost
    };
    let says = async || ask(&mut line.clone(), "GET beat").await;
    assert!(!beat("first").await);
    assert!(!beat("").await);
    assert_eq!(says().await, ::redis::Value::BulkString(b"1".to_vec()));
    ask(&mut line.clone(), "FLUSHALL").await;
    assert!(beat("noted").await, "it was another loss that was noted");
    assert!(beat("").await, "nobody may have heard the answer");
    assert_eq!(says().await, ::redis::Value::BulkString(Vec::new()));
    assert!(!beat("noted").await);
    assert_eq!(says().await, ::redis::Value::BulkString(b"1".to_vec()));
    assert!(!beat("").await);
}

#[tokio::test]
async fn what_is_emptied_while_connections_break_is_noticed() {
    let (here, _) = Nodes::joined::<Redis>(limits(GENEROUS), &["ann"]).await;
    let mut losses = here.broker.losses().expect("it is elsewhere");
    losses.mark_unchanged();
    let mut both = ::redis::pipe();
    both.atomic().cmd("FLUSHALL").cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub");
    both.cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal");
    both.query_async::<::redis::Value>(&mut server(&here).line().await).await.unwrap();
    let noticed = tokio::time::timeout(Duration::from_secs(10), losses.changed()).await;
    noticed.expect("it is found out").unwrap();
}

#[tokio::test]
async fn a_generation_that_is_lost_is_not_given_again() {
    let (here, there) = Nodes::joined::<Redis>(limits(GENEROUS), &["ann"]).await;
    let kept = format!("handover:{{s:{}}}:record", author("ann").session);
    let earlier = copy_of(server(&here), [kept]).await;
    let first = resumed(&here, "ann").await;
    put_back(server(&here), earlier).await;
    let second = resumed(&there, "ann").await;
    // Whoever was the first to be resumed has heard nothing of the second.
    assert!(is_fenced(here.ask(first, here.message(LogLane::Bulk, 1, "1")).await));
    assert_eq!(here.broker.retire(first).await.unwrap(), Retired::Not);
    assert_eq!(here.broker.keep(vec![first]).await.strangers.len(), 1);
    let known =
        SessionRecord { generation: first.generation, rooms: vec![room()], ..record("ann") };
    assert!(!here.broker.revive(known).await.unwrap());
    assert_eq!(there.append(second, LogLane::Bulk, 1).await.offset, 1);
    assert!(resumed(&here, "ann").await.generation > second.generation);
}

#[tokio::test]
async fn one_call_for_any_number_of_changes() {
    let (here, _) = Nodes::joined::<Redis>(limits(GENEROUS), &["ann"]).await;
    let mut line = server(&here).line().await;
    ask(&mut line, "CONFIG RESETSTAT").await;
    let sends = (1..=50).map(|seq| (author("ann"), here.message(LogLane::Bulk, seq, "1")));
    here.ask_all(sends.collect()).await;
    until(&mut line, "INFO commandstats", &["cmdstat_evalsha:calls=1,"]).await;
    let stats = ::redis::cmd("INFO").arg("commandstats").query_async::<String>(&mut line).await;
    assert!(!stats.unwrap().contains("cmdstat_eval:"), "a script is sent once");
}

/// How many questions about rooms and sessions a thing took.
async fn scripts_for(line: &mut ::redis::aio::MultiplexedConnection, asked: impl Future) -> usize {
    ask(line, "CONFIG RESETSTAT").await;
    asked.await;
    let stats = ::redis::cmd("INFO").arg("commandstats").query_async::<String>(line).await.unwrap();
    let calls = |name: &str| {
        let said = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":calls="));
        said.map_or(0, |said| said.split(',').next().unwrap().parse().unwrap())
    };
    // A session's rooms are read with its record, and by no script.
    calls("cmdstat_evalsha") + calls("cmdstat_smembers")
}

#[tokio::test]
async fn each_thing_costs_what_is_documented() {
    let (here, there) = Nodes::with::<Redis>(limits(GENEROUS), &["ann", "bob"]).await;
    let line = &mut server(&here).line().await;
    let ann = author("ann");
    // Once each, so that every script is known.
    here.join(ann).await.unwrap();
    there.join(author("bob")).await.unwrap();
    let bob = resumed(&there, "bob").await;
    there.leave(bob).await;
    assert_eq!(scripts_for(line, there.join(bob)).await, 2);
    assert_eq!(scripts_for(line, here.append(ann, LogLane::Bulk, 1)).await, 1);
    assert_eq!(scripts_for(line, here.snapshot(ann)).await, 1);
    assert_eq!(scripts_for(line, here.ask(ann, Change::Update(json("{}")))).await, 1);
    let pass = Change::Pass { to: None, body: json("1") };
    assert_eq!(scripts_for(line, here.ask(ann, pass)).await, 1);
    assert_eq!(scripts_for(line, there.leave(bob)).await, 2);
    // The record, its raise, the record again, and a fence for each room at once.
    assert_eq!(scripts_for(line, resume(&there, "ann")).await, 4);
    assert_eq!(scripts_for(line, here.broker.open(record("cid"))).await, 1);
    let cid = author("cid");
    let readmitted = here.broker.readmit(cid, Admission::anonymous());
    assert_eq!(scripts_for(line, readmitted).await, 1);
}

#[tokio::test]
async fn what_is_heard_costs_nothing_and_a_hole_one_look() {
    let server = Server::on_socket();
    let (here, there, mut news) = followed(&server.address, 0).await;
    let line = &mut server.line().await;
    send_on(&here, 1).await;
    hear_of(&there, &mut news, 1).await;
    let heard = async {
        send_on(&here, 2).await;
        loop {
            match poll_fn(|cx| news.poll_heard(cx)).await.expect("news go on") {
                Heard::Entry(entry) if entry.offset == 2 => return,
                Heard::Doubt => panic!("nothing is missing"),
                _ => {}
            }
        }
    };
    assert_eq!(scripts_for(line, heard).await, 1, "its sender's");
    let behind = PerLane { signal: 1, bulk: 1 };
    assert_eq!(scripts_for(line, there.broker.read(&there.room, behind)).await, 1);
}

#[tokio::test]
async fn a_subscription_that_is_cut_is_replaced() {
    let server = Server::on_socket();
    let (here, there, mut news) = followed(&server.address, 0).await;
    ask(&mut server.line().await, "CLIENT KILL TYPE pubsub").await;
    send_on(&here, 1).await;
    hear_of(&there, &mut news, 1).await;
}

#[tokio::test]
async fn a_redis_that_is_gone_refuses_and_comes_back() {
    let server = Server::on_socket();
    let [here, there] = nodes::<2>(&server.address, limits(GENEROUS), 0).await;
    server.signal("STOP");
    here.up().wait_for(|up| !up).await.unwrap();
    assert!(there.open(record("ann")).await.is_err());
    server.signal("CONT");
    here.up().wait_for(|up| *up).await.unwrap();
}

#[tokio::test]
async fn a_slot_that_moves_takes_its_rooms_along() {
    let cluster = Cluster::start(3, 0).await;
    let (here, there, mut news) = followed(&cluster.address(), 0).await;
    send_on(&here, 1).await;
    let mut lines = Vec::new();
    for server in &cluster.servers {
        lines.push(server.line().await);
    }
    let ::redis::Value::Int(slot) =
        ask(&mut lines[0], &format!("CLUSTER KEYSLOT {}", key("b"))).await
    else {
        panic!("a slot is a number");
    };
    let from = cluster.owner(&key("b")).await;
    let to = (from + 1) % 3;
    let mut ids = Vec::new();
    for line in &mut lines {
        let id: String = ::redis::cmd("CLUSTER").arg("MYID").query_async(line).await.unwrap();
        ids.push(id);
    }
    let set = |what: &str, id: &str| format!("CLUSTER SETSLOT {slot} {what} {id}");
    ask(&mut lines[to], &set("IMPORTING", &ids[from])).await;
    ask(&mut lines[from], &set("MIGRATING", &ids[to])).await;
    let keys: Vec<String> = KEYS.map(key).into_iter().chain([key("none")]).collect();
    let (host, port) = (cluster.host, 7000 + to);
    for moved in &keys {
        ask(&mut lines[from], &format!("MIGRATE {host} {port} {moved} 0 1000")).await;
    }
    // Between the two: the one sends us to the other.
    assert!(matches!(send_on(&here, 2).await, Sent::Appended(entry) if entry.offset == 2));
    for at in [to, from, 3 - to - from] {
        ask(&mut lines[at], &set("NODE", &ids[to])).await;
    }
    assert!(matches!(send_on(&here, 3).await, Sent::Appended(entry) if entry.offset == 3));
    hear_of(&there, &mut news, 3).await;
}

#[tokio::test]
async fn a_room_half_of_which_has_moved_costs_the_others_nothing() {
    let cluster = Cluster::start(3, 0).await;
    // Nothing was ever sent: it has no log of bulk, so the slot has it neither here nor there.
    let [here] = nodes(&cluster.address(), limits(GENEROUS), 0).await;
    let here = Node { broker: here, _behind: None, room: room(), now: at(10) };
    here.broker.open(record("ann")).await.unwrap();
    here.load("first").await;
    here.join(author("ann")).await.unwrap();
    let from = cluster.owner(&key("b")).await;
    let (mut line, mut other) =
        (cluster.servers[from].line().await, cluster.servers[(from + 1) % 3].line().await);
    let slot = ask(&mut line, &format!("CLUSTER KEYSLOT {}", key("b"))).await;
    let ::redis::Value::Int(slot) = slot else { panic!("a slot is a number") };
    let id: String = ::redis::cmd("CLUSTER").arg("MYID").query_async(&mut other).await.unwrap();
    ask(&mut line, &format!("CLUSTER SETSLOT {slot} MIGRATING {id}")).await;
    let change = here.message(LogLane::Bulk, 1, "1");
    let waits = async {
        loop {
            let op = RoomOp { author: author("ann"), change: change.clone() };
            let asked = here.broker.apply(here.now, &here.room, None, vec![op]).await;
            // Nobody is taken for gone for it. Anything else is the machine's own doing.
            let error = asked.expect_err("half of it is not there");
            if error.0.contains("slot is on its way") {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), waits).await.expect("it is taken for gone");
    ask(&mut line, &format!("CLUSTER SETSLOT {slot} STABLE")).await;
    assert!(matches!(send_on(&here, 1).await, Sent::Appended(entry) if entry.offset == 1));
}

#[tokio::test]
async fn over_tls_as_a_user_of_its_own() {
    let host = own_host();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let minted = rcgen::generate_simple_self_signed(vec![host.to_string()]).unwrap();
    std::fs::write(file("cert.pem"), minted.cert.pem()).unwrap();
    std::fs::write(file("key.pem"), minted.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let tls = ["--tls-port", "7443", "--tls-cert-file", &cert, "--tls-key-file", &key];
    let rest = ["--tls-ca-cert-file", &cert, "--tls-auth-clients", "no"];
    let user =
        ["--user", "app", "on", ">p@ss", "~handover:*", "&handover:*", "+@all", "-@dangerous"];
    let _server = Server::on_port(host, 0, &[&tls[..], &rest, &user].concat());
    let address = format!("rediss://app:p%40ss@{host}:7443?ca={cert}");
    let (here, there, mut news) = followed(&address, 0).await;
    send_on(&here, 1).await;
    hear_of(&there, &mut news, 1).await;
}

/// What a Redis that is full takes, and what it does not.
async fn full(master: &Server, address: &str, replicas: u32) {
    let [here] = nodes(address, limits(GENEROUS), replicas).await;
    let mut up = here.up();
    let here = Node { broker: here, _behind: None, room: room(), now: at(10) };
    let (ann, bob) = (author("ann"), author("bob"));
    for name in ["ann", "bob", "cid"] {
        here.broker.open(record(name)).await.unwrap();
    }
    here.load("first").await;
    here.join(ann).await.unwrap();
    here.join(bob).await.unwrap();
    for seq in 1..=3 {
        here.append(ann, LogLane::Bulk, seq).await;
    }
    let mut line = master.line().await;
    // It was started again: that is found out first.
    ask(&mut line, &format!("HSET {} at another", key("meta"))).await;
    ask(&mut line, "CONFIG SET maxmemory 1").await;
    up.wait_for(|up| !up).await.unwrap();
    let ask_of = async |node: &Node, author, change| {
        let op = RoomOp { author, change };
        let asked = node.broker.apply(node.now, &node.room, None, vec![op]).await;
        asked.map(|done| done.expect("any life will do").remove(0))
    };
    let later = here.later(200);
    assert!(here.broker.beat().await.is_ok(), "nobody is taken for dead for it");
    later.broker.trim(later.now, &room(), None).await.unwrap().expect("a room");
    // It is found out what was lost, if anything.
    let later = later.later(3);
    later.broker.trim(later.now, &room(), None).await.unwrap().expect("a room");
    assert_eq!(ask(&mut line, &format!("LLEN {}", key("b"))).await, ::redis::Value::Int(0));
    for change in [here.message(LogLane::Bulk, 4, "1"), Change::Update(json("{}"))] {
        assert!(ask_of(&later, ann, change.clone()).await.is_err(), "{change:?}");
    }
    let joined = ask_of(&later, author("cid"), joining()).await;
    assert!(matches!(&joined, Ok(Err(refusal)) if refusal.code == ErrorCode::Unavailable));
    assert!(here.broker.open(record("dan")).await.is_err());
    assert!(matches!(later.ask(bob, Change::MarkAway(true)).await, Ok(Done::Marked(Some(_)))));
    assert!(later.leave(bob).await.is_some());
    assert_eq!(here.broker.retire(ann).await.unwrap(), Retired::From(vec![room()]));
    assert!(later.leave(ann).await.is_some());
    here.broker.end(ann).await.unwrap();
    let gone = later.later(100);
    assert!(gone.remove().await);
    ask(&mut line, "CONFIG SET maxmemory 0").await;
    up.wait_for(|up| *up).await.unwrap();
    later.load("second").await;
    later.join(author("cid")).await.unwrap();
    assert_eq!(later.append(author("cid"), LogLane::Bulk, 1).await.offset, 1);
}

#[tokio::test]
async fn a_full_redis_makes_room_and_takes_nothing_new() {
    let server = Server::on_socket();
    full(&server, &server.address, 0).await;
}

#[tokio::test]
async fn a_full_redis_makes_room_with_a_replica_waited_for() {
    let (master, _replica) = with_replica().await;
    full(&master, &master.address, 1).await;
}

#[tokio::test]
async fn who_had_left_in_what_was_lost_is_no_member_for_long() {
    let (here, there) = Nodes::joined::<Redis>(limits(GENEROUS), &["ann", "bob"]).await;
    let (ann, bob) = (author("ann"), author("bob"));
    let _news = here.broker.follow(&room()).await.unwrap();
    let earlier = copy(server(&here)).await;
    here.leave(bob).await;
    put_back(server(&here), earlier).await;
    assert_eq!(names(&here.snapshot(ann).await.unwrap()), ["ann", "bob"]);
    // A node says that it has her; nobody says so of him.
    here.ask(ann, Change::MarkAway(false)).await.unwrap();
    for (later, present) in [(59, &["ann", "bob"][..]), (61, &["ann"])] {
        let there = there.later(later);
        there.broker.trim(there.now, &there.room, None).await.unwrap().unwrap();
        assert_eq!(names(&there.snapshot(ann).await.unwrap()), present);
    }
    let left = &there.load("none").await.entries.signal;
    let [entry] = &left[..] else { panic!("{left:?}") };
    assert!(entry.peer == bob.peer && matches!(entry.event, Event::Left { .. }));
}

#[tokio::test]
async fn a_room_that_no_node_looks_after_goes() {
    let (here, _) = Nodes::joined::<Redis>(limits(GENEROUS), &["ann"]).await;
    here.append(author("ann"), LogLane::Bulk, 1).await;
    let mut line = server(&here).line().await;
    let mut left = async || {
        let mut left = Vec::new();
        for part in KEYS {
            let ::redis::Value::Int(ms) = ask(&mut line, &format!("PTTL {}", key(part))).await
            else {
                panic!("a time is a number");
            };
            left.push(ms);
        }
        left
    };
    let before = left().await;
    assert!(before.iter().all(|ms| *ms > 80_000_000), "{before:?}");
    ask(&mut server(&here).line().await, &format!("PEXPIRE {} 1000000", key("meta"))).await;
    here.broker.trim(here.now, &here.room, None).await.unwrap().unwrap();
    let after = left().await;
    assert!(after.iter().all(|ms| *ms > 80_000_000), "{after:?}");
}

#[tokio::test]
async fn each_shard_has_a_subscription_that_is_replaced() {
    let cluster = Cluster::start(3, 0).await;
    let (here, there, mut news) = followed(&cluster.address(), 0).await;
    for (seq, server) in (1..).zip(&cluster.servers) {
        ask(&mut server.line().await, "CLIENT KILL TYPE pubsub").await;
        send_on(&here, seq).await;
        hear_of(&there, &mut news, seq).await;
    }
}

#[tokio::test]
async fn one_emptied_master_of_a_cluster_loses_what_it_had_and_nothing_else() {
    let cluster = Cluster::start(3, 0).await;
    let (here, there, mut news) = followed(&cluster.address(), 0).await;
    send_on(&here, 1).await;
    hear_of(&there, &mut news, 1).await;
    let emptied = cluster.owner(&key("b")).await;
    let mut elsewhere = None;
    for nth in 0..100 {
        let name = format!("p{nth}");
        let kept = format!("handover:{{s:{}}}:record", author(&name).session);
        here.broker.open(record(&name)).await.unwrap();
        if cluster.owner(&kept).await != emptied {
            elsewhere = Some(name);
            break;
        }
    }
    let elsewhere = elsewhere.expect("on three masters");
    let mut losses = there.broker.losses().expect("it is elsewhere");
    losses.mark_unchanged();
    ask(&mut cluster.servers[emptied].line().await, "FLUSHALL").await;
    let noticed = tokio::time::timeout(Duration::from_secs(10), losses.changed()).await;
    noticed.expect("it is found out").unwrap();
    let unknown = resume(&there, "nobody").await;
    assert!(unknown.is_err(), "{unknown:?}");
    assert!(resume(&there, &elsewhere).await.is_ok());
    let begun = there.load("second").await;
    assert_eq!((begun.positions.epoch, begun.positions.bulk), (epoch("second"), 0));
}
