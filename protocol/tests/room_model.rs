//! A room under anything its members may do, against a model that is a list.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use handover_protocol::limits::Retention;
use handover_protocol::room::entry::{Event, View};
use handover_protocol::room::log::Read;
use handover_protocol::room::recovery::{Recovery, recover};
use handover_protocol::room::{Refusal, Room, RoomLimits, Sent};
use handover_protocol::time::Time;
use handover_protocol::wire::message::{LeaveReason, ResetReason, Send};
use handover_protocol::wire::{
    Epoch, ErrorCode, Json, LogLane, PeerId, PerLane, Position, RoomName,
};
use proptest::prelude::*;

const MEMBERS: u8 = 4;

#[derive(Clone, Debug)]
enum Op {
    Join(u8),
    Leave(u8),
    Update(u8),
    Away(u8, bool),
    /// A `seq` so much above the last one applied.
    Send {
        from: u8,
        to: Option<u8>,
        lane: LogLane,
        ahead: u64,
    },
    /// A reader takes so many entries.
    Read(u8, LogLane, u8),
}

/// Who did what, and to whom it matters.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    from: u8,
    to: Option<u8>,
    what: String,
}

/// The whole truth: what was said on each lane, in order, and who is there.
#[derive(Default)]
struct Model {
    said: PerLane<Vec<Said>>,
    here: BTreeSet<u8>,
    away: BTreeSet<u8>,
    seqs: BTreeMap<(u8, bool), u64>,
}

impl Model {
    fn say(&mut self, lane: LogLane, from: u8, to: Option<u8>, what: String) {
        self.said[lane].push(Said { from, to, what });
    }

    /// What somebody must have seen who was there between two offsets.
    fn seen(&self, who: u8, lane: LogLane, from: u64, until: u64) -> Vec<Said> {
        let said = &self.said[lane][from as usize..until as usize];
        let meant = |said: &&Said| said.from != who && said.to.is_none_or(|to| to == who);
        let own = |said: &&Said| said.from == who && said.what.starts_with("message");
        said.iter().filter(|said| meant(said) || own(said)).cloned().collect()
    }
}

/// Somebody's way through a log.
#[derive(Clone, Debug)]
struct Reader {
    start: PerLane<u64>,
    cursor: PerLane<u64>,
    seen: PerLane<Vec<Said>>,
}

fn peer(who: u8) -> PeerId {
    PeerId::parse(&format!("p{who}")).expect("a name")
}

fn who(peer: PeerId) -> u8 {
    peer.as_str()[1..].parse().expect("a number")
}

fn text(event: &Event) -> String {
    match event {
        Event::Message { seq, body, .. } => format!("message {seq} {body:?}"),
        Event::Joined { .. } => "joined".into(),
        Event::Updated { metadata } => format!("updated {metadata:?}"),
        Event::Left { reason } => format!("left {reason:?}"),
        Event::Away => "away".into(),
        Event::Back => "back".into(),
    }
}

impl Reader {
    fn read(&mut self, room: &Room, me: u8, lane: LogLane, at_most: u64) {
        for _ in 0..at_most {
            let Read::Entry(entry) = room.log(lane).read(self.cursor[lane]) else { return };
            assert_eq!(entry.offset, self.cursor[lane] + 1, "no holes");
            self.cursor[lane] = entry.offset;
            if entry.view(peer(me)) != View::Skip {
                let to = match entry.event {
                    Event::Message { to, .. } => to.map(who),
                    _ => None,
                };
                let said = Said { from: who(entry.peer), to, what: text(&entry.event) };
                self.seen[lane].push(said);
            }
        }
    }
}

