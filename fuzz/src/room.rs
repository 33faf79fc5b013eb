//! A room under typed operations, against a model that forgets nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use handover_protocol::limits::Retention;
use handover_protocol::room::entry::{Entry, Event};
use handover_protocol::room::log::Read;
use handover_protocol::room::{Room, RoomLimits, Sent};
use handover_protocol::time::Time;
use handover_protocol::wire::message::{LeaveReason, Send};
use handover_protocol::wire::{Epoch, ErrorCode, Json, LogLane, PeerId, PerLane, RoomName};

const PEERS: u8 = 6;
const MEMBERS_MAX: usize = 4;
/// Some of what they show is too much together.
const SHOWN_BYTES_MAX: usize = 500;
const OPERATIONS_MAX: usize = 500;

#[derive(Debug, Arbitrary)]
enum Op {
    Join { peer: u8, metadata: Option<u8> },
    Leave { peer: u8 },
    Update { peer: u8, bytes: u8 },
    Away { peer: u8, away: bool },
    Send { peer: u8, to: Option<u8>, bulk: bool, seq: Seq, bytes: u16 },
    Forget { peer: u8 },
    Wait { ms: u32 },
    Trim,
    Begin,
    Read { bulk: bool, after: u64 },
}

#[derive(Debug, Arbitrary)]
enum Seq {
    Next,
    Ahead(u8),
    Again(u8),
    Any(u64),
}

/// What the room must know of somebody.
#[derive(Debug, Clone, Default)]
struct Peer {
    /// Since which offset it is a member, and whether it is away.
    member: Option<(u64, bool)>,
    /// Bytes of metadata it shows, if it is one.
    shown: usize,
    seq: PerLane<u64>,
}

/// Everything that was said in this life of the room.
#[derive(Default)]
struct Model {
    said: PerLane<Vec<(PeerId, Event)>>,
    peers: BTreeMap<u8, Peer>,
}

impl Model {
    fn here(&self) -> usize {
        self.peers.values().filter(|peer| peer.member.is_some()).count()
    }

    /// Whether who shows `had` bytes may not show so many.
    fn is_too_much(&self, had: usize, wanted: usize) -> bool {
        let members = self.peers.values().filter(|peer| peer.member.is_some());
        let together = members.map(|peer| peer.shown).sum::<usize>() - had + wanted;
        wanted > had && wanted > SHOWN_BYTES_MAX / MEMBERS_MAX && together > SHOWN_BYTES_MAX
    }

    fn peer(&mut self, number: u8) -> &mut Peer {
        self.peers.entry(number).or_default()
    }

    fn is_member(&self, number: u8) -> bool {
        self.peers.get(&number).is_some_and(|peer| peer.member.is_some())
    }

    /// An entry came: it is the next one of its lane.
    fn note(&mut self, lane: LogLane, entry: &Entry) {
        self.said[lane].push((entry.peer, entry.event.clone()));
        assert_eq!(entry.offset, self.said[lane].len() as u64, "no hole, no repeat");
        assert_eq!(entry.lane, lane);
    }
}

/// Takes operations from `input` until it ends.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let (name, keep) = (RoomName::parse("room").unwrap(), retention());
    let limits =
        RoomLimits { members: MEMBERS_MAX, metadata_bytes: SHOWN_BYTES_MAX, retention: keep };
    let mut now = Time::ZERO;
    let mut lives = 1;
    let mut room = Room::new(now, name, epoch(lives), limits);
    let mut model = Model::default();
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            break;
        }
        let Ok(op) = Op::arbitrary(&mut input) else { break };
        match op {
            Op::Wait { ms } => now = now + Duration::from_millis(ms.into()),
            Op::Begin => {
                lives += 1;
                room.begin(now, epoch(lives));
                model.said = PerLane::default();
                model.peers.values_mut().for_each(|peer| peer.member = None);
            }
            Op::Trim => {
                room.trim(now);
                for lane in LogLane::ALL {
                    let log = room.log(lane);
                    let held = log.last() + 1 - log.first();
                    // The newest stays, however large.
                    assert!(held <= 1 || log.bytes() <= keep[lane].bytes);
                    // Their number bounds those that no session can come back for.
                    let is_needed = match log.read(log.first() - 1) {
                        Read::Entry(oldest) => now.since(oldest.at) < keep[lane].window,
                        _ => true,
                    };
                    assert!(is_needed || held <= keep[lane].entries as u64);
                }
            }
            Op::Read { bulk, after } => read(&room, &model, lane(bulk), after),
            op => act(&mut room, &mut model, now, op),
        }
        check(&room, &model);
    }
    for lane in LogLane::ALL {
        for after in 0..=model.said[lane].len() as u64 + 1 {
            read(&room, &model, lane, after);
        }
    }
}

