//! Certificates and keys that change under a running gateway: those who are there notice nothing.

use rustls::pki_types::CertificateDer;
use serde_json::json;

use super::certificates::{provide, put, shown_on_quic, shown_on_tcp};
use super::entering::{claims, enters, hello};
use super::setup::{Member, soon};
use crate::process::Process;
use crate::tokens::forge::Signer;

const FILES: [&str; 4] = ["--cert", "cert.pem", "--key", "key.pem"];
const STAYS: &str = "the certificate in use stays: the certificate cert.pem cannot be used";
const STILL: &str = "still no new certificate";

/// Both transports show this certificate to whoever comes now.
async fn shows(gateway: &Process, certificate: &CertificateDer<'static>) {
    let over_tcp = shown_on_tcp(gateway.secure(), rustls::ALL_VERSIONS).await.0;
    assert_eq!(over_tcp, *certificate);
    assert_eq!(shown_on_quic(gateway.secure()).await, *certificate);
}

async fn members(gateway: &Process) -> [Member; 3] {
    [
        Member::webtransport(gateway.secure()).await,
        Member::secure_websocket(gateway.secure()).await,
        Member::websocket(gateway.plain()).await,
    ]
}

async fn all_answer(members: &mut [Member]) {
    for member in members {
        member.answers().await;
    }
}

fn started(first: &Signer, days: u32) -> (Process, CertificateDer<'static>) {
    let dir = tempfile::tempdir().unwrap();
    let certificate = provide(dir.path(), first, days);
    // Every look at the files that changes nothing is a line at debug.
    let log = ["--log", "info,handover::tls=debug", "--log-format", "human"];
    (Process::with(dir, &[FILES, log].concat()), certificate)
}

#[tokio::test]
async fn on_sighup_a_new_certificate_is_for_those_who_come_then() {
    let (gateway, first) = started(&Signer::ecdsa(), 90);
    let mut early = members(&gateway).await;
    shows(&gateway, &first).await;

    // Another kind of key, too.
    let second = provide(gateway.dir(), &Signer::Rsa, 90);
    gateway.signal("HUP");
    gateway.logged("new certificate hash", 1);
    shows(&gateway, &second).await;
    all_answer(&mut early).await;

    put(&gateway.dir().join("cert.pem"), "half a certif");
    gateway.signal("HUP");
    gateway.logged(STAYS, 1);
    // Who asks again is answered, but an error is said once.
    gateway.signal("HUP");
    gateway.logged(&format!("WARN handover::tls: {STILL}"), 1);
    assert_eq!(gateway.logged(STAYS, 1).len(), 1);
    shows(&gateway, &second).await;

    let third = provide(gateway.dir(), &Signer::ecdsa(), 90);
    gateway.signal("HUP");
    gateway.logged("new certificate hash", 2);
    shows(&gateway, &third).await;
    all_answer(&mut early).await;
    all_answer(&mut members(&gateway).await).await;
}

#[tokio::test]
async fn a_change_on_disk_is_noticed_without_a_signal_and_trouble_is_told_once() {
    let (gateway, first) = started(&Signer::ecdsa(), 90);
    let mut early = members(&gateway).await;
    let whole = std::fs::read_to_string(gateway.dir().join("cert.pem")).unwrap();
    put(&gateway.dir().join("cert.pem"), "half a certif");
    gateway.logged(STAYS, 1);
    gateway.logged(STILL, 1);
    // Somebody tries again, to no better effect.
    put(&gateway.dir().join("cert.pem"), "half a certifica");
    gateway.logged(STAYS, 2);
    gateway.logged(STILL, 2);
    assert_eq!(gateway.logged(STAYS, 2).len(), 2, "once for each change");
    shows(&gateway, &first).await;

    // What was there before is no news.
    put(&gateway.dir().join("cert.pem"), &whole);
    let second = provide(gateway.dir(), &Signer::ecdsa(), 90);
    gateway.logged("new certificate hash", 1);
    shows(&gateway, &second).await;
    all_answer(&mut early).await;
}

#[tokio::test]
async fn the_end_of_a_certificate_is_announced() {
    let (gateway, _) = started(&Signer::ecdsa(), 3);
    let warnings = gateway.logged("the certificate ends soon; renew it", 1);
    let three_days = |line: &String| ["=71", "=72"].iter().any(|hours| line.ends_with(hours));
    assert!(three_days(&warnings[0]), "{warnings:?}");
    let end = || {
        let metrics = gateway.get("/metrics");
        let line = metrics.lines().find(|l| l.starts_with("handover_certificate_expires_seconds "));
        line.unwrap().rsplit(' ').next().unwrap().parse::<i64>().unwrap()
    };
    let in_days =
        |days| (time::OffsetDateTime::now_utc() + time::Duration::days(days)).unix_timestamp();
    assert!((in_days(2)..=in_days(3)).contains(&end()));

    provide(gateway.dir(), &Signer::ecdsa(), 90);
    gateway.signal("HUP");
    gateway.logged("new certificate hash", 1);
    assert!((in_days(89)..=in_days(90)).contains(&end()));
    assert_eq!(gateway.logged("ends soon", 1).len(), 1);
}

/// What a file has of a signer's keys.
type Contents = fn(&Signer) -> String;

async fn keys_are_read_again(flag: &str, contents: Contents, old: Signer, new: Signer) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    put(&path, &contents(&old));
    let gateway = Process::with(dir, &[flag, "keys"]);
    let mut inside = Member::over_webtransport(gateway.secure()).await;
    enters(&mut inside, &old.sign(None, &claims("ann"))).await;

    put(&path, &contents(&new));
    gateway.signal("HUP");
    let answer = async |signer: &Signer| {
        let mut member = Member::over_websocket(gateway.plain()).await;
        hello(&mut member, Some(&signer.sign(None, &claims("ann")))).await;
        member.next("signal").await.unwrap()["type"].clone()
    };
    soon(async { while answer(&new).await != "welcome" {} }).await;
    assert_eq!(answer(&old).await, "error", "{flag}");
    inside.answers().await;

    // What cannot be used changes nothing.
    put(&path, "half a ke");
    gateway.signal("HUP");
    gateway.logged("the keys in use stay", 1);
    assert_eq!(answer(&new).await, "welcome", "{flag}");
}

#[tokio::test]
async fn on_sighup_keys_in_files_are_read_again() {
    let two = || (Signer::ecdsa(), Signer::ecdsa());
    let (old, new) = two();
    keys_are_read_again("--auth-key-file", Signer::public_pem, old, new).await;
    let (old, new) = two();
    let jwks: Contents = |signer| json!({"keys": [signer.jwk("k")]}).to_string();
    keys_are_read_again("--auth-jwks", jwks, old, new).await;
    let secret = |letter: &str| Signer::Secret(letter.repeat(40).into_bytes());
    let line: Contents = |signer| match signer {
        Signer::Secret(secret) => String::from_utf8(secret.clone()).unwrap() + "\n",
        _ => panic!("it has no secret"),
    };
    keys_are_read_again("--auth-secret-file", line, secret("o"), secret("n")).await;
}
