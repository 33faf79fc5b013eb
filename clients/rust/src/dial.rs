//! Making connections: names to addresses, one transport after the other, the losers dropped.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use handover_protocol::wire::Codec;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{IdleTimeout, TransportConfig, VarInt};
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, header};
use web_transport_quinn::proto::ConnectError::WrongStatus;
use web_transport_quinn::proto::ConnectRequest;
use web_transport_quinn::{ClientError, ConnectError as WtConnectError, Session};

use crate::address::Address;
use crate::endpoint::Endpoint;
use crate::error::{ConnectError, DialError};
use crate::options::{Options, Transport as Choice};
use crate::tls;
use crate::transport::{Io, Kind, Transport, WebSocket, WebTransport};

/// How long an address of a host is tried before the next one races it.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(200);
/// Nothing heard for so long ends a QUIC connection; the session doubts it much sooner.
const IDLE_TIMEOUT_MS: u32 = 45_000;
/// What one stream may have on the way that was not read, and what a connection may.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const DATAGRAM_BUFFER: usize = 64 << 10;
/// HTTP/3 needs a control stream and two of QPACK; nobody opens more towards a client.
const STREAMS_MAX: u32 = 8;
/// What may wait in the kernel: more urgent messages wait behind it.
#[cfg(target_os = "linux")]
const NOTSENT_LOWAT: u32 = 16 << 10;

