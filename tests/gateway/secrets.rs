//! What must never be logged is not, however much is.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use handover::config::{Auth, BrokerPlace};

use super::certificates::provide;
use super::entering::{both, claims, enters, hello, now, secret_file};
use super::redis::RedisServer;
use super::setup::{Member, Served};
use crate::tokens::forge::{SECRET, Signer};

/// What somebody who reads the log must not find.
const TYPED: &str = "nobody's business";
const TURN: &str = "a credential of the relay's";
const REDIS: &str = "what-the-redis-asks-for";
const ISSUER: &str = "what-the-issuer-asks-for";

#[tokio::test]
async fn nothing_secret_is_in_a_debug_log() {
    nothing_secret_is_in_a_log("debug").await;
}

/// Libraries would write whole messages.
#[tokio::test]
async fn nothing_secret_is_in_a_log_of_everything() {
    nothing_secret_is_in_a_log("trace").await;
    nothing_secret_is_in_a_log("info,tungstenite=trace,tokio_tungstenite=trace,handover=debug")
        .await;
}

async fn nothing_secret_is_in_a_log(filter: &str) {
    let dir = tempfile::tempdir().unwrap();
    let keys = secret_file(&dir, "secret", SECRET);
    let identity = Signer::ecdsa();
    provide(dir.path(), &identity, 90);
    let redis = RedisServer::asking_for(REDIS);
    let jwks = format!("http://127.0.0.1:{}/keys?key={ISSUER}", failing_issuer());
    let turn = json!({"urls": "turn:turn.example", "username": "u", "credential": TURN});
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_handover"))
        .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log", filter])
        .arg("--auth-secret-file")
        .arg(&keys)
        .args(["--cert", "cert.pem", "--key", "key.pem", "--auth-jwks", &jwks])
        .args(["--broker", &redis.address])
        .current_dir(dir.path())
        .env_clear()
        .env("HANDOVER_ICE_SERVERS", json!([turn]).to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = gateway.stderr.take().unwrap();
    let logged = thread::spawn(move || {
        let mut logged = String::new();
        stderr.read_to_string(&mut logged).unwrap();
        logged
    });
    let mut lines = BufReader::new(gateway.stdout.take().unwrap()).lines();
    let mut address = |what: &str| -> SocketAddr {
        let line = lines.by_ref().map(Result::unwrap).find(|line| line.trim().starts_with(what));
        line.unwrap().trim()[what.len()..].trim().parse().unwrap()
    };
    let (secure, plain) = (address("QUIC and TLS"), address("plain HTTP"));

    let mut secrets = vec![String::from_utf8(SECRET.to_vec()).unwrap(), TYPED.to_owned()];
    secrets.extend([TURN, REDIS, ISSUER].map(str::to_owned));
    secrets.extend(forms_of(&identity));
    secrets.extend([STANDARD.encode(SECRET), URL_SAFE_NO_PAD.encode(SECRET)]);
    for over_webtransport in [false, true] {
        let dial = async || match over_webtransport {
            true => Member::over_webtransport(secure).await,
            false => Member::over_websocket(plain).await,
        };
        let token = Signer::secret().sign(None, &claims("ann"));
        let mut member = dial().await;
        let welcome = enters(&mut member, &token).await;
        member.join("room").await;
        member.post("room", "bulk", json!({ "text": TYPED })).await;
        member.accepted("bulk", 1).await;
        let mut later = claims("ann");
        later["exp"] = json!(now() + 900);
        let newer = Signer::secret().sign(None, &later);
        assert_ne!(token, newer);
        member.send("signal", json!({"type": "refresh", "id": 90, "token": newer})).await;
        member.expect("signal", "ok").await;
        member.send("signal", json!({"type": "ice", "id": 91})).await;
        let ice = member.expect("signal", "ice").await;
        assert_eq!(ice["servers"][0]["credential"], TURN, "it is told to who may know");

        let mut again = dial().await;
        again.resume(&welcome).await;
        again.expect("signal", "welcome").await;
        let wrong = "dGhlIHNlY3JldCBvZiBub2JvZHkgYXQgYWxsIQ";
        let mut thief = dial().await;
        thief.resume(&json!({"session": welcome["session"], "secret": wrong})).await;
        thief.expect("signal", "error").await;
        let forged = Signer::ecdsa().sign(None, &claims("ann"));
        let mut stranger = dial().await;
        hello(&mut stranger, Some(&forged)).await;
        stranger.expect("signal", "error").await;

        let own = welcome["secret"].as_str().unwrap();
        secrets.extend([own, wrong, &token, &newer, &forged].map(str::to_owned));
        // The part that makes a token one.
        secrets.extend([&token, &newer].map(|t| t.rsplit('.').next().unwrap().to_owned()));
    }

    let id = gateway.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
    let logged = tokio::task::spawn_blocking(|| logged.join().unwrap()).await.unwrap();
    gateway.wait().unwrap();
    assert!(logged.contains("session opened"), "it is a debug log: {logged}");
    assert!(logged.contains("/keys"), "and has where keys were not to be had: {logged}");
    for secret in secrets {
        assert!(!secret.is_empty() && !logged.contains(&secret), "{secret} was logged");
    }
}

/// The port of an issuer that has no keys for anybody.
fn failing_issuer() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    // Ends with the process: nobody connects to tell it to.
    thread::spawn(move || {
        for mut asked in listener.incoming().flatten() {
            let _ = asked.write_all(b"HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n");
            // Read to its end: a reset would overtake the answer.
            let _ = asked.shutdown(Shutdown::Write);
            let _ = asked.read_to_end(&mut Vec::new());
        }
    });
    port
}

