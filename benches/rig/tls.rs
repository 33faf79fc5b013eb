//! TLS on both sides of a bench, with the same provider as the gateway.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ServerConfig};

use super::Result;

#[path = "../../tests/any_certificate.rs"]
mod any_certificate;

/// A floor's TLS: a self-made P-256 certificate, as the gateway's own.
pub fn server(alpn: &[u8]) -> Result<ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

/// A client's TLS. It trusts whatever the server shows: these are processes of our own.
pub fn client(alpn: &[u8]) -> Result<ClientConfig> {
    Ok(any_certificate::trusting(rustls::ALL_VERSIONS, alpn)?)
}
