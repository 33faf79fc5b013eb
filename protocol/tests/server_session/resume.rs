//! A session that goes on over another connection, or ends.

use std::time::Duration;

use handover_protocol::session::server::Streams;
use handover_protocol::wire::{Codec, Lane};
use serde_json::{Value, json};

use crate::bench::{Bench, Client, assert_heard, kinds};

/// Ann and Bob in a room, and the room's epoch.
fn pair(bench: &mut Bench) -> (Client, Client, Value) {
    let ann = bench.member("r");
    let bob = bench.greeted(Codec::Json, Streams::One);
    let epoch = bench.join(&bob, "r")[0]["epoch"].clone();
    bench.hush(&[&ann, &bob]);
    (ann, bob, epoch)
}

fn at(epoch: &Value, signal: u64, bulk: u64) -> Value {
    json!({"r": {"epoch": epoch, "signal": signal, "bulk": bulk}})
}

#[test]
fn what_was_missed_is_replayed_and_then_it_goes_on() {
    for (codec, streams) in [
        (Codec::Json, Streams::One),
        (Codec::Json, Streams::PerLane),
        (Codec::Bincode, Streams::One),
        (Codec::Bincode, Streams::PerLane),
    ] {
        let mut bench = Bench::default();
        let (ann, bob, epoch) = pair(&mut bench);
        bench.send(&ann, "r", "signal", 1, json!("had"));
        bench.hush(&[&bob]);
        bench.cut(&bob);
        bench.send(&ann, "r", "signal", 2, json!("missed"));
        bench.send(&ann, "r", "bulk", 1, json!("missed too"));
        let bob = bench.resume_on(&bob, codec, streams, at(&epoch, 3, 0));
        bench.send(&ann, "r", "signal", 3, json!("live"));
        bench.send(&ann, "r", "bulk", 2, json!("live too"));
        assert_heard(
            &bench.hear_on(&bob, Lane::Signal),
            json!([
                {"type": "welcome", "session": bob.session, "peer": bob.peer, "resumed": true,
                 "rooms": {"r": {"seq": {"signal": 0, "bulk": 0}}}, "lost": []},
                {"type": "message", "body": "missed", "offset": 4, "epoch": epoch},
                {"type": "message", "body": "live", "offset": 5},
            ]),
        );
        assert_heard(
            &bench.hear_on(&bob, Lane::Bulk),
            json!([
                {"type": "message", "body": "missed too", "offset": 1},
                {"type": "message", "body": "live too", "offset": 2},
            ]),
        );
    }
}

#[test]
fn a_client_that_is_current_is_told_nothing() {
    let mut bench = Bench::default();
    let (_, bob, epoch) = pair(&mut bench);
    bench.cut(&bob);
    let bob = bench.resume(&bob, at(&epoch, 2, 0));
    assert_eq!(kinds(&bench.hear(&bob)), ["welcome"]);
}

#[test]
fn a_blip_is_seen_by_nobody_and_a_longer_absence_as_away_and_back() {
    let mut bench = Bench::default();
    let (ann, bob, epoch) = pair(&mut bench);
    bench.cut(&bob);
    bench.wait(Duration::from_millis(1_999));
    let bob = bench.resume(&bob, at(&epoch, 2, 0));
    assert_heard(&bench.hear(&ann), json!([]));

    bench.cut(&bob);
    bench.wait(Duration::from_secs(2));
    assert_heard(&bench.hear(&ann), json!([{"type": "member_away", "peer": bob.peer}]));
    bench.say(&ann, json!({"type": "members", "id": 2, "room": "r"}));
    assert_heard(&bench.hear(&ann), json!([{"members": [{"away": false}, {"away": true}]}]));
    bench.send(&ann, "r", "signal", 1, json!("for later"));
    let send = json!({
        "type": "send", "room": "r", "lane": "signal", "seq": 2, "to": bob.peer, "body": "and this",
    });
    bench.say(&ann, send);
    assert_heard(&bench.hear(&ann), json!([{"type": "accepted", "seq": 2}]));
    let bob = bench.resume(&bob, at(&epoch, 2, 0));
    assert_heard(&bench.hear(&ann), json!([{"type": "member_back", "peer": bob.peer}]));
    let heard = bench.hear(&bob);
    assert_heard(&heard[1..], json!([{"body": "for later"}, {"body": "and this"}]));
}

