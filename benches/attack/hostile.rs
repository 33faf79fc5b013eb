//! Those who do not behave: as many of each kind, each as fast as its socket lets it, but for a
//! pause before it comes again. `ATTACK_KINDS=Messages,Streams` leaves the other kinds out.

use std::future::poll_fn;
use std::io::Read;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use handover::clock::Clock;
use handover::turns;
use handover_protocol::wire::frame::put_prefix;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use web_transport_quinn::{RecvStream, SendStream, Session};

use crate::rig::{Result, system, tls};

/// The first argument of a process that is to be hostile.
pub const ROLE: &str = "hostile";
pub const CONNECTIONS: usize = 1_000;
const ADDRESSES: usize = 50;
/// Before coming again.
const PAUSE: Duration = Duration::from_millis(100);
/// Until there is room for datagrams again.
const STEP: Duration = Duration::from_millis(1);
/// Datagrams at a time.
const DATAGRAMS: usize = 16;
/// Between two bytes of the slow ones.
const SLOW: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// TCP, and not a byte.
    Silent,
    /// TCP and noise.
    Noise,
    /// A TLS handshake, and gone.
    Handshakes,
    /// A QUIC handshake, and gone.
    QuicHandshakes,
    /// A WebSocket that says `hello` a byte at a time.
    Slow,
    /// `hello` with a secret, a token, that is none.
    Wrong,
    /// In a room, saying 1,000 bytes to it, for ever.
    Messages,
    /// In the same room, reading nothing.
    NeverReading,
    /// Pings, of the WebSocket and of ours.
    Pings,
    /// In and out of rooms, asking who is there.
    Churn,
    /// Datagrams, half of them noise.
    Datagrams,
    /// Streams nobody asked for.
    Streams,
}

const KINDS: [Kind; 12] = [
    Kind::Silent,
    Kind::Noise,
    Kind::Handshakes,
    Kind::QuicHandshakes,
    Kind::Slow,
    Kind::Wrong,
    Kind::Messages,
    Kind::NeverReading,
    Kind::Pings,
    Kind::Churn,
    Kind::Datagrams,
    Kind::Streams,
];

type Socket = WebSocketStream<TlsStream<TcpStream>>;
type Stream = (SendStream, RecvStream);

/// Where they come from and where they go.
struct Rogue {
    kind: Kind,
    /// Among its kind. The rooms of the flood are as many as there are tens of a kind.
    nth: usize,
    from: SocketAddr,
    to: SocketAddr,
    tls: TlsConnector,
    endpoint: quinn::Endpoint,
    quic: quinn::ClientConfig,
    done: Arc<Done>,
}

#[derive(Default)]
struct Done {
    came: AtomicU64,
    acts: AtomicU64,
}

/// Runs until standard input ends.
pub fn main(to: String) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = to.parse().map_err(Into::into).and_then(|to| runtime?.block_on(attack(to)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn attack(to: SocketAddr) -> Result<()> {
    system::raise_open_files();
    let mut crypto = tls::client(b"http/1.1")?;
    let tls = TlsConnector::from(Arc::new(crypto.clone()));
    crypto.alpn_protocols = vec![b"h3".to_vec()];
    let quic = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto)?));
    let (mut endpoints, clock) = (Vec::new(), Clock::start());
    for nth in 0..ADDRESSES {
        let from = SocketAddr::from(([127, 0, 1, 1 + nth as u8], 0));
        endpoints.push((from, quinn::Endpoint::client(from)?));
    }
    let all: Vec<_> = kinds()?.into_iter().map(|kind| (kind, Arc::new(Done::default()))).collect();
    for nth in 0..CONNECTIONS {
        let (kind, done) = all[nth % all.len()].clone();
        let nth = nth / all.len();
        let (from, endpoint) = endpoints[nth % ADDRESSES].clone();
        let (tls, quic) = (tls.clone(), quic.clone());
        let rogue = Rogue { kind, nth, from, to, tls, endpoint, quic, done };
        let attack = async move {
            loop {
                // However it ended, it comes again.
                let _ = rogue.come().await;
                tokio::time::sleep(PAUSE).await;
            }
        };
        let mut attack = Box::pin(attack);
        tokio::spawn(poll_fn(move |cx| {
            // On a machine of its own it would not be what the others wait for.
            turns::give_way(&clock);
            attack.as_mut().poll(cx)
        }));
    }
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    for (kind, done) in all {
        let (came, acts) = (&done.came, &done.acts);
        let (came, acts) = (came.load(Ordering::Relaxed), acts.load(Ordering::Relaxed));
        println!("  {kind:?}: came {came} times, {acts} acts");
    }
    Ok(())
}

