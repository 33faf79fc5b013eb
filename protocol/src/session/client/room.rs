//! One room as a client knows it: positions, members, and what waits to be sent.

use std::collections::BTreeMap;

use super::output::{RequestId, ResetCause};
use super::sends::Sends;
use crate::wire::message::{Member, Message, Positions};
use crate::wire::{Epoch, Json, LogLane, PeerId, PerLane, Position};

/// How the client stands to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The user asked to join and has no answer yet.
    Joining,
    /// A member.
    Member,
    /// Was a member, and is joining again by itself.
    Rejoining(ResetCause),
}

/// Where the bulk lane of the membership begins. The answer (`joined`, `reset`) and the
/// mark (`position` with `start`) come on different streams in either order; entries are
/// taken once both have come and agree. Until then the latest of each is kept: of several
/// starts in a row, either stream may be ahead of the other.
#[derive(Debug, Default)]
struct Start {
    live: bool,
    /// Where it began, if that was on the present connection.
    since: Option<Position>,
    /// An answer whose mark has not come: entries still belong to what was.
    answer: Option<Position>,
    /// A mark whose answer has not come: entries belong to what comes, and are kept.
    mark: Option<Position>,
}

impl Start {
    const LIVE: Start = Start { live: true, since: None, answer: None, mark: None };

    fn answered(&mut self, answer: Position) {
        if !self.began_at(answer) {
            self.answer = Some(answer);
            self.meet();
        }
    }

    fn marked(&mut self, mark: Position) {
        if !self.began_at(mark) {
            self.mark = Some(mark);
            self.meet();
        }
    }

    /// Whether it is one of several starts at the same place. Nothing was said on the lane
    /// between those, so whatever comes behind one of them belongs to the last, and which
    /// mark belongs to which answer makes no difference.
    fn began_at(&self, place: Position) -> bool {
        self.live && self.since == Some(place)
    }

    /// Both have come, or the one that has is kept.
    fn meet(&mut self) {
        self.live = false;
        if self.answer.is_some() && self.answer == self.mark {
            *self = Start { since: self.answer, ..Start::LIVE };
        }
    }

    fn admit(&self, epoch: Epoch) -> Admission {
        let awaited = |mark: Position| {
            let older =
                |answer: Position| answer.epoch == mark.epoch && answer.offset > mark.offset;
            mark.epoch == epoch && !self.answer.is_some_and(older)
        };
        match self.mark {
            _ if self.live => Admission::Take,
            Some(mark) if awaited(mark) => Admission::Hold,
            _ => Admission::Drop,
        }
    }
}

/// What to do with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is the next one.
    Take,
    /// Its membership has not begun yet; see [`Room::hold`].
    Hold,
    /// Had already, or of another membership.
    Drop,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) standing: Standing,
    /// What to join with again.
    pub(super) metadata: Option<Json>,
    /// The `leave` that goes out once everything sent before it is answered.
    pub(super) leaving: Option<RequestId>,
    /// The last offsets had.
    pub(super) positions: Option<Positions>,
    pub(super) sends: PerLane<Sends>,
    /// Whether the room stands in the queue of rooms with something to send.
    pub(super) queued: PerLane<bool>,
    members: BTreeMap<PeerId, Member>,
    /// The present connection has not taken the membership up: what is under way went out on
    /// an earlier one.
    detached: bool,
    bulk: Start,
    held: Vec<Message>,
    held_bytes: usize,
}

impl Room {
    pub(super) fn joining(metadata: Option<Json>) -> Self {
        Room {
            standing: Standing::Joining,
            metadata,
            leaving: None,
            positions: None,
            sends: PerLane::default(),
            queued: PerLane::default(),
            members: BTreeMap::new(),
            detached: true,
            bulk: Start::default(),
            held: Vec::new(),
            held_bytes: 0,
        }
    }

    /// Whether the present connection carries a membership, so that sends can go out.
    pub(super) fn is_attached(&self) -> bool {
        self.standing == Standing::Member && !self.detached
    }

