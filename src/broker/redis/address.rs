//! Addresses of Redis, as they are written in a setting.
//!
//! - `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`: one Redis
//! - `redis+unix:///PATH[?db=DATABASE&user=USER&pass=PASSWORD]`: one Redis, on a socket
//! - `redis-sentinel://[USER:PASSWORD@]HOST[:PORT],.../NAME[/DATABASE]`: whichever Redis the
//!   sentinels at these hosts call the master NAME; `?sentinel_user=` and `?sentinel_pass=` are
//!   for themselves
//! - `redis-cluster://[USER:PASSWORD@]HOST[:PORT],...`: a Redis Cluster, some of whose nodes
//!   these are
//!
//! With `rediss` in place of `redis` all of it is over TLS; certificates are always verified, by
//! the system's authorities or those in the PEM file named by `?ca=/PATH`. What stands between
//! the signs is percent-encoded where it has to be.

use std::fmt;
use std::path::PathBuf;

use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, TlsCertificates,
};

/// An address of Redis that cannot be used, and why. Repeats nothing of what may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address of Redis that can be used: {0}")]
pub struct BadAddress(String);

impl BadAddress {
    pub(super) fn new(why: &str) -> BadAddress {
        BadAddress(why.to_owned())
    }
}

fn bad<T>(why: &str) -> Result<T, BadAddress> {
    Err(BadAddress::new(why))
}

/// Where one process listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Place::Tcp(host, port) => write!(f, "{host}:{port}"),
            Place::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// How the Redis to write to is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It is the one at the address.
    Direct,
    /// Sentinels are asked for the master of this name.
    Sentinel(String),
    /// Each slot has its own.
    Cluster,
}

#[derive(Clone, Default)]
struct Login {
    user: Option<String>,
    password: Option<String>,
    database: i64,
}

/// An address, read.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) way: Way,
    /// Whom to ask first: one Redis, or sentinels, or some nodes of a cluster.
    pub(super) seeds: Vec<Place>,
    login: Login,
    sentinel_login: Login,
    tls: Option<TlsCertificates>,
}

impl Address {
    /// The number of the database.
    pub(super) fn database(&self) -> i64 {
        self.login.database
    }

