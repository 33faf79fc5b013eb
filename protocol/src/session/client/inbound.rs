//! What the gateway says.

use std::time::Duration;

use super::requests::{Ask, Asker, Request};
use super::room::{Admission, Room, Standing};
use super::sends::{Sends, Verdict};
use super::{
    Answer, ClientSession, Event, LinkClose, LinkId, Output, Receipt, RequestError, RequestId,
    ResetCause, RoomEvent, SendError, SendId,
};
use crate::time::Time;
use crate::wire::error::Retry;
use crate::wire::message::{
    Accepted, Error, Member, Message, PositionMark, Positions, ServerMessage,
};
use crate::wire::{Epoch, Json, LogLane, PeerId, PerLane, Position, RoomName};

impl ClientSession {
    /// Takes one message. Those of a connection that no longer counts are ignored.
    pub fn handle_message(&mut self, now: Time, id: LinkId, message: ServerMessage) {
        let Some(welcomed) = self.link(id).map(|link| link.welcomed) else { return };
        if is_answer(&message) {
            self.note_answer(now, id);
        } else {
            self.handle_alive(now, id);
        }
        match message {
            ServerMessage::Close(close) => {
                self.outputs.push_back(Output::Close(id, LinkClose::ByGateway));
                self.link_closed(now, id, &close);
            }
            ServerMessage::Welcome(welcome) if !welcomed => self.welcome(now, id, welcome),
            ServerMessage::Error(error) if !welcomed => self.greeting_error(now, id, error),
            message if welcomed => self.handle_live(now, id, message),
            message => self.keep_early(id, message),
        }
    }

    /// Streams may overtake each other: what comes on the bulk stream before `welcome` has
    /// come on the signal stream waits for it.
    fn keep_early(&mut self, id: LinkId, message: ServerMessage) {
        let bytes_max = self.config.held_bytes;
        let Some(link) = self.link_mut(id) else { return };
        link.early_bytes += match &message {
            ServerMessage::Message(message) => Sends::cost(&message.body),
            _ => Sends::cost(&Json::empty_object()),
        };
        link.early.push(message);
        if link.early_bytes > bytes_max {
            self.give_up(id, LinkClose::OutOfStep);
        }
    }

    pub(super) fn handle_live(&mut self, now: Time, id: LinkId, message: ServerMessage) {
        match message {
            ServerMessage::Message(message) => self.message(id, message),
            ServerMessage::Accepted(accepted) => self.accepted(now, &accepted),
            ServerMessage::Position(mark) => self.position(&mark),
            ServerMessage::Ephemeral(message) => {
                if self.rooms.get(&message.room).is_some_and(|r| r.standing == Standing::Member) {
                    let (from, body) = (message.from, message.body);
                    self.room_event(&message.room, RoomEvent::Ephemeral { from, body });
                }
            }
            ServerMessage::MemberJoined(joined) => {
                let member = Member {
                    peer: joined.peer,
                    user: joined.user,
                    metadata: joined.metadata,
                    since: joined.offset,
                    away: false,
                };
                self.membership(&joined.room, joined.epoch, joined.offset, |room| {
                    room.insert_member(member.clone());
                    RoomEvent::Joined(member)
                });
            }
            ServerMessage::MemberUpdated(updated) => {
                let (peer, metadata) = (updated.peer, updated.metadata);
                self.membership(&updated.room, updated.epoch, updated.offset, |room| {
                    set_metadata(room, peer, &metadata);
                    RoomEvent::Updated(peer, metadata)
                });
            }
            ServerMessage::MemberLeft(left) => {
                self.membership(&left.room, left.epoch, left.offset, |room| {
                    room.remove_member(left.peer);
                    RoomEvent::Left(left.peer, left.reason)
                });
            }
            ServerMessage::MemberAway(away) => {
                self.membership(&away.room, away.epoch, away.offset, |room| {
                    set_away(room, away.peer, true);
                    RoomEvent::Away(away.peer)
                });
            }
            ServerMessage::MemberBack(back) => {
                self.membership(&back.room, back.epoch, back.offset, |room| {
                    set_away(room, back.peer, false);
                    RoomEvent::Back(back.peer)
                });
            }
            ServerMessage::Joined(joined) => {
                let positions = positions(joined.epoch, joined.signal, joined.bulk);
                let room = self.rooms.get(&joined.room);
                if room.is_some_and(|room| room.standing != Standing::Member) {
                    self.forestall(id);
                }
                self.joined(now, joined.id, &joined.room, positions, joined.seq, joined.members);
            }
            ServerMessage::Reset(reset) => {
                self.forestall(id);
                let positions = positions(reset.epoch, reset.signal, reset.bulk);
                let cause = ResetCause::Gateway(reset.reason);
                self.reset(now, &reset.room, cause, positions, reset.seq, reset.members);
            }
            ServerMessage::Members(members) => {
                self.answered(members.id, |_, _| Answer::Members(members.members));
            }
            ServerMessage::Ok { id } => self.ok(id),
            ServerMessage::Pong { id: request } => {
                self.handle_pong(id, RequestId(request));
                self.answered(request, |_, _| Answer::Ok);
            }
            ServerMessage::Ice(ice) => {
                let (servers, ttl) = (ice.servers, ice.ttl);
                self.answered(ice.id, |_, _| Answer::Ice { servers, ttl });
            }
            ServerMessage::Error(error) => self.error(now, error),
            ServerMessage::Quality(quality) => self.event(Event::Quality(quality)),
            ServerMessage::Moved => self.event(Event::Moved),
            ServerMessage::Expiring { in_ms } => self.event(Event::Expiring(in_ms)),
            ServerMessage::Draining { reconnect_in } => {
                self.redial_at.get_or_insert(now + Duration::from_millis(reconnect_in));
                self.event(Event::Draining(reconnect_in));
            }
            // A second `welcome` means nothing; `close` never comes here.
            ServerMessage::Welcome(_) | ServerMessage::Close(_) => {}
        }
    }

