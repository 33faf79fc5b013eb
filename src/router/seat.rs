//! A session's connection on this node, as rooms know it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use handover_protocol::session::grant::Admission;
use handover_protocol::wire::UserId;

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
    pub kept: Option<Kept>,
    /// A newer connection speaks for the session, on another node.
    replaced: AtomicBool,
}

/// See [`Seat::kept`].
#[derive(Debug)]
pub struct Kept {
    secret_hash: SecretHash,
    /// Held for a copy at a time.
    admission: Mutex<Admission>,
}

impl Kept {
    /// What a record says.
    pub fn new(secret_hash: SecretHash, admission: Admission) -> Self {
        Kept { secret_hash, admission: Mutex::new(admission) }
    }

    /// The session goes on under this.
    pub fn readmit(&self, admission: Admission) {
        *self.admission.lock().unwrap_or_else(PoisonError::into_inner) = admission;
    }
}

impl Seat {
    /// A connection that speaks for its session.
    pub fn new(
        author: Author,
        user: Option<UserId>,
        mailbox: Arc<Mailbox>,
        kept: Option<Kept>,
    ) -> Self {
        Seat { author, user, mailbox, kept, replaced: AtomicBool::new(false) }
    }

    /// The session's record, as far as it is known here.
    pub fn record(&self) -> Option<SessionRecord> {
        let Kept { secret_hash, admission } = self.kept.as_ref()?;
        let Author { session, peer, generation } = self.author;
        let admission = admission.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (secret_hash, rooms) = (*secret_hash, Vec::new());
        Some(SessionRecord { session, peer, admission, secret_hash, generation, rooms })
    }

    /// A newer connection speaks for the session, on another node.
    pub fn replace(&self) {
        self.replaced.store(true, Ordering::Release);
        self.mailbox.notify(Notice::Replaced);
    }

    /// Whether [`Seat::replace`] was called.
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }
}
