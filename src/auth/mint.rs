//! Makes tokens, for development and for scripts: `handover token`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use handover_protocol::wire::Json;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rustls_pki_types::pem::{PemObject, SectionKind};
use zeroize::Zeroizing;

use super::claims::{Audience, Claims, NumericDate, RoomClaim};
use super::error::KeyError;
use super::source::KeyFile;
use super::{keys, signature};
use crate::clock::UnixTime;

/// What a token is signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SigningFile {
    /// The secret the gateway has too.
    Secret(PathBuf),
    /// The private half of a key whose public half the gateway has (PEM).
    PrivateKey(PathBuf),
}

/// What a token says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    /// Who it is for.
    pub user: String,
    /// Rooms, or beginnings of their names and a `*`.
    pub rooms: Vec<String>,
    /// Names of rights, in every one of the rooms.
    pub can: Vec<String>,
    /// What the member shows there.
    pub metadata: Option<Json>,
    /// How long it is good.
    pub ttl: Duration,
    /// Who says so.
    pub issuer: Option<String>,
    /// For whom.
    pub audience: Vec<String>,
    /// The key's name.
    pub kid: Option<String>,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Signing failed.
    #[error("the token cannot be signed: {0}")]
    Sign(String),
}

/// A key to sign with, and its algorithm.
struct SigningKey {
    algorithm: Algorithm,
    key: EncodingKey,
}

/// Makes the token that `wish` describes, at `now`.
pub fn mint(file: &SigningFile, wish: &Wish, now: UnixTime) -> Result<String, MintError> {
    signature::install();
    let SigningKey { algorithm, key } = SigningKey::read(file)?;
    let grant = |room: &String| RoomClaim {
        room: room.clone(),
        can: wish.can.clone(),
        metadata: wish.metadata.clone(),
    };
    let claims = Claims {
        sub: Some(wish.user.clone()),
        exp: Some(NumericDate(now.plus(wish.ttl).as_secs())),
        nbf: None,
        iat: Some(NumericDate(now.as_secs())),
        iss: wish.issuer.clone(),
        aud: Audience(wish.audience.clone()),
        rooms: Some(wish.rooms.iter().map(grant).collect()),
    };
    let header = Header { kid: wish.kid.clone(), ..Header::new(algorithm) };
    encode(&header, &claims, &key).map_err(|error| MintError::Sign(error.to_string()))
}

impl SigningKey {
    fn read(file: &SigningFile) -> Result<Self, KeyError> {
        let (what, path): (_, &Path) = match file {
            SigningFile::Secret(path) => ("the secret", path),
            SigningFile::PrivateKey(path) => ("the private key", path),
        };
        let unusable = |problem| KeyError::Unusable { what, path: path.to_owned(), problem };
        let read = KeyFile::read(what, path)?;
        read.must_be_secret(what, path)?;
        match file {
            SigningFile::Secret(_) => {
                let secret = keys::secret(&read.bytes).map_err(unusable)?;
                let key = EncodingKey::from_secret(secret);
                Ok(SigningKey { algorithm: Algorithm::HS256, key })
            }
            SigningFile::PrivateKey(_) => SigningKey::from_pem(&read.bytes).map_err(unusable),
        }
    }

    fn from_pem(file: &[u8]) -> Result<Self, String> {
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(file) {
            let (kind, der) = section.map_err(|error| format!("is not PEM: {error:?}"))?;
            let der = Zeroizing::new(der);
            match kind {
                SectionKind::PrivateKey
                | SectionKind::RsaPrivateKey
                | SectionKind::EcPrivateKey => {
                    return SigningKey::from_der(&der).ok_or_else(|| {
                        "holds a private key that is neither RSA, nor EC P-256, nor Ed25519"
                            .to_owned()
                    });
                }
                _ => {}
            }
        }
        Err("holds no private key (BEGIN PRIVATE KEY)".to_owned())
    }

    fn from_der(der: &[u8]) -> Option<Self> {
        let (algorithm, key) = if signature::rsa_pair(der).is_ok() {
            (Algorithm::RS256, EncodingKey::from_rsa_der(der))
        } else if signature::ecdsa_pair(der).is_ok() {
            (Algorithm::ES256, EncodingKey::from_ec_der(der))
        } else if signature::ed25519_pair(der).is_ok() {
            (Algorithm::EdDSA, EncodingKey::from_ed_der(der))
        } else {
            return None;
        };
        Some(SigningKey { algorithm, key })
    }
}
