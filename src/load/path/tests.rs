//! Paths that break as they are told.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::udp::{Sorted, Sorter};
use super::*;

/// A long header with these ids.
fn long(destination: &[u8], source: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xc0, 0, 0, 0, 1];
    for id in [destination, source] {
        packet.push(u8::try_from(id.len()).unwrap());
        packet.extend_from_slice(id);
    }
    packet.extend_from_slice(b"rest");
    packet
}

fn short(destination: &[u8]) -> Vec<u8> {
    [&[0x40][..], destination, b"rest"].concat()
}

#[test]
fn connections_of_one_socket_are_told_apart() {
    let mut sorter = Sorter::default();
    assert_eq!(sorter.sort(&short(b"nobody's")), None);
    assert_eq!(sorter.sort(&long(b"random", b"first")), Some(Sorted::New(0)));
    sorter.learn(&long(b"first", b"gate-one"));
    assert_eq!(sorter.sort(&long(b"gate-one", b"first")), Some(Sorted::Known(0)));
    assert_eq!(sorter.sort(&short(b"gate-one")), Some(Sorted::Known(0)));
    assert_eq!(sorter.sort(&long(b"random", b"second")), Some(Sorted::New(1)));
    assert_eq!(sorter.sort(&short(b"gate-one")), Some(Sorted::Known(0)));
    assert_eq!(sorter.sort(&short(b"gate-two")), Some(Sorted::Known(1)));
    for torn in [&[][..], &[0x40], &[0xc0, 0, 0, 0, 1, 9, 1], &[0xc0]] {
        assert_eq!(sorter.sort(torn), None);
    }
}

/// A path, and both ends of a TCP connection over it.
async fn connected() -> (Path, TcpStream, TcpStream) {
    let gateway = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let path = Path::open(watch::channel(vec![gateway.local_addr().unwrap()]).1, 0).await.unwrap();
    let near = TcpStream::connect(path.address()).await.unwrap();
    let (far, _) = gateway.accept().await.unwrap();
    (path, near, far)
}

async fn read(from: &mut TcpStream) -> io::Result<u8> {
    from.read_u8().await
}

#[tokio::test]
async fn a_cut_is_a_reset_at_both_ends() {
    let (path, mut near, mut far) = connected().await;
    near.write_u8(1).await.unwrap();
    assert_eq!(read(&mut far).await.unwrap(), 1);
    path.cut();
    for end in [&mut near, &mut far] {
        assert_eq!(read(end).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn an_orderly_end_is_passed_on() {
    let (_path, mut near, mut far) = connected().await;
    near.shutdown().await.unwrap();
    assert_eq!(read(&mut far).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    far.write_u8(2).await.unwrap();
    assert_eq!(read(&mut near).await.unwrap(), 2);
}

#[tokio::test]
async fn what_is_said_into_frost_is_late() {
    let (path, mut near, mut far) = connected().await;
    let disturbed = path.disturb(Way::Frozen, Way::Open);
    near.write_u8(1).await.unwrap();
    far.write_u8(2).await.unwrap();
    assert_eq!(read(&mut near).await.unwrap(), 2, "the other direction goes on");
    assert!(far.try_read(&mut [0]).is_err(), "it came through");
    disturbed.undo();
    assert_eq!(read(&mut far).await.unwrap(), 1);
}

#[tokio::test]
async fn what_is_said_into_silence_is_gone() {
    let (path, mut near, mut far) = connected().await;
    path.disturb(Way::Silent, Way::Open);
    near.write_u8(1).await.unwrap();
    path.disturb(Way::Frozen, Way::Open).undo();
    near.write_u8(3).await.unwrap();
    near.shutdown().await.unwrap();
    // That the near end is done is not passed on either: only the far one ends it.
    far.write_u8(2).await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(read(&mut near).await.unwrap(), 2);
    assert_eq!(read(&mut near).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    let after = read(&mut far).await.unwrap_err().kind();
    assert_eq!(after, io::ErrorKind::UnexpectedEof, "nothing before the end");
}

#[tokio::test]
async fn new_connections_go_to_gateways_in_turn_while_they_are_up() {
    let mut gateways = Vec::new();
    for _ in 0..2 {
        gateways.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    }
    let all: Vec<SocketAddr> = gateways.iter().map(|g| g.local_addr().unwrap()).collect();
    let (up, watched) = watch::channel(all.clone());
    let path = Path::open(watched, 1).await.unwrap();
    for at in [1, 0, 1] {
        let _near = TcpStream::connect(path.address()).await.unwrap();
        let _far = gateways[at].accept().await.unwrap();
        assert_eq!(path.gateway(Kind::WebSocket), Some(all[at]));
        assert_eq!(path.gateway(Kind::WebTransport), None);
    }
    up.send_replace(Vec::new());
    let mut near = TcpStream::connect(path.address()).await.unwrap();
    assert!(read(&mut near).await.is_err(), "there is nobody");
}
