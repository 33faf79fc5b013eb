//! Joining, leaving, and who is there.

use handover_protocol::session::server::Streams;
use handover_protocol::wire::{Codec, Lane};
use serde_json::json;

use crate::bench::{Bench, assert_heard, kinds};

#[test]
fn joined_has_the_room_and_the_others_are_told() {
    let mut bench = Bench::default();
    let ann = bench.member("r");
    let bob = bench.greeted(Codec::Json, Streams::One);
    let metadata = json!({"name": "Bob"});
    bench.say(&bob, json!({"type": "join", "id": 5, "room": "r", "metadata": metadata}));
    let heard = bench.hear_on(&bob, Lane::Signal);
    assert_heard(
        &heard,
        json!([{
            "type": "joined", "id": 5, "room": "r", "signal": 2, "bulk": 0,
            "seq": {"signal": 0, "bulk": 0},
            "members": [
                {"peer": ann.peer, "user": null, "metadata": {}, "since": 1, "away": false},
                {"peer": bob.peer, "metadata": metadata, "since": 2, "away": false},
            ],
        }]),
    );
    assert_heard(
        &bench.hear(&ann),
        json!([{
            "type": "member_joined", "room": "r", "epoch": heard[0]["epoch"], "offset": 2,
            "peer": bob.peer, "user": null, "metadata": metadata,
        }]),
    );
}

#[test]
fn joining_again_is_a_plain_answer() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob]);
    bench.send(&ann, "r", "signal", 1, json!("before"));
    bench.say(&bob, json!({"type": "join", "id": 9, "room": "r", "metadata": {"new": true}}));
    bench.send(&ann, "r", "signal", 2, json!("after"));
    bench.send(&ann, "r", "bulk", 1, json!("bulk"));
    assert_heard(
        &bench.hear(&bob),
        json!([
            {"type": "message", "body": "before", "offset": 3},
            {"type": "joined", "id": 9, "signal": 3, "members": [{}, {"metadata": {}, "since": 2}]},
            {"type": "message", "body": "after", "offset": 4},
            {"type": "message", "body": "bulk", "lane": "bulk", "offset": 1},
        ]),
    );
    assert_eq!(kinds(&bench.hear(&ann)), ["accepted", "accepted"]);
}

#[test]
fn one_room_beyond_the_limit_is_refused_until_another_is_left() {
    let mut bench = Bench::default();
    let client = bench.greeted(Codec::Json, Streams::One);
    for room in 0..64 {
        assert_eq!(bench.join(&client, &format!("r{room}"))[0]["type"], "joined");
    }
    let refused = bench.join(&client, "one more");
    assert_heard(&refused, json!([{"type": "error", "id": 1, "code": "too_many_rooms"}]));
    assert_eq!(bench.join(&client, "r63")[0]["type"], "joined", "already a member");
    bench.say(&client, json!({"type": "leave", "id": 2, "room": "r7"}));
    bench.hush(&[&client]);
    assert_eq!(bench.join(&client, "one more")[0]["type"], "joined");
}

#[test]
fn leaving_is_answered_and_the_others_are_told() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob]);
    bench.say(&bob, json!({"type": "leave", "id": 3, "room": "r"}));
    bench.send(&ann, "r", "signal", 1, json!("gone?"));
    bench.send(&ann, "r", "bulk", 1, json!("gone?"));
    assert_heard(&bench.hear(&bob), json!([{"type": "ok", "id": 3}]));
    let left = json!({"type": "member_left", "offset": 3, "peer": bob.peer, "reason": "left"});
    assert_heard(&bench.hear(&ann), json!([left, {"type": "accepted"}, {"type": "accepted"}]));
}

#[test]
fn what_was_in_the_log_before_leaving_comes_before_the_answer() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob]);
    bench.send(&ann, "r", "signal", 1, json!("hello"));
    bench.send(&ann, "r", "bulk", 1, json!("a picture"));
    bench.send(&bob, "r", "signal", 1, json!("bye"));
    bench.say(&bob, json!({"type": "leave", "id": 3, "room": "r"}));
    assert_heard(
        &bench.hear(&bob),
        json!([
            {"type": "message", "body": "hello"},
            {"type": "accepted", "seq": 1},
            {"type": "ok", "id": 3},
            {"type": "message", "body": "a picture"},
        ]),
    );
}

#[test]
fn leaving_a_room_one_is_not_in_is_ok() {
    let mut bench = Bench::default();
    bench.member("r");
    let client = bench.greeted(Codec::Json, Streams::One);
    bench.say(&client, json!({"type": "leave", "id": 1, "room": "r"}));
    bench.say(&client, json!({"type": "leave", "id": 2, "room": "nobody has heard of it"}));
    assert_heard(&bench.hear(&client), json!([{"type": "ok", "id": 1}, {"type": "ok", "id": 2}]));
}

