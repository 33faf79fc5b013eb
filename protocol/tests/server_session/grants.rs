//! What a token allows, until when, and what a newer one changes.

use std::sync::Arc;
use std::time::Duration;

use handover_protocol::session::grant::{Admission, Grant, Lapse, Right, RoomGrant, RoomPattern};
use handover_protocol::session::server::Streams;
use handover_protocol::wire::{Codec, Json, Lane, UserId};
use serde_json::{Value, json};

use crate::bench::{Bench, Client, assert_heard};

const WHOLE: &[Right] = &[Right::Join, Right::Signal, Right::Publish, Right::Ephemeral];

fn admission(user: &str, rooms: &[(&str, &[Right], Option<&str>)]) -> Admission {
    let rule = |(room, can, metadata): &(&str, &[Right], Option<&str>)| RoomGrant {
        room: RoomPattern::parse(room).expect("a pattern"),
        can: can.iter().copied().collect(),
        metadata: metadata.map(|text| Json::parse(text.as_bytes()).expect("JSON")),
    };
    let grant = Arc::new(Grant { rooms: rooms.iter().map(rule).collect() });
    Admission { user: Some(UserId::new(user)), grant, lapse: None }
}

fn until(at: u64, life: u64, admission: Admission) -> Admission {
    Admission { lapse: Some(Lapse { at, life }), ..admission }
}

/// A bench where `ann` may do everything in `r`.
fn bench() -> Bench {
    let mut bench = Bench::default();
    bench.gateway.issue("ann", admission("ann", &[("r", WHOLE, None)]));
    bench
}

fn hello(bench: &mut Bench, client: &Client, token: Option<&str>) -> Vec<Value> {
    let mut hello = json!({"type": "hello", "version": 1});
    if let Some(token) = token {
        hello["token"] = json!(token);
    }
    bench.say(client, hello);
    bench.hear(client)
}

fn greeted(bench: &mut Bench, token: &str) -> Client {
    let mut client = bench.websocket();
    let heard = hello(bench, &client, Some(token));
    client.learn(&heard[0]);
    client
}

/// As [`Bench::resume`], with a token or without.
fn resume(bench: &mut Bench, client: &Client, token: Option<&str>, rooms: Value) -> Client {
    let again = Client { id: bench.websocket().id, ..client.clone() };
    let resume = json!({"session": client.session, "secret": client.secret, "rooms": rooms});
    let mut hello = json!({"type": "hello", "version": 1, "resume": resume});
    if let Some(token) = token {
        hello["token"] = json!(token);
    }
    bench.say(&again, hello);
    again
}

fn refresh(bench: &mut Bench, client: &Client, token: &str) -> Vec<Value> {
    bench.say(client, json!({"type": "refresh", "id": 90, "token": token}));
    bench.hear(client)
}

#[test]
fn a_token_is_needed_where_one_is_asked_for() {
    for token in [None, Some("made up")] {
        let mut bench = bench();
        let client = bench.websocket();
        let heard = hello(&mut bench, &client, token);
        assert_heard(&heard, json!([{"type": "error", "code": "unauthorized"}]));
        assert_eq!(bench.closed(&client), Some(4501), "{token:?}");
    }
    let mut bench = bench();
    let client = bench.websocket();
    let heard = hello(&mut bench, &client, Some("ann"));
    assert_heard(&heard, json!([{"type": "welcome", "user": "ann"}]));
}

#[test]
fn what_is_not_granted_is_forbidden_on_that_request_alone() {
    let send = |lane| json!({"type": "send", "room": "r", "lane": lane, "seq": 1, "body": 1});
    let requests = [
        (Right::Signal, send("signal"), json!({"room": "r", "lane": "signal", "seq": 1})),
        (Right::Publish, send("bulk"), json!({"room": "r", "lane": "bulk", "seq": 1})),
        (
            Right::Ephemeral,
            json!({"type": "ephemeral", "room": "r", "body": 1}),
            json!({"room": "r"}),
        ),
    ];
    for codec in Codec::ALL {
        for (right, request, reference) in &requests {
            let others: Vec<Right> = WHOLE.iter().copied().filter(|r| r != right).collect();
            let mut bench = bench();
            bench.gateway.issue("less", admission("bob", &[("r", &others, None)]));
            let mut client = bench.connect(codec, Streams::One);
            let heard = hello(&mut bench, &client, Some("less"));
            client.learn(&heard[0]);
            bench.join(&client, "r");
            bench.say(&client, request.clone());
            let heard = bench.hear(&client);
            let mut refusal = reference.clone();
            (refusal["type"], refusal["code"]) = (json!("error"), json!("forbidden"));
            assert_heard(&heard, json!([refusal]));
            // Everything else goes on.
            for (allowed, request, _) in &requests {
                if allowed != right {
                    bench.say(&client, request.clone());
                    let refused = bench.hear(&client).iter().any(|heard| heard["type"] == "error");
                    assert!(!refused, "{right:?} {allowed:?}");
                }
            }
            assert_eq!(bench.closed(&client), None);
        }
    }
}

