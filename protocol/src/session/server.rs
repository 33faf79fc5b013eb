//! The gateway's end of a connection.
//!
//! It greets, checks what arrives, passes requests on to rooms and decides what goes out
//! next on which lane. It owns neither the rooms nor the transport: requests come out of
//! [`ServerSession::poll_action`], frames out of [`ServerSession::poll_transmit`], and what
//! the rooms answer goes in through [`ServerSession::handle_reply`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::membership::{Membership, Next, Standing, accepted};
use super::outbox::Outbox;
use super::{About, Op, Outcome, Reply, Request, RoomLog, Slot};
use crate::limits::{INTEGER_MAX, Limits, POSITION_AFTER, REFUSED_HELLOS_MAX, ROOMS_MAX};
use crate::room::{Refusal, Snapshot, recovery};
use crate::time::Time;
use crate::wire::codec::DecodeError;
use crate::wire::error::Retry;
use crate::wire::frame::Frame;
use crate::wire::message::{
    self, ClientMessage, Close, Hello, Ice, IceServer, Joined, Members, Positions, Reference,
    Reset, ResetReason, ResumedRoom, ServerMessage, VERSION, Welcome,
};
use crate::wire::{
    CloseCode, Codec, ErrorCode, Json, Lane, LogLane, PeerId, PerLane, RoomName, Secret,
    SessionId, UserId,
};

/// What a gateway tells every session, and how it is bounded.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is accepted.
    pub limits: Limits,
    /// Between signs of life.
    pub heartbeat: Duration,
    /// How long a session outlives its connection.
    pub resume_window: Duration,
    /// For `ice`.
    pub ice_servers: Vec<IceServer>,
    /// How long those are good for.
    pub ice_ttl: Duration,
}

/// Something the owner of a session has to do.
#[derive(Debug)]
pub enum Action {
    /// Open or resume a session, then call [`ServerSession::handle_opened`] or
    /// [`ServerSession::handle_refused`].
    Open(Box<Hello>),
    /// Ask a room.
    Request(Request),
    /// End the session, then call [`ServerSession::handle_ended`].
    End,
    /// A room's place is free: forget what was kept for it.
    Forget(Slot),
}

/// A session that was opened for this connection.
#[derive(Debug)]
pub struct Opened<L> {
    /// The session.
    pub session: SessionId,
    /// Its secret, for the client alone.
    pub secret: Secret,
    /// Its public name.
    pub peer: PeerId,
    /// Who it belongs to.
    pub user: Option<UserId>,
    /// The rooms it is a member of, if it was resumed.
    pub resumed: Option<Vec<OpenedRoom<L>>>,
}

/// A room that a resumed session is a member of.
#[derive(Debug)]
pub struct OpenedRoom<L> {
    /// The place the room's news are marked at; below [`ROOMS_MAX`], each used once.
    pub slot: Slot,
    /// The room.
    pub room: RoomName,
    /// Its logs.
    pub log: L,
    /// The highest `seq` applied for the session.
    pub seq: PerLane<u64>,
}

#[derive(Debug)]
enum Phase {
    /// No session yet. Everything but a `hello` is ignored after a refused one, because the
    /// client may have sent it before it knew.
    Greeting { refused: u32 },
    /// The session is being opened: nothing more is read until it is.
    Opening { listed: BTreeMap<RoomName, Positions>, refused: u32 },
    Live { peer: PeerId },
    /// The session is being ended on the client's word.
    Ending { peer: PeerId },
}

/// How a transport separates the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// One stream for everything: a WebSocket.
    One,
    /// A stream per reliable lane and datagrams: WebTransport.
    PerLane,
}

/// The gateway's end of one connection. `L` reads a room's logs.
#[derive(Debug)]
pub struct ServerSession<L> {
    codec: Codec,
    streams: Streams,
    phase: Phase,
    memberships: Vec<Membership<L>>,
    /// Rooms that may have something to send, by slot, per lane.
    news: PerLane<u64>,
    /// The room whose turn it is, by slot, per lane.
    turn: PerLane<u32>,
    generations: u32,
    outbox: Outbox,
    actions: VecDeque<Action>,
    /// One request on a room at a time is with the router; sends are not counted.
    waiting: bool,
    closing: Option<Close>,
}

