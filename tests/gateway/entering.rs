//! Who is let in with which token, over both transports.

use std::path::PathBuf;

use handover::clock::Clock;
use handover::config::Auth;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::setup::{Member, Served};
use super::siege::Besieged;
use crate::tokens::forge::{SECRET, Signer, hs256, token};

pub fn now() -> u64 {
    Clock::start().unix_now().as_secs()
}

/// Claims that are good now.
pub fn claims(user: &str) -> Value {
    let can = ["join", "signal", "publish", "ephemeral"];
    json!({"sub": user, "exp": now() + 600, "rooms": [{"room": "*", "can": can}]})
}

/// Writes a file that only its owner may read.
pub fn secret_file(dir: &tempfile::TempDir, name: &str, contents: &[u8]) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.path().join(name);
    std::fs::write(&path, contents).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A gateway that takes tokens signed with [`SECRET`].
async fn with_secret(dir: &tempfile::TempDir) -> Served {
    let secret_file = Some(secret_file(dir, "secret", SECRET));
    Served::with(|config| config.auth = Some(Auth { secret_file, ..Auth::default() })).await
}

/// One connection on each transport that has said nothing.
pub async fn both(served: &Served) -> [Member; 2] {
    let websocket = Member::over_websocket(served.plain()).await;
    [websocket, Member::over_webtransport(served.secure()).await]
}

pub async fn hello(member: &mut Member, token: Option<&str>) {
    let mut hello = json!({"type": "hello", "version": 1});
    if let Some(token) = token {
        hello["token"] = json!(token);
    }
    member.send("signal", hello).await;
}

/// Says `hello` and is let in; the `welcome`.
pub async fn enters(member: &mut Member, token: &str) -> Value {
    hello(member, Some(token)).await;
    let welcome = member.expect("signal", "welcome").await;
    member.peer = welcome["peer"].as_str().unwrap().to_owned();
    welcome
}

/// Says `hello` and is turned away for good.
async fn is_turned_away(mut member: Member, token: Option<String>, why: &str) {
    hello(&mut member, token.as_deref()).await;
    let error = member.expect("signal", "error").await;
    assert_eq!(error["code"], "unauthorized", "{why}: {error}");
    assert_eq!(member.closed().await, 4501, "{why}");
}

#[tokio::test]
async fn tokens_of_every_algorithm_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let signers = Signer::all();
    let public = signers[1..].iter().map(Signer::public_pem).collect::<String>();
    let served = Served::with(|config| {
        config.auth = Some(Auth {
            secret_file: Some(secret_file(&dir, "secret", SECRET)),
            key_file: Some(secret_file(&dir, "keys.pem", public.as_bytes())),
            ..Auth::default()
        });
    })
    .await;
    for signer in &signers {
        for mut member in both(&served).await {
            let welcome = enters(&mut member, &signer.sign(None, &claims("ann"))).await;
            assert_eq!(welcome["user"], "ann", "{}", signer.algorithm());
            member.join("room").await;
        }
    }
}

