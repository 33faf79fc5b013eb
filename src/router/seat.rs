//! A session's connection on this node, as rooms know it.

use std::sync::Arc;

use handover_protocol::wire::UserId;

use super::mailbox::Mailbox;
use crate::broker::Author;

/// One connection of one session, under one generation.
#[derive(Debug)]
pub struct Seat {
    /// On whose behalf it acts.
    pub author: Author,
    /// Who the session belongs to.
    pub user: Option<UserId>,
    /// Where rooms leave what they have for it.
    pub mailbox: Arc<Mailbox>,
}