fn act(room: &mut Room, model: &mut Model, now: Time, op: Op) {
    match op {
        Op::Join { peer, metadata } => {
            let peer = peer % PEERS;
            let was = model.is_member(peer);
            let full = model.here() >= MEMBERS_MAX;
            let metadata = metadata.map(|bytes| object(bytes.into()));
            let wanted = metadata.as_ref().map_or(2, Json::len);
            let too_much = model.is_too_much(0, wanted);
            match room.join(now, id(peer), None, metadata) {
                Err(refusal) => {
                    assert!((full || too_much) && !was);
                    let expected = if full { ErrorCode::RoomFull } else { ErrorCode::TooLarge };
                    assert_eq!(refusal.code, expected);
                }
                Ok(joining) => {
                    assert!(was || !(full || too_much));
                    assert_eq!(joining.entry.is_none(), was);
                    if let Some(entry) = joining.entry {
                        model.note(LogLane::Signal, &entry);
                        model.peer(peer).member = Some((entry.offset, false));
                        model.peer(peer).shown = wanted;
                        assert_eq!(joining.snapshot.positions.signal, entry.offset);
                    }
                }
            }
        }
        Op::Leave { peer } => {
            let peer = peer % PEERS;
            let left = room.leave(now, id(peer), LeaveReason::Left);
            assert_eq!(left.is_some(), model.is_member(peer));
            if let Some(entry) = left {
                model.note(LogLane::Signal, &entry);
                model.peer(peer).member = None;
            }
        }
        Op::Update { peer, bytes } => {
            let peer = peer % PEERS;
            let metadata = object(bytes.into());
            let wanted = metadata.len();
            let may = model.is_member(peer) && !model.is_too_much(model.peers[&peer].shown, wanted);
            let updated = room.update(now, id(peer), metadata);
            assert_eq!(updated.is_ok(), may);
            if let Ok(entry) = updated {
                model.note(LogLane::Signal, &entry);
                model.peer(peer).shown = wanted;
            }
        }
        Op::Away { peer, away } => {
            let peer = peer % PEERS;
            let marked = room.mark_away(now, id(peer), away);
            let member = &mut model.peer(peer).member;
            assert_eq!(marked.is_some(), member.is_some_and(|(_, was)| was != away));
            if let (Some(entry), Some(member)) = (marked, member) {
                member.1 = away;
                model.note(LogLane::Signal, &entry);
            }
        }
        Op::Send { peer, to, bulk, seq, bytes } => {
            let (peer, lane) = (peer % PEERS, lane(bulk));
            send(room, model, now, (peer, to.map(|to| to % PEERS)), lane, &seq, bytes);
        }
        Op::Forget { peer } => {
            // As when a session ends: it has left before.
            let peer = peer % PEERS;
            if !model.is_member(peer) {
                room.forget(id(peer));
                model.peer(peer).seq = PerLane::default();
            }
        }
        Op::Wait { .. } | Op::Trim | Op::Begin | Op::Read { .. } => {}
    }
}

