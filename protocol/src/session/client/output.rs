//! What a client session tells its owner.

use crate::wire::error::ErrorCode;
use crate::wire::message::{IceServer, LeaveReason, Member, Quality, ResetReason};
use crate::wire::{Json, LogLane, PeerId, Position, RoomName, UserId};

/// A connection as its owner numbers it. Numbers are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// A request under way; it is also the `id` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A send under way. Unlike its `seq` it never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SendId(pub u64);

/// Something for the owner to do or to pass on.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// For whoever listens to a room or to the client.
    Event(Event),
    /// A request is done.
    Answer(RequestId, Result<Answer, RequestError>),
    /// A send is done.
    Sent(SendId, Result<Receipt, SendError>),
    /// This connection is of no more use: close it.
    Close(LinkId, LinkClose),
}

/// Why a client closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkClose {
    /// The gateway said `close`.
    ByGateway,
    /// A newer connection carries the session.
    Replaced,
    /// No `welcome` came in time.
    NoWelcome,
    /// The greeting was refused for now.
    NotNow,
    /// The greeting was refused for good, and another connection carries the session.
    Refused,
    /// The gateway left answers out, or sent more than can be kept in order.
    OutOfStep,
    /// The owner gave it up.
    Dropped,
    /// The client has ended.
    Ended,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Something in a room.
    Room(RoomName, RoomEvent),
    /// A connection carries the session (again).
    Live(Live),
    /// No connection carries the session any more, or the one that does has gone silent.
    Down,
    /// How the path to the gateway is doing.
    Quality(Quality),
    /// The connection's address changed: restart ICE.
    Moved,
    /// The token ends in so many milliseconds: bring a new one.
    Expiring(u64),
    /// The gateway is about to go; the client moves by itself in so many milliseconds.
    Draining(u64),
    /// Something without an answer of its own was refused: an ephemeral message, or the greeting of
    /// a connection while another one carries the session.
    Refused {
        /// The room it was about, as far as the gateway could tell.
        room: Option<RoomName>,
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// The session is over and nothing more follows.
    Ended(Ended),
}

/// See [`Event::Live`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// The connection.
    pub link: LinkId,
    /// The session's name inside rooms. A new one when the session is new.
    pub peer: PeerId,
    /// Who it belongs to.
    pub user: Option<UserId>,
    /// Whether the session went on from where it was.
    pub resumed: bool,
}

/// Something that happened in a room.
#[derive(Clone, Debug, PartialEq)]
pub enum RoomEvent {
    /// Another member sent something.
    Message {
        /// The lane it came on.
        lane: LogLane,
        /// Its place in the lane's log.
        position: Position,
        /// The sender.
        from: PeerId,
        /// Oneself, if it was sent to oneself alone.
        to: Option<PeerId>,
        /// As the sender wrote it.
        body: Json,
    },
    /// Another member sent something passing.
    Ephemeral {
        /// The sender.
        from: PeerId,
        /// As the sender wrote it.
        body: Json,
    },
    /// Somebody joined.
    Joined(Member),
    /// Somebody replaced their metadata.
    Updated(PeerId, Json),
    /// Somebody's membership ended.
    Left(PeerId, LeaveReason),
    /// Somebody lost their connection.
    Away(PeerId),
    /// Somebody away is there again.
    Back(PeerId),
    /// What was missed could not be made up for: go on from this list of members.
    Reset(ResetCause, Vec<Member>),
    /// The membership is over although nobody here ended it.
    Lost {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
}

/// Why a room started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCause {
    /// The gateway said so.
    Gateway(ResetReason),
    /// The gateway knew the session but not its membership; the client joined again.
    Rejoined,
    /// The gateway did not know the session any more; the client joined again in a new one.
    NewSession,
    /// The owner did not take the room's events for too long; they were let go.
    Lagged,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Done.
    Ok,
    /// A member now; who is there.
    Joined(Vec<Member>),
    /// Who is there, as the gateway sees it.
    Members(Vec<Member>),
    /// Servers for ICE.
    Ice {
        /// For `RTCConfiguration.iceServers`.
        servers: Vec<IceServer>,
        /// Seconds the credentials are good for.
        ttl: u64,
    },
}

/// A send is in the room's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Where, if the gateway said; it need not when it answers for many at once.
    pub position: Option<Position>,
}

/// Why the session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The user ended it.
    Bye,
    /// The gateway closed it with this code and does not want it back.
    Closed {
        /// The number, kept even if this version does not know it.
        code: u16,
        /// For people.
        reason: String,
    },
    /// The greeting was refused for good.
    Refused {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
}

/// Why a command was not taken up at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The session is over, or ending.
    #[error("the session is over")]
    Ended,
    /// Neither a member of the room nor about to be.
    #[error("not in this room")]
    NotInRoom,
    /// Already in the room, or joining or leaving it.
    #[error("already in this room, or still leaving it")]
    AlreadyInRoom,
    /// The room's outbox holds as many unanswered bytes as it may.
    #[error("too much is waiting to be accepted on this lane")]
    OutboxFull,
    /// More than the gateway takes.
    #[error("larger than the gateway takes")]
    TooLarge,
    /// As many requests are waiting for answers as may.
    #[error("too many requests are waiting for answers")]
    TooManyRequests,
    /// Metadata must be an object.
    #[error("metadata must be a JSON object")]
    NotAnObject,
    /// No connection carries the session now, and this cannot wait for one.
    #[error("not connected")]
    NotConnected,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The gateway refused it.
    #[error("{code}: {message}")]
    Refused {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// What it was about is gone: the connection, for a `ping`; the wish to join, for a `join`
    /// that was overtaken by a `leave`.
    #[error("overtaken by events")]
    Interrupted,
    /// The session ended first.
    #[error("the session is over")]
    Ended,
}

/// Why a send was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The gateway refused it: it is not in the log.
    #[error("{code}: {message}")]
    Refused {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// The session was lost, or ended, after it had gone out and before it was answered: it
    /// may or may not be in the log. It is not sent again, since that could apply it twice.
    #[error("lost with the session; it may or may not have arrived")]
    Uncertain,
    /// The session or the membership ended before it went out: it is not in the log.
    #[error("never sent")]
    NotSent,
}
