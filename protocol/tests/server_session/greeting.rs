//! How a connection begins.

use handover_protocol::session::server::Streams;
use handover_protocol::wire::message::{ClientMessage, Hello, Positions, Resume};
use handover_protocol::wire::{Codec, Epoch, Lane, RoomName, Secret, SessionId};
use serde_json::json;

use crate::bench::{Bench, assert_heard, kinds};

#[test]
fn a_first_message_other_than_hello_closes_the_connection() {
    for first in [
        json!({"type": "join", "id": 1, "room": "r"}),
        json!({"type": "ping", "id": 1}),
        json!({"type": "bye"}),
        json!({"type": "lane", "lane": "bulk"}),
    ] {
        for codec in Codec::ALL {
            let mut bench = Bench::default();
            let client = bench.connect(codec, Streams::One);
            bench.say(&client, first.clone());
            assert_eq!(bench.hear(&client), Vec::<serde_json::Value>::new(), "{first}");
            assert_eq!(bench.closed(&client), Some(4502), "{first}");
        }
    }
}

#[test]
fn it_does_so_also_if_it_is_malformed_otherwise() {
    for first in [r#"{"type":"join"}"#, r#"{"type":"hullo"}"#, r#"{"type":7}"#, "{}"] {
        let mut bench = Bench::default();
        let client = bench.websocket();
        bench.say_bytes(&client, Lane::Signal, first.as_bytes());
        assert_heard(&bench.hear(&client), json!([]));
        assert_eq!(bench.closed(&client), Some(4502), "{first}");
    }
    // In bincode: an unknown number, and a `join` whose room has no name.
    for first in [&[99][..], &[2, 1, 0, 0]] {
        let mut bench = Bench::default();
        let client = bench.connect(Codec::Bincode, Streams::One);
        bench.say_bytes(&client, Lane::Signal, first);
        assert_heard(&bench.hear(&client), json!([]));
        assert_eq!(bench.closed(&client), Some(4502), "{first:?}");
    }
}

#[test]
fn what_cannot_be_parsed_closes_the_connection_before_and_after_hello() {
    for garbage in [&b"{\"type\":"[..], b"[]", b"\xff", b""] {
        let mut bench = Bench::default();
        let client = bench.websocket();
        bench.say_bytes(&client, Lane::Signal, garbage);
        assert_eq!(bench.closed(&client), Some(4502), "{garbage:?}");

        let client = bench.greeted(Codec::Json, Streams::One);
        bench.say_bytes(&client, Lane::Signal, garbage);
        assert_eq!(bench.closed(&client), Some(4502), "{garbage:?}");
    }
}

#[test]
fn a_resume_names_no_more_rooms_than_a_session_may_be_in() {
    for codec in Codec::ALL {
        let mut bench = Bench::default();
        let ann = bench.member("r");
        let rooms = |count: usize| {
            let at = json!({"epoch": "e", "signal": 1, "bulk": 0});
            let named = (0..count).map(|n| (format!("room {n}"), at.clone()));
            serde_json::Value::Object(named.collect())
        };
        let again = bench.resume_on(&ann, codec, Streams::One, rooms(64));
        let welcome = bench.hear(&again).swap_remove(0);
        assert_eq!(welcome["lost"].as_array().map(Vec::len), Some(64), "{welcome}");
        let client = bench.connect(codec, Streams::One);
        bench.say_bytes(&client, Lane::Signal, &hello_naming(codec, 65));
        let heard = bench.hear(&client);
        assert_heard(&heard, json!([{"type": "error", "code": "too_large"}]));
        assert_eq!(bench.closed(&client), None, "it may say another one");
    }
}

/// A `hello` that resumes in so many rooms.
fn hello_naming(codec: Codec, rooms: usize) -> Vec<u8> {
    let at = Positions { epoch: Epoch::parse("e").expect("an epoch"), signal: 1, bulk: 0 };
    let name = |n| RoomName::parse(&format!("room {n}")).expect("a name");
    let resume = Resume {
        session: SessionId::parse("s").expect("an id"),
        secret: Secret::new("x".into()),
        rooms: (0..rooms).map(|n| (name(n), at)).collect(),
    };
    let hello = Hello { version: 1, resume: Some(resume), ..Hello::default() };
    codec.encode_client(&ClientMessage::Hello(hello)).payload().to_vec()
}

#[test]
fn hello_on_the_bulk_stream_is_not_a_greeting() {
    let mut bench = Bench::default();
    let client = bench.connect(Codec::Json, Streams::PerLane);
    bench.say_on(&client, Lane::Bulk, json!({"type": "hello", "version": 1}));
    assert_eq!(bench.closed(&client), Some(4502));
}

