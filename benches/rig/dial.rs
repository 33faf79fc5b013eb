//! The generator's end of a connection, before anything is said on it.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Endpoint, EndpointConfig, TokioRuntime};
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_util::either::Either;
use web_transport_quinn::Session;

use super::server::Server;
use super::{Result, tls};

/// A WebSocket of the generator's.
pub type WebSocket = WebSocketStream<Either<TcpStream, TlsStream<TcpStream>>>;

/// Opens connections: as many as wanted, over one UDP socket as far as they are QUIC.
pub struct Dialer {
    tls: TlsConnector,
    endpoint: Endpoint,
    quic: quinn::ClientConfig,
}

impl Dialer {
    pub fn new() -> Result<Dialer> {
        let socket = udp_socket(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, runtime)?;
        let crypto = QuicClientConfig::try_from(tls::client(b"h3")?)?;
        let quic = quinn::ClientConfig::new(Arc::new(crypto));
        let tls = TlsConnector::from(Arc::new(tls::client(b"http/1.1")?));
        Ok(Dialer { tls, endpoint, quic })
    }

    pub async fn web_socket(&self, server: &Server, tls: bool, path: &str) -> Result<WebSocket> {
        let address = if tls { server.secure } else { server.plain };
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = if tls {
            let name = ServerName::try_from("localhost")?;
            Either::Right(self.tls.connect(name, stream).await?)
        } else {
            Either::Left(stream)
        };
        // Small, because there may be thousands of them.
        let config = WebSocketConfig::default().read_buffer_size(4 * 1024);
        let url = format!("ws://{address}{path}");
        let (socket, _) =
            tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await?;
        Ok(socket)
    }

    pub async fn web_transport(&self, server: &Server, path: &str) -> Result<Session> {
        let connecting = self.endpoint.connect_with(self.quic.clone(), server.quic, "localhost")?;
        let url = url::Url::parse(&format!("https://{}{path}", server.quic))?;
        Ok(Session::connect(connecting.await?, url).await?)
    }
}

/// A UDP socket with room for bursts, on either side.
pub fn udp_socket(address: SocketAddr) -> Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // The system silently grants less than asked for.
    let _ = socket.set_recv_buffer_size(8 << 20);
    let _ = socket.set_send_buffer_size(8 << 20);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
