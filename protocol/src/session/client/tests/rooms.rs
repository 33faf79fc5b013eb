//! Positions, members, sends and refusals within a room.

use super::links::{accepted, accepted_on};
use super::*;
use crate::wire::message::{LeaveReason, MemberJoined, MemberLeft};

fn about(lane: LogLane, seq: u64) -> Reference {
    Reference { id: None, room: Some(room()), lane: Some(lane), seq: Some(seq) }
}

#[test]
fn every_entry_is_let_through_once() {
    let mut session = in_room();
    for offset in [2, 3, 2, 3, 5, 4] {
        session.handle_message(T0, LINK, message(LogLane::Signal, offset));
    }
    assert_eq!(delivered(&mut session), [2, 3, 5]);
}

#[test]
fn bulk_entries_that_overtake_the_answer_are_kept_for_it() {
    let mut session = ClientSession::new(Config::default());
    let request = session.join(room(), None).unwrap();
    session.handle_connected(T0, LINK, Streams::PerLane);
    transmits(&mut session, LINK);
    session.handle_message(T0, LINK, ServerMessage::Welcome(welcome(false)));
    session.handle_message(T0, LINK, message(LogLane::Bulk, 8));
    session.handle_message(T0, LINK, start(9));
    session.handle_message(T0, LINK, message(LogLane::Bulk, 10));
    assert!(delivered(&mut session).is_empty());
    session.handle_message(T0, LINK, joined(request.0, 1, 9));
    assert_eq!(delivered(&mut session), [10]);
}

#[test]
fn bulk_may_even_overtake_the_welcome() {
    let mut session = ClientSession::new(Config::default());
    let request = session.join(room(), None).unwrap();
    session.handle_connected(T0, LINK, Streams::PerLane);
    transmits(&mut session, LINK);
    session.handle_message(T0, LINK, start(9));
    session.handle_message(T0, LINK, message(LogLane::Bulk, 10));
    session.handle_message(T0, LINK, ServerMessage::Welcome(welcome(false)));
    assert!(delivered(&mut session).is_empty());
    session.handle_message(T0, LINK, joined(request.0, 1, 9));
    assert_eq!(delivered(&mut session), [10]);
    session.handle_disconnected(T0, LINK, None);
    session.handle_connected(T0, NEXT, Streams::PerLane);
    transmits(&mut session, NEXT);
    session.handle_message(T0, NEXT, message(LogLane::Bulk, 11));
    assert!(delivered(&mut session).is_empty());
    session.handle_message(T0, NEXT, resumed(0));
    assert_eq!(delivered(&mut session), [11]);
}

#[test]
fn too_much_before_the_answer_is_out_of_step() {
    let mut session = ClientSession::new(Config { held_bytes: 200, ..Config::default() });
    session.join(room(), None).unwrap();
    session.handle_connected(T0, LINK, Streams::PerLane);
    transmits(&mut session, LINK);
    session.handle_message(T0, LINK, ServerMessage::Welcome(welcome(false)));
    session.handle_message(T0, LINK, start(0));
    session.handle_message(T0, LINK, message(LogLane::Bulk, 1));
    outputs(&mut session);
    session.handle_message(T0, LINK, message(LogLane::Bulk, 2));
    assert!(outputs(&mut session).contains(&Output::Close(LINK, LinkClose::OutOfStep)));
    assert!(session.wants_link().is_some());
}

#[test]
fn a_reset_starts_over_and_settles_what_was_applied() {
    let mut session = in_room();
    let first = send(&mut session, LogLane::Signal, 1);
    send(&mut session, LogLane::Signal, 2);
    transmits(&mut session, LINK);
    session.handle_message(T0, LINK, reset(40, 7, 1));
    let out = outputs(&mut session);
    assert!(out.contains(&Output::Sent(first, Ok(Receipt { position: None }))));
    let members = vec![member("me", 1), member("other", 2)];
    let cause = ResetCause::Gateway(ResetReason::Trimmed);
    let event = Event::Room(room(), RoomEvent::Reset(cause, members.clone()));
    assert!(out.contains(&Output::Event(event)));
    assert_eq!(session.members(&room()), Some(members));
    session.handle_message(T0, LINK, message(LogLane::Signal, 40));
    session.handle_message(T0, LINK, message(LogLane::Bulk, 8));
    assert!(delivered(&mut session).is_empty(), "the one was had, the other is before its mark");
    session.handle_message(T0, LINK, start(7));
    session.handle_message(T0, LINK, message(LogLane::Bulk, 8));
    session.handle_message(T0, LINK, message(LogLane::Signal, 41));
    assert_eq!(delivered(&mut session), [8, 41]);
}

