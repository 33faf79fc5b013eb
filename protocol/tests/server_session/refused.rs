//! What happens when a gateway cannot do what it should, with hands on the session itself.

use handover_protocol::room::log::Read;
use handover_protocol::room::{Refusal, Snapshot};
use handover_protocol::session::grant::Admission;
use handover_protocol::session::server::{Action, Opened, OpenedRoom, ServerSession, Streams};
use handover_protocol::session::{About, Op, Outcome, Reply, RoomLog, Slot};
use handover_protocol::time::Time;
use handover_protocol::wire::message::{Positions, ServerMessage};
use handover_protocol::wire::{
    Codec, Epoch, ErrorCode, Lane, LogLane, PeerId, PerLane, RoomName, Secret, SessionId,
};
use serde_json::{Value, json};

use crate::bench::settings;

/// The log of a room in which nothing ever happens.
#[derive(Debug)]
struct Quiet;

impl RoomLog for Quiet {
    fn epoch(&self) -> Epoch {
        Epoch::parse("e").expect("short")
    }

    fn read(&self, _: LogLane, after: u64) -> Read {
        if after == 0 { Read::Current } else { Read::Ahead }
    }
}

fn say(session: &mut ServerSession<Quiet>, message: Value) {
    session.handle_frame(&settings(), Lane::Signal, message.to_string().as_bytes());
}

fn hear(session: &mut ServerSession<Quiet>) -> Vec<ServerMessage> {
    let on = |lane| -> Vec<_> {
        std::iter::from_fn(|| session.poll_transmit(Time::ZERO, lane)).collect()
    };
    let frames = LogLane::ALL.into_iter().flat_map(on);
    frames.map(|frame| Codec::Json.decode_server(&frame.payload()).expect("valid")).collect()
}

fn greeted() -> ServerSession<Quiet> {
    let mut session = ServerSession::new(Codec::Json, Streams::One);
    say(&mut session, json!({"type": "hello", "version": 1}));
    assert!(matches!(session.poll_action(), Some(Action::Open(_))));
    session
}

fn opened(resumed: Option<Vec<OpenedRoom<Quiet>>>) -> Opened<Quiet> {
    Opened {
        pass: Admission::anonymous().pass(Time::ZERO, 0),
        session: SessionId::parse("s").expect("short"),
        secret: Secret::new("k".into()),
        peer: PeerId::parse("p").expect("short"),
        user: None,
        resumed,
    }
}

