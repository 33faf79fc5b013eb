//! Keys fetched from an issuer's address, and their rotation.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use handover::config::{Auth, JwksPlace};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::entering::{auth, both, claims, enters, hello};
use super::setup::Served;
use crate::tokens::forge::Signer;

/// An issuer's HTTP server.
struct Issuer {
    url: String,
    /// What it answers: status and body.
    answer: Arc<Mutex<(u16, String)>>,
    asked: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Issuer {
    async fn with(keys: &[Value]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let answer = Arc::new(Mutex::new((200, json!({"keys": keys}).to_string())));
        let (count, asked) = watch::channel(0);
        let answers = answer.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(tcp.read_u8().await.unwrap());
                }
                assert!(request.starts_with(b"GET /keys HTTP/1.1\r\n"));
                let (status, body) = answers.lock().unwrap().clone();
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                tcp.write_all((head + &body).as_bytes()).await.unwrap();
                count.send_modify(|count| *count += 1);
            }
        });
        Issuer { url, answer, asked, task }
    }

    fn answers(&self, status: u16, keys: &[Value]) {
        *self.answer.lock().unwrap() = (status, json!({"keys": keys}).to_string());
    }

    fn asked(&self) -> usize {
        *self.asked.borrow()
    }

    async fn gateway(&self, pause: Duration) -> Served {
        let url = self.url.parse().unwrap();
        Served::with(|config| {
            config.auth =
                Some(Auth { jwks: Some(JwksPlace::Url(url)), jwks_pause: pause, ..auth() });
        })
        .await
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
    for (status, keys) in [(500, vec![signer.jwk("k")]), (200, vec![])] {
        issuer.answers(status, &keys);
        for mut member in both(&served).await {
            hello(&mut member, Some(&signer.sign(Some("new"), &claims("ann")))).await;
            assert_eq!(member.expect("signal", "error").await["code"], "unauthorized");
        }
        for mut member in both(&served).await {
            enters(&mut member, &token).await;
        }
    }
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
