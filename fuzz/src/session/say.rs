//! Messages as a client might mean them, and as one would not.

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use handover_protocol::session::grant::{Grant, Right, RoomGrant, RoomPattern};
use handover_protocol::wire::message::{ClientMessage, Hello, Positions, Resume, Send};
use handover_protocol::wire::{Epoch, Json, LogLane, PeerId, RoomName, Secret, SessionId};

use super::reader::Reader;

/// Tokens, whose they are, what they allow, and what they fix in `r1`.
pub const TOKENS: [(&str, &str, &[Right], Option<&str>); 3] = [
    ("t0", "ever", &Right::ALL, None),
    ("t1", "soon", &Right::ALL, Some(r#"{"role":"host"}"#)),
    ("t2", "soon", &[Right::Join, Right::Signal], Some(r#"{"role":"guest"}"#)),
];

/// A grant of the same rights in the rooms whose name begins with `r`, with this to be shown in one.
pub fn grant(can: &[Right], shown: Option<&str>) -> Grant {
    let metadata = shown.map(|shown| Json::parse(shown.as_bytes()).unwrap());
    let rules = [("r*", None), ("r1", metadata)].map(|(room, metadata)| RoomGrant {
        room: RoomPattern::parse(room).unwrap(),
        can: can.iter().copied().collect(),
        metadata,
    });
    Grant { rooms: rules.into() }
}

#[derive(Debug, Arbitrary)]
pub enum Say {
    Hello { version: Version, token: Option<u8>, resume: Option<Resuming> },
    Lane { bulk: bool },
    Join { room: u8, metadata: Option<u16> },
    Leave { room: u8 },
    Send { room: u8, bulk: bool, seq: u8, as_expected: bool, to: Option<u8>, bytes: u16 },
    Ephemeral { room: u8, to: Option<u8>, bytes: u16 },
    Update { room: u8, bytes: u16 },
    Members { room: u8 },
    Ice,
    Refresh { token: u8 },
    Ping,
    Bye,
}

#[derive(Debug, Arbitrary)]
pub enum Version {
    Ours,
    OursToo,
    Theirs(u8),
}

#[derive(Debug, Arbitrary)]
pub struct Resuming {
    session: u8,
    wrong_secret: bool,
    rooms: Vec<(u8, u8, u8, u8)>,
}

impl Say {
    /// The message, on a connection that has been told what `reader` has.
    pub fn message(self, reader: &Reader) -> ClientMessage {
        let id = 7;
        match self {
            Say::Hello { version, token, resume } => {
                let version = if let Version::Theirs(other) = version { other.into() } else { 1 };
                let resume = resume.map(Resuming::resume);
                ClientMessage::Hello(Hello {
                    version,
                    token: token.map(self::token),
                    agent: None,
                    resume,
                })
            }
            Say::Lane { bulk } => ClientMessage::Lane { lane: log_lane(bulk) },
            Say::Join { room: name, metadata } => {
                ClientMessage::Join { id, room: room(name), metadata: metadata.map(object) }
            }
            Say::Leave { room: name } => ClientMessage::Leave { id, room: room(name) },
            Say::Send { room: name, bulk, seq, as_expected, to, bytes } => {
                let (room, lane) = (room(name), log_lane(bulk));
                let next = reader.applied(&room, lane) + 1;
                let seq = if as_expected { next + u64::from(seq % 4) } else { seq.max(1).into() };
                let body = Json::from_value(&"x".repeat(bytes.into())).unwrap();
                ClientMessage::Send(Send { room, lane, seq, to: to.map(peer), body })
            }
            Say::Ephemeral { room: name, to, bytes } => {
                let body = Json::from_value(&"x".repeat((bytes % 1_000).into())).unwrap();
                ClientMessage::Ephemeral { room: room(name), to: to.map(peer), body }
            }
            Say::Update { room: name, bytes } => {
                ClientMessage::Update { id, room: room(name), metadata: object(bytes) }
            }
            Say::Members { room: name } => ClientMessage::Members { id, room: room(name) },
            Say::Ice => ClientMessage::Ice { id },
            Say::Refresh { token } => ClientMessage::Refresh { id, token: self::token(token) },
            Say::Ping => ClientMessage::Ping { id },
            Say::Bye => ClientMessage::Bye,
        }
    }
}

impl Resuming {
    fn resume(self) -> Resume {
        // As the simulated gateway names them.
        let number = self.session % 24;
        let secret = if self.wrong_secret { 99 } else { number };
        // In its own rooms, and in more than it can be in, up to and beyond what is listened to.
        let strange = match self.session {
            240..248 => 50,
            248.. => 70,
            _ => 0,
        };
        let strange = (0..strange).map(|n| {
            let name = RoomName::parse(&format!("strange {n}")).unwrap();
            (name, Positions { epoch: Epoch::parse("e1").unwrap(), signal: n, bulk: 0 })
        });
        let rooms: BTreeMap<_, _> = self
            .rooms
            .into_iter()
            .take(6)
            .map(|(name, life, signal, bulk)| {
                let epoch = Epoch::parse(&format!("e{}", life % 24)).unwrap();
                (room(name), Positions { epoch, signal: signal.into(), bulk: bulk.into() })
            })
            .chain(strange)
            .collect();
        Resume {
            session: SessionId::parse(&format!("s{number}")).unwrap(),
            secret: Secret::new(format!("secret of {secret}")),
            rooms,
        }
    }
}

/// One of few rooms; one more than a session may be in, and one that no token allows.
pub fn room(number: u8) -> RoomName {
    let name = match number % 5 {
        4 => "other".to_owned(),
        number => format!("r{number}"),
    };
    RoomName::parse(&name).unwrap()
}

fn token(number: u8) -> Secret {
    Secret::new(format!("t{}", number % 4))
}

fn peer(number: u8) -> PeerId {
    PeerId::parse(&format!("p{}", number % 24)).unwrap()
}

fn log_lane(bulk: bool) -> LogLane {
    if bulk { LogLane::Bulk } else { LogLane::Signal }
}

fn object(bytes: u16) -> Json {
    Json::parse(format!(r#"{{"text":"{}"}}"#, "x".repeat((bytes % 5_000).into())).as_bytes())
        .unwrap()
}
