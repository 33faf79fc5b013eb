//! The JSON codec.
//!
//! A client's message is scanned once: each field known to the protocol is noted as a slice
//! of the text, and then only those that the `type` calls for are read. So `type` may stand
//! anywhere, and a body is never taken apart.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::DecodeError;
use super::field::{self, Refusal};
use crate::wire::error::ErrorCode;
use crate::wire::frame::Frame;
use crate::wire::id::{LogLane, RoomName, Secret};
use crate::wire::message::{
    ClientMessage, Error, Hello, Positions, Reference, Resume, Send, ServerMessage, VERSION,
};

#[allow(clippy::expect_used, reason = "the writer is memory and every map key is a text")]
pub(super) fn encode(expected: usize, message: &impl Serialize) -> Frame {
    Frame::build(expected, |out| serde_json::to_writer(out, message))
        .expect("a message always has a JSON form")
}

pub(super) fn decode_client(payload: &[u8]) -> Result<ClientMessage, DecodeError> {
    let fields = scan(payload)?;
    client(&fields).map_err(|refusal| match fields.kind().as_deref() {
        Ok("hello") => DecodeError::refused_hello(refusal),
        _ => DecodeError::refused(refusal, fields.reference()),
    })
}

pub(super) fn decode_server(payload: &[u8]) -> Result<ServerMessage, DecodeError> {
    let fields = scan(payload)?;
    server(&fields).map_err(|refusal| DecodeError::refused(refusal, fields.reference()))
}

fn scan(payload: &[u8]) -> Result<Fields<'_>, DecodeError> {
    let unparseable = |reason: String| DecodeError::Unparseable { reason };
    let text = std::str::from_utf8(payload).map_err(|_| unparseable("not UTF-8".into()))?;
    let (slots, repeated) = serde_json::from_str::<Slots>(text)
        .map(|slots| (slots.values, slots.repeated))
        .map_err(|error| match error.classify() {
            // The one thing the scan asks for is an object; its message would repeat the input.
            serde_json::error::Category::Data => unparseable("not a JSON object".into()),
            _ => unparseable(error.to_string()),
        })?;
    Ok(Fields { text, slots, repeated })
}

/// The fields of a client's messages, and those that may refer to one.
const NAMES: [&str; 12] = [
    "type", "id", "room", "lane", "seq", "to", "body", "metadata", "version", "token", "agent",
    "resume",
];

/// A field's place in [`NAMES`].
#[derive(Clone, Copy)]
enum Field {
    Type,
    Id,
    Room,
    Lane,
    Seq,
    To,
    Body,
    Metadata,
    Version,
    Token,
    Agent,
    Resume,
}

impl Field {
    const fn name(self) -> &'static str {
        NAMES[self as usize]
    }
}

/// One message's known fields as slices of its text.
struct Fields<'a> {
    text: &'a str,
    slots: [Option<&'a RawValue>; NAMES.len()],
    /// One bit for each field given more than once.
    repeated: u16,
}

impl<'a> Fields<'a> {
    /// The field as it stands, `null` too.
    fn raw(&self, field: Field) -> Result<Option<&'a RawValue>, Refusal> {
        match self.repeated & 1 << field as u16 {
            0 => Ok(self.slots[field as usize]),
            _ => Err(Refusal::twice(field.name())),
        }
    }

    /// The field, if it is there and not `null`.
    fn optional(&self, field: Field) -> Result<Option<&'a RawValue>, Refusal> {
        Ok(self.raw(field)?.filter(|raw| raw.get() != "null"))
    }

    fn required(&self, field: Field) -> Result<&'a RawValue, Refusal> {
        self.optional(field)?.ok_or_else(|| Refusal::missing(field.name()))
    }

    fn kind(&self) -> Result<Cow<'a, str>, Refusal> {
        text(Field::Type.name(), self.required(Field::Type)?)
    }

    fn id(&self) -> Result<u64, Refusal> {
        integer(Field::Id.name(), self.required(Field::Id)?)
    }

    fn room(&self) -> Result<RoomName, Refusal> {
        field::room(&text(Field::Room.name(), self.required(Field::Room)?)?)
    }

    fn lane(&self) -> Result<LogLane, Refusal> {
        read("lane", "must be `signal` or `bulk`", self.required(Field::Lane)?)
    }

    fn seq(&self) -> Result<u64, Refusal> {
        field::seq(integer(Field::Seq.name(), self.required(Field::Seq)?)?)
    }

    /// What an `error` about this message can say of it: of a request its number, of a send
    /// its room, lane and number, of anything unknown all there is.
    fn reference(&self) -> Reference {
        let mut reference = Reference {
            id: self.id().ok(),
            room: self.room().ok(),
            lane: self.lane().ok(),
            seq: self.seq().ok(),
        };
        match self.kind().as_deref() {
            Ok("send") => reference.id = None,
            Ok("ephemeral") => reference = Reference { room: reference.room, ..<_>::default() },
            Ok("lane" | "bye") => reference = Reference::default(),
            Ok("join" | "leave" | "update" | "members" | "ice" | "refresh" | "ping") => {
                reference = Reference { id: reference.id, ..<_>::default() };
            }
            _ => {}
        }
        reference
    }
}

