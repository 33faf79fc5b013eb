//! What addresses that have proven nothing have sent and been sent: never more than three times
//! as much (RFC 9000, section 8).
//!
//! quinn checks that bound before it begins a packet and then fills the packet, so that up to a
//! packet more leaves it. Here the bound is held by the byte: a datagram beyond it is lost, and
//! QUIC repeats it once the address has answered. An address is proven by the connection id that we
//! chose for it, since nobody else has seen that.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::time::Duration;

use handover_protocol::time::Time;

/// Sent for each byte received.
const FACTOR: u64 = 3;
/// No server answers a first datagram that is shorter.
const FIRST_BYTES: u64 = 1_200;
/// Whoever was not heard of for one to two of these is forgotten. A set-up is over before.
const AGE: Duration = Duration::from_secs(20);
/// ... or once so many others came. Only who is answered gets in here, and from
/// `limits.ungreeted` on nobody is without proof.
const ANSWERED_MAX: usize = 32_768;
/// The same for those who have not been answered: forgotten, they count as [`FIRST_BYTES`].
const ASKED_MAX: usize = 8_192;
/// Connections with one address and id that are told apart; none beyond is taken for proven.
const CONNECTIONS_MAX: usize = 8;
/// Datagrams without a long header that may be held back from an address and id. quinn sends one
/// before an address is proven. A connection of that address that is long established cannot always
/// be told from it, and must not suffer when somebody else asks in its name.
const SHORT_HELD_MAX: u8 = 2;

const LONG: u8 = 0x80;
const INITIAL: u8 = 0;
const RETRY: u8 = 3;

/// A QUIC connection id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ConnectionId {
    len: u8,
    bytes: [u8; ConnectionId::MAX],
}

impl ConnectionId {
    const MAX: usize = 20;

    fn read(bytes: &[u8]) -> Option<ConnectionId> {
        let mut id = ConnectionId { len: u8::try_from(bytes.len()).ok()?, bytes: [0; Self::MAX] };
        id.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(id)
    }
}

/// The part of a long header that is the same in every version.
struct LongHeader {
    kind: u8,
    version: u32,
    to: ConnectionId,
    from: ConnectionId,
}

impl LongHeader {
    fn read(datagram: &[u8]) -> Option<LongHeader> {
        let (&first, rest) = datagram.split_first()?;
        let (version, rest) = rest.split_first_chunk()?;
        let (&len, rest) = rest.split_first()?;
        let (to, rest) = rest.split_at_checked(len.into())?;
        let (&len, rest) = rest.split_first()?;
        let from = rest.get(..len.into())?;
        Some(LongHeader {
            kind: first >> 4 & 3,
            version: u32::from_be_bytes(*version),
            to: ConnectionId::read(to)?,
            from: ConnectionId::read(from)?,
        })
    }
}

/// Whether a datagram has a long header: only those set connections up.
pub fn is_long(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & LONG != 0)
}

/// The connection id that a datagram goes to. Without a long header nothing says where that ends: it is
/// one of ours then, all of which have `ours` bytes.
pub fn addressee(datagram: &[u8], ours: usize) -> &[u8] {
    let id = match datagram {
        [first, _, _, _, _, len, rest @ ..] if first & LONG != 0 => rest.get(..usize::from(*len)),
        [_, rest @ ..] => rest.get(..ours),
        [] => None,
    };
    id.unwrap_or_default()
}

/// An address, and the id that its client chose there.
type Peer = (SocketAddr, ConnectionId);

#[derive(Default)]
struct Account {
    received: u64,
    sent: u64,
    /// Our ids, and whether the address has shown that it knows them.
    ours: Vec<(ConnectionId, bool)>,
    short_held: u8,
}

impl Account {
    fn is_unproven(&self) -> bool {
        self.ours.iter().any(|(_, proven)| !proven)
    }

    /// Counts the bytes, if they may be sent.
    fn spend(&mut self, len: u64) -> bool {
        let may = self.sent + len <= self.received.saturating_mul(FACTOR);
        self.sent += if may { len } else { 0 };
        may
    }
}

/// See the module.
pub struct Unproven {
    asked: Aging<Peer, u64>,
    answered: Aging<Peer, Account>,
    turned: Time,
    /// Who has been answered and has not proven its address, by the length of its id.
    watched: [usize; ConnectionId::MAX + 1],
}

