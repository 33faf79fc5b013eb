//! Greeting, resuming, taking over, ending.

use super::*;

#[test]
fn requests_follow_a_first_greeting_at_once_and_bulk_is_named() {
    let mut session = ClientSession::new(Config::default());
    assert!(session.wants_link().is_some());
    session.join(room(), None).unwrap();
    session.handle_connected(T0, LINK, Streams::PerLane);
    assert!(session.wants_link().is_none());
    let out = transmits(&mut session, LINK);
    assert!(matches!(&out[0], ClientMessage::Hello(hello) if hello.resume.is_none()));
    assert!(matches!(&out[1], ClientMessage::Join { id: 1, .. }));
    assert_eq!(out[2], ClientMessage::Lane { lane: LogLane::Bulk });
    assert_eq!(out.len(), 3);
}

#[test]
fn requests_wait_for_the_answer_to_a_resume() {
    let mut session = in_room();
    session.fetch_members(&room()).unwrap();
    session.handle_disconnected(T0, LINK, None);
    assert_eq!(outputs(&mut session), [Output::Event(Event::Down)]);
    session.handle_connected(T0, NEXT, Streams::One);
    let out = transmits(&mut session, NEXT);
    let [ClientMessage::Hello(hello)] = &out[..] else { panic!("{out:?}") };
    let resume = hello.resume.as_ref().unwrap();
    assert_eq!((resume.session.as_str(), resume.secret.expose()), ("s1", "secret"));
    assert_eq!((resume.rooms[&room()].signal, resume.rooms[&room()].bulk), (1, 0));
    session.handle_message(T0, NEXT, resumed(0));
    assert!(matches!(transmits(&mut session, NEXT)[..], [ClientMessage::Members { id: 2, .. }]));
}

#[test]
fn resume_repeats_unanswered_sends_that_were_not_applied() {
    let mut session = in_room();
    for n in 1..=3 {
        send(&mut session, LogLane::Signal, n);
    }
    assert_eq!(sent(&mut session, LINK), [(1, 1), (2, 2), (3, 3)]);
    session.handle_disconnected(T0, LINK, None);
    session.handle_connected(T0, NEXT, Streams::One);
    assert_eq!(sent(&mut session, NEXT), []);
    session.handle_message(T0, NEXT, resumed(2));
    assert_eq!(sent(&mut session, NEXT), [(3, 3)]);
}

#[test]
fn what_went_out_is_uncertain_where_the_gateway_knows_of_less_than_it_accepted() {
    let mut session = in_room();
    send(&mut session, LogLane::Signal, 1);
    let under_way = send(&mut session, LogLane::Signal, 2);
    assert_eq!(sent(&mut session, LINK), [(1, 1), (2, 2)]);
    session.handle_message(T0, LINK, accepted(1, 2));
    session.handle_disconnected(T0, LINK, None);
    session.handle_connected(T0, NEXT, Streams::One);
    transmits(&mut session, NEXT);
    outputs(&mut session);
    session.handle_message(T0, NEXT, resumed(0));
    let lost = Output::Sent(under_way, Err(SendError::Uncertain));
    assert!(outputs(&mut session).contains(&lost));
    assert_eq!(sent(&mut session, NEXT), []);
}

#[test]
fn a_leave_does_not_wait_for_what_nobody_can_tell_the_fate_of() {
    let mut session = in_room();
    send(&mut session, LogLane::Signal, 1);
    send(&mut session, LogLane::Signal, 2);
    transmits(&mut session, LINK);
    session.handle_message(T0, LINK, accepted(1, 2));
    session.leave(&room()).unwrap();
    assert_eq!(transmits(&mut session, LINK), [], "the second first");
    session.handle_disconnected(T0, LINK, None);
    session.handle_connected(T0, NEXT, Streams::One);
    transmits(&mut session, NEXT);
    session.handle_message(T0, NEXT, resumed(0));
    assert!(matches!(transmits(&mut session, NEXT)[..], [ClientMessage::Leave { .. }]));
}

