//! Asks a transport for arrivals only when it may have some.
//!
//! A connection is polled for every message that is to go out, and to find out that nothing has
//! come in costs a good part of what sending does: tungstenite clears its read buffer to look,
//! QUIC takes its lock for each stream. So the transport is given a waker of its own, which
//! leaves a note before it wakes the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

use crate::transport::{Inbound, Intake, Transport, TransportEnd};

/// What a connection keeps to know when to ask.
#[derive(Debug)]
pub(super) struct Arrivals {
    note: Arc<Note>,
    waker: Waker,
    /// What the transport was last asked for, if it had none of it.
    awaited: Option<Intake>,
}

#[derive(Debug, Default)]
struct Note {
    is_woken: AtomicBool,
    connection: AtomicWaker,
}

impl Wake for Note {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.connection.wake();
    }
}

impl Arrivals {
    pub(super) fn new() -> Self {
        let note = Arc::new(Note::default());
        Arrivals { waker: note.clone().into(), note, awaited: None }
    }

    /// As [`Transport::poll_recv`].
    pub(super) fn poll<T: Transport>(
        &mut self,
        cx: &mut Context<'_>,
        transport: &mut T,
        intake: Intake,
    ) -> Poll<Result<Inbound, TransportEnd>> {
        // Registered before the note is read: what is noted later wakes the connection again.
        self.note.connection.register(cx.waker());
        let is_woken = self.note.is_woken.swap(false, Ordering::AcqRel);
        if !is_woken && self.awaited == Some(intake) {
            return Poll::Pending;
        }
        let polled = transport.poll_recv(&mut Context::from_waker(&self.waker), intake);
        self.awaited = polled.is_pending().then_some(intake);
        polled
    }
}
