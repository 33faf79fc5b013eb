//! Finds the Redis to write to: by asking sentinels, or the nodes of a cluster, again and again.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt, OptionFuture, join_all};
use futures_util::stream::FuturesUnordered;
use handover_protocol::time::Time;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, Value};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::address::{Address, Place, Way};
use super::board::{Board, Map, Shard};
use super::follow::Subscription;
use super::keys::SLOTS;
use super::rooms::Rooms;
use crate::clock::Clock;

/// Who has which slots is asked this often, and when there is reason to doubt it.
const LOOK_EVERY: Duration = Duration::from_millis(1_000);
/// Whoever is asked has this long to answer.
const LOOK_PATIENCE: Duration = Duration::from_millis(500);

/// Slots, first and last, and where they are.
type Ranges = Vec<(u16, u16, Place)>;

/// Connections to those who are asked, kept.
type Told = HashMap<Place, MultiplexedConnection>;

/// The connections, and what was said most recently, with its epoch.
type Found = (Told, Option<(u64, Ranges)>);

/// Older news of who has which slots are believed when there were no others for this long:
/// sentinels can be set up anew.
const OLDER_FOR: Duration = Duration::from_secs(30);

/// How new what is believed is.
#[derive(Default)]
struct Believed {
    epoch: u64,
    /// Since when nothing but older news came.
    older_since: Option<Time>,
}

impl Believed {
    /// Whether news of this epoch are to be believed.
    fn takes(&mut self, now: Time, epoch: u64) -> bool {
        if epoch < self.epoch {
            let since = *self.older_since.get_or_insert(now);
            if now.since(since) < OLDER_FOR {
                return false;
            }
        }
        *self = Believed { epoch, older_since: None };
        true
    }
}

/// Keeps the map, and a subscription to every shard.
#[derive(Clone)]
pub struct Keeper {
    pub(super) address: Address,
    pub(super) board: Arc<Board>,
    pub(super) rooms: Arc<Rooms>,
    pub(super) clock: Clock,
    pub(super) node: String,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Runs until `stopping`. Where a fault has ended it, it can be run again: until then there is
    /// no Redis to be asked, and rooms that are followed read what they missed once there is.
    pub async fn run(self, stopping: CancellationToken) {
        let mut ends_badly = Fault(Some(self.board.clone()));
        tokio::select! {
            () = stopping.cancelled() => {}
            () = self.keep() => {}
        }
        // Those who end with the gateway have last words.
        ends_badly.0 = None;
    }

    async fn keep(self) {
        let address = Arc::new(self.address.clone());
        let mut subscriptions: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        let mut told = Told::new();
        let mut look: Option<BoxFuture<'static, Found>> = None;
        let mut believed = Believed::default();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        let mut is_lost = false;
        if let (Way::Direct, Some(place)) = (&address.way, address.seeds.first()) {
            self.learn(vec![(0, SLOTS - 1, place.clone())], &mut subscriptions);
        }
        loop {
            tokio::select! {
                Some(()) = subscriptions.next(), if !subscriptions.is_empty() => {}
                Some((kept, found)) = OptionFuture::from(look.as_mut()) => {
                    look = None;
                    told = kept;
                    if found.is_none() && !is_lost {
                        tracing::warn!("nobody says which redis to write to; asking on");
                    }
                    is_lost = found.is_none();
                    // Those who say so may be parted from who knows better.
                    if let Some((_, ranges)) = found.filter(|(epoch, _)| believed.takes(self.clock.now(), *epoch)) {
                        self.learn(ranges, &mut subscriptions);
                    }
                }
                () = async {
                    tokio::select! {
                        _ = tick.tick() => {}
                        () = self.board.outdated.notified() => {}
                    }
                }, if look.is_none() && address.way != Way::Direct => {
                    let map = self.board.map.borrow().clone();
                    let places = map.shards().map(|shard| shard.place.clone());
                    let known = places.collect::<Vec<_>>();
                    look = Some(find(address.clone(), known, std::mem::take(&mut told)).boxed());
                }
            }
        }
    }

    fn learn(&self, ranges: Ranges, subscriptions: &mut FuturesUnordered<BoxFuture<'static, ()>>) {
        let old = self.board.map.borrow().clone();
        let mut shards: HashMap<Place, Arc<Shard>> =
            old.shards().map(|shard| (shard.place.clone(), shard.clone())).collect();
        let mut begun = Vec::new();
        let ranges = ranges.into_iter().map(|(first, last, place)| {
            let shard = shards.entry(place).or_insert_with_key(|place| {
                let (shard, asked) = Shard::new(place.clone());
                begun.push((shard.clone(), asked));
                shard
            });
            (first, last, shard.clone())
        });
        let map = Map::of(ranges.collect());
        if map.is_like(&old) {
            return;
        }
        self.board.map.send_replace(Arc::new(map));
        self.board.settle();
        for (shard, asked) in begun {
            tracing::info!(place = %shard.place, "a redis to write to");
            match self.address.client(&shard.place) {
                Ok(client) => {
                    let subscription = Subscription {
                        client,
                        sharded: self.address.way == Way::Cluster,
                        board: self.board.clone(),
                        shard,
                        rooms: self.rooms.clone(),
                        clock: self.clock,
                        node: self.node.clone(),
                        asked,
                    };
                    subscriptions.push(subscription.run().boxed());
                }
                Err(error) => tracing::warn!(%error, place = %shard.place, "cannot be used"),
            }
        }
    }
}