#[test]
fn only_granted_rooms_can_be_joined() {
    let mut bench = bench();
    let mute = &[Right::Signal, Right::Publish, Right::Ephemeral][..];
    bench.gateway.issue("some", admission("bob", &[("team/*", WHOLE, None), ("mute", mute, None)]));
    let client = greeted(&mut bench, "some");
    for (room, answer) in [
        ("team/a", json!({"type": "joined", "room": "team/a"})),
        ("team", json!({"type": "error", "id": 1, "code": "forbidden"})),
        ("r", json!({"type": "error", "id": 1, "code": "forbidden"})),
        ("mute", json!({"type": "error", "id": 1, "code": "forbidden"})),
        ("team/b", json!({"type": "joined", "room": "team/b"})),
    ] {
        bench.say(&client, json!({"type": "join", "id": 1, "room": room}));
        assert_heard(&bench.hear_on(&client, Lane::Signal), json!([answer]));
    }
    // Who may not even know is told no more of a room than who may not speak.
    for room in ["r", "nowhere"] {
        bench.say(&client, json!({"type": "update", "id": 2, "room": room, "metadata": {}}));
        assert_heard(
            &bench.hear_on(&client, Lane::Signal),
            json!([{"id": 2, "code": "forbidden"}]),
        );
        bench.say(&client, json!({"type": "members", "id": 3, "room": room}));
        let not_in = json!([{"id": 3, "code": "not_a_member"}]);
        assert_heard(&bench.hear_on(&client, Lane::Signal), not_in);
    }
}

#[test]
fn an_ungranted_datagram_is_dropped_in_silence() {
    let mut bench = bench();
    bench.gateway.issue("less", admission("bob", &[("r", &[Right::Join], None)]));
    let listening = greeted(&mut bench, "ann");
    bench.join(&listening, "r");
    let mut client = bench.connect(Codec::Json, Streams::PerLane);
    let heard = hello(&mut bench, &client, Some("less"));
    client.learn(&heard[0]);
    bench.join(&client, "r");
    bench.hush(&[&listening, &client]);
    let ephemeral = json!({"type": "ephemeral", "room": "r", "body": 1});
    bench.say_on(&client, Lane::Ephemeral, ephemeral);
    assert_heard(&bench.hear(&client), json!([]));
    assert_heard(&bench.hear_on(&listening, Lane::Ephemeral), json!([]));
}

#[test]
fn a_refused_send_uses_up_no_seq() {
    let mut bench = bench();
    bench.gateway.issue("less", admission("ann", &[("r", &[Right::Join], None)]));
    let client = greeted(&mut bench, "less");
    bench.join(&client, "r");
    bench.send(&client, "r", "signal", 1, json!("no"));
    assert_heard(&bench.hear(&client), json!([{"code": "forbidden", "seq": 1}]));
    assert_heard(&refresh(&mut bench, &client, "ann"), json!([{"type": "ok", "id": 90}]));
    bench.send(&client, "r", "signal", 1, json!("yes"));
    assert_heard(&bench.hear(&client), json!([{"type": "accepted", "seq": 1}]));
}

#[test]
fn fixed_metadata_stands_whatever_the_client_says() {
    let mut bench = bench();
    let fixed = Some("{\"role\":\"guest\"}");
    bench.gateway.issue("guest", admission("bob", &[("r", WHOLE, fixed), ("free", WHOLE, None)]));
    let watching = greeted(&mut bench, "ann");
    bench.join(&watching, "r");
    bench.hush(&[&watching]);
    let client = greeted(&mut bench, "guest");
    let join = |room| json!({"type": "join", "id": 1, "room": room, "metadata": {"role": "host"}});
    bench.say(&client, join("r"));
    let joined = json!([{"type": "member_joined", "metadata": {"role": "guest"}}]);
    assert_heard(&bench.hear(&watching), joined);
    bench.hush(&[&client]);
    let update =
        |room| json!({"type": "update", "id": 2, "room": room, "metadata": {"role": "host"}});
    bench.say(&client, update("r"));
    assert_heard(&bench.hear(&client), json!([{"id": 2, "code": "forbidden"}]));
    assert_heard(&bench.hear(&watching), json!([]));
    // Elsewhere it is the client's own.
    bench.say(&client, join("free"));
    let heard = bench.hear_on(&client, Lane::Signal);
    assert_eq!(heard[0]["members"][0]["metadata"], json!({"role": "host"}));
    bench.say(&client, update("free"));
    assert_heard(&bench.hear_on(&client, Lane::Signal), json!([{"type": "ok", "id": 2}]));
}

