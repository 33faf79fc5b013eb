//! The sender's counter.

use handover_protocol::session::server::Streams;
use handover_protocol::wire::{Codec, Lane};
use serde_json::json;

use crate::bench::{Bench, assert_heard};

#[test]
fn a_gap_is_answered_with_what_is_expected() {
    let mut bench = Bench::default();
    let ann = bench.member("r");
    bench.hush(&[&ann]);
    bench.send(&ann, "r", "signal", 2, json!(1));
    bench.send(&ann, "r", "signal", 1, json!(1));
    bench.send(&ann, "r", "signal", 9, json!(1));
    assert_heard(
        &bench.hear(&ann),
        json!([
            {"type": "error", "code": "seq_gap", "room": "r", "lane": "signal", "seq": 2,
             "expected": 1},
            {"type": "accepted", "seq": 1},
            {"type": "error", "code": "seq_gap", "seq": 9, "expected": 2},
        ]),
    );
}

#[test]
fn a_repeated_seq_is_answered_with_the_highest_applied() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    bench.send(&ann, "r", "bulk", 1, json!("once"));
    bench.send(&ann, "r", "bulk", 2, json!("twice?"));
    bench.hush(&[&ann, &bob]);
    bench.send(&ann, "r", "bulk", 1, json!("once"));
    assert_heard(&bench.hear(&ann), json!([{"type": "accepted", "seq": 2, "offset": 2}]));
    assert_heard(&bench.hear(&bob), json!([]));
}

#[test]
fn a_repeat_before_the_first_was_answered_is_answered_once_in_order() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob]);
    bench.send(&bob, "r", "signal", 1, json!("first"));
    bench.send(&ann, "r", "signal", 1, json!("once"));
    bench.send(&ann, "r", "signal", 1, json!("once"));
    assert_heard(
        &bench.hear(&ann),
        json!([
            {"type": "message", "body": "first", "offset": 3},
            {"type": "accepted", "seq": 1, "offset": 4},
        ]),
    );
}

#[test]
fn a_refused_send_does_not_use_its_seq() {
    let mut bench = Bench::default();
    let ann = bench.member("r");
    bench.hush(&[&ann]);
    let send = |to: &str, seq: u64| json!({"type": "send", "room": "r", "lane": "bulk", "seq": seq, "to": to, "body": 1});
    bench.say(&ann, send("stranger", 1));
    bench.say(&ann, send(&ann.peer, 1));
    bench.say(&ann, send("no name!", 1));
    bench.send(&ann, "r", "bulk", 2, json!(1));
    bench.send(&ann, "r", "bulk", 1, json!(1));
    let refused = |code: &str, seq: u64| json!({"type": "error", "code": code, "room": "r", "lane": "bulk", "seq": seq});
    let mut heard = bench.hear(&ann);
    heard.sort_by_key(|message| message["type"] == "accepted");
    assert_eq!(heard.len(), 5);
    assert!(heard.contains(&heard[0]));
    let codes: Vec<_> = heard.iter().filter_map(|message| message["code"].as_str()).collect();
    assert_eq!(codes.iter().filter(|code| **code == "no_such_peer").count(), 2);
    for (index, code) in codes.iter().enumerate() {
        let seq = if *code == "seq_gap" { 2 } else { 1 };
        assert_heard(&heard[index..=index], json!([refused(code, seq)]));
    }
    assert!(codes.contains(&"bad_request") && codes.contains(&"seq_gap"));
    assert_heard(&heard[4..], json!([{"type": "accepted", "seq": 1}]));
}

#[test]
fn a_repeat_is_accepted_although_its_addressee_has_left() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    let send =
        json!({"type": "send", "room": "r", "lane": "signal", "seq": 1, "to": bob.peer, "body": 1});
    bench.say(&ann, send.clone());
    bench.say(&bob, json!({"type": "leave", "id": 2, "room": "r"}));
    bench.hush(&[&ann, &bob]);
    bench.say(&ann, send);
    assert_heard(&bench.hear(&ann), json!([{"type": "accepted", "seq": 1, "offset": 3}]));
}

#[test]
fn each_room_and_lane_counts_for_itself() {
    let mut bench = Bench::default();
    let ann = bench.member("a");
    bench.join(&ann, "b");
    bench.hush(&[&ann]);
    for (room, lane) in [("a", "signal"), ("a", "bulk"), ("b", "signal"), ("b", "bulk")] {
        bench.send(&ann, room, lane, 1, json!(1));
        assert_heard(
            &bench.hear(&ann),
            json!([
                {"type": "accepted", "room": room, "lane": lane, "seq": 1},
            ]),
        );
    }
}

#[test]
fn errors_of_sends_come_on_the_stream_of_their_lane() {
    let mut bench = Bench::default();
    let ann = bench.greeted(Codec::Json, Streams::PerLane);
    bench.join(&ann, "r");
    for (lane, name) in [(Lane::Signal, "signal"), (Lane::Bulk, "bulk")] {
        for send in [
            json!({"type": "send", "room": "r", "lane": name, "seq": 7, "body": 1}),
            json!({"type": "send", "room": "r", "lane": name, "seq": 1, "to": ann.peer, "body": 1}),
            json!({"type": "send", "room": "elsewhere", "lane": name, "seq": 1, "body": 1}),
            json!({"type": "send", "room": "r", "lane": name, "seq": 1}),
        ] {
            bench.say_on(&ann, lane, send);
        }
        let error = json!({"type": "error", "lane": name});
        let mut heard = bench.hear_on(&ann, lane);
        heard.retain(|message| message["start"] != true);
        assert_heard(&heard, json!([error, error, error, error]));
        let other = if lane == Lane::Signal { Lane::Bulk } else { Lane::Signal };
        assert_heard(&bench.hear_on(&ann, other), json!([]));
    }
}
