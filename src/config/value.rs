//! The kinds of value a setting may have: how each is read, from TOML and from text, and
//! written.

use std::path::{Path, PathBuf};
use std::time::Duration;

use handover_protocol::pace::Rate;
use handover_protocol::wire::Secret;
use handover_protocol::wire::message::IceServer;
use toml::de::DeValue;
use tracing_subscriber::EnvFilter;

/// A value as it stands in a layer, not yet understood.
#[derive(Clone, Copy)]
pub(super) enum Raw<'a> {
    /// From the file.
    Toml(&'a DeValue<'a>),
    /// From the environment or a flag.
    Text(&'a str),
}

/// What would have been accepted instead.
pub(super) struct Expected(pub(super) String);

impl From<&str> for Expected {
    fn from(text: &str) -> Self {
        Expected(text.to_owned())
    }
}

/// A kind of value.
pub(super) trait Value: Clone + PartialEq + std::fmt::Debug {
    /// Whether it must not be shown.
    const SECRET: bool = false;

    /// Understands it, wherever it comes from.
    fn read(raw: Raw<'_>) -> Result<Self, Expected>;

    /// As TOML that [`Value::read`] takes back, secrets replaced; `None` where nothing is set.
    fn to_toml(&self) -> Option<String>;
}

/// A TOML basic string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A TOML array of strings.
pub(super) fn quoted_list(items: impl IntoIterator<Item = String>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| quoted(&item)).collect();
    format!("[{}]", items.join(", "))
}

/// One or several texts: a TOML string or array of strings, or text parted by commas.
pub(super) fn texts(raw: Raw<'_>) -> Option<Vec<String>> {
    match raw {
        Raw::Text(text) => Some(split(text)),
        Raw::Toml(DeValue::String(text)) => Some(split(text)),
        Raw::Toml(DeValue::Array(items)) => {
            items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
        }
        Raw::Toml(_) => None,
    }
}

fn split(text: &str) -> Vec<String> {
    text.split(',').map(|part| part.trim().to_owned()).collect()
}

pub(super) fn text(raw: Raw<'_>) -> Option<&str> {
    match raw {
        Raw::Text(text) => Some(text),
        Raw::Toml(value) => value.as_str(),
    }
}

/// A whole number within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count<const MIN: u64, const MAX: u64>(pub(super) u64);

