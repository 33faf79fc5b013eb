//! Who the gateway is: an operator's certificate, or one of its own making, renewed while
//! connections go on.

mod error;
mod files;
mod identity;
mod self_made;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use error::{IdentityError, Part};
pub use identity::Identity;

use crate::clock::{Clock, UnixTime};
use crate::config::IdentitySource;
use crate::telemetry::Metrics;
use files::Provided;
use identity::Pair;

/// How often the certificate is looked after. By the calendar rather than by a timer for the
/// whole way: machines sleep, and clocks are set. Two small files are read; a self-made one costs
/// nothing.
const CHECKED_EVERY: Duration = Duration::from_secs(2);
/// Operators are warned this long before their certificate ends,
const WARNED_BEFORE: Duration = Duration::from_secs(7 * 86_400);
/// and again this often.
const WARNED_EVERY: Duration = Duration::from_secs(86_400);

/// The gateway's identity, and the two TLS configurations that show it.
#[derive(Debug)]
pub struct Tls {
    source: IdentitySource,
    /// What a self-made certificate is for.
    addresses: BTreeSet<IpAddr>,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    tcp: Arc<ServerConfig>,
    quic: Arc<ServerConfig>,
    /// Somebody asked to look at the files now.
    asked: Notify,
}

impl Tls {
    /// Loads the operator's certificate or the one kept, or makes one for the addresses
    /// listened on.
    pub fn open(
        source: &IdentitySource,
        listen: &[SocketAddr],
        now: UnixTime,
    ) -> Result<Self, IdentityError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let addresses = self_made::addresses(listen.iter().map(SocketAddr::ip));
        let shown = match source {
            IdentitySource::Files { cert, key } => {
                let files = Provided::read(cert, key)?;
                Shown::new(files.pair((cert, key), now, &provider)?, Some(files))
            }
            IdentitySource::SelfMade { dir } => {
                Shown::new(self_made::open(dir, &addresses, now, &provider)?.0, None)
            }
        };
        let current = Arc::new(Current(RwLock::new(Arc::new(shown))));
        let tcp = server_config(&provider, &current, rustls::ALL_VERSIONS, b"http/1.1")?;
        let quic = server_config(&provider, &current, &[&rustls::version::TLS13], b"h3")?;
        let asked = Notify::new();
        Ok(Tls { source: source.clone(), addresses, provider, current, tcp, quic, asked })
    }

    /// For TLS on TCP: HTTP/1.1.
    pub fn tcp(&self) -> Arc<ServerConfig> {
        self.tcp.clone()
    }

    /// For QUIC: HTTP/3.
    pub fn quic(&self) -> Arc<ServerConfig> {
        self.quic.clone()
    }

    /// What new connections are shown now.
    pub fn identity(&self) -> Identity {
        self.current.shown().identity
    }

    /// A secret of the key in use now, for a purpose of its own.
    pub fn secret_for(&self, purpose: &[u8]) -> ring::hmac::Tag {
        let purpose = [b"handover quic endpoint ", purpose].concat();
        ring::hmac::sign(&self.current.shown().secret, &purpose)
    }

    /// Whether what new connections are shown is for this name.
    pub fn is_for(&self, host: &str) -> bool {
        identity::is_for(&self.current.shown().names, host)
    }

    /// Replaces the certificate if it is time, or if the operator's files have changed; new
    /// handshakes see the new one. `None` if all stays as it is, which is also so on an error.
    pub fn refresh(&self, now: UnixTime) -> Result<Option<Identity>, IdentityError> {
        let shown = self.current.shown();
        let fresh = match &self.source {
            IdentitySource::SelfMade { .. } if now < self_made::renewal(shown.identity.expires) => {
                return Ok(None);
            }
            IdentitySource::SelfMade { dir } => {
                Shown::new(self_made::open(dir, &self.addresses, now, &self.provider)?.0, None)
            }
            IdentitySource::Files { cert, key } => {
                let files = Provided::read(cert, key)?;
                if shown.files.as_ref() == Some(&files) {
                    return Ok(None);
                }
                Shown::new(files.pair((cert, key), now, &self.provider)?, Some(files))
            }
        };
        let identity = fresh.identity;
        self.current.replace(fresh);
        Ok(Some(identity))
    }

    /// [`Tls::refresh`], and on an error what was found.
    fn look(&self, now: UnixTime) -> Result<Option<Identity>, Trouble> {
        self.refresh(now).map_err(|error| {
            let files = match &self.source {
                IdentitySource::Files { cert, key } => Provided::read(cert, key).ok(),
                IdentitySource::SelfMade { .. } => None,
            };
            Trouble { sentence: error.to_string(), files }
        })
    }

    /// Has [`Tls::keep_fresh`] look at the files now rather than when it next would.
    pub fn reload(&self) {
        self.asked.notify_one();
    }

    /// Looks after the certificate until `stop`.
    pub async fn keep_fresh(
        self: Arc<Self>,
        clock: Clock,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) {
        metrics.certificate(self.identity().expires);
        let mut failure: Option<Trouble> = None;
        let mut warned = None;
        loop {
            let now = clock.unix_now();
            let identity = self.identity();
            if !identity.self_made && is_warning_due(identity.expires, warned, now) {
                warned = Some(now);
                warn_of_end(identity.expires, now);
            }
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                () = self.asked.notified() => true,
                () = tokio::time::sleep(CHECKED_EVERY) => false,
            };
            let tls = self.clone();
            let now = clock.unix_now();
            // Files are read and written, and a key may be made.
            match tokio::task::spawn_blocking(move || tls.look(now)).await {
                Ok(Ok(Some(identity))) => {
                    (failure, warned) = (None, None);
                    metrics.certificate(identity.expires);
                    let hash = identity.hash_base64();
                    tracing::info!(hash, expires = identity.expires.as_secs(), "new certificate");
                }
                Ok(Ok(None)) => {
                    failure = None;
                    if asked {
                        tracing::info!("the certificate has not changed");
                    }
                }
                Ok(Err(trouble)) => {
                    let sentence = &trouble.sentence;
                    // An error once for each time that somebody changed the files. Who asks is
                    // told, also what has been said before.
                    if !failure.is_some_and(|earlier| trouble.is_still(&earlier)) {
                        tracing::error!("the certificate in use stays: {sentence}");
                    } else if asked {
                        tracing::warn!("still no new certificate: {sentence}");
                    } else {
                        tracing::debug!("still no new certificate: {sentence}");
                    }
                    failure = Some(trouble);
                }
                Err(panicked) => tracing::error!(error = %panicked, "the certificate in use stays"),
            }
        }
    }
}