#[tokio::test]
async fn forged_and_expired_tokens_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let (rsa, ecdsa, stranger) = (Signer::Rsa, Signer::ecdsa(), Signer::ecdsa());
    let jwks = json!({"keys": [rsa.jwk("rsa"), ecdsa.jwk("ec")]}).to_string();
    secret_file(&dir, "jwks.json", jwks.as_bytes());
    let good = {
        let mut good = claims("ann");
        (good["iss"], good["aud"]) = (json!("us"), json!(["calls"]));
        good
    };
    let settings = ["auth.jwks=jwks.json", "auth.issuer=us", "auth.audience=calls"];
    let token_of_ann = ecdsa.sign(Some("ec"), &good);
    let served = Besieged::within(dir, &settings, Some(token_of_ann)).await;
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        ecdsa.sign(Some("ec"), &claims)
    };
    let header = |alg: &str, kid: &str| json!({"typ": "JWT", "alg": alg, "kid": kid});
    let public = rsa.public_pem();
    let swapped = {
        let (one, other) = (ecdsa.sign(Some("ec"), &good), with("sub", json!("eve")));
        let (message, _) = other.rsplit_once('.').unwrap();
        format!("{message}.{}", one.rsplit_once('.').unwrap().1)
    };
    let forged = [
        ("no token", None),
        ("garbage", Some("garbage".to_owned())),
        ("three parts of garbage", Some("a.b.c".to_owned())),
        ("empty", Some(String::new())),
        ("alg none", Some(token(&header("none", "ec"), &good, |_| Vec::new()))),
        (
            "a public key as a secret",
            Some(token(&header("HS256", "rsa"), &good, |text| hs256(public.as_bytes(), text))),
        ),
        ("a stranger's key", Some(stranger.sign(Some("ec"), &good))),
        ("a stranger's key by its own name", Some(stranger.sign(Some("other"), &good))),
        ("the name of another key", Some(ecdsa.sign(Some("rsa"), &good))),
        ("an algorithm of another key", Some(ecdsa.sign_under(&header("RS256", "rsa"), &good))),
        ("another algorithm of the family", Some(rsa.sign_under(&header("RS512", "rsa"), &good))),
        ("a signature for other claims", Some(swapped)),
        ("another issuer", Some(with("iss", json!("them")))),
        ("no issuer", Some(with("iss", json!(null)))),
        ("another audience", Some(with("aud", json!("mail")))),
        ("no audience", Some(with("aud", json!(null)))),
        ("expired", Some(with("exp", json!(now() - 60)))),
        ("without an end", Some(with("exp", json!(null)))),
        ("not valid yet", Some(with("nbf", json!(now() + 60)))),
        ("without a user", Some(with("sub", json!(null)))),
        ("claims of the wrong shape", Some(with("rooms", json!("*")))),
    ];
    // All at once, because a WebTransport connection takes its time to close.
    let mut attempts = JoinSet::new();
    for (why, token) in forged {
        for member in served.strangers().await {
            attempts.spawn(is_turned_away(member, token.clone(), why));
        }
    }
    attempts.join_all().await;
    served.is_well().await;
}

#[tokio::test]
async fn a_grant_holds_on_both_transports() {
    let dir = tempfile::tempdir().unwrap();
    let served = with_secret(&dir).await;
    let mut watching = Member::over_websocket(served.plain()).await;
    enters(&mut watching, &Signer::secret().sign(None, &claims("ann"))).await;
    watching.join("lecture").await;
    let mut listening = claims("bob");
    listening["rooms"] =
        json!([{"room": "lecture", "can": ["join", "publish"], "metadata": {"role": "guest"}}]);
    for mut member in both(&served).await {
        enters(&mut member, &Signer::secret().sign(None, &listening)).await;
        member.join("lecture").await;
        let joined = watching.expect("signal", "member_joined").await;
        assert_eq!(
            (&joined["user"], &joined["metadata"]["role"]),
            (&json!("bob"), &json!("guest"))
        );

        let seq = member.post("lecture", "signal", json!("no")).await;
        let refused = member.expect("signal", "error").await;
        assert_eq!((&refused["code"], &refused["seq"]), (&json!("forbidden"), &json!(seq)));
        let seq = member.post("lecture", "bulk", json!("yes")).await;
        member.accepted("bulk", seq).await;
        assert_eq!(watching.expect("bulk", "message").await["body"], "yes");

        member.send("signal", json!({"type": "join", "id": 9, "room": "elsewhere"})).await;
        let refused = member.expect("signal", "error").await;
        assert_eq!((&refused["code"], &refused["id"]), (&json!("forbidden"), &json!(9)));
        member.answers().await;
        member.send("signal", json!({"type": "bye"})).await;
        assert_eq!(member.closed().await, 4500);
        watching.expect("signal", "member_left").await;
    }
}

#[tokio::test]
async fn admin_is_taken_and_grants_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let served = with_secret(&dir).await;
    for mut member in both(&served).await {
        let mut admin = claims("ann");
        admin["rooms"] = json!([
            {"room": "*", "can": ["admin"]},
            {"room": "hall", "can": ["join", "admin"]},
        ]);
        enters(&mut member, &Signer::secret().sign(None, &admin)).await;
        member.send("signal", json!({"type": "join", "id": 9, "room": "room"})).await;
        let refused = member.expect("signal", "error").await;
        assert_eq!((&refused["code"], &refused["id"]), (&json!("forbidden"), &json!(9)));
        member.join("hall").await;
        for lane in ["signal", "bulk"] {
            let seq = member.post("hall", lane, json!("no")).await;
            let refused = member.expect(lane, "error").await;
            assert_eq!((&refused["code"], &refused["seq"]), (&json!("forbidden"), &json!(seq)));
        }
        member.send("signal", json!({"type": "bye"})).await;
        assert_eq!(member.closed().await, 4500);
    }
}

