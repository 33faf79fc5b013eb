//! A gateway of one node, without tasks: real rooms and real sessions between made-up links.
//!
//! What would run concurrently in a gateway is a step here, taken when the caller says so:
//! [`Gateway::open`], [`Gateway::turn`] and [`Gateway::attend`] in any order, or
//! [`Gateway::run`] for all there is. So a simulation chooses the order of everything that a
//! real gateway leaves to chance.

mod door;
mod rooms;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::rooms::{Command, LiveRoom, SimLog};
use super::Rng;
use super::fault::{Fault, Saboteur};
use crate::limits::{HELLO_TIMEOUT, ROOM_LINGER};
use crate::room::RoomLimits;
use crate::room::entry::Entry;
use crate::room::presence::{Due, Presence};
use crate::session::grant::Admission;
use crate::session::outbox::EphemeralRing;
use crate::session::server::{Action, ServerSession, Settings, Streams};
use crate::session::{Reply, Slot};
use crate::time::Time;
use crate::wire::frame::Frame;
use crate::wire::message::{Close, Hello, LeaveReason, Member, ServerMessage};
use crate::wire::{
    CloseCode, Codec, Epoch, Lane, LogLane, PeerId, PerLane, RoomName, Secret, SessionId,
};

/// A connection as the gateway numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// On whose behalf a room is changed, and under which generation of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Author {
    session: SessionId,
    peer: PeerId,
    generation: u64,
}

#[derive(Debug)]
struct Connection {
    codec: Codec,
    session: ServerSession<SimLog>,
    author: Option<Author>,
    rooms: Vec<(Slot, RoomName)>,
    /// The session is being opened.
    opening: Option<Hello>,
    /// Left by rooms, and not looked at yet.
    replies: Vec<Reply<SimLog>>,
    news: PerLane<u64>,
    ephemeral: EphemeralRing,
    since: Time,
    heard: Time,
    /// Ends at once, whatever has not been sent.
    cut_short: Option<Close>,
}

#[derive(Debug)]
struct Session {
    secret: Secret,
    peer: PeerId,
    generation: u64,
    rooms: BTreeSet<RoomName>,
    admission: Admission,
    connection: Option<ConnectionId>,
}

/// See the module.
#[derive(Debug)]
pub struct Gateway {
    settings: Settings,
    limits: RoomLimits,
    saboteur: Saboteur,
    /// One in so many changes of a room fails, for the client at least.
    mishaps: Option<(u64, Rng)>,
    /// What each token allows; nobody is asked for one while there are none.
    tokens: BTreeMap<String, Admission>,
    connections: BTreeMap<ConnectionId, Connection>,
    sessions: BTreeMap<SessionId, Session>,
    presence: Presence,
    rooms: BTreeMap<RoomName, LiveRoom>,
    /// Names sessions, peers, epochs and connections.
    named: u64,
    history: Vec<std::sync::Arc<Entry>>,
}

impl Gateway {
    /// A gateway that nobody is connected to.
    pub fn new(settings: Settings, limits: RoomLimits) -> Self {
        let presence = Presence::new(settings.resume_window);
        Gateway {
            settings,
            limits,
            saboteur: Saboteur::default(),
            mishaps: None,
            tokens: BTreeMap::new(),
            connections: BTreeMap::new(),
            sessions: BTreeMap::new(),
            presence,
            rooms: BTreeMap::new(),
            named: 0,
            history: Vec::new(),
        }
    }

    /// Gives the gateway a bug.
    pub fn plant(&mut self, fault: Fault, seed: u64) {
        self.saboteur = Saboteur::new(fault, seed);
    }

    /// From now on one in `n` changes of a room is answered `unavailable`, applied or not, as
    /// when a store is asked and does not answer.
    pub fn fail_one_in(&mut self, n: u64, seed: u64) {
        self.mishaps = Some((n, Rng::new(seed)));
    }

    /// No change fails any more.
    pub fn recover(&mut self) {
        self.mishaps = None;
    }

    /// Every entry that was ever appended, in the order of that.
    pub fn history(&self) -> &[std::sync::Arc<Entry>] {
        &self.history
    }

