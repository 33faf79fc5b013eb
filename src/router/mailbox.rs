//! What the router has for a connection: a bit for every room with news, and a few notices.
//!
//! Fan-out to a member is one atomic `or` and a wake-up. Nothing here grows with what a slow
//! peer does not read: bits are bits, ephemeral messages are a ring, and notices are bounded
//! by the requests the connection has out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use handover_protocol::session::Reply;
use handover_protocol::session::outbox::{EphemeralRing, Kept};
use handover_protocol::wire::frame::Frame;
use handover_protocol::wire::{Codec, LogLane, PerLane};

use super::live_log::SharedLog;

/// Something the router tells a connection.
#[derive(Debug)]
pub enum Notice {
    /// A room's answer to a request.
    Reply(Reply<SharedLog>),
    /// A newer connection has taken the session over.
    Replaced,
    /// The gateway is going away; come back in this many milliseconds.
    Draining {
        /// Milliseconds.
        reconnect_in: u64,
    },
    /// The gateway closes the connection now.
    Stop,
    /// A room of the connection is lost to a fault of the gateway's own; a connection made anew
    /// finds it made anew.
    RoomLost,
}

/// The inbox of one connection.
#[derive(Debug)]
pub struct Mailbox {
    codec: Codec,
    news: PerLane<AtomicU64>,
    /// Whether `queue` holds anything, so that looking costs no lock. In one order with `attended`
    /// and `stirred`, as a reader that saw neither this nor them would sleep through a notice.
    filled: AtomicBool,
    queue: Mutex<Queue>,
    /// The connection is looking, and will look again before it rests: no need to wake it. A
    /// connection is served by rooms while it runs, and would otherwise wake itself.
    attended: AtomicBool,
    /// Something was left since it last looked.
    stirred: AtomicBool,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Queue {
    notices: VecDeque<Notice>,
    ephemeral: EphemeralRing,
}

impl Mailbox {
    /// An empty inbox of a connection that speaks `codec`.
    pub fn new(codec: Codec) -> Self {
        Mailbox {
            codec,
            news: PerLane::default(),
            filled: AtomicBool::new(false),
            queue: Mutex::default(),
            attended: AtomicBool::new(false),
            stirred: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// The codec that ephemeral frames must be encoded with.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Marks the room at `index` as having news on `lane`.
    pub fn mark(&self, index: u8, lane: LogLane) {
        let bit = 1 << index;
        // A bit that is still set belongs to a wake-up that is still on its way.
        if self.news[lane].fetch_or(bit, Ordering::AcqRel) & bit == 0 {
            self.wake();
        }
    }

    /// Leaves a notice.
    pub fn notify(&self, notice: Notice) {
        self.queue().notices.push_back(notice);
        self.filled.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Leaves an ephemeral message.
    pub fn push_ephemeral(&self, frame: Frame) -> Kept {
        let kept = self.queue().ephemeral.push(frame);
        self.filled.store(true, Ordering::SeqCst);
        self.wake();
        kept
    }

    /// The connection looks now, and nobody needs to wake it before it rests.
    pub fn attend(&self) {
        self.attended.store(true, Ordering::SeqCst);
        self.stirred.store(false, Ordering::SeqCst);
    }

    /// Has `waker` called when something is left here from now on. False if something has been
    /// left since [`Mailbox::attend`]: then nobody is woken, and the connection looks again.
    pub fn rest(&self, waker: &Waker) -> bool {
        self.waker.register(waker);
        // This store and the load after it, against the writers' store and the load after it:
        // in the one order they all have, one of the two sees the other.
        self.attended.store(false, Ordering::SeqCst);
        !self.stirred.load(Ordering::SeqCst)
    }

    fn wake(&self) {
        self.stirred.store(true, Ordering::SeqCst);
        if !self.attended.load(Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// Takes the marks.
    pub fn take_news(&self) -> PerLane<u64> {
        PerLane {
            signal: self.news.signal.swap(0, Ordering::AcqRel),
            bulk: self.news.bulk.swap(0, Ordering::AcqRel),
        }
    }

    /// Takes the oldest notice.
    pub fn take_notice(&self) -> Option<Notice> {
        self.filled.load(Ordering::SeqCst).then(|| self.take(|q| q.notices.pop_front())).flatten()
    }

    /// Takes the oldest ephemeral message.
    pub fn take_ephemeral(&self) -> Option<Frame> {
        self.filled.load(Ordering::SeqCst).then(|| self.take(|q| q.ephemeral.pop())).flatten()
    }

    /// Whether an ephemeral message waits. May say so once too often.
    pub fn has_ephemeral(&self) -> bool {
        self.filled.load(Ordering::SeqCst)
    }

    fn take<T>(&self, take: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.queue();
        let taken = take(&mut queue);
        if queue.notices.is_empty() && queue.ephemeral.is_empty() {
            // Idle connections are many: they keep no buffer.
            *queue = Queue::default();
            self.filled.store(false, Ordering::Release);
        }
        taken
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn who_looks_is_not_woken_and_who_rests_is() {
        let (mailbox, wakes) = (Mailbox::new(Codec::Json), Arc::new(Wakes::default()));
        let waker = Waker::from(wakes.clone());
        mailbox.attend();
        mailbox.mark(3, LogLane::Bulk);
        assert!(!mailbox.rest(&waker), "something was left while it looked");
        assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
        mailbox.attend();
        assert_eq!(mailbox.take_news().bulk, 1 << 3);
        assert!(mailbox.rest(&waker));
        mailbox.notify(Notice::Stop);
        mailbox.notify(Notice::Replaced);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1, "a waker is good for one time");
    }
}
