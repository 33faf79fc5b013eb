//! The gateway's end of sessions, given anything: connections that say whole messages, halves
//! and nonsense on any lane, rooms that answer late, wrong or not at all, in any order. What
//! goes out is held against the protocol by a `Reader` on each connection.

mod reader;
mod say;

use std::collections::BTreeMap;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use handover_protocol::limits::{ANSWER_BYTES_MAX, Limits, Retention};
use handover_protocol::room::RoomLimits;
use handover_protocol::session::grant::{Admission, Grant, Lapse};
use handover_protocol::session::server::{Settings, Streams};
use handover_protocol::sim::{ConnectionId, Gateway};
use handover_protocol::time::Time;
use handover_protocol::wire::{Codec, Lane, PerLane};

use reader::Reader;
use say::Say;

const OPERATIONS_MAX: usize = 300;
const CONNECTIONS_MAX: usize = 8;
const LANES: [Lane; 3] = [Lane::Signal, Lane::Bulk, Lane::Ephemeral];

#[derive(Debug, Arbitrary)]
enum Op<'a> {
    Connect {
        bincode: bool,
        streams: bool,
    },
    Say {
        connection: u8,
        lane: u8,
        say: Say,
    },
    /// Any bytes.
    Babble {
        connection: u8,
        lane: u8,
        bytes: &'a [u8],
    },
    Disconnect {
        connection: u8,
    },
    /// The gateway's concurrent parts, each in its turn.
    Open {
        which: u8,
    },
    Turn {
        which: u8,
    },
    Attend {
        which: u8,
    },
    Run,
    /// A connection takes so many frames of a lane.
    Take {
        connection: u8,
        lane: u8,
        frames: u8,
    },
    Wait {
        ms: u32,
    },
    /// A store that answers one in so many times with a failure; 0 for never.
    Fail {
        one_in: u8,
        seed: u8,
    },
    LoseLogs {
        room: u8,
    },
    LoseRoom {
        room: u8,
    },
    Restart,
}

struct World {
    gateway: Gateway,
    now: Time,
    connections: BTreeMap<ConnectionId, Reader>,
}

/// Takes operations from `input` until it ends.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let mut world = World::new(input.arbitrary().unwrap_or(false));
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            break;
        }
        let Ok(op) = Op::arbitrary(&mut input) else { break };
        world.act(op);
    }
    world.finish();
}

impl World {
    fn new(tokens: bool) -> Self {
        let window = Duration::from_secs(120);
        let settings = Settings {
            limits: Limits { rooms: 3, ..Limits::default() },
            heartbeat: Duration::from_secs(15),
            resume_window: window,
            outbox_bytes: ANSWER_BYTES_MAX,
            ice_servers: Vec::new(),
            ice_ttl: Duration::from_secs(600),
        };
        // Small enough to be overrun.
        let keep =
            |entries| Retention { entries, window: Duration::ZERO, ..Retention::signal(window) };
        let limits = RoomLimits {
            members: 4,
            metadata_bytes: 100,
            retention: PerLane { signal: keep(40), bulk: keep(10) },
        };
        let mut gateway = Gateway::new(settings, limits);
        if tokens {
            for (token, user, can, shown) in say::TOKENS {
                let grant: Grant = say::grant(can, shown);
                let lapse = (user != "ever").then_some(Lapse { at: 90, life: 90 });
                let user = Some(handover_protocol::wire::UserId::new(user));
                gateway.issue(token, Admission { user, grant: grant.into(), lapse });
            }
        }
        World { gateway, now: Time::ZERO, connections: BTreeMap::new() }
    }

