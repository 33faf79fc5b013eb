//! From claims to what they allow.

use std::time::Duration;

use handover::auth::{Claims, Expectations, TokenError, admit};
use handover::clock::UnixTime;
use handover_protocol::session::grant::{Admission, Right};
use handover_protocol::wire::RoomName;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::keys::{NOW, claims, expectations};

fn admitted_by(
    expected: &Expectations,
    claims: &Value,
    now: UnixTime,
) -> Result<Admission, TokenError> {
    let claims: Claims = serde_json::from_str(&claims.to_string())
        .map_err(|_| TokenError::Claims("a claim has the wrong type"))?;
    admit(claims, expected, now)
}

fn admitted(claims: &Value) -> Result<Admission, TokenError> {
    admitted_by(&expectations(), claims, NOW)
}

fn refused(claims: &Value) -> &'static str {
    admitted(claims).err().map_or("taken", |error| error.name())
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

#[test]
fn a_grant_says_what_the_claims_say() {
    let rooms = json!([
        {"room": "team/*", "can": ["join", "signal"], "metadata": {"role": "guest"}},
        {"room": "hall", "can": ["join", "publish", "ephemeral", "admin"]},
    ]);
    let admission = admitted(&with("rooms", rooms)).unwrap();
    assert_eq!(admission.user.as_ref().map(|user| user.as_str()), Some("ann"));
    let room = |name| RoomName::parse(name).unwrap();
    let can = |name| -> Vec<Right> {
        Right::ALL.into_iter().filter(|right| admission.grant.allows(&room(name), *right)).collect()
    };
    assert_eq!(can("team/a"), [Right::Join, Right::Signal]);
    assert_eq!(can("hall"), [Right::Join, Right::Publish, Right::Ephemeral, Right::Admin]);
    assert_eq!(can("elsewhere"), []);
    let fixed = admission.grant.metadata(&room("team/a")).unwrap();
    assert_eq!(fixed.as_str(), "{\"role\":\"guest\"}");
    assert_eq!(admission.lapse.unwrap().at, NOW.as_secs() + 600);
}

#[test]
fn without_rooms_nothing_is_allowed() {
    let mut bare = claims();
    bare.as_object_mut().unwrap().remove("rooms");
    for claims in [bare, with("rooms", json!([])), with("rooms", json!(null))] {
        assert!(admitted(&claims).unwrap().grant.rooms.is_empty(), "{claims}");
    }
}

#[test]
fn what_is_missing_or_misshapen_is_named() {
    for (name, value) in [
        ("sub", json!(null)),
        ("sub", json!("")),
        ("sub", json!("x".repeat(256))),
        ("sub", json!("a\nb")),
        ("exp", json!(null)),
        ("rooms", json!(vec![json!({"room": "a", "can": []}); 257])),
        ("rooms", json!([{"room": "", "can": []}])),
        ("rooms", json!([{"room": " a", "can": []}])),
        ("rooms", json!([{"room": "a", "can": ["jion"]}])),
        ("rooms", json!([{"room": "a", "can": [], "metadata": 7}])),
        ("rooms", json!([{"room": "a", "can": [], "metadata": {"x": "y".repeat(4_096)}}])),
    ] {
        let error = admitted(&with(name, value.clone())).unwrap_err();
        let TokenError::Claim { claim, .. } = &error else { panic!("{error}") };
        assert_eq!(*claim, name, "{value}");
    }
    for (name, value) in [
        ("sub", json!(7)),
        ("exp", json!("soon")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("nbf", json!([])),
        ("aud", json!({})),
        ("rooms", json!("*")),
        ("rooms", json!([{"room": "a"}])),
        ("rooms", json!([{"can": []}])),
    ] {
        assert_eq!(refused(&with(name, value.clone())), "claims", "{name} {value}");
    }
}

#[test]
fn times_are_taken_with_leeway() {
    let now = NOW.as_secs();
    for (exp, outcome) in [
        (json!(now + 1), "taken"),
        (json!(now), "taken"),
        (json!(now - 29), "taken"),
        (json!(now - 30), "expired"),
        (json!(0), "expired"),
        (json!(now as f64 + 0.5), "taken"),
        (json!(now as f64 - 30.5), "expired"),
    ] {
        assert_eq!(refused(&with("exp", exp.clone())), outcome, "{exp}");
    }
    for (nbf, outcome) in [(now, "taken"), (now + 30, "taken"), (now + 31, "not_yet")] {
        assert_eq!(refused(&with("nbf", json!(nbf))), outcome, "{nbf}");
    }
}

#[test]
fn a_token_ends_when_it_says_and_a_late_one_after_the_leeway() {
    let now = NOW.as_secs();
    let end = |exp: u64| admitted(&with("exp", json!(exp))).unwrap().lapse.unwrap().at;
    assert_eq!(end(now + 5), now + 5);
    assert_eq!(end(now), now + 30);
    assert_eq!(end(now - 10), now + 20);
}

#[test]
fn its_life_counts_from_when_it_was_made() {
    let now = NOW.as_secs();
    for (name, at, life) in [("iat", now - 3_000, 3_600), ("nbf", now - 100, 700), ("x", 0, 600)] {
        assert_eq!(admitted(&with(name, json!(at))).unwrap().lapse.unwrap().life, life, "{name}");
    }
}

#[test]
fn issuer_and_audience_have_to_be_ours() {
    let expected = Expectations {
        issuers: vec!["https://id.example".into(), "other".into()],
        audiences: vec!["calls".into()],
        ..expectations()
    };
    let outcome = |iss: Value, aud: Value| {
        let mut claims = claims();
        (claims["iss"], claims["aud"]) = (iss, aud);
        admitted_by(&expected, &claims, NOW).err().map_or("taken", |error| error.name())
    };
    let (ours, calls) = (json!("https://id.example"), json!("calls"));
    assert_eq!(outcome(ours.clone(), calls.clone()), "taken");
    assert_eq!(outcome(json!("other"), json!(["mail", "calls"])), "taken");
    for wrong in [json!(null), json!("https://id.example/"), json!("evil")] {
        assert_eq!(outcome(wrong.clone(), calls.clone()), "issuer", "{wrong}");
    }
    for wrong in [json!(null), json!("mail"), json!([]), json!(["mail"])] {
        assert_eq!(outcome(ours.clone(), wrong.clone()), "audience", "{wrong}");
    }
    // Who has no name of its own is nobody's audience, as RFC 7519 has it.
    assert_eq!(refused(&with("aud", calls)), "audience");
    assert_eq!(refused(&with("iss", json!("anybody"))), "taken");
}

prop_compose! {
    fn any_claims()(
        sub in "[a-z]{0,3}",
        exp in -1_000_i64..1_000,
        nbf in proptest::option::of(-1_000_i64..1_000),
        iss in proptest::option::of("[ab]"),
        aud in proptest::collection::vec("[ab]", 0..3),
        rooms in proptest::collection::vec(
            ("[ab/]{0,3}\\*?", proptest::sample::subsequence(
                vec!["join", "signal", "publish", "ephemeral", "admin", "fly"], 0..=6,
            )),
            0..4,
        ),
    ) -> Value {
        let at = |offset: i64| json!(NOW.as_secs().saturating_add_signed(offset));
        let rooms: Vec<Value> =
            rooms.into_iter().map(|(room, can)| json!({"room": room, "can": can})).collect();
        json!({
            "sub": sub, "exp": at(exp), "nbf": nbf.map(at), "iss": iss, "aud": aud, "rooms": rooms,
        })
    }
}

/// Whether a pattern names a room, told in another way than the gateway has it.
fn names(pattern: &str, room: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, _)) => room.get(..start.len()) == Some(start),
        None => pattern == room,
    }
}

