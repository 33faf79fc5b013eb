//! The two encodings of a message: JSON text and bincode.
//!
//! Both carry the same messages, and bodies are the same JSON text in both, so that clients
//! of either codec share rooms. `docs/protocol.md` has the bincode layout in tables, and
//! `vectors/` every message in both encodings.

mod bincode;
mod field;
mod json;
mod length;
mod range;

use super::error::ErrorCode;
use super::frame::Frame;
use super::message::{ClientMessage, Reference, ServerMessage};
use field::Refusal;

/// How a connection writes its messages; agreed when it opens and the same both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// One JSON object in UTF-8.
    Json,
    /// A variant number and the variant's fields in a fixed order.
    Bincode,
}

/// Why a payload is not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not this codec at all; the connection cannot be trusted to go on.
    #[error("cannot be parsed: {reason}")]
    Unparseable {
        /// What is wrong, for people.
        reason: String,
    },
    /// Readable, but refused by the rules; the connection goes on.
    #[error("{code}: {message}")]
    Refused {
        /// The code of the `error` to answer.
        code: ErrorCode,
        /// What is wrong, for people.
        message: String,
        /// What is refused, as far as it could be read.
        reference: Reference,
        /// Whether it is a `hello`: a connection may begin with nothing else, however wrong.
        is_hello: bool,
    },
}

impl DecodeError {
    fn refused(refusal: Refusal, reference: Reference) -> Self {
        let Refusal { code, message } = refusal;
        DecodeError::Refused { code, message, reference, is_hello: false }
    }

    fn refused_hello(refusal: Refusal) -> Self {
        let (Refusal { code, message }, reference) = (refusal, Reference::default());
        DecodeError::Refused { code, message, reference, is_hello: true }
    }
}

impl Codec {
    /// Both.
    pub const ALL: [Codec; 2] = [Codec::Json, Codec::Bincode];

    /// The name in the query of a WebTransport address, in settings and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::Json => "json",
            Codec::Bincode => "bincode",
        }
    }

    /// The name among WebSocket and WebTransport sub-protocols.
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Codec::Json => "handover.v1.json",
            Codec::Bincode => "handover.v1.bincode",
        }
    }

    /// The codec of a [`Codec::name`].
    pub fn from_query(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    /// The codec of a [`Codec::subprotocol`].
    pub fn from_subprotocol(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.subprotocol() == name)
    }

    /// Whether a message goes into a WebSocket text message rather than a binary one.
    pub const fn is_text(self) -> bool {
        matches!(self, Codec::Json)
    }

    /// Reads what a client sent. Never panics, and allocates in proportion to `payload`.
    pub fn decode_client(self, payload: &[u8]) -> Result<ClientMessage, DecodeError> {
        match self {
            Codec::Json => json::decode_client(payload),
            Codec::Bincode => bincode::decode_client(payload),
        }
    }

    /// Writes what a client sends.
    pub fn encode_client(self, message: &ClientMessage) -> Frame {
        match self {
            Codec::Json => json::encode(length::of_client(message), message),
            Codec::Bincode => {
                bincode::encode(length::of_client(message), |out| bincode::put_client(out, message))
            }
        }
    }

    /// Reads what a gateway sent. What a later gateway may add is passed over: unknown fields,
    /// and unknown words where one that a client treats alike exists.
    pub fn decode_server(self, payload: &[u8]) -> Result<ServerMessage, DecodeError> {
        let message = match self {
            Codec::Json => json::decode_server(payload),
            Codec::Bincode => bincode::decode_server(payload),
        }?;
        if !range::holds(&message) {
            let refusal = Refusal::bad_request("an integer is above 2^53 - 1");
            return Err(DecodeError::refused(refusal, Reference::default()));
        }
        Ok(message)
    }

    /// Writes what a gateway sends.
    pub fn encode_server(self, message: &ServerMessage) -> Frame {
        match self {
            Codec::Json => json::encode(length::of_server(message), message),
            Codec::Bincode => {
                bincode::encode(length::of_server(message), |out| bincode::put_server(out, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_pinned() {
        assert_eq!(Codec::from_query("json"), Some(Codec::Json));
        assert_eq!(Codec::from_query("bincode"), Some(Codec::Bincode));
        assert_eq!(Codec::from_query("JSON"), None);
        assert_eq!(Codec::from_subprotocol("handover.v1.json"), Some(Codec::Json));
        assert_eq!(Codec::from_subprotocol("handover.v1.bincode"), Some(Codec::Bincode));
        assert_eq!(Codec::from_subprotocol("handover.v2.json"), None);
    }
}
