//! The arithmetic under `jsonwebtoken`, done by ring: the same library as for TLS, so that
//! there is one to watch.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result, new_error};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature as sig;
use zeroize::Zeroizing;

static RING: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    // Keys of a JWKS are read here and in `keys`, which never ask for these.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Has to be called before `jsonwebtoken` is; any number of times.
pub(super) fn install() {
    // Only ever this one, so that a second call finds what it wanted.
    let _ = RING.install_default();
}

struct RingVerifier {
    algorithm: Algorithm,
    key: VerifyingKey,
}

enum VerifyingKey {
    Secret(hmac::Key),
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Public(sig::UnparsedPublicKey<Vec<u8>>),
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    if key.family() != algorithm.family() {
        return Err(new_error(ErrorKind::InvalidAlgorithm));
    }
    let public = |of: &'static dyn sig::VerificationAlgorithm| -> Result<VerifyingKey> {
        let bytes = key.try_get_as_bytes()?.to_vec();
        Ok(VerifyingKey::Public(sig::UnparsedPublicKey::new(of, bytes)))
    };
    let verifying = match (algorithm, key.kind()) {
        (Algorithm::HS256, DecodingKeyKind::SecretOrDer(secret)) => {
            VerifyingKey::Secret(hmac::Key::new(hmac::HMAC_SHA256, secret))
        }
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            VerifyingKey::Rsa { n: n.clone(), e: e.clone() }
        }
        (Algorithm::ES256, _) => public(&sig::ECDSA_P256_SHA256_FIXED)?,
        (Algorithm::EdDSA, _) => public(&sig::ED25519)?,
        _ => return Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    };
    Ok(Box::new(RingVerifier { algorithm: *algorithm, key: verifying }))
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(
        &self,
        message: &[u8],
        signature: &Vec<u8>,
    ) -> std::result::Result<(), signature::Error> {
        let verified = match &self.key {
            // In constant time.
            VerifyingKey::Secret(key) => hmac::verify(key, message, signature),
            VerifyingKey::Rsa { n, e } => sig::RsaPublicKeyComponents { n, e }.verify(
                &sig::RSA_PKCS1_2048_8192_SHA256,
                message,
                signature,
            ),
            VerifyingKey::Public(key) => key.verify(message, signature),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

struct RingSigner {
    algorithm: Algorithm,
    key: SigningKey,
}

enum SigningKey {
    Secret(hmac::Key),
    Rsa(sig::RsaKeyPair),
    Ecdsa(sig::EcdsaKeyPair),
    Ed25519(sig::Ed25519KeyPair),
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    if key.family() != algorithm.family() {
        return Err(new_error(ErrorKind::InvalidAlgorithm));
    }
    let bytes = key.as_bytes();
    let rejected = |_| new_error(ErrorKind::InvalidKeyFormat);
    let signing = match algorithm {
        Algorithm::HS256 => SigningKey::Secret(hmac::Key::new(hmac::HMAC_SHA256, bytes)),
        Algorithm::RS256 => SigningKey::Rsa(rsa_pair(bytes).map_err(rejected)?),
        Algorithm::ES256 => SigningKey::Ecdsa(ecdsa_pair(bytes).map_err(rejected)?),
        Algorithm::EdDSA => SigningKey::Ed25519(ed25519_pair(bytes).map_err(rejected)?),
        _ => return Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    };
    Ok(Box::new(RingSigner { algorithm: *algorithm, key: signing }))
}

/// An RSA key in PKCS#8, or in PKCS#1 as older tools write it.
pub(super) fn rsa_pair(
    der: &[u8],
) -> std::result::Result<sig::RsaKeyPair, ring::error::KeyRejected> {
    sig::RsaKeyPair::from_pkcs8(der).or_else(|_| sig::RsaKeyPair::from_der(der))
}

/// A P-256 key in PKCS#8, or in SEC1 as `openssl ecparam` writes it.
pub(super) fn ecdsa_pair(
    der: &[u8],
) -> std::result::Result<sig::EcdsaKeyPair, ring::error::KeyRejected> {
    let random = SystemRandom::new();
    let read = |der: &[u8]| {
        sig::EcdsaKeyPair::from_pkcs8(&sig::ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)
    };
    read(der).or_else(|rejected| wrapped(der).map_or(Err(rejected), |pkcs8| read(&pkcs8)))
}

/// What PKCS#8 (RFC 5958) has in front of a P-256 key in SEC1 (RFC 5915): a version, and which
/// curve it is.
const P256: &[u8] = b"\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\
    \x2a\x86\x48\xce\x3d\x03\x01\x07";

/// A P-256 key in SEC1 as PKCS#8; nothing if it is too short or too long for one.
fn wrapped(sec1: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    const SEQUENCE: u8 = 0x30;
    const OCTET_STRING: u8 = 0x04;
    /// The length is the byte after this one. Those of 128 and more are written so, others not.
    const LONG: u8 = 0x81;
    let inner = u8::try_from(sec1.len()).ok().filter(|len| *len < 0x80)?;
    let outer = Some(P256.len() as u8 + 2 + inner).filter(|len| *len >= 0x80)?;
    Some(Zeroizing::new([&[SEQUENCE, LONG, outer], P256, &[OCTET_STRING, inner], sec1].concat()))
}

/// An Ed25519 key in PKCS#8, with its public half or without.
pub(super) fn ed25519_pair(
    der: &[u8],
) -> std::result::Result<sig::Ed25519KeyPair, ring::error::KeyRejected> {
    sig::Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
}

impl Signer<Vec<u8>> for RingSigner {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, signature::Error> {
        let random = SystemRandom::new();
        match &self.key {
            SigningKey::Secret(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            SigningKey::Rsa(pair) => {
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(&sig::RSA_PKCS1_SHA256, &random, message, &mut signed)
                    .map_err(|_| signature::Error::new())?;
                Ok(signed)
            }
            SigningKey::Ecdsa(pair) => {
                let signed = pair.sign(&random, message).map_err(|_| signature::Error::new())?;
                Ok(signed.as_ref().to_vec())
            }
            SigningKey::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

impl JwtSigner for RingSigner {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
