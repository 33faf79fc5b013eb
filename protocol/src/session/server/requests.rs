//! What a client says once it is greeted: each message checked and answered, or passed on to
//! its room.

use super::{Action, Note, Phase, ServerSession, Settings, Streams};
use crate::limits::ROOMS_MAX;
use crate::room::Refusal;
use crate::session::grant::Right;
use crate::session::membership::{Membership, Standing};
use crate::session::{About, Op, Request, RoomLog, Slot};
use crate::wire::codec::DecodeError;
use crate::wire::message::{ClientMessage, Close, Ice, Reference, ServerMessage};
use crate::wire::{CloseCode, ErrorCode, Json, Lane, LogLane, PeerId, PerLane, RoomName};

impl<L: RoomLog> ServerSession<L> {
    /// Takes one message that came on `lane`.
    pub fn handle_frame(&mut self, settings: &Settings, lane: Lane, payload: &[u8]) {
        if self.closing.is_some() {
            return;
        }
        if payload.len() as u64 > settings.limits.message_bytes {
            return self.close(Close::new(CloseCode::MessageTooLarge));
        }
        match (self.codec.decode_client(payload), &self.phase) {
            (Ok(message), Phase::Live { peer }) => {
                let peer = *peer;
                self.handle_message(settings, peer, lane, message);
            }
            (Ok(message), Phase::Greeting { .. }) => self.handle_greeting(lane, message),
            // A datagram is dropped, whatever is wrong with it.
            (Err(_), _) if lane == Lane::Ephemeral => self.notes.push(Note::Undecodable),
            (Err(DecodeError::Unparseable { reason }), _) => self.violation(reason),
            (Err(DecodeError::Refused { code, message, is_hello, .. }), Phase::Greeting { .. }) => {
                self.refuse_greeting(code, message, is_hello);
            }
            (Err(DecodeError::Refused { code, message, reference, .. }), _) => {
                self.error(code, message, reference);
            }
            (Ok(_), _) => {}
        }
    }

    fn handle_message(
        &mut self,
        settings: &Settings,
        peer: PeerId,
        lane: Lane,
        message: ClientMessage,
    ) {
        if let Err(reference) = on_its_lane(self.streams, lane, &message) {
            if lane != Lane::Ephemeral {
                let text = "this does not belong on this stream".to_owned();
                self.error(ErrorCode::BadRequest, text, reference);
            }
            return;
        }
        match message {
            ClientMessage::Hello(_) => self.violation("a second hello".into()),
            ClientMessage::Lane { .. } => {
                let text = "lane opens a WebTransport stream and belongs nowhere else".to_owned();
                self.error(ErrorCode::BadRequest, text, None);
            }
            ClientMessage::Join { id, room, metadata } => {
                if self.forbids(&room, Right::Join, About::Join { id }) {
                    return;
                }
                if metadata_too_large(settings, metadata.as_ref()) {
                    return self.too_large("metadata is too large", id, room);
                }
                let fixed = self.pass.grant.metadata(&room).cloned();
                let metadata = fixed.or(metadata);
                if self.find(&room).is_some() {
                    return self.request(room, Op::Join { id, metadata });
                }
                let allowed = (settings.limits.rooms as usize).min(ROOMS_MAX);
                let ended = |m: &Membership<L>| matches!(m.standing, Standing::Left(_));
                if self.memberships.iter().filter(|m| !ended(m)).count() >= allowed {
                    let text = "the session is in as many rooms as it may be";
                    let refusal = Refusal::new(ErrorCode::TooManyRooms, text);
                    return self.refuse(&room, About::Join { id }, &refusal, None);
                }
                self.join(room, Op::Join { id, metadata });
            }
            ClientMessage::Leave { id, room } => {
                if self.find(&room).is_none() {
                    return self.answer(LogLane::Signal, &ServerMessage::Ok { id });
                }
                self.request(room, Op::Leave { id });
            }
            ClientMessage::Update { id, room, metadata } => {
                let about = About::Request { id };
                if self.forbids(&room, Right::Join, about) {
                    return;
                }
                if self.pass.grant.metadata(&room).is_some() {
                    return self.refuse(&room, about, &METADATA_FIXED, None);
                }
                if metadata_too_large(settings, Some(&metadata)) {
                    return self.too_large("metadata is too large", id, room);
                }
                self.request(room, Op::Update { id, metadata });
            }
            ClientMessage::Members { id, room } => self.request(room, Op::Members { id }),
            ClientMessage::Send(send) => {
                let room = send.room.clone();
                let about = About::Send { lane: send.lane, seq: send.seq };
                if self.forbids(&room, Right::to_send(send.lane), about) {
                    return;
                }
                if send.to == Some(peer) {
                    let refusal = Refusal::new(ErrorCode::BadRequest, "a message to oneself");
                    return self.refuse(&room, about, &refusal, None);
                }
                self.request(room, Op::Send(send));
            }
            ClientMessage::Ephemeral { room, to, body } => {
                let answered = lane != Lane::Ephemeral;
                if self.forbids(&room, Right::Ephemeral, About::Ephemeral { answered }) {
                    return;
                }
                if body.len() as u64 > settings.limits.ephemeral_bytes {
                    let refusal = Refusal::new(ErrorCode::TooLarge, "an ephemeral body too large");
                    return self.refuse(&room, About::Ephemeral { answered }, &refusal, None);
                }
                self.request(room, Op::Ephemeral { to, body, answered });
            }
            ClientMessage::Ice { id } => {
                let servers = settings.ice_servers.clone();
                let ttl = settings.ice_ttl.as_secs();
                self.answer(LogLane::Signal, &ServerMessage::Ice(Ice { id, servers, ttl }));
            }
            ClientMessage::Refresh { id, token } => {
                self.waiting = true;
                self.actions.push_back(Action::Refresh { id, token });
            }
            ClientMessage::Ping { id } => {
                self.answer(LogLane::Signal, &ServerMessage::Pong { id });
            }
            ClientMessage::Bye => {
                self.phase = Phase::Ending { peer };
                self.actions.push_back(Action::End);
            }
        }
    }

