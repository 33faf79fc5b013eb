//! The layout of clients' messages.

use std::collections::BTreeMap;

use super::super::DecodeError;
use super::super::field::{self, Refusal};
use super::{Reader, Word, Writer, Written};
use crate::limits::ROOMS_MAX;
use crate::wire::id::{LogLane, PeerId, RoomName, Secret};
use crate::wire::json::Json;
use crate::wire::message::{ClientMessage, Hello, Positions, Reference, Resume, Send, VERSION};

// Variant numbers: never changed, only added to.
const HELLO: u32 = 0;
const LANE: u32 = 1;
const JOIN: u32 = 2;
const LEAVE: u32 = 3;
const SEND: u32 = 4;
const EPHEMERAL: u32 = 5;
const UPDATE: u32 = 6;
const MEMBERS: u32 = 7;
const ICE: u32 = 8;
const REFRESH: u32 = 9;
const PING: u32 = 10;
const BYE: u32 = 11;

pub(in super::super) fn put_client(out: &mut Writer<'_>, message: &ClientMessage) -> Written {
    match message {
        ClientMessage::Hello(hello) => put_hello(out, hello),
        ClientMessage::Lane { lane } => out.put((LANE, lane.number())),
        ClientMessage::Join { id, room, metadata } => {
            out.put((JOIN, id, room.as_str(), metadata.as_ref().map(Json::as_bytes)))
        }
        ClientMessage::Leave { id, room } => out.put((LEAVE, id, room.as_str())),
        ClientMessage::Send(Send { room, lane, seq, to, body }) => {
            let to = to.as_ref().map(PeerId::as_str);
            out.put((SEND, room.as_str(), lane.number(), seq, to, body.as_bytes()))
        }
        ClientMessage::Ephemeral { room, to, body } => {
            let to = to.as_ref().map(PeerId::as_str);
            out.put((EPHEMERAL, room.as_str(), to, body.as_bytes()))
        }
        ClientMessage::Update { id, room, metadata } => {
            out.put((UPDATE, id, room.as_str(), metadata.as_bytes()))
        }
        ClientMessage::Members { id, room } => out.put((MEMBERS, id, room.as_str())),
        ClientMessage::Ice { id } => out.put((ICE, id)),
        ClientMessage::Refresh { id, token } => out.put((REFRESH, id, token.expose())),
        ClientMessage::Ping { id } => out.put((PING, id)),
        ClientMessage::Bye => out.put(BYE),
    }
}

fn put_hello(out: &mut Writer<'_>, hello: &Hello) -> Written {
    let token = hello.token.as_ref().map(Secret::expose);
    out.put((HELLO, hello.version, token, hello.agent.as_deref(), hello.resume.is_some()))?;
    let Some(resume) = &hello.resume else { return Ok(()) };
    out.put((resume.session.as_str(), resume.secret.expose()))?;
    out.list(resume.rooms.iter(), |out, (room, positions)| {
        out.put((room.as_str(), positions.epoch.as_str(), positions.signal, positions.bulk))
    })
}

pub(in super::super) fn decode_client(payload: &[u8]) -> Result<ClientMessage, DecodeError> {
    let mut reader = Reader { rest: payload };
    // Wider than a variant number, so that every number that can be read is merely unknown.
    let variant: u64 = reader.get()?;
    match u32::try_from(variant).unwrap_or(u32::MAX) {
        HELLO => hello(&mut reader),
        LANE => {
            let number: u64 = reader.get()?;
            finish(Reference::default(), || Ok(ClientMessage::Lane { lane: lane(number)? }))
        }
        JOIN => {
            let (id, room, metadata): (u64, &str, Option<&[u8]>) = reader.get()?;
            request(id, |id| {
                let room = field::room(room)?;
                let metadata = metadata.map(field::metadata_text).transpose()?;
                Ok(ClientMessage::Join { id, room, metadata })
            })
        }
        LEAVE => {
            let (id, room): (u64, &str) = reader.get()?;
            request(id, |id| Ok(ClientMessage::Leave { id, room: field::room(room)? }))
        }
        SEND => send(&mut reader),
        EPHEMERAL => {
            let (room, to, body): (&str, Option<&str>, &[u8]) = reader.get()?;
            finish(Reference { room: RoomName::parse(room).ok(), ..<_>::default() }, || {
                let (room, body) = (field::room(room)?, field::body_text(body)?);
                Ok(ClientMessage::Ephemeral { room, to: to.map(field::to).transpose()?, body })
            })
        }
        UPDATE => {
            let (id, room, metadata): (u64, &str, &[u8]) = reader.get()?;
            request(id, |id| {
                let (room, metadata) = (field::room(room)?, field::metadata_text(metadata)?);
                Ok(ClientMessage::Update { id, room, metadata })
            })
        }
        MEMBERS => {
            let (id, room): (u64, &str) = reader.get()?;
            request(id, |id| Ok(ClientMessage::Members { id, room: field::room(room)? }))
        }
        ICE => request(reader.get()?, |id| Ok(ClientMessage::Ice { id })),
        REFRESH => {
            let (id, token): (u64, &str) = reader.get()?;
            request(id, |id| Ok(ClientMessage::Refresh { id, token: Secret::new(token.into()) }))
        }
        PING => request(reader.get()?, |id| Ok(ClientMessage::Ping { id })),
        BYE => Ok(ClientMessage::Bye),
        _ => Err(DecodeError::refused(Refusal::unknown_type(), Reference::default())),
    }
}

