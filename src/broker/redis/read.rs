//! Reads the logs of a room, piece by piece.
//!
//! All that is sent in one answer holds up what others ask on the same connection, and an answer
//! that takes long counts as none: a long log read at once on a slow way would have its whole Redis
//! taken for gone, again and again.

use std::sync::Arc;

use handover_protocol::limits::ROOM_LINGER;
use handover_protocol::room::entry::Entry;
use handover_protocol::time::Time;
use handover_protocol::wire::message::Positions;
use handover_protocol::wire::{Epoch, LogLane, PerLane, RoomName};
use redis::Value;

use super::board::Held;
use super::rooms::Last;
use super::stored::Fields;
use super::{RedisBroker, millis};
use crate::broker::{RoomState, Unavailable};

/// Rooms that have more to read than their first piece, and read it at once.
pub(super) const READ_AT_ONCE: usize = 2;
/// Bytes of lines that are enough for the first piece, which any number of rooms read at once,
const FIRST_PIECE_BYTES: usize = 64 << 10;
/// and for each after that. One more line fits in, and no more.
const PIECE_BYTES: usize = 512 << 10;

/// What of a room's life has been read.
#[derive(Default)]
struct Read {
    epoch: Option<Epoch>,
    reached: PerLane<u64>,
    entries: PerLane<Vec<Arc<Entry>>>,
    marks: Vec<(LogLane, Last)>,
}

impl Read {
    fn behind(after: PerLane<u64>) -> Read {
        Read { reached: after, ..Read::default() }
    }

    /// Whether a piece is of the same life as those before.
    fn goes_on(&mut self, epoch: Epoch) -> bool {
        *self.epoch.get_or_insert(epoch) == epoch
    }

    fn take(&mut self, lane: LogLane, piece: Vec<Arc<Entry>>, last: Option<Last>) {
        let (Some(first), Some(last)) = (piece.first(), last) else { return };
        if first.offset != self.reached[lane] + 1 {
            // What lay between was let go meanwhile, and so all that was before it.
            self.entries[lane].clear();
        }
        self.reached[lane] = last.offset;
        self.entries[lane].extend(piece);
        self.marks.retain(|(other, _)| *other != lane);
        self.marks.push((lane, last));
    }

    /// Nothing is behind the last of it. What is not up to there was let go, with all behind it.
    fn up_to(mut self, positions: Positions) -> (RoomState, Vec<(LogLane, Last)>) {
        for lane in LogLane::ALL {
            if self.reached[lane] != positions.on(lane).offset {
                self.entries[lane].clear();
            }
        }
        (RoomState { positions, entries: self.entries }, self.marks)
    }
}

impl RedisBroker {
    pub(super) async fn state(
        &self,
        now: Time,
        room: &RoomName,
        begin: Option<Epoch>,
        after: PerLane<u64>,
        held: Held,
    ) -> Result<Option<RoomState>, Unavailable> {
        let (at, begun) = (self.room_keys(room), self.clock.now());
        let fresh = begin.map_or_else(|| self.fresh(), Ok)?;
        let (mut read, mut turn) = (Read::behind(after), None);
        let positions = loop {
            let now = now + self.clock.now().since(begun);
            let (shift, mut args) = self.room_args(now, None, fresh, &at, held)?;
            args.push(if begin.is_some() { "1" } else { "0" }.to_owned());
            args.extend(LogLane::ALL.map(|lane| read.reached[lane].to_string()));
            args.push(millis(ROOM_LINGER * 2).to_string());
            let enough = if turn.is_none() { FIRST_PIECE_BYTES } else { PIECE_BYTES };
            args.push(enough.to_string());
            let script = &self.scripts.load;
            let state = self.board.script(at.slot, held, script, &at.keys, &args).await?;
            if state == Value::Nil {
                return Ok(None);
            }
            let mut fields = Fields::of(state)?;
            let positions = fields.positions()?;
            if !read.goes_on(positions.epoch) {
                // Of what was before, nothing is left.
                read = Read::behind(after);
                continue;
            }
            for lane in [LogLane::Signal, LogLane::Bulk] {
                let (piece, last) = fields.entries(room, lane, shift)?;
                read.take(lane, piece, last);
            }
            if fields.number()? == 0 {
                break positions;
            }
            if turn.is_none() {
                turn = self.reading.acquire().await.ok();
            }
        };
        let (state, marks) = read.up_to(positions);
        if self.board.replicas == 0
            || self.is_held(held)
            || self.rooms.is_known(&at.channel, positions)
        {
            self.rooms.learn(&at.channel, positions, marks);
        }
        Ok(Some(state))
    }
}

#[cfg(test)]
mod tests {
    use handover_protocol::room::entry::Event;
    use handover_protocol::wire::PeerId;

    use super::*;

    fn piece(offsets: std::ops::RangeInclusive<u64>) -> (Vec<Arc<Entry>>, Option<Last>) {
        let (room, peer) = (RoomName::parse("r").unwrap(), PeerId::parse("ann").unwrap());
        let epoch = Epoch::parse("first").unwrap();
        let entry = |offset| {
            let (lane, at) = (LogLane::Bulk, Time::ZERO);
            Arc::new(Entry::new(room.clone(), lane, epoch, offset, at, peer, Event::Away))
        };
        let last = offsets.clone().last().map(|offset| Last { offset, mark: String::new() });
        (offsets.map(entry).collect(), last)
    }

    /// What is held of pieces, when the log ends there.
    fn held(pieces: &[std::ops::RangeInclusive<u64>], bulk: u64) -> Vec<u64> {
        let mut read = Read::behind(PerLane { signal: 0, bulk: 2 });
        for offsets in pieces {
            let (entries, last) = piece(offsets.clone());
            read.take(LogLane::Bulk, entries, last);
        }
        let positions = Positions { epoch: Epoch::parse("first").unwrap(), signal: 0, bulk };
        let (state, _) = read.up_to(positions);
        state.entries.bulk.iter().map(|entry| entry.offset).collect()
    }

    #[test]
    fn what_is_let_go_between_pieces_leaves_no_hole() {
        assert_eq!(held(&[3..=4, 5..=6], 6), [3, 4, 5, 6]);
        assert_eq!(held(&[3..=4, 6..=7], 7), [6, 7], "the fifth is gone, and all before it");
        assert_eq!(held(&[5..=6], 6), [5, 6]);
        assert_eq!(held(&[3..=4], 6), [0; 0], "all is gone");
        assert_eq!(held(&[], 2), [0; 0]);
    }
}
