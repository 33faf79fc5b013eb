//! What one client, one user and one room may have, and how long a caller may take: on both
//! transports. How fast one may go is in `limits`.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use handover::config::Auth;

use super::certificates::client_hello;
use super::entering::{both, claims, enters, hello, secret_file};
use super::origins;
use super::setup::{Member, Served, any_certificate, over_tls, soon};
use super::siege::Besieged;
use crate::tokens::forge::{SECRET, Signer};

/// Asks, is refused with this code, and is served on.
async fn is_refused(member: &mut Member, request: Value, code: &str) {
    member.send("signal", request.clone()).await;
    let refused = member.expect("signal", "error").await;
    assert_eq!((&refused["code"], &refused["id"]), (&json!(code), &request["id"]), "{request}");
    member.answers().await;
}

#[tokio::test]
async fn what_is_too_much_is_refused_on_that_request_alone() {
    let served = Served::with(|config| {
        config.limits.rooms = 2;
        config.capacity.room_members = 2;
        config.capacity.room_metadata_bytes = 4_096;
    })
    .await;
    let _inside = served.both("full").await;
    let shown = json!({"k": "x".repeat(3_000)});
    let shows = json!({"type": "join", "id": 9, "room": "shown", "metadata": shown});
    let mut showing = served.websocket().await;
    showing.send("signal", shows.clone()).await;
    showing.expect("signal", "joined").await;
    for mut member in [served.websocket().await, served.webtransport().await] {
        let join = |room: &str| json!({"type": "join", "id": 9, "room": room});
        for room in ["", " a", "a ", "a\n", "\u{7f}"] {
            is_refused(&mut member, join(room), "bad_request").await;
        }
        is_refused(&mut member, join(&"x".repeat(129)), "too_large").await;
        let mut showing = join("room");
        showing["metadata"] = json!({"k": "x".repeat(4_096)});
        is_refused(&mut member, showing, "too_large").await;
        is_refused(&mut member, join("full"), "room_full").await;
        is_refused(&mut member, shows.clone(), "too_large").await;
        let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
        let nested = json!({
            "type": "join", "id": 9, "room": "room",
            "metadata": {"k": serde_json::from_str::<Value>(&deep).unwrap()},
        });
        is_refused(&mut member, nested, "bad_request").await;

        member.join(&"x".repeat(128)).await;
        let large = json!({"type": "ephemeral", "room": "x".repeat(128), "body": "x".repeat(800)});
        is_refused(&mut member, large, "too_large").await;
        member.join(&member.peer.clone()).await;
        is_refused(&mut member, join("a third"), "too_many_rooms").await;

        let huge = json!({"type": "ping", "id": 1, "more": "x".repeat(65_536)});
        member.send("signal", huge).await;
        assert_eq!(member.closed().await, 4506);
    }
}

#[tokio::test]
async fn a_user_has_so_many_sessions_and_others_have_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let auth = Auth { secret_file: Some(secret_file(&dir, "secret", SECRET)), ..Auth::default() };
    let served = Served::with(|config| {
        config.auth = Some(auth);
        config.capacity.sessions_per_user = 2;
    })
    .await;
    let token = |user: &str| Signer::secret().sign(None, &claims(user));
    let mut first = both(&served).await;
    for member in &mut first {
        enters(member, &token("ann")).await;
    }
    for mut member in both(&served).await {
        hello(&mut member, Some(&token("ann"))).await;
        let refused = member.expect("signal", "error").await;
        assert_eq!(refused["code"], "rate_limited", "{refused}");
        enters(&mut member, &token("bob")).await;
        member.send("signal", json!({"type": "bye"})).await;
        assert_eq!(member.closed().await, 4500);
    }
    for member in &mut first {
        member.answers().await;
    }
}

#[tokio::test]
async fn a_gateway_has_so_many_connections() {
    let served = Served::with(|config| config.capacity.connections = 2).await;
    let mut inside = served.both("room").await;
    assert_eq!(
        origins::answers(served.secure(), served.plain(), "localhost", None).await,
        [429, 503, 503]
    );
    for member in &mut inside {
        member.answers().await;
    }
}

#[tokio::test]
async fn who_takes_too_long_to_say_what_is_wanted_is_cut() {
    let served = Besieged::start(&[]).await;
    let mut waiting = tokio::task::JoinSet::new();
    let half = client_hello(3)[..40].to_vec();
    let upgrade = b"GET /v1/ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n".to_vec();
    for (to, said) in [
        (served.plain(), Vec::new()),
        (served.plain(), b"GET / HT".to_vec()),
        (served.plain(), upgrade.clone()),
        (served.secure(), Vec::new()),
        (served.secure(), half),
    ] {
        let mut tcp = soon(TcpStream::connect(to)).await.unwrap();
        tcp.write_all(&said).await.unwrap();
        waiting.spawn(async move {
            // It ends, in one way or another.
            let _ = soon(tcp.read_to_end(&mut Vec::new())).await;
        });
    }
    for said in [Vec::new(), upgrade] {
        let mut tls = over_tls(served.secure()).await;
        tls.write_all(&said).await.unwrap();
        waiting.spawn(async move {
            let _ = soon(tls.read_to_end(&mut Vec::new())).await;
        });
    }
    // A QUIC connection on which nobody asks for a session, though it is kept alive.
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut alive = quinn::TransportConfig::default();
    alive.keep_alive_interval(Some(std::time::Duration::from_secs(1)));
    let mut config = any_certificate();
    config.transport_config(std::sync::Arc::new(alive));
    let dialled = endpoint.connect_with(config, served.secure(), "localhost").unwrap();
    let silent = soon(dialled).await.unwrap();
    waiting.spawn(async move {
        soon(silent.closed()).await;
    });
    assert_eq!(served.serves().await, 0, "turned away meanwhile");
    waiting.join_all().await;
    served.is_well().await;
}
