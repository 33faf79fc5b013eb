//! WebSocket (RFC 6455): one stream for all lanes, one WebSocket message a message.
//!
//! Little is ever handed over ahead of the socket, so that whatever is more urgent overtakes
//! what still waits in the outbox.

mod heard;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, Stream};
use handover_protocol::limits::GREETING_BYTES_MAX;
use handover_protocol::time::Time;
use handover_protocol::wire::frame::Frame;
use handover_protocol::wire::{CloseCode, Codec, Lane};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame as WsFrame};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use super::{Inbound, Intake, Kind, PathSample, Settings, Transport, TransportEnd};
use crate::clock::Clock;
use heard::Heard;

/// Allocated for as long as the connection lasts.
const READ_BUFFER: usize = 4 * 1024;
/// Handed over ahead of the socket, not counting the frame that exceeds it.
const WRITE_BUFFER: usize = 8 * 1024;
/// What is before a frame's payload, at the most, and before a short one's.
const FRAME_HEAD: usize = 14;
const SHORT_FRAME_HEAD: usize = 6;
/// How much is thrown away at once while the peer reads its `close`.
const DRAIN_CHUNK: usize = 4 * 1024;

/// A WebSocket on a byte stream whose HTTP part is over.
pub struct WebSocket<S> {
    stream: WebSocketStream<Heard<S>>,
    /// What a message may have before the greeting is over.
    greeting_bytes: Option<usize>,
    codec: Codec,
    remote: SocketAddr,
    idle_timeout: Duration,
    idle: Pin<Box<Sleep>>,
    clock: Clock,
    /// When the ping that waits for its pong was sent; its payload in microseconds.
    pinged: Option<Time>,
    rtt: Option<Duration>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> WebSocket<S> {
    /// Goes on with `io` after the upgrade; `read` is what HTTP has read too far.
    pub async fn new(
        io: S,
        read: Bytes,
        codec: Codec,
        remote: SocketAddr,
        settings: Settings,
        clock: Clock,
    ) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            .max_message_size(Some(settings.message_bytes))
            .max_frame_size(Some(settings.message_bytes));
        // tungstenite's own bound cannot be changed later on, so this one is beneath it.
        let greeting_bytes = settings.message_bytes.min(GREETING_BYTES_MAX);
        let io = Heard::new(io, clock, read.len(), greeting_bytes + FRAME_HEAD);
        let role = Role::Server;
        let stream =
            WebSocketStream::from_partially_read(io, read.into(), role, Some(config)).await;
        let idle_timeout = settings.idle_timeout();
        WebSocket {
            stream,
            greeting_bytes: Some(greeting_bytes),
            codec,
            remote,
            idle_timeout,
            idle: Box::pin(tokio::time::sleep(idle_timeout)),
            clock,
            pinged: None,
            rtt: None,
        }
    }

    fn receive(&mut self, message: Message) -> Result<Inbound, TransportEnd> {
        let (payload, is_text): (Bytes, bool) = match message {
            Message::Text(text) => (text.into(), true),
            Message::Binary(payload) => (payload, false),
            Message::Pong(stamp) => {
                self.was_whole(SHORT_FRAME_HEAD + stamp.len());
                self.measure(&stamp);
                return Ok(Inbound::Alive);
            }
            Message::Ping(payload) => {
                self.was_whole(SHORT_FRAME_HEAD + payload.len());
                return Ok(Inbound::Alive);
            }
            Message::Frame(_) => return Ok(Inbound::Alive),
            Message::Close(_) => return Err(TransportEnd::Closed),
        };
        // But for the beginning of what follows, which is no more than is read at once.
        self.was_whole(usize::MAX);
        if self.greeting_bytes.is_some_and(|most| payload.len() > most) {
            return Err(too_long_a_greeting());
        }
        if is_text != self.codec.is_text() {
            let reason = if is_text { "text instead of binary" } else { "binary instead of text" };
            return Err(violation(CloseCode::ProtocolError, reason));
        }
        Ok(Inbound::Frame { lane: Lane::Signal, payload })
    }

    fn was_whole(&mut self, bytes: usize) {
        self.stream.get_mut().was_whole(bytes);
    }

    fn measure(&mut self, stamp: &[u8]) {
        let Some(sent) = self.pinged else { return };
        if stamp != sent.as_micros().to_be_bytes() {
            return;
        }
        self.pinged = None;
        let sample = self.clock.now().since(sent);
        self.rtt = Some(match self.rtt {
            // As TCP and QUIC smooth it.
            Some(rtt) => (rtt * 7 + sample) / 8,
            None => sample,
        });
    }

    /// Ready when the peer has been silent for too long. Nothing can be said about one that
    /// is not being read.
    fn poll_idle(&mut self, cx: &mut Context<'_>, reading: bool) -> Poll<TransportEnd> {
        loop {
            ready!(self.idle.as_mut().poll(cx));
            let now = self.clock.now();
            let since = if reading { self.stream.get_ref().last() } else { now };
            let due = since + self.idle_timeout;
            if due <= now {
                return Poll::Ready(TransportEnd::Idle);
            }
            // A new one, on the threads that serve the connection now.
            self.idle.set(tokio::time::sleep_until(self.clock.instant(due)));
        }
    }

