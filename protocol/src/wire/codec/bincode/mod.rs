//! The bincode codec: a message is its variant's number and then the variant's fields.
//!
//! The layout is written out field by field in [`client`] and [`server`] and does not follow
//! the Rust types: numbers never change, a new field goes to the end of its message, and a
//! reader stops after the last field it knows. This is the only file that names the crate.
//!
//! Reading borrows from the payload, so no announced length makes anything be allocated.

mod client;
mod server;

use ::bincode::config::{self, Configuration};
use ::bincode::{BorrowDecode, Encode};

use super::DecodeError;
use crate::wire::error::ErrorCode;
use crate::wire::frame::Frame;
use crate::wire::id::LogLane;
use crate::wire::message::{LeaveReason, QualityLevel, ResetReason};

pub(super) use client::{decode_client, put_client};
pub(super) use server::{decode_server, put_server};

/// Variable-length integers, little-endian.
const LAYOUT: Configuration = config::standard();

type Written = Result<(), ::bincode::error::EncodeError>;

#[allow(clippy::expect_used, reason = "the writer is memory and no field can lack a layout")]
pub(super) fn encode(expected: usize, put: impl FnOnce(&mut Writer<'_>) -> Written) -> Frame {
    Frame::build(expected, |out| put(&mut Writer { out })).expect("a message always has a layout")
}

/// Appends fields.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn put(&mut self, fields: impl Encode) -> Written {
        ::bincode::encode_into_std_write(fields, self.out, LAYOUT).map(drop)
    }

    /// The number of items, then each item's fields.
    fn list<T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        mut put: impl FnMut(&mut Self, T) -> Written,
    ) -> Written {
        self.put(items.len() as u64)?;
        for item in items {
            put(self, item)?;
        }
        Ok(())
    }
}

/// Takes fields off the front of a payload.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// One field, or several as a tuple.
    fn get<T: BorrowDecode<'a, ()>>(&mut self) -> Result<T, DecodeError> {
        let (fields, used) = ::bincode::borrow_decode_from_slice(self.rest, LAYOUT)
            .map_err(|error| DecodeError::Unparseable { reason: error.to_string() })?;
        self.rest = &self.rest[used..];
        Ok(fields)
    }

    /// What [`Writer::list`] wrote. Grows with what is there, not with what is announced.
    fn list<T>(
        &mut self,
        mut get: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count: u64 = self.get()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(get(self)?);
        }
        Ok(items)
    }
}

/// A closed set of words that have numbers on the wire. A word's number is its place in the
/// table, so words are only ever appended.
trait Word: Copy + PartialEq + 'static {
    const TABLE: &'static [Self];

    fn number(self) -> u32 {
        // Each table is complete: `every_word_has_its_number` holds them to it.
        Self::TABLE.iter().position(|word| *word == self).unwrap_or_default() as u32
    }

    fn from_number(number: u64) -> Option<Self> {
        Self::TABLE.get(usize::try_from(number).ok()?).copied()
    }
}

impl Word for LogLane {
    const TABLE: &'static [Self] = &LogLane::ALL;
}

impl Word for ErrorCode {
    const TABLE: &'static [Self] = &crate::wire::error::ALL;
}

impl Word for LeaveReason {
    const TABLE: &'static [Self] =
        &[LeaveReason::Left, LeaveReason::Bye, LeaveReason::Expired, LeaveReason::Kicked];
}

impl Word for ResetReason {
    const TABLE: &'static [Self] =
        &[ResetReason::Trimmed, ResetReason::Epoch, ResetReason::Unlisted, ResetReason::Ahead];
}

impl Word for QualityLevel {
    const TABLE: &'static [Self] = &[QualityLevel::Good, QualityLevel::Fair, QualityLevel::Poor];
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deployed clients know these numbers, and a word outside its table would pass for 0.
    #[test]
    fn every_word_has_its_number() {
        fn check<T: Word + std::fmt::Debug>(number: impl Fn(T) -> u32) {
            for word in T::TABLE {
                assert_eq!(word.number(), number(*word), "{word:?}");
                assert_eq!(T::from_number(number(*word).into()), Some(*word));
            }
            assert_eq!(T::from_number(T::TABLE.len() as u64), None);
        }
        // Matches without a wildcard: a new word does not compile until it has a number here.
        check(|lane| match lane {
            LogLane::Signal => 0,
            LogLane::Bulk => 1,
        });
        check(|code| match code {
            ErrorCode::BadRequest => 0,
            ErrorCode::UnsupportedVersion => 1,
            ErrorCode::Unauthorized => 2,
            ErrorCode::Forbidden => 3,
            ErrorCode::SessionUnknown => 4,
            ErrorCode::NotAMember => 5,
            ErrorCode::NoSuchPeer => 6,
            ErrorCode::RoomFull => 7,
            ErrorCode::TooManyRooms => 8,
            ErrorCode::TooLarge => 9,
            ErrorCode::RateLimited => 10,
            ErrorCode::SeqGap => 11,
            ErrorCode::Unavailable => 12,
            ErrorCode::Internal => 13,
        });
        check(|reason| match reason {
            LeaveReason::Left => 0,
            LeaveReason::Bye => 1,
            LeaveReason::Expired => 2,
            LeaveReason::Kicked => 3,
        });
        check(|reason| match reason {
            ResetReason::Trimmed => 0,
            ResetReason::Epoch => 1,
            ResetReason::Unlisted => 2,
            ResetReason::Ahead => 3,
        });
        check(|level| match level {
            QualityLevel::Good => 0,
            QualityLevel::Fair => 1,
            QualityLevel::Poor => 2,
        });
    }
}