#[test]
fn the_older_connection_goes_on_until_the_newer_one_is_welcomed() {
    let mut session = in_room();
    session.replace_link();
    assert_eq!(session.wants_link(), Some(Wanted { not_before: None, replaces: true }));
    session.handle_connected(T0, NEXT, Streams::One);
    transmits(&mut session, NEXT);
    session.handle_message(T0, LINK, message(LogLane::Signal, 2));
    assert_eq!(delivered(&mut session), [2]);
    send(&mut session, LogLane::Signal, 7);
    assert_eq!(sent(&mut session, LINK), [(1, 7)]);
    session.handle_message(T0, NEXT, resumed(0));
    assert!(outputs(&mut session).contains(&Output::Close(LINK, LinkClose::Replaced)));
    session.handle_message(T0, LINK, message(LogLane::Signal, 3));
    session.handle_message(T0, NEXT, message(LogLane::Signal, 2));
    assert!(delivered(&mut session).is_empty(), "of a connection that is out, and had already");
    assert_eq!(sent(&mut session, NEXT), [(1, 7)]);
    assert!(session.wants_link().is_none());
}

#[test]
fn a_greeting_that_a_reset_outruns_is_said_again() {
    let mut session = in_room();
    session.replace_link();
    session.handle_connected(T0, NEXT, Streams::One);
    transmits(&mut session, NEXT);
    outputs(&mut session);
    session.handle_message(T0, LINK, reset(40, 7, 0));
    assert!(outputs(&mut session).contains(&Output::Close(NEXT, LinkClose::Dropped)));
    assert_eq!(session.wants_link(), Some(Wanted { not_before: None, replaces: true }));
    // It may have arrived all the same.
    session.handle_message(T0, LINK, ServerMessage::Close(Close::new(CloseCode::Replaced)));
    assert!(!session.is_ended());
    session.handle_connected(T0, LinkId(3), Streams::One);
    let out = transmits(&mut session, LinkId(3));
    let [ClientMessage::Hello(hello)] = &out[..] else { panic!("{out:?}") };
    assert_eq!(hello.resume.as_ref().unwrap().rooms[&room()].signal, 40);
}

#[test]
fn a_greeting_that_a_join_outruns_is_said_again() {
    let mut session = in_room();
    let name = RoomName::parse("another").unwrap();
    let id = session.join(name.clone(), None).unwrap();
    transmits(&mut session, LINK);
    session.replace_link();
    session.handle_connected(T0, NEXT, Streams::One);
    transmits(&mut session, NEXT);
    outputs(&mut session);
    let ServerMessage::Joined(joined) = joined(id.0, 3, 0) else { panic!("it is one") };
    let joined = Joined { room: name.clone(), ..joined };
    session.handle_message(T0, LINK, ServerMessage::Joined(joined));
    assert!(outputs(&mut session).contains(&Output::Close(NEXT, LinkClose::Dropped)));
    session.handle_connected(T0, LinkId(3), Streams::One);
    let out = transmits(&mut session, LinkId(3));
    let [ClientMessage::Hello(hello)] = &out[..] else { panic!("{out:?}") };
    assert_eq!(hello.resume.as_ref().unwrap().rooms[&name].signal, 3);
}

#[test]
fn a_greeting_that_is_not_said_yet_is_not_outrun() {
    let mut session = in_room();
    session.replace_link();
    session.handle_connected(T0, NEXT, Streams::One);
    outputs(&mut session);
    session.handle_message(T0, LINK, reset(40, 7, 0));
    let closed = |output: &Output| matches!(output, Output::Close(..));
    assert!(!outputs(&mut session).iter().any(closed));
    let out = transmits(&mut session, NEXT);
    let [ClientMessage::Hello(hello)] = &out[..] else { panic!("{out:?}") };
    assert_eq!(hello.resume.as_ref().unwrap().rooms[&room()].signal, 40);
}

#[test]
fn being_replaced_by_oneself_is_no_end() {
    let replaced = || ServerMessage::Close(Close::new(CloseCode::Replaced));
    for newer_dies_first in [false, true] {
        let mut session = in_room();
        session.replace_link();
        session.handle_connected(T0, NEXT, Streams::One);
        transmits(&mut session, NEXT);
        if newer_dies_first {
            session.handle_disconnected(T0, NEXT, None);
        }
        session.handle_message(T0, LINK, replaced());
        assert!(!session.is_ended());
    }
    let mut session = in_room();
    session.handle_message(T0, LINK, replaced());
    assert!(session.is_ended(), "somebody else has the session now");
}

