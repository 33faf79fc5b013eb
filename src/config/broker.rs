//! Where rooms and sessions are kept: the kind of value of `broker`.

use std::fmt;

use super::value::{Expected, REDACTED, Raw, Value, quoted, text};

/// Where rooms and sessions are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BrokerPlace {
    /// In this process.
    #[default]
    Memory,
    /// In a Redis that other nodes are given as well.
    Redis(RedisAddress),
}

/// Where a Redis is, and what it takes to be let in there. Shows itself without the latter.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisAddress(String);

impl RedisAddress {
    /// The address as it was given, password and all.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What may be shown.
    fn shown(&self) -> String {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", ""));
        let (place, query) = rest.split_once('?').map_or((rest, None), |(p, q)| (p, Some(q)));
        // A password may have any of these in it: what is before the last @ is not looked at.
        let place = match place.rsplit_once('@') {
            Some((_, place)) => format!("{REDACTED}@{place}"),
            None => place.to_owned(),
        };
        let query = query.map_or(String::new(), |_| format!("?{REDACTED}"));
        format!("{scheme}://{place}{query}")
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl BrokerPlace {
    /// `memory`, or the address of a Redis.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "memory" {
            return Ok(BrokerPlace::Memory);
        }
        match text.split_once("://") {
            Some((scheme, rest)) if SCHEMES.contains(&scheme) && !rest.is_empty() => {
                Ok(BrokerPlace::Redis(RedisAddress(text.to_owned())))
            }
            _ => Err("memory, or where a Redis is: redis://HOST:PORT, rediss://HOST:PORT, \
                      redis+unix:///PATH, redis-sentinel://HOST:PORT,HOST:PORT/NAME or \
                      redis-cluster://HOST:PORT,HOST:PORT"
                .into()),
        }
    }
}

const SCHEMES: [&str; 7] = [
    "redis",
    "rediss",
    "redis+unix",
    "redis-sentinel",
    "rediss-sentinel",
    "redis-cluster",
    "rediss-cluster",
];

impl Value for BrokerPlace {
    /// A password in it must not end up in an error.
    const SECRET: bool = true;

    fn read(raw: Raw<'_>) -> Result<Self, Expected> {
        BrokerPlace::parse(text(raw).unwrap_or_default()).map_err(Expected)
    }

    fn to_toml(&self) -> Option<String> {
        Some(quoted(&match self {
            BrokerPlace::Memory => "memory".to_owned(),
            BrokerPlace::Redis(address) => address.shown(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_itself_without_its_secrets() {
        for (text, shown) in [
            ("redis://127.0.0.1:6379/1", "redis://127.0.0.1:6379/1"),
            ("redis://ann:s3cret@db:6379", "redis://(redacted)@db:6379"),
            ("rediss://:s3c@ret/s3cret@db", "rediss://(redacted)@db"),
            ("redis-cluster://a:s3c,ret@h:1,i:2", "redis-cluster://(redacted)@h:1,i:2"),
            ("redis+unix:///run/redis?pass=s3cret", "redis+unix:///run/redis?(redacted)"),
        ] {
            let Ok(place) = BrokerPlace::read(Raw::Text(text)) else { panic!("{shown}") };
            assert_eq!(place.to_toml().unwrap(), format!("\"{shown}\""));
            assert_eq!(format!("{place:?}"), format!("Redis({shown})"));
            let BrokerPlace::Redis(address) = place else { panic!("{shown}") };
            assert_eq!(address.reveal(), text);
        }
        for bad in ["", "redis", "redis://", "http://db", "db:6379"] {
            assert!(BrokerPlace::read(Raw::Text(bad)).is_err(), "{bad}");
        }
    }
}