/// A private key as it is in its file, and as it would be in a log.
fn forms_of(identity: &Signer) -> Vec<String> {
    let Signer::Ecdsa(pkcs8) = identity else { panic!("another kind") };
    // Behind what says what kind of key it is.
    let scalar = &pkcs8[36..68];
    let hex = |digits: fn(&u8) -> String| scalar.iter().map(digits).collect::<String>();
    let listed = format!("{scalar:?}");
    let pem = identity.private_pem();
    let lines = pem.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned);
    let forms = [hex(|byte| format!("{byte:02x}")), hex(|byte| format!("{byte:02X}"))];
    lines.chain(forms).chain([listed.trim_matches(['[', ']']).to_owned()]).collect()
}

/// Who can read the store reads no secret there: it has what is compared with one.
#[tokio::test]
async fn nothing_in_a_redis_opens_a_session() {
    let dir = tempfile::tempdir().unwrap();
    let redis = RedisServer::start();
    let auth = Auth { secret_file: Some(secret_file(&dir, "secret", SECRET)), ..Auth::default() };
    let served = Served::with(|config| {
        config.broker = BrokerPlace::parse(&redis.address).unwrap();
        config.auth = Some(auth);
    })
    .await;
    served.gateway.ready().await;
    let token = Signer::secret().sign(None, &claims("ann"));
    let (mut secrets, mut sessions) = (vec![token.clone()], Vec::new());
    let mut members = Vec::from(both(&served).await);
    for member in &mut members {
        let welcome = enters(member, &token).await;
        member.join("room").await;
        member.post("room", "bulk", json!("said")).await;
        member.accepted("bulk", 1).await;
        let text = |field: &str| welcome[field].as_str().unwrap().to_owned();
        secrets.push(text("secret"));
        // As bytes, and as they may be written.
        let bytes = URL_SAFE_NO_PAD.decode(text("secret")).unwrap();
        secrets.push(STANDARD.encode(&bytes));
        secrets.push(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        sessions.push(text("session"));
        let mut again = Member::over_websocket(served.plain()).await;
        again.resume(&welcome).await;
        again.expect("signal", "welcome").await;
    }
    secrets.push(token.rsplit('.').next().unwrap().to_owned());
    let keys = redis.command(&["KEYS", "*"]);
    let mut held = keys.clone();
    for key in keys.lines() {
        held += &match redis.command(&["TYPE", key]).trim() {
            "hash" => redis.command(&["HGETALL", key]),
            "list" => redis.command(&["LRANGE", key, "0", "-1"]),
            "set" => redis.command(&["SMEMBERS", key]),
            "zset" => redis.command(&["ZRANGE", key, "0", "-1", "WITHSCORES"]),
            "string" => redis.command(&["GET", key]),
            // It has gone meanwhile.
            "none" => String::new(),
            other => panic!("{key} is a {other}, which is not looked into"),
        };
    }
    for session in sessions {
        assert!(keys.contains(&session), "its record is there: {keys}");
    }
    assert!(held.contains("said"), "and so is what was said: {held}");
    for secret in secrets {
        assert!(!secret.is_empty() && !held.contains(&secret), "{secret} is in {held}");
    }
}

#[tokio::test]
async fn secrets_and_names_are_long_and_have_nothing_in_common() {
    let served = Served::start().await;
    // What is random, in bytes: a secret has 256 bits, a name 96.
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..40 {
        let member = match n % 2 {
            0 => served.websocket().await,
            _ => served.webtransport().await,
        };
        for (field, bytes) in [("secret", 32), ("session", 12), ("peer", 12)] {
            let text = member.welcome[field].as_str().unwrap();
            let random = URL_SAFE_NO_PAD.decode(text).unwrap();
            assert_eq!(random.len(), bytes, "{field}");
            // Neither counted up, nor one made from another: any six bytes are new.
            assert!(
                random.chunks_exact(6).all(|part| seen.insert(part.to_vec())),
                "{field} {text}"
            );
        }
    }
}
