//! What the gateway is told: defaults, under a TOML file, under the environment, under flags.
//!
//! Nothing in here reads the process: the file's text, the variables and the flags come in as
//! values, so every rule can be tested without touching the environment.

mod addresses;
mod broker;
mod error;
mod layer;
mod origins;
mod print;
mod quic;
mod read;
mod settings;
#[cfg(test)]
mod tests;
mod tokens;
mod value;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use handover_protocol::limits::{Limits, RETENTION_MARGIN, ROOM_NAME_BYTES_MAX, Retention};
use handover_protocol::pace::{PaceLimits, Rate};
use handover_protocol::wire::PerLane;
use handover_protocol::wire::message::IceServer;

pub use addresses::Addresses;
pub use broker::{BrokerPlace, RedisAddress};
pub use error::ConfigError;
pub use layer::Origin;
pub use origins::{Caller, Origins, host};
pub use quic::ServerId;
pub use read::{CONFIG_VARIABLE, FlagValue, environment};
pub use tokens::{JwksPlace, shown_address};
pub use value::{LogFilter, LogFormat};

use layer::Found;
use settings::{Settings, merge};

/// A configuration that has been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where UDP (QUIC) and TCP (TLS) listen. Those with port 0 share one port.
    pub listen: Addresses,
    /// Where plain HTTP listens; an empty list where it is off.
    pub http: Addresses,
    /// Which web pages may connect.
    pub origins: Origins,
    /// Whether clients without a token are let in from beyond this machine.
    pub allow_anonymous: bool,
    /// Where the certificate comes from.
    pub identity: IdentitySource,
    /// Whose tokens are taken; nobody is asked for one where this is absent.
    pub auth: Option<Auth>,
    /// Where rooms and sessions are kept,
    pub broker: BrokerPlace,
    /// and whether the gateway counts as ready without it,
    pub broker_optional: bool,
    /// and how many of its replicas have to have what is answered as done.
    pub broker_replicas: u32,
    /// What connection ids tell a load balancer; nothing where this is absent.
    pub server_id: Option<ServerId>,
    /// What is logged and how.
    pub log: Log,
    /// Between signs of life.
    pub heartbeat: Duration,
    /// A session outlives its connection by this.
    pub resume_window: Duration,
    /// `hello`, and on WebTransport the bulk stream, must have come by then.
    pub hello_timeout: Duration,
    /// A connection that takes nothing for this long is closed.
    pub blocked_timeout: Duration,
    /// Connections still there this long after a drain began are cut.
    pub drain_timeout: Duration,
    /// What is announced in `welcome`.
    pub limits: Limits,
    /// What is not announced.
    pub capacity: Capacity,
    /// How fast a session may go.
    pub pace: PaceLimits,
    /// How much of each log is kept.
    pub retention: PerLane<Retention>,
    /// What `ice` answers.
    pub ice: Ice,
}

/// Where the certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// PEM files an operator provides.
    Files {
        /// The chain, the gateway's own certificate first.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// Made by the gateway and kept in this directory.
    SelfMade {
        /// Created where it does not exist.
        dir: PathBuf,
    },
}

/// Whose tokens are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// A secret shared with the issuer (HS256).
    pub secret_file: Option<PathBuf>,
    /// Public keys (PEM).
    pub key_file: Option<PathBuf>,
    /// Keys with names.
    pub jwks: Option<JwksPlace>,
    /// Whom to trust when the JWKS is fetched, instead of the system's authorities (PEM).
    pub jwks_ca: Option<PathBuf>,
    /// It is fetched again after this,
    pub jwks_refresh: Duration,
    /// and for a token whose key is not known, but not sooner than this.
    pub jwks_pause: Duration,
    /// `iss` is one of these; anything if there are none.
    pub issuers: Vec<String>,
    /// `aud` has one of these; absent if there are none.
    pub audiences: Vec<String>,
    /// How far clocks may be apart.
    pub leeway: Duration,
}

