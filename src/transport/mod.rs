//! The seam between a connection and the wire.
//!
//! A transport moves whole frames and knows nothing of sessions or rooms. It is polled by the
//! one task that owns the connection, so nothing in it needs a lock, and it keeps at most one
//! unfinished write per lane (on a WebSocket: one small buffer), so that what is more urgent
//! overtakes everything that has not yet been handed over.

pub mod accept;
mod rates;
#[cfg(test)]
pub(crate) mod testkit;
pub mod websocket;
pub mod webtransport;

use std::future::Future;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use handover_protocol::wire::frame::Frame;
use handover_protocol::wire::{CloseCode, Codec, Lane};

/// Which transport a connection runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A WebTransport session on a QUIC connection of its own.
    WebTransport,
    /// A WebSocket, with or without TLS.
    WebSocket,
}

impl Kind {
    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::WebTransport => "webtransport",
            Kind::WebSocket => "websocket",
        }
    }
}

/// Something that arrived.
#[derive(Debug)]
pub enum Inbound {
    /// One message. On a WebSocket the lane is always [`Lane::Signal`].
    Frame {
        /// The stream it came on; [`Lane::Ephemeral`] for a datagram.
        lane: Lane,
        /// The undecoded message.
        payload: Bytes,
    },
    /// A sign of life without a message, such as a pong.
    Alive,
}

/// What may be read now. A stream that may not be read is left to the transport's flow
/// control; a WebSocket, having one stream, is read only if both may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intake {
    /// The signal stream.
    pub signal: bool,
    /// The bulk stream.
    pub bulk: bool,
}

/// Why a transport will carry nothing more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportEnd {
    /// The peer closed it in an orderly way.
    #[error("closed by the peer")]
    Closed,
    /// It broke.
    #[error("lost: {0}")]
    Lost(String),
    /// Nothing was heard for the idle timeout.
    #[error("nothing heard from the peer")]
    Idle,
    /// The peer broke a rule; the connection is to be closed with this code.
    #[error("{reason}")]
    Violation {
        /// The close code the peer is told.
        code: CloseCode,
        /// For the log.
        reason: String,
    },
}

/// How the path to the peer is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PathSample {
    /// Smoothed round-trip time, if one has been measured.
    pub rtt: Option<Duration>,
    /// Packets sent so far; 0 where the transport does not tell.
    pub packets_sent: u64,
    /// Packets lost so far.
    pub packets_lost: u64,
    /// Where the peer is now.
    pub remote: SocketAddr,
}

/// What both transports are bounded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Between signs of life.
    pub heartbeat: Duration,
    /// Bytes of one message, without framing.
    pub message_bytes: usize,
    /// Streams in both directions of a WebTransport connection.
    pub streams: u32,
}

impl Settings {
    /// A peer that was silent for this long is gone.
    pub fn idle_timeout(&self) -> Duration {
        self.heartbeat.saturating_mul(5) / 2
    }
}

/// One connection's wire. All `poll_*` functions register the task's waker when they return
/// [`Poll::Pending`] and lose nothing when they are not called again.
pub trait Transport: Send + Unpin + 'static {
    /// Which transport this is.
    fn kind(&self) -> Kind;

    /// The codec agreed on when it was set up.
    fn codec(&self) -> Codec;

    /// Whether every stream it needs is there. A WebTransport session lacks its bulk stream
    /// until the client has opened it; a WebSocket has all it needs.
    fn is_complete(&self) -> bool;

    /// The session is open: the peer may say what it has to say. Before that it may not say much.
    fn greeted(&mut self) {}

    /// How the path is doing.
    fn path(&self) -> PathSample;

    /// Ephemeral frames that did not fit into a datagram, or went to a peer that takes none.
    fn datagrams_dropped(&self) -> u64 {
        0
    }

    /// Whether the peer has kept from what nobody asked for, such as one stream too many after the
    /// other.
    fn is_orderly(&self) -> bool {
        true
    }

    /// Called every few seconds: what has come that got nowhere is noticed, where the transport has means to.
    fn look_back(&mut self) {}

    /// The next arrival from the streams that `intake` allows. Also notices the end of the
    /// transport, whatever `intake` says.
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        intake: Intake,
    ) -> Poll<Result<Inbound, TransportEnd>>;

    /// Ready once [`Transport::start_send`] may be called for `lane`.
    fn poll_ready(&mut self, cx: &mut Context<'_>, lane: Lane) -> Poll<Result<(), TransportEnd>>;

    /// Takes a frame for `lane`; only after `poll_ready` said so. An ephemeral frame that the
    /// transport cannot carry as a datagram is dropped and counted.
    fn start_send(&mut self, lane: Lane, frame: Frame) -> Result<(), TransportEnd>;

    /// Pushes out what was taken. Ready when nothing is left in user space.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportEnd>>;

    /// Called every heartbeat: probes the peer where the transport does not do so itself.
    fn keep_alive(&mut self);

    /// Sends `last` (the in-band `close`) on the signal lane, if that exists, then closes with
    /// `code`. Waits until the peer has it, or `grace` has passed.
    fn close(
        self,
        last: Option<Frame>,
        code: CloseCode,
        grace: Duration,
    ) -> impl Future<Output = ()> + Send;
}
