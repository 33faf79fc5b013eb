//! Builds every part in order, owns every task, and takes them down again.
//!
//! The order: what can fail because of the operator's settings comes first (identity, keys, sockets),
//! so that nothing runs yet when it does; then the broker, the router, and last the accept
//! loops, so that nobody is let in before everything behind the door is there.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use handover_protocol::room::RoomLimits;
use handover_protocol::session::server;
use quinn::Endpoint;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Authority;
use crate::broker::Broker;
use crate::broker::memory::MemoryBroker;
use crate::broker::redis::{Options, RedisBroker};
use crate::clock::Clock;
use crate::config::{self, Addresses, BrokerPlace, Caller, Config};
use crate::connection;
use crate::error::{Socket, StartError};
use crate::http::{IdentityStatement, Site, Standing, Status};
use crate::pressure::{Pressure, Queue};
use crate::router::Router;
use crate::router::quota::Bounds;
use crate::telemetry::{Lines, Metrics, restarted};
use crate::tls::{Identity, Tls};
use crate::transport::accept::{
    Acceptor, Admitted, Attach, Gate, GateLimits, Refused, TcpTls, accept_quic, accept_tcp,
    bind_tcp,
};
use crate::transport::webtransport::{
    BoundUdp, EndpointSecret, ServerIds, bind_udp, endpoint, server_config,
};
use crate::transport::{self, Kind, Transport};
use crate::turns::{OtherThreads, Turns};

/// A running gateway.
pub struct Gateway {
    /// Where QUIC and TLS listen.
    listening: Vec<SocketAddr>,
    /// Where plain HTTP listens.
    http: Vec<SocketAddr>,
    tls: Arc<Tls>,
    authority: Option<Arc<Authority>>,
    router: Router,
    endpoints: Vec<Endpoint>,
    ready: Ready,
    draining: Arc<AtomicBool>,
    drain_timeout: Duration,
    /// Nobody new is let in once this is cancelled.
    closed: CancellationToken,
    /// Everything else ends once this is cancelled.
    stopping: CancellationToken,
    tasks: TaskTracker,
    connections: TaskTracker,
    /// They end with the gateway.
    _other_threads: OtherThreads,
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
        let now = clock.unix_now();
        let tls = Arc::new(Tls::open(&config.identity, &config.listen.list, now)?);

        let authority = config
            .auth
            .map(|auth| Authority::open(auth, config.limits.metadata_bytes, clock, metrics.clone()))
            .transpose()?
            .map(Arc::new);

        let settings = transport::Settings {
            heartbeat: config.heartbeat,
            message_bytes: config.limits.message_bytes as usize,
            streams: config.capacity.streams,
        };
        let quic = server_config(&tls.quic(), settings)
            .map_err(|error| StartError::Quic(error.to_string()))?;
        let connection_ids = config
            .server_id
            .as_ref()
            .map(|id| ServerIds::new(id.config_rotation, &id.bytes, id.nonce_bytes))
            .transpose()
            .map_err(|error| StartError::Quic(error.to_string()))?;
        // The certificate may be on many nodes. That endpoint alone which would know of a
        // connection may tell that it is over.
        let node = config.server_id.map(|id| id.bytes);
        let is_ours = node.is_some() || tls.identity().self_made;
        let secret = |address: SocketAddr| {
            let own =
                [address.to_string().as_bytes(), node.as_deref().unwrap_or_default()].concat();
            is_ours.then(|| EndpointSecret::new(tls.secret_for(&own).as_ref()))
        };
        let bound = bind_all(&config.listen, &metrics)?;
        let http = bind_http(&config.http)?;

