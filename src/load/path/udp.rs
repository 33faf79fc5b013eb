//! QUIC connections, told apart by their connection ids and passed on packet by packet.
//!
//! A client's connections all come from one socket. What a packet belongs to is seen from the
//! id that the client chose while the handshake lasts (long headers carry it), and from then
//! on from the ids that the gateway chose, which are learned as they are first used.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use handover_client::Kind;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Passage, Shared, Way};

const PACKET: usize = 65_536;
/// What a connection id may have at most.
const ID_MAX: usize = 20;

type Id = Vec<u8>;

/// One connection.
struct Flow {
    /// Its own socket towards the gateway, so that answers are told apart by where they come.
    far: Arc<UdpSocket>,
    passage: watch::Receiver<Passage>,
    /// Where the client is: that changes when it moves to another socket.
    client: Arc<Mutex<SocketAddr>>,
}

/// Which connection a packet belongs to.
#[derive(Debug, Default)]
pub(super) struct Sorter {
    /// Connections by the id that the client chose.
    begun: HashMap<Id, usize>,
    /// And by those that the gateway chose.
    used: HashMap<Id, usize>,
    connections: usize,
    /// How long the gateway's ids are.
    id_len: usize,
}

/// A packet's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sorted {
    /// Of this connection.
    Known(usize),
    /// The first of this one.
    New(usize),
}

impl Sorter {
    /// A packet from the client.
    pub(super) fn sort(&mut self, packet: &[u8]) -> Option<Sorted> {
        if let Some((_, source)) = long_header(packet) {
            if let Some(known) = self.begun.get(source) {
                return Some(Sorted::Known(*known));
            }
            self.begun.insert(source.to_vec(), self.connections);
            self.connections += 1;
            return Some(Sorted::New(self.connections - 1));
        }
        // Until the handshake is over there is only the newest one to use a new id.
        let newest = self.connections.checked_sub(1)?;
        let id = packet.get(1..=self.id_len)?;
        Some(Sorted::Known(*self.used.entry(id.to_vec()).or_insert(newest)))
    }

    /// A packet from the gateway.
    pub(super) fn learn(&mut self, packet: &[u8]) {
        if let Some((_, source)) = long_header(packet) {
            self.id_len = source.len();
        }
    }
}

/// The destination's and the source's id.
fn long_header(packet: &[u8]) -> Option<(&[u8], &[u8])> {
    packet.first().filter(|first| **first & 0x80 != 0)?;
    let (destination, rest) = id(packet.get(5..)?)?;
    let (source, _) = id(rest)?;
    Some((destination, source))
}

fn id(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len)).filter(|(id, _)| id.len() <= ID_MAX)
}

pub(super) async fn relay(near: UdpSocket, shared: Arc<Shared>) {
    let near = Arc::new(near);
    let sorter = Arc::new(Mutex::new(Sorter::default()));
    let mut flows: HashMap<usize, Flow> = HashMap::new();
    let mut back = JoinSet::new();
    let blocked = shared.udp_blocked.subscribe();
    let mut packet = vec![0; PACKET];
    loop {
        // An error tells of a packet that could not be delivered earlier.
        let Ok((len, client)) = near.recv_from(&mut packet).await else { continue };
        while back.try_join_next().is_some() {}
        let packet = packet.get(..len).unwrap_or_default();
        if *blocked.borrow() {
            continue;
        }
        let sorted = sorter.lock().unwrap_or_else(PoisonError::into_inner).sort(packet);
        let Some(sorted) = sorted else { continue };
        if let Sorted::New(at) = sorted {
            let Some(gateway) = shared.next_gateway() else { continue };
            let Ok(far) = connect(gateway).await else { return };
            let (far, passage) = (Arc::new(far), shared.open(Kind::WebTransport, gateway));
            let client = Arc::new(Mutex::new(client));
            let answers = Answers {
                far: far.clone(),
                near: near.clone(),
                client: client.clone(),
                passage: passage.clone(),
                blocked: blocked.clone(),
                sorter: sorter.clone(),
            };
            back.spawn(answers.pass());
            flows.insert(at, Flow { far, passage, client });
        }
        let (Sorted::Known(at) | Sorted::New(at)) = sorted;
        let Some(flow) = flows.get(&at) else { continue };
        let open = { *flow.passage.borrow() };
        if open.cut {
            flows.remove(&at);
            continue;
        }
        if open.up != Way::Open {
            continue;
        }
        *flow.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
        // Lost packets are what UDP is about.
        let _ = flow.far.send(packet).await;
    }
}

async fn connect(gateway: SocketAddr) -> std::io::Result<UdpSocket> {
    let local: SocketAddr = match gateway {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let far = UdpSocket::bind(local).await?;
    far.connect(gateway).await?;
    Ok(far)
}

/// What comes back on one connection.
struct Answers {
    far: Arc<UdpSocket>,
    near: Arc<UdpSocket>,
    client: Arc<Mutex<SocketAddr>>,
    passage: watch::Receiver<Passage>,
    blocked: watch::Receiver<bool>,
    sorter: Arc<Mutex<Sorter>>,
}

impl Answers {
    async fn pass(mut self) {
        let mut cut = self.passage.clone();
        tokio::select! {
            () = self.pass_on() => {}
            _ = cut.wait_for(|passage| passage.cut) => {}
        }
    }

    async fn pass_on(&mut self) {
        let mut packet = vec![0; PACKET];
        loop {
            let Ok(len) = self.far.recv(&mut packet).await else { continue };
            let packet = packet.get(..len).unwrap_or_default();
            if *self.blocked.borrow() || self.passage.borrow().down != Way::Open {
                continue;
            }
            self.sorter.lock().unwrap_or_else(PoisonError::into_inner).learn(packet);
            let client = { *self.client.lock().unwrap_or_else(PoisonError::into_inner) };
            let _ = self.near.send_to(packet, client).await;
        }
    }
}