#[tokio::test]
async fn a_token_that_is_about_to_end_is_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let served = with_secret(&dir).await;
    for mut member in both(&served).await {
        let mut ending = claims("ann");
        (ending["iat"], ending["exp"]) = (json!(now() - 600), json!(now() + 50));
        enters(&mut member, &Signer::secret().sign(None, &ending)).await;
        let expiring = member.expect("signal", "expiring").await;
        assert!((1..=50_000).contains(&expiring["in"].as_u64().unwrap()), "{expiring}");
        member.answers().await;
    }
}

/// Has a member's token end soon. However slow the machine is: what was granted before holds until
/// then, and what is said on the way does not matter.
async fn runs_out(member: &mut Member, signer: &Signer) {
    let mut short = claims("ann");
    (short["iat"], short["exp"]) = (json!(now()), json!(now() + 1));
    let refresh = json!({"type": "refresh", "id": 70, "token": signer.sign(None, &short)});
    member.send("signal", refresh).await;
    loop {
        let said = member.next("signal").await.expect("it says why it ends");
        match said["type"].as_str() {
            Some("ok" | "expiring") => {}
            _ => break assert_eq!((&said["type"], &said["code"]), (&json!("close"), &json!(4005))),
        }
    }
}

#[tokio::test]
async fn a_token_ends_and_its_session_goes_on_with_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let secret_file = Some(secret_file(&dir, "secret", SECRET));
    let leeway = std::time::Duration::from_secs(5);
    let auth = Auth { secret_file, leeway, ..Auth::default() };
    let served = Served::with(|config| config.auth = Some(auth)).await;
    let signer = Signer::secret();
    for mut member in both(&served).await {
        let welcome = enters(&mut member, &signer.sign(None, &claims("ann"))).await;
        let joined = member.join("room").await;
        runs_out(&mut member, &signer).await;

        let had = json!({"epoch": joined["epoch"], "signal": joined["signal"], "bulk": 0});
        let resume = json!({
            "session": welcome["session"], "secret": welcome["secret"], "rooms": {"room": had},
        });
        let hello = |token: Option<String>| {
            let mut hello = json!({"type": "hello", "version": 1, "resume": resume});
            if let Some(token) = token {
                hello["token"] = json!(token);
            }
            hello
        };
        let mut without = Member::over_websocket(served.plain()).await;
        without.send("signal", hello(None)).await;
        assert_eq!(without.expect("signal", "error").await["code"], "unauthorized");
        assert_eq!(without.closed().await, 4501);

        let mut again = Member::over_webtransport(served.secure()).await;
        let bob = signer.sign(None, &claims("bob"));
        again.send("signal", hello(Some(bob))).await;
        assert_eq!(again.expect("signal", "error").await["code"], "forbidden");
        let newer = signer.sign(None, &claims("ann"));
        again.send("signal", hello(Some(newer))).await;
        let welcome = again.expect("signal", "welcome").await;
        assert_eq!((&welcome["resumed"], &welcome["lost"]), (&json!(true), &json!([])));
        again.send("signal", json!({"type": "bye"})).await;
    }
}

#[tokio::test]
async fn a_newer_token_changes_what_a_live_connection_may_do() {
    let dir = tempfile::tempdir().unwrap();
    let served = with_secret(&dir).await;
    let signer = Signer::secret();
    for mut member in both(&served).await {
        let mut mute = claims("ann");
        mute["rooms"] = json!([{"room": "room", "can": ["join"]}]);
        enters(&mut member, &signer.sign(None, &mute)).await;
        member.join("room").await;
        let refresh = |token: String| json!({"type": "refresh", "id": 70, "token": token});
        member.send("signal", refresh(signer.sign(None, &claims("ann")))).await;
        assert_eq!(member.expect("signal", "ok").await["id"], 70);
        let seq = member.post("room", "signal", json!("hello")).await;
        member.accepted("signal", seq).await;

        member.send("signal", refresh(signer.sign(None, &claims("bob")))).await;
        let refused = member.expect("signal", "error").await;
        assert_eq!((&refused["code"], &refused["id"]), (&json!("forbidden"), &json!(70)));
        member.answers().await;

        let mut expired = claims("ann");
        expired["exp"] = json!(1);
        member.send("signal", refresh(signer.sign(None, &expired))).await;
        assert_eq!(member.expect("signal", "error").await["code"], "unauthorized");
        assert_eq!(member.closed().await, 4501);
    }
}
