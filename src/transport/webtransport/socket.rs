//! The UDP socket under an endpoint, which sends nothing beyond what [`Unproven`] allows, and under
//! pressure reads no more from anywhere than what is granted.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use handover_protocol::pace::{Bucket, Rate};
use handover_protocol::time::Time;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::super::rates::Rates;
use super::unproven::{Unproven, addressee, is_long};
use crate::clock::Clock;
use crate::pressure::{Pressure, Queue};

/// Datagrams per second to one of our connection ids, of which pressure leaves a share. That is what
/// somebody sends who says a thousand messages a second and is told as many. Of connections that are set
/// up, as much as of the line where that has come near or as is granted to the others, whichever is
/// more: the line moves as soon as anybody notices anything, which is no reason to lose packets of
/// whoever is busy; and that the others are behind is no reason either while those who come first notice
/// nothing.
const TO_EACH: Rate = Rate { per_s: 4_000, burst: 1_000 };

/// ... and never less than this: who is told much has much to acknowledge.
const TO_EACH_LEAST: Rate = Rate { per_s: 100, burst: 100 };

/// Datagrams per second that set connections up, whosever they are. The ids they go to are made up by
/// who sends them, and each costs those who come first what it takes to open it.
const TO_STRANGERS: Rate = Rate { per_s: 20_000, burst: 4_000 };

/// ... and never less than this: twenty for each handshake there may be at the least.
const TO_STRANGERS_LEAST: Rate = Rate { per_s: 2_000, burst: 400 };

/// See the module.
pub struct Socket {
    inner: Arc<dyn AsyncUdpSocket>,
    pressure: Pressure,
    police: Police,
    unproven: Mutex<Unproven>,
    /// [`Unproven::watched`], to be read without the lock: established connections need no more.
    watched: AtomicUsize,
    clock: Clock,
}

impl Socket {
    pub fn new(
        inner: Arc<dyn AsyncUdpSocket>,
        clock: Clock,
        pressure: Pressure,
        id_bytes: usize,
    ) -> Self {
        let now = clock.now();
        let (unproven, watched) = (Mutex::new(Unproven::new(now)), AtomicUsize::new(0));
        let police = Police::new(now, id_bytes);
        Socket { inner, pressure, police, unproven, watched, clock }
    }

    /// Drops what comes too fast, before anything is spent on it. For who sent it, it is lost on
    /// the way: QUIC sends it again, and slows down.
    fn police(&self, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) {
        let Some(granted) = Granted::under(&self.pressure) else { return };
        let now = self.clock.now();
        let mut dropped = 0;
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            let may_come = |datagram: &[u8]| {
                let may = self.police.may_come(now, &granted, datagram);
                dropped += u64::from(!may);
                may
            };
            meta.len = keep(buf, meta.len, meta.stride, may_come);
        }
        self.pressure.dropped(dropped);
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

/// What is read now, per second.
struct Granted {
    established: Rate,
    each_stranger: Rate,
    all_strangers: Rate,
}

impl Granted {
    /// `None` where all is.
    fn under(pressure: &Pressure) -> Option<Granted> {
        let at_least = |rate: Rate, least: Rate| Rate {
            per_s: rate.per_s.max(least.per_s),
            burst: rate.burst.max(least.burst),
        };
        let each_stranger = at_least(pressure.of(Queue::Other, TO_EACH), TO_EACH_LEAST);
        let granted = Granted {
            established: at_least(pressure.of_line(TO_EACH), each_stranger),
            each_stranger,
            all_strangers: at_least(pressure.of(Queue::First, TO_STRANGERS), TO_STRANGERS_LEAST),
        };
        let Granted { established, each_stranger, all_strangers } = granted;
        let all = (established, each_stranger, all_strangers) == (TO_EACH, TO_EACH, TO_STRANGERS);
        (!all).then_some(granted)
    }
}

/// Counts what comes.
struct Police {
    /// By our ids.
    rates: Rates,
    strangers: Mutex<Bucket>,
    /// Bytes of each connection id of ours.
    id_bytes: usize,
}

impl Police {
    fn new(now: Time, id_bytes: usize) -> Self {
        let strangers = Mutex::new(Bucket::new(TO_STRANGERS, now));
        Police { rates: Rates::new(now), strangers, id_bytes }
    }

