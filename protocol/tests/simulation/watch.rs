//! What must hold, checked against the gateway's own list of everything that was appended.
//!
//! The model is short: from where a membership starts, a member sees every entry that is meant
//! for it, each once, in the order of the offsets, on each lane. A send is in one log once if
//! it was accepted, in none if it was refused, and in order of sending.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use handover_protocol::room::entry::{Entry, Event, View};
use handover_protocol::session::client::{Receipt, RoomEvent, SendError};
use handover_protocol::wire::message::{Member, Positions};
use handover_protocol::wire::{Epoch, LogLane, PeerId, PerLane, Position, RoomName};

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// An entry did not reach a member it was meant for.
    Lost,
    /// A member saw something twice.
    Repeated,
    /// A member saw two entries in the wrong order.
    Swapped,
    /// A member saw something that was not meant for it.
    Leaked,
    /// A send is in the logs twice.
    AppliedTwice,
    /// A send that was accepted is in no log.
    AcceptedUnapplied,
    /// A send that was refused is in a log.
    RefusedApplied,
    /// Sends of one member stand in the log in another order than they were given.
    SendsSwapped,
    /// Something was never answered.
    Unanswered,
    /// The client's list of members is not the room's.
    Members,
    /// A client was told not to come back.
    SentAway,
    /// The simulation did not come to rest.
    Restless,
}

/// A place in a room's logs.
struct Place {
    epoch: Epoch,
    had: PerLane<u64>,
    /// The bulk offset it began at.
    bulk: u64,
}

#[derive(Default)]
struct Person {
    peer: Option<PeerId>,
    places: HashMap<RoomName, Place>,
    bodies: HashSet<String>,
    /// Entries that were passed over, and may yet come in the wrong order.
    missing: Vec<Arc<Entry>>,
}

struct Sent {
    person: usize,
    room: RoomName,
    lane: LogLane,
    body: String,
    outcome: Option<Result<Receipt, SendError>>,
}

type Key = (RoomName, Epoch, LogLane);

#[derive(Default)]
pub struct Watch {
    noted: usize,
    logs: HashMap<Key, Vec<Arc<Entry>>>,
    bodies: HashMap<String, Arc<Entry>>,
    people: Vec<Person>,
    sent: Vec<Sent>,
    wrongs: Vec<(Wrong, String)>,
    /// What has happened, to show that a simulation gets everywhere.
    pub tally: BTreeMap<String, u64>,
}

impl Watch {
    pub fn person(&mut self) -> usize {
        self.people.push(Person::default());
        self.people.len() - 1
    }

    pub fn wrong(&mut self, wrong: Wrong, what: String) {
        self.wrongs.push((wrong, what));
    }

    pub fn count(&mut self, what: impl Into<String>) {
        *self.tally.entry(what.into()).or_default() += 1;
    }

    pub fn wrongs(&self) -> &[(Wrong, String)] {
        &self.wrongs
    }

    /// Takes what has been appended since the last time.
    pub fn note(&mut self, history: &[Arc<Entry>]) {
        for entry in &history[self.noted..] {
            let key = (entry.room.clone(), entry.epoch, entry.lane);
            let log = self.logs.entry(key).or_default();
            assert_eq!(entry.offset, log.len() as u64 + 1, "a log has no holes");
            log.push(entry.clone());
            if let Event::Message { body, .. } = &entry.event
                && let Some(first) = self.bodies.insert(body.as_str().into(), entry.clone())
            {
                let what = format!("{body:?} at {} and {}", first.offset, entry.offset);
                self.wrongs.push((Wrong::AppliedTwice, what));
            }
        }
        self.noted = history.len();
    }

    // --- What a member is told ---------------------------------------------------------------

    /// A session is live.
    pub fn live(&mut self, person: usize, peer: PeerId) {
        let person = &mut self.people[person];
        if person.peer.replace(peer) != Some(peer) {
            person.places.clear();
        }
    }

    /// A membership begins at these positions.
    pub fn start(&mut self, person: usize, room: &RoomName, at: &Positions) {
        let mut had = PerLane { signal: at.signal, bulk: at.bulk };
        let places = &mut self.people[person].places;
        if let Some(older) = places.get(room).filter(|older| older.epoch == at.epoch) {
            if older.bulk == at.bulk {
                // The same place again: what the bulk stream brought ahead of the answer counts.
                had.bulk = older.had.bulk;
            }
            // Where a membership goes on, it does not go back.
            if LogLane::ALL.into_iter().any(|lane| had[lane] < older.had[lane]) {
                let what = format!("person {person} set back in {room} to {at:?}");
                self.wrongs.push((Wrong::Repeated, what));
            }
        }
        places.insert(room.clone(), Place { epoch: at.epoch, had, bulk: at.bulk });
    }

