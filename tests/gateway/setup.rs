//! A gateway on ports the system chose, and members on either transport, in JSON.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use handover::config::{Addresses, BrokerPlace, Config, IdentitySource};
use handover::gateway::Gateway;
use handover_protocol::wire::frame::{FrameReader, put_prefix};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};
use tokio_util::either::Either;
use web_transport_quinn::proto::ConnectRequest;
use web_transport_quinn::{RecvStream, SendStream, Session};

use crate::any_certificate::trusting;

/// Waits, but not for ever: a test that would hang fails instead.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("this takes too long")
}

/// A gateway with a certificate of its own.
pub struct Served {
    pub gateway: Gateway,
    pub _dir: tempfile::TempDir,
}

impl Served {
    pub async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut config = Config {
            listen: Addresses::of([loopback]),
            http: Addresses::of([loopback]),
            drain_timeout: Duration::from_millis(200),
            identity: IdentitySource::SelfMade { dir: dir.path().to_owned() },
            ..Config::default()
        };
        // Its clients wait in the same queue as it does.
        config.capacity.wait = None;
        change(&mut config);
        Served { gateway: Gateway::start(config).await.unwrap(), _dir: dir }
    }

    /// A node of those that share a Redis.
    pub async fn node(address: &str) -> Self {
        let served =
            Self::with(|config| config.broker = BrokerPlace::parse(address).unwrap()).await;
        soon(served.gateway.ready()).await;
        served
    }

    /// Where QUIC and TLS listen.
    pub fn secure(&self) -> SocketAddr {
        self.gateway.listening()[0]
    }

    pub fn plain(&self) -> SocketAddr {
        self.gateway.http()[0]
    }

    /// The sum of the metrics that begin like this.
    pub async fn metric(&self, start: &str) -> u64 {
        let text = self.metrics().await;
        let lines = text.lines().filter(|line| line.starts_with(start));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    pub async fn metrics(&self) -> String {
        let mut tcp = soon(TcpStream::connect(self.plain())).await.unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        soon(tcp.read_to_string(&mut text)).await.unwrap();
        text
    }

    pub async fn websocket(&self) -> Member {
        Member::websocket(self.plain()).await
    }

    pub async fn webtransport(&self) -> Member {
        Member::webtransport(self.secure()).await
    }

    /// One on each transport, greeted and in `room`.
    pub async fn both(&self, room: &str) -> [Member; 2] {
        let mut one = self.websocket().await;
        let mut other = self.webtransport().await;
        one.join(room).await;
        other.join(room).await;
        one.expect("signal", "member_joined").await;
        [one, other]
    }
}

/// A plain WebSocket, not greeted.
pub async fn dial_websocket(to: SocketAddr) -> WebSocketStream<TcpStream> {
    let tcp = soon(TcpStream::connect(to)).await.unwrap();
    let url = format!("ws://{to}/v1/ws");
    soon(tokio_tungstenite::client_async(url, tcp)).await.unwrap().0
}

/// TLS on TCP, whatever the certificate.
pub async fn over_tls(to: SocketAddr) -> TlsStream<TcpStream> {
    over_tls_from(Ipv4Addr::LOCALHOST, to).await
}