fn check(ops: &[Op]) {
    let window = Duration::from_secs(120);
    let retention = PerLane { signal: Retention::signal(window), bulk: Retention::bulk(window) };
    let limits =
        RoomLimits { members: usize::from(MEMBERS) - 1, metadata_bytes: usize::MAX, retention };
    let (name, epoch) = (RoomName::parse("r").expect("a name"), Epoch::parse("e").expect("short"));
    let mut room = Room::new(Time::ZERO, name.clone(), epoch, limits);
    let mut model = Model::default();
    let mut readers: BTreeMap<u8, Reader> = BTreeMap::new();
    let mut done: Vec<(u8, Reader)> = Vec::new();
    for (step, op) in ops.iter().enumerate() {
        let now = Time::from_micros(step as u64);
        let json = Json::from_value(&step).expect("a number");
        match *op {
            Op::Join(me) => {
                let full = model.here.len() >= limits.members && !model.here.contains(&me);
                let joining = room.join(now, peer(me), None, None);
                assert_eq!(joining.is_err(), full);
                let Ok(joining) = joining else { continue };
                assert_eq!(joining.entry.is_some(), model.here.insert(me));
                if joining.entry.is_some() {
                    model.say(LogLane::Signal, me, None, "joined".into());
                    let positions = joining.snapshot.positions;
                    let start = PerLane { signal: positions.signal, bulk: positions.bulk };
                    let reader = Reader { start, cursor: start, seen: PerLane::default() };
                    readers.insert(me, reader);
                }
                let members = joining.snapshot.members.iter();
                assert_eq!(members.map(|m| who(m.peer)).collect::<BTreeSet<_>>(), model.here);
            }
            Op::Leave(me) => {
                let left = room.leave(now, peer(me), LeaveReason::Left);
                assert_eq!(left.is_some(), model.here.remove(&me));
                model.away.remove(&me);
                if left.is_some() {
                    model.say(LogLane::Signal, me, None, "left Left".into());
                    let mut reader = readers.remove(&me).expect("a member reads");
                    LogLane::ALL.into_iter().for_each(|lane| reader.read(&room, me, lane, 999));
                    done.push((me, reader));
                }
            }
            Op::Update(me) => match room.update(now, peer(me), json.clone()) {
                Ok(_) => {
                    assert!(model.here.contains(&me));
                    model.say(LogLane::Signal, me, None, format!("updated {json:?}"));
                }
                Err(refusal) => {
                    assert!(!model.here.contains(&me));
                    assert_eq!(refusal, Refusal::NOT_A_MEMBER);
                }
            },
            Op::Away(me, away) => {
                let change = model.here.contains(&me) && model.away.contains(&me) != away;
                assert_eq!(room.mark_away(now, peer(me), away).is_some(), change);
                if change {
                    if away {
                        model.away.insert(me)
                    } else {
                        model.away.remove(&me)
                    };
                    let what = if away { "away" } else { "back" };
                    model.say(LogLane::Signal, me, None, what.into());
                }
            }
            Op::Send { from, to, lane, ahead } => {
                let last = model.seqs.entry((from, lane == LogLane::Bulk)).or_default();
                let seq = (*last + ahead).max(1);
                let (room_name, body) = (name.clone(), json.clone());
                let send = Send { room: room_name, lane, seq, to: to.map(peer), body };
                let expected = match to {
                    _ if !model.here.contains(&from) => Err(ErrorCode::NotAMember),
                    _ if seq <= *last => Ok(false),
                    _ if seq > *last + 1 => Err(ErrorCode::SeqGap),
                    Some(to) if to == from => Err(ErrorCode::BadRequest),
                    Some(to) if !model.here.contains(&to) => Err(ErrorCode::NoSuchPeer),
                    _ => Ok(true),
                };
                let sent = room.send(now, peer(from), send);
                if let Ok(Sent::Duplicate(applied)) = &sent {
                    assert_eq!(applied.seq, *last);
                }
                let sent = sent.map(|sent| matches!(sent, Sent::Appended(_)));
                assert_eq!(sent.map_err(|refusal| refusal.code), expected);
                if expected == Ok(true) {
                    *last = seq;
                    model.say(lane, from, to, format!("message {seq} {json:?}"));
                }
            }
            Op::Read(me, lane, at_most) => {
                if let Some(reader) = readers.get_mut(&me) {
                    reader.read(&room, me, lane, at_most.into());
                }
            }
        }
        for lane in LogLane::ALL {
            assert_eq!(room.log(lane).last(), model.said[lane].len() as u64);
            // A resume at any reader's position goes on exactly there.
            for reader in readers.values() {
                let offset = reader.cursor[lane];
                let recovery =
                    recover(epoch, Some(Position { epoch, offset }), |at| room.log(lane).read(at));
                let missed = offset < room.log(lane).last();
                assert_eq!(recovery == Ok(Recovery::Recovered), missed);
            }
        }
    }
    for (me, mut reader) in readers {
        LogLane::ALL.into_iter().for_each(|lane| reader.read(&room, me, lane, 999));
        done.push((me, reader));
    }
    for (me, reader) in done {
        for lane in LogLane::ALL {
            let expected = model.seen(me, lane, reader.start[lane], reader.cursor[lane]);
            assert_eq!(reader.seen[lane], expected, "p{me} on {lane:?}");
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let member = 0..MEMBERS;
    let ahead = prop_oneof![5 => Just(1), 1 => Just(0), 1 => Just(2)];
    let lane = || prop_oneof![Just(LogLane::Signal), Just(LogLane::Bulk)];
    prop_oneof![
        3 => member.clone().prop_map(Op::Join),
        1 => member.clone().prop_map(Op::Leave),
        1 => member.clone().prop_map(Op::Update),
        1 => (member.clone(), any::<bool>()).prop_map(|(me, away)| Op::Away(me, away)),
        6 => (member.clone(), prop::option::of(0..MEMBERS), lane(), ahead).prop_map(
            |(from, to, lane, ahead)| Op::Send { from, to, lane, ahead }
        ),
        3 => (member, lane(), 0..9_u8).prop_map(|(me, lane, most)| Op::Read(me, lane, most)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_member_sees_what_it_is_meant_to_in_the_order_it_was_said(
        ops in prop::collection::vec(op(), 0..150),
    ) {
        check(&ops);
    }
}

/// What a position is worth while the log is trimmed at the other end.
#[test]
fn a_position_is_recovered_current_trimmed_or_ahead_and_nothing_else() {
    let keep =
        Retention { entries: 3, bytes: usize::MAX, age: Duration::MAX, window: Duration::ZERO };
    let limits = RoomLimits {
        members: 9,
        metadata_bytes: usize::MAX,
        retention: PerLane { signal: keep, bulk: keep },
    };
    let (name, epoch) = (RoomName::parse("r").expect("a name"), Epoch::parse("e").expect("short"));
    let mut room = Room::new(Time::ZERO, name, epoch, limits);
    for length in 1..=10_u64 {
        room.join(Time::ZERO, peer(length as u8), None, None).ok();
        for offset in 0..12 {
            let position = Some(Position { epoch, offset });
            let recovery = recover(epoch, position, |at| room.log(LogLane::Signal).read(at));
            let length = length.min(9);
            let expected = match offset {
                _ if offset > length => Err(ResetReason::Ahead),
                _ if offset == length => Ok(Recovery::Current),
                _ if offset + 3 < length => Err(ResetReason::Trimmed),
                _ => Ok(Recovery::Recovered),
            };
            assert_eq!(recovery, expected, "{offset} of {length}");
        }
    }
}
