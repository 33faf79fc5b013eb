//! What goes out next.

use std::collections::BTreeMap;

use super::requests::Ask;
use super::room::Room;
use super::{ClientSession, Credentials, LinkId, RequestId};
use crate::time::Time;
use crate::wire::message::{ClientMessage, Hello, Resume, Send, VERSION};
use crate::wire::{Lane, LogLane, RoomName};

impl ClientSession {
    /// The next message for a lane of a connection, when the transport can take one. Whoever
    /// has one stream for all lanes asks for the most urgent first.
    pub fn poll_transmit(&mut self, now: Time, id: LinkId, lane: Lane) -> Option<ClientMessage> {
        let active = self.active.as_ref().is_some_and(|link| link.id == id);
        let link = self.link_mut(id)?;
        let (welcomed, takes_requests) = (link.welcomed, link.takes_requests());
        match lane {
            Lane::Signal => {
                if std::mem::take(&mut link.hello_due) {
                    return Some(ClientMessage::Hello(self.greet(id)));
                }
                if active
                    && takes_requests
                    && let Some(request) = self.next_request()
                {
                    return Some(request);
                }
                if !active || !welcomed {
                    return None;
                }
                self.next_send(now, LogLane::Signal).or_else(|| self.next_bye())
            }
            Lane::Bulk => {
                if std::mem::take(&mut link.announce_bulk) {
                    return Some(ClientMessage::Lane { lane: LogLane::Bulk });
                }
                if !active || !welcomed {
                    return None;
                }
                self.next_send(now, LogLane::Bulk)
            }
            Lane::Ephemeral if active && welcomed => self.ephemeral.pop_front(),
            Lane::Ephemeral => None,
        }
    }

    /// The greeting of a connection, with the positions as they are now.
    fn greet(&mut self, id: LinkId) -> Hello {
        let mut hello = Hello {
            version: VERSION,
            token: self.config.token.clone(),
            agent: self.config.agent.clone(),
            resume: None,
        };
        let mut resuming = None;
        if let Some(Credentials { session, secret, .. }) = self.credentials.clone() {
            let had = |(name, room): (&RoomName, &Room)| Some((name.clone(), room.positions?));
            let rooms: BTreeMap<_, _> = self.rooms.iter().filter_map(had).collect();
            resuming = Some(rooms.keys().cloned().collect());
            hello.resume = Some(Resume { session, secret, rooms });
        }
        if let Some(active) = self.active.as_mut().filter(|link| link.id != id) {
            active.contested = true;
        }
        let made = self.requests.last();
        if let Some(link) = self.link_mut(id) {
            (link.resuming, link.greeted_behind) = (resuming, made);
        }
        hello
    }

    fn next_request(&mut self) -> Option<ClientMessage> {
        let (RequestId(id), ask) = self.requests.transmit()?;
        let message = match ask.clone() {
            Ask::Join(room) => {
                let metadata = self.rooms.get(&room).and_then(|room| room.metadata.clone());
                ClientMessage::Join { id, room, metadata }
            }
            Ask::Leave(room) => ClientMessage::Leave { id, room },
            Ask::Update(room, metadata) => ClientMessage::Update { id, room, metadata },
            Ask::Members(room) => ClientMessage::Members { id, room },
            Ask::Ice => ClientMessage::Ice { id },
            Ask::Refresh(token) => ClientMessage::Refresh { id, token },
            Ask::Ping => ClientMessage::Ping { id },
        };
        Some(message)
    }

    /// The next send of the room whose turn it is.
    fn next_send(&mut self, now: Time, lane: LogLane) -> Option<ClientMessage> {
        while let Some(name) = self.ready[lane].pop_front() {
            let Some(room) = self.rooms.get_mut(&name) else { continue };
            room.queued[lane] = false;
            if !room.is_attached() {
                continue;
            }
            let Some((seq, to, body)) = room.sends[lane].transmit(now) else { continue };
            if room.sends[lane].is_ready(now) {
                room.queued[lane] = true;
                self.ready[lane].push_back(name.clone());
            }
            return Some(ClientMessage::Send(Send { room: name, lane, seq, to, body }));
        }
        None
    }

    fn next_bye(&mut self) -> Option<ClientMessage> {
        let drained = self.rooms.values().all(Room::is_drained);
        if self.closing.is_none() || self.bye_sent || !drained {
            return None;
        }
        self.bye_sent = true;
        Some(ClientMessage::Bye)
    }

    /// Puts a room into the queues of those with something to send, where it has.
    pub(super) fn queue_sends(&mut self, now: Time, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        for lane in LogLane::ALL {
            let ready = room.is_attached() && room.sends[lane].is_ready(now);
            if ready && !std::mem::replace(&mut room.queued[lane], true) {
                self.ready[lane].push_back(name.clone());
            }
        }
    }
}
