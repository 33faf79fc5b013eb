//! Certificates from files: of every kind of key, under every version of TLS, on both transports.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use handover::config::IdentitySource;
use handover_client::{Certificates, Client, Options, Transport};
use quinn::crypto::rustls::QuicClientConfig;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ProtocolVersion, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::downgrade::Downgraded;
use super::setup::{Served, any_certificate, soon};
use crate::any_certificate::trusting;
use crate::tokens::forge::Signer;

/// Writes a file whole or not at all, as tools that renew certificates do.
pub fn put(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, text).unwrap();
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&temporary, path).unwrap();
}

/// Writes a new certificate of this key that ends in so many days, and returns it.
pub fn provide(dir: &Path, key: &Signer, days: u32) -> CertificateDer<'static> {
    let pair = KeyPair::from_pem(&key.private_pkcs8_pem()).unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(days.into());
    let made = params.self_signed(&pair).unwrap();
    put(&dir.join("key.pem"), &key.private_pem());
    put(&dir.join("cert.pem"), &made.pem());
    made.der().clone()
}

async fn serve(dir: &Path) -> Served {
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    Served::with(|config| config.identity = IdentitySource::Files { cert, key }).await
}

/// What is shown in a handshake over TCP, and under which version.
pub async fn shown_on_tcp(
    to: SocketAddr,
    versions: &[&'static SupportedProtocolVersion],
) -> (CertificateDer<'static>, ProtocolVersion) {
    let config = Arc::new(trusting(versions, b"http/1.1").unwrap());
    let tcp = soon(TcpStream::connect(to)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = soon(TlsConnector::from(config).connect(name, tcp)).await.unwrap();
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().unwrap()[0].clone().into_owned();
    (certificate, session.protocol_version().unwrap())
}

/// What is shown in a QUIC handshake.
pub async fn shown_on_quic(to: SocketAddr) -> CertificateDer<'static> {
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let dialled = endpoint.connect_with(any_certificate(), to, "localhost").unwrap();
    let identity = soon(dialled).await.unwrap().peer_identity().unwrap();
    identity.downcast::<Vec<CertificateDer<'static>>>().unwrap().remove(0)
}

#[tokio::test]
async fn a_chain_of_any_key_is_trusted_by_who_trusts_its_root() {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        (params, KeyPair::generate().unwrap())
    };
    let (root, root_key) = authority("root");
    let trusted = root.self_signed(&root_key).unwrap();
    let root = Issuer::new(root, root_key);
    let (between, between_key) = authority("between");
    let signed_between = between.signed_by(&between_key, &root).unwrap();
    let between = Issuer::new(between, between_key);

    let (rsa, ecdsa) = (Signer::Rsa, Signer::ecdsa());
    let keys = [
        ("BEGIN RSA PRIVATE KEY", rsa.private_pem(), &rsa),
        ("BEGIN PRIVATE KEY", rsa.private_pkcs8_pem(), &rsa),
        ("BEGIN PRIVATE KEY", ecdsa.private_pem(), &ecdsa),
        ("BEGIN EC PRIVATE KEY", ecdsa.private_sec1_pem(), &ecdsa),
    ];
    for (form, key, signer) in &keys {
        assert!(key.contains(form), "{key}");
        let pair = KeyPair::from_pem(&signer.private_pkcs8_pem()).unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&pair, &between).unwrap();
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join("key.pem"), key);
        put(&dir.path().join("cert.pem"), &(leaf.pem() + &signed_between.pem()));
        let ca = dir.path().join("ca.pem");
        put(&ca, &trusted.pem());

        let served = serve(dir.path()).await;
        let url = format!("https://localhost:{}", served.secure().port());
        for transport in [Transport::WebTransport, Transport::WebSocket] {
            let certificates = Certificates::AuthorityFile(ca.clone());
            let connect_to = Some(served.secure());
            let options = Options { transport, certificates, connect_to, ..Options::default() };
            let client = soon(Client::connect(&url, options)).await.unwrap();
            soon(client.join("room", None)).await.unwrap();
        }
        let name = format!("https://127.0.0.1:{}", served.secure().port());
        let certificates = Certificates::AuthorityFile(ca.clone());
        let options = Options { certificates, ..Options::default() };
        assert!(soon(Client::connect(&name, options)).await.is_err(), "it is for another name");
        for (version, number) in [
            (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
            (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
        ] {
            let seen = shown_on_tcp(served.secure(), &[version]).await;
            assert_eq!(seen, (leaf.der().clone(), number));
        }
        assert_eq!(shown_on_quic(served.secure()).await, *leaf.der());
    }
}

/// A `ClientHello` that offers nothing newer than this version, in a record.
pub fn client_hello(version: u8) -> Vec<u8> {
    let with_length = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let extension =
        |kind: u8, content: &[u8]| [&[0, kind], &*with_length(&with_length(content))].concat();
    let extensions = [
        // Curves: P-256. Signatures: ECDSA with P-256 and SHA-256.
        extension(10, &[0, 23]),
        extension(13, &[4, 3]),
        // Points: uncompressed.
        vec![0, 11, 0, 2, 1, 0],
        // Extended master secret.
        vec![0, 23, 0, 0],
    ];
    // ECDHE with AES-128: GCM for 1.2, CBC for those before it.
    let suites = with_length(&[0xc0, 0x2b, 0xc0, 0x09]);
    let body =
        [&[3, version][..], &[7; 32], &[0], &suites, &[1, 0], &with_length(&extensions.concat())]
            .concat();
    let handshake = [&[1, 0][..], &with_length(&body)].concat();
    [&[22, 3, 1][..], &with_length(&handshake)].concat()
}

#[tokio::test]
async fn on_tcp_nothing_older_than_1_2_is_spoken() {
    const HANDSHAKE: u8 = 22;
    const FATAL_PROTOCOL_VERSION: [u8; 2] = [2, 70];
    let served = Served::start().await;
    for version in 0..=3 {
        let mut tcp = soon(TcpStream::connect(served.secure())).await.unwrap();
        tcp.write_all(&client_hello(version)).await.unwrap();
        let mut head = [0; 7];
        soon(tcp.read_exact(&mut head)).await.unwrap();
        if version == 3 {
            assert_eq!(head[0], HANDSHAKE, "the same offer of 1.2 is taken: {head:?}");
        } else {
            assert_eq!(head[5..], FATAL_PROTOCOL_VERSION, "3.{version}: {head:?}");
        }
    }
}

#[tokio::test]
async fn on_quic_nothing_older_than_1_3_is_spoken() {
    let served = Served::start().await;
    for older in [false, true] {
        let tls = trusting(&[&rustls::version::TLS13], b"h3").unwrap();
        let inner = Arc::new(QuicClientConfig::try_from(tls).unwrap());
        let crypto = Arc::new(Downgraded { inner, older });
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let config = quinn::ClientConfig::new(crypto);
        let dialled = endpoint.connect_with(config, served.secure(), "localhost").unwrap();
        match (older, soon(dialled).await) {
            (false, Ok(_)) => {}
            (true, Err(quinn::ConnectionError::ConnectionClosed(close))) => {
                const PROTOCOL_VERSION: u8 = 70;
                let refused = quinn::TransportErrorCode::crypto(PROTOCOL_VERSION);
                assert_eq!(close.error_code, refused, "{close}");
            }
            (_, outcome) => panic!("older: {older}, {outcome:?}"),
        }
    }
}
