//! What came too fast: refused unread, and in the end the connection closed.

use std::time::Duration;

use super::requests::reference_of;
use super::{Note, Phase, ServerSession, Settings, millis};
use crate::session::RoomLog;
use crate::wire::message::{self, ClientMessage, Close, ServerMessage};
use crate::wire::{CloseCode, ErrorCode, Lane, LogLane};

const TOO_FAST: &str = "too much in too short a time";

impl<L: RoomLog> ServerSession<L> {
    /// Refuses one message that came on `lane` sooner than it may; it may come again after
    /// `wait`. What ends the connection anyway is heard, and so is a greeting.
    pub fn handle_too_fast(
        &mut self,
        settings: &Settings,
        lane: Lane,
        payload: &[u8],
        wait: Duration,
    ) {
        let is_live = matches!(self.phase, Phase::Live { .. });
        if !is_live || payload.len() as u64 > settings.limits.message_bytes {
            return self.handle_frame(settings, lane, payload);
        }
        if self.closing.is_some() {
            return;
        }
        match self.codec.decode_client(payload) {
            Err(_) | Ok(ClientMessage::Hello(_) | ClientMessage::Bye) => {
                self.handle_frame(settings, lane, payload);
            }
            Ok(_) if lane == Lane::Ephemeral => {
                self.notes.push(Note::Refused(ErrorCode::RateLimited));
            }
            Ok(message) => {
                let reference = reference_of(&message);
                let of_send = reference.lane.filter(|_| reference.seq.is_some());
                self.notes.push(Note::Refused(ErrorCode::RateLimited));
                let error = ServerMessage::Error(message::Error {
                    code: ErrorCode::RateLimited,
                    message: TOO_FAST.into(),
                    reference,
                    retry_after: Some(millis(wait)),
                    expected: None,
                });
                self.answer(of_send.unwrap_or(LogLane::Signal), &error);
            }
        }
    }

    /// Closes the connection of a client that goes on although it was refused again and again.
    /// It may come back after `wait`.
    pub fn handle_abuse(&mut self, wait: Duration) {
        let reason = "went on too fast after being refused".to_owned();
        let retry_after = Some(millis(wait));
        self.close(Close { reason, retry_after, ..Close::new(CloseCode::RateLimited) });
    }
}
