//! What comes of a greeting: a session that goes on, one that begins, or a refusal.

use std::time::Duration;

use super::requests::{Ask, Asker, Request};
use super::room::{Room, Standing};
use super::{
    Answer, ClientSession, Credentials, Ended, Event, GREETING_RETRY, LinkClose, LinkId, Output,
    RequestError, RequestId, ResetCause, SendError,
};
use crate::time::Time;
use crate::wire::error::Retry;
use crate::wire::message::{Error, Welcome};
use crate::wire::{ErrorCode, LogLane, RoomName};

impl ClientSession {
    pub(super) fn welcome(&mut self, now: Time, id: LinkId, welcome: Welcome) {
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
                    let uncertain = room.sends[lane].resume(resumed.seq[lane]).into_iter();
                    let told = uncertain.map(|id| Output::Sent(id, Err(SendError::Uncertain)));
                    self.outputs.extend(told);
                }
                self.after_answers(now, &name);
            }
        }
        self.requests.repeat();
    }

    /// `hello` was refused, or already a request right behind it.
    pub(super) fn greeting_error(&mut self, now: Time, id: LinkId, error: Error) {
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
    pub(super) fn forget_room(&mut self, name: &RoomName) {
        for id in self.take_joins(name) {
            self.answer(id, Err(RequestError::Interrupted));
        }
        if let Some(room) = self.rooms.remove(name) {
            self.abandon(room);
        }
    }

    /// Drops every `join` of the room that waits for an answer. Returns the user's.
    pub(super) fn take_joins(&mut self, name: &RoomName) -> Vec<RequestId> {
        let joins = |request: &Request| matches!(&request.ask, Ask::Join(room) if room == name);
        let joins = self.requests.remove_all(joins).into_iter();
        let users = joins.filter(|(_, request)| request.asker == Asker::User);
        users.map(|(id, _)| RequestId(id)).collect()
    }
}
