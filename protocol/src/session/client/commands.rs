//! What a client's user asks for.

use super::requests::{Ask, Asker};
use super::room::{Room, Standing};
use super::sends::Sends;
use super::{ClientSession, CommandError, Output, RequestId, SendError, SendId};
use crate::limits::EPHEMERAL_HELD_MAX;
use crate::time::Time;
use crate::wire::message::{ClientMessage, Member};
use crate::wire::{Json, LogLane, PeerId, RoomName, Secret};

/// What a `send` takes beside its body and the room's name, in the longer codec: field
/// names, punctuation, the largest numbers and a peer id.
const SEND_OVERHEAD: usize = 160;

impl ClientSession {
    /// Joins a room. Positions, re-joining and resuming are taken care of from then on, until
    /// [`ClientSession::leave`] or [`super::RoomEvent::Lost`].
    pub fn join(
        &mut self,
        room: RoomName,
        metadata: Option<Json>,
    ) -> Result<RequestId, CommandError> {
        self.check_metadata(metadata.as_ref())?;
        self.check_request()?;
        if self.rooms.contains_key(&room) {
            return Err(CommandError::AlreadyInRoom);
        }
        self.rooms.insert(room.clone(), Room::joining(metadata));
        Ok(self.requests.push(Ask::Join(room), Asker::User))
    }

    /// Leaves a room once everything sent to it has been answered. Nothing more can be sent
    /// to it meanwhile.
    pub fn leave(&mut self, room: &RoomName) -> Result<RequestId, CommandError> {
        // However many requests wait: there is one such for each room, and a membership that nobody
        // wants any more must not stay for want of it.
        self.check_open()?;
        let state = self.rooms.get_mut(room).filter(|room| room.leaving.is_none());
        let state = state.ok_or(CommandError::NotInRoom)?;
        let id = self.requests.withhold(Ask::Leave(room.clone()), Asker::User);
        state.leaving = Some(id);
        if state.is_drained() {
            self.requests.release(id);
        }
        Ok(id)
    }

    /// Puts a message into the room's log, for everybody else or for one member.
    pub fn send(
        &mut self,
        now: Time,
        room: &RoomName,
        lane: LogLane,
        to: Option<PeerId>,
        body: Json,
    ) -> Result<SendId, CommandError> {
        self.check_open()?;
        let message_bytes = usize::try_from(self.limits.message_bytes).unwrap_or(usize::MAX);
        // A room's name may need escaping, which at most doubles it.
        if body.len() + 2 * room.as_str().len() + SEND_OVERHEAD > message_bytes {
            return Err(CommandError::TooLarge);
        }
        let outbox_bytes = self.config.outbox_bytes;
        let state = self.rooms.get_mut(room).filter(|room| room.leaving.is_none());
        let state = state.ok_or(CommandError::NotInRoom)?;
        let sends = &mut state.sends[lane];
        if sends.bytes() + Sends::cost(&body) > outbox_bytes {
            return Err(CommandError::OutboxFull);
        }
        self.last_send += 1;
        let id = SendId(self.last_send);
        sends.push(id, to, body);
        self.queue_sends(now, room);
        Ok(id)
    }

    /// Passes something on to whoever is there now. Dropped if nobody can be reached.
    pub fn ephemeral(
        &mut self,
        room: &RoomName,
        to: Option<PeerId>,
        body: Json,
    ) -> Result<(), CommandError> {
        self.check_open()?;
        if body.len() as u64 > self.limits.ephemeral_bytes {
            return Err(CommandError::TooLarge);
        }
        let state = self.rooms.get(room).filter(|room| room.leaving.is_none());
        let state = state.ok_or(CommandError::NotInRoom)?;
        let live = self.active.as_ref().is_some_and(|link| link.welcomed && !link.doubted);
        if live && state.standing == Standing::Member {
            if self.ephemeral.len() >= EPHEMERAL_HELD_MAX {
                self.ephemeral.pop_front();
            }
            self.ephemeral.push_back(ClientMessage::Ephemeral { room: room.clone(), to, body });
        }
        Ok(())
    }

