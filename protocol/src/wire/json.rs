//! JSON text that is checked once and then only ever copied.

use std::fmt;
use std::sync::{Arc, LazyLock};

use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::limits::JSON_DEPTH_MAX;

/// Why a text cannot be a body or metadata.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON.
    #[error("is not valid JSON")]
    Syntax,
    /// Arrays and objects nest deeper than [`JSON_DEPTH_MAX`].
    #[error("nests deeper than {JSON_DEPTH_MAX}")]
    TooDeep,
}

/// The text of one JSON value, as its sender wrote it. Cloning shares the bytes.
///
/// In the JSON codec it is spliced into the message unread; in bincode it is a byte string.
#[derive(Clone)]
pub struct Json(Arc<Box<RawValue>>);

impl Json {
    /// Checks that `text` is one JSON value within the nesting limit and copies it, without
    /// the white space around it.
    pub fn parse(text: &[u8]) -> Result<Self, JsonError> {
        let raw: &RawValue = serde_json::from_slice(text).map_err(|_| JsonError::Syntax)?;
        Self::from_raw(raw)
    }

    /// Takes a value that a JSON reader has already found valid.
    pub(crate) fn from_raw(raw: &RawValue) -> Result<Self, JsonError> {
        if is_too_deep(raw.get().as_bytes()) {
            return Err(JsonError::TooDeep);
        }
        Ok(Json(Arc::new(raw.to_owned())))
    }

    /// `{}`: the metadata of whoever gave none.
    pub fn empty_object() -> Self {
        #[allow(clippy::expect_used, reason = "the text is a constant")]
        static EMPTY: LazyLock<Json> =
            LazyLock::new(|| Json::parse(b"{}").expect("an object without members is JSON"));
        EMPTY.clone()
    }

    /// Serialises any value; for those who make bodies rather than forward them.
    pub fn from_value<T: Serialize + ?Sized>(value: &T) -> Result<Self, JsonError> {
        let raw = serde_json::value::to_raw_value(value).map_err(|_| JsonError::Syntax)?;
        if is_too_deep(raw.get().as_bytes()) {
            return Err(JsonError::TooDeep);
        }
        Ok(Json(Arc::new(raw)))
    }

    /// Reads the value into any type.
    pub fn to_value<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.as_str())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The text's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.as_str().as_bytes()
    }

    /// Length of the text in bytes.
    pub fn len(&self) -> usize {
        self.as_str().len()
    }

    /// Never true: the shortest JSON text has one character.
    pub fn is_empty(&self) -> bool {
        self.as_str().is_empty()
    }

    /// Whether the value is an object, as `metadata` must be.
    pub fn is_object(&self) -> bool {
        self.as_str().starts_with('{')
    }
}

/// Equal texts, not equal values.
impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Json {}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// From JSON text in memory alone; the bincode layout does without serde.
impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        Json::from_raw(raw).map_err(de::Error::custom)
    }
}

/// Whether a valid JSON text nests deeper than [`JSON_DEPTH_MAX`].
fn is_too_deep(text: &[u8]) -> bool {
    // No text nests deeper than it has opening brackets, and to count those wherever they stand
    // is many times faster than to follow the text. Hardly any body has more. The pieces are
    // as long as a byte can count, which lets the compiler count many bytes at once.
    const CASE: u8 = b'[' ^ b'{';
    let opening = |piece: &[u8]| piece.iter().map(|b| u8::from(b | CASE == b'{')).sum::<u8>();
    let brackets: usize =
        text.chunks(usize::from(u8::MAX)).map(|piece| usize::from(opening(piece))).sum();
    brackets > JSON_DEPTH_MAX && depth(text) > JSON_DEPTH_MAX
}

/// How deep arrays and objects nest in a valid JSON text.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut in_string = false;
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => {
                bytes.next();
            }
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_kept_as_written() {
        for text in ["null", "1e999", r#"{ "b":1, "a" : [1.0,2] }"#, r#""\ud800""#, "0.10"] {
            assert_eq!(Json::parse(text.as_bytes()).unwrap().as_str(), text);
            assert_eq!(
                serde_json::to_string(&Json::parse(text.as_bytes()).unwrap()).unwrap(),
                text
            );
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in ["", "{", "nul", "1 2", "\"\u{1}\"", "[1,]"] {
            assert_eq!(Json::parse(text.as_bytes()), Err(JsonError::Syntax), "{text:?}");
        }
        assert_eq!(Json::parse(&[b'"', 0xff, b'"']), Err(JsonError::Syntax));
    }

    #[test]
    fn nesting_is_bounded_and_strings_do_not_count() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(Json::parse(nested(64).as_bytes()).is_ok());
        assert_eq!(Json::parse(nested(65).as_bytes()), Err(JsonError::TooDeep));
        assert_eq!(Json::parse(nested(30_000).as_bytes()), Err(JsonError::TooDeep));
        assert!(Json::parse(format!("\"\\\"{}\"", "[".repeat(100)).as_bytes()).is_ok());
        let wide = format!("[{}1]", "{},[],".repeat(1_000));
        assert!(Json::parse(wide.as_bytes()).is_ok());
    }
}
