//! What a token allows and for how long: newer ones, and the end of the last.

use super::{Phase, ServerSession, millis};
use crate::room::Refusal;
use crate::session::RoomLog;
use crate::session::grant::{Pass, Right};
use crate::session::membership::Standing;
use crate::time::Time;
use crate::wire::message::{Close, Reference, ServerMessage};
use crate::wire::{CloseCode, ErrorCode, LogLane};

impl<L: RoomLog> ServerSession<L> {
    /// The newer token of [`super::Action::Refresh`] was looked at: `None` if nobody is asked
    /// for one.
    pub fn handle_refreshed(&mut self, id: u64, outcome: Result<Option<Pass>, Refusal>) {
        self.waiting = false;
        match outcome {
            Ok(newer) => {
                self.answer(LogLane::Signal, &ServerMessage::Ok { id });
                if let Some(pass) = newer {
                    (self.pass, self.told_of_end) = (pass, false);
                    self.leave_what_is_not_allowed();
                }
            }
            Err(refusal) => {
                let reference = Reference { id: Some(id), ..Reference::default() };
                self.error(refusal.code, refusal.message.to_owned(), reference);
                if refusal.code == ErrorCode::Unauthorized {
                    self.close(Close::new(CloseCode::Unauthorized));
                }
            }
        }
    }

    /// A client learns that it is no member any more when it resumes: so it does, if a newer
    /// token does not allow every room it is in.
    fn leave_what_is_not_allowed(&mut self) {
        let forbidden = self.memberships.iter().any(|membership| {
            !matches!(membership.standing, Standing::Left(_))
                && !self.pass.grant.allows(&membership.room, Right::Join)
        });
        if forbidden {
            let reason = "the newer token does not allow every room the session is in".to_owned();
            self.close(Close { reason, ..Close::new(CloseCode::TokenExpired) });
        }
    }

    /// The calendar says that it is `unix_now` seconds since 1970: a token's end is an hour of the
    /// day, which the machine may have slept through.
    pub fn handle_calendar(&mut self, now: Time, unix_now: u64) {
        if let Some(term) = &mut self.pass.term {
            term.keep_to_calendar(now, unix_now);
        }
    }

    /// When there is something to do about the token.
    pub(super) fn token_timeout(&self) -> Option<Time> {
        if self.closing.is_some() {
            return None;
        }
        let term = self.pass.term.filter(|_| matches!(self.phase, Phase::Live { .. }))?;
        Some(if self.told_of_end { term.end } else { term.expiring })
    }

    /// Tells the client that its token ends soon, or that it has ended.
    pub(super) fn handle_token_timeout(&mut self, now: Time) {
        let Some(term) = self.pass.term.filter(|_| matches!(self.phase, Phase::Live { .. })) else {
            return;
        };
        if now >= term.end {
            return self.close(Close::new(CloseCode::TokenExpired));
        }
        if now >= term.expiring && !self.told_of_end {
            self.told_of_end = true;
            self.notify(&ServerMessage::Expiring { in_ms: millis(term.end.since(now)) });
        }
    }
}