#[test]
fn a_datagram_before_hello_changes_nothing() {
    let mut bench = Bench::default();
    let client = bench.connect(Codec::Json, Streams::PerLane);
    bench.say_bytes(&client, Lane::Ephemeral, b"garbage");
    bench.say_bytes(&client, Lane::Ephemeral, br#"{"type":"hello","version":1}"#);
    bench.say_on(&client, Lane::Ephemeral, json!({"type": "ephemeral", "room": "r", "body": 1}));
    assert_eq!(bench.closed(&client), None);
    bench.say(&client, json!({"type": "hello", "version": 1}));
    assert_eq!(kinds(&bench.hear(&client)), ["welcome"]);
}

#[test]
fn welcome_says_who_one_is_and_what_holds() {
    let mut bench = Bench::default();
    let client = bench.websocket();
    bench.say(&client, json!({"type": "hello", "version": 1, "agent": "test/1"}));
    let heard = bench.hear(&client);
    assert_heard(
        &heard,
        json!([{
            "type": "welcome", "user": null, "resumed": false, "rooms": {}, "lost": [],
            "heartbeat": 15_000, "resume_window": 120_000,
            "limits": {
                "message_bytes": 65_536, "metadata_bytes": 4_096, "ephemeral_bytes": 800,
                "room_bytes": 128, "rooms": 64,
            },
        }]),
    );
    for name in ["session", "secret", "peer"] {
        assert!(heard[0][name].as_str().is_some_and(|text| !text.is_empty()), "{name}");
    }
}

#[test]
fn requests_behind_hello_are_answered_behind_welcome() {
    let mut bench = Bench::default();
    let client = bench.websocket();
    // A transport holds back what the session does not want yet.
    bench.put(&client, Lane::Signal, json!({"type": "hello", "version": 1}));
    assert!(!bench.gateway.wants_input(client.id));
    bench.gateway.run(bench.now);
    assert!(bench.gateway.wants_input(client.id));
    bench.say(&client, json!({"type": "join", "id": 7, "room": "r"}));
    bench.say(&client, json!({"type": "ping", "id": 8}));
    let heard = bench.hear_on(&client, Lane::Signal);
    assert_eq!(kinds(&heard), ["welcome", "joined", "pong"]);
}

#[test]
fn another_version_is_refused_and_closes_the_connection() {
    for hello in [
        json!({"type": "hello", "version": 2}),
        json!({"type": "hello", "version": 2, "token": 7, "resume": "of another shape"}),
        json!({"type": "hello", "version": 0}),
    ] {
        let mut bench = Bench::default();
        let client = bench.websocket();
        bench.say(&client, hello);
        let heard = bench.hear(&client);
        assert_heard(&heard, json!([{"type": "error", "code": "unsupported_version"}]));
        assert_eq!(bench.closed(&client), Some(4507));
    }
}

#[test]
fn a_second_hello_closes_the_connection() {
    let mut bench = Bench::default();
    let client = bench.greeted(Codec::Json, Streams::One);
    bench.say(&client, json!({"type": "hello", "version": 1}));
    assert_heard(&bench.hear(&client), json!([]));
    assert_eq!(bench.closed(&client), Some(4502));
}

#[test]
fn after_a_refused_resume_everything_is_ignored_until_the_next_hello() {
    let mut bench = Bench::default();
    let client = bench.websocket();
    let resume = json!({"session": "gone", "secret": "k", "rooms": {}});
    bench.say(&client, json!({"type": "hello", "version": 1, "resume": resume}));
    bench.say(&client, json!({"type": "join", "id": 1, "room": "r"}));
    bench.say(&client, json!({"type": "update", "id": 2}));
    bench.say(&client, json!({"type": "who knows"}));
    assert_heard(&bench.hear(&client), json!([{"type": "error", "code": "session_unknown"}]));
    assert_eq!(bench.closed(&client), None);

    bench.say(&client, json!({"type": "hello", "version": 1}));
    bench.say(&client, json!({"type": "join", "id": 3, "room": "r"}));
    let heard = bench.hear_on(&client, Lane::Signal);
    assert_heard(
        &heard,
        json!([{"type": "welcome", "resumed": false}, {"type": "joined", "id": 3}]),
    );
    let (members, position) = (&heard[1]["members"], &heard[1]["signal"]);
    assert_eq!((members.as_array().map(Vec::len), position.as_u64()), (Some(1), Some(1)));
}

#[test]
fn an_impossible_session_is_as_unknown_as_any() {
    let mut bench = Bench::default();
    let client = bench.websocket();
    let resume = json!({"session": "not a name!", "secret": "k", "rooms": {}});
    bench.say(&client, json!({"type": "hello", "version": 1, "resume": resume}));
    assert_heard(&bench.hear(&client), json!([{"type": "error", "code": "session_unknown"}]));
    bench.say(&client, json!({"type": "hello", "version": 1}));
    assert_eq!(kinds(&bench.hear(&client)), ["welcome"]);
}

#[test]
fn a_malformed_hello_is_refused_and_may_be_followed_by_a_better_one() {
    let mut bench = Bench::default();
    let client = bench.websocket();
    bench.say(&client, json!({"type": "hello"}));
    bench.say(&client, json!({"type": "hello", "version": 1, "resume": 7}));
    let refused = json!({"type": "error", "code": "bad_request"});
    assert_heard(&bench.hear(&client), json!([refused, refused]));
    bench.say(&client, json!({"type": "hello", "version": 1}));
    assert_eq!(kinds(&bench.hear(&client)), ["welcome"]);
}

#[test]
fn the_third_refused_hello_closes_the_connection() {
    let mut bench = Bench::default();
    let client = bench.websocket();
    let resume = json!({"session": "gone", "secret": "k", "rooms": {}});
    bench.say(&client, json!({"type": "hello", "version": 1, "resume": resume}));
    bench.say(&client, json!({"type": "hello"}));
    bench.hear(&client);
    assert_eq!(bench.closed(&client), None);
    bench.say(&client, json!({"type": "hello", "version": 1, "resume": resume}));
    assert_heard(&bench.hear(&client), json!([{"type": "error", "code": "session_unknown"}]));
    assert_eq!(bench.closed(&client), Some(4501));
}