    pub(super) fn parse(text: &str) -> Result<Address, BadAddress> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return bad("it does not begin with redis:// or the like");
        };
        let (kind, secured) = match scheme {
            "redis+unix" => return unix(rest),
            "redis" => ("", false),
            "rediss" => ("", true),
            _ => match scheme.split_once('-') {
                Some(("redis", kind @ ("cluster" | "sentinel"))) => (kind, false),
                Some(("rediss", kind @ ("cluster" | "sentinel"))) => (kind, true),
                _ => {
                    return bad("it begins with none of redis://, rediss://, redis+unix://, \
                         redis-sentinel://, redis-cluster://");
                }
            },
        };
        if rest.contains('#') {
            return bad("`#` stands in it (%23 in a password); certificates are always verified");
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (login, hosts),
            None => ("", authority),
        };
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let mut login =
            Login { user: given(user)?, password: given(password)?, ..Login::default() };
        if login.user.is_some() && login.password.is_none() {
            return bad("a user without a password (a password alone is `:PASSWORD@`)");
        }
        let default_port = if kind == "sentinel" { 26_379 } else { 6_379 };
        let places = hosts.split(',').map(|host| place(host, default_port));
        let seeds = places.collect::<Result<Vec<Place>, BadAddress>>()?;
        let path = path.trim_end_matches('/');
        let (way, database) = match kind {
            "" if seeds.len() > 1 => {
                return bad("several hosts are for redis-cluster:// and redis-sentinel://");
            }
            "cluster" if !path.is_empty() && path != "0" => {
                return bad("a Redis Cluster has database 0 alone");
            }
            "cluster" => (Way::Cluster, ""),
            "sentinel" => {
                let (name, database) = path.split_once('/').unwrap_or((path, ""));
                let Some(name) = given(name)? else {
                    return bad("the name of the master is missing behind the sentinels");
                };
                (Way::Sentinel(name), database)
            }
            _ => (Way::Direct, path),
        };
        login.database = database_number(database)?;
        let (mut sentinel_login, mut authorities) = (Login::default(), None);
        for (name, value) in pairs(query)? {
            match (name, &way) {
                ("ca", _) if secured => authorities = Some(value),
                ("ca", _) => return bad("`ca` is for rediss"),
                ("sentinel_user", Way::Sentinel(_)) => sentinel_login.user = Some(value),
                ("sentinel_pass", Way::Sentinel(_)) => sentinel_login.password = Some(value),
                _ => return bad("an unknown parameter behind `?`"),
            }
        }
        let root_cert = match authorities {
            Some(path) => match std::fs::read(&path) {
                Ok(pem) => Some(pem),
                Err(error) => return Err(BadAddress(format!("cannot read {path}: {error}"))),
            },
            None => None,
        };
        let tls = secured.then_some(TlsCertificates { client_tls: None, root_cert });
        let address = Address { way, seeds, login, sentinel_login, tls };
        // What is wrong with the authorities is told now, not at every try to connect.
        address.seeds.iter().try_for_each(|seed| address.client(seed).map(drop))?;
        Ok(address)
    }

    /// The Redis at a place.
    pub(super) fn client(&self, place: &Place) -> Result<Client, BadAddress> {
        self.client_as(place, &self.login)
    }

    /// The sentinel at a place.
    pub(super) fn sentinel(&self, place: &Place) -> Result<Client, BadAddress> {
        self.client_as(place, &self.sentinel_login)
    }

    fn client_as(&self, place: &Place, login: &Login) -> Result<Client, BadAddress> {
        let mut settings = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_db(login.database)
            .set_lib_name("handover", env!("CARGO_PKG_VERSION"));
        if let Some(user) = &login.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &login.password {
            settings = settings.set_password(password);
        }
        let to = match (place, &self.tls) {
            (Place::Unix(path), _) => ConnectionAddr::Unix(path.clone()),
            (Place::Tcp(host, port), None) => ConnectionAddr::Tcp(host.clone(), *port),
            (Place::Tcp(host, port), Some(_)) => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
        };
        let unusable = |_| BadAddress("the client does not take it".to_owned());
        let info: ConnectionInfo = to.into_connection_info().map_err(unusable)?;
        let info = info.set_redis_settings(settings);
        match &self.tls {
            Some(tls) => Client::build_with_tls(info, tls.clone())
                .map_err(|_| BadAddress("the file of authorities holds no certificate".to_owned())),
            None => Client::open(info).map_err(unusable),
        }
    }
}

fn unix(rest: &str) -> Result<Address, BadAddress> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = decoded(path)?;
    if !path.starts_with('/') {
        return bad("the path of a socket begins with `/`");
    }
    let mut login = Login::default();
    for (name, value) in pairs(query)? {
        match name {
            "db" => login.database = database_number(&value)?,
            "user" => login.user = Some(value),
            "pass" => login.password = Some(value),
            _ => return bad("an unknown parameter behind `?`"),
        }
    }
    let seeds = vec![Place::Unix(PathBuf::from(path))];
    Ok(Address { way: Way::Direct, seeds, login, sentinel_login: Login::default(), tls: None })
}

fn place(text: &str, default_port: u16) -> Result<Place, BadAddress> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return bad("a host is missing");
    }
    let port = match port.map(str::parse) {
        None => default_port,
        Some(Ok(port)) if port > 0 => port,
        Some(_) => return bad("a port is not a number from 1 to 65535"),
    };
    Ok(Place::Tcp(host.to_owned(), port))
}

