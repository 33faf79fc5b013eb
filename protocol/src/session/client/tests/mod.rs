//! What a client session does, one behaviour at a time, and against a model under random
//! interleavings.

mod links;
mod model;
mod rooms;

use super::*;
use crate::wire::message::{
    Error, Joined, Member, Message, PositionMark, Reference, Reset, ResetReason, ResumedRoom, Send,
    ServerMessage, Welcome,
};
use crate::wire::{Epoch, ErrorCode, Json, Lane, LogLane};

const T0: Time = Time::ZERO;
const LINK: LinkId = LinkId(1);
const NEXT: LinkId = LinkId(2);

fn room() -> RoomName {
    RoomName::parse("r").unwrap()
}

fn epoch() -> Epoch {
    Epoch::parse("e1").unwrap()
}

fn peer(name: &str) -> PeerId {
    PeerId::parse(name).unwrap()
}

fn body(n: u64) -> Json {
    Json::from_value(&n).unwrap()
}

fn member(name: &str, since: u64) -> Member {
    let metadata = Json::empty_object();
    Member { peer: peer(name), user: None, metadata, since, away: false }
}

fn welcome(resumed: bool) -> Welcome {
    Welcome {
        session: SessionId::parse("s1").unwrap(),
        secret: Secret::new("secret".into()),
        peer: peer("me"),
        user: None,
        resumed,
        rooms: Default::default(),
        lost: Vec::new(),
        heartbeat: 15_000,
        resume_window: 120_000,
        limits: Limits::default(),
    }
}

fn resumed(seq: u64) -> ServerMessage {
    let seq = PerLane { signal: seq, bulk: 0 };
    let mut welcome = welcome(true);
    welcome.rooms.insert(room(), ResumedRoom { seq });
    ServerMessage::Welcome(welcome)
}

fn joined(id: u64, signal: u64, bulk: u64) -> ServerMessage {
    ServerMessage::Joined(Joined {
        id,
        room: room(),
        epoch: epoch(),
        signal,
        bulk,
        seq: PerLane::default(),
        members: vec![member("me", signal)],
    })
}

fn message(lane: LogLane, offset: u64) -> ServerMessage {
    ServerMessage::Message(Message {
        room: room(),
        lane,
        epoch: epoch(),
        offset,
        from: peer("other"),
        to: None,
        body: body(offset),
    })
}

fn start(bulk: u64) -> ServerMessage {
    ServerMessage::Position(PositionMark {
        room: room(),
        lane: LogLane::Bulk,
        epoch: epoch(),
        offset: bulk,
        start: true,
    })
}

fn refusal(code: ErrorCode, reference: Reference) -> ServerMessage {
    let error = Error { code, message: "no".into(), reference, retry_after: None, expected: None };
    ServerMessage::Error(error)
}

fn greeting_refused(code: ErrorCode) -> ServerMessage {
    refusal(code, Reference::default())
}

fn transmits(session: &mut ClientSession, link: LinkId) -> Vec<ClientMessage> {
    let lanes = [Lane::Signal, Lane::Bulk, Lane::Ephemeral];
    let out = |lane| std::iter::from_fn(|| session.poll_transmit(T0, link, lane)).collect();
    let out: Vec<Vec<ClientMessage>> = lanes.map(out).into();
    out.concat()
}

fn outputs(session: &mut ClientSession) -> Vec<Output> {
    std::iter::from_fn(|| session.poll_output()).collect()
}

/// The bodies that were delivered.
fn delivered(session: &mut ClientSession) -> Vec<u64> {
    let taken = |output| match output {
        Output::Event(Event::Room(_, RoomEvent::Message { body, .. })) => body.to_value().ok(),
        _ => None,
    };
    outputs(session).into_iter().filter_map(taken).collect()
}

/// The sends that go out: (number, body).
fn sent(session: &mut ClientSession, link: LinkId) -> Vec<(u64, u64)> {
    let send = |message| match message {
        ClientMessage::Send(Send { seq, body, .. }) => Some((seq, body.to_value().unwrap())),
        _ => None,
    };
    transmits(session, link).into_iter().filter_map(send).collect()
}

/// A session that is welcomed on [`LINK`] and in the room at signal 1, bulk 0.
fn in_room() -> ClientSession {
    let mut session = ClientSession::new(Config::default());
    session.join(room(), None).unwrap();
    session.handle_connected(T0, LINK, Streams::PerLane);
    transmits(&mut session, LINK);
    session.handle_message(T0, LINK, ServerMessage::Welcome(welcome(false)));
    session.handle_message(T0, LINK, joined(1, 1, 0));
    session.handle_message(T0, LINK, start(0));
    outputs(&mut session);
    session
}

fn send(session: &mut ClientSession, lane: LogLane, n: u64) -> SendId {
    session.send(T0, &room(), lane, None, body(n)).unwrap()
}

fn reset(signal: u64, bulk: u64, seq: u64) -> ServerMessage {
    ServerMessage::Reset(Reset {
        room: room(),
        reason: ResetReason::Trimmed,
        epoch: epoch(),
        signal,
        bulk,
        seq: PerLane { signal: seq, bulk: 0 },
        members: vec![member("me", 1), member("other", 2)],
    })
}
