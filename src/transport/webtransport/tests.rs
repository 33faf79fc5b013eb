//! The transport against an independent WebTransport client, on loopback.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use handover_protocol::wire::{CloseCode, Codec, Lane};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{TransportConfig, VarInt};
use web_transport_quinn::proto::ConnectError::WrongStatus;
use web_transport_quinn::proto::ConnectRequest;
use web_transport_quinn::{ClientError, ConnectError, RecvStream, SendStream, Session};

use super::super::accept::{Gate, Refused};
use super::super::testkit::{ALL, Identity, SETTINGS, frame, message, recv, soon};
use super::super::{Inbound, Intake, Settings, Transport, TransportEnd};
use super::{WebTransport, accept, bind_udp, endpoint, server_config};

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
        Self::with(Gate::new(10, 10, |_| true), SETTINGS)
    }

    fn with(gate: Gate, settings: Settings) -> Self {
        let identity = Identity::new();
        let bound = bind_udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), true).unwrap();
        assert!(bound.receive_buffer > 0 && bound.send_buffer > 0);
        let config = server_config(&identity.server, settings).unwrap();
        let endpoint = endpoint(bound.socket, config).unwrap();
        Gateway { identity, endpoint, gate, settings }
    }

    async fn accept(&self) -> Result<WebTransport, Refused> {
        let incoming = self.endpoint.accept().await.unwrap();
        let entered = self.gate.try_enter().unwrap();
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
        Gate::new(1, 10, |visitor| {
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

    let entered = gateway.gate.try_enter().unwrap();
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

#[tokio::test]
async fn streams_are_known_by_their_first_frame_in_either_order() {
    let gateway = Gateway::new();
    for bulk_first in [true, false] {
        let (mut transport, client) = gateway.meet("/v1/wt").await;
        assert!(!transport.is_complete());
        let (mut signal, mut bulk) = if bulk_first {
            let bulk = client.open(BULK).await;
            (client.open(HELLO).await, bulk)
        } else {
            let signal = client.open(HELLO).await;
            (signal, client.open(BULK).await)
        };
        assert_eq!(message(&mut transport).await.unwrap(), HELLO);
        complete(&mut transport).await;

        write(&mut signal.0, PING).await;
        let arrived = recv(&mut transport).await.unwrap();
        assert!(
            matches!(arrived, Inbound::Frame { lane: Lane::Signal, payload } if payload == PING)
        );
        write(&mut bulk.0, &[b'b'; 65_536]).await;
        let arrived = recv(&mut transport).await.unwrap();
        assert!(
            matches!(arrived, Inbound::Frame { lane: Lane::Bulk, payload } if payload.len() == 65_536)
        );

        send(&mut transport, Lane::Signal, b"to signal").await;
        send(&mut transport, Lane::Bulk, b"to bulk").await;
        soon(poll_fn(|cx| transport.poll_flush(cx))).await.unwrap();
        assert_eq!(read(&mut signal.1, 9).await, "to signal");
        assert_eq!(read(&mut bulk.1, 7).await, "to bulk");

        let path = transport.path();
        assert!(path.rtt.is_some() && path.packets_sent > 0);
        assert_eq!(path.remote, client.endpoint.local_addr().unwrap());
    }
}

#[tokio::test]
async fn any_other_first_frame_is_a_protocol_error() {
    let gateway = Gateway::new();
    for first in [PING, b"nonsense", b"", br#"{"type":"lane","lane":"signal"}"#] {
        let (mut transport, client) = gateway.meet("/v1/wt").await;
        let _stream = client.open(first).await;
        assert_eq!(violation(&mut transport).await, CloseCode::ProtocolError, "{first:?}");
    }
    let (mut transport, client) = gateway.meet("/v1/wt").await;
    let _first = client.open(HELLO).await;
    assert_eq!(message(&mut transport).await.unwrap(), HELLO);
    let _second = client.open(HELLO).await;
    assert_eq!(violation(&mut transport).await, CloseCode::ProtocolError);
}

#[tokio::test]
async fn a_greeting_with_a_fault_is_for_the_session() {
    let gateway = Gateway::new();
    let (mut transport, client) = gateway.meet("/v1/wt").await;
    let faulty = br#"{"type":"hello","version":"one"}"#;
    let _stream = client.open(faulty).await;
    let arrived = recv(&mut transport).await.unwrap();
    assert!(
        matches!(arrived, Inbound::Frame { lane: Lane::Signal, payload } if payload == &faulty[..])
    );
}

#[tokio::test]
async fn other_streams_are_refused_and_change_nothing() {
    let gateway = Gateway::new();
    let (mut transport, client, mut signal, _bulk) = gateway.greet().await;
    // More of them than there is credit for at once: every refusal gives some back.
    let others = async {
        for _ in 0..8 {
            let mut stream = client.session.open_bi().await.unwrap();
            let _ = stream.0.write_all(&frame(HELLO).prefixed()).await;
            let mut rest = [0; 1];
            assert!(stream.1.read(&mut rest).await.is_err(), "reset");
            let mut uni = client.session.open_uni().await.unwrap();
            while uni.write_all(&[0; 1_000]).await.is_ok() {}
        }
        write(&mut signal.0, PING).await;
    };
    let (arrived, ()) = soon(async { tokio::join!(message(&mut transport), others) }).await;
    assert_eq!(arrived.unwrap(), PING);
    send(&mut transport, Lane::Signal, b"on").await;
    soon(poll_fn(|cx| transport.poll_flush(cx))).await.unwrap();
    assert_eq!(read(&mut signal.1, 2).await, "on");
}

#[tokio::test]
async fn streams_that_stay_silent_or_end_early_are_let_be() {
    let gateway = Gateway::new();
    let (mut transport, client) = gateway.meet("/v1/wt").await;
    let mut silent = client.session.open_bi().await.unwrap();
    let mut ended = client.session.open_bi().await.unwrap();
    ended.0.finish().unwrap();
    let _signal = client.open(HELLO).await;
    assert_eq!(message(&mut transport).await.unwrap(), HELLO);
    let opening = client.open(BULK);
    let (_bulk, ()) = soon(async { tokio::join!(opening, complete(&mut transport)) }).await;
    assert!(soon(silent.1.read(&mut [0; 1])).await.is_err(), "refused in the end");
}

#[tokio::test]
async fn a_frame_too_long_is_refused_by_its_prefix() {
    let gateway = Gateway::new();
    let (mut transport, _client, mut signal, _bulk) = gateway.greet().await;
    let prefix = [0x80, 0x01, 0x00, 0x01];
    signal.0.write_all(&prefix).await.unwrap();
    assert_eq!(violation(&mut transport).await, CloseCode::MessageTooLarge);

    let (mut transport, client) = gateway.meet("/v1/wt").await;
    let mut first = client.session.open_bi().await.unwrap();
    first.0.write_all(&prefix).await.unwrap();
    assert_eq!(violation(&mut transport).await, CloseCode::MessageTooLarge);
}

#[tokio::test]
async fn the_end_of_either_stream_or_of_the_session_is_the_end() {
    let gateway = Gateway::new();
    for case in 0..4 {
        let (mut transport, client, mut signal, mut bulk) = gateway.greet().await;
        match case {
            0 => signal.0.finish().unwrap(),
            1 => bulk.0.reset(7).unwrap(),
            2 => client.session.close(0, b""),
            _ => client.endpoint.close(VarInt::from_u32(0), b""),
        }
        assert_eq!(message(&mut transport).await.unwrap_err(), TransportEnd::Closed, "{case}");
    }
    // An end is noticed by one who may not read, too.
    let (mut transport, client, _signal, _bulk) = gateway.greet().await;
    client.session.close(1, b"bye");
    let none = Intake { signal: false, bulk: false };
    let end = soon(poll_fn(|cx| transport.poll_recv(cx, none))).await;
    assert_eq!(end.unwrap_err(), TransportEnd::Closed);
}

/// The other client takes the end of a connection for its own doing; this one tells the code.
async fn greet_by_wtransport(gateway: &Gateway) -> (WebTransport, wtransport::Connection, Streams) {
    let crypto = QuicClientConfig::try_from(gateway.identity.client(b"h3")).unwrap();
    let config = wtransport::ClientConfig::builder()
        .with_bind_address(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .build_with_quic_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let endpoint = wtransport::Endpoint::client(config).unwrap();
    let url = format!("https://localhost:{}/v1/wt", gateway.endpoint.local_addr().unwrap().port());
    let dial = async { endpoint.connect(url).await.unwrap() };
    let (accepted, session) = soon(async { tokio::join!(gateway.accept(), dial) }).await;
    let mut stream = session.open_bi().await.unwrap().await.unwrap();
    stream.0.write_all(&frame(HELLO).prefixed()).await.unwrap();
    let mut transport = accepted.unwrap();
    assert_eq!(message(&mut transport).await.unwrap(), HELLO);
    (transport, session, stream)
}

type Streams = (wtransport::SendStream, wtransport::RecvStream);

async fn assert_closed(session: &wtransport::Connection, code: CloseCode) {
    match soon(session.closed()).await {
        wtransport::error::ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.code().into_inner(), u64::from(code.number()));
            assert_eq!(close.reason(), code.name().as_bytes());
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_close_code_arrives_behind_the_last_message() {
    let gateway = Gateway::new();
    let (mut transport, session, mut signal) = greet_by_wtransport(&gateway).await;
    send(&mut transport, Lane::Signal, &[b's'; 30_000]).await;
    let grace = Duration::from_secs(3_600);
    let close = transport.close(Some(frame(b"last")), CloseCode::Replaced, grace);
    let client = async {
        let sent = [frame(&[b's'; 30_000]).prefixed(), frame(b"last").prefixed()].concat();
        let mut got = vec![0; sent.len()];
        signal.1.read_exact(&mut got).await.unwrap();
        assert!(got == sent);
        // What a client does that has read it.
        signal.0.finish().await.unwrap();
        assert_closed(&session, CloseCode::Replaced).await;
    };
    soon(async { tokio::join!(close, client) }).await;
}

#[tokio::test]
async fn a_peer_that_does_not_react_is_closed_when_the_grace_is_over() {
    let gateway = Gateway::new();
    let (transport, session, _signal) = greet_by_wtransport(&gateway).await;
    let last = Some(frame(b"last"));
    soon(transport.close(last, CloseCode::Draining, Duration::from_millis(20))).await;
    assert_closed(&session, CloseCode::Draining).await;
}

#[tokio::test]
async fn a_peer_that_stops_listening_is_not_waited_for() {
    let gateway = Gateway::new();
    let (transport, session, signal) = greet_by_wtransport(&gateway).await;
    signal.1.stop(wtransport::VarInt::from_u32(0));
    let last = Some(frame(b"last"));
    soon(transport.close(last, CloseCode::Kicked, Duration::from_secs(3_600))).await;
    assert_closed(&session, CloseCode::Kicked).await;
}

#[tokio::test]
async fn without_a_signal_stream_there_is_nothing_to_wait_for() {
    let gateway = Gateway::new();
    let (transport, client) = gateway.meet("/v1/wt").await;
    let last = Some(frame(b"last"));
    soon(transport.close(last, CloseCode::HelloTimeout, Duration::from_secs(3_600))).await;
    soon(client.session.closed()).await;
}

#[tokio::test]
async fn a_blocked_bulk_lane_does_not_stop_signal() {
    let gateway = Gateway::new();
    const WINDOW: usize = 40_000;
    let (mut transport, _client, mut signal, _bulk) = gateway.greet_with(WINDOW as u32).await;
    // The client never reads these, so the last one does not fit any more, for ever.
    for _ in 0..WINDOW / 10_000 {
        send(&mut transport, Lane::Bulk, &[b'b'; 10_000]).await;
    }
    send(&mut transport, Lane::Signal, b"urgent").await;
    assert_eq!(
        soon(async { tokio::join!(read(&mut signal.1, 6), pump(&mut transport, Lane::Signal)) })
            .await
            .0,
        "urgent"
    );
    let bulk = poll_fn(|cx| Poll::Ready(transport.poll_ready(cx, Lane::Bulk))).await;
    assert!(bulk.is_pending());
}

async fn pump(transport: &mut WebTransport, lane: Lane) {
    poll_fn(|cx| transport.poll_ready(cx, lane)).await.unwrap();
}

/// Nothing is acknowledged within one poll, so bulk takes all the send window there is.
#[tokio::test]
async fn bulk_that_fills_the_send_window_leaves_room_for_signal() {
    let gateway = Gateway::new();
    let (mut transport, _client, mut signal, _bulk) = gateway.greet().await;
    poll_fn(|cx| {
        let mut taken = 0;
        while transport.poll_ready(cx, Lane::Bulk).is_ready() {
            transport.start_send(Lane::Bulk, frame(&[b'b'; 10_000])).unwrap();
            taken += 10_000;
        }
        assert!(taken > 200_000, "{taken}");
        assert!(transport.poll_ready(cx, Lane::Signal).is_ready());
        transport.start_send(Lane::Signal, frame(&[b's'; 60_000])).unwrap();
        assert!(transport.poll_ready(cx, Lane::Signal).is_ready(), "taken at once");
        assert!(transport.poll_ready(cx, Lane::Bulk).is_pending());
        Poll::Ready(())
    })
    .await;
    assert_eq!(read(&mut signal.1, 60_000).await.len(), 60_000);
}

#[tokio::test]
async fn datagrams_go_both_ways_and_what_does_not_fit_is_counted() {
    let gateway = Gateway::new();
    let (mut transport, client, _signal, _bulk) = gateway.greet().await;
    client.session.send_datagram(Bytes::from_static(b"up")).unwrap();
    let arrived = recv(&mut transport).await.unwrap();
    assert!(
        matches!(arrived, Inbound::Frame { lane: Lane::Ephemeral, payload } if payload == "up")
    );

    send(&mut transport, Lane::Ephemeral, &[b'x'; 60_000]).await;
    assert_eq!(transport.datagrams_dropped(), 1);
    send(&mut transport, Lane::Ephemeral, b"down").await;
    assert_eq!(soon(client.session.read_datagram()).await.unwrap(), "down");
    assert_eq!(transport.datagrams_dropped(), 1);
}

/// A client whose process is gone says nothing any more, not even goodbye.
#[test]
fn a_silent_peer_is_noticed() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (ours, theirs) = (runtime(), runtime());
    let settings = Settings { heartbeat: Duration::from_millis(100), ..SETTINGS };
    let gateway = {
        let _entered = ours.enter();
        Gateway::with(Gate::new(10, 10, |_| true), settings)
    };
    let (mut transport, client) = std::thread::scope(|scope| {
        let dial = gateway.dial(gateway.request("/v1/wt"), 1 << 20);
        let client = scope.spawn(|| theirs.block_on(soon(dial)));
        let transport = ours.block_on(soon(gateway.accept())).unwrap();
        (transport, client.join().unwrap())
    });
    // What would have sent anything ends with its runtime.
    drop(theirs);
    let end = ours.block_on(soon(poll_fn(|cx| transport.poll_recv(cx, ALL)))).unwrap_err();
    assert_eq!(end, TransportEnd::Idle);
    drop(client);
}
