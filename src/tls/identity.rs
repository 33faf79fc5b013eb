//! One certificate chain with its key, checked and ready to be shown.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::UnixTime;

/// What clients and operators may know of the gateway's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// SHA-256 of the certificate in DER, for `serverCertificateHashes`.
    pub hash: [u8; 32],
    /// Its end.
    pub expires: UnixTime,
    /// Whether the gateway made it, so that clients know it by its hash alone.
    pub self_made: bool,
}

impl Identity {
    /// The hash as `GET /v1/identity` gives it.
    pub fn hash_base64(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(self.hash)
    }
}

/// A chain and its key.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) certified: Arc<CertifiedKey>,
    /// Known only to who has the key.
    pub(super) secret: ring::hmac::Key,
    pub(super) hash: [u8; 32],
    pub(super) begins: UnixTime,
    pub(super) ends: UnixTime,
    pub(super) names: Vec<String>,
    addresses: Vec<IpAddr>,
}

/// Whether one of a certificate's names is for `host`: in any case, and with a star for one label.
pub(super) fn is_for(names: &[String], host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let below = host.split_once('.').map(|(_, domain)| domain);
    names.iter().any(|name| match name.strip_prefix("*.") {
        Some(domain) => below.is_some_and(|below| below.eq_ignore_ascii_case(domain)),
        None => name.eq_ignore_ascii_case(host),
    })
}

/// Why PEM text is not a usable pair.
#[derive(Debug)]
pub(super) enum PairError {
    Certificate(String),
    Key(String),
    Mismatch,
}

impl Pair {
    /// Takes the chain from one text and the key from the other; both may be the same.
    pub(super) fn from_pem(
        cert: &[u8],
        key: &[u8],
        provider: &CryptoProvider,
    ) -> Result<Self, PairError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(cert)
            .collect::<Result<_, _>>()
            .map_err(|error| PairError::Certificate(error.to_string()))?;
        let Some(own) = chain.first() else {
            return Err(PairError::Certificate("it holds no PEM certificate".to_owned()));
        };
        let mut hash = [0; 32];
        hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, own).as_ref());
        let (_, parsed) = X509Certificate::from_der(own)
            .map_err(|error| PairError::Certificate(error.to_string()))?;
        let validity = parsed.validity();
        let (begins, ends) = (unix(validity.not_before), unix(validity.not_after));
        let (names, addresses) = subjects(&parsed);

        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| PairError::Key("it holds no unencrypted PEM private key".to_owned()))?;
        let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.secret_der());
        let certified =
            CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => PairError::Mismatch,
                other => PairError::Key(other.to_string()),
            })?;
        Ok(Pair { certified: Arc::new(certified), secret, hash, begins, ends, names, addresses })
    }

    /// Whether the certificate is for all of these.
    pub(super) fn covers<'a>(
        &self,
        mut names: impl Iterator<Item = &'a str>,
        mut addresses: impl Iterator<Item = IpAddr>,
    ) -> bool {
        names.all(|name| self.names.iter().any(|own| own == name))
            && addresses.all(|address| self.addresses.contains(&address))
    }
}

fn unix(time: x509_parser::time::ASN1Time) -> UnixTime {
    UnixTime::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

/// Whom a certificate is for.
fn subjects(certificate: &X509Certificate<'_>) -> (Vec<String>, Vec<IpAddr>) {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    let extension = certificate.subject_alternative_name().ok().flatten();
    for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
            _ => {}
        }
    }
    (names, addresses)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::is_for;

    #[test]
    fn names_are_compared_as_browsers_do() {
        let names = ["gw.example.org", "*.calls.example"].map(str::to_owned);
        for yes in ["gw.example.org", "GW.Example.org", "gw.example.org.", "a.calls.example"] {
            assert!(is_for(&names, yes), "{yes}");
        }
        for no in [
            "example.org",
            "a.gw.example.org",
            "gw.example.org.evil.example",
            "calls.example",
            ".calls.example.evil",
            "a.b.calls.example",
            "*.example.org",
            "127.0.0.1",
            "",
        ] {
            assert!(!is_for(&names, no), "{no}");
        }
        assert!(!is_for(&[], "localhost"));
    }
}
