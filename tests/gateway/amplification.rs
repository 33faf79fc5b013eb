//! Nobody can have the gateway flood an address that is not the sender's own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;

use super::certificates::provide;
use super::setup::{any_certificate, soon};
use super::siege::Besieged;
use crate::tokens::forge::Signer;

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Connection ids of this length.
struct Ids(usize);

impl quinn::ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        quinn::ConnectionId::new(&[7; 20][..self.0])
    }

    fn cid_len(&self) -> usize {
        self.0
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The first packet of a QUIC client that calls itself by so many bytes, as it stands on the wire.
async fn first_packet(id_len: usize) -> Vec<u8> {
    packets(1, move || Box::new(Ids(id_len))).await.remove(0)
}

/// First packets of so many connections.
pub async fn first_packets(count: usize) -> Vec<Vec<u8>> {
    packets(count, || Box::new(Ids(0))).await
}

async fn packets(
    count: usize,
    ids: impl Fn() -> Box<dyn quinn::ConnectionIdGenerator> + Send + Sync + 'static,
) -> Vec<Vec<u8>> {
    let tap = UdpSocket::bind(LOCAL).await.unwrap();
    let to = tap.local_addr().unwrap();
    let mut config = quinn::EndpointConfig::default();
    config.cid_generator(ids);
    let runtime = Arc::new(quinn::TokioRuntime);
    let mut packets = Vec::new();
    for _ in 0..count {
        let socket = std::net::UdpSocket::bind(LOCAL).unwrap();
        let endpoint = quinn::Endpoint::new(config.clone(), None, socket, runtime.clone()).unwrap();
        let _dialling = endpoint.connect_with(any_certificate(), to, "localhost").unwrap();
        let mut packet = vec![0; 2_048];
        // What earlier ones say again, or in farewell, is not meant.
        let size = loop {
            let (size, from) = soon(tap.recv_from(&mut packet)).await.unwrap();
            if from == endpoint.local_addr().unwrap() {
                break size;
            }
        };
        packet.truncate(size);
        packets.push(packet);
    }
    packets
}

/// Connections refused so far, for whatever reason.
fn refused(served: &Besieged) -> u64 {
    served.metric("handover_connections_refused_total{")
}

/// Certificates as an authority issues them: a leaf and two more, four kilobytes.
fn provide_chain(dir: &Path) {
    provide(dir, &Signer::ecdsa(), 30);
    let mut chain = std::fs::read_to_string(dir.join("cert.pem")).unwrap();
    for _ in 0..2 {
        let names: Vec<_> =
            (0..30).map(|n| format!("a-name-of-forty-letters-{n:012}.test")).collect();
        chain += &rcgen::generate_simple_self_signed(names).unwrap().cert.pem();
    }
    std::fs::write(dir.join("cert.pem"), chain).unwrap();
}

async fn serve(with_chain: bool) -> Besieged {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = vec!["heartbeat_ms=400"];
    if with_chain {
        provide_chain(dir.path());
        settings.extend(["cert=cert.pem", "key=key.pem"]);
    }
    Besieged::within(dir, &settings, None).await
}

/// What addresses that send these and nothing more get until the gateway gives up.
async fn answered(served: &Besieged, attempts: &[Vec<Vec<u8>>]) -> Vec<usize> {
    let before = refused(served);
    let mut sockets = Vec::new();
    let mut received = Vec::new();
    for packets in attempts {
        let spoofed = UdpSocket::bind(LOCAL).await.unwrap();
        let mut answered = 0;
        for packet in packets {
            spoofed.send_to(packet, served.secure()).await.unwrap();
            // What follows the first one comes when there is something that it could prove.
            if answered == 0 {
                answered = soon(spoofed.recv(&mut [0; 2_048])).await.unwrap();
            }
        }
        sockets.push(spoofed);
        received.push(answered);
    }
    // The handshake, again and again, until then.
    let all = before + attempts.len() as u64;
    let given_up = async {
        while refused(served) < all {
            tokio::task::yield_now().await
        }
    };
    soon(given_up).await;
    let mut buffer = [0; 2_048];
    for (socket, received) in sockets.iter().zip(&mut received) {
        *received += std::iter::from_fn(|| socket.try_recv(&mut buffer).ok()).sum::<usize>();
    }
    received
}

fn is_within_bounds(attempts: &[Vec<Vec<u8>>], received: &[usize]) {
    for (packets, received) in attempts.iter().zip(received) {
        let sent: usize = packets.iter().map(Vec::len).sum();
        assert!(*received > 1_200, "it was not answered at all");
        assert!(*received <= 3 * sent, "{received} bytes for {sent}");
    }
}

#[tokio::test]
async fn an_address_that_proves_nothing_gets_three_times_what_it_sent() {
    let mut attempts = Vec::new();
    for id_len in [0, 8, 20] {
        for len in [1_200, 1_201, 1_357, 1_472] {
            let mut packet = first_packet(id_len).await;
            packet.resize(len, 0);
            attempts.push(vec![packet]);
        }
    }
    for with_chain in [false, true] {
        let served = serve(with_chain).await;
        is_within_bounds(&attempts, &answered(&served, &attempts).await);
        served.is_well().await;
    }
}

#[tokio::test]
async fn made_up_answers_prove_nothing() {
    let mut attempts = Vec::new();
    for id_len in [0, 8, 20] {
        for guess in [&b""[..], b"a guess!"] {
            let packet = first_packet(id_len).await;
            // What follows the first one claims to be of the rest of the handshake: type 2, an id
            // that the gateway might have chosen, and its client's own. It counts, so it is short.
            let guess = [&[guess.len() as u8], guess].concat();
            let own = [&[id_len as u8], &[7; 20][..id_len]].concat();
            attempts.push(vec![packet, [&[0xe0, 0, 0, 0, 1], &*guess, &*own].concat()]);
        }
    }
    for with_chain in [false, true] {
        let served = serve(with_chain).await;
        is_within_bounds(&attempts, &answered(&served, &attempts).await);
        served.is_well().await;
    }
}

#[tokio::test]
async fn a_long_chain_of_certificates_reaches_whoever_asks() {
    serve(true).await.is_well().await;
}

#[tokio::test]
async fn under_pressure_an_address_is_asked_for_proof_in_one_packet() {
    let served = Besieged::start(&["limits.ungreeted_per_address=5"]).await;
    // These take places and stay until their time is over.
    for _ in 0..3 {
        let silent = UdpSocket::bind(LOCAL).await.unwrap();
        silent.send_to(&first_packet(8).await, served.secure()).await.unwrap();
        let mut answer = [0; 2_048];
        soon(silent.recv(&mut answer)).await.unwrap();
    }
    let spoofed = UdpSocket::bind(LOCAL).await.unwrap();
    let packet = first_packet(8).await;
    spoofed.send_to(&packet, served.secure()).await.unwrap();
    let mut answer = [0; 2_048];
    let size = soon(spoofed.recv(&mut answer)).await.unwrap();
    assert_eq!(answer[0] & 0xf0, 0xf0, "a Retry packet");
    assert!(size < packet.len() / 3, "{size} bytes");
    assert!(spoofed.try_recv(&mut answer).is_err(), "and nothing else");
    // Who is where it says it is notices nothing.
    served.webtransport().await.answers().await;
    served.is_well().await;
}
