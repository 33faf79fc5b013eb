//! One room's rules, call by call.

use super::*;

fn peer(name: &str) -> PeerId {
    PeerId::parse(name).unwrap()
}

fn room(members: usize) -> Room {
    let window = Duration::from_secs(120);
    let retention = PerLane { signal: Retention::signal(window), bulk: Retention::bulk(window) };
    let limits = RoomLimits { members, metadata_bytes: 1_000, retention };
    Room::new(Time::ZERO, RoomName::parse("r").unwrap(), Epoch::parse("e1").unwrap(), limits)
}

fn send(seq: u64, to: Option<&str>) -> Send {
    Send {
        room: RoomName::parse("r").unwrap(),
        lane: LogLane::Signal,
        seq,
        to: to.map(peer),
        body: Json::parse(b"1").unwrap(),
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> ErrorCode {
    result.unwrap_err().code
}

#[test]
fn joining_twice_changes_nothing() {
    let mut room = room(9);
    let first = room.join(Time::ZERO, peer("a"), None, None).unwrap();
    assert_eq!(first.entry.unwrap().offset, 1);
    let metadata = Json::parse(b"{\"n\":1}").unwrap();
    let again = room.join(Time::ZERO, peer("a"), None, Some(metadata)).unwrap();
    assert!(again.entry.is_none());
    assert_eq!(again.snapshot, first.snapshot);
    assert_eq!(again.snapshot.members[0].since, 1);
}

#[test]
fn a_full_room_refuses_newcomers_but_not_members() {
    let mut room = room(1);
    room.join(Time::ZERO, peer("a"), None, None).unwrap();
    assert_eq!(code(room.join(Time::ZERO, peer("b"), None, None)), ErrorCode::RoomFull);
    assert!(room.join(Time::ZERO, peer("a"), None, None).is_ok());
}

#[test]
fn what_members_show_together_is_bounded_and_nobody_is_refused_an_equal_share() {
    let shown = |bytes| match bytes {
        2 => Json::empty_object(),
        _ => Json::parse(format!(r#"{{"":"{}"}}"#, "x".repeat(bytes - 7)).as_bytes()).unwrap(),
    };
    let mut room = room(4);
    let join = |room: &mut Room, name, bytes| {
        room.join(Time::ZERO, peer(name), None, Some(shown(bytes))).map(drop)
    };
    assert_eq!(join(&mut room, "a", 900), Ok(()));
    assert_eq!(join(&mut room, "b", 251), Err(Refusal::TOO_MUCH_SHOWN));
    assert!(!room.is_member(peer("b")));
    assert_eq!(join(&mut room, "b", 250), Ok(()));
    assert_eq!(join(&mut room, "c", 2), Ok(()));
    let update =
        |room: &mut Room, name, bytes| room.update(Time::ZERO, peer(name), shown(bytes)).map(drop);
    assert_eq!(update(&mut room, "c", 251), Err(Refusal::TOO_MUCH_SHOWN));
    assert_eq!(update(&mut room, "a", 901), Err(Refusal::TOO_MUCH_SHOWN));
    assert_eq!(room.metadata(peer("a")).map(Json::len), Some(900));
    assert_eq!(update(&mut room, "a", 899), Ok(()), "less is never too much");
    assert_eq!(update(&mut room, "a", 748), Ok(()));
    assert_eq!(update(&mut room, "a", 749), Err(Refusal::TOO_MUCH_SHOWN), "1,000 are used up");
    // Who has to show something, or has shown it before, does.
    room.fix(Time::ZERO, peer("c"), shown(900)).unwrap();
    room.rejoin(Time::ZERO, peer("d"), None, Some(shown(900)));
    assert_eq!(update(&mut room, "a", 749), Err(Refusal::TOO_MUCH_SHOWN));
    for name in ["c", "d"] {
        room.leave(Time::ZERO, peer(name), LeaveReason::Left).unwrap();
    }
    assert_eq!(update(&mut room, "a", 750), Ok(()));
    room.begin(Time::ZERO, Epoch::parse("e2").unwrap());
    assert_eq!(join(&mut room, "a", 1_000), Ok(()), "nobody shows anything in a new life");
}

#[test]
fn a_send_is_applied_once_and_in_order() {
    let mut room = room(9);
    assert_eq!(code(room.send(Time::ZERO, peer("a"), send(1, None))), ErrorCode::NotAMember);
    room.join(Time::ZERO, peer("a"), None, None).unwrap();
    let gap = room.send(Time::ZERO, peer("a"), send(2, None)).unwrap_err();
    assert_eq!((gap.code, gap.expected), (ErrorCode::SeqGap, Some(1)));
    assert!(matches!(room.send(Time::ZERO, peer("a"), send(1, None)), Ok(Sent::Appended(_))));
    assert!(matches!(room.send(Time::ZERO, peer("a"), send(2, None)), Ok(Sent::Appended(_))));
    let Ok(Sent::Duplicate(applied)) = room.send(Time::ZERO, peer("a"), send(1, None)) else {
        panic!("a repeated send is a duplicate")
    };
    assert_eq!((applied.seq, applied.offset), (2, 3));
    assert_eq!(room.positions().signal, 3);
}

#[test]
fn a_refused_send_does_not_use_its_seq() {
    let mut room = room(9);
    room.join(Time::ZERO, peer("a"), None, None).unwrap();
    assert_eq!(code(room.send(Time::ZERO, peer("a"), send(1, Some("b")))), ErrorCode::NoSuchPeer);
    assert_eq!(code(room.send(Time::ZERO, peer("a"), send(1, Some("a")))), ErrorCode::BadRequest);
    assert_eq!(code(room.send(Time::ZERO, peer("a"), send(2, None))), ErrorCode::SeqGap);
    assert!(matches!(room.send(Time::ZERO, peer("a"), send(1, None)), Ok(Sent::Appended(_))));
}

#[test]
fn a_repeat_is_a_duplicate_even_when_its_addressee_has_left() {
    let mut room = room(9);
    room.join(Time::ZERO, peer("a"), None, None).unwrap();
    room.join(Time::ZERO, peer("b"), None, None).unwrap();
    room.send(Time::ZERO, peer("a"), send(1, Some("b"))).unwrap();
    room.leave(Time::ZERO, peer("b"), LeaveReason::Left).unwrap();
    let again = room.send(Time::ZERO, peer("a"), send(1, Some("b")));
    assert!(matches!(again, Ok(Sent::Duplicate(_))));
}

#[test]
fn seq_outlives_membership_and_the_rooms_life() {
    let mut room = room(9);
    room.join(Time::ZERO, peer("a"), None, None).unwrap();
    room.send(Time::ZERO, peer("a"), send(1, None)).unwrap();
    room.leave(Time::ZERO, peer("a"), LeaveReason::Left).unwrap();
    room.begin(Time::ZERO, Epoch::parse("e2").unwrap());
    let joined = room.join(Time::ZERO, peer("a"), None, None).unwrap();
    assert_eq!(joined.snapshot.seq.signal, 1);
    assert_eq!(joined.snapshot.positions.signal, 1);
    room.forget(peer("a"));
    assert_eq!(room.seq(peer("a")).signal, 0);
}

#[test]
fn away_and_back_alternate_and_only_for_members() {
    let mut room = room(9);
    assert!(room.mark_away(Time::ZERO, peer("a"), true).is_none());
    room.join(Time::ZERO, peer("a"), None, None).unwrap();
    assert!(room.mark_away(Time::ZERO, peer("a"), false).is_none());
    assert!(room.mark_away(Time::ZERO, peer("a"), true).is_some());
    assert!(room.mark_away(Time::ZERO, peer("a"), true).is_none());
    assert!(room.snapshot(peer("a")).members[0].away);
    assert!(room.mark_away(Time::ZERO, peer("a"), false).is_some());
}

#[test]
fn directed_entries_are_for_two() {
    let mut room = room(9);
    for name in ["a", "b", "c"] {
        room.join(Time::ZERO, peer(name), None, None).unwrap();
    }
    let Ok(Sent::Appended(entry)) = room.send(Time::ZERO, peer("a"), send(1, Some("b"))) else {
        panic!("a fresh send is appended")
    };
    assert_eq!(entry.view(peer("a")), entry::View::Own { seq: 1 });
    assert_eq!(entry.view(peer("b")), entry::View::Deliver);
    assert_eq!(entry.view(peer("c")), entry::View::Skip);
}