#[test]
fn close_codes_say_whether_to_come_back() {
    for code in crate::wire::close::ALL {
        let mut session = in_room();
        let close = Close { retry_after: Some(700), ..Close::new(code) };
        session.handle_message(T0, LINK, ServerMessage::Close(close));
        // The greeting did go out: that it did not arrive in time is no reason to stay away.
        let may_return = code.may_return() || code == CloseCode::HelloTimeout;
        assert_eq!(session.is_ended(), !may_return, "{code}");
        if may_return {
            let not_before = Some(T0 + Duration::from_millis(700));
            assert_eq!(session.wants_link(), Some(Wanted { not_before, replaces: false }));
        }
        let mut session = in_room();
        session.handle_disconnected(T0, LINK, Some(code.number()));
        assert_eq!(session.is_ended(), !may_return, "{code}, from the transport");
    }
}

#[test]
fn an_unknown_session_is_begun_anew_and_rooms_are_joined_again() {
    let mut session = in_room();
    let under_way = send(&mut session, LogLane::Signal, 1);
    transmits(&mut session, LINK);
    session.handle_disconnected(T0, LINK, None);
    let waiting = send(&mut session, LogLane::Signal, 2);
    session.handle_connected(T0, NEXT, Streams::One);
    transmits(&mut session, NEXT);
    outputs(&mut session);
    session.handle_message(T0, NEXT, greeting_refused(ErrorCode::SessionUnknown));
    let lost = Output::Sent(under_way, Err(SendError::Uncertain));
    assert_eq!(outputs(&mut session), [lost]);
    let out = transmits(&mut session, NEXT);
    assert!(matches!(&out[0], ClientMessage::Hello(hello) if hello.resume.is_none()), "{out:?}");
    let ClientMessage::Join { id, .. } = out[1] else { panic!("{out:?}") };
    session.handle_message(T0, NEXT, ServerMessage::Welcome(welcome(false)));
    session.handle_message(T0, NEXT, joined(id, 4, 0));
    let reset = RoomEvent::Reset(ResetCause::NewSession, vec![member("me", 4)]);
    assert!(outputs(&mut session).contains(&Output::Event(Event::Room(room(), reset))));
    assert_eq!(sent(&mut session, NEXT), [(1, 2)]);
    session.handle_message(T0, NEXT, accepted(1, 5));
    assert!(matches!(outputs(&mut session)[..], [Output::Sent(id, Ok(_))] if id == waiting));
}

#[test]
fn a_greeting_refused_for_good_ends_it_and_one_refused_for_now_waits() {
    let mut session = ClientSession::new(Config::default());
    session.handle_connected(T0, LINK, Streams::One);
    transmits(&mut session, LINK);
    session.handle_message(T0, LINK, greeting_refused(ErrorCode::Unavailable));
    assert_eq!(outputs(&mut session), [Output::Close(LINK, LinkClose::NotNow)]);
    let not_before = Some(T0 + GREETING_RETRY);
    assert_eq!(session.wants_link(), Some(Wanted { not_before, replaces: false }));
    session.handle_connected(T0, NEXT, Streams::One);
    transmits(&mut session, NEXT);
    session.handle_message(T0, NEXT, greeting_refused(ErrorCode::Unauthorized));
    assert!(session.is_ended());
}

