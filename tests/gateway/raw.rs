//! Bytes as a client would put them on a wire, for those who mean to put them there otherwise.

use std::net::SocketAddr;

use bytes::BytesMut;
use handover_protocol::wire::frame::put_prefix;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

use super::setup::soon;

pub const HELLO: &str = r#"{"type":"hello","version":1}"#;

/// The request that makes a connection a WebSocket.
pub fn upgrade(to: SocketAddr) -> Vec<u8> {
    upgrade_with(to, "")
}

/// The same with these lines besides.
pub fn upgrade_with(to: SocketAddr, lines: &str) -> Vec<u8> {
    format!(
        "GET /v1/ws HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
    )
    .into_bytes()
}

/// A text message in one frame, masked with zeros.
pub fn text(message: &str) -> Vec<u8> {
    in_one_frame(0x81, message.as_bytes())
}

/// The same with bytes that are no text.
pub fn binary(message: &[u8]) -> Vec<u8> {
    in_one_frame(0x82, message)
}

fn in_one_frame(kind: u8, message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    match u16::try_from(message.len()) {
        Ok(len) if len < 126 => bytes.push(0x80 | len as u8),
        Ok(len) => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&len.to_be_bytes());
        }
        Err(_) => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(message.len() as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(message);
    bytes
}

/// A message as it stands on a stream.
pub fn frame(message: &str) -> Vec<u8> {
    let mut frame = BytesMut::new();
    put_prefix(&mut frame, message.len());
    frame.extend_from_slice(message.as_bytes());
    frame.to_vec()
}

pub async fn tcp(to: SocketAddr) -> TcpStream {
    let tcp = soon(TcpStream::connect(to)).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}

/// Waits until the gateway has read all that was sent to it from here. Where the system does not
/// tell, it may have.
pub async fn is_read(from: SocketAddr, by: SocketAddr) {
    tokio::task::yield_now().await;
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => {
            format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port())
        }
        SocketAddr::V6(_) => panic!("loopback by IPv4"),
    };
    let ends = format!(" {} {} ", hex(by), hex(from));
    soon(async {
        // Its line ends with what waits to be sent, and to be read.
        while let Ok(table) = std::fs::read_to_string("/proc/net/tcp")
            && let Some(line) = table.lines().find(|line| line.contains(&ends))
            && !line.split_whitespace().nth(4).is_some_and(|queues| queues.ends_with(":00000000"))
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Reads until this has been said.
pub async fn hears(io: &mut (impl AsyncRead + Unpin), wanted: &str) {
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains(wanted) {
        let mut chunk = [0; 4_096];
        let size = soon(io.read(&mut chunk)).await.unwrap();
        assert!(size > 0, "no {wanted} in {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&chunk[..size]);
    }
}

/// All that is said until the end, which a reset is too.
pub async fn last_words(io: &mut (impl AsyncRead + Unpin)) -> String {
    let mut said = Vec::new();
    let _ = soon(io.read_to_end(&mut said)).await;
    String::from_utf8_lossy(&said).into_owned()
}
