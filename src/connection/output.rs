//! What goes out next, and what is counted of it.

use std::task::{Context, Poll};

use handover_protocol::session::server::Note;
use handover_protocol::time::Time;
use handover_protocol::wire::{Lane, LogLane, PerLane};

use super::Pump;
use crate::transport::{Transport, TransportEnd};

/// What one poll handed over.
#[derive(Debug, Default)]
pub(super) struct Sent {
    bytes: u64,
    frames: PerLane<u64>,
    ephemeral: u64,
}

impl<T: Transport> Pump<T> {
    /// Hands frames over while the transport takes them, the most urgent first.
    pub(super) fn poll_output(
        &mut self,
        cx: &mut Context<'_>,
        now: Time,
        writes: &mut usize,
    ) -> Result<(), TransportEnd> {
        let (mut wrote, mut waits) = (false, false);
        while *writes > 0 {
            if self.session.may_transmit(LogLane::Signal) {
                if self.is_ready(cx, Lane::Signal)? {
                    if let Some(frame) = self.session.poll_transmit(now, LogLane::Signal) {
                        self.sent.bytes += frame.len() as u64;
                        self.sent.frames.signal += 1;
                        self.transport.start_send(Lane::Signal, frame)?;
                        (wrote, *writes) = (true, *writes - 1);
                    }
                    continue;
                }
                waits = true;
            }
            // The flip makes them take turns; what has nothing to send gives its turn away.
            self.bulk_next = !self.bulk_next;
            let order = if self.bulk_next {
                [Lane::Bulk, Lane::Ephemeral]
            } else {
                [Lane::Ephemeral, Lane::Bulk]
            };
            let mut sent = None;
            for lane in order {
                match self.send_one(cx, now, lane)? {
                    Some(true) => {
                        sent = Some(lane);
                        break;
                    }
                    Some(false) => {}
                    None => waits |= lane == Lane::Bulk,
                }
            }
            let Some(lane) = sent else { break };
            // A datagram that went out does not show that the peer reads its streams.
            wrote |= lane == Lane::Bulk;
            *writes -= 1;
        }
        self.stuck_since = match (wrote, waits) {
            (false, true) => self.stuck_since.or(Some(now)),
            _ => None,
        };
        Ok(())
    }

    /// Sends one frame of a lane. `None` if there may be one and the transport does not take
    /// it, `Some(false)` if there is none.
    fn send_one(
        &mut self,
        cx: &mut Context<'_>,
        now: Time,
        lane: Lane,
    ) -> Result<Option<bool>, TransportEnd> {
        let may = match lane {
            Lane::Bulk => self.session.may_transmit(LogLane::Bulk),
            _ => !self.session.is_revoked() && self.mailbox.has_ephemeral(),
        };
        if !may {
            return Ok(Some(false));
        }
        if !self.is_ready(cx, lane)? {
            return Ok(None);
        }
        let frame = match lane {
            Lane::Bulk => self.session.poll_transmit(now, LogLane::Bulk),
            _ => self.mailbox.take_ephemeral(),
        };
        let Some(frame) = frame else { return Ok(Some(false)) };
        self.sent.bytes += frame.len() as u64;
        match lane {
            Lane::Bulk => self.sent.frames.bulk += 1,
            _ => self.sent.ephemeral += 1,
        }
        self.transport.start_send(lane, frame)?;
        Ok(Some(true))
    }

    fn is_ready(&mut self, cx: &mut Context<'_>, lane: Lane) -> Result<bool, TransportEnd> {
        match self.transport.poll_ready(cx, lane) {
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(end)) => Err(end),
            Poll::Pending => Ok(false),
        }
    }

    /// Adds up what this poll did: the counters are shared by every connection.
    pub(super) fn count(&mut self) {
        let metrics = &self.shared.metrics;
        let Sent { bytes, frames, ephemeral } = std::mem::take(&mut self.sent);
        if bytes > 0 {
            self.brake.handle_write(self.shared.clock.now(), &self.shared.pressure);
            metrics.sent(self.transport.kind(), bytes);
            for lane in LogLane::ALL.into_iter().filter(|lane| frames[*lane] > 0) {
                metrics.delivered(lane.into(), frames[lane]);
            }
            if ephemeral > 0 {
                metrics.delivered(Lane::Ephemeral, ephemeral);
                let dropped = self.transport.datagrams_dropped();
                metrics.ephemeral_undeliverable(dropped - self.datagrams_dropped);
                self.datagrams_dropped = dropped;
            }
        }
        for note in self.session.take_notes() {
            match note {
                Note::Refused(code) => metrics.refused(code),
                Note::Reset(reason) => metrics.reset(reason),
                Note::Undecodable => metrics.datagram_undecodable(),
            }
        }
    }
}
