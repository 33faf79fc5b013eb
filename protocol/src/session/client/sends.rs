//! What one room's lane still has to get into the log: kept until `accepted`.
//!
//! A `seq` is given when a send goes out. Sends go out without waiting for each other, so
//! when one is refused those behind it are already on their way under numbers that will not
//! do. The lane then settles: nothing more goes out until everything under way has been
//! answered, and only then are the remaining sends numbered anew. So an answer always means
//! the send that carried its number.

use std::collections::VecDeque;
use std::time::Duration;

use super::output::SendId;
use crate::time::Time;
use crate::wire::error::Retry;
use crate::wire::message::Error;
use crate::wire::{Json, PeerId};

/// What a send counts for beside its body.
const OVERHEAD: usize = 128;
/// A gateway that leaves a send unanswered for so long while a lane settles is out of step.
pub(super) const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait when the gateway says "later" without saying when.
pub(super) const RETRY_DEFAULT: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Item {
    id: SendId,
    to: Option<PeerId>,
    body: Json,
    stage: Stage,
    /// The gateway failed on it under this number, which does not rule out that it was
    /// applied.
    doubtful: Option<u64>,
}

impl Item {
    /// Whether nobody but the gateway knows what became of it.
    fn is_uncertain(&self) -> bool {
        self.doubtful.is_some() || matches!(self.stage, Stage::Flying(_))
    }

    /// The number under which it may have been applied.
    fn number(&self) -> Option<u64> {
        match self.stage {
            Stage::Waiting => self.doubtful,
            Stage::Flying(number) | Stage::Again(number) => Some(number),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not under way.
    Waiting,
    /// Under way with this number, and not answered.
    Flying(u64),
    /// Refused for now under this number: to go out again once the lane has settled.
    Again(u64),
}

/// The sends of one room and lane, in the order they were given.
#[derive(Debug)]
pub(super) struct Sends {
    items: VecDeque<Item>,
    /// Items before this one are not [`Stage::Waiting`]; those from it on are.
    next: usize,
    next_seq: u64,
    /// The highest number known to be in the log.
    applied: u64,
    flying: usize,
    bytes: usize,
    settling_since: Option<Time>,
    /// The gateway's answers do not agree on which numbers are used up.
    contradicted: bool,
    hold_until: Option<Time>,
}

/// What an error means for the send it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is out; the owner is told.
    Refused(SendId),
    /// It is out, and may be in the log all the same.
    Uncertain(SendId),
    /// It goes out again.
    Later,
    /// It names nothing that is under way.
    Unknown,
}

impl Default for Sends {
    fn default() -> Self {
        Sends {
            items: VecDeque::new(),
            next: 0,
            next_seq: 1,
            applied: 0,
            flying: 0,
            bytes: 0,
            settling_since: None,
            contradicted: false,
            hold_until: None,
        }
    }
}

impl Sends {
    /// Bytes waiting to be accepted.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What a body counts for.
    pub(super) fn cost(body: &Json) -> usize {
        OVERHEAD + body.len()
    }

    /// Whether everything is answered.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// When something will have to be looked at again.
    pub(super) fn due(&self) -> Option<Time> {
        let contradicted = self.contradicted.then_some(Time::ZERO);
        let settled = self.settling_since.map(|since| since + SETTLE_TIMEOUT);
        [contradicted, settled, self.hold_until].into_iter().flatten().min()
    }

    /// Whether the gateway has left answers out or contradicts itself: what it has is then
    /// for a new connection to find out.
    pub(super) fn is_out_of_step(&self, now: Time) -> bool {
        self.contradicted || self.settling_since.is_some_and(|since| now >= since + SETTLE_TIMEOUT)
    }

    pub(super) fn push(&mut self, id: SendId, to: Option<PeerId>, body: Json) {
        self.bytes += Self::cost(&body);
        self.items.push_back(Item { id, to, body, stage: Stage::Waiting, doubtful: None });
    }

    /// Ends a wait that is over, whether or not anything is left that waited.
    pub(super) fn handle_timeout(&mut self, now: Time) {
        self.hold_until = self.hold_until.filter(|until| now < *until);
    }

    /// Whether [`Sends::transmit`] has something.
    pub(super) fn is_ready(&self, now: Time) -> bool {
        self.next < self.items.len()
            && self.settling_since.is_none()
            && !self.contradicted
            && self.hold_until.is_none_or(|until| now >= until)
    }

