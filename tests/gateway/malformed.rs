//! Messages that are none: what each gets for it, on both transports, with others served after.

use std::net::Ipv4Addr;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use web_transport_quinn::Session;
use web_transport_quinn::proto::ConnectRequest;

use super::raw::{HELLO, binary, frame, hears, last_words, tcp, text, upgrade, upgrade_with};
use super::setup::{Member, Served, any_certificate, dial_webtransport, session_on, soon};
use super::siege::Besieged;

fn nested(depth: usize) -> String {
    let (open, close) = ("[".repeat(depth), "]".repeat(depth));
    format!(r#"{{"type":"send","room":"room","lane":"signal","seq":1,"body":{open}{close}}}"#)
}

/// Refused, and the connection stays.
fn refused() -> Vec<String> {
    let join = |room: &str| json!({"type": "join", "id": 7, "room": room}).to_string();
    vec![
        r#"{"type":"nothing that exists","id":1}"#.into(),
        r#"{"id":1}"#.into(),
        r#"{"type":"join","id":1}"#.into(),
        r#"{"type":"join","id":"1","room":"room"}"#.into(),
        r#"{"type":"join","id":-1,"room":"room"}"#.into(),
        r#"{"type":"join","id":1e300,"room":"room"}"#.into(),
        join(""),
        join(" room"),
        join("ro\u{0}om"),
        join(&"r".repeat(129)),
        nested(65),
        nested(20_000),
        nested(32_000),
        r#"{"type":"send","room":"nowhere","lane":"signal","seq":1,"body":1}"#.into(),
        r#"{"type":"send","room":"room","lane":"no lane","seq":1,"body":1}"#.into(),
    ]
}

/// Closed at once, with this code.
fn closed() -> Vec<(Vec<u8>, u64)> {
    vec![
        (b"{".to_vec(), 4502),
        (b"".to_vec(), 4502),
        (b"null and void".to_vec(), 4502),
        (b"\xff\xfe\"".to_vec(), 4502),
        (HELLO.as_bytes().to_vec(), 4502),
        (vec![b'['; 60_000], 4502),
        (format!("{{\"type\":\"{}\"}}", "x".repeat(70_000)).into_bytes(), 4506),
    ]
}

async fn members(served: &Besieged) -> [Member; 2] {
    [served.websocket().await, served.webtransport().await]
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_and_the_connection_stays() {
    let served = Besieged::start(&[]).await;
    for mut member in members(&served).await {
        member.join("room").await;
        for message in refused() {
            member.send_bytes("signal", message.as_bytes()).await;
            let said = member.next("signal").await.unwrap();
            assert_eq!(said["type"], "error", "{said} for {}", &message[..60.min(message.len())]);
        }
        member.answers().await;
        member.send("signal", json!({"type": "leave", "id": 5, "room": "room"})).await;
        member.expect("signal", "ok").await;
    }
    served.is_well().await;
}

#[tokio::test]
async fn what_cannot_be_read_ends_the_connection() {
    let served = Besieged::start(&[]).await;
    for (bytes, code) in closed() {
        for mut member in members(&served).await {
            member.send_bytes("signal", &bytes).await;
            assert_eq!(member.closed().await, code, "{:?}", &bytes[..20.min(bytes.len())]);
        }
    }
    served.is_well().await;
}

#[tokio::test]
async fn what_is_cut_short_ends_the_connection_wherever_it_is_cut() {
    let served = Besieged::start(&[]).await;
    let whole = r#"{"type":"join","id":7,"room":"r\u00f6"}"#;
    // Whole as a frame, cut as a message.
    for end in 0..whole.len() {
        for mut member in members(&served).await {
            member.send_bytes("signal", &whole.as_bytes()[..end]).await;
            assert_eq!(member.expect("signal", "close").await["code"], 4502, "cut at {end}");
        }
    }
    served.is_well().await;
}

/// A `hello` in bincode: variant 0, version 1, and three times nothing.
const HELLO_BINCODE: [u8; 5] = [0, 1, 0, 0, 0];

/// What is no `hello` in bincode.
fn no_bincode() -> Vec<Vec<u8>> {
    let mut cases: Vec<_> =
        (0..HELLO_BINCODE.len()).map(|end| HELLO_BINCODE[..end].to_vec()).collect();
    cases.extend([
        // A variant and a yes or no that do not exist; JSON.
        vec![250, 1, 0, 0, 0],
        vec![0, 1, 2, 0, 0],
        HELLO.as_bytes().to_vec(),
        // A token of so many bytes, which are not there: 250, 65,535, and all there is.
        vec![0, 1, 1, 250],
        vec![0, 1, 1, 251, 255, 255],
        [&[0, 1, 1, 253][..], &[255; 8]].concat(),
        // ... and a resumed session with as many rooms.
        [&[0, 1, 0, 0, 1, 1, b'a', 1, b'b', 253][..], &[255; 8]].concat(),
        vec![255; 60_000],
    ]);
    cases
}

#[tokio::test]
async fn what_is_no_bincode_opens_nothing() {
    let served = Besieged::start(&["hello_timeout_ms=2000"]).await;
    let request = upgrade_with(served.plain(), "Sec-WebSocket-Protocol: handover.v1.bincode\r\n");
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let good = (HELLO_BINCODE.to_vec(), true);
    let mut attempts = tokio::task::JoinSet::new();
    for (bytes, lets_in) in no_bincode().into_iter().map(|bad| (bad, false)).chain([good]) {
        let mut io = tcp(served.plain()).await;
        io.write_all(&request).await.unwrap();
        hears(&mut io, "101").await;
        io.write_all(&binary(&bytes)).await.unwrap();
        let session = session_on(&endpoint, any_certificate(), served.secure(), "?codec=bincode")
            .await
            .unwrap();
        attempts.spawn(async move {
            let (mut send, mut recv) = soon(session.open_bi()).await.unwrap();
            let (mut bulk, _bulk_recv) = soon(session.open_bi()).await.unwrap();
            bulk.write_all(&[2, 1, 1]).await.unwrap();
            let mut prefix = bytes::BytesMut::new();
            handover_protocol::wire::frame::put_prefix(&mut prefix, bytes.len());
            send.write_all(&[&prefix, &*bytes].concat()).await.unwrap();
            if lets_in {
                let mut head = [0; 2];
                soon(io.read_exact(&mut head)).await.unwrap();
                assert!(head[0] == 0x82 && soon(recv.read_exact(&mut head)).await.is_ok());
                return;
            }
            // At the latest when no greeting has come.
            last_words(&mut io).await;
            soon(session.closed()).await;
        });
    }
    attempts.join_all().await;
    // One on each transport, those who said what they should.
    assert_eq!(served.metric("handover_sessions "), 2);
    served.is_well().await;
}

#[tokio::test]
async fn lengths_that_are_announced_cost_nothing_and_end_the_connection() {
    let served = Besieged::start(&[]).await;
    // On a stream: frames of a gigabyte and of all there is, as a first message and as a later one.
    for prefix in [&[0xbf, 0xff, 0xff, 0xff][..], &[0xff; 8]] {
        for greeting in [Vec::new(), frame(HELLO)] {
            let (_endpoint, session) =
                dial_webtransport(Ipv4Addr::LOCALHOST, served.secure()).await;
            let (mut send, mut recv) = soon(session.open_bi()).await.unwrap();
            send.write_all(&[&greeting, prefix].concat()).await.unwrap();
            let said = last_words(&mut recv).await;
            // Whoever has not said `hello` has no stream to be told on.
            assert_eq!(said.contains("4506"), !greeting.is_empty(), "{said}");
            soon(session.closed()).await;
        }
    }
    // On a WebSocket: the same as one frame, and as one that goes on and on.
    let head = |len: u64| {
        let mut head = vec![0x81, 0xff];
        head.extend_from_slice(&len.to_be_bytes());
        head.extend_from_slice(&[0; 4]);
        head
    };
    for bytes in [head(1 << 30), head(u64::MAX >> 1)] {
        let mut io = tcp(served.plain()).await;
        io.write_all(&upgrade(served.plain())).await.unwrap();
        io.write_all(&text(HELLO)).await.unwrap();
        hears(&mut io, "welcome").await;
        io.write_all(&bytes).await.unwrap();
        assert!(last_words(&mut io).await.contains("4506"));
    }
    let mut io = tcp(served.plain()).await;
    io.write_all(&upgrade(served.plain())).await.unwrap();
    io.write_all(&text(HELLO)).await.unwrap();
    hears(&mut io, "welcome").await;
    let mut opcode = 0x01;
    for _ in 0..20 {
        let part = [&[opcode, 0xfe, 0x10, 0x00, 0, 0, 0, 0][..], &[b' '; 4_096]].concat();
        // It may be over before all of it is written.
        if io.write_all(&part).await.is_err() {
            break;
        }
        opcode = 0;
    }
    assert!(last_words(&mut io).await.contains("4506"));
    served.is_well().await;
}

/// HEADERS (1) whose first number never ends, as the first thing that is asked and behind a session.
/// In a debug build wtransport's task panics over it, and with it whoever waits for that: our task of
/// the same connection.
#[tokio::test]
async fn headers_that_cannot_be_read_end_their_connection_alone() {
    let served = Served::start().await;
    let mut other = served.webtransport().await;
    let endless = [&[1, 21, 0xff][..], &[0x80; 20]].concat();
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    for has_session in [false, true] {
        let dialled = endpoint.connect_with(any_certificate(), served.secure(), "localhost");
        let connection = soon(dialled.unwrap()).await.unwrap();
        let mut session = None;
        if has_session {
            let url = format!("https://localhost:{}/v1/wt", served.secure().port());
            let request = ConnectRequest::new(url::Url::parse(&url).unwrap());
            session = Some(soon(Session::connect(connection.clone(), request)).await.unwrap());
        }
        let (mut send, _recv) = soon(connection.open_bi()).await.unwrap();
        send.write_all(&endless).await.unwrap();
        soon(connection.closed()).await;
        drop(session);
    }
    other.answers().await;
    for mut member in served.both("room").await {
        member.answers().await;
    }
    let panics = served.metric("handover_panics_total").await;
    assert!(panics <= if cfg!(debug_assertions) { 2 } else { 0 }, "{panics}");
}

#[tokio::test]
async fn what_is_no_websocket_frame_ends_the_connection() {
    let served = Besieged::start(&[]).await;
    let unmasked = [&[0x81, HELLO.len() as u8][..], HELLO.as_bytes()].concat();
    let cases = [
        unmasked,
        // Bits and opcodes that mean nothing.
        vec![0xf1, 0x80, 0, 0, 0, 0],
        vec![0x83, 0x80, 0, 0, 0, 0],
        // A control frame in pieces, and one that is too long.
        vec![0x09, 0x80, 0, 0, 0, 0],
        [&[0x89, 0xfe, 0x01, 0x00, 0, 0, 0, 0][..], &[0; 256]].concat(),
        // The rest of nothing; bytes that are no text; a close frame of one byte.
        vec![0x80, 0x80, 0, 0, 0, 0],
        vec![0x81, 0x81, 0, 0, 0, 0, 0xff],
        vec![0x88, 0x81, 0, 0, 0, 0, 3],
        // Binary where text was agreed.
        [&[0x82, 0x80 | HELLO.len() as u8, 0, 0, 0, 0][..], HELLO.as_bytes()].concat(),
    ];
    for bytes in cases {
        let mut io = tcp(served.plain()).await;
        io.write_all(&upgrade(served.plain())).await.unwrap();
        hears(&mut io, "101").await;
        io.write_all(&bytes).await.unwrap();
        let said = last_words(&mut io).await;
        assert!(!said.contains("welcome"), "{bytes:?}: {said}");
    }
    served.is_well().await;
}
