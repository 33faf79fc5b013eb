//! The HTTP side behind real listeners, plain and TLS.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use handover_protocol::time::Time;
use handover_protocol::wire::{CloseCode, Lane};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{IdentityStatement, Site, Standing, Status};
use crate::clock::Clock;
use crate::pressure::Pressure;
use crate::telemetry::{Metrics, restarted};
use crate::transport::accept::{
    Acceptor, Admitted, Attach, Gate, GateLimits, Refused, TcpTls, accept_tcp, bind_tcp,
};
use crate::transport::testkit::{Identity, SETTINGS, message, soon};
use crate::transport::{Kind, Transport};

/// Answers each connection's first message with itself, then closes.
struct Echo(TaskTracker);

impl Attach for Echo {
    fn attach<T: Transport>(&self, mut transport: T, admitted: Admitted) {
        self.0.spawn(async move {
            let payload = message(&mut transport).await.unwrap();
            let answer = crate::transport::testkit::frame(&payload);
            poll_fn(|cx| transport.poll_ready(cx, Lane::Signal)).await.unwrap();
            transport.start_send(Lane::Signal, answer).unwrap();
            transport.close(None, CloseCode::Kicked, Duration::from_secs(10)).await;
            drop(admitted);
        });
    }

    fn refused(&self, _kind: Kind, refused: &Refused) {
        assert_ne!(*refused, Refused::Capacity, "a fault where somebody is turned away");
    }

    fn panicked(&self, _kind: Kind) {}
}

#[derive(Default)]
struct Told {
    self_made: bool,
    /// Which of the standings.
    standing: AtomicUsize,
}

impl Status for Told {
    fn identity(&self) -> Option<IdentityStatement> {
        self.self_made.then(|| IdentityStatement {
            algorithm: "sha-256",
            value: "aGFzaA==".to_owned(),
            expires: 7,
            port: 4433,
        })
    }

    fn standing(&self) -> Standing {
        let standings =
            [Standing::Well, Standing::Degraded, Standing::Tolerated, Standing::Draining];
        standings[self.standing.load(Ordering::Relaxed)]
    }
}

struct Server {
    plain: SocketAddr,
    tls: SocketAddr,
    identity: Identity,
    told: Arc<Told>,
    gate: Arc<Gate>,
    tasks: TaskTracker,
    end: CancellationToken,
}

impl Server {
    fn start() -> Self {
        Self::with(
            Gate::new(GateLimits::of(10, 10), Time::ZERO, |_| true),
            Told { self_made: true, ..Told::default() },
        )
    }

    fn with(gate: Gate, told: Told) -> Self {
        let (gate, told) = (Arc::new(gate), Arc::new(told));
        let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
        let site = Arc::new(Site {
            gate: gate.clone(),
            metrics: Arc::new(Metrics::default()),
            status: told.clone(),
        });
        let acceptor = Acceptor {
            gate: gate.clone(),
            settings: SETTINGS,
            clock: Clock::start(),
            attach: Arc::new(Echo(tasks.clone())),
            tasks: tasks.clone(),
            turns: crate::turns::Turns::undivided(),
            stop: CancellationToken::new(),
            end: end.clone(),
        };
        let identity = Identity::new();
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listen = |tls: Option<TcpTls>| {
            let listener = bind_tcp(here, true).unwrap();
            let address = listener.local_addr().unwrap();
            let (listener, site, acceptor) = (Arc::new(listener), site.clone(), acceptor.clone());
            tasks.spawn(restarted(site.metrics.clone(), "a loop", move || {
                accept_tcp(listener.clone(), tls.clone(), site.clone(), acceptor.clone())
            }));
            address
        };
        let (plain, tls) = (listen(None), listen(Some(TcpTls::new(&identity.server))));
        Server { plain, tls, identity, told, gate, tasks, end }
    }

    async fn dial_plain(&self) -> TcpStream {
        soon(TcpStream::connect(self.plain)).await.unwrap()
    }

    async fn dial_tls(&self) -> TlsStream<TcpStream> {
        self.try_dial_tls().await.unwrap()
    }