fn warn_of_end(expires: UnixTime, now: UnixTime) {
    if expires <= now {
        tracing::error!("the certificate has ended and clients refuse it; renew it");
    } else {
        let hours_left = expires.since(now).as_secs() / 3_600;
        tracing::warn!(hours_left, "the certificate ends soon; renew it");
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    current: &Arc<Current>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    protocol: &[u8],
) -> Result<Arc<ServerConfig>, IdentityError> {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(current.clone());
    config.alpn_protocols = vec![protocol.to_vec()];
    // What is sent before the handshake is done could be replayed by anybody.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn is_warning_due(expires: UnixTime, warned: Option<UnixTime>, now: UnixTime) -> bool {
    now >= expires.minus(WARNED_BEFORE)
        && warned.is_none_or(|warned| now >= warned.plus(WARNED_EVERY))
}

/// Why there is no new certificate.
struct Trouble {
    sentence: String,
    /// As they stood; nothing if they cannot be read.
    files: Option<Provided>,
}

impl Trouble {
    /// Whether nobody has changed anything since `earlier`.
    fn is_still(&self, earlier: &Trouble) -> bool {
        match (&self.files, &earlier.files) {
            (Some(files), Some(earlier)) => files == earlier,
            (None, None) => self.sentence == earlier.sentence,
            _ => false,
        }
    }
}

/// A pair in use.
struct Shown {
    certified: Arc<CertifiedKey>,
    secret: ring::hmac::Key,
    identity: Identity,
    /// Those it is for.
    names: Vec<String>,
    /// The operator's files it came from, to notice when they change.
    files: Option<Provided>,
}

impl Shown {
    fn new(pair: Pair, files: Option<Provided>) -> Self {
        let identity = Identity { hash: pair.hash, expires: pair.ends, self_made: files.is_none() };
        let Pair { certified, secret, names, .. } = pair;
        Shown { certified, secret, identity, names, files }
    }
}

/// The pair new handshakes are given. The lock is held to copy a pointer, never longer.
struct Current(RwLock<Arc<Shown>>);

impl Current {
    fn shown(&self) -> Arc<Shown> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, shown: Shown) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(shown);
    }
}

/// Without the key.
impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Current").field(&self.shown().identity).finish()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown().certified.clone())
    }
}
