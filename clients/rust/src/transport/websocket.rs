//! WebSocket (RFC 6455): one stream for all lanes, one WebSocket message a message.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Sink, Stream, StreamExt};
use handover_protocol::wire::Codec;
use handover_protocol::wire::frame::Frame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::frame::Frame as WsFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};

use super::{Inbound, MESSAGE_BYTES_MAX, TransportEnd};

/// Allocated for as long as the connection lasts.
const READ_BUFFER: usize = 4 * 1024;
/// Handed over ahead of the socket, so that what is more urgent waits for little.
const WRITE_BUFFER: usize = 8 * 1024;

/// TCP with or without TLS.
#[derive(Debug)]
pub(crate) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A WebSocket after its handshake.
pub(crate) struct WebSocket {
    stream: WebSocketStream<Io>,
    codec: Codec,
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket").field("codec", &self.codec).finish_non_exhaustive()
    }
}

impl WebSocket {
    pub(crate) fn config() -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX))
    }

    pub(crate) fn new(stream: WebSocketStream<Io>, codec: Codec) -> Self {
        WebSocket { stream, codec }
    }

    pub(super) fn gateway(&self) -> Option<SocketAddr> {
        let stream = match self.stream.get_ref() {
            Io::Plain(stream) => stream,
            Io::Tls(stream) => stream.get_ref().0,
        };
        stream.peer_addr().ok()
    }

    pub(super) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Inbound, TransportEnd>> {
        let next = match Pin::new(&mut self.stream).poll_next(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(next) => next,
        };
        let inbound = match next {
            Some(Ok(Message::Text(text))) if self.codec.is_text() => {
                Ok(Inbound::Message(text.into()))
            }
            Some(Ok(Message::Binary(bytes))) if !self.codec.is_text() => {
                Ok(Inbound::Message(bytes))
            }
            Some(Ok(Message::Text(_) | Message::Binary(_))) => {
                Err(TransportEnd::lost("the gateway does not keep to the codec"))
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(Inbound::Alive),
            Some(Ok(Message::Close(close))) => Err(TransportEnd {
                code: close.as_ref().map(|close| close.code.into()),
                reason: close.map_or_else(String::new, |close| close.reason.to_string()),
            }),
            Some(Err(error)) => Err(TransportEnd::lost(error)),
            None => Err(TransportEnd::lost("closed")),
        };
        Poll::Ready(inbound)
    }

    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportEnd>> {
        Pin::new(&mut self.stream).poll_ready(cx).map_err(TransportEnd::lost)
    }

    pub(super) fn start_send(&mut self, frame: &Frame) -> Result<(), TransportEnd> {
        let data = if self.codec.is_text() { Data::Text } else { Data::Binary };
        // A frame rather than a text message: what our codec wrote need not be searched for
        // invalid UTF-8.
        let frame = WsFrame::message(frame.payload(), OpCode::Data(data), true);
        let sent = Pin::new(&mut self.stream).start_send(Message::Frame(frame));
        sent.map_err(TransportEnd::lost)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportEnd>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            // The gateway's close frame has been answered; reading will tell.
            Poll::Ready(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => Poll::Ready(Ok(())),
            other => other.map_err(TransportEnd::lost),
        }
    }

    pub(super) async fn close(mut self) {
        // An error means that it is closed already.
        if self.stream.close(None).await.is_ok() {
            while let Some(Ok(_)) = self.stream.next().await {}
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
