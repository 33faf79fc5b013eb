//! The transport against an independent WebTransport client, on loopback.

mod ending;
mod streams;

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use handover_protocol::time::Time;
use handover_protocol::wire::{CloseCode, Codec, Lane};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{TransportConfig, VarInt};
use web_transport_quinn::proto::ConnectError::WrongStatus;
use web_transport_quinn::proto::ConnectRequest;
use web_transport_quinn::{ClientError, ConnectError, RecvStream, SendStream, Session};

use super::super::accept::{Gate, GateLimits, Refused};
use super::super::testkit::{ALL, Identity, SETTINGS, frame, message, recv, soon};
use super::super::{Inbound, Intake, Settings, Transport, TransportEnd};
use super::{WebTransport, accept, bind_udp, server_config, unpressed};

const HELLO: &[u8] = br#"{"type":"hello","version":1}"#;
const BULK: &[u8] = br#"{"type":"lane","lane":"bulk"}"#;
const PING: &[u8] = br#"{"type":"ping","id":1}"#;

struct Gateway {
    identity: Identity,
    endpoint: quinn::Endpoint,
    gate: Gate,
    settings: Settings,
}

struct Client {
    endpoint: quinn::Endpoint,
    session: Session,
}

type Pair = (SendStream, RecvStream);

impl Gateway {
    fn new() -> Self {
        Self::with(Gate::new(GateLimits::of(10, 10), Time::ZERO, |_| true), SETTINGS)
    }

    fn with(gate: Gate, settings: Settings) -> Self {
        let identity = Identity::new();
        let bound = bind_udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), true).unwrap();
        assert!(bound.receive_buffer > 0 && bound.send_buffer > 0);
        let config = server_config(&identity.server, settings).unwrap();
        let endpoint = unpressed(bound.socket, config, None);
        Gateway { identity, endpoint, gate, settings }
    }

    async fn accept(&self) -> Result<WebTransport, Refused> {
        let incoming = self.endpoint.accept().await.unwrap().accept().unwrap();
        let home = Ipv4Addr::LOCALHOST.into();
        let (entered, _) = self.gate.try_enter_quic(Time::ZERO, home).unwrap();
        let accepted = accept(incoming, entered, &self.gate, self.settings).await;
        // Places are the gate's tests' business.
        accepted.map(|(transport, _)| transport)
    }

    fn request(&self, path: &str) -> ConnectRequest {
        let port = self.endpoint.local_addr().unwrap().port();
        ConnectRequest::new(url::Url::parse(&format!("https://localhost:{port}{path}")).unwrap())
    }

    /// A client with a window of its own for what it has not read on one stream.
    async fn dial(
        &self,
        request: ConnectRequest,
        window: u32,
    ) -> (quinn::Endpoint, Result<Session, ClientError>) {
        let crypto = QuicClientConfig::try_from(self.identity.client(b"h3")).unwrap();
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(window));
        config.transport_config(Arc::new(transport));
        let endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let to = self.endpoint.local_addr().unwrap();
        let connection = endpoint.connect_with(config, to, "localhost").unwrap().await.unwrap();
        (endpoint, Session::connect(connection, request).await)
    }

    async fn meet(&self, path: &str) -> (WebTransport, Client) {
        self.meet_with(path, 1 << 20).await
    }

    async fn meet_with(&self, path: &str, window: u32) -> (WebTransport, Client) {
        let dial = self.dial(self.request(path), window);
        let (accepted, (endpoint, session)) =
            soon(async { tokio::join!(self.accept(), dial) }).await;
        (accepted.unwrap(), Client { endpoint, session: session.unwrap() })
    }

    /// Both streams there, the greeting taken.
    async fn greet(&self) -> (WebTransport, Client, Pair, Pair) {
        self.greet_with(1 << 20).await
    }

    async fn greet_with(&self, window: u32) -> (WebTransport, Client, Pair, Pair) {
        let (mut transport, client) = self.meet_with("/v1/wt", window).await;
        let signal = client.open(HELLO).await;
        let bulk = client.open(BULK).await;
        assert_eq!(message(&mut transport).await.unwrap(), HELLO);
        complete(&mut transport).await;
        transport.greeted();
        (transport, client, signal, bulk)
    }

    async fn refusal(&self, request: ConnectRequest) -> (Refused, u16) {
        let dial = self.dial(request, 1 << 20);
        let (refused, (_endpoint, session)) =
            soon(async { tokio::join!(self.accept(), dial) }).await;
        let status = match session.err().unwrap() {
            ClientError::HttpError(ConnectError::ProtoError(WrongStatus(Some(status)))) => {
                status.as_u16()
            }
            other => panic!("{other}"),
        };
        (refused.err().unwrap(), status)
    }
}