/// Those that are named, or all.
fn kinds() -> Result<Vec<Kind>> {
    let Ok(names) = std::env::var("ATTACK_KINDS") else { return Ok(KINDS.to_vec()) };
    let find = |name: &str| KINDS.into_iter().find(|kind| format!("{kind:?}") == name);
    let kinds = names.split(',').map(|name| find(name).ok_or(format!("no kind {name}")));
    Ok(kinds.collect::<Result<_, _>>()?)
}

impl Rogue {
    async fn come(&self) -> Result<()> {
        self.done.came.fetch_add(1, Ordering::Relaxed);
        match self.kind {
            Kind::Silent => {
                let mut tcp = self.tcp().await?;
                tcp.read_u8().await?;
            }
            Kind::Noise => {
                let mut tcp = self.tcp().await?;
                tcp.write_all(&[0x5a; 4_096]).await?;
                tcp.read_to_end(&mut Vec::new()).await?;
                self.act();
            }
            Kind::Handshakes => {
                self.tls().await?;
                self.act();
            }
            Kind::QuicHandshakes => {
                let connection = self.quic().await?;
                connection.close(0_u32.into(), b"");
                self.act();
            }
            Kind::Slow => {
                let mut socket = self.web_socket().await?;
                let (io, _) = socket.get_mut().get_mut();
                for _ in 0..100 {
                    // Not even TLS, from here on.
                    io.write_u8(0x17).await?;
                    self.act();
                    tokio::time::sleep(SLOW).await;
                }
            }
            Kind::Wrong => {
                let mut socket = self.web_socket().await?;
                let hello = r#"{"type":"hello","version":1,"token":"a.b.c","resume":{"session":"AAAAAAAAAAAAAAAA","secret":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","rooms":{}}}"#;
                while socket.send(Message::text(hello)).await.is_ok() {
                    self.act();
                    if socket.next().await.is_none() {
                        break;
                    }
                }
            }
            Kind::Messages => self.flood().await?,
            Kind::NeverReading => {
                let mut socket = self.member().await?;
                // Until the gateway has had enough of it.
                while socket.send(Message::Pong(Bytes::new())).await.is_ok() {
                    tokio::time::sleep(SLOW).await;
                }
            }
            Kind::Pings => {
                let (mut sink, mut stream) = self.member().await?.split();
                let write = async {
                    for at in 1_u64.. {
                        sink.send(Message::Ping(Bytes::from_static(&[0; 125]))).await?;
                        sink.send(Message::text(format!(r#"{{"type":"ping","id":{at}}}"#))).await?;
                        self.act();
                    }
                    Ok(())
                };
                let read = async {
                    while let Some(message) = stream.next().await {
                        message?;
                    }
                    Result::Ok(())
                };
                let _: Result<((), ())> = tokio::try_join!(write, read);
            }
            Kind::Churn => self.churn().await?,
            Kind::Datagrams => {
                let (session, _hold) = self.web_transport().await?;
                let body = "x".repeat(700);
                let room = self.room();
                let fit = format!(r#"{{"type":"ephemeral","room":"{room}","body":"{body}"}}"#);
                let fit = Bytes::from(fit);
                loop {
                    for _ in 0..DATAGRAMS {
                        session.send_datagram(fit.clone())?;
                        session.send_datagram(Bytes::from_static(&[0x5a; 1_000]))?;
                        self.act();
                    }
                    tokio::time::sleep(STEP).await;
                }
            }
            Kind::Streams => {
                let (session, _hold) = self.web_transport().await?;
                loop {
                    let (mut send, _recv) = session.open_bi().await?;
                    // It may be refused before this is written.
                    let _ = send.write_all(b"\x05hello").await;
                    let mut send = session.open_uni().await?;
                    let _ = send.write_all(b"\x05hello").await;
                    self.act();
                }
            }
        }
        Ok(())
    }

    /// Says what it can and reads what it must.
    async fn flood(&self) -> Result<()> {
        let (mut sink, mut stream) = self.member().await?.split();
        let (room, body) = (self.room(), "x".repeat(1_000));
        let write = async {
            for seq in 1_u64.. {
                let text = format!(
                    r#"{{"type":"send","room":"{room}","lane":"signal","seq":{seq},"body":"{body}"}}"#
                );
                sink.send(Message::text(text)).await?;
                self.act();
            }
            Result::Ok(())
        };
        let read = async {
            while let Some(message) = stream.next().await {
                message?;
            }
            Result::Ok(())
        };
        tokio::try_join!(write, read).map(|_| ())
    }

    /// Says little and has the gateway do much.
    async fn churn(&self) -> Result<()> {
        let (mut sink, mut stream) = self.member().await?.split();
        let room = self.room();
        let write = async {
            for id in 2_u64.. {
                let other = format!("hostile-{}-{}", self.nth, id % 8);
                for (type_, room) in [("members", &room), ("join", &other), ("leave", &other)] {
                    let text = format!(r#"{{"type":"{type_}","id":{id},"room":"{room}"}}"#);
                    sink.send(Message::text(text)).await?;
                }
                self.act();
            }
            Ok(())
        };
        let read = async {
            while let Some(message) = stream.next().await {
                message?;
            }
            Ok(())
        };
        let outcome: Result<_> = tokio::try_join!(write, read);
        outcome.map(|_| ())
    }

    fn act(&self) {
        self.done.acts.fetch_add(1, Ordering::Relaxed);
    }

    fn room(&self) -> String {
        format!("hostile-{}", self.nth / 10)
    }

    async fn tcp(&self) -> Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(self.from)?;
        let tcp = socket.connect(self.to).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    async fn tls(&self) -> Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost")?;
        Ok(self.tls.connect(name, self.tcp().await?).await?)
    }

    async fn web_socket(&self) -> Result<Socket> {
        let url = format!("ws://{}/v1/ws", self.to);
        Ok(tokio_tungstenite::client_async(url, self.tls().await?).await?.0)
    }

    /// A WebSocket that is in its room.
    async fn member(&self) -> Result<Socket> {
        let mut socket = self.web_socket().await?;
        socket.send(Message::text(r#"{"type":"hello","version":1}"#)).await?;
        let join = format!(r#"{{"type":"join","id":1,"room":"{}"}}"#, self.room());
        socket.send(Message::text(join)).await?;
        Ok(socket)
    }

    async fn quic(&self) -> Result<quinn::Connection> {
        let connecting = self.endpoint.connect_with(self.quic.clone(), self.to, "localhost")?;
        Ok(connecting.await?)
    }

    /// A WebTransport session that is in its room.
    async fn web_transport(&self) -> Result<(Session, [Stream; 2])> {
        let url = url::Url::parse(&format!("https://{}/v1/wt", self.to))?;
        let session = Session::connect(self.quic().await?, url).await?;
        let mut signal = session.open_bi().await?;
        let mut bulk = session.open_bi().await?;
        bulk.0.write_all(&frame(r#"{"type":"lane","lane":"bulk"}"#)).await?;
        signal.0.write_all(&frame(r#"{"type":"hello","version":1}"#)).await?;
        let join = format!(r#"{{"type":"join","id":1,"room":"{}"}}"#, self.room());
        signal.0.write_all(&frame(&join)).await?;
        Ok((session, [signal, bulk]))
    }
}

fn frame(text: &str) -> Bytes {
    let mut frame = BytesMut::new();
    put_prefix(&mut frame, text.len());
    frame.extend_from_slice(text.as_bytes());
    frame.freeze()
}
