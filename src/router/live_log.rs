//! This node's copy of a room's logs, written by whoever serves the room and read by its members.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use handover_protocol::limits::Retention;
use handover_protocol::room::entry::Entry;
use handover_protocol::room::log::{Log, Read, Trimmed};
use handover_protocol::session::RoomLog;
use handover_protocol::time::Time;
use handover_protocol::wire::message::Positions;
use handover_protocol::wire::{Epoch, LogLane, PerLane};
use prometheus_client::metrics::gauge::Gauge;

use crate::broker::RoomState;

/// One life of a room's logs on this node.
#[derive(Debug)]
pub struct LiveLog {
    epoch: Epoch,
    /// Written by whoever serves the room, held for one entry at a time.
    logs: RwLock<PerLane<Log>>,
    /// What all logs of this node hold, these included for as long as they are.
    held: Gauge,
    /// The room has begun another life.
    over: AtomicBool,
}

/// A reader's handle.
pub type SharedLog = Arc<LiveLog>;

impl LiveLog {
    /// Starts from what the broker holds. Its bytes are part of `held`.
    pub fn new(state: RoomState, held: Gauge) -> Self {
        let mut logs = PerLane::<Log>::default();
        let RoomState { positions, entries } = state;
        for (lane, entries) in [(LogLane::Signal, entries.signal), (LogLane::Bulk, entries.bulk)] {
            logs[lane] = Log::starting_after(positions.on(lane).offset - entries.len() as u64);
            entries.into_iter().for_each(|entry| logs[lane].append(entry));
        }
        held.inc_by(bytes(&logs));
        let (logs, over) = (RwLock::new(logs), AtomicBool::new(false));
        LiveLog { epoch: positions.epoch, logs, held, over }
    }

    fn logs(&self) -> RwLockReadGuard<'_, PerLane<Log>> {
        self.logs.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every change goes through here, so that what is held is counted to the byte.
    fn change<T>(&self, change: impl FnOnce(&mut PerLane<Log>) -> T) -> T {
        let mut logs = self.logs.write().unwrap_or_else(PoisonError::into_inner);
        let before = bytes(&logs);
        let changed = change(&mut logs);
        self.held.inc_by(bytes(&logs) - before);
        changed
    }

    /// Adds the next entry of its lane. Says what was let go for it.
    pub fn append(&self, entry: Arc<Entry>, keep: &Retention) -> Trimmed {
        self.change(|logs| {
            let log = &mut logs[entry.lane];
            let now = entry.at;
            log.append(entry);
            log.trim(now, keep)
        })
    }

    /// The last offset on a lane.
    pub fn last(&self, lane: LogLane) -> u64 {
        self.logs()[lane].last()
    }

    /// Where it stands.
    pub fn positions(&self) -> Positions {
        let logs = self.logs();
        let (signal, bulk) = (logs.signal.last(), logs.bulk.last());
        Positions { epoch: self.epoch, signal, bulk }
    }

    /// Gives up a lane's entries up to `offset`: what follows them is not to be had any more.
    pub fn skip_to(&self, lane: LogLane, offset: u64) {
        self.change(|logs| logs[lane] = Log::starting_after(offset));
    }

    /// Nothing will be added any more: who has read it to its end learns that the room has begun
    /// another life.
    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Lets go of what `keep` does not cover.
    pub fn trim(&self, now: Time, keep: &PerLane<Retention>) -> Trimmed {
        let (signal, bulk) = self
            .change(|logs| (logs.signal.trim(now, &keep.signal), logs.bulk.trim(now, &keep.bulk)));
        Trimmed { aged: signal.aged + bulk.aged, forced: signal.forced + bulk.forced }
    }

    /// Lets go of what each lane holds beyond `bytes`; see [`Log::shrink`].
    pub fn shrink(&self, now: Time, bytes: usize, spared: Duration) -> Trimmed {
        let shrink = |log: &mut Log| log.shrink(now, bytes, spared).forced;
        let forced = self.change(|logs| shrink(&mut logs.signal) + shrink(&mut logs.bulk));
        Trimmed { aged: 0, forced }
    }
}

impl Drop for LiveLog {
    fn drop(&mut self) {
        self.held.dec_by(bytes(&self.logs()));
    }
}

fn bytes(logs: &PerLane<Log>) -> i64 {
    i64::try_from(logs.signal.bytes() + logs.bulk.bytes()).unwrap_or(i64::MAX)
}

impl RoomLog for LiveLog {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn read(&self, lane: LogLane, after: u64) -> Read {
        // Looked at first: nothing is added once it is set.
        let is_over = self.over.load(Ordering::Acquire);
        let logs = self.logs();
        match logs[lane].read(after) {
            Read::Current if is_over => Read::Over,
            read => read,
        }
    }
}
