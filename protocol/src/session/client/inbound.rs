//! What the gateway says.

use std::time::Duration;

use super::requests::{Ask, Asker, Request};
use super::room::{Admission, Room, Standing};
use super::sends::{Sends, Verdict};
use super::{
    Answer, ClientSession, Credentials, Ended, Event, GREETING_RETRY, LinkClose, LinkId, Output,
    Receipt, RequestError, RequestId, ResetCause, RoomEvent, SendError, SendId,
};
use crate::time::Time;
use crate::wire::error::Retry;
use crate::wire::message::{
    Accepted, Error, Member, Message, PositionMark, Positions, ServerMessage, Welcome,
};
use crate::wire::{Epoch, ErrorCode, Json, LogLane, PeerId, PerLane, Position, RoomName};

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

    fn handle_live(&mut self, now: Time, id: LinkId, message: ServerMessage) {
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

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    // --- Greeting ---------------------------------------------------------------------------

    fn welcome(&mut self, now: Time, id: LinkId, welcome: Welcome) {
        if self.next.as_ref().is_some_and(|link| link.id == id) {
            let older = std::mem::replace(&mut self.active, self.next.take());
            if let Some(older) = older {
                self.outputs.push_back(Output::Close(older.id, LinkClose::Replaced));
            }
            self.ephemeral.clear();
            self.interrupt_pings();
        }
        let Some(link) = &mut self.active else { return };
        link.welcomed = true;
        let listed = link.resuming.take();
        let greeted_behind = link.greeted_behind;
        let early = std::mem::take(&mut link.early);
        if !welcome.resumed && self.credentials.is_some() {
            self.lose_session();
        }
        self.credentials = Some(Credentials {
            session: welcome.session,
            secret: welcome.secret.clone(),
            peer: welcome.peer,
            user: welcome.user.clone(),
        });
        self.limits = welcome.limits;
        // The greeting has brought their token or a newer one; by now theirs may have ended.
        for (request, _) in self.requests.remove_refreshes(greeted_behind) {
            self.answer(RequestId(request), Ok(Answer::Ok));
        }
        self.heartbeat = (welcome.heartbeat > 0).then(|| Duration::from_millis(welcome.heartbeat));
        (self.not_before, self.redial_at) = (None, None);
        // Said on a connection that did not bring it there, or there would be no welcome.
        self.bye_sent = false;
        self.note_live(id, welcome.resumed);
        self.rooms.values_mut().for_each(Room::detach);
        if let Some(listed) = listed.filter(|_| welcome.resumed) {
            self.go_on(now, &listed, &welcome);
        }
        for message in early {
            self.handle_live(now, id, message);
        }
    }

    /// The session goes on: in rooms that the greeting listed from where they were, in others
    /// with the `reset` that comes for them, and of some it is no member any more.
    fn go_on(&mut self, now: Time, listed: &[RoomName], welcome: &Welcome) {
        let member = |(name, room): (&RoomName, &Room)| {
            (room.standing == Standing::Member).then(|| name.clone())
        };
        let names: Vec<RoomName> = self.rooms.iter().filter_map(member).collect();
        for name in names {
            let Some(resumed) = welcome.rooms.get(&name) else {
                self.lose_room(&name, ResetCause::Rejoined);
                continue;
            };
            if let Some(room) = self.rooms.get_mut(&name).filter(|_| listed.contains(&name)) {
                room.go_on();
                for lane in LogLane::ALL {
                    room.sends[lane].resume(resumed.seq[lane]);
                }
                self.queue_sends(now, &name);
            }
        }
        self.requests.repeat();
    }

    /// `hello` was refused, or already a request right behind it.
    fn greeting_error(&mut self, now: Time, id: LinkId, error: Error) {
        if error.reference.id.is_some() {
            return self.error(now, error);
        }
        let resuming = self.link(id).is_some_and(|link| link.resuming.is_some());
        let carried_by_another = self.next.as_ref().is_some_and(|link| link.id == id);
        let wait = error.retry_after.map_or(GREETING_RETRY, Duration::from_millis);
        match error.code {
            // It was faster on the other connection.
            ErrorCode::SessionUnknown if self.bye_sent => self.end(Ended::Bye),
            code if code.retry() == Retry::Later => {
                self.not_before = Some(now + wait);
                self.give_up(id, LinkClose::NotNow);
            }
            // A connection that carries the session is not given up for one that was refused.
            code if carried_by_another && code != ErrorCode::SessionUnknown => {
                if let Some(link) = &mut self.next {
                    // Nothing comes of the greeting any more.
                    link.resuming = None;
                }
                self.not_before = Some(now + wait);
                self.event(Event::Refused { room: None, code, message: error.message });
                self.give_up(id, LinkClose::Refused);
            }
            ErrorCode::SessionUnknown | ErrorCode::Forbidden if resuming => {
                if carried_by_another {
                    // The older connection's session is gone, whether it knows or not.
                    let older = std::mem::replace(&mut self.active, self.next.take());
                    if let Some(older) = older {
                        self.outputs.push_back(Output::Close(older.id, LinkClose::Replaced));
                    }
                    self.note_down();
                }
                self.lose_session();
                if let Some(link) = &mut self.active {
                    (link.hello_due, link.resuming) = (true, None);
                }
            }
            code => self.end(Ended::Refused { code, message: error.message }),
        }
    }

    /// The gateway does not know the session any more.
    fn lose_session(&mut self) {
        self.credentials = None;
        self.strays = 0;
        let names: Vec<RoomName> = self.rooms.keys().cloned().collect();
        for name in names {
            let Some(room) = self.rooms.get_mut(&name) else { continue };
            let lost = LogLane::ALL.map(|lane| room.sends[lane].disown()).concat();
            let joining = room.standing == Standing::Joining;
            for id in lost {
                self.outputs.push_back(Output::Sent(id, Err(SendError::Uncertain)));
            }
            if !joining {
                self.lose_room(&name, ResetCause::NewSession);
            }
        }
        self.requests.repeat();
    }

    /// The session is no member of the room any more: joins it again, unless it was leaving.
    fn lose_room(&mut self, name: &RoomName, cause: ResetCause) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        if let Some(leave) = room.leaving {
            self.requests.remove(leave.0);
            self.answer(leave, Ok(Answer::Ok));
            return self.forget_room(name);
        }
        let already = matches!(room.standing, Standing::Rejoining(_));
        room.fall_back(Standing::Rejoining(cause));
        if !already {
            self.requests.push(Ask::Join(name.clone()), Asker::Session);
        }
    }

    /// The room is left: nothing about it remains.
    fn forget_room(&mut self, name: &RoomName) {
        for id in self.take_joins(name) {
            self.answer(id, Err(RequestError::Interrupted));
        }
        if let Some(room) = self.rooms.remove(name) {
            self.abandon(room);
        }
    }

    /// Drops every `join` of the room that waits for an answer. Returns the user's.
    fn take_joins(&mut self, name: &RoomName) -> Vec<RequestId> {
        let joins = |request: &Request| matches!(&request.ask, Ask::Join(room) if room == name);
        let joins = self.requests.remove_all(joins).into_iter();
        let users = joins.filter(|(_, request)| request.asker == Asker::User);
        users.map(|(id, _)| RequestId(id)).collect()
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
    fn after_answers(&mut self, now: Time, name: &RoomName) {
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

    fn error(&mut self, now: Time, error: Error) {
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