#[test]
fn own_sends_that_were_applied_come_as_accepted() {
    let mut bench = Bench::default();
    let (ann, bob, epoch) = pair(&mut bench);
    bench.send(&bob, "r", "signal", 1, json!(1));
    bench.send(&bob, "r", "signal", 2, json!(2));
    bench.send(&ann, "r", "signal", 1, json!("between"));
    bench.send(&bob, "r", "signal", 3, json!(3));
    bench.cut(&bob);
    let bob = bench.resume(&bob, at(&epoch, 2, 0));
    bench.send(&bob, "r", "signal", 3, json!(3));
    bench.send(&bob, "r", "signal", 4, json!(4));
    assert_heard(
        &bench.hear(&bob),
        json!([
            {"type": "welcome", "rooms": {"r": {"seq": {"signal": 3, "bulk": 0}}}},
            {"type": "accepted", "seq": 2, "offset": 4},
            {"type": "message", "body": "between", "offset": 5},
            {"type": "accepted", "seq": 4, "offset": 7},
        ]),
    );
    let heard = bench.hear(&ann);
    let bodies: Vec<_> = heard.iter().filter_map(|message| message.get("body")).collect();
    assert_eq!(bodies, [&json!(1), &json!(2), &json!(3), &json!(4)]);
}

#[test]
fn a_position_that_cannot_be_gone_on_from_is_reset() {
    let another = json!("another");
    for (keep, position, reason) in [
        (3, Some((None, 2, 0)), "trimmed"),
        (99, Some((Some(&another), 2, 0)), "epoch"),
        (99, Some((None, 2, 7)), "ahead"),
        (99, Some((None, 99, 0)), "ahead"),
        (99, None, "unlisted"),
    ] {
        let mut bench = Bench::keeping_entries(keep);
        let (ann, bob, epoch) = pair(&mut bench);
        bench.send(&bob, "r", "signal", 1, json!("own"));
        bench.cut(&bob);
        for seq in 1..=4 {
            bench.send(&ann, "r", "signal", seq, json!(seq));
        }
        bench.send(&ann, "r", "bulk", 1, json!("bulk"));
        let rooms = position.map_or_else(
            || json!({}),
            |(other, signal, bulk)| at(other.unwrap_or(&epoch), signal, bulk),
        );
        let bob = bench.resume(&bob, rooms);
        bench.send(&ann, "r", "signal", 5, json!("live"));
        bench.send(&ann, "r", "bulk", 2, json!("live"));
        assert_heard(
            &bench.hear_on(&bob, Lane::Signal),
            json!([
                {"type": "welcome", "resumed": true, "rooms": {"r": {"seq": {"signal": 1}}}, "lost": []},
                {"type": "reset", "room": "r", "reason": reason, "epoch": epoch, "signal": 7, "bulk": 1,
                 "seq": {"signal": 1, "bulk": 0}, "members": [{"peer": ann.peer}, {"peer": bob.peer}]},
                {"type": "message", "body": "live", "offset": 8},
            ]),
        );
        assert_heard(
            &bench.hear_on(&bob, Lane::Bulk),
            json!([
                {"type": "position", "lane": "bulk", "start": true, "epoch": epoch, "offset": 1},
                {"type": "message", "body": "live", "offset": 2},
            ]),
        );
    }
}

#[test]
fn logs_that_were_lost_are_another_epoch() {
    let mut bench = Bench::default();
    let (_, bob, epoch) = pair(&mut bench);
    let name = handover_protocol::wire::RoomName::parse("r").expect("a name");
    bench.gateway.lose_logs(bench.now, &name);
    assert_eq!(bench.closed(&bob), Some(4003));
    bench.cut(&bob);
    let bob = bench.resume(&bob, at(&epoch, 2, 0));
    let heard = bench.hear_on(&bob, Lane::Signal);
    assert_heard(&heard[1..], json!([{"type": "reset", "reason": "epoch", "members": [{}, {}]}]));
    assert_ne!(heard[1]["epoch"], epoch);
}

