//! What the handles ask for.

use handover_protocol::session::client::{CommandError, RequestId};

use super::{About, Driver};
use crate::command::{AnswerTo, Command};
use crate::error::Error;

impl Driver {
    pub(super) fn obey(&mut self, command: Command) {
        let now = self.clock.now();
        match command {
            Command::Join { room, metadata, events, reply } => {
                let joined = self.session.join(room.clone(), metadata);
                if joined.is_ok() {
                    self.rooms.insert(room.clone(), events);
                }
                self.await_answer(joined, reply, About::Joining(room));
            }
            Command::Leave { room, reply } => {
                let left = self.session.leave(&room);
                self.await_answer(left, reply, About::Leaving(room));
            }
            Command::Abandon { room } => self.abandon(&room),
            Command::Send { room, lane, to, body, reply } => {
                match self.session.send(now, &room, lane, to, body) {
                    Ok(id) => drop(self.receipts.insert(id, reply)),
                    // Whoever asked may have stopped waiting, here and below.
                    Err(error) => drop(reply.send(Err(error.into()))),
                }
            }
            Command::Ephemeral { room, to, body, reply } => {
                let _ = reply.send(self.session.ephemeral(&room, to, body));
            }
            Command::Update { room, metadata, reply } => {
                let updated = self.session.update(&room, metadata);
                self.await_answer(updated, reply, About::Nothing);
            }
            Command::FetchMembers { room, reply } => {
                let asked = self.session.fetch_members(&room);
                self.await_answer(asked, reply, About::Nothing);
            }
            Command::Members { room, reply } => {
                let _ = reply.send(self.session.members(&room));
            }
            Command::Ice { reply } => {
                let asked = self.session.ice();
                self.await_answer(asked, reply, About::Nothing);
            }
            Command::Refresh { token, reply } => {
                let brought = self.session.refresh(token);
                self.await_answer(brought, reply, About::Nothing);
            }
            Command::Ping { reply } => {
                let pinged = self.session.ping();
                self.await_answer(pinged, reply, About::Nothing);
            }
            Command::Attention(attention) => self.session.set_attention(attention),
            Command::NetworkChanged => self.network_changed(now, None),
            Command::DropConnection => {
                self.dial_at_once(now);
                self.session.drop_links();
            }
            Command::Close => self.session.bye(now + self.close_timeout),
        }
    }

    fn await_answer(
        &mut self,
        asked: Result<RequestId, CommandError>,
        reply: AnswerTo,
        about: About,
    ) {
        match asked {
            Ok(id) => drop(self.answers.insert(id, (Some(reply), about))),
            Err(error) => drop(reply.send(Err(Error::from(error)))),
        }
    }

    /// Nobody holds the room any more: leaves it, whatever the answer.
    pub(super) fn abandon(&mut self, room: &handover_protocol::wire::RoomName) {
        let abandoned = self.rooms.get(room).is_some_and(|events| events.is_abandoned());
        if abandoned {
            self.rooms.remove(room);
            if let Ok(id) = self.session.leave(room) {
                self.answers.insert(id, (None, About::Nothing));
            }
        }
    }

    /// The same for rooms whose last handle found no place for its command.
    pub(super) fn abandon_unheld(&mut self) {
        let unheld = self.rooms.iter().filter(|(_, events)| events.is_abandoned());
        for room in unheld.map(|(room, _)| room.clone()).collect::<Vec<_>>() {
            self.abandon(&room);
        }
    }
}