fn database_number(text: &str) -> Result<i64, BadAddress> {
    match text.parse::<u32>() {
        Ok(number) => Ok(i64::from(number)),
        Err(_) if text.is_empty() => Ok(0),
        Err(_) => bad("the database is not a number"),
    }
}

fn pairs(query: &str) -> Result<Vec<(&str, String)>, BadAddress> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((name, decoded(value)?))
    });
    pairs.collect()
}

fn given(text: &str) -> Result<Option<String>, BadAddress> {
    if text.is_empty() { Ok(None) } else { decoded(text).map(Some) }
}

/// Takes percent-encoding away.
fn decoded(text: &str) -> Result<String, BadAddress> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let byte = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let (Some(byte), Some(rest)) = (byte, part.get(2..)) else {
            return bad("`%` is not followed by two hexadecimal digits (it is %25 itself)");
        };
        bytes.push(byte);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).or_else(|_| bad("percent-encoding that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Place {
        Place::Tcp(host.to_owned(), port)
    }

    #[test]
    fn each_form_says_where_and_as_whom() {
        let read = |text| Address::parse(text).unwrap();
        let plain = read("redis://localhost");
        assert_eq!((plain.way, plain.seeds), (Way::Direct, vec![tcp("localhost", 6379)]));
        let full = read("redis://us%40er:p%3Ass%2F@[::1]:7000/3");
        assert_eq!(full.seeds, [tcp("::1", 7000)]);
        let client = full.client(&full.seeds[0]).unwrap();
        let login = client.get_connection_info().redis_settings();
        assert_eq!((login.username(), login.password()), (Some("us@er"), Some("p:ss/")));
        assert_eq!(login.db(), 3);
        let alone = read("redis://:secret@h");
        assert_eq!((alone.login.user, alone.login.password), (None, Some("secret".to_owned())));
        let socket = read("redis+unix:///run/a%20b?db=2&user=u&pass=p");
        assert_eq!(socket.seeds, [Place::Unix(PathBuf::from("/run/a b"))]);
        assert_eq!((socket.login.database, socket.login.password), (2, Some("p".to_owned())));
        let cluster = read("redis-cluster://u:p@a:1,b,c:3");
        assert_eq!(cluster.way, Way::Cluster);
        assert_eq!(cluster.seeds, [tcp("a", 1), tcp("b", 6379), tcp("c", 3)]);
        let sentinel = read("rediss-sentinel://:p@a,b:2/main/4?sentinel_user=s&sentinel_pass=q");
        assert_eq!(sentinel.way, Way::Sentinel("main".to_owned()));
        assert_eq!(sentinel.seeds, [tcp("a", 26_379), tcp("b", 2)]);
        assert_eq!((sentinel.login.database, sentinel.sentinel_login.database), (4, 0));
        let client = sentinel.sentinel(&sentinel.seeds[0]).unwrap();
        assert!(matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. }));
        assert_eq!(client.get_connection_info().redis_settings().password(), Some("q"));
    }

    #[test]
    fn what_is_wrong_is_said_without_secrets() {
        for text in [
            "hush",
            "http://hush",
            "redis-hush://h",
            "redis://hush@h",
            "redis://:hush@",
            "redis://:hush@h:hush",
            "redis://:hush@h:0",
            "redis://:hush@h/hush",
            "redis://:hush@a,b",
            "redis://:hush%@h",
            "redis://:hush%ff@h",
            "redis://:hu#sh@h",
            "redis://:hush@h?ca=/hush",
            "redis://:hush@h?pass=hush",
            "redis+unix://hush",
            "redis+unix:///s?hush=hush",
            "redis-cluster://:hush@h/2",
            "redis-sentinel://:hush@h",
            "redis-sentinel://:hush@h/name?pass=hush",
            "rediss://:hush@h?ca=/does/not/exist",
        ] {
            let Err(error) = Address::parse(text) else { panic!("{text}") };
            assert!(!error.to_string().contains("hush"), "{text}: {error}");
        }
    }
}
