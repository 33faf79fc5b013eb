//! A session's connection on this node, as rooms know it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use handover_protocol::session::grant::Admission;
use handover_protocol::wire::{RoomName, UserId};

use super::mailbox::{Mailbox, Notice};
use crate::broker::{Author, SecretHash, SessionRecord};

/// One connection of one session, under one generation.
#[derive(Debug)]
pub struct Seat {
    /// On whose behalf it acts.
    pub author: Author,
    /// Who the session belongs to.
    pub user: Option<UserId>,
    /// Where rooms leave what they have for it.
    pub mailbox: Arc<Mailbox>,
    /// What its session's record says, where a store that nodes share may lose it.
    pub kept: Option<Arc<Kept>>,
}

/// See [`Seat::kept`].
#[derive(Debug)]
pub struct Kept {
    secret_hash: SecretHash,
    /// Held for a copy, or for one change, at a time.
    changing: Mutex<Changing>,
}

#[derive(Clone, Debug)]
struct Changing {
    admission: Admission,
    rooms: BTreeSet<RoomName>,
}

impl Kept {
    /// What a record says.
    pub fn new(record: &SessionRecord) -> Self {
        let admission = record.admission.clone();
        let rooms = record.rooms.iter().cloned().collect();
        let changing = Mutex::new(Changing { admission, rooms });
        Kept { secret_hash: record.secret_hash, changing }
    }

    /// The session goes on under this.
    pub fn readmit(&self, admission: Admission) {
        self.changing().admission = admission;
    }

    /// The record of the session for which `author` speaks.
    pub fn record(&self, author: Author) -> SessionRecord {
        let Author { session, peer, generation } = author;
        let Changing { admission, rooms } = self.changing().clone();
        let (secret_hash, rooms) = (self.secret_hash, rooms.into_iter().collect());
        SessionRecord { session, peer, admission, secret_hash, generation, rooms }
    }

    fn changing(&self) -> MutexGuard<'_, Changing> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// A connection that speaks for its session.
    pub fn new(
        author: Author,
        user: Option<UserId>,
        mailbox: Arc<Mailbox>,
        kept: Option<Arc<Kept>>,
    ) -> Self {
        Seat { author, user, mailbox, kept }
    }

    /// The session is in this room.
    pub fn enter(&self, room: &RoomName) {
        if let Some(kept) = &self.kept {
            kept.changing().rooms.insert(room.clone());
        }
    }

    /// The session is not in this room any more.
    pub fn exit(&self, room: &RoomName) {
        if let Some(kept) = &self.kept {
            kept.changing().rooms.remove(room);
        }
    }

    /// A newer connection speaks for the session, on another node.
    pub fn replace(&self) {
        self.mailbox.notify(Notice::Replaced);
    }
}
