//! One member of one room, and what it was told: judged by what was sent.
//!
//! A store that was emptied takes the rooms' lives with it. The members learn that by a `reset`,
//! and what of the old life had not reached a member by then never will. That is no loss as long
//! as the member was told: nothing it misses may lie between two messages of a stream that came
//! in one life, nor have been sent after it had heard of the new one.

use std::collections::{BTreeSet, HashMap};

use handover_client::LogLane;
use handover_protocol::time::Time;
use handover_protocol::wire::{Epoch, Position};

use super::ledger::{Ledger, Note, Sent, Session, Stream};

/// What was wrong, and what was to be expected, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) repeated: u64,
    pub(super) misordered: u64,
    pub(super) leaked: u64,
    /// Of a life of the room other than the one it was in.
    pub(super) mixed: u64,
    /// At a place where something else was.
    pub(super) doubled: u64,
    /// Refused to the sender although the addressee was there.
    pub(super) turned_away: u64,
    /// Gone with a life of the room, as was told.
    pub(super) cut_off: u64,
    /// Refused before the addressee was in the room's new life.
    pub(super) too_early: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Tally) {
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.misordered += other.misordered;
        self.leaked += other.leaked;
        self.mixed += other.mixed;
        self.doubled += other.doubled;
        self.turned_away += other.turned_away;
        self.cut_off += other.cut_off;
        self.too_early += other.too_early;
    }
}

#[derive(Debug, Default)]
struct Cursor {
    /// Everything owed before this number has come, is in `missing`, or was cut off.
    next: usize,
    missing: BTreeSet<usize>,
    /// Nothing has come in the room's present life.
    is_stale: bool,
}

/// One member of one room.
#[derive(Debug)]
pub(super) struct Receiver {
    me: Session,
    room: usize,
    cursors: HashMap<(Session, LogLane), Cursor>,
    /// The highest offset seen on each lane in this life of the room.
    offsets: HashMap<LogLane, u64>,
    /// The room's life, once something has come in it, and those before it.
    epoch: Option<Epoch>,
    past: Vec<Epoch>,
    /// When it heard of each new life.
    begun: Vec<Time>,
    tally: Tally,
}

impl Receiver {
    pub(super) fn new(me: Session, room: usize) -> Self {
        let (cursors, offsets) = (HashMap::new(), HashMap::new());
        let (epoch, past, begun) = (None, Vec::new(), Vec::new());
        Receiver { me, room, cursors, offsets, epoch, past, begun, tally: Tally::default() }
    }

    /// The room is said to begin a new life.
    pub(super) fn begin_again(&mut self, ledger: &Ledger, now: Time) {
        self.begun.push(now);
        ledger.tell(self.begun.len());
        self.past.extend(self.epoch.take());
        self.offsets.clear();
        self.cursors.values_mut().for_each(|cursor| cursor.is_stale = true);
    }

    /// How often it was.
    pub(super) fn lives(&self) -> u64 {
        self.begun.len() as u64
    }

    /// A message came. `genuine` is whether the gateway named the sender that the message
    /// itself names.
    pub(super) fn take(
        &mut self,
        ledger: &Ledger,
        lane: LogLane,
        position: Position,
        note: &Note,
        genuine: bool,
    ) {
        self.tally.delivered += 1;
        let stream = Stream { from: note.from, room: note.room, lane };
        let mine = ledger.is_owed(stream, note.number, self.me);
        if note.room != self.room || note.from == self.me || !mine || !genuine {
            self.tally.leaked += 1;
            return;
        }
        self.look_at_place(ledger, stream, position, note.number);
        let (me, last_begun) = (self.me, self.begun.last().copied());
        let cursor = self.cursor(stream);
        if note.number >= cursor.next {
            let skipped = ledger.owed(stream, me, cursor.next, Some(note.number));
            let (excused, missing) = excuse(cursor, last_begun, skipped);
            cursor.missing.extend(missing);
            cursor.next = note.number + 1;
            cursor.is_stale = false;
            self.tally.cut_off += excused;
        } else if cursor.missing.remove(&note.number) {
            self.tally.misordered += 1;
        } else {
            self.tally.repeated += 1;
        }
    }

