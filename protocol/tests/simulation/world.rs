//! Many clients, their links and a gateway, in virtual time.
//!
//! Everything that happens is drawn from the seed: what people do, how links behave, when the
//! gateway gets round to what it was asked. The clock jumps to the next thing that is due.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use handover_protocol::limits::{ANSWER_BYTES_MAX, Limits, Retention};
use handover_protocol::room::RoomLimits;
use handover_protocol::session::client::LinkId;
use handover_protocol::session::server::{Settings, Streams};
use handover_protocol::sim::link::Grade;
use handover_protocol::sim::{Arrival, ConnectionId, End, Fault, Gateway, Link, Parcel, Rng};
use handover_protocol::time::Time;
use handover_protocol::wire::{ClientMessage, Codec, Lane, LogLane, PerLane, RoomName};

use crate::person::Person;
use crate::watch::{Watch, Wrong};

/// How a run is laid out; drawn from the seed too.
#[derive(Clone, Debug)]
pub struct Plan {
    pub people: u64,
    pub rooms: u64,
    pub steps: u64,
    pub entries_kept: usize,
    pub kept_for: Duration,
    pub resume_window: Duration,
    /// One step in so many is trouble instead of work.
    pub trouble: u64,
    /// Whether the gateway may forget everything.
    pub restarts: bool,
    /// One change of a room in so many is not answered by the store.
    pub mishaps: Option<u64>,
    pub fault: Option<Fault>,
}

impl Plan {
    pub fn drawn(rng: &mut Rng) -> Plan {
        Plan {
            people: 2 + rng.below(5),
            rooms: 1 + rng.below(3),
            steps: 40 + rng.below(80),
            entries_kept: if rng.one_in(3) { 6 + rng.below(20) as usize } else { 4_096 },
            kept_for: Duration::from_secs(if rng.one_in(5) { 2 } else { 150 }),
            resume_window: Duration::from_secs(if rng.one_in(4) { 6 } else { 120 }),
            trouble: 3 + rng.below(12),
            restarts: rng.one_in(3),
            mishaps: rng.one_in(3).then_some(10),
            fault: None,
        }
    }
}

/// A link, and what stands at its gateway end.
struct Wire {
    link: Link,
    person: usize,
    connection: ConnectionId,
    codec: Codec,
    streams: Streams,
    /// The bulk stream has said that it is that.
    named: bool,
    /// Arrived at the gateway and not read yet: per stream.
    inbox: PerLane<VecDeque<(Lane, Bytes)>>,
    /// The gateway has been told of the link's end, or has ended it.
    over: bool,
    next_ping: Time,
}

pub struct World {
    pub now: Time,
    pub rng: Rng,
    pub plan: Plan,
    pub gateway: Gateway,
    pub people: Vec<Person>,
    pub watch: Watch,
    pub rooms: Vec<RoomName>,
    wires: BTreeMap<LinkId, Wire>,
    links: u64,
    /// When people do something next.
    next_step: Time,
    /// When the gateway gets round to what it has put off.
    put_off: Option<Time>,
    /// The gateway's clock stands, so that nothing new comes up.
    still: bool,
}

const HEARTBEAT: Duration = Duration::from_secs(4);

impl World {
    pub fn new(seed: u64, fault: Option<Fault>) -> World {
        let mut rng = Rng::new(seed);
        let mut plan = Plan { fault, ..Plan::drawn(&mut rng) };
        if fault == Some(Fault::AppliedTwice) {
            // Where nothing fails nothing is repeated.
            plan.mishaps = Some(3);
        }
        World::with(plan, rng)
    }

    pub fn with(plan: Plan, mut rng: Rng) -> World {
        let settings = Settings {
            limits: Limits::default(),
            heartbeat: HEARTBEAT,
            resume_window: plan.resume_window,
            outbox_bytes: ANSWER_BYTES_MAX,
            ice_servers: Vec::new(),
            ice_ttl: Duration::ZERO,
        };
        let (entries, age) = (plan.entries_kept, plan.kept_for);
        let keep = Retention { entries, age, bytes: 4 << 20, window: Duration::ZERO };
        let retention = PerLane { signal: keep, bulk: keep };
        let mut gateway = Gateway::new(
            settings,
            RoomLimits { members: 5, metadata_bytes: usize::MAX, retention },
        );
        if let Some(n) = plan.mishaps {
            gateway.fail_one_in(n, rng.any());
        }
        if let Some(fault) = plan.fault {
            gateway.plant(fault, rng.any());
        }
        let mut watch = Watch::default();
        let people = (0..plan.people).map(|_| Person::new(watch.person())).collect();
        let rooms = (0..plan.rooms).filter_map(|n| RoomName::parse(&format!("room {n}")).ok());
        World {
            now: Time::ZERO,
            gateway,
            people,
            watch,
            rooms: rooms.collect(),
            wires: BTreeMap::new(),
            links: 0,
            next_step: Time::ZERO,
            put_off: None,
            still: false,
            plan,
            rng,
        }
    }