#[test]
fn members_follow_their_events() {
    let mut session = in_room();
    let (user, metadata) = (None, Json::empty_object());
    let (name, epoch) = (room(), epoch());
    let other = peer("other");
    let joined = MemberJoined { room: name.clone(), epoch, offset: 2, peer: other, user, metadata };
    session.handle_message(T0, LINK, ServerMessage::MemberJoined(joined.clone()));
    session.handle_message(T0, LINK, ServerMessage::MemberJoined(joined));
    let names = |session: &ClientSession| -> Vec<String> {
        let members = session.members(&room()).unwrap();
        members.iter().map(|member| member.peer.to_string()).collect()
    };
    assert_eq!(names(&session), ["me", "other"]);
    let reason = LeaveReason::Left;
    let left = MemberLeft { room: name, epoch, offset: 3, peer: other, reason };
    session.handle_message(T0, LINK, ServerMessage::MemberLeft(left));
    assert_eq!(names(&session), ["me"]);
    assert_eq!(outputs(&mut session).len(), 2);
}

#[test]
fn updates_are_kept_for_joining_again() {
    let mut session = in_room();
    let metadata = Json::parse(br#"{"name":"B"}"#).unwrap();
    let id = session.update(&room(), metadata.clone()).unwrap();
    transmits(&mut session, LINK);
    session.handle_message(T0, LINK, ServerMessage::Ok { id: id.0 });
    assert_eq!(session.members(&room()).unwrap()[0].metadata, metadata);
    session.handle_disconnected(T0, LINK, None);
    session.handle_connected(T0, NEXT, Streams::One);
    transmits(&mut session, NEXT);
    let lost = Welcome { lost: vec![room()], ..welcome(true) };
    session.handle_message(T0, NEXT, ServerMessage::Welcome(lost));
    let out = transmits(&mut session, NEXT);
    let again = |m: &ClientMessage| matches!(m, ClientMessage::Join { metadata: Some(m), .. } if *m == metadata);
    assert!(out.iter().any(again), "{out:?}");
}

#[test]
fn a_refusal_is_reported_and_the_rest_goes_on() {
    let mut session = in_room();
    let ids: Vec<SendId> = (1..=3).map(|n| send(&mut session, LogLane::Signal, n)).collect();
    transmits(&mut session, LINK);
    let no_such_peer = refusal(ErrorCode::NoSuchPeer, about(LogLane::Signal, 1));
    session.handle_message(T0, LINK, no_such_peer);
    for seq in [2, 3] {
        let mut gap = refusal(ErrorCode::SeqGap, about(LogLane::Signal, seq));
        if let ServerMessage::Error(error) = &mut gap {
            error.expected = Some(1);
        }
        session.handle_message(T0, LINK, gap);
    }
    let code = ErrorCode::NoSuchPeer;
    let refused = SendError::Refused { code, message: "no".into() };
    assert_eq!(outputs(&mut session), [Output::Sent(ids[0], Err(refused))]);
    assert_eq!(sent(&mut session, LINK), [(1, 2), (2, 3)]);
}

#[test]
fn leave_waits_for_what_was_sent_before_it_and_ends_with_its_answer() {
    let mut session = in_room();
    send(&mut session, LogLane::Bulk, 1);
    let leave = session.leave(&room()).unwrap();
    let nothing = session.send(T0, &room(), LogLane::Bulk, None, body(2));
    assert_eq!(nothing, Err(CommandError::NotInRoom));
    assert_eq!(session.join(room(), None), Err(CommandError::AlreadyInRoom));
    let out = transmits(&mut session, LINK);
    assert!(matches!(&out[..], [ClientMessage::Send(_)]), "{out:?}");
    session.handle_message(T0, LINK, accepted_on(LogLane::Bulk, 1, 1));
    assert!(matches!(transmits(&mut session, LINK)[..], [ClientMessage::Leave { .. }]));
    outputs(&mut session);
    session.handle_message(T0, LINK, ServerMessage::Ok { id: leave.0 });
    assert_eq!(outputs(&mut session), [Output::Answer(leave, Ok(Answer::Ok))]);
    assert!(session.join(room(), None).is_ok());
}

#[test]
fn leaving_needs_no_place_among_the_requests() {
    let mut session = in_room();
    while session.ice().is_ok() {}
    assert_eq!(session.ice(), Err(CommandError::TooManyRequests));
    transmits(&mut session, LINK);
    let id = session.leave(&room()).unwrap();
    assert_eq!(transmits(&mut session, LINK), [ClientMessage::Leave { id: id.0, room: room() }]);
    assert_eq!(session.leave(&room()), Err(CommandError::NotInRoom));
}

#[test]
fn a_room_that_cannot_be_joined_again_is_lost_with_its_sends() {
    let mut session = in_room();
    session.handle_disconnected(T0, LINK, None);
    let id = send(&mut session, LogLane::Signal, 1);
    session.handle_connected(T0, NEXT, Streams::One);
    transmits(&mut session, NEXT);
    let lost = Welcome { lost: vec![room()], ..welcome(true) };
    session.handle_message(T0, NEXT, ServerMessage::Welcome(lost));
    let out = transmits(&mut session, NEXT);
    let [ClientMessage::Join { id: join, .. }] = out[..] else { panic!("{out:?}") };
    outputs(&mut session);
    let about = Reference { id: Some(join), ..Reference::default() };
    session.handle_message(T0, NEXT, refusal(ErrorCode::RoomFull, about));
    let out = outputs(&mut session);
    assert!(out.contains(&Output::Sent(id, Err(SendError::NotSent))), "{out:?}");
    let is_lost = |o: &Output| matches!(o, Output::Event(Event::Room(_, RoomEvent::Lost { .. })));
    assert!(out.iter().any(is_lost), "{out:?}");
}

#[test]
fn commands_are_checked_before_they_cost_anything() {
    let mut session = in_room();
    let elsewhere = RoomName::parse("elsewhere").unwrap();
    let long = |n: usize| Json::from_value(&"x".repeat(n)).unwrap();
    let lane = LogLane::Signal;
    assert_eq!(session.send(T0, &elsewhere, lane, None, body(1)), Err(CommandError::NotInRoom));
    assert_eq!(session.send(T0, &room(), lane, None, long(66_000)), Err(CommandError::TooLarge));
    assert_eq!(session.ephemeral(&room(), None, long(900)), Err(CommandError::TooLarge));
    assert_eq!(session.update(&room(), body(1)), Err(CommandError::NotAnObject));
    session.config.outbox_bytes = 1_000;
    assert!(session.send(T0, &room(), lane, None, long(800)).is_ok());
    assert_eq!(session.send(T0, &room(), lane, None, long(800)), Err(CommandError::OutboxFull));
    transmits(&mut session, LINK);
    session.handle_message(T0, LINK, accepted(1, 2));
    assert!(session.send(T0, &room(), lane, None, long(800)).is_ok());
}

#[test]
fn only_the_newest_ephemeral_messages_are_kept_and_none_without_a_connection() {
    let mut session = in_room();
    for n in 0..100 {
        session.ephemeral(&room(), None, body(n)).unwrap();
    }
    let out = transmits(&mut session, LINK);
    assert_eq!(out.len(), crate::limits::EPHEMERAL_HELD_MAX);
    assert!(matches!(out.last(), Some(ClientMessage::Ephemeral { body: b, .. }) if *b == body(99)));
    session.handle_disconnected(T0, LINK, None);
    session.ephemeral(&room(), None, body(0)).unwrap();
    session.handle_connected(T0, NEXT, Streams::One);
    transmits(&mut session, NEXT);
    session.handle_message(T0, NEXT, resumed(0));
    assert_eq!(transmits(&mut session, NEXT), []);
}

#[test]
fn a_wait_that_is_over_does_not_stay_due() {
    let mut session = in_room();
    send(&mut session, LogLane::Signal, 1);
    transmits(&mut session, LINK);
    session.handle_message(T0, LINK, refusal(ErrorCode::Unavailable, about(LogLane::Signal, 1)));
    // It was applied all the same, and nothing waits for the wait to end.
    session.handle_message(T0, LINK, accepted(1, 2));
    let later = T0 + Duration::from_secs(2);
    session.handle_timeout(later);
    assert!(session.poll_timeout().is_none_or(|due| due > later));
}

#[test]
fn a_lane_that_was_settling_in_a_lost_room_gives_up_no_connection() {
    let mut session = in_room();
    send(&mut session, LogLane::Signal, 1);
    send(&mut session, LogLane::Signal, 2);
    transmits(&mut session, LINK);
    session.handle_message(T0, LINK, refusal(ErrorCode::TooLarge, about(LogLane::Signal, 1)));
    session.handle_disconnected(T0, LINK, None);
    let later = T0 + Duration::from_secs(60);
    session.handle_connected(later, NEXT, Streams::One);
    transmits(&mut session, NEXT);
    let lost = Welcome { lost: vec![room()], ..welcome(true) };
    session.handle_message(later, NEXT, ServerMessage::Welcome(lost));
    session.handle_timeout(later);
    let closes = |output: &Output| matches!(output, Output::Close(..));
    assert!(!outputs(&mut session).iter().any(closes));
}