    /// A membership is over.
    pub fn over(&mut self, person: usize, room: &RoomName) {
        self.people[person].places.remove(room);
    }

    /// Something happened in a room.
    pub fn event(&mut self, who: usize, room: &RoomName, event: &RoomEvent) {
        match event {
            RoomEvent::Message { lane, position, from, to, body } => {
                let is = |entry: &Entry| matches!(&entry.event, Event::Message { body: b, .. } if b == body);
                let told = format!("person {who} in {room}: {body:?} from {from} at {position:?}");
                if !self.people[who].bodies.insert(body.as_str().into()) {
                    return self.wrongs.push((Wrong::Repeated, told));
                }
                let meant = self.bodies.get(body.as_str()).is_some_and(|entry| {
                    let Event::Message { to: meant, .. } = &entry.event else { return false };
                    entry.room == *room
                        && entry.lane == *lane
                        && entry.peer == *from
                        && (meant.is_none() || *meant == self.people[who].peer && meant == to)
                });
                if !meant {
                    return self.wrongs.push((Wrong::Leaked, told));
                }
                self.advance(who, room, *lane, is, told, Some(*position));
            }
            RoomEvent::Ephemeral { from, body } => {
                let (room_meant, to): (String, Option<String>) =
                    body.to_value().expect("what was sent");
                let me = self.people[who].peer.map(|peer| peer.to_string());
                if room_meant != room.as_str() || to.is_some() && to != me {
                    let told = format!("person {who} in {room}: {body:?} from {from}");
                    self.wrongs.push((Wrong::Leaked, told));
                }
            }
            RoomEvent::Reset(cause, _) => self.count(format!("reset: {cause:?}")),
            RoomEvent::Lost { code, .. } => self.count(format!("room lost: {code}")),
            change => {
                let told = format!("person {who} in {room}: {change:?}");
                let is = |entry: &Entry| is_change(entry, change);
                self.advance(who, room, LogLane::Signal, is, told, None);
            }
        }
    }

    /// The next entry that is meant for a member is the one that it was told of.
    fn advance(
        &mut self,
        who: usize,
        room: &RoomName,
        lane: LogLane,
        is: impl Fn(&Entry) -> bool,
        told: String,
        position: Option<Position>,
    ) {
        self.count("entry seen");
        let person = &mut self.people[who];
        let (Some(me), Some(place)) = (person.peer, person.places.get_mut(room)) else {
            return self.wrongs.push((Wrong::Leaked, format!("{told}, in no membership")));
        };
        if let Some(late) = person.missing.iter().position(|entry| is(entry)) {
            person.missing.remove(late);
            return self.wrongs.push((Wrong::Swapped, told));
        }
        let key = (room.clone(), place.epoch, lane);
        let log = self.logs.get(&key).map_or(&[][..], Vec::as_slice);
        let ahead = log.iter().skip(usize::try_from(place.had[lane]).unwrap_or(usize::MAX));
        let mut passed = Vec::new();
        for entry in ahead {
            if entry.view(me) != View::Deliver {
                continue;
            }
            if is(entry) {
                place.had[lane] = entry.offset;
                person.missing.append(&mut passed);
                if position.is_some_and(|at| at.offset != entry.offset || at.epoch != entry.epoch) {
                    self.wrongs.push((Wrong::Swapped, format!("{told}, really {}", entry.offset)));
                }
                return;
            }
            passed.push(entry.clone());
        }
        let before = log.iter().any(|entry| is(entry));
        let wrong = if before { Wrong::Repeated } else { Wrong::Leaked };
        self.wrongs.push((wrong, told));
    }

    // --- What a member sends -----------------------------------------------------------------

    pub fn send(&mut self, person: usize, room: &RoomName, lane: LogLane, body: &str) -> usize {
        let (room, body) = (room.clone(), body.to_owned());
        self.sent.push(Sent { person, room, lane, body, outcome: None });
        self.sent.len() - 1
    }

    pub fn outcome(&mut self, send: usize, outcome: Result<Receipt, SendError>) {
        self.count(match &outcome {
            Ok(_) => "send accepted".into(),
            Err(SendError::Refused { code, .. }) => format!("send refused: {code}"),
            Err(SendError::Uncertain) => "send uncertain".into(),
            Err(SendError::NotSent) => "send not sent".into(),
        });
        let sent = &mut self.sent[send];
        if let Some(before) = sent.outcome.replace(outcome) {
            let what = format!("{} answered twice, first {before:?}", sent.body);
            self.wrongs.push((Wrong::Unanswered, what));
        }
    }

