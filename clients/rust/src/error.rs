//! What can go wrong, for programs.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use handover_protocol::session::client::{CommandError, Ended, RequestError, SendError};
use handover_protocol::wire::id::NameError;
use handover_protocol::wire::json::JsonError;

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not one of a gateway.
    #[error("{address}: {reason}")]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificates to trust could not be had.
    #[error("certificates to trust: {0}")]
    Certificates(String),
    /// A certificate file could not be read.
    #[error("{}: {error}", path.display())]
    CertificateFile {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// No UDP socket could be opened.
    #[error("no UDP socket: {0}")]
    Socket(#[from] io::Error),
    /// The gateway could not be reached.
    #[error("the gateway could not be reached: {0}")]
    Dial(DialError),
    /// The gateway did not want the session.
    #[error("the gateway refused the session: {}", describe(.0))]
    Ended(Ended),
    /// The client was closed meanwhile.
    #[error("closed")]
    Closed,
}

/// Why one attempt to connect failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    /// The host's name leads nowhere.
    #[error("{host}: {error}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        error: Arc<io::Error>,
    },
    /// The gateway, or something before it, answered with another HTTP status.
    #[error("{transport}: refused with HTTP status {status}")]
    Status {
        /// On which transport.
        transport: &'static str,
        /// The status.
        status: u16,
        /// When to try again, if it said.
        retry_after: Option<Duration>,
    },
    /// It did not come about.
    #[error("{transport}: {reason}")]
    Failed {
        /// On which transport.
        transport: &'static str,
        /// Why.
        reason: String,
    },
    /// There was no token to show; see [`crate::Token::from_fn`].
    #[error("no token: {0}")]
    Token(String),
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// Both transports failed.
    #[error("{0}; {1}")]
    Both(Box<DialError>, Box<DialError>),
}

impl DialError {
    /// When to try again, if the gateway said.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            DialError::Status { retry_after, .. } => *retry_after,
            DialError::Both(one, other) => one.retry_after().max(other.retry_after()),
            _ => None,
        }
    }
}

/// Why something asked of a [`crate::Client`] or [`crate::Room`] failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It was not taken up at all.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The gateway refused it, or the session ended first.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A send is not in the room's log, or nobody can tell.
    #[error(transparent)]
    Send(#[from] SendError),
    /// That is not a room's name.
    #[error("a room's name {0}")]
    Name(#[from] NameError),
    /// That is not JSON within the protocol's limits.
    #[error("the body {0}")]
    Json(#[from] JsonError),
    /// The client has been closed.
    #[error("the client is closed")]
    Closed,
}

fn describe(ended: &Ended) -> String {
    match ended {
        Ended::Bye => "closed".to_owned(),
        Ended::Closed { code, reason } => format!("{reason} ({code})"),
        Ended::Refused { code, message } => format!("{code}: {message}"),
    }
}
