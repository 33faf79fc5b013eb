//! A gateway that has more to do than time to do it in, for whatever it measures is too much: who
//! says much is read more slowly and refused nothing, and strangers prove where they are.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use handover::config::Config;
use handover_protocol::pace::{PaceLimits, Rate};
use serde_json::json;
use tokio::net::UdpSocket;

use super::amplification::first_packets;
use super::setup::{Member, Served, soon};

/// As little is granted as may be: 10,000 bytes a second to each session.
async fn pressed() -> Served {
    pressed_with(|_| ()).await
}

async fn pressed_with(change: impl FnOnce(&mut Config)) -> Served {
    let served = Served::with(|config| {
        config.capacity.wait = Some(Duration::from_nanos(1));
        config.pace.bytes = Some(Rate { per_s: 2_000_000, burst: 2_000_000 });
        change(config);
    })
    .await;
    let least = "handover_rates_granted 0.005\n";
    soon(async { while !served.metrics().await.contains(least) {} }).await;
    served
}

/// Who is not read for longer than this is taken for gone.
fn silence_cut(config: &mut Config) {
    config.heartbeat = Duration::from_millis(400);
}

/// One message has this member read no further for longer than it may be silent.
async fn is_read_on(served: &Served, mut member: Member) {
    let mut watching = served.webtransport().await;
    watching.join("room").await;
    member.join("room").await;
    watching.expect("signal", "member_joined").await;
    let large = member.post("room", "signal", json!("x".repeat(60_000))).await;
    let small = member.post("room", "bulk", json!("small")).await;
    if let Some(session) = member.session() {
        let unread = "handover_ephemeral_dropped_total{reason=\"unread\"}";
        let fit = json!({"type": "ephemeral", "room": "room", "body": 1}).to_string();
        let lost = async {
            while served.metric(unread).await == 0 {
                session.send_datagram(Bytes::from(fit.clone())).unwrap();
            }
        };
        soon(lost).await;
    }
    member.accepted("signal", large).await;
    member.accepted("bulk", small).await;
    member.answers().await;
    watching.expect("signal", "message").await;
    assert_eq!(watching.expect("bulk", "message").await["body"], "small");
    watching.answers().await;
    assert_eq!(served.metric("handover_refusals_total").await, 0);
}

#[tokio::test]
async fn who_says_too_much_on_a_websocket_is_read_on_in_time() {
    let served = pressed_with(silence_cut).await;
    is_read_on(&served, served.websocket().await).await;
}

#[tokio::test]
async fn who_says_too_much_on_webtransport_is_read_on_in_time() {
    let served = pressed_with(silence_cut).await;
    is_read_on(&served, served.webtransport().await).await;
}

#[tokio::test]
async fn strangers_prove_where_they_are() {
    let served = pressed().await;
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let packet = first_packets(1).await.remove(0);
    stranger.send_to(&packet, served.secure()).await.unwrap();
    let mut answer = [0; 2_048];
    let size = soon(stranger.recv(&mut answer)).await.unwrap();
    assert_eq!(answer[0] & 0xf0, 0xf0, "a Retry packet");
    assert!(size < packet.len() / 3, "{size} bytes");
    // Who is where it says it is notices nothing, neither by QUIC nor by TLS.
    served.webtransport().await.answers().await;
    Member::secure_websocket(served.secure()).await.answers().await;
}

#[tokio::test]
async fn packets_beyond_a_share_are_lost_and_their_sender_is_served() {
    let served = pressed().await;
    let mut member = served.webtransport().await;
    let session = member.session().unwrap();
    let flood = async {
        while served.metric("handover_packets_dropped_total").await == 0 {
            // What does not fit into the client's own buffer any more is lost there.
            (0..100).for_each(|_| session.send_datagram(Bytes::from_static(&[0; 1_000])).unwrap());
        }
    };
    soon(flood).await;
    member.answers().await;
}

/// More than may be written one by one: some waits for its time, and comes.
#[tokio::test]
async fn who_is_told_much_is_told_all_of_it_in_order() {
    let served = pressed().await;
    for mut listener in [served.websocket().await, served.webtransport().await] {
        listener.join("room").await;
        let mut speakers = Vec::new();
        for _ in 0..16 {
            let mut speaker = served.websocket().await;
            speaker.join("room").await;
            listener.expect("signal", "member_joined").await;
            speakers.push(speaker);
        }
        let told = async {
            let mut last = None;
            for _ in 0..3 {
                for speaker in &mut speakers {
                    speaker.post("room", "bulk", json!("said")).await;
                    let offset = listener.expect("bulk", "message").await["offset"].as_u64();
                    assert_eq!(last.or(offset), offset, "one after the other");
                    last = offset.map(|offset| offset + 1);
                }
            }
        };
        soon(told).await;
    }
}

/// Nobody is held back here; the line alone tells who comes first.
#[tokio::test]
async fn who_says_much_steps_back_and_loses_nothing() {
    let unbounded = |config: &mut Config| config.pace = PaceLimits::default();
    let served = pressed_with(unbounded).await;
    let stepped_back = "handover_connections_stepped_back_total";
    for mut member in [served.websocket().await, served.webtransport().await] {
        let mut watching = served.websocket().await;
        watching.join("room").await;
        member.join("room").await;
        watching.expect("signal", "member_joined").await;
        let before = served.metric(stepped_back).await;
        for _ in 0..30 {
            member.post("room", "bulk", json!("much")).await;
        }
        for _ in 0..30 {
            watching.expect("bulk", "message").await;
        }
        assert!(served.metric(stepped_back).await > before);
        watching.post("room", "signal", json!("heard")).await;
        assert_eq!(member.expect("signal", "message").await["body"], "heard");
    }
}
