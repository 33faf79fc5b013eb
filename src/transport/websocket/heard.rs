//! A byte stream that remembers when it last brought something, so that one long message on a
//! slow path is not taken for silence, and what it brought of a message that is not whole yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use handover_protocol::time::Time;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::Clock;

#[derive(Debug)]
pub(super) struct Heard<S> {
    io: S,
    clock: Clock,
    last: Time,
    /// Bytes that came and are not part of anything whole.
    held: usize,
    most: Option<usize>,
}

impl<S> Heard<S> {
    /// With bytes of it that were read before. It brings no more once it has brought about `most` of
    /// what is not whole.
    pub(super) fn new(io: S, clock: Clock, held: usize, most: usize) -> Self {
        Heard { io, clock, last: clock.now(), held, most: Some(most) }
    }

    /// Something whole was so long on the wire.
    pub(super) fn was_whole(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
    }

    /// Whether it brought all it may.
    pub(super) fn is_full(&self) -> bool {
        self.most.is_some_and(|most| self.held >= most)
    }

    /// It may bring anything from now on.
    pub(super) fn open_wide(&mut self) {
        self.most = None;
    }

    /// When the last bytes came.
    pub(super) fn last(&self) -> Time {
        self.last
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_full() {
            return Poll::Ready(Err(io::Error::other("more than may come before `hello`")));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let came = buf.filled().len() - before;
        if came > 0 {
            self.last = self.clock.now();
            self.held = self.held.saturating_add(came);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
