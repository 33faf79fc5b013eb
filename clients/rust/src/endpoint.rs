//! The UDP socket that WebTransport connections run on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use quinn::{EndpointConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

/// Asked of the system; it may grant less.
const SOCKET_BUFFER: usize = 1 << 20;

/// A UDP socket for WebTransport, which several clients may share.
///
/// It is bound to the wildcard address, so that the system may send from whatever address
/// leads to the gateway at the time: a connection then survives a change of network without
/// anybody noticing. [`Endpoint::rebind`] moves to a new socket at once.
#[derive(Clone, Debug)]
pub struct Endpoint {
    quic: quinn::Endpoint,
    /// From where the gateways were last found to be reached.
    source: Arc<Mutex<Option<IpAddr>>>,
}

impl Endpoint {
    /// Opens one. Must be called on a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let config = EndpointConfig::default();
        let quic = quinn::Endpoint::new(config, None, wildcard()?, Arc::new(TokioRuntime))?;
        Ok(Endpoint { quic, source: Arc::default() })
    }

    /// Moves every connection to a new socket: they go on from there.
    pub fn rebind(&self) -> io::Result<()> {
        self.quic.rebind(wildcard()?)
    }

    /// Moves every connection, unless another client that shares the socket has seen to it.
    pub(crate) fn rebind_from(&self, source: IpAddr) -> io::Result<()> {
        let mut last = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        if last.replace(source) == Some(source) { Ok(()) } else { self.rebind() }
    }

    pub(crate) fn quic(&self) -> &quinn::Endpoint {
        &self.quic
    }
}

/// Both address families where the system has both, whatever it can otherwise.
fn wildcard() -> io::Result<UdpSocket> {
    let both = bind(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, 0).into());
    both.or_else(|_| bind(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, 0).into()))
}

fn bind(domain: Domain, address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    // Too small a buffer only costs retransmissions.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}
