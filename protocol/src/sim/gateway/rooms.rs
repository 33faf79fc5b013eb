//! Rooms that are live on the simulated node, and what their members ask of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::super::fault::{Fault, Saboteur, Tampering};
use super::{Author, ConnectionId, Gateway};
use crate::room::entry::{Entry, Ephemeral};
use crate::room::log::Read;
use crate::room::{Applied, Refusal, Room, RoomLimits, Sent};
use crate::session::{About, Op, Outcome, Reply, RoomLog, Slot};
use crate::time::Time;
use crate::wire::message::{LeaveReason, Send};
use crate::wire::{Epoch, ErrorCode, LogLane, PeerId, PerLane, RoomName};

/// A room's logs in one life, as a connection reads them.
#[derive(Debug)]
pub(super) struct SimLog {
    room: Rc<RefCell<Room>>,
    epoch: Epoch,
    known: Rc<Cell<PerLane<u64>>>,
    saboteur: Saboteur,
    tampering: PerLane<Tampering>,
}

impl RoomLog for SimLog {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn read(&self, lane: LogLane, after: u64) -> Read {
        let room = self.room.borrow();
        if room.epoch() != self.epoch {
            // Another life: of this one nothing is left.
            return Read::Trimmed;
        }
        let known = self.known.get()[lane];
        let read = |after: u64| match room.log(lane).read(after) {
            Read::Entry(entry) if entry.offset > known => Read::Current,
            read => read,
        };
        self.tampering[lane].read(&self.saboteur, after, read)
    }
}

/// Something a room has been asked.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) connection: ConnectionId,
    pub(super) author: Author,
    pub(super) slot: Slot,
    pub(super) op: Op,
}

/// A room on the node.
#[derive(Debug)]
pub(super) struct LiveRoom {
    pub(super) room: Rc<RefCell<Room>>,
    /// The last offsets that the node knows of. What was applied without its being told comes
    /// to its knowledge with the next change.
    known: Rc<Cell<PerLane<u64>>>,
    /// Removed, but for the `seq`s of sessions that still live.
    dormant: bool,
    mailboxes: PerLane<Vec<Command>>,
    seats: BTreeMap<PeerId, (ConnectionId, Slot)>,
}

impl LiveRoom {
    pub(super) fn new(now: Time, name: RoomName, epoch: Epoch, limits: RoomLimits) -> Self {
        LiveRoom {
            room: Rc::new(RefCell::new(Room::new(now, name, epoch, limits))),
            known: Rc::default(),
            dormant: false,
            mailboxes: PerLane::default(),
            seats: BTreeMap::new(),
        }
    }

    /// Begins the life named `fresh`, if the last one is over.
    pub(super) fn wake(&mut self, now: Time, fresh: Epoch) {
        if std::mem::take(&mut self.dormant) {
            self.room.borrow_mut().begin(now, fresh);
            self.known.set(PerLane::default());
        }
    }

    /// Ends the room's life if nobody has been in it for `linger`. Returns whether there is
    /// still something to remember.
    pub(super) fn retire(&mut self, now: Time, linger: Duration) -> bool {
        let mut room = self.room.borrow_mut();
        let gone = room.empty_for(now).is_some_and(|empty| empty >= linger);
        if self.dormant || !gone || self.is_waiting() {
            return true;
        }
        self.dormant = true;
        let epoch = room.epoch();
        room.begin(now, epoch);
        !room.remembers_nobody()
    }

    pub(super) fn log(&self, saboteur: &Saboteur) -> SimLog {
        SimLog {
            room: self.room.clone(),
            epoch: self.room.borrow().epoch(),
            known: self.known.clone(),
            saboteur: saboteur.clone(),
            tampering: PerLane::default(),
        }
    }

    /// A member's connection is to be told of news.
    pub(super) fn seat(&mut self, peer: PeerId, connection: ConnectionId, slot: Slot) {
        self.seats.insert(peer, (connection, slot));
    }

    pub(super) fn detach(&mut self, peer: PeerId, connection: ConnectionId) {
        if self.seats.get(&peer).is_some_and(|(seated, _)| *seated == connection) {
            self.seats.remove(&peer);
        }
    }

    pub(super) fn push(&mut self, command: Command) {
        self.mailboxes[command.op.lane()].push(command);
    }

