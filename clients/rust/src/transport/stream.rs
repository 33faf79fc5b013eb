//! One bidirectional stream of a WebTransport session: frames in, frames out.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use handover_protocol::wire::frame::{Frame, FrameReader};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use web_transport_quinn::{RecvStream, SendStream};

use super::{MESSAGE_BYTES_MAX, TransportEnd};

/// Read at once; more only costs another call.
const CHUNK: usize = 16 * 1024;

/// One lane's stream.
pub(super) struct LaneStream {
    send: SendStream,
    recv: RecvStream,
    frames: FrameReader,
    /// At most one frame is between us and QUIC, so that nothing more urgent waits behind it.
    unsent: Bytes,
}

impl LaneStream {
    pub(super) fn new((send, recv): (SendStream, RecvStream), priority: i32) -> Self {
        // An error means that the stream is closed, which the first write will tell.
        let _ = send.set_priority(priority);
        LaneStream { send, recv, frames: FrameReader::new(MESSAGE_BYTES_MAX), unsent: Bytes::new() }
    }

    /// The next frame's payload. The end of the stream is the end of the transport.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, TransportEnd>> {
        loop {
            if let Some(frame) = self.frames.next_frame().map_err(TransportEnd::lost)? {
                return Poll::Ready(Ok(frame));
            }
            if self.frames.buffer().is_empty() {
                // Nothing stays allocated for a stream that waits.
                *self.frames.buffer() = BytesMut::new();
            }
            let mut space = [const { MaybeUninit::uninit() }; CHUNK];
            let mut chunk = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.recv).poll_read(cx, &mut chunk)).map_err(end)?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Err(TransportEnd::lost("the gateway ended a stream")));
            }
            self.frames.buffer().extend_from_slice(chunk.filled());
        }
    }

    pub(super) fn start_send(&mut self, frame: &Frame) {
        self.unsent = frame.prefixed();
    }

    /// Ready once QUIC has taken everything.
    pub(super) fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportEnd>> {
        while !self.unsent.is_empty() {
            let written = ready!(Pin::new(&mut self.send).poll_write(cx, &self.unsent));
            self.unsent.advance(written.map_err(end)?);
        }
        Poll::Ready(Ok(()))
    }
}

fn end(error: io::Error) -> TransportEnd {
    TransportEnd::lost(error)
}
