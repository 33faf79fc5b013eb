//! The client's end: one session over any number of connections.
//!
//! A [`ClientSession`] greets on every connection it is given, resumes, repeats what is
//! unanswered, keeps each room's positions and lets every entry through once. It is owned by
//! something that dials: [`ClientSession::wants_link`] says when another connection is
//! wanted, [`Output::Close`] when one is no longer.
//!
//! Two connections may be open at a time: while one carries the session, a newer one may
//! greet, and takes over with its `welcome` (make before break). Until then the older one
//! goes on, and what both deliver is let through once, because positions only move forward.
//!
//! # What happens to sends
//! A send is kept until `accepted`, however many connections that takes, and goes out again
//! only where the gateway has said that it was not applied. When the *session* is lost
//! (`session_unknown`), nobody can say what became of the sends that were under way: they
//! end as [`SendError::Uncertain`] rather than being sent twice. Sends that had not gone out
//! stay, and go out after the client has joined the room again by itself, which its owner
//! sees as [`RoomEvent::Reset`].

mod commands;
mod greeting;
mod inbound;
mod output;
mod requests;
mod room;
mod sends;
mod transmit;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

pub use output::{
    Answer, CommandError, Ended, Event, LinkClose, LinkId, Live, Output, Receipt, RequestError,
    RequestId, ResetCause, RoomEvent, SendError, SendId,
};

use self::requests::{Ask, Asker, Requests};
use self::room::Room;
use super::server::Streams;
use crate::limits::{HELLO_TIMEOUT, Limits};
use crate::time::Time;
use crate::wire::message::{ClientMessage, Close, ServerMessage};
use crate::wire::{CloseCode, LogLane, PeerId, PerLane, RoomName, Secret, SessionId, UserId};

/// `welcome` must have come this long after a connection was made.
const WELCOME_TIMEOUT: Duration = HELLO_TIMEOUT.saturating_mul(2);
/// How long to wait when a greeting is refused for now without saying until when.
const GREETING_RETRY: Duration = Duration::from_secs(1);

/// How a client session is bounded and introduces itself.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name and version of the client's software, for the gateway's operator.
    pub agent: Option<String>,
    /// A token, where the gateway wants one.
    pub token: Option<Secret>,
    /// Bytes that may wait to be accepted, per room and lane. A send beyond that is refused
    /// with [`CommandError::OutboxFull`].
    pub outbox_bytes: usize,
    /// Bulk entries kept while the answer that begins their membership is still on its way.
    /// Beyond that the connection is given up with [`LinkClose::OutOfStep`].
    pub held_bytes: usize,
    /// Requests that may wait for answers.
    pub requests: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            agent: None,
            token: None,
            outbox_bytes: 4 << 20,
            held_bytes: 8 << 20,
            requests: 256,
        }
    }
}

/// How soon a connection that has gone silent is doubted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// A `ping` goes out when the gateway has answered nothing for so long, whatever else it
    /// may have said: a path can be dead in one direction alone. If absent, hearing anything
    /// within 1.5 heartbeats will do, because the gateway itself ends connections that it does
    /// not hear.
    pub probe_after: Option<Duration>,
    /// A `ping` that is not answered for so long makes the connection doubted, and another one
    /// wanted.
    pub probe_timeout: Duration,
}

impl Attention {
    /// Nobody is waiting for anything.
    pub const IDLE: Attention =
        Attention { probe_after: None, probe_timeout: Duration::from_secs(5) };
    /// Somebody would notice: a dead connection is doubted within three seconds.
    pub const CALL: Attention = Attention {
        probe_after: Some(Duration::from_secs(1)),
        probe_timeout: Duration::from_secs(2),
    };
}

/// A connection is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Not before this.
    pub not_before: Option<Time>,
    /// Whether another one carries the session until then: it is to be made at once rather
    /// than after a back-off.
    pub replaces: bool,
}

#[derive(Clone, Debug)]
struct Credentials {
    session: SessionId,
    secret: Secret,
    peer: PeerId,
    user: Option<UserId>,
}

