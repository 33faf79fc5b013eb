//! A room's share of what the logs of all rooms may hold.

use std::time::Duration;

use handover_protocol::room::log::Trimmed;

use super::LiveRoom;

/// However little a room may hold, it holds what was said so recently: its members are about to read
/// it.
const SPARED: Duration = Duration::from_secs(2);

impl LiveRoom {
    /// Lets go of what this room holds beyond its share, half of it on each lane, where all logs hold
    /// more than they may. Nobody is refused anything: who is far behind starts again.
    pub(super) fn keep_to_share(&self) {
        let (shared, Some(log)) = (&self.shared, &self.log) else { return };
        let held = usize::try_from(shared.metrics.log_bytes.get()).unwrap_or(0);
        let rooms = usize::try_from(shared.metrics.rooms.get()).unwrap_or(0);
        let Some(share) = shared.log_budget.share(held, rooms) else { return };
        let now = shared.clock.now();
        let trimmed = log.shrink(now, share / 2, SPARED);
        if trimmed == Trimmed::default() {
            return;
        }
        shared.metrics.trimmed(&trimmed);
        if let Some(broker) = shared.broker.at_hand() {
            broker.shrink(now, &self.name, share / 2, SPARED);
        }
    }
}
