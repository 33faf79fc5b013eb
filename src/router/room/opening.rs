//! How members go on in a room's next life, if the one they were in was lost.
//!
//! They all start where this node came into the new life, and so are sent whatever was said in it
//! since, even if it was said before they got round to asking where they are.

use std::collections::HashMap;

use handover_protocol::limits::POSITION_AFTER;
use handover_protocol::room::Snapshot;
use handover_protocol::session::Op;
use handover_protocol::time::Time;
use handover_protocol::wire::message::{Member, Positions, ResetReason};
use handover_protocol::wire::{PeerId, PerLane};

use super::LiveRoom;

/// The room as it was when this node came into its new life.
#[derive(Debug)]
pub(super) struct Opening {
    at: Time,
    positions: Positions,
    members: Vec<Member>,
    /// Those here who have not started yet, with the highest `seq` applied for each.
    to_come: HashMap<PeerId, PerLane<u64>>,
}

impl Opening {
    pub(super) fn new(at: Time, seen: Snapshot, to_come: HashMap<PeerId, PerLane<u64>>) -> Self {
        Opening { at, positions: seen.positions, members: seen.members, to_come }
    }
}

impl LiveRoom {
    /// Where a member starts that has read the old life to its end; nothing if it asks for
    /// something else, or later.
    pub(super) fn opening_for(&mut self, peer: PeerId, op: &Op) -> Option<Snapshot> {
        let Op::Snapshot { reason: ResetReason::Epoch } = op else { return None };
        let epoch = self.log.as_ref()?.positions().epoch;
        let opening = self.opening.as_mut().filter(|opening| opening.positions.epoch == epoch)?;
        let seq = opening.to_come.remove(&peer)?;
        let Opening { positions, members, .. } = opening;
        let snapshot = Snapshot { positions: *positions, seq, members: members.clone() };
        if opening.to_come.is_empty() {
            self.opening = None;
        }
        Some(snapshot)
    }

    /// Who has not asked by now is told how the room is then.
    pub(super) fn close_opening(&mut self, now: Time) {
        self.opening.take_if(|opening| now.since(opening.at) > POSITION_AFTER);
    }
}
