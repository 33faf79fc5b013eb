//! One room on one connection: a cursor per lane, and what to send next.

use std::collections::VecDeque;

use super::{RoomLog, Slot};
use crate::limits::POSITION_EVERY;
use crate::room::Applied;
use crate::room::entry::View;
use crate::room::log::Read;
use crate::time::Time;
use crate::wire::frame::Frame;
use crate::wire::message::{Accepted, PositionMark, Positions, ResetReason, ServerMessage};
use crate::wire::{Codec, Epoch, LogLane, PeerId, PerLane, RoomName};

/// How a membership stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// `join` is with the room.
    Joining,
    /// A member.
    Member,
    /// A member whose position was lost; a snapshot is on its way.
    Resetting,
    /// No member any more; what was in the logs up to these offsets still goes out.
    Left(PerLane<u64>),
}

/// What a membership has for its connection next.
#[derive(Debug)]
pub(super) enum Next {
    /// This frame.
    Frame(Frame),
    /// An answer that waited for its place in the log.
    Answer(Frame),
    /// Nothing now.
    Nothing,
    /// The position cannot be read on from.
    Lost(ResetReason),
}

#[derive(Debug, Default)]
struct Lane {
    /// The offset up to which the log has been read.
    cursor: u64,
    /// The offset up to which the client knows that it has been read.
    told: u64,
    /// Own sends that the cursor has passed and the client has not been told of.
    accepted: Option<Applied>,
    /// The client must be told where this lane of the membership starts.
    start: bool,
    /// Answers and the offset each belongs behind.
    answers: VecDeque<(u64, Frame)>,
}

/// One room on one connection.
#[derive(Debug)]
pub(super) struct Membership<L> {
    pub(super) slot: Slot,
    pub(super) room: RoomName,
    pub(super) standing: Standing,
    epoch: Option<Epoch>,
    log: Option<L>,
    lanes: PerLane<Lane>,
    /// Lanes that are read no further until the room has answered. Another thread may append to
    /// the log meanwhile, and the answer would come behind what it does not take into account.
    pub(super) held: PerLane<bool>,
    /// When entries that were not for the client began to pass it by untold.
    pub(super) untold_since: Option<Time>,
}

impl<L: RoomLog> Membership<L> {
    pub(super) fn joining(slot: Slot, room: RoomName) -> Self {
        let lanes = PerLane::default();
        let standing = Standing::Joining;
        let held = PerLane::default();
        Membership { slot, room, standing, epoch: None, log: None, lanes, held, untold_since: None }
    }

    /// Reads on from `positions`. `start` if a membership begins there, rather than goes on.
    pub(super) fn follow(&mut self, log: L, positions: Positions, start: bool) {
        self.standing = Standing::Member;
        self.epoch = Some(positions.epoch);
        self.log = Some(log);
        for lane in LogLane::ALL {
            let offset = positions.on(lane).offset;
            let state = &mut self.lanes[lane];
            (state.cursor, state.told, state.accepted) = (offset, offset, None);
            state.start = start && lane == LogLane::Bulk;
        }
    }

    /// Keeps an answer until everything up to `at` has gone out.
    pub(super) fn answer_behind(&mut self, lane: LogLane, at: u64, frame: Frame) {
        self.lanes[lane].answers.push_back((at, frame));
    }

    /// Answers that have not gone out.
    pub(super) fn take_answers(&mut self) -> impl Iterator<Item = (LogLane, Frame)> {
        let signal = std::mem::take(&mut self.lanes.signal.answers);
        let bulk = std::mem::take(&mut self.lanes.bulk.answers);
        let on = |lane| move |(_, frame)| (lane, frame);
        signal.into_iter().map(on(LogLane::Signal)).chain(bulk.into_iter().map(on(LogLane::Bulk)))
    }

    /// Gives up what an ended membership still has for the bulk lane, but for its answers.
    pub(super) fn void_bulk(&mut self) -> impl Iterator<Item = Frame> + use<L> {
        let Lane { cursor, accepted, start, answers, .. } = &mut self.lanes.bulk;
        if let Standing::Left(at) = &mut self.standing {
            at.bulk = at.bulk.min(*cursor);
        }
        (*accepted, *start) = (None, false);
        std::mem::take(answers).into_iter().map(|(_, frame)| frame)
    }

    /// Whether a client that was told `applied` of a repeated send has passed its entry. If
    /// not, the `accepted` comes by itself.
    pub(super) fn has_passed(&self, lane: LogLane, applied: &Applied) -> bool {
        Some(applied.epoch) != self.epoch
            || (applied.offset <= self.lanes[lane].cursor && self.lanes[lane].accepted.is_none())
    }