impl Unproven {
    pub fn new(now: Time) -> Self {
        Unproven {
            asked: Aging::new(ASKED_MAX),
            answered: Aging::new(ANSWERED_MAX),
            turned: now,
            watched: [0; ConnectionId::MAX + 1],
        }
    }

    /// How many have been answered and have not proven their address. As long as there is none,
    /// datagrams without a long header need not be shown to [`Unproven::may_send`].
    pub fn watched(&self) -> usize {
        self.watched.iter().sum()
    }

    fn watched_of(&mut self, peer: &Peer) -> Option<&mut usize> {
        self.watched.get_mut(usize::from(peer.1.len))
    }

    /// A datagram with a long header came.
    pub fn received(&mut self, now: Time, from: SocketAddr, datagram: &[u8]) {
        self.age(now);
        let Some(header) = LongHeader::read(datagram) else { return };
        let peer = (from, header.from);
        let len = datagram.len() as u64;
        let Some(account) = self.answered.touch(&peer) else {
            if header.version != 0 && header.kind == INITIAL {
                *self.asked.entry(peer).0 += len;
            }
            return;
        };
        account.received += len;
        let was_unproven = account.is_unproven();
        for (ours, proven) in &mut account.ours {
            *proven |= *ours == header.to;
        }
        let is_proven = was_unproven && !account.is_unproven();
        if let Some(watched) = self.watched_of(&peer).filter(|_| is_proven) {
            *watched -= 1;
        }
    }

    /// Whether a datagram may be sent; if so, it is taken for sent.
    pub fn may_send(&mut self, now: Time, to: SocketAddr, datagram: &[u8]) -> bool {
        self.age(now);
        if !is_long(datagram) {
            return self.may_send_short(to, datagram);
        }
        let Some(header) = LongHeader::read(datagram) else { return true };
        // An answer to a version nobody knows, or the demand for a proof. Neither leaves anything
        // behind, and both are shorter than what they answer.
        if header.version == 0 || header.kind == RETRY {
            return true;
        }
        let peer = (to, header.to);
        if header.kind != INITIAL && self.answered.touch(&peer).is_none() {
            // It was proven so long ago that it has been forgotten.
            return true;
        }
        let asked = self.asked.remove(&peer);
        let (account, dropped) = self.answered.entry(peer);
        let was_unproven = account.is_unproven();
        if account.ours.is_empty() {
            account.received = asked.unwrap_or(0).max(FIRST_BYTES);
        }
        let known = account.ours.iter().find(|(ours, _)| *ours == header.from);
        let may = match known {
            Some((_, true)) => true,
            Some(_) => account.spend(datagram.len() as u64),
            None => {
                if account.ours.len() == CONNECTIONS_MAX {
                    account.ours.swap_remove(0);
                }
                account.ours.push((header.from, false));
                account.spend(datagram.len() as u64)
            }
        };
        let is_new = account.is_unproven() && !was_unproven;
        if let Some(watched) = self.watched_of(&peer).filter(|_| is_new) {
            *watched += 1;
        }
        self.forgotten(dropped);
        may
    }

    /// It belongs to a connection whose client has an id that the datagram begins with.
    fn may_send_short(&mut self, to: SocketAddr, datagram: &[u8]) -> bool {
        for (len, watched) in self.watched.iter().enumerate() {
            if *watched == 0 {
                continue;
            }
            let id = datagram.get(1..=len).and_then(ConnectionId::read);
            let account = id.and_then(|id| self.answered.touch(&(to, id)));
            let Some(account) = account.filter(|account| account.is_unproven()) else { continue };
            if account.spend(datagram.len() as u64) || account.short_held == SHORT_HELD_MAX {
                return true;
            }
            account.short_held += 1;
            return false;
        }
        true
    }

    fn age(&mut self, now: Time) {
        if now.since(self.turned) < AGE {
            return;
        }
        self.turned = now;
        self.asked.turn();
        let dropped = self.answered.turn();
        self.forgotten(dropped);
    }

    fn forgotten(&mut self, dropped: HashMap<Peer, Account>) {
        for (peer, _) in dropped.iter().filter(|(_, account)| account.is_unproven()) {
            if let Some(watched) = self.watched_of(peer) {
                *watched -= 1;
            }
        }
    }
}

/// A bounded map that forgets what was not touched for one to two turns.
struct Aging<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    /// Of each half.
    most: usize,
}

