//! The table of settings, and how layers of them lie over each other.

use std::path::PathBuf;

use handover_protocol::limits::{ANSWER_BYTES_MAX, ROOMS_MAX};

use super::addresses::{Http, Listen};
use super::broker::BrokerPlace;
use super::error::ConfigError;
use super::layer::{Found, Origin};
use super::origins::Origins;
use super::quic::{
    CONFIG_ROTATION, CONFIG_ROTATION_MAX, HexBytes, NONCE_BYTES, NONCE_BYTES_MAX, NONCE_BYTES_MIN,
};
use super::read::CONFIG_VARIABLE;
use super::tokens::{JwksPlace, Names};
use super::value::{Count, Expected, IceServers, LogFilter, LogFormat, Raw, Value};

/// One line of the effective configuration.
pub(super) struct Row {
    pub(super) key: &'static str,
    /// `None` where nothing is set.
    pub(super) value: Option<String>,
    pub(super) origin: Origin,
}

/// A day: longer makes no sense for anything counted in milliseconds here.
const DAY_MS: u64 = 86_400_000;
const ROOMS: u64 = ROOMS_MAX as u64;
const ANSWER_BYTES: u64 = ANSWER_BYTES_MAX as u64;

macro_rules! settings {
    ($($(#[$doc:meta])+ $field:ident: $type:ty = $default:expr, $key:literal;)+) => {
        /// What one place sets.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub(super) struct Layer {
            $(pub(super) $field: Option<Found<$type>>,)+
        }

        /// Every setting's value, and where it came from.
        #[derive(Clone, Debug, PartialEq)]
        pub(super) struct Settings {
            $($(#[$doc])+ pub(super) $field: Found<$type>,)+
        }

        /// The keys of all settings, as the file has them.
        pub(super) const KEYS: &[&str] = &[$($key),+];

        impl Layer {
            /// Sets what `key` names. `shown` is the value as it was written, for the error.
            pub(super) fn set(
                &mut self,
                key: &str,
                raw: Raw<'_>,
                shown: &str,
                origin: Origin,
            ) -> Result<(), ConfigError> {
                match key {
                    $($key => self.$field = Some(read($key, raw, shown, origin)?),)+
                    _ => return Err(unknown(key, origin)),
                }
                Ok(())
            }

            /// This layer laid over a lower one.
            fn over(self, lower: Layer) -> Layer {
                Layer { $($field: self.$field.or(lower.$field),)+ }
            }

            /// The defaults in every place still free.
            fn completed(self) -> Settings {
                Settings {
                    $($field: self.$field.unwrap_or_else(|| {
                        Found { value: $default, origin: Origin::Default }
                    }),)+
                }
            }
        }

        impl Settings {
            /// All of them, in the order of the table.
            pub(super) fn rows(&self) -> Vec<Row> {
                vec![$(Row {
                    key: $key,
                    value: self.$field.value.to_toml(),
                    origin: self.$field.origin.clone(),
                }),+]
            }
        }
    };
}

settings! {
    /// UDP and TCP of the gateway proper.
    listen: Listen = Listen::default(), "listen";
    /// Plain HTTP.
    http: Http = Http::default(), "http";
    /// Whether plain HTTP may be reached from other machines.
    allow_remote_http: bool = false, "allow_remote_http";
    /// Whether clients without a token may come from other machines.
    allow_anonymous: bool = false, "allow_anonymous";
    /// Pages that may connect besides our own.
    origins: Origins = Origins::default(), "origins";
    /// PEM file with the certificate chain.
    cert: Option<PathBuf> = None, "cert";
    /// PEM file with its key.
    key: Option<PathBuf> = None, "key";
    /// Where a self-made identity is kept.
    certs_dir: PathBuf = PathBuf::from("certs"), "certs_dir";
    /// Where rooms and sessions are kept.
    broker: BrokerPlace = BrokerPlace::Memory, "broker";
    /// Whether the gateway is ready without it.
    broker_optional: bool = false, "broker_optional";
    /// How many replicas of its Redis have to have what counts.
    broker_replicas: Count<0, 16> = Count(0), "broker_replicas";
    /// What is logged.
    log: LogFilter = LogFilter::default(), "log";
    /// How it is written.
    log_format: LogFormat = LogFormat::default(), "log_format";
    /// Between signs of life.
    heartbeat_ms: Count<50, 3_600_000> = Count(15_000), "heartbeat_ms";
    /// A session outlives its connection by this.
    resume_window_ms: Count<0, DAY_MS> = Count(120_000), "resume_window_ms";
    /// `hello` must have come by then.
    hello_timeout_ms: Count<10, 600_000> = Count(5_000), "hello_timeout_ms";
    /// A connection that takes nothing for this long is closed.
    blocked_timeout_ms: Count<100, 600_000> = Count(30_000), "blocked_timeout_ms";
    /// Connections are cut this long after the drain began.
    drain_timeout_ms: Count<0, 3_600_000> = Count(10_000), "drain_timeout_ms";
    /// Which node this is, to a load balancer.
    quic_server_id: Option<HexBytes> = None, "quic.server_id";
    /// Which of the balancer's configurations that follows.
    quic_config_rotation: Count<0, CONFIG_ROTATION_MAX> = Count(CONFIG_ROTATION), "quic.config_rotation";
    /// Random bytes of a connection id.
    quic_nonce_bytes: Count<NONCE_BYTES_MIN, NONCE_BYTES_MAX> = Count(NONCE_BYTES), "quic.nonce_bytes";
    /// File with the secret that tokens are signed with (HS256).
    auth_secret_file: Option<PathBuf> = None, "auth.secret_file";
    /// PEM file with the public keys of those who sign tokens.
    auth_key_file: Option<PathBuf> = None, "auth.key_file";
    /// File or address of such keys.
    auth_jwks: Option<JwksPlace> = None, "auth.jwks";
    /// Authorities that signed that address's certificate.
    auth_jwks_ca: Option<PathBuf> = None, "auth.jwks_ca";
    /// It is fetched anew this often,
    auth_jwks_refresh_s: Count<10, 86_400> = Count(600), "auth.jwks_refresh_s";
    /// and never more often than this.
    auth_jwks_pause_ms: Count<1_000, 3_600_000> = Count(10_000), "auth.jwks_pause_ms";
    /// What tokens have to have as `iss`.
    auth_issuer: Names = Names::default(), "auth.issuer";
    /// What tokens have to have in `aud`.
    auth_audience: Names = Names::default(), "auth.audience";
    /// How far clocks may be apart.
    auth_leeway_s: Count<0, 600> = Count(30), "auth.leeway_s";
    /// See `Limits`.
    message_bytes: Count<1_024, 1_048_576> = Count(65_536), "limits.message_bytes";
    /// See `Limits`.
    metadata_bytes: Count<2, 65_536> = Count(4_096), "limits.metadata_bytes";
    /// Bounded so that the message fits one datagram in a packet of 1,200 bytes.
    ephemeral_bytes: Count<2, 900> = Count(800), "limits.ephemeral_bytes";
    /// Rooms a session may be in.
    rooms: Count<1, ROOMS> = Count(ROOMS), "limits.rooms";
    /// Members a room may have.
    room_members: Count<2, 100_000> = Count(1_000), "limits.room_members";
    /// Bytes of metadata that they may show together.
    room_metadata_bytes: Count<2, { 1 << 30 }> = Count(256 << 10), "limits.room_metadata_bytes";
    /// Connections at once.
    connections: Count<1, 10_000_000> = Count(100_000), "limits.connections";
    /// Those among them that have not said `hello`.
    ungreeted: Count<1, 1_000_000> = Count(4_096), "limits.ungreeted";
    /// Those of one address.
    ungreeted_per_address: Count<0, 1_000_000> = Count(512), "limits.ungreeted_per_address";
    /// Connections of one address.
    connections_per_address: Count<0, 10_000_000> = Count(1_024), "limits.connections_per_address";
    /// Answers held for a connection that does not read.
    outbox_bytes: Count<16_384, 16_777_216> = Count(ANSWER_BYTES), "limits.outbox_bytes";
    /// Streams in both directions of a WebTransport connection.
    streams: Count<4, 100> = Count(4), "limits.streams";
    /// Begun per second by QUIC, and as many by TLS.
    handshakes_per_s: Count<0, 1_000_000> = Count(1_000), "limits.handshakes_per_s";
    /// What a task may wait for its turn.
    wait_us: Count<0, 1_000_000> = Count(5_000), "limits.wait_us";
    /// Sessions of one user.
    sessions_per_user: Count<0, 1_000_000> = Count(64), "limits.sessions_per_user";
    /// Sessions without a connection.
    sessions_away: Count<0, 10_000_000> = Count(100_000), "limits.sessions_away";
    /// Rooms of the gateway.
    rooms_total: Count<0, 10_000_000> = Count(100_000), "limits.rooms_total";
    /// Bytes of the logs of all rooms.
    log_bytes_total: Count<0, { 1 << 50 }> = Count(1 << 30), "limits.log_bytes_total";
    /// Messages of a session.
    messages_per_s: Count<0, 1_000_000> = Count(1_000), "limits.messages_per_s";
    /// Their bytes.
    bytes_per_s: Count<0, 1_073_741_824> = Count(4 << 20), "limits.bytes_per_s";
    /// Rooms a session joins.
    joins_per_s: Count<0, 100_000> = Count(20), "limits.joins_per_s";
    /// What may come at once, in seconds' worth.
    burst_s: Count<1, 60> = Count(4), "limits.burst_s";
    /// Entries of a signal log.
    signal_entries: Count<1, 1_000_000> = Count(4_096), "retention.signal.entries";
    /// Bytes of a signal log.
    signal_bytes: Count<1_024, 1_073_741_824> = Count(4 << 20), "retention.signal.bytes";
    /// How long a signal log keeps what nobody can come back for.
    signal_age_ms: Count<0, DAY_MS> = Count(0), "retention.signal.age_ms";
    /// Entries of a bulk log.
    bulk_entries: Count<1, 1_000_000> = Count(1_024), "retention.bulk.entries";
    /// Bytes of a bulk log.
    bulk_bytes: Count<1_024, 1_073_741_824> = Count(8 << 20), "retention.bulk.bytes";
    /// How long a bulk log keeps what nobody can come back for.
    bulk_age_ms: Count<0, DAY_MS> = Count(0), "retention.bulk.age_ms";
    /// What `ice` answers.
    ice_servers: IceServers = IceServers::default(), "ice.servers";
    /// For how long.
    ice_ttl_s: Count<1, 604_800> = Count(3_600), "ice.ttl_s";
}

/// Lays the layers over each other, the weakest first, and fills up with the defaults.
pub(super) fn merge(layers: impl IntoIterator<Item = Layer>) -> Settings {
    layers.into_iter().fold(Layer::default(), |lower, layer| layer.over(lower)).completed()
}

fn read<T: Value>(
    key: &'static str,
    raw: Raw<'_>,
    shown: &str,
    origin: Origin,
) -> Result<Found<T>, ConfigError> {
    match T::read(raw) {
        Ok(value) => Ok(Found { value, origin }),
        Err(Expected(expected)) => {
            let value = if T::SECRET { "not usable".to_owned() } else { abridged(shown) };
            Err(ConfigError::Value { place: origin, key, value, expected })
        }
    }
}

/// On one line, and not too much of it.
fn abridged(text: &str) -> String {
    const SHOWN_MAX: usize = 80;
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = line.char_indices().nth(SHOWN_MAX) {
        line.truncate(cut);
        line.push_str("...");
    }
    format!("`{line}`")
}

/// The environment variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("HANDOVER_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// The error for a key nobody knows.
fn unknown(key: &str, place: Origin) -> ConfigError {
    let nearest = nearest(key, KEYS.iter().map(|known| (*known).to_owned()));
    ConfigError::Unknown { place, name: key.to_owned(), nearest }
}

/// The error for an environment variable nobody knows.
pub(super) fn unknown_variable(name: &str) -> ConfigError {
    let known = KEYS.iter().map(|known| variable(known)).chain([CONFIG_VARIABLE.to_owned()]);
    let nearest = nearest(name, known);
    let place = Origin::Environment { name: name.to_owned() };
    ConfigError::Unknown { place, name: name.to_owned(), nearest }
}

/// The known name that resembles `name` most. A name in the wrong section, or in none, is one
/// mistake, however long the section's name.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    known
        .min_by_key(|candidate| {
            let whole = strsim::damerau_levenshtein(name, candidate);
            let end = strsim::damerau_levenshtein(&last(name), &last(candidate)) + 1;
            whole.min(end)
        })
        .unwrap_or_default()
}
