//! Many at once, against a gateway with its limits as shipped, several times in a row: none leaves more
//! behind than the one before, and at its peak it is within what as many connections as there are at
//! once may cost.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use web_transport_quinn::Session;
use web_transport_quinn::proto::ConnectRequest;

use super::amplification::first_packets;
use super::raw::{frame, last_words, text, upgrade};
use super::setup::{Member, any_certificate, dial_websocket, soon};
use super::siege::{Besieged, QUIC_HALF_KB, QUIC_KB, ROOM_KB, TCP_HALF_KB, TCP_KB};

/// How many come that say nothing.
const SILENT: usize = 2_000;
/// Handshakes at once: more, and some would not be over in time on a busy machine.
const AT_ONCE: usize = 32;

/// As long as all of them take to come, on the slowest machine. That who says nothing is cut is
/// `slow.rs`'s affair.
const PATIENT: [&str; 2] = ["hello_timeout_ms=600000", "heartbeat_ms=60000"];

/// Of those who are as patient.
fn client() -> quinn::ClientConfig {
    let mut transport = quinn::TransportConfig::default();
    transport.max_idle_timeout(None);
    let mut config = any_certificate();
    config.transport_config(Arc::new(transport));
    config
}

/// With the limits as shipped but these, and so much memory.
pub async fn shipped(settings: &[&str], bound_kb: u64) -> Besieged {
    Besieged::bounded(tempfile::tempdir().unwrap(), settings, None, bound_kb).await
}

/// So many sessions, each from an address of its own and a few dialled at a time: until each has done
/// this.
async fn each_does<F>(
    sessions: usize,
    to: SocketAddr,
    doing: impl Fn(usize, Session) -> F + Copy + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut crowd = JoinSet::new();
    let dialling = Arc::new(Semaphore::new(AT_ONCE));
    for nth in 0..sessions {
        let dialling = dialling.clone();
        crowd.spawn(async move {
            let permit = dialling.acquire_owned().await.unwrap();
            let endpoint = quinn::Endpoint::client((from(nth), 0).into()).unwrap();
            let session = insists(&endpoint, &client(), to).await;
            drop(permit);
            doing(nth, session).await;
        });
    }
    crowd.join_all().await;
}

