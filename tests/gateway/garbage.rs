//! Callers that speak something else. Whoever speaks the protocol does not notice them.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::setup::soon;
use super::siege::Besieged;

/// Bytes without meaning, the same in every run.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..len).map(step).collect()
}

#[tokio::test]
async fn noise_on_every_port_harms_nobody() {
    let served = Besieged::start(&[]).await;
    let mut members = served.both("room").await;
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let udp = UdpSocket::bind(local).await.unwrap();
    for len in [0, 1, 20, 1_200, 1_472] {
        udp.send_to(&noise(len), served.secure()).await.unwrap();
    }
    // Looks like the first packet of a version nobody speaks, with two ids of eight bytes.
    let mut initial = noise(1_200);
    initial[..6].copy_from_slice(&[0xc0, 0x0a, 0x0a, 0x0a, 0x0a, 8]);
    initial[14] = 8;
    udp.send_to(&initial, served.secure()).await.unwrap();
    let mut answer = [0; 2_048];
    // What might be of a connection that is gone is told so, and is shorter than what asked.
    while answer[0] & 0x80 == 0 {
        let size = soon(udp.recv(&mut answer)).await.unwrap();
        assert!(size <= 1_200, "an answer longer than the question");
    }
    assert_eq!(answer[1..5], [0; 4], "a version negotiation packet");

    for address in [served.secure(), served.plain()] {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(&noise(4_096)).await.unwrap();
        // An alert or an error page, and the end; a reset is an end too.
        let mut said = Vec::new();
        let _ = soon(tcp.read_to_end(&mut said)).await;
        assert!(said.len() < 1_024, "{} bytes for noise", said.len());
    }
    // These say nothing and stay until the end.
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(served.secure()).await.unwrap());
        silent.push(TcpStream::connect(served.plain()).await.unwrap());
    }
    for member in &mut members {
        member.answers().await;
    }
    let mut late = served.both("another room").await;
    for member in &mut late {
        member.answers().await;
    }
    drop((members, late));
    served.is_well().await;
    served.ends().await;
}
