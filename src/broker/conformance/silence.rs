//! A subscription on which nothing comes any more, though no connection has failed.

use std::future::poll_fn;

use handover_redis_servers::{Server, Way, own_host, until};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::losses::{following, hear_of, key, send_on};
use super::server::nodes;
use super::*;
use crate::broker::Heard;
use crate::broker::redis::{Options, RedisBroker};
use crate::clock::Clock;

/// A node on the same Redis as another, behind a way to it that can be cut.
async fn behind_a_way() -> (Server, Way, [Arc<RedisBroker>; 2]) {
    let host = own_host();
    let server = Server::on_port(host, 7000, &[]);
    server.line().await;
    let way = Way::open(host, 7001, 7000).await;
    let [here] = nodes(&server.address, limits(GENEROUS), 0).await;
    let [there] = nodes(&format!("redis://{host}:7001"), limits(GENEROUS), 0).await;
    (server, way, [here, there])
}

#[tokio::test]
async fn a_subscription_that_is_silent_is_replaced() {
    let (_server, way, both) = behind_a_way().await;
    let (here, there, mut news) = following(both).await;
    way.hush();
    let clock = Clock::start();
    send_on(&here, 1).await;
    // Nothing fails, and nothing is said: the next that comes has to be read from the log.
    let heard = tokio::time::timeout(Duration::from_secs(30), hear_of(&there, &mut news, 1)).await;
    heard.expect("nobody noticed");
    eprintln!("replaced, and what was missed read, after {:?}", clock.now().since(Time::ZERO));
    send_on(&here, 2).await;
    hear_of(&there, &mut news, 2).await;
}

#[tokio::test]
async fn a_message_that_is_lost_is_noticed_by_the_next() {
    let (_server, way, both) = behind_a_way().await;
    let (here, there, mut news) = following(both).await;
    way.lose("lost on the way");
    let before = way.subscriptions();
    let is_replaced = || way.subscriptions() > before;
    let mut heard = async || match poll_fn(|cx| news.poll_heard(cx)).await.expect("news go on") {
        Heard::Entry(entry) => Some(entry.offset),
        Heard::Doubt => None,
        other => panic!("{other:?}"),
    };
    for (seq, said) in (1..).zip(["\"one\"", "\"lost on the way\"", "\"three\""]) {
        here.ask(author("ann"), here.message(LogLane::Bulk, seq, said)).await.unwrap();
        match seq {
            // Doubt, should the subscription have been replaced just then: it is read.
            1 => match heard().await {
                None => drop(there.broker.read(&room(), PerLane::default()).await.unwrap()),
                told => assert_eq!(told, Some(1)),
            },
            2 => {}
            _ => {
                let mut told = heard().await;
                while is_replaced() && told == Some(1) {
                    told = heard().await;
                }
                assert_eq!(told, None, "there is a hole before it");
            }
        }
    }
    assert!(way.lost() == 1 || is_replaced());
    let read = there.broker.read(&room(), PerLane { signal: 1, bulk: 1 }).await.unwrap().unwrap();
    assert_eq!(offsets(&read, LogLane::Bulk), [2, 3]);
    here.append(author("ann"), LogLane::Bulk, 4).await;
    let mut told = heard().await;
    while is_replaced() && told.is_some_and(|offset| offset < 4) {
        told = heard().await;
    }
    assert!(told == Some(4) || is_replaced(), "{told:?}");
}

#[tokio::test]
async fn what_keeps_the_connections_begins_again_after_a_fault() {
    let server = Server::on_socket();
    let options =
        Options { limits: limits(GENEROUS), resume_window: Duration::from_secs(60), replicas: 0 };
    let (there, keeper) = RedisBroker::open(&server.address, options, Clock::start()).unwrap();
    let (here, there) = (nodes(&server.address, limits(GENEROUS), 0), Arc::new(there));
    let (stopping, fault) = (CancellationToken::new(), Arc::new(Notify::new()));
    let (runs, ends) = (keeper.clone().run(stopping.clone()), fault.clone());
    let failing = tokio::spawn(async move {
        tokio::select! {
            () = runs => {}
            () = ends.notified() => panic!("on purpose"),
        }
    });
    let mut up = there.up();
    up.wait_for(|up| *up).await.unwrap();
    let [here] = here.await;
    let (here, there, mut news) = following([here, there]).await;
    fault.notify_one();
    assert!(failing.await.unwrap_err().is_panic());
    assert!(!*up.borrow(), "nobody looks whether it answers");
    assert!(there.broker.read(&room(), PerLane::default()).await.is_err());
    send_on(&here, 1).await;
    tokio::spawn(keeper.run(stopping));
    hear_of(&there, &mut news, 1).await;
    up.wait_for(|up| *up).await.unwrap();
    // By what is published, too.
    send_on(&here, 2).await;
    hear_of(&there, &mut news, 2).await;
}

#[tokio::test]
async fn who_does_not_listen_any_more_is_not_subscribed() {
    let server = Server::on_socket();
    let [here, there] = nodes(&server.address, limits(GENEROUS), 0).await;
    let mut line = server.line().await;
    let listeners = format!("PUBSUB NUMSUB {}", key("news"));
    let mut are = async |count: u8| until(&mut line, &listeners, &[&format!("int({count})")]).await;
    are(0).await;
    let [one, again] = [here.follow(&room()).await.unwrap(), here.follow(&room()).await.unwrap()];
    are(1).await;
    let other = there.follow(&room()).await.unwrap();
    are(2).await;
    // The later one is who listens there.
    drop(one);
    drop(other);
    are(1).await;
    drop(again);
    are(0).await;
}

#[tokio::test]
async fn a_long_log_is_read_on_a_slow_way() {
    let host = own_host();
    let server = Server::on_port(host, 7000, &[]);
    server.line().await;
    let way = Way::open(host, 7001, 7000).await;
    let long = limits(Retention { bytes: 16 << 20, ..GENEROUS });
    let [here] = nodes(&server.address, long, 0).await;
    let [there] = nodes(&format!("redis://{host}:7001"), long, 0).await;
    let (here, there, _news) = following([here, there.clone()]).await;
    let body = format!("\"{}\"", "x".repeat(60_000));
    for seq in 1..=64 {
        here.ask(author("ann"), here.message(LogLane::Bulk, seq, &body)).await.unwrap();
    }
    // In pieces of 64 kB at the most, one after another: all of it takes longer than an answer may.
    way.delay(Duration::from_millis(60));
    let state = there.load("late").await;
    assert_eq!(offsets(&state, LogLane::Bulk), Vec::from_iter(1..=64));
}
