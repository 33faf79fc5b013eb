//! Whom to trust.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::error::ConnectError;
use crate::options::Certificates;

/// TLS 1.3 with the protocols offered by ALPN; QUIC and TCP differ in nothing else.
pub(crate) fn client_config(
    certificates: &Certificates,
    alpn: &[u8],
) -> Result<ClientConfig, ConnectError> {
    let provider = rustls::crypto::ring::default_provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| ConnectError::Certificates(error.to_string()))?;
    let by_hash = |hashes| Arc::new(Shown { hashes, algorithms });
    let mut config = match certificates {
        Certificates::System => builder.with_root_certificates(system_roots()?),
        Certificates::AuthorityFile(path) => builder.with_root_certificates(roots_in(path)?),
        Certificates::Hashes(hashes) => {
            builder.dangerous().with_custom_certificate_verifier(by_hash(Some(hashes.clone())))
        }
        Certificates::DangerouslyAny => {
            builder.dangerous().with_custom_certificate_verifier(by_hash(None))
        }
    }
    .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

fn system_roots() -> Result<RootCertStore, ConnectError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A system's store may hold a few that cannot be read; the others do.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(ToString::to_string);
        let why = why.unwrap_or_else(|| "the system has no certificate authorities".to_owned());
        return Err(ConnectError::Certificates(why));
    }
    Ok(roots)
}

fn roots_in(path: &std::path::Path) -> Result<RootCertStore, ConnectError> {
    let text = std::fs::read(path)
        .map_err(|error| ConnectError::CertificateFile { path: path.to_owned(), error })?;
    let wrong =
        |reason: String| ConnectError::Certificates(format!("{}: {reason}", path.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("holds no certificate".to_owned()));
    }
    Ok(roots)
}

/// Takes certificates for what they are, not for who signed them, as browsers do with
/// `serverCertificateHashes`.
#[derive(Debug)]
struct Shown {
    /// SHA-256 of those that are trusted; any at all if absent.
    hashes: Option<Vec<[u8; 32]>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Shown {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let hash = ring::digest::digest(&ring::digest::SHA256, end_entity);
        let pinned = |hashes: &Vec<[u8; 32]>| hashes.iter().any(|pin| pin == hash.as_ref());
        if self.hashes.as_ref().is_none_or(pinned) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
