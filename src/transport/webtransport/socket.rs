//! The UDP socket under an endpoint, which sends nothing beyond what [`Unproven`] allows.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::unproven::{Unproven, is_long};
use crate::clock::Clock;

/// See the module.
pub struct Socket {
    inner: Arc<dyn AsyncUdpSocket>,
    unproven: Mutex<Unproven>,
    /// [`Unproven::watched`], to be read without the lock: established connections need no more.
    watched: AtomicUsize,
    clock: Clock,
}

impl Socket {
    pub fn new(inner: Arc<dyn AsyncUdpSocket>, clock: Clock) -> Self {
        let unproven = Mutex::new(Unproven::new(clock.now()));
        Socket { inner, unproven, watched: AtomicUsize::new(0), clock }
    }

    fn unproven(&self) -> MutexGuard<'_, Unproven> {
        self.unproven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes of these datagrams, one behind the other, may be sent.
    fn allowed(&self, transmit: &Transmit<'_>) -> usize {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let datagrams = transmit.contents.chunks(size);
        let nobody = self.watched.load(Ordering::Relaxed) == 0;
        if nobody && !datagrams.clone().any(is_long) {
            return transmit.contents.len();
        }
        let now = self.clock.now();
        let mut unproven = self.unproven();
        let may = |datagram: &&[u8]| unproven.may_send(now, transmit.destination, datagram);
        let allowed = datagrams.take_while(may).map(<[u8]>::len).sum();
        self.watched.store(unproven.watched(), Ordering::Relaxed);
        allowed
    }

    fn received(&self, bufs: &[IoSliceMut<'_>], metas: &[RecvMeta]) {
        let mut unproven = None;
        for (buf, meta) in bufs.iter().zip(metas) {
            let filled = buf.get(..meta.len).unwrap_or_default();
            for datagram in filled.chunks(meta.stride.max(1)).filter(|bytes| is_long(bytes)) {
                let (now, unproven) =
                    unproven.get_or_insert_with(|| (self.clock.now(), self.unproven()));
                unproven.received(*now, meta.addr, datagram);
            }
        }
        if let Some((_, unproven)) = unproven {
            self.watched.store(unproven.watched(), Ordering::Relaxed);
        }
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let allowed = self.allowed(transmit);
        if allowed == 0 && !transmit.contents.is_empty() {
            // Lost, as far as QUIC can tell.
            return Ok(());
        }
        // What the system has no room for now is shown again, and then counts twice: an address
        // gets less for it, never more.
        self.inner.try_send(&Transmit { contents: &transmit.contents[..allowed], ..*transmit })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.inner.poll_recv(cx, bufs, meta))?;
        self.received(bufs, meta.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("inner", &self.inner).finish_non_exhaustive()
    }
}