/// Everything that dialling takes.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    address: Address,
    codec: Codec,
    choice: Choice,
    head_start: Duration,
    timeout: Duration,
    connect_to: Option<SocketAddr>,
    endpoint: Option<Endpoint>,
    quic: Option<quinn::ClientConfig>,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Dialer {
    pub(crate) fn new(address: Address, options: &Options) -> Result<Self, ConnectError> {
        let choice = match options.transport {
            Choice::WebTransport if !address.encrypted || address.websocket_only => {
                return Err(ConnectError::Address {
                    address: address.websocket(),
                    reason: "WebTransport needs an https:// address".to_owned(),
                });
            }
            Choice::Auto if address.websocket_only => Choice::WebSocket,
            choice => choice,
        };
        let udp = choice != Choice::WebSocket;
        let tcp = choice != Choice::WebTransport;
        let endpoint = match &options.endpoint {
            Some(endpoint) if udp => Some(endpoint.clone()),
            None if udp => Some(Endpoint::new()?),
            _ => None,
        };
        let quic = if udp { Some(quic_config(options)?) } else { None };
        let tls = if tcp && address.encrypted {
            Some(Arc::new(tls::client_config(&options.certificates, b"http/1.1")?))
        } else {
            None
        };
        let (codec, head_start, timeout) =
            (options.codec, options.head_start, options.dial_timeout);
        let connect_to = options.connect_to;
        Ok(Dialer { address, codec, choice, head_start, timeout, connect_to, endpoint, quic, tls })
    }

    pub(crate) fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }

    /// Whether a session on a WebSocket may move to WebTransport.
    pub(crate) fn may_promote(&self) -> bool {
        self.choice == Choice::Auto
    }

    /// WebTransport has just gone silent: nothing waits for it.
    pub(crate) fn without_head_start(self) -> Self {
        Dialer { head_start: Duration::ZERO, ..self }
    }

    /// Whichever transport comes about first, WebTransport with a head start.
    pub(crate) async fn dial(self) -> Result<Transport, DialError> {
        let timeout = self.timeout;
        let dial = async {
            match self.choice {
                Choice::WebTransport => self.webtransport().await,
                Choice::WebSocket => self.websocket().await,
                Choice::Auto => self.race().await,
            }
        };
        tokio::time::timeout(timeout, dial).await.unwrap_or(Err(DialError::Timeout))
    }

    /// WebTransport alone, for a session that has had to do without.
    pub(crate) async fn dial_webtransport(self) -> Result<Transport, DialError> {
        let dial = tokio::time::timeout(self.timeout, self.webtransport());
        dial.await.unwrap_or(Err(DialError::Timeout))
    }

    async fn race(&self) -> Result<Transport, DialError> {
        let mut first = pin!(self.webtransport());
        let head_start = pin!(tokio::time::sleep(self.head_start));
        let why = match select(&mut first, head_start).await {
            Either::Left((Ok(transport), _)) => return Ok(transport),
            Either::Left((Err(why), _)) => Some(why),
            Either::Right(_) => None,
        };
        let second = pin!(self.websocket());
        if let Some(why) = why {
            return second.await.map_err(|also| DialError::Both(why.into(), also.into()));
        }
        match select(first, second).await {
            Either::Left((Ok(transport), _)) | Either::Right((Ok(transport), _)) => Ok(transport),
            Either::Left((Err(why), second)) => {
                second.await.map_err(|also| DialError::Both(why.into(), also.into()))
            }
            Either::Right((Err(also), first)) => {
                first.await.map_err(|why| DialError::Both(why.into(), also.into()))
            }
        }
    }

    async fn webtransport(&self) -> Result<Transport, DialError> {
        let failed = |reason: String| failed(Kind::WebTransport, reason);
        let (Some(endpoint), Some(config)) = (&self.endpoint, &self.quic) else {
            return Err(failed("not chosen".to_owned()));
        };
        let url = self.address.webtransport(self.codec).map_err(|e| failed(e.to_string()))?;
        let url = &url;
        let dial = |to: SocketAddr| async move {
            let connecting = endpoint.quic().connect_with(config.clone(), to, &self.address.host);
            let connection = connecting.map_err(|error| failed(error.to_string()))?;
            let connection = connection.await.map_err(|error| failed(error.to_string()))?;
            let session = Session::connect(connection, ConnectRequest::new(url.clone()));
            let session = session.await.map_err(wt_error)?;
            let opened = WebTransport::open(session).await;
            opened.map_err(|error| failed(error.to_string()))
        };
        let transport = self.first_address(failed, dial).await?;
        Ok(Transport::WebTransport(Box::new(transport)))
    }

    async fn websocket(&self) -> Result<Transport, DialError> {
        let failed = |reason: String| failed(Kind::WebSocket, reason);
        let io = self.first_address(failed, |to| self.tcp(to)).await?;
        let mut request =
            self.address.websocket().into_client_request().map_err(|e| failed(e.to_string()))?;
        let offer = HeaderValue::from_static(self.codec.subprotocol());
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, offer);
        let config = Some(WebSocket::config());
        let upgraded = client_async_with_config(request, io, config).await;
        let (stream, _) = upgraded.map_err(ws_error)?;
        Ok(Transport::WebSocket(Box::new(WebSocket::new(stream, self.codec))))
    }

    async fn tcp(&self, to: SocketAddr) -> Result<Io, DialError> {
        let failed = |error: io::Error| failed(Kind::WebSocket, error.to_string());
        let stream = TcpStream::connect(to).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        #[cfg(target_os = "linux")]
        // Without it, urgent messages wait longer behind bulk; nothing else is lost.
        let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(NOTSENT_LOWAT);
        let Some(tls) = &self.tls else { return Ok(Io::Plain(stream)) };
        let name = ServerName::try_from(self.address.host.clone())
            .map_err(|error| failed(io::Error::other(error)))?;
        let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
        Ok(Io::Tls(Box::new(stream.map_err(failed)?)))
    }

    /// The first address of the host that works: each has a head start before the next.
    async fn first_address<T, F: Future<Output = Result<T, DialError>>>(
        &self,
        failed: impl Fn(String) -> DialError,
        dial: impl Fn(SocketAddr) -> F,
    ) -> Result<T, DialError> {
        let resolve =
            |error| DialError::Resolve { host: self.address.host.clone(), error: Arc::new(error) };
        let found = match self.connect_to {
            Some(address) => vec![address],
            None => {
                let found = lookup_host((self.address.host.as_str(), self.address.port)).await;
                found.map_err(resolve)?.collect()
            }
        };
        let mut addresses = found.into_iter();
        let mut attempts = FuturesUnordered::new();
        let mut last = failed("the host has no address".to_owned());
        loop {
            let next = addresses.next();
            let more = next.is_some();
            attempts.extend(next.map(&dial));
            if !more && attempts.is_empty() {
                return Err(last);
            }
            let patience = tokio::time::sleep(NEXT_ADDRESS_AFTER);
            tokio::select! {
                Some(done) = attempts.next() => match done {
                    Ok(made) => return Ok(made),
                    Err(error) => last = error,
                },
                () = patience, if more => {}
            }
        }
    }
}

fn failed(kind: Kind, reason: String) -> DialError {
    DialError::Failed { transport: kind.name(), reason }
}

fn wt_error(error: ClientError) -> DialError {
    let transport = Kind::WebTransport.name();
    match error {
        ClientError::HttpError(WtConnectError::ProtoError(WrongStatus(Some(status)))) => {
            DialError::Status { transport, status: status.as_u16(), retry_after: None }
        }
        other => DialError::Failed { transport, reason: other.to_string() },
    }
}

fn ws_error(error: WsError) -> DialError {
    let transport = Kind::WebSocket.name();
    match error {
        WsError::Http(response) => DialError::Status {
            transport,
            status: response.status().as_u16(),
            retry_after: retry_after(response.headers()),
        },
        other => DialError::Failed { transport, reason: other.to_string() },
    }
}

/// Seconds; the other form, a date, is not used by gateways.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

fn quic_config(options: &Options) -> Result<quinn::ClientConfig, ConnectError> {
    let tls = tls::client_config(&options.certificates, web_transport_quinn::ALPN.as_bytes())?;
    let crypto = QuicClientConfig::try_from(tls)
        .map_err(|error| ConnectError::Certificates(error.to_string()))?;
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER)
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_bidi_streams(VarInt::from_u32(0));
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}
