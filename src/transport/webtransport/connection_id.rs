//! Connection ids that nobody can guess, and if wanted name their node, so that a load balancer
//! needs no memory: the plaintext form of QUIC-LB (draft-ietf-quic-load-balancers, "CID format").
//!
//! One octet with the rotation of the configuration (3 bits) and the length of what follows (5
//! bits), the server id, and a nonce. Whoever sees two of them can tell that they lead to one
//! node, and no more.
//!
//! An address counts as proven once it has used an id that we chose for it, for which RFC 9000
//! (section 8.1) wants 64 random bits. quinn's own ids have 24, and a hash of those that is
//! none of cryptography's.

use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::{InvalidCid, RandomConnectionIdGenerator};

/// QUIC version 1 knows no longer ones.
pub const CONNECTION_ID_BYTES_MAX: usize = 20;
/// With fewer an address could be proven by guessing. The draft would take 4.
pub const NONCE_BYTES_MIN: usize = 8;
/// 7 marks ids that lead nowhere in particular.
pub const CONFIG_ROTATION_MAX: u8 = 6;

/// What the ids of one node look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerIds {
    /// The first octet and the server id, which all of them begin with.
    start: [u8; CONNECTION_ID_BYTES_MAX],
    start_bytes: usize,
    nonce_bytes: usize,
}

/// Why ids cannot look like that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a QUIC connection id has a config rotation of at most {CONFIG_ROTATION_MAX}, a server id of \
     at least 1 byte and a nonce of at least {NONCE_BYTES_MIN}, and with its first octet at most \
     {CONNECTION_ID_BYTES_MAX} bytes"
)]
pub struct Impossible;

impl ServerIds {
    /// Ids with this server id.
    pub fn new(
        config_rotation: u8,
        server_id: &[u8],
        nonce_bytes: usize,
    ) -> Result<Self, Impossible> {
        let start_bytes = server_id.len().saturating_add(1);
        let bytes = start_bytes.saturating_add(nonce_bytes);
        let possible = config_rotation <= CONFIG_ROTATION_MAX
            && !server_id.is_empty()
            && nonce_bytes >= NONCE_BYTES_MIN
            && bytes <= CONNECTION_ID_BYTES_MAX;
        if !possible {
            return Err(Impossible);
        }
        let mut start = [0; CONNECTION_ID_BYTES_MAX];
        let following = u8::try_from(bytes - 1).map_err(|_| Impossible)?;
        start[0] = config_rotation << 5 | following;
        start[1..start_bytes].copy_from_slice(server_id);
        Ok(ServerIds { start, start_bytes, nonce_bytes })
    }

    /// The id with this nonce, which is exactly as long as it should be.
    fn with_nonce(&self, nonce: &[u8]) -> ConnectionId {
        debug_assert_eq!(nonce.len(), self.nonce_bytes);
        let mut id = self.start;
        id[self.start_bytes..self.bytes()].copy_from_slice(nonce);
        ConnectionId::new(&id[..self.bytes()])
    }

    pub(super) fn bytes(&self) -> usize {
        self.start_bytes + self.nonce_bytes
    }
}

/// Draws ids that tell nothing.
pub(super) fn unnamed() -> RandomConnectionIdGenerator {
    RandomConnectionIdGenerator::new(NONCE_BYTES_MIN)
}

/// Draws ids of one node.
///
/// QUIC draws again what a living connection has, so only those of past connections can repeat.
pub(super) struct ServerIdGenerator {
    ids: ServerIds,
    /// Cryptographically strong, and cannot fail.
    nonces: RandomConnectionIdGenerator,
}

impl ServerIdGenerator {
    pub(super) fn new(ids: ServerIds) -> Self {
        ServerIdGenerator { ids, nonces: RandomConnectionIdGenerator::new(ids.nonce_bytes) }
    }
}

impl ConnectionIdGenerator for ServerIdGenerator {
    fn generate_cid(&mut self) -> ConnectionId {
        self.ids.with_nonce(&self.nonces.generate_cid())
    }

