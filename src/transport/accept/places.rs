//! The places of those who come in, each given back when it is dropped.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedSemaphorePermit;

use super::addresses::{AddressPlace, Addresses};

/// What a QUIC connection takes up, until QUIC has forgotten it. After a connection has ended that
/// takes three times as long as an answer may take, and how long that is the peer says: up to a
/// minute, and more. So what has ended counts until then, in all and with its address, or whoever
/// comes and goes would have more of the gateway's memory than everybody who stays.
#[derive(Debug)]
pub struct Footprint {
    _place: OwnedSemaphorePermit,
    of_address: Mutex<Option<AddressPlace>>,
}

impl Footprint {
    pub(super) fn new(place: OwnedSemaphorePermit) -> Self {
        Footprint { _place: place, of_address: Mutex::default() }
    }
}

/// Counts what is left of a QUIC connection with its address, once it has ended.
#[derive(Debug)]
struct Departure {
    footprint: Weak<Footprint>,
    ungreeted_of: Addresses,
    address: IpAddr,
}

impl Drop for Departure {
    fn drop(&mut self) {
        if let Some(footprint) = self.footprint.upgrade() {
            let place = self.ungreeted_of.take(self.address);
            *footprint.of_address.lock().unwrap_or_else(PoisonError::into_inner) = place;
        }
    }
}

/// The place a set-up takes.
#[derive(Debug)]
pub struct Entered {
    // The first to be dropped, so that its address is not free for a moment.
    departure: Option<Departure>,
    _place: OwnedSemaphorePermit,
    _of_address: Option<AddressPlace>,
    /// Absent where many are behind one: what comes by plain HTTP comes from a proxy.
    address: Option<IpAddr>,
}

impl Entered {
    pub(super) fn by_quic(
        place: OwnedSemaphorePermit,
        of_address: AddressPlace,
        footprint: &Arc<Footprint>,
    ) -> Self {
        let (ungreeted_of, address) = (of_address.addresses().clone(), of_address.address());
        let footprint = Arc::downgrade(footprint);
        let departure = Some(Departure { footprint, ungreeted_of, address });
        Entered { departure, ..Entered::by_tls(place, of_address) }
    }

    pub(super) fn by_tls(place: OwnedSemaphorePermit, of_address: AddressPlace) -> Self {
        let address = Some(of_address.address());
        Entered { departure: None, _place: place, _of_address: Some(of_address), address }
    }

    pub(super) fn by_plain(place: OwnedSemaphorePermit) -> Self {
        Entered { departure: None, _place: place, _of_address: None, address: None }
    }

    pub(super) fn admitted(
        mut self,
        connection: OwnedSemaphorePermit,
        connections_of: Addresses,
    ) -> Admitted {
        Admitted {
            _departure: self.departure.take(),
            _connection: connection,
            address: self.address,
            of_address: None,
            connections_of,
            ungreeted: Some(self),
        }
    }
}

/// The place a connection takes.
#[derive(Debug)]
pub struct Admitted {
    _departure: Option<Departure>,
    _connection: OwnedSemaphorePermit,
    address: Option<IpAddr>,
    of_address: Option<AddressPlace>,
    connections_of: Addresses,
    ungreeted: Option<Entered>,
}

impl Admitted {
    /// Counts the connection under its address, if that may have one more.
    pub fn try_settle(&mut self) -> bool {
        let (Some(address), None) = (self.address, &self.of_address) else { return true };
        self.of_address = self.connections_of.try_take(address);
        self.of_address.is_some()
    }

    /// Counts the connection under its address, however many that has.
    pub fn settle(&mut self) {
        if let (Some(address), None) = (self.address, &self.of_address) {
            self.of_address = self.connections_of.take(address);
        }
    }

    /// The place under its address, for the session to keep: that counts there for as long as it
    /// lives, or those who leave and come back would be more than those who stay.
    pub fn take_place(&mut self) -> Option<AddressPlace> {
        self.of_address.take()
    }

    /// The peer has said `hello`: the place among those who have not is free again.
    pub fn greeted(&mut self) {
        self.ungreeted = None;
    }
}
