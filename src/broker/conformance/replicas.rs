//! What waits for replicas, and what does not.

use handover_redis_servers::{Server, Way, ask, own_host, until};

use super::losses::{followed, hear_of, key, send_on};
use super::*;

/// A master and a replica of it that has caught up.
pub(super) async fn with_replica() -> (Server, Server) {
    let host = own_host();
    let master = Server::on_port(host, 7000, &[]);
    let mut line = master.line().await;
    let of = format!("{host} 7000");
    let settings = ["--replicaof", &of, "--repl-diskless-sync-delay", "0"];
    let replica = Server::on_port(host, 7001, &settings);
    until(&mut line, "INFO replication", &["state=online"]).await;
    (master, replica)
}

#[tokio::test]
async fn what_counts_is_on_replicas() {
    let (master, replica) = with_replica().await;
    let (here, there, mut news) = followed(&master.address, 1).await;
    send_on(&here, 1).await;
    hear_of(&there, &mut news, 1).await;
    replica.signal("STOP");
    let op = RoomOp { author: author("ann"), change: here.message(LogLane::Bulk, 2, "1") };
    for _ in 0..3 {
        // Neither the first time nor as a repetition.
        assert!(here.broker.apply(here.now, &here.room, None, vec![op.clone()]).await.is_err());
    }
    replica.signal("CONT");
    send_on(&here, 2).await;
    hear_of(&there, &mut news, 2).await;
    let log = ask(&mut replica.line().await, &format!("LLEN {}", key("b"))).await;
    assert_eq!(log, ::redis::Value::Int(2));
}

#[tokio::test]
async fn who_looks_or_looks_after_does_not_wait_for_replicas() {
    let (master, _replica) = with_replica().await;
    let (here, there, _news) = followed(&master.address, 1).await;
    let mut line = master.line().await;
    // What is to be waited for touches the room.
    let mut waited_for = async |asked: &mut (dyn Future<Output = ()> + Unpin)| {
        ask(&mut line, "CONFIG RESETSTAT").await;
        asked.await;
        let stats = ::redis::cmd("INFO").arg("commandstats").query_async::<String>(&mut line).await;
        let stats = stats.unwrap();
        assert!(stats.contains("cmdstat_evalsha:"), "it was asked");
        stats.contains("cmdstat_pexpire:")
    };
    let ann = author("ann");
    let looks = async || {
        here.snapshot(ann).await.unwrap();
        here.ask(ann, Change::Place).await.unwrap();
        here.ask(ann, Change::Pass { to: None, body: json("1") }).await.unwrap();
        let known = here.broker.trim(here.now, &room(), None).await.unwrap();
        assert_eq!(known.map(|at| (at.signal, at.bulk)), Some((1, 0)));
        // Nothing was added since it was loaded.
        let after = PerLane { signal: 1, bulk: 0 };
        there.broker.read(&room(), after).await.unwrap().unwrap();
    };
    assert!(!waited_for(&mut Box::pin(looks())).await);
    let sends = async || drop(here.append(ann, LogLane::Bulk, 1).await);
    assert!(waited_for(&mut Box::pin(sends())).await);
    // What is found in the log is passed on, and a look at it is not believed before.
    let reads = async || {
        let after = PerLane { signal: 1, bulk: 0 };
        let state = there.broker.read(&room(), after).await.unwrap().unwrap();
        assert_eq!(offsets(&state, LogLane::Bulk), [1]);
    };
    assert!(waited_for(&mut Box::pin(reads())).await);
}

#[tokio::test]
async fn many_that_wait_for_replicas_are_no_reason_to_take_redis_for_gone() {
    let host = own_host();
    let master = Server::on_port(host, 7000, &[]);
    let mut line = master.line().await;
    let way = Way::open(host, 7002, 7000).await;
    let of = format!("{host} 7002");
    let settings = ["--replicaof", &of, "--repl-diskless-sync-delay", "0"];
    let _replica = Server::on_port(host, 7001, &settings);
    until(&mut line, "INFO replication", &["state=online"]).await;
    let (here, _there, _news) = followed(&master.address, 1).await;
    // A replica far away.
    way.delay(Duration::from_millis(200));
    let updates = (0..16).map(|_| {
        let op = RoomOp { author: author("ann"), change: Change::Update(json("{}")) };
        here.broker.apply(here.now, &here.room, None, vec![op])
    });
    let answered = futures_util::future::join_all(updates).await;
    assert!(answered.iter().any(Result::is_ok));
    let refused: Vec<_> = answered.into_iter().filter_map(Result::err).collect();
    // Or the machine has other things to do than to beat in time.
    let is_turn = |text: &str| text.contains("many wait") || text.contains("does not answer");
    assert!(!refused.is_empty() && refused.iter().all(|error| is_turn(&error.0)), "{refused:?}");
}
