//! Tokens: shown, renewed before they end, and brought along after they have.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use handover::auth::mint::{SigningFile, Wish, mint};
use handover::clock::Clock;
use handover::config::Auth;
use handover_client::{
    Client, ClientEvent, Codec, ConnectError, LogLane, Options, State, Token, Transport,
};
use tokio::sync::oneshot;

use crate::setup::{Served, json, soon};

/// A gateway that asks for tokens, and whoever makes them.
struct Guarded {
    served: Served,
    secret: PathBuf,
    _dir: tempfile::TempDir,
}

impl Guarded {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "a secret of tests, and of nobody else").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let served = Served::with(|config| {
            config.auth = Some(Auth {
                secret_file: Some(secret.clone()),
                leeway: Duration::ZERO,
                ..Auth::default()
            });
        })
        .await;
        Guarded { served, secret, _dir: dir }
    }

    fn options(&self, transport: Transport, token: impl Into<Token>) -> Options {
        let options = self.served.options(transport, Codec::Bincode);
        Options { token: Some(token.into()), ..options }
    }

    async fn connect(&self, options: Options) -> Result<Client, ConnectError> {
        soon(Client::connect(&self.served.url(), options)).await
    }
}

fn token(secret: &Path, user: &str, seconds: u64) -> String {
    let can = ["join", "signal", "publish", "ephemeral"];
    let wish = Wish {
        user: user.to_owned(),
        rooms: vec!["*".to_owned()],
        can: can.map(str::to_owned).to_vec(),
        ttl: Duration::from_secs(seconds),
        ..Wish::default()
    };
    let file = SigningFile::Secret(secret.to_owned());
    mint(&file, &wish, Clock::start().unix_now()).unwrap()
}

const EACH: [Transport; 2] = [Transport::WebTransport, Transport::WebSocket];

#[tokio::test]
async fn a_token_lets_in_and_says_who_one_is() {
    let guarded = Guarded::start().await;
    for transport in EACH {
        let options = guarded.options(transport, token(&guarded.secret, "ann", 600));
        let client = guarded.connect(options).await.unwrap();
        let State::Live { user, .. } = client.state().borrow().clone() else { panic!() };
        assert_eq!(user.unwrap().as_str(), "ann");
        soon(client.join("room", None)).await.unwrap();

        let none = guarded.served.options(transport, Codec::Json);
        for options in [none, guarded.options(transport, "made up")] {
            let refused = guarded.connect(options).await.unwrap_err();
            assert!(matches!(refused, ConnectError::Ended(_)), "{refused}");
        }
    }
}

#[tokio::test]
async fn who_can_ask_for_tokens_stays_without_a_break() {
    let guarded = Guarded::start().await;
    for transport in EACH {
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, secret) = (asked.clone(), guarded.secret.clone());
        let source = Token::from_fn(move || {
            // The first is about to end; the second cannot be had; the third is good for long.
            let answer = match count.fetch_add(1, Ordering::Relaxed) {
                0 => Ok(token(&secret, "ann", 4)),
                1 => Err("the issuer is not there"),
                _ => Ok(token(&secret, "ann", 600)),
            };
            async move { answer }
        });
        let client = guarded.connect(guarded.options(transport, source)).await.unwrap();
        let mut events = client.events();
        let mut heard = Vec::new();
        while asked.load(Ordering::Relaxed) < 3 {
            heard.push(soon(events.recv()).await.unwrap());
            if matches!(heard.last(), Some(ClientEvent::TokenFailed(_))) {
                break;
            }
        }
        let expiring = |event: &ClientEvent| matches!(event, ClientEvent::Expiring(_));
        assert!(heard.iter().any(expiring), "{heard:?}");
        // Past the end of the first: only the newer one lets it go on.
        let room = soon(client.join("room", None)).await.unwrap();
        let mut state = client.state();
        state.mark_unchanged();
        let end = Clock::start().unix_now().as_secs() + 5;
        while Clock::start().unix_now().as_secs() < end {
            soon(client.ping()).await.unwrap();
        }
        soon(room.send(LogLane::Signal, json("1"))).await.unwrap();
        assert!(!state.has_changed().unwrap(), "{:?}", *state.borrow());
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }
}

