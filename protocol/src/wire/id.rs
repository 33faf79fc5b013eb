//! Names that cross the wire, parsed once and valid ever after.

use std::fmt;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};

use crate::limits;

/// Why a text is not a valid name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No characters at all.
    #[error("must not be empty")]
    Empty,
    /// More bytes than the limit given.
    #[error("must be at most {0} bytes")]
    TooLong(usize),
    /// Something other than the characters allowed.
    #[error("has a character that is not allowed")]
    Character,
}

/// Ascii text of at most `N` bytes held in place: an id is copied, never allocated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Inline<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Inline<N> {
    fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > N {
            return Err(NameError::TooLong(N));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(NameError::Character);
        }
        let mut bytes = [0; N];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Inline { bytes, len: text.len() as u8 })
    }

    fn as_str(&self) -> &str {
        // Only `parse` makes one, and it takes ASCII alone.
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

macro_rules! inline_id {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Inline<{ $max }>);

        impl $name {
            /// Takes ASCII letters, digits, `-` and `_`.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                Inline::parse(text).map($name)
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                $name::parse(&text).map_err(de::Error::custom)
            }
        }
    };
}

inline_id!(
    /// The public name of a session inside rooms. Not secret.
    PeerId,
    limits::ID_BYTES_MAX
);
inline_id!(
    /// The name of a session, known to its owner and the gateway. Of no use without its secret.
    SessionId,
    limits::ID_BYTES_MAX
);
inline_id!(
    /// One life of a room's logs. Positions of different epochs have nothing in common.
    Epoch,
    limits::EPOCH_BYTES_MAX
);

/// What proves that a client owns a session. It has no `Display`, and `Debug` hides it. `==` is for whole
/// messages, such as a codec's tests compare: a gateway holds hashes against each other instead.
#[derive(Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text of a secret.
    pub fn new(text: String) -> Self {
        Secret(text)
    }

    /// The text, to be put on the wire or hashed; never into a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The name of a room: 1 to 128 bytes of UTF-8 without control characters and without white
/// space at either end, compared byte for byte.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomName(Arc<str>);

impl RoomName {
    /// Takes a well-formed name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > limits::ROOM_NAME_BYTES_MAX {
            return Err(NameError::TooLong(limits::ROOM_NAME_BYTES_MAX));
        }
        let padded = text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace);
        if padded || text.chars().any(char::is_control) {
            return Err(NameError::Character);
        }
        Ok(RoomName(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who a session belongs to, as its token's issuer says (`sub`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    /// Wraps an issuer's name for a user.
    pub fn new(text: &str) -> Self {
        UserId(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_traits {
    ($name:ident, $parse:expr) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                $parse(&text).map_err(de::Error::custom)
            }
        }
    };
}

text_traits!(RoomName, RoomName::parse);
text_traits!(UserId, |text: &str| Ok::<_, std::convert::Infallible>(UserId::new(text)));

/// A delivery class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Reliable, ordered, most urgent.
    Signal,
    /// Reliable, ordered, may wait.
    Bulk,
    /// May be lost, never delayed.
    Ephemeral,
}

/// A lane whose messages are kept in a log and have positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLane {
    /// See [`Lane::Signal`].
    Signal,
    /// See [`Lane::Bulk`].
    Bulk,
}

impl LogLane {
    /// Both, the more urgent first.
    pub const ALL: [LogLane; 2] = [LogLane::Signal, LogLane::Bulk];
}

impl From<LogLane> for Lane {
    fn from(lane: LogLane) -> Lane {
        match lane {
            LogLane::Signal => Lane::Signal,
            LogLane::Bulk => Lane::Bulk,
        }
    }
}

/// One value for each reliable lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
pub struct PerLane<T> {
    /// The signal lane's.
    pub signal: T,
    /// The bulk lane's.
    pub bulk: T,
}

impl<T> Index<LogLane> for PerLane<T> {
    type Output = T;

    fn index(&self, lane: LogLane) -> &T {
        match lane {
            LogLane::Signal => &self.signal,
            LogLane::Bulk => &self.bulk,
        }
    }
}

impl<T> IndexMut<LogLane> for PerLane<T> {
    fn index_mut(&mut self, lane: LogLane) -> &mut T {
        match lane {
            LogLane::Signal => &mut self.signal,
            LogLane::Bulk => &mut self.bulk,
        }
    }
}

/// A place in one lane's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The life of the log.
    pub epoch: Epoch,
    /// The offset of the last entry had; 0 for none.
    pub offset: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_names_follow_the_rules() {
        for good in ["a", "daily stand-up", "räume/1", &"x".repeat(128)] {
            assert_eq!(RoomName::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(RoomName::parse(""), Err(NameError::Empty));
        assert_eq!(RoomName::parse(&"x".repeat(129)), Err(NameError::TooLong(128)));
        for bad in [" a", "a ", "a\u{7}b", "\u{a0}a", "a\n"] {
            assert_eq!(RoomName::parse(bad), Err(NameError::Character), "{bad:?}");
        }
    }

    #[test]
    fn ids_are_short_ascii() {
        assert_eq!(PeerId::parse("p_1-Z").unwrap().as_str(), "p_1-Z");
        assert_eq!(PeerId::parse(""), Err(NameError::Empty));
        assert_eq!(PeerId::parse("ä"), Err(NameError::Character));
        assert!(Epoch::parse(&"e".repeat(16)).is_ok());
        assert_eq!(Epoch::parse(&"e".repeat(17)), Err(NameError::TooLong(16)));
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".into())), "Secret(..)");
    }
}
