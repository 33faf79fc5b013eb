//! Connections of which one half is gone: the others learn of it, and it can be resumed.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::raw::{HELLO, frame, last_words, tcp, text, upgrade};
use super::setup::{Member, dial_webtransport, over_tls, soon};
use super::siege::Besieged;

const JOIN: &str = r#"{"type":"join","id":1,"room":"room"}"#;
const SEND: &str = r#"{"type":"send","room":"room","lane":"signal","seq":1,"body":1}"#;

/// How a client leaves without a word.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    /// It ends its half, and goes on reading.
    Half,
    /// The same inside a message.
    Inside,
    /// Everything breaks at once.
    Broken,
}

const WAYS: [Leaving; 3] = [Leaving::Half, Leaving::Inside, Leaving::Broken];

async fn welcome(io: &mut (impl AsyncRead + Unpin)) -> Value {
    let mut said = String::new();
    // The welcome is the first message; what is around it is framing.
    while !said.contains("\"joined\"") {
        let mut chunk = [0; 4_096];
        let size = soon(io.read(&mut chunk)).await.unwrap();
        assert!(size > 0, "{said}");
        said += &String::from_utf8_lossy(&chunk[..size]);
    }
    let start = said.find("{\"type\":\"welcome\"").unwrap();
    let mut values = serde_json::Deserializer::from_str(&said[start..]).into_iter::<Value>();
    values.next().unwrap().unwrap()
}

async fn is_noticed(watching: &mut Member, welcome: &Value) {
    for kind in ["member_joined", "member_away"] {
        assert_eq!(watching.expect("signal", kind).await["peer"], welcome["peer"]);
    }
}

/// Greets, joins and leaves in this way; what it was greeted with. Reads to the end where it can.
async fn comes_and_leaves(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    served: &Besieged,
    leaving: Leaving,
) -> Value {
    let messages = [upgrade(served.plain()), text(HELLO), text(JOIN)].concat();
    io.write_all(&messages).await.unwrap();
    io.flush().await.unwrap();
    let welcome = welcome(&mut io).await;
    match leaving {
        Leaving::Half => io.shutdown().await.unwrap(),
        Leaving::Inside => {
            let message = text(SEND);
            io.write_all(&message[..message.len() / 2]).await.unwrap();
            io.shutdown().await.unwrap();
        }
        Leaving::Broken => return welcome,
    }
    last_words(&mut io).await;
    welcome
}

#[tokio::test]
async fn of_a_websocket() {
    let served = Besieged::start(&[]).await;
    for encrypted in [false, true] {
        for leaving in WAYS {
            let mut watching = served.webtransport().await;
            watching.join("room").await;
            let welcome = if encrypted {
                let io = over_tls(served.secure()).await;
                comes_and_leaves(io, &served, leaving).await
            } else {
                let io = tcp(served.plain()).await;
                if let Leaving::Broken = leaving {
                    socket2::SockRef::from(&io).set_linger(Some(Default::default())).unwrap();
                }
                comes_and_leaves(io, &served, leaving).await
            };
            is_noticed(&mut watching, &welcome).await;
            let mut again = Member::over_websocket(served.plain()).await;
            again.resume(&welcome).await;
            assert_eq!(again.expect("signal", "welcome").await["resumed"], true, "{leaving:?}");
            for mut member in [again, watching] {
                member.send("signal", json!({"type": "bye"})).await;
                member.bye().await;
            }
        }
    }
    served.is_well().await;
}

#[tokio::test]
async fn of_a_webtransport_session() {
    let served = Besieged::start(&[]).await;
    for leaving in WAYS {
        let mut watching = served.websocket().await;
        watching.join("room").await;
        let (endpoint, session) = dial_webtransport(Ipv4Addr::LOCALHOST, served.secure()).await;
        let (mut send, mut recv) = soon(session.open_bi()).await.unwrap();
        let (mut bulk, _bulk_recv) = soon(session.open_bi()).await.unwrap();
        bulk.write_all(&frame(r#"{"type":"lane","lane":"bulk"}"#)).await.unwrap();
        send.write_all(&[frame(HELLO), frame(JOIN)].concat()).await.unwrap();
        let welcome = welcome(&mut recv).await;
        match leaving {
            Leaving::Half => send.finish().unwrap(),
            Leaving::Inside => {
                let message = frame(SEND);
                send.write_all(&message[..message.len() / 2]).await.unwrap();
                send.finish().unwrap();
            }
            Leaving::Broken => send.reset(7).unwrap(),
        }
        is_noticed(&mut watching, &welcome).await;
        let mut again = Member::over_webtransport(served.secure()).await;
        again.resume(&welcome).await;
        assert_eq!(again.expect("signal", "welcome").await["resumed"], true, "{leaving:?}");
        for mut member in [again, watching] {
            member.send("signal", json!({"type": "bye"})).await;
            member.bye().await;
        }
        drop((session, endpoint));
    }
    served.is_well().await;
}

#[tokio::test]
async fn before_it_was_a_connection() {
    let served = Besieged::start(&[]).await;
    let whole = upgrade(served.plain());
    for end in [0, 1, whole.len() - 1, whole.len()] {
        for to in [served.plain(), served.secure()] {
            let mut io = tcp(to).await;
            io.write_all(&whole[..end]).await.unwrap();
            io.shutdown().await.unwrap();
            assert!(!last_words(&mut io).await.contains("welcome"));
        }
    }
    served.is_well().await;
}