#[derive(Debug)]
struct Link {
    id: LinkId,
    opened: Time,
    heard: Time,
    /// The gateway answered something, so it had heard us.
    answered: Time,
    welcomed: bool,
    /// The greeting has not gone out yet.
    hello_due: bool,
    /// The rooms that the greeting listed, if it was to resume.
    resuming: Option<Vec<RoomName>>,
    /// The last request that was made before its greeting, whose token is at least as new as any
    /// that those bring.
    greeted_behind: u64,
    /// What overtook `welcome` on the bulk stream.
    early: Vec<ServerMessage>,
    early_bytes: usize,
    /// The bulk stream has to be named.
    announce_bulk: bool,
    /// A `ping` is out.
    probe: Option<Probe>,
    /// A `ping` was not answered in time. The next answer takes it back.
    doubted: bool,
    /// Another one is wanted in its place, however well it does.
    unwanted: bool,
    /// A newer connection has greeted: if this one is `replaced`, it was by that.
    contested: bool,
}

/// A `ping` that decides about its connection.
#[derive(Clone, Copy, Debug)]
struct Probe {
    /// The connection is doubted then.
    due: Time,
    /// Only the answer to this one will do: what else arrives may have set out before.
    answer: Option<RequestId>,
}

impl Link {
    /// Whether a greeting is on its way that would take the session over.
    fn may_still_greet(&self) -> bool {
        !self.welcomed && !self.hello_due && self.resuming.is_some()
    }

    /// Requests may follow a first greeting at once, but not one that may be refused.
    fn takes_requests(&self) -> bool {
        self.welcomed || (self.resuming.is_none() && !self.hello_due)
    }
}

/// See the module.
#[derive(Debug)]
pub struct ClientSession {
    config: Config,
    attention: Attention,
    credentials: Option<Credentials>,
    limits: Limits,
    heartbeat: Option<Duration>,
    /// Carries the session, or is the only one to greet.
    active: Option<Link>,
    /// Greets while `active` still carries the session.
    next: Option<Link>,
    /// Greetings that went out on connections given up before their `welcome`. Each may still
    /// arrive, take the session over and have the connection that carries it `replaced`.
    strays: u32,
    /// The owner was told that the session is live.
    up: bool,
    /// No connection is wanted before this.
    not_before: Option<Time>,
    /// The gateway goes away: another connection is wanted then.
    redial_at: Option<Time>,
    rooms: BTreeMap<RoomName, Room>,
    requests: Requests,
    /// Rooms with something to send, in turn.
    ready: PerLane<VecDeque<RoomName>>,
    ephemeral: VecDeque<ClientMessage>,
    last_send: u64,
    /// `bye` goes out once everything is answered, and at the latest then.
    closing: Option<Time>,
    bye_sent: bool,
    ended: bool,
    outputs: VecDeque<Output>,
}

impl ClientSession {
    /// A session that has not been opened yet.
    pub fn new(config: Config) -> Self {
        ClientSession {
            config,
            attention: Attention::IDLE,
            credentials: None,
            limits: Limits::default(),
            heartbeat: None,
            active: None,
            next: None,
            strays: 0,
            up: false,
            not_before: None,
            redial_at: None,
            rooms: BTreeMap::new(),
            requests: Requests::default(),
            ready: PerLane::default(),
            ephemeral: VecDeque::new(),
            last_send: 0,
            closing: None,
            bye_sent: false,
            ended: false,
            outputs: VecDeque::new(),
        }
    }

    /// Whether the session is over.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// What the gateway accepts.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The session's name inside rooms, once there is a session.
    pub fn peer(&self) -> Option<PeerId> {
        self.credentials.as_ref().map(|credentials| credentials.peer)
    }

    /// Whether a connection is to be made, and when.
    pub fn wants_link(&self) -> Option<Wanted> {
        if self.ended || self.next.is_some() {
            return None;
        }
        let wanted = |not_before, replaces| Some(Wanted { not_before, replaces });
        match &self.active {
            None => wanted(self.not_before, false),
            Some(link) if link.doubted || link.unwanted => wanted(self.not_before, true),
            // It has taken the place of one that was closed: what was wanted is under way.
            Some(link) if !link.welcomed => None,
            Some(_) => wanted(self.not_before.max(Some(self.redial_at?)), true),
        }
    }

