//! Peers that mean harm. After each of them somebody who behaves is served as ever.

use std::net::Ipv4Addr;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::setup::{Member, dial_websocket, dial_webtransport, over_tls, soon};
use super::siege::Besieged;

#[tokio::test]
async fn somebody_elses_secret_opens_nothing() {
    let served = Besieged::start(&[]).await;
    let mut members = served.both("room").await;
    let mut mixed = members[0].welcome.clone();
    mixed["secret"] = members[1].welcome["secret"].clone();
    let with = |field: &str, value: Value| {
        let mut wrong = members[0].welcome.clone();
        wrong[field] = value;
        wrong
    };
    let own = members[0].welcome["secret"].as_str().unwrap();
    let wrong = [
        mixed,
        with("secret", json!("dGhlIHNlY3JldCBvZiBub2JvZHkgYXQgYWxsIQ")),
        with("secret", json!("")),
        with("secret", json!(own[..own.len() - 1])),
        with("secret", json!(format!("{own}A"))),
        with("secret", json!(own.to_lowercase())),
        with("secret", json!("x".repeat(10_000))),
        with("session", json!("AAAAAAAAAAAAAAAA")),
        with("session", members[0].welcome["peer"].clone()),
    ];
    // Three make an end; with each thief some are tried.
    for wrong in wrong.chunks(3) {
        for mut thief in served.strangers().await {
            for wrong in wrong {
                thief.resume(wrong).await;
                let refused = thief.expect("signal", "error").await;
                assert_eq!(refused["code"], "session_unknown", "{wrong}");
            }
            assert_eq!(thief.expect("signal", "close").await["code"], 4501);
        }
    }
    for member in &mut members {
        member.answers().await;
    }
    drop(members);
    served.is_well().await;
}

#[tokio::test]
async fn a_flood_of_messages_is_refused_and_then_closed() {
    let served = Besieged::start(&["limits.messages_per_s=10"]).await;
    let mut watching = served.webtransport().await;
    watching.join("room").await;
    for mut member in [served.websocket().await, served.webtransport().await] {
        member.join("room").await;
        watching.expect("signal", "member_joined").await;
        let (mut refused, mut id) = (0, 0);
        let close = 'close: loop {
            assert!(id < 50_000, "it is never closed");
            for _ in 0..100 {
                id += 1;
                member.tries(json!({"type": "ping", "id": id})).await;
            }
            loop {
                let said = member.next("signal").await.unwrap();
                match said["type"].as_str() {
                    Some("close") => break 'close said,
                    Some("error") => {
                        assert_eq!(said["code"], "rate_limited", "{said}");
                        refused += 1;
                    }
                    _ => {}
                }
                if said["id"] == id {
                    break;
                }
            }
        };
        assert_eq!(close["code"], 4004);
        assert!(refused > 1_000, "it was told {refused} times only");
        watching.answers().await;
    }
    served.is_well().await;
}

#[tokio::test]
async fn a_flood_of_control_frames_and_nothings_drowns_nobody() {
    let served = Besieged::start(&["limits.messages_per_s=100"]).await;
    let mut flooding = dial_websocket(served.plain()).await;
    for n in 0..20_000 {
        let frame = match n % 3 {
            0 => Message::Ping(Bytes::from_static(&[7; 125])),
            1 => Message::Pong(Bytes::new()),
            // It answers none of what it is asked, and reads nothing.
            _ => Message::Ping(Bytes::new()),
        };
        // It may be cut before it is done.
        let fed = soon(flooding.feed(frame)).await;
        if fed.is_err() || (n % 64 == 0 && soon(flooding.flush()).await.is_err()) {
            break;
        }
    }
    served.is_well().await;
    // They count as messages, and not as a greeting.
    let mut last = None;
    while let Some(Ok(said)) = soon(flooding.next()).await {
        last = Some(said);
    }
    let code = last.map(|last| match last {
        Message::Close(Some(frame)) => u16::from(frame.code),
        other => panic!("{other}"),
    });
    assert_eq!(code, Some(4004));
}

