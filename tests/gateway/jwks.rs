//! Keys fetched from an issuer's address, and their rotation.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use handover::config::{Auth, JwksPlace};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either;

use super::entering::{both, claims, enters, hello};
use super::setup::{Member, Served, soon};
use crate::tokens::forge::Signer;

/// An issuer's HTTP server.
struct Issuer {
    url: String,
    /// What it answers: status with header lines, and body.
    answer: Arc<Mutex<(String, String)>>,
    /// It says half of that, and nothing more.
    stalls: Arc<AtomicBool>,
    asked: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Issuer {
    async fn with(keys: &[Value]) -> Self {
        Self::start(keys, None).await
    }

    async fn start(keys: &[Value], tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = match tls {
            Some(_) => format!("https://localhost:{port}/keys"),
            None => format!("http://127.0.0.1:{port}/keys"),
        };
        let answer = Arc::new(Mutex::new(("200 X".to_owned(), json!({"keys": keys}).to_string())));
        let (count, asked) = watch::channel(0);
        let (answers, stalls) = (answer.clone(), Arc::<AtomicBool>::default());
        let is_stalling = stalls.clone();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let mut stream = match &tls {
                    None => Either::Left(tcp),
                    Some(tls) => match tls.accept(tcp).await {
                        Ok(stream) => Either::Right(stream),
                        // Not believed.
                        Err(_) => continue,
                    },
                };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                assert!(request.starts_with(b"GET /keys HTTP/1.1\r\n"));
                let (head, body) = answers.lock().unwrap().clone();
                let head = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len());
                if is_stalling.load(Ordering::Acquire) {
                    let half = body[..body.len() / 2].to_owned();
                    stream.write_all((head.clone() + &half).as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                    count.send_modify(|count| *count += 1);
                    std::future::pending::<()>().await;
                }
                // Who has heard enough may hang up.
                let _ = stream.write_all((head + &body).as_bytes()).await;
                let _ = stream.flush().await;
                count.send_modify(|count| *count += 1);
            }
        });
        Issuer { url, answer, stalls, asked, task }
    }

    fn answers(&self, status: u16, keys: &[Value]) {
        let head = format!("{status} X");
        *self.answer.lock().unwrap() = (head, json!({"keys": keys}).to_string());
    }

    fn asked(&self) -> usize {
        *self.asked.borrow()
    }

    async fn gateway(&self, jwks_pause: Duration) -> Served {
        self.gateway_with(Auth { jwks_pause, ..Auth::default() }).await
    }

    async fn gateway_with(&self, auth: Auth) -> Served {
        let jwks = Some(JwksPlace::Url(self.url.parse().unwrap()));
        Served::with(|config| config.auth = Some(Auth { jwks, ..auth })).await
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_key_that_is_new_at_the_issuer_is_fetched_when_a_token_names_it() {
    let (old, new) = (Signer::ecdsa(), Signer::ed25519());
    let issuer = Issuer::with(&[old.jwk("old")]).await;
    let served = issuer.gateway(Duration::ZERO).await;
    let [mut one, mut other] = both(&served).await;
    // The first may come before the first fetch is done.
    enters(&mut one, &old.sign(Some("old"), &claims("ann"))).await;
    let asked = issuer.asked();

    issuer.answers(200, &[new.jwk("new")]);
    enters(&mut other, &new.sign(Some("new"), &claims("ann"))).await;
    assert!(issuer.asked() > asked);

    // The old key is gone from the issuer, and with it whatever it signed. Whoever is in stays.
    for mut member in both(&served).await {
        hello(&mut member, Some(&old.sign(Some("old"), &claims("eve")))).await;
        assert_eq!(member.expect("signal", "error").await["code"], "unauthorized");
        assert_eq!(member.closed().await, 4501);
    }
    one.answers().await;
    other.answers().await;
}

#[tokio::test]
async fn tokens_with_made_up_names_do_not_make_it_ask_again_and_again() {
    let signer = Signer::ecdsa();
    let issuer = Issuer::with(&[signer.jwk("k")]).await;
    let served = issuer.gateway(Duration::from_secs(3_600)).await;
    let [mut good, _] = both(&served).await;
    enters(&mut good, &signer.sign(Some("k"), &claims("ann"))).await;
    for name in 0..5 {
        for mut member in both(&served).await {
            let forged = Signer::ecdsa().sign(Some(&format!("k{name}")), &claims("eve"));
            hello(&mut member, Some(&forged)).await;
            assert_eq!(member.expect("signal", "error").await["code"], "unauthorized");
        }
    }
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn an_issuer_that_fails_costs_nobody_who_has_a_known_key() {
    let signer = Signer::Rsa;
    let issuer = Issuer::with(&[signer.jwk("k")]).await;
    let served = issuer.gateway(Duration::ZERO).await;
    let token = signer.sign(Some("k"), &claims("ann"));
    let [mut one, _] = both(&served).await;
    enters(&mut one, &token).await;
    // What comes with an error does not count, keys or not.
    let new = Signer::ecdsa();
    for (status, keys) in [(500, vec![new.jwk("new")]), (200, vec![])] {
        issuer.answers(status, &keys);
        for mut member in both(&served).await {
            hello(&mut member, Some(&new.sign(Some("new"), &claims("ann")))).await;
            assert_eq!(member.expect("signal", "error").await["code"], "unauthorized");
        }
        for mut member in both(&served).await {
            enters(&mut member, &token).await;
        }
    }
}

#[tokio::test]
async fn an_issuer_that_says_too_much_or_does_not_end_costs_nobody_who_has_a_known_key() {
    let [known, new, newest] = [Signer::ecdsa(), Signer::ecdsa(), Signer::ecdsa()];
    let issuer = Issuer::with(&[known.jwk("known")]).await;
    let served = issuer.gateway(Duration::ZERO).await;
    let token = known.sign(Some("known"), &claims("ann"));
    let enters_by_known = async || {
        for mut member in both(&served).await {
            enters(&mut member, &token).await;
        }
    };
    enters_by_known().await;
    let is_refused = async |signer: &Signer, kid| {
        let mut member = Member::over_websocket(served.plain()).await;
        hello(&mut member, Some(&signer.sign(Some(kid), &claims("ann")))).await;
        assert_eq!(member.expect("signal", "error").await["code"], "unauthorized");
    };
    let says = |bytes: usize| {
        let keys = [known.jwk("known"), new.jwk("new")];
        let least = json!({"keys": keys, "more": ""}).to_string().len();
        let body = json!({"keys": keys, "more": "x".repeat(bytes - least)}).to_string();
        assert_eq!(body.len(), bytes);
        *issuer.answer.lock().unwrap() = ("200 X".to_owned(), body);
    };
    says(256 * 1_024 + 1);
    is_refused(&new, "new").await;
    enters_by_known().await;
    says(256 * 1_024);
    let [mut by_new, _] = both(&served).await;
    enters(&mut by_new, &new.sign(Some("new"), &claims("ann"))).await;
    // Half of an answer is waited for, for five seconds, by who needs it; nobody else waits.
    issuer.stalls.store(true, Ordering::Release);
    let (mut asked, seen) = (issuer.asked.clone(), issuer.asked());
    let others = async {
        soon(asked.wait_for(|asked| *asked > seen)).await.unwrap();
        enters_by_known().await;
    };
    tokio::join!(is_refused(&newest, "newest"), others);
    enters_by_known().await;
}

#[tokio::test]
async fn without_any_key_clients_are_told_to_try_again() {
    let signer = Signer::ecdsa();
    let issuer = Issuer::with(&[]).await;
    let served = issuer.gateway(Duration::ZERO).await;
    let token = signer.sign(Some("k"), &claims("ann"));
    let mut members = both(&served).await;
    for member in &mut members {
        hello(member, Some(&token)).await;
        assert_eq!(member.expect("signal", "error").await["code"], "unavailable");
    }
    issuer.answers(200, &[signer.jwk("k")]);
    for member in &mut members {
        // The same connection may greet again.
        enters(member, &token).await;
    }
}

#[tokio::test]
async fn a_secret_in_a_fetched_set_is_no_key() {
    let signer = Signer::secret();
    let issuer = Issuer::with(&[signer.jwk("k")]).await;
    let served = issuer.gateway(Duration::ZERO).await;
    for mut member in both(&served).await {
        hello(&mut member, Some(&signer.sign(Some("k"), &claims("ann")))).await;
        assert_eq!(member.expect("signal", "error").await["code"], "unavailable");
    }
}

#[tokio::test]
async fn it_is_fetched_again_without_anybody_asking() {
    let (old, new) = (Signer::ecdsa(), Signer::ecdsa());
    let issuer = Issuer::with(&[old.jwk("k")]).await;
    let jwks_refresh = Duration::from_millis(20);
    let jwks_pause = Duration::from_secs(3_600);
    let served = issuer.gateway_with(Auth { jwks_refresh, jwks_pause, ..Auth::default() }).await;
    let [mut one, mut other] = both(&served).await;
    enters(&mut one, &old.sign(Some("k"), &claims("ann"))).await;
    // Another key under the same name: a token is no reason to fetch, time is.
    issuer.answers(200, &[new.jwk("k")]);
    let mut asked = issuer.asked.clone();
    let seen = issuer.asked();
    soon(asked.wait_for(|asked| *asked >= seen + 3)).await.unwrap();
    enters(&mut other, &new.sign(Some("k"), &claims("ann"))).await;
    let [mut late, _] = both(&served).await;
    hello(&mut late, Some(&old.sign(Some("k"), &claims("ann")))).await;
    assert_eq!(late.expect("signal", "error").await["code"], "unauthorized");
}

#[tokio::test]
async fn it_is_not_fetched_from_where_a_redirect_points() {
    let signer = Signer::ecdsa();
    let elsewhere = Issuer::with(&[signer.jwk("k")]).await;
    let issuer = Issuer::with(&[]).await;
    let served = issuer.gateway(Duration::ZERO).await;
    for status in [301, 302, 307, 308] {
        let head = format!("{status} X\r\nlocation: {}", elsewhere.url);
        *issuer.answer.lock().unwrap() = (head, String::new());
        for mut member in both(&served).await {
            hello(&mut member, Some(&signer.sign(Some("k"), &claims("ann")))).await;
            assert_eq!(member.expect("signal", "error").await["code"], "unavailable");
        }
    }
    assert_eq!(elsewhere.asked(), 0);
}

/// An authority of one's own: its certificate in PEM, and TLS of a server that it vouches for
/// under this name.
fn authority(name: &str) -> (String, TlsAcceptor) {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    (root, TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn over_https_a_private_authority_is_believed_where_it_is_named() {
    let (old, new) = (Signer::Rsa, Signer::ed25519());
    let dir = tempfile::tempdir().unwrap();
    let (root, tls) = authority("localhost");
    let (other_root, _) = authority("localhost");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let issuer = Issuer::start(&[old.jwk("old")], Some(tls)).await;
    let trusting = |jwks_ca| Auth { jwks_ca, jwks_pause: Duration::ZERO, ..Auth::default() };

    // With others' than the system's authorities in front, behind a comment, as such files are.
    let bundle = format!("# ours\n{other_root}{root}");
    let served = issuer.gateway_with(trusting(file("ca.pem", &bundle))).await;
    for mut member in both(&served).await {
        enters(&mut member, &old.sign(Some("old"), &claims("ann"))).await;
    }
    issuer.answers(200, &[new.jwk("new")]);
    for mut member in both(&served).await {
        enters(&mut member, &new.sign(Some("new"), &claims("ann"))).await;
    }

    let asked = issuer.asked();
    let (wrong_root, wrong_tls) = authority("id.example.org");
    let elsewhere = Issuer::start(&[new.jwk("new")], Some(wrong_tls)).await;
    for (issuer, jwks_ca) in [
        // The system knows nothing of it; another authority; the right one, for another name.
        (&issuer, None),
        (&issuer, file("other.pem", &other_root)),
        (&elsewhere, file("wrong.pem", &wrong_root)),
    ] {
        let served = issuer.gateway_with(trusting(jwks_ca)).await;
        for mut member in both(&served).await {
            hello(&mut member, Some(&new.sign(Some("new"), &claims("ann")))).await;
            assert_eq!(member.expect("signal", "error").await["code"], "unavailable");
        }
    }
    assert_eq!((issuer.asked(), elsewhere.asked()), (asked, 0));
}