    fn may_come(&self, now: Time, granted: &Granted, datagram: &[u8]) -> bool {
        let id = addressee(datagram, self.id_bytes);
        if !is_long(datagram) {
            return self.rates.may_come(now, id, granted.established, 1);
        }
        // A bucket is whole after every call.
        let strangers = || {
            let mut bucket = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.set_rate(now, granted.all_strangers);
            bucket.take(now, 1).is_ok()
        };
        self.rates.may_come(now, id, granted.each_stranger, 1) && strangers()
    }
}

/// Keeps those of the datagrams, one behind the other, that are wanted; how long they are together.
fn keep(
    buf: &mut [u8],
    len: usize,
    stride: usize,
    mut is_wanted: impl FnMut(&[u8]) -> bool,
) -> usize {
    let mut kept = 0;
    for from in (0..len).step_by(stride.max(1)) {
        let to = len.min(from.saturating_add(stride.max(1)));
        if buf.get(from..to).is_some_and(&mut is_wanted) {
            buf.copy_within(from..to, kept);
            kept += to - from;
        }
    }
    kept
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
        let metas = meta.get_mut(..count).unwrap_or_default();
        self.police(bufs, metas);
        self.received(bufs, metas);
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

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: u8 = 0x40;
    const LONG: u8 = 0xc0;

    /// Of a thousand datagrams to so many ids, each as long as it says, how many are read.
    fn read(pressure: &Pressure, kind: u8, ids: u16) -> usize {
        let police = Police::new(Time::ZERO, 8);
        let Some(granted) = Granted::under(pressure) else { return 1_000 };
        let datagrams = (0..1_000).map(|nth: u16| {
            let mut datagram = vec![kind, 0, 0, 0, 1, 8, 0, 0, 0, 0, 0, 0, 0, 0];
            let id = (nth % ids).to_be_bytes();
            let at = if kind == LONG { 6 } else { 1 };
            datagram[at..at + 2].copy_from_slice(&id);
            datagram
        });
        datagrams.filter(|datagram| police.may_come(Time::ZERO, &granted, datagram)).count()
    }

    #[test]
    fn connections_lose_nothing_while_either_queue_is_in_time_and_strangers_do_by_the_others() {
        assert_eq!(read(&Pressure::default(), SHORT, 1), 1_000);
        let others = Pressure::of_others(0.005);
        assert_eq!(read(&others, SHORT, 1), 1_000, "whose wait is not theirs");
        assert_eq!(read(&others, LONG, 1), 100);
        assert_eq!(read(&others, LONG, 1_000), 1_000, "while who comes first has time");
        let line = Pressure::default().with_line(0.01);
        assert_eq!(read(&line, SHORT, 1), 1_000, "who says much comes later, and that is all");
        assert_eq!(read(&line, LONG, 1), 1_000);
        let both = others.with_line(0.01);
        assert_eq!((read(&both, SHORT, 1), read(&both, SHORT, 5)), (100, 500));
    }

    #[test]
    fn ids_that_are_made_up_do_not_help_strangers() {
        assert_eq!(read(&Pressure::of_share(0.005), LONG, 1_000), 400);
    }

    #[test]
    fn what_is_kept_is_whole_and_in_order() {
        let mut buf = *b"aaabbbcccdd......";
        let kept = keep(&mut buf, 11, 3, |datagram| datagram != b"aaa" && datagram != b"ccc");
        assert_eq!(&buf[..kept], b"bbbdd");
        let mut buf = *b"aaabb";
        assert_eq!(keep(&mut buf, 5, 3, |_| true), 5);
        assert_eq!(&buf, b"aaabb");
        assert_eq!(keep(&mut buf, 5, 3, |_| false), 0);
        assert_eq!(keep(&mut buf, 0, 0, |_| true), 0);
        assert_eq!(
            keep(&mut buf, 9, 3, |datagram| datagram.len() == 3),
            3,
            "no more than there is"
        );
    }
}
