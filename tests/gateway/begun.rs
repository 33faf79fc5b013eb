//! Messages as long as they may be, and messages that are begun and not finished, of those who have
//! been greeted.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::crowds::shipped;
use super::raw::{HELLO, frame, hears, tcp, text, upgrade};
use super::setup::{Member, Served, dial_webtransport, soon};
use super::siege::{Besieged, QUIC_KB, TCP_KB};

/// As shipped.
const MESSAGE_BYTES: usize = 65_536;

/// A message for the bulk lane of so many bytes.
fn of(bytes: usize, seq: u64) -> Value {
    let with = |body: String| json!({"type": "send", "room": "room", "lane": "bulk", "seq": seq, "body": body});
    let rest = with(String::new()).to_string().len();
    with("x".repeat(bytes - rest))
}

async fn says_as_much_as_it_may(served: &Served, mut member: Member, other: &mut Member) {
    member.join("room").await;
    other.expect("signal", "member_joined").await;
    // More than a greeting may have, and all there may be.
    for (bytes, seq) in [(40 * 1_024 + 1, 1), (MESSAGE_BYTES, 2)] {
        let long = of(bytes, seq);
        assert_eq!(long.to_string().len(), bytes);
        member.send("bulk", long.clone()).await;
        assert_eq!(other.expect("bulk", "message").await["body"], long["body"]);
        member.accepted("bulk", seq).await;
    }
    member.send("bulk", of(MESSAGE_BYTES + 1, 3)).await;
    assert_eq!(member.closed().await, 4506);
    assert_eq!(served.metric("handover_panics_total").await, 0);
}

#[tokio::test]
async fn a_message_in_bulk_may_be_as_long_as_any() {
    let served = Served::start().await;
    let mut other = served.websocket().await;
    other.join("room").await;
    let on_websocket = served.websocket().await;
    says_as_much_as_it_may(&served, on_websocket, &mut other).await;
    other.expect("signal", "member_away").await;
    let on_webtransport = served.webtransport().await;
    says_as_much_as_it_may(&served, on_webtransport, &mut other).await;
}

/// A message of so many bytes: what it says, and what nobody looks at.
fn padded(message: &str, bytes: usize) -> String {
    let rest = format!(r#"{{{message},"pad":""}}"#).len();
    format!(r#"{{{message},"pad":"{}"}}"#, "x".repeat(bytes - rest))
}

/// All of it but its end, and the end.
fn halves(mut whole: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let end = whole.split_off(whole.len() - 1);
    (whole, end)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_members_begin_costs_two_messages_each_and_can_be_finished_whenever_they_like() {
    const EACH: usize = 100;
    let message_kb = MESSAGE_BYTES as u64 / 1_024;
    let bound = EACH as u64 * (QUIC_KB + 2 * message_kb + TCP_KB + message_kb);
    let gateway = shipped(&[], bound).await;
    let ping = padded(r#""type":"ping","id":7"#, MESSAGE_BYTES);
    let send =
        padded(r#""type":"send","room":"of others","lane":"bulk","seq":1,"body":1"#, MESSAGE_BYTES);
    let attack = async |gateway: &Besieged| {
        let (mut sockets, mut sessions) = (Vec::new(), Vec::new());
        for _ in 0..EACH {
            let mut socket = tcp(gateway.plain()).await;
            socket.write_all(&[upgrade(gateway.plain()), text(HELLO)].concat()).await.unwrap();
            hears(&mut socket, "welcome").await;
            let (begun, end) = halves(text(&ping));
            socket.write_all(&begun).await.unwrap();
            sockets.push((socket, end));
            let (endpoint, session) =
                dial_webtransport(Ipv4Addr::LOCALHOST, gateway.secure()).await;
            let mut signal = soon(session.open_bi()).await.unwrap();
            signal.0.write_all(&frame(HELLO)).await.unwrap();
            let mut bulk = soon(session.open_bi()).await.unwrap();
            bulk.0.write_all(&frame(r#"{"type":"lane","lane":"bulk"}"#)).await.unwrap();
            hears(&mut signal.1, "welcome").await;
            let (begun, end) = halves(frame(&ping));
            soon(signal.0.write_all(&begun)).await.unwrap();
            let (begun, end_in_bulk) = halves(frame(&send));
            soon(bulk.0.write_all(&begun)).await.unwrap();
            sessions.push((endpoint, session, signal, end, bulk, end_in_bulk));
        }
        assert_eq!(gateway.serves().await, 0, "turned away meanwhile");
        for (mut socket, end) in sockets {
            socket.write_all(&end).await.unwrap();
            hears(&mut socket, r#""pong""#).await;
        }
        for (_endpoint, _session, mut signal, end, mut bulk, end_in_bulk) in sessions {
            bulk.0.write_all(&end_in_bulk).await.unwrap();
            hears(&mut bulk.1, "not_a_member").await;
            signal.0.write_all(&end).await.unwrap();
            hears(&mut signal.1, r#""pong""#).await;
        }
    };
    gateway.withstands(attack).await;
}