    pub fn sent(&self) -> usize {
        self.sent.len()
    }

    // --- At the end --------------------------------------------------------------------------

    /// Everything has been delivered, and every send has been answered.
    pub fn finish(&mut self) {
        let mut wrongs = Vec::new();
        for (who, person) in self.people.iter().enumerate() {
            let Some(me) = person.peer else { continue };
            for (room, place) in &person.places {
                for lane in LogLane::ALL {
                    let key = (room.clone(), place.epoch, lane);
                    let log = self.logs.get(&key).map_or(&[][..], Vec::as_slice);
                    let had = usize::try_from(place.had[lane]).unwrap_or(usize::MAX);
                    let meant = |entry: &&Arc<Entry>| entry.view(me) == View::Deliver;
                    if let Some(entry) = log.iter().skip(had).find(meant) {
                        let what = format!("person {who} in {room} has not got {entry:?}");
                        wrongs.push((Wrong::Lost, what));
                    }
                }
            }
            let lost = person.missing.iter();
            wrongs.extend(lost.map(|entry| (Wrong::Lost, format!("person {who}: {entry:?}"))));
        }
        let mut last: BTreeMap<(usize, &RoomName, bool), usize> = BTreeMap::new();
        let order: HashMap<&str, usize> = self.order();
        for sent in &self.sent {
            let applied = order.get(sent.body.as_str()).copied();
            let what = || format!("{} by person {}: {:?}", sent.body, sent.person, sent.outcome);
            match (&sent.outcome, applied) {
                (None, _) => wrongs.push((Wrong::Unanswered, what())),
                (Some(Ok(_)), None) => wrongs.push((Wrong::AcceptedUnapplied, what())),
                (Some(Ok(Receipt { position: Some(at) })), Some(_)) => {
                    let entry = &self.bodies[&sent.body];
                    if (at.epoch, at.offset) != (entry.epoch, entry.offset) {
                        wrongs.push((Wrong::AcceptedUnapplied, what()));
                    }
                }
                (Some(Err(SendError::Refused { .. } | SendError::NotSent)), Some(_)) => {
                    wrongs.push((Wrong::RefusedApplied, what()));
                }
                _ => {}
            }
            if let Some(applied) = applied {
                let key = (sent.person, &sent.room, sent.lane == LogLane::Bulk);
                if last.insert(key, applied).is_some_and(|before| before > applied) {
                    wrongs.push((Wrong::SendsSwapped, what()));
                }
            }
        }
        self.wrongs.extend(wrongs);
    }

    /// Messages by when they were appended to their log, over all the lives of a room.
    fn order(&self) -> HashMap<&str, usize> {
        let mut bodies: Vec<_> = self.bodies.iter().collect();
        // Epochs are numbered in the order they begin.
        bodies.sort_by_key(|(_, entry)| {
            let epoch: u64 = entry.epoch.as_str()[1..].parse().unwrap_or(0);
            (epoch, entry.offset)
        });
        bodies.into_iter().enumerate().map(|(index, (body, _))| (body.as_str(), index)).collect()
    }

    /// The client and the room agree about who is there.
    pub fn compare(&mut self, who: usize, room: &RoomName, client: &[Member], truth: &[Member]) {
        if client != truth {
            let what = format!("person {who} in {room}: {client:?} instead of {truth:?}");
            self.wrongs.push((Wrong::Members, what));
        }
    }
}

fn is_change(entry: &Entry, change: &RoomEvent) -> bool {
    match (&entry.event, change) {
        (Event::Joined { metadata, user }, RoomEvent::Joined(member)) => {
            let Member { peer, user: of, metadata: shown, since, away } = member;
            entry.peer == *peer
                && user == of
                && metadata == shown
                && entry.offset == *since
                && !away
        }
        (Event::Updated { metadata }, RoomEvent::Updated(peer, shown)) => {
            entry.peer == *peer && metadata == shown
        }
        (Event::Left { reason }, RoomEvent::Left(peer, why)) => {
            entry.peer == *peer && reason == why
        }
        (Event::Away, RoomEvent::Away(peer)) | (Event::Back, RoomEvent::Back(peer)) => {
            entry.peer == *peer
        }
        _ => false,
    }
}
