//! What a connection may do: how fast, in how many rooms, with how many others at its address.

use std::sync::{Arc, Mutex, PoisonError};

use handover_protocol::pace::{Pace, Verdict};
use handover_protocol::room::Refusal;
use handover_protocol::session::grant::Grant;
use handover_protocol::session::{About, Op, Outcome, Reply, Slot};
use handover_protocol::time::Time;
use handover_protocol::wire::{ErrorCode, Lane, RoomName, SessionId};

use super::{Pump, Shared};
use crate::router::live_log::SharedLog;
use crate::router::quota::{Counted, SharedPace};
use crate::transport::Transport;

impl Shared {
    /// The pace of a session that has done nothing yet.
    pub(super) fn fresh_pace(&self, now: Time) -> SharedPace {
        Arc::new(Mutex::new(Pace::new(&self.pace, now)))
    }
}

impl<T: Transport> Pump<T> {
    /// Passes a message on to the session, if it has not come too fast.
    pub(super) fn take(&mut self, now: Time, lane: Lane, payload: &[u8]) {
        let verdict = {
            // A bucket is whole after every call.
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.handle_message(now, payload.len())
        };
        let settings = &self.shared.settings;
        match verdict {
            Verdict::Go => self.session.handle_frame(settings, lane, payload),
            Verdict::TooFast(wait) => self.session.handle_too_fast(settings, lane, payload, wait),
            Verdict::Abuse(wait) => self.session.handle_abuse(wait),
        }
    }

    /// Something came that is no message, such as a ping: it counts as one, and there is nobody to
    /// tell that it came too fast.
    pub(super) fn take_nothing(&mut self, now: Time) {
        self.pass_over(now, 0);
        self.brake.handle_message(now, &self.shared.pressure, 0);
    }

    /// What is not looked at is counted all the same: it has to be read to be let go.
    pub(super) fn pass_over(&mut self, now: Time, bytes: usize) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = pace.handle_message(now, bytes);
        drop(pace);
        if let Verdict::Abuse(wait) = verdict {
            self.session.handle_abuse(wait);
        }
    }

    /// Passes an answer on. A list of a room's members counts with what its asker sends, whatever it
    /// asked: it is short to ask for, and may be long.
    pub(super) fn answered(&mut self, reply: Reply<SharedLog>) {
        if let Outcome::Joined { snapshot, .. }
        | Outcome::Members { snapshot, .. }
        | Outcome::Snapshot { snapshot, .. } = &reply.outcome
        {
            let told = snapshot.members.iter().map(|member| {
                let user = member.user.as_ref().map_or(0, |user| user.as_str().len());
                MEMBER_BYTES + user + member.metadata.len()
            });
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.handle_answer(self.shared.clock.now(), told.sum());
        }
        self.session.handle_reply(reply);
    }

    /// A place among the sessions of this address, for one that is not resumed.
    pub(super) fn settle(&mut self) -> Result<(), Refusal> {
        if self.admitted.try_settle() { Ok(()) } else { Err(ADDRESS_FULL) }
    }

    /// The session has its place there for as long as it lives, however many there are if it was
    /// resumed.
    pub(super) fn stay(&mut self, session: SessionId) {
        self.admitted.settle();
        let counted = self.admitted.take_place().map(|place| Box::new(place) as Counted);
        self.shared.router.count(session, counted);
    }

    /// Answers a `join` that may not be, be it one to a room that the session is in: its answer is as
    /// long. Says whether it did.
    pub(super) fn forbids_join(&mut self, slot: Slot, room: &RoomName, op: &Op) -> bool {
        let Op::Join { id, .. } = op else { return false };
        let now = self.shared.clock.now();
        let paced = self.pace.lock().unwrap_or_else(PoisonError::into_inner).handle_join(now);
        let refusal = match paced {
            Err(_) => JOINS,
            Ok(()) if !self.shared.router.has_place_for(room) => ROOMS_FULL,
            Ok(()) => return false,
        };
        let about = About::Join { id: *id };
        let outcome = Outcome::Refused { about, refusal, at: 0 };
        self.session.handle_reply(Reply { slot, outcome });
        true
    }

    /// Answers a `refresh` that comes too soon after others. Says whether it did.
    pub(super) fn forbids_refresh(&mut self, id: u64) -> bool {
        let now = self.shared.clock.now();
        let paced = self.pace.lock().unwrap_or_else(PoisonError::into_inner).handle_refresh(now);
        if paced.is_err() {
            self.session.handle_refreshed(id, Err(REFRESHES));
        }
        paced.is_err()
    }
}

/// To how many a newer grant goes: to those in the rooms where it has a member show something else.
pub(super) fn reach_of_newer<'a>(
    before: &Grant,
    newer: &Grant,
    rooms: impl Iterator<Item = (&'a RoomName, usize)>,
) -> usize {
    let shows_new =
        |room| newer.metadata(room).is_some_and(|fixed| before.metadata(room) != Some(fixed));
    rooms.filter(|(room, _)| shows_new(room)).map(|(_, seats)| seats).sum()
}

/// To how many something goes that is asked of a room with so many seats, or of how many it tells.
pub(super) fn reach(op: &Op, seats: usize) -> usize {
    let goes_to_one = match op {
        Op::Send(send) => send.to.is_some(),
        Op::Ephemeral { to, .. } => to.is_some(),
        // Nothing that the client asked for.
        Op::Snapshot { .. } => true,
        _ => false,
    };
    if goes_to_one { 1 } else { seats }
}

/// What a member without metadata takes in a list of them, or so.
const MEMBER_BYTES: usize = 64;
const ADDRESS_FULL: Refusal =
    Refusal::new(ErrorCode::RateLimited, "as many sessions from this address as there may be");
const JOINS: Refusal = Refusal::new(ErrorCode::RateLimited, "too many joins in too short a time");
const REFRESHES: Refusal =
    Refusal::new(ErrorCode::RateLimited, "too many newer tokens in too short a time");
const ROOMS_FULL: Refusal =
    Refusal::new(ErrorCode::RateLimited, "the gateway has as many rooms as it may have");