impl<L: RoomLog> ServerSession<L> {
    /// A connection that has said nothing yet.
    pub fn new(codec: Codec, streams: Streams) -> Self {
        ServerSession {
            codec,
            streams,
            phase: Phase::Greeting { refused: 0 },
            memberships: Vec::new(),
            news: PerLane::default(),
            turn: PerLane::default(),
            generations: 0,
            outbox: Outbox::default(),
            actions: VecDeque::new(),
            waiting: false,
            closing: None,
        }
    }

    /// Whether the session is open.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live { .. })
    }

    /// Whether the peer may be read on. While it may not, its transport holds it back.
    pub fn wants_input(&self) -> bool {
        self.closing.is_none()
            && !self.waiting
            && !self.outbox.is_congested()
            && matches!(self.phase, Phase::Greeting { .. } | Phase::Live { .. })
    }

    /// The `close` that ends the connection once the transmits before it are out.
    pub fn closing(&self) -> Option<&Close> {
        self.closing.as_ref()
    }

    /// Ends the connection with `close`. The first reason stands.
    pub fn close(&mut self, close: Close) {
        self.closing.get_or_insert(close);
    }

    /// Takes one message that came on `lane`.
    pub fn handle_frame(&mut self, settings: &Settings, lane: Lane, payload: &[u8]) {
        if self.closing.is_some() {
            return;
        }
        if payload.len() as u64 > settings.limits.message_bytes {
            return self.close(Close::new(CloseCode::MessageTooLarge));
        }
        match (self.codec.decode_client(payload), &self.phase) {
            (Ok(message), Phase::Live { peer }) => {
                let peer = *peer;
                self.handle_message(settings, peer, lane, message);
            }
            (Ok(message), Phase::Greeting { refused }) => {
                let refused = *refused;
                self.handle_greeting(lane, message, refused);
            }
            // A datagram is dropped, whatever is wrong with it.
            (Err(_), _) if lane == Lane::Ephemeral => {}
            (Err(DecodeError::Unparseable { reason }), _) => self.violation(reason),
            (Err(DecodeError::Refused { code, message, reference }), phase) => match *phase {
                Phase::Greeting { refused } => {
                    self.refuse_hello(refused, code, message, reference);
                }
                _ => self.error(code, message, reference),
            },
            (Ok(_), _) => {}
        }
    }

    fn handle_greeting(&mut self, lane: Lane, message: ClientMessage, refused: u32) {
        match message {
            ClientMessage::Hello(hello) if lane == Lane::Signal => {
                if hello.version != VERSION {
                    let code = ErrorCode::UnsupportedVersion;
                    self.error(code, format!("this gateway speaks version {VERSION}"), None);
                    return self.close(Close::new(CloseCode::UnsupportedVersion));
                }
                let listed = hello.resume.as_ref().map(|resume| resume.rooms.clone());
                self.phase = Phase::Opening { listed: listed.unwrap_or_default(), refused };
                self.actions.push_back(Action::Open(Box::new(hello)));
            }
            _ if refused > 0 || lane == Lane::Ephemeral => {}
            _ => self.violation("the first message must be hello".into()),
        }
    }

    /// The `hello` was refused; the client may say another one.
    pub fn handle_refused(&mut self, refusal: &Refusal, retry_after: Option<Duration>) {
        let Phase::Opening { refused, .. } = self.phase else { return };
        let retry_after = retry_after.map(millis);
        self.answer(LogLane::Signal, &ServerMessage::Error(message::Error {
            code: refusal.code,
            message: refusal.message.into(),
            reference: Reference::default(),
            retry_after,
            expected: None,
        }));
        if refusal.code.retry() == Retry::Later {
            // Not the client's fault: it may ask as often as it likes.
            self.phase = Phase::Greeting { refused };
            return;
        }
        self.count_refused_hello(refused);
        if refusal.code == ErrorCode::Unauthorized {
            self.close(Close::new(CloseCode::Unauthorized));
        }
    }

    fn refuse_hello(&mut self, refused: u32, code: ErrorCode, text: String, about: Reference) {
        self.error(code, text, about);
        self.count_refused_hello(refused);
    }

    fn count_refused_hello(&mut self, refused: u32) {
        self.phase = Phase::Greeting { refused: refused + 1 };
        if refused + 1 >= REFUSED_HELLOS_MAX {
            self.close(Close::new(CloseCode::Unauthorized));
        }
    }

    /// The session is open: answers `welcome` and goes on from the client's positions.
    pub fn handle_opened(&mut self, settings: &Settings, opened: Opened<L>) {
        let Phase::Opening { listed, .. } = &mut self.phase else { return };
        let mut listed = std::mem::take(listed);
        self.phase = Phase::Live { peer: opened.peer };
        let resumed = opened.resumed.is_some();
        let mut rooms = BTreeMap::new();
        let mut resets = Vec::new();
        for room in opened.resumed.into_iter().flatten() {
            self.generations = self.generations.max(room.slot.generation + 1);
            rooms.insert(room.room.clone(), ResumedRoom { seq: room.seq });
            let positions = listed.remove(&room.room);
            let mut membership = Membership::joining(room.slot, room.room);
            match going_on(&room.log, positions) {
                Ok(positions) => {
                    membership.follow(room.log, positions, false);
                    self.mark(room.slot);
                }
                Err(reason) => resets.push((membership.slot, reason)),
            }
            self.memberships.push(membership);
        }
        self.answer(LogLane::Signal, &ServerMessage::Welcome(Welcome {
            session: opened.session,
            secret: opened.secret,
            peer: opened.peer,
            user: opened.user,
            resumed,
            rooms,
            lost: if resumed { listed.into_keys().collect() } else { Vec::new() },
            heartbeat: millis(settings.heartbeat),
            resume_window: millis(settings.resume_window),
            limits: settings.limits,
        }));
        for (slot, reason) in resets {
            self.start_again(slot, reason);
        }
    }

    fn handle_message(
        &mut self,
        settings: &Settings,
        peer: PeerId,
        lane: Lane,
        message: ClientMessage,
    ) {
        if let Err(reference) = on_its_lane(self.streams, lane, &message) {
            if lane != Lane::Ephemeral {
                let text = "this does not belong on this stream".to_owned();
                self.error(ErrorCode::BadRequest, text, reference);
            }
            return;
        }
        match message {
            ClientMessage::Hello(_) => self.violation("a second hello".into()),
            ClientMessage::Lane { .. } => {
                let text = "lane opens a WebTransport stream and belongs nowhere else".to_owned();
                self.error(ErrorCode::BadRequest, text, None);
            }
            ClientMessage::Join { id, room, metadata } => {
                self.join(settings, id, room, metadata);
            }
            ClientMessage::Leave { id, room } => {
                if self.find(&room).is_none() {
                    return self.answer(LogLane::Signal, &ServerMessage::Ok { id });
                }
                self.request(room, Op::Leave { id });
            }
            ClientMessage::Update { id, room, metadata } => {
                if metadata_too_large(settings, Some(&metadata)) {
                    return self.too_large("metadata is too large", id, room);
                }
                self.request(room, Op::Update { id, metadata });
            }
            ClientMessage::Members { id, room } => self.request(room, Op::Members { id }),
            ClientMessage::Send(send) => {
                let room = send.room.clone();
                if send.to == Some(peer) {
                    let about = About::Send { lane: send.lane, seq: send.seq };
                    let refusal = Refusal::new(ErrorCode::BadRequest, "a message to oneself");
                    return self.refuse(&room, about, &refusal, None);
                }
                self.request(room, Op::Send(send));
            }
            ClientMessage::Ephemeral { room, to, body } => {
                let answered = lane != Lane::Ephemeral;
                if body.len() as u64 > settings.limits.ephemeral_bytes {
                    let refusal = Refusal::new(ErrorCode::TooLarge, "an ephemeral body too large");
                    return self.refuse(&room, About::Ephemeral { answered }, &refusal, None);
                }
                self.request(room, Op::Ephemeral { to, body, answered });
            }
            ClientMessage::Ice { id } => {
                let servers = settings.ice_servers.clone();
                let ttl = settings.ice_ttl.as_secs();
                self.answer(LogLane::Signal, &ServerMessage::Ice(Ice { id, servers, ttl }));
            }
            // Without authentication there is nothing a token could change.
            ClientMessage::Refresh { id, .. } => {
                self.answer(LogLane::Signal, &ServerMessage::Ok { id });
            }
            ClientMessage::Ping { id } => {
                self.answer(LogLane::Signal, &ServerMessage::Pong { id });
            }
            ClientMessage::Bye => {
                self.phase = Phase::Ending { peer };
                self.actions.push_back(Action::End);
            }
        }
    }

    fn join(&mut self, settings: &Settings, id: u64, room: RoomName, metadata: Option<Json>) {
        if metadata_too_large(settings, metadata.as_ref()) {
            return self.too_large("metadata is too large", id, room);
        }
        if self.find(&room).is_none() {
            let allowed = (settings.limits.rooms as usize).min(ROOMS_MAX);
            let left = |membership: &&Membership<L>| {
                !matches!(membership.standing, Standing::Left(_))
            };
            let joined = self.memberships.iter().filter(left).count();
            let free = (0..ROOMS_MAX as u8)
                .find(|index| self.memberships.iter().all(|m| m.slot.index != *index));
            let (Some(index), true) = (free, joined < allowed) else {
                let text = "the session is in as many rooms as it may be";
                let refusal = Refusal::new(ErrorCode::TooManyRooms, text);
                return self.refuse(&room, About::Join { id }, &refusal, None);
            };
            let slot = Slot { index, generation: self.generations };
            self.generations = self.generations.wrapping_add(1);
            self.memberships.push(Membership::joining(slot, room.clone()));
        }
        self.request(room, Op::Join { id, metadata });
    }

    /// Passes `op` on to a room the session is in, or is joining.
    fn request(&mut self, room: RoomName, op: Op) {
        let joining = matches!(op, Op::Join { .. });
        let known = self.find(&room).filter(|&index| {
            joining || self.memberships[index].standing != Standing::Joining
        });
        let Some(index) = known else {
            return self.refuse(&room, op.about(), &Refusal::NOT_A_MEMBER, None);
        };
        self.waiting |= !matches!(op, Op::Send(_) | Op::Ephemeral { .. });
        let slot = self.memberships[index].slot;
        self.actions.push_back(Action::Request(Request { slot, room, op }));
    }

    /// The index of the room's membership that has not ended.
    fn find(&self, room: &RoomName) -> Option<usize> {
        self.memberships.iter().position(|membership| {
            !matches!(membership.standing, Standing::Left(_)) && membership.room == *room
        })
    }

    /// Takes a room's answer.
    pub fn handle_reply(&mut self, reply: Reply<L>) {
        let answered = !matches!(
            reply.outcome,
            Outcome::Duplicate { .. }
                | Outcome::Refused { about: About::Send { .. } | About::Ephemeral { .. }, .. }
        );
        if answered && !matches!(reply.outcome, Outcome::Snapshot { .. }) {
            self.waiting = false;
        }
        let found = self.memberships.iter().position(|m| m.slot == reply.slot);
        let Some(index) = found else { return };
        match reply.outcome {
            Outcome::Joined { id, snapshot, start } => self.joined(index, id, snapshot, start),
            Outcome::Left { id, at } => {
                let frame = self.codec.encode_server(&ServerMessage::Ok { id });
                self.memberships[index].standing = Standing::Left(at);
                self.answer_behind(index, LogLane::Signal, at.signal, frame);
            }
            Outcome::Updated { id, at } => {
                let frame = self.codec.encode_server(&ServerMessage::Ok { id });
                self.answer_behind(index, LogLane::Signal, at, frame);
            }
            Outcome::Members { id, snapshot } => {
                let room = self.memberships[index].room.clone();
                let Positions { epoch, signal, .. } = snapshot.positions;
                let members = snapshot.members;
                let message = Members { id, room, epoch, signal, members };
                let frame = self.codec.encode_server(&ServerMessage::Members(message));
                self.answer_behind(index, LogLane::Signal, signal, frame);
            }
            Outcome::Duplicate { lane, applied } => {
                let membership = &self.memberships[index];
                if membership.has_passed(lane, &applied) {
                    let message = accepted(membership.room.clone(), lane, &applied);
                    self.answer(lane, &message);
                }
            }
            Outcome::Snapshot { reason, snapshot, log } => {
                self.reset(index, reason, snapshot, log);
            }
            Outcome::Refused { about, refusal, at } => {
                let room = self.memberships[index].room.clone();
                if let (About::Join { .. }, Standing::Joining) =
                    (about, self.memberships[index].standing)
                {
                    self.remove(index);
                    return self.refuse(&room, about, &refusal, None);
                }
                self.refuse(&room, about, &refusal, Some((index, at)));
            }
        }
    }

    fn joined(&mut self, index: usize, id: u64, snapshot: Snapshot, start: Option<L>) {
        let room = self.memberships[index].room.clone();
        let Snapshot { positions, seq, members } = snapshot;
        let Positions { epoch, signal, bulk } = positions;
        let message = Joined { id, room: room.clone(), epoch, signal, bulk, seq, members };
        let frame = self.codec.encode_server(&ServerMessage::Joined(message));
        let Some(log) = start else {
            return self.answer_behind(index, LogLane::Signal, signal, frame);
        };
        let slot = self.memberships[index].slot;
        self.memberships[index].follow(log, positions, true);
        // What an ended membership of the same room still had for the bulk lane would come
        // behind this one's start: it is void.
        let ended = self.memberships.iter().position(|m| m.room == room && m.slot != slot);
        if let Some(ended) = ended {
            self.remove(ended);
        }
        self.outbox.push(LogLane::Signal, frame);
        self.mark(slot);
    }

    fn reset(&mut self, index: usize, reason: ResetReason, snapshot: Snapshot, log: L) {
        let membership = &mut self.memberships[index];
        if membership.standing != Standing::Resetting {
            return;
        }
        let Snapshot { positions, seq, members } = snapshot;
        let Positions { epoch, signal, bulk } = positions;
        let room = membership.room.clone();
        membership.follow(log, positions, true);
        let slot = membership.slot;
        let message = Reset { room, reason, epoch, signal, bulk, seq, members };
        self.answer(LogLane::Signal, &ServerMessage::Reset(message));
        self.mark(slot);
    }

    /// The session has ended on the client's word: everything in its logs goes out, then the
    /// connection closes.
    pub fn handle_ended(&mut self, ends: &[(Slot, PerLane<u64>)]) {
        for (slot, at) in ends {
            if let Some(membership) = self.memberships.iter_mut().find(|m| m.slot == *slot) {
                membership.standing = Standing::Left(*at);
            }
            self.mark(*slot);
        }
        self.close(Close::new(CloseCode::Bye));
    }

    /// A room has news on a lane, or may have.
    pub fn handle_news(&mut self, news: PerLane<u64>) {
        self.news.signal |= news.signal;
        self.news.bulk |= news.bulk;
    }

    /// Puts a message of the gateway itself on the signal lane.
    pub fn notify(&mut self, message: &ServerMessage) {
        if self.is_live() && self.closing.is_none() {
            self.answer(LogLane::Signal, message);
        }
    }

    /// Whether there is something to do.
    pub fn has_actions(&self) -> bool {
        !self.actions.is_empty()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether [`ServerSession::poll_transmit`] may have a frame for a lane.
    pub fn may_transmit(&self, lane: LogLane) -> bool {
        self.news[lane] != 0 || !self.outbox.is_empty_on(lane)
    }

    /// The next frame for a reliable lane. Answers come before entries, rooms take turns.
    pub fn poll_transmit(&mut self, now: Time, lane: LogLane) -> Option<Frame> {
        if let Some(frame) = self.outbox.pop(lane) {
            return Some(frame);
        }
        let viewer = match self.phase {
            Phase::Live { peer } | Phase::Ending { peer } => peer,
            Phase::Greeting { .. } | Phase::Opening { .. } => return None,
        };
        while self.news[lane] != 0 {
            // The first marked room at or behind the turn: a busy room keeps the others
            // waiting for one entry each.
            let turn = self.turn[lane];
            let ahead = self.news[lane].rotate_right(turn).trailing_zeros();
            let bit = ((ahead + turn) % 64) as u8;
            let Some(index) = self.memberships.iter().position(|m| m.slot.index == bit) else {
                self.news[lane] &= !(1 << bit);
                continue;
            };
            match self.memberships[index].next(now, lane, self.codec, viewer) {
                Next::Frame(frame) => {
                    self.turn[lane] = (u32::from(bit) + 1) % 64;
                    return Some(frame);
                }
                Next::Answer(frame) => {
                    self.outbox.release(frame.len());
                    return Some(frame);
                }
                Next::Nothing => {
                    self.news[lane] &= !(1 << bit);
                    if self.memberships[index].is_over() {
                        self.remove(index);
                    }
                }
                Next::Lost(reason) => {
                    self.news[lane] &= !(1 << bit);
                    self.start_again(self.memberships[index].slot, reason);
                }
            }
        }
        None
    }

    /// When [`ServerSession::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.memberships.iter().filter_map(|m| m.untold_since).min().map(|at| at + POSITION_AFTER)
    }

    /// Tells the client positions it has not been told of for a while.
    pub fn handle_timeout(&mut self, now: Time) {
        for index in 0..self.memberships.len() {
            let due = |since: Time| now >= since + POSITION_AFTER;
            if self.memberships[index].untold_since.is_some_and(due) {
                for (lane, message) in self.memberships[index].tell_positions() {
                    self.answer(lane, &message);
                }
            }
        }
    }

    fn start_again(&mut self, slot: Slot, reason: ResetReason) {
        let Some(membership) = self.memberships.iter_mut().find(|m| m.slot == slot) else {
            return;
        };
        if matches!(membership.standing, Standing::Left(_)) {
            let index = self.memberships.iter().position(|m| m.slot == slot);
            return index.map_or((), |index| self.remove(index));
        }
        membership.standing = Standing::Resetting;
        let (slot, room) = (membership.slot, membership.room.clone());
        self.actions.push_back(Action::Request(Request { slot, room, op: Op::Snapshot { reason } }));
    }

    fn remove(&mut self, index: usize) {
        let mut membership = self.memberships.remove(index);
        for (lane, frame) in membership.take_answers() {
            self.outbox.release(frame.len());
            self.outbox.push(lane, frame);
        }
        self.actions.push_back(Action::Forget(membership.slot));
    }

    fn mark(&mut self, slot: Slot) {
        let bit = 1 << slot.index;
        self.handle_news(PerLane { signal: bit, bulk: bit });
    }

    fn answer(&mut self, lane: LogLane, message: &ServerMessage) {
        self.outbox.push(lane, self.codec.encode_server(message));
    }

    fn answer_behind(&mut self, index: usize, lane: LogLane, at: u64, frame: Frame) {
        self.outbox.hold(frame.len());
        self.memberships[index].answer_behind(lane, at, frame);
        self.mark(self.memberships[index].slot);
    }

    fn too_large(&mut self, text: &'static str, id: u64, room: RoomName) {
        let refusal = Refusal::new(ErrorCode::TooLarge, text);
        self.refuse(&room, About::Request { id }, &refusal, None);
    }

    /// Answers a refusal, behind the entries that came before it if it has a place.
    fn refuse(
        &mut self,
        room: &RoomName,
        about: About,
        refusal: &Refusal,
        place: Option<(usize, u64)>,
    ) {
        let mut reference = Reference::default();
        let lane = match about {
            About::Join { id } | About::Request { id } => {
                reference.id = Some(id);
                LogLane::Signal
            }
            About::Send { lane, seq } => {
                reference.room = Some(room.clone());
                (reference.lane, reference.seq) = (Some(lane), Some(seq));
                lane
            }
            About::Ephemeral { answered: true } => {
                reference.room = Some(room.clone());
                LogLane::Signal
            }
            About::Ephemeral { answered: false } | About::Snapshot => return,
        };
        let retry_after = match refusal.code {
            ErrorCode::Unavailable | ErrorCode::Internal => Some(RETRY_AFTER_MS),
            _ => None,
        };
        let frame = self.codec.encode_server(&ServerMessage::Error(message::Error {
            code: refusal.code,
            message: refusal.message.into(),
            reference,
            retry_after,
            expected: refusal.expected.map(|seq| seq.min(INTEGER_MAX)),
        }));
        match place {
            Some((index, at)) => self.answer_behind(index, lane, at, frame),
            None => self.outbox.push(lane, frame),
        }
    }

    fn error(&mut self, code: ErrorCode, message: String, about: impl Into<Option<Reference>>) {
        let reference = about.into().unwrap_or_default();
        // Errors of bulk sends travel on the bulk stream, everything else on the signal stream.
        let lane = reference.lane.filter(|_| reference.seq.is_some()).unwrap_or(LogLane::Signal);
        let (retry_after, expected) = (None, None);
        let error = message::Error { code, message, reference, retry_after, expected };
        self.answer(lane, &ServerMessage::Error(error));
    }

    fn violation(&mut self, reason: String) {
        self.close(Close { reason, ..Close::new(CloseCode::ProtocolError) });
    }
}

