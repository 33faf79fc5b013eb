//! The QUIC side: what a server configuration bounds, and the UDP socket under it.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    AsyncTimer, AsyncUdpSocket, EndpointConfig, IdleTimeout, Runtime, TokioRuntime,
    TransportConfig, VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::super::Settings;
use super::super::accept::Footprint;
use super::connection_id::{self, ServerIdGenerator, ServerIds};
use super::secret::EndpointSecret;
use crate::clock::Clock;
use crate::pressure::Pressure;
use crate::turns::Turns;

/// HTTP/3 control and the two of QPACK take three of those in one direction. The others are refused, as
/// many as of those in both directions beside CONNECT at the least.
const UNI_STREAMS_MORE: u32 = 2;
/// What a peer may send ahead on one stream before we have read it.
const STREAM_WINDOW: u32 = 128 * 1024;
/// ... and on all streams together,
pub(super) const RECEIVE_WINDOW: u32 = 384 * 1024;
/// ... before it has been greeted: a `hello`, and what HTTP/3 has to say.
const GREETING_WINDOW: u32 = 64 * 1024;
/// Bytes sent and not yet acknowledged, or handed over and not yet sent.
pub(super) const SEND_WINDOW: u64 = 256 * 1024;
/// What signal may use beyond [`SEND_WINDOW`] when bulk has filled it.
pub(super) const SIGNAL_HEADROOM: u64 = 256 * 1024;
/// Datagrams nobody has fetched yet; more are dropped.
const DATAGRAMS_IN: usize = 64 * 1024;
/// Datagrams the congestion controller holds back; the oldest are dropped.
const DATAGRAMS_OUT: usize = 32 * 1024;
/// Connections quinn may hold for us between its receiving and our taking them.
const INCOMING_MAX: usize = 4_096;
/// Bytes it may hold for one of those, from an address that has proven nothing: a few packets ...
const INCOMING_BYTES: u64 = 16 * 1024;
/// ... and for all of them.
const INCOMING_BYTES_TOTAL: u64 = 8 << 20;
/// What we ask the system to buffer: the usual 208 KiB lose a burst of 1,000 datagrams.
const SOCKET_BUFFER: usize = 8 << 20;
const ALPN_H3: &[u8] = b"h3";

/// Why QUIC cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// The TLS provider lacks what QUIC's first packets need.
    #[error("the TLS provider has no cipher suite for QUIC (TLS_AES_128_GCM_SHA256)")]
    Tls,
    /// The heartbeat is too long to be an idle timeout.
    #[error("the heartbeat is too long for a QUIC idle timeout")]
    Heartbeat,
}

/// The server configuration for connections that carry WebTransport. `tls` is any
/// configuration of ours; the protocol name is put in here.
pub fn server_config(
    tls: &rustls::ServerConfig,
    settings: Settings,
) -> Result<quinn::ServerConfig, QuicError> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![ALPN_H3.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).map_err(|_| QuicError::Tls)?;
    let idle = IdleTimeout::try_from(settings.idle_timeout()).map_err(|_| QuicError::Heartbeat)?;

    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(settings.streams))
        .max_concurrent_uni_streams(VarInt::from_u32(
            settings.streams.saturating_add(UNI_STREAMS_MORE),
        ))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(GREETING_WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(Some(DATAGRAMS_IN))
        .datagram_send_buffer_size(DATAGRAMS_OUT)
        // Chromium sends no keep-alives of its own.
        .keep_alive_interval(Some(settings.heartbeat))
        .max_idle_timeout(Some(idle));

    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport))
        .migration(true)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
    Ok(config)
}

/// A UDP socket that is bound, and what the system gave it.
#[derive(Debug)]
pub struct BoundUdp {
    /// The socket.
    pub socket: UdpSocket,
    /// Bytes of the receive buffer, as the system counts them.
    pub receive_buffer: usize,
    /// Bytes of the send buffer, as the system counts them.
    pub send_buffer: usize,
}

/// Binds `address`. With `v6_only`, an IPv6 socket leaves IPv4 to another one on the same port.
pub fn bind_udp(address: SocketAddr, v6_only: bool) -> io::Result<BoundUdp> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    // The system silently grants less than asked for, or refuses; both are for the log.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(BoundUdp {
        receive_buffer: socket.recv_buffer_size()?,
        send_buffer: socket.send_buffer_size()?,
        socket: socket.into(),
    })
}

tokio::task_local! {
    static FOOTPRINT: Arc<Footprint>;
}

/// Does something that makes a connection: `footprint` is kept for as long as QUIC has anything of
/// that.
pub fn keeping<T>(footprint: Arc<Footprint>, act: impl FnOnce() -> T) -> T {
    FOOTPRINT.sync_scope(footprint, act)
}

/// What quinn runs on: the socket on the first threads, a connection on those of its rank.
#[derive(Debug)]
struct Threads(Turns);

impl Runtime for Threads {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let _first = self.0.first().enter();
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        // A connection's task ends when quinn forgets it. The endpoint's own is of no connection.
        match FOOTPRINT.try_with(Arc::clone).ok() {
            Some(footprint) => self.0.go_on(async move {
                task.await;
                drop(footprint);
            }),
            None => self.0.go_on(task),
        }
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }
}

/// An endpoint on a bound socket. Connection ids are `ids`, or tell nothing. Without a secret it
/// knows nothing of what it did before a restart. Under `pressure` it reads less. Must be called on a
/// runtime.
pub fn endpoint(
    socket: UdpSocket,
    mut config: quinn::ServerConfig,
    clock: Clock,
    pressure: Pressure,
    turns: Turns,
    ids: Option<ServerIds>,
    secret: Option<&EndpointSecret>,
) -> io::Result<quinn::Endpoint> {
    let runtime = Arc::new(Threads(turns));
    let socket = runtime.wrap_udp_socket(socket)?;
    let id_bytes = ids.map_or(connection_id::NONCE_BYTES_MIN, |ids| ids.bytes());
    let socket = Arc::new(super::socket::Socket::new(socket, clock, pressure, id_bytes));
    let mut settings = match secret {
        Some(secret) => {
            config.token_key(secret.tokens());
            EndpointConfig::new(secret.resets())
        }
        None => EndpointConfig::default(),
    };
    settings.cid_generator(move || match ids {
        Some(ids) => Box::new(ServerIdGenerator::new(ids)),
        None => Box::new(connection_id::unnamed()),
    });
    quinn::Endpoint::new_with_abstract_socket(settings, Some(config), socket, runtime)
}

/// An endpoint with time for everybody, without a secret.
#[cfg(test)]
pub(crate) fn unpressed(
    socket: UdpSocket,
    config: quinn::ServerConfig,
    ids: Option<ServerIds>,
) -> quinn::Endpoint {
    let (clock, pressure) = (Clock::start(), Pressure::default());
    endpoint(socket, config, clock, pressure, Turns::undivided(), ids, None).unwrap()
}
