//! One lane's log: append, read on from a position, let go of what is old.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::entry::Entry;
use crate::limits::Retention;
use crate::time::Time;

/// The entries of one lane in one epoch. Offsets are contiguous: the entry at index `i` has
/// offset `first + i`.
#[derive(Debug)]
pub struct Log {
    entries: VecDeque<Arc<Entry>>,
    /// Offset of the oldest entry held, or of the next one if none is.
    first: u64,
    bytes: usize,
}

/// What a log has behind a position.
#[derive(Clone, Debug)]
pub enum Read {
    /// The next entry.
    Entry(Arc<Entry>),
    /// Nothing yet.
    Current,
    /// The entry behind the position is no longer held.
    Trimmed,
    /// The position lies beyond the end of the log.
    Ahead,
    /// Nothing, and nothing will ever follow: this life of the log is over.
    Over,
}

/// Why entries were let go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Because they were old enough, or old enough to be counted and too many.
    pub aged: usize,
    /// Because the bound on bytes forced it although they were within the window. A client that
    /// is away may find its position lost.
    pub forced: usize,
}

impl Default for Log {
    fn default() -> Self {
        Log::starting_after(0)
    }
}

impl Log {
    /// An empty log whose next entry has the offset behind `offset`.
    pub fn starting_after(offset: u64) -> Self {
        Log { entries: VecDeque::new(), first: offset + 1, bytes: 0 }
    }

    /// The offset of the newest entry there has been; 0 for none.
    pub fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    /// The offset of the oldest entry held, or of the next one if none is.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Bytes held, as [`Entry::bytes`] counts them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the next entry.
    ///
    /// # Panics
    /// If the entry's offset is not the one behind [`Log::last`]: whoever numbers entries and
    /// whoever keeps them would disagree, and every position after it would be wrong.
    pub fn append(&mut self, entry: Arc<Entry>) {
        assert_eq!(entry.offset, self.last() + 1, "a log's offsets have no holes");
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }

    /// What follows the entry with offset `after`.
    pub fn read(&self, after: u64) -> Read {
        if after > self.last() {
            return Read::Ahead;
        }
        let next = after + 1;
        if next < self.first {
            return Read::Trimmed;
        }
        match usize::try_from(next - self.first).ok().and_then(|index| self.entries.get(index)) {
            Some(entry) => Read::Entry(entry.clone()),
            None => Read::Current,
        }
    }

    /// Lets go of what `keep` does not cover.
    pub fn trim(&mut self, now: Time, keep: &Retention) -> Trimmed {
        let mut trimmed = Trimmed::default();
        while let Some(oldest) = self.entries.front() {
            let age = now.since(oldest.at);
            let is_needed = age < keep.window;
            let too_many = !is_needed && self.entries.len() > keep.entries;
            let aged = !is_needed && age > keep.age;
            // The newest entry has a reader somewhere, however small the bound.
            let too_big = self.bytes > keep.bytes && self.entries.len() > 1;
            if !aged && !too_many && !too_big {
                break;
            }
            if is_needed {
                trimmed.forced += 1;
            } else {
                trimmed.aged += 1;
            }
            self.bytes -= oldest.bytes();
            self.first += 1;
            self.entries.pop_front();
        }
        trimmed
    }

