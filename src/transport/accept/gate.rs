//! Who may come in, and how many at once.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is known of a peer before it has a connection.
#[derive(Clone, Copy, Debug)]
pub struct Visitor<'a> {
    /// The `Origin` header; absent unless a browser calls.
    pub origin: Option<&'a str>,
    /// The host and port it asked for.
    pub authority: Option<&'a str>,
    /// Where it calls from.
    pub address: IpAddr,
    /// Whether it came by TLS or QUIC.
    pub encrypted: bool,
}

/// Why there is no connection after all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It asked for an address that is not there.
    #[error("unknown path")]
    Path,
    /// It asked for a codec or sub-protocols none of which is known.
    #[error("unknown codec or sub-protocols")]
    Codec,
    /// Its page may not connect.
    #[error("forbidden origin")]
    Origin,
    /// There are as many connections as there may be.
    #[error("no capacity")]
    Capacity,
    /// It did not finish setting up in time.
    #[error("not set up in time")]
    Late,
    /// Its set-up failed on the way.
    #[error("set-up failed: {0}")]
    Broken(String),
}

impl Refused {
    /// The name in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Refused::Path => "path",
            Refused::Codec => "codec",
            Refused::Origin => "origin",
            Refused::Capacity => "capacity",
            Refused::Late => "late",
            Refused::Broken(_) => "broken",
        }
    }
}

type OriginRule = dyn Fn(Visitor<'_>) -> bool + Send + Sync;

/// Decides who may come in. One for all listeners of a gateway.
pub struct Gate {
    connections: Arc<Semaphore>,
    ungreeted: Arc<Semaphore>,
    ungreeted_max: usize,
    origins: Box<OriginRule>,
}

impl Gate {
    /// At most `connections`, of which at most `ungreeted` have not said `hello`; HTTP
    /// requests count among the latter while they last.
    pub fn new(
        connections: usize,
        ungreeted: usize,
        origins: impl Fn(Visitor<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        let semaphore =
            |permits: usize| Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Gate {
            connections: semaphore(connections),
            ungreeted: semaphore(ungreeted),
            ungreeted_max: ungreeted,
            origins: Box::new(origins),
        }
    }

    /// Whether the visitor's page may connect.
    pub fn allows(&self, visitor: Visitor<'_>) -> bool {
        (self.origins)(visitor)
    }

    /// A place for one set-up, if there is one.
    pub fn try_enter(&self) -> Option<Entered> {
        self.ungreeted.clone().try_acquire_owned().ok().map(Entered)
    }

    /// A place for one set-up, as soon as there is one. `None` once the gate is closed.
    pub async fn enter(&self) -> Option<Entered> {
        self.ungreeted.clone().acquire_owned().await.ok().map(Entered)
    }

    /// Whether so many are being set up that they had better prove their address first.
    pub fn is_crowded(&self) -> bool {
        self.ungreeted.available_permits() < self.ungreeted_max / 2
    }

    /// Lets a set-up become a connection, if there may be one more.
    pub fn admit(&self, entered: Entered) -> Result<Admitted, Refused> {
        match self.connections.clone().try_acquire_owned() {
            Ok(connection) => Ok(Admitted { _connection: connection, ungreeted: Some(entered) }),
            Err(_) => Err(Refused::Capacity),
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("connections", &self.connections)
            .field("ungreeted", &self.ungreeted)
            .finish_non_exhaustive()
    }
}

/// The place a set-up takes; given back when dropped.
#[derive(Debug)]
pub struct Entered(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// The place a connection takes; given back when dropped.
#[derive(Debug)]
pub struct Admitted {
    _connection: OwnedSemaphorePermit,
    ungreeted: Option<Entered>,
}

impl Admitted {
    /// The peer has said `hello`: the place among those who have not is free again.
    pub fn greeted(&mut self) {
        self.ungreeted = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back() {
        let gate = Gate::new(1, 2, |_| true);
        let first = gate.try_enter().unwrap();
        let second = gate.try_enter().unwrap();
        assert!(gate.try_enter().is_none());
        assert!(gate.is_crowded());

        let mut admitted = gate.admit(first).unwrap();
        assert_eq!(gate.admit(second).unwrap_err(), Refused::Capacity);
        assert!(gate.try_enter().is_some(), "a refused set-up gives its place back");

        admitted.greeted();
        let (third, fourth) = (gate.try_enter().unwrap(), gate.try_enter().unwrap());
        drop(admitted);
        assert!(gate.admit(third).is_ok());
        drop(fourth);
    }
}