/// Waits until there are as many connections.
async fn are_there(gateway: &Besieged, connections: usize) {
    soon(async {
        while gateway.metric("handover_connections{") < connections as u64 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Waits until there are none any more.
async fn are_gone(gateway: &Besieged) {
    soon(async {
        while gateway.metric("handover_connections{") > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A session from this endpoint, however often it takes: who has not said `hello` is served last, and
/// on a busy machine too late for a few of so many.
async fn insists(
    endpoint: &quinn::Endpoint,
    config: &quinn::ClientConfig,
    to: SocketAddr,
) -> Session {
    let url = url::Url::parse(&format!("https://localhost:{}/v1/wt", to.port())).unwrap();
    loop {
        let dialled = endpoint.connect_with(config.clone(), to, "localhost").unwrap();
        let Ok(connection) = soon(dialled).await else { continue };
        let request = ConnectRequest::new(url.clone());
        if let Ok(session) = soon(Session::connect(connection, request)).await {
            return session;
        }
    }
}

const EACH_ADDRESS: usize = 250;

/// Addresses of this machine to come from, so that no more come from one than may.
fn from(nth: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 2 + (nth / EACH_ADDRESS) as u8)
}

async fn silent_websockets(gateway: &Besieged) {
    let mut silent = Vec::with_capacity(SILENT);
    for _ in 0..SILENT {
        silent.push(dial_websocket(gateway.plain()).await);
    }
    are_there(gateway, SILENT).await;
    drop(silent);
    are_gone(gateway).await;
}

#[tokio::test]
async fn two_thousand_websockets_that_say_nothing() {
    let gateway = shipped(&PATIENT, 2_000 * TCP_KB).await;
    gateway.withstands(silent_websockets).await;
}

#[tokio::test]
async fn two_thousand_tcp_connections_without_a_handshake() {
    let gateway = shipped(&[], 2_000 * TCP_KB).await;
    let attack = async |gateway: &Besieged| {
        let mut silent: Vec<TcpStream> = Vec::new();
        for nth in 0..SILENT {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((from(nth), 0).into()).unwrap();
            silent.push(soon(socket.connect(gateway.secure())).await.unwrap());
        }
        for mut tcp in silent {
            // The end, or a reset: nothing was said.
            assert!(soon(tcp.read_u8()).await.is_err());
        }
    };
    gateway.withstands(attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_webtransport_sessions_that_say_nothing() {
    let gateway = shipped(&PATIENT, 2_000 * QUIC_KB).await;
    let attack = async |gateway: &Besieged| {
        let to = gateway.secure();
        let config = client();
        let mut endpoints = Vec::new();
        let mut dialled = JoinSet::new();
        let dialling = Arc::new(Semaphore::new(AT_ONCE));
        for nth in 0..SILENT {
            if nth % EACH_ADDRESS == 0 {
                endpoints.push(quinn::Endpoint::client((from(nth), 0).into()).unwrap());
            }
            let endpoint = endpoints[nth / EACH_ADDRESS].clone();
            let (dialling, config) = (dialling.clone(), config.clone());
            dialled.spawn(async move {
                let _permit = dialling.acquire_owned().await.unwrap();
                insists(&endpoint, &config, to).await
            });
        }
        let silent = dialled.join_all().await;
        are_there(gateway, SILENT).await;
        drop((silent, endpoints));
        are_gone(gateway).await;
    };
    gateway.withstands(attack).await;
}

/// As long as a message may be, but for its end.
fn begun(bytes: usize) -> Vec<u8> {
    let mut whole = frame(&"x".repeat(bytes));
    whole.pop();
    whole
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_that_begin_to_say_something_on_every_stream() {
    const EACH: usize = 300;
    let bound = EACH as u64 * (QUIC_HALF_KB + TCP_HALF_KB);
    let gateway = shipped(&["hello_timeout_ms=3000"], bound).await;
    let attack = async |gateway: &Besieged| {
        let (secure, plain) = (gateway.secure(), gateway.plain());
        each_does(EACH, secure, move |_, session| async move {
            let mut streams = Vec::new();
            for bytes in [27_000, 13_000, 700] {
                let mut stream = soon(session.open_bi()).await.unwrap();
                stream.0.write_all(&begun(bytes)).await.unwrap();
                streams.push(stream);
            }
            for _ in 0..3 {
                let mut stream = soon(session.open_uni()).await.unwrap();
                // Refused, sooner or later.
                let _ = stream.write_all(&[b'x'; 1_000]).await;
            }
            let mut tcp = TcpStream::connect(plain).await.unwrap();
            tcp.write_all(&upgrade(plain)).await.unwrap();
            let mut half = text(&"x".repeat(65_000));
            half.pop();
            tcp.write_all(&half).await.unwrap();
            soon(session.closed()).await;
            // Closed for the want of a `hello`.
            let _ = last_words(&mut tcp).await;
        })
        .await;
    };
    // How many there are at once is up to the machine, and so is what each leaves.
    for _ in 0..3 {
        attack(&gateway).await;
        assert_eq!(gateway.serves().await, 0, "those who behave are turned away");
    }
    gateway.peaked_within_bounds();
}

/// Connections that were closed for having said too much at once.
fn too_large(gateway: &Besieged) -> u64 {
    gateway.metric_with("handover_connection_ends_total{", "message_too_large")
}

/// Who has not been greeted is closed as soon as it is more than a greeting, in whichever way that is
/// found out, and long before it would be for the want of one. Without that bound each of these would
/// have three messages held, 195 kB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_that_begin_more_than_a_greeting() {
    const EACH: usize = 300;
    let gateway = shipped(&["hello_timeout_ms=25000"], EACH as u64 * QUIC_KB).await;
    let attack = async |gateway: &Besieged| {
        let (secure, before) = (gateway.secure(), too_large(gateway));
        each_does(EACH, secure, move |nth, session| async move {
            let mut streams = Vec::new();
            if nth % 3 == 0 {
                let mut bulk = soon(session.open_bi()).await.unwrap();
                bulk.0.write_all(&frame(r#"{"type":"lane","lane":"bulk"}"#)).await.unwrap();
                streams.push(bulk);
            }
            // Each stream's alone would be within the bound, or none would.
            let bytes = if nth % 3 == 1 { 39_000 } else { 65_000 };
            for _ in streams.len()..3 {
                streams.push(soon(session.open_bi()).await.unwrap());
            }
            for (send, _) in &mut streams {
                // It is closed on the way.
                let _ = soon(send.write_all(&begun(bytes))).await;
            }
            soon(session.closed()).await;
        })
        .await;
        soon(async {
            while too_large(gateway) < before + EACH as u64 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    gateway.withstands(attack).await;
}

#[tokio::test]
async fn hundreds_of_first_packets_of_nobody() {
    const FIRST: usize = 400;
    let gateway = shipped(&["heartbeat_ms=1000"], FIRST as u64 * QUIC_KB).await;
    let round = Cell::new(0);
    let attack = async |gateway: &Besieged| {
        let refused = || gateway.metric("handover_connections_refused_total{");
        let before = refused();
        let mut sockets = Vec::new();
        // From addresses that nothing is on its way to any more.
        let begin = 500 * round.replace(round.get() + 1);
        for (nth, packet) in first_packets(FIRST).await.into_iter().enumerate() {
            let socket = UdpSocket::bind((from(begin + nth), 0)).await.unwrap();
            socket.send_to(&packet, gateway.secure()).await.unwrap();
            // One after the other: nobody repeats what a full socket has lost.
            let mut answer = [0; 2_048];
            let received = soon(socket.recv(&mut answer)).await.unwrap();
            sockets.push((socket, packet.len(), received));
        }
        // Until the gateway has given all of them up.
        let all = before + FIRST as u64;
        soon(async {
            while refused() < all {
                tokio::task::yield_now().await
            }
        })
        .await;
        for (socket, sent, first) in &sockets {
            let (mut received, mut answer) = (*first, [0; 2_048]);
            while let Ok(size) = socket.try_recv(&mut answer) {
                received += size;
            }
            assert!(received <= 3 * sent);
        }
    };
    gateway.withstands(attack).await;
}

/// Of each transport.
const FLOODING: usize = 10;
/// The log of their room in three forms, and for each connection its windows both ways.
pub const FLOODS_KB: u64 = 3 * 1_024 + 2 * FLOODING as u64 * (384 + 512 + QUIC_KB);

/// Floods of messages, datagrams and streams, of those who never read.
pub async fn floods(gateway: &Besieged) {
    let mut crowd = Vec::new();
    for nth in 0..2 * FLOODING {
        let mut member = match nth % 2 {
            0 => Member::websocket(gateway.plain()).await,
            _ => Member::webtransport(gateway.secure()).await,
        };
        // They never read what comes of that, nor anything else.
        let join = json!({"type": "join", "id": 1, "room": "flooded"});
        member.send("signal", join).await;
        crowd.push(member);
    }
    for seq in 1..=300 {
        for member in &mut crowd {
            if let Some(session) = member.session() {
                let _ = session.send_datagram(Bytes::from_static(&[0x5a; 1_000]));
                let _ = session.send_datagram(Bytes::from_static(b""));
                if seq % 10 == 0
                    && let Ok(mut stream) = soon(session.open_uni()).await
                {
                    let _ = stream.write_all(b"\x05hello").await;
                }
            }
            // Whoever was closed for it has been heard.
            member
                .tries(json!({
                    "type": "send", "room": "flooded", "lane": "signal", "seq": seq,
                    "body": "x".repeat(1_000),
                }))
                .await;
        }
    }
}

#[tokio::test]
async fn floods_of_messages_datagrams_and_streams_and_readers_that_never_read() {
    let gateway = shipped(&["retention.signal.bytes=1048576"], FLOODS_KB).await;
    gateway.withstands(floods).await;
}

#[tokio::test]
async fn rooms_that_nobody_needs() {
    const ROOMS: u64 = 500;
    let gateway = shipped(
        &["limits.rooms_total=500", "limits.joins_per_s=0", "limits.messages_per_s=0"],
        ROOMS * ROOM_KB,
    )
    .await;
    let attack = async |gateway: &Besieged| {
        let mut refused = 0;
        for mut member in
            [Member::websocket(gateway.plain()).await, Member::webtransport(gateway.secure()).await]
        {
            for id in 0..2 * ROOMS {
                let room = format!("{} {id}", member.peer);
                member.send("signal", json!({"type": "join", "id": id, "room": room})).await;
                let said = member.next("signal").await.unwrap();
                if said["type"] == "error" {
                    assert_eq!(said["code"], "rate_limited", "{said}");
                    refused += 1;
                } else {
                    assert_eq!(said["type"], "joined", "{said}");
                    member.send("signal", json!({"type": "leave", "id": id, "room": room})).await;
                    member.expect("signal", "ok").await;
                }
            }
        }
        assert!(refused >= 2 * ROOMS, "{refused}");
    };
    gateway.withstands(attack).await;
}
