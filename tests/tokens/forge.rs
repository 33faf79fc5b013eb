//! Tokens made by hand, good ones and others, without the library the gateway reads them with.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{self, KeyPair};
use ring::{hmac, signature::EcdsaKeyPair, signature::Ed25519KeyPair, signature::RsaKeyPair};
use serde_json::{Value, json};

/// At least as long as HS256 wants.
pub const SECRET: &[u8] = b"a secret of tests, and of nobody else";

/// Whoever signs tokens.
pub enum Signer {
    Secret(Vec<u8>),
    Rsa,
    Ecdsa(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Base64 as tokens have it.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Header and claims as given, with the signature `sign` makes of them.
pub fn token(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    let signature = encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

/// HMAC-SHA256, whatever the key is meant for.
pub fn hs256(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

impl Signer {
    /// One of each kind.
    pub fn all() -> [Signer; 4] {
        [Signer::secret(), Signer::Rsa, Signer::ecdsa(), Signer::ed25519()]
    }

    pub fn secret() -> Self {
        Signer::Secret(SECRET.to_vec())
    }

    pub fn ecdsa() -> Self {
        let kind = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &SystemRandom::new()).unwrap();
        Signer::Ecdsa(pkcs8.as_ref().to_vec())
    }

    pub fn ed25519() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer::Ed25519(pkcs8.as_ref().to_vec())
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Signer::Secret(_) => "HS256",
            Signer::Rsa => "RS256",
            Signer::Ecdsa(_) => "ES256",
            Signer::Ed25519(_) => "EdDSA",
        }
    }

    /// A token whose header says the truth.
    pub fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = json!({"typ": "JWT", "alg": self.algorithm()});
        if let Some(kid) = kid {
            header["kid"] = json!(kid);
        }
        self.sign_under(&header, claims)
    }

    /// A token with any header.
    pub fn sign_under(&self, header: &Value, claims: &Value) -> String {
        token(header, claims, |message| self.signature(message))
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Signer::Secret(secret) => hs256(secret, message),
            Signer::Rsa => {
                let pair = RsaKeyPair::from_der(&rsa_private()).unwrap();
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut signed).unwrap();
                signed
            }
            Signer::Ecdsa(_) => self.ecdsa_pair().sign(&random, message).unwrap().as_ref().to_vec(),
            Signer::Ed25519(_) => self.ed25519_pair().sign(message).as_ref().to_vec(),
        }
    }

    fn ecdsa_pair(&self) -> EcdsaKeyPair {
        let Signer::Ecdsa(pkcs8) = self else { panic!("another kind") };
        let kind = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        EcdsaKeyPair::from_pkcs8(kind, pkcs8, &SystemRandom::new()).unwrap()
    }

    fn ed25519_pair(&self) -> Ed25519KeyPair {
        let Signer::Ed25519(pkcs8) = self else { panic!("another kind") };
        Ed25519KeyPair::from_pkcs8(pkcs8).unwrap()
    }

    /// The public key as an operator has it.
    pub fn public_pem(&self) -> String {
        // An algorithm identifier of RFC 3279, 5480 or 8410, then the key.
        let (identifier, key): (&[u8], Vec<u8>) = match self {
            Signer::Secret(_) => panic!("a secret has no public half"),
            Signer::Rsa => (
                RSA,
                sequence(&[integer(N), integer(E)].concat()),
            ),
            Signer::Ecdsa(_) => (
                b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
                self.ecdsa_pair().public_key().as_ref().to_vec(),
            ),
            Signer::Ed25519(_) => {
                (b"\x30\x05\x06\x03\x2b\x65\x70", self.ed25519_pair().public_key().as_ref().to_vec())
            }
        };
        let bits = element(0x03, &[&[0], &*key].concat());
        pem("PUBLIC KEY", &sequence(&[identifier, &bits].concat()))
    }

    /// The private key as `handover token` takes it.
    pub fn private_pem(&self) -> String {
        match self {
            Signer::Secret(_) => panic!("a secret is no private key"),
            Signer::Rsa => pem("RSA PRIVATE KEY", &rsa_private()),
            Signer::Ecdsa(pkcs8) | Signer::Ed25519(pkcs8) => pem("PRIVATE KEY", pkcs8),
        }
    }

    /// The private key as most tools write it today: PKCS#8, also for RSA.
    pub fn private_pkcs8_pem(&self) -> String {
        match self {
            Signer::Rsa => {
                let inner = element(0x04, &rsa_private());
                pem("PRIVATE KEY", &sequence(&[&element(0x02, &[0]), RSA, &*inner].concat()))
            }
            _ => self.private_pem(),
        }
    }

    /// The private key of ES256 as `openssl ecparam -genkey` writes it: the curve, then SEC1.
    pub fn private_sec1_pem(&self) -> String {
        self.sec1_pem(P256)
    }

    /// The same, saying of itself that it is on this curve.
    pub fn sec1_pem(&self, curve: &[u8]) -> String {
        let Signer::Ecdsa(pkcs8) = self else { panic!("another kind") };
        let private = pkcs8.windows(34).find(|bytes| bytes.starts_with(&[0x04, 0x20])).unwrap();
        let point = self.ecdsa_pair().public_key().as_ref().to_vec();
        let public = element(0xa1, &element(0x03, &[&[0], &*point].concat()));
        let named = element(0xa0, curve);
        let key = sequence(&[&element(0x02, &[1]), private, &*named, &*public].concat());
        pem("EC PARAMETERS", curve) + &pem("EC PRIVATE KEY", &key)
    }

    /// The key in a JWKS.
    pub fn jwk(&self, kid: &str) -> Value {
        let mut jwk = match self {
            Signer::Secret(secret) => json!({"kty": "oct", "k": encode(secret)}),
            Signer::Rsa => json!({"kty": "RSA", "n": N, "e": E}),
            Signer::Ecdsa(_) => {
                let point = self.ecdsa_pair().public_key().as_ref().to_vec();
                let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
                json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})
            }
            Signer::Ed25519(_) => {
                let x = encode(self.ed25519_pair().public_key());
                json!({"kty": "OKP", "crv": "Ed25519", "x": x})
            }
        };
        jwk["kid"] = json!(kid);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(self.algorithm());
        jwk
    }
}

