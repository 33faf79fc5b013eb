//! A Redis that is another process than before: a replica that has taken over, or one that was
//! started again. What it has may be less than was answered, and who asks first need not know.

use std::path::PathBuf;

use handover_redis_servers::{Cluster, Sentinels, Server, Way, ask, own_host, until};

use super::losses::{hear_of, key, send_as, send_on};
use super::replicas::with_replica;
use super::server::nodes;
use super::*;
use crate::broker::News;
use crate::broker::redis::RedisBroker;

/// Three nodes on a Redis, with ann and bob in the room: the first two follow it, and the third
/// has seen nothing of it.
struct Three {
    here: Node,
    there: Node,
    late: Node,
    brokers: [Arc<RedisBroker>; 3],
    _heard_here: News,
    heard_there: News,
}

impl Three {
    async fn on(address: &str) -> Three {
        Three::waiting_for(0, address).await
    }

    /// The same, with replicas that are waited for.
    async fn waiting_for(replicas: u32, address: &str) -> Three {
        let brokers: [_; 3] = nodes(address, limits(GENEROUS), replicas).await;
        let node = |at: usize| {
            let broker: Arc<dyn Broker> = brokers[at].clone();
            Node { broker, _behind: None, room: room(), now: at_first() }
        };
        let (here, there, late) = (node(0), node(1), node(2));
        for name in ["ann", "bob"] {
            here.broker.open(record(name)).await.unwrap();
        }
        let heard_here = here.broker.follow(&room()).await.unwrap().unwrap();
        let heard_there = there.broker.follow(&room()).await.unwrap().unwrap();
        here.load("first").await;
        there.load("second").await;
        here.join(author("ann")).await.unwrap();
        late.join(author("bob")).await.unwrap();
        Three { here, there, late, brokers, _heard_here: heard_here, heard_there }
    }

    /// Once every node has found that there is no Redis.
    async fn are_alone(&self) {
        for broker in &self.brokers {
            broker.up().wait_for(|up| !up).await.unwrap();
        }
    }

    /// Once every node has found another Redis.
    async fn are_back(&self) {
        for broker in &self.brokers {
            broker.up().wait_for(|up| *up).await.unwrap();
        }
    }

    /// The room as the first node sees it.
    async fn read_here(&self) -> RoomState {
        read_on(&self.here).await
    }
}

