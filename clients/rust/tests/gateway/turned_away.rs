//! A second connection whose greeting is refused leaves the session where it is.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use handover::clock::Clock;
use handover::config::IdentitySource;
use handover::tls::Tls;
use handover_client::{Certificates, Client, ClientEvent, Codec, Kind, Options, State, Transport};
use handover_protocol::wire::ErrorCode;
use handover_protocol::wire::frame::FrameReader;
use handover_protocol::wire::message::{ClientMessage, Error, Reference, ServerMessage};
use quinn::crypto::rustls::QuicServerConfig;
use tokio::sync::watch;
use tokio::task::JoinSet;
use web_transport_quinn::{RecvStream, Server, Session};

use crate::relay::Relay;
use crate::setup::{Served, soon, transport_of};

/// Opens WebTransport sessions and refuses every greeting.
struct Door {
    address: SocketAddr,
    greeted: watch::Receiver<u32>,
    _dir: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

impl Door {
    fn refusing(code: ErrorCode, retry_after: Option<u64>) -> Self {
        let (message, reference) = ("not here".into(), Reference::default());
        let error = Error { code, message, reference, retry_after, expected: None };
        let refusal = Codec::Bincode.encode_server(&ServerMessage::Error(error)).prefixed();
        let dir = tempfile::tempdir().unwrap();
        let identity = IdentitySource::SelfMade { dir: dir.path().to_owned() };
        let tls = Tls::open(&identity, &[], Clock::start().unix_now()).unwrap();
        let crypto = Arc::new(QuicServerConfig::try_from(tls.quic()).unwrap());
        let config = quinn::ServerConfig::with_crypto(crypto);
        let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = endpoint.local_addr().unwrap();
        let (count, greeted) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(open(Server::new(endpoint), refusal, count));
        Door { address, greeted, _dir: dir, _tasks: tasks }
    }
}

async fn open(mut server: Server, refusal: Bytes, count: watch::Sender<u32>) {
    let mut sessions = JoinSet::new();
    while let Some(request) = server.accept().await {
        let (refusal, count) = (refusal.clone(), count.clone());
        sessions.spawn(async move {
            if let Ok(session) = request.ok().await {
                refuse(session, &refusal, &count).await;
            }
        });
    }
}

async fn refuse(session: Session, refusal: &[u8], count: &watch::Sender<u32>) {
    // A stream that is let go is the end of the connection.
    let mut streams = Vec::new();
    while let Ok((mut send, mut recv)) = session.accept_bi().await {
        if let Some(ClientMessage::Hello(_)) = first(&mut recv).await {
            count.send_modify(|count| *count += 1);
            send.write_all(refusal).await.unwrap();
        }
        streams.push((send, recv));
    }
}

async fn first(recv: &mut RecvStream) -> Option<ClientMessage> {
    let mut frames = FrameReader::new(1 << 16);
    loop {
        if let Some(payload) = frames.next_frame().unwrap() {
            return Some(Codec::Bincode.decode_client(&payload).unwrap());
        }
        let chunk = recv.read_chunk(65_536, true).await.ok()??;
        frames.buffer().extend_from_slice(&chunk.bytes);
    }
}

/// On a WebSocket to the gateway, while WebTransport leads to the door.
async fn before(door: &Door, served: &Served) -> (Relay, Client) {
    let relay = Relay::between(served.gateway.listening()[0], door.address).await;
    relay.set_udp(false);
    let options = served.options(Transport::Auto, Codec::Bincode);
    let options = Options { certificates: Certificates::DangerouslyAny, ..options };
    let client = soon(Client::connect(&relay.url(), options)).await.unwrap();
    relay.set_udp(true);
    (relay, client)
}

#[tokio::test]
async fn what_is_put_off_is_not_tried_again_before() {
    let served = Served::start().await;
    let an_hour = Some(3_600_000);
    let mut door = Door::refusing(ErrorCode::Unavailable, an_hour);
    let (_relay, client) = before(&door, &served).await;
    // Then both another connection and the better transport are wanted at once.
    client.network_changed().await.unwrap();
    soon(door.greeted.wait_for(|greeted| *greeted > 0)).await.unwrap();
    for _ in 0..500 {
        soon(client.ping()).await.unwrap();
    }
    assert_eq!(*door.greeted.borrow(), 1);
    assert_eq!(transport_of(&client.state().borrow()), Some(Kind::WebSocket));
    soon(client.close()).await;
    served.gateway.drain().await;
}

#[tokio::test]
async fn what_is_refused_for_good_ends_nothing_that_another_connection_carries() {
    let served = Served::start().await;
    let door = Door::refusing(ErrorCode::Unauthorized, None);
    let (_relay, client) = before(&door, &served).await;
    let mut events = client.events();
    let told = async {
        loop {
            if let ClientEvent::Refused { room, code, .. } = events.recv().await.unwrap() {
                return (room, code);
            }
        }
    };
    assert_eq!(soon(told).await, (None, ErrorCode::Unauthorized));
    soon(client.join("r", None)).await.unwrap();
    assert!(matches!(*client.state().borrow(), State::Live { transport: Kind::WebSocket, .. }));
    soon(client.close()).await;
    served.gateway.drain().await;
}