    /// The last message and the close frame, then everything until the peer has closed too.
    /// To close while it still sends would make the system reset the connection, and the peer
    /// might lose what it has not read yet.
    async fn say_goodbye(&mut self, last: Option<Frame>, code: CloseCode) {
        if let Some(last) = last {
            let ready = poll_fn(|cx| self.poll_ready(cx, Lane::Signal)).await;
            if ready.and_then(|()| self.start_send(Lane::Signal, last)).is_err() {
                return;
            }
        }
        let close = CloseFrame { code: code.number().into(), reason: code.name().into() };
        // After a close frame of the peer's, there is no other; the flush will tell.
        let _ = Pin::new(&mut self.stream).start_send(Message::Close(Some(close)));
        if poll_fn(|cx| self.poll_flush(cx)).await.is_err() {
            return;
        }
        while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut self.stream).poll_next(cx)).await {}
        let io = self.stream.get_mut();
        io.open_wide();
        if poll_fn(|cx| Pin::new(&mut *io).poll_shutdown(cx)).await.is_err() {
            return;
        }
        loop {
            let mut space = [const { MaybeUninit::uninit() }; DRAIN_CHUNK];
            let mut chunk = ReadBuf::uninit(&mut space);
            let read = poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, &mut chunk)).await;
            if read.is_err() || chunk.filled().is_empty() {
                return;
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for WebSocket<S> {
    fn kind(&self) -> Kind {
        Kind::WebSocket
    }

    fn codec(&self) -> Codec {
        self.codec
    }

    fn is_complete(&self) -> bool {
        true
    }

    fn greeted(&mut self) {
        self.greeting_bytes = None;
        self.stream.get_mut().open_wide();
    }

    fn path(&self) -> PathSample {
        PathSample { rtt: self.rtt, packets_sent: 0, packets_lost: 0, remote: self.remote }
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        intake: Intake,
    ) -> Poll<Result<Inbound, TransportEnd>> {
        let reading = intake.signal && intake.bulk;
        if reading && let Poll::Ready(next) = Pin::new(&mut self.stream).poll_next(cx) {
            let received = match next {
                Some(Ok(message)) => self.receive(message),
                Some(Err(Error::Io(_))) if self.stream.get_ref().is_full() => {
                    Err(too_long_a_greeting())
                }
                Some(Err(error)) => Err(ending(error)),
                None => Err(TransportEnd::Closed),
            };
            if let Err(TransportEnd::Closed) = received {
                // Sends the answer to the peer's close frame, as far as it goes out at once.
                let _ = Pin::new(&mut self.stream).poll_flush(cx);
            }
            return Poll::Ready(received);
        }
        self.poll_idle(cx, reading).map(Err)
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>, _lane: Lane) -> Poll<Result<(), TransportEnd>> {
        Pin::new(&mut self.stream).poll_ready(cx).map_err(ending)
    }

    fn start_send(&mut self, _lane: Lane, frame: Frame) -> Result<(), TransportEnd> {
        let data = if self.codec.is_text() { Data::Text } else { Data::Binary };
        // A frame rather than a text message, so that what our codec wrote is not searched for
        // invalid UTF-8 once for every receiver.
        let frame = WsFrame::message(frame.payload(), OpCode::Data(data), true);
        Pin::new(&mut self.stream).start_send(Message::Frame(frame)).map_err(ending)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportEnd>> {
        Pin::new(&mut self.stream).poll_flush(cx).map_err(ending)
    }

    fn keep_alive(&mut self) {
        let now = self.clock.now();
        let ping = Message::Ping(Bytes::copy_from_slice(&now.as_micros().to_be_bytes()));
        // What keeps a ping from being sent shows in the next flush.
        if Pin::new(&mut self.stream).start_send(ping).is_ok() {
            self.pinged = Some(now);
        }
    }

    async fn close(mut self, last: Option<Frame>, code: CloseCode, grace: Duration) {
        // An error means that the grace is over, which is what it is for.
        let _ = tokio::time::timeout(grace, self.say_goodbye(last, code)).await;
    }
}

fn violation(code: CloseCode, reason: impl Into<String>) -> TransportEnd {
    TransportEnd::Violation { code, reason: reason.into() }
}

fn too_long_a_greeting() -> TransportEnd {
    let reason = format!("more than {GREETING_BYTES_MAX} bytes to begin with");
    violation(CloseCode::MessageTooLarge, reason)
}

/// What an error of the WebSocket layer means here.
fn ending(error: Error) -> TransportEnd {
    match error {
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::SendAfterClosing) => TransportEnd::Closed,
        Error::Capacity(error @ CapacityError::MessageTooLong { .. }) => {
            violation(CloseCode::MessageTooLarge, error.to_string())
        }
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            TransportEnd::Lost("ended without a close frame".to_owned())
        }
        Error::Protocol(error) => violation(CloseCode::ProtocolError, error.to_string()),
        Error::Utf8(_) => violation(CloseCode::ProtocolError, "text that is not UTF-8"),
        other => TransportEnd::Lost(other.to_string()),
    }
}
