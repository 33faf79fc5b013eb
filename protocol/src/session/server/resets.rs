//! Memberships that start again: each needs to be told who is in its room, which may be long.
//!
//! A session may be in many rooms and lose its place in all of them at once, as when it resumes
//! without naming them. So they are asked for one after another, and only while the client takes
//! what it is told.

use std::collections::VecDeque;

use super::{Action, ServerSession};
use crate::session::membership::Standing;
use crate::session::{Op, Request, RoomLog, Slot};
use crate::wire::message::ResetReason;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Resets {
    waiting: VecDeque<(Slot, ResetReason)>,
    /// The one that is with its room.
    asked: Option<Slot>,
}

impl Resets {
    /// Its room has answered.
    pub(super) fn answered(&mut self, slot: Slot) {
        self.asked = self.asked.filter(|asked| *asked != slot);
    }

    /// The membership is over.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.answered(slot);
        self.waiting.retain(|(waiting, _)| *waiting != slot);
    }
}

impl<L: RoomLog> ServerSession<L> {
    /// A membership cannot go on from where it is.
    pub(super) fn start_again(&mut self, slot: Slot, reason: ResetReason) {
        let Some(index) = self.memberships.iter().position(|m| m.slot == slot) else { return };
        if matches!(self.memberships[index].standing, Standing::Left(_)) {
            return self.remove(index);
        }
        self.memberships[index].standing = Standing::Resetting;
        self.resets.waiting.push_back((slot, reason));
        self.ask_for_resets();
    }

    /// Asks for the next one, if the client has taken enough of what came before.
    pub(super) fn ask_for_resets(&mut self) {
        if self.resets.asked.is_some() || self.outbox.is_congested() {
            return;
        }
        if let Some((slot, reason)) = self.resets.waiting.pop_front() {
            self.resets.asked = Some(slot);
            self.ask_for_reset(slot, reason);
        }
    }

    /// Something is asked of the room, whose answer belongs behind the new start: that is asked for
    /// first.
    pub(super) fn hurry_reset(&mut self, slot: Slot) {
        let at = self.resets.waiting.iter().position(|(waiting, _)| *waiting == slot);
        if let Some((slot, reason)) = at.and_then(|at| self.resets.waiting.remove(at)) {
            self.ask_for_reset(slot, reason);
        }
    }

    fn ask_for_reset(&mut self, slot: Slot, reason: ResetReason) {
        let Some(membership) = self.memberships.iter().find(|m| m.slot == slot) else { return };
        let (room, op) = (membership.room.clone(), Op::Snapshot { reason });
        self.actions.push_back(Action::Request(Request { slot, room, op }));
    }
}
