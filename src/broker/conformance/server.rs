//! Nodes on one Redis process.

use std::time::Duration;

use handover_redis_servers::Server;
use tokio_util::sync::CancellationToken;

use super::{Arc, Kind, Nodes, RoomLimits};
use crate::broker::redis::{Options, RedisBroker};
use crate::clock::Clock;

/// Nodes on a Redis.
pub(super) async fn nodes<const N: usize>(
    address: &str,
    limits: RoomLimits,
    replicas: u32,
) -> [Arc<RedisBroker>; N] {
    let options = Options { limits, resume_window: Duration::from_secs(60), replicas };
    nodes_by(address, [options; N]).await
}

/// Each by its own settings.
pub(super) async fn nodes_by<const N: usize>(
    address: &str,
    options: [Options; N],
) -> [Arc<RedisBroker>; N] {
    let nodes = options.map(|options| begin(address, options));
    for node in &nodes {
        node.up().wait_for(|up| *up).await.unwrap();
    }
    nodes
}

/// One that has not met its Redis yet.
pub(super) fn begin(address: &str, options: Options) -> Arc<RedisBroker> {
    let (broker, keeper) = RedisBroker::open(address, options, Clock::start()).unwrap();
    tokio::spawn(keeper.run(CancellationToken::new()));
    Arc::new(broker)
}

/// Two nodes on a Redis.
pub(super) struct Redis;

impl Kind for Redis {
    async fn start(limits: RoomLimits) -> Nodes {
        let server = Server::on_socket();
        let [here, there] = nodes(&server.address, limits, 0).await;
        Nodes { here, there, _behind: Some(Arc::new(server)) }
    }
}
