//! Which nodes there are, which have died, and which sessions are on this one.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use handover_protocol::time::Time;
use redis::FromRedisValue;

use super::RedisBroker;
use super::board::Held;
use super::keys::{NODES, nodes_slot, session_keys};
use super::sessions::AT_ONCE;
use super::stored::garbled;
use crate::broker::{Author, BEAT_EVERY, Unavailable};

/// A node that has said nothing for this long is dead.
const NODE_SILENCE_MAX: Duration = Duration::from_secs(3);
/// The dead are remembered until no room can have a member of theirs: see `ROOM_KEPT`.
const NODES_KEPT: Duration = Duration::from_secs(86_400 + 3_600);

/// What this node knows of the others.
#[derive(Default)]
pub(super) struct Census {
    /// The names of the dead.
    pub(super) dead: String,
    /// When this node last said that it lives.
    beaten: Option<Time>,
    /// Nobody is taken for dead before this.
    believed_from: Time,
}

impl RedisBroker {
    /// Before it has any member, a node can be found missing.
    pub(super) async fn enlist(&self) -> Result<(), Unavailable> {
        let is_known = self.census().beaten.is_some();
        if is_known { Ok(()) } else { self.count_in().await.map(drop) }
    }

    pub(super) fn census(&self) -> MutexGuard<'_, Census> {
        self.census.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Broker::beat`](crate::broker::Broker::beat).
    pub(super) async fn count_in(&self) -> Result<bool, Unavailable> {
        let now = self.clock.now();
        let there = self.board.shard(nodes_slot())?.shift().to_there(now);
        let age = |age: Duration| there.saturating_sub(age.as_micros() as u64);
        let counted = self.board.ask(nodes_slot(), Held::ByOne, |calls, _| {
            calls.zadd(NODES, &self.node, there);
            calls.zrembyscore(NODES, "-inf", age(NODES_KEPT));
            calls.zrangebyscore(NODES, "-inf", age(NODE_SILENCE_MAX));
        });
        let dead = counted.await?.pop().ok_or_else(|| garbled("no nodes"))?;
        let mut dead = Vec::<String>::from_redis_value(dead).map_err(|_| garbled("nodes"))?;
        dead.sort_unstable();
        let dead = dead.join(" ");
        let mut census = self.census();
        let before = census.beaten.replace(now);
        if before.is_none_or(|before| now.since(before) > BEAT_EVERY * 2) {
            // While Redis answered nobody, nobody could say that it lives.
            census.believed_from = now + NODE_SILENCE_MAX;
        }
        if now < census.believed_from || dead == census.dead {
            return Ok(false);
        }
        census.dead = dead;
        Ok(true)
    }

    /// See [`Broker::part`](crate::broker::Broker::part).
    pub(super) async fn count_out(&self) -> Result<(), Unavailable> {
        let there = self.board.shard(nodes_slot())?.shift().to_there(self.clock.now());
        let silent = there.saturating_sub(2 * NODE_SILENCE_MAX.as_micros() as u64);
        let parted = self.board.ask(nodes_slot(), Held::ByOne, |calls, _| {
            calls.zadd(NODES, &self.node, silent);
        });
        parted.await.map(drop)
    }

    /// See [`Broker::keep`](crate::broker::Broker::keep).
    pub(super) async fn count_sessions(
        &self,
        sessions: Vec<Author>,
    ) -> Result<Vec<Author>, Unavailable> {
        let kept_ms = i64::try_from(self.session_kept.as_millis()).unwrap_or(i64::MAX);
        let kept = sessions.into_iter().map(async |author: Author| {
            let (keys, slot) = session_keys(author.session);
            let keep = self.board.ask(slot, Held::ByOne, |calls, _| {
                calls.hget(&keys[0], "generation");
                for key in &keys {
                    calls.pexpire(key, kept_ms);
                }
            });
            let had = keep.await?.into_iter().next().ok_or_else(|| garbled("no session"))?;
            let had = Option::<u64>::from_redis_value(had).map_err(|_| garbled("a session"))?;
            Ok((had != Some(author.generation)).then_some(author))
        });
        let strangers = stream::iter(kept).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>();
        Ok(strangers.await?.into_iter().flatten().collect())
    }
}