#[test]
fn rooms_one_is_no_member_of_are_lost() {
    let mut bench = Bench::default();
    let (_, bob, epoch) = pair(&mut bench);
    bench.cut(&bob);
    let mut rooms = at(&epoch, 2, 0);
    rooms["q"] = rooms["r"].clone();
    let bob = bench.resume(&bob, rooms);
    assert_heard(&bench.hear(&bob), json!([{"type": "welcome", "lost": ["q"]}]));
}

#[test]
fn a_secret_that_is_not_the_sessions_resumes_nothing() {
    let mut bench = Bench::default();
    let (ann, bob, epoch) = pair(&mut bench);
    let thief = Client { secret: json!("guessed"), ..bob.clone() };
    let thief = bench.resume(&thief, at(&epoch, 2, 0));
    assert_heard(&bench.hear(&thief), json!([{"type": "error", "code": "session_unknown"}]));
    bench.send(&ann, "r", "signal", 1, json!("still here?"));
    assert_heard(&bench.hear(&bob), json!([{"type": "message"}]));
}

#[test]
fn a_session_expires_and_its_members_are_told() {
    let mut bench = Bench::default();
    let (ann, bob, epoch) = pair(&mut bench);
    bench.cut(&bob);
    let mut step = |seconds| {
        // Ann stays awake meanwhile.
        bench.say(&ann, json!({"type": "ping", "id": 1}));
        bench.wait(Duration::from_secs(seconds));
        bench.hear(&ann).into_iter().filter(|m| m["type"] != "pong").collect::<Vec<_>>()
    };
    assert_heard(&step(20), json!([{"type": "member_away", "peer": bob.peer}]));
    for _ in 0..4 {
        assert_heard(&step(20), json!([]));
    }
    assert_heard(
        &step(20),
        json!([
            {"type": "member_left", "peer": bob.peer, "reason": "expired"},
        ]),
    );
    let bob = bench.resume(&bob, at(&epoch, 2, 0));
    assert_heard(&bench.hear(&bob), json!([{"type": "error", "code": "session_unknown"}]));
}

#[test]
fn a_newer_connection_takes_over_at_once() {
    let mut bench = Bench::default();
    let (ann, old, epoch) = pair(&mut bench);
    bench.send(&ann, "r", "signal", 1, json!("unread on the old one"));
    let new = bench.resume_on(&old, Codec::Bincode, Streams::PerLane, at(&epoch, 2, 0));
    assert_eq!(bench.closed(&old), Some(4504));
    assert_heard(&bench.hear(&old), json!([]));
    bench.send(&old, "r", "signal", 1, json!("late"));
    bench.say(&old, json!({"type": "leave", "id": 9, "room": "r"}));
    bench.say(&old, json!({"type": "bye"}));
    bench.send(&new, "r", "signal", 1, json!("in time"));
    bench.cut(&old);
    bench.wait(Duration::from_secs(3));
    assert_heard(
        &bench.hear(&new),
        json!([
            {"type": "welcome", "rooms": {"r": {"seq": {"signal": 0}}}},
            {"type": "message", "body": "unread on the old one"},
            {"type": "accepted", "seq": 1},
        ]),
    );
    let mut heard = bench.hear(&ann);
    heard.retain(|message| message["type"] != "accepted");
    assert_heard(&heard, json!([{"type": "message", "body": "in time"}]));
}

#[test]
fn what_the_old_connection_had_asked_before_is_not_applied_afterwards() {
    let mut bench = Bench::default();
    let (ann, old, epoch) = pair(&mut bench);
    let send =
        |seq| json!({"type": "send", "room": "r", "lane": "signal", "seq": seq, "body": seq});
    bench.put(&old, Lane::Signal, send(1));
    let new = bench.resume(&old, at(&epoch, 2, 0));
    let heard = bench.hear(&new);
    let applied = heard[0]["rooms"]["r"]["seq"]["signal"].as_u64().expect("a seq");
    bench.say(&new, send(applied + 1));
    bench.cut(&old);
    assert_heard(&bench.hear(&ann), json!([{"type": "message", "body": applied + 1}]));
}

