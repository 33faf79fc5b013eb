//! One room: who is in it, and what was said, in order.
//!
//! [`Room`] is the authority: it numbers entries, applies each send once and knows the
//! members. A broker keeps one per room (or its equal in a store), and every node that has
//! members in the room keeps a copy of its logs.

pub mod entry;
pub mod log;
pub mod presence;
pub mod recovery;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::limits::Retention;
use crate::time::Time;
use crate::wire::message::{LeaveReason, Member, Positions, Send};
use crate::wire::{Epoch, ErrorCode, Json, LogLane, PeerId, PerLane, RoomName, UserId};
use entry::{Entry, Event};
use log::{Log, Trimmed};

/// The highest `seq` applied for a session on a lane, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The session's number for it.
    pub seq: u64,
    /// The life of the log it went into.
    pub epoch: Epoch,
    /// Its entry's offset.
    pub offset: u64,
}

/// Why a room refused something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: &'static str,
    /// The `seq` to go on from, with [`ErrorCode::SeqGap`].
    pub expected: Option<u64>,
}

impl Refusal {
    /// A refusal without an expected `seq`.
    pub const fn new(code: ErrorCode, message: &'static str) -> Self {
        Refusal { code, message, expected: None }
    }

    /// The answer to everything but `join` from who is not in the room.
    pub const NOT_A_MEMBER: Refusal =
        Refusal::new(ErrorCode::NotAMember, "not a member of this room");

    /// The answer to who would show more in a room than it may hold of everybody.
    pub const TOO_MUCH_SHOWN: Refusal =
        Refusal::new(ErrorCode::TooLarge, "too much metadata in this room, with everybody else's");
}

/// What became of a `send`.
#[derive(Clone, Debug)]
pub enum Sent {
    /// It is in the log now.
    Appended(Arc<Entry>),
    /// It was before; this is the highest applied.
    Duplicate(Applied),
}

/// A room as somebody who starts (again) in it needs to know it.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The life of the logs and the last offset used on each lane.
    pub positions: Positions,
    /// The highest `seq` applied for the asking session.
    pub seq: PerLane<u64>,
    /// Everybody, in the order they joined.
    pub members: Vec<Member>,
}

/// What became of a `join`.
#[derive(Clone, Debug)]
pub struct Joining {
    /// The room right after it.
    pub snapshot: Snapshot,
    /// The `member_joined`; `None` if the session was a member already.
    pub entry: Option<Arc<Entry>>,
}

/// How a room is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomLimits {
    /// Members at the most.
    pub members: usize,
    /// Bytes of metadata that they may show together; see [`RoomLimits::refuses`].
    pub metadata_bytes: usize,
    /// How much of each log is kept.
    pub retention: PerLane<Retention>,
}

impl RoomLimits {
    /// Whether who shows `had` bytes of metadata may not show `wanted` where everybody shows
    /// `shown`. No more than an equal share is never refused: a few who show much do not keep the
    /// others out. So all of them show at most twice [`RoomLimits::metadata_bytes`].
    pub fn refuses(&self, shown: usize, had: usize, wanted: usize) -> bool {
        let share = (self.metadata_bytes / self.members.max(1)).max("{}".len());
        let together = shown.saturating_sub(had).saturating_add(wanted);
        wanted > had && wanted > share && together > self.metadata_bytes
    }
}

/// What sessions have sent in a room that is removed, in as little as that takes.
#[derive(Debug)]
pub struct Dormant(Box<[(PeerId, PerLane<Option<Applied>>)]>);

impl Dormant {
    /// Forgets what a session sent, once the session has ended.
    pub fn forget(&mut self, peer: PeerId) {
        if self.0.iter().any(|(other, _)| *other == peer) {
            let kept = std::mem::take(&mut self.0).into_iter();
            self.0 = kept.filter(|(other, _)| *other != peer).collect();
        }
    }

    /// Whether no session that may still send has ever sent here.
    pub fn remembers_nobody(&self) -> bool {
        self.0.is_empty()
    }
}

/// One life of a room and the `seq`s that outlive it.
#[derive(Debug)]
pub struct Room {
    name: RoomName,
    epoch: Epoch,
    limits: RoomLimits,
    logs: PerLane<Log>,
    members: HashMap<PeerId, Member>,
    /// Bytes of metadata that they show.
    shown: usize,
    /// Since when nobody has been in it; meaningless while somebody is.
    empty_since: Time,
    /// Kept when a member leaves: a `seq` belongs to the session, not to the membership.
    applied: HashMap<PeerId, PerLane<Option<Applied>>>,
}

