//! Members who have to start again in many rooms at once.

use handover_protocol::limits::ANSWER_BYTES_MAX;
use handover_protocol::room::log::Read;
use handover_protocol::session::grant::Pass;
use handover_protocol::session::server::{Action, Opened, OpenedRoom, ServerSession, Streams};
use handover_protocol::session::{Op, Outcome, Reply, RoomLog, Slot};
use handover_protocol::time::Time;
use handover_protocol::wire::frame::Frame;
use handover_protocol::wire::{
    Codec, Epoch, Lane, LogLane, PeerId, PerLane, RoomName, Secret, SessionId,
};
use serde_json::{Value, json};

use crate::bench::{Bench, Client, assert_heard, kinds, settings};

/// What goes out if no room is asked for more meanwhile.
fn held(bench: &mut Bench, client: &Client) -> Vec<Frame> {
    let held = || bench.gateway.poll_transmit(bench.now, client.id, Lane::Signal);
    std::iter::from_fn(held).collect()
}

fn json_of(frame: &Frame) -> Value {
    serde_json::from_slice(&frame.payload()).expect("JSON")
}

#[test]
fn who_does_not_read_is_not_owed_the_members_of_every_room() {
    for outbox_bytes in [ANSWER_BYTES_MAX, 16_384] {
        is_not_owed_the_members_of_every_room(outbox_bytes);
    }
}

fn is_not_owed_the_members_of_every_room(outbox_bytes: usize) {
    const ROOMS: usize = 12;
    const MEMBERS: usize = 24;
    // What they show in each room, and a little for their names.
    const LIST_BYTES: usize = MEMBERS * 4_200;
    let mut bench = Bench::holding(outbox_bytes);
    let mut ann = None;
    for _ in 0..MEMBERS {
        let client = bench.greeted(Codec::Json, Streams::One);
        for room in 0..ROOMS {
            let metadata = json!({"text": "x".repeat(4_000)});
            let join = json!({
                "type": "join", "id": 1, "room": format!("r{room}"), "metadata": metadata,
            });
            bench.say(&client, join);
            held(&mut bench, &client);
        }
        ann = Some(client);
    }
    let ann = ann.expect("somebody came");
    bench.cut(&ann);
    let ann = bench.resume(&ann, json!({}));
    let first = held(&mut bench, &ann);
    let bytes: usize = first.iter().map(Frame::len).sum();
    assert!(bytes > outbox_bytes, "{bytes}: nothing is held back that need not be");
    assert!(bytes <= outbox_bytes + LIST_BYTES, "{bytes}");
    // Who reads is told of every room, and asks of rooms meanwhile.
    let mut heard: Vec<Value> = first.iter().map(json_of).collect();
    bench.say(&ann, json!({"type": "members", "id": 7, "room": "r9"}));
    heard.extend(bench.hear(&ann));
    let resets = heard.iter().filter(|message| message["type"] == "reset");
    let mut rooms: Vec<_> = resets.map(|reset| reset["room"].as_str().expect("text")).collect();
    rooms.sort_unstable();
    rooms.dedup();
    assert_eq!(rooms.len(), ROOMS, "{:?}", kinds(&heard));
    let members = heard.iter().filter(|message| message["type"] == "members").count();
    assert_eq!(members, 1);
}