    /// Lets people work through trouble, then lets everything come to rest, and checks.
    pub fn run(&mut self) {
        for _ in 0..self.plan.steps {
            let mut pause = self.rng.pick(&[0, 0, 1, 5, 20, 100, 800]).unwrap_or(0);
            if self.rng.one_in(200) {
                // Long enough for an empty room to be removed.
                pause = 70_000;
            }
            self.next_step = self.now + Duration::from_millis(pause);
            while self.now < self.next_step {
                self.turn();
            }
            self.step();
            self.turn();
        }
        self.people.iter_mut().for_each(Person::come_online);
        self.gateway.recover();
        // Longer than any silence or back-off, and then long enough for all that is on its way.
        self.rest(Duration::from_secs(90));
        self.still = true;
        self.rest(Duration::from_secs(5));
        self.watch.finish();
        for person in &self.people {
            for room in &self.rooms {
                if let Some((client, truth)) =
                    person.settled_in(room).zip(self.gateway.members(room))
                {
                    self.watch.compare(person.index, room, &client, &truth);
                }
            }
        }
    }

    fn rest(&mut self, duration: Duration) {
        self.next_step = self.now + duration;
        let mut turns = 0;
        while self.now < self.next_step {
            self.turn();
            turns += 1;
            if turns > 100_000 {
                return self.watch.wrong(Wrong::Restless, "too many turns".into());
            }
        }
    }

    fn step(&mut self) {
        let who = self.rng.below(self.people.len() as u64) as usize;
        if self.rng.one_in(self.plan.trouble) {
            self.trouble(who);
        } else {
            self.people[who].act(self.now, &mut self.rng, &mut self.watch, &self.rooms);
        }
    }

    fn trouble(&mut self, who: usize) {
        let links: Vec<_> = self.wires.keys().copied().collect();
        let link = self.rng.pick(&links);
        let wire = link.and_then(|link| self.wires.get_mut(&link));
        match self.rng.below(13) {
            0..3 => wire.map_or((), |wire| wire.link.cut(self.now)),
            3 => wire.map_or((), |wire| wire.link.silence(End::Client)),
            4 => wire.map_or((), |wire| wire.link.silence(End::Gateway)),
            5 => {
                if let Some(wire) = wire {
                    wire.link.silence(End::Client);
                    wire.link.silence(End::Gateway);
                }
            }
            6 | 7 => self.people[who].session.replace_link(),
            8 => {
                let silence = Duration::from_secs(self.rng.below(10));
                self.people[who].go_offline(self.now + silence);
                let mine = self.wires.values_mut().filter(|wire| wire.person == who);
                mine.for_each(|wire| wire.link.cut(self.now));
            }
            // A second dial while one is under way: whoever greets last wins.
            9 => self.people[who].dial_also(self.now),
            lost @ (10 | 11) => {
                let room = &self.rooms[self.rng.below(self.rooms.len() as u64) as usize];
                if lost == 10 {
                    self.gateway.lose_logs(self.now, room);
                } else {
                    self.gateway.lose_room(self.now, room);
                }
            }
            _ if self.plan.restarts => self.gateway.restart(),
            _ => {}
        }
    }

    /// Does everything that is due now, and moves the clock.
    fn turn(&mut self) {
        self.arrive();
        self.read();
        if !self.still {
            self.gateway.handle_timeout(self.now);
        }
        self.work();
        self.write();
        self.hang_up();
        self.watch.note(self.gateway.history());
        for index in 0..self.people.len() {
            self.people[index].session.handle_timeout(self.now);
            self.attend(index);
        }
        self.dial();
        self.keep_alive();
        self.advance();
    }