impl<K: Hash + Eq + Copy, V: Default> Aging<K, V> {
    fn new(most: usize) -> Self {
        Aging { young: HashMap::new(), old: HashMap::new(), most }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    /// The value, which is young again if there is a place.
    fn touch(&mut self, key: &K) -> Option<&mut V> {
        if self.young.len() < self.most
            && let Some(value) = self.old.remove(key)
        {
            self.young.insert(*key, value);
        }
        match self.young.get_mut(key) {
            None => self.old.get_mut(key),
            young => young,
        }
    }

    /// The value, a new one if there was none, and whatever had to go for it.
    fn entry(&mut self, key: K) -> (&mut V, HashMap<K, V>) {
        let is_young = self.young.contains_key(&key);
        // Taken out first: it is not among what has to go for it.
        let was = if is_young { None } else { self.old.remove(&key) };
        let is_full = !is_young && self.young.len() >= self.most;
        let dropped = if is_full { self.turn() } else { HashMap::new() };
        (self.young.entry(key).or_insert_with(|| was.unwrap_or_default()), dropped)
    }

    fn remove(&mut self, key: &K) -> Option<V> {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    fn turn(&mut self) -> HashMap<K, V> {
        let young = std::mem::take(&mut self.young);
        std::mem::replace(&mut self.old, young)
    }
}

#[cfg(test)]
mod anything;

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKE: u8 = 2;
    const CLIENT: &[u8] = b"client's";
    const OURS: &[u8] = b"of ours.";

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 7], port))
    }

    fn datagram(kind: u8, to: &[u8], from: &[u8], len: usize) -> Vec<u8> {
        let mut datagram = vec![LONG | 0x40 | kind << 4, 0, 0, 0, 1, to.len() as u8];
        datagram.extend_from_slice(to);
        datagram.push(from.len() as u8);
        datagram.extend_from_slice(from);
        datagram.resize(len, 0);
        datagram
    }

    fn short(to: &[u8], len: usize) -> Vec<u8> {
        let mut datagram = vec![0x40];
        datagram.extend_from_slice(to);
        datagram.resize(len, 0);
        datagram
    }

    struct Ledger(Unproven, Time);

    impl Ledger {
        fn new() -> Self {
            Ledger(Unproven::new(Time::ZERO), Time::ZERO)
        }

        fn received(&mut self, datagram: &[u8]) {
            self.0.received(self.1, address(1), datagram);
        }

        fn may_send(&mut self, datagram: &[u8]) -> bool {
            self.0.may_send(self.1, address(1), datagram)
        }
    }

    #[test]
    fn three_times_what_came_and_not_a_byte_more() {
        let mut ledger = Ledger::new();
        ledger.received(&datagram(INITIAL, b"anything", CLIENT, 1_213));
        let flight = datagram(INITIAL, CLIENT, OURS, 1_200);
        assert!((0..3).all(|_| ledger.may_send(&flight)));
        assert!(!ledger.may_send(&datagram(HANDSHAKE, CLIENT, OURS, 40)));
        assert!(ledger.may_send(&datagram(HANDSHAKE, CLIENT, OURS, 39)), "as much as was left");
    }

    #[test]
    fn our_own_id_proves_an_address_and_no_other_id_does() {
        let mut ledger = Ledger::new();
        ledger.received(&datagram(INITIAL, b"anything", CLIENT, 1_200));
        let flight = datagram(INITIAL, CLIENT, OURS, 1_200);
        assert!((0..3).all(|_| ledger.may_send(&flight)) && !ledger.may_send(&flight));
        assert_eq!(ledger.0.watched(), 1);
        ledger.received(&datagram(HANDSHAKE, b"guessed.", CLIENT, 100));
        assert!(!ledger.may_send(&flight), "300 bytes more");
        assert_eq!(ledger.0.watched(), 1);
        ledger.received(&datagram(HANDSHAKE, OURS, CLIENT, 40));
        assert_eq!(ledger.0.watched(), 0);
        assert!((0..99).all(|_| ledger.may_send(&flight)));
        // The next connection of the same client is another one.
        assert!(!ledger.may_send(&datagram(INITIAL, CLIENT, b"another!", 1_200)));
    }

    #[test]
    fn established_connections_of_an_address_lose_two_packets_at_the_most() {
        for client in [&b""[..], CLIENT] {
            let mut ledger = Ledger::new();
            ledger.received(&datagram(INITIAL, b"anything", client, 1_200));
            assert!(ledger.may_send(&datagram(INITIAL, client, OURS, 1_200)));
            let data = short(client, 1_200);
            let sent = (0..100).filter(|_| ledger.may_send(&data)).count();
            assert_eq!(sent, 100 - usize::from(SHORT_HELD_MAX));
            // Another address has nothing to do with it.
            assert!((0..9).all(|_| ledger.0.may_send(Time::ZERO, address(2), &data)));
        }
        let mut ledger = Ledger::new();
        ledger.received(&datagram(INITIAL, b"anything", CLIENT, 1_200));
        assert!(ledger.may_send(&datagram(INITIAL, CLIENT, OURS, 1_200)));
        assert!((0..99).all(|_| ledger.may_send(&short(b"somebody else's", 1_200))));
    }

    #[test]
    fn what_is_not_answered_does_not_push_out_what_is() {
        let mut ledger = Ledger::new();
        let flight = datagram(INITIAL, CLIENT, OURS, 1_200);
        ledger.received(&datagram(INITIAL, b"anything", CLIENT, 1_200));
        assert!((0..3).all(|_| ledger.may_send(&flight)));
        for n in 0..3 * ANSWERED_MAX as u32 {
            ledger.received(&datagram(INITIAL, b"anything", &n.to_be_bytes(), 1_200));
        }
        assert!(ledger.0.asked.young.len() + ledger.0.asked.old.len() <= 2 * ASKED_MAX);
        assert!(!ledger.may_send(&flight));
    }

    #[test]
    fn all_of_it_is_bounded_and_forgotten() {
        let mut ledger = Ledger::new();
        for n in 0..3 * ANSWERED_MAX as u32 {
            let (unproven, port) = (&mut ledger.0, address((n % 50_000) as u16));
            unproven.received(Time::ZERO, port, &datagram(INITIAL, b"a", &n.to_be_bytes(), 1_200));
            let answer = datagram(INITIAL, &n.to_be_bytes(), OURS, 1_200);
            assert!(unproven.may_send(Time::ZERO, port, &answer));
            let size = unproven.answered.young.len() + unproven.answered.old.len();
            assert!(size <= 2 * ANSWERED_MAX);
            assert_eq!(unproven.watched(), size);
        }
        for _ in 0..2 {
            ledger.1 = ledger.1 + AGE;
            assert!(ledger.may_send(&short(b"", 1_200)));
        }
        assert!(ledger.0.answered.is_empty() && ledger.0.asked.is_empty());
        assert_eq!(ledger.0.watched(), 0);
    }

    #[test]
    fn what_is_touched_again_is_bounded_as_well() {
        let mut map = Aging::<u32, u32>::new(4);
        let mut dropped = 0;
        for n in 0..8 {
            let (value, gone) = map.entry(n);
            *value = n;
            dropped += gone.len();
        }
        // Four of each; the old ones are asked for again, in either way.
        for n in 0..4 {
            assert_eq!(map.touch(&n).copied(), Some(n));
        }
        assert_eq!((map.young.len(), map.old.len(), dropped), (4, 4, 0));
        let (value, gone) = map.entry(0);
        assert_eq!(*value, 0, "known still");
        dropped += gone.len();
        assert!(map.young.len() <= 4 && map.old.len() <= 4);
        assert_eq!(map.young.len() + map.old.len() + dropped, 8, "what had to go was told");
    }

    #[test]
    fn whoever_a_datagram_goes_to_is_found() {
        assert_eq!(addressee(&datagram(INITIAL, b"anybody", CLIENT, 60), 8), b"anybody");
        assert_eq!(addressee(&short(OURS, 60), 8), OURS);
        assert_eq!(addressee(&short(b"", 5), 8), b"");
        assert_eq!(addressee(b"", 8), b"");
    }

    #[test]
    fn whatever_comes_is_read_without_a_fault() {
        let whole = datagram(INITIAL, &[7; 20], &[8; 20], 60);
        let mut ledger = Ledger::new();
        for end in 0..whole.len() {
            addressee(&whole[..end], 8);
            ledger.received(&whole[..end]);
            assert!(ledger.may_send(&whole[..end]));
        }
        let mut long_id = whole.clone();
        long_id[5] = 21;
        ledger.received(&long_id);
        ledger.received(&datagram(INITIAL, &[7; 255], b"", 600));
        assert!(LongHeader::read(&long_id).is_none());
    }
}
