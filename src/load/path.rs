//! The path between one session and its gateway, which can be broken: a relay on one port for
//! UDP and TCP that knows one connection from another.

mod tcp;
mod udp;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use handover_client::Kind;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Tries to find a port that is free for both.
const PORT_TRIES: usize = 64;

/// What becomes of what arrives in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It is passed on.
    Open,
    /// It waits, as far as it can wait: TCP does, packets are lost.
    Frozen,
    /// It vanishes, and so does everything after it.
    Silent,
}

impl Way {
    /// What it becomes. What has vanished of a stream of bytes leaves a hole that no network
    /// makes: after that nothing more of it may come.
    fn then(self, next: Way) -> Way {
        if self == Way::Silent { Way::Silent } else { next }
    }
}

/// How one connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passage {
    /// From the session to the gateway.
    pub(super) up: Way,
    pub(super) down: Way,
    /// Broken for good: TCP is reset at both ends, packets vanish.
    pub(super) cut: bool,
}

const OPEN: Passage = Passage { up: Way::Open, down: Way::Open, cut: false };

/// What both halves share with whoever breaks the path.
#[derive(Debug)]
struct Shared {
    /// Those that are up, and take new connections in turn.
    gateways: watch::Receiver<Vec<SocketAddr>>,
    turn: AtomicUsize,
    /// The connections there are. Those nobody serves any more are dropped on the way.
    passages: Mutex<Vec<Open>>,
    /// No packet gets through, of whichever connection.
    udp_blocked: watch::Sender<bool>,
}

/// A connection there is.
#[derive(Clone, Debug)]
struct Open {
    kind: Kind,
    gateway: SocketAddr,
    passage: watch::Sender<Passage>,
}

impl Shared {
    /// Where the next connection goes, as a balancer would have it; nowhere if nothing is up.
    fn next_gateway(&self) -> Option<SocketAddr> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let up = self.gateways.borrow();
        up.get(turn.checked_rem(up.len())?).copied()
    }

    fn open(&self, kind: Kind, gateway: SocketAddr) -> watch::Receiver<Passage> {
        let (passage, watched) = watch::channel(OPEN);
        self.with_passages(|passages| passages.push(Open { kind, gateway, passage }));
        watched
    }

    fn with_passages<T>(&self, act: impl FnOnce(&mut Vec<Open>) -> T) -> T {
        let mut passages = self.passages.lock().unwrap_or_else(PoisonError::into_inner);
        passages.retain(|open| !open.passage.is_closed() && !open.passage.borrow().cut);
        act(&mut passages)
    }
}

/// A path. Dropping it ends everything on it.
#[derive(Debug)]
pub(super) struct Path {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Path {
    /// Opens one to whichever gateways are up, beginning with the one at `turn`.
    pub(super) async fn open(
        gateways: watch::Receiver<Vec<SocketAddr>>,
        turn: usize,
    ) -> io::Result<Self> {
        let (tcp, udp) = bind().await?;
        let address = tcp.local_addr()?;
        let (udp_blocked, _) = watch::channel(false);
        let (turn, passages) = (AtomicUsize::new(turn), Mutex::default());
        let shared = Arc::new(Shared { gateways, turn, passages, udp_blocked });
        let mut tasks = JoinSet::new();
        tasks.spawn(tcp::relay(tcp, shared.clone()));
        tasks.spawn(udp::relay(udp, shared.clone()));
        Ok(Path { address, shared, _tasks: tasks })
    }

    /// Where the session connects to.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The gateway that the newest connection of a kind goes to.
    pub(super) fn gateway(&self, kind: Kind) -> Option<SocketAddr> {
        self.shared.with_passages(|passages| {
            passages.iter().rev().find(|open| open.kind == kind).map(|open| open.gateway)
        })
    }

    /// Breaks every connection there is, for good. Later ones are not concerned.
    pub(super) fn cut(&self) {
        self.shared.with_passages(|passages| {
            for Open { passage, .. } in passages {
                passage.send_modify(|passage| passage.cut = true);
            }
        });
    }

    /// Changes how the present connections are doing. Returns what undoes that.
    pub(super) fn disturb(&self, up: Way, down: Way) -> Disturbed {
        let passages = self.shared.with_passages(|passages| {
            for Open { passage, .. } in passages.iter() {
                passage.send_modify(|passage| {
                    passage.up = passage.up.then(up);
                    passage.down = passage.down.then(down);
                });
            }
            passages.iter().map(|open| open.passage.clone()).collect()
        });
        Disturbed { passages }
    }

    /// Lets packets through, or none.
    pub(super) fn block_udp(&self, blocked: bool) {
        self.shared.udp_blocked.send_replace(blocked);
    }
}

/// Connections that were disturbed.
#[derive(Debug)]
pub(super) struct Disturbed {
    passages: Vec<watch::Sender<Passage>>,
}

impl Disturbed {
    /// They are as they were.
    pub(super) fn undo(&self) {
        for passage in &self.passages {
            passage.send_modify(|passage| {
                passage.up = passage.up.then(Way::Open);
                passage.down = passage.down.then(Way::Open);
            });
        }
    }
}

/// The same port for both, as the gateway has it.
async fn bind() -> io::Result<(TcpListener, UdpSocket)> {
    let mut tries = PORT_TRIES;
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        tries -= 1;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((tcp, udp)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
