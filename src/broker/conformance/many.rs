//! Nodes on many Redis processes: a cluster, and a master with its replica and sentinels.

use std::cell::RefCell;

use handover_redis_servers::{Cluster, Sentinels, ask};

use super::server::nodes;
use super::{Arc, Kind, Nodes, RoomLimits};

thread_local! {
    /// What the cases of one test share: each test has its thread.
    static CLUSTER: RefCell<Option<Arc<Cluster>>> = const { RefCell::new(None) };
    static SENTINELS: RefCell<Option<Arc<Sentinels>>> = const { RefCell::new(None) };
}

/// Two nodes on a cluster that is lent.
pub(super) struct OnCluster;

impl OnCluster {
    /// To the cases of this test.
    pub(super) fn lend(cluster: Cluster) {
        CLUSTER.set(Some(Arc::new(cluster)));
    }
}

impl Kind for OnCluster {
    async fn start(limits: RoomLimits) -> Nodes {
        let cluster = CLUSTER.with_borrow(Clone::clone).expect("lent before");
        for server in &cluster.servers {
            ask(&mut server.line().await, "FLUSHALL").await;
        }
        let [here, there] = nodes(&cluster.address(), limits, 0).await;
        Nodes { here, there, _behind: Some(cluster) }
    }
}

/// Two nodes on the master of sentinels that are lent; a replica is waited for.
pub(super) struct OnSentinels;

impl OnSentinels {
    /// To the cases of this test.
    pub(super) fn lend(sentinels: Sentinels) {
        SENTINELS.set(Some(Arc::new(sentinels)));
    }
}

impl Kind for OnSentinels {
    async fn start(limits: RoomLimits) -> Nodes {
        let sentinels = SENTINELS.with_borrow(Clone::clone).expect("lent before");
        ask(&mut sentinels.master.line().await, "FLUSHALL").await;
        let [here, there] = nodes(&sentinels.address(), limits, 1).await;
        Nodes { here, there, _behind: Some(sentinels) }
    }
}
