//! HTTP/1.1 on the TCP port: the page, the small API, and the door to WebSocket.
//!
//! A connection is served in the task that accepted it. If it turns into a WebSocket, the
//! stream comes out together with what was read ahead of it.

pub mod pages;
#[cfg(test)]
mod tests;
pub mod upgrade;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use handover_protocol::wire::Codec;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;

use crate::telemetry::{self, Metrics};
use crate::transport::accept::{
    Admitted, Entered, Gate, Refused, ServeTcp, TcpCaller, TcpIo, Upgraded, Visitor,
};

/// A request's head must have come by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// ... or by then in a crowd, and then there is one request a connection: who only holds a place must
/// not keep out who wants a WebSocket.
const HEAD_TIMEOUT_CROWDED: Duration = Duration::from_secs(2);
/// Requests of a connection at the most. Who goes on comes again, as fast as TLS handshakes are granted.
const REQUESTS_MAX: usize = 100;
/// Bytes of a request's head at the most.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// What `Retry-After` says when there is no room for another connection, seconds.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("2");

/// What the gateway tells about itself. Asked for anew by every request.
pub trait Status: Send + Sync + 'static {
    /// For browsers that are to trust a self-made certificate; `None` with a real one.
    fn identity(&self) -> Option<IdentityStatement>;

    /// How the gateway is.
    fn standing(&self) -> Standing;
}

/// How a gateway is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// New connections are welcome.
    #[default]
    Well,
    /// What it needs does not answer: new connections are better served elsewhere.
    Degraded,
    /// The same, but it is to count as ready.
    Tolerated,
    /// It goes away.
    Draining,
}

/// The answer of `GET /v1/identity`.
#[derive(Clone, Debug, Serialize)]
pub struct IdentityStatement {
    /// Always `sha-256`.
    pub algorithm: &'static str,
    /// Base64 of the DER certificate's hash.
    pub value: String,
    /// When the certificate ends, Unix seconds.
    pub expires: u64,
    /// The port of QUIC and TLS.
    pub port: u16,
}

/// What is served.
pub struct Site {
    /// Who may open a WebSocket.
    pub gate: Arc<Gate>,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// What the gateway tells about itself.
    pub status: Arc<dyn Status>,
}

/// How a request came in.
#[derive(Clone, Copy, Debug)]
struct Via {
    address: IpAddr,
    /// By TLS; otherwise on the plain listener, which is for this machine and its proxies.
    encrypted: bool,
}

/// What a request may turn the connection into.
struct Upgrading {
    /// The place of the set-up, until it becomes that of a connection.
    entered: Option<Entered>,
    agreed: Option<(OnUpgrade, Codec, Admitted)>,
}

