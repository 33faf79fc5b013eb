//! One connection's wire, polled by the one task that owns it.

mod stream;
mod websocket;
mod webtransport;

use std::net::SocketAddr;
use std::task::{Context, Poll};

use bytes::Bytes;
use handover_protocol::session::server::Streams;
use handover_protocol::wire::Lane;
use handover_protocol::wire::frame::Frame;

pub(crate) use websocket::{Io, WebSocket};
pub(crate) use webtransport::WebTransport;

/// The largest message a gateway may send. Its own limit is announced in `welcome`; this one
/// only keeps a broken gateway from filling the memory. A `joined` lists every member.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Which transport a connection runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A WebTransport session on a QUIC connection of its own.
    WebTransport,
    /// A WebSocket.
    WebSocket,
}

impl Kind {
    /// The name for people and flags.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::WebTransport => "webtransport",
            Kind::WebSocket => "websocket",
        }
    }
}

/// Something that arrived.
#[derive(Debug)]
pub(crate) enum Inbound {
    /// One message, not decoded.
    Message(Bytes),
    /// A sign of life without a message.
    Alive,
}

/// Why a transport carries nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TransportEnd {
    /// What it was closed with, if with anything.
    pub(crate) code: Option<u16>,
    /// For the log.
    pub(crate) reason: String,
}

impl TransportEnd {
    pub(crate) fn lost(reason: impl ToString) -> Self {
        TransportEnd { code: None, reason: reason.to_string() }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) enum Transport {
    WebTransport(Box<WebTransport>),
    WebSocket(Box<WebSocket>),
}

impl Transport {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Transport::WebTransport(_) => Kind::WebTransport,
            Transport::WebSocket(_) => Kind::WebSocket,
        }
    }

    /// Where the gateway is, if the system still says so.
    pub(crate) fn gateway(&self) -> Option<SocketAddr> {
        match self {
            Transport::WebTransport(inner) => Some(inner.gateway()),
            Transport::WebSocket(inner) => inner.gateway(),
        }
    }

    pub(crate) fn streams(&self) -> Streams {
        match self {
            Transport::WebTransport(_) => Streams::PerLane,
            Transport::WebSocket(_) => Streams::One,
        }
    }

    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Inbound, TransportEnd>> {
        match self {
            Transport::WebTransport(inner) => inner.poll_recv(cx),
            Transport::WebSocket(inner) => inner.poll_recv(cx),
        }
    }

    /// Ready once [`Transport::start_send`] may be called for the lane.
    pub(crate) fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        lane: Lane,
    ) -> Poll<Result<(), TransportEnd>> {
        match self {
            Transport::WebTransport(inner) => inner.poll_ready(cx, lane),
            Transport::WebSocket(inner) => inner.poll_ready(cx),
        }
    }

    pub(crate) fn start_send(&mut self, lane: Lane, frame: &Frame) -> Result<(), TransportEnd> {
        match self {
            Transport::WebTransport(inner) => inner.start_send(lane, frame),
            Transport::WebSocket(inner) => inner.start_send(frame),
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportEnd>> {
        match self {
            Transport::WebTransport(inner) => inner.poll_flush(cx),
            Transport::WebSocket(inner) => inner.poll_flush(cx),
        }
    }

    /// Ends the connection in an orderly way. The owner bounds how long that may take.
    pub(crate) async fn close(self) {
        match self {
            Transport::WebTransport(inner) => inner.close(),
            Transport::WebSocket(inner) => inner.close().await,
        }
    }
}