/// Nobody keeps the connections any more, unless it is taken out.
struct Fault(Option<Arc<Board>>);

impl Drop for Fault {
    fn drop(&mut self) {
        if let Some(board) = &self.0 {
            board.clear();
        }
    }
}

/// What most recently was agreed on, of all who answer in time.
async fn find(address: Arc<Address>, known: Vec<Place>, mut told: Told) -> Found {
    let mut places = address.seeds.clone();
    if address.way == Way::Cluster {
        places.extend(known.into_iter().filter(|place| !address.seeds.contains(place)));
        places.dedup();
    }
    let asked = places.into_iter().map(|place| {
        let (address, line) = (&address, told.remove(&place));
        async move {
            let answer = timeout(LOOK_PATIENCE, ask(address, &place, line)).await;
            answer.ok().flatten().map(|(line, epoch, ranges)| (place, line, epoch, ranges))
        }
    });
    let answers = join_all(asked).await;
    let mut newest: Option<(u64, Ranges)> = None;
    for (place, line, epoch, ranges) in answers.into_iter().flatten() {
        told.insert(place, line);
        if newest.as_ref().is_none_or(|(newest, _)| epoch > *newest) && !ranges.is_empty() {
            newest = Some((epoch, ranges));
        }
    }
    (told, newest)
}

/// What one of them says, and under which epoch of their own.
async fn ask(
    address: &Address,
    place: &Place,
    line: Option<MultiplexedConnection>,
) -> Option<(MultiplexedConnection, u64, Ranges)> {
    let is_sentinel = matches!(address.way, Way::Sentinel(_));
    let mut line = match line {
        Some(line) => line,
        None => {
            let client = if is_sentinel { address.sentinel(place) } else { address.client(place) };
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(LOOK_PATIENCE))
                .set_response_timeout(Some(LOOK_PATIENCE));
            let opened = client.ok()?.get_multiplexed_async_connection_with_config(&config).await;
            opened.inspect_err(|error| tracing::debug!(%place, %error, "no answer")).ok()?
        }
    };
    let (epoch, ranges) = match &address.way {
        Way::Sentinel(name) => {
            // While it leads a failover it tells the new epoch with the old address in the first
            // answer, and the new one in the second.
            let mut both = redis::pipe();
            both.cmd("SENTINEL").arg("MASTER").arg(name);
            both.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name);
            let (said, (host, port)): (HashMap<String, String>, (String, u16)) =
                both.query_async(&mut line).await.ok()?;
            let epoch = said.get("config-epoch")?.parse().ok()?;
            (epoch, vec![(0, SLOTS - 1, Place::Tcp(host, port))])
        }
        Way::Cluster => {
            let mut both = redis::pipe();
            both.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
            let (info, slots): (String, Value) = both.query_async(&mut line).await.ok()?;
            let field = |name: &str| {
                info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            };
            let epoch = field("cluster_current_epoch")?.trim().parse().ok()?;
            // A node that the others have given up knows only what was.
            let is_current = field("cluster_state")?.trim() == "ok";
            (if is_current { epoch } else { 0 }, slot_ranges(place, slots)?)
        }
        Way::Direct => return None,
    };
    Some((line, epoch, ranges))
}

/// What CLUSTER SLOTS says: first, last, the master (host, port, ...), the replicas.
fn slot_ranges(asked: &Place, slots: Value) -> Option<Ranges> {
    let Value::Array(ranges) = slots else { return None };
    let range = |range| {
        let Value::Array(parts) = range else { return None };
        let mut parts = parts.into_iter();
        let first = u16::from_redis_value(parts.next()?).ok()?;
        let last = u16::from_redis_value(parts.next()?).ok()?;
        let Value::Array(master) = parts.next()? else { return None };
        let mut master = master.into_iter();
        let host = Option::<String>::from_redis_value(master.next()?).ok()?;
        let port = u16::from_redis_value(master.next()?).ok()?;
        // A node that does not know its own address: it is where we asked.
        let host = match (host.filter(|host| !host.is_empty() && host != "?"), asked) {
            (Some(host), _) => host,
            (None, Place::Tcp(host, _)) => host.clone(),
            (None, Place::Unix(_)) => return None,
        };
        Some((first, last, Place::Tcp(host, port)))
    };
    ranges.into_iter().map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_is_not_believed_for_a_while() {
        let mut believed = Believed::default();
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        assert!(believed.takes(at(0), 3) && believed.takes(at(1), 3));
        assert!(!believed.takes(at(2), 2), "a part that knows no better");
        assert!(believed.takes(at(3), 4));
        assert!(!believed.takes(at(100), 1) && !believed.takes(at(129), 1));
        assert!(believed.takes(at(130), 1) && believed.takes(at(131), 1));
    }
}
