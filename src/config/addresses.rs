//! Where the gateway listens.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::value::{Expected, Raw, Value, quoted, quoted_list, texts};

/// The port for QUIC and for TLS.
const PORT: u16 = 4433;
/// The port for plain HTTP.
const HTTP_PORT: u16 = 8080;

/// The addresses of one kind of listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// None of them twice. Empty where the listener is off.
    pub list: Vec<SocketAddr>,
    /// Whether nobody asked for these in particular. An address family this machine does not
    /// have is then left out instead of being an error.
    pub by_default: bool,
}

impl Addresses {
    /// Exactly these.
    pub fn of(list: impl IntoIterator<Item = SocketAddr>) -> Self {
        Addresses { list: list.into_iter().collect(), by_default: false }
    }

    /// No address at all.
    pub fn off() -> Self {
        Addresses::of([])
    }

    fn both_loopbacks(port: u16) -> [SocketAddr; 2] {
        [
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        ]
    }

    /// Whether a socket for `address` has to leave IPv4 alone. `[::]` takes both families
    /// unless `0.0.0.0` with the same port is listed beside it.
    pub fn v6_only(&self, address: SocketAddr) -> bool {
        match address.ip() {
            IpAddr::V6(ip) if ip.is_unspecified() => {
                self.list.contains(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
            }
            _ => true,
        }
    }

    /// The first address that other machines may reach.
    pub fn beyond_loopback(&self) -> Option<SocketAddr> {
        self.list.iter().copied().find(|address| !address.ip().to_canonical().is_loopback())
    }
}

/// One `ADDR:PORT`, `:PORT` or `localhost:PORT`.
fn parse(text: &str) -> Option<Vec<SocketAddr>> {
    let port = |text: &str| text.parse::<u16>().ok();
    if let Some(rest) = text.strip_prefix("localhost:") {
        return Some(Addresses::both_loopbacks(port(rest)?).into());
    }
    if let Some(rest) = text.strip_prefix(':') {
        return Some(vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, port(rest)?))]);
    }
    Some(vec![text.parse().ok()?])
}

/// A list without repetition; only port 0 may come more than once for an address.
fn parse_all(raw: Raw<'_>) -> Option<Addresses> {
    let mut list = Vec::new();
    for text in texts(raw)? {
        list.extend(parse(&text)?);
    }
    let fixed: Vec<&SocketAddr> = list.iter().filter(|address| address.port() != 0).collect();
    let distinct: BTreeSet<&SocketAddr> = fixed.iter().copied().collect();
    let valid = !list.is_empty() && distinct.len() == fixed.len();
    valid.then_some(Addresses { list, by_default: false })
}

/// `listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listen(pub(super) Addresses);

impl Default for Listen {
    fn default() -> Self {
        let list = Addresses::both_loopbacks(PORT).into();
        Listen(Addresses { list, by_default: true })
    }
}

impl Value for Listen {
    fn read(raw: Raw<'_>) -> Result<Self, Expected> {
        parse_all(raw).map(Listen).ok_or_else(|| {
            "distinct addresses with ports, such as 127.0.0.1:4433, [::]:4433, :4433 or \
             localhost:4433"
                .into()
        })
    }

    fn to_toml(&self) -> Option<String> {
        Some(quoted_list(self.0.list.iter().map(SocketAddr::to_string)))
    }
}

/// `http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Http(pub(super) Addresses);

impl Default for Http {
    fn default() -> Self {
        let list = Addresses::both_loopbacks(HTTP_PORT).into();
        Http(Addresses { list, by_default: true })
    }
}

const OFF: &str = "off";

impl Value for Http {
    fn read(raw: Raw<'_>) -> Result<Self, Expected> {
        if texts(raw).is_some_and(|texts| texts == [OFF]) {
            return Ok(Http(Addresses::off()));
        }
        parse_all(raw).map(Http).ok_or_else(|| {
            "distinct addresses with ports, such as 127.0.0.1:8080 or localhost:8080, or off".into()
        })
    }

    fn to_toml(&self) -> Option<String> {
        if self.0.list.is_empty() {
            return Some(quoted(OFF));
        }
        Some(quoted_list(self.0.list.iter().map(SocketAddr::to_string)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(text: &str) -> Option<Vec<String>> {
        let read = Listen::read(Raw::Text(text)).ok()?;
        Some(read.0.list.iter().map(SocketAddr::to_string).collect())
    }

    #[test]
    fn every_way_to_write_an_address() {
        for (text, expected) in [
            ("127.0.0.1:4433", vec!["127.0.0.1:4433"]),
            ("[::]:0", vec!["[::]:0"]),
            (":443", vec!["[::]:443"]),
            ("localhost:1", vec!["127.0.0.1:1", "[::1]:1"]),
            ("0.0.0.0:1, [::]:1", vec!["0.0.0.0:1", "[::]:1"]),
            ("127.0.0.1:0,127.0.0.1:0", vec!["127.0.0.1:0", "127.0.0.1:0"]),
        ] {
            assert_eq!(listen(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "4433", "127.0.0.1", "::1:4433", "example.org:443", ":70000", "off"] {
            assert_eq!(listen(bad), None, "{bad}");
        }
        assert_eq!(listen("127.0.0.1:1,127.0.0.1:1"), None, "the same twice");
    }

    #[test]
    fn off_is_for_http_alone() {
        let off = Http::read(Raw::Text("off")).ok().unwrap();
        assert_eq!(off.0, Addresses::off());
        assert_eq!(off.to_toml().unwrap(), "\"off\"");
        assert!(Http::read(Raw::Text("off,127.0.0.1:1")).is_err());
    }

    #[test]
    fn the_wildcard_takes_both_families_unless_both_are_listed() {
        let wildcard: SocketAddr = "[::]:1".parse().unwrap();
        let v4: SocketAddr = "0.0.0.0:1".parse().unwrap();
        assert!(!Addresses::of([wildcard]).v6_only(wildcard));
        assert!(Addresses::of([wildcard, v4]).v6_only(wildcard));
    }

    #[test]
    fn loopback_is_told_from_the_rest() {
        for (text, beyond) in [
            ("127.0.0.1:1,[::1]:1,127.9.9.9:1", None),
            ("[::ffff:127.0.0.1]:1", None),
            ("127.0.0.1:1,0.0.0.0:1", Some("0.0.0.0:1")),
            ("[::]:1", Some("[::]:1")),
            ("192.168.1.2:1", Some("192.168.1.2:1")),
        ] {
            let read = Listen::read(Raw::Text(text)).ok().unwrap().0;
            assert_eq!(read.beyond_loopback().map(|a| a.to_string()).as_deref(), beyond, "{text}");
        }
    }
}