    /// Lets go of the oldest entries until no more than `bytes` are held. Those younger than `spared`
    /// stay: their readers are on the way.
    pub fn shrink(&mut self, now: Time, bytes: usize, spared: Duration) -> Trimmed {
        let mut trimmed = Trimmed::default();
        while self.bytes > bytes
            && let Some(oldest) = self.entries.pop_front_if(|oldest| now.since(oldest.at) >= spared)
        {
            self.bytes -= oldest.bytes();
            self.first += 1;
            trimmed.forced += 1;
        }
        trimmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::entry::Event;
    use crate::wire::{Epoch, LogLane, PeerId, RoomName};

    fn entry(offset: u64, at: u64) -> Arc<Entry> {
        let room = RoomName::parse("r").unwrap();
        let (epoch, peer) = (Epoch::parse("e").unwrap(), PeerId::parse("p").unwrap());
        let at = Time::from_micros(at * 1_000_000);
        Arc::new(Entry::new(room, LogLane::Signal, epoch, offset, at, peer, Event::Away))
    }

    fn offset_behind(log: &Log, after: u64) -> Result<u64, String> {
        match log.read(after) {
            Read::Entry(entry) => Ok(entry.offset),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn reads_on_from_any_position_it_holds() {
        let mut log = Log::default();
        assert_eq!(offset_behind(&log, 0).unwrap_err(), "Current");
        assert_eq!(offset_behind(&log, 1).unwrap_err(), "Ahead");
        for offset in 1..=5 {
            log.append(entry(offset, offset));
        }
        assert_eq!((offset_behind(&log, 0), offset_behind(&log, 4)), (Ok(1), Ok(5)));
        assert_eq!(offset_behind(&log, 5).unwrap_err(), "Current");
    }

    #[test]
    fn trims_by_count_bytes_and_age_and_says_which() {
        let mut log = Log::default();
        for offset in 1..=10 {
            log.append(entry(offset, offset));
        }
        let one = entry(1, 0).bytes();
        let keep = |entries, bytes, age, window| Retention {
            entries,
            bytes,
            age: Duration::from_secs(age),
            window: Duration::from_secs(window),
        };
        // At 10 s, the entry of offset n is 10 - n seconds old.
        let now = Time::from_micros(10_000_000);
        let untouched = Trimmed::default();
        assert_eq!(log.trim(now, &keep(1, usize::MAX, 60, 10)), untouched, "all are needed");
        assert_eq!(log.trim(now, &keep(1, usize::MAX, 3, 10)), untouched, "all are needed");
        assert_eq!(log.trim(now, &keep(8, usize::MAX, 60, 4)), Trimmed { aged: 2, forced: 0 });
        assert_eq!(log.trim(now, &keep(99, 6 * one, 60, 7)), Trimmed { aged: 1, forced: 1 });
        assert_eq!(log.trim(now, &keep(99, usize::MAX, 3, 1)), Trimmed { aged: 2, forced: 0 });
        assert_eq!((log.first(), log.last(), log.bytes()), (7, 10, 4 * one));
        assert_eq!(offset_behind(&log, 5).unwrap_err(), "Trimmed");
        assert_eq!(offset_behind(&log, 6), Ok(7));
        log.trim(now + Duration::from_secs(60), &keep(99, usize::MAX, 3, 3));
        assert_eq!((log.first(), log.last(), log.bytes()), (11, 10, 0));
        assert_eq!(offset_behind(&log, 10).unwrap_err(), "Current");
    }

    #[test]
    fn shrinks_to_so_many_bytes_and_spares_what_is_young() {
        let mut log = Log::default();
        for offset in 1..=10 {
            log.append(entry(offset, offset));
        }
        let (one, now) = (entry(1, 0).bytes(), Time::from_micros(10_000_000));
        let spared = Duration::from_secs(3);
        assert_eq!(log.shrink(now, 8 * one, spared), Trimmed { aged: 0, forced: 2 });
        assert_eq!(log.shrink(now, 8 * one, spared), Trimmed::default());
        assert_eq!(log.shrink(now, 0, spared).forced, 5, "offset 8 is two seconds old");
        assert_eq!((log.first(), log.last(), log.bytes()), (8, 10, 3 * one));
        assert_eq!(offset_behind(&log, 6).unwrap_err(), "Trimmed");
        log.shrink(now + spared, one - 1, spared);
        assert_eq!((log.first(), log.last(), log.bytes()), (11, 10, 0), "the newest one, too");
        log.append(entry(11, 13));
        assert_eq!(offset_behind(&log, 10), Ok(11));
    }
}