/// What it is told is that something cannot be had now, and when to ask again.
fn is_for_later(session: &mut ServerSession<Quiet>) {
    let heard = hear(session);
    let [ServerMessage::Error(error)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((error.code, error.retry_after), (ErrorCode::Unavailable, Some(500)));
}

#[test]
fn a_refresh_refused_for_now_may_come_again_later() {
    let mut session = greeted();
    session.handle_opened(&settings(), opened(None));
    hear(&mut session);
    for id in 1..=3 {
        say(&mut session, json!({"type": "refresh", "id": id, "token": "t"}));
        assert!(matches!(session.poll_action(), Some(Action::Refresh { .. })));
        session.handle_refreshed(id, Err(Refusal::new(ErrorCode::Unavailable, "not now")));
        is_for_later(&mut session);
    }
    assert_eq!(session.closing(), None);
}

#[test]
fn a_greeting_refused_for_now_is_not_counted_and_what_follows_it_is_ignored() {
    let mut session = greeted();
    for _ in 0..5 {
        session.handle_refused(&Refusal::new(ErrorCode::Unavailable, "not now"));
        is_for_later(&mut session);
        // The client sent it before it knew.
        say(&mut session, json!({"type": "join", "id": 1, "room": "r"}));
        say(&mut session, json!({"type": "join"}));
        assert_eq!((hear(&mut session), session.closing()), (Vec::new(), None));
        say(&mut session, json!({"type": "hello", "version": 1}));
        assert!(matches!(session.poll_action(), Some(Action::Open(_))));
    }
    session.handle_opened(&settings(), opened(None));
    assert!(matches!(hear(&mut session)[..], [ServerMessage::Welcome(_)]));
}

#[test]
fn a_greeting_that_never_rests_ends_the_connection_and_it_may_come_back() {
    let mut session = greeted();
    let mut said = 1;
    while session.closing().is_none() {
        session.handle_refused(&Refusal::new(ErrorCode::RateLimited, "not now"));
        assert!(matches!(hear(&mut session)[..], [ServerMessage::Error(_)]), "each is answered");
        say(&mut session, json!({"type": "hello", "version": 1}));
        said += u32::from(session.poll_action().is_some());
    }
    let close = session.closing().expect("closing");
    assert_eq!((close.code, close.retry_after, said), (4004, Some(1_000), 32));
}

#[test]
fn without_a_valid_token_the_connection_closes() {
    let mut session = greeted();
    session.handle_refused(&Refusal::new(ErrorCode::Unauthorized, "no token"));
    let heard = hear(&mut session);
    assert!(matches!(&heard[..], [ServerMessage::Error(e)] if e.code == ErrorCode::Unauthorized));
    assert_eq!(session.closing().map(|close| close.code), Some(4501));
}

/// A resumed session whose one room has to be fetched again, and the request for that.
fn resetting() -> (ServerSession<Quiet>, Slot) {
    let mut session = greeted();
    let slot = Slot { index: 0, generation: 0 };
    let room = RoomName::parse("r").expect("a name");
    let listed = OpenedRoom { slot, room, log: Quiet, seq: PerLane::default() };
    session.handle_opened(&settings(), opened(Some(vec![listed])));
    let Some(Action::Request(request)) = session.poll_action() else { panic!("a request") };
    assert!(matches!(request.op, Op::Snapshot { .. }));
    (session, slot)
}

#[test]
fn a_reset_that_cannot_be_had_closes_the_connection_so_that_the_client_comes_back() {
    let (mut session, slot) = resetting();
    let refusal = Refusal::new(ErrorCode::Unavailable, "not now");
    let outcome = Outcome::Refused { about: About::Snapshot, refusal, at: 0 };
    session.handle_reply(Reply { slot, outcome });
    assert_eq!(session.closing().map(|close| close.code), Some(4003));
}

#[test]
fn a_reset_does_not_let_a_second_request_on_its_way() {
    let (mut session, slot) = resetting();
    say(&mut session, json!({"type": "members", "id": 1, "room": "r"}));
    assert!(!session.wants_input());
    let positions = Positions { epoch: Quiet.epoch(), signal: 0, bulk: 0 };
    let snapshot = Snapshot { positions, seq: PerLane::default(), members: Vec::new() };
    let outcome = Outcome::Refused {
        about: About::Send { lane: LogLane::Bulk, seq: 1 },
        refusal: Refusal::NOT_A_MEMBER,
        at: 0,
    };
    session.handle_reply(Reply { slot, outcome });
    assert!(!session.wants_input());
    let outcome = Outcome::Members { id: 1, snapshot };
    session.handle_reply(Reply { slot, outcome });
    assert!(session.wants_input());
}

#[test]
fn an_answer_to_a_place_that_has_been_given_away_is_dropped() {
    let mut session = greeted();
    session.handle_opened(&settings(), opened(None));
    say(&mut session, json!({"type": "join", "id": 1, "room": "r"}));
    let Some(Action::Request(request)) = session.poll_action() else { panic!("a request") };
    hear(&mut session);
    let stale = Slot { generation: request.slot.generation + 7, ..request.slot };
    let outcome = Outcome::Updated { id: 1, at: 0 };
    session.handle_reply(Reply { slot: stale, outcome });
    assert_eq!(hear(&mut session), Vec::new());
    let refusal = Refusal::new(ErrorCode::Unavailable, "not now");
    let outcome = Outcome::Refused { about: About::Join { id: 1 }, refusal, at: 0 };
    session.handle_reply(Reply { slot: request.slot, outcome });
    let heard = hear(&mut session);
    assert!(matches!(
        &heard[..],
        [ServerMessage::Error(error)]
            if error.reference.id == Some(1) && error.retry_after.is_some()
    ));
    assert!(session.wants_input());
}

/// A member of a room in which nothing has happened, whose `leave` is with the room.
fn leaving() -> (ServerSession<Quiet>, Slot) {
    let mut session = greeted();
    session.handle_opened(&settings(), opened(None));
    say(&mut session, json!({"type": "join", "id": 1, "room": "r"}));
    let Some(Action::Request(request)) = session.poll_action() else { panic!("a request") };
    let slot = request.slot;
    let positions = Positions { epoch: Quiet.epoch(), signal: 0, bulk: 0 };
    let snapshot = Snapshot { positions, seq: PerLane::default(), members: Vec::new() };
    session.handle_reply(Reply {
        slot,
        outcome: Outcome::Joined { id: 1, snapshot, start: Some(Quiet) },
    });
    hear(&mut session);
    say(&mut session, json!({"type": "leave", "id": 2, "room": "r"}));
    assert!(matches!(session.poll_action(), Some(Action::Request(_))));
    (session, slot)
}

#[test]
fn a_send_refused_behind_the_end_of_a_membership_is_answered_and_the_place_given_back() {
    let (mut session, slot) = leaving();
    session.handle_reply(Reply { slot, outcome: Outcome::Left { id: 2, at: PerLane::default() } });
    // It was in the bulk mailbox when the room took the `leave`; others have sent since.
    let outcome = Outcome::Refused {
        about: About::Send { lane: LogLane::Bulk, seq: 1 },
        refusal: Refusal::NOT_A_MEMBER,
        at: 5,
    };
    session.handle_reply(Reply { slot, outcome });
    let heard = hear(&mut session);
    assert!(
        heard.iter().any(|m| matches!(m, ServerMessage::Error(e) if e.reference.seq == Some(1)))
    );
    assert!(matches!(session.poll_action(), Some(Action::Forget(free)) if free == slot));
    say(&mut session, json!({"type": "join", "id": 3, "room": "r"}));
    assert!(matches!(session.poll_action(), Some(Action::Request(_))));
}

#[test]
fn a_snapshot_refused_because_the_room_was_left_ends_nothing() {
    let (mut session, slot) = leaving();
    session.handle_reply(Reply { slot, outcome: Outcome::Left { id: 2, at: PerLane::default() } });
    let refusal = Refusal::NOT_A_MEMBER;
    let outcome = Outcome::Refused { about: About::Snapshot, refusal, at: 0 };
    session.handle_reply(Reply { slot, outcome });
    assert_eq!(session.closing(), None);
}

#[test]
fn news_of_rooms_before_the_session_is_open_is_nothing_to_send() {
    let mut session = greeted();
    session.handle_news(PerLane { signal: 1, bulk: 1 });
    let refusal = Refusal::new(ErrorCode::Unavailable, "not now");
    session.handle_refused(&refusal);
    session.handle_news(PerLane { signal: 1, bulk: 1 });
    hear(&mut session);
    assert!(LogLane::ALL.into_iter().all(|lane| !session.may_transmit(lane)));
}