    /// A connection was made.
    pub fn connect(&mut self, now: Time, codec: Codec, streams: Streams) -> ConnectionId {
        self.named += 1;
        let id = ConnectionId(self.named);
        self.connections.insert(
            id,
            Connection {
                codec,
                session: ServerSession::new(codec, streams),
                author: None,
                rooms: Vec::new(),
                opening: None,
                replies: Vec::new(),
                news: PerLane::default(),
                ephemeral: EphemeralRing::default(),
                since: now,
                heard: now,
                cut_short: None,
            },
        );
        id
    }

    /// Whether the connection is there and may be read on.
    pub fn wants_input(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| connection.session.wants_input())
    }

    /// A message came.
    pub fn handle_frame(&mut self, now: Time, id: ConnectionId, lane: Lane, payload: &[u8]) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.heard = now;
        connection.session.handle_frame(&self.settings, lane, payload);
        self.act(now, id);
    }

    /// A sign of life came that is not a message.
    pub fn handle_alive(&mut self, now: Time, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.heard = now;
        }
    }

    /// The connection is gone; its session lives on.
    pub fn handle_disconnected(&mut self, now: Time, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else { return };
        let Some(author) = connection.author else { return };
        for room in self.rooms.values_mut() {
            room.detach(author.peer, id);
        }
        let newest = self.sessions.get_mut(&author.session);
        if let Some(session) = newest.filter(|session| session.connection == Some(id)) {
            session.connection = None;
            self.presence.handle_lost(now, author.session);
        }
    }

    /// Does what the session of a connection wants done.
    fn act(&mut self, now: Time, id: ConnectionId) {
        while let Some(connection) = self.connections.get_mut(&id) {
            if connection.cut_short.is_some() {
                return;
            }
            match connection.session.poll_action() {
                None => return,
                Some(Action::Open(hello)) => connection.opening = Some(*hello),
                Some(Action::Refresh { id: request, token }) => {
                    self.refresh(now, id, request, &token);
                }
                Some(Action::Forget(slot)) => connection.rooms.retain(|(taken, _)| *taken != slot),
                Some(Action::Request(request)) => {
                    let Some(author) = connection.author else { return };
                    if !connection.rooms.iter().any(|(taken, _)| *taken == request.slot) {
                        connection.rooms.push((request.slot, request.room.clone()));
                    }
                    let (slot, op) = (request.slot, request.op);
                    let command = Command { connection: id, author, slot, op };
                    self.live(now, &request.room).push(command);
                }
                Some(Action::End) => {
                    let Some(author) = connection.author else { return };
                    let rooms = connection.rooms.clone();
                    let ends = self.end(now, author.session, LeaveReason::Bye);
                    let slot_of = |name: &RoomName| {
                        rooms.iter().rev().find(|(_, taken)| taken == name).map(|(slot, _)| *slot)
                    };
                    let ends: Vec<_> = ends
                        .into_iter()
                        .filter_map(|(name, at)| slot_of(&name).map(|slot| (slot, at)))
                        .collect();
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.session.handle_ended(&ends);
                    }
                }
            }
        }
    }

    /// Connections whose session waits to be opened.
    pub fn opening(&self) -> Vec<ConnectionId> {
        let opening = |(_, connection): &(&ConnectionId, &Connection)| connection.opening.is_some();
        self.connections.iter().filter(opening).map(|(id, _)| *id).collect()
    }

    /// Ends a session: it leaves its rooms and is forgotten. Returns where each room stood.
    fn end(
        &mut self,
        now: Time,
        session: SessionId,
        reason: LeaveReason,
    ) -> Vec<(RoomName, PerLane<u64>)> {
        let Some(record) = self.sessions.get(&session) else { return Vec::new() };
        let peer = record.peer;
        // What the session sent before goes first, and may be a `join` or a `leave`.
        let waiting: Vec<_> = self.rooms.keys().cloned().collect();
        waiting.iter().for_each(|name| self.turn(now, name));
        let Some(record) = self.sessions.remove(&session) else { return Vec::new() };
        self.presence.handle_back(session);
        let mut ends = Vec::new();
        for name in record.rooms {
            let Some(live) = self.rooms.get_mut(&name) else { continue };
            let left = live.room.borrow_mut().leave(now, peer, reason);
            ends.push((name.clone(), rooms::last(&live.room.borrow())));
            self.note(&name, left);
        }
        self.rooms.values().for_each(|live| live.room.borrow_mut().forget(peer));
        ends
    }

    /// Loses everything that is known about sessions and rooms, as a restart does.
    pub fn restart(&mut self) {
        self.sessions.clear();
        self.rooms.clear();
        self.presence = Presence::new(self.settings.resume_window);
        for connection in self.connections.values_mut() {
            connection.author = None;
            connection.cut_short = Some(Close::new(CloseCode::Draining));
        }
    }

    /// Loses a room's logs, as a broker may. Its members stay members of its next life, and
    /// their connections are closed, so that they look again.
    pub fn lose_logs(&mut self, now: Time, name: &RoomName) {
        let epoch = self.fresh_epoch();
        let sessions = self.sessions.values().filter(|session| session.rooms.contains(name));
        let members: Vec<_> = sessions.map(|session| session.peer).collect();
        let Some(live) = self.rooms.get_mut(name) else { return };
        let (connections, entries) = live.lose_logs(now, epoch, &members);
        self.history.extend(entries);
        for id in connections {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.cut_short = Some(Close::new(CloseCode::Internal));
            }
        }
    }

    /// Loses a room's logs and who its members were.
    pub fn lose_room(&mut self, now: Time, name: &RoomName) {
        for session in self.sessions.values_mut() {
            session.rooms.remove(name);
        }
        self.lose_logs(now, name);
    }

    /// When [`Gateway::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        let connections = self.connections.values().flat_map(|connection| {
            let greeting = connection.author.is_none().then(|| connection.since + HELLO_TIMEOUT);
            let idle = Some(connection.heard + self.idle_timeout());
            [greeting, idle, connection.session.poll_timeout()]
        });
        connections.flatten().chain(self.presence.poll_timeout()).min()
    }

    fn idle_timeout(&self) -> Duration {
        self.settings.heartbeat * 5 / 2
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Time) {
        let idle_timeout = self.idle_timeout();
        for connection in self.connections.values_mut() {
            connection.session.handle_timeout(now);
            if now >= connection.heard + idle_timeout {
                connection.cut_short.get_or_insert(Close::new(CloseCode::IdleTimeout));
            } else if connection.author.is_none() && now >= connection.since + HELLO_TIMEOUT {
                connection.cut_short.get_or_insert(Close::new(CloseCode::HelloTimeout));
            }
        }
        while let Some(due) = self.presence.poll_due(now) {
            match due {
                Due::Expired(session) => drop(self.end(now, session, LeaveReason::Expired)),
                Due::Away(session) => self.mark_away(now, session),
            }
        }
        self.rooms.retain(|_, live| {
            live.room.borrow_mut().trim(now);
            live.retire(now, ROOM_LINGER)
        });
    }

    /// The calendar says that it is `unix_now` seconds since 1970.
    pub fn handle_calendar(&mut self, now: Time, unix_now: u64) {
        for connection in self.connections.values_mut() {
            connection.session.handle_calendar(now, unix_now);
        }
    }

    fn mark_away(&mut self, now: Time, session: SessionId) {
        let Some(Session { peer, rooms, .. }) = self.sessions.get(&session) else { return };
        let (peer, names) = (*peer, rooms.clone());
        for name in names {
            let Some(live) = self.rooms.get(&name) else { continue };
            let away = live.room.borrow_mut().mark_away(now, peer, true);
            self.note(&name, away);
        }
    }

    /// Rooms that have been asked something.
    pub fn waiting(&self) -> Vec<RoomName> {
        let waiting = self.rooms.iter().filter(|(_, room)| room.is_waiting());
        waiting.map(|(name, _)| name.clone()).collect()
    }

    /// A room does what it has been asked.
    pub fn turn(&mut self, now: Time, name: &RoomName) {
        let Some(commands) = self.rooms.get_mut(name).map(LiveRoom::take) else { return };
        for command in commands {
            self.apply(now, name, command);
        }
    }

    /// Connections that rooms have left something for.
    pub fn called(&self) -> Vec<ConnectionId> {
        let called = |(_, connection): &(&ConnectionId, &Connection)| {
            !connection.replies.is_empty() || connection.news != PerLane::default()
        };
        self.connections.iter().filter(called).map(|(id, _)| *id).collect()
    }

    /// A connection looks at what rooms have left for it.
    pub fn attend(&mut self, now: Time, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.session.handle_news(std::mem::take(&mut connection.news));
        for reply in std::mem::take(&mut connection.replies) {
            connection.session.handle_reply(reply);
        }
        self.act(now, id);
    }

    /// Everything there is to do, until there is nothing more.
    pub fn run(&mut self, now: Time) {
        let ids: Vec<_> = self.connections.keys().copied().collect();
        ids.into_iter().for_each(|id| self.act(now, id));
        loop {
            let (opening, waiting, called) = (self.opening(), self.waiting(), self.called());
            if opening.is_empty() && waiting.is_empty() && called.is_empty() {
                return;
            }
            opening.into_iter().for_each(|id| self.open(now, id));
            waiting.iter().for_each(|name| self.turn(now, name));
            called.into_iter().for_each(|id| self.attend(now, id));
        }
    }

    /// Whether there may be something to send.
    pub fn may_transmit(&self, id: ConnectionId, lane: Lane) -> bool {
        self.connections.get(&id).is_some_and(|connection| {
            connection.cut_short.is_none()
                && match lane {
                    Lane::Signal => connection.session.may_transmit(LogLane::Signal),
                    Lane::Bulk => connection.session.may_transmit(LogLane::Bulk),
                    Lane::Ephemeral => !connection.ephemeral.is_empty(),
                }
        })
    }

    /// The next frame of a lane.
    pub fn poll_transmit(&mut self, now: Time, id: ConnectionId, lane: Lane) -> Option<Frame> {
        let connection = self.connections.get_mut(&id)?;
        if connection.cut_short.is_some() {
            return None;
        }
        let frame = match lane {
            Lane::Signal => connection.session.poll_transmit(now, LogLane::Signal),
            Lane::Bulk => connection.session.poll_transmit(now, LogLane::Bulk),
            Lane::Ephemeral => connection.ephemeral.pop(),
        };
        self.act(now, id);
        frame
    }

    /// The `close` of a connection that has said everything before it; its transport is to be
    /// closed, and [`Gateway::handle_disconnected`] called.
    pub fn poll_close(&self, id: ConnectionId) -> Option<(Frame, Close)> {
        let connection = self.connections.get(&id)?;
        let unsaid = LogLane::ALL.into_iter().any(|lane| connection.session.may_transmit(lane));
        let drained = connection.session.closing().filter(|_| !unsaid);
        let close = connection.cut_short.as_ref().or(drained)?.clone();
        Some((connection.codec.encode_server(&ServerMessage::Close(close.clone())), close))
    }

    /// Who is in a room, if anybody is.
    pub fn members(&self, name: &RoomName) -> Option<Vec<Member>> {
        let room = self.rooms.get(name)?.room.borrow();
        let mut viewers = self.sessions.values().map(|session| session.peer);
        let viewer = viewers.find(|peer| room.is_member(*peer))?;
        Some(room.snapshot(viewer).members)
    }

    /// The live room of this name, begun if there is none.
    fn live(&mut self, now: Time, name: &RoomName) -> &mut LiveRoom {
        let (fresh, limits) = (self.fresh_epoch(), self.limits);
        let begin = || LiveRoom::new(now, name.clone(), fresh, limits);
        let live = self.rooms.entry(name.clone()).or_insert_with(begin);
        live.wake(now, fresh);
        live
    }

    #[allow(clippy::expect_used, reason = "a letter and a number are a name")]
    fn fresh_epoch(&mut self) -> Epoch {
        self.named += 1;
        Epoch::parse(&format!("e{}", self.named)).expect("short enough until the year 10^15")
    }
}