#[test]
fn a_newer_token_is_what_counts() {
    let mut bench = bench();
    bench.gateway.issue("less", admission("ann", &[("r", &[Right::Join], None)]));
    let client = greeted(&mut bench, "less");
    bench.join(&client, "r");
    assert_heard(&refresh(&mut bench, &client, "ann"), json!([{"type": "ok", "id": 90}]));
    bench.send(&client, "r", "bulk", 1, json!(1));
    assert_heard(&bench.hear(&client), json!([{"type": "accepted", "seq": 1}]));
    assert_heard(&refresh(&mut bench, &client, "less"), json!([{"type": "ok"}]));
    bench.send(&client, "r", "bulk", 2, json!(2));
    assert_heard(&bench.hear(&client), json!([{"code": "forbidden", "seq": 2}]));
}

#[test]
fn somebody_elses_newer_token_changes_nothing() {
    let mut bench = bench();
    bench.gateway.issue("bob", admission("bob", &[("*", WHOLE, None)]));
    let client = greeted(&mut bench, "ann");
    let heard = refresh(&mut bench, &client, "bob");
    assert_heard(&heard, json!([{"type": "error", "id": 90, "code": "forbidden"}]));
    bench.say(&client, json!({"type": "join", "id": 1, "room": "elsewhere"}));
    assert_heard(&bench.hear(&client), json!([{"code": "forbidden"}]));
    assert_eq!(bench.closed(&client), None);
}

#[test]
fn a_bad_newer_token_closes_the_connection() {
    let mut bench = bench();
    let client = greeted(&mut bench, "ann");
    let heard = refresh(&mut bench, &client, "made up");
    assert_heard(&heard, json!([{"type": "error", "id": 90, "code": "unauthorized"}]));
    assert_eq!(bench.closed(&client), Some(4501));
}

#[test]
fn requests_behind_a_refresh_are_answered_behind_it() {
    let mut bench = bench();
    bench.gateway.issue("none", admission("ann", &[]));
    let client = greeted(&mut bench, "none");
    bench.put(&client, Lane::Signal, json!({"type": "refresh", "id": 1, "token": "ann"}));
    bench.say(&client, json!({"type": "join", "id": 2, "room": "r"}));
    let heard = bench.hear_on(&client, Lane::Signal);
    assert_heard(&heard, json!([{"type": "ok", "id": 1}, {"type": "joined", "id": 2}]));
}

#[test]
fn a_room_that_a_newer_token_does_not_allow_is_left_by_resuming() {
    let mut bench = bench();
    bench.gateway.issue("both", admission("bob", &[("r", WHOLE, None), ("s", WHOLE, None)]));
    bench.gateway.issue("one", admission("bob", &[("s", WHOLE, None)]));
    let watching = greeted(&mut bench, "ann");
    bench.join(&watching, "r");
    let client = greeted(&mut bench, "both");
    bench.join(&client, "r");
    let joined = bench.join(&client, "s");
    bench.hush(&[&watching, &client]);
    assert_heard(&refresh(&mut bench, &client, "one"), json!([{"type": "ok", "id": 90}]));
    assert_eq!(bench.closed(&client), Some(4005));
    bench.cut(&client);
    let epoch = joined[0]["epoch"].clone();
    let had = json!({"epoch": epoch, "signal": 1, "bulk": 0});
    let rooms = json!({"r": {"epoch": "e", "signal": 1, "bulk": 0}, "s": had});
    let again = resume(&mut bench, &client, Some("one"), rooms);
    let heard = bench.hear(&again);
    assert_heard(&heard, json!([{"type": "welcome", "resumed": true, "lost": ["r"]}]));
    assert!(heard[0]["rooms"].get("s").is_some(), "{heard:?}");
    let left = json!([{"type": "member_left", "reason": "kicked"}]);
    assert_heard(&bench.hear(&watching), left);
}

