//! What is too large, in the wrong place, or not a request at all.

use handover_protocol::session::server::Streams;
use handover_protocol::wire::{Codec, Lane};
use serde_json::{Value, json};

use crate::bench::{Bench, assert_heard};

/// A JSON text of so many bytes.
fn text_of(bytes: usize) -> Value {
    Value::String("x".repeat(bytes - 2))
}

fn object_of(bytes: usize) -> Value {
    json!({"k": "x".repeat(bytes - 8)})
}

#[test]
fn metadata_is_bounded() {
    let mut bench = Bench::default();
    let ann = bench.greeted(Codec::Json, Streams::One);
    for (bytes, refused) in [(4_096, false), (4_097, true)] {
        let metadata = object_of(bytes);
        assert_eq!(metadata.to_string().len(), bytes);
        let room = format!("r{bytes}");
        bench.say(&ann, json!({"type": "join", "id": 1, "room": room, "metadata": metadata}));
        let heard = bench.hear_on(&ann, Lane::Signal);
        let too_large = json!([{"type": "error", "id": 1, "code": "too_large"}]);
        assert_heard(&heard, if refused { too_large } else { json!([{"type": "joined"}]) });
    }
    let update =
        |bytes| json!({"type": "update", "id": 2, "room": "r4096", "metadata": object_of(bytes)});
    bench.say(&ann, update(4_097));
    bench.say(&ann, update(4_096));
    assert_heard(
        &bench.hear_on(&ann, Lane::Signal),
        json!([
            {"type": "error", "id": 2, "code": "too_large"},
            {"type": "ok", "id": 2},
        ]),
    );
}

#[test]
fn ephemeral_bodies_are_bounded() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob]);
    let message = |bytes| json!({"type": "ephemeral", "room": "r", "body": text_of(bytes)});
    bench.say(&ann, message(801));
    assert_heard(&bench.hear(&ann), json!([{"type": "error", "room": "r", "code": "too_large"}]));
    bench.say(&ann, message(800));
    assert_heard(&bench.hear(&ann), json!([]));
    let heard = bench.hear_on(&bob, Lane::Ephemeral);
    assert_heard(&heard, json!([{"type": "ephemeral", "room": "r", "from": ann.peer}]));
}

