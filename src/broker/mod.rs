//! Where rooms and sessions are kept: in this process, or in a store that nodes share.
//!
//! # What every broker guarantees
//! - Operations on one room are applied one after another, each wholly or not at all. The
//!   order of the offsets is the order of application.
//! - A `send` is applied once: a `(session, room, lane, seq)` that was applied before is
//!   answered as a duplicate, whatever happened to the membership or the room since.
//! - An operation under an older generation of its session than the newest `resume` is not
//!   applied ([`Done::Fenced`]).
//! - An entry answered as appended is held until the room's retention lets go of it; offsets
//!   of one epoch are never used twice. A broker that lost a room's log gives it a new epoch.
//! - A session's rooms are recorded with the session: after `resume` on any node they are
//!   what they were.

#[cfg(test)]
mod conformance;
pub mod memory;
pub mod redis;
mod secret;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use handover_protocol::room::entry::{Entry, Ephemeral};
use handover_protocol::room::{Joining, Refusal, Sent, Snapshot};
use handover_protocol::session::grant::Admission;
use handover_protocol::time::Time;
use handover_protocol::wire::message::{LeaveReason, Positions, Send as SendMessage};
use handover_protocol::wire::{Epoch, Json, PeerId, PerLane, RoomName, SessionId, UserId};
use tokio::sync::{mpsc, watch};

pub use secret::SecretHash;

/// See [`Broker::keep`].
pub const KEEP_EVERY: Duration = Duration::from_secs(20);
/// See [`Broker::beat`].
pub const BEAT_EVERY: Duration = Duration::from_secs(1);
/// A beat that is not answered for this long is not waited for, as long as a store that is late counts
/// as one that answers,
pub const BEAT_PATIENCE: Duration = Duration::from_millis(1_300);
/// and comes again after this.
pub const BEAT_AGAIN: Duration = Duration::from_millis(100);

/// The broker could not be reached, or could not answer in time. What it was asked may or may
/// not have been applied; asking again is safe.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the broker cannot do that now: {0}")]
pub struct Unavailable(pub String);

/// A session as it is kept.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    /// Its name.
    pub session: SessionId,
    /// Its public name inside rooms.
    pub peer: PeerId,
    /// Whose it is, what it may do and until when.
    pub admission: Admission,
    /// Of its secret, which is not kept.
    pub secret_hash: SecretHash,
    /// Raised by each resume, never twice to the same; older ones are fenced out.
    pub generation: u64,
    /// The rooms it is a member of.
    pub rooms: Vec<RoomName>,
}

/// On whose behalf a room is changed.
#[derive(Clone, Copy, Debug)]
pub struct Author {
    /// The session.
    pub session: SessionId,
    /// Its public name.
    pub peer: PeerId,
    /// Under which generation.
    pub generation: u64,
}

/// One change of a room, or one look at it.
#[derive(Clone, Debug)]
pub struct RoomOp {
    /// On whose behalf.
    pub author: Author,
    /// What.
    pub change: Change,
}

/// What to do with a room.
#[derive(Clone, Debug)]
pub enum Change {
    /// Make the author a member.
    Join {
        /// Who it belongs to.
        user: Option<UserId>,
        /// Shown to the others.
        metadata: Option<Json>,
    },
    /// Make the author a member where its node has it as one. It needs not be told of others.
    Rejoin {
        /// Who it belongs to.
        user: Option<UserId>,
        /// Shown to the others.
        metadata: Option<Json>,
        /// What it has been told was applied of what it sent, in an earlier life of a room that
        /// the broker may have lost: its next `seq` is behind that.
        seq: PerLane<u64>,
    },
    /// End the author's membership.
    Leave(LeaveReason),
    /// Replace the author's metadata.
    Update(Json),
    /// The same with what it has to show, however much the room's members show.
    Fix(Json),
    /// Append the author's message.
    Send(SendMessage),
    /// Pass something on past the log: to this addressee, or to everybody else. Members of the
    /// author's own node are left to that node.
    Pass {
        /// One addressee, or everybody else.
        to: Option<PeerId>,
        /// What.
        body: Json,
    },
    /// Note that the author has no connection, or has one again.
    MarkAway(bool),
    /// Look at the room.
    Snapshot,
    /// Look at the author's own place in it.
    Place,
}

