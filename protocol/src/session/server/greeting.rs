//! From the first message to `welcome`.

use std::collections::BTreeMap;

use super::replies::retry_after;
use super::{Action, Note, Opened, Phase, RefusedHellos, ServerSession, Settings, millis};
use crate::limits::{DEFERRED_HELLOS_MAX, REFUSED_HELLOS_MAX};
use crate::room::{Refusal, recovery};
use crate::session::RoomLog;
use crate::session::membership::Membership;
use crate::wire::error::Retry;
use crate::wire::message::{
    self, ClientMessage, Close, Positions, Reference, ResetReason, ResumedRoom, ServerMessage,
    VERSION, Welcome,
};
use crate::wire::{CloseCode, ErrorCode, Lane, LogLane};

const NOT_HELLO: &str = "the first message must be hello";

impl<L: RoomLog> ServerSession<L> {
    pub(super) fn handle_greeting(&mut self, lane: Lane, message: ClientMessage) {
        let Phase::Greeting { refused, ignoring } = self.phase else { return };
        match message {
            ClientMessage::Hello(mut hello) if lane == Lane::Signal => {
                if hello.version != VERSION {
                    let code = ErrorCode::UnsupportedVersion;
                    self.error(code, format!("this gateway speaks version {VERSION}"), None);
                    return self.close(Close::new(CloseCode::UnsupportedVersion));
                }
                // Only this end needs them: a client that is not let in yet has them held once.
                let listed = hello.resume.as_mut().map(|resume| std::mem::take(&mut resume.rooms));
                self.phase = Phase::Opening { listed: listed.unwrap_or_default(), refused };
                self.actions.push_back(Action::Open(Box::new(hello)));
            }
            _ if ignoring || lane == Lane::Ephemeral => {}
            _ => self.violation(NOT_HELLO.into()),
        }
    }

    /// The `hello` was refused; the client may say another one.
    pub fn handle_refused(&mut self, refusal: &Refusal) {
        let Phase::Opening { refused, .. } = self.phase else { return };
        let retry_after = retry_after(refusal.code);
        self.notes.push(Note::Refused(refusal.code));
        self.answer(
            LogLane::Signal,
            &ServerMessage::Error(message::Error {
                code: refusal.code,
                message: refusal.message.into(),
                reference: Reference::default(),
                retry_after,
                expected: None,
            }),
        );
        if refusal.code.retry() == Retry::Later {
            // Not the client's fault, who may ask again; but who does so without a pause is at fault.
            let refused = RefusedHellos { for_now: refused.for_now + 1, ..refused };
            self.phase = Phase::Greeting { refused, ignoring: true };
            if refused.for_now >= DEFERRED_HELLOS_MAX {
                let reason = "asked again and again although it was to come later".to_owned();
                self.close(Close { reason, retry_after, ..Close::new(CloseCode::RateLimited) });
            }
            return;
        }
        self.count_refused_hello(refused);
        if refusal.code == ErrorCode::Unauthorized {
            self.close(Close::new(CloseCode::Unauthorized));
        }
    }

    /// A message that cannot be taken as it is.
    pub(super) fn refuse_greeting(&mut self, code: ErrorCode, text: String, is_hello: bool) {
        let Phase::Greeting { refused, ignoring } = self.phase else { return };
        if is_hello {
            self.error(code, text, None);
            self.count_refused_hello(refused);
        } else if !ignoring {
            self.violation(NOT_HELLO.into());
        }
    }

    fn count_refused_hello(&mut self, refused: RefusedHellos) {
        let refused = RefusedHellos { finally: refused.finally + 1, ..refused };
        self.phase = Phase::Greeting { refused, ignoring: true };
        if refused.finally >= REFUSED_HELLOS_MAX {
            self.close(Close::new(CloseCode::Unauthorized));
        }
    }

    /// The session is open: answers `welcome` and goes on from the client's positions.
    pub fn handle_opened(&mut self, settings: &Settings, opened: Opened<L>) {
        let Phase::Opening { listed, .. } = &mut self.phase else { return };
        self.outbox.set_bound(settings.outbox_bytes);
        let mut listed = std::mem::take(listed);
        self.phase = Phase::Live { peer: opened.peer };
        (self.pass, self.told_of_end) = (opened.pass, false);
        let resumed = opened.resumed.is_some();
        let mut rooms = BTreeMap::new();
        let mut resets = Vec::new();
        for room in opened.resumed.into_iter().flatten() {
            self.generations = self.generations.max(room.slot.generation + 1);
            rooms.insert(room.room.clone(), ResumedRoom { seq: room.seq });
            let positions = listed.remove(&room.room);
            let mut membership = Membership::joining(room.slot, room.room);
            match going_on(&room.log, positions) {
                Ok(positions) => {
                    membership.follow(room.log, positions, false);
                    self.mark(room.slot);
                }
                Err(reason) => resets.push((membership.slot, reason)),
            }
            self.memberships.push(membership);
        }
        self.answer(
            LogLane::Signal,
            &ServerMessage::Welcome(Welcome {
                session: opened.session,
                secret: opened.secret,
                peer: opened.peer,
                user: opened.user,
                resumed,
                rooms,
                lost: if resumed { listed.into_keys().collect() } else { Vec::new() },
                heartbeat: millis(settings.heartbeat),
                resume_window: millis(settings.resume_window),
                limits: settings.limits,
            }),
        );
        for (slot, reason) in resets {
            self.start_again(slot, reason);
        }
    }
}

/// Whether a resumed member's positions can be gone on from.
fn going_on<L: RoomLog>(log: &L, positions: Option<Positions>) -> Result<Positions, ResetReason> {
    for lane in LogLane::ALL {
        let position = positions.map(|positions| positions.on(lane));
        recovery::recover(log.epoch(), position, |after| log.read(lane, after))?;
    }
    positions.ok_or(ResetReason::Unlisted)
}
