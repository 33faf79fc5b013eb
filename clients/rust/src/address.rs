//! A gateway's address, and what follows from it for each transport.

use handover_protocol::wire::Codec;
use url::{Host, Url};

use crate::error::ConnectError;

/// Where a gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Without it there is no WebTransport.
    pub(crate) encrypted: bool,
    /// `host:port` as it stands in requests.
    authority: String,
    /// Addressed as a WebSocket, which it then is.
    pub(crate) websocket_only: bool,
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self, ConnectError> {
        let wrong =
            |reason: &str| ConnectError::Address { address: text.into(), reason: reason.into() };
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        let (encrypted, websocket_only) = match url.scheme() {
            "https" => (true, false),
            "wss" => (true, true),
            "http" | "ws" => (false, true),
            _ => return Err(wrong("must start with https://, http://, wss:// or ws://")),
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("must be a host and port alone"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("must not hold a user name or password"));
        }
        let host = match url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err(wrong("has no host")),
        };
        let port = url.port_or_known_default().ok_or_else(|| wrong("has no port"))?;
        let in_url = url.host_str().unwrap_or_default();
        let authority = format!("{in_url}:{port}");
        Ok(Address { host, port, encrypted, authority, websocket_only })
    }

    pub(crate) fn webtransport(&self, codec: Codec) -> Result<Url, url::ParseError> {
        Url::parse(&format!("https://{}/v1/wt?codec={}", self.authority, codec.name()))
    }

    pub(crate) fn websocket(&self) -> String {
        let scheme = if self.encrypted { "wss" } else { "ws" };
        format!("{scheme}://{}/v1/ws", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scheme_says_what_may_be_used() {
        let parse = |text| Address::parse(text).unwrap();
        let https = parse("https://[::1]:4433");
        assert_eq!((https.host.as_str(), https.port), ("::1", 4433));
        assert_eq!((https.encrypted, https.websocket_only), (true, false));
        let wt = https.webtransport(Codec::Bincode).unwrap();
        assert_eq!(wt.as_str(), "https://[::1]:4433/v1/wt?codec=bincode");
        assert_eq!(https.websocket(), "wss://[::1]:4433/v1/ws");
        let plain = parse("http://localhost:8080/");
        assert_eq!((plain.encrypted, plain.websocket_only), (false, true));
        assert_eq!(plain.websocket(), "ws://localhost:8080/v1/ws");
        assert_eq!(parse("wss://gateway.example").port, 443);
    }

    #[test]
    fn what_is_no_address_of_a_gateway_is_refused() {
        for text in ["lobby", "ftp://x", "https://x/room", "https://u:p@x", "https://x?y", "https:"]
        {
            assert!(matches!(Address::parse(text), Err(ConnectError::Address { .. })), "{text}");
        }
    }
}
