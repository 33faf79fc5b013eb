//! Two gateways behind a load balancer, and connections that go on from another address.

use std::net::SocketAddr;
use std::time::Duration;

use handover::config::ServerId;
use handover_client::{
    Attention, Certificates, Client, Endpoint, Json, LogLane, Options, ResetCause, Room, RoomEvent,
    State, Transport,
};

use super::balancer::{Balancer, Routes, Unknown};
use super::setup::{Member, Served, soon};

const OPENED: &str = "handover_connections_opened_total{transport=\"webtransport\"}";

/// Two gateways that share nothing, with server ids of so many bytes, or none.
async fn two(server_id_bytes: Option<usize>) -> ([Served; 2], Option<Routes>) {
    let ids =
        server_id_bytes.map(|bytes| [1, 2].map(|node| [vec![0; bytes - 1], vec![node]].concat()));
    let mut served = Vec::new();
    for node in 0..2 {
        let server_id = ids.as_ref().map(|ids| ServerId {
            bytes: ids[node].clone(),
            config_rotation: 3,
            nonce_bytes: 8,
        });
        let places = 5;
        let with = Served::with(|config| {
            config.server_id = server_id;
            config.capacity.ungreeted_per_address = places;
            config.hello_timeout = Duration::from_secs(600);
        });
        served.push(with.await);
    }
    let routes = ids.map(|ids| Routes { config_rotation: 3, server_ids: ids.into() });
    (served.try_into().unwrap_or_else(|_| unreachable!()), routes)
}

async fn balancer(served: &[Served; 2], routes: Option<Routes>, unknown: Unknown) -> Balancer {
    Balancer::start(served.iter().map(Served::secure).collect(), routes, unknown).await
}

/// A member of a room that reaches its gateway by the balancer, one that does not, and the
/// socket of the former.
struct Pair {
    client: Client,
    near: Client,
    rooms: [Room; 2],
    endpoint: Endpoint,
    sent: u32,
}

impl Pair {
    /// The gateway is the one that the balancer is going to choose.
    async fn new(served: &[Served; 2], by: SocketAddr, at: usize, attention: Attention) -> Self {
        let hashes = served.iter().map(|served| served.gateway.identity().hash);
        let endpoint = Endpoint::new().unwrap();
        let options = Options {
            transport: Transport::WebTransport,
            certificates: Certificates::Hashes(hashes.collect()),
            endpoint: Some(endpoint.clone()),
            attention,
            ..Options::default()
        };
        let client = soon(Client::connect(&format!("https://{by}"), options)).await.unwrap();
        let options = Options { transport: Transport::WebSocket, ..Options::default() };
        let near = format!("http://{}", served[at].plain());
        let near = soon(Client::connect(&near, options)).await.unwrap();
        let room = soon(client.join("room", None)).await.unwrap();
        let rooms = [room, soon(near.join("room", None)).await.unwrap()];
        Pair { client, near, rooms, endpoint, sent: 0 }
    }

    /// Both send on both lanes, and everything arrives once and in order. Half of it is on its
    /// way when `then` happens.
    async fn talk(&mut self, then: impl FnOnce(&Endpoint)) {
        let (from, mut sendings) = (self.sent, Vec::new());
        let mut then = Some(then);
        for n in from..from + 40 {
            if let Some(then) = then.take_if(|_| n == from + 20) {
                then(&self.endpoint);
            }
            for room in &self.rooms {
                for lane in LogLane::ALL {
                    sendings.push(room.queue(lane, None, number(n)).await.unwrap());
                }
            }
        }
        self.sent += 40;
        for room in &self.rooms {
            let mut expected = [from; 2];
            while expected != [self.sent; 2] {
                match soon(room.next_event()).await.unwrap() {
                    RoomEvent::Message { lane, body, .. } => {
                        assert_eq!(body, number(expected[lane as usize]), "{lane:?}");
                        expected[lane as usize] += 1;
                    }
                    RoomEvent::Reset(cause, _) => panic!("reset: {cause:?}"),
                    _ => {}
                }
            }
        }
        for sending in sendings {
            soon(sending).await.unwrap();
        }
    }