#[tokio::test]
async fn a_session_whose_token_has_ended_comes_back_with_a_fresh_one() {
    let guarded = Guarded::start().await;
    for transport in EACH {
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, secret) = (asked.clone(), guarded.secret.clone());
        let source = Token::from_fn(move || {
            // Whoever is asked for a newer one takes too long; the next connection gets its own.
            let nth = count.fetch_add(1, Ordering::Relaxed);
            let fresh = token(&secret, "ann", if nth == 0 { 2 } else { 600 });
            async move {
                if nth == 1 {
                    std::future::pending::<()>().await;
                }
                Ok::<_, std::convert::Infallible>(fresh)
            }
        });
        let client = guarded.connect(guarded.options(transport, source)).await.unwrap();
        let room = soon(client.join("room", None)).await.unwrap();
        let mut state = client.state();
        soon(state.wait_for(|state| matches!(state, State::Reconnecting))).await.unwrap();
        let live = soon(state.wait_for(|state| matches!(state, State::Live { .. }))).await;
        assert!(matches!(*live.unwrap(), State::Live { resumed: true, .. }));
        soon(room.send(LogLane::Signal, json("1"))).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }
}

#[tokio::test]
async fn a_token_that_does_not_come_is_not_waited_for() {
    let guarded = Guarded::start().await;
    let stuck = Arc::new(AtomicBool::new(false));
    let (is_stuck, secret) = (stuck.clone(), guarded.secret.clone());
    let source = Token::from_fn(move || {
        let (stuck, fresh) = (is_stuck.load(Ordering::Relaxed), token(&secret, "ann", 4));
        async move {
            if stuck {
                std::future::pending::<()>().await;
            }
            Ok::<_, std::convert::Infallible>(fresh)
        }
    });
    let client = guarded.connect(guarded.options(Transport::WebSocket, source)).await.unwrap();
    let mut events = client.events();
    stuck.store(true, Ordering::Relaxed);
    let failed = async {
        loop {
            if let ClientEvent::TokenFailed(reason) = events.recv().await.unwrap() {
                return reason;
            }
        }
    };
    assert_eq!(soon(failed).await, "it took too long");
}

#[tokio::test]
async fn a_token_that_comes_after_a_newer_connection_is_not_brought() {
    let guarded = Guarded::start().await;
    let (late, answer) = oneshot::channel::<String>();
    let (answer, asked) = (Mutex::new(Some(answer)), Arc::new(AtomicUsize::new(0)));
    let (count, secret) = (asked.clone(), guarded.secret.clone());
    let source = Token::from_fn(move || {
        let nth = count.fetch_add(1, Ordering::Relaxed);
        let fresh = token(&secret, "ann", if nth == 0 { 4 } else { 600 });
        let answer = if nth == 1 { answer.lock().unwrap().take() } else { None };
        async move {
            match answer {
                Some(answer) => answer.await,
                None => Ok(fresh),
            }
        }
    });
    let client = guarded.connect(guarded.options(Transport::WebSocket, source)).await.unwrap();
    let mut events = client.events();
    while !matches!(soon(events.recv()).await.unwrap(), ClientEvent::Expiring(_)) {}
    client.drop_connection().await.unwrap();
    while !matches!(soon(events.recv()).await.unwrap(), ClientEvent::Back { .. }) {}
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    assert!(late.send("one that was good long ago".to_owned()).is_err(), "still waited for");
    soon(client.join("room", None)).await.unwrap();
}

#[tokio::test]
async fn without_a_token_there_is_no_connection() {
    let guarded = Guarded::start().await;
    let nobody = Token::from_fn(|| async { Err::<String, _>("nobody is there") });
    let refused = guarded.connect(guarded.options(Transport::Auto, nobody)).await.unwrap_err();
    assert!(refused.to_string().contains("no token: nobody is there"), "{refused}");
    let shown = format!("{:?}", guarded.options(Transport::Auto, "hunter2"));
    assert!(!shown.contains("hunter2"), "{shown}");
}