fn client(fields: &Fields<'_>) -> Result<ClientMessage, Refusal> {
    Ok(match &*fields.kind()? {
        "hello" => ClientMessage::Hello(hello(fields)?),
        "lane" => ClientMessage::Lane { lane: fields.lane()? },
        "join" => ClientMessage::Join {
            id: fields.id()?,
            room: fields.room()?,
            metadata: fields.optional(Field::Metadata)?.map(field::metadata).transpose()?,
        },
        "leave" => ClientMessage::Leave { id: fields.id()?, room: fields.room()? },
        "send" => {
            let (room, lane, seq) = (fields.room()?, fields.lane()?, fields.seq()?);
            let body = body(fields)?;
            ClientMessage::Send(Send { room, lane, seq, to: to(fields)?, body })
        }
        "ephemeral" => {
            let (room, body) = (fields.room()?, body(fields)?);
            ClientMessage::Ephemeral { room, to: to(fields)?, body }
        }
        "update" => ClientMessage::Update {
            id: fields.id()?,
            room: fields.room()?,
            metadata: field::metadata(fields.required(Field::Metadata)?)?,
        },
        "members" => ClientMessage::Members { id: fields.id()?, room: fields.room()? },
        "ice" => ClientMessage::Ice { id: fields.id()? },
        "refresh" => ClientMessage::Refresh {
            id: fields.id()?,
            token: secret(Field::Token.name(), fields.required(Field::Token)?)?,
        },
        "ping" => ClientMessage::Ping { id: fields.id()? },
        "bye" => ClientMessage::Bye,
        _ => return Err(Refusal::unknown_type()),
    })
}

/// `body` alone may be `null`.
fn body(fields: &Fields<'_>) -> Result<crate::wire::Json, Refusal> {
    field::body(fields.raw(Field::Body)?.ok_or_else(|| Refusal::missing("body"))?)
}

fn to(fields: &Fields<'_>) -> Result<Option<crate::wire::PeerId>, Refusal> {
    let Some(raw) = fields.optional(Field::To)? else { return Ok(None) };
    field::to(&text(Field::To.name(), raw)?).map(Some)
}

fn hello(fields: &Fields<'_>) -> Result<Hello, Refusal> {
    let version = integer(Field::Version.name(), fields.required(Field::Version)?)?;
    if version != VERSION {
        // Another version's fields are not ours to judge; its number is all that counts.
        return Ok(Hello { version, ..Hello::default() });
    }
    let token = fields.optional(Field::Token)?;
    let agent = fields.optional(Field::Agent)?;
    Ok(Hello {
        version,
        token: token.map(|raw| secret(Field::Token.name(), raw)).transpose()?,
        agent: agent.map(|raw| text(Field::Agent.name(), raw)).transpose()?.map(Cow::into_owned),
        resume: fields.optional(Field::Resume)?.map(resume).transpose()?,
    })
}

fn resume(raw: &RawValue) -> Result<Resume, Refusal> {
    let members = Members::read(Field::Resume.name(), raw)?;
    let mut rooms = BTreeMap::new();
    if let Some(raw) = members.optional("rooms")? {
        let listed = Members::read("rooms", raw)?.0;
        field::resumed_rooms(listed.len())?;
        for (name, raw) in listed {
            let positions = Members::read("rooms", raw)?;
            let offset = |name| integer(name, positions.required(name)?);
            let positions = Positions {
                epoch: field::epoch(&text("epoch", positions.required("epoch")?)?)?,
                signal: offset("signal")?,
                bulk: offset("bulk")?,
            };
            if rooms.insert(field::room(&name)?, positions).is_some() {
                return Err(Refusal::bad_request("a room is named twice in `resume`"));
            }
        }
    }
    Ok(Resume {
        secret: secret("secret", members.required("secret")?)?,
        session: field::session(&text("session", members.required("session")?)?)?,
        rooms,
    })
}

