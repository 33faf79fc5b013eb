//! Builds every part in order, owns every task, and takes them down again.
//!
//! The order: what can fail because of the operator's settings comes first (identity, sockets),
//! so that nothing runs yet when it does; then the broker, the router, and last the accept
//! loops, so that nobody is let in before everything behind the door is there.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use handover_protocol::room::RoomLimits;
use handover_protocol::session::server;
use quinn::Endpoint;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::memory::MemoryBroker;
use crate::clock::Clock;
use crate::config::{Addresses, Caller, Config};
use crate::connection;
use crate::http::{IdentityStatement, Site, Status};
use crate::router::Router;
use crate::router::mailbox::Notice;
use crate::telemetry::Metrics;
use crate::tls::{Identity, TlsError};
use crate::transport::accept::{
    Acceptor, Admitted, Attach, Gate, Refused, TcpTls, accept_quic, accept_tcp, bind_tcp,
};
use crate::transport::webtransport::{QuicError, bind_udp, endpoint, server_config};
use crate::transport::{self, Kind, Transport};

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No identity.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No QUIC with these settings.
    #[error(transparent)]
    Quic(#[from] QuicError),
    /// An address cannot be listened on.
    #[error("cannot listen on {protocol} {address}: {}", reason(.source))]
    Bind {
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// What to make of the system's word.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has it; stop that one or choose another port".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "not permitted; ports below 1024 need root or CAP_NET_BIND_SERVICE".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    }
}

/// A running gateway.
pub struct Gateway {
    /// Where QUIC and TLS listen.
    listening: Vec<SocketAddr>,
    /// Where plain HTTP listens.
    http: Vec<SocketAddr>,
    identity: Arc<Identity>,
    router: Router,
    endpoints: Vec<Endpoint>,
    draining: Arc<AtomicBool>,
    drain_timeout: Duration,
    /// Nobody new is let in once this is cancelled.
    closed: CancellationToken,
    /// Everything else ends once this is cancelled.
    stopping: CancellationToken,
    tasks: TaskTracker,
    connections: TaskTracker,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Everybody had left by then.
    Left,
    /// These connections were cut.
    Cut(usize),
}

impl Gateway {
    /// Starts a gateway. Must be called on a runtime.
    pub async fn start(config: Config) -> Result<Gateway, StartError> {
        let clock = Clock::start();
        let metrics = Arc::new(Metrics::default());
        let identity = Arc::new(Identity::open(&config.identity, &config.listen.list, clock)?);
        metrics.certificate(identity.current().expires);

        let settings = transport::Settings {
            heartbeat: config.heartbeat,
            message_bytes: config.limits.message_bytes as usize,
        };
        let quic = server_config(&identity.server_config_quic(), settings)?;
        let bound = bind_all(&config.listen)?;
        let http = bind_http(&config.http)?;

        let (tasks, connections) = (TaskTracker::new(), TaskTracker::new());
        let (closed, stopping) = (CancellationToken::new(), CancellationToken::new());
        let room_limits =
            RoomLimits { members: config.capacity.room_members, retention: config.retention };
        let router = Router::start(
            Arc::new(MemoryBroker::new(room_limits)),
            clock,
            metrics.clone(),
            room_limits,
            config.resume_window,
            tasks.clone(),
            stopping.clone(),
        );
        tasks.spawn(identity.clone().keep_fresh(metrics.clone(), stopping.clone()));

        let shared = Arc::new(connection::Shared {
            settings: server::Settings {
                limits: config.limits,
                heartbeat: config.heartbeat,
                resume_window: config.resume_window,
                ice_servers: config.ice.servers,
                ice_ttl: config.ice.ttl,
            },
            hello_timeout: config.hello_timeout,
            router: router.clone(),
            clock,
            metrics: metrics.clone(),
        });
        let origins = config.origins;
        let gate = Gate::new(
            config.capacity.connections,
            config.capacity.ungreeted,
            move |visitor| {
                origins.allow(Caller {
                    origin: visitor.origin,
                    authority: visitor.authority,
                    address: visitor.address,
                    encrypted: visitor.encrypted,
                })
            },
        );
        let gate = Arc::new(gate);
        let draining = Arc::new(AtomicBool::new(false));
        let port = bound.first().map_or(0, |(address, ..)| address.port());
        let status = GatewayStatus { identity: identity.clone(), port, draining: draining.clone() };
        let site = Arc::new(Site {
            gate: gate.clone(),
            metrics: metrics.clone(),
            status: Arc::new(status),
        });
        let attach = Arc::new(Connections { shared, metrics: metrics.clone(), tasks: connections.clone() });
        let acceptor =
            Acceptor { gate, settings, attach, tasks: tasks.clone(), stop: closed.clone() };

        let tls = TcpTls::new(&identity.server_config_tcp());
        let mut endpoints = Vec::new();
        let listening = bound.iter().map(|(address, ..)| *address).collect();
        for (address, udp, tcp) in bound {
            let failed = |source| StartError::Bind { protocol: "UDP", address, source };
            let endpoint = endpoint(udp, quic.clone()).map_err(failed)?;
            endpoints.push(endpoint.clone());
            tasks.spawn(accept_quic(endpoint, acceptor.clone()));
            tasks.spawn(accept_tcp(tcp, Some(tls.clone()), site.clone(), acceptor.clone()));
        }
        let plain = http.iter().map(|(address, _)| *address).collect();
        for (_, tcp) in http {
            tasks.spawn(accept_tcp(tcp, None, site.clone(), acceptor.clone()));
        }
        Ok(Gateway {
            listening,
            http: plain,
            identity,
            router,
            endpoints,
            draining,
            drain_timeout: config.drain_timeout,
            closed,
            stopping,
            tasks,
            connections,
        })
    }

    /// Where QUIC (UDP) and TLS (TCP) listen.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// Where plain HTTP listens.
    pub fn http(&self) -> &[SocketAddr] {
        &self.http
    }

    /// The certificate in use.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Lets nobody in any more, asks everybody to go, waits for that, then cuts who is left
    /// and waits for every task to end.
    pub async fn drain(self) -> Drained {
        self.draining.store(true, Ordering::Release);
        self.closed.cancel();
        let spread = u64::try_from(self.drain_timeout.as_millis() / 2).unwrap_or(u64::MAX);
        self.router.tell_all(|random| Notice::Draining { reconnect_in: random.below(spread.max(1)) });
        self.connections.close();
        let left = tokio::time::timeout(self.drain_timeout, self.connections.wait()).await;
        let drained = match left {
            Ok(()) => Drained::Left,
            Err(_) => Drained::Cut(self.connections.len()),
        };
        self.stopping.cancel();
        self.router.tell_all(|_| Notice::Stop);
        self.connections.wait().await;
        self.tasks.close();
        self.tasks.wait().await;
        for endpoint in &self.endpoints {
            endpoint.close(0_u32.into(), b"");
            endpoint.wait_idle().await;
        }
        drained
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("listening", &self.listening)
            .field("http", &self.http)
            .finish_non_exhaustive()
    }
}

/// Starts a task for every connection that is set up.
struct Connections {
    shared: Arc<connection::Shared>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
}

impl Attach for Connections {
    fn attach<T: Transport>(&self, transport: T, admitted: Admitted) {
        let connection = connection::run(transport, admitted, self.shared.clone());
        let metrics = self.metrics.clone();
        self.tasks.spawn(async move {
            // A panic is our bug; it ends this connection alone, and is counted.
            if AssertUnwindSafe(connection).catch_unwind().await.is_err() {
                metrics.connection_panicked();
                tracing::error!("a connection's task panicked; the others go on");
            }
        });
    }

    fn refused(&self, _kind: Kind, refused: &Refused) {
        self.metrics.connection_refused(refused.name());
    }
}

/// What the HTTP side tells about the gateway.
struct GatewayStatus {
    identity: Arc<Identity>,
    port: u16,
    draining: Arc<AtomicBool>,
}

impl Status for GatewayStatus {
    fn identity(&self) -> Option<IdentityStatement> {
        let current = self.identity.current();
        current.self_made.then(|| IdentityStatement {
            algorithm: "sha-256",
            value: current.hash_base64(),
            expires: current.expires.as_secs(),
            port: self.port,
        })
    }

    fn unready(&self) -> Option<&'static str> {
        self.draining.load(Ordering::Acquire).then_some("draining")
    }
}