    fn advance(&mut self) {
        let links = self
            .wires
            .values()
            .flat_map(|wire| [wire.link.poll_timeout(), (!wire.over).then_some(wire.next_ping)]);
        let people = self.people.iter().flat_map(Person::due);
        let gateway = self.gateway.poll_timeout().filter(|_| !self.still);
        let due = links.chain(people).chain([gateway, self.put_off]).flatten();
        let next = due.min().map_or(self.next_step, |due| due.min(self.next_step));
        // What is due already takes a moment all the same.
        self.now = next.max(self.now + Duration::from_micros(50)).min(self.next_step.max(self.now));
    }

    fn arrive(&mut self) {
        let ids: Vec<_> = self.wires.keys().copied().collect();
        for id in ids {
            while let Some(wire) = self.wires.get_mut(&id) {
                let Some((end, arrival)) = wire.link.poll_arrival(self.now) else { break };
                self.watch.count("arrival");
                match (end, arrival) {
                    (End::Client, arrival) => self.arrive_at_client(id, arrival),
                    (End::Gateway, Arrival::Parcel(Parcel::Message(lane, payload))) => {
                        let one = wire.streams == Streams::One;
                        match lane {
                            Lane::Bulk if !one => wire.inbox.bulk.push_back((lane, payload)),
                            // A datagram never waits.
                            Lane::Ephemeral if !one => {
                                let connection = wire.connection;
                                self.gateway.handle_frame(self.now, connection, lane, &payload);
                            }
                            _ => wire.inbox.signal.push_back((lane, payload)),
                        }
                    }
                    (End::Gateway, Arrival::Parcel(_)) => {
                        self.gateway.handle_alive(self.now, wire.connection);
                    }
                    (End::Gateway, Arrival::Gone(_)) => {
                        // Some of what has arrived is read, and some is not.
                        if self.rng.one_in(2) {
                            self.read_from(id);
                        }
                        self.end(id);
                    }
                }
            }
        }
    }

