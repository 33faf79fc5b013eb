//! Why a connection ends: the numbers shared by both transports.

use std::fmt;

/// The code of the in-band `close` message, of the WebSocket close frame and of the QUIC
/// application close. The range tells a client what to do next: 4000 to 4499, come back and
/// resume; 4500 to 4999, stay away unless the user asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// The gateway is going away; another one, or this one later, takes the session.
    Draining = 4000,
    /// Nothing was heard from the peer for 2.5 heartbeats.
    IdleTimeout = 4001,
    /// The peer did not read for 30 seconds.
    TooSlow = 4002,
    /// A fault of the gateway.
    Internal = 4003,
    /// The peer kept exceeding a limit.
    RateLimited = 4004,
    /// The token ended; a new one lets the session resume.
    TokenExpired = 4005,
    /// The client said `bye`; the session is over.
    Bye = 4500,
    /// No valid token, or three refused greetings.
    Unauthorized = 4501,
    /// The peer broke the rules of the protocol.
    ProtocolError = 4502,
    /// No `hello` (or no bulk stream) in time.
    HelloTimeout = 4503,
    /// A newer connection took the session over.
    Replaced = 4504,
    /// An administrator ended the session.
    Kicked = 4505,
    /// A message exceeded `message_bytes`.
    MessageTooLarge = 4506,
    /// The `hello` named a version the gateway does not speak.
    UnsupportedVersion = 4507,
}

/// Every close code, in order.
pub const ALL: [CloseCode; 14] = [
    CloseCode::Draining,
    CloseCode::IdleTimeout,
    CloseCode::TooSlow,
    CloseCode::Internal,
    CloseCode::RateLimited,
    CloseCode::TokenExpired,
    CloseCode::Bye,
    CloseCode::Unauthorized,
    CloseCode::ProtocolError,
    CloseCode::HelloTimeout,
    CloseCode::Replaced,
    CloseCode::Kicked,
    CloseCode::MessageTooLarge,
    CloseCode::UnsupportedVersion,
];

impl CloseCode {
    /// The number on the wire.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The code with this number, if the protocol has one.
    pub fn from_number(number: u64) -> Option<Self> {
        ALL.into_iter().find(|code| u64::from(code.number()) == number)
    }

    /// The stable lower-case name, also used as the close reason.
    pub const fn name(self) -> &'static str {
        match self {
            CloseCode::Draining => "draining",
            CloseCode::IdleTimeout => "idle_timeout",
            CloseCode::TooSlow => "too_slow",
            CloseCode::Internal => "internal",
            CloseCode::RateLimited => "rate_limited",
            CloseCode::TokenExpired => "token_expired",
            CloseCode::Bye => "bye",
            CloseCode::Unauthorized => "unauthorized",
            CloseCode::ProtocolError => "protocol_error",
            CloseCode::HelloTimeout => "hello_timeout",
            CloseCode::Replaced => "replaced",
            CloseCode::Kicked => "kicked",
            CloseCode::MessageTooLarge => "message_too_large",
            CloseCode::UnsupportedVersion => "unsupported_version",
        }
    }

    /// Whether a client should come back by itself and resume.
    pub const fn may_return(self) -> bool {
        self.number() < 4500
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deployed clients know these numbers: changing one is a new protocol version.
    #[test]
    fn numbers_and_names_are_pinned() {
        let pinned = [
            (4000, "draining", true),
            (4001, "idle_timeout", true),
            (4002, "too_slow", true),
            (4003, "internal", true),
            (4004, "rate_limited", true),
            (4005, "token_expired", true),
            (4500, "bye", false),
            (4501, "unauthorized", false),
            (4502, "protocol_error", false),
            (4503, "hello_timeout", false),
            (4504, "replaced", false),
            (4505, "kicked", false),
            (4506, "message_too_large", false),
            (4507, "unsupported_version", false),
        ];
        assert_eq!(pinned.len(), ALL.len());
        for (number, name, may_return) in pinned {
            let code = CloseCode::from_number(number).unwrap();
            assert_eq!((code.name(), code.may_return()), (name, may_return));
        }
        assert_eq!(CloseCode::from_number(4999), None);
        assert_eq!(CloseCode::from_number(1000), None);
    }
}
