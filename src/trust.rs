//! Which certificates `handover join` and `handover load` trust.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use handover_client::Certificates;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

/// An answer longer than this is none.
const ANSWER_BYTES_MAX: usize = 4 * 1024;
const TIMEOUT: Duration = Duration::from_secs(5);
const PATH: &str = "/v1/identity";

/// Which certificates are trusted, as flags.
#[derive(Clone, Debug, Args)]
pub struct TrustArgs {
    /// SHA-256 hash of the gateway's certificate, in base64 or hexadecimal; may be given more
    /// than once.
    #[arg(long, value_name = "HASH", value_parser = parse_hash)]
    pub cert_hash: Vec<[u8; 32]>,
    /// Certificate authority (PEM) that signed the gateway's certificate.
    #[arg(long, value_name = "FILE", conflicts_with = "cert_hash")]
    pub ca: Option<PathBuf>,
    /// Trust whatever certificate the gateway shows. Anybody in between can then read along.
    #[arg(long, conflicts_with_all = ["cert_hash", "ca"])]
    pub insecure: bool,
    /// Where a gateway on this machine tells its certificate's hash, if nothing else says which
    /// certificate to trust.
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:8080")]
    pub identity_from: String,
}

impl TrustArgs {
    /// What that comes to for a gateway at `url`.
    pub(crate) async fn certificates(&self, url: &str) -> Result<Certificates, IdentityError> {
        if !self.cert_hash.is_empty() {
            return Ok(Certificates::Hashes(self.cert_hash.clone()));
        }
        if let Some(ca) = &self.ca {
            return Ok(Certificates::AuthorityFile(ca.clone()));
        }
        if self.insecure {
            return Ok(Certificates::DangerouslyAny);
        }
        if is_loopback(url) {
            // A gateway on this machine has most likely made its certificate itself.
            return Ok(Certificates::Hashes(vec![fetch(&self.identity_from).await?]));
        }
        Ok(Certificates::System)
    }
}

/// Why a gateway's certificate could not be learned from itself.
#[derive(Debug, thiserror::Error)]
#[error(
    "no certificate to trust: http://{address}{PATH} did not say ({reason}); \
     is the gateway running? otherwise give --cert-hash, --ca, --insecure or --identity-from"
)]
pub struct IdentityError {
    address: String,
    reason: String,
}

/// The answer of `GET /v1/identity`, as far as it is used.
#[derive(Deserialize)]
struct Statement {
    algorithm: String,
    value: String,
}

/// Whether an address is on this machine, where nobody can come between.
fn is_loopback(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    if !matches!(uri.scheme_str(), Some("https" | "wss")) {
        return false;
    }
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Asks a gateway on this machine for its certificate's hash.
async fn fetch(address: &str) -> Result<[u8; 32], IdentityError> {
    let asked = tokio::time::timeout(TIMEOUT, ask(address)).await;
    let asked = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    asked.map_err(|reason| IdentityError { address: address.to_owned(), reason })
}

async fn ask(address: &str) -> Result<[u8; 32], String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|error| text(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
    let request = Request::get(PATH)
        .header(header::HOST, address)
        .body(Empty::<Bytes>::new())
        .map_err(|error| text(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| text(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("HTTP status {}", response.status()));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(body.map_err(|error| text(&*error))?.to_bytes())
    };
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    let body = tokio::select! {
        body = &mut exchange => body?,
        // The connection may be over before its answer has been read.
        _ = &mut connection => exchange.await?,
    };
    let Statement { algorithm, value } =
        serde_json::from_slice(&body).map_err(|error| text(&error))?;
    if algorithm != "sha-256" {
        return Err(format!("an unknown hash, {algorithm}"));
    }
    parse_hash(&value)
}

/// A SHA-256 hash in base64, or in hexadecimal with or without colons.
fn parse_hash(text: &str) -> Result<[u8; 32], String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let from_hex = || {
        let digit = |at: usize| digits.get(at..at + 2).and_then(|d| u8::from_str_radix(d, 16).ok());
        (0..digits.len()).step_by(2).map(digit).collect::<Option<Vec<u8>>>()
    };
    let bytes = if digits.len() == 64 { from_hex() } else { STANDARD.decode(text).ok() };
    let bytes = bytes.ok_or_else(|| "must be base64 or hexadecimal".to_owned())?;
    <[u8; 32]>::try_from(bytes).map_err(|bytes| format!("has {} bytes instead of 32", bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_taken_in_either_notation() {
        let hash: [u8; 32] = std::array::from_fn(|n| n as u8 * 7);
        let hex: Vec<String> = hash.iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(parse_hash(&STANDARD.encode(hash)), Ok(hash));
        assert_eq!(parse_hash(&hex.concat()), Ok(hash));
        assert_eq!(parse_hash(&hex.join(":")), Ok(hash));
        for wrong in ["", "AAAA", "zz", &"é".repeat(32), &"g".repeat(64)] {
            assert!(parse_hash(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_this_machine_is_asked_for_its_own_certificate() {
        let loopback = ["https://localhost:4433", "wss://127.0.0.1:1", "https://[::1]:4433"];
        assert!(loopback.into_iter().all(is_loopback));
        let others = ["https://gateway.example", "http://localhost:8080", "https://10.0.0.1", ""];
        assert!(!others.into_iter().any(is_loopback));
    }

    #[tokio::test]
    async fn nobody_there_is_said_in_one_sentence() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = fetch(&address).await.unwrap_err().to_string();
        assert!(error.contains("--cert-hash") && error.contains(&address), "{error}");
    }
}