    pub(super) fn is_waiting(&self) -> bool {
        LogLane::ALL.into_iter().any(|lane| !self.mailboxes[lane].is_empty())
    }

    /// What it has been asked: signal first, but a `leave` behind what was sent before it.
    pub(super) fn take(&mut self) -> Vec<Command> {
        let PerLane { signal, bulk } = std::mem::take(&mut self.mailboxes);
        let leaves = signal.iter().any(|command| matches!(command.op, Op::Leave { .. }));
        let (first, second) = if leaves { (bulk, signal) } else { (signal, bulk) };
        first.into_iter().chain(second).collect()
    }

    /// Begins the life named `epoch`, with these members. Returns the connections that follow
    /// the old one, and the new log.
    pub(super) fn lose_logs(
        &mut self,
        now: Time,
        epoch: Epoch,
        members: &[PeerId],
    ) -> (Vec<ConnectionId>, Vec<Arc<Entry>>) {
        let mut room = self.room.borrow_mut();
        room.begin(now, epoch);
        let join = |peer: &PeerId| room.join(now, *peer, None, None).ok()?.entry;
        let entries = members.iter().filter_map(join).collect();
        self.known.set(last(&room));
        let seats = std::mem::take(&mut self.seats);
        (seats.into_values().map(|(connection, _)| connection).collect(), entries)
    }
}

/// The answer to a request, and the entry it made.
type Change = (Option<Outcome<SimLog>>, Option<Arc<Entry>>);

impl Gateway {
    /// Does what a room was asked, and leaves the answer for the connection.
    pub(super) fn apply(&mut self, now: Time, name: &RoomName, command: Command) {
        let Command { connection, author, slot, op } = command;
        let current = self.sessions.get(&author.session).map(|session| session.generation);
        if current != Some(author.generation) {
            // A newer connection has taken over; this one is told so by others.
            return;
        }
        let about = op.about();
        let outcome = match self.mishap() {
            None => match self.change(now, name, author, op) {
                Ok((outcome, entry)) => {
                    self.note(name, entry);
                    outcome.map(|outcome| self.seated(name, connection, author, slot, outcome))
                }
                Err(refusal) => Some(self.refused(name, about, refusal)),
            },
            Some(mishap) => {
                if mishap == Mishap::Applied
                    && let Ok((_, entry)) = self.change(now, name, author, op)
                {
                    self.history.extend(entry);
                }
                let refusal = Refusal::new(ErrorCode::Unavailable, "no answer from the store");
                Some(self.refused(name, about, refusal))
            }
        };
        if let (Some(connection), Some(outcome)) = (self.connections.get_mut(&connection), outcome)
        {
            connection.replies.push(Reply { slot, outcome });
        }
    }

    fn mishap(&mut self) -> Option<Mishap> {
        let (n, rng) = self.mishaps.as_mut()?;
        let kind = if rng.one_in(2) { Mishap::Applied } else { Mishap::NotApplied };
        rng.one_in(*n).then_some(kind)
    }

    fn refused(&self, name: &RoomName, about: About, refusal: Refusal) -> Outcome<SimLog> {
        let lane = match about {
            About::Send { lane, .. } => lane,
            _ => LogLane::Signal,
        };
        let known = self.rooms.get(name).map_or_else(PerLane::default, |live| live.known.get());
        Outcome::Refused { about, refusal, at: known[lane] }
    }

    /// Gives a new member's connection its seat and the log, and takes a former member's away.
    fn seated(
        &mut self,
        name: &RoomName,
        connection: ConnectionId,
        author: Author,
        slot: Slot,
        outcome: Outcome<SimLog>,
    ) -> Outcome<SimLog> {
        let Some(live) = self.rooms.get_mut(name) else { return outcome };
        match outcome {
            Outcome::Joined { id, snapshot, .. } => {
                let seated = live.seats.insert(author.peer, (connection, slot));
                let start = seated.is_none().then(|| live.log(&self.saboteur));
                Outcome::Joined { id, snapshot, start }
            }
            Outcome::Left { .. } => {
                live.seats.remove(&author.peer);
                outcome
            }
            outcome => outcome,
        }
    }

