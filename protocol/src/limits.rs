//! Every bound of the protocol in one table.
//!
//! Those a gateway can be configured with are fields of [`Limits`]; the constants are part of
//! the protocol itself or of this implementation's memory budget.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Integers on the wire are below 2^53, so that every JSON reader holds them exactly.
pub const INTEGER_MAX: u64 = (1 << 53) - 1;
/// `body` and `metadata` may nest this deep.
pub const JSON_DEPTH_MAX: usize = 64;
/// A room name is 1 to this many bytes of UTF-8.
pub const ROOM_NAME_BYTES_MAX: usize = 128;
/// Peer and session ids are at most this many ASCII characters.
pub const ID_BYTES_MAX: usize = 31;
/// An epoch is at most this many ASCII characters.
pub const EPOCH_BYTES_MAX: usize = 16;
/// The most rooms a session may be in: a connection marks its rooms with changes in one word.
pub const ROOMS_MAX: usize = 64;
/// `position` comes at least every this many entries that are not for the member.
pub const POSITION_EVERY: u64 = 64;
/// ... and at the latest this long after the first of them.
pub const POSITION_AFTER: Duration = Duration::from_secs(5);
/// `expiring` comes this long before a token's end, or half its life if that is shorter.
pub const EXPIRING_AHEAD: Duration = Duration::from_secs(60);
/// A member without a connection is `away` after this.
pub const AWAY_AFTER: Duration = Duration::from_secs(2);
/// Logs keep entries this much longer than the resume window.
pub const RETENTION_MARGIN: Duration = Duration::from_secs(30);
/// A room without members is removed after this; its next life has a new epoch.
pub const ROOM_LINGER: Duration = Duration::from_secs(60);
/// `hello`, and on WebTransport the bulk stream, must have come by then.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// What streams may hold together that have not said what they are: the longest `hello` there is any
/// use for has a token of 16 KiB and names 64 rooms to go on in.
pub const GREETING_BYTES_MAX: usize = 40 * 1024;
/// `quality` is measured this often and sent when it changed.
pub const QUALITY_EVERY: Duration = Duration::from_secs(5);
/// The finally refused `hello` that ends a connection.
pub const REFUSED_HELLOS_MAX: u32 = 3;
/// The same where the client is to ask again later: it may, but not without end.
pub const DEFERRED_HELLOS_MAX: u32 = 32;
/// Bytes of answers a connection may hold for a peer that does not read, before the gateway
/// stops reading from it, unless it is told otherwise.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Ephemeral messages held for a connection; the oldest go first.
pub const EPHEMERAL_HELD_MAX: usize = 64;
/// Rooms whose `seq` a session may have used in its life, joined or left. Each is remembered until the
/// session ends, in some 220 bytes that no other bound counts: 56 kB a session.
pub const SEQ_ROOMS_MAX: usize = 256;

/// The limits a gateway announces in `welcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of one message as it stands on the wire, without framing.
    pub message_bytes: u64,
    /// Bytes of a member's `metadata` JSON text.
    pub metadata_bytes: u64,
    /// Bytes of an ephemeral body's JSON text.
    pub ephemeral_bytes: u64,
    /// Bytes of a room name.
    pub room_bytes: u64,
    /// Rooms a session may be in at once.
    pub rooms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes: 65_536,
            metadata_bytes: 4_096,
            ephemeral_bytes: 800,
            room_bytes: ROOM_NAME_BYTES_MAX as u64,
            rooms: ROOMS_MAX as u64,
        }
    }
}

/// How much of one lane's log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Entries kept at the most, not counting those within `window`.
    pub entries: usize,
    /// Bytes of entries kept at the most, whatever their age.
    pub bytes: usize,
    /// Entries older than this are let go.
    pub age: Duration,
    /// Entries younger than this are let go for `bytes` alone: a session may still come back
    /// for them. The resume window, and a little more.
    pub window: Duration,
}

impl Retention {
    /// The signal lane's default for a resume window.
    pub const fn signal(resume_window: Duration) -> Self {
        let window = resume_window.saturating_add(RETENTION_MARGIN);
        Retention { entries: 4_096, bytes: 4 << 20, age: window, window }
    }

    /// The bulk lane's default for a resume window.
    pub const fn bulk(resume_window: Duration) -> Self {
        let window = resume_window.saturating_add(RETENTION_MARGIN);
        Retention { entries: 1_024, bytes: 8 << 20, age: window, window }
    }
}
