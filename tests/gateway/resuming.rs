//! A session that goes on may do what the token says that is shown then, or what the last one said
//! if none is, and never what both say together: over real sockets, from each transport to each.

use serde_json::{Value, json};

use super::entering::{claims, enters, now, secret_file};
use super::setup::{Member, Served};
use crate::tokens::forge::{SECRET, Signer};

const ROOM: &str = "room";
/// What a token can allow besides `join`.
const RIGHTS: [&str; 3] = ["signal", "publish", "ephemeral"];

#[derive(Clone, Copy, Debug)]
enum Over {
    WebSocket,
    WebTransport,
}

const WAYS: [[Over; 2]; 4] = [
    [Over::WebSocket, Over::WebSocket],
    [Over::WebSocket, Over::WebTransport],
    [Over::WebTransport, Over::WebSocket],
    [Over::WebTransport, Over::WebTransport],
];

impl Over {
    async fn dial(self, served: &Served) -> Member {
        match self {
            Over::WebSocket => Member::over_websocket(served.plain()).await,
            Over::WebTransport => Member::over_webtransport(served.secure()).await,
        }
    }
}

async fn served(dir: &tempfile::TempDir) -> Served {
    let secret_file = Some(secret_file(dir, "secret", SECRET));
    let auth = handover::config::Auth { secret_file, ..Default::default() };
    Served::with(|config| config.auth = Some(auth)).await
}

/// A token that allows being in the room, and these.
fn token(user: &str, rights: &[&str]) -> String {
    let can: Vec<_> = ["join"].iter().chain(rights).collect();
    let mut claims = claims(user);
    claims["rooms"] = json!([{"room": ROOM, "can": can}]);
    Signer::secret().sign(None, &claims)
}

async fn says_resume(member: &mut Member, session: &Value, token: Option<&str>) {
    let resume = json!({"session": session["session"], "secret": session["secret"], "rooms": {}});
    let mut hello = json!({"type": "hello", "version": 1, "resume": resume});
    if let Some(token) = token {
        hello["token"] = json!(token);
    }
    member.send("signal", hello).await;
}

/// It is closed, and knows why.
async fn is_told(member: &mut Member, code: u64) {
    assert_eq!(member.expect("signal", "close").await["code"], code);
}

/// Which of [`RIGHTS`] it has in the room, found out by using them all. `seqs` are those it has
/// used on the two lanes.
async fn rights(member: &mut Member, seqs: &mut [u64; 2]) -> Vec<&'static str> {
    let mut has = Vec::new();
    for (right, lane, seq) in [("signal", "signal", 0), ("publish", "bulk", 1)] {
        let fields = json!({
            "type": "send", "room": ROOM, "lane": lane, "seq": seqs[seq] + 1, "body": 1,
        });
        member.send(lane, fields).await;
        let said = member.next(lane).await.unwrap();
        if said["type"] == "accepted" {
            seqs[seq] += 1;
            has.push(right);
        } else {
            assert_eq!((&said["type"], &said["code"]), (&json!("error"), &json!("forbidden")));
        }
        assert_eq!(said["lane"], lane, "{said}");
    }
    member.send("signal", json!({"type": "ephemeral", "room": ROOM, "body": 1})).await;
    member.send("signal", json!({"type": "ping", "id": 99})).await;
    let said = member.next("signal").await.unwrap();
    if said["type"] == "pong" {
        has.push("ephemeral");
    } else {
        assert_eq!(said["code"], "forbidden", "{said}");
        member.expect("signal", "pong").await;
    }
    // Nothing was ever said of another room.
    member.send("signal", json!({"type": "join", "id": 98, "room": "another"})).await;
    assert_eq!(member.expect("signal", "error").await["code"], "forbidden");
    has
}

/// Takes what follows a resume without positions; the `seq` used so far.
async fn goes_on(member: &mut Member) -> [u64; 2] {
    let welcome = member.expect("signal", "welcome").await;
    assert_eq!((&welcome["resumed"], &welcome["user"]), (&json!(true), &json!("ann")));
    assert_eq!(member.expect("signal", "reset").await["reason"], "unlisted");
    assert_eq!(member.expect("bulk", "position").await["start"], true);
    let seq = &welcome["rooms"][ROOM]["seq"];
    ["signal", "bulk"].map(|lane| seq[lane].as_u64().unwrap())
}

