//! Who may enter: the kinds of value under `auth`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use http::Uri;

use super::value::{Expected, REDACTED, Raw, Value, quoted, quoted_list, text, texts};

/// Where a JWKS is.
#[derive(Clone, PartialEq, Eq)]
pub enum JwksPlace {
    /// In a file.
    File(PathBuf),
    /// At an address: https, or http on this machine.
    Url(Uri),
}

/// An address as it may be shown: what asks for keys with a key of its own has that in the query.
pub fn shown_address(url: &Uri) -> String {
    let shown = url.to_string();
    match shown.split_once('?') {
        Some((place, _)) => format!("{place}?{REDACTED}"),
        None => shown,
    }
}

impl fmt::Debug for JwksPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JwksPlace::File(path) => f.debug_tuple("File").field(path).finish(),
            JwksPlace::Url(url) => write!(f, "Url({})", shown_address(url)),
        }
    }
}

impl Value for Option<JwksPlace> {
    /// A query or a password in it must not end up in an error.
    const SECRET: bool = true;

    fn read(raw: Raw<'_>) -> Result<Self, Expected> {
        let expected = "a path, an https:// address, or an http:// address of this machine";
        let place = text(raw).filter(|text| !text.is_empty()).and_then(|text| {
            if !text.contains("://") {
                return Some(JwksPlace::File(PathBuf::from(text)));
            }
            let url: Uri = text.parse().ok()?;
            let safe = match url.scheme_str() {
                Some("https") => url.host().is_some(),
                Some("http") => url.host().is_some_and(is_loopback),
                _ => false,
            };
            // A password in an address would end up in logs.
            let named = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
            (safe && !named).then_some(JwksPlace::Url(url))
        });
        place.map(Some).ok_or_else(|| expected.into())
    }

    fn to_toml(&self) -> Option<String> {
        self.as_ref().map(|place| match place {
            JwksPlace::File(path) => quoted(&path.to_string_lossy()),
            JwksPlace::Url(url) => quoted(&shown_address(url)),
        })
    }
}

/// Whether a host name can only lead to this machine.
fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Names of which a token has to have one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names(pub(super) Vec<String>);

impl Value for Names {
    fn read(raw: Raw<'_>) -> Result<Self, Expected> {
        let names = texts(raw).filter(|names| names.iter().all(|name| !name.is_empty()));
        names.map(Names).ok_or_else(|| "one name or a list of them".into())
    }

    fn to_toml(&self) -> Option<String> {
        Some(quoted_list(self.0.iter().cloned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwks_is_a_file_or_safely_fetched() {
        let read = |text| Option::<JwksPlace>::read(Raw::Text(text)).ok().flatten();
        assert_eq!(read("keys.json"), Some(JwksPlace::File("keys.json".into())));
        for good in [
            "https://id.example.org/jwks.json",
            "http://localhost:9000/jwks",
            "http://127.0.0.1:9000/jwks?x=s3cret",
            "http://[::1]/jwks",
        ] {
            let url = Some(JwksPlace::Url(good.parse().unwrap()));
            assert_eq!(read(good), url, "{good}");
            let shown = good.replace("x=s3cret", "(redacted)");
            assert_eq!(url.to_toml().unwrap(), format!("\"{shown}\""));
            assert_eq!(format!("{url:?}"), format!("Some(Url({shown}))"));
        }
        for bad in [
            "",
            "http://id.example.org/jwks.json",
            "http://localhost.example.org/",
            "ftp://127.0.0.1/jwks",
            "https://user:password@id.example.org/",
            "https://",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
