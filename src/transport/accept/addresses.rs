//! How many of something each address has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use handover_protocol::pace::Rate;
use handover_protocol::time::Time;

use super::super::rates::Rates;

/// Whoever has an IPv6 address has at least a network of this many bits to choose from,
const V6_PREFIX: u32 = 64;
/// and often as many of them as there are in one of these. Others may be in it, too,
const V6_SITE: u32 = 48;
/// so that it may have so many times what one network may.
const SITE_TIMES: usize = 4;

/// Counts per address. Clones count together.
#[derive(Clone, Debug)]
pub struct Addresses {
    most: usize,
    counts: Arc<Mutex<HashMap<Counted, usize>>>,
}

/// What is counted, and how often it may have what an address may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Counted {
    Address(IpAddr),
    Site(IpAddr),
}

impl Counted {
    /// What an address is counted as, the site first.
    fn all(address: IpAddr) -> impl Iterator<Item = Counted> {
        let site = match address.to_canonical() {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(Counted::Site(network(address, V6_SITE))),
        };
        site.into_iter().chain([Counted::Address(key(address))])
    }

    fn times(self, most: usize) -> usize {
        match self {
            Counted::Address(_) => most,
            Counted::Site(_) => most.saturating_mul(SITE_TIMES),
        }
    }
}

impl Addresses {
    /// At most so many for an address.
    pub fn new(most: usize) -> Self {
        Addresses { most, counts: Arc::default() }
    }

    /// A place for this address, if it may have one more.
    pub fn try_take(&self, address: IpAddr) -> Option<AddressPlace> {
        self.take_below(address, self.most)
    }

    /// A place for this address, however many it has.
    pub fn take(&self, address: IpAddr) -> Option<AddressPlace> {
        self.take_below(address, usize::MAX)
    }

    /// Whether the address has more than half of what it may have.
    pub fn is_crowded(&self, address: IpAddr) -> bool {
        let counts = self.counts();
        let mut held = Counted::all(address).map(|of| (of, counts.get(&of).copied().unwrap_or(0)));
        held.any(|(of, held)| held > of.times(self.most) / 2)
    }

    fn take_below(&self, address: IpAddr, most: usize) -> Option<AddressPlace> {
        let mut counts = self.counts();
        // Looked at first: an address that gets nothing leaves nothing behind.
        let held = |of| counts.get(&of).copied().unwrap_or(0);
        if Counted::all(address).any(|of| held(of) >= of.times(most)) {
            return None;
        }
        Counted::all(address).for_each(|of| *counts.entry(of).or_insert(0) += 1);
        Some(AddressPlace { address, addresses: self.clone() })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Counted, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How fast addresses come.
#[derive(Debug)]
pub struct Callers {
    addresses: Rates,
    sites: Rates,
}

impl Callers {
    /// Nobody has come yet.
    pub fn new(now: Time) -> Self {
        Callers { addresses: Rates::new(now), sites: Rates::new(now) }
    }

    /// Whether one from this address may come now, if each may come at `rate`, and its site at what
    /// a site has of it.
    pub fn may_come(&self, now: Time, address: IpAddr, rate: Rate) -> bool {
        // The site first: what that may not have is not charged to the addresses, of which it can
        // name so many that everybody would meet one.
        Counted::all(address).all(|of| match of {
            Counted::Site(_) => self.sites.may_come(now, of, of_site(rate), 1),
            Counted::Address(_) => self.addresses.may_come(now, of, rate, 1),
        })
    }
}

/// What all of a site may have.
fn of_site(Rate { per_s, burst }: Rate) -> Rate {
    let times = SITE_TIMES as u64;
    Rate { per_s: per_s.saturating_mul(times), burst: burst.saturating_mul(times) }
}

/// What is counted as one address.
fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => network(address, V6_PREFIX),
    }
}

fn network(address: Ipv6Addr, bits: u32) -> IpAddr {
    Ipv6Addr::from_bits(address.to_bits() >> (128 - bits) << (128 - bits)).into()
}

/// One place of an address; given back when dropped.
#[derive(Debug)]
pub struct AddressPlace {
    address: IpAddr,
    addresses: Addresses,
}

impl AddressPlace {
    /// Whose it is.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    /// What it is counted in.
    pub(super) fn addresses(&self) -> &Addresses {
        &self.addresses
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut counts = self.addresses.counts();
        for of in Counted::all(self.address) {
            if let Some(count) = counts.get_mut(&of) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&of);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_counted_apart_and_forgotten() {
        let addresses = Addresses::new(2);
        let (one, other) = (ip("203.0.113.7"), ip("203.0.113.8"));
        let first = addresses.try_take(one).unwrap();
        let _second = addresses.try_take(one).unwrap();
        assert!(addresses.try_take(one).is_none());
        let beyond = addresses.take(one).unwrap();
        drop(first);
        assert!(addresses.try_take(one).is_none(), "the one beyond counts too");
        drop(beyond);
        assert!(addresses.try_take(one).is_some());
        assert!(!addresses.is_crowded(one) && !addresses.is_crowded(other));
        drop(addresses.try_take(other).unwrap());
        assert_eq!(addresses.counts().len(), 1, "who has none is not remembered");
    }

    #[test]
    fn a_v6_network_is_one_address_and_v4_is_v4_however_it_is_written() {
        let addresses = Addresses::new(1);
        let _place = addresses.try_take(ip("2001:db8:1:2:3::4")).unwrap();
        assert!(addresses.try_take(ip("2001:db8:1:2:ffff::1")).is_none());
        let _neighbour = addresses.try_take(ip("2001:db8:1:3::1")).unwrap();
        let _mapped = addresses.try_take(ip("::ffff:203.0.113.7")).unwrap();
        assert!(addresses.try_take(ip("203.0.113.7")).is_none());
        assert!(addresses.is_crowded(ip("203.0.113.7")));
    }

    #[test]
    fn the_networks_of_a_site_have_four_times_what_one_may_have() {
        let addresses = Addresses::new(2);
        let from = |net: usize| addresses.try_take(ip(&format!("2001:db8:1:{net:x}::1")));
        let places: Vec<_> = (0..9).flat_map(|net| [from(net), from(net)]).flatten().collect();
        assert_eq!(places.len(), 8);
        assert!(addresses.is_crowded(ip("2001:db8:1:ffff::1")));
        assert!(addresses.try_take(ip("2001:db8:1:ffff::1")).is_none());
        assert!(addresses.take(ip("2001:db8:1:ffff::1")).is_some(), "however many there are");
        assert!(addresses.try_take(ip("2001:db8:2:ffff::1")).is_some(), "it is another one's");
        drop(places);
        assert!(addresses.counts().is_empty());
    }
}
