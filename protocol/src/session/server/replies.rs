//! What the rooms answer, put into the client's words and into its order.

use super::{Note, ServerSession};
use crate::limits::INTEGER_MAX;
use crate::room::{Refusal, Snapshot};
use crate::session::membership::{Standing, accepted};
use crate::session::{About, Outcome, Reply, RoomLog, Slot};
use crate::wire::message::{
    self, Close, Joined, Members, Positions, Reference, Reset, ResetReason, ServerMessage,
};
use crate::wire::{CloseCode, ErrorCode, LogLane, PerLane, RoomName};

/// What `unavailable` and `internal` tell a client to wait, milliseconds.
const RETRY_AFTER_MS: u64 = 500;
/// What a limit that frees itself slowly tells a client to wait, milliseconds.
const LIMITED_AFTER_MS: u64 = 1_000;

impl<L: RoomLog> ServerSession<L> {
    /// Takes a room's answer.
    pub fn handle_reply(&mut self, reply: Reply<L>) {
        if self.is_revoked() {
            return;
        }
        if answers_reset(&reply.outcome) {
            self.resets.answered(reply.slot);
        }
        self.take_reply(reply);
        self.ask_for_resets();
    }

    fn take_reply(&mut self, reply: Reply<L>) {
        let answers_request = answers_request(&reply.outcome);
        self.waiting &= !answers_request;
        let found = self.memberships.iter().position(|m| m.slot == reply.slot);
        let Some(index) = found else { return };
        if answers_request {
            self.memberships[index].held = PerLane::default();
            self.mark(reply.slot);
        }
        match reply.outcome {
            Outcome::Joined { id, snapshot, start } => self.joined(index, id, snapshot, start),
            Outcome::Left { id, at } => {
                let frame = self.codec.encode_server(&ServerMessage::Ok { id });
                let standing = &mut self.memberships[index].standing;
                if std::mem::replace(standing, Standing::Left(at)) == Standing::Resetting {
                    // Its new start could not be had in time. Nothing more can be told of it.
                    self.remove(index);
                    return self.outbox.push(LogLane::Signal, frame);
                }
                self.answer_behind(index, LogLane::Signal, at.signal, frame);
            }
            Outcome::Updated { id, at } => {
                let frame = self.codec.encode_server(&ServerMessage::Ok { id });
                self.answer_behind(index, LogLane::Signal, at, frame);
            }
            Outcome::Members { id, snapshot } => {
                let room = self.memberships[index].room.clone();
                let Positions { epoch, signal, .. } = snapshot.positions;
                let members = snapshot.members;
                let message = Members { id, room, epoch, signal, members };
                let frame = self.codec.encode_server(&ServerMessage::Members(message));
                self.answer_behind(index, LogLane::Signal, signal, frame);
            }
            Outcome::Duplicate { lane, applied } => {
                let membership = &self.memberships[index];
                if membership.has_passed(lane, &applied) {
                    let message = accepted(membership.room.clone(), lane, &applied);
                    self.answer(lane, &message);
                }
            }
            Outcome::Snapshot { reason, snapshot, log } => {
                self.reset(index, reason, snapshot, log);
            }
            Outcome::Refused { about: About::Snapshot, refusal, .. } => {
                if self.memberships[index].standing != Standing::Resetting {
                    // The membership was left before the snapshot's turn came.
                    return;
                }
                // Without a snapshot nothing more can be told of the room. The client comes
                // back and resumes, later and later while it fails.
                let reason = format!("a room could not be read: {}", refusal.message);
                self.close(Close { reason, ..Close::new(CloseCode::Internal) });
            }
            Outcome::Refused { about, refusal, at } => {
                let room = self.memberships[index].room.clone();
                if let (About::Join { .. }, Standing::Joining) =
                    (about, self.memberships[index].standing)
                {
                    self.remove(index);
                    return self.refuse(&room, about, &refusal, None);
                }
                self.refuse(&room, about, &refusal, Some((index, at)));
            }
        }
    }

    fn joined(&mut self, index: usize, id: u64, snapshot: Snapshot, start: Option<L>) {
        let room = self.memberships[index].room.clone();
        let Snapshot { positions, seq, members } = snapshot;
        let Positions { epoch, signal, bulk } = positions;
        let message = Joined { id, room, epoch, signal, bulk, seq, members };
        let frame = self.codec.encode_server(&ServerMessage::Joined(message));
        let Some(log) = start else {
            return self.answer_behind(index, LogLane::Signal, signal, frame);
        };
        let slot = self.memberships[index].slot;
        self.memberships[index].follow(log, positions, true);
        self.outbox.push(LogLane::Signal, frame);
        self.mark(slot);
    }

