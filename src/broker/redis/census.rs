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

/// What this node knows of the others.
#[derive(Default)]
pub(super) struct Census {
    /// The names of those that live, and since when that is known.
    living: Option<(Vec<String>, Time)>,
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

    /// The names of the nodes that live, and when that was so; nothing if it is not known now.
    pub(super) fn living(&self) -> Option<(String, Time)> {
        let (now, census) = (self.clock.now(), self.census());
        let (living, at) = census.living.as_ref()?;
        let is_known = now >= census.believed_from && now.since(*at) <= BEAT_EVERY * 2;
        is_known.then(|| (living.join(" "), *at))
    }

    /// See [`Broker::beat`](crate::broker::Broker::beat).
    pub(super) async fn count_in(&self) -> Result<bool, Unavailable> {
        let now = self.clock.now();
        let args = [self.node.clone(), NODE_SILENCE_MAX.as_micros().to_string()];
        let (keys, script) = ([NODES.to_owned()], &self.scripts.beat);
        let said = self.board.script(nodes_slot(), Held::ByOne, script, &keys, &args).await?;
        let read = <(String, u64, Vec<String>)>::from_redis_value(said);
        let (before, there, mut living) = read.map_err(|_| garbled("nodes"))?;
        living.sort_unstable();
        let mut census = self.census();
        census.beaten = Some(now);
        let before = before.parse::<u64>().ok();
        let gap = before.map(|before| Duration::from_micros(there.abs_diff(before)));
        if gap.is_none_or(|gap| gap > BEAT_EVERY * 2) {
            // While Redis answered nobody, nobody could say that it lives; nor could this node
            // if it stood still, or by a clock that was set.
            census.believed_from = now + NODE_SILENCE_MAX;
        }
        if now < census.believed_from {
            return Ok(false);
        }
        let earlier = census.living.replace((living, now));
        let (living, _) = census.living.as_ref().ok_or_else(|| garbled("nodes"))?;
        let (earlier, _) = earlier.unwrap_or_default();
        Ok(earlier.iter().any(|name| living.binary_search(name).is_err()))
    }

    /// See [`Broker::part`](crate::broker::Broker::part).
    pub(super) async fn count_out(&self) -> Result<(), Unavailable> {
        let parted = self.board.ask(nodes_slot(), Held::ByOne, |calls, _| {
            calls.zrem(NODES, &self.node);
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
