//! Which nodes there are, which have died, and which sessions are on this one.

use std::collections::{BTreeSet, HashSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use handover_protocol::time::Time;
use redis::FromRedisValue;

use super::board::Held;
use super::keys::{NODES, TERMS, nodes_slot, session_keys};
use super::sessions::AT_ONCE;
use super::stored::garbled;
use super::{Options, RedisBroker, millis};
use crate::broker::{Author, BEAT_AGAIN, BEAT_EVERY, BEAT_PATIENCE, Keeping, Unavailable};

/// A node that has said nothing for this long is dead.
const NODE_SILENCE_MAX: Duration = Duration::from_secs(3);

// One beat that gets lost is not the end: the next one is there in time, however late.
const _: () = {
    let again = BEAT_PATIENCE.as_millis() * 2 + BEAT_AGAIN.as_millis();
    assert!(again < NODE_SILENCE_MAX.as_millis());
};

/// What this node knows of the others.
#[derive(Default)]
pub(super) struct Census {
    /// The names of those that live, and since when that is known.
    living: Option<(Vec<String>, Time)>,
    /// When this node first asked.
    asked: Option<Time>,
    /// When this node last said that it lives.
    beaten: Option<Time>,
    /// Nobody is taken for dead before this.
    believed_from: Time,
    /// When Redis began to answer this node, the first time or the last time that it had not.
    met: Option<Time>,
    /// The same, if it is known that it had not answered for a while.
    back: Option<Time>,
}

/// What all nodes have to go by alike, as they tell each other.
pub(super) fn terms(options: &Options) -> String {
    let Options { limits, resume_window, replicas } = options;
    let mut terms = vec![
        format!("resume_window_ms={}", millis(*resume_window)),
        format!("broker_replicas={replicas}"),
        format!("limits.room_members={}", limits.members),
        format!("limits.room_metadata_bytes={}", limits.metadata_bytes),
    ];
    for (lane, keep) in [("signal", limits.retention.signal), ("bulk", limits.retention.bulk)] {
        terms.push(format!("retention.{lane}.entries={}", keep.entries));
        terms.push(format!("retention.{lane}.bytes={}", keep.bytes));
        terms.push(format!("retention.{lane}.age_ms={}", millis(keep.age)));
    }
    terms.join(" ")
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

    /// When Redis answered this node again, and since when it has answered it at all.
    pub(super) fn back(&self) -> [Option<Time>; 2] {
        let census = self.census();
        [census.back, census.met]
    }

    /// As if Redis had answered since then.
    #[cfg(test)]
    pub(crate) fn has_met(&self, at: Time) {
        self.census().met = Some(at);
    }

    /// See [`Broker::beat`](crate::broker::Broker::beat).
    pub(super) async fn count_in(&self) -> Result<bool, Unavailable> {
        let now = self.clock.now();
        let asked = *self.census().asked.get_or_insert(now);
        let silence = NODE_SILENCE_MAX.as_micros().to_string();
        let args = [self.node.clone(), silence, self.terms.clone()];
        let (keys, script) = ([NODES, TERMS].map(str::to_owned), &self.scripts.beat);
        let said = self.board.script(nodes_slot(), Held::ByOne, script, &keys, &args).await?;
        let read = <(String, u64, Vec<String>, Vec<String>)>::from_redis_value(said);
        let (before, there, mut living, terms) = read.map_err(|_| garbled("nodes"))?;
        living.sort_unstable();
        self.compare(terms);
        let mut census = self.census();
        let beaten = census.beaten.replace(now);
        if now.since(beaten.unwrap_or(asked)) > BEAT_EVERY * 2 {
            (census.back, census.met) = (Some(now), Some(now));
        }
        census.met.get_or_insert(now);
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

    /// Says so if others go by something else than this node does: once for each time that changes.
    fn compare(&self, terms: Vec<String>) {
        let others = terms.into_iter().filter(|terms| *terms != self.terms).collect::<Vec<_>>();
        let known: HashSet<&str> = self.terms.split(' ').collect();
        let differing = others.iter().flat_map(|terms| terms.split(' '));
        let differing: BTreeSet<&str> = differing.filter(|term| !known.contains(term)).collect();
        let is_news = self
            .at_odds
            .send_if_modified(|before| std::mem::replace(before, others.len()) != others.len());
        if is_news && !others.is_empty() {
            let differing = Vec::from_iter(differing).join(" ");
            tracing::warn!(
                nodes = others.len(),
                theirs = differing,
                ours = self.terms,
                "other gateways on this redis have other settings: they have to be the same"
            );
        }
    }

    /// See [`Broker::part`](crate::broker::Broker::part).
    pub(super) async fn count_out(&self) -> Result<(), Unavailable> {
        let parted = self.board.ask(nodes_slot(), Held::ByOne, |calls, _| {
            calls.zrem(NODES, &self.node).hdel(TERMS, &self.node);
        });
        parted.await.map(drop)
    }

    /// See [`Broker::keep`](crate::broker::Broker::keep).
    pub(super) async fn count_sessions(&self, sessions: Vec<Author>) -> Keeping {
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
        // Those on a master that does not answer keep nobody else's from being looked after.
        let kept = stream::iter(kept).buffer_unordered(AT_ONCE);
        let found =
            kept.fold(Keeping::default(), async |mut found, kept: Result<_, Unavailable>| {
                match kept {
                    Ok(stranger) => found.strangers.extend(stranger),
                    Err(failed) => found.failed = Some(failed),
                }
                found
            });
        found.await
    }
}