    /// No connection is to be made before this, wanted or not.
    pub fn not_before(&self) -> Option<Time> {
        self.not_before
    }

    /// The connection that carries the session is in the way: the network changed, or a
    /// better transport may be had. Another one is wanted, and this one goes on until then.
    pub fn replace_link(&mut self) {
        if let Some(link) = self.active.as_mut().filter(|link| link.welcomed) {
            link.unwanted = true;
        }
        self.not_before = None;
    }

    /// The connection that carries the session has moved to another path, which may lead
    /// nowhere: asks at once, and doubts it unless the answer comes within `patience`.
    pub fn probe_link(&mut self, now: Time, patience: Duration) {
        if self.active.as_ref().is_some_and(|link| link.welcomed && !link.doubted) {
            let answer = Some(self.requests.push(Ask::Ping, Asker::Session));
            let probe = Some(Probe { due: now + patience, answer });
            self.active.iter_mut().for_each(|link| link.probe = probe);
        }
    }

    /// Gives up whatever connections there are. Another one is wanted at once.
    pub fn drop_links(&mut self) {
        // The newer one first, or it would move up into the place of the other.
        for id in [&self.next, &self.active].map(|link| link.as_ref().map(|link| link.id)) {
            id.into_iter().for_each(|id| self.give_up(id, LinkClose::Dropped));
        }
        self.not_before = None;
    }

    /// Takes [`ClientSession::replace_link`] back.
    pub fn keep_link(&mut self) {
        if let Some(link) = &mut self.active {
            link.unwanted = false;
        }
    }

    /// How soon silence is doubted from now on.
    pub fn set_attention(&mut self, attention: Attention) {
        self.attention = attention;
    }

    /// A connection was made.
    pub fn handle_connected(&mut self, now: Time, id: LinkId, streams: Streams) {
        if self.ended {
            self.outputs.push_back(Output::Close(id, LinkClose::Ended));
            return;
        }
        let link = Link {
            id,
            opened: now,
            heard: now,
            answered: now,
            welcomed: false,
            hello_due: true,
            resuming: None,
            greeted_behind: 0,
            early: Vec::new(),
            early_bytes: 0,
            announce_bulk: streams == Streams::PerLane,
            probe: None,
            doubted: false,
            unwanted: false,
            contested: false,
        };
        let carried = self.active.as_ref().is_some_and(|link| link.welcomed);
        let place = if carried { &mut self.next } else { &mut self.active };
        if let Some(older) = place.replace(link) {
            self.strays += u32::from(older.may_still_greet());
            self.outputs.push_back(Output::Close(older.id, LinkClose::Replaced));
        }
        if !carried {
            self.requests.repeat();
        }
    }

    /// A connection is gone. `code` is what its transport was closed with, if anything.
    pub fn handle_disconnected(&mut self, now: Time, id: LinkId, code: Option<u16>) {
        match code.filter(|code| (4000..5000).contains(code)) {
            Some(code) => {
                let known = CloseCode::from_number(code.into()).map_or("closed", CloseCode::name);
                let close = Close { code, reason: known.into(), retry_after: None };
                self.link_closed(now, id, &close);
            }
            None => self.drop_link(id),
        }
    }

    /// Something was heard that is not a message, such as a WebSocket ping.
    pub fn handle_alive(&mut self, now: Time, id: LinkId) {
        if let Some(link) = self.link_mut(id) {
            link.heard = now;
        }
    }

    /// The connection is not being read, so it cannot be said to be silent.
    pub fn handle_unread(&mut self, now: Time, id: LinkId) {
        self.note_answer(now, id);
    }

