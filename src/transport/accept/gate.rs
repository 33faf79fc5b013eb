//! Who may come in, and how many at once.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use handover_protocol::pace::{Bucket, Rate};
use handover_protocol::time::Time;
use tokio::sync::Semaphore;

use super::addresses::{Addresses, Callers};
use super::places::{Admitted, Entered, Footprint};
use crate::clock::Clock;
use crate::pressure::{Pressure, Queue};

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

/// What a gate bounds.
#[derive(Clone, Copy, Debug)]
pub struct GateLimits {
    /// Connections at once.
    pub connections: usize,
    /// Set-ups, and connections that have not said `hello`, by QUIC; and as many by TCP, HTTP
    /// requests among them.
    pub ungreeted: usize,
    /// Those of one address.
    pub ungreeted_per_address: usize,
    /// Sessions of one address, with a connection or without.
    pub connections_per_address: usize,
    /// Handshakes begun per second by QUIC, and as many by TLS.
    pub handshakes: Option<Rate>,
}

impl GateLimits {
    /// At most `connections`, of which so many are `ungreeted`, from wherever and however fast.
    pub fn of(connections: usize, ungreeted: usize) -> Self {
        GateLimits {
            connections,
            ungreeted,
            ungreeted_per_address: usize::MAX,
            connections_per_address: usize::MAX,
            handshakes: None,
        }
    }
}

/// What is granted of handshakes under the greatest pressure, per second: a tenth of a core.
const HANDSHAKES_LEAST: u64 = 100;
/// Of the handshakes that are granted while they are scarce, one address gets one in so many.
const ADDRESS_SHARE: u64 = 50;

/// Places for set-ups of one kind, and how fast they come.
struct Lobby {
    places: Arc<Semaphore>,
    most: usize,
    handshakes: Option<Mutex<Bucket>>,
    callers: Callers,
    /// Who waits for a handshake waits in order.
    first: Semaphore,
    waiting: AtomicU64,
}

impl Lobby {
    fn new(limits: &GateLimits, now: Time) -> Self {
        let handshakes = limits.handshakes.map(|rate| Mutex::new(Bucket::new(rate, now)));
        let (places, most) = (semaphore(limits.ungreeted), limits.ungreeted);
        let (first, waiting) = (Semaphore::new(1), AtomicU64::new(0));
        Lobby { places, most, handshakes, callers: Callers::new(now), first, waiting }
    }

    fn is_crowded(&self) -> bool {
        self.places.available_permits() < self.most / 2
    }

    fn bucket(&self) -> Option<MutexGuard<'_, Bucket>> {
        let handshakes = self.handshakes.as_ref()?;
        Some(handshakes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn handshake(&self, now: Time, rate: Option<Rate>) -> Result<(), Duration> {
        let Some((mut bucket, rate)) = self.bucket().zip(rate) else { return Ok(()) };
        bucket.set_rate(now, rate);
        bucket.take(now, 1)
    }

    /// Whether more than half of a second's handshakes are used up.
    fn is_rushed(&self, now: Time, granted: Rate) -> bool {
        let Some(mut bucket) = self.bucket() else { return false };
        bucket.set_rate(now, granted);
        bucket.fraction(now) < 0.5
    }
}

/// One of those who wait, as long as it lives.
struct Waiting<'a> {
    all: &'a AtomicU64,
    ahead: u64,
}