    /// The next send to go out, with its number.
    pub(super) fn transmit(&mut self, now: Time) -> Option<(u64, Option<PeerId>, Json)> {
        if !self.is_ready(now) {
            return None;
        }
        self.hold_until = None;
        let item = self.items.get_mut(self.next)?;
        let seq = self.next_seq;
        item.stage = Stage::Flying(seq);
        self.next += 1;
        self.next_seq += 1;
        self.flying += 1;
        Some((seq, item.to, item.body.clone()))
    }

    /// Everything up to `seq` is in the log.
    pub(super) fn accept(&mut self, seq: u64) -> Vec<SendId> {
        self.applied = self.applied.max(seq);
        let mut accepted = Vec::new();
        while let Some(item) = self.items.front().filter(|i| i.number().is_some_and(|n| n <= seq)) {
            if matches!(item.stage, Stage::Flying(_)) {
                self.flying -= 1;
            }
            accepted.extend(self.remove(0));
        }
        self.next_seq = self.next_seq.max(self.applied + 1);
        self.settle();
        accepted
    }

    /// A send was refused.
    pub(super) fn refuse(&mut self, now: Time, seq: u64, error: &Error) -> Verdict {
        let named = |item: &Item| item.stage == Stage::Flying(seq);
        let Some(index) = self.items.iter().position(named) else { return Verdict::Unknown };
        self.flying -= 1;
        self.settling_since.get_or_insert(now);
        if error.expected.is_some_and(|expected| expected <= self.applied) {
            self.contradicted = true;
        }
        let verdict = match error.code.retry() {
            Retry::Never => {
                let doubtful = self.items.get(index).is_some_and(|item| item.doubtful.is_some());
                // Whether its number is used up is then for a new connection to find out.
                self.contradicted |= doubtful;
                let verdict = if doubtful { Verdict::Uncertain } else { Verdict::Refused };
                self.remove(index).map_or(Verdict::Unknown, verdict)
            }
            Retry::Later | Retry::FromExpected => {
                if let Some(item) = self.items.get_mut(index) {
                    item.stage = Stage::Again(seq);
                    if error.code.retry() == Retry::Later {
                        item.doubtful = Some(seq);
                    }
                }
                Verdict::Later
            }
        };
        if error.code.retry() == Retry::Later {
            let wait = error.retry_after.map_or(RETRY_DEFAULT, Duration::from_millis);
            self.hold_until = self.hold_until.max(Some(now + wait));
        }
        self.settle();
        verdict
    }

    /// A new connection carries the session, and the gateway has applied everything up to
    /// `seq`. What it has not goes out again; what it has is answered in the replay. Returns what nobody
    /// can tell the fate of: if it was more before, the gateway's store has lost that, and what has gone
    /// out since may have been applied, too.
    pub(super) fn resume(&mut self, seq: u64) -> Vec<SendId> {
        let uncertain = if seq < self.applied { self.disown() } else { Vec::new() };
        self.go_on_after(seq);
        uncertain
    }

    fn go_on_after(&mut self, seq: u64) {
        self.flying = 0;
        self.next = 0;
        for item in &mut self.items {
            match item.number() {
                Some(number) if number <= seq => {
                    item.stage = Stage::Flying(number);
                    self.flying += 1;
                    self.next += 1;
                }
                _ => (item.stage, item.doubtful) = (Stage::Waiting, None),
            }
        }
        (self.applied, self.next_seq) = (seq, seq + 1);
        (self.settling_since, self.contradicted, self.hold_until) = (None, false, None);
    }

    /// A membership begins in a session that has had this many applied. Nothing is under way. Returns what is
    /// accepted, and what nobody can tell the fate of, as [`Self::resume`] does.
    pub(super) fn start(&mut self, seq: u64) -> (Vec<SendId>, Vec<SendId>) {
        let uncertain = self.resume(seq);
        let accepted = self.accept(seq);
        self.go_on_after(seq);
        (accepted, uncertain)
    }

    /// The session is unknown to the gateway: returns what was under way, which nobody can
    /// tell the fate of. The rest is certainly not in any log and waits for the new session.
    pub(super) fn disown(&mut self) -> Vec<SendId> {
        let mut uncertain = Vec::new();
        let mut index = 0;
        while let Some(item) = self.items.get(index) {
            if item.is_uncertain() {
                uncertain.extend(self.remove(index));
            } else {
                index += 1;
            }
        }
        self.go_on_after(0);
        uncertain
    }