    /// Whether everything of a membership that ended has gone out.
    pub(super) fn is_over(&self) -> bool {
        let Standing::Left(at) = self.standing else { return false };
        LogLane::ALL.into_iter().all(|lane| {
            let state = &self.lanes[lane];
            state.cursor >= at[lane] && state.answers.is_empty() && state.accepted.is_none()
        })
    }

    /// What to send next on `lane`.
    pub(super) fn next(&mut self, now: Time, lane: LogLane, codec: Codec, viewer: PeerId) -> Next {
        let (Some(log), Some(epoch)) = (&self.log, self.epoch) else { return Next::Nothing };
        if matches!(self.standing, Standing::Joining | Standing::Resetting) || self.held[lane] {
            return Next::Nothing;
        }
        let end = match self.standing {
            Standing::Left(at) => at[lane],
            _ => u64::MAX,
        };
        let state = &mut self.lanes[lane];
        let encode = |message| Next::Frame(codec.encode_server(&message));
        if state.start {
            state.start = false;
            let (room, offset) = (self.room.clone(), state.cursor);
            return encode(position(room, lane, epoch, offset, true));
        }
        loop {
            // An ended membership is read no further than its end, whatever was answered later.
            let is_due = |(at, _): &(u64, Frame)| *at <= state.cursor || state.cursor >= end;
            let answer_due = state.answers.front().is_some_and(is_due);
            let read = if answer_due || state.cursor >= end {
                Read::Current
            } else {
                log.read(lane, state.cursor)
            };
            let entry = match read {
                Read::Entry(entry) => entry,
                Read::Current => {
                    if let Some(applied) = state.accepted.take() {
                        state.told = state.told.max(applied.offset);
                        return encode(accepted(self.room.clone(), lane, &applied));
                    }
                    if answer_due && let Some((_, frame)) = state.answers.pop_front() {
                        return Next::Answer(frame);
                    }
                    if state.cursor > state.told && self.untold_since.is_none() {
                        self.untold_since = Some(now);
                    }
                    return Next::Nothing;
                }
                Read::Trimmed => return Next::Lost(ResetReason::Trimmed),
                Read::Ahead => return Next::Lost(ResetReason::Ahead),
                Read::Over => {
                    let Some(applied) = state.accepted.take() else {
                        return Next::Lost(ResetReason::Epoch);
                    };
                    return encode(accepted(self.room.clone(), lane, &applied));
                }
            };
            match entry.view(viewer) {
                View::Own { seq } => {
                    state.accepted = Some(Applied { seq, epoch, offset: entry.offset });
                    state.cursor = entry.offset;
                }
                View::Deliver => {
                    if let Some(applied) = state.accepted.take() {
                        state.told = applied.offset;
                        return encode(accepted(self.room.clone(), lane, &applied));
                    }
                    (state.cursor, state.told) = (entry.offset, entry.offset);
                    return Next::Frame(entry.frame(codec));
                }
                View::Skip => {
                    if entry.offset - state.told >= POSITION_EVERY
                        && let Some(applied) = state.accepted.take()
                    {
                        state.told = applied.offset;
                        return encode(accepted(self.room.clone(), lane, &applied));
                    }
                    state.cursor = entry.offset;
                    if state.cursor - state.told >= POSITION_EVERY {
                        state.told = state.cursor;
                        let (room, offset) = (self.room.clone(), state.cursor);
                        return encode(position(room, lane, epoch, offset, false));
                    }
                }
            }
        }
    }

    /// Positions that the client has not been told of, told now.
    pub(super) fn tell_positions(&mut self) -> Vec<(LogLane, ServerMessage)> {
        self.untold_since = None;
        let Some(epoch) = self.epoch.filter(|_| self.standing == Standing::Member) else {
            return Vec::new();
        };
        let mut untold = Vec::new();
        for lane in LogLane::ALL {
            let state = &mut self.lanes[lane];
            if state.cursor > state.told && state.accepted.is_none() && !state.start {
                state.told = state.cursor;
                let mark = position(self.room.clone(), lane, epoch, state.cursor, false);
                untold.push((lane, mark));
            }
        }
        untold
    }
}

/// The cumulative `accepted` for a session's highest applied `seq`.
pub(super) fn accepted(room: RoomName, lane: LogLane, applied: &Applied) -> ServerMessage {
    let &Applied { seq, epoch, offset } = applied;
    ServerMessage::Accepted(Accepted { room, lane, epoch, seq, offset })
}

fn position(
    room: RoomName,
    lane: LogLane,
    epoch: Epoch,
    offset: u64,
    start: bool,
) -> ServerMessage {
    ServerMessage::Position(PositionMark { room, lane, epoch, offset, start })
}
