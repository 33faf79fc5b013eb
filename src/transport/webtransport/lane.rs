//! One bidirectional stream of a session: frames in, frames out.

use std::mem::MaybeUninit;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use handover_protocol::wire::CloseCode;
use handover_protocol::wire::frame::{Frame, FrameReader};
use quinn::{ReadError, VarInt, WriteError};
use tokio::io::ReadBuf;

use super::super::TransportEnd;
use super::ending;

/// Read at once; more only costs another call.
const CHUNK: usize = 16 * 1024;
/// A stream that was not asked for, or came too late (H3_REQUEST_REJECTED).
const REFUSED: VarInt = VarInt::from_u32(0x10b);

/// What comes in on a stream.
pub(super) struct Receiver {
    stream: wtransport::RecvStream,
    frames: FrameReader,
}

impl Receiver {
    pub(super) fn new(stream: wtransport::RecvStream, message_bytes: usize) -> Self {
        Receiver { stream, frames: FrameReader::new(message_bytes) }
    }

    /// The next frame's payload. The end of the stream is the end of the transport.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, TransportEnd>> {
        loop {
            let next = self.frames.next_frame().map_err(|error| TransportEnd::Violation {
                code: CloseCode::MessageTooLarge,
                reason: error.to_string(),
            })?;
            if let Some(frame) = next {
                return Poll::Ready(Ok(frame));
            }
            if self.frames.buffer().is_empty() {
                // Nothing stays allocated for a stream that waits.
                *self.frames.buffer() = BytesMut::new();
            }
            let mut space = [const { MaybeUninit::uninit() }; CHUNK];
            let mut chunk = ReadBuf::uninit(&mut space);
            ready!(self.stream.quic_stream_mut().poll_read_buf(cx, &mut chunk))
                .map_err(read_end)?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Err(TransportEnd::Closed));
            }
            self.frames.buffer().extend_from_slice(chunk.filled());
        }
    }

    /// Bytes of frames that are not whole yet.
    pub(super) fn held(&self) -> usize {
        self.frames.held()
    }

    pub(super) fn set_limit(&mut self, message_bytes: usize) {
        self.frames.set_limit(message_bytes);
    }

    pub(super) fn into_stream(self) -> wtransport::RecvStream {
        self.stream
    }

    /// Reads on without looking, until the peer ends the stream or the connection.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut space = [const { MaybeUninit::uninit() }; CHUNK];
        loop {
            let mut chunk = ReadBuf::uninit(&mut space);
            let read = ready!(self.stream.quic_stream_mut().poll_read_buf(cx, &mut chunk));
            if read.is_err() || chunk.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

/// What goes out on a stream: at most one frame is between us and QUIC.
pub(super) struct Sender {
    stream: wtransport::SendStream,
    unsent: Bytes,
}

impl Sender {
    /// Streams of a higher `priority` go first.
    pub(super) fn new(stream: wtransport::SendStream, priority: i32) -> Self {
        stream.set_priority(priority);
        Sender { stream, unsent: Bytes::new() }
    }

    pub(super) fn start_send(&mut self, frame: &Frame) {
        debug_assert!(self.unsent.is_empty(), "poll_ready comes before start_send");
        self.unsent = frame.prefixed();
    }

    /// Ready once QUIC has taken everything.
    pub(super) fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportEnd>> {
        while !self.unsent.is_empty() {
            let chunks = std::slice::from_mut(&mut self.unsent);
            // The future holds nothing between two polls: QUIC keeps the waker with the stream
            // and what was taken is cut off the chunk. So a new one each time loses nothing.
            let write = pin!(self.stream.quic_stream_mut().write_chunks(chunks));
            ready!(write.poll(cx)).map_err(write_end)?;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn finish(&mut self) {
        // An error means that the peer does not want it any more, which comes to the same.
        let _ = self.stream.quic_stream_mut().finish();
    }

    /// Completes when the peer does not want anything more from this stream; whether because
    /// it has everything or because it gave up is `true` or `false`.
    pub(super) fn stopped(&self) -> impl Future<Output = bool> + Send + 'static {
        let stopped = self.stream.quic_stream().stopped();
        async move { matches!(stopped.await, Ok(None)) }
    }
}

/// Turns a stream away without harm to anything else.
pub(super) fn refuse(mut send: wtransport::SendStream, recv: wtransport::RecvStream) {
    let _ = send.quic_stream_mut().reset(REFUSED);
    refuse_uni(recv);
}

/// Turns a one-way stream away.
pub(super) fn refuse_uni(mut recv: wtransport::RecvStream) {
    let _ = recv.quic_stream_mut().stop(REFUSED);
}

fn read_end(error: ReadError) -> TransportEnd {
    match error {
        ReadError::ConnectionLost(error) => ending(&error),
        ReadError::Reset(_) => TransportEnd::Closed,
        other => TransportEnd::Lost(other.to_string()),
    }
}

fn write_end(error: WriteError) -> TransportEnd {
    match error {
        WriteError::ConnectionLost(error) => ending(&error),
        WriteError::Stopped(_) => TransportEnd::Closed,
        other => TransportEnd::Lost(other.to_string()),
    }
}
