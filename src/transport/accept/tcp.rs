//! TCP listeners, with and without TLS, and their accept loop.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::server::Acceptor as TlsGreeting;
#[cfg(any(target_os = "linux", target_os = "android"))]
use socket2::SockRef;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::super::Kind;
use super::super::websocket::WebSocket;
use super::{
    Acceptor, Attach, Entered, Gate, Refused, SETUP_TIMEOUT, ServeTcp, TcpCaller, Upgraded,
};
use crate::clock::Clock;
use crate::turns::Rank;

/// Connections the system holds for us until we take them.
const BACKLOG: i32 = 1_024;
/// Bytes the system takes ahead of what it has sent: what is more urgent overtakes the rest.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NOT_SENT_MAX: u32 = 16 * 1024;
/// The same for what TLS has encrypted and the system has not taken.
const TLS_BUFFER_MAX: usize = 16 * 1024;
/// However slowly it reads or asks, nobody stays longer without becoming a WebSocket.
const SERVE_TIMEOUT: Duration = Duration::from_secs(60);
/// ... nor this long, while more than half of the places are taken.
const SERVE_TIMEOUT_CROWDED: Duration = Duration::from_secs(10);
const ALPN_HTTP1: &[u8] = b"http/1.1";
/// How long to wait where waiting is all that helps, as with a lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Binds and listens. With `v6_only`, an IPv6 socket leaves IPv4 to another one on the same
/// port. Must be called on a runtime.
pub fn bind_tcp(address: SocketAddr, v6_only: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    // Connections of an earlier run that are still winding down do not keep the port.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// TLS on a TCP listener.
#[derive(Clone)]
pub struct TcpTls(Arc<rustls::ServerConfig>);

impl TcpTls {
    /// Any configuration of ours; the protocol name is put in here.
    pub fn new(tls: &rustls::ServerConfig) -> Self {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
        TcpTls(Arc::new(tls))
    }

    async fn accept(&self, greeted: StartHandshake<TcpStream>) -> io::Result<TcpIo> {
        let mut stream = greeted.into_stream(self.0.clone()).await?;
        stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_MAX));
        Ok(TcpIo::Tls(Box::new(stream)))
    }
}

impl std::fmt::Debug for TcpTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TcpTls")
    }
}

/// A TCP stream, with TLS or without.
#[derive(Debug)]
pub enum TcpIo {
    /// Without.
    Plain(TcpStream),
    /// With. Boxed: it is twenty times as large.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Accepts TCP connections until told to end. Trouble of the system's is waited out.
pub async fn accept_tcp<A: Attach, H: ServeTcp>(
    listener: Arc<TcpListener>,
    tls: Option<TcpTls>,
    handler: Arc<H>,
    acceptor: Acceptor<A>,
) {
    let end = acceptor.end.clone();
    let mut troubled = false;
    while let Some(accepted) = end.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, remote)) => {
                if std::mem::take(&mut troubled) {
                    tracing::info!("accepting tcp connections again");
                }
                // As long as there is no place, the next ones wait in the system's backlog.
                let place = enter(&acceptor, tls.is_some(), remote.ip());
                let Some(entered) = end.run_until_cancelled(place).await else { return };
                let Some(entered) = entered else {
                    acceptor.attach.refused(Kind::WebSocket, &Refused::Capacity);
                    continue;
                };
                let (tls, handler) = (tls.clone(), handler.clone());
                let task = set_up(stream, remote, tls, handler, entered, acceptor.clone());
                acceptor.spawn(Kind::WebSocket, Rank::default(), task);
            }
            // The peer's doing.
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut troubled, true) {
                    tracing::error!(%error, "cannot accept tcp connections; trying on");
                }
                if end.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                    return;
                }
            }
        }
    }
}

async fn enter<A>(acceptor: &Acceptor<A>, encrypted: bool, address: IpAddr) -> Option<Entered> {
    match encrypted {
        true => acceptor.gate.enter_tls(acceptor.clock.now(), address).await,
        false => acceptor.gate.enter_plain().await,
    }
}

