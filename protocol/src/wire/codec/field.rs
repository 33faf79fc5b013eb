//! The rules of single fields, the same for both codecs.

use serde_json::value::RawValue;

use crate::limits::{INTEGER_MAX, ROOMS_MAX};
use crate::wire::error::ErrorCode;
use crate::wire::id::{Epoch, NameError, PeerId, RoomName, SessionId};
use crate::wire::json::Json;

/// A field breaks a rule.
#[derive(Debug)]
pub(super) struct Refusal {
    pub code: ErrorCode,
    pub message: String,
}

impl Refusal {
    pub fn bad_request(message: impl Into<String>) -> Self {
        Refusal { code: ErrorCode::BadRequest, message: message.into() }
    }

    pub fn missing(name: &str) -> Self {
        Self::bad_request(format!("`{name}` is missing"))
    }

    pub fn twice(name: &str) -> Self {
        Self::bad_request(format!("`{name}` is given twice"))
    }

    pub fn unknown_type() -> Self {
        Self::bad_request("unknown type")
    }
}

/// An integer that every JSON reader holds exactly.
pub(super) fn integer(name: &str, number: Option<u64>) -> Result<u64, Refusal> {
    number.filter(|number| *number <= INTEGER_MAX).ok_or_else(|| {
        Refusal::bad_request(format!("`{name}` must be an integer from 0 to 2^53 - 1"))
    })
}

/// The number of a send, which starts at 1.
pub(super) fn seq(number: u64) -> Result<u64, Refusal> {
    match number {
        0 => Err(Refusal::bad_request("`seq` starts at 1")),
        number => Ok(number),
    }
}

pub(super) fn room(text: &str) -> Result<RoomName, Refusal> {
    RoomName::parse(text).map_err(|error| Refusal {
        code: match error {
            NameError::TooLong(_) => ErrorCode::TooLarge,
            NameError::Empty | NameError::Character => ErrorCode::BadRequest,
        },
        message: format!("a room's name {error}"),
    })
}

/// How many rooms a `resume` names: a session can be in no more of them.
pub(super) fn resumed_rooms(count: usize) -> Result<(), Refusal> {
    match count > ROOMS_MAX {
        true => Err(Refusal {
            code: ErrorCode::TooLarge,
            message: format!("`resume` names more than {ROOMS_MAX} rooms"),
        }),
        false => Ok(()),
    }
}

/// An addressee. No member can have a name that is not well-formed.
pub(super) fn to(text: &str) -> Result<PeerId, Refusal> {
    PeerId::parse(text).map_err(|error| Refusal {
        code: ErrorCode::NoSuchPeer,
        message: format!("no peer has this id: it {error}"),
    })
}

/// A session to resume. No session can have a name that is not well-formed.
pub(super) fn session(text: &str) -> Result<SessionId, Refusal> {
    SessionId::parse(text).map_err(|error| Refusal {
        code: ErrorCode::SessionUnknown,
        message: format!("no session has this id: it {error}"),
    })
}

pub(super) fn epoch(text: &str) -> Result<Epoch, Refusal> {
    Epoch::parse(text).map_err(|error| Refusal::bad_request(format!("`epoch` {error}")))
}

/// A value whose syntax the JSON reader has already checked.
pub(super) fn body(raw: &RawValue) -> Result<Json, Refusal> {
    Json::from_raw(raw).map_err(|error| Refusal::bad_request(format!("`body` {error}")))
}

/// As [`body`], from bytes that nobody has looked at.
pub(super) fn body_text(text: &[u8]) -> Result<Json, Refusal> {
    Json::parse(text).map_err(|error| Refusal::bad_request(format!("`body` {error}")))
}

/// An object whose syntax the JSON reader has already checked.
pub(super) fn metadata(raw: &RawValue) -> Result<Json, Refusal> {
    let json =
        Json::from_raw(raw).map_err(|error| Refusal::bad_request(format!("`metadata` {error}")))?;
    object(json)
}

/// As [`metadata`], from bytes that nobody has looked at.
pub(super) fn metadata_text(text: &[u8]) -> Result<Json, Refusal> {
    let json =
        Json::parse(text).map_err(|error| Refusal::bad_request(format!("`metadata` {error}")))?;
    object(json)
}

fn object(json: Json) -> Result<Json, Refusal> {
    match json.is_object() {
        true => Ok(json),
        false => Err(Refusal::bad_request("`metadata` must be an object")),
    }
}
