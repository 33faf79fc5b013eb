//! Which web pages get a session, on both transports, decided before there is one.

use std::net::{Ipv4Addr, SocketAddr};

use handover::config::{Config, IdentitySource, load};
use http::HeaderMap;
use http::header::{HeaderValue, ORIGIN};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use web_transport_quinn::proto::ConnectError::WrongStatus;
use web_transport_quinn::proto::ConnectRequest;
use web_transport_quinn::{ClientError, ConnectError, Session};

use super::certificates::put;
use super::http::{Request, ask};
use super::setup::{Served, any_certificate, over_tls, soon};
use super::siege::Besieged;

/// A gateway that lists these, written as in its configuration.
async fn listing(origins: &str) -> Served {
    let settings = [("HANDOVER_ORIGINS".to_owned(), origins.to_owned())].into();
    let Config { origins, .. } = load(None, &settings, &[]).unwrap().config;
    Served::with(|config| config.origins = origins).await
}

fn headers(origin: Option<&'static str>) -> HeaderMap {
    origin.map(|origin| (ORIGIN, HeaderValue::from_static(origin))).into_iter().collect()
}

/// The status that a page from `origin` gets, asking for `authority`.
async fn websocket(
    to: SocketAddr,
    authority: &str,
    tls: bool,
    origin: Option<&'static str>,
) -> u16 {
    let mut request = format!("ws://{authority}/v1/ws").into_client_request().unwrap();
    request.headers_mut().extend(headers(origin));
    let answered = if tls {
        let outcome = tokio_tungstenite::client_async(request, over_tls(to).await);
        soon(outcome).await.map(|(_, answer)| answer)
    } else {
        let tcp = soon(TcpStream::connect(to)).await.unwrap();
        soon(tokio_tungstenite::client_async(request, tcp)).await.map(|(_, answer)| answer)
    };
    match answered {
        Ok(answer) => answer.status().as_u16(),
        Err(Error::Http(answer)) => answer.status().as_u16(),
        Err(error) => panic!("{error}"),
    }
}

async fn webtransport(to: SocketAddr, authority: &str, origin: Option<&'static str>) -> u16 {
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let dialled = endpoint.connect_with(any_certificate(), to, "localhost").unwrap();
    let url = url::Url::parse(&format!("https://{authority}/v1/wt")).unwrap();
    let request = ConnectRequest::new(url).with_headers(headers(origin));
    match soon(Session::connect(soon(dialled).await.unwrap(), request)).await {
        Ok(_) => 200,
        Err(ClientError::HttpError(ConnectError::ProtoError(WrongStatus(Some(status))))) => {
            status.as_u16()
        }
        Err(error) => panic!("{error}"),
    }
}

/// What WebTransport, WebSocket by TLS and plain WebSocket answer.
pub async fn answers(
    secure: SocketAddr,
    plain: SocketAddr,
    authority: &str,
    origin: Option<&'static str>,
) -> [u16; 3] {
    [
        webtransport(secure, authority, origin).await,
        websocket(secure, authority, true, origin).await,
        websocket(plain, authority, false, origin).await,
    ]
}

const LET_IN: [u16; 3] = [200, 101, 101];
const REFUSED: [u16; 3] = [403, 403, 403];

#[tokio::test]
async fn listed_pages_are_let_in_and_those_that_look_like_them_are_not() {
    let listed = "origins=https://app.example.com, https://*.example.org";
    let served = Besieged::start(&[listed]).await;
    let gateway = "gw.example.net:4433";
    let answers = |origin| answers(served.secure(), served.plain(), gateway, origin);
    for origin in [
        "https://app.example.com",
        "https://APP.example.com:443",
        "https://a.example.org",
        "https://a.b.example.org",
    ] {
        assert_eq!(answers(Some(origin)).await, LET_IN, "{origin}");
    }
    // A program that is no browser has no origin.
    assert_eq!(answers(None).await, LET_IN);
    for origin in [
        "https://example.com",
        "https://evil-example.com",
        "https://evil-app.example.com",
        "https://app.example.com.evil.org",
        "https://app.example.com:8443",
        "http://app.example.com",
        "https://app.example.com.",
        "https://sub.app.example.com",
        "https://example.org",
        "https://evil-example.org",
        "https://example.org.evil.org",
        "https://a.example.org.evil.org",
        "https://a.example.org:8443",
        "http://a.example.org",
        "https://evil.org/.example.org",
        "https://evil.org?https://app.example.com",
        "null",
        "*",
        "",
    ] {
        assert_eq!(answers(Some(origin)).await, REFUSED, "{origin}");
    }
    // Nobody who was refused has had a session, and each is counted, if not at once.
    let refused = "handover_connections_refused_total{reason=\"origin\"} ";
    soon(async {
        while served.metric(refused) < 57 {
            tokio::task::yield_now().await
        }
    })
    .await;
    assert_eq!((served.metric(refused), served.metric("handover_sessions ")), (57, 0));
    served.is_well().await;
}

#[tokio::test]
async fn without_a_list_the_own_page_and_this_machines_are_let_in() {
    let served = Served::start().await;
    let own = "gw.example.net:4433";
    // By a name that the certificate is not for, which may have been made to point here: a page
    // that has the certificate's hash needs no more than that.
    let of = |host, origin| answers(served.secure(), served.plain(), host, Some(origin));
    assert_eq!(of(own, "https://gw.example.net:4433").await, REFUSED);
    for host in ["192.0.2.7:4433", "[2001:db8::7]:4433"] {
        assert_eq!(of(host, format!("https://{host}").leak()).await, LET_IN, "{host}");
    }
    let answers = |origin| answers(served.secure(), served.plain(), own, origin);
    for origin in ["http://localhost:3000", "http://127.0.0.1:8080", "https://[::1]:1"] {
        assert_eq!(answers(Some(origin)).await, LET_IN, "{origin}");
    }
    for origin in ["https://gw.example.net", "https://localhost.evil.org", "https://a.org", "null"]
    {
        assert_eq!(answers(Some(origin)).await, REFUSED, "{origin}");
    }
}

#[tokio::test]
async fn under_a_name_that_the_certificate_is_for_the_own_page_is_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(["gw.example.net".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    put(&cert, &pair.cert.pem());
    put(&key, &pair.signing_key.serialize_pem());
    let served = Served::with(|config| config.identity = IdentitySource::Files { cert, key }).await;
    let by_name = async |name: &str| {
        let origin: &'static str = format!("https://{name}:4433").leak();
        let (secure, plain) = (served.secure(), served.plain());
        answers(secure, plain, &format!("{name}:4433"), Some(origin)).await
    };
    // Over plain HTTP no certificate says anything.
    assert_eq!(by_name("gw.example.net").await, [200, 101, 403]);
    assert_eq!(by_name("evil.example").await, REFUSED);
    assert_eq!(by_name("gw.example.net.evil.example").await, REFUSED);
}

#[tokio::test]
async fn an_origin_that_cannot_be_read_or_is_said_twice_is_none_to_trust() {
    let served = listing("https://app.example.com").await;
    let one = "origin: https://app.example.com\r\n";
    for tls in [false, true] {
        let status = async |lines: &[u8]| ask(&served, tls, Request::upgrade(lines)).await.status;
        assert_eq!(status(one.as_bytes()).await, 101);
        assert_eq!(status(format!("{one}{one}").as_bytes()).await, 403);
        assert_eq!(status(b"origin: https://app.example.com\xff\r\n").await, 403);
        assert_eq!(status(b"origin: \xff\r\n").await, 403);
    }
}