    /// Whether nothing waits to be accepted.
    pub(super) fn is_drained(&self) -> bool {
        LogLane::ALL.into_iter().all(|lane| self.sends[lane].is_empty())
    }

    /// The members, in the order they joined.
    pub(super) fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = self.members.values().cloned().collect();
        members.sort_unstable_by_key(|member| member.since);
        members
    }

    pub(super) fn member_mut(&mut self, peer: PeerId) -> Option<&mut Member> {
        self.members.get_mut(&peer)
    }

    pub(super) fn insert_member(&mut self, member: Member) {
        self.members.insert(member.peer, member);
    }

    pub(super) fn remove_member(&mut self, peer: PeerId) {
        self.members.remove(&peer);
    }

    /// A membership begins at `positions`. Returns the bulk entries that came before this was
    /// known.
    pub(super) fn begin(&mut self, positions: Positions, members: Vec<Member>) -> Vec<Message> {
        (self.standing, self.detached) = (Standing::Member, false);
        let had = self.positions.replace(positions);
        self.members = members.into_iter().map(|member| (member.peer, member)).collect();
        let answer = positions.on(LogLane::Bulk);
        if let (true, Some(had), Some(now)) =
            (self.bulk.began_at(answer), had, self.positions.as_mut())
        {
            // What has come since then is had.
            now.bulk = had.bulk.max(now.bulk);
        }
        self.bulk.answered(answer);
        if !self.bulk.live {
            return Vec::new();
        }
        self.held_bytes = 0;
        std::mem::take(&mut self.held)
    }

    /// The mark of a start on the bulk lane.
    pub(super) fn mark(&mut self, mark: Position) {
        self.release_held();
        self.bulk.marked(mark);
    }

    /// A connection that is to go on from the positions carries the session.
    pub(super) fn go_on(&mut self) {
        self.release_held();
        (self.bulk, self.detached) = (Start::LIVE, false);
    }

    /// Another connection carries the session: marks that came on the one before are void.
    pub(super) fn detach(&mut self) {
        self.release_held();
        (self.bulk, self.detached) = (Start::default(), true);
    }

    /// The membership is over.
    pub(super) fn fall_back(&mut self, standing: Standing) {
        self.standing = standing;
        self.positions = None;
        self.detach();
    }

    /// Whether an entry is to be taken; moves the position if so.
    pub(super) fn admit(&mut self, lane: LogLane, epoch: Epoch, offset: u64) -> Admission {
        if lane == LogLane::Bulk {
            let admission = self.bulk.admit(epoch);
            if admission != Admission::Take {
                return admission;
            }
        }
        let Some(positions) = self.positions.as_mut().filter(|had| had.epoch == epoch) else {
            return Admission::Drop;
        };
        let had = match lane {
            LogLane::Signal => &mut positions.signal,
            LogLane::Bulk => &mut positions.bulk,
        };
        if offset <= *had {
            return Admission::Drop;
        }
        *had = offset;
        Admission::Take
    }

    /// Keeps an entry whose membership is about to begin. Returns the bytes kept so far.
    pub(super) fn hold(&mut self, message: Message) -> usize {
        self.held_bytes += Sends::cost(&message.body);
        self.held.push(message);
        self.held_bytes
    }

    fn release_held(&mut self) {
        self.held = Vec::new();
        self.held_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::RoomName;

    fn epoch(name: &str) -> Epoch {
        Epoch::parse(name).unwrap()
    }

    fn positions(name: &str, signal: u64, bulk: u64) -> Positions {
        Positions { epoch: epoch(name), signal, bulk }
    }

    fn mark(name: &str, offset: u64) -> Position {
        Position { epoch: epoch(name), offset }
    }

    fn message(offset: u64) -> Message {
        Message {
            room: RoomName::parse("r").unwrap(),
            lane: LogLane::Bulk,
            epoch: epoch("a"),
            offset,
            from: PeerId::parse("p").unwrap(),
            to: None,
            body: Json::empty_object(),
        }
    }

    #[test]
    fn bulk_begins_with_answer_then_mark() {
        let mut room = Room::joining(None);
        assert_eq!(room.admit(LogLane::Bulk, epoch("a"), 6), Admission::Drop);
        assert!(room.begin(positions("a", 3, 5), Vec::new()).is_empty());
        assert_eq!(room.admit(LogLane::Signal, epoch("a"), 4), Admission::Take);
        assert_eq!(room.admit(LogLane::Bulk, epoch("a"), 6), Admission::Drop);
        room.mark(mark("a", 5));
        assert_eq!(room.admit(LogLane::Bulk, epoch("a"), 6), Admission::Take);
        assert_eq!(room.admit(LogLane::Bulk, epoch("a"), 6), Admission::Drop);
        assert_eq!(room.admit(LogLane::Bulk, epoch("b"), 7), Admission::Drop);
    }

    #[test]
    fn bulk_begins_with_mark_then_answer_and_what_came_between_is_kept() {
        let mut room = Room::joining(None);
        room.mark(mark("a", 5));
        assert_eq!(room.admit(LogLane::Bulk, epoch("a"), 6), Admission::Hold);
        assert!(room.hold(message(6)) > 0);
        let held = room.begin(positions("a", 3, 5), Vec::new());
        assert_eq!(held, [message(6)]);
        assert_eq!(room.admit(LogLane::Bulk, epoch("a"), 6), Admission::Take);
    }

    #[test]
    fn the_mark_of_a_later_start_waits_for_its_own_answer() {
        let mut room = Room::joining(None);
        room.mark(mark("a", 5));
        room.hold(message(6));
        room.mark(mark("b", 2));
        assert!(room.begin(positions("a", 3, 5), Vec::new()).is_empty());
        assert_eq!(room.admit(LogLane::Bulk, epoch("b"), 3), Admission::Hold);
        room.hold(message(3));
        assert_eq!(room.begin(positions("b", 0, 2), Vec::new()), [message(3)]);
        assert_eq!(room.admit(LogLane::Bulk, epoch("b"), 3), Admission::Take);
    }

    #[test]
    fn the_mark_of_an_earlier_start_does_not_hide_the_later_answer() {
        let mut room = Room::joining(None);
        room.begin(positions("a", 0, 5), Vec::new());
        room.begin(positions("a", 0, 9), Vec::new());
        room.mark(mark("a", 5));
        assert_eq!(room.admit(LogLane::Bulk, epoch("a"), 10), Admission::Drop);
        room.mark(mark("a", 9));
        assert_eq!(room.admit(LogLane::Bulk, epoch("a"), 10), Admission::Take);
    }

    #[test]
    fn a_reset_stops_bulk_until_its_mark() {
        let mut room = Room::joining(None);
        room.begin(positions("a", 0, 0), Vec::new());
        room.mark(mark("a", 0));
        room.begin(positions("a", 9, 9), Vec::new());
        assert_eq!(room.admit(LogLane::Bulk, epoch("a"), 10), Admission::Drop);
        room.mark(mark("a", 9));
        assert_eq!(room.admit(LogLane::Bulk, epoch("a"), 10), Admission::Take);
    }

    #[test]
    fn of_two_starts_at_the_same_place_one_mark_is_enough_and_two_do_no_harm() {
        for marks in [1, 2] {
            let mut room = Room::joining(None);
            (0..marks).for_each(|_| room.mark(mark("a", 5)));
            assert_eq!(room.admit(LogLane::Bulk, epoch("a"), 6), Admission::Hold);
            room.hold(message(6));
            assert_eq!(room.begin(positions("a", 3, 5), Vec::new()), [message(6)]);
            assert_eq!(room.admit(LogLane::Bulk, epoch("a"), 6), Admission::Take);
            assert!(room.begin(positions("a", 9, 5), Vec::new()).is_empty());
            assert_eq!(room.admit(LogLane::Bulk, epoch("a"), 6), Admission::Drop);
            assert_eq!(room.admit(LogLane::Bulk, epoch("a"), 7), Admission::Take);
        }
    }
}
