//! Which nodes there are, which have died, and which sessions are on this one.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use handover_protocol::time::Time;

use super::follow::bounded;
use super::{RedisBroker, session_keys};
use crate::broker::{Author, BEAT_EVERY, Unavailable};

/// The nodes there are, each with when it last said that it lives.
const NODES: &str = "handover:nodes";
/// A node that has said nothing for this long is dead.
const NODE_SILENCE_MAX: Duration = Duration::from_secs(3);
/// The dead are remembered until no room can have a member of theirs.
const NODES_KEPT: Duration = Duration::from_secs(86_400);
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
        let there = self.shift()?.to_there(now);
        let age = |age: Duration| there.saturating_sub(age.as_micros() as u64);
        let mut manager = self.manager.clone();
        let mut pipe = redis::pipe();
        pipe.zadd(NODES, &self.node, there).ignore();
        pipe.zrembyscore(NODES, "-inf", age(NODES_KEPT)).ignore();
        pipe.zrangebyscore(NODES, "-inf", age(NODE_SILENCE_MAX));
        let (mut dead,): (Vec<String>,) = bounded(pipe.query_async(&mut manager)).await?;
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
        let there = self.shift()?.to_there(self.clock.now());
        let silent = there.saturating_sub(2 * NODE_SILENCE_MAX.as_micros() as u64);
        let mut manager = self.manager.clone();
        let mut zadd = redis::cmd("ZADD");
        zadd.arg(NODES).arg(silent).arg(&self.node);
        bounded(zadd.query_async(&mut manager)).await
    }

    /// See [`Broker::keep`](crate::broker::Broker::keep).
    pub(super) async fn count_sessions(
        &self,
        sessions: Vec<Author>,
    ) -> Result<Vec<Author>, Unavailable> {
        let kept = i64::try_from(self.session_kept.as_millis()).unwrap_or(i64::MAX);
        let mut manager = self.manager.clone();
        let mut strangers = Vec::new();
        for some in sessions.chunks(1_000) {
            let mut pipe = redis::pipe();
            for author in some {
                let keys = session_keys(author.session);
                pipe.hget(&keys[0], "generation");
                for key in keys {
                    pipe.pexpire(key, kept).ignore();
                }
            }
            let had: Vec<Option<u64>> = bounded(pipe.query_async(&mut manager)).await?;
            let had = some.iter().zip(had);
            strangers.extend(had.filter(|(a, had)| *had != Some(a.generation)).map(|(a, _)| *a));
        }
        Ok(strangers)
    }
}