/// As soon as it can be read.
async fn read_on(node: &Node) -> RoomState {
    loop {
        match node.broker.read(&room(), PerLane::default()).await {
            Ok(state) => return state.expect("the room is there"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn at_first() -> Time {
    at(10)
}

fn appended(sent: Sent) -> Arc<Entry> {
    match sent {
        Sent::Appended(entry) => entry,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nobody_has_to_know_what_a_replica_that_takes_over_has_missed() {
    let sentinels = Sentinels::start(1).await;
    let mut three = Three::on(&sentinels.address()).await;
    let mut places = vec![appended(send_on(&three.here, 1).await)];
    let replica = &sentinels.replicas[0];
    let one = ["int(1)"];
    until(&mut replica.line().await, &format!("LLEN {}", key("b")), &one).await;
    replica.signal("STOP");
    // What comes now does not even wait for it in a buffer.
    ask(&mut sentinels.master.line().await, "CLIENT KILL TYPE replica").await;
    for seq in 2..=3 {
        places.push(appended(send_on(&three.here, seq).await));
    }
    hear_of(&three.there, &mut three.heard_there, 3).await;
    drop(sentinels.master);
    replica.signal("CONT");
    // She asks first who has heard of none of it, and cannot know.
    let first = appended(send_as(&three.late, author("bob"), 1).await);
    assert_ne!(first.epoch, epoch("first"));
    places.push(first.clone());
    places.push(appended(send_as(&three.late, author("bob"), 2).await));
    // Of what she has said, the first alone is known there.
    places.push(appended(send_on(&three.here, 2).await));
    let state = three.read_here().await;
    assert_eq!((state.positions.epoch, state.positions.bulk), (first.epoch, 3));
    is_each_used_once(&places);
}

/// No place is used twice.
fn is_each_used_once(places: &[Arc<Entry>]) {
    let mut used: Vec<_> =
        places.iter().map(|entry| (entry.epoch.to_string(), entry.offset)).collect();
    used.sort();
    used.dedup();
    assert_eq!(used.len(), places.len(), "{used:?}");
}

#[tokio::test]
async fn who_knows_more_than_a_replica_that_was_not_waited_for_says_so() {
    // The second one is never made the master: so it is the first that takes over, whatever it has.
    let sentinels = Sentinels::with(&[&[], &["--replica-priority", "0"]]).await;
    let mut three = Three::waiting_for(1, &sentinels.address()).await;
    let mut places = vec![appended(send_on(&three.here, 1).await)];
    let lags = &sentinels.replicas[0];
    until(&mut lags.line().await, &format!("LLEN {}", key("b")), &["int(1)"]).await;
    lags.signal("STOP");
    // What comes now does not even wait for it in a buffer. The other one has it, and that is enough.
    ask(&mut sentinels.master.line().await, "CLIENT KILL TYPE replica").await;
    for seq in 2..=3 {
        places.push(appended(send_on(&three.here, seq).await));
    }
    hear_of(&three.there, &mut three.heard_there, 3).await;
    drop(sentinels.master);
    lags.signal("CONT");
    three.are_alone().await;
    three.are_back().await;
    // She asks first who has heard of none of it, and waits for those who have.
    let objection = async {
        until(&mut lags.line().await, &format!("HKEYS {}", key("meta")), &["next"]).await;
        three.read_here().await
    };
    let (first, _) = tokio::join!(send_as(&three.late, author("bob"), 1), objection);
    places.push(appended(first));
    assert_ne!(places[3].epoch, epoch("first"));
    places.push(appended(send_on(&three.there, 2).await));
    is_each_used_once(&places);
}

#[tokio::test]
async fn a_failover_by_sentinels_is_a_new_epoch() {
    let sentinels = Sentinels::start(1).await;
    let three = Three::on(&sentinels.address()).await;
    send_on(&three.here, 1).await;
    let log = format!("LLEN {}", key("b"));
    until(&mut sentinels.replicas[0].line().await, &log, &["int(1)"]).await;
    drop(sentinels.master);
    // What there is can still be read, for a while, by those who have not heard it.
    let entry = appended(send_on(&three.here, 2).await);
    assert_ne!(entry.epoch, epoch("first"));
    assert_eq!(entry.offset, 1);
    let state = read_on(&three.there).await;
    assert_eq!((state.positions.epoch, state.positions.bulk), (entry.epoch, 1));
    assert_eq!(appended(send_on(&three.here, 3).await).offset, 2, "once is enough");
}

#[tokio::test]
async fn a_failover_in_a_cluster_is_a_new_epoch_for_its_rooms() {
    let mut cluster = Cluster::start(3, 3).await;
    let three = Three::on(&cluster.address()).await;
    send_on(&three.here, 1).await;
    let owner = cluster.owner(&key("b")).await;
    let mut replica = cluster.servers[owner + 3].line().await;
    ask(&mut replica, "READONLY").await;
    until(&mut replica, &format!("LLEN {}", key("b")), &["int(1)"]).await;
    drop(cluster.servers.remove(owner));
    let entry = appended(send_on(&three.here, 2).await);
    assert_ne!(entry.epoch, epoch("first"));
    assert_eq!(appended(send_on(&three.late, 3).await).epoch, entry.epoch);
}

#[tokio::test]
async fn sentinels_that_are_far_away_are_found() {
    let sentinels = Sentinels::start(1).await;
    let (_, host) = sentinels.master.address.split_once("//").unwrap();
    let host = host.split(':').next().unwrap();
    let way = Way::open(host.parse().unwrap(), 26_100, 26_000).await;
    // It takes two answers: who it is that is there, and who is the master.
    way.delay(Duration::from_millis(400));
    let address = format!("redis-sentinel://{host}:26100/main");
    let found = tokio::time::timeout(Duration::from_secs(30), Three::on(&address));
    let three = found.await.expect("nobody says which redis to write to");
    assert_eq!(appended(send_on(&three.here, 1).await).epoch, epoch("first"));
}

/// A Redis that keeps a file of all it does.
fn with_file(host: std::net::Ipv4Addr) -> Server {
    Server::on_port(host, 7000, &["--appendonly", "yes", "--appendfsync", "everysec"])
}

#[tokio::test]
async fn one_that_is_started_again_with_its_file_goes_on() {
    let mut server = with_file(own_host());
    server.line().await;
    let three = Three::on(&server.address).await;
    send_on(&three.here, 1).await;
    is_written(&server).await;
    server.kill();
    server.start_again();
    let entry = appended(send_as(&three.late, author("bob"), 1).await);
    assert_eq!((entry.epoch, entry.offset), (epoch("first"), 2));
    let state = three.read_here().await;
    assert_eq!((state.positions.epoch, state.positions.bulk), (epoch("first"), 2));
}

/// Once all that it was told is in its file: while its disk is behind, it answers before.
async fn is_written(server: &Server) {
    until(&mut server.line().await, "INFO persistence", &["aof_buffer_length:0\r"]).await;
}

/// The file in which the most recent changes are.
fn newest_changes(server: &Server) -> PathBuf {
    let files = std::fs::read_dir(server.dir().join("appendonlydir")).unwrap();
    let mut files = files.map(|file| file.unwrap().path());
    files.find(|file| file.to_string_lossy().ends_with(".incr.aof")).expect("it keeps a file")
}

#[tokio::test]
async fn what_a_file_has_lost_with_its_machine_is_said_by_who_knows() {
    let mut server = with_file(own_host());
    server.line().await;
    let three = Three::on(&server.address).await;
    send_on(&three.here, 1).await;
    let told = three.here.message(LogLane::Bulk, 2, "\"the last\"");
    three.here.ask(author("ann"), told).await.unwrap();
    is_written(&server).await;
    server.kill();
    // Of the last second nothing was on the disk.
    let file = newest_changes(&server);
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(8).position(|word| word == b"the last").expect("it is in the file");
    bytes.truncate(at);
    std::fs::write(&file, bytes).unwrap();
    three.are_alone().await;
    server.start_again();
    three.are_back().await;
    // Who knows nothing of it asks first, and waits for who does.
    let (entry, _) = tokio::join!(send_as(&three.late, author("bob"), 1), three.read_here());
    let entry = appended(entry);
    assert_ne!(entry.epoch, epoch("first"));
    assert_eq!(three.read_here().await.positions.epoch, entry.epoch);
}

#[tokio::test]
async fn one_that_is_started_again_with_an_older_copy_is_a_new_epoch() {
    let mut server = Server::on_port(own_host(), 7000, &[]);
    let mut line = server.line().await;
    let three = Three::on(&server.address).await;
    send_on(&three.here, 1).await;
    ask(&mut line, "SAVE").await;
    let lost = appended(send_on(&three.here, 2).await);
    server.kill();
    server.start_again();
    let entry = appended(send_as(&three.late, author("bob"), 1).await);
    assert_ne!(entry.epoch, lost.epoch);
    assert_eq!(three.read_here().await.positions.epoch, entry.epoch);
}

#[tokio::test]
async fn one_that_is_started_again_with_an_older_copy_is_none_that_was_a_replica() {
    let (mut server, _replica) = with_replica().await;
    let mut line = server.line().await;
    let three = Three::waiting_for(1, &server.address).await;
    send_on(&three.here, 1).await;
    ask(&mut line, "SAVE").await;
    let lost = appended(send_on(&three.here, 2).await);
    server.kill();
    server.start_again();
    // She has heard of nothing that was lost, and nobody else asks.
    let entry = appended(send_as(&three.late, author("bob"), 1).await);
    assert_ne!(entry.epoch, lost.epoch);
}

#[tokio::test]
async fn one_redis_by_several_ways_is_one() {
    let host = own_host();
    let server = Server::on_port(host, 7000, &[]);
    // This user may not ask it who it is.
    let user = "ACL SETUSER handover on >secret ~handover:* &handover:* +@all -@dangerous";
    ask(&mut server.line().await, user).await;
    let _way = Way::open(host, 7001, 7000).await;
    let by = |port: u16| format!("redis://handover:secret@{host}:{port}");
    let node = async |address: &str| {
        let [broker] = nodes(address, limits(GENEROUS), 0).await;
        Node { broker, _behind: None, room: room(), now: at_first() }
    };
    let all = [node(&by(7000)).await, node(&by(7001)).await, node(&server.address).await];
    all[0].broker.open(record("ann")).await.unwrap();
    all[0].load("first").await;
    all[0].join(author("ann")).await.unwrap();
    for (seq, node) in (1..=6).zip(all.iter().cycle()) {
        let entry = appended(send_on(node, seq).await);
        assert_eq!((entry.epoch, entry.offset), (epoch("first"), seq));
    }
}

#[tokio::test]
async fn one_that_never_says_who_it_is_can_be_used() {
    let server = Server::on_port(own_host(), 7000, &["--rename-command", "INFO", "HIDDEN"]);
    server.line().await;
    let ready = tokio::time::timeout(Duration::from_secs(30), Three::on(&server.address));
    let three = ready.await.expect("it is not used");
    assert_eq!(appended(send_on(&three.here, 1).await).epoch, epoch("first"));
}