/// What became of a change.
#[derive(Clone, Debug)]
pub enum Done {
    /// See [`Change::Join`].
    Joined(Joining),
    /// See [`Change::Rejoin`]; with the entry, if it was no member any more.
    Rejoined(Place, Option<Arc<Entry>>),
    /// See [`Change::Leave`]; the entry is `None` if there was no membership. The positions
    /// are those right after it.
    Left(Option<Arc<Entry>>, Positions),
    /// See [`Change::Update`] and [`Change::Fix`].
    Updated(Arc<Entry>),
    /// See [`Change::Send`].
    Sent(Sent),
    /// See [`Change::Pass`].
    Passed,
    /// See [`Change::MarkAway`]; `None` if it changed nothing.
    Marked(Option<Arc<Entry>>),
    /// See [`Change::Snapshot`].
    Snapshot(Snapshot),
    /// See [`Change::Place`].
    Place(Place),
    /// Not applied: a newer connection of the session has taken over.
    Fenced,
}

/// A member's own place in a room.
#[derive(Clone, Debug)]
pub struct Place {
    /// The life of the logs and the last offset used on each lane.
    pub positions: Positions,
    /// The highest `seq` applied for it.
    pub seq: PerLane<u64>,
    /// What it shows of itself.
    pub metadata: Json,
}

/// What [`Broker::retire`] finds of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retired {
    /// The rooms that its record names. It may be in fewer, and in none besides.
    From(Vec<RoomName>),
    /// Nothing: the broker has lost it. It may be in rooms nevertheless.
    Lost,
    /// Somebody else speaks for it, or has ended it.
    Not,
}

/// A room as a node starts to follow it.
#[derive(Clone, Debug)]
pub struct RoomState {
    /// The life of the logs and the last offset used on each lane.
    pub positions: Positions,
    /// The entries held, oldest first, without holes.
    pub entries: PerLane<Vec<Arc<Entry>>>,
}

/// What a node hears of a room it follows.
#[derive(Debug)]
pub enum Heard {
    /// An entry was appended, by whichever node. They may come twice, and some may be missing.
    Entry(Arc<Entry>),
    /// A member on another node passed something on.
    Ephemeral(Box<Ephemeral>),
    /// A session was resumed: what speaks for it under an older generation is replaced.
    Resumed(PeerId, u64),
    /// Something may have been missed.
    Doubt,
}

/// Where a room's news come in. It is followed until this is dropped.
#[derive(Debug)]
pub struct News {
    heard: mpsc::Receiver<Heard>,
    /// Set while `heard` is full and something did not fit in.
    missed: Arc<AtomicBool>,
}

impl News {
    /// What is heard next; nothing once the broker is gone.
    pub fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Option<Heard>> {
        match self.heard.poll_recv(cx) {
            Poll::Pending if self.missed.swap(false, Ordering::AcqRel) => {
                Poll::Ready(Some(Heard::Doubt))
            }
            polled => polled,
        }
    }
}

/// Why a session cannot be resumed.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// No such session, or not its secret.
    #[error("no such session")]
    Unknown,
    /// What is presented is not what the session can go on under.
    #[error("{}", _0.message)]
    Refused(Refusal),
    /// See [`Unavailable`].
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// What [`Broker::keep`] found.
#[derive(Debug, Default)]
pub struct Keeping {
    /// Those that the broker does not have, or not under that generation.
    pub strangers: Vec<Author>,
    /// Why others could not be asked about.
    pub failed: Option<Unavailable>,
}

