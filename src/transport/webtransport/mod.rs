//! WebTransport over HTTP/3: a stream per reliable lane, datagrams for the ephemeral one.
//!
//! `wtransport` speaks HTTP/3; streams are then polled as the QUIC streams they are. What it
//! offers as futures only (new streams, datagrams in) is kept in one allocation each, used
//! again and again.

mod connection_id;
mod discarded;
mod endpoint;
mod lane;
mod secret;
mod setup;
mod socket;
mod subprotocol;
#[cfg(test)]
mod tests;
mod unproven;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use handover_protocol::limits::GREETING_BYTES_MAX;
use handover_protocol::wire::frame::{Frame, put_prefix};
use handover_protocol::wire::message::ClientMessage;
use handover_protocol::wire::{CloseCode, Codec, DecodeError, Lane, LogLane};
use quinn::{ConnectionError, SendDatagramError, TransportErrorCode, VarInt};
use tokio::time::Sleep;
use tokio_util::sync::ReusableBoxFuture;
use wtransport::datagram::Datagram;

use super::{Inbound, Intake, Kind, PathSample, Transport, TransportEnd};
pub use connection_id::{
    CONFIG_ROTATION_MAX, CONNECTION_ID_BYTES_MAX, Impossible, NONCE_BYTES_MIN, ServerIds,
};
use discarded::Discarded;
#[cfg(test)]
pub(crate) use endpoint::unpressed;
pub use endpoint::{BoundUdp, QuicError, bind_udp, endpoint, keeping, server_config};
use lane::{Receiver, Sender};
pub use secret::EndpointSecret;
pub use setup::accept;

/// Streams that have not said which lane they are. Three fit beside CONNECT.
const UNCLASSIFIED_MAX: usize = 3;
/// Streams that are refused at once. From then on it takes a pause each, during which QUIC lets
/// the peer open only as many as may be open.
const REFUSED_MAX: u32 = 16;
/// That pause.
const REFUSE_EVERY: Duration = Duration::from_millis(100);
const SIGNAL_PRIORITY: i32 = 1;
const BULK_PRIORITY: i32 = 0;

type Session = Arc<wtransport::Connection>;
type SessionError = wtransport::error::ConnectionError;
type Stream = (wtransport::SendStream, wtransport::RecvStream);

/// A stream the peer has opened.
enum Opened {
    Bi(Stream),
    Uni(wtransport::RecvStream),
}

/// A WebTransport session.
pub struct WebTransport {
    session: Session,
    codec: Codec,
    message_bytes: usize,
    is_greeted: bool,
    signal: Option<(Sender, Receiver)>,
    bulk: Option<(Sender, Receiver)>,
    unclassified: Vec<(wtransport::SendStream, Receiver)>,
    streams: ReusableBoxFuture<'static, Result<(Opened, Session), SessionError>>,
    refused: u32,
    pause: Option<Pin<Box<Sleep>>>,
    datagrams: ReusableBoxFuture<'static, Result<(Datagram, Session), SessionError>>,
    /// What comes before the payload of a datagram (RFC 9297): a quarter of the session's id.
    datagram_prefix: Bytes,
    datagrams_dropped: u64,
    discarded: Discarded,
}

/// What a stream's first frame makes of it.
enum Class {
    Signal(Bytes),
    Bulk,
    /// A second bulk stream.
    Superfluous,
}

impl WebTransport {
    fn new(session: wtransport::Connection, codec: Codec, message_bytes: usize) -> Self {
        let quarter = session.session_id().into_u64() / 4;
        let mut prefix = BytesMut::new();
        put_prefix(&mut prefix, quarter as usize);
        let session = Arc::new(session);
        WebTransport {
            codec,
            message_bytes,
            is_greeted: false,
            signal: None,
            bulk: None,
            unclassified: Vec::new(),
            refused: 0,
            pause: None,
            streams: ReusableBoxFuture::new(next_stream(session.clone())),
            datagrams: ReusableBoxFuture::new(next_datagram(session.clone())),
            datagram_prefix: prefix.freeze(),
            datagrams_dropped: 0,
            discarded: Discarded::default(),
            session,
        }
    }