impl Client {
    /// A stream with these messages on it.
    async fn open(&self, first: &[u8]) -> Pair {
        let mut stream = soon(self.session.open_bi()).await.unwrap();
        write(&mut stream.0, first).await;
        stream
    }
}

async fn write(stream: &mut SendStream, payload: &[u8]) {
    soon(stream.write_all(&frame(payload).prefixed())).await.unwrap();
}

async fn read(stream: &mut RecvStream, len: usize) -> Bytes {
    let mut payload = vec![0; frame(&vec![0; len]).prefixed().len()];
    soon(stream.read_exact(&mut payload)).await.unwrap();
    Bytes::from(payload).slice(payload_start(len)..)
}

fn payload_start(len: usize) -> usize {
    frame(&vec![0; len]).prefixed().len() - len
}

async fn complete(transport: &mut WebTransport) {
    while !transport.is_complete() {
        assert!(matches!(recv(transport).await.unwrap(), Inbound::Alive));
    }
}

async fn send(transport: &mut WebTransport, lane: Lane, payload: &[u8]) {
    soon(poll_fn(|cx| transport.poll_ready(cx, lane))).await.unwrap();
    transport.start_send(lane, frame(payload)).unwrap();
}

async fn violation(transport: &mut WebTransport) -> CloseCode {
    match recv(transport).await {
        Err(TransportEnd::Violation { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn refusals_have_their_status() {
    let gateway = Gateway::with(
        Gate::new(GateLimits::of(1, 10), Time::ZERO, |visitor| {
            assert!(visitor.encrypted && visitor.address.is_loopback());
            assert!(visitor.authority.unwrap().starts_with("localhost:"));
            visitor.origin.is_none_or(|origin| origin == "https://good.example")
        }),
        SETTINGS,
    );
    let request = |path| gateway.request(path);
    let from = |origin: &'static str| {
        request("/v1/wt").with_header(http::header::ORIGIN, http::HeaderValue::from_static(origin))
    };
    for (request, expected) in [
        (request("/"), (Refused::Path, 404)),
        (request("/v1/wt/"), (Refused::Path, 404)),
        (request("/v1/wt?codec=xml"), (Refused::Codec, 404)),
        (request("/v1/wt").with_protocol("chat"), (Refused::Codec, 404)),
        (from("https://evil.example"), (Refused::Origin, 403)),
    ] {
        assert_eq!(gateway.refusal(request).await, expected);
    }

    let (entered, _) = gateway.gate.try_enter_quic(Time::ZERO, Ipv4Addr::LOCALHOST.into()).unwrap();
    let place = gateway.gate.admit(entered).unwrap();
    assert_eq!(gateway.refusal(from("https://good.example")).await, (Refused::Capacity, 429));
    drop(place);
    gateway.meet("/v1/wt").await;
}

#[tokio::test]
async fn the_chosen_subprotocol_is_answered() {
    let gateway = Gateway::new();
    let request = gateway
        .request("/v1/wt?codec=json")
        .with_protocols(["chat", "handover.v1.bincode", "handover.v1.json"].map(String::from));
    let dial = gateway.dial(request, 1 << 20);
    let (accepted, (_endpoint, session)) =
        soon(async { tokio::join!(gateway.accept(), dial) }).await;
    assert_eq!(session.unwrap().protocol(), Some("handover.v1.bincode"));
    assert_eq!(accepted.unwrap().codec(), Codec::Bincode);

    for (path, codec) in [("/v1/wt", Codec::Json), ("/v1/wt?codec=bincode", Codec::Bincode)] {
        let (transport, client) = gateway.meet(path).await;
        assert_eq!(transport.codec(), codec);
        assert_eq!(client.session.protocol(), None);
    }
}