/// Where rooms and sessions are kept. See the module for what is guaranteed.
#[async_trait]
pub trait Broker: fmt::Debug + Send + Sync + 'static {
    /// Records a new session.
    async fn open(&self, record: SessionRecord) -> Result<(), Unavailable>;

    /// Raises a session's generation and returns the record, if the secret is its own and
    /// [`Admission::succeed`] finds that it may go on: under that admission from now on. Nothing
    /// is changed otherwise. `unix_now` is in seconds since 1970.
    async fn resume(
        &self,
        session: SessionId,
        secret_hash: SecretHash,
        presented: Option<Admission>,
        unix_now: u64,
    ) -> Result<SessionRecord, ResumeError>;

    /// Has the session go on under `admission`, if `author` still speaks for it, and says
    /// whether it does.
    async fn readmit(&self, author: Author, admission: Admission) -> Result<bool, Unavailable>;

    /// Records again a session that the broker has lost, as the node knows it that it is on, and
    /// says whether that still speaks for it. One that has ended is not recorded again.
    async fn revive(&self, _record: SessionRecord) -> Result<bool, Unavailable> {
        Ok(false)
    }

    /// Begins to end a session, if `author` still speaks for it: from now on it cannot be
    /// resumed. What `author` asked of rooms before is still applied.
    async fn retire(&self, author: Author) -> Result<Retired, Unavailable>;

    /// Keeps sessions that are on this node, with a connection or without, from being taken for
    /// those of a node that died. Called every [`KEEP_EVERY`].
    async fn keep(&self, _sessions: Vec<Author>) -> Keeping {
        Keeping::default()
    }

    /// Counts when sessions may have been lost: [`Broker::keep`] is to be called again at once.
    fn losses(&self) -> Option<watch::Receiver<u64>> {
        None
    }

    /// Tells other nodes that this one lives. Called every [`BEAT_EVERY`]. Says whether others
    /// have died since: their members are found by [`Broker::trim`].
    async fn beat(&self) -> Result<bool, Unavailable> {
        Ok(false)
    }

    /// Tells other nodes that this one is about to end.
    async fn part(&self) -> Result<(), Unavailable> {
        Ok(())
    }

    /// Forgets a retired session that has left its rooms, unless another one speaks for it: who did
    /// not know while it was lost.
    async fn end(&self, author: Author) -> Result<(), Unavailable>;

    /// The room's state; a new life named `fresh` if it has none.
    async fn load(
        &self,
        now: Time,
        room: &RoomName,
        fresh: Epoch,
    ) -> Result<RoomState, Unavailable>;

    /// News of the room from now on; `None` if nobody but this node changes it.
    async fn follow(&self, _room: &RoomName) -> Result<Option<News>, Unavailable> {
        Ok(None)
    }

    /// What was appended behind `after`; `None` if the room is gone. Entries that are no longer
    /// held are missing at the beginning.
    async fn read(
        &self,
        room: &RoomName,
        after: PerLane<u64>,
    ) -> Result<Option<RoomState>, Unavailable>;

    /// Applies changes of one room, one after another; `None`, and nothing is applied, if the
    /// room is not the one that `known` was learnt of. A broker that has lost the end of a
    /// room's log, up to `known`, gives the room a new life.
    async fn apply(
        &self,
        now: Time,
        room: &RoomName,
        known: Option<Positions>,
        ops: Vec<RoomOp>,
    ) -> Result<Option<Vec<Result<Done, Refusal>>>, Unavailable>;

    /// The same broker, if it can change a room without waiting.
    fn at_hand(&self) -> Option<&dyn AtHand> {
        None
    }

    /// Lets go of what the room's retention no longer covers, and says where the room stands;
    /// `None` as for [`Broker::apply`]. Members whose node has died become away, and leave as
    /// expired if no node has them after the resume window.
    async fn trim(
        &self,
        now: Time,
        room: &RoomName,
        known: Option<Positions>,
    ) -> Result<Option<Positions>, Unavailable>;

    /// Removes the room if nobody has been in it for [`limits::ROOM_LINGER`]. Says whether it
    /// is gone.
    ///
    /// [`limits::ROOM_LINGER`]: handover_protocol::limits::ROOM_LINGER
    async fn remove_if_empty(&self, now: Time, room: &RoomName) -> Result<bool, Unavailable>;
}

/// A broker that has its rooms in this process, under the same guarantees.
pub trait AtHand {
    /// Applies one change of a room, as [`Broker::apply`] does.
    fn apply_one(&self, now: Time, room: &RoomName, op: RoomOp) -> Result<Done, Refusal>;

    /// Rooms that were removed and are remembered, for the `seq`s of sessions that still live.
    fn dormant(&self) -> usize;

    /// Lets go of what each log of a room holds beyond `bytes`, but for entries younger than
    /// `spared`: the node has let go of it, and it is the same memory.
    fn shrink(&self, now: Time, room: &RoomName, bytes: usize, spared: Duration);
}