    /// The gateway hears us, and we hear it.
    fn note_answer(&mut self, now: Time, id: LinkId) {
        let Some(link) = self.link_mut(id) else { return };
        (link.heard, link.answered) = (now, now);
        if link.doubted || link.probe.is_some_and(|probe| probe.answer.is_none()) {
            link.probe = None;
        }
        link.doubted = false;
        if link.welcomed && !self.up {
            self.note_live(id, true);
        }
    }

    /// The next thing for the owner.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`ClientSession::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.ended {
            return None;
        }
        let greeting = |link: &Link| (!link.welcomed).then(|| link.opened + WELCOME_TIMEOUT);
        let live = self.active.as_ref().filter(|link| link.welcomed);
        let links = [&self.active, &self.next].into_iter().flatten().filter_map(greeting);
        links
            .chain(live.and_then(|link| self.silence_due(link)))
            .chain(live.and_then(|_| self.requests.due()))
            .chain(live.and_then(|_| self.sends_due()))
            .chain(self.closing)
            .min()
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.ended {
            return;
        }
        if self.closing.is_some_and(|at| now >= at) {
            return self.end(Ended::Bye);
        }
        for id in [&self.active, &self.next].into_iter().flatten().map(|l| l.id).collect::<Vec<_>>()
        {
            let late = |link: &Link| !link.welcomed && now >= link.opened + WELCOME_TIMEOUT;
            if self.link(id).is_some_and(late) {
                self.give_up(id, LinkClose::NoWelcome);
            }
        }
        self.watch_silence(now);
        if self.active.as_ref().is_some_and(|link| link.welcomed) {
            self.requests.handle_timeout(now);
            self.resume_sends(now);
        }
    }

    fn silence_due(&self, link: &Link) -> Option<Time> {
        if link.doubted {
            return None;
        }
        match link.probe {
            Some(probe) => Some(probe.due),
            None => Some(match self.attention.probe_after {
                Some(after) => link.answered + after,
                None => link.heard + self.heartbeat.unwrap_or(Duration::from_secs(15)) * 3 / 2,
            }),
        }
    }

    fn watch_silence(&mut self, now: Time) {
        let Some(link) = self.active.as_ref().filter(|link| link.welcomed) else { return };
        if self.silence_due(link).is_none_or(|due| now < due) {
            return;
        }
        let Some(link) = &mut self.active else { return };
        if link.probe.is_some() {
            link.doubted = true;
            self.note_down();
        } else {
            let due = now + self.attention.probe_timeout;
            link.probe = Some(Probe { due, answer: None });
            self.requests.push(Ask::Ping, Asker::Session);
        }
    }

    /// A `ping` is answered.
    fn handle_pong(&mut self, id: LinkId, answer: RequestId) {
        if let Some(link) = self.link_mut(id)
            && link.probe.is_some_and(|probe| probe.answer == Some(answer))
        {
            link.probe = None;
        }
    }

    /// Lanes whose time to go on has come, and those that the gateway has forgotten about.
    fn resume_sends(&mut self, now: Time) {
        let mut out_of_step = false;
        for (name, room) in self.rooms.iter_mut().filter(|(_, room)| room.is_attached()) {
            for lane in LogLane::ALL {
                room.sends[lane].handle_timeout(now);
                out_of_step |= room.sends[lane].is_out_of_step(now);
                if room.sends[lane].is_ready(now)
                    && !std::mem::replace(&mut room.queued[lane], true)
                {
                    self.ready[lane].push_back(name.clone());
                }
            }
        }
        if let Some(id) = self.active.as_ref().map(|link| link.id).filter(|_| out_of_step) {
            self.give_up(id, LinkClose::OutOfStep);
        }
    }

    fn sends_due(&self) -> Option<Time> {
        // Of a room that the connection has not taken up, nothing is under way.
        let attached = self.rooms.values().filter(|room| room.is_attached());
        let lanes = |room: &Room| [room.sends.signal.due(), room.sends.bulk.due()];
        attached.flat_map(lanes).flatten().min()
    }

    fn link(&self, id: LinkId) -> Option<&Link> {
        [&self.active, &self.next].into_iter().flatten().find(|link| link.id == id)
    }

    fn link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        [&mut self.active, &mut self.next].into_iter().flatten().find(|link| link.id == id)
    }

    /// Closes a connection and forgets it.
    fn give_up(&mut self, id: LinkId, why: LinkClose) {
        self.outputs.push_back(Output::Close(id, why));
        self.drop_link(id);
    }

    /// Forgets a connection.
    fn drop_link(&mut self, id: LinkId) {
        self.strays += u32::from(self.link(id).is_some_and(Link::may_still_greet));
        if self.next.as_ref().is_some_and(|link| link.id == id) {
            self.next = None;
        } else if self.active.as_ref().is_some_and(|link| link.id == id) {
            self.active = self.next.take();
            self.ephemeral.clear();
            self.interrupt_pings();
            self.requests.repeat();
            if self.bye_sent {
                return self.end(Ended::Bye);
            }
            self.note_down();
        }
    }

    /// The gateway closed a connection.
    fn link_closed(&mut self, now: Time, id: LinkId, close: &Close) {
        if self.link(id).is_none() {
            return;
        }
        let carried = self.active.as_ref().is_some_and(|link| link.id == id);
        // While a newer connection greets, the older one's end decides nothing: it may just
        // have been replaced by it.
        if carried && self.next.is_some() {
            return self.drop_link(id);
        }
        if self.bye_sent && carried {
            return self.end(Ended::Bye);
        }
        let replaced = close.code == CloseCode::Replaced.number();
        if replaced && (self.strays > 0 || self.link(id).is_some_and(|link| link.contested)) {
            self.strays = self.strays.saturating_sub(1);
            return self.drop_link(id);
        }
        // The greeting went out and did not arrive: the network's fault, not this client's.
        let unheard = close.code == CloseCode::HelloTimeout.number()
            && self.link(id).is_some_and(|link| !link.hello_due && !link.announce_bulk);
        // Of two, one that was refused is no loss. These are said to the one that has the session.
        let of_session = [CloseCode::Bye, CloseCode::Replaced, CloseCode::Kicked];
        let ends = carried || of_session.map(CloseCode::number).contains(&close.code);
        if !(4000..4500).contains(&close.code) && !unheard && ends {
            return self.end(Ended::Closed { code: close.code, reason: close.reason.clone() });
        }
        if let Some(wait) = close.retry_after {
            self.not_before = Some(now + Duration::from_millis(wait));
        }
        self.drop_link(id);
    }

    fn note_down(&mut self) {
        if std::mem::take(&mut self.up) {
            self.outputs.push_back(Output::Event(Event::Down));
        }
    }

    fn note_live(&mut self, link: LinkId, resumed: bool) {
        let Some(Credentials { peer, user, .. }) = self.credentials.clone() else { return };
        self.up = true;
        self.outputs.push_back(Output::Event(Event::Live(Live { link, peer, user, resumed })));
    }

    fn interrupt_pings(&mut self) {
        for (id, request) in self.requests.remove_all(|request| request.ask == Ask::Ping) {
            if request.asker == Asker::User {
                self.answer(RequestId(id), Err(RequestError::Interrupted));
            }
        }
    }

    fn answer(&mut self, id: RequestId, answer: Result<Answer, RequestError>) {
        self.outputs.push_back(Output::Answer(id, answer));
    }

    fn room_event(&mut self, room: &RoomName, event: RoomEvent) {
        self.outputs.push_back(Output::Event(Event::Room(room.clone(), event)));
    }

    /// The session is over.
    fn end(&mut self, why: Ended) {
        self.ended = true;
        self.up = false;
        for link in [self.active.take(), self.next.take()].into_iter().flatten() {
            self.outputs.push_back(Output::Close(link.id, LinkClose::Ended));
        }
        for (id, request) in self.requests.remove_all(|_| true) {
            if request.asker == Asker::User {
                self.answer(RequestId(id), Err(RequestError::Ended));
            }
        }
        for (_, room) in std::mem::take(&mut self.rooms) {
            self.abandon(room);
        }
        self.outputs.push_back(Output::Event(Event::Ended(why)));
    }
}

#[cfg(test)]
mod tests;