#[tokio::test]
async fn what_is_shown_is_what_counts_and_nothing_from_before_is_added() {
    let dir = tempfile::tempdir().unwrap();
    let served = served(&dir).await;
    for ways in WAYS {
        let mut member = ways[0].dial(&served).await;
        let session = enters(&mut member, &token("ann", &["publish"])).await;
        member.join(ROOM).await;
        let mut seqs = [0, 0];
        assert_eq!(rights(&mut member, &mut seqs).await, ["publish"], "{ways:?}");
        // What is shown, and what may be done from then on.
        let steps: [(Option<&[&str]>, &[&str]); 8] = [
            (None, &["publish"]),
            (Some(&[]), &[]),
            // The secret alone does not bring back what an earlier token allowed.
            (None, &[]),
            (Some(&["signal"]), &["signal"]),
            (None, &["signal"]),
            (Some(&RIGHTS), &RIGHTS),
            (Some(&["ephemeral"]), &["ephemeral"]),
            (None, &["ephemeral"]),
        ];
        for (at, (shown, allowed)) in steps.into_iter().enumerate() {
            // The one before is there still, and is replaced.
            let mut again = ways[(at + 1) % 2].dial(&served).await;
            let shown = shown.map(|rights| token("ann", rights));
            says_resume(&mut again, &session, shown.as_deref()).await;
            assert_eq!(goes_on(&mut again).await, seqs, "{ways:?} {at}");
            assert_eq!(rights(&mut again, &mut seqs).await, allowed, "{ways:?} {at}");
            is_told(&mut member, 4504).await;
            member = again;
        }
        member.send("signal", json!({"type": "bye"})).await;
        member.bye().await;
    }
}

#[tokio::test]
async fn a_wider_token_of_somebody_else_or_a_bad_one_takes_nothing_over() {
    let dir = tempfile::tempdir().unwrap();
    let served = served(&dir).await;
    for ways in WAYS {
        let mut member = ways[0].dial(&served).await;
        let session = enters(&mut member, &token("ann", &["publish"])).await;
        member.join(ROOM).await;
        let mut other = ways[1].dial(&served).await;
        says_resume(&mut other, &session, Some(&token("bob", &RIGHTS))).await;
        assert_eq!(other.expect("signal", "error").await["code"], "forbidden", "{ways:?}");

        let good = claims("ann");
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            Signer::secret().sign(None, &claims)
        };
        for bad in [
            "garbage".to_owned(),
            String::new(),
            Signer::Secret(vec![7; 40]).sign(None, &good),
            Signer::ecdsa().sign(None, &good),
            with("exp", json!(now() - 60)),
            with("nbf", json!(now() + 60)),
            with("aud", json!("somebody else")),
        ] {
            let mut thief = ways[1].dial(&served).await;
            says_resume(&mut thief, &session, Some(&bad)).await;
            let refused = thief.expect("signal", "error").await;
            assert_eq!(refused["code"], "unauthorized", "{ways:?} {bad}");
            is_told(&mut thief, 4501).await;
            // For a connection that is there it is no better.
            let mut inside = ways[1].dial(&served).await;
            enters(&mut inside, &token("ann", &[])).await;
            inside.send("signal", json!({"type": "refresh", "id": 7, "token": bad})).await;
            let refused = inside.expect("signal", "error").await;
            assert_eq!((&refused["code"], &refused["id"]), (&json!("unauthorized"), &json!(7)));
            is_told(&mut inside, 4501).await;
        }
        // The session has noticed nothing, and is where it was.
        assert_eq!(rights(&mut member, &mut [0, 0]).await, ["publish"], "{ways:?}");
        member.send("signal", json!({"type": "bye"})).await;
        member.bye().await;
    }
}

#[tokio::test]
async fn a_room_that_is_not_allowed_any_more_is_lost_and_a_wider_token_is_no_way_back_in() {
    let dir = tempfile::tempdir().unwrap();
    let served = served(&dir).await;
    for ways in WAYS {
        let mut watching = ways[1].dial(&served).await;
        enters(&mut watching, &token("eve", &RIGHTS)).await;
        watching.join(ROOM).await;
        let mut member = ways[0].dial(&served).await;
        let session = enters(&mut member, &token("ann", &RIGHTS)).await;
        member.join(ROOM).await;
        watching.expect("signal", "member_joined").await;

        let mut elsewhere = claims("ann");
        elsewhere["rooms"] = json!([{"room": "another", "can": ["join"]}]);
        let elsewhere = Signer::secret().sign(None, &elsewhere);
        let wider = token("ann", &RIGHTS);
        for shown in [&elsewhere, &wider] {
            let mut again = ways[1].dial(&served).await;
            says_resume(&mut again, &session, Some(shown)).await;
            let welcome = again.expect("signal", "welcome").await;
            assert_eq!((&welcome["resumed"], &welcome["rooms"]), (&json!(true), &json!({})));
            // It is no member, whatever it may become.
            let send = json!({"type": "send", "room": ROOM, "lane": "signal", "seq": 1, "body": 1});
            again.send("signal", send).await;
            let code = if shown == &wider { "not_a_member" } else { "forbidden" };
            assert_eq!(again.expect("signal", "error").await["code"], code, "{ways:?}");
            is_told(&mut member, 4504).await;
            member = again;
        }
        let left = watching.expect("signal", "member_left").await;
        assert_eq!(left["reason"], "kicked", "{left}");
        watching.answers().await;
        member.join(ROOM).await;
        for mut member in [member, watching] {
            member.send("signal", json!({"type": "bye"})).await;
            member.bye().await;
        }
    }
}
