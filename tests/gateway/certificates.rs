//! Certificates from files: over every version of TLS, changed while connections go on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use handover::config::IdentitySource;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ProtocolVersion, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::setup::{AnyCertificate, Served, soon};
use crate::tokens::forge::Signer;

/// Writes a new certificate of this key, and returns it.
pub fn provide(dir: &Path, key: &Signer) -> CertificateDer<'static> {
    use std::os::unix::fs::PermissionsExt;
    let pem = key.private_pem();
    let pair = rcgen::KeyPair::from_pem(&pem).unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let made = params.self_signed(&pair).unwrap();
    std::fs::write(dir.join("key.pem"), pem).unwrap();
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(dir.join("key.pem"), private).unwrap();
    std::fs::write(dir.join("cert.pem"), made.pem()).unwrap();
    made.der().clone()
}

fn paths(dir: &Path) -> (PathBuf, PathBuf) {
    (dir.join("cert.pem"), dir.join("key.pem"))
}

async fn serve(dir: &Path) -> Served {
    let (cert, key) = paths(dir);
    Served::with(|config| config.identity = IdentitySource::Files { cert, key }).await
}

/// What is shown in a handshake over TCP, and under which version.
pub async fn shown(
    to: SocketAddr,
    versions: &[&'static SupportedProtocolVersion],
) -> (CertificateDer<'static>, ProtocolVersion) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = soon(TcpStream::connect(to)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = soon(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await.unwrap();
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().unwrap()[0].clone().into_owned();
    (certificate, session.protocol_version().unwrap())
}

#[tokio::test]
async fn a_certificate_is_shown_under_both_versions_on_tcp_and_on_quic() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = provide(dir.path(), &Signer::ecdsa());
    let served = serve(dir.path()).await;
    for (version, number) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let seen = shown(served.secure(), &[version]).await;
        assert_eq!(seen, (certificate.clone(), number));
    }
    served.webtransport().await.answers().await;
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_a_broken_one_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let first = provide(dir.path(), &Signer::ecdsa());
    let served = serve(dir.path()).await;
    let mut members = served.both("room").await;
    assert_eq!(shown(served.secure(), rustls::ALL_VERSIONS).await.0, first);

    let second = provide(dir.path(), &Signer::ecdsa());
    served.gateway.reload();
    soon(async { while shown(served.secure(), rustls::ALL_VERSIONS).await.0 != second {} }).await;
    for member in &mut members {
        member.answers().await;
    }

    std::fs::write(dir.path().join("cert.pem"), "half a certif").unwrap();
    served.gateway.reload();
    // The next good one is taken, so the broken one has been looked at or overtaken.
    assert_eq!(shown(served.secure(), rustls::ALL_VERSIONS).await.0, second);
    let third = provide(dir.path(), &Signer::ecdsa());
    served.gateway.reload();
    soon(async { while shown(served.secure(), rustls::ALL_VERSIONS).await.0 != third {} }).await;
    for member in &mut members {
        member.answers().await;
    }
    let mut late = served.both("another room").await;
    for member in &mut late {
        member.answers().await;
    }
}