#[tokio::test]
async fn a_flood_of_datagrams_drowns_nobody() {
    let served = Besieged::start(&["limits.messages_per_s=100"]).await;
    let mut flooding = served.webtransport().await;
    flooding.join("room").await;
    let (_endpoint, unheard) = dial_webtransport(Ipv4Addr::LOCALHOST, served.secure()).await;
    let fit = json!({"type": "ephemeral", "room": "room", "body": 1}).to_string();
    // In bytes of what they carry.
    let received = || served.metric("handover_received_bytes_total{transport=\"webtransport\"");
    let (before, mut sent) = (received(), 0);
    let is_closed = |member: &Member| member.session().unwrap().close_reason().is_some();
    // Until it is closed for them.
    for round in 0.. {
        assert!(round < 200, "it is never closed");
        // No more at once than the gateway holds: beyond that the oldest are lost.
        for n in 0..600 {
            // What fits, what does not parse, and what is nothing.
            let datagram = match n % 3 {
                0 => Bytes::from(fit.clone()),
                1 => Bytes::from_static(b"{\"type\":"),
                _ => Bytes::new(),
            };
            // Before a greeting they are for nobody.
            let _ = unheard.send_datagram(datagram.clone());
            let bytes = datagram.len() as u64;
            let was_sent = flooding.session().unwrap().send_datagram(datagram).is_ok();
            sent += if was_sent { bytes } else { 0 };
        }
        // At least half of them are looked at.
        soon(async {
            while received() - before < sent / 2 && !is_closed(&flooding) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        if is_closed(&flooding) {
            break;
        }
    }
    while let Some(said) = flooding.next("signal").await {
        assert!(said["type"] != "close" || said["code"] == 4004, "{said}");
    }
    // Whoever is not greeted may have been closed for the same by now.
    let ends = served.metric_with("handover_connection_ends_total{", "rate_limited");
    assert!((1..=2).contains(&ends), "{ends}");
    served.is_well().await;
}

/// Asks for the page as fast as it can, and comes again whenever it is cut.
async fn asks_without_end(stream: impl AsyncRead + AsyncWrite) -> usize {
    let (mut recv, mut send) = tokio::io::split(stream);
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(64);
    let asking = async { while send.write_all(&request).await.is_ok() {} };
    let reading = async {
        let (mut answers, mut chunk) = (0, vec![0; 64 * 1_024]);
        while let Ok(size @ 1..) = recv.read(&mut chunk).await {
            answers += chunk[..size].windows(13).filter(|part| *part == b"HTTP/1.1 200 ").count();
        }
        answers
    };
    let (answers, ()) = tokio::join!(reading, asking);
    answers
}

/// Eight that ask without end, half of them by TLS, and those who behave meanwhile: how often they were
/// turned away.
pub async fn requests(served: &Besieged) -> usize {
    let (plain, secure) = (served.plain(), served.secure());
    let (ended, mut ends) = mpsc::unbounded_channel();
    let mut floods = JoinSet::new();
    for nth in 0..8 {
        let ended = ended.clone();
        floods.spawn(async move {
            loop {
                let answers = match nth % 2 {
                    0 => asks_without_end(TcpStream::connect(plain).await.unwrap()).await,
                    _ => asks_without_end(over_tls(secure).await).await,
                };
                ended.send(answers).unwrap();
            }
        });
    }
    let mut refused = 0;
    for _ in 0..3 {
        refused += served.serves().await;
    }
    for _ in 0..16 {
        let answers = soon(ends.recv()).await.unwrap();
        assert!(answers <= 100, "{answers} answers on one connection");
    }
    floods.shutdown().await;
    refused
}

#[tokio::test]
async fn a_flood_of_requests_drowns_nobody() {
    let served = Besieged::start(&[]).await;
    assert_eq!(requests(&served).await, 0, "turned away meanwhile");
    served.is_well().await;
}

#[tokio::test]
async fn streams_that_nobody_asked_for_are_refused_one_by_one() {
    let served = Besieged::start(&[]).await;
    let mut flooding = served.webtransport().await;
    for _ in 0..20 {
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
    served.is_well().await;
}

#[tokio::test]
async fn a_greeting_in_single_bytes_is_a_greeting_and_half_of_one_is_cut() {
    let served = Besieged::start(&["hello_timeout_ms=3000"]).await;
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
    served.is_well().await;
}
