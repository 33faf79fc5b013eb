//! A Redis with a replica, and two sentinels that have it take over.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::Outcome;
use crate::redis::{Place, RedisProcess};

pub(crate) const PORTS: [u16; 2] = [7_000, 7_001];
pub(crate) const SENTINEL_PORTS: [u16; 2] = [26_000, 26_001];
/// When a master that is silent is taken for gone, by the first of them. The other one has a vote and
/// no opinion: two that ask for each other's vote at once get none, and ask again ten seconds later.
const NOTICED_MS: u32 = 1_000;
/// The same while it is to be left to itself.
const UNNOTICED_MS: u32 = 60_000;
/// What they do every ten and every two seconds otherwise: ask for roles, and tell each other of the
/// master. One that is none any more may say otherwise for four times the second.
const ASKED_AND_TOLD: &str = "info-period 1000 publish-period 750";
/// What the sentinels call it.
const NAME: &str = "main";

#[derive(Debug)]
pub(crate) struct Sentinels {
    host: Ipv4Addr,
    master: RedisProcess,
    replica: RedisProcess,
    _sentinels: Vec<Child>,
}

impl Sentinels {
    pub(crate) async fn start(dir: &Path) -> Outcome<Sentinels> {
        // A loopback address of this process alone: every port is free there.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let host = Ipv4Addr::new(127, high.max(1), low, 200);
        let [first, second] = PORTS.map(|port| Place::Port(SocketAddr::new(host.into(), port)));
        let master = RedisProcess::start(dir.join("first"), first, &own(host)).await?;
        let replica = RedisProcess::start(dir.join("second"), second, &of(host, PORTS[0])).await?;
        replica.place().wait_for("INFO replication", "master_link_status:up").await?;
        let mut sentinels = Vec::new();
        for port in SENTINEL_PORTS {
            sentinels.push(sentinel(dir, host, port)?);
        }
        let sentinels = Sentinels { host, master, replica, _sentinels: sentinels };
        for sentinel in sentinels.places() {
            let of_master = format!("SENTINEL MASTER {NAME}");
            for known in ["num-other-sentinels\r\n$1\r\n1", "num-slaves\r\n$1\r\n1"] {
                sentinel.wait_for(&of_master, known).await?;
            }
            sentinel.tell(&format!("SENTINEL DEBUG {ASKED_AND_TOLD}")).await?;
        }
        Ok(sentinels)
    }

    pub(crate) fn host(&self) -> Ipv4Addr {
        self.host
    }

    /// A host beside it, written in as many letters.
    pub(crate) fn host_beside(&self, nth: usize) -> Option<Ipv4Addr> {
        let [one, two, three, last] = self.host.octets();
        Some(Ipv4Addr::new(one, two, three, last.checked_add(u8::try_from(nth).ok()?)?))
    }

    /// As gateways are told it that reach them at this host.
    pub(crate) fn address(host: Ipv4Addr) -> String {
        let [one, other] = SENTINEL_PORTS;
        format!("redis-sentinel://{host}:{one},{host}:{other}/{NAME}")
    }

    /// The master stands still for so long, and stays the master.
    pub(crate) async fn freeze(&self, lasting: Duration) -> Outcome<()> {
        self.master.freeze().await?;
        sleep(lasting).await;
        self.master.go_on().await
    }

    /// The master ends in order and begins again with what it had: the master still, with its
    /// replica.
    pub(crate) async fn restart(&mut self) -> Outcome<()> {
        self.master.end().await?;
        self.master.begin_again(&own(self.host)).await?;
        self.master.place().wait_for("INFO replication", "state=online").await
    }

    /// The master loses its power, and waits until the replica is the master.
    pub(crate) async fn fail_over(&mut self) -> Outcome<()> {
        self.watch(NOTICED_MS).await?;
        self.master.kill().await?;
        self.taken_over().await
    }

    /// The old master is there again, as a replica of the new one.
    pub(crate) async fn follow(&mut self) -> Outcome<()> {
        // In this order: they have changed places.
        self.replica.begin_again(&of(self.host, self.master.port()?)).await?;
        self.parted_no_more().await
    }

    /// The master stands still until the replica is the master, and then goes on: two of them take
    /// themselves for the master, until a sentinel tells the older one.
    pub(crate) async fn double(&mut self) -> Outcome<()> {
        self.watch(NOTICED_MS).await?;
        self.master.freeze().await?;
        self.taken_over().await?;
        self.replica.go_on().await?;
        for redis in [&self.master, &self.replica] {
            redis.place().wait_for("INFO replication", "role:master").await?;
        }
        Ok(())
    }

    /// One of them follows the other.
    pub(crate) async fn parted_no_more(&self) -> Outcome<()> {
        self.replica.place().wait_for("INFO replication", "master_link_status:up").await?;
        self.master.place().wait_for("INFO replication", "state=online").await
    }

    async fn taken_over(&mut self) -> Outcome<()> {
        let line = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {NAME}");
        let wanted = format!("\r\n{}\r\n", self.replica.port()?);
        for sentinel in self.places() {
            sentinel.wait_for(&line, &wanted).await?;
        }
        // At once: if the new one is kept waiting for a second, by gateways that start, the old one would
        // be made the master again.
        self.watch(UNNOTICED_MS).await?;
        std::mem::swap(&mut self.master, &mut self.replica);
        Ok(())
    }

    /// Has a silent master be taken for gone after that long.
    async fn watch(&self, silence_ms: u32) -> Outcome<()> {
        let line = format!("SENTINEL SET {NAME} down-after-milliseconds {silence_ms}");
        let [first, _] = self.places();
        first.tell(&line).await
    }

    fn places(&self) -> [Place; 2] {
        SENTINEL_PORTS.map(|port| Place::Port(SocketAddr::new(self.host.into(), port)))
    }
}

fn own(host: Ipv4Addr) -> Vec<String> {
    ["--repl-diskless-sync-delay", "0", "--replica-announce-ip", &host.to_string()]
        .map(str::to_owned)
        .to_vec()
}

fn of(host: Ipv4Addr, port: u16) -> Vec<String> {
    let mut settings = own(host);
    settings.extend(["--replicaof".to_owned(), format!("{host} {port}")]);
    settings
}

fn sentinel(dir: &Path, host: Ipv4Addr, port: u16) -> Outcome<Child> {
    let dir = dir.join(format!("sentinel-{port}"));
    std::fs::create_dir_all(&dir)?;
    let file = dir.join("sentinel.conf");
    let settings = format!(
        "bind {host}\nport {port}\n\
         sentinel monitor {NAME} {host} {} 1\n\
         sentinel down-after-milliseconds {NAME} {}\n\
         sentinel failover-timeout {NAME} 5000\n\
         sentinel announce-ip {host}\n",
        PORTS[0], UNNOTICED_MS
    );
    std::fs::write(&file, settings)?;
    let child = Command::new("redis-sentinel")
        .arg(&file)
        .current_dir(&dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    Ok(child.map_err(|error| format!("redis-sentinel: {error}"))?)
}
