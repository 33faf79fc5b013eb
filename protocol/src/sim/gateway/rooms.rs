//! Rooms that are live on the simulated node, and what their members ask of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::super::fault::{Fault, Saboteur, Tampering};
use super::{Author, ConnectionId, Gateway};
use crate::room::entry::{Entry, Ephemeral};
use crate::room::log::Read;
use crate::room::{Applied, Refusal, Room, RoomLimits, Sent, Snapshot};
use crate::session::{About, Op, Outcome, Reply, RoomLog, Slot};
use crate::time::Time;
use crate::wire::message::{LeaveReason, Send};
use crate::wire::{Epoch, LogLane, PeerId, PerLane, RoomName};

/// A room's logs in one life, as a connection reads them.
#[derive(Debug)]
pub(super) struct SimLog {
    room: Rc<RefCell<Room>>,
    epoch: Epoch,
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
            // Another life: of this one nothing more will come.
            return Read::Current;
        }
        self.tampering[lane].read(&self.saboteur, after, |after| room.log(lane).read(after))
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
    /// Removed, but for the `seq`s of sessions that still live.
    dormant: bool,
    mailboxes: PerLane<Vec<Command>>,
    seats: BTreeMap<PeerId, (ConnectionId, Slot)>,
}

impl LiveRoom {
    pub(super) fn new(now: Time, name: RoomName, epoch: Epoch, limits: RoomLimits) -> Self {
        LiveRoom {
            room: Rc::new(RefCell::new(Room::new(now, name, epoch, limits))),
            dormant: false,
            mailboxes: PerLane::default(),
            seats: BTreeMap::new(),
        }
    }

    /// Begins the life named `fresh`, if the last one is over.
    pub(super) fn wake(&mut self, now: Time, fresh: Epoch) {
        if std::mem::take(&mut self.dormant) {
            self.room.borrow_mut().begin(now, fresh);
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
        let done = self.change(now, name, connection, author, slot, op);
        let outcome = match done {
            Ok(Some(outcome)) => outcome,
            Ok(None) => return,
            Err(refusal) => {
                let lane = match about {
                    About::Send { lane, .. } => lane,
                    _ => LogLane::Signal,
                };
                Outcome::Refused { about, refusal, at: self.last(name)[lane] }
            }
        };
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.replies.push(Reply { slot, outcome });
        }
    }

    fn change(
        &mut self,
        now: Time,
        name: &RoomName,
        connection: ConnectionId,
        author: Author,
        slot: Slot,
        op: Op,
    ) -> Result<Option<Outcome<SimLog>>, Refusal> {
        let Some(live) = self.rooms.get_mut(name) else { return Err(Refusal::NOT_A_MEMBER) };
        let (peer, shared) = (author.peer, live.room.clone());
        let mut room = shared.borrow_mut();
        let (outcome, entry): Change = match op {
            Op::Join { id, metadata } => {
                let joining = room.join(now, peer, None, metadata)?;
                drop(room);
                let seated = live.seats.insert(peer, (connection, slot));
                let start = seated.is_none().then(|| live.log(&self.saboteur));
                if let Some(session) = self.sessions.get_mut(&author.session) {
                    session.rooms.insert(name.clone());
                }
                (Some(Outcome::Joined { id, snapshot: joining.snapshot, start }), joining.entry)
            }
            Op::Leave { id } => {
                let left = room.leave(now, peer, LeaveReason::Left);
                let Snapshot { positions, .. } = room.snapshot(peer);
                drop(room);
                live.seats.remove(&peer);
                if let Some(session) = self.sessions.get_mut(&author.session) {
                    session.rooms.remove(name);
                }
                let at = PerLane { signal: positions.signal, bulk: positions.bulk };
                (Some(Outcome::Left { id, at }), left)
            }
            Op::Update { id, metadata } => {
                let entry = room.update(now, peer, metadata)?;
                drop(room);
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
                (Some(Outcome::Snapshot { reason, snapshot, log: live.log(&self.saboteur) }), None)
            }
            Op::Send(send) => self.send(now, &mut room, peer, send)?,
            Op::Ephemeral { to, body, .. } => {
                room.check_addressee(peer, to)?;
                drop(room);
                self.pass_on(&Ephemeral::new(name.clone(), peer, to, body));
                (None, None)
            }
        };
        self.note(name, entry);
        Ok(outcome)
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
        let (Some(entry), Some(room)) = (entry, self.rooms.get(name)) else { return };
        for (connection, slot) in room.seats.values() {
            if let Some(connection) = self.connections.get_mut(connection) {
                connection.news[entry.lane] |= 1 << slot.index;
            }
        }
        self.history.push(entry);
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

    /// The last offsets used in a room.
    pub(super) fn last(&self, name: &RoomName) -> PerLane<u64> {
        self.rooms.get(name).map_or_else(PerLane::default, |live| {
            let positions = live.room.borrow().positions();
            PerLane { signal: positions.signal, bulk: positions.bulk }
        })
    }
}
