//! A small UDP load balancer. It forgets nothing and proves nothing: it is for tests.
//!
//! To a gateway it looks as a NAT does, with a socket of its own for each client address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A packet whose id names no server goes where others with this went. What is new goes to the
/// gateways in turn, as the worst of hashes might have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// The same address: all that most balancers look at.
    ByAddress,
    /// The same connection id.
    ById,
}

/// Which ids lead where: QUIC-LB, plaintext.
#[derive(Clone, Debug)]
pub struct Routes {
    pub config_rotation: u8,
    /// Ids of one length, and gateways by their place.
    pub server_ids: Vec<Vec<u8>>,
}

/// What came by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets that went where their id said.
    pub by_id: u64,
    /// Those among them that would have gone elsewhere without it.
    pub led_back: u64,
    /// Packets whose id said nothing.
    pub unknown: u64,
    /// Retry packets of gateways.
    pub retries: u64,
}

pub struct Balancer {
    pub address: SocketAddr,
    tally: watch::Receiver<Tally>,
    _tasks: JoinSet<()>,
}

impl Balancer {
    pub async fn start(
        gateways: Vec<SocketAddr>,
        routes: Option<Routes>,
        unknown: Unknown,
    ) -> Self {
        let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = near.local_addr().unwrap();
        let (count, tally) = watch::channel(Tally::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(balance(near, gateways, routes, unknown, count));
        Balancer { address, tally, _tasks: tasks }
    }

    pub fn tally(&self) -> Tally {
        *self.tally.borrow()
    }
}

impl Routes {
    fn gateway(&self, id: &[u8]) -> Option<usize> {
        let (first, rest) = id.split_first()?;
        let ours = first >> 5 == self.config_rotation;
        self.server_ids.iter().position(|server| ours && rest.starts_with(server))
    }
}

/// The destination connection id, and what may stand behind it where the header does not say
/// how long it is.
fn destination(packet: &[u8]) -> Option<&[u8]> {
    if packet.first()? & 0x80 == 0 {
        return packet.get(1..);
    }
    let bytes = usize::from(*packet.get(5)?);
    packet.get(6..6 + bytes)
}

fn is_retry(packet: &[u8]) -> bool {
    packet.len() > 5 && packet[0] & 0xf0 == 0xf0 && packet[1..5] == 1_u32.to_be_bytes()
}

async fn balance(
    near: UdpSocket,
    gateways: Vec<SocketAddr>,
    routes: Option<Routes>,
    unknown: Unknown,
    count: watch::Sender<Tally>,
) {
    let near = Arc::new(near);
    let mut known: HashMap<(SocketAddr, Vec<u8>), usize> = HashMap::new();
    let mut far_sides: HashMap<(SocketAddr, usize), Arc<UdpSocket>> = HashMap::new();
    let mut back = JoinSet::new();
    let mut packet = [0; 65_536];
    loop {
        let Ok((len, client)) = near.recv_from(&mut packet).await else { continue };
        let packet = &packet[..len];
        let Some(id) = destination(packet) else { continue };
        let key = match unknown {
            Unknown::ByAddress => (client, Vec::new()),
            Unknown::ById => (near.local_addr().unwrap(), id.to_vec()),
        };
        let named = routes.as_ref().and_then(|routes| routes.gateway(id));
        let gateway = match (named, known.len()) {
            (Some(named), next) => {
                let otherwise = *known.entry(key).or_insert(next % gateways.len());
                count.send_modify(|tally| {
                    tally.by_id += 1;
                    tally.led_back += u64::from(otherwise != named);
                });
                named
            }
            (None, next) => {
                count.send_modify(|tally| tally.unknown += 1);
                *known.entry(key).or_insert(next % gateways.len())
            }
        };
        if let Entry::Vacant(place) = far_sides.entry((client, gateway)) {
            let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            far.connect(gateways[gateway]).await.unwrap();
            let far = Arc::new(far);
            back.spawn(bring_back(far.clone(), near.clone(), client, count.clone()));
            place.insert(far);
        }
        // Lost packets are what UDP is about.
        let _ = far_sides[&(client, gateway)].send(packet).await;
    }
}

async fn bring_back(
    far: Arc<UdpSocket>,
    near: Arc<UdpSocket>,
    client: SocketAddr,
    count: watch::Sender<Tally>,
) {
    let mut packet = [0; 65_536];
    // An error is a gateway that is gone; the next one may be back.
    loop {
        let Ok(len) = far.recv(&mut packet).await else { return };
        if is_retry(&packet[..len]) {
            count.send_modify(|tally| tally.retries += 1);
        }
        let _ = near.send_to(&packet[..len], client).await;
    }
}
