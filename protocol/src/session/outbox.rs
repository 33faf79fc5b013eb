//! Between a session and its transport: answers that wait for their lane, and the few
//! ephemeral messages worth keeping.
//!
//! Entries of rooms are not here: a connection holds cursors into the rooms' logs, so a slow
//! reader lags there without holding anything.

use std::collections::VecDeque;

use crate::limits::{ANSWER_BYTES_MAX, EPHEMERAL_HELD_MAX};
use crate::wire::frame::Frame;
use crate::wire::{LogLane, PerLane};

/// Answers waiting to be sent, per lane, in order.
///
/// The bound is kept by not reading more requests while [`Outbox::is_congested`]: an answer
/// is never dropped.
#[derive(Debug)]
pub struct Outbox {
    answers: PerLane<VecDeque<Frame>>,
    bytes: usize,
    bytes_max: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        Outbox { answers: PerLane::default(), bytes: 0, bytes_max: ANSWER_BYTES_MAX }
    }
}

impl Outbox {
    /// Holds so many bytes from now on.
    pub fn set_bound(&mut self, bytes: usize) {
        self.bytes_max = bytes;
    }

    /// Appends an answer to a lane.
    pub fn push(&mut self, lane: LogLane, frame: Frame) {
        self.bytes += frame.len();
        self.answers[lane].push_back(frame);
    }

    /// The next answer of a lane.
    pub fn pop(&mut self, lane: LogLane) -> Option<Frame> {
        let frame = self.answers[lane].pop_front()?;
        self.bytes -= frame.len();
        if self.answers[lane].is_empty() {
            // An idle connection keeps no buffer for answers it once had.
            self.answers[lane] = VecDeque::new();
        }
        Some(frame)
    }

    /// Counts an answer that is held elsewhere until its place in a log has been reached.
    pub(super) fn hold(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// The opposite of [`Outbox::hold`].
    pub(super) fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
    }

    /// Whether the peer has to read before it may ask for more.
    pub fn is_congested(&self) -> bool {
        self.bytes > self.bytes_max
    }

    /// Whether no answer waits on a lane.
    pub fn is_empty_on(&self, lane: LogLane) -> bool {
        self.answers[lane].is_empty()
    }
}

/// What became of an ephemeral message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It waits.
    Kept,
    /// It waits, and the oldest one was dropped for it: the newest wins.
    InsteadOfOldest,
}

/// The newest ephemeral messages for a connection.
#[derive(Debug, Default)]
pub struct EphemeralRing {
    frames: VecDeque<Frame>,
}

impl EphemeralRing {
    /// Adds the newest.
    pub fn push(&mut self, frame: Frame) -> Kept {
        let verdict = if self.frames.len() >= EPHEMERAL_HELD_MAX {
            self.frames.pop_front();
            Kept::InsteadOfOldest
        } else {
            Kept::Kept
        };
        self.frames.push_back(frame);
        verdict
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<Frame> {
        self.frames.pop_front()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::BufMut;

    use super::*;

    fn frame(byte: u8, len: usize) -> Frame {
        Frame::build(len, |out| {
            out.put_bytes(byte, len);
            Ok::<_, Infallible>(())
        })
        .unwrap()
    }

    #[test]
    fn lanes_are_apart_and_in_order() {
        let mut outbox = Outbox::default();
        outbox.push(LogLane::Bulk, frame(1, 1));
        outbox.push(LogLane::Signal, frame(2, 1));
        outbox.push(LogLane::Signal, frame(3, 1));
        assert_eq!(outbox.pop(LogLane::Signal), Some(frame(2, 1)));
        assert_eq!(outbox.pop(LogLane::Signal), Some(frame(3, 1)));
        assert_eq!(outbox.pop(LogLane::Signal), None);
        assert_eq!(outbox.pop(LogLane::Bulk), Some(frame(1, 1)));
        assert!(outbox.is_empty_on(LogLane::Signal) && outbox.is_empty_on(LogLane::Bulk));
    }

    #[test]
    fn congestion_is_about_bytes() {
        let mut outbox = Outbox::default();
        outbox.push(LogLane::Signal, frame(0, ANSWER_BYTES_MAX));
        assert!(!outbox.is_congested());
        outbox.push(LogLane::Signal, frame(0, 1));
        assert!(outbox.is_congested());
        outbox.pop(LogLane::Signal);
        assert!(!outbox.is_congested());
        outbox.set_bound(0);
        assert!(outbox.is_congested(), "another bound");
    }

    #[test]
    fn the_newest_ephemeral_wins() {
        let mut ring = EphemeralRing::default();
        for byte in 0..EPHEMERAL_HELD_MAX as u8 {
            assert_eq!(ring.push(frame(byte, 1)), Kept::Kept);
        }
        assert_eq!(ring.push(frame(200, 1)), Kept::InsteadOfOldest);
        assert_eq!(ring.pop(), Some(frame(1, 1)));
    }
}
