//! What an endpoint knows again after a restart, so that it can tell the peers of connections it
//! does not know any more that they are over, and takes back the tokens it gave out.

use std::sync::Arc;

use ring::{hkdf, hmac};

/// Known to one node alone: who shares it can end its connections (RFC 9000, section 21.11).
#[derive(Clone, Debug)]
pub struct EndpointSecret(hmac::Key);

impl EndpointSecret {
    /// From what nobody else can guess, and is the same after a restart.
    pub fn new(seed: &[u8]) -> Self {
        EndpointSecret(hmac::Key::new(hmac::HMAC_SHA256, seed))
    }

    fn derived(&self, purpose: &str) -> hmac::Tag {
        hmac::sign(&self.0, purpose.as_bytes())
    }

    /// What stateless resets are made with.
    pub(super) fn resets(&self) -> Arc<hmac::Key> {
        Arc::new(hmac::Key::new(hmac::HMAC_SHA256, self.derived("stateless reset").as_ref()))
    }

    /// Tokens of Retry packets and for the next connection.
    pub(super) fn tokens(&self) -> Arc<hkdf::Prk> {
        let none = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]);
        Arc::new(none.extract(self.derived("tokens").as_ref()))
    }
}