/// What `unavailable` and `internal` tell a client to wait, milliseconds.
const RETRY_AFTER_MS: u64 = 500;

/// Whether a resumed member's positions can be gone on from.
fn going_on<L: RoomLog>(log: &L, positions: Option<Positions>) -> Result<Positions, ResetReason> {
    for lane in LogLane::ALL {
        let position = positions.map(|positions| positions.on(lane));
        recovery::recover(log.epoch(), position, |after| log.read(lane, after))?;
    }
    positions.ok_or(ResetReason::Unlisted)
}

/// Whether a message may come where it came; the reference for the refusal if not.
fn on_its_lane(
    streams: Streams,
    lane: Lane,
    message: &ClientMessage,
) -> Result<(), Reference> {
    let mut reference = Reference::default();
    if streams == Streams::One {
        return Ok(());
    }
    match (lane, message) {
        (Lane::Bulk, ClientMessage::Send(send)) if send.lane == LogLane::Bulk => return Ok(()),
        (Lane::Ephemeral, ClientMessage::Ephemeral { .. }) => return Ok(()),
        (Lane::Signal, message) if !is_bulk_send(message) => return Ok(()),
        (_, ClientMessage::Send(send)) => {
            reference.room = Some(send.room.clone());
            (reference.lane, reference.seq) = (Some(send.lane), Some(send.seq));
        }
        (_, ClientMessage::Ephemeral { room, .. }) => reference.room = Some(room.clone()),
        (
            _,
            ClientMessage::Join { id, .. }
            | ClientMessage::Leave { id, .. }
            | ClientMessage::Update { id, .. }
            | ClientMessage::Members { id, .. }
            | ClientMessage::Ice { id }
            | ClientMessage::Refresh { id, .. }
            | ClientMessage::Ping { id },
        ) => reference.id = Some(*id),
        (_, ClientMessage::Hello(_) | ClientMessage::Lane { .. } | ClientMessage::Bye) => {}
    }
    Err(reference)
}

fn is_bulk_send(message: &ClientMessage) -> bool {
    matches!(message, ClientMessage::Send(send) if send.lane == LogLane::Bulk)
}

fn metadata_too_large(settings: &Settings, metadata: Option<&Json>) -> bool {
    metadata.is_some_and(|text| text.len() as u64 > settings.limits.metadata_bytes)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(INTEGER_MAX).min(INTEGER_MAX)
}