impl Default for Auth {
    /// The defaults of the settings, and no keys, so that nobody's token is taken.
    fn default() -> Self {
        auth_settings(&merge([]))
    }
}

/// What is logged and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// What.
    pub filter: LogFilter,
    /// How.
    pub format: LogFormat,
}

/// How much there may be of what costs memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Members a room may have.
    pub room_members: usize,
    /// Bytes of metadata that they may show together.
    pub room_metadata_bytes: usize,
    /// Connections at once.
    pub connections: usize,
    /// Those that have not said `hello`.
    pub ungreeted: usize,
    /// Those of one address.
    pub ungreeted_per_address: usize,
    /// Connections of one address.
    pub connections_per_address: usize,
    /// Bytes of answers held for a connection that does not read.
    pub outbox_bytes: usize,
    /// Streams in both directions of a WebTransport connection.
    pub streams: u32,
    /// What a task may wait for its turn before all rates are cut down, if they ever are.
    pub wait: Option<Duration>,
    /// Handshakes begun per second, if that is bounded.
    pub handshakes: Option<Rate>,
    /// Sessions of one user.
    pub sessions_per_user: usize,
    /// Sessions without a connection.
    pub sessions_away: usize,
    /// Rooms.
    pub rooms: usize,
    /// Bytes of their logs.
    pub log_bytes: usize,
}

/// What `ice` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ice {
    /// For `RTCConfiguration.iceServers`.
    pub servers: Vec<IceServer>,
    /// Clients ask again after this.
    pub ttl: Duration,
}

impl Default for Config {
    /// What `handover serve` runs with when nobody says anything.
    fn default() -> Self {
        Config::of(merge([]))
    }
}

/// A checked configuration, and where each of its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the gateway runs with.
    pub config: Config,
    settings: Settings,
}

/// A configuration file that has been read.
#[derive(Clone, Copy, Debug)]
pub struct ConfigFile<'a> {
    /// As it was named, for messages.
    pub path: &'a Path,
    /// What it holds.
    pub text: &'a str,
}

/// Understands every layer, lays them over each other and checks the outcome.
///
/// A value that is wrong is refused even where a stronger layer overrides it: a mistake that
/// waits for a variable to go missing is worse than one that shows at once.
pub fn load(
    file: Option<ConfigFile<'_>>,
    variables: &BTreeMap<String, String>,
    flags: &[FlagValue],
) -> Result<Loaded, ConfigError> {
    let file = match file {
        Some(file) => read::file_layer(&file.path.display().to_string(), file.text)?,
        None => settings::Layer::default(),
    };
    let settings = merge([file, read::environment_layer(variables)?, read::flags_layer(flags)?]);
    check(&settings)?;
    Ok(Loaded { config: Config::of(settings.clone()), settings })
}

impl Loaded {
    /// The effective configuration as TOML, secrets replaced, each value with its place.
    pub fn print(&self) -> String {
        print::print(&self.settings.rows())
    }
}

