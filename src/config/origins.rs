//! Which web pages may connect.

use std::net::IpAddr;

use super::value::{Expected, Raw, Value, quoted_list, texts};

/// The pages that may connect besides the gateway's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    listed: Vec<Listed>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Listed {
    /// `*`.
    Any,
    /// As a browser writes it: lower case, no default port.
    One(String),
}

/// What is known of a connection before it exists.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The `Origin` header; absent unless a browser calls.
    pub origin: Option<&'a str>,
    /// The host and port it asked for: `Host`, or `:authority`.
    pub authority: Option<&'a str>,
    /// Where it calls from.
    pub address: IpAddr,
    /// Whether it came by TLS or QUIC, so that the authority is one our certificate is for.
    pub encrypted: bool,
}

impl Origins {
    /// Whether this caller may connect: one that is no browser, a page listed, the gateway's
    /// own page, and, from this machine, any page served by this machine.
    ///
    /// Over plain HTTP the own page counts only under an IP address: a name can be made to
    /// point here by whoever owns it, and their page would then pass for ours.
    pub fn allow(&self, caller: Caller<'_>) -> bool {
        let Some(origin) = caller.origin else { return true };
        let origin = normal(origin);
        let listed = self.listed.iter().any(|listed| match listed {
            Listed::Any => true,
            Listed::One(one) => Some(one) == origin.as_ref(),
        });
        if listed {
            return true;
        }
        let Some(origin) = origin else { return false };
        let Some((scheme, host_and_port)) = origin.split_once("://") else { return false };
        let local_page = is_loopback_name(host(host_and_port));
        if local_page && caller.address.to_canonical().is_loopback() {
            return true;
        }
        let own = caller.authority.and_then(|authority| normal(&format!("{scheme}://{authority}")));
        own.as_ref() == Some(&origin) && (caller.encrypted || is_address(host(host_and_port)))
    }
}

/// The host of `host`, `host:port`, `[v6]` or `[v6]:port`.
fn host(host_and_port: &str) -> &str {
    match host_and_port.rfind(':') {
        Some(colon) if !host_and_port.ends_with(']') => &host_and_port[..colon],
        _ => host_and_port,
    }
}

fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn is_address(host: &str) -> bool {
    address(host).is_some()
}

fn is_loopback_name(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || address(host).is_some_and(|address| address.is_loopback())
}

/// `scheme://host[:port]` in lower case without a default port, or `null`; `None` if it is no
/// origin.
fn normal(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    if text == "null" {
        return Some(text);
    }
    let (scheme, rest) = text.split_once("://")?;
    let name = host(rest);
    let well_formed = |c: char| !c.is_whitespace() && !matches!(c, '/' | '?' | '#' | '@' | '*');
    let port = match rest[name.len()..].strip_prefix(':') {
        Some(port) => Some(port.parse::<u16>().ok()?),
        None => None,
    };
    let unbracketed = name.trim_start_matches('[').trim_end_matches(']');
    if scheme.is_empty()
        || unbracketed.is_empty()
        || !name.chars().all(well_formed)
        || (unbracketed.contains(':') && !is_address(name))
    {
        return None;
    }
    match (scheme, port) {
        ("http", Some(80)) | ("https", Some(443)) | (_, None) => Some(format!("{scheme}://{name}")),
        (_, Some(port)) => Some(format!("{scheme}://{name}:{port}")),
    }
}

impl Value for Origins {
    fn read(raw: Raw<'_>) -> Result<Self, Expected> {
        let one = |text: String| match text.as_str() {
            "*" => Some(Listed::Any),
            other => normal(other).map(Listed::One),
        };
        texts(raw)
            .and_then(|texts| texts.into_iter().map(one).collect())
            .map(|listed| Origins { listed })
            .ok_or_else(|| "origins such as https://app.example.org, null, or *".into())
    }

    fn to_toml(&self) -> Option<String> {
        Some(quoted_list(self.listed.iter().map(|listed| match listed {
            Listed::Any => "*".to_owned(),
            Listed::One(origin) => origin.clone(),
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(text: &str) -> Option<Origins> {
        Origins::read(Raw::Text(text)).ok()
    }

    /// origin, authority, address, encrypted
    type Row = (&'static str, &'static str, &'static str, bool);

    fn allowed(origins: &Origins, (origin, authority, address, encrypted): Row) -> bool {
        let address = address.parse().unwrap();
        origins.allow(Caller {
            origin: Some(origin),
            authority: Some(authority),
            address,
            encrypted,
        })
    }

    #[test]
    fn without_a_list_only_the_own_page_and_this_machine() {
        let none = Origins::default();
        let yes: [Row; 8] = [
            ("http://localhost:8080", "localhost:4433", "127.0.0.1", true),
            ("http://localhost:3000", "localhost:8080", "::1", false),
            ("http://127.0.0.1:3000", "127.0.0.1:8080", "::ffff:127.0.0.1", false),
            ("http://[::1]:3000", "[::1]:8080", "::1", false),
            ("https://gw.example.org", "gw.example.org", "203.0.113.7", true),
            ("https://gw.example.org:4433", "GW.example.org:4433", "203.0.113.7", true),
            ("https://gw.example.org", "gw.example.org:443", "203.0.113.7", true),
            ("http://192.168.1.5:8080", "192.168.1.5:8080", "192.168.1.9", false),
        ];
        for row in yes {
            assert!(allowed(&none, row), "{row:?}");
        }
        let no: [Row; 7] = [
            ("https://evil.example", "gw.example.org", "203.0.113.7", true),
            ("https://evil.example", "localhost:4433", "127.0.0.1", true),
            ("http://localhost:3000", "gw.example.org", "203.0.113.7", true),
            ("http://localhost.evil.example", "localhost:8080", "127.0.0.1", false),
            // A name that was made to point at this machine.
            ("http://evil.example:8080", "evil.example:8080", "127.0.0.1", false),
            ("null", "localhost:8080", "127.0.0.1", false),
            ("nonsense", "localhost:8080", "127.0.0.1", false),
        ];
        for row in no {
            assert!(!allowed(&none, row), "{row:?}");
        }
    }

    #[test]
    fn a_caller_that_is_no_browser_is_not_judged_by_origin() {
        let address = "203.0.113.7".parse().unwrap();
        let caller = Caller { origin: None, authority: None, address, encrypted: true };
        assert!(origins("https://app.example.org").unwrap().allow(caller));
    }

    #[test]
    fn a_list_adds_to_the_own_page() {
        let list = origins("https://App.example.org:443, http://dev.example:3000").unwrap();
        let yes: [Row; 3] = [
            ("https://app.example.org", "gw.example.org", "203.0.113.7", true),
            ("http://dev.example:3000", "gw.example.org", "203.0.113.7", true),
            ("https://gw.example.org", "gw.example.org", "203.0.113.7", true),
        ];
        for row in yes {
            assert!(allowed(&list, row), "{row:?}");
        }
        let no: [Row; 3] = [
            ("http://app.example.org", "gw.example.org", "203.0.113.7", true),
            ("http://dev.example", "gw.example.org", "203.0.113.7", true),
            ("https://app.example.org.evil.example", "gw.example.org", "203.0.113.7", true),
        ];
        for row in no {
            assert!(!allowed(&list, row), "{row:?}");
        }
        assert!(allowed(
            &origins("*").unwrap(),
            ("https://any.example", "gw.example.org", "203.0.113.7", true)
        ));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for bad in ["", "example.org", "https://", "https://a/b", "https://*.a", "https://a:x"] {
            assert_eq!(origins(bad), None, "{bad}");
        }
    }
}
