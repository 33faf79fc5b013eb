//! The messages of protocol version 1.
//!
//! These are plain descriptions: the codec gives each its JSON object and its bincode layout,
//! the state machines give them meaning. Serialisation here is the JSON form; the bincode
//! layout is written out in `codec`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::close::CloseCode;
use super::error::ErrorCode;
use super::id::{Epoch, LogLane, PeerId, PerLane, Position, RoomName, Secret, SessionId, UserId};
use super::json::Json;
use crate::limits::Limits;

/// The protocol version spoken here.
pub const VERSION: u64 = 1;

/// From client to gateway.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// Opens or resumes a session; the first message of a connection.
    Hello(Hello),
    /// Names the bulk stream; the first frame on it. WebTransport only.
    Lane {
        /// The lane of this stream.
        lane: LogLane,
    },
    /// Becomes a member of a room.
    Join {
        /// Request number.
        id: u64,
        /// The room.
        room: RoomName,
        /// Shown to the other members; an object.
        #[serde(skip_serializing_if = "Option::is_none")]
        metadata: Option<Json>,
    },
    /// Ends a membership.
    Leave {
        /// Request number.
        id: u64,
        /// The room.
        room: RoomName,
    },
    /// Puts an entry into a room's log.
    Send(Send),
    /// Reaches whoever is there now, or nobody.
    Ephemeral {
        /// The room.
        room: RoomName,
        /// One addressee, or everybody else.
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<PeerId>,
        /// Any JSON value.
        body: Json,
    },
    /// Replaces one's metadata.
    Update {
        /// Request number.
        id: u64,
        /// The room.
        room: RoomName,
        /// The new metadata; an object.
        metadata: Json,
    },
    /// Asks who is in a room.
    Members {
        /// Request number.
        id: u64,
        /// The room.
        room: RoomName,
    },
    /// Asks for ICE servers.
    Ice {
        /// Request number.
        id: u64,
    },
    /// Brings a newer token.
    Refresh {
        /// Request number.
        id: u64,
        /// The token.
        token: Secret,
    },
    /// Asks for a `pong`.
    Ping {
        /// Request number.
        id: u64,
    },
    /// Ends the session.
    Bye,
}

/// See [`ClientMessage::Hello`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Hello {
    /// The protocol version, [`VERSION`].
    pub version: u64,
    /// A token (JWT).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// Name and version of the client's software, for the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The session to go on with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
}

/// A session to go on with, and what the client already has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Resume {
    /// The session.
    pub session: SessionId,
    /// Its secret.
    pub secret: Secret,
    /// The last offsets had, per room.
    pub rooms: BTreeMap<RoomName, Positions>,
}

/// The last offsets had on both reliable lanes of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Positions {
    /// The life of the room's logs.
    pub epoch: Epoch,
    /// Last offset on the signal lane; 0 for none.
    pub signal: u64,
    /// Last offset on the bulk lane; 0 for none.
    pub bulk: u64,
}

impl Positions {
    /// The position on one lane.
    pub fn on(&self, lane: LogLane) -> Position {
        let offset = match lane {
            LogLane::Signal => self.signal,
            LogLane::Bulk => self.bulk,
        };
        Position { epoch: self.epoch, offset }
    }
}

/// See [`ClientMessage::Send`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Send {
    /// The room.
    pub room: RoomName,
    /// The lane.
    pub lane: LogLane,
    /// The sender's own number for it, from 1, without holes.
    pub seq: u64,
    /// One addressee, or everybody else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<PeerId>,
    /// Any JSON value.
    pub body: Json,
}

/// From gateway to client.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// The answer to `hello`.
    Welcome(Welcome),
    /// The answer to `join`.
    Joined(Joined),
    /// Everything up to `seq` is in the log, the last of it at `offset`.
    Accepted(Accepted),
    /// Somebody joined.
    MemberJoined(MemberJoined),
    /// Somebody replaced their metadata.
    MemberUpdated(MemberUpdated),
    /// Somebody's membership ended.
    MemberLeft(MemberLeft),
    /// Somebody has had no connection for two seconds.
    MemberAway(MemberPresence),
    /// Somebody away has a connection again.
    MemberBack(MemberPresence),
    /// An entry for this member.
    Message(Message),
    /// Nothing (more) for this member up to here.
    Position(PositionMark),
    /// Something passing.
    Ephemeral(EphemeralMessage),
    /// A position is no longer held: start again from this snapshot.
    Reset(Reset),
    /// The answer to `members`.
    Members(Members),
    /// How the path to this client is doing.
    Quality(Quality),
    /// The connection's IP address changed: restart ICE.
    Moved,
    /// The token ends soon.
    Expiring {
        /// Milliseconds until the token's end.
        #[serde(rename = "in")]
        in_ms: u64,
    },
    /// The gateway is about to go.
    Draining {
        /// Milliseconds after which to connect again.
        reconnect_in: u64,
    },
    /// Done.
    Ok {
        /// Request number.
        id: u64,
    },
    /// The answer to `ping`.
    Pong {
        /// Request number.
        id: u64,
    },
    /// The answer to `ice`.
    Ice(Ice),
    /// A refusal.
    Error(Error),
    /// The last message of a connection.
    Close(Close),
}

