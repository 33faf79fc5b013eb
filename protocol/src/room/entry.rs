//! One entry of a room's log, encoded at most once per codec.

use std::sync::OnceLock;

use crate::time::Time;
use crate::wire::frame::Frame;
use crate::wire::message::{
    EphemeralMessage, LeaveReason, MemberJoined, MemberLeft, MemberPresence, MemberUpdated,
    Message, ServerMessage,
};
use crate::wire::{Codec, Epoch, Json, LogLane, PeerId, RoomName, UserId};

/// What every viewer of an entry sees encoded the same way, made when the first one asks.
#[derive(Debug, Default)]
pub struct SharedFrame {
    json: OnceLock<Frame>,
    bincode: OnceLock<Frame>,
}

impl SharedFrame {
    /// The frame in `codec`, from `message` if nobody asked for it before.
    pub fn get(&self, codec: Codec, message: impl FnOnce() -> ServerMessage) -> Frame {
        let cell = match codec {
            Codec::Json => &self.json,
            Codec::Bincode => &self.bincode,
        };
        cell.get_or_init(|| codec.encode_server(&message())).clone()
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A member sent something.
    Message {
        /// The sender's number for it.
        seq: u64,
        /// One addressee, or everybody else.
        to: Option<PeerId>,
        /// As the sender wrote it.
        body: Json,
    },
    /// A session became a member.
    Joined {
        /// Who it belongs to.
        user: Option<UserId>,
        /// What it shows of itself.
        metadata: Json,
    },
    /// A member replaced its metadata.
    Updated {
        /// The new metadata.
        metadata: Json,
    },
    /// A membership ended.
    Left {
        /// Why.
        reason: LeaveReason,
    },
    /// A member has had no connection for a while.
    Away,
    /// A member that was away has a connection again.
    Back,
}

/// What an entry means to one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// It is delivered.
    Deliver,
    /// It is the member's own `send` with this `seq`: delivered as `accepted`.
    Own {
        /// The member's number for it.
        seq: u64,
    },
    /// It is not for this member.
    Skip,
}

/// One entry of one lane's log. Never changes after it was appended.
#[derive(Debug)]
pub struct Entry {
    /// The room.
    pub room: RoomName,
    /// The lane.
    pub lane: LogLane,
    /// The life of the log.
    pub epoch: Epoch,
    /// From 1, without holes.
    pub offset: u64,
    /// When it was appended.
    pub at: Time,
    /// The sender, or the member it is about.
    pub peer: PeerId,
    /// What happened.
    pub event: Event,
    frame: SharedFrame,
}

impl Entry {
    /// An entry that no codec has encoded yet.
    pub fn new(
        room: RoomName,
        lane: LogLane,
        epoch: Epoch,
        offset: u64,
        at: Time,
        peer: PeerId,
        event: Event,
    ) -> Self {
        Entry { room, lane, epoch, offset, at, peer, event, frame: SharedFrame::default() }
    }

    /// What it means to `viewer`. Its own membership changes reach a member as answers alone.
    pub fn view(&self, viewer: PeerId) -> View {
        match self.event {
            Event::Message { seq, .. } if self.peer == viewer => View::Own { seq },
            Event::Message { to: Some(to), .. } if to != viewer => View::Skip,
            Event::Message { .. } => View::Deliver,
            _ if self.peer == viewer => View::Skip,
            _ => View::Deliver,
        }
    }

    /// What an entry without a body counts for: about what it takes with its frames in both codecs.
    pub const OVERHEAD: usize = 512;

    /// The bytes it counts for in a log's bound: [`Entry::OVERHEAD`] and its body.
    pub fn bytes(&self) -> usize {
        Entry::OVERHEAD
            + match &self.event {
                Event::Message { body, .. } => body.len(),
                Event::Joined { metadata, .. } | Event::Updated { metadata } => metadata.len(),
                Event::Left { .. } | Event::Away | Event::Back => 0,
            }
    }

    /// The encoded message, shared by everybody whom it is delivered to.
    pub fn frame(&self, codec: Codec) -> Frame {
        self.frame.get(codec, || self.message())
    }

    /// The message as it crosses the wire.
    pub fn message(&self) -> ServerMessage {
        let (room, epoch, offset, peer) = (self.room.clone(), self.epoch, self.offset, self.peer);
        match self.event.clone() {
            Event::Message { to, body, .. } => ServerMessage::Message(Message {
                room,
                lane: self.lane,
                epoch,
                offset,
                from: peer,
                to,
                body,
            }),
            Event::Joined { user, metadata } => ServerMessage::MemberJoined(MemberJoined {
                room,
                epoch,
                offset,
                peer,
                user,
                metadata,
            }),
            Event::Updated { metadata } => {
                ServerMessage::MemberUpdated(MemberUpdated { room, epoch, offset, peer, metadata })
            }
            Event::Left { reason } => {
                ServerMessage::MemberLeft(MemberLeft { room, epoch, offset, peer, reason })
            }
            Event::Away => ServerMessage::MemberAway(MemberPresence { room, epoch, offset, peer }),
            Event::Back => ServerMessage::MemberBack(MemberPresence { room, epoch, offset, peer }),
        }
    }
}

/// An ephemeral message on its way to the members that are there now.
#[derive(Debug)]
pub struct Ephemeral {
    /// The room.
    pub room: RoomName,
    /// The sender.
    pub from: PeerId,
    /// One addressee, or everybody else.
    pub to: Option<PeerId>,
    /// As the sender wrote it.
    pub body: Json,
    frame: SharedFrame,
}

impl Ephemeral {
    /// A message that no codec has encoded yet.
    pub fn new(room: RoomName, from: PeerId, to: Option<PeerId>, body: Json) -> Self {
        Ephemeral { room, from, to, body, frame: SharedFrame::default() }
    }

    /// The encoded message, shared by everybody whom it is delivered to.
    pub fn frame(&self, codec: Codec) -> Frame {
        self.frame.get(codec, || {
            ServerMessage::Ephemeral(EphemeralMessage {
                room: self.room.clone(),
                from: self.from,
                body: self.body.clone(),
            })
        })
    }
}