    fn quic(&self) -> &quinn::Connection {
        self.session.quic_connection()
    }

    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<TransportEnd> {
        loop {
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let Poll::Ready(arrived) = self.streams.poll(cx) else { return Poll::Pending };
            let (opened, session) = match arrived {
                Ok(arrived) => arrived,
                Err(error) => {
                    let end = self.session_ending(&error);
                    self.streams.set(std::future::pending());
                    return Poll::Ready(end);
                }
            };
            self.streams.set(next_stream(session));
            let crowded = self.is_complete() || self.unclassified.len() >= UNCLASSIFIED_MAX;
            match opened {
                Opened::Bi((send, recv)) if !crowded => {
                    let most = self.message_bytes.min(GREETING_BYTES_MAX);
                    self.unclassified.push((send, Receiver::new(recv, most)));
                    continue;
                }
                Opened::Bi((send, recv)) => lane::refuse(send, recv),
                Opened::Uni(recv) => lane::refuse_uni(recv),
            }
            self.refused = self.refused.saturating_add(1);
            if self.refused >= REFUSED_MAX {
                self.pause = Some(Box::pin(tokio::time::sleep(REFUSE_EVERY)));
            }
        }
    }

    /// Gives streams their lane as soon as their first frame is there.
    fn poll_unclassified(
        &mut self,
        cx: &mut Context<'_>,
        intake: Intake,
    ) -> Poll<Result<Inbound, TransportEnd>> {
        if !intake.signal {
            return Poll::Pending;
        }
        let mut at = 0;
        while let Some((_, receiver)) = self.unclassified.get_mut(at) {
            let first = match receiver.poll_frame(cx) {
                Poll::Pending => {
                    at += 1;
                    continue;
                }
                Poll::Ready(Err(end @ TransportEnd::Violation { .. })) => {
                    return Poll::Ready(Err(end));
                }
                Poll::Ready(Err(_)) => {
                    // It ended before it was anything.
                    self.unclassified.swap_remove(at);
                    continue;
                }
                Poll::Ready(Ok(first)) => first,
            };
            let class = self.classify(first)?;
            let (send, mut receiver) = self.unclassified.swap_remove(at);
            let inbound = match class {
                Class::Signal(hello) => {
                    self.signal = Some((Sender::new(send, SIGNAL_PRIORITY), receiver));
                    Inbound::Frame { lane: Lane::Signal, payload: hello }
                }
                Class::Bulk => {
                    if self.is_greeted {
                        receiver.set_limit(self.message_bytes);
                    }
                    self.bulk = Some((Sender::new(send, BULK_PRIORITY), receiver));
                    // Reported, because what waited for `poll_ready` can go on now.
                    Inbound::Alive
                }
                Class::Superfluous => {
                    lane::refuse(send, receiver.into_stream());
                    continue;
                }
            };
            if self.is_complete() {
                for (send, receiver) in std::mem::take(&mut self.unclassified) {
                    lane::refuse(send, receiver.into_stream());
                }
            }
            return Poll::Ready(Ok(inbound));
        }
        Poll::Pending
    }

    /// Who is not greeted may not have begun more than a greeting, on all streams together.
    fn check_begun(&self) -> Result<(), TransportEnd> {
        if self.is_greeted || self.begun() <= GREETING_BYTES_MAX {
            return Ok(());
        }
        let reason = format!("more than {GREETING_BYTES_MAX} bytes to begin with");
        Err(TransportEnd::Violation { code: CloseCode::MessageTooLarge, reason })
    }

    /// Bytes of messages that have not been taken yet.
    fn begun(&self) -> usize {
        let lanes = [&self.signal, &self.bulk].into_iter().flatten();
        let lanes: usize = lanes.map(|(_, receiver)| receiver.held()).sum();
        let others = self.unclassified.iter().map(|(_, receiver)| receiver.held());
        lanes + others.sum::<usize>()
    }

    fn poll_arrival(
        &mut self,
        cx: &mut Context<'_>,
        intake: Intake,
    ) -> Poll<Result<Inbound, TransportEnd>> {
        if let (true, Some((_, receiver))) = (intake.signal, &mut self.signal)
            && let Poll::Ready(frame) = receiver.poll_frame(cx)
        {
            return Poll::Ready(
                frame.map(|payload| Inbound::Frame { lane: Lane::Signal, payload }),
            );
        }
        if let Poll::Ready(end) = self.poll_streams(cx) {
            return Poll::Ready(Err(end));
        }
        if let Poll::Ready(inbound) = self.poll_unclassified(cx, intake) {
            return Poll::Ready(inbound);
        }
        if let Poll::Ready(inbound) = self.poll_datagram(cx) {
            return Poll::Ready(inbound);
        }
        if let (true, Some((_, receiver))) = (intake.bulk, &mut self.bulk)
            && let Poll::Ready(frame) = receiver.poll_frame(cx)
        {
            return Poll::Ready(frame.map(|payload| Inbound::Frame { lane: Lane::Bulk, payload }));
        }
        self.check_begun()?;
        Poll::Pending
    }

