//! Many at once, against a gateway in a process of its own whose memory is looked at: at its peak
//! it is within what the limits allow for, and attack after attack leaves no more behind than the
//! first.
//!
//! An allocator does not give everything back, so the bound is what as many as were there at once
//! may cost, and the attacks are repeated: whatever is lost by each adds up beyond it.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::amplification::first_packets;
use super::hostile::are_well;
use super::setup::{Member, dial_websocket, dial_webtransport, soon};

const ROUNDS: usize = 3;
/// What a TCP connection that nobody has greeted on may cost: an idle session, which has more, costs
/// 32 kB, and with TLS what is being handshaken is on top.
const TCP_KB: u64 = 48;
/// The same by QUIC: 74 kB.
const QUIC_KB: u64 = 96;

struct Gateway {
    child: Child,
    plain: SocketAddr,
    secure: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Gateway {
    /// With all limits as shipped but these.
    fn start(settings: &[&str]) -> Gateway {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_handover"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        command.args(["--log", "error", "--set", "hello_timeout_ms=3000"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.env_clear().current_dir(dir.path()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let (mut plain, mut secure) = (None, None);
        while plain.is_none() || secure.is_none() {
            let mut line = String::new();
            assert!(said.read_line(&mut line).unwrap() > 0, "it ended");
            let address = line.split_whitespace().find_map(|word| word.parse().ok());
            if line.contains("plain HTTP") {
                plain = address;
            } else if line.contains("QUIC and TLS") {
                secure = address;
            }
        }
        // Its output stays open as long as it runs.
        std::mem::forget(said);
        Gateway { child, plain: plain.unwrap(), secure: secure.unwrap(), _dir: dir }
    }

    fn memory_kb(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    async fn is_well(&self) {
        are_well(self.plain, self.secure, "a room of honest ones").await;
    }

    /// Attacks three times; after each somebody who behaves is served, and what is left behind is
    /// within the bound, as is the peak.
    async fn withstands(&self, name: &str, bound_kb: u64, attack: impl AsyncFn(&Gateway)) {
        self.is_well().await;
        let before = self.memory_kb("VmRSS:");
        let mut left = Vec::new();
        for _ in 0..ROUNDS {
            attack(self).await;
            self.is_well().await;
            left.push(self.memory_kb("VmRSS:"));
        }
        let peak = self.memory_kb("VmHWM:");
        println!(
            "{name}: {before} kB before, {peak} at the peak, {left:?} left, bound +{bound_kb}"
        );
        assert!(left[ROUNDS - 1] <= before + bound_kb, "{left:?}");
        assert!(peak <= before + bound_kb, "{peak}");
    }
}

/// Addresses of this machine to come from, so that no more come from one than may.
fn from(nth: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 2 + (nth / 250) as u8)
}

async fn silent_websockets(gateway: &Gateway) {
    const SILENT: usize = 2_000;
    let mut silent = Vec::with_capacity(SILENT);
    for _ in 0..SILENT {
        silent.push(dial_websocket(gateway.plain).await);
    }
    let mut closed = 0;
    for mut socket in silent {
        while let Some(Ok(message)) = soon(socket.next()).await {
            closed += usize::from(matches!(message, Message::Close(_)));
        }
    }
    assert_eq!(closed, SILENT);
}

#[tokio::test]
async fn two_thousand_websockets_that_say_nothing() {
    let gateway = Gateway::start(&[]);
    gateway.withstands("silent websockets", 2_000 * TCP_KB, silent_websockets).await;
}

#[tokio::test]
async fn two_thousand_tcp_connections_without_a_handshake() {
    let gateway = Gateway::start(&[]);
    let attack = async |gateway: &Gateway| {
        let mut silent: Vec<TcpStream> = Vec::new();
        for nth in 0..2_000 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((from(nth), 0).into()).unwrap();
            silent.push(soon(socket.connect(gateway.secure)).await.unwrap());
        }
        for mut tcp in silent {
            // The end, or a reset: nothing was said.
            assert!(soon(tcp.read_u8()).await.is_err());
        }
    };
    gateway.withstands("silent tcp", 2_000 * TCP_KB, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_webtransport_sessions_that_say_nothing() {
    let gateway = Gateway::start(&[]);
    let attack = async |gateway: &Gateway| {
        let to = gateway.secure;
        let mut silent = JoinSet::new();
        // Handshakes at once: more, and some would not be over in time on a busy machine.
        let dialling = Arc::new(Semaphore::new(32));
        for nth in 0..1_000 {
            let dialling = dialling.clone();
            silent.spawn(async move {
                let permit = dialling.acquire_owned().await.unwrap();
                let (_endpoint, session) = dial_webtransport(from(nth), to).await;
                drop(permit);
                soon(session.closed()).await;
            });
        }
        silent.join_all().await;
    };
    gateway.withstands("silent sessions", 1_000 * QUIC_KB, attack).await;
}

#[tokio::test]
async fn hundreds_of_first_packets_of_nobody() {
    const FIRST: usize = 400;
    let gateway = Gateway::start(&["heartbeat_ms=1000"]);
    let attack = async |gateway: &Gateway| {
        let mut sockets = Vec::new();
        for (nth, packet) in first_packets(FIRST).await.into_iter().enumerate() {
            let socket = UdpSocket::bind((from(nth), 0)).await.unwrap();
            socket.send_to(&packet, gateway.secure).await.unwrap();
            sockets.push((socket, packet.len()));
        }
        for (socket, sent) in &sockets {
            let mut answer = [0; 2_048];
            let mut received = soon(socket.recv(&mut answer)).await.unwrap();
            while let Ok(size) = socket.try_recv(&mut answer) {
                received += size;
            }
            assert!(received <= 3 * sent);
        }
    };
    gateway.withstands("first packets", (ROUNDS * FIRST) as u64 * QUIC_KB, attack).await;
}

#[tokio::test]
async fn floods_of_messages_datagrams_and_streams_and_readers_that_never_read() {
    let gateway = Gateway::start(&["retention.signal.bytes=1048576"]);
    const EACH: usize = 10;
    // The log of their room in three forms, and for each connection its windows both ways.
    let bound = 3 * 1_024 + 2 * EACH as u64 * (384 + 512 + 96);
    let attack = async |gateway: &Gateway| {
        let mut crowd = Vec::new();
        for nth in 0..2 * EACH {
            let mut member = match nth % 2 {
                0 => Member::websocket(gateway.plain).await,
                _ => Member::webtransport(gateway.secure).await,
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
    };
    gateway.withstands("floods", bound, attack).await;
}

#[tokio::test]
async fn rooms_that_nobody_needs() {
    const ROOMS: u64 = 500;
    let gateway = Gateway::start(&[
        "limits.rooms_total=500",
        "limits.joins_per_s=0",
        "limits.messages_per_s=0",
    ]);
    let attack = async |gateway: &Gateway| {
        let mut refused = 0;
        for mut member in
            [Member::websocket(gateway.plain).await, Member::webtransport(gateway.secure).await]
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
    // A room's task, its mailbox and its log.
    gateway.withstands("fresh rooms", ROOMS * 32, attack).await;
}
