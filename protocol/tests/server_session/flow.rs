//! Who has to wait for whom.

use handover_protocol::session::server::Streams;
use handover_protocol::wire::{Codec, Lane};
use serde_json::json;

use crate::bench::{Bench, assert_heard, kinds};

#[test]
fn rooms_take_turns() {
    for (name, lane) in [("signal", Lane::Signal), ("bulk", Lane::Bulk)] {
        let mut bench = Bench::default();
        let ann = bench.member("busy");
        bench.join(&ann, "quiet");
        bench.join(&ann, "medium");
        let bob = bench.greeted(Codec::Json, Streams::One);
        for room in ["busy", "medium", "quiet"] {
            bench.join(&bob, room);
        }
        bench.hush(&[&ann, &bob]);
        for seq in 1..=100 {
            bench.send(&ann, "busy", name, seq, json!(1));
        }
        for seq in 1..=10 {
            bench.send(&ann, "medium", name, seq, json!(1));
        }
        bench.send(&ann, "quiet", name, 1, json!(1));
        let heard = bench.hear_on(&bob, lane);
        assert_eq!(heard.len(), 111);
        let last = |room: &str| heard.iter().rposition(|m| m["room"] == room).expect("some");
        assert!(last("quiet") < 3, "{name}: {}", last("quiet"));
        assert!(last("medium") < 21, "{name}: {}", last("medium"));
    }
}

#[test]
fn a_peer_that_asks_and_does_not_read_is_not_read_either() {
    let mut bench = Bench::default();
    let ann = bench.greeted(Codec::Json, Streams::One);
    let mut asked = 0_u64;
    while bench.gateway.wants_input(ann.id) {
        asked += 1;
        bench.say(&ann, json!({"type": "ping", "id": asked}));
        assert!(asked < 100_000, "answers pile up without a bound");
    }
    // Only what reading frees is asked for again, and no answer is missing.
    let mut heard = 0;
    while let Some(pong) = bench.hear_one(&ann, Lane::Signal) {
        heard += 1;
        assert_eq!(pong["id"], heard);
    }
    assert_eq!(heard, asked);
    assert!(bench.gateway.wants_input(ann.id));
}

#[test]
fn answers_held_for_their_place_count_as_well() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob]);
    bench.send(&ann, "r", "signal", 1, json!("something to be behind"));
    let mut asked = 0_u64;
    while bench.gateway.wants_input(bob.id) {
        asked += 1;
        bench.say(&bob, json!({"type": "members", "id": asked, "room": "r"}));
        assert!(asked < 100_000, "answers pile up without a bound");
    }
    let heard = bench.hear(&bob);
    assert_eq!(heard.len() as u64, asked + 1);
    assert!(bench.gateway.wants_input(bob.id));
}

#[test]
fn one_request_on_rooms_is_under_way_at_a_time_and_sends_are_not_counted() {
    let mut bench = Bench::default();
    let ann = bench.member("r");
    bench.hush(&[&ann]);
    let send = json!({"type": "send", "room": "r", "lane": "bulk", "seq": 1, "body": 1});
    bench.put(&ann, Lane::Signal, send);
    assert!(bench.gateway.wants_input(ann.id));
    bench.put(&ann, Lane::Signal, json!({"type": "leave", "id": 1, "room": "r"}));
    assert!(!bench.gateway.wants_input(ann.id));
    bench.gateway.run(bench.now);
    assert!(bench.gateway.wants_input(ann.id));
    // What was sent before leaving was sent by a member.
    let heard = bench.hear_on(&ann, Lane::Bulk);
    assert_heard(&heard, json!([{"type": "accepted", "seq": 1}]));
}

#[test]
fn a_reader_that_lags_holds_nothing_and_loses_nothing() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob]);
    for seq in 1..=900 {
        bench.send(&ann, "r", "bulk", seq, json!(seq));
    }
    assert!(bench.gateway.wants_input(bob.id), "entries are not answers");
    let heard = bench.hear(&bob);
    assert_eq!(heard.len(), 900);
    assert!(heard.iter().zip(1..).all(|(message, seq)| message["body"] == seq));
}

#[test]
fn nothing_is_read_from_a_connection_that_is_closing() {
    let mut bench = Bench::default();
    let ann = bench.member("r");
    bench.hush(&[&ann]);
    bench.say(&ann, json!({"type": "bye"}));
    assert!(!bench.gateway.wants_input(ann.id));
    bench.say(&ann, json!({"type": "ping", "id": 1}));
    assert_eq!(kinds(&bench.hear(&ann)), Vec::<&str>::new());
}
