//! Keys that tokens are checked with. Each is for one algorithm, whatever a token's header
//! says.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde::Deserialize;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

/// A key, the algorithm it is for and the name tokens may call it by.
#[derive(Clone, Debug)]
pub struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// HS256 wants a secret as long as what it computes (RFC 7518, section 3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// RSA keys below are within reach of those who break them.
const RSA_BITS_MIN: usize = 2_048;
/// Ring's limit.
const RSA_BITS_MAX: usize = 8_192;
/// Keys a set may have: a token that names none is tried with all of its algorithm.
pub const KEYS_MAX: usize = 64;

impl Key {
    /// The secret in a file: all of it but the line's end that editors leave.
    pub fn from_secret(file: &[u8]) -> Result<Self, String> {
        let secret = secret(file)?;
        let key = DecodingKey::from_secret(secret);
        Ok(Key { kid: None, algorithm: Algorithm::HS256, key })
    }

    /// The public keys in a PEM file.
    pub fn from_pem(file: &[u8]) -> Result<Vec<Self>, String> {
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(file) {
            let (kind, der) = section.map_err(|error| format!("is not PEM: {error:?}"))?;
            let der = Zeroizing::new(der);
            match kind {
                SectionKind::PublicKey => {
                    let spki = SubjectPublicKeyInfoDer::from(der.as_slice());
                    keys.push(Key::from_spki(spki.as_ref())?);
                }
                SectionKind::PrivateKey
                | SectionKind::RsaPrivateKey
                | SectionKind::EcPrivateKey => {
                    return Err("holds a private key; the gateway wants the public one alone \
                                (openssl pkey -in KEY -pubout)"
                        .to_owned());
                }
                _ => {}
            }
        }
        if keys.is_empty() {
            return Err("holds no public key (BEGIN PUBLIC KEY)".to_owned());
        }
        bounded(keys)
    }

    fn from_spki(der: &[u8]) -> Result<Self, String> {
        let unreadable = || "holds a public key that cannot be read".to_owned();
        let (_, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|_| unreadable())?;
        let kind = &spki.algorithm.algorithm;
        let bits = spki.subject_public_key.data.as_ref();
        if *kind == OID_PKCS1_RSAENCRYPTION {
            let PublicKey::RSA(rsa) = spki.parsed().map_err(|_| unreadable())? else {
                return Err(unreadable());
            };
            return Key::rsa(None, rsa.modulus, rsa.exponent);
        }
        if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = spki.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
            if curve != Some(OID_EC_P256) {
                return Err("holds an EC key on another curve than P-256".to_owned());
            }
            return Key::p256(None, bits);
        }
        if *kind == OID_SIG_ED25519 {
            return Key::ed25519(None, bits);
        }
        Err("holds a public key that is neither RSA, nor EC P-256, nor Ed25519".to_owned())
    }

    fn rsa(kid: Option<String>, modulus: &[u8], exponent: &[u8]) -> Result<Self, String> {
        let (modulus, exponent) = (without_zeros(modulus), without_zeros(exponent));
        let size = modulus.len() * 8;
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&size) {
            return Err(format!(
                "holds an RSA key of {size} bits; {RSA_BITS_MIN} to {RSA_BITS_MAX} are taken"
            ));
        }
        let key = DecodingKey::from_rsa_raw_components(modulus, exponent);
        Ok(Key { kid, algorithm: Algorithm::RS256, key })
    }

    fn p256(kid: Option<String>, point: &[u8]) -> Result<Self, String> {
        if point.len() != 65 || point[0] != 4 {
            return Err("holds an EC key that is no uncompressed point".to_owned());
        }
        Ok(Key { kid, algorithm: Algorithm::ES256, key: DecodingKey::from_ec_der(point) })
    }

    fn ed25519(kid: Option<String>, point: &[u8]) -> Result<Self, String> {
        if point.len() != 32 {
            return Err("holds an Ed25519 key of the wrong length".to_owned());
        }
        Ok(Key { kid, algorithm: Algorithm::EdDSA, key: DecodingKey::from_ed_der(point) })
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.key
    }
}