    fn reset(&mut self, index: usize, reason: ResetReason, snapshot: Snapshot, log: L) {
        let membership = &mut self.memberships[index];
        if membership.standing != Standing::Resetting {
            return;
        }
        let Snapshot { positions, seq, members } = snapshot;
        let Positions { epoch, signal, bulk } = positions;
        let room = membership.room.clone();
        membership.follow(log, positions, true);
        let slot = membership.slot;
        self.notes.push(Note::Reset(reason));
        let message = Reset { room, reason, epoch, signal, bulk, seq, members };
        self.answer(LogLane::Signal, &ServerMessage::Reset(message));
        self.mark(slot);
    }

    /// The session has ended on the client's word: everything in its logs goes out, then the
    /// connection closes.
    pub fn handle_ended(&mut self, ends: &[(Slot, PerLane<u64>)]) {
        for (slot, at) in ends {
            if let Some(membership) = self.memberships.iter_mut().find(|m| m.slot == *slot) {
                membership.standing = Standing::Left(*at);
            }
            self.mark(*slot);
        }
        self.close(Close::new(CloseCode::Bye));
    }

    pub(super) fn too_large(&mut self, text: &'static str, id: u64, room: RoomName) {
        let refusal = Refusal::new(ErrorCode::TooLarge, text);
        self.refuse(&room, About::Request { id }, &refusal, None);
    }

    /// Answers a refusal, behind the entries that came before it if it has a place.
    pub(super) fn refuse(
        &mut self,
        room: &RoomName,
        about: About,
        refusal: &Refusal,
        place: Option<(usize, u64)>,
    ) {
        let mut reference = Reference::default();
        let lane = match about {
            About::Join { id } | About::Request { id } => {
                reference.id = Some(id);
                LogLane::Signal
            }
            About::Send { lane, seq } => {
                reference.room = Some(room.clone());
                (reference.lane, reference.seq) = (Some(lane), Some(seq));
                lane
            }
            About::Ephemeral { answered: true } => {
                reference.room = Some(room.clone());
                LogLane::Signal
            }
            About::Ephemeral { answered: false } | About::Snapshot => return,
        };
        self.notes.push(Note::Refused(refusal.code));
        let retry_after = retry_after(refusal.code);
        let frame = self.codec.encode_server(&ServerMessage::Error(message::Error {
            code: refusal.code,
            message: refusal.message.into(),
            reference,
            retry_after,
            expected: refusal.expected.map(|seq| seq.min(INTEGER_MAX)),
        }));
        match place {
            Some((index, at)) => self.answer_behind(index, lane, at, frame),
            None => self.outbox.push(lane, frame),
        }
    }

    pub(super) fn error(
        &mut self,
        code: ErrorCode,
        message: String,
        about: impl Into<Option<Reference>>,
    ) {
        let reference = about.into().unwrap_or_default();
        // Errors of bulk sends travel on the bulk stream, everything else on the signal stream.
        let lane = reference.lane.filter(|_| reference.seq.is_some()).unwrap_or(LogLane::Signal);
        self.notes.push(Note::Refused(code));
        let (retry_after, expected) = (retry_after(code), None);
        let error = message::Error { code, message, reference, retry_after, expected };
        self.answer(lane, &ServerMessage::Error(error));
    }
}

/// When what was refused may come again, in ms, where waiting helps.
pub(super) fn retry_after(code: ErrorCode) -> Option<u64> {
    match code {
        ErrorCode::Unavailable | ErrorCode::Internal => Some(RETRY_AFTER_MS),
        ErrorCode::RateLimited => Some(LIMITED_AFTER_MS),
        _ => None,
    }
}

fn answers_reset<L>(outcome: &Outcome<L>) -> bool {
    matches!(outcome, Outcome::Snapshot { .. } | Outcome::Refused { about: About::Snapshot, .. })
}

/// Whether a request of the client on a room is done with; one at a time is under way.
fn answers_request<L>(outcome: &Outcome<L>) -> bool {
    match outcome {
        Outcome::Joined { .. }
        | Outcome::Left { .. }
        | Outcome::Updated { .. }
        | Outcome::Members { .. } => true,
        Outcome::Refused { about, .. } => {
            matches!(about, About::Join { .. } | About::Request { .. })
        }
        Outcome::Duplicate { .. } | Outcome::Snapshot { .. } => false,
    }
}