/// RSA's algorithm identifier (RFC 3279).
const RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";

/// Names of curves (RFC 5480).
const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
pub const P384: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x22";

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// One element of DER.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..128 => out.push(length as u8),
        128..256 => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(content);
    out
}

fn sequence(content: &[u8]) -> Vec<u8> {
    element(0x30, content)
}

fn integer(text: &str) -> Vec<u8> {
    let bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
    // Without a zero in front a high first bit would make it negative.
    let padding: &[u8] = if bytes[0] & 0x80 == 0 { &[] } else { &[0] };
    element(0x02, &[padding, &bytes].concat())
}

fn rsa_private() -> Vec<u8> {
    let numbers = [N, E, D, P, Q, DP, DQ, QI].map(integer).concat();
    sequence(&[element(0x02, &[0]), numbers].concat())
}

// The key of RFC 7517, appendix A.2, which everybody knows.
const E: &str = "AQAB";
const N: &str = concat!(
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tS",
    "oc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65",
    "YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyr",
    "dkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzK",
    "nqDKgw",
);
const D: &str = concat!(
    "X4cTteJY_gn4FYPsXB8rdXix5vwsg1FLN5E3EaG6RJoVH-HLLKD9M7dx5oo7GURknchnrRweUkC7hT5fJLM0",
    "WbFAKNLWY2vv7B6NqXSzUvxT0_YSfqijwp3RTzlBaCxWp4doFk5N2o8Gy_nHNKroADIkJ46pRUohsXywbReA",
    "dYaMwFs9tv8d_cPVY3i07a3t8MN6TNwm0dSawm9v47UiCl3Sk5ZiG7xojPLu4sbg1U2jx4IBTNBznbJSzFHK",
    "66jT8bgkuqsk0GjskDJk19Z4qwjwbsnn4j2WBii3RL-Us2lGVkY8fkFzme1z0HbIkfz0Y6mqnOYtqc0X4jfc",
    "KoAC8Q",
);
const P: &str = concat!(
    "83i-7IvMGXoMXCskv73TKr8637FiO7Z27zv8oj6pbWUQyLPQBQxtPVnwD20R-60eTDmD2ujnMt5PoqMrm8Rf",
    "mNhVWDtjjMmCMjOpSXicFHj7XOuVIYQyqVWlWEh6dN36GVZYk93N8Bc9vY41xy8B9RzzOGVQzXvNEvn7O0nV",
    "bfs",
);
const Q: &str = concat!(
    "3dfOR9cuYq-0S-mkFLzgItgMEfFzB2q3hWehMuG0oCuqnb3vobLyumqjVZQO1dIrdwgTnCdpYzBcOfW5r370",
    "AFXjiWft_NGEiovonizhKpo9VVS78TzFgxkIdrecRezsZ-1kYd_s1qDbxtkDEgfAITAG9LUnADun4vIcb6ye",
    "lxk",
);
const DP: &str = concat!(
    "G4sPXkc6Ya9y8oJW9_ILj4xuppu0lzi_H7VTkS8xj5SdX3coE0oimYwxIi2emTAue0UOa5dpgFGyBJ4c8tQ2",
    "VF402XRugKDTP8akYhFo5tAA77Qe_NmtuYZc3C3m3I24G2GvR5sSDxUyAN2zq8Lfn9EUms6rY3Ob8YeiKkTi",
    "Bj0",
);
const DQ: &str = concat!(
    "s9lAH9fggBsoFR8Oac2R_E2gw282rT2kGOAhvIllETE1efrA6huUUvMfBcMpn8lqeW6vzznYY5SSQF7pMdC_",
    "agI3nG8Ibp1BUb0JUiraRNqUfLhcQb_d9GF4Dh7e74WbRsobRonujTYN1xCaP6TO61jvWrX-L18txXw494Q_",
    "cgk",
);
const QI: &str = concat!(
    "GyM_p6JrXySiz1toFgKbWV-JdI3jQ4ypu9rbMWx3rQJBfmt0FoYzgUIZEVFEcOqwemRN81zoDAaa-Bk0KWNG",
    "DjJHZDdDmFhW3AN7lI-puxk_mHZGJ11rxyR8O55XLSe3SPmRfKwZI6yU24ZxvQKFYItdldUKGzO6Ia6zTKhA",
    "VRU",
);
