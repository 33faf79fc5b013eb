//! Notices that another address of this machine leads to the gateway now.
//!
//! The system tells of every change of links, addresses and routes, of which most concern
//! nobody here. So what it says is not even read: each time it says something, it is asked
//! from which address it would send to the gateway, and only a different one counts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::task::{Context, Poll};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, SocketAddr as Groups, TokioSocket};

/// Links, and the addresses and routes of both families (`RTMGRP_*` in `linux/rtnetlink.h`).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// What the system says is thrown away.
const BUFFER: usize = 256;
/// Taken at once; then others have a turn.
const TURN: usize = 64;

/// Follows from where the gateway is reached.
pub(crate) struct Watch {
    /// Gone when it turned out to be of no use.
    socket: Option<TokioSocket>,
    gateway: Option<SocketAddr>,
    source: Option<IpAddr>,
}

impl Watch {
    /// Begins to listen. Must be called on a runtime.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind(&Groups::new(0, GROUPS))?;
        Ok(Watch { socket: Some(socket), gateway: None, source: None })
    }

    /// The gateway is reached there from now on.
    pub(crate) fn follow(&mut self, gateway: SocketAddr) {
        self.gateway = Some(gateway);
        self.source = source(gateway);
    }

    /// The address from which the gateway is reached, once that is another one than before. A
    /// machine without any is not told of until there is one again.
    pub(crate) fn poll_moved(&mut self, cx: &mut Context<'_>) -> Poll<IpAddr> {
        if !self.poll_said(cx) {
            return Poll::Pending;
        }
        let Some(gateway) = self.gateway else { return Poll::Pending };
        let now = source(gateway);
        if now == self.source {
            return Poll::Pending;
        }
        self.source = now;
        // What else there is to take wakes.
        now.map_or(Poll::Pending, Poll::Ready)
    }

    /// Whether the system has said anything.
    fn poll_said(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(socket) = &self.socket else { return false };
        let (mut said, mut failed) = (false, 0);
        let mut buffer = [0_u8; BUFFER];
        for _ in 0..TURN {
            match socket.poll_recv(cx, &mut &mut buffer[..]) {
                Poll::Pending => return said,
                Poll::Ready(Ok(())) => said = true,
                // More was said than there was room for, which is all we ask.
                Poll::Ready(Err(_)) => (said, failed) = (true, failed + 1),
            }
        }
        if failed == TURN {
            tracing::debug!("the system does not tell of its network any more");
            self.socket = None;
        }
        cx.waker().wake_by_ref();
        said
    }
}

/// From which address the system would send there. Nothing is sent for that.
fn source(to: SocketAddr) -> Option<IpAddr> {
    let any = match to.ip().to_canonical() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((to.ip().to_canonical(), to.port())).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_unspecified()).then_some(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_way_to_oneself_is_from_oneself() {
        for gateway in ["127.0.0.1:1", "[::ffff:127.0.0.1]:1"] {
            let mut watch = Watch::open().unwrap();
            watch.follow(gateway.parse().unwrap());
            assert_eq!(watch.source, Some(IpAddr::from(Ipv4Addr::LOCALHOST)), "{gateway}");
        }
    }
}
