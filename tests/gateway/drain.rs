//! The end of a gateway as its clients see it, and what it leaves behind: nothing.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::Duration;

use handover::gateway::Drained;
use serde_json::json;
use tokio::net::TcpStream;

use super::setup::{Member, Served, dial_webtransport, soon};

#[tokio::test]
async fn who_stays_is_closed_with_draining() {
    let served = Served::start().await;
    let mut members = served.both("room").await;
    let Served { gateway, _dir } = served;
    let draining = tokio::spawn(gateway.drain());
    for member in &mut members {
        let told = member.expect("signal", "draining").await;
        assert!(told["reconnect_in"].as_u64().unwrap() < 200, "{told}");
    }
    for member in &mut members {
        assert_eq!(member.closed().await, 4000);
    }
    assert_eq!(soon(draining).await.unwrap(), Drained::Cut(2));
}

#[tokio::test]
async fn once_everybody_has_left_it_waits_no_longer() {
    let served = Served::with(|config| config.drain_timeout = Duration::from_secs(3_600)).await;
    let mut members = served.both("room").await;
    let Served { gateway, _dir } = served;
    let draining = tokio::spawn(gateway.drain());
    for member in &mut members {
        member.expect("signal", "draining").await;
    }
    let [one, other] = &mut members;
    one.send("signal", json!({"type": "bye"})).await;
    assert_eq!(one.closed().await, 4500);
    let left = other.expect("signal", "member_left").await;
    assert_eq!((&left["peer"], &left["reason"]), (&json!(one.peer), &json!("bye")));
    // Just going away is as good.
    drop(members);
    assert_eq!(soon(draining).await.unwrap(), Drained::Left);
}

#[tokio::test]
async fn nobody_new_is_let_in_and_the_ports_are_free_afterwards() {
    let served = Served::start().await;
    let (secure, plain) = (served.secure(), served.plain());
    let mut members = served.both("room").await;
    let Served { gateway, _dir } = served;
    let draining = tokio::spawn(gateway.drain());
    members[0].expect("signal", "draining").await;
    for address in [secure, plain] {
        // Refused outright, or taken by the system and closed without a word.
        if let Ok(tcp) = soon(TcpStream::connect(address)).await {
            soon(tcp.readable()).await.unwrap();
            let mut byte = [0];
            assert!(matches!(tcp.try_read(&mut byte), Ok(0) | Err(_)), "{address} still answers");
        }
    }
    soon(draining).await.unwrap();
    UdpSocket::bind(secure).unwrap();
    for address in [secure, plain] {
        TcpListener::bind(address).unwrap();
    }
}

/// Whoever has not been greeted has nothing to lose, and is not waited for beyond the end.
#[tokio::test]
async fn who_says_nothing_does_not_make_the_end_wait() {
    let served = Served::with(|config| config.hello_timeout = Duration::from_secs(600)).await;
    let mut silent = Member::over_websocket(served.plain()).await;
    let (_endpoint, other) = dial_webtransport(Ipv4Addr::LOCALHOST, served.secure()).await;
    let Served { gateway, _dir } = served;
    let draining = tokio::spawn(gateway.drain());
    assert_eq!(silent.closed().await, 4000);
    soon(other.closed()).await;
    assert_eq!(soon(draining).await.unwrap(), Drained::Cut(2));
}