#[test]
fn a_question_about_a_room_comes_behind_its_new_start() {
    let mut bench = Bench::default();
    let mut ann = bench.greeted(Codec::Json, Streams::One);
    let bob = bench.greeted(Codec::Json, Streams::One);
    for room in ["a", "b", "c"] {
        bench.join(&ann, room);
    }
    bench.cut(&ann);
    ann.id = bench.websocket().id;
    let resume = json!({"session": ann.session, "secret": ann.secret, "rooms": {}});
    bench.put(&ann, Lane::Signal, json!({"type": "hello", "version": 1, "resume": resume}));
    bench.gateway.open(bench.now, ann.id);
    // The new start in `a` is asked for; those in `b` and `c` wait.
    bench.put(&ann, Lane::Signal, json!({"type": "members", "id": 2, "room": "c"}));
    let c = RoomName::parse("c").expect("a name");
    bench.gateway.turn(bench.now, &c);
    bench.put(&bob, Lane::Signal, json!({"type": "join", "id": 3, "room": "c"}));
    bench.gateway.turn(bench.now, &c);
    let heard = bench.hear_on(&ann, Lane::Signal);
    let at = |kind: &str| heard.iter().position(|m| m["type"] == kind && m["room"] == "c");
    let (reset, members) = (at("reset").expect("one"), at("members").expect("an answer"));
    assert!(reset < members, "{heard:?}");
    assert_eq!(heard[reset]["signal"], heard[members]["signal"], "as it was when it was asked");
    assert_eq!(heard.iter().filter(|m| m["type"] == "reset").count(), 3);
}

/// A log with nothing in it.
#[derive(Debug)]
struct Nothing;

impl RoomLog for Nothing {
    fn epoch(&self) -> Epoch {
        Epoch::parse("e").expect("short")
    }

    fn read(&self, _: LogLane, _: u64) -> Read {
        Read::Current
    }
}

/// A store that does not answer owes a room's members; who leaves the room meanwhile needs them no
/// more, and waits for nothing.
#[test]
fn a_room_that_is_left_before_its_new_start_holds_nothing_up() {
    let mut session = ServerSession::<Nothing>::new(Codec::Json, Streams::One);
    let settings = settings();
    let say = |session: &mut ServerSession<Nothing>, message: Value| {
        session.handle_frame(&settings, Lane::Signal, message.to_string().as_bytes());
        session.poll_action()
    };
    let resume = json!({"session": "s", "secret": "x", "rooms": {}});
    let hello = json!({"type": "hello", "version": 1, "resume": resume});
    assert!(matches!(say(&mut session, hello), Some(Action::Open(_))));
    let room = |index: u8| OpenedRoom {
        slot: Slot { index, generation: index.into() },
        room: RoomName::parse(&format!("r{index}")).expect("a name"),
        log: Nothing,
        seq: PerLane::default(),
    };
    let opened = Opened {
        session: SessionId::parse("s").expect("short"),
        secret: Secret::new("x".into()),
        peer: PeerId::parse("p").expect("short"),
        user: None,
        pass: Pass {
            grant: handover_protocol::session::grant::Grant::everything().into(),
            term: None,
        },
        resumed: Some(vec![room(0), room(1)]),
    };
    session.handle_opened(&crate::bench::settings(), opened);
    let asked = |action: Option<Action>| match action {
        Some(Action::Request(request)) => (request.slot.index, request.op),
        other => panic!("{other:?}"),
    };
    assert!(matches!(asked(session.poll_action()), (0, Op::Snapshot { .. })));
    assert!(session.poll_action().is_none(), "one after the other");
    let leave = say(&mut session, json!({"type": "leave", "id": 5, "room": "r0"}));
    assert!(matches!(asked(leave), (0, Op::Leave { id: 5 })));
    let slot = Slot { index: 0, generation: 0 };
    let outcome = Outcome::Left { id: 5, at: PerLane { signal: 3, bulk: 0 } };
    session.handle_reply(Reply { slot, outcome });
    let told = std::iter::from_fn(|| session.poll_transmit(Time::ZERO, LogLane::Signal));
    let told: Vec<Value> = told.map(|frame| json_of(&frame)).collect();
    assert_heard(&told, json!([{"type": "welcome"}, {"type": "ok", "id": 5}]));
    assert!(matches!(session.poll_action(), Some(Action::Forget(forgotten)) if forgotten == slot));
    assert!(matches!(asked(session.poll_action()), (1, Op::Snapshot { .. })));
}