#[test]
fn a_reader_too_slow_for_the_log_is_reset_on_the_way() {
    let mut bench = Bench::keeping_entries(4);
    let (ann, bob, epoch) = pair(&mut bench);
    for seq in 1..=20 {
        bench.send(&ann, "r", "signal", seq, json!(seq));
        bench.send(&ann, "r", "bulk", seq, json!(seq));
    }
    bench.say(&bob, json!({"type": "update", "id": 3, "room": "r", "metadata": {"slow": true}}));
    bench.send(&bob, "r", "bulk", 1, json!("own"));
    let heard = bench.hear_on(&bob, Lane::Signal);
    assert_heard(
        &heard,
        json!([
            {"type": "reset", "reason": "trimmed", "epoch": epoch, "signal": 23, "bulk": 21,
             "seq": {"signal": 0, "bulk": 1}, "members": [{}, {"metadata": {"slow": true}}]},
            {"type": "ok", "id": 3},
        ]),
    );
    let heard = bench.hear_on(&bob, Lane::Bulk);
    assert_heard(&heard, json!([{"type": "position", "start": true, "offset": 21}]));
    bench.send(&ann, "r", "bulk", 21, json!("on"));
    assert_heard(&bench.hear(&bob), json!([{"type": "message", "body": "on", "offset": 22}]));
}

#[test]
fn bye_says_everything_that_was_said_before_and_ends_the_session() {
    let mut bench = Bench::default();
    let (ann, bob, epoch) = pair(&mut bench);
    bench.send(&ann, "r", "signal", 1, json!("last words"));
    bench.send(&bob, "r", "bulk", 1, json!("mine"));
    bench.say(&bob, json!({"type": "bye"}));
    assert_eq!(bench.closed(&bob), None, "there is something to say first");
    bench.send(&ann, "r", "signal", 2, json!("too late"));
    assert_heard(
        &bench.hear(&bob),
        json!([
            {"type": "message", "body": "last words"},
            {"type": "accepted", "lane": "bulk", "seq": 1},
        ]),
    );
    assert_eq!(bench.closed(&bob), Some(4500));
    bench.cut(&bob);
    let heard = bench.hear(&ann);
    let left = heard.iter().find(|message| message["type"] == "member_left").expect("a farewell");
    assert_eq!((&left["reason"], &left["peer"]), (&json!("bye"), &json!(bob.peer)));
    let bob = bench.resume(&bob, at(&epoch, 2, 0));
    assert_heard(&bench.hear(&bob), json!([{"type": "error", "code": "session_unknown"}]));
}

#[test]
fn joining_on_a_resumed_connection_is_plain_for_a_room_one_is_in() {
    let mut bench = Bench::default();
    let (ann, bob, epoch) = pair(&mut bench);
    bench.cut(&bob);
    let bob = bench.resume(&bob, at(&epoch, 2, 0));
    bench.hear(&bob);
    assert_heard(&bench.join(&bob, "r"), json!([{"type": "joined", "signal": 2}]));
    bench.send(&ann, "r", "signal", 1, json!(1));
    assert_heard(&bench.hear(&bob), json!([{"type": "message"}]));
    // Places on the connection are not mixed up with those of the rooms it began with.
    assert_eq!(bench.join(&bob, "q")[0]["type"], "joined");
    bench.send(&ann, "r", "signal", 2, json!(2));
    bench.send(&bob, "q", "signal", 1, json!(1));
    let mut heard = bench.hear(&bob);
    heard.sort_by_key(|message| message["room"].to_string());
    assert_heard(
        &heard,
        json!([{"type": "accepted", "room": "q"}, {"type": "message", "room": "r"}]),
    );
}