impl Room {
    /// An empty room in the life named `epoch`.
    pub fn new(now: Time, name: RoomName, epoch: Epoch, limits: RoomLimits) -> Self {
        Room {
            name,
            epoch,
            limits,
            logs: PerLane::default(),
            members: HashMap::new(),
            shown: 0,
            empty_since: now,
            applied: HashMap::new(),
        }
    }

    /// Begins another life: empty logs, nobody in it. What sessions have sent is remembered.
    pub fn begin(&mut self, now: Time, epoch: Epoch) {
        self.epoch = epoch;
        self.empty_since = now;
        self.logs = PerLane::default();
        self.members.clear();
        self.shown = 0;
    }

    /// What has to be remembered of it once it is removed.
    pub fn into_dormant(self) -> Dormant {
        Dormant(self.applied.into_iter().collect())
    }

    /// Remembers what sessions have sent in an earlier life.
    pub fn remembering(mut self, dormant: Dormant) -> Self {
        self.applied.extend(dormant.0);
        self
    }

    /// The life of the room's logs.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// One lane's log.
    pub fn log(&self, lane: LogLane) -> &Log {
        &self.logs[lane]
    }

    /// For how long nobody has been in it; `None` if somebody is.
    pub fn empty_for(&self, now: Time) -> Option<Duration> {
        self.members.is_empty().then(|| now.since(self.empty_since))
    }

    /// Whether no session that may still send has ever sent here.
    pub fn remembers_nobody(&self) -> bool {
        self.applied.is_empty()
    }

    /// Whether `peer` is in it.
    pub fn is_member(&self, peer: PeerId) -> bool {
        self.members.contains_key(&peer)
    }

    /// Makes `peer` a member, or answers with the room as it is if it is one already.
    pub fn join(
        &mut self,
        now: Time,
        peer: PeerId,
        user: Option<UserId>,
        metadata: Option<Json>,
    ) -> Result<Joining, Refusal> {
        let metadata = metadata.unwrap_or_else(Json::empty_object);
        if !self.is_member(peer) {
            if self.members.len() >= self.limits.members {
                return Err(Refusal::new(ErrorCode::RoomFull, "this room is full"));
            }
            if self.limits.refuses(self.shown, 0, metadata.len()) {
                return Err(Refusal::TOO_MUCH_SHOWN);
            }
        }
        Ok(self.rejoin(now, peer, user, Some(metadata)))
    }

    /// The same for who was a member before the room was lost: it has had its place, and shows what it
    /// has shown.
    pub fn rejoin(
        &mut self,
        now: Time,
        peer: PeerId,
        user: Option<UserId>,
        metadata: Option<Json>,
    ) -> Joining {
        if self.is_member(peer) {
            return Joining { snapshot: self.snapshot(peer), entry: None };
        }
        let metadata = metadata.unwrap_or_else(Json::empty_object);
        self.shown += metadata.len();
        let event = Event::Joined { user: user.clone(), metadata: metadata.clone() };
        let entry = self.append(now, LogLane::Signal, peer, event);
        let since = entry.offset;
        self.members.insert(peer, Member { peer, user, metadata, since, away: false });
        Joining { snapshot: self.snapshot(peer), entry: Some(entry) }
    }

    /// Ends `peer`'s membership, if it is a member.
    pub fn leave(&mut self, now: Time, peer: PeerId, reason: LeaveReason) -> Option<Arc<Entry>> {
        self.shown -= self.members.remove(&peer)?.metadata.len();
        self.empty_since = now;
        Some(self.append(now, LogLane::Signal, peer, Event::Left { reason }))
    }

    /// Replaces `peer`'s metadata.
    pub fn update(
        &mut self,
        now: Time,
        peer: PeerId,
        metadata: Json,
    ) -> Result<Arc<Entry>, Refusal> {
        let had = self.metadata(peer).ok_or(Refusal::NOT_A_MEMBER)?.len();
        if self.limits.refuses(self.shown, had, metadata.len()) {
            return Err(Refusal::TOO_MUCH_SHOWN);
        }
        self.fix(now, peer, metadata)
    }

    /// The same with what `peer` has to show, however much everybody else does.
    pub fn fix(&mut self, now: Time, peer: PeerId, metadata: Json) -> Result<Arc<Entry>, Refusal> {
        let member = self.members.get_mut(&peer).ok_or(Refusal::NOT_A_MEMBER)?;
        self.shown = self.shown - member.metadata.len() + metadata.len();
        member.metadata = metadata.clone();
        Ok(self.append(now, LogLane::Signal, peer, Event::Updated { metadata }))
    }

