//! Gateways that share their rooms, for runs that do without some of them now and then.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use handover_client::Certificates;
use tokio::sync::watch;

use super::member::Member;
use super::run::Run;
use super::target::{Target, ways};

/// Gateways behind a balancer as it were: each connection goes to the next of those that are up.
#[derive(Debug)]
pub struct Fleet {
    url: String,
    address: SocketAddr,
    certificates: Certificates,
    up: watch::Sender<Vec<SocketAddr>>,
    begun: watch::Sender<bool>,
    running: OnceLock<(Arc<Run>, Vec<Arc<Member>>)>,
}

impl Fleet {
    /// Gateways at these addresses that show one of these certificates; all of them are up.
    /// `None` without any.
    pub fn new(addresses: Vec<SocketAddr>, certificates: Certificates) -> Option<Fleet> {
        let address = *addresses.first()?;
        Some(Fleet {
            url: format!("https://{address}"),
            address,
            certificates,
            up: watch::channel(addresses).0,
            begun: watch::channel(false).0,
            running: OnceLock::new(),
        })
    }

    /// New connections go to these from now on. Those there are stay.
    pub fn set_up(&self, up: Vec<SocketAddr>) {
        self.up.send_replace(up);
    }

    /// A gateway dies now: its sessions are timed until they are back.
    pub fn lose(&self, gateway: SocketAddr) {
        let Some((run, members)) = self.running.get() else { return };
        let now = run.clock.now();
        let concerned = members.iter().filter(|member| member.gateway() == Some(gateway));
        concerned.for_each(|member| member.loses_gateway(now));
    }

    /// What the gateways share is emptied from now on: every room begins a new life, and every
    /// member has to be told so, once.
    pub fn empty(&self) {
        if let Some((run, _)) = self.running.get() {
            run.ledger.empty(run.clock.now());
        }
    }

    /// Waits until every member has been told of the last time.
    pub async fn wait_told(&self) {
        let Some((run, members)) = self.running.get() else { return };
        run.ledger.wait_told(members.iter().map(|member| member.rooms.len()).sum()).await;
    }

    /// How many sessions each gateway carries now.
    pub fn carried(&self, gateway: SocketAddr) -> usize {
        let members = self.running.get().map_or(&[][..], |(_, members)| members);
        members.iter().filter(|member| member.gateway() == Some(gateway)).count()
    }

    /// Waits until every session is in its rooms.
    pub async fn wait_begun(&self) {
        // The sender is this very fleet's.
        let _ = self.begun.subscribe().wait_for(|begun| *begun).await;
    }

    pub(super) fn begin(&self, run: Arc<Run>, members: &[Arc<Member>]) {
        // A second run on the same fleet is not timed.
        let _ = self.running.set((run, members.to_vec()));
        self.begun.send_replace(true);
    }

    pub(super) fn up(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.up.subscribe()
    }

    pub(super) fn targets(&self) -> Vec<Target> {
        ways(&self.url, self.address, &self.certificates)
    }
}
