//! Whether a client can go on from the position it names.

use super::log::Read;
use crate::wire::message::ResetReason;
use crate::wire::{Epoch, Position};

/// What a position is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Entries were missed and all of them are held.
    Recovered,
    /// Nothing was missed.
    Current,
}

/// Compares a client's position with the log it belongs to. `None` is a room that the client
/// did not list.
///
/// # Errors
/// Nobody can tell what was missed: the client starts again from a snapshot, for this reason.
pub fn recover(
    epoch: Epoch,
    position: Option<Position>,
    read: impl FnOnce(u64) -> Read,
) -> Result<Recovery, ResetReason> {
    let position = position.ok_or(ResetReason::Unlisted)?;
    if position.epoch != epoch {
        return Err(ResetReason::Epoch);
    }
    match read(position.offset) {
        Read::Entry(_) => Ok(Recovery::Recovered),
        Read::Current => Ok(Recovery::Current),
        Read::Trimmed => Err(ResetReason::Trimmed),
        Read::Ahead => Err(ResetReason::Ahead),
        Read::Over => Err(ResetReason::Epoch),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use std::time::Duration;

    use crate::limits::Retention;
    use crate::room::entry::{Entry, Event};
    use crate::room::log::Log;
    use crate::time::Time;
    use crate::wire::{LogLane, PeerId, RoomName};

    /// Every length, every trim and every position of small logs.
    #[test]
    fn every_position_of_every_small_log() {
        let (epoch, other) = (Epoch::parse("e1").unwrap(), Epoch::parse("e2").unwrap());
        let (room, peer) = (RoomName::parse("r").unwrap(), PeerId::parse("p").unwrap());
        for len in 0..6_u64 {
            for held in 0..=len {
                let mut log = Log::default();
                for offset in 1..=len {
                    let (room, at) = (room.clone(), Time::ZERO);
                    let lane = LogLane::Bulk;
                    let entry = Entry::new(room, lane, epoch, offset, at, peer, Event::Away);
                    log.append(Arc::new(entry));
                }
                let (entries, window) = (held as usize, Duration::ZERO);
                let keep = Retention { entries, window, ..Retention::bulk(Duration::MAX) };
                log.trim(Time::ZERO, &keep);
                for offset in 0..8 {
                    let expected = if offset > len {
                        Err(ResetReason::Ahead)
                    } else if offset + held < len {
                        Err(ResetReason::Trimmed)
                    } else if offset == len {
                        Ok(Recovery::Current)
                    } else {
                        Ok(Recovery::Recovered)
                    };
                    let position = |epoch| Some(Position { epoch, offset });
                    let read = |after| log.read(after);
                    assert_eq!(recover(epoch, position(epoch), read), expected);
                    let of_another_life = Err(ResetReason::Epoch);
                    assert_eq!(recover(epoch, position(other), read), of_another_life);
                }
                let unlisted = recover(epoch, None, |after| log.read(after));
                assert_eq!(unlisted, Err(ResetReason::Unlisted));
            }
        }
    }
}
