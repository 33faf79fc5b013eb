//! Frame to frame on tungstenite.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::stream::SplitSink;
use futures_util::{FutureExt, SinkExt, StreamExt};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};
use tokio_util::either::Either;

use super::{Groups, Place, READY, place};
use crate::rig::{Result, tls};

type Socket = WebSocketStream<Either<TcpStream, TlsStream<TcpStream>>>;
type Sender = SplitSink<Socket, Message>;

pub(super) fn bind() -> Result<(TcpListener, u16)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let listener = socket.listen(1_024)?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

pub(super) fn tls() -> Result<TlsAcceptor> {
    Ok(TlsAcceptor::from(Arc::new(tls::server(b"http/1.1")?)))
}

pub(super) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>) -> Result<()> {
    let groups = Groups::new();
    loop {
        let (stream, _) = listener.accept().await?;
        // What ends a connection shows at the other end, where it is counted.
        let connection = connection(stream, tls.clone(), groups.clone()).map(drop);
        tokio::spawn(connection);
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    groups: Arc<Groups<Sender>>,
) -> Result<()> {
    let (place, mut socket) = Box::pin(set_up(stream, tls)).await?;
    let greeting = socket.next().await;
    socket.send(Message::text(READY)).await?;
    match (place, greeting) {
        (Place::Relay(name), Some(Ok(_))) => relay(socket, &groups, name).await,
        _ => {
            while let Some(Ok(_)) = socket.next().await {}
            Ok(())
        }
    }
}

/// The gateway's settings of TCP, TLS and tungstenite.
async fn set_up(stream: TcpStream, tls: Option<TlsAcceptor>) -> Result<(Place, Socket)> {
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_notsent_lowat(16 * 1024)?;
    let stream = match tls {
        None => Either::Left(stream),
        Some(tls) => {
            let mut stream = tls.accept(stream).await?;
            stream.get_mut().1.set_buffer_limit(Some(16 * 1024));
            Either::Right(stream)
        }
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(8 * 1024)
        .max_message_size(Some(65_536))
        .max_frame_size(Some(65_536));
    let mut path = String::new();
    #[allow(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
    let look = |request: &Request, response: Response| {
        request.uri().path().clone_into(&mut path);
        Ok(response)
    };
    let socket =
        tokio_tungstenite::accept_hdr_async_with_config(stream, look, Some(config)).await?;
    Ok((place(&path).ok_or("an unknown path")?, socket))
}

async fn relay(socket: Socket, groups: &Groups<Sender>, name: String) -> Result<()> {
    let (sender, mut receiver) = socket.split();
    let (group, me) = groups.join(name, sender).await;
    let mut is_unflushed = false;
    loop {
        // What has come together goes out together, and at once.
        let next = match receiver.next().now_or_never() {
            Some(next) => next,
            None => {
                if std::mem::take(&mut is_unflushed) {
                    for sender in group.others(me).await.iter_mut() {
                        sender.flush().await?;
                    }
                }
                receiver.next().await
            }
        };
        let Some(Ok(message)) = next else { return Ok(()) };
        for sender in group.others(me).await.iter_mut() {
            sender.feed(message.clone()).await?;
        }
        is_unflushed = true;
    }
}