#[test]
fn a_message_beyond_the_limit_closes_the_connection() {
    let mut bench = Bench::default();
    let ann = bench.member("r");
    bench.hush(&[&ann]);
    let send = |bytes: usize| {
        let send = |body: &str| {
            format!(r#"{{"type":"send","room":"r","lane":"bulk","seq":1,"body":"{body}"}}"#)
        };
        send(&"x".repeat(bytes - send("").len()))
    };
    bench.say_bytes(&ann, Lane::Signal, send(65_536).as_bytes());
    assert_heard(&bench.hear(&ann), json!([{"type": "accepted"}]));
    bench.say_bytes(&ann, Lane::Signal, send(65_537).as_bytes());
    assert_heard(&bench.hear(&ann), json!([]));
    assert_eq!(bench.closed(&ann), Some(4506));

    let stranger = bench.websocket();
    bench.say_bytes(&stranger, Lane::Signal, send(65_537).as_bytes());
    assert_eq!(bench.closed(&stranger), Some(4506));
}

#[test]
fn room_names_follow_the_rules() {
    let mut bench = Bench::default();
    let ann = bench.greeted(Codec::Json, Streams::One);
    let longest = "ä".repeat(64);
    for (room, code) in [
        ("", Some("bad_request")),
        (" r", Some("bad_request")),
        ("r\n", Some("bad_request")),
        (&"x".repeat(129), Some("too_large")),
        (&longest, None),
        ("inner white space, and ünïcödé", None),
    ] {
        let heard = bench.join(&ann, room);
        match code {
            Some(code) => assert_heard(&heard, json!([{"type": "error", "id": 1, "code": code}])),
            None => assert_eq!(heard[0]["type"], "joined", "{room}"),
        }
    }
    // Compared byte for byte.
    assert_eq!(bench.join(&ann, "a\u{308}")[0]["signal"], 1);
    assert_eq!(bench.join(&ann, "\u{e4}")[0]["signal"], 1);
}

#[test]
fn what_is_wrong_inside_a_message_is_a_bad_request_and_the_connection_stays() {
    let mut bench = Bench::default();
    let ann = bench.member("r");
    bench.hush(&[&ann]);
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    for (message, about) in [
        (r#"{"type":"dance","id":1}"#.to_owned(), json!({"id": 1})),
        (r#"{"type":"join","id":1}"#.to_owned(), json!({"id": 1})),
        (r#"{"type":"join","room":"r"}"#.to_owned(), json!({})),
        (r#"{"type":"join","id":1,"room":7}"#.to_owned(), json!({"id": 1})),
        (r#"{"type":"update","id":1,"room":"r","metadata":[]}"#.to_owned(), json!({"id": 1})),
        (r#"{"type":"ping","id":9007199254740992}"#.to_owned(), json!({})),
        (
            format!(r#"{{"type":"send","room":"r","lane":"bulk","seq":1,"body":{deep}}}"#),
            json!({"room": "r", "lane": "bulk", "seq": 1}),
        ),
        (
            r#"{"type":"send","room":"r","lane":"ephemeral","seq":1,"body":1}"#.to_owned(),
            json!({"room": "r", "seq": 1}),
        ),
        (r#"{"type":"lane","lane":"bulk"}"#.to_owned(), json!({})),
    ] {
        bench.say_bytes(&ann, Lane::Signal, message.as_bytes());
        let heard = bench.hear(&ann);
        assert_heard(&heard, json!([{"type": "error", "code": "bad_request"}]));
        assert_heard(&heard, json!([about]));
        assert_eq!(bench.closed(&ann), None);
    }
    bench.say(&ann, json!({"type": "ping", "id": 2, "unknown": "is ignored"}));
    assert_heard(&bench.hear(&ann), json!([{"type": "pong", "id": 2}]));
}

#[test]
fn on_webtransport_everything_has_its_stream() {
    let send = |lane: &str| json!({"type": "send", "room": "r", "lane": lane, "seq": 1, "body": 1});
    let reference = |lane: &str| json!({"room": "r", "lane": lane, "seq": 1});
    for (lane, message, about) in [
        (Lane::Bulk, send("signal"), reference("signal")),
        (Lane::Signal, send("bulk"), reference("bulk")),
        (Lane::Bulk, json!({"type": "ping", "id": 4}), json!({"id": 4})),
        (Lane::Bulk, json!({"type": "join", "id": 5, "room": "q"}), json!({"id": 5})),
        (Lane::Bulk, json!({"type": "ephemeral", "room": "r", "body": 1}), json!({"room": "r"})),
    ] {
        let mut bench = Bench::default();
        let ann = bench.greeted(Codec::Json, Streams::PerLane);
        bench.join(&ann, "r");
        bench.say_on(&ann, lane, message.clone());
        let heard = bench.hear(&ann);
        assert_heard(&heard, json!([{"type": "error", "code": "bad_request"}]));
        assert_heard(&heard, json!([about]));
        assert_eq!(bench.closed(&ann), None, "{message}");
    }
}

#[test]
fn datagrams_carry_ephemeral_alone_and_are_never_answered() {
    let mut bench = Bench::default();
    let ann = bench.greeted(Codec::Json, Streams::PerLane);
    let bob = bench.member("r");
    bench.join(&ann, "r");
    bench.hush(&[&ann, &bob]);
    for message in [
        json!({"type": "ping", "id": 1}),
        json!({"type": "send", "room": "r", "lane": "signal", "seq": 1, "body": 1}),
        json!({"type": "ephemeral", "room": "elsewhere", "body": 1}),
        json!({"type": "ephemeral", "room": "r", "to": "stranger", "body": 1}),
        json!({"type": "ephemeral", "room": "r", "body": text_of(801)}),
        json!({"type": "dance"}),
    ] {
        bench.say_on(&ann, Lane::Ephemeral, message);
    }
    bench.say_bytes(&ann, Lane::Ephemeral, b"garbage");
    assert_heard(&bench.hear(&ann), json!([]));
    assert_heard(&bench.hear(&bob), json!([]));
    assert_heard(&bench.hear_on(&bob, Lane::Ephemeral), json!([]));
    assert_eq!(bench.closed(&ann), None);
    bench.say_on(&ann, Lane::Ephemeral, json!({"type": "ephemeral", "room": "r", "body": 1}));
    // Without datagrams, the signal stream will do.
    bench.say(&ann, json!({"type": "ephemeral", "room": "r", "body": 2}));
    assert_heard(&bench.hear_on(&bob, Lane::Ephemeral), json!([{"body": 1}, {"body": 2}]));
}

#[test]
fn ephemeral_reaches_who_is_meant_and_nobody_else() {
    let mut bench = Bench::default();
    let (ann, bob, cat) = (bench.member("r"), bench.member("r"), bench.member("r"));
    bench.member("q");
    let everybody = [&ann, &bob, &cat];
    bench.hush(&everybody);
    bench.say(&ann, json!({"type": "ephemeral", "room": "r", "to": bob.peer, "body": 1}));
    bench.say(&ann, json!({"type": "ephemeral", "room": "r", "body": 2}));
    let heard = everybody.map(|client| bench.hear_on(client, Lane::Ephemeral));
    assert_heard(&heard[0], json!([]));
    assert_heard(&heard[1], json!([{"from": ann.peer, "body": 1}, {"body": 2}]));
    assert_heard(&heard[2], json!([{"from": ann.peer, "body": 2}]));

    bench.say(&ann, json!({"type": "ephemeral", "room": "r", "to": "stranger", "body": 3}));
    bench.say(&ann, json!({"type": "ephemeral", "room": "r", "to": ann.peer, "body": 4}));
    assert_heard(
        &bench.hear(&ann),
        json!([
            {"type": "error", "room": "r", "code": "no_such_peer"},
            {"type": "error", "room": "r", "code": "bad_request"},
        ]),
    );
}

#[test]
fn the_newest_ephemeral_messages_win() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    for body in 1..=100 {
        bench.say(&ann, json!({"type": "ephemeral", "room": "r", "body": body}));
    }
    let heard = bench.hear_on(&bob, Lane::Ephemeral);
    let bodies: Vec<_> = heard.iter().filter_map(|message| message["body"].as_u64()).collect();
    assert_eq!(bodies, (37..=100).collect::<Vec<_>>());
}

#[test]
fn ping_ice_and_refresh_are_answered() {
    let mut bench = Bench::default();
    let ann = bench.greeted(Codec::Json, Streams::One);
    bench.say(&ann, json!({"type": "ping", "id": 1}));
    bench.say(&ann, json!({"type": "ice", "id": 2}));
    bench.say(&ann, json!({"type": "refresh", "id": 3, "token": "t"}));
    assert_heard(
        &bench.hear(&ann),
        json!([
            {"type": "pong", "id": 1},
            {"type": "ice", "id": 2, "servers": [{"urls": ["stun:stun.example:3478"]}], "ttl": 600},
            {"type": "ok", "id": 3},
        ]),
    );
}
