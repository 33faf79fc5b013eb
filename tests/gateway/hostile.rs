//! Peers that mean harm. After each of them somebody who behaves is served as ever.

use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::setup::{Member, Served, soon};

/// Two who behave, one on each transport, meet and exchange a message.
pub async fn is_well(served: &Served, room: &str) {
    are_well(served.plain(), served.secure(), room).await;
}

/// The same where the gateway is another process.
pub async fn are_well(plain: SocketAddr, secure: SocketAddr, room: &str) {
    let mut one = Member::websocket(plain).await;
    let mut other = Member::webtransport(secure).await;
    one.join(room).await;
    other.join(room).await;
    one.expect("signal", "member_joined").await;
    let seq = one.post(room, "signal", json!("well?")).await;
    one.accepted("signal", seq).await;
    assert_eq!(other.expect("signal", "message").await["body"], "well?");
    for mut member in [one, other] {
        member.send("signal", json!({"type": "bye"})).await;
        member.bye().await;
    }
}

#[tokio::test]
async fn somebody_elses_secret_opens_nothing() {
    let served = Served::start().await;
    let mut members = served.both("room").await;
    let mut mixed = members[0].welcome.clone();
    mixed["secret"] = members[1].welcome["secret"].clone();
    let thieves = [
        Member::over_websocket(served.plain()).await,
        Member::over_webtransport(served.secure()).await,
    ];
    for mut thief in thieves {
        for _ in 0..3 {
            thief.resume(&mixed).await;
            assert_eq!(thief.expect("signal", "error").await["code"], "session_unknown");
        }
        assert_eq!(thief.closed().await, 4501);
    }
    for member in &mut members {
        member.answers().await;
    }
}

#[tokio::test]
async fn a_flood_of_datagrams_drowns_nobody() {
    let served = Served::start().await;
    let mut flooding = served.webtransport().await;
    flooding.join("room").await;
    let fit = json!({"type": "ephemeral", "room": "room", "body": 1}).to_string();
    for n in 0..20_000 {
        // What fits, what does not parse, and what is nothing.
        let datagram = match n % 3 {
            0 => Bytes::from(fit.clone()),
            1 => Bytes::from_static(b"{\"type\":"),
            _ => Bytes::new(),
        };
        // Beyond what the sender's own stack holds the oldest are dropped there.
        let session = flooding.session().unwrap();
        if session.send_datagram(datagram).is_err() {
            break;
        }
        if n % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    is_well(&served, "another room").await;
}

#[tokio::test]
async fn streams_that_nobody_asked_for_are_refused_one_by_one() {
    let served = Served::start().await;
    let mut flooding = served.webtransport().await;
    for _ in 0..300 {
        let session = flooding.session().unwrap();
        let (mut send, mut recv) = soon(session.open_bi()).await.unwrap();
        // It may be refused before this is written.
        let _ = send.write_all(b"\x05hello").await;
        assert!(soon(recv.read_to_end(16)).await.map_or(true, |said| said.is_empty()));
        let mut send = soon(session.open_uni()).await.unwrap();
        let _ = send.write_all(b"\x05hello").await;
        let _ = soon(send.stopped()).await;
    }
    flooding.answers().await;
    is_well(&served, "room").await;
}

#[tokio::test]
async fn a_greeting_in_single_bytes_is_a_greeting_and_half_of_one_is_cut() {
    let served =
        Served::with(|config| config.hello_timeout = std::time::Duration::from_secs(3)).await;
    let upgrade = format!(
        "GET /v1/ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        served.plain()
    );
    let hello = br#"{"type":"hello","version":1}"#;
    let mut bytes = upgrade.into_bytes();
    let head = bytes.len();
    bytes.extend_from_slice(&[0x81, 0x80 | hello.len() as u8, 0, 0, 0, 0]);
    bytes.extend_from_slice(hello);
    for end in [bytes.len(), bytes.len() - 1, head + 3, head] {
        let mut tcp = TcpStream::connect(served.plain()).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        for byte in &bytes[..end] {
            tcp.write_all(std::slice::from_ref(byte)).await.unwrap();
        }
        let mut said = Vec::new();
        if end == bytes.len() {
            while !String::from_utf8_lossy(&said).contains("welcome") {
                said.push(soon(tcp.read_u8()).await.unwrap());
            }
        } else {
            // The gateway's last words, and the end.
            let _ = soon(tcp.read_to_end(&mut said)).await;
            assert!(String::from_utf8_lossy(&said).contains("\"code\":4503"), "cut at {end}");
        }
    }
    is_well(&served, "room").await;
}