impl Config {
    fn of(settings: Settings) -> Self {
        let resume_window = settings.resume_window_ms.value.millis();
        let window = resume_window.saturating_add(RETENTION_MARGIN);
        let auth = auth(&settings);
        let server_id = quic::server_id(&settings);
        let burst_s = settings.burst_s.value.0;
        let identity = match (settings.cert.value, settings.key.value) {
            (Some(cert), Some(key)) => IdentitySource::Files { cert, key },
            _ => IdentitySource::SelfMade { dir: settings.certs_dir.value },
        };
        Config {
            listen: settings.listen.value.0,
            http: settings.http.value.0,
            origins: settings.origins.value,
            allow_anonymous: settings.allow_anonymous.value,
            identity,
            auth,
            broker: settings.broker.value,
            broker_optional: settings.broker_optional.value,
            broker_replicas: u32::try_from(settings.broker_replicas.value.0).unwrap_or(u32::MAX),
            server_id,
            log: Log { filter: settings.log.value, format: settings.log_format.value },
            heartbeat: settings.heartbeat_ms.value.millis(),
            resume_window,
            hello_timeout: settings.hello_timeout_ms.value.millis(),
            blocked_timeout: settings.blocked_timeout_ms.value.millis(),
            drain_timeout: settings.drain_timeout_ms.value.millis(),
            limits: Limits {
                message_bytes: settings.message_bytes.value.0,
                metadata_bytes: settings.metadata_bytes.value.0,
                ephemeral_bytes: settings.ephemeral_bytes.value.0,
                room_bytes: ROOM_NAME_BYTES_MAX as u64,
                rooms: settings.rooms.value.0,
            },
            capacity: Capacity {
                room_members: settings.room_members.value.size(),
                room_metadata_bytes: settings.room_metadata_bytes.value.size(),
                connections: settings.connections.value.size(),
                ungreeted: settings.ungreeted.value.size(),
                ungreeted_per_address: settings.ungreeted_per_address.value.size_or_any(),
                connections_per_address: settings.connections_per_address.value.size_or_any(),
                outbox_bytes: settings.outbox_bytes.value.size(),
                streams: u32::try_from(settings.streams.value.0).unwrap_or(u32::MAX),
                wait: settings.wait_us.value.some_micros(),
                handshakes: settings.handshakes_per_s.value.rate(1, 1),
                sessions_per_user: settings.sessions_per_user.value.size_or_any(),
                sessions_away: settings.sessions_away.value.size_or_any(),
                rooms: settings.rooms_total.value.size_or_any(),
                log_bytes: settings.log_bytes_total.value.size_or_any(),
            },
            pace: PaceLimits {
                messages: settings.messages_per_s.value.rate(burst_s, 1),
                bytes: settings.bytes_per_s.value.rate(burst_s, 1),
                // A client that begins anew joins all its rooms at once.
                joins: settings.joins_per_s.value.rate(burst_s, settings.rooms.value.0),
            },
            retention: PerLane {
                signal: Retention {
                    entries: settings.signal_entries.value.size(),
                    bytes: settings.signal_bytes.value.size(),
                    age: settings.signal_age_ms.value.millis().max(window),
                    window,
                },
                bulk: Retention {
                    entries: settings.bulk_entries.value.size(),
                    bytes: settings.bulk_bytes.value.size(),
                    age: settings.bulk_age_ms.value.millis().max(window),
                    window,
                },
            },
            ice: Ice {
                servers: settings.ice_servers.value.0,
                ttl: Duration::from_secs(settings.ice_ttl_s.value.0),
            },
        }
    }
}

/// The settings that say whose tokens are taken, if one of those is set that name keys.
fn auth(settings: &Settings) -> Option<Auth> {
    let has_keys = settings.auth_secret_file.value.is_some()
        || settings.auth_key_file.value.is_some()
        || settings.auth_jwks.value.is_some();
    has_keys.then(|| auth_settings(settings))
}

fn auth_settings(settings: &Settings) -> Auth {
    Auth {
        secret_file: settings.auth_secret_file.value.clone(),
        key_file: settings.auth_key_file.value.clone(),
        jwks: settings.auth_jwks.value.clone(),
        jwks_ca: settings.auth_jwks_ca.value.clone(),
        jwks_refresh: Duration::from_secs(settings.auth_jwks_refresh_s.value.0),
        jwks_pause: settings.auth_jwks_pause_ms.value.millis(),
        issuers: settings.auth_issuer.value.0.clone(),
        audiences: settings.auth_audience.value.0.clone(),
        leeway: Duration::from_secs(settings.auth_leeway_s.value.0),
    }
}