#[test]
fn everything_but_joining_and_leaving_takes_a_membership() {
    let mut bench = Bench::default();
    bench.member("r");
    let client = bench.greeted(Codec::Json, Streams::One);
    for room in ["r", "nobody has heard of it"] {
        bench.say(&client, json!({"type": "update", "id": 1, "room": room, "metadata": {}}));
        bench.say(&client, json!({"type": "members", "id": 2, "room": room}));
        bench.send(&client, room, "bulk", 1, json!(1));
        bench.say(&client, json!({"type": "ephemeral", "room": room, "body": 1}));
        let code = "not_a_member";
        assert_heard(
            &bench.hear(&client),
            json!([
                {"type": "error", "code": code, "id": 1},
                {"type": "error", "code": code, "id": 2},
                {"type": "error", "code": code, "room": room},
                {"type": "error", "code": code, "room": room, "lane": "bulk", "seq": 1},
            ]),
        );
    }
}

#[test]
fn metadata_is_replaced_and_the_list_of_members_has_it() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob]);
    let metadata = json!({"muted": true});
    bench.say(&bob, json!({"type": "update", "id": 2, "room": "r", "metadata": metadata}));
    assert_heard(&bench.hear(&bob), json!([{"type": "ok", "id": 2}]));
    assert_heard(
        &bench.hear(&ann),
        json!([
            {"type": "member_updated", "offset": 3, "peer": bob.peer, "metadata": metadata},
        ]),
    );
    bench.say(&ann, json!({"type": "members", "id": 4, "room": "r"}));
    assert_heard(
        &bench.hear(&ann),
        json!([{
            "type": "members", "id": 4, "room": "r", "signal": 3,
            "members": [{"peer": ann.peer, "since": 1}, {"peer": bob.peer, "metadata": metadata}],
        }]),
    );
}

#[test]
fn a_full_room_refuses_newcomers() {
    let mut bench = Bench::default();
    for _ in 0..100 {
        bench.member("r");
    }
    let client = bench.greeted(Codec::Json, Streams::One);
    let refused = json!([{"type": "error", "id": 1, "code": "room_full"}]);
    assert_heard(&bench.join(&client, "r"), refused.clone());
    assert_heard(&bench.join(&client, "r"), refused);
    assert_eq!(bench.join(&client, "another")[0]["type"], "joined");
}

#[test]
fn joining_anew_starts_anew() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    bench.send(&bob, "r", "signal", 1, json!(1));
    bench.say(&bob, json!({"type": "leave", "id": 2, "room": "r"}));
    bench.hush(&[&ann, &bob]);
    bench.send(&ann, "r", "signal", 1, json!("missed"));
    bench.send(&ann, "r", "bulk", 1, json!("missed"));
    let heard = bench.join(&bob, "r");
    assert_heard(
        &heard,
        json!([
            {"type": "joined", "signal": 6, "bulk": 1, "seq": {"signal": 1, "bulk": 0},
             "members": [{}, {"peer": bob.peer, "since": 6}]},
            {"type": "position", "lane": "bulk", "offset": 1, "start": true},
        ]),
    );
}

#[test]
fn leaving_and_joining_at_once_still_brings_what_came_before() {
    let mut bench = Bench::default();
    let (ann, bob) = (bench.member("r"), bench.member("r"));
    bench.hush(&[&ann, &bob]);
    bench.send(&ann, "r", "signal", 1, json!("to a member"));
    bench.send(&ann, "r", "bulk", 1, json!("void"));
    bench.send(&bob, "r", "signal", 1, json!("own"));
    bench.say(&bob, json!({"type": "leave", "id": 2, "room": "r"}));
    bench.say(&bob, json!({"type": "join", "id": 3, "room": "r"}));
    assert_heard(
        &bench.hear_on(&bob, Lane::Signal),
        json!([
            {"type": "message", "body": "to a member"},
            {"type": "accepted", "seq": 1},
            {"type": "ok", "id": 2},
            {"type": "joined", "id": 3, "signal": 6},
        ]),
    );
    bench.send(&ann, "r", "bulk", 2, json!("new"));
    assert_heard(
        &bench.hear_on(&bob, Lane::Bulk),
        json!([
            {"type": "position", "start": true, "offset": 1},
            {"type": "message", "body": "new", "offset": 2},
        ]),
    );
}

#[test]
fn a_room_that_was_left_and_lags_does_not_take_anothers_place() {
    let mut bench = Bench::default();
    let ann = bench.member("r0");
    let bob = bench.greeted(Codec::Json, Streams::One);
    for room in 0..64 {
        bench.join(&bob, &format!("r{room}"));
    }
    bench.send(&ann, "r0", "signal", 1, json!("unread"));
    bench.say(&bob, json!({"type": "leave", "id": 2, "room": "r0"}));
    bench.say(&bob, json!({"type": "join", "id": 3, "room": "one more"}));
    assert!(!bench.gateway.wants_input(bob.id));
    let heard = bench.hear_on(&bob, Lane::Signal);
    assert_heard(
        &heard,
        json!([
            {"type": "message", "body": "unread"},
            {"type": "ok", "id": 2},
            {"type": "joined", "id": 3, "room": "one more"},
        ]),
    );
}