proptest! {
    #[test]
    fn a_grant_allows_what_its_claims_list_and_nothing_more(
        claims in any_claims(),
        leeway in 0..100_u64,
        issuers in proptest::sample::subsequence(vec!["a".to_owned(), "b".to_owned()], 0..=2),
        audiences in proptest::sample::subsequence(vec!["a".to_owned(), "b".to_owned()], 0..=2),
        room in "[ab/]{1,4}",
    ) {
        let leeway = Duration::from_secs(leeway);
        let expected =
            Expectations { issuers, audiences, leeway, metadata_bytes: 100 };
        let Ok(admission) = admitted_by(&expected, &claims, NOW) else { return Ok(()) };
        // Whoever is let in has a name, a token of our issuer for us, and is in time.
        prop_assert_eq!(admission.user.as_ref().map(|user| user.as_str()), claims["sub"].as_str());
        prop_assert_ne!(&claims["sub"], &json!(""));
        let now = NOW.as_secs();
        prop_assert!(claims["exp"].as_u64().unwrap() + leeway.as_secs() > now);
        prop_assert!(claims["nbf"].as_u64().unwrap_or(0) <= now + leeway.as_secs());
        prop_assert!(admission.lapse.unwrap().at > now);
        prop_assert!(expected.issuers.is_empty()
            || expected.issuers.iter().any(|issuer| claims["iss"] == json!(issuer)));
        let aud = claims["aud"].as_array().unwrap();
        prop_assert_eq!(
            expected.audiences.is_empty() && aud.is_empty(),
            !expected.audiences.iter().any(|ours| aud.contains(&json!(ours)))
        );
        let name = RoomName::parse(&room).unwrap();
        for right in Right::ALL {
            let listed = claims["rooms"].as_array().unwrap().iter().any(|grant| {
                names(grant["room"].as_str().unwrap(), &room)
                    && grant["can"].as_array().unwrap().contains(&json!(right.name()))
            });
            prop_assert_eq!(admission.grant.allows(&name, right), listed, "{:?} {}", right, claims);
        }
    }

    /// Of claims made at random few let anybody in, so these are good but for what they list.
    #[test]
    fn a_right_is_granted_where_it_is_listed_and_nowhere_else(
        rooms in proptest::collection::vec(
            ("[ab]{0,2}\\*|[ab]{1,3}", proptest::sample::subsequence(
                Right::ALL.map(Right::name).to_vec(), 0..=5,
            )),
            0..4,
        ),
        room in "[ab]{1,3}",
    ) {
        let listed: Vec<_> =
            rooms.iter().map(|(room, can)| json!({"room": room, "can": can})).collect();
        let admission = admitted(&with("rooms", json!(listed))).unwrap();
        let name = RoomName::parse(&room).unwrap();
        for right in Right::ALL {
            let is_listed =
                rooms.iter().any(|(at, can)| names(at, &room) && can.contains(&right.name()));
            prop_assert_eq!(admission.grant.allows(&name, right), is_listed, "{:?}", right);
        }
    }

    #[test]
    fn time_only_ever_takes_away(claims in any_claims(), earlier in 0..900_u64, later in 0..900_u64) {
        let expected = Expectations { audiences: vec!["a".into(), "b".into()], ..expectations() };
        let mut claims = claims;
        claims["nbf"] = json!(null);
        let outcome = |by| {
            admitted_by(&expected, &claims, NOW.plus(Duration::from_secs(by))).is_ok()
        };
        let (earlier, later) = (earlier.min(later), earlier.max(later));
        prop_assert!(outcome(earlier) || !outcome(later));
    }
}