    /// Gives everything up: each send, and whether it may be in the log all the same.
    pub(super) fn abandon(&mut self) -> impl Iterator<Item = (SendId, bool)> + use<> {
        let items = std::mem::take(self).items;
        items.into_iter().map(|item| (item.id, item.is_uncertain()))
    }

    fn remove(&mut self, index: usize) -> Option<SendId> {
        let item = self.items.remove(index)?;
        self.bytes -= Self::cost(&item.body);
        if index < self.next {
            self.next -= 1;
        }
        Some(item.id)
    }

    fn settle(&mut self) {
        if self.flying > 0 {
            return;
        }
        if self.settling_since.take().is_none() {
            return;
        }
        for item in self.items.iter_mut().take(self.next) {
            item.stage = Stage::Waiting;
        }
        self.next = 0;
        self.next_seq = self.applied + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ErrorCode;
    use crate::wire::message::Reference;

    const NOW: Time = Time::ZERO;

    fn sends(count: u64) -> Sends {
        let mut sends = Sends::default();
        for id in 1..=count {
            sends.push(SendId(id), None, Json::from_value(&id).unwrap());
        }
        sends
    }

    /// Everything that goes out now: (number, which send).
    fn out(sends: &mut Sends, now: Time) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| sends.transmit(now))
            .map(|(seq, _, body)| (seq, body.to_value().unwrap()))
            .collect()
    }

    fn error(code: ErrorCode, expected: Option<u64>) -> Error {
        let (reference, message) = (Reference::default(), String::new());
        Error { code, message, reference, retry_after: None, expected }
    }

    fn gap(expected: u64) -> Error {
        error(ErrorCode::SeqGap, Some(expected))
    }

    fn ids(ids: &[u64]) -> Vec<SendId> {
        ids.iter().copied().map(SendId).collect()
    }

    #[test]
    fn accepted_is_cumulative() {
        let mut sends = sends(4);
        assert_eq!(out(&mut sends, NOW), [(1, 1), (2, 2), (3, 3), (4, 4)]);
        assert_eq!(sends.accept(3), ids(&[1, 2, 3]));
        assert_eq!(sends.accept(3), []);
        assert_eq!(sends.accept(4), ids(&[4]));
        assert_eq!((sends.is_empty(), sends.bytes()), (true, 0));
    }

    #[test]
    fn a_refused_send_does_not_use_up_its_number() {
        let mut sends = sends(4);
        out(&mut sends, NOW);
        sends.accept(1);
        let refused = sends.refuse(NOW, 2, &error(ErrorCode::NoSuchPeer, None));
        assert_eq!(refused, Verdict::Refused(SendId(2)));
        assert_eq!(out(&mut sends, NOW), [], "others are still under way");
        assert_eq!(sends.refuse(NOW, 3, &gap(2)), Verdict::Later);
        assert_eq!(sends.refuse(NOW, 4, &gap(2)), Verdict::Later);
        assert_eq!(out(&mut sends, NOW), [(2, 3), (3, 4)]);
    }

    #[test]
    fn a_second_refusal_while_settling_hits_the_send_it_names() {
        let mut sends = sends(4);
        out(&mut sends, NOW);
        let final_one = error(ErrorCode::NoSuchPeer, None);
        assert_eq!(sends.refuse(NOW, 3, &final_one), Verdict::Refused(SendId(3)));
        assert_eq!(sends.refuse(NOW, 1, &final_one), Verdict::Refused(SendId(1)));
        sends.refuse(NOW, 2, &gap(1));
        sends.refuse(NOW, 4, &gap(1));
        assert_eq!(out(&mut sends, NOW), [(1, 2), (2, 4)]);
        assert_eq!(sends.refuse(NOW, 9, &final_one), Verdict::Unknown);
    }

    #[test]
    fn later_waits_as_long_as_asked() {
        let mut sends = sends(2);
        out(&mut sends, NOW);
        let mut busy = error(ErrorCode::RateLimited, None);
        busy.retry_after = Some(2_500);
        assert_eq!(sends.refuse(NOW, 1, &busy), Verdict::Later);
        sends.refuse(NOW, 2, &gap(1));
        let due = NOW + Duration::from_millis(2_500);
        assert_eq!(sends.due(), Some(due));
        assert_eq!(out(&mut sends, due - Duration::from_millis(1)), []);
        assert_eq!(out(&mut sends, due), [(1, 1), (2, 2)]);
    }

