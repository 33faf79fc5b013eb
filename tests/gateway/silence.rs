//! Peers that say nothing any more.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::setup::{Member, soon};
use super::siege::Besieged;

const HEARTBEAT: &str = "heartbeat_ms=400";

/// One WebSocket frame of the gateway: its first byte and its payload.
async fn frame(tcp: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    soon(tcp.read_exact(&mut head)).await.unwrap();
    let len = match head[1] {
        126 => usize::from(soon(tcp.read_u16()).await.unwrap()),
        len => usize::from(len),
    };
    let mut payload = vec![0; len];
    soon(tcp.read_exact(&mut payload)).await.unwrap();
    (head[0], payload)
}

#[tokio::test]
async fn a_websocket_that_answers_no_ping_is_closed_as_idle() {
    let served = Besieged::start(&[HEARTBEAT]).await;
    let mut tcp = TcpStream::connect(served.plain()).await.unwrap();
    let request = format!(
        "GET /v1/ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        served.plain()
    );
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(tcp.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));

    // A text message, masked with zeros.
    let hello = br#"{"type":"hello","version":1}"#;
    tcp.write_all(&[0x81, 0x80 | hello.len() as u8, 0, 0, 0, 0]).await.unwrap();
    tcp.write_all(hello).await.unwrap();

    let (mut pings, mut said) = (0, Vec::new());
    let closing = async {
        loop {
            let (first, payload) = frame(&mut tcp).await;
            match first & 0x0f {
                0x9 => pings += 1,
                0x1 => said.push(serde_json::from_slice::<Value>(&payload).unwrap()),
                0x8 => break u16::from_be_bytes([payload[0], payload[1]]),
                other => panic!("opcode {other}"),
            }
        }
    };
    // It may well be told something all the time.
    let code = soon(closing).await;
    assert_eq!(code, 4001);
    assert!(pings > 0, "it was not even asked");
    said.retain(|message| message["type"] != "quality");
    let said: Vec<_> = said.iter().map(|message| (&message["type"], &message["code"])).collect();
    assert_eq!(said, [(&json!("welcome"), &Value::Null), (&json!("close"), &json!(4001))]);
    served.is_well().await;
}

#[tokio::test]
async fn a_webtransport_client_that_stands_still_is_away() {
    let served = Besieged::start(&[HEARTBEAT]).await;
    let mut watching = served.webtransport().await;
    watching.join("room").await;
    // A runtime that nobody drives any more is a process that has stopped.
    let still = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let to = served.secure();
    let (still, stopped) = tokio::task::spawn_blocking(move || {
        let member = still.block_on(async {
            // Its own idle timeout does not count: QUIC takes the shorter of two.
            let mut member = Member::devoted(to).await;
            member.join("room").await;
            member
        });
        (still, member)
    })
    .await
    .unwrap();
    watching.expect("signal", "member_joined").await;
    let away = soon(watching.expect("signal", "member_away")).await;
    assert_eq!(away["peer"], json!(stopped.peer));
    watching.answers().await;
    drop(stopped);
    still.shutdown_background();
    served.is_well().await;
}

#[tokio::test]
async fn whoever_only_listens_stays() {
    let served = Besieged::start(&[HEARTBEAT]).await;
    let mut members = served.both("room").await;
    // Longer than the timeout, told by the gateway's own clock: a third one comes and is away.
    drop(served.websocket().await);
    let mut third = served.websocket().await;
    third.join("room").await;
    drop(third);
    for member in &mut members {
        member.expect("signal", "member_joined").await;
        member.expect("signal", "member_away").await;
    }
    for member in &mut members {
        member.answers().await;
    }
    drop(members);
    served.is_well().await;
}