fn send(reader: &mut Reader<'_>) -> Result<ClientMessage, DecodeError> {
    let (room, number, seq): (&str, u64, u64) = reader.get()?;
    let (to, body): (Option<&str>, &[u8]) = reader.get()?;
    let valid_seq = || field::seq(field::integer("seq", Some(seq))?);
    let reference = Reference {
        id: None,
        room: RoomName::parse(room).ok(),
        lane: lane(number).ok(),
        seq: valid_seq().ok(),
    };
    finish(reference, || {
        let (room, lane, seq) = (field::room(room)?, lane(number)?, valid_seq()?);
        let body = field::body_text(body)?;
        let to = to.map(field::to).transpose()?;
        Ok(ClientMessage::Send(Send { room, lane, seq, to, body }))
    })
}

fn hello(reader: &mut Reader<'_>) -> Result<ClientMessage, DecodeError> {
    let version: u64 = reader.get()?;
    if version != VERSION {
        // Another version's fields are not ours to judge; its number is all that counts.
        return field::integer("version", Some(version))
            .map(|version| ClientMessage::Hello(Hello { version, ..Hello::default() }))
            .map_err(DecodeError::refused_hello);
    }
    let (token, agent): (Option<&str>, Option<&str>) = reader.get()?;
    let resume = match reader.get()? {
        false => None,
        true => {
            let (session, secret): (&str, &str) = reader.get()?;
            let count: u64 = reader.get()?;
            // One too many is enough to know.
            let room = |_| reader.get::<(&str, &str, u64, u64)>();
            let rooms = (0..count).take(ROOMS_MAX + 1).map(room);
            let rooms = rooms.collect::<Result<Vec<_>, _>>()?;
            field::resumed_rooms(rooms.len()).map_err(DecodeError::refused_hello)?;
            Some(resume(session, secret, rooms).map_err(DecodeError::refused_hello)?)
        }
    };
    let token = token.map(|token| Secret::new(token.into()));
    Ok(ClientMessage::Hello(Hello { version, token, agent: agent.map(Into::into), resume }))
}

fn resume(
    session: &str,
    secret: &str,
    listed: Vec<(&str, &str, u64, u64)>,
) -> Result<Resume, Refusal> {
    let mut rooms = BTreeMap::new();
    for (name, epoch, signal, bulk) in listed {
        let positions = Positions {
            epoch: field::epoch(epoch)?,
            signal: field::integer("signal", Some(signal))?,
            bulk: field::integer("bulk", Some(bulk))?,
        };
        if rooms.insert(field::room(name)?, positions).is_some() {
            return Err(Refusal::bad_request("a room is named twice in `resume`"));
        }
    }
    let session = field::session(session)?;
    Ok(Resume { session, secret: Secret::new(secret.into()), rooms })
}

fn lane(number: u64) -> Result<LogLane, Refusal> {
    LogLane::from_number(number)
        .ok_or_else(|| Refusal::bad_request("`lane` must be 0 (signal) or 1 (bulk)"))
}

/// Applies the rules to the fields of a request with this number.
fn request(
    id: u64,
    rules: impl FnOnce(u64) -> Result<ClientMessage, Refusal>,
) -> Result<ClientMessage, DecodeError> {
    let id = field::integer("id", Some(id));
    let reference = Reference { id: id.as_ref().ok().copied(), ..Reference::default() };
    finish(reference, || rules(id?))
}

/// Applies the rules to fields that have been read.
fn finish<T>(
    reference: Reference,
    rules: impl FnOnce() -> Result<T, Refusal>,
) -> Result<T, DecodeError> {
    rules().map_err(|refusal| DecodeError::refused(refusal, reference))
}