/// See [`ServerMessage::Welcome`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The session.
    pub session: SessionId,
    /// Its secret.
    pub secret: Secret,
    /// The session's name inside rooms.
    pub peer: PeerId,
    /// Who it belongs to; `null` if anonymous.
    pub user: Option<UserId>,
    /// Whether an earlier session goes on.
    pub resumed: bool,
    /// On resume: what the gateway has of this session's sends, per room.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub rooms: BTreeMap<RoomName, ResumedRoom>,
    /// Rooms named in `resume` of which the session is no member.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub lost: Vec<RoomName>,
    /// Milliseconds between signs of life.
    pub heartbeat: u64,
    /// Milliseconds a session outlives its connection.
    pub resume_window: u64,
    /// What the gateway accepts.
    pub limits: Limits,
}

/// A room of a resumed session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumedRoom {
    /// The highest `seq` applied per lane.
    pub seq: PerLane<u64>,
}

/// See [`ServerMessage::Joined`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// Request number.
    pub id: u64,
    /// The room.
    pub room: RoomName,
    /// The life of the room's logs.
    pub epoch: Epoch,
    /// Last offset used on the signal lane.
    pub signal: u64,
    /// Last offset used on the bulk lane.
    pub bulk: u64,
    /// The highest `seq` applied for this session per lane.
    pub seq: PerLane<u64>,
    /// Everybody in the room, oneself included.
    pub members: Vec<Member>,
}

/// One member of a room.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The session's name inside rooms.
    pub peer: PeerId,
    /// Who it belongs to; `null` if anonymous.
    pub user: Option<UserId>,
    /// What the member shows of itself; `{}` if nothing.
    pub metadata: Json,
    /// The offset of its `member_joined`.
    pub since: u64,
    /// Whether it has had no connection for two seconds.
    pub away: bool,
}

/// See [`ServerMessage::Accepted`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// The room.
    pub room: RoomName,
    /// The lane.
    pub lane: LogLane,
    /// The life of the room's logs.
    pub epoch: Epoch,
    /// The highest `seq` applied.
    pub seq: u64,
    /// Its entry's offset.
    pub offset: u64,
}

/// See [`ServerMessage::MemberJoined`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberJoined {
    /// The room.
    pub room: RoomName,
    /// The life of the room's logs.
    pub epoch: Epoch,
    /// Offset on the signal lane.
    pub offset: u64,
    /// Who joined.
    pub peer: PeerId,
    /// Who it belongs to; `null` if anonymous.
    pub user: Option<UserId>,
    /// What it shows of itself.
    pub metadata: Json,
}

/// See [`ServerMessage::MemberUpdated`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberUpdated {
    /// The room.
    pub room: RoomName,
    /// The life of the room's logs.
    pub epoch: Epoch,
    /// Offset on the signal lane.
    pub offset: u64,
    /// Whose metadata.
    pub peer: PeerId,
    /// The new metadata.
    pub metadata: Json,
}

/// See [`ServerMessage::MemberLeft`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberLeft {
    /// The room.
    pub room: RoomName,
    /// The life of the room's logs.
    pub epoch: Epoch,
    /// Offset on the signal lane.
    pub offset: u64,
    /// Who left.
    pub peer: PeerId,
    /// Why.
    pub reason: LeaveReason,
}

/// Why a membership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaveReason {
    /// By `bye`.
    Bye,
    /// The resume window passed without a connection.
    Expired,
    /// By an administrator.
    Kicked,
    /// By `leave`, or for a reason this version does not know.
    #[serde(other)]
    Left,
}