    async fn close(self) {
        soon(self.client.close()).await;
        soon(self.near.close()).await;
    }
}

fn number(n: u32) -> Json {
    Json::parse(n.to_string().as_bytes()).unwrap()
}

async fn drain(served: [Served; 2]) {
    for served in served {
        served.gateway.drain().await;
    }
}

#[tokio::test]
async fn connection_ids_lead_a_client_that_has_moved_back_to_its_gateway() {
    for server_id_bytes in [8, 2] {
        let (served, routes) = two(Some(server_id_bytes)).await;
        let balancer = balancer(&served, routes, Unknown::ByAddress).await;
        let mut pairs = Vec::new();
        for at in 0..2 {
            pairs.push(Pair::new(&served, balancer.address, at, Attention::IDLE).await);
        }
        let mut states: Vec<_> = pairs.iter().map(|pair| pair.client.state()).collect();
        states.iter_mut().for_each(|state| state.mark_unchanged());
        let peers: Vec<_> = pairs.iter().map(|pair| pair.client.peer()).collect();
        assert_eq!(balancer.tally().led_back, 0);
        for _ in 0..3 {
            // Those of the second gateway first: then each new address would lead astray.
            for pair in pairs.iter_mut().rev() {
                let before = balancer.tally().led_back;
                pair.talk(|endpoint| endpoint.rebind().unwrap()).await;
                let led_back = balancer.tally().led_back - before;
                assert!(led_back > 0, "the address alone would have done");
            }
        }
        for ((pair, state), peer) in pairs.iter().zip(states).zip(peers) {
            soon(pair.client.ping()).await.unwrap();
            assert!(!state.has_changed().unwrap(), "another connection: {:?}", state.borrow());
            assert!(matches!(*state.borrow(), State::Live { resumed: false, .. }));
            assert_eq!(pair.client.peer(), peer);
        }
        for served in &served {
            assert_eq!(served.metric(OPENED).await, 1);
        }
        for pair in pairs {
            pair.close().await;
        }
        drain(served).await;
    }
}

#[tokio::test]
async fn without_them_a_client_that_has_moved_ends_up_with_a_gateway_that_does_not_know_it() {
    let (served, _) = two(None).await;
    let balancer = balancer(&served, None, Unknown::ByAddress).await;
    let nervous = Attention {
        probe_after: Some(Duration::from_millis(100)),
        probe_timeout: Duration::from_millis(200),
    };
    let mut pair = Pair::new(&served, balancer.address, 0, nervous).await;
    pair.talk(|_| ()).await;
    let peer = pair.client.peer();
    pair.endpoint.rebind().unwrap();
    let reset = async {
        loop {
            if let RoomEvent::Reset(cause, members) = pair.rooms[0].next_event().await.unwrap() {
                return (cause, members.len());
            }
        }
    };
    assert_eq!(soon(reset).await, (ResetCause::NewSession, 1));
    assert_ne!(pair.client.peer(), peer);
    assert_eq!(served[0].metric(OPENED).await, 1);
    assert!(served[1].metric(OPENED).await >= 1);
    pair.close().await;
    drain(served).await;
}

#[tokio::test]
async fn a_retry_leads_back_to_the_gateway_it_came_from() {
    let (served, routes) = two(Some(8)).await;
    // What a client chose itself goes to the gateways in turn; so would an id of a Retry that
    // named none, and only the gateway that made a Retry's token takes it.
    let balancer = balancer(&served, routes, Unknown::ById).await;
    // Callers that have said nothing yet; another from their address has to prove it.
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(Member::over_webtransport(served[0].secure()).await);
    }
    let mut pair = Pair::new(&served, balancer.address, 0, Attention::IDLE).await;
    pair.talk(|endpoint| endpoint.rebind().unwrap()).await;
    assert_eq!(balancer.tally().retries, 1);
    assert_eq!(served[0].metric(OPENED).await, 4);
    assert_eq!(served[1].metric(OPENED).await, 0);
    pair.close().await;
    drop(silent);
    drain(served).await;
}
