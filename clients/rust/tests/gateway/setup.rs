//! A gateway and clients of every kind.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use handover::config::{Addresses, Config, IdentitySource};
use handover::gateway::Gateway;
use handover_client::{
    Certificates, Client, Codec, Json, Kind, Options, Room, RoomEvent, State, Transport,
};

/// Waits, but not for ever: a test that would hang fails instead.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("this takes too long")
}

/// A gateway with a certificate of its own.
pub struct Served {
    pub gateway: Gateway,
    _dir: tempfile::TempDir,
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
            // Clients that a test leaves behind have nowhere else to go.
            drain_timeout: Duration::from_millis(100),
            identity: IdentitySource::SelfMade { dir: dir.path().to_owned() },
            ..Config::default()
        };
        // Its clients wait in the same queue as it does.
        config.capacity.wait = None;
        change(&mut config);
        Served { gateway: Gateway::start(config).await.unwrap(), _dir: dir }
    }

    pub fn port(&self) -> u16 {
        self.gateway.listening()[0].port()
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port())
    }

    pub fn plain_url(&self) -> String {
        format!("http://{}", self.gateway.http()[0])
    }

    pub fn options(&self, transport: Transport, codec: Codec) -> Options {
        let certificates = Certificates::Hashes(vec![self.gateway.identity().hash]);
        Options { transport, codec, certificates, ..Options::default() }
    }

    pub async fn client(&self, transport: Transport, codec: Codec) -> Client {
        let options = self.options(transport, codec);
        soon(Client::connect(&self.url(), options)).await.unwrap()
    }
}

/// Every transport with every codec.
pub const KINDS: [(Transport, Codec); 4] = [
    (Transport::WebTransport, Codec::Bincode),
    (Transport::WebTransport, Codec::Json),
    (Transport::WebSocket, Codec::Bincode),
    (Transport::WebSocket, Codec::Json),
];

pub fn json(text: &str) -> Json {
    Json::parse(text.as_bytes()).unwrap()
}

pub async fn next(room: &Room) -> RoomEvent {
    soon(room.next_event()).await.expect("the room is over")
}

/// The next message's body, everything else passed over.
pub async fn message(room: &Room) -> String {
    loop {
        if let RoomEvent::Message { body, .. } = next(room).await {
            return body.as_str().to_owned();
        }
    }
}

/// Waits until the client's state is such.
pub async fn until(client: &Client, is: impl FnMut(&State) -> bool) -> State {
    let mut state = client.state();
    soon(state.wait_for(is)).await.unwrap().clone()
}

pub fn transport_of(state: &State) -> Option<Kind> {
    match state {
        State::Live { transport, .. } => Some(*transport),
        _ => None,
    }
}