    fn act(&mut self, op: Op<'_>) {
        let now = self.now;
        match op {
            Op::Connect { bincode, streams } => {
                if self.connections.len() < CONNECTIONS_MAX {
                    let codec = if bincode { Codec::Bincode } else { Codec::Json };
                    let streams = if streams { Streams::PerLane } else { Streams::One };
                    let id = self.gateway.connect(now, codec, streams);
                    self.connections.insert(id, Reader::new(codec, streams));
                }
            }
            Op::Say { connection, lane: on, say } => {
                let Some(id) = self.pick(connection) else { return };
                let reader = &self.connections[&id];
                let payload = reader.codec.encode_client(&say.message(reader)).payload();
                self.hear(id, lane(on), &payload);
            }
            Op::Babble { connection, lane: on, bytes } => {
                let Some(id) = self.pick(connection) else { return };
                self.hear(id, lane(on), bytes);
            }
            Op::Disconnect { connection } => {
                let Some(id) = self.pick(connection) else { return };
                self.disconnect(id);
            }
            Op::Open { which } => {
                if let Some(id) = one_of(&self.gateway.opening(), which) {
                    self.gateway.open(now, id);
                }
            }
            Op::Turn { which } => {
                if let Some(room) = one_of(&self.gateway.waiting(), which) {
                    self.gateway.turn(now, &room);
                }
            }
            Op::Attend { which } => {
                if let Some(id) = one_of(&self.gateway.called(), which) {
                    self.gateway.attend(now, id);
                }
            }
            Op::Run => self.gateway.run(now),
            Op::Take { connection, lane: on, frames } => {
                let Some(id) = self.pick(connection) else { return };
                for _ in 0..frames {
                    if !self.take(id, lane(on)) {
                        break;
                    }
                }
                self.end_if_closing(id);
            }
            Op::Wait { ms } => {
                self.now = now + Duration::from_millis(u64::from(ms % 200_000));
                if self.gateway.poll_timeout().is_some_and(|due| due <= self.now) {
                    self.gateway.handle_timeout(self.now);
                }
            }
            Op::Fail { one_in: 0, .. } => self.gateway.recover(),
            Op::Fail { one_in, seed } => self.gateway.fail_one_in(one_in.into(), seed.into()),
            Op::LoseLogs { room } => self.gateway.lose_logs(now, &say::room(room)),
            Op::LoseRoom { room } => self.gateway.lose_room(now, &say::room(room)),
            Op::Restart => self.gateway.restart(),
        }
    }

    fn pick(&self, which: u8) -> Option<ConnectionId> {
        let ids: Vec<_> = self.connections.keys().copied().collect();
        one_of(&ids, which)
    }

    /// As the transports do, only while the session wants to be told more.
    fn hear(&mut self, id: ConnectionId, lane: Lane, payload: &[u8]) {
        if self.gateway.wants_input(id) {
            self.gateway.handle_frame(self.now, id, lane, payload);
        }
    }

    fn take(&mut self, id: ConnectionId, lane: Lane) -> bool {
        let Some(frame) = self.gateway.poll_transmit(self.now, id, lane) else { return false };
        if let Some(reader) = self.connections.get_mut(&id) {
            reader.read(lane, &frame.payload());
        }
        true
    }

    fn end_if_closing(&mut self, id: ConnectionId) {
        let Some((frame, _)) = self.gateway.poll_close(id) else { return };
        if let Some(reader) = self.connections.get_mut(&id) {
            reader.read(Lane::Signal, &frame.payload());
        }
        self.disconnect(id);
    }

    fn disconnect(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
        self.gateway.handle_disconnected(self.now, id);
    }

    /// Nothing is left hanging: with a store that answers, everything that is under way comes
    /// to its end, and a connection that is still open has said everything.
    fn finish(&mut self) {
        self.gateway.recover();
        let ids: Vec<_> = self.connections.keys().copied().collect();
        for _ in 0..1_000 {
            self.gateway.run(self.now);
            let mut moved = false;
            for id in &ids {
                for lane in LANES {
                    while self.take(*id, lane) {
                        moved = true;
                    }
                }
            }
            // Reading the last of one lane may end a membership, and so answer on the other.
            let unsaid =
                ids.iter().any(|id| LANES.iter().any(|l| self.gateway.may_transmit(*id, *l)));
            let at_rest = self.gateway.called().is_empty() && self.gateway.waiting().is_empty();
            if !moved && !unsaid && at_rest {
                break;
            }
        }
        for id in ids {
            for lane in [Lane::Signal, Lane::Bulk] {
                assert!(!self.gateway.may_transmit(id, lane), "something is never said");
            }
            let closing = self.gateway.poll_close(id).is_some();
            assert!(closing || self.gateway.wants_input(id), "nobody listens any more");
            self.end_if_closing(id);
        }
    }
}

fn one_of<T: Clone>(among: &[T], which: u8) -> Option<T> {
    let index = usize::from(which).checked_rem(among.len())?;
    among.get(index).cloned()
}

fn lane(number: u8) -> Lane {
    LANES[usize::from(number) % LANES.len()]
}