        let (turns, other_threads) = Turns::start().map_err(StartError::Threads)?;
        let (tasks, connections) = (TaskTracker::new(), TaskTracker::new());
        let (closed, stopping) = (CancellationToken::new(), CancellationToken::new());
        let room_limits = RoomLimits {
            members: config.capacity.room_members,
            metadata_bytes: config.capacity.room_metadata_bytes,
            retention: config.retention,
        };
        let mut broker_up = None;
        let broker: Arc<dyn Broker> = match &config.broker {
            BrokerPlace::Memory => Arc::new(MemoryBroker::new(room_limits)),
            BrokerPlace::Redis(address) => {
                let options = Options {
                    limits: room_limits,
                    resume_window: config.resume_window,
                    replicas: config.broker_replicas,
                };
                let (broker, keeper) = RedisBroker::open(address.reveal(), options, clock)
                    .map_err(|error| StartError::Broker(error.to_string()))?;
                let stop = stopping.clone();
                tasks.spawn(restarted(metrics.clone(), "news of rooms", move || {
                    keeper.clone().run(stop.clone())
                }));
                let up = broker.up();
                let (answers, at_odds) = (up.clone(), broker.at_odds());
                let (counted, stop) = (metrics.clone(), stopping.clone());
                tasks.spawn(restarted(metrics.clone(), "the broker's state", move || {
                    let (answers, at_odds) = (answers.clone(), at_odds.clone());
                    watch_broker(answers, at_odds, counted.clone(), stop.clone())
                }));
                broker_up = Some(up);
                Arc::new(broker)
            }
        };
        let router = Router::start(
            broker,
            clock,
            metrics.clone(),
            room_limits,
            config.resume_window,
            tasks.clone(),
            stopping.clone(),
        );
        router.bound(Bounds {
            sessions_per_user: config.capacity.sessions_per_user,
            sessions_away: config.capacity.sessions_away,
            rooms: config.capacity.rooms,
            log_bytes: config.capacity.log_bytes,
        });
        let (kept, counted, stop) = (tls.clone(), metrics.clone(), stopping.clone());
        tasks.spawn(restarted(metrics.clone(), "the certificate", move || {
            kept.clone().keep_fresh(clock, counted.clone(), stop.clone())
        }));
        if let Some(kept) = authority.clone() {
            let stop = stopping.clone();
            tasks.spawn(restarted(metrics.clone(), "the keys of tokens", move || {
                kept.clone().keep_fresh(stop.clone())
            }));
        }

        let pressure = Pressure::default();
        if let Some(target) = config.capacity.wait {
            for (queue, threads) in [(Queue::First, turns.first()), (Queue::Other, turns.other())] {
                let (watched, counted, end) = (pressure.clone(), metrics.clone(), stopping.clone());
                let watch = restarted(metrics.clone(), "the wait for a turn", move || {
                    watched.clone().watch(queue, target, clock, counted.clone(), end.clone())
                });
                tasks.spawn_on(watch, threads);
            }
        }
        let shared = Arc::new(connection::Shared {
            settings: server::Settings {
                limits: config.limits,
                heartbeat: config.heartbeat,
                resume_window: config.resume_window,
                outbox_bytes: config.capacity.outbox_bytes,
                ice_servers: config.ice.servers,
                ice_ttl: config.ice.ttl,
            },
            hello_timeout: config.hello_timeout,
            lines: Lines::new(connection::LINES, clock.now()),
            blocked_timeout: config.blocked_timeout,
            pace: config.pace,
            pressure: pressure.clone(),
            authority: authority.clone(),
            router: router.clone(),
            clock,
            metrics: metrics.clone(),
            stopping: stopping.clone(),
        });
        let origins = config.origins;
        let gate_limits = GateLimits {
            connections: config.capacity.connections,
            ungreeted: config.capacity.ungreeted,
            ungreeted_per_address: config.capacity.ungreeted_per_address,
            connections_per_address: config.capacity.connections_per_address,
            handshakes: config.capacity.handshakes,
        };
        let shown = tls.clone();
        let gate = Gate::new(gate_limits, clock.now(), move |visitor| {
            let is_ours = |authority| shown.is_for(config::host(authority));
            origins.allow(Caller {
                origin: visitor.origin,
                authority: visitor.authority,
                address: visitor.address,
                certified: visitor.encrypted && visitor.authority.is_some_and(is_ours),
            })
        });
        let gate = Arc::new(gate.under(pressure.clone()));
        let draining = Arc::new(AtomicBool::new(false));
        let port = bound.first().map_or(0, |(address, ..)| address.port());
        let ready = Ready { broker_up, is_broker_optional: config.broker_optional };
        let status = GatewayStatus {
            tls: tls.clone(),
            port,
            draining: draining.clone(),
            ready: ready.clone(),
        };
        let site = Arc::new(Site {
            gate: gate.clone(),
            metrics: metrics.clone(),
            status: Arc::new(status),
        });
        let attach = Arc::new(Connections {
            shared,
            metrics: metrics.clone(),
            tasks: connections.clone(),
            turns: turns.clone(),
        });
        let acceptor = Acceptor {
            clock,
            gate,
            settings,
            attach,
            tasks: tasks.clone(),
            turns: turns.clone(),
            stop: closed.clone(),
            end: stopping.clone(),
        };