#[test]
fn a_session_goes_on_under_what_it_had_or_what_is_shown() {
    let mut bench = bench();
    let less = admission("ann", &[("r", &[Right::Join], None)]);
    bench.gateway.issue("less", until(600, 600, less));
    bench.gateway.issue("bob", admission("bob", &[("r", WHOLE, None)]));
    let client = greeted(&mut bench, "less");
    bench.join(&client, "r");
    let send = |bench: &mut Bench, client: &Client| {
        bench.hush(&[client]);
        bench.send(client, "r", "signal", 1, json!(1));
        bench.hear(client).first().map(|heard| heard["type"].clone())
    };
    // Without a token nothing is won.
    let client = resume(&mut bench, &client, None, json!({}));
    assert_eq!(send(&mut bench, &client), Some(json!("error")));
    // A token of the same user is what counts.
    let client = resume(&mut bench, &client, Some("ann"), json!({}));
    assert_eq!(send(&mut bench, &client), Some(json!("accepted")));
    // Somebody else's is refused, and takes nothing over.
    let other = resume(&mut bench, &client, Some("bob"), json!({}));
    assert_heard(&bench.hear(&other), json!([{"type": "error", "code": "forbidden"}]));
    assert_eq!((bench.closed(&other), bench.closed(&client)), (None, None));
    // So is one that is no good, and that is final.
    let other = resume(&mut bench, &client, Some("made up"), json!({}));
    assert_heard(&bench.hear(&other), json!([{"type": "error", "code": "unauthorized"}]));
    assert_eq!((bench.closed(&other), bench.closed(&client)), (Some(4501), None));
    bench.say(&client, json!({"type": "ping", "id": 5}));
    assert_heard(&bench.hear(&client), json!([{"type": "pong"}]));
}

#[test]
fn the_third_refused_hello_closes_the_connection() {
    let mut bench = bench();
    bench.gateway.issue("bob", admission("bob", &[]));
    let client = greeted(&mut bench, "ann");
    let other = bench.websocket();
    for refused in 1..=3 {
        let resume = json!({"session": client.session, "secret": client.secret, "rooms": {}});
        let hello = json!({"type": "hello", "version": 1, "token": "bob", "resume": resume});
        bench.say(&other, hello);
        assert_heard(&bench.hear(&other), json!([{"code": "forbidden"}]));
        assert_eq!(bench.closed(&other), (refused == 3).then_some(4501));
    }
}

#[test]
fn the_end_of_a_token_is_announced_and_then_comes() {
    let mut bench = bench();
    let ann = admission("ann", &[("r", WHOLE, None)]);
    bench.gateway.issue("hour", until(3_600, 3_600, ann.clone()));
    bench.gateway.issue("more", until(3_700, 100, ann));
    let client = greeted(&mut bench, "hour");
    bench.join(&client, "r");
    bench.hush(&[&client]);
    let wait_for = |bench: &mut Bench, seconds: u64| {
        let mut left = seconds;
        while left > 0 {
            // Its client answers pings meanwhile.
            bench.gateway.handle_alive(bench.now, client.id);
            let step = left.min(10);
            bench.wait(Duration::from_secs(step));
            left -= step;
        }
    };
    wait_for(&mut bench, 3_539);
    assert_heard(&bench.hear(&client), json!([]));
    wait_for(&mut bench, 1);
    assert_heard(&bench.hear(&client), json!([{"type": "expiring", "in": 60_000}]));
    wait_for(&mut bench, 30);
    assert_heard(&refresh(&mut bench, &client, "more"), json!([{"type": "ok"}]));
    // Half of a hundred seconds before the end of the newer one.
    wait_for(&mut bench, 79);
    assert_heard(&bench.hear(&client), json!([]));
    wait_for(&mut bench, 1);
    assert_heard(&bench.hear(&client), json!([{"type": "expiring", "in": 50_000}]));
    wait_for(&mut bench, 49);
    assert_eq!(bench.closed(&client), None);
    wait_for(&mut bench, 1);
    assert_eq!(bench.closed(&client), Some(4005));
}

#[test]
fn an_expired_session_goes_on_with_a_newer_token_alone() {
    let mut bench = bench();
    let ann = admission("ann", &[("r", WHOLE, None)]);
    bench.gateway.issue("short", until(10, 10, ann));
    let client = greeted(&mut bench, "short");
    bench.join(&client, "r");
    bench.wait(Duration::from_secs(10));
    assert_eq!(bench.closed(&client), Some(4005));
    assert!(!bench.is_overdue(), "the end is told once, however long the client takes to read it");
    bench.cut(&client);
    for token in [None, Some("short")] {
        let again = resume(&mut bench, &client, token, json!({}));
        assert_heard(&bench.hear(&again), json!([{"type": "error", "code": "unauthorized"}]));
        assert_eq!(bench.closed(&again), Some(4501), "{token:?}");
    }
    let again = resume(&mut bench, &client, Some("ann"), json!({}));
    let heard = bench.hear(&again);
    assert_heard(&heard[..1], json!([{"type": "welcome", "resumed": true, "user": "ann"}]));
}

