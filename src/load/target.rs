//! What the sessions connect to.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use handover_client::{Certificates, Transport};
use handover_protocol::pace::PaceLimits;
use http::Uri;
use tokio::net::lookup_host;

use super::{LoadArgs, LoadError};
use crate::config::{Addresses, Capacity, Config, IdentitySource};
use crate::gateway::Gateway;

/// One way to connect.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) address: SocketAddr,
    pub(super) transport: Transport,
    pub(super) certificates: Certificates,
}

/// The gateway of a run that was not given one.
pub(super) struct OwnGateway {
    gateway: Gateway,
    _certificates: tempfile::TempDir,
}

impl OwnGateway {
    pub(super) async fn start() -> Result<Self, LoadError> {
        let dir = tempfile::tempdir().map_err(LoadError::Directory)?;
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let defaults = Config::default();
        let config = Config {
            // The load is all from here, and as fast as was asked for.
            pace: PaceLimits::default(),
            capacity: Capacity {
                ungreeted_per_address: usize::MAX,
                connections_per_address: usize::MAX,
                handshakes: None,
                ..defaults.capacity
            },
            listen: Addresses::of([loopback]),
            http: Addresses::of([loopback]),
            drain_timeout: Duration::from_secs(1),
            identity: IdentitySource::SelfMade { dir: dir.path().to_owned() },
            ..defaults
        };
        Ok(OwnGateway { gateway: Gateway::start(config).await?, _certificates: dir })
    }

    pub(super) fn targets(&self) -> Vec<Target> {
        let certificates = Certificates::Hashes(vec![self.gateway.identity().hash]);
        let encrypted = self.gateway.listening().iter().map(|at| (format!("https://{at}"), *at));
        let plain = self.gateway.http().iter().map(|at| (format!("http://{at}"), *at));
        let all = encrypted.chain(plain);
        all.flat_map(|(url, at)| ways(&url, at, &certificates)).collect()
    }

    pub(super) async fn stop(self) {
        self.gateway.drain().await;
    }
}

/// Every way to connect to the gateways that were named.
pub(super) async fn named(args: &LoadArgs) -> Result<Vec<Target>, LoadError> {
    let mut targets = Vec::new();
    for url in &args.url {
        let address = resolve(url).await?;
        let encrypted = is_encrypted(url);
        let certificates =
            if encrypted { args.trust.certificates(url).await? } else { Certificates::System };
        targets.extend(ways(url, address, &certificates));
    }
    Ok(targets)
}

fn is_encrypted(url: &str) -> bool {
    url.starts_with("https:") || url.starts_with("wss:")
}

/// Over `https:` each transport by itself, and whichever comes about.
pub(super) fn ways(url: &str, address: SocketAddr, certificates: &Certificates) -> Vec<Target> {
    let transports: &[Transport] = if url.starts_with("https:") {
        &[Transport::WebTransport, Transport::WebSocket, Transport::Auto]
    } else {
        &[Transport::WebSocket]
    };
    let way = |transport: &Transport| Target {
        url: url.to_owned(),
        address,
        transport: *transport,
        certificates: certificates.clone(),
    };
    transports.iter().map(way).collect()
}

async fn resolve(url: &str) -> Result<SocketAddr, LoadError> {
    let wrong = |reason: String| LoadError::Url { url: url.to_owned(), reason };
    let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
    let host = uri.host().ok_or_else(|| wrong("names no host".to_owned()))?;
    let port = uri.port_u16().unwrap_or(if is_encrypted(url) { 443 } else { 80 });
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut found = lookup_host((host, port)).await.map_err(|error| wrong(error.to_string()))?;
    found.next().ok_or_else(|| wrong("has no address".to_owned()))
}