    fn cursor(&mut self, stream: Stream) -> &mut Cursor {
        let is_stale = !self.begun.is_empty();
        let fresh = || Cursor { is_stale, ..Cursor::default() };
        self.cursors.entry((stream.from, stream.lane)).or_insert_with(fresh)
    }

    fn look_at_place(
        &mut self,
        ledger: &Ledger,
        stream: Stream,
        position: Position,
        number: usize,
    ) {
        let Position { epoch, offset } = position;
        if !ledger.place(stream, position, number) {
            self.tally.doubled += 1;
        }
        if *self.epoch.get_or_insert(epoch) != epoch || self.past.contains(&epoch) {
            self.tally.mixed += 1;
            return;
        }
        let highest = self.offsets.entry(stream.lane).or_default();
        if offset <= *highest {
            // Right for its sender, and still not the one order of the lane.
            self.tally.misordered += 1;
        }
        *highest = offset.max(*highest);
    }

    /// How many messages may still come.
    pub(super) fn outstanding(&self, ledger: &Ledger) -> usize {
        let streams = ledger.streams_to(self.room, self.me);
        streams.into_iter().map(|stream| self.rest(ledger, stream).1.len()).sum()
    }

    /// What has not come of a stream: how much of it was cut off, and the numbers of the rest.
    fn rest(&self, ledger: &Ledger, stream: Stream) -> (u64, Vec<usize>) {
        let never = Cursor { is_stale: !self.begun.is_empty(), ..Cursor::default() };
        let cursor = self.cursors.get(&(stream.from, stream.lane)).unwrap_or(&never);
        let rest = ledger.owed(stream, self.me, cursor.next, None);
        let (excused, rest) = excuse(cursor, self.begun.last().copied(), rest);
        (excused, cursor.missing.iter().copied().chain(rest).collect())
    }

    /// Nothing more comes: what has not come is lost. Returns that too.
    pub(super) fn finish(mut self, ledger: &Ledger) -> (Tally, Vec<(Stream, usize)>) {
        let mut lost = Vec::new();
        let emptied = ledger.emptied();
        // Refused while the addressee was not in the new life: it heard of that later than the
        // message was sent.
        let is_too_early = |sent: &Sent| {
            let between = |(ended, begun): (&Time, &Time)| {
                sent.turned_away.is_some_and(|at| at >= *ended) && sent.at < *begun
            };
            emptied.iter().zip(&self.begun).any(between)
        };
        for stream in ledger.streams_to(self.room, self.me) {
            let (excused, rest) = self.rest(ledger, stream);
            self.tally.cut_off += excused;
            lost.extend(rest.into_iter().map(|number| (stream, number)));
            for refused in ledger.turned_away(stream, self.me) {
                match is_too_early(&refused) {
                    true => self.tally.too_early += 1,
                    false => self.tally.turned_away += 1,
                }
            }
        }
        self.tally.lost = lost.len() as u64;
        (self.tally, lost)
    }
}