impl<'a> Waiting<'a> {
    fn new(all: &'a AtomicU64) -> Self {
        Waiting { all, ahead: all.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

fn semaphore(permits: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))
}

/// Decides who may come in. One for all listeners of a gateway.
///
/// QUIC, TLS and plain HTTP have places of their own: whoever fills one with set-ups that lead
/// nowhere leaves the others open.
pub struct Gate {
    connections: Arc<Semaphore>,
    quic: Lobby,
    /// What QUIC has anything of, closed or not.
    footprints: Arc<Semaphore>,
    tls: Lobby,
    plain: Lobby,
    handshakes: Option<Rate>,
    pressure: Pressure,
    ungreeted_of: Addresses,
    connections_of: Addresses,
    origins: Box<OriginRule>,
}

impl Gate {
    /// A gate nobody has come through yet.
    pub fn new(
        limits: GateLimits,
        now: Time,
        origins: impl Fn(Visitor<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        Gate {
            connections: semaphore(limits.connections),
            quic: Lobby::new(&limits, now),
            footprints: semaphore(limits.connections.saturating_add(limits.ungreeted)),
            tls: Lobby::new(&limits, now),
            plain: Lobby::new(&limits, now),
            handshakes: limits.handshakes,
            pressure: Pressure::default(),
            ungreeted_of: Addresses::new(limits.ungreeted_per_address),
            connections_of: Addresses::new(limits.connections_per_address),
            origins: Box::new(origins),
        }
    }

    /// The same one, which lets fewer in while there is `pressure`.
    pub fn under(self, pressure: Pressure) -> Self {
        Gate { pressure, ..self }
    }

    /// The handshakes that may begin now.
    fn granted(&self) -> Option<Rate> {
        let whole = self.handshakes?;
        let least = whole.per_s.min(HANDSHAKES_LEAST);
        let Rate { per_s, burst } = self.pressure.of(Queue::Other, whole);
        Some(Rate { per_s: per_s.max(least), burst: burst.max(least) })
    }

    /// Whether this address has begun few enough handshakes of late. That matters once half of what
    /// there is of them is used up, and no sooner: many may be behind one address.
    fn has_patience_with(&self, lobby: &Lobby, now: Time, address: IpAddr) -> bool {
        let granted = self.granted().filter(|granted| lobby.is_rushed(now, *granted));
        granted.is_none_or(|Rate { per_s, .. }| {
            let share = (per_s / ADDRESS_SHARE).max(1);
            lobby.callers.may_come(now, address, Rate { per_s: share, burst: share })
        })
    }

    /// Whether the visitor's page may connect.
    pub fn allows(&self, visitor: Visitor<'_>) -> bool {
        (self.origins)(visitor)
    }

    /// A place for a set-up by QUIC, if there is one for this address, and what is to be kept for as
    /// long as QUIC has anything of it.
    pub fn try_enter_quic(&self, now: Time, address: IpAddr) -> Option<(Entered, Arc<Footprint>)> {
        if !self.has_patience_with(&self.quic, now, address) {
            return None;
        }
        let of_address = self.ungreeted_of.try_take(address)?;
        let place = self.quic.places.clone().try_acquire_owned().ok()?;
        let footprint = Arc::new(Footprint::new(self.footprints.clone().try_acquire_owned().ok()?));
        self.quic.handshake(now, self.granted()).ok()?;
        Some((Entered::by_quic(place, of_address, &footprint), footprint))
    }

    /// Whether so many come by QUIC, or from this address, that it had better be proven first.
    pub fn wants_proof(&self, now: Time, address: IpAddr) -> bool {
        self.pressure.is_on(Queue::Other)
            || self.quic.is_crowded()
            || self.granted().is_some_and(|granted| self.quic.is_rushed(now, granted))
            || self.ungreeted_of.is_crowded(address)
    }

    /// A place for a set-up by TLS, as soon as there is one. `None` if this address may have no
    /// more of them, or comes too fast.
    pub async fn enter_tls(&self, now: Time, address: IpAddr) -> Option<Entered> {
        if !self.has_patience_with(&self.tls, now, address) {
            return None;
        }
        let of_address = self.ungreeted_of.try_take(address)?;
        let place = self.tls.places.clone().acquire_owned().await.ok()?;
        Some(Entered::by_tls(place, of_address))
    }

    /// A place for a set-up by plain HTTP, as soon as there is one. It is not counted under its
    /// address: whoever stands before many others is trusted to bound them.
    pub async fn enter_plain(&self) -> Option<Entered> {
        let place = self.plain.places.clone().acquire_owned().await.ok()?;
        Some(Entered::by_plain(place))
    }

    /// Waits for the turn to go on with a TLS handshake, or refuses at once if it would not come
    /// within `patience`. Those who wait get theirs in order.
    pub async fn handshake_tls(&self, clock: Clock, patience: Duration) -> Result<(), Refused> {
        let Some(granted) = self.granted() else { return Ok(()) };
        let waiting = Waiting::new(&self.tls.waiting);
        if waiting.ahead as f64 > granted.per_s as f64 * patience.as_secs_f64() {
            return Err(Refused::Capacity);
        }
        // Never closed.
        let _first = self.tls.first.acquire().await;
        while let Err(wait) = self.tls.handshake(clock.now(), self.granted()) {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// Whether so many are being set up by TCP, or there is so much to do, that nobody should stay for
    /// long. Who comes by plain HTTP is there to look after the gateway, or a proxy.
    pub fn is_tcp_crowded(&self, encrypted: bool) -> bool {
        if encrypted {
            self.tls.is_crowded() || self.pressure.is_on(Queue::Other)
        } else {
            self.plain.is_crowded()
        }
    }

    /// Lets a set-up become a connection, if there may be one more.
    pub fn admit(&self, entered: Entered) -> Result<Admitted, Refused> {
        match self.connections.clone().try_acquire_owned() {
            Ok(connection) => Ok(entered.admitted(connection, self.connections_of.clone())),
            Err(_) => Err(Refused::Capacity),
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("connections", &self.connections)
            .field("quic", &self.quic.places)
            .field("tls", &self.tls.places)
            .field("plain", &self.plain.places)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const AWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

    fn gate(limits: GateLimits) -> Gate {
        Gate::new(limits, Time::ZERO, |_| true)
    }

    fn enter(gate: &Gate, address: IpAddr) -> Option<Entered> {
        gate.try_enter_quic(Time::ZERO, address).map(|(entered, _)| entered)
    }

    #[test]
    fn places_come_back() {
        let gate = gate(GateLimits::of(1, 2));
        let first = enter(&gate, HOME).unwrap();
        let second = enter(&gate, HOME).unwrap();
        assert!(enter(&gate, HOME).is_none());
        assert!(gate.wants_proof(Time::ZERO, HOME));
        assert!(!gate.is_tcp_crowded(true), "tls has places of its own");

        let mut admitted = gate.admit(first).unwrap();
        assert_eq!(gate.admit(second).unwrap_err(), Refused::Capacity);
        assert!(enter(&gate, HOME).is_some(), "a refused set-up gives its place back");

        admitted.greeted();
        let (third, fourth) = (enter(&gate, HOME).unwrap(), enter(&gate, HOME).unwrap());
        drop(admitted);
        assert!(gate.admit(third).is_ok());
        drop(fourth);
    }

    #[test]
    fn what_quic_has_of_those_who_left_counts() {
        let gate = gate(GateLimits { ungreeted_per_address: 3, ..GateLimits::of(2, 3) });
        let come = |address| gate.try_enter_quic(Time::ZERO, address);
        let (stranger, of_stranger) = come(HOME).unwrap();
        let (guest, of_guest) = come(HOME).unwrap();
        let mut guest = gate.admit(guest).unwrap();
        guest.greeted();
        drop((stranger, guest));
        let third = come(HOME).unwrap();
        assert!(come(HOME).is_none(), "an address has what it had, closed or not");
        drop((of_stranger, third));
        let _back = [come(HOME).unwrap(), come(HOME).unwrap()];
        assert!(come(HOME).is_none());
        let _others = [come(AWAY).unwrap()];
        assert!(come(AWAY).is_none(), "no place among the set-ups");
        drop(of_guest);
        assert!(come(HOME).is_none(), "that place is the other's");

        let gate = self::gate(GateLimits::of(2, 3));
        let come = |address| gate.try_enter_quic(Time::ZERO, address);
        let left: Vec<_> = (0..9).map_while(|_| come(HOME)).map(|(_, left)| left).collect();
        assert_eq!(left.len(), 5, "as many as there may be connections and set-ups");
        drop(left);
        assert!(come(HOME).is_some());
    }

    #[test]
    fn one_address_does_not_take_the_place_of_another() {
        let gate = gate(GateLimits { ungreeted_per_address: 3, ..GateLimits::of(9, 9) });
        let places: Vec<_> = (0..3).map_while(|_| enter(&gate, HOME)).collect();
        assert_eq!(places.len(), 3);
        assert!(enter(&gate, HOME).is_none());
        assert!(gate.wants_proof(Time::ZERO, HOME) && !gate.wants_proof(Time::ZERO, AWAY));
        assert!(enter(&gate, AWAY).is_some());
        drop(places);
        assert!(enter(&gate, HOME).is_some());
    }

    #[test]
    fn a_resumed_session_is_let_in_beyond_the_bound_of_its_address() {
        let gate = gate(GateLimits { connections_per_address: 1, ..GateLimits::of(9, 9) });
        let admit = || gate.admit(enter(&gate, HOME).unwrap()).unwrap();
        let (mut first, mut second, mut resumed) = (admit(), admit(), admit());
        assert!(first.try_settle() && first.try_settle(), "once is enough");
        assert!(!second.try_settle());
        resumed.settle();
        drop(first);
        assert!(!second.try_settle(), "the resumed one counts");
        drop(resumed);
        assert!(second.try_settle());
    }

    #[tokio::test]
    async fn a_proxy_may_have_many_behind_it() {
        let limits = GateLimits {
            ungreeted_per_address: 1,
            connections_per_address: 1,
            ..GateLimits::of(9, 9)
        };
        let gate = gate(limits);
        for _ in 0..3 {
            let mut admitted = gate.admit(gate.enter_plain().await.unwrap()).unwrap();
            assert!(admitted.try_settle());
            std::mem::forget(admitted);
        }
        let named = gate.enter_tls(Time::ZERO, HOME).await.unwrap();
        assert!(gate.enter_tls(Time::ZERO, HOME).await.is_none());
        drop(named);
    }

    #[test]
    fn a_rush_wants_proof_first_and_is_turned_away_then() {
        let rate = Rate { per_s: 10, burst: 10 };
        let gate = gate(GateLimits { handshakes: Some(rate), ..GateLimits::of(99, 99) });
        let other = |nth| IpAddr::V4(Ipv4Addr::from_bits(nth));
        let enters = |now, nth| gate.try_enter_quic(now, other(nth)).is_some();
        let came = |now| (0..).take_while(|nth| enters(now, *nth)).count();
        assert!(!gate.wants_proof(Time::ZERO, AWAY));
        assert_eq!(came(Time::ZERO), 10);
        assert!(gate.wants_proof(Time::ZERO, AWAY));
        let tls = gate.tls.handshake(Time::ZERO, gate.granted());
        assert_eq!(tls, Ok(()), "tls has a rate of its own");
        let later = Time::ZERO + Duration::from_secs(1);
        assert!(!gate.wants_proof(later, AWAY));
        assert_eq!(came(later), 10);
    }

    #[test]
    fn where_handshakes_are_scarce_an_address_gets_its_share_and_no_more() {
        let rate = Rate { per_s: 1_000, burst: 1_000 };
        let limits = GateLimits { handshakes: Some(rate), ..GateLimits::of(9_999, 9_999) };
        let come = |gate: &Gate, address| {
            let entered = || gate.try_enter_quic(Time::ZERO, address).map(std::mem::forget);
            (0..).take_while(|_| entered().is_some()).count()
        };
        let calm = gate(limits);
        let half = 501;
        assert_eq!(come(&calm, HOME), half + 20, "half is anybody's, of the rest each has a share");
        assert_eq!((come(&calm, HOME), come(&calm, AWAY)), (0, 20));
        let pressed = gate(limits).under(Pressure::of_share(0.02));
        assert!(pressed.wants_proof(Time::ZERO, AWAY));
        assert_eq!((come(&pressed, HOME), come(&pressed, AWAY)), (51 + 2, 2));
        assert_eq!(pressed.granted().map(|rate| rate.per_s), Some(HANDSHAKES_LEAST));
        let few = GateLimits { handshakes: Some(Rate { per_s: 7, burst: 7 }), ..limits };
        let few = gate(few).under(Pressure::of_share(0.02));
        assert_eq!(few.granted().map(|rate| rate.per_s), Some(7), "never more than configured");
    }

    #[test]
    fn callers_are_counted_each_for_itself() {
        let callers = Callers::new(Time::ZERO);
        let rate = Rate { per_s: 1, burst: 1 };
        assert!(callers.may_come(Time::ZERO, HOME, rate));
        assert!(!callers.may_come(Time::ZERO, HOME, rate));
        // Two of them may meet, but hardly five.
        let others = (1..=5).map(|last| IpAddr::V4(Ipv4Addr::new(203, 0, 113, last)));
        assert!(others.filter(|other| callers.may_come(Time::ZERO, *other, rate)).count() > 1);
        let later = Time::ZERO + Duration::from_secs(1);
        assert!(callers.may_come(later, HOME, rate));
    }

    #[test]
    fn the_networks_of_a_site_come_as_often_as_four_and_take_no_more_from_others() {
        let callers = Callers::new(Time::ZERO);
        let rate = Rate { per_s: 2, burst: 2 };
        let network = |site: u16, nth: u16| {
            IpAddr::from(std::net::Ipv6Addr::new(0x2001, 0xdb8, site, nth, 0, 0, 0, 1))
        };
        let may = |site, nth| callers.may_come(Time::ZERO, network(site, nth), rate);
        assert_eq!((0..=u16::MAX).filter(|nth| may(1, *nth)).count(), 8);
        // Hardly any of these meet one of the few that came.
        assert!((2..102).filter(|site| may(*site, 0)).count() > 90);
    }
}