    async fn try_dial_tls(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let config = Arc::new(self.identity.client(b"http/1.1"));
        let stream = TcpStream::connect(self.tls).await?;
        let name = ServerName::try_from("localhost").unwrap();
        soon(TlsConnector::from(config).connect(name, stream)).await
    }

    async fn ask(&self, head: &str) -> Answer {
        ask(self.dial_plain().await, head).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1")).await
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find_map(|(key, value)| (key == name).then_some(value))
    }
}

/// Sends a request whose head starts with these lines, and reads until the server closes.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, head: &str) -> Answer {
    let close = if head.contains("connection:") { "" } else { "\r\nconnection: close" };
    let request = format!("{head}\r\nhost: localhost{close}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // TLS without a farewell ends in an error; what came before it counts.
    let _ = soon(stream.read_to_string(&mut answer)).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// A handshake as far as `ask` does not add to it.
fn upgrade(extra: &str) -> String {
    format!(
        "GET /v1/ws HTTP/1.1\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=={extra}"
    )
}

const V13: &str = "\r\nsec-websocket-version: 13";

#[tokio::test]
async fn health_tells_whether_to_send_anybody_here() {
    let server = Server::start();
    let healthy = server.get("/healthz").await;
    assert_eq!((healthy.status, healthy.body.as_str()), (200, r#"{"status":"ok"}"#));
    assert_eq!(healthy.header("content-type"), Some("application/json"));
    let head = server.ask("HEAD /healthz HTTP/1.1").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), Some("15"));

    for (standing, status, body) in
        [(1, 503, r#"{"status":"degraded"}"#), (2, 200, r#"{"status":"degraded"}"#)]
    {
        server.told.standing.store(standing, Ordering::Relaxed);
        let degraded = server.get("/healthz").await;
        assert_eq!((degraded.status, degraded.body.as_str()), (status, body));
    }
    server.told.standing.store(3, Ordering::Relaxed);
    let draining = server.get("/healthz").await;
    assert_eq!((draining.status, draining.body.as_str()), (503, r#"{"status":"draining"}"#));
    assert_eq!(server.ask(&upgrade(V13)).await.status, 503);
}

#[tokio::test]
async fn unknown_addresses_and_methods_are_refused() {
    let server = Server::start();
    for path in ["/nothing", "/v1", "/client", "/client/../Cargo.toml", "/v1/wt"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
    for request in ["POST /healthz", "DELETE /client/index.js", "HEAD /v1/ws", "PUT /v1/identity"] {
        let answer = server.ask(&format!("{request} HTTP/1.1")).await;
        assert_eq!(answer.status, 405, "{request}");
        assert!(answer.header("allow").is_some());
    }
    let long = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(20_000));
    assert_eq!(server.ask(&long).await.status, 431);
    assert_eq!(server.ask("nonsense").await.status, 400);
    assert_eq!(server.get("/healthz").await.status, 200, "the others are served on");
}

#[tokio::test]
async fn metrics_stay_on_the_plain_listener() {
    let server = Server::start();
    let metrics = server.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.body.ends_with("# EOF\n"));
    assert_eq!(ask(server.dial_tls().await, "GET /metrics HTTP/1.1").await.status, 404);
    assert_eq!(ask(server.dial_tls().await, "GET /healthz HTTP/1.1").await.status, 200);
}

#[tokio::test]
async fn a_self_made_identity_is_told_to_any_page() {
    let server = Server::start();
    let identity = server.get("/v1/identity").await;
    assert_eq!(identity.status, 200);
    assert_eq!(identity.header("access-control-allow-origin"), Some("*"));
    let value: serde_json::Value = serde_json::from_str(&identity.body).unwrap();
    let expected = serde_json::json!({
        "algorithm": "sha-256", "value": "aGFzaA==", "expires": 7, "port": 4433
    });
    assert_eq!(value, expected);

    let server =
        Server::with(Gate::new(GateLimits::of(1, 9), Time::ZERO, |_| true), Told::default());
    assert_eq!(server.get("/v1/identity").await.status, 404);
}

#[tokio::test]
async fn the_client_is_served_with_headers_that_bind_it() {
    let server = Server::start();
    let script = server.get("/client/index.js").await;
    assert_eq!(script.status, 200);
    assert_eq!(script.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(script.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(script.header("referrer-policy"), Some("no-referrer"));
    assert!(script.header("content-security-policy").unwrap().contains("default-src 'self'"));
    assert!(!script.body.is_empty());
}

#[tokio::test]
async fn handshakes_are_refused_with_their_status() {
    let server = Server::with(
        Gate::new(GateLimits::of(1, 9), Time::ZERO, |visitor| {
            assert!(visitor.address.is_loopback() && !visitor.encrypted);
            assert_eq!(visitor.authority, Some("localhost"));
            visitor.origin != Some("https://evil.example")
        }),
        Told::default(),
    );
    let not_at_all = server.get("/v1/ws").await;
    assert_eq!((not_at_all.status, not_at_all.header("upgrade")), (426, Some("websocket")));
    let old = server.ask(&upgrade("\r\nsec-websocket-version: 8")).await;
    assert_eq!((old.status, old.header("sec-websocket-version")), (426, Some("13")));
    let no_key = "GET /v1/ws HTTP/1.1\r\nconnection: upgrade, close\r\nupgrade: websocket";
    assert_eq!(server.ask(&format!("{no_key}{V13}")).await.status, 400);
    let bad_key = format!("{no_key}{V13}\r\nsec-websocket-key: c2hvcnQ=");
    assert_eq!(server.ask(&bad_key).await.status, 400);
    let stranger = format!("{V13}\r\nsec-websocket-protocol: chat");
    assert_eq!(server.ask(&upgrade(&stranger)).await.status, 400);
    let evil = format!("{V13}\r\norigin: https://evil.example");
    assert_eq!(server.ask(&upgrade(&evil)).await.status, 403);

    let (entered, _) = server.gate.try_enter_quic(Time::ZERO, Ipv4Addr::LOCALHOST.into()).unwrap();
    let _place = server.gate.admit(entered).unwrap();
    let full = server.ask(&upgrade(V13)).await;
    assert_eq!((full.status, full.header("retry-after")), (503, Some("2")));
}

async fn echo(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    offered: Option<&'static str>,
) -> Option<String> {
    let mut request = "ws://localhost/v1/ws".into_client_request().unwrap();
    if let Some(offered) = offered {
        let offered = http::HeaderValue::from_static(offered);
        request.headers_mut().insert(http::header::SEC_WEBSOCKET_PROTOCOL, offered);
    }
    let (mut socket, response) = soon(client_async(request, stream)).await.unwrap();
    let chosen = response.headers().get(http::header::SEC_WEBSOCKET_PROTOCOL).cloned();
    let chosen = chosen.map(|chosen| chosen.to_str().unwrap().to_owned());
    let sent = match chosen.as_deref() {
        Some("handover.v1.bincode") => Message::binary(vec![1, 2]),
        _ => Message::text("hello"),
    };
    soon(socket.send(sent.clone())).await.unwrap();
    assert_eq!(soon(socket.next()).await.unwrap().unwrap(), sent);
    let Message::Close(Some(close)) = soon(socket.next()).await.unwrap().unwrap() else { panic!() };
    assert_eq!(u16::from(close.code), CloseCode::Kicked.number());
    match soon(socket.next()).await {
        None | Some(Err(Error::ConnectionClosed)) => {}
        other => panic!("{other:?}"),
    }
    chosen
}

#[tokio::test]
async fn websockets_open_with_and_without_tls() {
    let server = Server::start();
    assert_eq!(echo(server.dial_plain().await, None).await, None);
    assert_eq!(echo(server.dial_tls().await, None).await, None);
    for (offered, chosen) in [
        ("handover.v1.json", "handover.v1.json"),
        ("chat, handover.v1.bincode, handover.v1.json", "handover.v1.bincode"),
    ] {
        let answered = echo(server.dial_tls().await, Some(offered)).await;
        assert_eq!(answered.as_deref(), Some(chosen));
    }
}

#[tokio::test]
async fn a_message_right_behind_the_handshake_is_not_lost() {
    let server = Server::start();
    let mut stream = server.dial_plain().await;
    let mut wire = format!("{}\r\nhost: localhost\r\n\r\n", upgrade(V13)).into_bytes();
    // "Hello" with a mask (RFC 6455, section 5.7).
    wire.extend([0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    stream.write_all(&wire).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(7).any(|window| window == b"\x81\x05Hello") {
        assert_ne!(soon(stream.read_buf(&mut answer)).await.unwrap(), 0, "{answer:?}");
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"));
}

#[tokio::test]
async fn who_breaks_its_handshake_harms_nobody_else() {
    let server = Server::start();
    let mut stream = TcpStream::connect(server.tls).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
    drop(TcpStream::connect(server.tls).await.unwrap());
    assert_eq!(ask(server.dial_tls().await, "GET /healthz HTTP/1.1").await.status, 200);
}

#[tokio::test]
async fn nobody_is_turned_away_who_waits_for_a_place() {
    let server =
        Server::with(Gate::new(GateLimits::of(9, 1), Time::ZERO, |_| true), Told::default());
    let place = server.gate.enter_plain().await.unwrap();
    let (answer, ()) = tokio::join!(server.get("/healthz"), async {
        tokio::task::yield_now().await;
        drop(place);
    });
    assert_eq!(answer.status, 200);
}

/// Asks one thing after the other on one connection; how many of so many are answered.
async fn answered(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), requests: usize) -> usize {
    for nth in 0..requests {
        let request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
        if soon(stream.write_all(request)).await.is_err() {
            return nth;
        }
        let mut answer = Vec::new();
        while !answer.ends_with(br#"{"status":"ok"}"#) {
            match soon(stream.read_buf(&mut answer)).await {
                Ok(0) | Err(_) => return nth,
                Ok(_) => {}
            }
        }
    }
    requests
}

#[tokio::test]
async fn a_connection_has_so_many_requests() {
    let server = Server::start();
    assert_eq!(answered(&mut server.dial_plain().await, 1_000).await, 100);
    assert_eq!(answered(&mut server.dial_tls().await, 1_000).await, 100);
}

#[tokio::test]
async fn in_a_crowd_and_under_pressure_it_has_one() {
    let gate = Gate::new(GateLimits::of(9, 4), Time::ZERO, |_| true);
    let server = Server::with(gate, Told::default());
    let mut staying = server.dial_tls().await;
    assert_eq!(answered(&mut staying, 3).await, 3);
    let address = Ipv4Addr::LOCALHOST.into();
    let come = || server.gate.enter_tls(Time::ZERO, address);
    let places = (come().await, come().await, come().await);
    assert_eq!(answered(&mut staying, 3).await, 1, "however long it has been there");
    drop(places);

    let gate = Gate::new(GateLimits::of(9, 9), Time::ZERO, |_| true);
    let server = Server::with(gate.under(Pressure::of_share(0.9)), Told::default());
    assert_eq!(answered(&mut server.dial_tls().await, 3).await, 1);
    assert_eq!(answered(&mut server.dial_plain().await, 3).await, 3, "the operator's own");
}

#[tokio::test]
async fn a_fault_in_the_loop_closes_no_door() {
    let limits = GateLimits { ungreeted_per_address: 1, ..GateLimits::of(9, 9) };
    let server = Server::with(Gate::new(limits, Time::ZERO, |_| true), Told::default());
    let first = server.dial_tls().await;
    assert!(server.try_dial_tls().await.is_err());
    drop(first);
    // Once that place is free again, and the loop has begun again.
    soon(async { while server.try_dial_tls().await.is_err() {} }).await;
    assert!(!server.get("/metrics").await.body.contains("handover_panics_total 0"));
}

#[tokio::test]
async fn the_end_is_the_end_of_loops_and_set_ups() {
    let server = Server::start();
    let waiting = server.dial_plain().await;
    assert_eq!(server.get("/healthz").await.status, 200);
    server.end.cancel();
    server.tasks.close();
    soon(server.tasks.wait()).await;
    drop(waiting);
    assert!(TcpStream::connect(server.plain).await.is_err());
}
