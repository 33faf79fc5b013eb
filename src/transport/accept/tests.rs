//! The QUIC accept loop, with clients that find the house full.

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use handover_protocol::time::Time;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, Endpoint};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use web_transport_quinn::{ClientError, Session};

use super::super::testkit::{Identity, SETTINGS, soon};
use super::super::webtransport::{bind_udp, server_config, unpressed};
use super::super::{Kind, Transport};
use super::{Acceptor, Admitted, Attach, Gate, GateLimits, Refused, accept_quic, bind_tcp};
use crate::clock::Clock;
use crate::turns::Turns;

/// A session that is kept as long as this is, with its place.
type Guest = (Box<dyn Any + Send>, Admitted);

/// Passes on what it is given.
struct Desk {
    attached: mpsc::UnboundedSender<Guest>,
    refused: mpsc::UnboundedSender<Refused>,
}

impl Attach for Desk {
    fn attach<T: Transport>(&self, transport: T, admitted: Admitted) {
        assert_eq!(transport.kind(), Kind::WebTransport);
        self.attached.send((Box::new(transport), admitted)).unwrap();
    }

    fn refused(&self, kind: Kind, refused: &Refused) {
        assert_eq!(kind, Kind::WebTransport);
        self.refused.send(refused.clone()).unwrap();
    }

    fn panicked(&self, _kind: Kind) {}
}

struct House {
    address: SocketAddr,
    identity: Identity,
    gate: Arc<Gate>,
    tasks: TaskTracker,
    stop: CancellationToken,
    end: CancellationToken,
    attached: mpsc::UnboundedReceiver<Guest>,
    refused: mpsc::UnboundedReceiver<Refused>,
}

impl House {
    fn open(connections: usize, ungreeted: usize) -> Self {
        let identity = Identity::new();
        let config = server_config(&identity.server, SETTINGS).unwrap();
        let socket = bind_udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), true).unwrap().socket;
        let endpoint = unpressed(socket, config, None);
        let address = endpoint.local_addr().unwrap();
        let (attached_in, attached) = mpsc::unbounded_channel();
        let (refused_in, refused) = mpsc::unbounded_channel();
        let acceptor = Acceptor {
            gate: Arc::new(Gate::new(GateLimits::of(connections, ungreeted), Time::ZERO, |_| true)),
            settings: SETTINGS,
            clock: Clock::start(),
            attach: Arc::new(Desk { attached: attached_in, refused: refused_in }),
            tasks: TaskTracker::new(),
            turns: Turns::undivided(),
            stop: CancellationToken::new(),
            end: CancellationToken::new(),
        };
        acceptor.tasks.spawn(accept_quic(endpoint, acceptor.clone()));
        let Acceptor { gate, tasks, stop, end, .. } = acceptor;
        House { address, identity, gate, tasks, stop, end, attached, refused }
    }

    async fn dial(&self) -> Result<(Endpoint, Session), ClientError> {
        let crypto = QuicClientConfig::try_from(self.identity.client(b"h3")).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let connection = endpoint.connect_with(config, self.address, "localhost").unwrap().await?;
        let url = url::Url::parse(&format!("https://localhost:{}/v1/wt", self.address.port()));
        Ok((endpoint, Session::connect(connection, url.unwrap()).await?))
    }
}

#[tokio::test]
async fn sessions_are_attached_with_their_place() {
    let mut house = House::open(1, 10);
    let first = soon(house.dial()).await.unwrap();
    let mut guest = soon(house.attached.recv()).await.unwrap();
    guest.1.greeted();

    assert!(soon(house.dial()).await.is_err(), "429");
    assert_eq!(soon(house.refused.recv()).await.unwrap(), Refused::Capacity);
    drop((guest, first));
    soon(house.dial()).await.unwrap();
    soon(house.attached.recv()).await.unwrap();
}

#[tokio::test]
async fn without_a_place_for_the_set_up_quic_itself_refuses() {
    let mut house = House::open(9, 1);
    let place = house.gate.try_enter_quic(Time::ZERO, Ipv4Addr::LOCALHOST.into()).unwrap();
    let refused = soon(house.dial()).await.err().unwrap();
    assert!(matches!(refused, ClientError::Connection(ConnectionError::ConnectionClosed(_))));
    assert_eq!(soon(house.refused.recv()).await.unwrap(), Refused::Capacity);
    drop(place);
    soon(house.dial()).await.unwrap();
}

#[tokio::test]
async fn in_a_crowd_addresses_have_to_be_proven() {
    let mut house = House::open(9, 4);
    let home = IpAddr::from(Ipv4Addr::LOCALHOST);
    let _crowd: Vec<_> =
        (0..3).map(|_| house.gate.try_enter_quic(Time::ZERO, home).unwrap()).collect();
    assert!(house.gate.wants_proof(Time::ZERO, home));
    let (endpoint, _session) = soon(house.dial()).await.unwrap();
    let _guest = soon(house.attached.recv()).await.unwrap();
    // One handshake; the retry went unnoticed by all but QUIC.
    assert_eq!(endpoint.stats().outgoing_handshakes, 1);
}

#[tokio::test]
async fn once_stopped_it_turns_newcomers_away() {
    let mut house = House::open(9, 9);
    let stays = soon(house.dial()).await.unwrap();
    let _guest = soon(house.attached.recv()).await.unwrap();
    house.stop.cancel();
    let refused = soon(house.dial()).await.err().unwrap();
    assert!(matches!(refused, ClientError::Connection(ConnectionError::ConnectionClosed(_))));
    assert!(stays.1.close_reason().is_none(), "those inside stay");

    house.end.cancel();
    house.tasks.close();
    soon(house.tasks.wait()).await;
}

/// As `localhost` needs it: browsers take either family.
#[tokio::test]
async fn both_families_share_a_port() {
    let v6 = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    if bind_udp(v6(0), true).is_err() {
        return; // A machine without IPv6.
    }
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let udp = bind_udp(v4, true).unwrap().socket;
    bind_udp(v6(udp.local_addr().unwrap().port()), true).unwrap();
    let tcp = bind_tcp(v4, true).unwrap();
    bind_tcp(v6(tcp.local_addr().unwrap().port()), true).unwrap();
}
