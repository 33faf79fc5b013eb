//! WebTransport: a stream per reliable lane, datagrams for the ephemeral one.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use handover_protocol::wire::Lane;
use handover_protocol::wire::frame::Frame;
use quinn::ConnectionError;
use tokio_util::sync::ReusableBoxFuture;
use web_transport_quinn::{Session, SessionError, WebTransportError};

use super::stream::LaneStream;
use super::{Inbound, TransportEnd};

const SIGNAL_PRIORITY: i32 = 1;
const BULK_PRIORITY: i32 = 0;

type Datagram = (Result<Bytes, SessionError>, Arc<Session>);

/// A WebTransport session with both its streams.
pub(crate) struct WebTransport {
    session: Arc<Session>,
    signal: LaneStream,
    bulk: LaneStream,
    datagrams: ReusableBoxFuture<'static, Datagram>,
}

impl fmt::Debug for WebTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebTransport").finish_non_exhaustive()
    }
}

impl WebTransport {
    /// Opens the two streams of a session.
    pub(crate) async fn open(session: Session) -> Result<Self, SessionError> {
        let signal = LaneStream::new(session.open_bi().await?, SIGNAL_PRIORITY);
        let bulk = LaneStream::new(session.open_bi().await?, BULK_PRIORITY);
        let session = Arc::new(session);
        let datagrams = ReusableBoxFuture::new(next_datagram(session.clone()));
        Ok(WebTransport { session, signal, bulk, datagrams })
    }

    pub(super) fn gateway(&self) -> SocketAddr {
        self.session.remote_address()
    }

    pub(super) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Inbound, TransportEnd>> {
        if let Poll::Ready(frame) = self.signal.poll_frame(cx) {
            return Poll::Ready(self.received(frame));
        }
        while let Poll::Ready((datagram, session)) = self.datagrams.poll(cx) {
            match datagram {
                Ok(payload) => {
                    self.datagrams.set(next_datagram(session));
                    return Poll::Ready(Ok(Inbound::Message(payload)));
                }
                // Somebody else's; there is nobody else on this connection.
                Err(SessionError::WebTransportError(WebTransportError::UnknownSession)) => {
                    self.datagrams.set(next_datagram(session));
                }
                Err(error) => {
                    self.datagrams.set(std::future::pending());
                    return Poll::Ready(Err(self.ending(TransportEnd::lost(error))));
                }
            }
        }
        match self.bulk.poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(self.received(frame)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn received(&self, frame: Result<Bytes, TransportEnd>) -> Result<Inbound, TransportEnd> {
        frame.map(Inbound::Message).map_err(|end| self.ending(end))
    }

    pub(super) fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        lane: Lane,
    ) -> Poll<Result<(), TransportEnd>> {
        let ready = match lane {
            Lane::Signal => self.signal.poll_drained(cx),
            Lane::Bulk => self.bulk.poll_drained(cx),
            Lane::Ephemeral if self.has_datagrams() => Poll::Ready(Ok(())),
            Lane::Ephemeral => self.signal.poll_drained(cx),
        };
        ready.map_err(|end| self.ending(end))
    }

    pub(super) fn start_send(&mut self, lane: Lane, frame: &Frame) -> Result<(), TransportEnd> {
        match lane {
            Lane::Signal => self.signal.start_send(frame),
            Lane::Bulk => self.bulk.start_send(frame),
            Lane::Ephemeral if !self.has_datagrams() => self.signal.start_send(frame),
            Lane::Ephemeral => match self.session.send_datagram(frame.payload()) {
                Ok(()) | Err(SessionError::SendDatagramError(_)) => {
                    // Too large for the path as it is now: ephemeral messages may be lost.
                }
                Err(error) => return Err(self.ending(TransportEnd::lost(error))),
            },
        }
        Ok(())
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportEnd>> {
        let signal = self.signal.poll_drained(cx).map_err(|end| self.ending(end))?;
        let bulk = self.bulk.poll_drained(cx).map_err(|end| self.ending(end))?;
        if signal.is_ready() && bulk.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn has_datagrams(&self) -> bool {
        self.session.max_datagram_size() > 0
    }

    pub(super) fn close(self) {
        self.session.close(0, b"");
    }

    /// What ended it, which is better known than what a stream noticed of it.
    fn ending(&self, noticed: TransportEnd) -> TransportEnd {
        let (code, reason) = match self.session.close_reason() {
            None => return noticed,
            Some(SessionError::WebTransportError(WebTransportError::Closed(code, reason))) => {
                (u16::try_from(code).ok(), reason)
            }
            Some(SessionError::ConnectionError(ConnectionError::ApplicationClosed(close))) => {
                let reason = String::from_utf8_lossy(&close.reason).into_owned();
                (u16::try_from(close.error_code.into_inner()).ok(), reason)
            }
            Some(error) => (None, error.to_string()),
        };
        TransportEnd { code, reason }
    }
}

async fn next_datagram(session: Arc<Session>) -> Datagram {
    (session.read_datagram().await, session)
}
