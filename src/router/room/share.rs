//! A room's share of what the logs of all rooms may hold.

use handover_protocol::room::Refusal;
use handover_protocol::room::entry::Entry;
use handover_protocol::session::Op;
use handover_protocol::wire::ErrorCode;

use super::LiveRoom;
use crate::router::live_log::SharedLog;

/// The answer to what would go into a log that holds its share.
pub(super) const LOGS_FULL: Refusal =
    Refusal::new(ErrorCode::RateLimited, "the logs hold as much as they may; this room its share");

/// What the requests of a batch will add to the room's logs.
#[derive(Debug, Default)]
pub(super) struct Pending {
    bytes: usize,
    /// What follows a refused send would be a gap.
    is_refused: bool,
}

impl LiveRoom {
    /// Whether there is a place in the logs for what a request adds to them; if so, it is counted.
    /// Joins, leaves and absences always have one: they are small, paced, and have to be known.
    pub(super) fn has_place_for(&self, log: &SharedLog, op: &Op, pending: &mut Pending) -> bool {
        let bytes = Entry::OVERHEAD
            + match op {
                Op::Send(send) => send.body.len(),
                Op::Update { metadata, .. } => metadata.len(),
                _ => return true,
            };
        let added = pending.bytes + bytes;
        let metrics = &self.shared.metrics;
        let held = usize::try_from(metrics.log_bytes.get()).unwrap_or(0) + added;
        let rooms = usize::try_from(metrics.rooms.get()).unwrap_or(0);
        let has_place = self.shared.log_budget.has_place(held, rooms, || log.bytes() + added);
        if has_place && !pending.is_refused {
            pending.bytes = added;
            return true;
        }
        pending.is_refused = true;
        false
    }
}
