//! Why the gateway does not start, in one sentence for whoever started it.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::auth::KeyError;
use crate::config::ConfigError;
use crate::tls::IdentityError;

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What it was told makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It has no certificate to show.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It cannot check tokens.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The system has no threads left.
    #[error(
        "cannot start threads: {0}; raise the limit of processes (ulimit -u, TasksMax, pids.max)"
    )]
    Threads(io::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({socket}): {}", bind_reason(*socket, source))]
    Bind {
        /// What for.
        socket: Socket,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Not one of the addresses listened on by default exists here.
    #[error(
        "this machine has neither 127.0.0.1 nor ::1 to listen on; name an address with --listen"
    )]
    NoAddress,
    /// The broker cannot be reached under any circumstances.
    #[error("cannot use what `broker` (--broker) names: {0}")]
    Broker(String),
    /// The QUIC library refuses its settings.
    #[error("cannot set up QUIC: {0}")]
    Quic(String),
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// QUIC.
    Udp,
    /// TLS.
    Tcp,
    /// Plain HTTP.
    Http,
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Socket::Udp => "UDP",
            Socket::Tcp => "TCP",
            Socket::Http => "plain HTTP",
        })
    }
}

impl Socket {
    const fn flag(self) -> &'static str {
        match self {
            Socket::Udp | Socket::Tcp => "--listen",
            Socket::Http => "--http",
        }
    }
}

impl StartError {
    /// Whether the machine has no such address at all, which is no error for one that is
    /// listened on by default.
    pub fn is_absent_address(&self) -> bool {
        match self {
            StartError::Bind { source, .. } => {
                // Without IPv6 the system knows no such address, or not even the family.
                source.kind() == io::ErrorKind::AddrNotAvailable
                    || source.raw_os_error() == Some(FAMILY_UNSUPPORTED)
            }
            _ => false,
        }
    }
}

/// Linux's EAFNOSUPPORT; std has no kind for it.
const FAMILY_UNSUPPORTED: i32 = 97;

fn bind_reason(socket: Socket, source: &io::Error) -> String {
    let flag = socket.flag();
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            format!("something listens there already; stop it, or choose another port with {flag}")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address; choose another with {flag}")
        }
        io::ErrorKind::PermissionDenied => {
            format!("this user may not; choose a port above 1023 with {flag}, or grant it")
        }
        _ => format!("{source}; choose another address with {flag}"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_taken_is_said_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let source = TcpListener::bind(address).unwrap_err();
        let error = StartError::Bind { socket: Socket::Tcp, address, source };
        assert_eq!(
            error.to_string(),
            format!(
                "cannot listen on {address} (TCP): something listens there already; stop it, or \
                 choose another port with --listen"
            )
        );
        assert!(!error.is_absent_address());
    }

    #[test]
    fn an_address_the_machine_lacks_is_told_apart() {
        // From the range kept for documentation: no machine has it.
        let address: SocketAddr = "203.0.113.1:0".parse().unwrap();
        let source = TcpListener::bind(address).unwrap_err();
        let error = StartError::Bind { socket: Socket::Http, address, source };
        assert!(error.is_absent_address());
        let sentence = error.to_string();
        assert!(sentence.ends_with("no such address; choose another with --http"), "{sentence}");
    }
}
