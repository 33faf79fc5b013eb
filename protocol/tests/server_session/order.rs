//! What comes before what, and who sees it at all.

use std::time::Duration;

use handover_protocol::session::server::Streams;
use handover_protocol::wire::{Codec, Lane};
use serde_json::{Value, json};

use crate::bench::{Bench, assert_heard, kinds};

#[test]
fn joined_comes_before_anything_of_the_room() {
    let mut bench = Bench::default();
    let ann = bench.member("r");
    let bob = bench.greeted(Codec::Json, Streams::One);
    bench.say(&bob, json!({"type": "join", "id": 1, "room": "r"}));
    bench.send(&ann, "r", "signal", 1, json!("hi"));
    let heard = bench.hear_on(&bob, Lane::Signal);
    assert_heard(
        &heard,
        json!([{"type": "joined", "signal": 2}, {"type": "message", "offset": 3}]),
    );
}

#[test]
fn the_start_on_the_bulk_lane_is_marked_before_anything_else() {
    for streams in [Streams::One, Streams::PerLane] {
        let mut bench = Bench::default();
        let ann = bench.member("r");
        bench.send(&ann, "r", "bulk", 1, json!("before"));
        let bob = bench.greeted(Codec::Json, streams);
        bench.say(&bob, json!({"type": "join", "id": 1, "room": "r"}));
        bench.send(&ann, "r", "bulk", 2, json!("after"));
        let lane = if streams == Streams::One { Lane::Signal } else { Lane::Bulk };
        let send = json!({"type": "send", "room": "r", "lane": "bulk", "seq": 4, "body": 1});
        bench.say_on(&bob, lane, send);
        let bulk = bench.hear_on(&bob, Lane::Bulk);
        let signal = bench.hear_on(&bob, Lane::Signal);
        assert_heard(&signal, json!([{"type": "joined", "bulk": 1}]));
        assert_heard(
            &bulk,
            json!([
                {"type": "position", "lane": "bulk", "start": true, "offset": 1,
                 "epoch": signal[0]["epoch"]},
                {"type": "message", "lane": "bulk", "body": "after", "offset": 2},
                {"type": "error", "code": "seq_gap", "seq": 4},
            ]),
        );
    }
}

#[test]
fn what_is_appended_before_an_answer_is_seen_comes_behind_it() {
    let message = json!({"type": "message", "body": "before"});
    let after = json!({"type": "message", "body": "after"});
    for (request, expected) in [
        ("members", json!([message, {"type": "members", "signal": 3}, after])),
        ("join", json!([message, {"type": "joined", "signal": 3}, after])),
        ("leave", json!([message, {"type": "ok"}])),
    ] {
        let mut bench = Bench::default();
        let (ann, bob) = (bench.member("r"), bench.member("r"));
        bench.hush(&[&ann, &bob]);
        // Seen, and not sent yet: from now on the log is read as it grows.
        bench.send(&ann, "r", "signal", 1, json!("before"));
        bench.say_unseen(&bob, json!({"type": request, "id": 2, "room": "r"}));
        let after =
            json!({"type": "send", "room": "r", "lane": "signal", "seq": 2, "body": "after"});
        bench.say_unseen(&ann, after);
        assert_eq!(bench.sent_unseen(&bob), 0, "{request}");
        assert_heard(&bench.hear(&bob), expected);
    }
}

#[test]
fn answers_come_behind_the_entries_before_them() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob]);
    bench.send(&ann, "r", "signal", 1, json!(1));
    bench.say(&bob, json!({"type": "update", "id": 2, "room": "r", "metadata": {}}));
    bench.send(&ann, "r", "signal", 2, json!(2));
    bench.say(&bob, json!({"type": "members", "id": 3, "room": "r"}));
    bench.send(&ann, "r", "signal", 3, json!(3));
    bench.send(&bob, "r", "signal", 5, json!("a gap"));
    bench.send(&ann, "r", "signal", 4, json!(4));
    assert_heard(
        &bench.hear(&bob),
        json!([
            {"type": "message", "offset": 3},
            {"type": "ok", "id": 2},
            {"type": "message", "offset": 5},
            {"type": "members", "id": 3, "signal": 5},
            {"type": "message", "offset": 6},
            {"type": "error", "code": "seq_gap", "expected": 1},
            {"type": "message", "offset": 7},
        ]),
    );
}

#[test]
fn accepted_stands_where_the_entry_would() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob]);
    for seq in 1..=2 {
        bench.send(&ann, "r", "bulk", seq, json!("from ann"));
        bench.send(&bob, "r", "bulk", seq, json!("from bob"));
    }
    assert_heard(
        &bench.hear(&bob),
        json!([
            {"type": "message", "offset": 1},
            {"type": "accepted", "seq": 1, "offset": 2},
            {"type": "message", "offset": 3},
            {"type": "accepted", "seq": 2, "offset": 4},
        ]),
    );
    bench.send(&ann, "r", "bulk", 3, json!(1));
    assert_heard(
        &bench.hear(&ann),
        json!([
            {"type": "accepted", "room": "r", "lane": "bulk", "seq": 1, "offset": 1},
            {"type": "message", "offset": 2},
            {"type": "accepted", "seq": 2, "offset": 3},
            {"type": "message", "offset": 4},
            {"type": "accepted", "seq": 3, "offset": 5},
        ]),
    );
}

