//! How connections come to be: listeners, their accept loops, places and deadlines.
//!
//! Nothing here knows what a connection is for. Whoever is done setting up is handed to an
//! [`Attach`]; bytes on a TCP listener are handed to a [`ServeTcp`], which speaks HTTP.

mod addresses;
mod gate;
mod places;
mod quic;
mod tcp;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use handover_protocol::wire::Codec;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use addresses::AddressPlace;
pub use gate::{Gate, GateLimits, Refused, Visitor};
pub use places::{Admitted, Entered, Footprint};
pub use quic::accept_quic;
pub use tcp::{TcpIo, TcpTls, accept_tcp, bind_tcp};

use super::{Kind, Settings, Transport};
use crate::clock::Clock;
use crate::turns::{Rank, Turns};

/// QUIC with CONNECT, or a TLS handshake, must be over by then.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes over connections that are set up.
pub trait Attach: Send + Sync + 'static {
    /// Starts serving `transport` in a task of its own and returns. `admitted` is the
    /// connection's place; it is to be told of the `hello`, and dropped with the connection.
    fn attach<T: Transport>(&self, transport: T, admitted: Admitted);

    /// Somebody did not become a connection.
    fn refused(&self, kind: Kind, refused: &Refused);

    /// A set-up panicked, which is our bug. The others go on.
    fn panicked(&self, kind: Kind);
}

/// Speaks HTTP on the TCP listeners.
pub trait ServeTcp: Send + Sync + 'static {
    /// Serves one connection to its end, or until it becomes a WebSocket.
    fn serve(&self, caller: TcpCaller) -> impl Future<Output = Option<Upgraded>> + Send;
}

/// A TCP connection, past its TLS handshake if it has one.
#[derive(Debug)]
pub struct TcpCaller {
    /// The stream.
    pub io: TcpIo,
    /// Where it comes from.
    pub remote: SocketAddr,
    /// Whether it came by TLS.
    pub encrypted: bool,
    /// Its place among the set-ups.
    pub entered: Entered,
}

/// A TCP connection that became a WebSocket.
#[derive(Debug)]
pub struct Upgraded {
    /// The stream.
    pub io: TcpIo,
    /// What was read beyond the request.
    pub read_ahead: Bytes,
    /// The codec agreed on.
    pub codec: Codec,
    /// Its place among the connections.
    pub admitted: Admitted,
}

/// What every accept loop of a gateway shares.
#[derive(Debug)]
pub struct Acceptor<A> {
    /// Who may come in.
    pub gate: Arc<Gate>,
    /// What transports are bounded by.
    pub settings: Settings,
    /// The time.
    pub clock: Clock,
    /// Who takes over.
    pub attach: Arc<A>,
    /// Every set-up runs in here ...
    pub tasks: TaskTracker,
    /// ... and behind whoever has a session.
    pub turns: Turns,
    /// From here on newcomers are turned away, WebTransport by QUIC and WebSocket by HTTP, which
    /// goes on telling how the gateway is.
    pub stop: CancellationToken,
    /// Ends the loops and everything under way.
    pub end: CancellationToken,
}

impl<A: Attach> Acceptor<A> {
    /// Runs a set-up in a task of its own.
    fn spawn(&self, kind: Kind, rank: Rank, set_up: impl Future<Output = ()> + Send + 'static) {
        let attach = self.attach.clone();
        self.turns.begin(
            rank,
            self.tasks.track_future(async move {
                if AssertUnwindSafe(set_up).catch_unwind().await.is_err() {
                    attach.panicked(kind);
                }
            }),
        );
    }
}

impl<A> Clone for Acceptor<A> {
    fn clone(&self) -> Self {
        Acceptor {
            gate: self.gate.clone(),
            settings: self.settings,
            clock: self.clock,
            attach: self.attach.clone(),
            tasks: self.tasks.clone(),
            turns: self.turns.clone(),
            stop: self.stop.clone(),
            end: self.end.clone(),
        }
    }
}
