//! Stream to stream and datagram to datagram on wtransport.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use handover_protocol::wire::frame::{put_prefix, read_prefix};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, Incoming, TokioRuntime, TransportConfig, VarInt};
use wtransport::endpoint::IncomingSessionFuture;
use wtransport::{Connection, RecvStream, SendStream};

use super::{Groups, Place, READY, place};
use crate::rig::{Result, dial, tls};

/// The gateway's settings of QUIC and of the socket under it.
pub(super) fn bind() -> Result<(Endpoint, u16)> {
    let crypto = QuicServerConfig::try_from(tls::server(b"h3")?)?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(4))
        .max_concurrent_uni_streams(VarInt::from_u32(6))
        .stream_receive_window(VarInt::from_u32(128 * 1024))
        .receive_window(VarInt::from_u32(384 * 1024))
        .send_window(256 * 1024)
        .datagram_receive_buffer_size(Some(64 * 1024))
        .datagram_send_buffer_size(32 * 1024)
        .keep_alive_interval(Some(Duration::from_secs(15)))
        .max_idle_timeout(Some(Duration::from_millis(37_500).try_into()?));
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport)).migration(true).max_incoming(4_096);

    let socket = dial::udp_socket(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let runtime = Arc::new(TokioRuntime);
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)?;
    let port = endpoint.local_addr()?.port();
    Ok((endpoint, port))
}

pub(super) async fn serve(endpoint: Endpoint) -> Result<()> {
    let streams = Groups::new();
    let datagrams = Groups::new();
    while let Some(incoming) = endpoint.accept().await {
        // What ends a connection shows at the other end, where it is counted.
        let session = session(incoming, streams.clone(), datagrams.clone()).map(drop);
        tokio::spawn(session);
    }
    Ok(())
}

async fn session(
    incoming: Incoming,
    streams: Arc<Groups<SendStream>>,
    datagrams: Arc<Groups<Arc<Connection>>>,
) -> Result<()> {
    let (place, connection) = Box::pin(set_up(incoming)).await?;
    let (mut sender, receiver) = connection.accept_bi().await?;
    let mut frames = Frames { receiver, buffer: BytesMut::new() };
    frames.next().await?;
    let mut ready = BytesMut::new();
    put_prefix(&mut ready, READY.len());
    ready.extend_from_slice(READY.as_bytes());
    sender.write_all(&ready).await?;
    match place {
        Place::Relay(name) => {
            let (group, me) = streams.join(name, sender).await;
            loop {
                let frame = frames.next().await?;
                for sender in group.others(me).await.iter_mut() {
                    sender.write_all(&frame).await?;
                }
            }
        }
        Place::Datagrams(name) => {
            let connection = Arc::new(connection);
            let (group, me) = datagrams.join(name, connection.clone()).await;
            loop {
                let datagram = connection.receive_datagram().await?.payload();
                for member in group.others(me).await.iter_mut() {
                    member.send_datagram(&datagram)?;
                }
            }
        }
        Place::Idle => {
            // The second stream, as the gateway's clients have one.
            let _second = connection.accept_bi().await?;
            loop {
                frames.next().await?;
            }
        }
    }
}

async fn set_up(incoming: Incoming) -> Result<(Place, Connection)> {
    let request = IncomingSessionFuture::with_quic_incoming(incoming).await?;
    let place = place(request.path()).ok_or("an unknown path")?;
    Ok((place, request.accept().await?))
}

/// A stream in frames, prefix and all.
struct Frames {
    receiver: RecvStream,
    buffer: BytesMut,
}

impl Frames {
    async fn next(&mut self) -> Result<BytesMut> {
        loop {
            if let Some((len, prefix)) = read_prefix(&self.buffer)
                && self.buffer.len() >= prefix + len as usize
            {
                return Ok(self.buffer.split_to(prefix + len as usize));
            }
            let stream = self.receiver.quic_stream_mut();
            let chunk = stream.read_chunk(16 * 1024, true).await?.ok_or("the stream's end")?;
            self.buffer.extend_from_slice(&chunk.bytes);
        }
    }
}