    /// What a balancer sent to the wrong node is not even answered with a reset.
    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let start = &self.ids.start[..self.ids.start_bytes];
        if id.len() == self.ids.bytes() && id.starts_with(start) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        self.ids.bytes()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, SocketAddr};

    use proptest::prelude::*;
    use tokio::net::UdpSocket;

    use super::super::super::testkit::{Identity, SETTINGS, soon};
    use super::super::{bind_udp, server_config, unpressed};
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let pairs = text.as_bytes().chunks(2);
        pairs
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// The unencrypted ones of the draft, with the longer nonces that we ask for, and the length in
    /// the first octet grown by as much. The draft prints the second with a digit of the first octet
    /// and one of the nonce exchanged; this is what its own format makes of it.
    #[test]
    fn the_test_vectors_of_the_draft() {
        for (rotation, server_id, nonce, id) in [
            (0, "c4605e", "4504cc4f00000000", "0bc4605e4504cc4f00000000"),
            (1, "350d28b420", "03487d970b000000", "2d350d28b42003487d970b000000"),
        ] {
            let nonce = hex(nonce);
            let ids = ServerIds::new(rotation, &hex(server_id), nonce.len()).unwrap();
            assert_eq!(ids.with_nonce(&nonce)[..], hex(id));
        }
    }

    #[test]
    fn without_a_name_all_of_an_id_is_random() {
        const DRAWN: usize = 20_000;
        let mut generator = unnamed();
        let drawn: HashSet<_> = (0..DRAWN).map(|_| generator.generate_cid().to_vec()).collect();
        assert!(drawn.iter().all(|id| id.len() == 8 && id.len() == generator.cid_len()));
        // With 24 random bits twelve of them would have come before.
        assert_eq!(drawn.len(), DRAWN);
    }

    #[test]
    fn bounds_hold() {
        for (rotation, server_id, nonce, possible) in [
            (0, 1, 8, true),
            (6, 1, 8, true),
            (7, 1, 8, false),
            (0, 0, 8, false),
            (0, 1, 7, false),
            (0, 8, 11, true),
            (0, 8, 12, false),
            (0, 11, 8, true),
            (0, 12, 8, false),
            (0, 15, 4, false),
            (0, 1, 18, true),
            (0, 1, usize::MAX, false),
        ] {
            let ids = ServerIds::new(rotation, &vec![1; server_id], nonce);
            assert_eq!(ids.is_ok(), possible, "{rotation} {server_id} {nonce}");
        }
    }

    fn forms() -> impl Strategy<Value = (u8, Vec<u8>, usize)> {
        let server_id = prop::collection::vec(any::<u8>(), 1..=11);
        (0..=CONFIG_ROTATION_MAX, server_id).prop_flat_map(|(rotation, server_id)| {
            let nonces = NONCE_BYTES_MIN..=19 - server_id.len();
            (Just(rotation), Just(server_id), nonces)
        })
    }

    proptest! {
        #[test]
        fn a_balancer_reads_what_was_written((rotation, server_id, nonce) in forms()) {
            let ids = ServerIds::new(rotation, &server_id, nonce).unwrap();
            let mut generator = ServerIdGenerator::new(ids);
            let drawn: Vec<_> = (0..16).map(|_| generator.generate_cid()).collect();
            for id in &drawn {
                prop_assert_eq!(id[0] >> 5, rotation);
                prop_assert_eq!(usize::from(id[0] & 0x1f), id.len() - 1);
                prop_assert_eq!(&id[1..=server_id.len()], &server_id[..]);
                prop_assert_eq!(id.len(), 1 + server_id.len() + nonce);
                prop_assert_eq!(id.len(), generator.cid_len());
                prop_assert!(generator.validate(id).is_ok());
            }
            prop_assert_eq!(drawn.iter().map(|id| id.to_vec()).collect::<HashSet<_>>().len(), 16);
        }

        #[test]
        fn another_node_s_is_not_taken((rotation, server_id, nonce) in forms(), at in 0..19_usize, bit in 0..8) {
            let ids = ServerIds::new(rotation, &server_id, nonce).unwrap();
            let mut generator = ServerIdGenerator::new(ids);
            let mut id = generator.generate_cid().to_vec();
            prop_assert!(generator.validate(&ConnectionId::new(&id[1..])).is_err());
            id[at % (1 + server_id.len())] ^= 1_u8 << bit;
            prop_assert!(generator.validate(&ConnectionId::new(&id)).is_err());
        }
    }

    /// A packet of a connection nobody knows, as a client would send it.
    fn stray(id: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x40];
        packet.extend_from_slice(id);
        packet.resize(200, 9);
        packet
    }

    fn listening(ids: Option<ServerIds>) -> quinn::Endpoint {
        let bound = bind_udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), true).unwrap();
        let config = server_config(&Identity::new().server, SETTINGS).unwrap();
        unpressed(bound.socket, config, ids)
    }

    /// Sends a stray packet and waits for the reset.
    async fn is_reset(endpoint: &quinn::Endpoint, id: &[u8]) {
        let forgotten = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        forgotten.send_to(&stray(id), endpoint.local_addr().unwrap()).await.unwrap();
        let mut packet = [0; 2_000];
        let bytes = soon(forgotten.recv(&mut packet)).await.unwrap();
        assert!((21..200).contains(&bytes) && packet[0] & 0xc0 == 0x40, "no stateless reset");
    }

    #[tokio::test]
    async fn a_connection_it_has_forgotten_is_reset_and_another_node_s_left_alone() {
        let [own, other] = [1, 2].map(|node| ServerIds::new(0, &[node], 8).unwrap());
        let endpoint = listening(Some(own));
        let lost = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let packet = stray(&other.with_nonce(&[7; 8]));
        lost.send_to(&packet, endpoint.local_addr().unwrap()).await.unwrap();
        is_reset(&endpoint, &own.with_nonce(&[7; 8])).await;
        assert!(lost.try_recv(&mut [0; 2_000]).is_err(), "two nodes answer for one connection");
        endpoint.close(0_u32.into(), b"");
    }

    #[tokio::test]
    async fn without_a_name_any_eight_bytes_may_be_an_id() {
        let endpoint = listening(None);
        is_reset(&endpoint, b"whatever").await;
        endpoint.close(0_u32.into(), b"");
    }
}