#[test]
fn a_connection_refused_for_good_does_not_end_what_another_one_carries() {
    use ErrorCode::{BadRequest, Forbidden, Unauthorized, UnsupportedVersion};
    for code in [BadRequest, Forbidden, Unauthorized, UnsupportedVersion] {
        let mut session = in_room();
        session.handle_message(T0, LINK, ServerMessage::Draining { reconnect_in: 0 });
        session.handle_connected(T0, NEXT, Streams::One);
        transmits(&mut session, NEXT);
        outputs(&mut session);
        session.handle_message(T0, NEXT, greeting_refused(code));
        let refused = Event::Refused { room: None, code, message: "no".into() };
        let given_up = Output::Close(NEXT, LinkClose::Refused);
        assert_eq!(outputs(&mut session), [Output::Event(refused), given_up]);
        let not_before = Some(T0 + GREETING_RETRY);
        assert_eq!(session.wants_link(), Some(Wanted { not_before, replaces: true }));
        // What follows the refusal is about a connection that no longer counts.
        let close = Close::new(CloseCode::Unauthorized);
        session.handle_message(T0, NEXT, ServerMessage::Close(close));
        session.handle_message(T0, LINK, message(LogLane::Signal, 2));
        assert_eq!(delivered(&mut session), [2]);
        send(&mut session, LogLane::Signal, 7);
        assert_eq!(sent(&mut session, LINK), [(1, 7)]);
        // Nothing else carries it then.
        session.handle_disconnected(T0, LINK, None);
        session.handle_connected(T0, LinkId(3), Streams::One);
        transmits(&mut session, LinkId(3));
        session.handle_message(T0, LinkId(3), greeting_refused(code));
        assert_eq!(session.is_ended(), code != Forbidden, "of another user: begun anew");
    }
}

#[test]
fn a_second_connection_that_is_closed_ends_only_a_session_that_it_had() {
    for code in crate::wire::close::ALL {
        for in_band in [true, false] {
            let mut session = in_room();
            session.replace_link();
            session.handle_connected(T0, NEXT, Streams::PerLane);
            // The bulk stream is not named yet.
            assert!(session.poll_transmit(T0, NEXT, Lane::Signal).is_some());
            if in_band {
                session.handle_message(T0, NEXT, ServerMessage::Close(Close::new(code)));
            } else {
                session.handle_disconnected(T0, NEXT, Some(code.number()));
            }
            let had_it = [CloseCode::Bye, CloseCode::Replaced, CloseCode::Kicked].contains(&code);
            assert_eq!(session.is_ended(), had_it, "{code}");
            if !had_it {
                assert!(session.wants_link().is_some_and(|wanted| wanted.replaces));
                session.handle_message(T0, LINK, message(LogLane::Signal, 2));
                assert_eq!(delivered(&mut session), [2]);
            }
        }
    }
}

#[test]
fn silence_is_probed_then_doubted_and_a_sign_of_life_takes_it_back() {
    let mut session = in_room();
    session.set_attention(Attention::CALL);
    let probe_at = session.poll_timeout().unwrap();
    assert_eq!(probe_at, T0 + Duration::from_secs(1));
    session.handle_timeout(probe_at);
    assert!(matches!(transmits(&mut session, LINK)[..], [ClientMessage::Ping { .. }]));
    let doubt_at = session.poll_timeout().unwrap();
    assert_eq!(doubt_at, T0 + Duration::from_secs(3));
    session.handle_timeout(doubt_at);
    assert_eq!(outputs(&mut session), [Output::Event(Event::Down)]);
    assert_eq!(session.wants_link(), Some(Wanted { not_before: None, replaces: true }));
    session.handle_alive(doubt_at, LINK);
    session.handle_message(doubt_at, LINK, message(LogLane::Signal, 2));
    delivered(&mut session);
    assert!(session.wants_link().is_some(), "that the gateway talks does not mean that it hears");
    session.handle_message(doubt_at, LINK, ServerMessage::Pong { id: 2 });
    assert!(session.wants_link().is_none());
    assert!(matches!(outputs(&mut session)[..], [Output::Event(Event::Live(_))]));
}

#[test]
fn after_a_move_only_the_answer_counts() {
    let patience = Duration::from_millis(400);
    let mut session = in_room();
    for answered in [true, false] {
        session.probe_link(T0, patience);
        let [ClientMessage::Ping { id }] = transmits(&mut session, LINK)[..] else { panic!() };
        // It had set out on the old path, before that was gone.
        session.handle_message(T0, LINK, ServerMessage::Pong { id: id - 1 });
        assert_eq!(session.poll_timeout(), Some(T0 + patience));
        if answered {
            session.handle_message(T0, LINK, ServerMessage::Pong { id });
            assert!(session.poll_timeout() > Some(T0 + patience));
        } else {
            session.handle_timeout(T0 + patience);
            assert_eq!(outputs(&mut session), [Output::Event(Event::Down)]);
            assert_eq!(session.wants_link(), Some(Wanted { not_before: None, replaces: true }));
        }
    }
    // The first answer takes the doubt back, and nothing is asked any more.
    session.handle_message(T0 + patience, LINK, ServerMessage::Pong { id: 99 });
    assert!(session.wants_link().is_none());
    assert!(session.poll_timeout() > Some(T0 + patience));
}