fn send(
    room: &mut Room,
    model: &mut Model,
    now: Time,
    (from, to): (u8, Option<u8>),
    lane: LogLane,
    seq: &Seq,
    bytes: u16,
) {
    let applied = model.peer(from).seq[lane];
    let seq = match *seq {
        Seq::Next => applied + 1,
        Seq::Ahead(by) => applied + 2 + u64::from(by),
        Seq::Again(by) => applied.saturating_sub(by.into()).max(1),
        Seq::Any(seq) => seq.max(1),
    };
    let body = Json::from_value(&"x".repeat(bytes.into())).unwrap();
    let message = Send { room: RoomName::parse("room").unwrap(), lane, seq, to: to.map(id), body };
    let reaches = to.is_none_or(|to| to != from && model.is_member(to));
    match room.send(now, id(from), message) {
        Ok(Sent::Appended(entry)) => {
            assert!(model.is_member(from) && reaches && seq == applied + 1);
            model.note(lane, &entry);
            model.peer(from).seq[lane] = seq;
        }
        Ok(Sent::Duplicate(known)) => {
            assert!(model.is_member(from) && seq <= applied);
            assert_eq!(known.seq, applied);
        }
        Err(refusal) => match refusal.code {
            ErrorCode::NotAMember => assert!(!model.is_member(from)),
            ErrorCode::SeqGap => {
                assert!(seq > applied + 1);
                assert_eq!(refusal.expected, Some(applied + 1));
            }
            ErrorCode::BadRequest => assert_eq!(to, Some(from)),
            ErrorCode::NoSuchPeer => assert!(to.is_some_and(|to| !model.is_member(to))),
            other => panic!("{other} is no answer to a send"),
        },
    }
}

/// What the room says of itself agrees with everything that was done to it.
fn check(room: &Room, model: &Model) {
    for lane in LogLane::ALL {
        let log = room.log(lane);
        assert_eq!(log.last(), model.said[lane].len() as u64);
        assert!(log.first() <= log.last() + 1);
    }
    assert_eq!(room.empty_for(Time::ZERO).is_none(), model.here() != 0);
    for (number, peer) in &model.peers {
        assert_eq!(room.is_member(id(*number)), peer.member.is_some());
        assert_eq!(room.seq(id(*number)), peer.seq, "a seq outlives a membership");
    }
    let snapshot = room.snapshot(id(0));
    assert_eq!(snapshot.members.len(), model.here());
    assert!(snapshot.members.is_sorted_by(|one, next| one.since < next.since));
    for member in &snapshot.members {
        let number = member.peer.as_str()[1..].parse().unwrap();
        assert_eq!(model.peers[&number].member, Some((member.since, member.away)));
    }
}

/// A log gives what was said behind a position, or says that it cannot.
fn read(room: &Room, model: &Model, lane: LogLane, after: u64) {
    let (log, said) = (room.log(lane), &model.said[lane]);
    match log.read(after) {
        Read::Entry(entry) => {
            assert_eq!(entry.offset, after + 1);
            let index = usize::try_from(after).unwrap();
            assert_eq!((entry.peer, entry.event.clone()), said[index]);
        }
        Read::Current => assert_eq!(after, said.len() as u64),
        Read::Trimmed => assert!(after + 1 < log.first()),
        Read::Ahead => assert!(after > said.len() as u64),
        Read::Over => panic!("nobody ended it"),
    }
}

fn retention() -> PerLane<Retention> {
    let kept = Retention::signal(Duration::from_secs(60));
    let keep = |entries, bytes| Retention { entries, bytes, ..kept };
    PerLane { signal: keep(24, 16_384), bulk: keep(12, 65_536) }
}

fn lane(bulk: bool) -> LogLane {
    if bulk { LogLane::Bulk } else { LogLane::Signal }
}

fn id(number: u8) -> PeerId {
    PeerId::parse(&format!("p{number}")).unwrap()
}

fn epoch(number: u32) -> Epoch {
    Epoch::parse(&format!("e{number}")).unwrap()
}

fn object(bytes: usize) -> Json {
    Json::parse(format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes)).as_bytes()).unwrap()
}