#[test]
fn accepted_is_cumulative_for_a_run() {
    let mut bench = Bench::default();
    let ann = bench.member("r");
    bench.hush(&[&ann]);
    for seq in 1..=5 {
        bench.send(&ann, "r", "signal", seq, json!(seq));
    }
    let heard = bench.hear(&ann);
    assert_heard(&heard, json!([{"type": "accepted", "seq": 5, "offset": 6}]));
}

#[test]
fn ones_own_entries_never_come_as_events() {
    let mut bench = Bench::default();
    let ann = bench.member("r");
    bench.hush(&[&ann]);
    bench.send(&ann, "r", "signal", 1, json!(1));
    bench.say(&ann, json!({"type": "update", "id": 2, "room": "r", "metadata": {}}));
    bench.send(&ann, "r", "bulk", 1, json!(1));
    bench.say(&ann, json!({"type": "leave", "id": 3, "room": "r"}));
    bench.say(&ann, json!({"type": "join", "id": 4, "room": "r"}));
    let mut heard = bench.hear_on(&ann, Lane::Signal);
    assert_eq!(kinds(&heard), ["accepted", "ok", "ok", "joined"]);
    heard = bench.hear_on(&ann, Lane::Bulk);
    heard.retain(|message| message["start"] != true && message["type"] != "accepted");
    assert_heard(&heard, json!([]));
}

fn directed(room: &str, to: &str, seq: u64) -> Value {
    json!({"type": "send", "room": room, "lane": "signal", "seq": seq, "to": to, "body": seq})
}

#[test]
fn a_directed_entry_is_seen_by_two() {
    let mut bench = Bench::default();
    let (ann, bob, cat) = (bench.member("r"), bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob, &cat]);
    bench.say(&ann, directed("r", &bob.peer, 1));
    bench.send(&ann, "r", "signal", 2, json!("to all"));
    assert_heard(
        &bench.hear(&bob),
        json!([
            {"type": "message", "from": ann.peer, "to": bob.peer, "offset": 4},
            {"type": "message", "from": ann.peer, "offset": 5},
        ]),
    );
    let heard = bench.hear(&cat);
    assert_heard(&heard, json!([{"type": "message", "body": "to all", "offset": 5}]));
    assert_eq!(heard[0].get("to"), None);
    assert_heard(&bench.hear(&ann), json!([{"type": "accepted", "seq": 2, "offset": 5}]));
}

#[test]
fn position_carries_others_past_directed_entries_every_64() {
    let mut bench = Bench::default();
    let (ann, bob, cat) = (bench.member("r"), bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob, &cat]);
    for seq in 1..=200 {
        bench.say(&ann, directed("r", &bob.peer, seq));
    }
    assert_heard(
        &bench.hear(&cat),
        json!([
            {"type": "position", "room": "r", "lane": "signal", "offset": 67},
            {"type": "position", "offset": 131},
            {"type": "position", "offset": 195},
        ]),
    );
}

#[test]
fn position_comes_as_often_behind_a_send_of_ones_own() {
    let mut bench = Bench::default();
    let (ann, bob, cat) = (bench.member("r"), bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob, &cat]);
    bench.send(&cat, "r", "signal", 1, json!("own"));
    for seq in 1..=130 {
        bench.say(&ann, directed("r", &bob.peer, seq));
    }
    assert_heard(
        &bench.hear(&cat),
        json!([
            {"type": "accepted", "offset": 4},
            {"type": "position", "offset": 68},
            {"type": "position", "offset": 132},
        ]),
    );
}

#[test]
fn position_comes_after_five_seconds_at_the_latest() {
    let mut bench = Bench::default();
    let (ann, bob, cat) = (bench.member("r"), bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob, &cat]);
    bench.say(&ann, directed("r", &bob.peer, 1));
    assert_heard(&bench.hear(&cat), json!([]));
    bench.wait(Duration::from_millis(4_999));
    assert_heard(&bench.hear(&cat), json!([]));
    bench.wait(Duration::from_millis(1));
    assert_heard(&bench.hear(&cat), json!([{"type": "position", "lane": "signal", "offset": 4}]));
    bench.wait(Duration::from_secs(6));
    assert_heard(&bench.hear(&cat), json!([]));
}

#[test]
fn lanes_do_not_wait_for_each_other() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob]);
    bench.send(&ann, "r", "bulk", 1, json!("large"));
    bench.send(&ann, "r", "signal", 1, json!("urgent"));
    assert_heard(
        &bench.hear_on(&bob, Lane::Signal),
        json!([{"type": "message", "body": "urgent"}]),
    );
    assert_heard(&bench.hear_on(&bob, Lane::Bulk), json!([{"type": "message", "body": "large"}]));
}

#[test]
fn a_body_is_forwarded_as_it_was_written() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob]);
    let body = r#"{ "b":1.0, "a" : [1e999, "\ud800", 0.10],"b":2 }"#;
    let send = format!(r#"{{"type":"send","seq":1,"body":{body},"lane":"signal","room":"r"}}"#);
    bench.say_bytes(&ann, Lane::Signal, send.as_bytes());
    let frame = bench.gateway.poll_transmit(bench.now, bob.id, Lane::Signal).expect("a message");
    let text = String::from_utf8(frame.payload().to_vec()).expect("text");
    assert!(text.contains(body), "{text}");
}
