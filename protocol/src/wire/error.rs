//! The codes of the `error` message.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why one request or send was refused. The connection stays unless a `close` follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The protocol version of `hello` is not spoken here.
    UnsupportedVersion,
    /// A valid token is needed.
    Unauthorized,
    /// The grant does not cover this.
    Forbidden,
    /// No such session, or not its secret, or it has expired.
    SessionUnknown,
    /// Not a member of the room, or there is no such room.
    NotAMember,
    /// The addressee is not a member of the room.
    NoSuchPeer,
    /// The room has as many members as it may have.
    RoomFull,
    /// The session is in as many rooms as it may be.
    TooManyRooms,
    /// A field exceeds its limit.
    TooLarge,
    /// Too much in too short a time; try again after `retry_after`.
    RateLimited,
    /// A `seq` before this one is missing; go on from `expected`.
    SeqGap,
    /// The gateway cannot store it now; try again after `retry_after`.
    Unavailable,
    /// A fault of the gateway.
    Internal,
    /// Unknown type, missing or wrong field, or something that is not done. A client reads a
    /// code it does not know as this one: final.
    #[serde(other)]
    BadRequest,
}

/// What a client does after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request would be refused again.
    Never,
    /// The same request may succeed later.
    Later,
    /// Send again from the `seq` the gateway expects.
    FromExpected,
}

/// Every error code, in the order of the bincode numbers.
pub const ALL: [ErrorCode; 14] = [
    ErrorCode::BadRequest,
    ErrorCode::UnsupportedVersion,
    ErrorCode::Unauthorized,
    ErrorCode::Forbidden,
    ErrorCode::SessionUnknown,
    ErrorCode::NotAMember,
    ErrorCode::NoSuchPeer,
    ErrorCode::RoomFull,
    ErrorCode::TooManyRooms,
    ErrorCode::TooLarge,
    ErrorCode::RateLimited,
    ErrorCode::SeqGap,
    ErrorCode::Unavailable,
    ErrorCode::Internal,
];

impl ErrorCode {
    /// The stable name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorCode::BadRequest => "bad_request",
            ErrorCode::UnsupportedVersion => "unsupported_version",
            ErrorCode::Unauthorized => "unauthorized",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::SessionUnknown => "session_unknown",
            ErrorCode::NotAMember => "not_a_member",
            ErrorCode::NoSuchPeer => "no_such_peer",
            ErrorCode::RoomFull => "room_full",
            ErrorCode::TooManyRooms => "too_many_rooms",
            ErrorCode::TooLarge => "too_large",
            ErrorCode::RateLimited => "rate_limited",
            ErrorCode::SeqGap => "seq_gap",
            ErrorCode::Unavailable => "unavailable",
            ErrorCode::Internal => "internal",
        }
    }

    /// What a client does about it.
    pub const fn retry(self) -> Retry {
        match self {
            ErrorCode::RateLimited | ErrorCode::Unavailable | ErrorCode::Internal => Retry::Later,
            ErrorCode::SeqGap => Retry::FromExpected,
            _ => Retry::Never,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_and_name_agree() {
        for code in ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
        }
    }
}