/// The bytes of a secret file that are the secret.
pub(super) fn secret(file: &[u8]) -> Result<&[u8], String> {
    let secret = file.strip_suffix(b"\n").unwrap_or(file);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    if secret.len() < SECRET_BYTES_MIN {
        return Err(format!(
            "holds {} bytes; HS256 needs a secret of at least {SECRET_BYTES_MIN} \
             (openssl rand -base64 48)",
            secret.len()
        ));
    }
    Ok(secret)
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn bounded(keys: Vec<Key>) -> Result<Vec<Key>, String> {
    if keys.len() > KEYS_MAX {
        return Err(format!("holds {} keys; at most {KEYS_MAX} are taken", keys.len()));
    }
    Ok(keys)
}

/// What a JWKS gave.
#[derive(Debug, Default)]
pub struct Jwks {
    /// The keys that can be used.
    pub keys: Vec<Key>,
    /// Why the others cannot.
    pub skipped: Vec<String>,
    /// Whether there is a secret among them.
    pub has_secret: bool,
}

#[derive(Deserialize)]
struct SetText<'a> {
    #[serde(borrow)]
    keys: Vec<&'a serde_json::value::RawValue>,
}

/// One key of a set, as it stands there. What is not listed does not matter here.
#[derive(Deserialize)]
struct KeyText {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    used_for: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<Zeroizing<String>>,
}

impl Jwks {
    /// Reads a set. A key of a kind that is not used here is passed over, as RFC 7517 has it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let set: SetText = serde_json::from_slice(text)
            .map_err(|_| "is not a JWKS: expected {\"keys\": [...]}".to_owned())?;
        let mut jwks = Jwks::default();
        for (at, key) in set.keys.iter().enumerate() {
            let read = serde_json::from_str::<KeyText>(key.get())
                .map_err(|_| "it is no JWK".to_owned())
                .and_then(|text| {
                    let secret = text.kty == "oct";
                    Ok((text.key()?, secret))
                });
            match read {
                Ok((key, secret)) => {
                    jwks.has_secret |= secret;
                    jwks.keys.push(key);
                }
                Err(why) => jwks.skipped.push(format!("key {}: {why}", at + 1)),
            }
        }
        jwks.keys = bounded(jwks.keys)?;
        Ok(jwks)
    }
}

impl KeyText {
    fn key(self) -> Result<Key, String> {
        if self.used_for.as_ref().is_some_and(|used_for| used_for != "sig") {
            return Err("it is not for signatures".to_owned());
        }
        if self.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return Err("it is not for checking signatures".to_owned());
        }
        let kid = self.kid.clone();
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Key::rsa(kid, &bytes(&self.n, "n")?, &bytes(&self.e, "e")?)?,
            ("EC", Some("P-256")) => {
                let mut point = vec![4];
                point.extend(bytes(&self.x, "x")?);
                point.extend(bytes(&self.y, "y")?);
                Key::p256(kid, &point)?
            }
            ("OKP", Some("Ed25519")) => Key::ed25519(kid, &bytes(&self.x, "x")?)?,
            ("oct", _) => {
                let text = self.k.as_deref().ok_or("it lacks `k`")?;
                let decoded = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
                let decoded = Zeroizing::new(decoded.map_err(|_| "its `k` is not base64url")?);
                let key = DecodingKey::from_secret(secret(&decoded)?);
                Key { kid, algorithm: Algorithm::HS256, key }
            }
            _ => return Err("it is of a kind that is not used here".to_owned()),
        };
        let named = name(key.algorithm);
        if self.alg.as_ref().is_some_and(|alg| alg != named) {
            return Err(format!("it is for another algorithm than {named}"));
        }
        Ok(key)
    }
}

fn bytes(field: &Option<String>, name: &str) -> Result<Vec<u8>, String> {
    let text = field.as_deref().ok_or_else(|| format!("it lacks `{name}`"))?;
    let decoded = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
    decoded.map_err(|_| format!("its `{name}` is not base64url"))
}

/// The name a token's header has for it.
pub(super) fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HS256 => "HS256",
        Algorithm::RS256 => "RS256",
        Algorithm::ES256 => "ES256",
        Algorithm::EdDSA => "EdDSA",
        _ => "one not used here",
    }
}

/// All keys in use.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// The keys of several places together.
    pub fn of(keys: impl IntoIterator<Item = Key>) -> Self {
        KeySet(keys.into_iter().collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }

    /// The keys a token with this header may be signed by. The algorithm is a key's own: the
    /// header only says whether the key can be meant. A key without a name goes by any.
    pub(super) fn fitting<'a>(
        &'a self,
        kid: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a Key> {
        self.0.iter().filter(move |key| {
            let named = match (kid, key.kid.as_deref()) {
                (Some(wanted), Some(own)) => wanted == own,
                _ => true,
            };
            named && key.algorithm == algorithm
        })
    }
}
