//! The rooms that this node follows: who is told their news, and how far they are known.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use handover_protocol::wire::message::Positions;
use handover_protocol::wire::{Epoch, LogLane, PeerId, PerLane, RoomName};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{Shift, stored};
use crate::broker::{Heard, News};

/// News a room may be behind before it is sent to read its log.
const NEWS_HELD_MAX: usize = 1_024;

/// The last entry of a lane that this node has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) offset: u64,
    /// Tells the entry from another at the same offset; nothing if only the offset is known.
    pub(super) mark: String,
}

/// How far a room's log is known to this node. A Redis that has less, or has something else
/// there, has lost what was said: it makes a new epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) epoch: Epoch,
    pub(super) last: PerLane<Last>,
}

impl Seen {
    /// What was seen here, and what somebody else in this process knows of the same life.
    pub(super) fn most(seen: Option<Seen>, known: Option<Positions>) -> Option<Seen> {
        let Some(known) = known else { return seen };
        let fresh = || Seen { epoch: known.epoch, last: PerLane::default() };
        let mut seen = seen.filter(|seen| seen.epoch == known.epoch).unwrap_or_else(fresh);
        seen.learn(known, Vec::new());
        Some(seen)
    }

    /// Takes in what Redis answered; `marks` are of the last entries in that answer.
    fn learn(&mut self, positions: Positions, marks: Vec<(LogLane, Last)>) {
        if self.epoch != positions.epoch {
            *self = Seen { epoch: positions.epoch, last: PerLane::default() };
        }
        for lane in LogLane::ALL {
            let mark = String::new();
            self.raise(lane, Last { offset: positions.on(lane).offset, mark });
        }
        for (lane, last) in marks {
            self.raise(lane, last);
        }
    }

    fn raise(&mut self, lane: LogLane, last: Last) {
        let known = &mut self.last[lane];
        if last.offset > known.offset || (last.offset == known.offset && known.mark.is_empty()) {
            *known = last;
        }
    }
}

/// A room that is followed here.
struct Follower {
    room: RoomName,
    slot: u16,
    heard: mpsc::Sender<Heard>,
    /// See [`News`].
    missed: Arc<AtomicBool>,
    seen: Option<Seen>,
    /// Nothing was missed since Redis last answered about the room: what is heard follows what
    /// was seen. Otherwise that stands until Redis has been asked.
    is_sure: bool,
}

/// By channel, every room that is followed here.
#[derive(Default)]
pub(super) struct Rooms(Mutex<HashMap<String, Follower>>);

impl Rooms {
    /// Held for a handful of map operations at a time, never across an await.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Follower>> {
        // Every change of it is one insertion or removal: it is whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn follow(&self, channel: String, slot: u16, room: RoomName) -> News {
        let (heard, receiver) = mpsc::channel(NEWS_HELD_MAX);
        let missed = Arc::new(AtomicBool::new(false));
        let news = News { heard: receiver, missed: missed.clone() };
        let mut rooms = self.lock();
        // Who follows it anew knows what was known before.
        let seen = rooms.remove(&channel).and_then(|before| before.seen);
        rooms.insert(channel, Follower { room, slot, heard, missed, seen, is_sure: false });
        news
    }

    /// The channels in slots that `ours` takes, without those nobody listens to any more.
    pub(super) fn channels(&self, ours: impl Fn(u16) -> bool) -> Vec<String> {
        let mut rooms = self.lock();
        rooms.retain(|_, follower| !(ours(follower.slot) && follower.heard.is_closed()));
        let ours = rooms.iter().filter(|(_, follower)| ours(follower.slot));
        ours.map(|(channel, _)| channel.clone()).collect()
    }

    /// Something may have been missed on these channels.
    pub(super) fn doubt<'a>(&self, channels: impl IntoIterator<Item = &'a String>) {
        let mut rooms = self.lock();
        for channel in channels {
            if let Some(follower) = rooms.get_mut(channel) {
                follower.is_sure = false;
                follower.tell(Heard::Doubt);
            }
        }
    }

    /// Tells what was published, unless this node said it itself.
    pub(super) fn hear(&self, channel: &str, payload: &[u8], node: &str, shift: Shift) {
        let mut rooms = self.lock();
        if let Some(follower) = rooms.get_mut(channel) {
            let heard = follower.understand(payload, node, shift).unwrap_or(Some(Heard::Doubt));
            if let Some(heard) = heard {
                follower.tell(heard);
            }
        }
    }

    pub(super) fn seen(&self, channel: &str) -> Option<Seen> {
        self.lock().get(channel)?.seen.clone()
    }

    /// Whether a room stands where it was seen to stand, and so where replicas have it.
    pub(super) fn is_known(&self, channel: &str, positions: Positions) -> bool {
        self.seen(channel).is_some_and(|seen| {
            let is_there = |lane| seen.last[lane].offset == positions.on(lane).offset;
            seen.epoch == positions.epoch && LogLane::ALL.into_iter().all(is_there)
        })
    }

    /// See [`Seen::learn`].
    pub(super) fn learn(&self, channel: &str, positions: Positions, marks: Vec<(LogLane, Last)>) {
        if let Some(follower) = self.lock().get_mut(channel) {
            let epoch = positions.epoch;
            let fresh = || Seen { epoch, last: PerLane::default() };
            follower.seen.get_or_insert_with(fresh).learn(positions, marks);
            follower.is_sure = true;
        }
    }
}

impl Follower {
    /// `Some(None)` for what this node said itself.
    fn understand(&mut self, payload: &[u8], node: &str, shift: Shift) -> Option<Option<Heard>> {
        let text = std::str::from_utf8(payload).ok()?;
        let (kind, rest) = text.split_at_checked(1)?;
        let lane = match kind {
            "s" => LogLane::Signal,
            "b" => LogLane::Bulk,
            "e" => {
                let (from, rest) = rest.split_once(' ')?;
                if from == node {
                    return Some(None);
                }
                let ephemeral = stored::ephemeral(&self.room, rest)?;
                return Some(Some(Heard::Ephemeral(Box::new(ephemeral))));
            }
            "f" => {
                let (peer, generation) = rest.split_once(' ')?;
                let peer = PeerId::parse(peer).ok()?;
                return Some(Some(Heard::Resumed(peer, generation.parse().ok()?)));
            }
            // A new epoch among others: read it.
            _ => return None,
        };
        let entry = stored::entry(&self.room, lane, rest, shift).ok()?;
        // Which epoch is the newer one, answers say and news do not.
        let seen = self.seen.as_mut().filter(|seen| self.is_sure && seen.epoch == entry.epoch);
        if let Some(seen) = seen {
            let (known, last) = (&seen.last[lane], stored::last(rest)?);
            let is_other = last.offset == known.offset && last.mark != known.mark;
            if last.offset > known.offset + 1 || (is_other && !known.mark.is_empty()) {
                // Missing, or not what was there: Redis is asked before anything else is heard.
                self.is_sure = false;
                return None;
            }
            seen.raise(lane, last);
        }
        Some(Some(Heard::Entry(entry)))
    }

    fn tell(&self, heard: Heard) {
        if let Err(TrySendError::Full(_)) = self.heard.try_send(heard) {
            self.missed.store(true, Ordering::Release);
        }
    }
}
