//! Finds the Redis to write to: by asking sentinels, or the nodes of a cluster, again and again.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
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
use super::{HEED, PATIENCE};
use crate::clock::Clock;

/// Who has which slots is asked this often, and when there is reason to doubt it.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Whoever is asked has this long to answer. Nobody else waits for that.
const LOOK_PATIENCE: Duration = Duration::from_millis(1_300);

// Those who know more than a new master have found it in time to say so: with half a second left to
// connect and to read in.
const _: () = assert!(LOOK_EVERY.as_millis() + 500 <= HEED.as_millis());

/// Slots, first and last, and where they are.
type Ranges = Vec<(u16, u16, Place)>;

/// One of those who are asked.
#[derive(Default)]
struct Told {
    /// The connection to it is kept.
    line: Option<MultiplexedConnection>,
    is_asked: bool,
    /// What it last said, with its epoch, unless it did not answer then.
    said: Option<(u64, Ranges)>,
}

/// What came of asking one of them.
type Answer = (Place, Option<(MultiplexedConnection, u64, Ranges)>);

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
        let mut told: HashMap<Place, Told> = HashMap::new();
        let mut asked: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
        let mut believed = Believed::default();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        let mut is_lost = false;
        if let (Way::Direct, Some(place)) = (&address.way, address.seeds.first()) {
            self.learn(vec![(0, SLOTS - 1, place.clone())], &mut subscriptions);
        }
        loop {
            tokio::select! {
                Some(()) = subscriptions.next(), if !subscriptions.is_empty() => {}
                Some((place, answer)) = asked.next(), if !asked.is_empty() => {
                    let (line, said) = match answer {
                        Some((line, epoch, ranges)) => (Some(line), Some((epoch, ranges))),
                        None => (None, None),
                    };
                    told.insert(place, Told { line, is_asked: false, said });
                    // Whoever is silent keeps nobody from hearing those who are not.
                    let newest = newest(&self.places(), &told);
                    if newest.is_none() && asked.is_empty() && !is_lost {
                        tracing::warn!("nobody says which redis to write to; asking on");
                    }
                    is_lost = newest.is_none() && (is_lost || asked.is_empty());
                    // Those who say so may be parted from who knows better.
                    if let Some((_, ranges)) = newest.filter(|(epoch, _)| believed.takes(self.clock.now(), *epoch)) {
                        self.learn(ranges, &mut subscriptions);
                    }
                }
                () = async {
                    tokio::select! {
                        _ = tick.tick() => {}
                        () = self.board.outdated.notified() => {}
                    }
                }, if address.way != Way::Direct => {
                    let places = self.places();
                    // Who is not asked any more may have another address by now.
                    told.retain(|place, told| told.is_asked || places.contains(place));
                    for place in places {
                        let told = told.entry(place.clone()).or_default();
                        if !std::mem::replace(&mut told.is_asked, true) {
                            asked.push(ask(address.clone(), place, told.line.take()).boxed());
                        }
                    }
                }
            }
        }
    }

    /// Those who are asked: whom the setting names, and in a cluster every master.
    fn places(&self) -> Vec<Place> {
        let mut places = self.address.seeds.clone();
        if self.address.way == Way::Cluster {
            for shard in self.board.map.borrow().shards() {
                if !places.contains(&shard.place) {
                    places.push(shard.place.clone());
                }
            }
        }
        places
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

/// What most recently was agreed on, of all that was said; of those who say the same, the first.
fn newest(places: &[Place], told: &HashMap<Place, Told>) -> Option<(u64, Ranges)> {
    let said = places.iter().filter_map(|place| told.get(place)?.said.as_ref());
    let said = said.filter(|(_, ranges)| !ranges.is_empty());
    let newest = said.reduce(|newest, said| if said.0 > newest.0 { said } else { newest });
    newest.cloned()
}

/// Asks one of them. It takes a few round trips to connect, once: they have the time that
/// connections to a Redis have, and what is asked has its own.
async fn ask(address: Arc<Address>, place: Place, line: Option<MultiplexedConnection>) -> Answer {
    let line = match line {
        Some(line) => Some(line),
        None => timeout(PATIENCE, connect(&address, &place)).await.ok().flatten(),
    };
    let answer = match line {
        Some(line) => timeout(LOOK_PATIENCE, question(&address, &place, line)).await,
        None => Ok(None),
    };
    (place, answer.ok().flatten())
}

async fn connect(address: &Address, place: &Place) -> Option<MultiplexedConnection> {
    let is_sentinel = matches!(address.way, Way::Sentinel(_));
    let client = if is_sentinel { address.sentinel(place) } else { address.client(place) };
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(LOOK_PATIENCE));
    let opened = client.ok()?.get_multiplexed_async_connection_with_config(&config).await;
    opened.inspect_err(|error| tracing::debug!(%place, %error, "no answer")).ok()
}

/// What one of them says, and under which epoch of their own.
async fn question(
    address: &Address,
    place: &Place,
    mut line: MultiplexedConnection,
) -> Option<(MultiplexedConnection, u64, Ranges)> {
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