async fn set_up<A: Attach, H: ServeTcp>(
    stream: TcpStream,
    remote: SocketAddr,
    tls: Option<TcpTls>,
    handler: Arc<H>,
    entered: Entered,
    acceptor: Acceptor<A>,
) {
    let Acceptor { gate, settings, clock, attach, end, .. } = acceptor;
    let encrypted = tls.is_some();
    let stay = if gate.is_tcp_crowded(encrypted) { SERVE_TIMEOUT_CROWDED } else { SERVE_TIMEOUT };
    let upgrade = async {
        let io = open(stream, tls, &gate, clock).await?;
        let caller = TcpCaller { io, remote, encrypted, entered };
        tokio::time::timeout(stay, handler.serve(caller)).await.map_err(|_| Refused::Late)
    };
    // Boxed, so that its memory is gone before the connection's own begins to count.
    match Box::pin(end.run_until_cancelled(upgrade)).await {
        None | Some(Ok(None)) => {}
        Some(Ok(Some(Upgraded { io, read_ahead, codec, admitted }))) => {
            let transport = WebSocket::new(io, read_ahead, codec, remote, settings, clock).await;
            attach.attach(transport, admitted);
        }
        Some(Err(refused)) => {
            // As a text, for it may be the peer's own.
            tracing::debug!(%remote, refused = refused.to_string(), "no http connection");
            attach.refused(Kind::WebSocket, &refused);
        }
    }
}

async fn open(
    stream: TcpStream,
    tls: Option<TcpTls>,
    gate: &Gate,
    clock: Clock,
) -> Result<TcpIo, Refused> {
    let broken = |error: io::Error| Refused::Broken(error.to_string());
    stream.set_nodelay(true).map_err(broken)?;
    keep_unsent_short(&stream).map_err(broken)?;
    match tls {
        None => Ok(TcpIo::Plain(stream)),
        Some(tls) => {
            let handshake = async {
                // Who does not say what it takes to go on takes nobody's turn.
                let greeted = LazyConfigAcceptor::new(TlsGreeting::default(), stream);
                let greeted = greeted.await.map_err(broken)?;
                gate.handshake_tls(clock, SETUP_TIMEOUT / 2).await?;
                tls.accept(greeted).await.map_err(broken)
            };
            let handshake = tokio::time::timeout(SETUP_TIMEOUT, handshake);
            handshake.await.unwrap_or(Err(Refused::Late))
        }
    }
}

/// Keeps what waits unsent in the system short, where the system can.
fn keep_unsent_short(stream: &TcpStream) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    SockRef::from(stream).set_tcp_notsent_lowat(NOT_SENT_MAX)?;
    Ok(())
}

impl AsyncRead for TcpIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TcpIo::Plain(io) => Pin::new(io).poll_read(cx, buf),
            TcpIo::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for TcpIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            TcpIo::Plain(io) => Pin::new(io).poll_write(cx, buf),
            TcpIo::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            TcpIo::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            TcpIo::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            TcpIo::Plain(io) => io.is_write_vectored(),
            TcpIo::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TcpIo::Plain(io) => Pin::new(io).poll_flush(cx),
            TcpIo::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TcpIo::Plain(io) => Pin::new(io).poll_shutdown(cx),
            TcpIo::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// Whether the next connection may well be accepted at once.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_peer_did_is_told_from_what_the_system_lacks() {
        use io::ErrorKind::{ConnectionAborted, OutOfMemory, PermissionDenied};
        assert!(is_passing(&ConnectionAborted.into()));
        for kind in [OutOfMemory, PermissionDenied] {
            assert!(!is_passing(&kind.into()));
        }
        const EMFILE: i32 = 24;
        assert!(!is_passing(&io::Error::from_raw_os_error(EMFILE)));
    }
}