impl<const MIN: u64, const MAX: u64> Count<MIN, MAX> {
    pub(super) fn millis(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// As a time in microseconds that 0 takes away.
    pub(super) fn some_micros(self) -> Option<Duration> {
        (self.0 != 0).then_some(Duration::from_micros(self.0))
    }

    pub(super) fn size(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// As a bound that 0 takes away.
    pub(super) fn size_or_any(self) -> usize {
        if self.0 == 0 { usize::MAX } else { self.size() }
    }

    /// As a rate that 0 takes away, with so many seconds' worth at once, or `least`.
    pub(super) fn rate(self, burst_s: u64, least: u64) -> Option<Rate> {
        let burst = self.0.saturating_mul(burst_s).max(least);
        (self.0 != 0).then_some(Rate { per_s: self.0, burst })
    }
}

impl<const MIN: u64, const MAX: u64> Value for Count<MIN, MAX> {
    fn read(raw: Raw<'_>) -> Result<Self, Expected> {
        let number = match raw {
            Raw::Text(text) => text.trim().parse().ok(),
            Raw::Toml(value) => value
                .as_integer()
                .and_then(|integer| u64::from_str_radix(integer.as_str(), integer.radix()).ok()),
        };
        match number {
            Some(number) if (MIN..=MAX).contains(&number) => Ok(Count(number)),
            _ => Err(Expected(format!("a whole number from {MIN} to {MAX}"))),
        }
    }

    fn to_toml(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

impl Value for bool {
    fn read(raw: Raw<'_>) -> Result<Self, Expected> {
        let value = match raw {
            Raw::Text(text) => text.trim().parse().ok(),
            Raw::Toml(value) => value.as_bool(),
        };
        value.ok_or_else(|| "true or false".into())
    }

    fn to_toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

fn path(raw: Raw<'_>) -> Result<PathBuf, Expected> {
    match text(raw) {
        Some(text) if !text.is_empty() => Ok(PathBuf::from(text)),
        _ => Err("a path".into()),
    }
}

fn path_to_toml(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

impl Value for PathBuf {
    fn read(raw: Raw<'_>) -> Result<Self, Expected> {
        path(raw)
    }

    fn to_toml(&self) -> Option<String> {
        Some(path_to_toml(self))
    }
}

/// A path that need not be set.
impl Value for Option<PathBuf> {
    fn read(raw: Raw<'_>) -> Result<Self, Expected> {
        path(raw).map(Some)
    }

    fn to_toml(&self) -> Option<String> {
        self.as_deref().map(path_to_toml)
    }
}

/// What is logged: `info`, or directives such as `handover=debug,quinn=warn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// A level or directives.
    pub fn parse(text: &str) -> Result<Self, String> {
        // Their reader takes a space in front of a directive for a part of it, and panics over some.
        let directives = text.split(',').map(str::trim).filter(|one| !one.is_empty());
        let text = Vec::from_iter(directives).join(",");
        if text.is_empty() || EnvFilter::builder().parse(&text).is_err() {
            return Err("a level (error, warn, info, debug, trace) or directives such as \
                        `info,handover=debug`"
                .into());
        }
        Ok(LogFilter(text))
    }

    /// The directives.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        // What the QUIC library warns of is what any stranger's packet can contain.
        LogFilter("info,quinn_proto=error".to_owned())
    }
}

impl Value for LogFilter {
    fn read(raw: Raw<'_>) -> Result<Self, Expected> {
        LogFilter::parse(text(raw).unwrap_or_default()).map_err(Expected)
    }

    fn to_toml(&self) -> Option<String> {
        Some(quoted(&self.0))
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people on a terminal, JSON anywhere else.
    #[default]
    Auto,
    /// For people, everywhere.
    Human,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    const ALL: [(&str, LogFormat); 3] =
        [("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)];
}

impl Value for LogFormat {
    fn read(raw: Raw<'_>) -> Result<Self, Expected> {
        text(raw)
            .and_then(|text| LogFormat::ALL.into_iter().find(|(name, _)| *name == text))
            .map(|(_, format)| format)
            .ok_or_else(|| "auto, human or json".into())
    }

    fn to_toml(&self) -> Option<String> {
        LogFormat::ALL.into_iter().find(|(_, format)| format == self).map(|(name, _)| quoted(name))
    }
}

/// The STUN and TURN servers clients are told of.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct IceServers(pub(super) Vec<IceServer>);

const ICE_SERVERS: &str = "a list of { urls = [\"stun:HOST:PORT\" or \"turn:HOST:PORT\"], username, \
                           credential }, turn servers with both of the latter";

/// What is printed where a secret stands.
pub(super) const REDACTED: &str = "(redacted)";

/// One server as the file has it. Its own type, so that an unknown field is refused.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct IceServerText {
    urls: OneOrMore,
    username: Option<String>,
    credential: Option<Secret>,
}

/// `RTCConfiguration` takes one address without brackets, and so do we.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl IceServerText {
    fn checked(self) -> Option<IceServer> {
        let urls = match self.urls {
            OneOrMore::One(url) => vec![url],
            OneOrMore::More(urls) => urls,
        };
        let known = |url: &String, schemes: &[&str]| {
            schemes
                .iter()
                .any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
        };
        let all_known = urls.iter().all(|url| known(url, &["stun:", "stuns:", "turn:", "turns:"]));
        let relays = urls.iter().any(|url| known(url, &["turn:", "turns:"]));
        let may_relay = self.username.is_some() && self.credential.is_some();
        if urls.is_empty() || !all_known || (relays && !may_relay) {
            return None;
        }
        Some(IceServer { urls, username: self.username, credential: self.credential })
    }
}

impl Value for IceServers {
    const SECRET: bool = true;

    fn read(raw: Raw<'_>) -> Result<Self, Expected> {
        let servers: Option<Vec<IceServerText>> = match raw {
            Raw::Text(text) => serde_json::from_str(text).ok(),
            Raw::Toml(DeValue::Array(items)) => items
                .iter()
                .map(|item| {
                    let deserializer = toml::de::ValueDeserializer::from(item.clone());
                    serde::Deserialize::deserialize(deserializer).ok()
                })
                .collect(),
            Raw::Toml(_) => None,
        };
        servers
            .and_then(|servers| servers.into_iter().map(IceServerText::checked).collect())
            .map(IceServers)
            .ok_or_else(|| match raw {
                Raw::Toml(_) => ICE_SERVERS.into(),
                Raw::Text(_) => Expected(format!("the JSON of {ICE_SERVERS}")),
            })
    }

    fn to_toml(&self) -> Option<String> {
        let servers: Vec<String> = self
            .0
            .iter()
            .map(|server| {
                let mut fields = vec![format!("urls = {}", quoted_list(server.urls.clone()))];
                if let Some(username) = &server.username {
                    fields.push(format!("username = {}", quoted(username)));
                }
                if server.credential.is_some() {
                    fields.push(format!("credential = {}", quoted(REDACTED)));
                }
                format!("{{ {} }}", fields.join(", "))
            })
            .collect();
        Some(format!("[{}]", servers.join(", ")))
    }
}
