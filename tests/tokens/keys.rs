//! Keys from PEM files, secrets and JWKS, and which of them a token is checked with.

use std::time::Duration;

use handover::auth::{Expectations, Jwks, Key, KeySet, TokenError, check};
use handover::clock::UnixTime;
use serde_json::{Value, json};

use super::forge::{SECRET, Signer, encode};

pub const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

/// Claims that are good at [`NOW`].
pub fn claims() -> Value {
    json!({"sub": "ann", "exp": NOW.as_secs() + 600, "rooms": [{"room": "*", "can": ["join"]}]})
}

pub fn expectations() -> Expectations {
    Expectations {
        leeway: Duration::from_secs(30),
        metadata_bytes: 4_096,
        ..Expectations::default()
    }
}

/// The key the gateway would have of a signer.
pub fn known(signer: &Signer) -> Vec<Key> {
    match signer {
        Signer::Secret(secret) => vec![Key::from_secret(secret).unwrap()],
        signer => Key::from_pem(signer.public_pem().as_bytes()).unwrap(),
    }
}

/// The user a token is for, or why it is refused.
pub fn user(token: &str, keys: &KeySet) -> Result<String, TokenError> {
    let admission = check(token, keys, &expectations(), NOW)?;
    Ok(admission.user.unwrap().to_string())
}

fn jwks(keys: &[Value]) -> Jwks {
    Jwks::parse(json!({"keys": keys}).to_string().as_bytes()).unwrap()
}

fn unknown(kid: Option<&str>, algorithm: &'static str) -> Result<String, TokenError> {
    Err(TokenError::UnknownKey { kid: kid.map(str::to_owned), algorithm })
}

#[test]
fn a_token_of_every_algorithm_is_taken() {
    for signer in Signer::all() {
        let keys = KeySet::of(known(&signer));
        assert_eq!(user(&signer.sign(None, &claims()), &keys), Ok("ann".to_owned()));
        // A key without a name goes by any.
        assert_eq!(user(&signer.sign(Some("k1"), &claims()), &keys), Ok("ann".to_owned()));
    }
}

#[test]
fn several_keys_are_told_apart_by_name() {
    let (old, new) = (Signer::ecdsa(), Signer::ecdsa());
    let set = jwks(&[old.jwk("old"), new.jwk("new"), Signer::Rsa.jwk("rsa")]);
    assert!(set.skipped.is_empty(), "{:?}", set.skipped);
    let keys = KeySet::of(set.keys);
    for (signer, kid) in [(&old, "old"), (&new, "new"), (&Signer::Rsa, "rsa")] {
        assert_eq!(user(&signer.sign(Some(kid), &claims()), &keys), Ok("ann".to_owned()));
        assert_eq!(user(&signer.sign(None, &claims()), &keys), Ok("ann".to_owned()));
    }
    let algorithm = old.algorithm();
    assert_eq!(user(&old.sign(Some("new"), &claims()), &keys), Err(TokenError::Signature));
    assert_eq!(user(&old.sign(Some("gone"), &claims()), &keys), unknown(Some("gone"), algorithm));
    // The right name of a key for another algorithm.
    assert_eq!(user(&old.sign(Some("rsa"), &claims()), &keys), unknown(Some("rsa"), algorithm));
}

#[test]
fn several_keys_in_one_pem_file_all_count() {
    let (one, other) = (Signer::ed25519(), Signer::ed25519());
    let file = one.public_pem() + &other.public_pem() + &Signer::Rsa.public_pem();
    let keys = KeySet::of(Key::from_pem(file.as_bytes()).unwrap());
    assert_eq!(keys.len(), 3);
    for signer in [one, other, Signer::Rsa] {
        assert_eq!(user(&signer.sign(None, &claims()), &keys), Ok("ann".to_owned()));
    }
}

#[test]
fn files_that_are_no_keys_are_told_why() {
    let holds = |start: &str, outcome: Result<Vec<Key>, String>| {
        let why = outcome.err().unwrap_or_default();
        assert!(why.starts_with(start), "{why}");
    };
    holds("holds no public key", Key::from_pem(b"nothing"));
    holds("holds a private key", Key::from_pem(Signer::ecdsa().private_pem().as_bytes()));
    holds("holds a private key", Key::from_pem(Signer::Rsa.private_pem().as_bytes()));
    holds("holds a private key", Key::from_pem(Signer::ecdsa().private_sec1_pem().as_bytes()));
    let many = Signer::ecdsa().public_pem().repeat(65);
    holds("holds 65 keys", Key::from_pem(many.as_bytes()));
    holds("holds 31 bytes", Key::from_secret(&[b'x'; 31]).map(|key| vec![key]));
    holds(
        "holds 31 bytes",
        Key::from_secret(&[&[b'x'; 31][..], b"\r\n"].concat()).map(|k| vec![k]),
    );
}

#[test]
fn the_end_of_the_line_is_no_part_of_a_secret() {
    let token = Signer::secret().sign(None, &claims());
    for end in ["", "\n", "\r\n"] {
        let key = Key::from_secret(&[SECRET, end.as_bytes()].concat()).unwrap();
        assert_eq!(user(&token, &KeySet::of([key])), Ok("ann".to_owned()), "{end:?}");
    }
}

#[test]
fn keys_of_other_kinds_are_passed_over() {
    let good = Signer::ecdsa();
    let mut encryption = good.jwk("enc");
    encryption["use"] = json!("enc");
    let mut signing = good.jwk("ops");
    signing["key_ops"] = json!(["sign"]);
    let mut other = Signer::Rsa.jwk("rs512");
    other["alg"] = json!("RS512");
    let mut short = Signer::Rsa.jwk("short");
    short["n"] = json!(encode([0xff; 128]));
    let mut weak = Signer::secret().jwk("weak");
    weak["k"] = json!(encode([7; 31]));
    let set = jwks(&[
        encryption,
        signing,
        other,
        short,
        weak,
        json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "crv": "X25519", "x": "AA"}),
        json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": "not base64!"}),
        json!({"kty": "RSA", "n": "AA"}),
        json!({"kid": "no kind"}),
        json!("no object"),
        good.jwk("good"),
    ]);
    assert_eq!((set.keys.len(), set.skipped.len()), (1, 12), "{:?}", set.skipped);
    assert!(!set.has_secret);
    let keys = KeySet::of(set.keys);
    assert_eq!(user(&good.sign(Some("good"), &claims()), &keys), Ok("ann".to_owned()));
    for kid in ["enc", "ops"] {
        assert_eq!(user(&good.sign(Some(kid), &claims()), &keys), unknown(Some(kid), "ES256"));
    }
    assert!(jwks(&[Signer::secret().jwk("s")]).has_secret);
    for text in ["", "[]", "{}", "{\"keys\": 7}"] {
        assert!(Jwks::parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn keys_do_not_show_themselves() {
    let set = jwks(&[Signer::secret().jwk("s"), Signer::Rsa.jwk("r")]);
    let shown = format!("{:?} {:?}", set, KeySet::of(known(&Signer::secret())));
    let bytes = format!("{:?}", SECRET);
    for secret in [bytes.trim_matches(['[', ']']), std::str::from_utf8(SECRET).unwrap()] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(shown.contains("redacted"), "{shown}");
}