    /// Replaces one's metadata in a room.
    pub fn update(&mut self, room: &RoomName, metadata: Json) -> Result<RequestId, CommandError> {
        self.check_metadata(Some(&metadata))?;
        self.check_request()?;
        self.check_in(room)?;
        Ok(self.requests.push(Ask::Update(room.clone(), metadata), Asker::User))
    }

    /// Asks the gateway who is in a room; [`ClientSession::members`] knows without asking.
    pub fn fetch_members(&mut self, room: &RoomName) -> Result<RequestId, CommandError> {
        self.check_request()?;
        self.check_in(room)?;
        Ok(self.requests.push(Ask::Members(room.clone()), Asker::User))
    }

    /// Who is in a room, oneself included, in the order they joined.
    pub fn members(&self, room: &RoomName) -> Option<Vec<Member>> {
        self.rooms.get(room).map(Room::members)
    }

    /// Asks for ICE servers.
    pub fn ice(&mut self) -> Result<RequestId, CommandError> {
        self.check_request()?;
        Ok(self.requests.push(Ask::Ice, Asker::User))
    }

    /// The token for every greeting from now on.
    pub fn set_token(&mut self, token: Secret) {
        self.config.token = Some(token);
    }

    /// Brings a newer token. It is also used for every greeting from now on.
    pub fn refresh(&mut self, token: Secret) -> Result<RequestId, CommandError> {
        self.check_request()?;
        self.config.token = Some(token.clone());
        Ok(self.requests.push(Ask::Refresh(token), Asker::User))
    }

    /// Asks for a sign of life on the present connection.
    pub fn ping(&mut self) -> Result<RequestId, CommandError> {
        self.check_request()?;
        if !self.active.as_ref().is_some_and(|link| link.welcomed) {
            return Err(CommandError::NotConnected);
        }
        Ok(self.requests.push(Ask::Ping, Asker::User))
    }

    /// Ends the session: `bye` goes out once everything sent has been answered, and the
    /// session is over when the gateway has closed the connection, at the latest at
    /// `deadline`. [`super::Event::Ended`] says when.
    pub fn bye(&mut self, deadline: Time) {
        if self.ended {
            return;
        }
        self.closing.get_or_insert(deadline);
        if self.credentials.is_none() && self.active.is_none() {
            // The gateway has never heard of us.
            self.end(super::Ended::Bye);
        }
    }

    fn check_open(&self) -> Result<(), CommandError> {
        if self.ended || self.closing.is_some() { Err(CommandError::Ended) } else { Ok(()) }
    }

    fn check_request(&self) -> Result<(), CommandError> {
        self.check_open()?;
        if self.requests.len() >= self.config.requests {
            return Err(CommandError::TooManyRequests);
        }
        Ok(())
    }

    fn check_in(&self, room: &RoomName) -> Result<(), CommandError> {
        match self.rooms.get(room) {
            Some(room) if room.leaving.is_none() => Ok(()),
            _ => Err(CommandError::NotInRoom),
        }
    }

    fn check_metadata(&self, metadata: Option<&Json>) -> Result<(), CommandError> {
        let Some(metadata) = metadata else { return Ok(()) };
        if !metadata.is_object() {
            return Err(CommandError::NotAnObject);
        }
        if metadata.len() as u64 > self.limits.metadata_bytes {
            return Err(CommandError::TooLarge);
        }
        Ok(())
    }

    /// Ends every send of a room that is given up.
    pub(super) fn abandon(&mut self, mut room: Room) {
        for lane in LogLane::ALL {
            for (id, uncertain) in room.sends[lane].abandon() {
                let why = if uncertain { SendError::Uncertain } else { SendError::NotSent };
                self.outputs.push_back(Output::Sent(id, Err(why)));
            }
        }
    }
}
