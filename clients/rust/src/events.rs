//! Events between the driver and whoever takes them: bounded, in order.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use handover_protocol::session::client::{ResetCause, RoomEvent};
use handover_protocol::wire::message::Member;
use tokio::sync::Notify;

/// What an event counts for beside its body.
const OVERHEAD: usize = 64;

/// What became of an event.
#[derive(Debug, PartialEq)]
pub(crate) enum Pushed {
    /// It waits to be taken.
    Queued,
    /// There is no room for it. The writer is woken when there is.
    Full(RoomEvent),
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<RoomEvent>,
    bytes: usize,
    /// Somebody has asked for an event at least once: worth waiting for.
    has_reader: bool,
    closed: bool,
    abandoned: bool,
    writer: Option<Waker>,
}

/// The events of one room.
#[derive(Debug)]
pub(crate) struct RoomEvents {
    state: Mutex<State>,
    readable: Notify,
    events_max: usize,
    bytes_max: usize,
}

impl RoomEvents {
    pub(crate) fn new(events_max: usize, bytes_max: usize) -> Self {
        let (state, readable) = (Mutex::default(), Notify::new());
        RoomEvents { state, readable, events_max: events_max.max(1), bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done under the lock, so a panic elsewhere spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next event; `None` once the membership is over and all have been taken.
    pub(crate) async fn next(&self) -> Option<RoomEvent> {
        loop {
            let readable = self.readable.notified();
            {
                let mut state = self.lock();
                state.has_reader = true;
                if let Some(event) = state.events.pop_front() {
                    state.bytes = state.bytes.saturating_sub(cost(&event));
                    if let Some(writer) = state.writer.take() {
                        writer.wake();
                    }
                    if !state.events.is_empty() {
                        // For another reader, if there is one.
                        self.readable.notify_one();
                    }
                    return Some(event);
                }
                if state.closed {
                    self.readable.notify_one();
                    return None;
                }
            }
            readable.await;
        }
    }

    /// Adds an event. Ephemeral ones are dropped rather than waited for.
    pub(crate) fn push(&self, cx: &Context<'_>, event: RoomEvent) -> Pushed {
        let mut state = self.lock();
        let bytes = cost(&event);
        let full = state.events.len() >= self.events_max
            || (state.bytes + bytes > self.bytes_max && !state.events.is_empty());
        if full {
            if matches!(event, RoomEvent::Ephemeral { .. }) {
                return Pushed::Queued;
            }
            state.writer = Some(cx.waker().clone());
            return Pushed::Full(event);
        }
        state.bytes += bytes;
        state.events.push_back(event);
        drop(state);
        self.readable.notify_one();
        Pushed::Queued
    }

    /// Whether it is worth waiting for somebody to take an event.
    pub(crate) fn has_reader(&self) -> bool {
        self.lock().has_reader
    }

    /// Lets everything go that nobody took; the reader goes on from this list of members.
    pub(crate) fn cut(&self, members: Vec<Member>) {
        let event = RoomEvent::Reset(ResetCause::Lagged, members);
        let mut state = self.lock();
        state.events.clear();
        state.bytes = cost(&event);
        state.events.push_back(event);
        state.writer = None;
        drop(state);
        self.readable.notify_one();
    }

    /// Adds an event whether there is room or not: the last one of a membership.
    pub(crate) fn push_last(&self, event: RoomEvent) {
        self.lock().events.push_back(event);
        self.readable.notify_one();
    }

    /// Nobody is left to take anything.
    pub(crate) fn abandon(&self) {
        self.lock().abandoned = true;
    }

    /// Whether [`RoomEvents::abandon`] was called.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.lock().abandoned
    }

    /// Nothing more comes.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.readable.notify_one();
    }
}

fn cost(event: &RoomEvent) -> usize {
    OVERHEAD
        + match event {
            RoomEvent::Message { body, .. } | RoomEvent::Ephemeral { body, .. } => body.len(),
            RoomEvent::Joined(member) => member.metadata.len(),
            RoomEvent::Updated(_, metadata) => metadata.len(),
            RoomEvent::Reset(_, members) => {
                members.iter().map(|member| OVERHEAD + member.metadata.len()).sum()
            }
            RoomEvent::Left(..)
            | RoomEvent::Away(_)
            | RoomEvent::Back(_)
            | RoomEvent::Lost { .. } => 0,
        }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Poll;

    use handover_protocol::wire::{Json, PeerId};

    use super::*;

    fn away(name: &str) -> RoomEvent {
        RoomEvent::Away(PeerId::parse(name).unwrap())
    }

    fn poll_next(events: &RoomEvents) -> Poll<Option<RoomEvent>> {
        pin!(events.next()).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn events_come_in_order_and_then_the_end() {
        let events = RoomEvents::new(8, 1_000);
        let cx = Context::from_waker(Waker::noop());
        assert!(poll_next(&events).is_pending());
        assert_eq!(events.push(&cx, away("a")), Pushed::Queued);
        assert_eq!(events.push(&cx, away("b")), Pushed::Queued);
        events.close();
        assert_eq!(poll_next(&events), Poll::Ready(Some(away("a"))));
        assert_eq!(poll_next(&events), Poll::Ready(Some(away("b"))));
        assert_eq!(poll_next(&events), Poll::Ready(None));
        assert_eq!(poll_next(&events), Poll::Ready(None));
    }

    #[test]
    fn a_full_queue_holds_reliable_events_up_and_drops_ephemeral_ones() {
        let events = RoomEvents::new(1, 1_000);
        let cx = Context::from_waker(Waker::noop());
        events.push(&cx, away("a"));
        assert_eq!(events.push(&cx, away("b")), Pushed::Full(away("b")));
        let from = PeerId::parse("a").unwrap();
        let passing = RoomEvent::Ephemeral { from, body: Json::empty_object() };
        assert_eq!(events.push(&cx, passing), Pushed::Queued);
        assert_eq!(poll_next(&events), Poll::Ready(Some(away("a"))));
        assert!(poll_next(&events).is_pending());
        assert_eq!(events.push(&cx, away("b")), Pushed::Queued);
    }

    #[test]
    fn what_nobody_took_is_let_go_with_a_word() {
        let events = RoomEvents::new(1, 1_000);
        let cx = Context::from_waker(Waker::noop());
        events.push(&cx, away("a"));
        events.cut(Vec::new());
        let reset = RoomEvent::Reset(ResetCause::Lagged, Vec::new());
        assert_eq!(poll_next(&events), Poll::Ready(Some(reset)));
    }
}
