//! What is kept of a session's secret.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use handover_protocol::wire::Secret;
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;

/// The SHA-256 of a secret, held against another in a time that says nothing about either.
///
/// There is no other way to compare two of them:
/// ```compile_fail,E0369
/// fn same(one: handover::broker::SecretHash, other: handover::broker::SecretHash) -> bool {
///     one == other
/// }
/// ```
/// while this one compiles:
/// ```
/// fn same(one: handover::broker::SecretHash, other: handover::broker::SecretHash) -> bool {
///     one.fits(&other)
/// }
/// ```
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Of a secret somebody has or says to have.
    pub fn of(secret: &Secret) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, secret.expose().as_bytes()).as_ref());
        SecretHash(hash)
    }

    /// Whether both are of the same secret.
    pub fn fits(&self, other: &SecretHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// As text, for brokers that keep text.
    pub(super) fn to_text(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// From [`SecretHash::to_text`].
    pub(super) fn from_text(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(SecretHash)
    }
}

/// Nothing of what is inside.
impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_fits_its_own_secret_and_no_other_and_says_neither() {
        let [ann, also_ann, bob] = ["ann", "ann", "bob"].map(|text| Secret::new(text.to_owned()));
        let [ann, also_ann, bob] = [&ann, &also_ann, &bob].map(SecretHash::of);
        assert!(ann.fits(&also_ann) && !ann.fits(&bob));
        let kept = SecretHash::from_text(&ann.to_text()).unwrap();
        assert!(kept.fits(&ann) && !kept.fits(&bob));
        for short in ["", "AAAA", "not base64!"] {
            assert!(SecretHash::from_text(short).is_none());
        }
        assert_eq!(format!("{ann:?}"), "SecretHash(..)");
    }
}