fn server(fields: &Fields<'_>) -> Result<ServerMessage, Refusal> {
    fn whole<'a, T: Deserialize<'a>>(fields: &Fields<'a>) -> Result<T, Refusal> {
        serde_json::from_str(fields.text).map_err(|error| Refusal::bad_request(error.to_string()))
    }
    let number = |name| integer(name, whole::<Members<'_>>(fields)?.required(name)?);
    Ok(match &*fields.kind()? {
        "welcome" => ServerMessage::Welcome(whole(fields)?),
        "joined" => ServerMessage::Joined(whole(fields)?),
        "accepted" => ServerMessage::Accepted(whole(fields)?),
        "member_joined" => ServerMessage::MemberJoined(whole(fields)?),
        "member_updated" => ServerMessage::MemberUpdated(whole(fields)?),
        "member_left" => ServerMessage::MemberLeft(whole(fields)?),
        "member_away" => ServerMessage::MemberAway(whole(fields)?),
        "member_back" => ServerMessage::MemberBack(whole(fields)?),
        "message" => ServerMessage::Message(whole(fields)?),
        "position" => ServerMessage::Position(whole(fields)?),
        "ephemeral" => ServerMessage::Ephemeral(whole(fields)?),
        "reset" => ServerMessage::Reset(whole(fields)?),
        "members" => ServerMessage::Members(whole(fields)?),
        "quality" => ServerMessage::Quality(whole(fields)?),
        "moved" => ServerMessage::Moved,
        "expiring" => ServerMessage::Expiring { in_ms: number("in")? },
        "draining" => ServerMessage::Draining { reconnect_in: number("reconnect_in")? },
        "ok" => ServerMessage::Ok { id: fields.id()? },
        "pong" => ServerMessage::Pong { id: fields.id()? },
        "ice" => ServerMessage::Ice(whole(fields)?),
        "error" => ServerMessage::Error(whole::<FlatError>(fields)?.into()),
        "close" => ServerMessage::Close(whole(fields)?),
        _ => return Err(Refusal::unknown_type()),
    })
}

/// [`Error`] as it is written. Serde's `flatten` would read unknown fields as well, and not
/// every JSON value can be.
#[derive(serde::Deserialize)]
struct FlatError {
    code: ErrorCode,
    message: String,
    id: Option<u64>,
    room: Option<RoomName>,
    lane: Option<LogLane>,
    seq: Option<u64>,
    retry_after: Option<u64>,
    expected: Option<u64>,
}

impl From<FlatError> for Error {
    fn from(flat: FlatError) -> Self {
        let FlatError { code, message, id, room, lane, seq, retry_after, expected } = flat;
        let reference = Reference { id, room, lane, seq };
        Error { code, message, reference, retry_after, expected }
    }
}

fn integer(name: &str, raw: &RawValue) -> Result<u64, Refusal> {
    field::integer(name, raw.get().parse().ok())
}

fn secret(name: &str, raw: &RawValue) -> Result<Secret, Refusal> {
    text(name, raw).map(|text| Secret::new(text.into_owned()))
}

fn text<'a>(name: &str, raw: &'a RawValue) -> Result<Cow<'a, str>, Refusal> {
    #[derive(serde::Deserialize)]
    #[serde(transparent)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    // Without an escape, what stands between the quotes of a valid string is the text.
    let quoted = raw.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    if let Some(text) = quoted.filter(|text| !text.contains('\\')) {
        return Ok(Cow::Borrowed(text));
    }
    read(name, "must be a string", raw).map(|Text(text)| text)
}

fn read<'a, T: Deserialize<'a>>(
    name: &str,
    expected: &str,
    raw: &'a RawValue,
) -> Result<T, Refusal> {
    serde_json::from_str(raw.get())
        .map_err(|_| Refusal::bad_request(format!("`{name}` {expected}")))
}

/// What the scan finds.
#[derive(Default)]
struct Slots<'a> {
    values: [Option<&'a RawValue>; NAMES.len()],
    repeated: u16,
}

impl<'de> Deserialize<'de> for Slots<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SlotsVisitor;

        impl<'de> Visitor<'de> for SlotsVisitor {
            type Value = Slots<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut slots = Slots::default();
                while let Some(Key(place)) = map.next_key()? {
                    match place {
                        None => drop(map.next_value::<IgnoredAny>()?),
                        Some(place) => {
                            let value = map.next_value()?;
                            if slots.values[place].replace(value).is_some() {
                                slots.repeated |= 1 << place;
                            }
                        }
                    }
                }
                Ok(slots)
            }
        }

        deserializer.deserialize_map(SlotsVisitor)
    }
}

/// A key's place in [`NAMES`].
struct Key(Option<usize>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_bytes<E>(self, key: &[u8]) -> Result<Key, E> {
                Ok(Key(NAMES.iter().position(|name| name.as_bytes() == key)))
            }
        }

        // As bytes, because a key may hold half of a surrogate pair, which no text can.
        deserializer.deserialize_bytes(KeyVisitor)
    }
}

/// Any object's keys and values in the order written.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    fn read(name: &str, raw: &'a RawValue) -> Result<Self, Refusal> {
        read(name, "must be an object", raw)
    }

    /// The value, if it is there and not `null`.
    fn optional(&self, name: &str) -> Result<Option<&'a RawValue>, Refusal> {
        let mut found = self.0.iter().filter(|(key, _)| key == name).map(|(_, raw)| *raw);
        let first = found.next();
        match found.next() {
            None => Ok(first.filter(|raw| raw.get() != "null")),
            Some(_) => Err(Refusal::twice(name)),
        }
    }

    fn required(&self, name: &str) -> Result<&'a RawValue, Refusal> {
        self.optional(name)?.ok_or_else(|| Refusal::missing(name))
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}
