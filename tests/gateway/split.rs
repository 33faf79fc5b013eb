//! A whole conversation, cut in two at every byte: it makes no difference where.

use std::net::Ipv4Addr;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use super::raw::{HELLO, frame, hears, is_read, tcp, text, upgrade};
use super::setup::{dial_webtransport, over_tls, soon};
use super::siege::Besieged;

const JOIN: &str = r#"{"type":"join","id":1,"room":"room"}"#;
const SEND: &str =
    r#"{"type":"send","room":"room","lane":"signal","seq":1,"body":{"a":"\u00e9\\"}}"#;
const PING: &str = r#"{"type":"ping","id":987654321}"#;
/// Only the answer to the last message has this in it.
const LAST: &str = "987654321";
/// Connections at once: each looks the system's table of connections through, which is long while a crowd
/// comes beside, and has ten seconds for its request.
const AT_ONCE: usize = 6;

async fn whoever_is_first(tasks: &mut JoinSet<()>, at_most: usize) {
    while tasks.len() > at_most {
        tasks.join_next().await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_websocket_from_the_first_byte_of_the_request() {
    let served = Besieged::start(&["limits.room_members=10000", "limits.connections=128"]).await;
    for encrypted in [false, true] {
        let to = if encrypted { served.secure() } else { served.plain() };
        let mut bytes = upgrade(to);
        for (nth, message) in [HELLO, JOIN, SEND, PING].into_iter().enumerate() {
            // A room each time, or everybody would hear everybody.
            let message = message.replace("\"room\":\"room\"", &format!("\"room\":\"r{nth}\""));
            bytes.extend(text(&message.replace("r2", "r1")));
        }
        // Over TLS every tenth will do: below the records it is the same code.
        let step = if encrypted { 10 } else { 1 };
        let mut tasks = JoinSet::new();
        for at in (1..bytes.len()).step_by(step) {
            let bytes = bytes.clone();
            tasks.spawn(async move {
                let (first, second) = bytes.split_at(at);
                if encrypted {
                    let mut io = over_tls(to).await;
                    io.write_all(first).await.unwrap();
                    io.flush().await.unwrap();
                    is_read(io.get_ref().0.local_addr().unwrap(), to).await;
                    io.write_all(second).await.unwrap();
                    io.flush().await.unwrap();
                    hears(&mut io, LAST).await;
                } else {
                    let mut io = tcp(to).await;
                    io.write_all(first).await.unwrap();
                    is_read(io.local_addr().unwrap(), to).await;
                    io.write_all(second).await.unwrap();
                    hears(&mut io, LAST).await;
                }
            });
            whoever_is_first(&mut tasks, AT_ONCE).await;
        }
        whoever_is_first(&mut tasks, 0).await;
    }
    served.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_webtransport_streams() {
    let served = Besieged::start(&["limits.connections=128"]).await;
    let signal: Vec<u8> = [HELLO, JOIN, SEND, PING].into_iter().flat_map(frame).collect();
    let bulk = frame(r#"{"type":"lane","lane":"bulk"}"#);
    let to = served.secure();
    let mut tasks = JoinSet::new();
    for at in 1..signal.len() {
        let (signal, bulk) = (signal.clone(), bulk.clone());
        tasks.spawn(async move {
            let (_endpoint, session) = dial_webtransport(Ipv4Addr::LOCALHOST, to).await;
            let (mut send, mut recv) = soon(session.open_bi()).await.unwrap();
            let (mut bulk_send, _bulk_recv) = soon(session.open_bi()).await.unwrap();
            for (stream, bytes, at) in
                [(&mut bulk_send, &bulk, at % bulk.len()), (&mut send, &signal, at)]
            {
                let (first, second) = bytes.split_at(at);
                stream.write_all(first).await.unwrap();
                // The stack sends what it has before it takes more.
                tokio::task::yield_now().await;
                stream.write_all(second).await.unwrap();
            }
            hears(&mut recv, LAST).await;
        });
        whoever_is_first(&mut tasks, AT_ONCE * 2).await;
    }
    whoever_is_first(&mut tasks, 0).await;
    served.is_well().await;
}

#[tokio::test]
async fn a_stream_in_single_bytes() {
    let served = Besieged::start(&[]).await;
    let (_endpoint, session) = dial_webtransport(Ipv4Addr::LOCALHOST, served.secure()).await;
    let (mut send, mut recv) = soon(session.open_bi()).await.unwrap();
    let (mut bulk, _bulk_recv) = soon(session.open_bi()).await.unwrap();
    bulk.write_all(&frame(&json!({"type": "lane", "lane": "bulk"}).to_string())).await.unwrap();
    for byte in [HELLO, JOIN, SEND, PING].into_iter().flat_map(frame) {
        send.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    hears(&mut recv, LAST).await;
    served.is_well().await;
}
