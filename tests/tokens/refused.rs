//! Tokens that somebody made up, or that are not ours.

use handover::auth::{KeySet, TOKEN_BYTES_MAX, TokenError};
use proptest::prelude::*;
use serde_json::json;

use super::forge::{Signer, encode, hs256, token};
use super::keys::{claims, known, user};

const MALFORMED: &str = "malformed";

fn reason(token: &str, keys: &KeySet) -> &'static str {
    user(token, keys).map_or_else(|error| error.name(), |_| "taken")
}

fn all_keys() -> (Vec<Signer>, KeySet) {
    let signers = Vec::from(Signer::all());
    let keys = KeySet::of(signers.iter().flat_map(known));
    (signers, keys)
}

#[test]
fn no_algorithm_is_none() {
    let (_, keys) = all_keys();
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({"typ": "JWT", "alg": alg});
        assert_eq!(reason(&token(&header, &claims(), |_| Vec::new()), &keys), MALFORMED, "{alg}");
    }
    let without = token(&json!({"typ": "JWT"}), &claims(), |_| Vec::new());
    assert_eq!(reason(&without, &keys), MALFORMED);
}

#[test]
fn a_public_key_is_no_secret() {
    // The gateway has the public key alone; somebody signs with its text as if it were the
    // secret of HS256.
    for signer in [Signer::Rsa, Signer::ecdsa(), Signer::ed25519()] {
        let pem = signer.public_pem();
        let keys = KeySet::of(known(&signer));
        let jwk = signer.jwk("k").to_string();
        for key in [pem.as_bytes(), pem.trim().as_bytes(), jwk.as_bytes()] {
            let header = json!({"typ": "JWT", "alg": "HS256"});
            let forged = token(&header, &claims(), |message| hs256(key, message));
            assert_eq!(reason(&forged, &keys), "unknown_key");
        }
    }
}

#[test]
fn a_key_checks_its_own_algorithm_alone() {
    let (signers, keys) = all_keys();
    for signer in &signers {
        for alg in ["HS256", "RS256", "ES256", "EdDSA"] {
            let header = json!({"typ": "JWT", "alg": alg});
            let expected = if alg == signer.algorithm() { "taken" } else { "signature" };
            assert_eq!(reason(&signer.sign_under(&header, &claims()), &keys), expected, "{alg}");
        }
        for alg in ["HS384", "HS512", "RS384", "RS512", "PS256", "ES384"] {
            let header = json!({"typ": "JWT", "alg": alg});
            let forged = signer.sign_under(&header, &claims());
            assert_eq!(reason(&forged, &keys), "unknown_key", "{alg}");
        }
    }
}

#[test]
fn a_key_that_comes_with_the_token_counts_for_nothing() {
    let (known_one, stranger) = (Signer::ecdsa(), Signer::ecdsa());
    let keys = KeySet::of(known(&known_one));
    let header = json!({
        "typ": "JWT", "alg": "ES256", "jwk": stranger.jwk("k"),
        "jku": "https://attacker.example/jwks", "x5u": "https://attacker.example/cert",
    });
    assert_eq!(reason(&stranger.sign_under(&header, &claims()), &keys), "signature");
}

#[test]
fn extensions_that_must_be_understood_are_not() {
    let signer = Signer::secret();
    let header = json!({"alg": "HS256", "crit": ["b64"], "b64": true});
    let keys = KeySet::of(known(&signer));
    assert_eq!(reason(&signer.sign_under(&header, &claims()), &keys), MALFORMED);
}

#[test]
fn a_signature_is_for_one_message() {
    for signer in Signer::all() {
        let keys = KeySet::of(known(&signer));
        let good = signer.sign(None, &claims());
        let parts: Vec<&str> = good.split('.').collect();
        let mut other = claims();
        other["sub"] = json!("eve");
        let swapped = format!("{}.{}.{}", parts[0], encode(other.to_string()), parts[2]);
        assert_eq!(reason(&swapped, &keys), "signature");
        let unsigned = format!("{}.{}.", parts[0], parts[1]);
        assert_eq!(reason(&unsigned, &keys), "signature");
        let short = &good[..good.len() - 8];
        assert!(["signature", MALFORMED].contains(&reason(short, &keys)));
        let two = format!("{}.{}", parts[0], parts[1]);
        assert_eq!(reason(&two, &keys), MALFORMED);
        assert_eq!(reason(&format!("{good}.{}", parts[2]), &keys), MALFORMED);
        assert_eq!(reason(&format!(" {good}"), &keys), MALFORMED);
    }
}

#[test]
fn what_is_no_token_is_refused_for_that() {
    let (_, keys) = all_keys();
    for garbage in ["", ".", "..", "a.b.c", "hello", "{}", "e30.e30.e30"] {
        assert_eq!(reason(garbage, &keys), MALFORMED, "{garbage}");
    }
    let long = "a".repeat(TOKEN_BYTES_MAX + 1);
    assert_eq!(user(&long, &keys), Err(TokenError::TooLong));
    assert_eq!(reason("a.b.c", &KeySet::default()), "no_keys");
}

#[test]
fn why_it_was_refused_has_no_token_in_it() {
    let (signers, keys) = all_keys();
    let mut expired = claims();
    expired["exp"] = json!(1);
    for signer in &signers {
        for text in [
            signer.sign(None, &expired),
            signer.sign_under(&json!({"alg": "HS512", "kid": "k\n\u{1b}[2J"}), &claims()),
            signer.sign(None, &json!({"sub": "a user of ours", "exp": "soon"})),
        ] {
            let error = user(&text, &keys).unwrap_err();
            let said = format!("{error} {error:?} {}", error.refusal().message);
            for part in text.split('.').filter(|part| !part.is_empty()) {
                assert!(!said.contains(part), "{said}");
            }
            assert!(!said.contains("a user of ours"), "{said}");
            assert!(!error.to_string().contains(char::is_control), "{said}");
        }
    }
}

proptest! {
    #[test]
    fn no_text_is_taken_by_chance(text in ".{0,200}") {
        let (_, keys) = all_keys();
        prop_assert_ne!(reason(&text, &keys), "taken");
    }

    #[test]
    fn no_changed_byte_goes_unnoticed(at in 0..1_000_usize, by in 1..=255_u8) {
        for signer in Signer::all() {
            let keys = KeySet::of(known(&signer));
            let good = signer.sign(None, &claims());
            let mut bytes = good.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= by;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            prop_assert_ne!(reason(&changed, &keys), "taken", "{} -> {}", good, changed);
        }
    }
}
