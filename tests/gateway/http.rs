//! What is answered over HTTP, and what every answer says besides.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::setup::{Served, over_tls, soon};

/// A request as it stands on the wire.
pub struct Request(Vec<u8>);

impl Request {
    pub fn of(method: &str, path: &str) -> Self {
        Request(format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n").into_bytes())
    }

    /// Names another host than it goes to.
    fn to(self, host: &str) -> Self {
        Request([self.0, format!("host: {host}\r\n").into_bytes()].concat())
    }

    pub fn get(path: &str) -> Self {
        Request::of("GET", path)
    }

    /// A WebSocket's, with these lines besides.
    pub fn upgrade(lines: &[u8]) -> Self {
        let request =
            b"GET /v1/ws HTTP/1.1\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        Request([request, lines].concat())
    }
}

/// The first answer of a connection.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(key, value)| (key == name).then_some(value))
    }
}

/// Asks the gateway on its TLS port or its plain one.
pub async fn ask(served: &Served, tls: bool, request: Request) -> Answer {
    if tls {
        exchange(over_tls(served.secure()).await, request).await
    } else {
        exchange(soon(TcpStream::connect(served.plain())).await.unwrap(), request).await
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: Request) -> Answer {
    let Request(mut request) = request;
    if !request.windows(8).any(|part| part == b"\r\nhost: ") {
        request.extend_from_slice(b"host: localhost\r\n");
    }
    stream.write_all(&[&request, &b"\r\n"[..]].concat()).await.unwrap();
    let mut bytes = Vec::new();
    // To the end; but what became a WebSocket says no more until it is greeted.
    while soon(stream.read_buf(&mut bytes)).await.is_ok_and(|size| size > 0) {
        if bytes.starts_with(b"HTTP/1.1 101") && bytes.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

/// What a browser is told with every answer.
const ALWAYS: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    (
        "permissions-policy",
        "camera=(self), microphone=(self), display-capture=(), geolocation=(), accelerometer=(), \
         gyroscope=(), magnetometer=(), hid=(), midi=(), payment=(), serial=(), usb=()",
    ),
];

#[tokio::test]
async fn every_answer_says_what_browsers_may_make_of_it() {
    let served = Served::with(|config| config.capacity.connections = 1).await;
    let pages = ["/", "/examples/index.html", "/examples/call.js", "/client/index.js"];
    let others =
        ["/v1/ws", "/v1/wt", "/v1/identity", "/healthz", "/metrics", "/nothing", "/v1/../x"];
    let refused: [&[u8]; 3] = [
        b"origin: https://evil.example\r\n",
        b"sec-websocket-protocol: chat\r\n",
        // No place is left for this one.
        b"",
    ];
    let _only = served.websocket().await;
    let mut seen = std::collections::BTreeSet::new();
    for tls in [false, true] {
        let mut answers = Vec::new();
        for path in pages.into_iter().chain(others) {
            for method in METHODS {
                let answer = ask(&served, tls, Request::of(method, path)).await;
                answers.push((format!("{method} {path}"), answer));
            }
        }
        for lines in refused {
            let answer = ask(&served, tls, Request::upgrade(lines)).await;
            answers.push((String::from_utf8_lossy(lines).into_owned(), answer));
        }
        for (what, answer) in answers {
            assert_ne!(answer.status, 101, "{what} {tls}");
            seen.insert(answer.status);
            for (name, value) in ALWAYS {
                assert_eq!(answer.header(name), Some(value), "{name} of {what}");
            }
            let is_page = answer.status == 200 && pages.iter().any(|page| what.ends_with(page));
            let policy = answer.header("content-security-policy").unwrap();
            let (default, cache) = match is_page {
                true => ("default-src 'self';", "no-cache"),
                false => ("default-src 'none';", "no-store"),
            };
            assert!(policy.starts_with(default) && !policy.contains("unsafe"), "{what}: {policy}");
            assert!(policy.contains("frame-ancestors 'none'"), "{what}: {policy}");
            assert_eq!(answer.header("cache-control"), Some(cache), "{what}");
            let is_identity = answer.status == 200 && what.ends_with("/v1/identity");
            let (readers, origins) =
                if is_identity { ("cross-origin", Some("*")) } else { ("same-origin", None) };
            assert_eq!(answer.header("cross-origin-resource-policy"), Some(readers), "{what}");
            assert_eq!(answer.header("access-control-allow-origin"), origins, "{what}");
            assert_eq!(answer.header("strict-transport-security"), None, "see docs/decisions.md");
        }
    }
    let all = [200, 400, 403, 404, 405, 426, 503];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all);
}

#[tokio::test]
async fn what_is_the_operators_is_not_on_the_public_port() {
    let served = Served::start().await;
    for method in METHODS {
        for path in ["/metrics", "/admin", "/v1/admin", "/v1/rooms", "/v1/sessions", "/debug"] {
            let public = ask(&served, true, Request::of(method, path)).await;
            assert_eq!(
                (public.status, method == "HEAD" || public.body == "nothing here\n"),
                (404, true)
            );
        }
    }
    let on_plain = ask(&served, false, Request::get("/metrics")).await;
    assert_eq!(on_plain.status, 200);
    // What the public port has: the page, health, and the hash of the certificate it shows anyway.
    for path in ["/", "/healthz", "/v1/identity"] {
        assert_eq!(ask(&served, true, Request::get(path)).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn in_a_crowd_one_request_is_answered_and_a_websocket_is_still_one() {
    let served = Served::with(|config| config.capacity.ungreeted = 4).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(soon(TcpStream::connect(served.plain())).await.unwrap());
    }
    let mut asking = soon(TcpStream::connect(served.plain())).await.unwrap();
    asking.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut said = String::new();
    soon(asking.read_to_string(&mut said)).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 200 OK") && said.contains("connection: close"), "{said}");
    // One that looks for `Upgrade` in its answer, and takes nothing beside it.
    served.websocket().await.answers().await;
}

/// A page under a name that was made to point here has the gateway's answers for its own.
#[tokio::test]
async fn metrics_are_not_for_pages_under_any_name() {
    let served = Served::with(|config| {
        let settings = [("HANDOVER_ORIGINS".to_owned(), "http://metrics.example:8080".to_owned())];
        config.origins =
            handover::config::load(None, &settings.into(), &[]).unwrap().config.origins;
    })
    .await;
    let asked = async |host: &str| {
        let answer = ask(&served, false, Request::get("/metrics").to(host)).await;
        assert_eq!(answer.status == 200, answer.body.contains("handover_sessions"), "{host}");
        answer.status
    };
    for host in
        ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "10.0.0.5", "metrics.example:8080"]
    {
        assert_eq!(asked(host).await, 200, "{host}");
    }
    for host in ["evil.example:8080", "metrics.example", "localhost.evil.example", "", "a b"] {
        assert_eq!(asked(host).await, 403, "{host}");
    }
    let health = ask(&served, false, Request::get("/healthz").to("evil.example")).await;
    assert_eq!(health.status, 200, "whoever balances load asks as it likes");
}
