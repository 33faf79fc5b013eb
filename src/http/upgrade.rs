//! The opening handshake of a WebSocket (RFC 6455, section 4.2), up to the answer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use handover_protocol::wire::Codec;
use http::header::{
    CONNECTION, HeaderMap, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// What `Sec-WebSocket-Key` holds.
const KEY_BYTES: usize = 16;

/// What a client is refused with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// For people.
    pub text: &'static str,
}

/// A handshake that can be accepted.
#[derive(Debug)]
pub struct Handshake {
    /// The codec agreed on.
    pub codec: Codec,
    /// For `Sec-WebSocket-Accept`.
    pub accept: String,
    /// For `Sec-WebSocket-Protocol`; nothing if the client offered nothing.
    pub protocol: Option<&'static str>,
}

/// Reads the client's half of the handshake.
pub fn read(headers: &HeaderMap) -> Result<Handshake, Refusal> {
    let refuse = |status, text| Err(Refusal { status, text });
    if !has_token(headers, CONNECTION, "upgrade") || !has_token(headers, UPGRADE, "websocket") {
        return refuse(StatusCode::UPGRADE_REQUIRED, "this address speaks WebSocket\n");
    }
    if headers.get(SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes) != Some(b"13") {
        return refuse(StatusCode::UPGRADE_REQUIRED, "only WebSocket version 13 is spoken here\n");
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing\n");
    };
    if !STANDARD.decode(key).is_ok_and(|key| key.len() == KEY_BYTES) {
        return refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is not 16 bytes in base64\n");
    }
    let accept = derive_accept_key(key.as_bytes());
    let offered: Vec<&str> = tokens(headers, SEC_WEBSOCKET_PROTOCOL).collect();
    if offered.is_empty() {
        return Ok(Handshake { codec: Codec::Json, accept, protocol: None });
    }
    match offered.into_iter().find_map(Codec::from_subprotocol) {
        Some(codec) => Ok(Handshake { codec, accept, protocol: Some(codec.subprotocol()) }),
        None => refuse(
            StatusCode::BAD_REQUEST,
            "sub-protocols spoken here: handover.v1.json, handover.v1.bincode\n",
        ),
    }
}

/// The members of a list-valued header, which may be spread over several lines.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

fn has_token(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(extra: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let basic = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value) in basic.iter().chain(extra) {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_example_of_the_rfc() {
        let handshake = read(&headers(&[])).unwrap();
        assert_eq!(handshake.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!((handshake.codec, handshake.protocol), (Codec::Json, None));
    }

    #[test]
    fn the_clients_first_known_choice_counts() {
        let chosen = |value| read(&headers(&[("sec-websocket-protocol", value)]));
        let both = chosen("chat, handover.v1.bincode, handover.v1.json").unwrap();
        assert_eq!(both.codec, Codec::Bincode);
        assert_eq!(both.protocol, Some("handover.v1.bincode"));
        assert_eq!(chosen("chat").unwrap_err().status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn what_is_missing_is_named() {
        for (name, status) in [
            ("connection", StatusCode::UPGRADE_REQUIRED),
            ("upgrade", StatusCode::UPGRADE_REQUIRED),
            ("sec-websocket-version", StatusCode::UPGRADE_REQUIRED),
            ("sec-websocket-key", StatusCode::BAD_REQUEST),
        ] {
            let mut headers = headers(&[]);
            headers.remove(name);
            assert_eq!(read(&headers).unwrap_err().status, status, "without {name}");
        }
    }
}