    /// A room starts here. A greeting under way on another connection says where it was before that, or
    /// nothing of it. It would be answered by one more start, which skips what comes here meanwhile:
    /// better to greet once more.
    fn forestall(&mut self, id: LinkId) {
        let other = self.next.as_ref().filter(|next| next.id != id && next.resuming.is_some());
        if let Some(outrun) = other.map(|next| next.id) {
            self.give_up(outrun, LinkClose::Dropped);
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    // --- Entries ----------------------------------------------------------------------------

    fn message(&mut self, id: LinkId, message: Message) {
        let Some(room) = self.rooms.get_mut(&message.room) else { return };
        match room.admit(message.lane, message.epoch, message.offset) {
            Admission::Take => self.deliver(message),
            Admission::Drop => {}
            Admission::Hold => {
                if room.hold(message) > self.config.held_bytes {
                    self.give_up(id, LinkClose::OutOfStep);
                }
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        let position = Position { epoch: message.epoch, offset: message.offset };
        let Message { room, lane, from, to, body, .. } = message;
        let event = RoomEvent::Message { lane, position, from, to, body };
        self.outputs.push_back(Output::Event(Event::Room(room, event)));
    }

    fn accepted(&mut self, now: Time, accepted: &Accepted) {
        let Some(room) = self.rooms.get_mut(&accepted.room) else { return };
        let &Accepted { lane, epoch, seq, offset, .. } = accepted;
        // Only moves the position; whether it does changes nothing for the sends.
        room.admit(lane, epoch, offset);
        let ids = room.sends[lane].accept(seq);
        self.report_accepted(&ids, Some(Position { epoch, offset }));
        self.after_answers(now, &accepted.room);
    }

    fn position(&mut self, mark: &PositionMark) {
        let Some(room) = self.rooms.get_mut(&mark.room) else { return };
        if mark.start && mark.lane == LogLane::Bulk {
            room.mark(Position { epoch: mark.epoch, offset: mark.offset });
        } else {
            room.admit(mark.lane, mark.epoch, mark.offset);
        }
    }

    fn membership(
        &mut self,
        name: &RoomName,
        epoch: Epoch,
        offset: u64,
        change: impl FnOnce(&mut Room) -> RoomEvent,
    ) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        if room.admit(LogLane::Signal, epoch, offset) == Admission::Take {
            let event = change(room);
            self.room_event(name, event);
        }
    }

    // --- Memberships of one's own -----------------------------------------------------------

    fn joined(
        &mut self,
        now: Time,
        id: u64,
        name: &RoomName,
        positions: Positions,
        seq: PerLane<u64>,
        members: Vec<Member>,
    ) {
        let Some(request) = self.requests.remove(id) else { return };
        let Some(room) = self.rooms.get(name) else { return };
        let standing = room.standing;
        // Of a membership that one already has, it is a plain answer.
        let held = match standing {
            Standing::Member => Vec::new(),
            Standing::Joining | Standing::Rejoining(_) => {
                self.begin(now, name, positions, seq, members)
            }
        };
        let list = self.members(name).unwrap_or_default();
        if request.asker == Asker::User {
            self.answer(RequestId(id), Ok(Answer::Joined(list)));
        } else if let Standing::Rejoining(cause) = standing {
            self.room_event(name, RoomEvent::Reset(cause, list));
        }
        self.release(held);
    }

    fn reset(
        &mut self,
        now: Time,
        name: &RoomName,
        cause: ResetCause,
        positions: Positions,
        seq: PerLane<u64>,
        members: Vec<Member>,
    ) {
        let Some(room) = self.rooms.get(name) else { return };
        let standing = room.standing;
        let held = self.begin(now, name, positions, seq, members);
        let list = self.members(name).unwrap_or_default();
        // A membership whose `joined` was lost with an earlier connection: this is its answer.
        for id in self.take_joins(name) {
            self.answer(id, Ok(Answer::Joined(list.clone())));
        }
        if standing != Standing::Joining {
            self.room_event(name, RoomEvent::Reset(cause, list));
        }
        self.release(held);
    }

    /// A membership begins. Returns the entries that were kept for it.
    fn begin(
        &mut self,
        now: Time,
        name: &RoomName,
        positions: Positions,
        seq: PerLane<u64>,
        members: Vec<Member>,
    ) -> Vec<Message> {
        let Some(room) = self.rooms.get_mut(name) else { return Vec::new() };
        let attached = room.is_attached();
        let held = room.begin(positions, members);
        let (mut accepted, mut uncertain) = (Vec::new(), Vec::new());
        for lane in LogLane::ALL {
            let sends = &mut room.sends[lane];
            if attached {
                // What is under way on this connection is still answered.
                accepted.extend(sends.accept(seq[lane]));
            } else {
                let (had, unknown) = sends.start(seq[lane]);
                accepted.extend(had);
                uncertain.extend(unknown);
            }
        }
        let unknown = uncertain.into_iter().map(|id| Output::Sent(id, Err(SendError::Uncertain)));
        self.outputs.extend(unknown);
        self.report_accepted(&accepted, None);
        self.after_answers(now, name);
        held
    }

    fn release(&mut self, held: Vec<Message>) {
        for message in held {
            let Some(room) = self.rooms.get_mut(&message.room) else { continue };
            if room.admit(message.lane, message.epoch, message.offset) == Admission::Take {
                self.deliver(message);
            }
        }
    }

    /// Sends have been answered: others may go out, and a `leave` may have waited for that.
    pub(super) fn after_answers(&mut self, now: Time, name: &RoomName) {
        let Some(room) = self.rooms.get(name) else { return };
        if let Some(leave) = room.leaving.filter(|_| room.is_drained()) {
            self.requests.release(leave);
        }
        self.queue_sends(now, name);
    }

    /// Reports accepted sends; `last` is where the last of them is.
    fn report_accepted(&mut self, ids: &[SendId], last: Option<Position>) {
        for (index, id) in ids.iter().enumerate() {
            let position = last.filter(|_| index + 1 == ids.len());
            self.outputs.push_back(Output::Sent(*id, Ok(Receipt { position })));
        }
    }

    // --- Answers ----------------------------------------------------------------------------

    fn answered(&mut self, id: u64, answer: impl FnOnce(&mut Self, &Request) -> Answer) {
        let Some(request) = self.requests.remove(id) else { return };
        let answer = answer(self, &request);
        if request.asker == Asker::User {
            self.answer(RequestId(id), Ok(answer));
        }
    }

    fn ok(&mut self, id: u64) {
        self.answered(id, |session, request| {
            match &request.ask {
                Ask::Leave(room) => session.forget_room(room),
                Ask::Update(room, metadata) => {
                    let me = session.peer();
                    if let (Some(room), Some(me)) = (session.rooms.get_mut(room), me) {
                        room.metadata = Some(metadata.clone());
                        set_metadata(room, me, metadata);
                    }
                }
                _ => {}
            }
            Answer::Ok
        });
    }

    pub(super) fn error(&mut self, now: Time, error: Error) {
        let reference = &error.reference;
        if let Some(id) = reference.id {
            return self.request_error(now, id, error);
        }
        if let (Some(name), Some(lane), Some(seq)) =
            (reference.room.clone(), reference.lane, reference.seq)
        {
            let Some(room) = self.rooms.get_mut(&name) else { return };
            let refused = match room.sends[lane].refuse(now, seq, &error) {
                Verdict::Refused(id) => {
                    let Error { code, message, .. } = error;
                    Some((id, SendError::Refused { code, message }))
                }
                Verdict::Uncertain(id) => Some((id, SendError::Uncertain)),
                Verdict::Later | Verdict::Unknown => None,
            };
            self.outputs.extend(refused.map(|(id, why)| Output::Sent(id, Err(why))));
            return self.after_answers(now, &name);
        }
        let (room, code, message) = (error.reference.room, error.code, error.message);
        self.event(Event::Refused { room, code, message });
    }

    fn request_error(&mut self, now: Time, id: u64, error: Error) {
        if error.code.retry() == Retry::Later && self.requests.postpone(now, id, &error) {
            return;
        }
        let Some(Request { ask, asker, .. }) = self.requests.remove(id) else { return };
        let Error { code, message, .. } = error;
        match (&ask, asker) {
            (Ask::Join(name), _) => {
                if let Some(mut room) = self.rooms.remove(name) {
                    if let Some(leave) = room.leaving.take() {
                        self.requests.remove(leave.0);
                        self.answer(leave, Ok(Answer::Ok));
                    }
                    self.abandon(room);
                }
                if asker == Asker::Session {
                    let message = message.clone();
                    self.room_event(name, RoomEvent::Lost { code, message });
                }
            }
            (Ask::Leave(name), _) => {
                if let Some(room) = self.rooms.get_mut(name) {
                    room.leaving = None;
                }
            }
            _ => {}
        }
        if asker == Asker::User {
            self.answer(RequestId(id), Err(RequestError::Refused { code, message }));
        }
    }
}

/// Whether the gateway can only have said that because it heard something.
fn is_answer(message: &ServerMessage) -> bool {
    match message {
        ServerMessage::Welcome(_)
        | ServerMessage::Joined(_)
        | ServerMessage::Accepted(_)
        | ServerMessage::Members(_)
        | ServerMessage::Ok { .. }
        | ServerMessage::Pong { .. }
        | ServerMessage::Ice(_)
        | ServerMessage::Error(_) => true,
        ServerMessage::Message(_)
        | ServerMessage::Position(_)
        | ServerMessage::Ephemeral(_)
        | ServerMessage::MemberJoined(_)
        | ServerMessage::MemberUpdated(_)
        | ServerMessage::MemberLeft(_)
        | ServerMessage::MemberAway(_)
        | ServerMessage::MemberBack(_)
        | ServerMessage::Reset(_)
        | ServerMessage::Quality(_)
        | ServerMessage::Moved
        | ServerMessage::Expiring { .. }
        | ServerMessage::Draining { .. }
        | ServerMessage::Close(_) => false,
    }
}

fn positions(epoch: Epoch, signal: u64, bulk: u64) -> Positions {
    Positions { epoch, signal, bulk }
}

fn set_metadata(room: &mut Room, peer: PeerId, metadata: &Json) {
    if let Some(member) = room.member_mut(peer) {
        member.metadata = metadata.clone();
    }
}

fn set_away(room: &mut Room, peer: PeerId, away: bool) {
    if let Some(member) = room.member_mut(peer) {
        member.away = away;
    }
}