/// What no setting can know of itself.
fn check(settings: &Settings) -> Result<(), ConfigError> {
    check_identity(&settings.cert, "cert", &settings.key, "key")?;
    check_identity(&settings.key, "key", &settings.cert, "cert")?;
    check_auth(settings)?;
    quic::check(settings)?;
    check_reach(settings)?;

    let message = Bound::of("limits.message_bytes", &settings.message_bytes);
    let metadata = Bound::of("limits.metadata_bytes", &settings.metadata_bytes);
    at_most(metadata, message)?;
    at_most(metadata, Bound::of("limits.room_metadata_bytes", &settings.room_metadata_bytes))?;
    at_most(message, Bound::of("retention.signal.bytes", &settings.signal_bytes))?;
    at_most(message, Bound::of("retention.bulk.bytes", &settings.bulk_bytes))
}

fn check_identity(
    given: &Found<Option<PathBuf>>,
    given_key: &'static str,
    other: &Found<Option<PathBuf>>,
    other_key: &'static str,
) -> Result<(), ConfigError> {
    if given.value.is_some() && other.value.is_none() {
        let place = given.origin.clone();
        return Err(ConfigError::HalfIdentity { place, given: given_key, missing: other_key });
    }
    Ok(())
}

/// Whether what is said of tokens has an effect, and no other than is meant.
fn check_auth(settings: &Settings) -> Result<(), ConfigError> {
    if auth(settings).is_some() {
        if settings.allow_anonymous.value {
            let place = settings.allow_anonymous.origin.clone();
            return Err(ConfigError::AnonymousWithKeys { place });
        }
        return Ok(());
    }
    let (issuer, audience) = (&settings.auth_issuer, &settings.auth_audience);
    for (key, names) in [("auth.issuer", issuer), ("auth.audience", audience)] {
        if !names.value.0.is_empty() {
            return Err(ConfigError::NoKeys { place: names.origin.clone(), key });
        }
    }
    Ok(())
}

/// Who can reach which listener.
fn check_reach(settings: &Settings) -> Result<(), ConfigError> {
    let (listen, http) = (&settings.listen, &settings.http);
    let same = |address: &&_| listen.value.0.list.contains(address);
    if let Some(address) = http.value.0.list.iter().filter(|a| a.port() != 0).find(same) {
        return Err(ConfigError::SharedPort { place: http.origin.clone(), address: *address });
    }
    let remote_http = http.value.0.beyond_loopback();
    if let Some(address) = remote_http.filter(|_| !settings.allow_remote_http.value) {
        return Err(ConfigError::HttpBeyondLoopback { place: http.origin.clone(), address });
    }
    if settings.allow_anonymous.value || auth(settings).is_some() {
        return Ok(());
    }
    let listen = listen.value.0.beyond_loopback().map(|a| ("listen", a, &listen.origin));
    match listen.or(remote_http.map(|a| ("http", a, &http.origin))) {
        Some((key, address, place)) => {
            Err(ConfigError::AnonymousBeyondLoopback { place: place.clone(), key, address })
        }
        None => Ok(()),
    }
}

/// A number that bounds another or is bounded by it.
#[derive(Clone, Copy)]
struct Bound<'a> {
    key: &'static str,
    value: u64,
    origin: &'a Origin,
}

impl<'a> Bound<'a> {
    fn of<const MIN: u64, const MAX: u64>(
        key: &'static str,
        found: &'a Found<value::Count<MIN, MAX>>,
    ) -> Self {
        Bound { key, value: found.value.0, origin: &found.origin }
    }
}

fn at_most(small: Bound<'_>, large: Bound<'_>) -> Result<(), ConfigError> {
    if small.value <= large.value {
        return Ok(());
    }
    // At least one of them was set, for the defaults agree: name a place that can be changed.
    let place = if *small.origin == Origin::Default { large.origin } else { small.origin };
    Err(ConfigError::Order {
        place: place.clone(),
        small: small.key,
        small_value: small.value,
        large: large.key,
        large_value: large.value,
    })
}
