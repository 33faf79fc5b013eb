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
    /// `https://*.example.org`: every name that ends in `.example.org`, at any depth, under the
    /// same scheme and port; not `example.org` itself.
    Below {
        /// `https://`
        scheme: String,
        /// `.example.org`, or `.example.org:8443`.
        ending: String,
    },
}

impl Listed {
    fn read(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Listed::Any);
        }
        let Some((scheme, domain)) = text.split_once("://*.") else {
            return normal(text).map(Listed::One);
        };
        // What is behind the star has to be a name by itself; numbers have no names below them.
        let whole = normal(&format!("{scheme}://{domain}"))?;
        let (scheme, domain) = whole.split_at(scheme.len() + "://".len());
        let is_name = !is_address(host(domain)) && !host(domain).split('.').any(str::is_empty);
        let (scheme, ending) = (scheme.to_owned(), format!(".{domain}"));
        is_name.then_some(Listed::Below { scheme, ending })
    }

    /// Whether it names this origin, which is in its normal form.
    fn has(&self, origin: Option<&str>) -> bool {
        match (self, origin) {
            (Listed::Any, _) => true,
            (_, None) => false,
            (Listed::One(one), Some(origin)) => one == origin,
            (Listed::Below { scheme, ending }, Some(origin)) => {
                let name = origin.strip_prefix(&**scheme).and_then(|o| o.strip_suffix(&**ending));
                name.is_some_and(|name| name.split('.').all(|label| !label.is_empty()))
            }
        }
    }
}

impl std::fmt::Display for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Listed::Any => f.write_str("*"),
            Listed::One(origin) => f.write_str(origin),
            Listed::Below { scheme, ending } => write!(f, "{scheme}*{ending}"),
        }
    }
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
    /// Whether it came by TLS or QUIC and our certificate is for the authority's name.
    pub certified: bool,
}

impl Origins {
    /// Whether this caller may connect: one that is no browser, a page listed, the gateway's
    /// own page, and, from this machine, any page served by this machine.
    ///
    /// The own page counts under an IP address, or under a name that our certificate is for. Any
    /// other name can be made to point here by whoever owns it, and their page would then pass for
    /// ours: over plain HTTP, and over WebTransport too, where a page that knows the certificate's
    /// hash has the browser compare no names.
    pub fn allow(&self, caller: Caller<'_>) -> bool {
        let Some(origin) = caller.origin else { return true };
        let origin = normal(origin);
        if self.listed.iter().any(|listed| listed.has(origin.as_deref())) {
            return true;
        }
        let Some(origin) = origin else { return false };
        let Some((scheme, host_and_port)) = origin.split_once("://") else { return false };
        let local_page = is_loopback_name(host(host_and_port));
        if local_page && caller.address.to_canonical().is_loopback() {
            return true;
        }
        let own = caller.authority.and_then(|authority| normal(&format!("{scheme}://{authority}")));
        own.as_ref() == Some(&origin) && (caller.certified || is_address(host(host_and_port)))
    }
}

/// The host of `host`, `host:port`, `[v6]` or `[v6]:port`.
pub fn host(host_and_port: &str) -> &str {
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
        || !scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
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
        texts(raw)
            .and_then(|texts| texts.iter().map(|text| Listed::read(text)).collect())
            .map(|listed| Origins { listed })
            .ok_or_else(|| {
                "origins such as https://app.example.org or https://*.example.org, null, or *"
                    .into()
            })
    }

    fn to_toml(&self) -> Option<String> {
        Some(quoted_list(self.listed.iter().map(Listed::to_string)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(text: &str) -> Option<Origins> {
        Origins::read(Raw::Text(text)).ok()
    }

    /// origin, authority, address, certified
    type Row = (&'static str, &'static str, &'static str, bool);

    fn allowed(origins: &Origins, (origin, authority, address, certified): Row) -> bool {
        let address = address.parse().unwrap();
        origins.allow(Caller {
            origin: Some(origin),
            authority: Some(authority),
            address,
            certified,
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
        let no: [Row; 8] = [
            ("https://evil.example", "gw.example.org", "203.0.113.7", true),
            ("https://evil.example", "localhost:4433", "127.0.0.1", true),
            ("http://localhost:3000", "gw.example.org", "203.0.113.7", true),
            ("http://localhost.evil.example", "localhost:8080", "127.0.0.1", false),
            // A name that was made to point at this machine.
            ("http://evil.example:8080", "evil.example:8080", "127.0.0.1", false),
            ("https://evil.example:4433", "evil.example:4433", "127.0.0.1", false),
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
        let caller = Caller { origin: None, authority: None, address, certified: true };
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
    fn a_star_is_for_every_name_below_and_for_nothing_else() {
        let listed = origins("https://*.Example.org, http://*.dev.example:3000").unwrap();
        assert_eq!(
            listed.to_toml().unwrap(),
            "[\"https://*.example.org\", \"http://*.dev.example:3000\"]"
        );
        let from = |origin| (origin, "gw.example", "203.0.113.7", true);
        for yes in [
            "https://app.example.org",
            "https://APP.example.org:443",
            "https://a.b.example.org",
            "http://x.dev.example:3000",
        ] {
            assert!(allowed(&listed, from(yes)), "{yes}");
        }
        for no in [
            "https://example.org",
            "https://.example.org",
            "https://a..example.org",
            "https://evil-example.org",
            "https://app.example.org.evil.example",
            "https://app.example.org:8443",
            "http://app.example.org",
            "https://app.example.org.",
            "https://app.example.org/",
            "https://user@app.example.org",
            "https://evil.example/.example.org",
            "https://evil.example?.example.org",
            "https://evil.example#.example.org",
            "https://x.dev.example:3000",
            "http://x.dev.example",
            "http://x.dev.example:30000",
            "null",
        ] {
            assert!(!allowed(&listed, from(no)), "{no}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for bad in ["", "example.org", "https://", "https://a/b", "https://a:x"] {
            assert_eq!(origins(bad), None, "{bad}");
        }
        for bad in [
            "https://*",
            "https://*.",
            "https://*example.org",
            "https://a.*.example.org",
            "https://*.*.example.org",
            "https://*..example.org",
            "https://*.127.0.0.1",
            "https://*.[::1]",
            "*.example.org",
            "*://*.example.org",
        ] {
            assert_eq!(origins(bad), None, "{bad}");
        }
    }
}