#[test]
fn in_a_call_a_gateway_that_talks_without_answering_is_doubted_too() {
    for (attention, doubts) in [(Attention::CALL, true), (Attention::IDLE, false)] {
        let mut session = in_room();
        session.set_attention(attention);
        let mut pings = 0;
        for half_seconds in 1..=7 {
            let now = T0 + Duration::from_millis(500 * half_seconds);
            session.handle_timeout(now);
            pings += transmits(&mut session, LINK).len();
            session.handle_alive(now, LINK);
            session.handle_message(now, LINK, message(LogLane::Signal, 1 + half_seconds));
            delivered(&mut session);
        }
        assert_eq!((pings == 1, session.wants_link().is_some()), (doubts, doubts));
    }
}

#[test]
fn whoever_does_not_read_doubts_nobody() {
    let mut session = in_room();
    session.set_attention(Attention::CALL);
    for seconds in 1..10 {
        let now = T0 + Duration::from_secs(seconds);
        session.handle_unread(now, LINK);
        session.handle_timeout(now);
        assert!(session.wants_link().is_none());
    }
}

#[test]
fn links_that_are_dropped_are_closed_and_another_one_is_wanted_at_once() {
    let mut session = in_room();
    session.replace_link();
    session.handle_connected(T0, NEXT, Streams::One);
    transmits(&mut session, NEXT);
    session.drop_links();
    let closed = |link| Output::Close(link, LinkClose::Dropped);
    assert_eq!(outputs(&mut session), [closed(NEXT), closed(LINK), Output::Event(Event::Down)]);
    assert_eq!(session.wants_link(), Some(Wanted { not_before: None, replaces: false }));
}

#[test]
fn a_gateway_that_does_not_welcome_is_given_up() {
    let mut session = ClientSession::new(Config::default());
    session.handle_connected(T0, LINK, Streams::One);
    let due = session.poll_timeout().unwrap();
    session.handle_timeout(due);
    assert_eq!(outputs(&mut session), [Output::Close(LINK, LinkClose::NoWelcome)]);
    assert!(session.wants_link().is_some());
}

#[test]
fn draining_wants_a_new_connection_when_told() {
    let mut session = in_room();
    session.handle_message(T0, LINK, ServerMessage::Draining { reconnect_in: 250 });
    assert!(outputs(&mut session).contains(&Output::Event(Event::Draining(250))));
    let not_before = Some(T0 + Duration::from_millis(250));
    assert_eq!(session.wants_link(), Some(Wanted { not_before, replaces: true }));
}

#[test]
fn draining_wants_no_other_connection_while_one_greets() {
    let mut session = in_room();
    session.handle_message(T0, LINK, ServerMessage::Draining { reconnect_in: 0 });
    session.handle_connected(T0, NEXT, Streams::One);
    transmits(&mut session, NEXT);
    // The gateway that takes the session in has the older one closed before it says `welcome`.
    session.handle_disconnected(T0, LINK, Some(CloseCode::Replaced.number()));
    assert_eq!(session.wants_link(), None);
    session.handle_disconnected(T0, NEXT, None);
    assert_eq!(session.wants_link(), Some(Wanted { not_before: None, replaces: false }));
}

#[test]
fn bye_waits_for_what_was_sent_before_it() {
    let mut session = in_room();
    send(&mut session, LogLane::Bulk, 1);
    session.bye(T0 + Duration::from_secs(2));
    assert_eq!(session.send(T0, &room(), LogLane::Bulk, None, body(2)), Err(CommandError::Ended));
    assert_eq!(sent(&mut session, LINK), [(1, 1)]);
    session.handle_message(T0, LINK, accepted_on(LogLane::Bulk, 1, 1));
    assert_eq!(transmits(&mut session, LINK), [ClientMessage::Bye]);
    outputs(&mut session);
    session.handle_message(T0, LINK, ServerMessage::Close(Close::new(CloseCode::Bye)));
    assert!(outputs(&mut session).contains(&Output::Event(Event::Ended(Ended::Bye))));
}

