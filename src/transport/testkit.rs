//! What the tests of the transports share: an identity, and how to wait without hanging.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use handover_protocol::wire::frame::Frame;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::{Inbound, Intake, Settings, Transport, TransportEnd};

pub(crate) const ALL: Intake = Intake { signal: true, bulk: true };
pub(crate) const SETTINGS: Settings =
    Settings { heartbeat: Duration::from_secs(15), message_bytes: 65_536, streams: 4 };

/// A certificate for `localhost` and both sides' configurations around it.
pub(crate) struct Identity {
    pub(crate) server: rustls::ServerConfig,
    roots: rustls::RootCertStore,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        Identity { server, roots }
    }

    pub(crate) fn client(&self, protocol: &[u8]) -> rustls::ClientConfig {
        let mut client = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        client.alpn_protocols = vec![protocol.to_vec()];
        client
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Waits, but not for ever: a test that would hang fails instead.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("this takes too long")
}

/// What arrives next.
pub(crate) async fn recv<T: Transport>(transport: &mut T) -> Result<Inbound, TransportEnd> {
    soon(poll_fn(|cx| transport.poll_recv(cx, ALL))).await
}

/// The next message, and everything else passed over.
pub(crate) async fn message<T: Transport>(transport: &mut T) -> Result<Bytes, TransportEnd> {
    loop {
        if let Inbound::Frame { payload, .. } = recv(transport).await? {
            return Ok(payload);
        }
    }
}

pub(crate) fn frame(payload: &[u8]) -> Frame {
    let built = Frame::build(payload.len(), |out| {
        out.put_slice(payload);
        Ok::<_, std::convert::Infallible>(())
    });
    built.unwrap()
}
