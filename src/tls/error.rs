//! What can be wrong with an identity, each said in one sentence with what to do about it.

use std::io;
use std::path::PathBuf;

use crate::clock::UnixTime;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The certificate chain.
    Certificate,
    /// The private key.
    Key,
    /// Both in one file, as the gateway keeps its own.
    Identity,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Part::Certificate => "certificate",
            Part::Key => "key",
            Part::Identity => "self-made identity",
        }
    }

    const fn remedy(self) -> &'static str {
        match self {
            Part::Certificate => "`cert` has to name a PEM file this user may read",
            Part::Key => "`key` has to name a PEM file this user may read",
            Part::Identity => "let this user read it, or remove it to have a new one made",
        }
    }
}

/// Why there is no identity to show to clients.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read the {} {}: {source}; {}", part.name(), path.display(), part.remedy())]
    Unreadable {
        /// What it is for.
        part: Part,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file does not hold what it should.
    #[error("the {} {} cannot be used: {detail}; {}", part.name(), path.display(), part.remedy())]
    Malformed {
        /// What it is for.
        part: Part,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Others may read the key.
    #[error(
        "the {} {} can be read by other users (mode {mode:04o}); run `chmod 600 {}`",
        part.name(), path.display(), path.display()
    )]
    Exposed {
        /// What it is for.
        part: Part,
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The two files do not belong together.
    #[error(
        "the key {} does not belong to the certificate {}; set `cert` and `key` to a pair",
        key.display(), cert.display()
    )]
    Mismatch {
        /// The certificate file.
        cert: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// No client would accept it.
    #[error(
        "the certificate {} ended {} hours ago; renew it, or unset `cert` and `key` for a \
         self-made one",
        path.display(), now.since(*expired).as_secs() / 3_600
    )]
    Expired {
        /// The certificate file.
        path: PathBuf,
        /// Its end.
        expired: UnixTime,
        /// When that was noticed.
        now: UnixTime,
    },
    /// A self-made identity cannot be kept.
    #[error(
        "cannot write {}: {source}; `certs_dir` has to name a directory this user may write to",
        path.display()
    )]
    Unwritable {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Mint(#[from] rcgen::Error),
    /// The system gives no randomness.
    #[error("the system gives no randomness: {0}")]
    Randomness(getrandom::Error),
    /// The TLS library refuses its settings.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}