#[test]
fn bye_may_overtake_or_be_overtaken_by_a_newer_connection() {
    let leaving = || {
        let mut session = in_room();
        session.replace_link();
        session.handle_connected(T0, NEXT, Streams::One);
        session.bye(T0 + Duration::from_secs(2));
        assert_eq!(transmits(&mut session, LINK), [ClientMessage::Bye]);
        assert!(matches!(transmits(&mut session, NEXT)[..], [ClientMessage::Hello(_)]));
        session
    };
    let mut gone = leaving();
    gone.handle_message(T0, NEXT, greeting_refused(ErrorCode::SessionUnknown));
    let out = outputs(&mut gone);
    assert_eq!(out.last(), Some(&Output::Event(Event::Ended(Ended::Bye))));
    assert!(!out.iter().any(|output| matches!(output, Output::Event(Event::Room(..)))));
    let mut there = leaving();
    there.handle_message(T0, NEXT, resumed(0));
    assert_eq!(transmits(&mut there, NEXT), [ClientMessage::Bye], "the first was lost");
}

#[test]
fn bye_does_not_wait_for_ever() {
    let mut session = in_room();
    let id = send(&mut session, LogLane::Bulk, 1);
    transmits(&mut session, LINK);
    session.bye(T0 + Duration::from_secs(2));
    session.handle_timeout(T0 + Duration::from_secs(2));
    let out = outputs(&mut session);
    assert!(out.contains(&Output::Sent(id, Err(SendError::Uncertain))));
    assert!(out.contains(&Output::Event(Event::Ended(Ended::Bye))));
}

pub(super) fn accepted(seq: u64, offset: u64) -> ServerMessage {
    accepted_on(LogLane::Signal, seq, offset)
}

pub(super) fn accepted_on(lane: LogLane, seq: u64, offset: u64) -> ServerMessage {
    let (room, epoch) = (room(), epoch());
    let accepted = crate::wire::message::Accepted { room, lane, epoch, seq, offset };
    ServerMessage::Accepted(accepted)
}

#[test]
fn a_greeting_given_up_may_still_take_the_session_over_once() {
    let mut session = in_room();
    session.handle_connected(T0, NEXT, Streams::One);
    transmits(&mut session, NEXT);
    // Another one is faster, but the gateway hears the first one's greeting last.
    for (link, ends) in [(LinkId(3), false), (LinkId(4), true)] {
        session.handle_connected(T0, link, Streams::One);
        transmits(&mut session, link);
        session.handle_message(T0, link, resumed(0));
        session.handle_disconnected(T0, link, Some(CloseCode::Replaced.number()));
        assert_eq!(session.is_ended(), ends);
    }
}

#[test]
fn a_token_that_a_greeting_has_brought_is_not_brought_again() {
    let mut session = in_room();
    let refresh = |session: &mut ClientSession, token: &str| {
        session.refresh(Secret::new(token.to_owned())).unwrap()
    };
    let first = refresh(&mut session, "first");
    assert!(matches!(transmits(&mut session, LINK)[..], [ClientMessage::Refresh { .. }]));
    session.handle_disconnected(T0, LINK, None);
    outputs(&mut session);
    session.set_token(Secret::new("second".to_owned()));
    session.handle_connected(T0, NEXT, Streams::One);
    let [ClientMessage::Hello(hello)] = &transmits(&mut session, NEXT)[..] else { panic!() };
    assert_eq!(hello.token.as_ref().map(Secret::expose), Some("second"));
    // One that came after the greeting has to be brought.
    let third = refresh(&mut session, "third");
    session.handle_message(T0, NEXT, ServerMessage::Welcome(welcome(true)));
    assert!(outputs(&mut session).contains(&Output::Answer(first, Ok(Answer::Ok))));
    let out = transmits(&mut session, NEXT);
    let brought = |message: &ClientMessage| match message {
        ClientMessage::Refresh { id, token } => Some((*id, token.expose().to_owned())),
        _ => None,
    };
    let brought: Vec<_> = out.iter().filter_map(brought).collect();
    assert_eq!(brought, [(third.0, "third".to_owned())]);
}