    fn classify(&self, first: Bytes) -> Result<Class, TransportEnd> {
        let reason = match self.codec.decode_client(&first) {
            Ok(ClientMessage::Lane { lane: LogLane::Bulk }) if self.bulk.is_some() => {
                return Ok(Class::Superfluous);
            }
            Ok(ClientMessage::Lane { lane: LogLane::Bulk }) => return Ok(Class::Bulk),
            // A greeting with a fault is for the session to answer.
            Ok(ClientMessage::Hello(_)) | Err(DecodeError::Refused { .. })
                if self.signal.is_none() =>
            {
                return Ok(Class::Signal(first));
            }
            Err(DecodeError::Unparseable { reason }) => reason,
            Ok(_) | Err(DecodeError::Refused { .. }) => {
                "a stream starts with `hello` or `lane`".to_owned()
            }
        };
        Err(TransportEnd::Violation { code: CloseCode::ProtocolError, reason })
    }

    fn poll_datagram(&mut self, cx: &mut Context<'_>) -> Poll<Result<Inbound, TransportEnd>> {
        match self.datagrams.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok((datagram, session))) => {
                self.datagrams.set(next_datagram(session));
                let payload = datagram.payload();
                Poll::Ready(Ok(Inbound::Frame { lane: Lane::Ephemeral, payload }))
            }
            Poll::Ready(Err(error)) => {
                self.datagrams.set(std::future::pending());
                Poll::Ready(Err(self.session_ending(&error)))
            }
        }
    }

    fn session_ending(&self, error: &SessionError) -> TransportEnd {
        match (self.quic().close_reason(), error) {
            // Said in HTTP/3 terms, whatever happened to the connection thereafter.
            (_, SessionError::ApplicationClosed(_)) => TransportEnd::Closed,
            (_, SessionError::LocalH3Error(error)) => TransportEnd::Lost(error.to_string()),
            (Some(reason), _) => ending(&reason),
            (None, error) => TransportEnd::Lost(error.to_string()),
        }
    }

    /// Bulk fills the send window up, so signal gets one of its own beyond it.
    fn poll_signal_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportEnd>> {
        let Some((sender, _)) = &mut self.signal else { return Poll::Ready(Ok(())) };
        let drained = sender.poll_drained(cx);
        if drained.is_ready() {
            return drained;
        }
        let quic = self.session.quic_connection();
        quic.set_send_window(endpoint::SEND_WINDOW + endpoint::SIGNAL_HEADROOM);
        let drained = sender.poll_drained(cx);
        quic.set_send_window(endpoint::SEND_WINDOW);
        drained
    }

    fn poll_bulk_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportEnd>> {
        match &mut self.bulk {
            Some((sender, _)) => sender.poll_drained(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn send_datagram(&mut self, payload: &[u8]) -> Result<(), TransportEnd> {
        let mut datagram = BytesMut::with_capacity(self.datagram_prefix.len() + payload.len());
        datagram.extend_from_slice(&self.datagram_prefix);
        datagram.extend_from_slice(payload);
        match self.quic().send_datagram(datagram.freeze()) {
            Ok(()) => Ok(()),
            Err(SendDatagramError::ConnectionLost(error)) => Err(ending(&error)),
            Err(_) => {
                self.datagrams_dropped += 1;
                Ok(())
            }
        }
    }

    /// Sends the last frame and waits until the peer has reacted: by ending its stream or the
    /// connection, as it does on reading `close`, or by not wanting to hear it. That QUIC has
    /// delivered it would not be enough: browsers throw away what a page has not yet read
    /// when the connection closes.
    async fn tell(&mut self, last: Option<Frame>) {
        if poll_fn(|cx| self.poll_signal_drained(cx)).await.is_err() {
            return;
        }
        let (Some((sender, _)), Some(last)) = (&mut self.signal, last) else { return };
        sender.start_send(&last);
        if poll_fn(|cx| self.poll_signal_drained(cx)).await.is_err() {
            return;
        }
        let Some((sender, receiver)) = &mut self.signal else { return };
        sender.finish();
        let stopped = sender.stopped();
        let unwanted = async {
            if stopped.await {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = poll_fn(|cx| receiver.poll_end(cx)) => {}
            () = unwanted => {}
        }
    }
}

impl Transport for WebTransport {
    fn kind(&self) -> Kind {
        Kind::WebTransport
    }

    fn codec(&self) -> Codec {
        self.codec
    }

    fn is_complete(&self) -> bool {
        self.signal.is_some() && self.bulk.is_some()
    }

    fn greeted(&mut self) {
        self.is_greeted = true;
        self.quic().set_receive_window(VarInt::from_u32(endpoint::RECEIVE_WINDOW));
        for (_, receiver) in [&mut self.signal, &mut self.bulk].into_iter().flatten() {
            receiver.set_limit(self.message_bytes);
        }
    }

    fn path(&self) -> PathSample {
        let path = self.quic().stats().path;
        PathSample {
            rtt: Some(path.rtt),
            packets_sent: path.sent_packets,
            packets_lost: path.lost_packets,
            remote: self.quic().remote_address(),
        }
    }

    fn is_orderly(&self) -> bool {
        self.refused < REFUSED_MAX && !self.discarded.is_much()
    }

    fn look_back(&mut self) {
        self.discarded.look(&self.session.quic_connection().stats());
    }

    fn datagrams_dropped(&self) -> u64 {
        self.datagrams_dropped
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        intake: Intake,
    ) -> Poll<Result<Inbound, TransportEnd>> {
        let arrival = self.poll_arrival(cx, intake);
        if let Poll::Ready(Ok(Inbound::Frame { payload, .. })) = &arrival {
            self.discarded.handle_message(payload.len());
        }
        arrival
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>, lane: Lane) -> Poll<Result<(), TransportEnd>> {
        match lane {
            Lane::Signal if self.signal.is_some() => self.poll_signal_drained(cx),
            Lane::Bulk if self.bulk.is_some() => self.poll_bulk_drained(cx),
            // `poll_recv` reports the stream's arrival, and wakes the task for it.
            Lane::Signal | Lane::Bulk => Poll::Pending,
            Lane::Ephemeral => Poll::Ready(Ok(())),
        }
    }

    fn start_send(&mut self, lane: Lane, frame: Frame) -> Result<(), TransportEnd> {
        let sender = match lane {
            Lane::Signal => &mut self.signal,
            Lane::Bulk => &mut self.bulk,
            Lane::Ephemeral => return self.send_datagram(&frame.payload()),
        };
        if let Some((sender, _)) = sender {
            sender.start_send(&frame);
        }
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportEnd>> {
        let signal = self.poll_signal_drained(cx)?;
        let bulk = self.poll_bulk_drained(cx)?;
        if signal.is_ready() && bulk.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Nothing to do: QUIC keeps itself alive.
    fn keep_alive(&mut self) {}

    async fn close(mut self, last: Option<Frame>, code: CloseCode, grace: Duration) {
        // An error means that the grace is over, which is what it is for.
        let _ = tokio::time::timeout(grace, self.tell(last)).await;
        self.quic().close(VarInt::from(code.number()), code.name().as_bytes());
    }
}

async fn next_stream(session: Session) -> Result<(Opened, Session), SessionError> {
    let opened = tokio::select! {
        stream = session.accept_bi() => Opened::Bi(stream?),
        stream = session.accept_uni() => Opened::Uni(stream?),
    };
    Ok((opened, session))
}

async fn next_datagram(session: Session) -> Result<(Datagram, Session), SessionError> {
    let datagram = session.receive_datagram().await?;
    Ok((datagram, session))
}

/// What the end of a QUIC connection means here.
fn ending(error: &ConnectionError) -> TransportEnd {
    match error {
        ConnectionError::ApplicationClosed(_) => TransportEnd::Closed,
        ConnectionError::ConnectionClosed(close)
            if close.error_code == TransportErrorCode::NO_ERROR =>
        {
            TransportEnd::Closed
        }
        ConnectionError::TimedOut => TransportEnd::Idle,
        // Ours comes last of all, and consumes the transport: this was the HTTP/3 layer, on
        // seeing the session closed.
        ConnectionError::LocallyClosed => TransportEnd::Closed,
        other => TransportEnd::Lost(other.to_string()),
    }
}
