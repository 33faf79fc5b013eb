//! Both ends of a connection, and what lies between a session and its transport.

pub mod backoff;
pub mod client;
pub mod grant;
mod membership;
pub mod outbox;
pub mod server;

use crate::room::log::Read;
use crate::room::{Applied, Refusal, Snapshot};
use crate::wire::message::{ResetReason, Send};
use crate::wire::{Epoch, Json, LogLane, PeerId, PerLane, RoomName};

/// The reading side of a live room's logs, shared by everybody who follows the room.
pub trait RoomLog {
    /// The life of the logs.
    fn epoch(&self) -> Epoch;

    /// What follows the entry with offset `after` on `lane`.
    fn read(&self, lane: LogLane, after: u64) -> Read;
}

impl<L: RoomLog + ?Sized> RoomLog for std::sync::Arc<L> {
    fn epoch(&self) -> Epoch {
        (**self).epoch()
    }

    fn read(&self, lane: LogLane, after: u64) -> Read {
        (**self).read(lane, after)
    }
}

/// A place in a connection's table of rooms. Its generation tells a reply to an earlier use
/// of the same place from one to the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Below [`crate::limits::ROOMS_MAX`]: the bit that marks the room as having news.
    pub index: u8,
    /// Counts the uses of places on this connection.
    pub generation: u32,
}

/// Something a connection asks of a room.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The room's place on the connection.
    pub slot: Slot,
    /// The room.
    pub room: RoomName,
    /// What is asked.
    pub op: Op,
}

/// What is asked of a room.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// To become a member.
    Join {
        /// Request number.
        id: u64,
        /// Shown to the others.
        metadata: Option<Json>,
    },
    /// To end the membership.
    Leave {
        /// Request number.
        id: u64,
    },
    /// To replace the metadata.
    Update {
        /// Request number.
        id: u64,
        /// The new metadata.
        metadata: Json,
    },
    /// Who is there.
    Members {
        /// Request number.
        id: u64,
    },
    /// To put a message into a log.
    Send(Send),
    /// To pass something on to who is there now.
    Ephemeral {
        /// One addressee, or everybody else.
        to: Option<PeerId>,
        /// As the sender wrote it.
        body: Json,
        /// Whether the sender learns of a refusal; not of one that came as a datagram.
        answered: bool,
    },
    /// The room as it is, for a `reset`.
    Snapshot {
        /// Why a new start is needed.
        reason: ResetReason,
    },
}

impl Op {
    /// The lane on whose order it depends.
    pub fn lane(&self) -> LogLane {
        match self {
            Op::Send(send) => send.lane,
            _ => LogLane::Signal,
        }
    }

    /// What a refusal of it is about.
    pub fn about(&self) -> About {
        match self {
            Op::Join { id, .. } => About::Join { id: *id },
            Op::Leave { id } | Op::Update { id, .. } | Op::Members { id } => {
                About::Request { id: *id }
            }
            Op::Send(send) => About::Send { lane: send.lane, seq: send.seq },
            Op::Ephemeral { answered, .. } => About::Ephemeral { answered: *answered },
            Op::Snapshot { .. } => About::Snapshot,
        }
    }
}

/// What a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// A `join`.
    Join {
        /// Request number.
        id: u64,
    },
    /// Another request on a room.
    Request {
        /// Request number.
        id: u64,
    },
    /// A `send`.
    Send {
        /// Its lane.
        lane: LogLane,
        /// Its number.
        seq: u64,
    },
    /// An `ephemeral`.
    Ephemeral {
        /// Whether the sender learns of it.
        answered: bool,
    },
    /// A snapshot the connection asked for by itself.
    Snapshot,
}

/// A room's answer.
#[derive(Clone, Debug)]
pub struct Reply<L> {
    /// The room's place on the connection.
    pub slot: Slot,
    /// What became of the request.
    pub outcome: Outcome<L>,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub enum Outcome<L> {
    /// The session is a member.
    Joined {
        /// Request number.
        id: u64,
        /// The room at that moment.
        snapshot: Snapshot,
        /// The room's logs, if the membership is new.
        start: Option<L>,
    },
    /// The membership is over; what was in the logs before that still comes.
    Left {
        /// Request number.
        id: u64,
        /// The last offsets that belong to it.
        at: PerLane<u64>,
    },
    /// The metadata is replaced.
    Updated {
        /// Request number.
        id: u64,
        /// The offset of its entry.
        at: u64,
    },
    /// Who is there.
    Members {
        /// Request number.
        id: u64,
        /// The room at that moment.
        snapshot: Snapshot,
    },
    /// A send had been applied before.
    Duplicate {
        /// The lane.
        lane: LogLane,
        /// The highest applied.
        applied: Applied,
    },
    /// A new start.
    Snapshot {
        /// Why.
        reason: ResetReason,
        /// The room at that moment.
        snapshot: Snapshot,
        /// The room's logs.
        log: L,
    },
    /// It was refused.
    Refused {
        /// What.
        about: About,
        /// Why.
        refusal: Refusal,
        /// The last offset used on the lane it depends on, if the session is a member.
        at: u64,
    },
}
