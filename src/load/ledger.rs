//! What was sent, and whether it arrived: the model that `handover load` judges by.
//!
//! A **stream** is what one sender sends to one room on one lane. Its messages are numbered
//! from 0 and written down before they go out. A receiver is owed, of every other member's
//! streams, the messages to everybody and those to itself, in the order of their numbers.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use handover_client::LogLane;
use serde::{Deserialize, Serialize};

/// A session, as the run numbers it.
pub(super) type Session = usize;

/// One sender's messages to one room on one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stream {
    pub(super) from: Session,
    pub(super) room: usize,
    pub(super) lane: LogLane,
}

/// What a message says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) from: Session,
    pub(super) room: usize,
    pub(super) number: usize,
    /// Microseconds since the run began.
    pub(super) sent: u64,
    /// For its size.
    pub(super) padding: String,
}

/// Everything that was sent: the addressee of each message, if it is not for everybody.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    streams: Mutex<HashMap<Stream, Vec<Option<Session>>>>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, HashMap<Stream, Vec<Option<Session>>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a message down. Returns its number.
    pub(super) fn send(&self, stream: Stream, to: Option<Session>) -> usize {
        let mut streams = self.lock();
        let sent = streams.entry(stream).or_default();
        sent.push(to);
        sent.len() - 1
    }

    /// The numbers from `first` to before `end` that `receiver` is owed; all if `end` is absent.
    fn owed(
        &self,
        stream: Stream,
        receiver: Session,
        first: usize,
        end: Option<usize>,
    ) -> Vec<usize> {
        let streams = self.lock();
        let sent = streams.get(&stream).map_or(&[][..], Vec::as_slice);
        let numbered = sent.iter().enumerate().take(end.unwrap_or(usize::MAX)).skip(first);
        let owed = numbered.filter(|(_, to)| to.is_none_or(|to| to == receiver));
        owed.map(|(number, _)| number).collect()
    }

    /// Whether a message was sent, and if so, for whom.
    fn addressee(&self, stream: Stream, number: usize) -> Option<Option<Session>> {
        self.lock().get(&stream)?.get(number).copied()
    }

    fn streams_to(&self, room: usize, receiver: Session) -> Vec<Stream> {
        let streams = self.lock();
        let others = streams.keys().filter(|s| s.room == room && s.from != receiver);
        others.copied().collect()
    }

    /// How many messages of a room `receiver` is owed.
    pub(super) fn owed_in_all(&self, room: usize, receiver: Session) -> usize {
        let streams = self.lock();
        let others = streams.iter().filter(|(s, _)| s.room == room && s.from != receiver);
        let owed = |sent: &[Option<Session>]| {
            sent.iter().filter(|to| to.is_none_or(|to| to == receiver)).count()
        };
        others.map(|(_, sent)| owed(sent)).sum()
    }
}

/// What was wrong, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) repeated: u64,
    pub(super) misordered: u64,
    pub(super) leaked: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Tally) {
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.misordered += other.misordered;
        self.leaked += other.leaked;
    }
}

#[derive(Debug, Default)]
struct Cursor {
    /// Everything owed before this number has come, or is in `missing`.
    next: usize,
    missing: BTreeSet<usize>,
}

/// One member of one room.
#[derive(Debug)]
pub(super) struct Receiver {
    me: Session,
    room: usize,
    cursors: HashMap<(Session, LogLane), Cursor>,
    /// The highest offset seen on each lane.
    offsets: HashMap<LogLane, u64>,
    had: usize,
    tally: Tally,
}

impl Receiver {
    pub(super) fn new(me: Session, room: usize) -> Self {
        let (cursors, offsets) = (HashMap::new(), HashMap::new());
        Receiver { me, room, cursors, offsets, had: 0, tally: Tally::default() }
    }

    /// How many messages have come that were owed.
    pub(super) fn had(&self) -> usize {
        self.had
    }

