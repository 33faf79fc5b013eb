//! Client sessions against a gateway made of the room's reference model and two queues per
//! direction and connection, all of them served in an order drawn at random, with
//! connections cut, sessions lost, rooms begun anew, logs trimmed and sends refused.
//!
//! What must hold, whatever the order: an accepted send is in the log once and a refused one
//! never; sends of one member and lane stand there in the order given; and between two starts
//! a member sees exactly the entries it is entitled to, each once, in order.

use std::collections::{BTreeMap, HashMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::limits::Retention;
use crate::room::entry::View;
use crate::room::log::Read;
use crate::room::{Room as Model, RoomLimits, Sent};
use crate::wire::Position;
use crate::wire::message::{Accepted, LeaveReason, Positions, Reset, ResetReason, Resume};

const LANES: [LogLane; 2] = LogLane::ALL;

/// Sender, addressee, body.
type Entered = (PeerId, Option<PeerId>, u64);
/// A send, its lane and body, and what became of it.
type Given = (SendId, LogLane, u64, Option<Result<Receipt, SendError>>);

#[derive(Default)]
struct Wire {
    client: usize,
    up: PerLane<VecDeque<ClientMessage>>,
    down: PerLane<VecDeque<ServerMessage>>,
    /// The session's public name, once greeted.
    peer: Option<PeerId>,
    member: bool,
    cursors: PerLane<u64>,
}

struct Gateway {
    now: Time,
    room: Model,
    names: u64,
    sessions: HashMap<SessionId, PeerId>,
    wires: BTreeMap<LinkId, Wire>,
    /// Everything there has ever been, per life and lane.
    history: HashMap<(Epoch, LogLane), BTreeMap<u64, Entered>>,
    /// What the next send is answered with instead.
    mishap: Option<(ErrorCode, bool)>,
}

impl Gateway {
    fn new(bulk_entries: usize) -> Self {
        let keep = |entries| Retention {
            entries,
            bytes: usize::MAX,
            age: Duration::MAX,
            window: Duration::ZERO,
        };
        let retention = PerLane { signal: keep(40), bulk: keep(bulk_entries) };
        let limits = RoomLimits { members: 10, metadata_bytes: usize::MAX, retention };
        Gateway {
            now: T0,
            room: Model::new(T0, room(), epoch(), limits),
            names: 1,
            sessions: HashMap::new(),
            wires: BTreeMap::new(),
            history: HashMap::new(),
            mishap: None,
        }
    }

    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    fn positions(&self) -> Positions {
        self.room.positions()
    }

    /// Takes the next message that came on a lane.
    fn take(&mut self, id: LinkId, lane: LogLane) -> bool {
        let Some(wire) = self.wires.get_mut(&id) else { return false };
        // Bulk sends wait for the room's answer.
        if lane == LogLane::Bulk && !wire.member {
            let lane_frame = matches!(wire.up.bulk.front(), Some(ClientMessage::Lane { .. }));
            return lane_frame && wire.up.bulk.pop_front().is_some();
        }
        let Some(message) = wire.up[lane].pop_front() else { return false };
        let peer = wire.peer;
        match (message, peer) {
            (ClientMessage::Hello(hello), None) => self.hello(id, hello.resume),
            (ClientMessage::Join { id: request, .. }, Some(peer)) => self.join(id, peer, request),
            (ClientMessage::Send(send), Some(peer)) => self.send(id, peer, send),
            (ClientMessage::Ping { id: ping }, Some(_)) => {
                self.answer(id, LogLane::Signal, ServerMessage::Pong { id: ping });
            }
            (ClientMessage::Lane { .. }, _) | (_, None) => {}
            (other, _) => panic!("the model is not made for {other:?}"),
        }
        true
    }

    fn answer(&mut self, id: LinkId, lane: LogLane, message: ServerMessage) {
        if let Some(wire) = self.wires.get_mut(&id) {
            wire.down[lane].push_back(message);
        }
    }

    fn hello(&mut self, id: LinkId, resume: Option<Resume>) {
        let Some(resume) = resume else {
            let session = SessionId::parse(&self.name("s")).unwrap();
            let me = PeerId::parse(&self.name("p")).unwrap();
            self.sessions.insert(session, me);
            self.wires.get_mut(&id).unwrap().peer = Some(me);
            let greeting = Welcome { session, peer: me, ..welcome(false) };
            return self.answer(id, LogLane::Signal, ServerMessage::Welcome(greeting));
        };
        let Some(&me) = self.sessions.get(&resume.session) else {
            return self.answer(id, LogLane::Signal, greeting_refused(ErrorCode::SessionUnknown));
        };
        for wire in self.wires.values_mut().filter(|wire| wire.peer == Some(me)) {
            // What the older connection still sends is not applied.
            (wire.peer, wire.member) = (None, false);
            wire.up = PerLane::default();
            let close = ServerMessage::Close(Close::new(CloseCode::Replaced));
            wire.down.signal.push_back(close);
        }
        let mut greeting = Welcome { session: resume.session, peer: me, ..welcome(true) };
        let member = self.room.is_member(me);
        if member {
            greeting.rooms.insert(room(), ResumedRoom { seq: self.room.seq(me) });
        } else {
            greeting.lost = resume.rooms.keys().cloned().collect();
        }
        self.wires.get_mut(&id).unwrap().peer = Some(me);
        self.answer(id, LogLane::Signal, ServerMessage::Welcome(greeting));
        let Some(had) = resume.rooms.get(&room()).filter(|_| member) else {
            return if member {
                self.reset(id, me, ResetReason::Unlisted)
            };
        };
        let held = |lane| {
            let read = self.room.log(lane).read(had.on(lane).offset);
            matches!(read, Read::Entry(_) | Read::Current)
        };
        if had.epoch != self.room.epoch() {
            self.reset(id, me, ResetReason::Epoch);
        } else if LANES.into_iter().all(held) {
            let wire = self.wires.get_mut(&id).unwrap();
            wire.member = true;
            wire.cursors = PerLane { signal: had.signal, bulk: had.bulk };
        } else {
            self.reset(id, me, ResetReason::Trimmed);
        }
    }

    fn start(&mut self, id: LinkId, answer: ServerMessage) {
        let Positions { epoch, signal, bulk } = self.positions();
        let wire = self.wires.get_mut(&id).unwrap();
        wire.member = true;
        wire.cursors = PerLane { signal, bulk };
        wire.down.signal.push_back(answer);
        let (room, lane, start) = (room(), LogLane::Bulk, true);
        let mark = PositionMark { room, lane, epoch, offset: bulk, start };
        wire.down.bulk.push_back(ServerMessage::Position(mark));
    }

    fn join(&mut self, id: LinkId, me: PeerId, request: u64) {
        let joining = self.room.join(self.now, me, None, None).unwrap();
        let Positions { epoch, signal, bulk } = joining.snapshot.positions;
        let (seq, members) = (joining.snapshot.seq, joining.snapshot.members);
        let joined = Joined { id: request, room: room(), epoch, signal, bulk, seq, members };
        match joining.entry {
            Some(_) => self.start(id, ServerMessage::Joined(joined)),
            None => self.answer(id, LogLane::Signal, ServerMessage::Joined(joined)),
        }
    }

    fn reset(&mut self, id: LinkId, me: PeerId, reason: ResetReason) {
        let snapshot = self.room.snapshot(me);
        let Positions { epoch, signal, bulk } = snapshot.positions;
        let (seq, members) = (snapshot.seq, snapshot.members);
        let reset = Reset { room: room(), reason, epoch, signal, bulk, seq, members };
        self.start(id, ServerMessage::Reset(reset));
    }

    fn send(&mut self, id: LinkId, me: PeerId, send: Send) {
        let Send { lane, seq, to, ref body, .. } = send;
        let n: u64 = body.to_value().unwrap();
        let mishap = self.mishap.take();
        let about = Reference { id: None, room: Some(room()), lane: Some(lane), seq: Some(seq) };
        if let Some((code, false)) = mishap {
            return self.answer(id, lane, refusal(code, about));
        }
        match self.room.send(self.now, me, send) {
            Ok(Sent::Appended(entry)) => {
                let log = self.history.entry((entry.epoch, lane)).or_default();
                assert!(log.insert(entry.offset, (me, to, n)).is_none());
                // Applied, and yet the answer says otherwise.
                if let Some((code, true)) = mishap {
                    self.answer(id, lane, refusal(code, about));
                }
            }
            Ok(Sent::Duplicate(applied)) => {
                let passed = self.wires[&id].cursors[lane] >= applied.offset;
                if passed || applied.epoch != self.room.epoch() {
                    let (room, epoch) = (room(), applied.epoch);
                    let (seq, offset) = (applied.seq, applied.offset);
                    let accepted = Accepted { room, lane, epoch, seq, offset };
                    self.answer(id, lane, ServerMessage::Accepted(accepted));
                }
            }
            Err(refused) => {
                let mut error = refusal(refused.code, about);
                if let ServerMessage::Error(error) = &mut error {
                    error.expected = refused.expected;
                }
                self.answer(id, lane, error);
            }
        }
    }

    /// Moves a connection's cursor past one entry.
    fn pump(&mut self, id: LinkId, lane: LogLane) -> bool {
        let Some(wire) = self.wires.get_mut(&id) else { return false };
        let (Some(me), true) = (wire.peer, wire.member) else { return false };
        let entry = match self.room.log(lane).read(wire.cursors[lane]) {
            Read::Entry(entry) => entry,
            Read::Current => return false,
            Read::Trimmed | Read::Ahead | Read::Over => {
                self.reset(id, me, ResetReason::Trimmed);
                return true;
            }
        };
        wire.cursors[lane] = entry.offset;
        let (room, epoch, offset) = (room(), entry.epoch, entry.offset);
        match entry.view(me) {
            View::Deliver => wire.down[lane].push_back(entry.message()),
            View::Own { seq } => {
                let accepted = Accepted { room, lane, epoch, seq, offset };
                wire.down[lane].push_back(ServerMessage::Accepted(accepted));
            }
            View::Skip if offset % 3 == 0 => {
                let mark = PositionMark { room, lane, epoch, offset, start: false };
                wire.down[lane].push_back(ServerMessage::Position(mark));
            }
            View::Skip => {}
        }
        true
    }

    /// The session expires, or only its membership is lost.
    fn forget(&mut self, me: PeerId, session_too: bool) {
        self.wires.retain(|_, wire| wire.peer != Some(me));
        self.room.leave(self.now, me, LeaveReason::Expired);
        if session_too {
            self.room.forget(me);
            self.sessions.retain(|_, peer| *peer != me);
        }
    }

    /// The gateway starts anew and knows nothing.
    fn restart(&mut self) {
        self.wires.clear();
        for peer in std::mem::take(&mut self.sessions).into_values() {
            self.room.forget(peer);
        }
        let epoch = Epoch::parse(&self.name("e")).unwrap();
        self.room.begin(self.now, epoch);
    }
}

/// What a member saw since a start.
struct Segment {
    start: Positions,
    /// Under which name.
    me: PeerId,
    seen: PerLane<Vec<Position>>,
}

struct Client {
    session: ClientSession,
    segments: Vec<Segment>,
    /// Sends in the order given, with what became of them.
    sends: Vec<Given>,
}

struct World {
    gateway: Gateway,
    clients: Vec<Client>,
    links: u64,
    bodies: u64,
    /// Counts what reaches a client or the gateway.
    moved: u64,
}

impl World {
    fn new(bulk_entries: usize) -> Self {
        let client = || {
            let mut session = ClientSession::new(Config::default());
            session.join(room(), None).unwrap();
            Client { session, segments: Vec::new(), sends: Vec::new() }
        };
        let clients = vec![client(), client(), client()];
        World { gateway: Gateway::new(bulk_entries), clients, links: 0, bodies: 0, moved: 0 }
    }

    fn links_of(&self, client: usize) -> Vec<LinkId> {
        let own = |(id, wire): (&LinkId, &Wire)| (wire.client == client).then_some(*id);
        self.gateway.wires.iter().filter_map(own).collect()
    }

    fn step(&mut self, op: u8, pick: u8) {
        let client = usize::from(pick) % self.clients.len();
        let lane = LANES[usize::from(pick >> 2) % 2];
        let links = self.links_of(client);
        let link = links.get(usize::from(pick >> 3) % links.len().max(1)).copied();
        match op {
            0..30 => self.send(client, lane, pick),
            30..70 => self.transmit(link, lane),
            70..120 => {
                link.map(|link| self.gateway.take(link, lane));
            }
            120..170 => {
                link.map(|link| self.gateway.pump(link, lane));
            }
            170..220 => self.receive(client, link, lane),
            220..230 => self.connect(client),
            230..235 => self.cut(client, link),
            235..238 => self.clients[client].session.replace_link(),
            238..246 => {
                let codes = [ErrorCode::RateLimited, ErrorCode::Unavailable, ErrorCode::TooLarge];
                let code = codes[usize::from(pick) % 3];
                let applied = code == ErrorCode::Unavailable && pick & 64 != 0;
                self.gateway.mishap = Some((code, applied));
            }
            246..250 => self.wait(),
            250..252 => self.lose(client, true),
            252..254 => self.lose(client, false),
            254 => {
                self.gateway.restart();
                self.notice_cuts();
            }
            255 => self.disconnect_half_open(client, link),
        }
    }

    fn send(&mut self, client: usize, lane: LogLane, pick: u8) {
        self.bodies += 1;
        let others = self.gateway.room.snapshot(peer("nobody")).members;
        let me = self.clients[client].session.peer();
        let to = match pick >> 5 {
            0 => Some(peer("stranger")),
            1 | 2 => others.iter().map(|m| m.peer).find(|peer| Some(*peer) != me),
            _ => None,
        };
        let n = self.bodies;
        let client = &mut self.clients[client];
        let now = self.gateway.now;
        if let Ok(id) = client.session.send(now, &room(), lane, to, body(n)) {
            client.sends.push((id, lane, n, None));
        }
    }

    fn transmit(&mut self, link: Option<LinkId>, lane: LogLane) {
        let now = self.gateway.now;
        let Some((id, wire)) = link.and_then(|id| Some((id, self.gateway.wires.get_mut(&id)?)))
        else {
            return;
        };
        let session = &mut self.clients[wire.client].session;
        wire.up[lane].extend(session.poll_transmit(now, id, lane.into()));
    }

    fn receive(&mut self, client: usize, link: Option<LinkId>, lane: LogLane) {
        let Some(id) = link else { return };
        let Some(wire) = self.gateway.wires.get_mut(&id) else { return };
        let Some(message) = wire.down[lane].pop_front() else { return };
        let start = match &message {
            ServerMessage::Joined(j) => Some((j.epoch, j.signal, j.bulk)),
            ServerMessage::Reset(r) => Some((r.epoch, r.signal, r.bulk)),
            _ => None,
        };
        let now = self.gateway.now;
        self.moved += 1;
        self.clients[client].session.handle_message(now, id, message);
        self.drain(client, start);
    }

    fn drain(&mut self, index: usize, start: Option<(Epoch, u64, u64)>) {
        let client = &mut self.clients[index];
        while let Some(output) = client.session.poll_output() {
            match output {
                Output::Close(id, _) => {
                    self.gateway.wires.remove(&id);
                }
                Output::Answer(_, Ok(Answer::Joined(_)))
                | Output::Event(Event::Room(_, RoomEvent::Reset(..))) => {
                    let (epoch, signal, bulk) = start.expect("only an answer starts");
                    client.segments.push(Segment {
                        start: Positions { epoch, signal, bulk },
                        me: client.session.peer().unwrap(),
                        seen: PerLane::default(),
                    });
                }
                Output::Event(Event::Room(_, RoomEvent::Message { lane, position, .. })) => {
                    let segment = client.segments.last_mut().expect("nothing before a start");
                    segment.seen[lane].push(position);
                }
                Output::Sent(id, result) => {
                    let send = client.sends.iter_mut().find(|send| send.0 == id).unwrap();
                    assert_eq!(send.3.replace(result), None, "{id:?} was answered twice");
                }
                Output::Event(Event::Ended(why)) => panic!("ended: {why:?}"),
                Output::Event(_) | Output::Answer(..) => {}
            }
        }
    }

    fn connect(&mut self, client: usize) {
        if self.clients[client].session.wants_link().is_none() {
            return;
        }
        self.links += 1;
        let id = LinkId(self.links);
        self.gateway.wires.insert(id, Wire { client, ..Wire::default() });
        let streams = if self.links.is_multiple_of(2) { Streams::One } else { Streams::PerLane };
        self.clients[client].session.handle_connected(self.gateway.now, id, streams);
        self.drain(client, None);
    }

    fn cut(&mut self, client: usize, link: Option<LinkId>) {
        let Some(id) = link else { return };
        self.gateway.wires.remove(&id);
        self.clients[client].session.handle_disconnected(self.gateway.now, id, None);
        self.drain(client, None);
    }

    /// The client is sure that the connection is gone; the gateway knows nothing of it, and
    /// what is on the wire still arrives there.
    fn disconnect_half_open(&mut self, client: usize, link: Option<LinkId>) {
        let Some(id) = link else { return };
        self.clients[client].session.handle_disconnected(self.gateway.now, id, None);
        self.drain(client, None);
    }

    /// Connections that the gateway cut.
    fn notice_cuts(&mut self) {
        for id in (1..=self.links).map(LinkId) {
            for client in 0..self.clients.len() {
                if !self.gateway.wires.contains_key(&id) {
                    let now = self.gateway.now;
                    self.clients[client].session.handle_disconnected(now, id, None);
                    self.drain(client, None);
                }
            }
        }
    }

    fn lose(&mut self, client: usize, session_too: bool) {
        let Some(me) = self.clients[client].session.peer() else { return };
        self.gateway.forget(me, session_too);
        self.notice_cuts();
    }

    fn wait(&mut self) {
        self.gateway.now = self.gateway.now + Duration::from_millis(1_500);
        for client in 0..self.clients.len() {
            self.clients[client].session.handle_timeout(self.gateway.now);
            self.drain(client, None);
        }
    }

    /// Serves everything until nothing moves any more.
    fn settle(&mut self) {
        self.gateway.mishap = None;
        let mut idle = 0;
        for _ in 0..100_000 {
            // Longer than any retry and greeting, shorter than the silence that is probed.
            if idle > 10 {
                return;
            }
            let before = self.moved;
            for client in 0..self.clients.len() {
                self.connect(client);
                for id in self.links_of(client) {
                    for lane in LANES {
                        self.transmit(Some(id), lane);
                        self.moved += u64::from(self.gateway.take(id, lane));
                        self.moved += u64::from(self.gateway.pump(id, lane));
                        self.receive(client, Some(id), lane);
                    }
                }
            }
            if before == self.moved {
                self.wait();
                idle += 1;
            } else {
                idle = 0;
            }
        }
        panic!("never comes to rest");
    }

    fn check(&self) {
        let mut applied: HashMap<u64, usize> = HashMap::new();
        for (_, _, n) in self.gateway.history.values().flat_map(BTreeMap::values) {
            *applied.entry(*n).or_default() += 1;
        }
        for client in &self.clients {
            for (id, _, n, result) in &client.sends {
                let times = applied.get(n).copied().unwrap_or(0);
                match result {
                    Some(Ok(_)) => assert_eq!(times, 1, "{id:?} was accepted"),
                    Some(Err(SendError::Refused { .. } | SendError::NotSent)) => {
                        assert_eq!(times, 0, "{id:?} was not");
                    }
                    Some(Err(SendError::Uncertain)) => assert!(times <= 1, "{id:?}"),
                    None => panic!("{id:?} was never answered"),
                }
            }
            for segment in &client.segments {
                self.check_segment(client, segment);
            }
            let last = client.segments.last().expect("joined in the end");
            assert_eq!(last.start.epoch, self.gateway.room.epoch());
        }
        for log in self.gateway.history.values() {
            let mut last: HashMap<PeerId, u64> = HashMap::new();
            for (from, _, n) in log.values() {
                let before = last.insert(*from, *n).unwrap_or(0);
                assert!(before < *n, "{from} sent {before} before {n}");
            }
        }
    }

    /// From its start on, and without a hole up to where it ended.
    fn check_segment(&self, client: &Client, segment: &Segment) {
        let is_last = client.segments.last().is_some_and(|last| std::ptr::eq(last, segment));
        for lane in LANES {
            let start = segment.start.on(lane);
            let entitled = |(offset, (from, to, _)): (&u64, &Entered)| {
                let mine = *from != segment.me && to.is_none_or(|to| to == segment.me);
                (mine && *offset > start.offset).then_some(*offset)
            };
            let log = self.gateway.history.get(&(start.epoch, lane));
            let entitled: Vec<u64> = log.into_iter().flatten().filter_map(entitled).collect();
            let seen: Vec<u64> = segment.seen[lane].iter().map(|at| at.offset).collect();
            assert!(segment.seen[lane].iter().all(|at| at.epoch == start.epoch));
            if is_last {
                assert_eq!(seen, entitled, "{lane:?} since {start:?}");
            } else {
                assert!(entitled.starts_with(&seen), "{seen:?} of {entitled:?}");
            }
        }
    }
}

fn run(bulk_entries: usize, ops: &[(u8, u8)]) {
    let mut world = World::new(bulk_entries);
    for &(op, pick) in ops {
        world.step(op, pick);
    }
    world.settle();
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_repeated_or_out_of_order(
        ops in prop::collection::vec(any::<(u8, u8)>(), 0..600),
    ) {
        run(1_000, &ops);
    }

    #[test]
    fn where_logs_are_short_members_are_reset_and_nothing_else(
        ops in prop::collection::vec(any::<(u8, u8)>(), 0..600),
    ) {
        run(4, &ops);
    }
}

/// The model is worth something only if it would notice.
#[test]
#[should_panic(expected = "was accepted")]
fn a_send_applied_twice_would_be_noticed() {
    let mut world = World::new(1_000);
    world.settle();
    world.send(0, LogLane::Signal, 255);
    world.settle();
    let twice = world.gateway.history.values().flatten().next().map(|(_, entry)| *entry);
    let log = world.gateway.history.values_mut().next().unwrap();
    log.insert(10_000, twice.unwrap());
    world.check();
}