    /// The answer to a request, and the entry it made.
    fn change(
        &mut self,
        now: Time,
        name: &RoomName,
        author: Author,
        op: Op,
    ) -> Result<Change, Refusal> {
        let Some(live) = self.rooms.get_mut(name) else { return Err(Refusal::NOT_A_MEMBER) };
        let (peer, shared) = (author.peer, live.room.clone());
        let mut room = shared.borrow_mut();
        Ok(match op {
            Op::Join { id, metadata } => {
                let joining = room.join(now, peer, None, metadata)?;
                if let Some(session) = self.sessions.get_mut(&author.session) {
                    session.rooms.insert(name.clone());
                }
                let (snapshot, start) = (joining.snapshot, None);
                (Some(Outcome::Joined { id, snapshot, start }), joining.entry)
            }
            Op::Leave { id } => {
                let left = room.leave(now, peer, LeaveReason::Left);
                if let Some(session) = self.sessions.get_mut(&author.session) {
                    session.rooms.remove(name);
                }
                (Some(Outcome::Left { id, at: last(&room) }), left)
            }
            Op::Update { id, metadata } => {
                let entry = room.update(now, peer, metadata)?;
                (Some(Outcome::Updated { id, at: entry.offset }), Some(entry))
            }
            Op::Members { id } => {
                room.check_addressee(peer, None)?;
                (Some(Outcome::Members { id, snapshot: room.snapshot(peer) }), None)
            }
            Op::Snapshot { reason } => {
                room.check_addressee(peer, None)?;
                let snapshot = room.snapshot(peer);
                drop(room);
                let log = live.log(&self.saboteur);
                (Some(Outcome::Snapshot { reason, snapshot, log }), None)
            }
            Op::Send(send) => self.send(now, &mut room, peer, send)?,
            Op::Ephemeral { to, body, .. } => {
                room.check_addressee(peer, to)?;
                drop(room);
                self.pass_on(&Ephemeral::new(name.clone(), peer, to, body));
                (None, None)
            }
        })
    }

    fn send(
        &self,
        now: Time,
        room: &mut Room,
        peer: PeerId,
        send: Send,
    ) -> Result<Change, Refusal> {
        let (lane, seq) = (send.lane, send.seq);
        let expected = room.seq(peer)[lane] + 1;
        if seq == expected && self.saboteur.strikes(Fault::AcceptedUnapplied) {
            let (epoch, offset) = (room.epoch(), room.log(lane).last());
            return Ok((
                Some(Outcome::Duplicate { lane, applied: Applied { seq, epoch, offset } }),
                None,
            ));
        }
        let again = Send { seq: expected, ..send.clone() };
        Ok(match room.send(now, peer, send)? {
            Sent::Appended(entry) => (None, Some(entry)),
            Sent::Duplicate(_) if self.saboteur.strikes(Fault::AppliedTwice) => {
                let Sent::Appended(entry) = room.send(now, peer, again)? else {
                    return Ok((None, None));
                };
                (None, Some(entry))
            }
            Sent::Duplicate(applied) => (Some(Outcome::Duplicate { lane, applied }), None),
        })
    }

    /// Writes an entry down and tells the members' connections that there is something.
    pub(super) fn note(&mut self, name: &RoomName, entry: Option<Arc<Entry>>) {
        let Some(live) = self.rooms.get(name) else { return };
        let (known, last) = (live.known.get(), last(&live.room.borrow()));
        live.known.set(last);
        for (connection, slot) in live.seats.values() {
            let Some(connection) = self.connections.get_mut(connection) else { continue };
            for lane in LogLane::ALL {
                connection.news[lane] |= u64::from(known[lane] != last[lane]) << slot.index;
            }
        }
        self.history.extend(entry);
    }

    fn pass_on(&mut self, ephemeral: &Ephemeral) {
        let Some(room) = self.rooms.get(&ephemeral.room) else { return };
        for (peer, (connection, _)) in &room.seats {
            let meant = ephemeral.to.map_or(*peer != ephemeral.from, |to| to == *peer);
            if let Some(connection) = self.connections.get_mut(connection).filter(|_| meant) {
                connection.ephemeral.push(ephemeral.frame(connection.codec));
            }
        }
    }
}

/// What becomes of a change that the store does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mishap {
    Applied,
    NotApplied,
}

/// The last offsets used in a room.
pub(super) fn last(room: &Room) -> PerLane<u64> {
    let positions = room.positions();
    PerLane { signal: positions.signal, bulk: positions.bulk }
}