/// See [`ServerMessage::MemberAway`] and [`ServerMessage::MemberBack`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberPresence {
    /// The room.
    pub room: RoomName,
    /// The life of the room's logs.
    pub epoch: Epoch,
    /// Offset on the signal lane.
    pub offset: u64,
    /// Who.
    pub peer: PeerId,
}

/// See [`ServerMessage::Message`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The room.
    pub room: RoomName,
    /// The lane.
    pub lane: LogLane,
    /// The life of the room's logs.
    pub epoch: Epoch,
    /// Offset on the lane.
    pub offset: u64,
    /// The sender.
    pub from: PeerId,
    /// The addressee, if it was sent to one member alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<PeerId>,
    /// As the sender wrote it.
    pub body: Json,
}

/// See [`ServerMessage::Position`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PositionMark {
    /// The room.
    pub room: RoomName,
    /// The lane.
    pub lane: LogLane,
    /// The life of the room's logs.
    pub epoch: Epoch,
    /// Offset on the lane.
    pub offset: u64,
    /// The membership begins here; what came on this lane before it is void.
    #[serde(
        default,
        skip_serializing_if = "std::ops::Not::not",
        deserialize_with = "null_is_absent"
    )]
    pub start: bool,
}

/// See [`ServerMessage::Ephemeral`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EphemeralMessage {
    /// The room.
    pub room: RoomName,
    /// The sender.
    pub from: PeerId,
    /// As the sender wrote it.
    pub body: Json,
}

/// See [`ServerMessage::Reset`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reset {
    /// The room.
    pub room: RoomName,
    /// Why.
    pub reason: ResetReason,
    /// The life of the room's logs.
    pub epoch: Epoch,
    /// Last offset used on the signal lane.
    pub signal: u64,
    /// Last offset used on the bulk lane.
    pub bulk: u64,
    /// The highest `seq` applied for this session per lane.
    pub seq: PerLane<u64>,
    /// Everybody in the room, oneself included.
    pub members: Vec<Member>,
}

/// Why a position could not be gone on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetReason {
    /// The log no longer holds it.
    Trimmed,
    /// `resume` did not list the room.
    Unlisted,
    /// It lies beyond the log's end.
    Ahead,
    /// The room's logs began a new life, or a reason this version does not know.
    #[serde(other)]
    Epoch,
}

/// See [`ServerMessage::Members`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Members {
    /// Request number.
    pub id: u64,
    /// The room.
    pub room: RoomName,
    /// The life of the room's logs.
    pub epoch: Epoch,
    /// The offset on the signal lane that the list stands for.
    pub signal: u64,
    /// Everybody in the room, oneself included.
    pub members: Vec<Member>,
}

/// See [`ServerMessage::Quality`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Round-trip time, milliseconds.
    pub rtt: f64,
    /// Mean deviation of the round-trip time, milliseconds.
    pub jitter: f64,
    /// Share of packets lost, 0 to 1.
    pub loss: f64,
    /// The three in a word.
    pub level: QualityLevel,
}

/// A path's state in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QualityLevel {
    /// Fit for a call.
    Good,
    /// A call is possible.
    Fair,
    /// A call will suffer.
    Poor,
}

/// See [`ServerMessage::Ice`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ice {
    /// Request number.
    pub id: u64,
    /// For `RTCConfiguration.iceServers`.
    pub servers: Vec<IceServer>,
    /// Seconds the credentials are good for.
    pub ttl: u64,
}

/// One entry of `RTCConfiguration.iceServers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServer {
    /// `stun:`, `turn:` or `turns:` addresses.
    pub urls: Vec<String>,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Secret>,
}

/// See [`ServerMessage::Error`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Error {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// What is refused.
    #[serde(flatten)]
    pub reference: Reference,
    /// Milliseconds after which to try again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// The `seq` to go on from, with `seq_gap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<u64>,
}

/// Names the request or send that an `error` is about, as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Request number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<RoomName>,
    /// The lane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<LogLane>,
    /// The send's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// See [`ServerMessage::Close`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Close {
    /// The number, kept even when this version does not know it.
    pub code: u16,
    /// For people.
    pub reason: String,
    /// Milliseconds after which to come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl Close {
    /// A `close` for a code of the table.
    pub fn new(code: CloseCode) -> Self {
        Close { code: code.number(), reason: code.name().into(), retry_after: None }
    }
}

/// `null` means absent, also where the type has a default instead of an `Option`.
fn null_is_absent<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
