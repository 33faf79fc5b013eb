//! Messages on a connection of the generator's, alike for every transport.

use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use handover_protocol::wire::frame::{FrameReader, put_prefix};
use tokio_tungstenite::tungstenite::protocol::Message;
use web_transport_quinn::{RecvStream, SendStream, Session};

use super::Result;
use super::dial::WebSocket;
use super::redis::{Publisher, Subscription};

/// No message here is nearly as long.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    WebSocket,
    WebSocketTls,
    Stream,
    Datagram,
}

impl Wire {
    pub const ALL: [Wire; 4] = [Wire::WebSocket, Wire::WebSocketTls, Wire::Stream, Wire::Datagram];

    pub fn name(self) -> &'static str {
        match self {
            Wire::WebSocket => "websocket",
            Wire::WebSocketTls => "websocket-tls",
            Wire::Stream => "webtransport-stream",
            Wire::Datagram => "webtransport-datagram",
        }
    }

    /// Whether everything sent has to arrive, in order.
    pub fn is_reliable(self) -> bool {
        self != Wire::Datagram
    }
}

/// Where messages are put in.
pub enum Sender {
    WebSocket(SplitSink<WebSocket, Message>),
    Stream {
        stream: SendStream,
        scratch: BytesMut,
    },
    Datagrams(Box<Session>),
    /// Past every gateway.
    Redis(Publisher),
}

impl Sender {
    pub fn stream(stream: SendStream) -> Self {
        Sender::Stream { stream, scratch: BytesMut::new() }
    }

    /// Takes a message; it may wait for [`Sender::flush`].
    pub async fn feed(&mut self, text: &str) -> Result<()> {
        match self {
            Sender::WebSocket(sink) => sink.feed(Message::text(text)).await?,
            Sender::Stream { stream, scratch } => {
                scratch.clear();
                put_prefix(scratch, text.len());
                scratch.extend_from_slice(text.as_bytes());
                stream.write_all(scratch).await?;
            }
            Sender::Datagrams(session) => {
                session.send_datagram(Bytes::copy_from_slice(text.as_bytes()))?;
            }
            Sender::Redis(publisher) => publisher.publish(text).await?,
        }
        Ok(())
    }

    pub async fn flush(&mut self) -> Result<()> {
        match self {
            Sender::WebSocket(sink) => Ok(sink.flush().await?),
            Sender::Stream { .. } | Sender::Datagrams(_) | Sender::Redis(_) => Ok(()),
        }
    }
}

/// Where messages come out.
pub enum Receiver {
    WebSocket(SplitStream<WebSocket>),
    Stream {
        stream: RecvStream,
        frames: FrameReader,
    },
    Datagrams(Box<Session>),
    /// Past every gateway.
    Redis(Subscription),
}

impl Receiver {
    pub fn stream(stream: RecvStream) -> Self {
        Receiver::Stream { stream, frames: FrameReader::new(MESSAGE_BYTES_MAX) }
    }

    /// The next message.
    pub async fn next(&mut self) -> Result<Bytes> {
        match self {
            Receiver::WebSocket(stream) => loop {
                match stream.next().await.ok_or("the connection's end")?? {
                    Message::Text(text) => return Ok(text.into()),
                    Message::Close(_) => return Err("closed by the server".into()),
                    _ => {}
                }
            },
            Receiver::Stream { stream, frames } => loop {
                if let Some(frame) = frames.next_frame()? {
                    return Ok(frame);
                }
                let chunk = stream.read_chunk(16 * 1024, true).await?.ok_or("the stream's end")?;
                frames.buffer().extend_from_slice(&chunk.bytes);
            },
            Receiver::Datagrams(session) => Ok(session.read_datagram().await?),
            Receiver::Redis(subscription) => subscription.next().await,
        }
    }
}