        let over_tls = TcpTls::new(&tls.tcp());
        let by_tcp = |listener: TcpListener, tls: Option<TcpTls>| {
            let (listener, site, acceptor) = (Arc::new(listener), site.clone(), acceptor.clone());
            move || accept_tcp(listener.clone(), tls.clone(), site.clone(), acceptor.clone())
        };
        let mut endpoints = Vec::new();
        let listening = bound.iter().map(|(address, ..)| *address).collect();
        for (address, udp, tcp) in bound {
            let failed = |source| StartError::Bind { socket: Socket::Udp, address, source };
            let secret = secret(address);
            let (quic, pressure) = (quic.clone(), pressure.clone());
            let turns = turns.clone();
            let endpoint =
                endpoint(udp, quic, clock, pressure, turns, connection_ids, secret.as_ref());
            let endpoint = endpoint.map_err(failed)?;
            endpoints.push(endpoint.clone());
            let (counted, by_quic) = (metrics.clone(), acceptor.clone());
            tasks.spawn(restarted(counted, "accepting by QUIC", move || {
                accept_quic(endpoint.clone(), by_quic.clone())
            }));
            let by_tcp = by_tcp(tcp, Some(over_tls.clone()));
            tasks.spawn(restarted(metrics.clone(), "accepting by TLS", by_tcp));
        }
        let plain = http.iter().map(|(address, _)| *address).collect();
        for (_, tcp) in http {
            let by_tcp = by_tcp(tcp, None);
            tasks.spawn(restarted(metrics.clone(), "accepting by plain HTTP", by_tcp));
        }
        Ok(Gateway {
            listening,
            http: plain,
            tls,
            authority,
            router,
            endpoints,
            ready,
            draining,
            drain_timeout: config.drain_timeout,
            closed,
            stopping,
            tasks,
            connections,
            _other_threads: other_threads,
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
    pub fn identity(&self) -> Identity {
        self.tls.identity()
    }

    /// Waits until sessions can be opened, or need not be for the gateway to count as ready.
    pub async fn ready(&self) {
        let Ready { broker_up, is_broker_optional } = &self.ready;
        if let (Some(up), false) = (broker_up, is_broker_optional)
            && up.clone().wait_for(|up| *up).await.is_err()
        {
            // What would say so has ended with the gateway.
            std::future::pending::<()>().await;
        }
    }

    /// Has the files of keys and of the certificate looked at now. A new certificate is shown to new connections; those
    /// that are there go on.
    pub fn reload(&self) {
        self.tls.reload();
        if let Some(authority) = &self.authority {
            authority.reload();
        }
    }

    /// Lets nobody in any more, asks everybody to go, waits for that, then cuts who is left
    /// and waits for every task to end.
    pub async fn drain(self) -> Drained {
        self.draining.store(true, Ordering::Release);
        self.closed.cancel();
        let spread = u64::try_from(self.drain_timeout.as_millis() / 2).unwrap_or(u64::MAX);
        self.router.drain(spread);
        self.connections.close();
        let left = tokio::time::timeout(self.drain_timeout, self.connections.wait()).await;
        let drained = match left {
            Ok(()) => Drained::Left,
            Err(_) => Drained::Cut(self.connections.len()),
        };
        // Before the rooms end, so that no connection takes that for a fault.
        self.router.stop();
        self.stopping.cancel();
        self.connections.wait().await;
        self.tasks.close();
        self.tasks.wait().await;
        for endpoint in &self.endpoints {
            endpoint.close(0_u32.into(), b"");
            // A peer that gave up in its very first packet leaves a connection behind that
            // quinn only lets go of at the idle timeout; nothing is owed to it.
            let _ = tokio::time::timeout(FAREWELL, endpoint.wait_idle()).await;
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
    turns: Turns,
}

impl Attach for Connections {
    fn attach<T: Transport>(&self, transport: T, admitted: Admitted) {
        let connection = connection::run(transport, admitted, self.shared.clone());
        self.turns.go_on(self.tasks.track_future(connection));
    }

    fn refused(&self, _kind: Kind, refused: &Refused) {
        self.metrics.connection_refused(refused.name());
    }

    fn panicked(&self, kind: Kind) {
        self.metrics.panicked();
        tracing::error!(transport = kind.name(), "a set-up panicked; the others go on");
    }
}

/// What a gateway needs to be ready.
#[derive(Clone)]
struct Ready {
    /// Whether the broker answers, if it is one that may not.
    broker_up: Option<watch::Receiver<bool>>,
    is_broker_optional: bool,
}

async fn watch_broker(
    mut up: watch::Receiver<bool>,
    mut at_odds: watch::Receiver<usize>,
    metrics: Arc<Metrics>,
    stopping: CancellationToken,
) {
    loop {
        metrics.broker(*up.borrow_and_update());
        metrics.settings_differ(*at_odds.borrow_and_update());
        tokio::select! {
            () = stopping.cancelled() => return,
            changed = up.changed() => if changed.is_err() { return },
            changed = at_odds.changed() => if changed.is_err() { return },
        }
    }
}

/// What the HTTP side tells about the gateway.
struct GatewayStatus {
    tls: Arc<Tls>,
    port: u16,
    draining: Arc<AtomicBool>,
    ready: Ready,
}

impl Status for GatewayStatus {
    fn identity(&self) -> Option<IdentityStatement> {
        let current = self.tls.identity();
        current.self_made.then(|| IdentityStatement {
            algorithm: "sha-256",
            value: current.hash_base64(),
            expires: current.expires.as_secs(),
            port: self.port,
        })
    }

    fn standing(&self) -> Standing {
        let Ready { broker_up, is_broker_optional } = &self.ready;
        if self.draining.load(Ordering::Acquire) {
            Standing::Draining
        } else if broker_up.as_ref().is_none_or(|up| *up.borrow()) {
            Standing::Well
        } else if *is_broker_optional {
            Standing::Tolerated
        } else {
            Standing::Degraded
        }
    }
}

type Bound = (SocketAddr, UdpSocket, TcpListener);

/// How long closed QUIC connections may take to tell their peers so.
const FAREWELL: Duration = Duration::from_secs(1);
/// A port that is free for TCP may be taken for UDP: with port 0 the system is asked again.
const PORT_TRIES: usize = 16;

/// Binds UDP and TCP of every address. Port 0 is chosen once and shared by all.
fn bind_all(addresses: &Addresses, metrics: &Metrics) -> Result<Vec<Bound>, StartError> {
    let mut bound: Vec<Bound> = Vec::new();
    let mut smallest = usize::MAX;
    for &wanted in &addresses.list {
        let chosen = bound.iter().map(|(address, ..)| address.port()).next();
        let port = if wanted.port() == 0 { chosen.unwrap_or(0) } else { wanted.port() };
        let address = SocketAddr::new(wanted.ip(), port);
        match bind_both(address, addresses.v6_only(wanted)) {
            Ok((address, udp, tcp)) => {
                smallest = smallest.min(udp.receive_buffer);
                bound.push((address, udp.socket, tcp));
            }
            Err(error) if addresses.by_default && error.is_absent_address() => {
                tracing::info!(%address, "this machine has no such address; left out");
            }
            Err(error) => return Err(error),
        }
    }
    if bound.is_empty() {
        return Err(StartError::NoAddress);
    }
    metrics.udp_receive_buffer(smallest);
    Ok(bound)
}

fn bind_both(
    wanted: SocketAddr,
    v6_only: bool,
) -> Result<(SocketAddr, BoundUdp, TcpListener), StartError> {
    let mut tries = if wanted.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        let of = |socket, address| move |source| StartError::Bind { socket, address, source };
        let tcp = bind_tcp(wanted, v6_only).map_err(of(Socket::Tcp, wanted))?;
        let address = tcp.local_addr().map_err(of(Socket::Tcp, wanted))?;
        tries -= 1;
        match bind_udp(address, v6_only) {
            Ok(udp) => {
                tracing::debug!(
                    %address, receive = udp.receive_buffer, send = udp.send_buffer,
                    "udp buffers the system granted"
                );
                return Ok((address, udp, tcp));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(source) => return Err(of(Socket::Udp, address)(source)),
        }
    }
}

fn bind_http(addresses: &Addresses) -> Result<Vec<(SocketAddr, TcpListener)>, StartError> {
    let mut bound: Vec<(SocketAddr, TcpListener)> = Vec::new();
    for &wanted in &addresses.list {
        let chosen = bound.iter().map(|(address, _)| address.port()).next();
        let port = if wanted.port() == 0 { chosen.unwrap_or(0) } else { wanted.port() };
        let address = SocketAddr::new(wanted.ip(), port);
        let of = |source| StartError::Bind { socket: Socket::Http, address, source };
        match bind_tcp(address, addresses.v6_only(wanted)).map_err(of) {
            Ok(tcp) => bound.push((tcp.local_addr().map_err(of)?, tcp)),
            Err(error) if addresses.by_default && error.is_absent_address() => {
                tracing::info!(%address, "this machine has no such address; left out");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(bound)
}
