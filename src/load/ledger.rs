//! What was sent: the model that `handover load` judges by.
//!
//! A **stream** is what one sender sends to one room on one lane. Its messages are numbered
//! from 0 and written down before they go out. A receiver is owed, of every other member's
//! streams, the messages to everybody and those to itself, in the order of their numbers.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use handover_client::LogLane;
use handover_protocol::time::Time;
use handover_protocol::wire::Position;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

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

/// A message that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// Absent if it is for everybody.
    to: Option<Session>,
    pub(super) at: Time,
    /// When the sender learnt that its addressee was not in the room: it is in no log.
    pub(super) turned_away: Option<Time>,
}

impl Sent {
    fn is_for(&self, receiver: Session) -> bool {
        self.turned_away.is_none() && self.to.is_none_or(|to| to == receiver)
    }
}

#[derive(Debug, Default)]
struct Books {
    streams: HashMap<Stream, Vec<Sent>>,
    /// What lies at each place of each room's lanes, where several gateways could differ about it.
    places: HashMap<(usize, LogLane, Position), (Session, usize)>,
    /// When each life of the rooms ended because their store was emptied.
    emptied: Vec<Time>,
}

/// Everything that was sent.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    books: Mutex<Books>,
    keeps_places: bool,
    /// How many memberships know of the newest life.
    told: watch::Sender<usize>,
}

impl Ledger {
    /// One that notes what lies where, too.
    pub(super) fn keeping_places() -> Self {
        Ledger { keeps_places: true, ..Ledger::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a message down. Returns its number.
    pub(super) fn send(&self, stream: Stream, to: Option<Session>, at: Time) -> usize {
        let mut books = self.lock();
        let sent = books.streams.entry(stream).or_default();
        sent.push(Sent { to, at, turned_away: None });
        sent.len() - 1
    }

    /// The gateway refused a message because its addressee was not in the room.
    pub(super) fn turn_away(&self, stream: Stream, number: usize, now: Time) {
        let mut books = self.lock();
        let sent = books.streams.get_mut(&stream).and_then(|sent| sent.get_mut(number));
        sent.into_iter().for_each(|sent| sent.turned_away = Some(now));
    }

    /// The rooms' store is emptied now.
    pub(super) fn empty(&self, now: Time) {
        let mut books = self.lock();
        books.emptied.push(now);
        self.told.send_replace(0);
    }

    /// A membership has been told that a life has ended; `life` counts those it was told of.
    pub(super) fn tell(&self, life: usize) {
        let books = self.lock();
        if life == books.emptied.len() {
            self.told.send_modify(|told| *told += 1);
        }
    }

    /// Until so many know of the newest life.
    pub(super) async fn wait_told(&self, memberships: usize) {
        // The sender is this very ledger's.
        let _ = self.told.subscribe().wait_for(|told| *told >= memberships).await;
    }

    /// When it was, each time.
    pub(super) fn emptied(&self) -> Vec<Time> {
        self.lock().emptied.clone()
    }

    /// The messages from `first` to before `end` that `receiver` is owed, with their numbers; all
    /// if `end` is absent.
    pub(super) fn owed(
        &self,
        stream: Stream,
        receiver: Session,
        first: usize,
        end: Option<usize>,
    ) -> Vec<(usize, Sent)> {
        let books = self.lock();
        let sent = books.streams.get(&stream).map_or(&[][..], Vec::as_slice);
        let numbered = sent.iter().enumerate().take(end.unwrap_or(usize::MAX)).skip(first);
        let owed = numbered.filter(|(_, sent)| sent.is_for(receiver));
        owed.map(|(number, sent)| (number, *sent)).collect()
    }

    /// Whether a message was sent, and is for `receiver`.
    pub(super) fn is_owed(&self, stream: Stream, number: usize, receiver: Session) -> bool {
        let books = self.lock();
        let sent = books.streams.get(&stream).and_then(|sent| sent.get(number));
        sent.is_some_and(|sent| sent.is_for(receiver))
    }

    /// Notes that a message lies at `position`. Says whether no other one does.
    pub(super) fn place(&self, stream: Stream, position: Position, number: usize) -> bool {
        if !self.keeps_places {
            return true;
        }
        let message = (stream.from, number);
        match self.lock().places.entry((stream.room, stream.lane, position)) {
            Entry::Occupied(known) => *known.get() == message,
            Entry::Vacant(free) => *free.insert(message) == message,
        }
    }

    pub(super) fn streams_to(&self, room: usize, receiver: Session) -> Vec<Stream> {
        let books = self.lock();
        let others = books.streams.keys().filter(|s| s.room == room && s.from != receiver);
        others.copied().collect()
    }

    /// The messages of a stream to `receiver` alone that were refused because it was not there.
    pub(super) fn turned_away(&self, stream: Stream, receiver: Session) -> Vec<Sent> {
        let books = self.lock();
        let sent = books.streams.get(&stream).map_or(&[][..], Vec::as_slice);
        let refused = |s: &&Sent| s.turned_away.is_some() && s.to == Some(receiver);
        sent.iter().filter(refused).copied().collect()
    }
}