type Bound = (SocketAddr, UdpSocket, TcpListener);

/// Binds UDP and TCP of every address. Port 0 is chosen once, by TCP, and shared by all.
fn bind_all(addresses: &Addresses) -> Result<Vec<Bound>, StartError> {
    let mut bound: Vec<Bound> = Vec::new();
    let mut chosen = None;
    for &address in &addresses.list {
        let v6_only = addresses.v6_only(address);
        match bind_both(address, chosen, v6_only) {
            Ok(sockets) => {
                if address.port() == 0 {
                    chosen = Some(sockets.0.port());
                }
                bound.push(sockets);
            }
            Err(StartError::Bind { source, .. })
                if addresses.by_default && is_family_missing(&source) =>
            {
                tracing::info!(%address, "this machine has no such address; left out");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(bound)
}

fn bind_both(
    wanted: SocketAddr,
    chosen: Option<u16>,
    v6_only: bool,
) -> Result<Bound, StartError> {
    let failed = |protocol, address| move |source| StartError::Bind { protocol, address, source };
    // A port that is free for TCP may be taken for UDP: with port 0 the system is asked again.
    const TRIES: usize = 16;
    let mut last = None;
    for _ in 0..TRIES {
        let mut address = wanted;
        if let (0, Some(port)) = (wanted.port(), chosen) {
            address.set_port(port);
        }
        let tcp = bind_tcp(address, v6_only).map_err(failed("TCP", address))?;
        let address = tcp.local_addr().map_err(failed("TCP", address))?;
        match bind_udp(address, v6_only) {
            Ok(udp) => {
                tracing::debug!(
                    %address, receive = udp.receive_buffer, send = udp.send_buffer,
                    "udp buffers the system granted"
                );
                return Ok((address, udp.socket, tcp));
            }
            Err(source) => {
                let again = wanted.port() == 0
                    && chosen.is_none()
                    && source.kind() == io::ErrorKind::AddrInUse;
                last = Some(failed("UDP", address)(source));
                if !again {
                    break;
                }
            }
        }
    }
    let nothing = || io::Error::from(io::ErrorKind::AddrInUse);
    Err(last.unwrap_or_else(|| failed("UDP", wanted)(nothing())))
}

fn bind_http(addresses: &Addresses) -> Result<Vec<(SocketAddr, TcpListener)>, StartError> {
    let mut bound = Vec::new();
    for &wanted in &addresses.list {
        let failed = |source| StartError::Bind { protocol: "TCP", address: wanted, source };
        match bind_tcp(wanted, addresses.v6_only(wanted)) {
            Ok(tcp) => bound.push((tcp.local_addr().map_err(failed)?, tcp)),
            Err(source) if addresses.by_default && is_family_missing(&source) => {
                tracing::info!(address = %wanted, "this machine has no such address; left out");
            }
            Err(source) => return Err(failed(source)),
        }
    }
    Ok(bound)
}

/// Whether the machine lacks the address or its whole family, as containers lack IPv6.
fn is_family_missing(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}
