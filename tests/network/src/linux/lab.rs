//! The hosts and what connects them.
//!
//! ```text
//!                  wifi  10.1.0.2 ---- 20 ms round trip ---- 10.1.0.1
//!   client host                                                        router --- 10.9.0.1 gateway host
//!                  cell  10.2.0.2 ---- 40 ms round trip ---- 10.2.0.1
//! ```
//!
//! Both links lead to the gateway; the system takes Wi-Fi while it is up. The router's NAT is
//! off until a case asks for it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use handover::config::{Addresses, Config, IdentitySource};
use handover::gateway::Gateway;
use handover_client::{Attention, Certificates, Client, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::host::Host;
use super::link::{End, Link};

/// One way.
const WIFI_DELAY: Duration = Duration::from_millis(10);
const CELL_DELAY: Duration = Duration::from_millis(20);
/// Of the path that is left once Wi-Fi is gone: what the targets are about.
pub const ROUND_TRIP: Duration = Duration::from_millis(40);

pub const GATEWAY: &str = "10.9.0.1";
const UPSTREAM: &str = "10.9.0.2/24";
const UPSTREAM_OTHER: &str = "10.9.0.3/24";
const PORT: u16 = 4433;
const HTTP: u16 = 8080;

pub struct Lab {
    pub client: Host,
    router: Host,
    pub gateway: Host,
    pub wifi: Link,
    pub cell: Link,
    pub hash: [u8; 32],
    running: Option<Gateway>,
    _certificates: tempfile::TempDir,
}

impl Lab {
    pub async fn build() -> io::Result<Lab> {
        let (client, router, gateway) =
            (Host::new("client")?, Host::new("router")?, Host::new("gateway")?);
        router.ip(&["link", "add", "wan", "type", "veth", "peer", "eth", "netns", "gateway"])?;
        router.ip(&["address", "add", UPSTREAM, "dev", "wan"])?;
        router.ip(&["link", "set", "wan", "up"])?;
        gateway.ip(&["address", "add", "10.9.0.1/24", "dev", "eth"])?;
        gateway.ip(&["link", "set", "eth", "up"])?;
        router.run(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;

        let wifi = Link::between(
            End { host: &client, name: "wifi", address: "10.1.0.2/24" },
            End { host: &router, name: "wifi", address: "10.1.0.1/24" },
            WIFI_DELAY,
        )?;
        let cell = Link::between(
            End { host: &client, name: "cell", address: "10.2.0.2/24" },
            End { host: &router, name: "cell", address: "10.2.0.1/24" },
            CELL_DELAY,
        )?;
        gateway.ip(&["route", "add", "10.0.0.0/8", "via", "10.9.0.2"])?;
        // As networks do: what says it comes from elsewhere does not pass.
        router.run(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter"])?;

        let certificates = tempfile::tempdir()?;
        let dir = certificates.path().to_owned();
        let start = async move {
            let config = Config {
                listen: Addresses::of([SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))]),
                http: Addresses::of([SocketAddr::from((Ipv4Addr::LOCALHOST, HTTP))]),
                identity: IdentitySource::SelfMade { dir },
                drain_timeout: Duration::from_millis(100),
                ..Config::default()
            };
            Gateway::start(config).await
        };
        let running = gateway.spawn(start).await?.map_err(io::Error::other)?;
        let hash = running.identity().hash;
        let running = Some(running);
        let lab =
            Lab { client, router, gateway, wifi, cell, hash, running, _certificates: certificates };
        lab.reset()?;
        Ok(lab)
    }

    /// As every case expects it: both links up, Wi-Fi preferred, no NAT, UDP passes.
    pub fn reset(&self) -> io::Result<()> {
        self.cell.block_udp(false);
        for link in [&self.wifi, &self.cell] {
            self.up(link)?;
        }
        let addresses = ["address", "replace", UPSTREAM, "dev", "wan"];
        self.router.ip(&["address", "flush", "dev", "wan"])?;
        self.router.ip(&addresses)?;
        self.router.run(&["iptables", "-t", "nat", "-F"])?;
        self.gateway.ip(&["route", "replace", "10.0.0.0/8", "via", "10.9.0.2"])
    }

    /// The link comes up, with its default route.
    pub fn up(&self, link: &Link) -> io::Result<()> {
        let (name, via, metric) = match link.name() {
            "wifi" => ("wifi", "10.1.0.1", "100"),
            name => (name, "10.2.0.1", "200"),
        };
        link.cut(false);
        self.client.ip(&["link", "set", name, "up"])?;
        self.client.ip(&["route", "replace", "default", "via", via, "dev", name, "metric", metric])
    }

    /// The link goes down, and with it what is on its way and the system's routes.
    pub fn down(&self, link: &Link) -> io::Result<()> {
        link.cut(true);
        self.client.ip(&["link", "set", link.name(), "down"])
    }

    /// From now on the gateway sees the router's address.
    pub fn masquerade(&self) -> io::Result<()> {
        let rule = ["iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "wan", "-j", "MASQUERADE"];
        self.router.run(&[&rule[..], &["--random"]].concat())
    }

    /// The NAT forgets everybody: the next packet gets another port.
    pub fn forget_ports(&self) -> io::Result<()> {
        self.router.ip(&["link", "set", "wan", "down"])?;
        self.router.ip(&["link", "set", "wan", "up"])
    }

    /// The NAT's own address changes, and with it everybody's.
    pub fn renumber(&self) -> io::Result<()> {
        self.router.ip(&["address", "delete", UPSTREAM, "dev", "wan"])?;
        self.router.ip(&["address", "add", UPSTREAM_OTHER, "dev", "wan"])
    }

    /// How a client reaches the gateway from outside.
    pub fn url(&self) -> String {
        format!("https://{GATEWAY}:{PORT}")
    }

    pub fn options(&self) -> Options {
        let certificates = Certificates::Hashes(vec![self.hash]);
        Options { certificates, attention: Attention::CALL, ..Options::default() }
    }

    /// A client beside the gateway, on no link at all.
    pub async fn neighbour(&self) -> io::Result<Client> {
        let (url, options) = (format!("https://127.0.0.1:{PORT}"), self.options());
        let connect = async move { Client::connect(&url, options).await };
        self.gateway.spawn(connect).await?.map_err(io::Error::other)
    }

    /// A client on the client host.
    pub async fn connect(&self, options: Options) -> io::Result<Client> {
        let url = self.url();
        let connect = async move { Client::connect(&url, options).await };
        self.client.spawn(connect).await?.map_err(io::Error::other)
    }

    /// What the gateway counts under this name.
    pub async fn metric(&self, name: &'static str) -> io::Result<u64> {
        let page = self.gateway.spawn(metrics()).await??;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.and_then(|value| value.trim().parse::<f64>().ok());
        value.map(|value| value as u64).ok_or_else(|| io::Error::other(format!("no metric {name}")))
    }

    pub async fn close(mut self) -> io::Result<()> {
        if let Some(running) = self.running.take() {
            self.gateway.spawn(async move { running.drain().await }).await?;
        }
        Ok(())
    }
}

async fn metrics() -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, HTTP)).await?;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}
