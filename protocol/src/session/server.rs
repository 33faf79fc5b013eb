//! The gateway's end of a connection.
//!
//! It greets, checks what arrives, passes requests on to rooms and decides what goes out
//! next on which lane. It owns neither the rooms nor the transport: requests come out of
//! [`ServerSession::poll_action`], frames out of [`ServerSession::poll_transmit`], and what
//! the rooms answer goes in through [`ServerSession::handle_reply`].

mod greeting;
mod haste;
mod replies;
mod requests;
mod resets;
mod token;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use self::resets::Resets;
use super::grant::{Grant, Pass};
use super::membership::{Membership, Next, Standing};
use super::outbox::Outbox;
use super::{Op, Request, RoomLog, Slot};
use crate::limits::{INTEGER_MAX, Limits, POSITION_AFTER};
use crate::time::Time;
use crate::wire::frame::Frame;
use crate::wire::message::{Close, Hello, IceServer, Positions, ResetReason, ServerMessage};
use crate::wire::{
    CloseCode, Codec, ErrorCode, LogLane, PeerId, PerLane, RoomName, Secret, SessionId, UserId,
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
    /// Bytes of answers held for a client that does not read, before no more is read from it.
    pub outbox_bytes: usize,
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
    /// Look at a newer token, then call [`ServerSession::handle_refreshed`].
    Refresh {
        /// Request number.
        id: u64,
        /// The token.
        token: Secret,
    },
}

/// Something worth counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// An `error` was answered, or a datagram was refused.
    Refused(ErrorCode),
    /// A `reset` was sent.
    Reset(ResetReason),
    /// A datagram was no message.
    Undecodable,
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
    /// What it may do.
    pub pass: Pass,
    /// The rooms it is a member of, if it was resumed.
    pub resumed: Option<Vec<OpenedRoom<L>>>,
}

/// A room that a resumed session is a member of.
#[derive(Debug)]
pub struct OpenedRoom<L> {
    /// The place the room's news are marked at; below
    /// [`crate::limits::ROOMS_MAX`], each used once.
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
    /// No session yet.
    Greeting {
        refused: RefusedHellos,
        /// A `hello` was refused: everything up to the next one is ignored, because the client
        /// may have sent it before it knew.
        ignoring: bool,
    },
    /// The session is being opened: nothing more is read until it is.
    Opening {
        listed: BTreeMap<RoomName, Positions>,
        refused: RefusedHellos,
    },
    Live {
        peer: PeerId,
    },
    /// The session is being ended on the client's word.
    Ending {
        peer: PeerId,
    },
}

/// How often a connection's `hello` was refused.
#[derive(Clone, Copy, Debug, Default)]
struct RefusedHellos {
    finally: u32,
    /// Told to come again later.
    for_now: u32,
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
    pass: Pass,
    /// The client knows that its token ends soon.
    told_of_end: bool,
    memberships: Vec<Membership<L>>,
    /// Rooms that may have something to send, by slot, per lane.
    news: PerLane<u64>,
    /// The room whose turn it is, by slot, per lane.
    turn: PerLane<u32>,
    generations: u32,
    outbox: Outbox,
    actions: VecDeque<Action>,
    notes: Vec<Note>,
    /// One request on a room at a time is with the router; sends are not counted.
    waiting: bool,
    /// Memberships that wait to start again.
    resets: Resets,
    /// A `join` that waits for an ended membership to have said everything.
    held_join: Option<(RoomName, Op)>,
    closing: Option<Close>,
}

impl<L: RoomLog> ServerSession<L> {
    /// A connection that has said nothing yet.
    pub fn new(codec: Codec, streams: Streams) -> Self {
        ServerSession {
            codec,
            streams,
            phase: Phase::Greeting { refused: RefusedHellos::default(), ignoring: false },
            pass: Pass::default(),
            told_of_end: false,
            memberships: Vec::new(),
            news: PerLane::default(),
            turn: PerLane::default(),
            generations: 0,
            outbox: Outbox::default(),
            actions: VecDeque::new(),
            notes: Vec::new(),
            waiting: false,
            resets: Resets::default(),
            held_join: None,
            closing: None,
        }
    }

    /// Whether the session is open.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live { .. })
    }

    /// What the session may do.
    pub fn grant(&self) -> &Grant {
        &self.pass.grant
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
        if self.is_revoked() {
            self.news = PerLane::default();
        }
    }

    /// Whether it is closed because it may see nothing more: what has been answered goes out, and no
    /// entry behind that.
    pub fn is_revoked(&self) -> bool {
        let revoking = [CloseCode::TokenExpired, CloseCode::Unauthorized].map(CloseCode::number);
        self.closing.as_ref().is_some_and(|close| revoking.contains(&close.code))
    }

    /// The index of the room's membership that has not ended.
    fn find(&self, room: &RoomName) -> Option<usize> {
        self.memberships.iter().position(|membership| {
            !matches!(membership.standing, Standing::Left(_)) && membership.room == *room
        })
    }

    /// A room has news on a lane, or may have.
    pub fn handle_news(&mut self, news: PerLane<u64>) {
        if let Phase::Greeting { .. } | Phase::Opening { .. } = self.phase {
            // Of a resume that failed half-way: nobody follows those rooms now.
            return;
        }
        if self.is_revoked() {
            return;
        }
        self.news.signal |= news.signal;
        self.news.bulk |= news.bulk;
    }

    /// Puts a message of the gateway itself on the signal lane.
    pub fn notify(&mut self, message: &ServerMessage) {
        if self.is_live() && self.closing.is_none() {
            self.answer(LogLane::Signal, message);
        }
    }

    /// What has happened that is worth counting.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
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
        let frame = self.next_frame(now, lane);
        self.ask_for_resets();
        frame
    }

    fn next_frame(&mut self, now: Time, lane: LogLane) -> Option<Frame> {
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
        let untold = self.memberships.iter().filter_map(|m| m.untold_since).min();
        [untold.map(|at| at + POSITION_AFTER), self.token_timeout()].into_iter().flatten().min()
    }

    /// Tells the client what it has not been told of for a while, and of its token's end.
    pub fn handle_timeout(&mut self, now: Time) {
        self.handle_token_timeout(now);
        for index in 0..self.memberships.len() {
            let due = |since: Time| now >= since + POSITION_AFTER;
            if self.memberships[index].untold_since.is_some_and(due) {
                for (lane, message) in self.memberships[index].tell_positions() {
                    self.answer(lane, &message);
                }
            }
        }
    }

    fn remove(&mut self, index: usize) {
        let mut membership = self.memberships.remove(index);
        for (lane, frame) in membership.take_answers() {
            self.outbox.release(frame.len());
            self.outbox.push(lane, frame);
        }
        self.resets.forget(membership.slot);
        self.actions.push_back(Action::Forget(membership.slot));
        if let Some((room, op)) = self.held_join.take() {
            self.join(room, op);
        }
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

    fn violation(&mut self, reason: String) {
        self.close(Close { reason, ..Close::new(CloseCode::ProtocolError) });
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(INTEGER_MAX).min(INTEGER_MAX)
}
