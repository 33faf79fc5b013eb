//! What can be wrong with a configuration, each said in one sentence with its place.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::layer::Origin;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file named cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{place}: {message}")]
    Syntax {
        /// Where in the file.
        place: Origin,
        /// What the parser said.
        message: String,
    },
    /// Nobody knows this setting.
    #[error("{place}: unknown setting `{name}`; did you mean `{nearest}`?")]
    Unknown {
        /// Where it was named.
        place: Origin,
        /// The name as it was written.
        name: String,
        /// The known one that resembles it most.
        nearest: String,
    },
    /// `--set` without a `=`.
    #[error("--set `{text}`: expected KEY=VALUE, such as `limits.rooms=16`")]
    Assignment {
        /// What was given.
        text: String,
    },
    /// A setting's value is not one it may have.
    #[error("{place}: `{key}` is {value}; expected {expected}")]
    Value {
        /// Where it was set.
        place: Origin,
        /// The setting.
        key: &'static str,
        /// The value as it was written, or a placeholder for a secret one.
        value: String,
        /// What would have been accepted.
        expected: String,
    },
    /// An environment variable of ours is not UTF-8.
    #[error("the environment variable {name} is not valid UTF-8")]
    NotText {
        /// The variable.
        name: String,
    },
    /// A certificate without its key, or the reverse.
    #[error(
        "{place}: `{given}` is set but `{missing}` is not; set both, or neither for a self-made certificate"
    )]
    HalfIdentity {
        /// Where the one was set.
        place: Origin,
        /// The one that is set.
        given: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// Anonymous clients would be let in from other machines.
    #[error(
        "{place}: `{key}` opens {address} beyond this machine, where anybody who reaches it could \
         join any room; listen on 127.0.0.1 and [::1] only, ask for tokens (auth.secret_file, \
         auth.key_file or auth.jwks), or say --allow-anonymous if that is meant"
    )]
    AnonymousBeyondLoopback {
        /// Where the listener was set.
        place: Origin,
        /// `listen` or `http`.
        key: &'static str,
        /// The listener.
        address: SocketAddr,
    },
    /// Tokens are asked for and not asked for.
    #[error(
        "{place}: `allow_anonymous` is set although keys are (auth.secret_file, auth.key_file or \
         auth.jwks), with which everybody needs a token; remove one of the two"
    )]
    AnonymousWithKeys {
        /// Where `allow_anonymous` was set.
        place: Origin,
    },
    /// A setting about tokens where none are asked for.
    #[error(
        "{place}: `{key}` has no effect without keys; set auth.secret_file, auth.key_file or \
         auth.jwks too"
    )]
    NoKeys {
        /// Where it was set.
        place: Origin,
        /// The setting.
        key: &'static str,
    },
    /// A setting about connection ids that tell nothing.
    #[error("{place}: `{key}` has no effect without `quic.server_id`; set that too")]
    NoServerId {
        /// Where it was set.
        place: Origin,
        /// The setting.
        key: &'static str,
    },
    /// A connection id would be too long.
    #[error(
        "{place}: `quic.server_id` has {server_id} bytes and `quic.nonce_bytes` is {nonce}; \
         together they may have 19"
    )]
    ConnectionId {
        /// Where the one that came last was set.
        place: Origin,
        /// Bytes of the server id.
        server_id: usize,
        /// Bytes of the nonce.
        nonce: usize,
    },
    /// The plain-HTTP listener would carry secrets in the clear.
    #[error(
        "{place}: `http` opens {address} beyond this machine, without encryption; use a loopback \
         address, or say --allow-remote-http if something in front of it encrypts"
    )]
    HttpBeyondLoopback {
        /// Where the listener was set.
        place: Origin,
        /// The listener.
        address: SocketAddr,
    },
    /// Two listeners want one TCP port.
    #[error("{place}: `http` and `listen` both name {address}; give one of them another port")]
    SharedPort {
        /// Where `http` was set.
        place: Origin,
        /// The address both name.
        address: SocketAddr,
    },
    /// One setting has to be at least as large as another.
    #[error("{place}: `{small}` is {small_value}, more than `{large}`, which is {large_value}")]
    Order {
        /// Where the one that came last was set.
        place: Origin,
        /// The setting that may not be larger.
        small: &'static str,
        /// Its value.
        small_value: u64,
        /// The setting that bounds it.
        large: &'static str,
        /// Its value.
        large_value: u64,
    },
}