    /// Refuses what the token does not allow. Says whether it did.
    fn forbids(&mut self, room: &RoomName, right: Right, about: About) -> bool {
        match self.pass.grant.check(room, right) {
            Ok(()) => false,
            Err(refusal) => {
                self.refuse(room, about, &refusal, None);
                true
            }
        }
    }

    /// Asks to become a member of a room. That waits while an ended membership has something
    /// to say and is in the way: one of the same room, whose signal lane comes before the new
    /// `joined`, or any if all places are taken.
    pub(super) fn join(&mut self, room: RoomName, op: Op) {
        let free = (0..ROOMS_MAX as u8)
            .find(|index| self.memberships.iter().all(|m| m.slot.index != *index));
        let ended = self.memberships.iter().position(|m| m.room == room);
        let (Some(index), None) = (free, ended) else {
            (self.held_join, self.waiting) = (Some((room, op)), true);
            return ended.map_or((), |ended| self.void_bulk(ended));
        };
        let slot = Slot { index, generation: self.generations };
        self.generations = self.generations.wrapping_add(1);
        self.memberships.push(Membership::joining(slot, room.clone()));
        self.request(room, op);
    }

    /// What an ended membership still has for the bulk lane would come behind the start of
    /// the next one of its room, where it is void.
    fn void_bulk(&mut self, index: usize) {
        for frame in self.memberships[index].void_bulk() {
            self.outbox.release(frame.len());
            self.outbox.push(LogLane::Bulk, frame);
        }
        self.mark(self.memberships[index].slot);
    }

    /// Passes `op` on to a room the session is in, or is joining.
    fn request(&mut self, room: RoomName, op: Op) {
        let joining = matches!(op, Op::Join { .. });
        let known = self
            .find(&room)
            .filter(|&index| joining || self.memberships[index].standing != Standing::Joining);
        let Some(index) = known else {
            return self.refuse(&room, op.about(), &Refusal::NOT_A_MEMBER, None);
        };
        if !matches!(op, Op::Send(_) | Op::Ephemeral { .. }) {
            self.waiting = true;
            self.hurry_reset(self.memberships[index].slot);
        }
        let membership = &mut self.memberships[index];
        membership.held = match op {
            // The answer says who is there, and belongs behind exactly what led to that.
            Op::Members { .. } | Op::Join { .. } => PerLane { signal: true, bulk: false },
            // Nothing behind its end is for a member any more.
            Op::Leave { .. } => PerLane { signal: true, bulk: true },
            _ => membership.held,
        };
        let slot = membership.slot;
        self.actions.push_back(Action::Request(Request { slot, room, op }));
    }
}

const METADATA_FIXED: Refusal =
    Refusal::new(ErrorCode::Forbidden, "the token fixes the metadata in this room");

/// Whether a message may come where it came; the reference for the refusal if not.
fn on_its_lane(streams: Streams, lane: Lane, message: &ClientMessage) -> Result<(), Reference> {
    if streams == Streams::One {
        return Ok(());
    }
    match (lane, message) {
        (Lane::Bulk, ClientMessage::Send(send)) if send.lane == LogLane::Bulk => Ok(()),
        (Lane::Ephemeral, ClientMessage::Ephemeral { .. }) => Ok(()),
        (Lane::Signal, message) if !is_bulk_send(message) => Ok(()),
        (_, message) => Err(reference_of(message)),
    }
}

/// What a refusal of this message refers to.
pub(super) fn reference_of(message: &ClientMessage) -> Reference {
    let mut reference = Reference::default();
    match message {
        ClientMessage::Send(send) => {
            reference.room = Some(send.room.clone());
            (reference.lane, reference.seq) = (Some(send.lane), Some(send.seq));
        }
        ClientMessage::Ephemeral { room, .. } => reference.room = Some(room.clone()),
        ClientMessage::Join { id, .. }
        | ClientMessage::Leave { id, .. }
        | ClientMessage::Update { id, .. }
        | ClientMessage::Members { id, .. }
        | ClientMessage::Ice { id }
        | ClientMessage::Refresh { id, .. }
        | ClientMessage::Ping { id } => reference.id = Some(*id),
        ClientMessage::Hello(_) | ClientMessage::Lane { .. } | ClientMessage::Bye => {}
    }
    reference
}

fn is_bulk_send(message: &ClientMessage) -> bool {
    matches!(message, ClientMessage::Send(send) if send.lane == LogLane::Bulk)
}

fn metadata_too_large(settings: &Settings, metadata: Option<&Json>) -> bool {
    metadata.is_some_and(|text| text.len() as u64 > settings.limits.metadata_bytes)
}
