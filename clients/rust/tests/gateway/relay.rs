//! A relay before the gateway, on one port for UDP and TCP, that can be cut.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    pub udp: bool,
    pub tcp: bool,
    /// Raised to break every TCP connection there is.
    pub breaks: u32,
}

pub struct Relay {
    pub port: u16,
    open: watch::Sender<Open>,
    /// Packets from clients that did not get through.
    stopped: watch::Receiver<u64>,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub async fn start(gateway: SocketAddr) -> Self {
        Self::between(gateway, gateway).await
    }

    /// TCP leads to one of them, UDP to the other.
    pub async fn between(by_tcp: SocketAddr, by_udp: SocketAddr) -> Self {
        let (tcp, udp) = bind().await;
        let port = tcp.local_addr().unwrap().port();
        let (open, opened) = watch::channel(Open { udp: true, tcp: true, breaks: 0 });
        let mut tasks = JoinSet::new();
        tasks.spawn(relay_tcp(tcp, by_tcp, opened.clone()));
        let (stop, stopped) = watch::channel(0);
        tasks.spawn(relay_udp(udp, by_udp, opened, stop));
        Relay { port, open, stopped, _tasks: tasks }
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Lets UDP through, or nothing of it.
    pub fn set_udp(&self, udp: bool) {
        self.open.send_modify(|open| open.udp = udp);
    }

    /// Waits until another so many packets have been stopped.
    pub async fn stops(&self, packets: u64) {
        let mut stopped = self.stopped.clone();
        let enough = *stopped.borrow() + packets;
        stopped.wait_for(|stopped| *stopped >= enough).await.unwrap();
    }

    /// Lets TCP through, or refuses it.
    pub fn set_tcp(&self, tcp: bool) {
        self.open.send_modify(|open| open.tcp = tcp);
    }

    /// Breaks every TCP connection.
    pub fn break_tcp(&self) {
        self.open.send_modify(|open| open.breaks += 1);
    }
}

/// The same port for both, as the gateway has it.
async fn bind() -> (TcpListener, UdpSocket) {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (tcp, udp);
        }
    }
}

async fn relay_tcp(listener: TcpListener, gateway: SocketAddr, open: watch::Receiver<Open>) {
    let mut pairs = JoinSet::new();
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        if !open.borrow().tcp {
            continue;
        }
        let mut open = open.clone();
        pairs.spawn(async move {
            let breaks = open.borrow().breaks;
            let mut far = TcpStream::connect(gateway).await.unwrap();
            tokio::select! {
                // Whichever side is gone, the other follows.
                _ = copy_bidirectional(&mut near, &mut far) => {}
                _ = open.wait_for(|open| open.breaks != breaks) => {}
            }
        });
    }
}

async fn relay_udp(
    near: UdpSocket,
    gateway: SocketAddr,
    open: watch::Receiver<Open>,
    stop: watch::Sender<u64>,
) {
    let near = Arc::new(near);
    let mut far_sides: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut back = JoinSet::new();
    let mut packet = [0; 65_536];
    loop {
        let Ok((len, client)) = near.recv_from(&mut packet).await else { continue };
        if !open.borrow().udp {
            stop.send_modify(|stopped| *stopped += 1);
            continue;
        }
        if let Entry::Vacant(place) = far_sides.entry(client) {
            let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            far.connect(gateway).await.unwrap();
            let far = Arc::new(far);
            let (near, from, open) = (near.clone(), far.clone(), open.clone());
            back.spawn(async move {
                let mut packet = [0; 65_536];
                while let Ok(len) = from.recv(&mut packet).await {
                    if open.borrow().udp {
                        // Lost packets are what UDP is about.
                        let _ = near.send_to(&packet[..len], client).await;
                    }
                }
            });
            place.insert(far);
        }
        let _ = far_sides[&client].send(&packet[..len]).await;
    }
}
