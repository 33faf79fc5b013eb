//! A JWKS from its address.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::error::KeyError;
use super::keys::{Jwks, Key};
use crate::config::shown_address;

/// A whole fetch has to be done by then.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// A JWKS has at most so many bytes.
const JWKS_BYTES_MAX: usize = 256 * 1024;

/// Fetches one address, again and again.
pub(super) struct Fetcher {
    url: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Fetcher {
    /// For `url`, which is https or leads to this machine. `ca` is whom to trust instead of
    /// the system's authorities.
    pub(super) fn new(url: &Uri, ca: Option<&Path>) -> Result<Self, KeyError> {
        let failed = |problem: String| KeyError::Fetch { url: shown_address(url), problem };
        let named = url.host().unwrap_or_default();
        let host = named.trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = url.scheme_str() == Some("https");
        let tls = if secure {
            let name = ServerName::try_from(host.clone())
                .map_err(|_| failed(format!("`{host}` is no name a certificate could have")))?;
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|error| failed(error.to_string()))?
                .with_root_certificates(roots(ca)?)
                .with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Some((TlsConnector::from(Arc::new(config)), name))
        } else {
            None
        };
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Fetcher { url: url.clone(), host, port, tls })
    }

    /// The keys that are there now.
    pub(super) async fn fetch(&self) -> Result<Vec<Key>, KeyError> {
        let failed = |problem| KeyError::Fetch { url: shown_address(&self.url), problem };
        let text = match tokio::time::timeout(FETCH_TIMEOUT, self.get()).await {
            Ok(got) => got.map_err(failed)?,
            Err(_) => return Err(failed(format!("no answer within {FETCH_TIMEOUT:?}"))),
        };
        let jwks = Jwks::parse(&text).map_err(failed)?;
        if jwks.has_secret {
            return Err(failed("it has a secret (kty oct), which whoever fetches it knows".into()));
        }
        for skipped in &jwks.skipped {
            tracing::debug!(url = shown_address(&self.url), "passed over in the JWKS: {skipped}");
        }
        if jwks.keys.is_empty() {
            return Err(failed("it has no key that can be used".into()));
        }
        Ok(jwks.keys)
    }

    async fn get(&self) -> Result<Bytes, String> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| error.to_string())?;
        match &self.tls {
            None => self.ask(tcp).await,
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await;
                self.ask(tls.map_err(|error| error.to_string())?).await
            }
        }
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Bytes, String> {
        let text = |error: hyper::Error| error.to_string();
        let (mut sender, connection) =
            http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(text)?;
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(header::HOST, authority)
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(header::USER_AGENT, concat!("handover/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(text)?;
            if response.status() != StatusCode::OK {
                return Err(format!("the answer is {}", response.status()));
            }
            let body = Limited::new(response.into_body(), JWKS_BYTES_MAX).collect().await;
            body.map(|body| body.to_bytes()).map_err(|error| error.to_string())
        };
        // The connection's own end is of no interest once the answer is there.
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answered = &mut answer => answered,
            ended = connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, KeyError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        // A system's store may hold a few that cannot be read; the others do.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    let what = "the certificate authorities";
    let path = path.to_owned();
    let text = std::fs::read(&path).map_err(|source| KeyError::Unreadable {
        what,
        path: path.clone(),
        source,
    })?;
    let unusable = |problem| KeyError::Unusable { what, path: path.clone(), problem };
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let added = certificate
            .map_err(|error| format!("is not PEM: {error:?}"))
            .and_then(|der| roots.add(der).map_err(|error| error.to_string()));
        added.map_err(unusable)?;
    }
    if roots.is_empty() {
        return Err(unusable("holds no certificate".to_owned()));
    }
    Ok(roots)
}