    #[test]
    fn a_gateway_that_contradicts_itself_is_asked_again_on_a_new_connection() {
        let mut sends = sends(2);
        sends.resume(10);
        assert_eq!(out(&mut sends, NOW), [(11, 1), (12, 2)]);
        sends.refuse(NOW, 11, &gap(1));
        assert!(sends.is_out_of_step(NOW));
        assert_eq!(sends.due(), Some(Time::ZERO));
        assert_eq!(sends.resume(0), ids(&[2]), "which was not answered");
        assert_eq!(out(&mut sends, NOW), [(1, 1)]);
    }

    #[test]
    fn what_the_gateway_failed_on_may_be_in_the_log_all_the_same() {
        let unavailable = error(ErrorCode::Unavailable, None);
        let failed = || {
            let mut sends = sends(2);
            sends.transmit(NOW);
            sends.refuse(NOW, 1, &unavailable);
            sends
        };
        let later = NOW + RETRY_DEFAULT;
        let mut repeated = failed();
        assert_eq!(out(&mut repeated, later), [(1, 1), (2, 2)]);
        let mut announced = failed();
        assert_eq!(announced.accept(1), ids(&[1]));
        assert_eq!(out(&mut announced, later), [(2, 2)]);
        let mut resumed = failed();
        resumed.resume(1);
        assert_eq!(out(&mut resumed, NOW), [(2, 2)]);
        assert_eq!(resumed.accept(2), ids(&[1, 2]));
        assert_eq!(failed().disown(), ids(&[1]));
    }

    #[test]
    fn resume_sends_again_only_what_was_not_applied() {
        let mut sends = sends(5);
        out(&mut sends, NOW);
        sends.accept(1);
        sends.resume(3);
        assert_eq!(out(&mut sends, NOW), [(4, 4), (5, 5)]);
        assert_eq!(sends.accept(5), ids(&[2, 3, 4, 5]));
    }

    #[test]
    fn a_link_lost_while_settling_leaves_no_hole_in_the_numbers() {
        let mut sends = sends(4);
        out(&mut sends, NOW);
        sends.accept(1);
        sends.refuse(NOW, 2, &error(ErrorCode::TooLarge, None));
        sends.resume(1);
        assert_eq!(out(&mut sends, NOW), [(2, 3), (3, 4)]);
    }

    #[test]
    fn what_was_under_way_is_uncertain_in_a_new_session() {
        let mut sends = sends(2);
        out(&mut sends, NOW);
        sends.push(SendId(3), None, Json::from_value(&3).unwrap());
        assert_eq!(sends.disown(), ids(&[1, 2]));
        assert_eq!(out(&mut sends, NOW), [(1, 3)]);
    }

    #[test]
    fn where_less_is_applied_than_was_said_nobody_can_tell_what_became_of_what_went_out() {
        let mut sends = sends(4);
        (0..2).for_each(|_| drop(sends.transmit(NOW)));
        assert_eq!(sends.accept(1), ids(&[1]));
        sends.transmit(NOW);
        assert_eq!(sends.start(0), (ids(&[]), ids(&[2, 3])));
        assert_eq!(out(&mut sends, NOW), [(1, 4)], "what had not gone out does now");
        assert_eq!(sends.accept(1), ids(&[4]));
    }

    #[test]
    fn nor_where_the_membership_goes_on() {
        let mut sends = sends(4);
        (0..2).for_each(|_| drop(sends.transmit(NOW)));
        assert_eq!(sends.accept(1), ids(&[1]));
        sends.transmit(NOW);
        assert_eq!(sends.resume(0), ids(&[2, 3]));
        assert_eq!(out(&mut sends, NOW), [(1, 4)], "what had not gone out does now");
    }

    #[test]
    fn a_gateway_that_leaves_answers_out_is_found_out() {
        let mut sends = sends(2);
        out(&mut sends, NOW);
        sends.refuse(NOW, 1, &error(ErrorCode::TooLarge, None));
        assert!(!sends.is_out_of_step(NOW));
        assert!(sends.is_out_of_step(NOW + SETTLE_TIMEOUT));
        assert_eq!(sends.due(), Some(NOW + SETTLE_TIMEOUT));
    }
}
