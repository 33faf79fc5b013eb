//! Where the system is not watched: only the application knows that the network changed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

/// Never there.
pub(crate) enum Watch {}

impl Watch {
    pub(crate) fn open() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn follow(&mut self, _: SocketAddr) {
        match *self {}
    }

    pub(crate) fn poll_moved(&mut self, _: &mut Context<'_>) -> Poll<IpAddr> {
        match *self {}
    }
}