#[test]
fn what_a_token_does_not_allow_any_more_is_not_read_on() {
    let whole = admission("bob", &[("r", WHOLE, None), ("s", WHOLE, None)]);
    for ends in ["by itself", "by a newer one", "by a bad one"] {
        let mut bench = bench();
        bench.gateway.issue("both", until(10, 10, whole.clone()));
        bench.gateway.issue("one", admission("bob", &[("s", WHOLE, None)]));
        let speaker = greeted(&mut bench, "ann");
        bench.join(&speaker, "r");
        let client = greeted(&mut bench, "both");
        bench.join(&client, "r");
        bench.join(&client, "s");
        bench.hush(&[&client, &speaker]);
        // Answered already, but not read yet; and asked for, but not answered yet.
        bench.say(&client, json!({"type": "ping", "id": 7}));
        bench.put(&client, Lane::Signal, json!({"type": "members", "id": 8, "room": "r"}));
        for (seq, lane) in [(1, "signal"), (1, "bulk")] {
            bench.send(&speaker, "r", lane, seq, json!("before"));
        }
        let (closed, answers) = match ends {
            "by itself" => {
                bench.wait(Duration::from_secs(10));
                (4005, json!([{"type": "pong"}]))
            }
            "by a newer one" => {
                bench.say(&client, json!({"type": "refresh", "id": 90, "token": "one"}));
                (4005, json!([{"type": "pong"}, {"type": "ok"}]))
            }
            _ => {
                bench.say(&client, json!({"type": "refresh", "id": 90, "token": "made up"}));
                (4501, json!([{"type": "pong"}, {"type": "error", "code": "unauthorized"}]))
            }
        };
        bench.send(&speaker, "r", "signal", 2, json!("after"));
        assert_heard(&bench.hear(&client), answers);
        assert_eq!(bench.closed(&client), Some(closed), "{ends}");
    }
}

#[test]
fn what_began_without_tokens_does_not_go_on_without_one_where_they_are_needed() {
    let mut bench = Bench::default();
    let mut client = bench.websocket();
    let heard = hello(&mut bench, &client, None);
    client.learn(&heard[0]);
    bench.join(&client, "r");
    bench.cut(&client);
    bench.gateway.issue("ann", admission("ann", &[("r", WHOLE, None)]));
    for (token, code, closed) in
        [(None, "unauthorized", Some(4501)), (Some("ann"), "forbidden", None)]
    {
        let again = resume(&mut bench, &client, token, json!({}));
        assert_heard(&bench.hear(&again), json!([{"type": "error", "code": code}]));
        assert_eq!(bench.closed(&again), closed, "{token:?}");
    }
}

#[test]
fn a_token_ends_by_the_calendar_however_little_time_has_passed() {
    let mut bench = bench();
    let ann = admission("ann", &[("r", WHOLE, None)]);
    bench.gateway.issue("day", until(86_400, 86_400, ann));
    let client = greeted(&mut bench, "day");
    let calendar = |bench: &mut Bench, unix_now| {
        bench.gateway.handle_calendar(bench.now, unix_now);
        bench.wait(Duration::ZERO);
        bench.hear(&client)
    };
    assert_heard(&calendar(&mut bench, 86_339), json!([]));
    assert_heard(&calendar(&mut bench, 86_350), json!([{"type": "expiring", "in": 50_000}]));
    assert_heard(&calendar(&mut bench, 15), json!([]));
    bench.wait(Duration::from_secs(30));
    assert_eq!(bench.closed(&client), None);
    assert_heard(&calendar(&mut bench, 86_400), json!([]));
    assert_eq!(bench.closed(&client), Some(4005));
}

#[test]
fn without_tokens_none_is_looked_at() {
    let mut bench = Bench::default();
    let client = bench.websocket();
    let heard = hello(&mut bench, &client, Some("whatever"));
    assert_heard(&heard, json!([{"type": "welcome", "user": null}]));
    assert_heard(&refresh(&mut bench, &client, "whatever"), json!([{"type": "ok", "id": 90}]));
}