    fn arrive_at_client(&mut self, id: LinkId, arrival: Arrival) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let person = &mut self.people[wire.person];
        match arrival {
            Arrival::Parcel(Parcel::Message(_, payload)) => {
                self.watch.note(self.gateway.history());
                match wire.codec.decode_server(&payload) {
                    Ok(message) => person.hear(self.now, id, message, &mut self.watch),
                    Err(error) => panic!("the gateway sent {payload:?}: {error}"),
                }
            }
            Arrival::Parcel(_) => {
                person.session.handle_alive(self.now, id);
                wire.link.send(self.now, End::Client, Parcel::Pong);
            }
            Arrival::Gone(code) => person.lose(self.now, id, code, &mut self.rng),
        }
        let index = wire.person;
        self.attend(index);
    }

    /// The gateway reads what has arrived, as far as it wants to.
    fn read(&mut self) {
        let ids: Vec<_> = self.wires.keys().copied().collect();
        ids.into_iter().for_each(|id| self.read_from(id));
    }

    fn read_from(&mut self, id: LinkId) {
        while let Some(wire) = self.wires.get_mut(&id) {
            if wire.over || !self.gateway.wants_input(wire.connection) {
                return;
            }
            let lanes = match self.rng.one_in(2) {
                true => [&mut wire.inbox.signal, &mut wire.inbox.bulk],
                false => [&mut wire.inbox.bulk, &mut wire.inbox.signal],
            };
            let Some((lane, payload)) = lanes.into_iter().find_map(VecDeque::pop_front) else {
                return;
            };
            if lane == Lane::Bulk && wire.streams == Streams::PerLane && !wire.named {
                // What names the stream stays with the transport.
                wire.named = true;
                let named = ClientMessage::Lane { lane: LogLane::Bulk };
                assert_eq!(wire.codec.decode_client(&payload), Ok(named));
                continue;
            }
            self.gateway.handle_frame(self.now, wire.connection, lane, &payload);
        }
    }

    /// The gateway does some of what it was asked, and puts the rest off.
    fn work(&mut self) {
        let mut left = false;
        for id in self.gateway.opening() {
            if self.rng.one_in(3) { left = true } else { self.gateway.open(self.now, id) }
        }
        for room in self.gateway.waiting() {
            if self.rng.one_in(3) { left = true } else { self.gateway.turn(self.now, &room) }
        }
        for id in self.gateway.called() {
            if self.rng.one_in(3) { left = true } else { self.gateway.attend(self.now, id) }
        }
        left |= !self.gateway.waiting().is_empty() || !self.gateway.called().is_empty();
        let later = Duration::from_micros(self.rng.below(2_000));
        self.put_off = left.then(|| self.now + later);
    }

    /// Both ends hand over what the link takes.
    fn write(&mut self) {
        let ids: Vec<_> = self.wires.keys().copied().collect();
        for id in ids {
            let Some(wire) = self.wires.get_mut(&id) else { continue };
            let mut lanes = [Lane::Signal, Lane::Ephemeral, Lane::Bulk];
            if wire.streams == Streams::PerLane && self.rng.one_in(2) {
                lanes.reverse();
            }
            let session = &mut self.people[wire.person].session;
            for lane in lanes {
                while wire.link.is_ready(End::Client, lane) {
                    let Some(message) = session.poll_transmit(self.now, id, lane) else { break };
                    let payload = wire.codec.encode_client(&message).payload();
                    wire.link.send(self.now, End::Client, Parcel::Message(lane, payload));
                }
                while wire.link.is_ready(End::Gateway, lane)
                    && self.gateway.may_transmit(wire.connection, lane)
                {
                    let frame = self.gateway.poll_transmit(self.now, wire.connection, lane);
                    if let Some(frame) = frame {
                        let parcel = Parcel::Message(lane, frame.payload());
                        wire.link.send(self.now, End::Gateway, parcel);
                    }
                }
            }
        }
    }

    /// Connections that the gateway is done with.
    fn hang_up(&mut self) {
        let ids: Vec<_> = self.wires.keys().copied().collect();
        for id in ids {
            let Some(wire) = self.wires.get_mut(&id).filter(|wire| !wire.over) else { continue };
            let Some((frame, close)) = self.gateway.poll_close(wire.connection) else { continue };
            self.watch.count(format!("closed by the gateway: {}", close.reason));
            let last = Parcel::Message(Lane::Signal, frame.payload());
            wire.link.send(self.now, End::Gateway, last);
            wire.link.close(self.now, End::Gateway, Some(close.code));
            self.end(id);
        }
    }

    /// The gateway's end of a link is over.
    fn end(&mut self, id: LinkId) {
        if let Some(wire) = self.wires.get_mut(&id) {
            wire.over = true;
            wire.inbox = PerLane::default();
            self.gateway.handle_disconnected(self.now, wire.connection);
        }
    }

    /// A person looks at what its session has for it.
    fn attend(&mut self, index: usize) {
        for id in self.people[index].attend(&mut self.watch) {
            if let Some(wire) = self.wires.get_mut(&id) {
                wire.link.close(self.now, End::Client, None);
            }
        }
    }

    fn dial(&mut self) {
        for index in 0..self.people.len() {
            if !self.people[index].dial(self.now, &mut self.rng) {
                continue;
            }
            self.links += 1;
            let id = LinkId(self.links);
            let codec = self.rng.pick(&Codec::ALL).unwrap_or(Codec::Json);
            let streams = if self.rng.one_in(2) { Streams::One } else { Streams::PerLane };
            let grade = self.rng.pick(&Grade::ALL).unwrap_or(Grade::WIRED);
            let link = Link::new(grade, streams, self.rng.any());
            let connection = self.gateway.connect(self.now, codec, streams);
            self.wires.insert(
                id,
                Wire {
                    link,
                    person: index,
                    connection,
                    codec,
                    streams,
                    named: false,
                    inbox: PerLane::default(),
                    over: false,
                    next_ping: self.now + HEARTBEAT,
                },
            );
            self.people[index].session.handle_connected(self.now, id, streams);
            self.attend(index);
        }
    }

    fn keep_alive(&mut self) {
        for wire in self.wires.values_mut().filter(|wire| !wire.over) {
            if self.now >= wire.next_ping {
                wire.next_ping = self.now + HEARTBEAT;
                wire.link.send(self.now, End::Gateway, Parcel::Ping);
            }
        }
        // Forget links that are over at both ends.
        self.wires.retain(|_, wire| !wire.over || wire.link.poll_timeout().is_some());
    }
}
