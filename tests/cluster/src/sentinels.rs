//! A Redis with a replica, and two sentinels that have it take over.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::Outcome;
use crate::redis::{Place, RedisProcess};

const PORTS: [u16; 2] = [7_000, 7_001];
const SENTINEL_PORTS: [u16; 2] = [26_000, 26_001];
/// When each of them takes a master that is silent for gone. Two that ask for each other's vote at once
/// get none, and ask again ten seconds later.
const NOTICED_MS: [u32; 2] = [1_000, 3_000];
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
        for (port, silence) in SENTINEL_PORTS.into_iter().zip(NOTICED_MS) {
            sentinels.push(sentinel(dir, host, port, silence)?);
        }
        for port in SENTINEL_PORTS {
            let sentinel = Place::Port(SocketAddr::new(host.into(), port));
            for known in ["num-other-sentinels\r\n$1\r\n1", "num-slaves\r\n$1\r\n1"] {
                sentinel.wait_for(&format!("SENTINEL MASTER {NAME}"), known).await?;
            }
        }
        Ok(Sentinels { host, master, replica, _sentinels: sentinels })
    }

    /// As gateways are told it.
    pub(crate) fn address(&self) -> String {
        let [one, other] = SENTINEL_PORTS;
        format!("redis-sentinel://{0}:{one},{0}:{other}/{NAME}", self.host)
    }

    /// The master loses its power, and waits until the replica is the master.
    pub(crate) async fn fail_over(&mut self) -> Outcome<()> {
        self.master.kill().await?;
        let line = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {NAME}");
        self.sentinel().wait_for(&line, &format!("\r\n{}\r\n", PORTS[1])).await
    }

    /// The old master is there again, as a replica of the new one.
    pub(crate) async fn follow(&mut self) -> Outcome<()> {
        self.master.begin_again(&of(self.host, PORTS[1])).await?;
        self.master.place().wait_for("INFO replication", "master_link_status:up").await?;
        std::mem::swap(&mut self.master, &mut self.replica);
        Ok(())
    }

    /// The master stands still for so long. The replica may take over meanwhile: then two of them take
    /// themselves for the master, until a sentinel tells the older one. Waits until one follows the
    /// other again, and says whether they have changed places.
    pub(crate) async fn freeze(&mut self, lasting: Duration) -> Outcome<bool> {
        self.master.freeze(lasting).await?;
        let Place::Port(replica) = self.replica.place() else { return Ok(false) };
        let asked =
            self.sentinel().ask(&format!("SENTINEL GET-MASTER-ADDR-BY-NAME {NAME}")).await?;
        let has_changed = asked.contains(&format!("\r\n{}\r\n", replica.port()));
        if has_changed {
            std::mem::swap(&mut self.master, &mut self.replica);
        }
        self.replica.place().wait_for("INFO replication", "master_link_status:up").await?;
        Ok(has_changed)
    }

    fn sentinel(&self) -> Place {
        Place::Port(SocketAddr::new(IpAddr::V4(self.host), SENTINEL_PORTS[0]))
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

fn sentinel(dir: &Path, host: Ipv4Addr, port: u16, silence: u32) -> Outcome<Child> {
    let dir = dir.join(format!("sentinel-{port}"));
    std::fs::create_dir_all(&dir)?;
    let file = dir.join("sentinel.conf");
    let settings = format!(
        "bind {host}\nport {port}\n\
         sentinel monitor {NAME} {host} {} 1\n\
         sentinel down-after-milliseconds {NAME} {silence}\n\
         sentinel failover-timeout {NAME} 5000\n\
         sentinel announce-ip {host}\n",
        PORTS[0]
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