/// The same, from this address.
pub async fn over_tls_from(from: Ipv4Addr, to: SocketAddr) -> TlsStream<TcpStream> {
    let crypto = Arc::new(trusting(rustls::ALL_VERSIONS, b"http/1.1").unwrap());
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let tcp = soon(socket.connect(to)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    soon(TlsConnector::from(crypto).connect(name, tcp)).await.unwrap()
}

/// A WebTransport session without streams, and what keeps it alive.
pub async fn dial_webtransport(from: Ipv4Addr, to: SocketAddr) -> (quinn::Endpoint, Session) {
    let endpoint = quinn::Endpoint::client(SocketAddr::from((from, 0))).unwrap();
    let session = session_on(&endpoint, any_certificate(), to, "").await.unwrap();
    (endpoint, session)
}

/// The same on this endpoint, with a query; an error if QUIC is refused.
pub async fn session_on(
    endpoint: &quinn::Endpoint,
    config: quinn::ClientConfig,
    to: SocketAddr,
    query: &str,
) -> Result<Session, quinn::ConnectionError> {
    let dialled = endpoint.connect_with(config, to, "localhost").unwrap();
    let connection = soon(dialled).await?;
    let url = url::Url::parse(&format!("https://localhost:{}/v1/wt{query}", to.port())).unwrap();
    Ok(soon(Session::connect(connection, ConnectRequest::new(url))).await.unwrap())
}

struct Half {
    send: SendStream,
    recv: RecvStream,
    frames: FrameReader,
}

/// A WebTransport session with its two streams.
struct Streams {
    _endpoint: quinn::Endpoint,
    session: Session,
    signal: Half,
    bulk: Half,
}

type Tcp = Either<TcpStream, TlsStream<TcpStream>>;

enum Wire {
    WebSocket(Box<WebSocketStream<Tcp>>),
    WebTransport(Box<Streams>),
}

/// A connection that has said `hello`. It reads only when asked to.
pub struct Member {
    wire: Wire,
    /// What came on the WebSocket for the other lane while one was waited for.
    aside: [VecDeque<Value>; 2],
    next_id: u64,
    seqs: [u64; 2],
    pub peer: String,
    /// What it was greeted with.
    pub welcome: Value,
}

impl Member {
    pub async fn websocket(to: SocketAddr) -> Self {
        Self::over_websocket(to).await.greeted().await
    }

    pub async fn webtransport(to: SocketAddr) -> Self {
        Self::over_webtransport(to).await.greeted().await
    }

    /// One that has said nothing yet.
    pub async fn over_websocket(to: SocketAddr) -> Self {
        let tcp = soon(TcpStream::connect(to)).await.unwrap();
        Self::upgraded(Either::Left(tcp), to).await
    }

    /// Greeted, by TLS.
    pub async fn secure_websocket(to: SocketAddr) -> Self {
        Self::upgraded(Either::Right(over_tls(to).await), to).await.greeted().await
    }

    async fn upgraded(stream: Tcp, to: SocketAddr) -> Self {
        let url = format!("ws://{to}/v1/ws");
        let (socket, _) = soon(tokio_tungstenite::client_async(url, stream)).await.unwrap();
        Self::new(Wire::WebSocket(Box::new(socket)))
    }

    /// Says `hello` with the session of another connection.
    pub async fn resume(&mut self, session: &Value) {
        self.resume_at(session, json!({})).await;
    }

    /// The same, from the positions it had.
    pub async fn resume_at(&mut self, session: &Value, rooms: Value) {
        let resume = json!({
            "session": session["session"], "secret": session["secret"], "rooms": rooms,
        });
        self.send("signal", json!({"type": "hello", "version": 1, "resume": resume})).await;
    }

    /// One that has said nothing on the signal stream yet.
    pub async fn over_webtransport(to: SocketAddr) -> Self {
        Self::from_address(Ipv4Addr::LOCALHOST, to).await
    }

    /// The same from another address of this machine.
    pub async fn from_address(from: Ipv4Addr, to: SocketAddr) -> Self {
        let (endpoint, session) = dial_webtransport(from, to).await;
        Self::on_session(endpoint, session).await
    }

    /// Greeted, and never ends by itself because it hears nothing.
    pub async fn devoted(to: SocketAddr) -> Self {
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let mut transport = quinn::TransportConfig::default();
        transport.max_idle_timeout(None);
        let mut config = any_certificate();
        config.transport_config(Arc::new(transport));
        let session = session_on(&endpoint, config, to, "").await.unwrap();
        Self::on_session(endpoint, session).await.greeted().await
    }

    /// One that comes again where QUIC turns it away, as clients do, and how often that was.
    pub async fn patient(to: SocketAddr) -> (Self, usize) {
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let mut refused = 0;
        let session = loop {
            match session_on(&endpoint, any_certificate(), to, "").await {
                Ok(session) => break session,
                Err(quinn::ConnectionError::ConnectionClosed(close))
                    if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED =>
                {
                    refused += 1;
                }
                Err(error) => panic!("{error}"),
            }
        };
        (Self::on_session(endpoint, session).await, refused)
    }

    async fn on_session(endpoint: quinn::Endpoint, session: Session) -> Self {
        let signal = Half::open(&session).await;
        let mut bulk = Half::open(&session).await;
        bulk.write(br#"{"type":"lane","lane":"bulk"}"#).await;
        let streams = Streams { _endpoint: endpoint, session, signal, bulk };
        Self::new(Wire::WebTransport(Box::new(streams)))
    }

    fn new(wire: Wire) -> Self {
        let aside = [VecDeque::new(), VecDeque::new()];
        Member { wire, aside, next_id: 1, seqs: [0, 0], peer: String::new(), welcome: Value::Null }
    }

    async fn greeted(mut self) -> Self {
        self.send("signal", json!({"type": "hello", "version": 1})).await;
        let welcome = self.expect("signal", "welcome").await;
        self.peer = welcome["peer"].as_str().unwrap().to_owned();
        self.welcome = welcome;
        self
    }

    pub async fn send(&mut self, lane: &str, message: Value) {
        self.send_bytes(lane, message.to_string().as_bytes()).await;
    }

    /// Sends what need not be a message.
    pub async fn send_bytes(&mut self, lane: &str, payload: &[u8]) {
        soon(async {
            match &mut self.wire {
                Wire::WebSocket(socket) => {
                    let opcode = OpCode::Data(Data::Text);
                    let header = FrameHeader { opcode, ..FrameHeader::default() };
                    let frame = Frame::from_payload(header, payload.to_vec().into());
                    socket.send(Message::Frame(frame)).await.unwrap();
                }
                Wire::WebTransport(streams) => streams.half(lane).write(payload).await,
            }
        })
        .await;
    }

    /// Sends unless the connection has ended, or nothing more fits into it.
    pub async fn tries(&mut self, message: Value) {
        let text = message.to_string();
        let sending = async {
            match &mut self.wire {
                Wire::WebSocket(socket) => socket.send(Message::text(text)).await.is_ok(),
                Wire::WebTransport(streams) => {
                    streams.signal.try_write(text.as_bytes()).await.is_ok()
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(1), sending).await;
    }

    /// Waits until the gateway has taken leave.
    pub async fn bye(mut self) {
        while self.next("signal").await.is_some_and(|said| said["type"] != "close") {}
    }

    /// The bare session of a member on WebTransport.
    pub fn session(&self) -> Option<&Session> {
        match &self.wire {
            Wire::WebSocket(_) => None,
            Wire::WebTransport(streams) => Some(&streams.session),
        }
    }

    /// The next message on a lane, `quality` left out; `None` once the connection has ended.
    pub async fn next(&mut self, lane: &str) -> Option<Value> {
        loop {
            let message = soon(self.read(lane)).await?;
            if message["type"] != "quality" {
                return Some(message);
            }
        }
    }

    async fn read(&mut self, lane: &str) -> Option<Value> {
        let wanted = usize::from(lane == "bulk");
        if let Some(message) = self.aside[wanted].pop_front() {
            return Some(message);
        }
        match &mut self.wire {
            Wire::WebTransport(streams) => streams.half(lane).read().await,
            Wire::WebSocket(socket) => loop {
                let Ok(Message::Text(text)) = socket.next().await? else { continue };
                let message: Value = serde_json::from_str(&text).unwrap();
                let came = usize::from(message["lane"] == "bulk");
                if came == wanted {
                    return Some(message);
                }
                self.aside[came].push_back(message);
            },
        }
    }

    /// Messages that came on a WebSocket while another lane's was waited for.
    pub fn passed_over(&self, lane: &str) -> usize {
        self.aside[usize::from(lane == "bulk")].len()
    }

    /// The next message on a lane must be of this type.
    pub async fn expect(&mut self, lane: &str, kind: &str) -> Value {
        let message = self.next(lane).await.expect("the connection has ended");
        assert_eq!(message["type"], kind, "{message}");
        message
    }

    /// Joins; the answer, with the mark of the bulk lane taken.
    pub async fn join(&mut self, room: &str) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        self.send("signal", json!({"type": "join", "id": id, "room": room})).await;
        let joined = self.expect("signal", "joined").await;
        let mark = self.expect("bulk", "position").await;
        assert_eq!((&mark["start"], &mark["offset"]), (&json!(true), &joined["bulk"]));
        joined
    }

    /// Sends and does not wait; the `seq` it got.
    pub async fn post(&mut self, room: &str, lane: &str, body: Value) -> u64 {
        let seq = &mut self.seqs[usize::from(lane == "bulk")];
        *seq += 1;
        let seq = *seq;
        let fields = json!({"type": "send", "room": room, "lane": lane, "seq": seq, "body": body});
        self.send(lane, fields).await;
        seq
    }

    /// The same, to one member alone.
    pub async fn post_to(&mut self, room: &str, lane: &str, to: &str, body: Value) -> u64 {
        let seq = &mut self.seqs[usize::from(lane == "bulk")];
        *seq += 1;
        let seq = *seq;
        let fields = json!({
            "type": "send", "room": room, "lane": lane, "seq": seq, "to": to, "body": body,
        });
        self.send(lane, fields).await;
        seq
    }

    /// Waits until everything up to `seq` is accepted; the last one's offset.
    pub async fn accepted(&mut self, lane: &str, seq: u64) -> u64 {
        loop {
            let accepted = self.expect(lane, "accepted").await;
            if accepted["seq"] == seq {
                return accepted["offset"].as_u64().unwrap();
            }
        }
    }

    /// The connection is alive, and nothing else was waiting on the signal lane.
    pub async fn answers(&mut self) {
        let id = self.next_id;
        self.next_id += 1;
        self.send("signal", json!({"type": "ping", "id": id})).await;
        assert_eq!(self.expect("signal", "pong").await["id"], id);
    }

    /// The last message is `close`, and the transport ends with the same code.
    pub async fn closed(&mut self) -> u64 {
        let close = self.expect("signal", "close").await;
        let code = close["code"].as_u64().unwrap();
        match &mut self.wire {
            Wire::WebSocket(socket) => {
                let Some(Ok(Message::Close(Some(frame)))) = soon(socket.next()).await else {
                    panic!("no close frame");
                };
                assert_eq!(u64::from(u16::from(frame.code)), code);
            }
            Wire::WebTransport(streams) => {
                soon(streams.session.closed()).await;
            }
        }
        code
    }
}

impl Streams {
    fn half(&mut self, lane: &str) -> &mut Half {
        if lane == "bulk" { &mut self.bulk } else { &mut self.signal }
    }
}

impl Half {
    async fn open(session: &Session) -> Self {
        let (send, recv) = soon(session.open_bi()).await.unwrap();
        Half { send, recv, frames: FrameReader::new(1 << 20) }
    }

    async fn write(&mut self, payload: &[u8]) {
        self.try_write(payload).await.unwrap();
    }

    async fn try_write(&mut self, payload: &[u8]) -> Result<(), web_transport_quinn::WriteError> {
        let mut frame = BytesMut::new();
        put_prefix(&mut frame, payload.len());
        frame.extend_from_slice(payload);
        self.send.write_all(&frame).await
    }

    async fn read(&mut self) -> Option<Value> {
        loop {
            if let Some(payload) = self.frames.next_frame().unwrap() {
                return Some(serde_json::from_slice(&payload).unwrap());
            }
            let chunk = self.recv.read_chunk(65_536, true).await.ok()??;
            self.frames.buffer().extend_from_slice(&chunk.bytes);
        }
    }
}

/// A QUIC client for a certificate made a moment ago. Whether clients hold it against its hash is
/// their tests' affair.
pub fn any_certificate() -> quinn::ClientConfig {
    quinn::ClientConfig::new(Arc::new(quic_crypto()))
}

/// Its cryptography alone.
pub fn quic_crypto() -> QuicClientConfig {
    let crypto = trusting(rustls::ALL_VERSIONS, b"h3").unwrap();
    QuicClientConfig::try_from(crypto).unwrap()
}