impl ServeTcp for Site {
    async fn serve(&self, caller: TcpCaller) -> Option<Upgraded> {
        let TcpCaller { io, remote, encrypted, entered } = caller;
        let via = Via { address: remote.ip(), encrypted };
        let upgrading = Mutex::new(Upgrading { entered: Some(entered), agreed: None });
        let is_crowded = || self.gate.is_tcp_crowded(encrypted);
        let asked = AtomicUsize::new(0);
        let service = service_fn(|request| {
            let mut response = hardened(answer(request, via, self, &upgrading));
            let is_last = asked.fetch_add(1, Ordering::Relaxed) + 1 >= REQUESTS_MAX || is_crowded();
            if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                // Not left to hyper, which would put it beside the `Upgrade` of a WebSocket.
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            async move { Ok::<_, Infallible>(response) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(if is_crowded() { HEAD_TIMEOUT_CROWDED } else { HEAD_TIMEOUT })
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%remote, error = error.to_string(), "http connection ended");
        }
        let upgrading = upgrading.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (upgrade, codec, admitted) = upgrading.agreed?;
        let parts = upgrade.await.ok()?.downcast::<TokioIo<TcpIo>>().ok()?;
        let io = parts.io.into_inner();
        Some(Upgraded { io, read_ahead: parts.read_buf, codec, admitted })
    }
}

type Answer = Response<Full<Bytes>>;

fn answer(
    mut request: Request<Incoming>,
    via: Via,
    site: &Site,
    upgrading: &Mutex<Upgrading>,
) -> Answer {
    let path = request.uri().path();
    let known = matches!(path, "/v1/ws" | "/v1/identity" | "/healthz" | "/metrics")
        || pages::find(path).is_some();
    if !known || (path == "/metrics" && via.encrypted) {
        return text(StatusCode::NOT_FOUND, "nothing here\n");
    }
    let readable = [Method::GET, Method::HEAD].contains(request.method());
    if !readable || (path == "/v1/ws" && request.method() != Method::GET) {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        let allowed = if path == "/v1/ws" { "GET" } else { "GET, HEAD" };
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
        return refusal;
    }
    match path {
        "/v1/ws" => {
            let mut upgrading = upgrading.lock().unwrap_or_else(PoisonError::into_inner);
            open_websocket(&mut request, via, site, &mut upgrading)
        }
        "/v1/identity" => match site.status.identity() {
            Some(identity) => {
                // Pages served from elsewhere on this machine need it too, and it is public.
                let mut response = json(StatusCode::OK, &identity);
                let headers = response.headers_mut();
                let anyone = HeaderValue::from_static("*");
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, anyone);
                headers.insert(RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
                response
            }
            None => text(StatusCode::NOT_FOUND, "the certificate is not self-made\n"),
        },
        "/healthz" => {
            let (code, status) = match site.status.standing() {
                Standing::Well => (StatusCode::OK, "ok"),
                Standing::Tolerated => (StatusCode::OK, "degraded"),
                Standing::Degraded => (StatusCode::SERVICE_UNAVAILABLE, "degraded"),
                Standing::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            };
            json(code, &Health { status })
        }
        "/metrics" if !may_be_read(request.headers(), via, site) => {
            // A page under a name that was made to point here could read them.
            text(StatusCode::FORBIDDEN, "ask by address, or list http://HOST in `origins`\n")
        }
        "/metrics" => {
            // Writing into a string fails only if a metric's own encoding does.
            let content = site.metrics.encode().unwrap_or_default();
            body(StatusCode::OK, telemetry::CONTENT_TYPE, content.into())
        }
        path => match pages::find(path) {
            Some(page) => page_answer(page),
            None => text(StatusCode::NOT_FOUND, "nothing here\n"),
        },
    }
}

/// Whether a page from the host that was asked for might connect: what it is asked for is then no
/// name that anybody may have made to point here. Browsers always say what they ask for.
fn may_be_read(headers: &HeaderMap, via: Via, site: &Site) -> bool {
    let Some(authority) = only(headers, header::HOST) else { return true };
    let origin = format!("http://{authority}");
    let (address, encrypted) = (via.address, via.encrypted);
    let page = Visitor { origin: Some(&origin), authority: Some(authority), address, encrypted };
    site.gate.allows(page)
}

fn open_websocket(
    request: &mut Request<Incoming>,
    via: Via,
    site: &Site,
    upgrading: &mut Upgrading,
) -> Answer {
    let visitor = Visitor {
        origin: only(request.headers(), header::ORIGIN),
        authority: only(request.headers(), header::HOST),
        address: via.address,
        encrypted: via.encrypted,
    };
    let handshake = match upgrade::read(request.headers()) {
        Ok(handshake) => handshake,
        Err(refusal) => {
            site.metrics.connection_refused(Refused::Codec.name());
            let mut response = text(refusal.status, refusal.text);
            if refusal.status == StatusCode::UPGRADE_REQUIRED {
                let headers = response.headers_mut();
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            return response;
        }
    };
    if !site.gate.allows(visitor) {
        site.metrics.connection_refused(Refused::Origin.name());
        return text(StatusCode::FORBIDDEN, "this origin may not connect\n");
    }
    let stays = site.status.standing() != Standing::Draining;
    let entered = upgrading.entered.take().filter(|_| stays);
    let Some(Ok(admitted)) = entered.map(|entered| site.gate.admit(entered)) else {
        site.metrics.connection_refused(Refused::Capacity.name());
        let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "no capacity\n");
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, RETRY_AFTER_S);
        // Its place among the set-ups is gone, so it may not stay.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        return response;
    };
    let upgrade = hyper::upgrade::on(request);
    upgrading.agreed = Some((upgrade, handshake.codec, admitted));
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    // Base64 is a valid header value.
    if let Ok(accept) = HeaderValue::from_str(&handshake.accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = handshake.protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    response
}

/// The value of a header that may come once. What cannot be read, or is said twice, is there and
/// says nothing anybody could trust.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).into_iter();
    let first = values.next()?;
    Some(first.to_str().ok().filter(|_| values.next().is_none()).unwrap_or_default())
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

/// What the page may do: run our scripts, reach gateways, show media. Nothing inline.
const PAGE_POLICY: &str = "default-src 'self'; \
    connect-src 'self' https: wss: ws://localhost:* ws://127.0.0.1:*; \
    img-src 'self' data: blob:; media-src 'self' blob: mediastream:; \
    object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// On every answer that does not say otherwise itself. There is no HSTS among them: it would bind
/// every port of the host, which is its operator's to decide.
const EVERYWHERE: [(HeaderName, &str); 8] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (RESOURCE_POLICY, "same-origin"),
    // A call needs these two; nothing else of the device is asked for.
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(self), microphone=(self), display-capture=(), geolocation=(), accelerometer=(), \
         gyroscope=(), magnetometer=(), hid=(), midi=(), payment=(), serial=(), usb=()",
    ),
    (header::CACHE_CONTROL, "no-store"),
];
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

fn hardened(mut response: Answer) -> Answer {
    for (name, value) in EVERYWHERE {
        let value = HeaderValue::from_static(value);
        response.headers_mut().entry(name).or_insert(value);
    }
    response
}

fn page_answer(page: pages::Page) -> Answer {
    let mut response = body(StatusCode::OK, page.media_type, Bytes::from_static(page.content));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    // These are our own plain structs; should one ever fail, an empty body says less than a
    // panic breaks.
    let content = serde_json::to_vec(value).unwrap_or_default();
    body(status, "application/json", content.into())
}

fn text(status: StatusCode, content: &'static str) -> Answer {
    body(status, "text/plain; charset=utf-8", Bytes::from_static(content.as_bytes()))
}

fn body(status: StatusCode, media_type: &'static str, content: Bytes) -> Answer {
    let mut response = Response::new(Full::new(content));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
