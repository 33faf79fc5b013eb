//! A connection that has said who it is: a session in a room, or a place in a group.

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::Result;
use super::dial::Dialer;
use super::line::{Receiver, Sender, Wire};
use super::server::{Kind, Server};

/// What each new member waits for.
const GREETING: &str = r#"{"type":"hello","version":1,"agent":"handover-bench"}"#;
const BULK: &str = r#"{"type":"lane","lane":"bulk"}"#;

/// What a member is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To send and receive.
    Talk,
    /// To be there.
    Idle,
}

/// A member that is in.
pub struct Member {
    /// Its name inside rooms; empty at the floor, which has none.
    pub peer: String,
    pub sender: Sender,
    pub receiver: Receiver,
    /// What it can come back with, at a gateway.
    pub ticket: Option<Ticket>,
    /// What has to stay open although nobody speaks on it.
    pub held: Held,
}

/// What a session is resumed with.
#[derive(Clone, Debug)]
pub struct Ticket {
    session: String,
    secret: String,
    room: String,
    /// Where it stood there, as `hello` says it.
    position: Value,
}

/// See [`Member::held`].
#[derive(Default)]
pub struct Held {
    streams: Vec<(Sender, Receiver)>,
    session: Option<web_transport_quinn::Session>,
}

impl Member {
    /// Connects and joins `room`.
    pub async fn join(
        dialer: &Dialer,
        server: &Server,
        wire: Wire,
        room: &str,
        purpose: Purpose,
    ) -> Result<Member> {
        let mut member = Self::connect(dialer, server, wire, room, purpose).await?;
        member.greet(server.kind, room).await?;
        if let (Wire::Datagram, Some(session)) = (wire, member.held.session.clone()) {
            let sender =
                std::mem::replace(&mut member.sender, Sender::Datagrams(Box::new(session.clone())));
            let receiver =
                std::mem::replace(&mut member.receiver, Receiver::Datagrams(Box::new(session)));
            member.held.streams.push((sender, receiver));
        }
        Ok(member)
    }

    /// Connects and goes on with a session.
    pub async fn resume(
        dialer: &Dialer,
        server: &Server,
        wire: Wire,
        ticket: &Ticket,
    ) -> Result<Member> {
        let Ticket { session, secret, room, position } = ticket;
        let mut member = Self::connect(dialer, server, wire, room, Purpose::Idle).await?;
        let hello = json!({
            "type": "hello", "version": 1, "agent": "handover-bench",
            "resume": { "session": session, "secret": secret, "rooms": { room: position } },
        });
        member.sender.feed(&hello.to_string()).await?;
        member.sender.flush().await?;
        loop {
            let answer = member.receiver.next().await?;
            match Said::of(&answer) {
                Said::Welcome => {
                    let welcome: Value = serde_json::from_slice(&answer)?;
                    if welcome["resumed"] != true || welcome["rooms"][room].is_null() {
                        return Err(format!("not resumed: {welcome}").into());
                    }
                    member.ticket = Some(ticket.clone());
                    return Ok(member);
                }
                Said::Trouble => return Err(trouble(&answer)),
                Said::Ready | Said::Delivery | Said::Other => {}
            }
        }
    }

    async fn connect(
        dialer: &Dialer,
        server: &Server,
        wire: Wire,
        room: &str,
        purpose: Purpose,
    ) -> Result<Member> {
        let path = match (server.kind, purpose, wire) {
            (Kind::Gateway, _, Wire::WebSocket | Wire::WebSocketTls) => "/v1/ws".to_owned(),
            (Kind::Gateway, _, Wire::Stream | Wire::Datagram) => "/v1/wt".to_owned(),
            (Kind::Floor, Purpose::Idle, _) => "/idle".to_owned(),
            (Kind::Floor, Purpose::Talk, Wire::Datagram) => format!("/datagrams/{room}"),
            (Kind::Floor, Purpose::Talk, _) => format!("/relay/{room}"),
        };
        let member = |sender, receiver, held| Member {
            peer: String::new(),
            sender,
            receiver,
            ticket: None,
            held,
        };
        Ok(match wire {
            Wire::WebSocket | Wire::WebSocketTls => {
                let tls = wire == Wire::WebSocketTls;
                let (sink, stream) = dialer.web_socket(server, tls, &path).await?.split();
                let (sender, receiver) = (Sender::WebSocket(sink), Receiver::WebSocket(stream));
                member(sender, receiver, Held::default())
            }
            Wire::Stream | Wire::Datagram => {
                let session = dialer.web_transport(server, &path).await?;
                let (send, recv) = session.open_bi().await?;
                let (sender, receiver) = (Sender::stream(send), Receiver::stream(recv));
                let mut held = Held { session: Some(session.clone()), ..Held::default() };
                if server.kind == Kind::Gateway || purpose == Purpose::Idle {
                    let (send, recv) = session.open_bi().await?;
                    let mut bulk = (Sender::stream(send), Receiver::stream(recv));
                    bulk.0.feed(BULK).await?;
                    held.streams.push(bulk);
                }
                member(sender, receiver, held)
            }
        })
    }

    async fn greet(&mut self, kind: Kind, room: &str) -> Result<()> {
        self.sender.feed(GREETING).await?;
        if kind == Kind::Gateway {
            let join = format!(r#"{{"type":"join","id":1,"room":"{room}"}}"#);
            self.sender.feed(&join).await?;
        }
        self.sender.flush().await?;
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or("a field is missing");
        let mut session = None;
        loop {
            let answer = self.receiver.next().await?;
            match Said::of(&answer) {
                Said::Welcome => {
                    let welcome: Value = serde_json::from_slice(&answer)?;
                    self.peer = text(&welcome["peer"])?;
                    session = Some((text(&welcome["session"])?, text(&welcome["secret"])?));
                }
                Said::Ready => {
                    if let Some((session, secret)) = session {
                        let joined: Value = serde_json::from_slice(&answer)?;
                        let (epoch, signal) = (&joined["epoch"], &joined["signal"]);
                        let bulk = &joined["bulk"];
                        let position = json!({ "epoch": epoch, "signal": signal, "bulk": bulk });
                        let room = room.to_owned();
                        self.ticket = Some(Ticket { session, secret, room, position });
                    }
                    return Ok(());
                }
                Said::Trouble => return Err(trouble(&answer)),
                Said::Delivery | Said::Other => {}
            }
        }
    }
}

/// What a message from a server is to a bench; told by the first letters of its `type`, which
/// both servers write first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Something a member sent.
    Delivery,
    Welcome,
    /// The member is in.
    Ready,
    /// A refusal, a lost position or a close: none belongs in a measurement.
    Trouble,
    Other,
}

impl Said {
    pub fn of(message: &[u8]) -> Said {
        const BEFORE: usize = r#"{"type":""#.len();
        match message.get(BEFORE..BEFORE + 5) {
            Some(b"messa" | b"send\"" | b"ephem") => Said::Delivery,
            Some(b"welco") => Said::Welcome,
            Some(b"joine" | b"ready") => Said::Ready,
            Some(b"error" | b"reset" | b"close") => Said::Trouble,
            _ => Said::Other,
        }
    }
}

/// Trouble in words.
pub fn trouble(message: &Bytes) -> super::Error {
    format!("the server says {}", String::from_utf8_lossy(message)).into()
}