    /// Marks `peer` as away or back. `None` if that is no change, so that the two alternate.
    pub fn mark_away(&mut self, now: Time, peer: PeerId, away: bool) -> Option<Arc<Entry>> {
        let member = self.members.get_mut(&peer).filter(|member| member.away != away)?;
        member.away = away;
        let event = if away { Event::Away } else { Event::Back };
        Some(self.append(now, LogLane::Signal, peer, event))
    }

    /// Puts a member's message into its lane's log, once.
    pub fn send(&mut self, now: Time, peer: PeerId, send: Send) -> Result<Sent, Refusal> {
        if !self.is_member(peer) {
            return Err(Refusal::NOT_A_MEMBER);
        }
        let applied = self.applied.get(&peer).and_then(|lanes| lanes[send.lane]);
        let expected = applied.map_or(1, |applied| applied.seq + 1);
        // A repeated send is answered before its addressee is looked at: the addressee may
        // have left since the first time.
        if let Some(applied) = applied.filter(|_| send.seq < expected) {
            return Ok(Sent::Duplicate(applied));
        }
        if send.seq > expected {
            return Err(Refusal {
                code: ErrorCode::SeqGap,
                message: "an earlier seq is missing",
                expected: Some(expected),
            });
        }
        self.check_addressee(peer, send.to)?;
        let event = Event::Message { seq: send.seq, to: send.to, body: send.body };
        let entry = self.append(now, send.lane, peer, event);
        let applied = Applied { seq: send.seq, epoch: self.epoch, offset: entry.offset };
        self.applied.entry(peer).or_default()[send.lane] = Some(applied);
        Ok(Sent::Appended(entry))
    }

    /// Whether `peer` may address something to `to` (or to everybody).
    pub fn check_addressee(&self, peer: PeerId, to: Option<PeerId>) -> Result<(), Refusal> {
        if !self.is_member(peer) {
            return Err(Refusal::NOT_A_MEMBER);
        }
        match to {
            Some(to) if to == peer => {
                Err(Refusal::new(ErrorCode::BadRequest, "a message to oneself"))
            }
            Some(to) if !self.is_member(to) => {
                Err(Refusal::new(ErrorCode::NoSuchPeer, "the addressee is not in this room"))
            }
            _ => Ok(()),
        }
    }

    /// The room as it is now, for `viewer`.
    pub fn snapshot(&self, viewer: PeerId) -> Snapshot {
        let mut members: Vec<Member> = self.members.values().cloned().collect();
        members.sort_unstable_by_key(|member| member.since);
        Snapshot { positions: self.positions(), seq: self.seq(viewer), members }
    }

    /// What a member shows of itself.
    pub fn metadata(&self, peer: PeerId) -> Option<&Json> {
        self.members.get(&peer).map(|member| &member.metadata)
    }

    /// The last offset used on each lane.
    pub fn positions(&self) -> Positions {
        let (signal, bulk) = (self.logs.signal.last(), self.logs.bulk.last());
        Positions { epoch: self.epoch, signal, bulk }
    }

    /// The highest `seq` applied for `peer` on each lane.
    pub fn seq(&self, peer: PeerId) -> PerLane<u64> {
        let seq = |applied: Option<Applied>| applied.map_or(0, |applied| applied.seq);
        self.applied.get(&peer).map_or_else(PerLane::default, |lanes| PerLane {
            signal: seq(lanes.signal),
            bulk: seq(lanes.bulk),
        })
    }

    /// Forgets what a session sent, once the session has ended.
    pub fn forget(&mut self, peer: PeerId) {
        self.applied.remove(&peer);
    }

    /// Lets go of what the retention does not cover.
    pub fn trim(&mut self, now: Time) -> PerLane<Trimmed> {
        let keep = self.limits.retention;
        PerLane {
            signal: self.logs.signal.trim(now, &keep.signal),
            bulk: self.logs.bulk.trim(now, &keep.bulk),
        }
    }

    /// Lets go of what each log holds beyond `bytes`; see [`Log::shrink`].
    pub fn shrink(&mut self, now: Time, bytes: usize, spared: Duration) {
        LogLane::ALL.into_iter().for_each(|lane| {
            self.logs[lane].shrink(now, bytes, spared);
        });
    }

    fn append(&mut self, now: Time, lane: LogLane, peer: PeerId, event: Event) -> Arc<Entry> {
        let log = &mut self.logs[lane];
        let offset = log.last() + 1;
        let entry = Entry::new(self.name.clone(), lane, self.epoch, offset, now, peer, event);
        let entry = Arc::new(entry);
        log.append(entry.clone());
        log.trim(now, &self.limits.retention[lane]);
        entry
    }
}

#[cfg(test)]
mod tests;