/// How many of these messages went down with the room's last life, and the numbers of the others.
fn excuse(
    cursor: &Cursor,
    last_begun: Option<Time>,
    missed: Vec<(usize, Sent)>,
) -> (u64, Vec<usize>) {
    let last_begun = last_begun.filter(|_| cursor.is_stale);
    let is_excused = |(_, sent): &(usize, Sent)| last_begun.is_some_and(|begun| sent.at < begun);
    let (excused, others): (Vec<_>, Vec<_>) = missed.into_iter().partition(is_excused);
    (excused.len() as u64, others.into_iter().map(|(number, _)| number).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: Stream = Stream { from: 1, room: 0, lane: LogLane::Signal };

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1_000)
    }

    /// Four messages from session 1, at 0 to 3 ms: to everybody, to 2, to 3, to everybody.
    fn ledger() -> Ledger {
        let ledger = Ledger::keeping_places();
        for (ms, to) in [None, Some(2), Some(3), None].into_iter().enumerate() {
            ledger.send(STREAM, to, at(ms as u64));
        }
        ledger
    }

    fn note(number: usize) -> Note {
        Note { from: 1, room: 0, number, sent: 0, padding: String::new() }
    }

    fn place(epoch: &str, offset: u64) -> Position {
        Position { epoch: Epoch::parse(epoch).unwrap(), offset }
    }

    /// What session 2 comes to after these numbers, at rising offsets.
    fn after(numbers: &[usize]) -> Tally {
        let (ledger, mut receiver) = (ledger(), Receiver::new(2, 0));
        for (at, number) in numbers.iter().enumerate() {
            let position = place("a", at as u64 + 1);
            receiver.take(&ledger, LogLane::Signal, position, &note(*number), true);
        }
        receiver.finish(&ledger).0
    }

    /// The same with a new life that was heard of at 2 ms, before the message at that place.
    fn reborn(numbers: &[usize], before: usize) -> Tally {
        let (ledger, mut receiver) = (ledger(), Receiver::new(2, 0));
        for (nth, number) in numbers.iter().enumerate() {
            if nth == before {
                receiver.begin_again(&ledger, at(2));
            }
            let epoch = if nth < before { "a" } else { "b" };
            let position = place(epoch, nth as u64 + 1);
            receiver.take(&ledger, LogLane::Signal, position, &note(*number), true);
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
        receiver.take(&ledger, LogLane::Signal, place("a", 1), &other_room, true);
        receiver.take(&ledger, LogLane::Signal, place("a", 1), &note(0), false);
        receiver.take(&ledger, LogLane::Bulk, place("a", 1), &note(0), true);
        assert_eq!(receiver.tally.leaked, 3);
        receiver.take(&ledger, LogLane::Signal, place("a", 7), &note(0), true);
        receiver.take(&ledger, LogLane::Signal, place("a", 7), &note(1), true);
        assert_eq!((receiver.tally.misordered, receiver.tally.doubled), (1, 1));
        assert_eq!(receiver.outstanding(&ledger), 1);
    }

    #[test]
    fn what_went_down_with_a_life_is_no_loss_and_anything_else_is() {
        let told = Tally { delivered: 2, cut_off: 1, ..Tally::default() };
        assert_eq!(reborn(&[0, 3], 1), told, "sent before it heard, and nothing came behind it");
        assert_eq!(reborn(&[0, 3], 2).lost, 1, "skipped within a life");
        assert_eq!(reborn(&[0, 1], 1).lost, 1, "sent after it had heard");
        assert_eq!(reborn(&[3], 0), Tally { delivered: 1, cut_off: 2, ..Tally::default() });
        assert_eq!(reborn(&[0, 0, 3], 1).repeated, 1, "no message lives twice");
    }

    #[test]
    fn lives_do_not_mix() {
        let (ledger, mut receiver) = (ledger(), Receiver::new(2, 0));
        receiver.take(&ledger, LogLane::Signal, place("a", 1), &note(0), true);
        receiver.begin_again(&ledger, at(2));
        receiver.take(&ledger, LogLane::Signal, place("a", 2), &note(1), true);
        assert_eq!(receiver.tally.mixed, 1, "behind the news of the next one");
        receiver.take(&ledger, LogLane::Signal, place("b", 1), &note(3), true);
        assert_eq!(receiver.tally.mixed, 2, "and the present one is not that");
        assert_eq!(receiver.lives(), 1);
    }

    #[test]
    fn who_is_not_back_yet_may_be_written_to_in_vain() {
        let (ledger, mut receiver) = (ledger(), Receiver::new(2, 0));
        ledger.turn_away(STREAM, 1, at(2));
        receiver.take(&ledger, LogLane::Signal, place("a", 1), &note(0), true);
        ledger.empty(at(1));
        receiver.begin_again(&ledger, at(3));
        let tally = receiver.finish(&ledger).0;
        assert_eq!((tally.too_early, tally.turned_away, tally.lost), (1, 0, 1));

        let (ledger, receiver) = (self::ledger(), Receiver::new(2, 0));
        ledger.turn_away(STREAM, 1, at(2));
        assert_eq!(receiver.finish(&ledger).0.turned_away, 1, "there was no other life");
    }
}
