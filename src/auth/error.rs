//! What can be wrong with a token, a key or a key's place.
//!
//! None of these sentences has a token or a key in it.

use std::io;
use std::path::PathBuf;

use handover_protocol::room::Refusal;
use handover_protocol::wire::ErrorCode;

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// None was given.
    #[error("no token was given")]
    Missing,
    /// It is longer than any that is looked at.
    #[error("the token has more than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// It is no JWT that could be signed: three parts, a header with a known algorithm.
    #[error("it is not a signed JWT: {0}")]
    Malformed(&'static str),
    /// No key fits its `kid` and its algorithm.
    #[error("no key for it: its header says `kid` {} and `alg` {algorithm}", shown(kid))]
    UnknownKey {
        /// What its header says.
        kid: Option<String>,
        /// What its header says.
        algorithm: &'static str,
    },
    /// The key did not make this signature.
    #[error("its signature is wrong")]
    Signature,
    /// A claim is missing or has the wrong form.
    #[error("its claim `{claim}` {problem}")]
    Claim {
        /// Which.
        claim: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The claims are not the JSON they should be.
    #[error("its claims cannot be read: {0}")]
    Claims(&'static str),
    /// `exp` has passed.
    #[error("it expired {ago_s} s ago")]
    Expired {
        /// Seconds since then.
        ago_s: u64,
    },
    /// `nbf` lies ahead.
    #[error("it is not valid for another {in_s} s")]
    NotYet {
        /// Seconds until then.
        in_s: u64,
    },
    /// `iss` is not one of ours.
    #[error("its issuer is not in auth.issuer")]
    Issuer,
    /// `aud` has none of our names.
    #[error("its audience is not in auth.audience")]
    Audience,
    /// There is no key to check it with.
    #[error("there are no keys to check it with")]
    NoKeys,
}

/// Longer texts are not even looked at.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

impl TokenError {
    /// For metrics.
    pub fn name(&self) -> &'static str {
        match self {
            TokenError::Missing => "missing",
            TokenError::TooLong | TokenError::Malformed(_) => "malformed",
            TokenError::UnknownKey { .. } => "unknown_key",
            TokenError::Signature => "signature",
            TokenError::Claim { .. } | TokenError::Claims(_) => "claims",
            TokenError::Expired { .. } => "expired",
            TokenError::NotYet { .. } => "not_yet",
            TokenError::Issuer => "issuer",
            TokenError::Audience => "audience",
            TokenError::NoKeys => "no_keys",
        }
    }

    /// What the client is told.
    pub fn refusal(&self) -> Refusal {
        let unauthorized = |text| Refusal::new(ErrorCode::Unauthorized, text);
        match self {
            TokenError::Missing => unauthorized("a token is needed"),
            TokenError::Expired { .. } => unauthorized("the token has expired"),
            TokenError::NotYet { .. } => unauthorized("the token is not valid yet"),
            TokenError::Issuer => unauthorized("the token is from an issuer not known here"),
            TokenError::Audience => unauthorized("the token is for another audience"),
            TokenError::UnknownKey { .. } | TokenError::Signature => {
                unauthorized("the token is not signed by a key known here")
            }
            TokenError::Claim { .. } | TokenError::Claims(_) => {
                unauthorized("the token's claims are not as they should be")
            }
            TokenError::TooLong | TokenError::Malformed(_) => {
                unauthorized("the token cannot be read")
            }
            TokenError::NoKeys => {
                Refusal::new(ErrorCode::Unavailable, "tokens cannot be checked right now")
            }
        }
    }
}

/// A text that came from anywhere, for a log.
fn shown(kid: &Option<String>) -> String {
    const SHOWN_MAX: usize = 64;
    match kid {
        None => "nothing".to_owned(),
        Some(kid) => {
            let shown: String = kid.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
            format!("\"{shown}\"")
        }
    }
}

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file cannot be read.
    #[error("cannot read {what} {}: {source}", path.display())]
    Unreadable {
        /// What it should be.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file with a secret is not secret.
    #[error(
        "{what} {} may be read by every user (mode {mode:03o}); chmod 600 it, or 640 for a group",
        path.display()
    )]
    Exposed {
        /// What it is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// What is in a file is not what should be.
    #[error("{what} {}: {problem}", path.display())]
    Unusable {
        /// What it should be.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A JWKS cannot be had from its address.
    #[error("cannot fetch the JWKS from {url}: {problem}")]
    Fetch {
        /// The address.
        url: String,
        /// What is wrong.
        problem: String,
    },
}
