//! Whatever comes: read as quinn reads it, without a fault, and an address that has shown nothing gets
//! no more than three times what it sent, however what it sends and is sent is made up.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use quinn_proto::{FixedLengthConnectionIdParser, PacketDecodeError, ProtectedHeader};

use super::*;

const VERSION: u32 = 1;
const OUR_ID_BYTES: usize = 8;

/// Ids that come again, so that what is made up meets what is known; and any.
fn id() -> impl Strategy<Value = Vec<u8>> {
    let few = select(vec![vec![], vec![1], vec![1; 8], vec![2; 8], vec![3; 8], vec![1; 20]]);
    prop_oneof![4 => few, 1 => vec(any::<u8>(), 0..24)]
}

/// A packet with a long header, as long as `len` says, if that is enough for its header.
fn packet(first: u8, version: u32, to: &[u8], from: &[u8], len: usize) -> Vec<u8> {
    let mut packet = vec![LONG | first];
    packet.extend_from_slice(&version.to_be_bytes());
    for id in [to, from] {
        packet.push(id.len() as u8);
        packet.extend_from_slice(id);
    }
    packet.resize(packet.len().max(len), 0);
    packet
}

fn long() -> impl Strategy<Value = Vec<u8>> {
    let version = prop_oneof![6 => Just(VERSION), 1 => Just(0), 1 => any::<u32>()];
    (any::<u8>(), version, id(), id(), 0..1_500_usize)
        .prop_map(|(first, version, to, from, len)| packet(first, version, &to, &from, len))
}

/// Long headers whole, cut short and changed somewhere, and anything at all.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let cut = (long(), any::<Index>()).prop_map(|(mut packet, at)| {
        packet.truncate(at.index(packet.len()));
        packet
    });
    let changed = (long(), 0..64_usize, any::<u8>()).prop_map(|(mut packet, at, to)| {
        let at = at % packet.len();
        packet[at] = to;
        packet
    });
    prop_oneof![3 => long(), 1 => cut, 2 => changed, 1 => vec(any::<u8>(), 0..64)]
}

/// What quinn finds in a long header: where it goes, and whence it says it comes. It knows no version
/// here, and so looks at what every version has.
fn read_by_quinn(datagram: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut buf = Cursor::new(BytesMut::from(datagram));
    let ours = FixedLengthConnectionIdParser::new(OUR_ID_BYTES);
    match ProtectedHeader::decode(&mut buf, &ours, &[], true) {
        Ok(ProtectedHeader::VersionNegotiate { dst_cid, src_cid, .. })
        | Err(PacketDecodeError::UnsupportedVersion { dst_cid, src_cid, .. }) => {
            Some((dst_cid.to_vec(), src_cid.to_vec()))
        }
        _ => None,
    }
}

/// Something that happens at one of a few addresses.
#[derive(Clone, Debug)]
enum Step {
    Comes(u16, Vec<u8>),
    /// As quinn answers: one of ours to a client's id, in a packet of this kind.
    Goes {
        to: u16,
        kind: u8,
        client: Vec<u8>,
        ours: Vec<u8>,
        len: usize,
    },
    GoesShort(u16, Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let port = 1..4_u16;
    let goes = (port.clone(), select(vec![INITIAL, INITIAL, 2]), id(), id(), 20..1_500_usize);
    let goes =
        goes.prop_filter_map("ids have 20 bytes at the most", |(to, kind, client, ours, len)| {
            let fits = client.len() <= ConnectionId::MAX && ours.len() <= ConnectionId::MAX;
            fits.then_some(Step::Goes { to, kind, client, ours, len })
        });
    prop_oneof![
        3 => (port.clone(), datagram()).prop_map(|(from, bytes)| Step::Comes(from, bytes)),
        5 => goes,
        1 => (port, vec(any::<u8>(), 0..64)).prop_map(|(to, mut bytes)| {
            bytes.iter_mut().take(1).for_each(|first| *first &= !LONG);
            Step::GoesShort(to, bytes)
        }),
    ]
}

/// What one client at one address has done, counted without any of the code above.
#[derive(Debug, Default)]
struct Seen {
    received: u64,
    /// Sent as each of our ids, and whether it has come back.
    sent: BTreeMap<Vec<u8>, (u64, bool)>,
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 7], port))
}

proptest! {
    #[test]
    fn headers_are_read_as_quinn_reads_them(datagram in datagram()) {
        let header = LongHeader::read(&datagram);
        addressee(&datagram, OUR_ID_BYTES);
        let Some((to, from)) = read_by_quinn(&datagram) else { return Ok(()) };
        prop_assert!(is_long(&datagram));
        let Some(header) = header else { panic!("quinn would answer it") };
        prop_assert_eq!(&header.to.bytes[..header.to.len.into()], &to[..]);
        prop_assert_eq!(&header.from.bytes[..header.from.len.into()], &from[..]);
        prop_assert_eq!(addressee(&datagram, OUR_ID_BYTES), &to[..]);
    }

    #[test]
    fn nobody_unproven_is_sent_more_than_three_times_what_came(steps in vec(step(), 0..80)) {
        let mut unproven = Unproven::new(Time::ZERO);
        let mut seen = BTreeMap::<(u16, Vec<u8>), Seen>::new();
        let mut begun = BTreeSet::new();
        for step in steps {
            match step {
                Step::Comes(port, datagram) => {
                    addressee(&datagram, OUR_ID_BYTES);
                    if is_long(&datagram) {
                        unproven.received(Time::ZERO, at(port), &datagram);
                    }
                    let Some((to, from)) = read_by_quinn(&datagram) else { continue };
                    let seen = seen.entry((port, from)).or_default();
                    seen.received += datagram.len() as u64;
                    if let Some((_, proven)) = seen.sent.get_mut(&to) {
                        *proven = true;
                    }
                }
                Step::Goes { to, kind, client, ours, len } => {
                    // A conversation begins with its first packet.
                    let first = begun.insert((to, client.clone()));
                    let kind = if first { INITIAL } else { kind };
                    let datagram = packet(0x40 | kind << 4, VERSION, &client, &ours, len);
                    let may = unproven.may_send(Time::ZERO, at(to), &datagram);
                    let seen = seen.entry((to, client)).or_default();
                    if first {
                        // No server answers a first datagram that is shorter than that.
                        seen.received = seen.received.max(FIRST_BYTES);
                    }
                    let few = seen.sent.len() < CONNECTIONS_MAX;
                    let (sent, proven) = seen.sent.entry(ours).or_default();
                    prop_assert!(may || !*proven || !few, "who has answered is held back");
                    *sent += if may { datagram.len() as u64 } else { 0 };
                    let unproven = seen.sent.values().filter(|(_, proven)| !proven);
                    let sent: u64 = unproven.map(|(sent, _)| sent).sum();
                    prop_assert!(sent <= FACTOR * seen.received, "{sent} for {seen:?}");
                }
                Step::GoesShort(to, datagram) => {
                    unproven.may_send(Time::ZERO, at(to), &datagram);
                }
            }
            let accounts = unproven.answered.young.values().chain(unproven.answered.old.values());
            let watched = accounts.filter(|account| account.is_unproven()).count();
            prop_assert_eq!(unproven.watched(), watched);
        }
    }
}