    /// A message came. `genuine` is whether the gateway named the sender that the message
    /// itself names.
    pub(super) fn take(
        &mut self,
        ledger: &Ledger,
        lane: LogLane,
        offset: u64,
        note: &Note,
        genuine: bool,
    ) {
        self.tally.delivered += 1;
        let stream = Stream { from: note.from, room: note.room, lane };
        let addressee = ledger.addressee(stream, note.number);
        let mine = addressee.is_some_and(|to| to.is_none_or(|to| to == self.me));
        if note.room != self.room || note.from == self.me || !mine || !genuine {
            self.tally.leaked += 1;
            return;
        }
        let cursor = self.cursors.entry((note.from, lane)).or_default();
        if note.number >= cursor.next {
            let skipped = ledger.owed(stream, self.me, cursor.next, Some(note.number));
            cursor.missing.extend(skipped);
            cursor.next = note.number + 1;
        } else if cursor.missing.remove(&note.number) {
            self.tally.misordered += 1;
        } else {
            self.tally.repeated += 1;
            return;
        }
        self.had += 1;
        let highest = self.offsets.entry(lane).or_default();
        if offset <= *highest {
            // Right for its sender, and still not the one order of the lane.
            self.tally.misordered += 1;
        }
        *highest = offset.max(*highest);
    }

    /// Nothing more comes: what has not come is lost. Returns that too.
    pub(super) fn finish(mut self, ledger: &Ledger) -> (Tally, Vec<(Stream, usize)>) {
        let mut lost = Vec::new();
        for stream in ledger.streams_to(self.room, self.me) {
            let cursor = self.cursors.remove(&(stream.from, stream.lane)).unwrap_or_default();
            let rest = ledger.owed(stream, self.me, cursor.next, None);
            lost.extend(cursor.missing.into_iter().chain(rest).map(|number| (stream, number)));
        }
        self.tally.lost = lost.len() as u64;
        (self.tally, lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: Stream = Stream { from: 1, room: 0, lane: LogLane::Signal };

    /// Four messages from session 1: to everybody, to 2, to 3, to everybody.
    fn ledger() -> Ledger {
        let ledger = Ledger::default();
        for to in [None, Some(2), Some(3), None] {
            ledger.send(STREAM, to);
        }
        ledger
    }

    fn note(number: usize) -> Note {
        Note { from: 1, room: 0, number, sent: 0, padding: String::new() }
    }

    /// What session 2 comes to after these numbers, at rising offsets.
    fn after(numbers: &[usize]) -> Tally {
        let (ledger, mut receiver) = (ledger(), Receiver::new(2, 0));
        for (at, number) in numbers.iter().enumerate() {
            receiver.take(&ledger, LogLane::Signal, at as u64 + 1, &note(*number), true);
        }
        receiver.finish(&ledger).0
    }

    #[test]
    fn what_is_owed_once_and_in_order_is_right() {
        assert_eq!(after(&[0, 1, 3]), Tally { delivered: 3, ..Tally::default() });
    }

    #[test]
    fn every_fault_is_seen() {
        let faults = [
            (&[0, 3][..], Tally { delivered: 2, lost: 1, ..Tally::default() }),
            (&[0, 1], Tally { delivered: 2, lost: 1, ..Tally::default() }),
            (&[0, 0, 1, 3], Tally { delivered: 4, repeated: 1, ..Tally::default() }),
            (&[0, 3, 1], Tally { delivered: 3, misordered: 1, ..Tally::default() }),
            (&[0, 1, 2, 3], Tally { delivered: 4, leaked: 1, ..Tally::default() }),
        ];
        for (numbers, tally) in faults {
            assert_eq!(after(numbers), tally, "{numbers:?}");
        }
    }

    #[test]
    fn strangers_other_rooms_and_wrong_offsets_are_seen() {
        let (ledger, mut receiver) = (ledger(), Receiver::new(2, 0));
        let other_room = Note { room: 5, ..note(0) };
        receiver.take(&ledger, LogLane::Signal, 1, &other_room, true);
        receiver.take(&ledger, LogLane::Signal, 1, &note(0), false);
        receiver.take(&ledger, LogLane::Bulk, 1, &note(0), true);
        assert_eq!(receiver.tally.leaked, 3);
        receiver.take(&ledger, LogLane::Signal, 7, &note(0), true);
        receiver.take(&ledger, LogLane::Signal, 7, &note(1), true);
        assert_eq!((receiver.tally.misordered, receiver.had()), (1, 2));
    }
}
