//! The default broker: everything in this process, gone with it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use handover_protocol::limits::{ROOM_LINGER, SEQ_ROOMS_MAX};
use handover_protocol::room::log::Read;
use handover_protocol::room::{Dormant, Refusal, Room, RoomLimits, Sent};
use handover_protocol::session::grant::Admission;
use handover_protocol::time::Time;
use handover_protocol::wire::message::Positions;
use handover_protocol::wire::{Epoch, ErrorCode, LogLane, PeerId, PerLane, RoomName, SessionId};

use super::{
    AtHand, Author, Broker, Change, Done, Place, ResumeError, Retired, RoomOp, RoomState,
    SecretHash, SessionRecord, Unavailable,
};

/// Rooms and sessions of one process.
#[derive(Debug)]
pub struct MemoryBroker {
    limits: RoomLimits,
    /// Held for a handful of map operations at a time, never across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<SessionId, Session>,
    rooms: HashMap<RoomName, Room>,
    /// Rooms that were removed, but for the `seq`s of sessions that still live.
    dormant: HashMap<RoomName, Dormant>,
}

#[derive(Debug)]
struct Session {
    record: SessionRecord,
    /// Its end has begun: it cannot be resumed.
    retired: bool,
    rooms: BTreeSet<RoomName>,
    /// Rooms that remember a `seq` of this session.
    sent_in: BTreeSet<RoomName>,
}

impl MemoryBroker {
    /// An empty broker whose rooms are bounded by `limits`.
    pub fn new(limits: RoomLimits) -> Self {
        MemoryBroker { limits, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug of the room's state machine; the other rooms are
        // whole, so the process goes on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn open(&self, record: SessionRecord) -> Result<(), Unavailable> {
        let session =
            Session { retired: false, rooms: BTreeSet::new(), sent_in: BTreeSet::new(), record };
        self.state().sessions.insert(session.record.session, session);
        Ok(())
    }

    async fn resume(
        &self,
        session: SessionId,
        secret_hash: SecretHash,
        presented: Option<Admission>,
        unix_now: u64,
    ) -> Result<SessionRecord, ResumeError> {
        let mut state = self.state();
        let session = state.sessions.get_mut(&session).ok_or(ResumeError::Unknown)?;
        let secret_fits = session.record.secret_hash.fits(&secret_hash);
        if session.retired || !secret_fits {
            return Err(ResumeError::Unknown);
        }
        let succeeded = session.record.admission.succeed(presented, unix_now);
        session.record.admission = succeeded.map_err(ResumeError::Refused)?;
        session.record.generation += 1;
        let rooms = session.rooms.iter().cloned().collect();
        Ok(SessionRecord { rooms, ..session.record.clone() })
    }

    async fn readmit(&self, author: Author, admission: Admission) -> Result<bool, Unavailable> {
        let mut state = self.state();
        let session = state.sessions.get_mut(&author.session);
        let current = |session: &&mut Session| session.record.generation == author.generation;
        let current = session.filter(current);
        Ok(current.map(|session| session.record.admission = admission).is_some())
    }

    async fn retire(&self, author: Author) -> Result<Retired, Unavailable> {
        let mut state = self.state();
        let session = state.sessions.get_mut(&author.session);
        let current = |session: &&mut Session| session.record.generation == author.generation;
        let Some(session) = session.filter(current) else { return Ok(Retired::Not) };
        // The generation stays: sends that came before the `bye` may still wait in rooms.
        session.retired = true;
        Ok(Retired::From(session.rooms.iter().cloned().collect()))
    }

    async fn end(&self, author: Author) -> Result<(), Unavailable> {
        let mut state = self.state();
        let recorded = state.sessions.get(&author.session).map(|known| known.record.generation);
        if recorded.is_none_or(|recorded| recorded > author.generation) {
            return Ok(());
        }
        let Some(ended) = state.sessions.remove(&author.session) else { return Ok(()) };
        for name in ended.sent_in {
            if let Some(room) = state.rooms.get_mut(&name) {
                room.forget(ended.record.peer);
            } else if let Some(dormant) = state.dormant.get_mut(&name) {
                dormant.forget(ended.record.peer);
                if dormant.remembers_nobody() {
                    state.dormant.remove(&name);
                }
            }
        }
        Ok(())
    }

    async fn load(
        &self,
        now: Time,
        room: &RoomName,
        fresh: Epoch,
    ) -> Result<RoomState, Unavailable> {
        let mut state = self.state();
        let State { rooms, dormant, .. } = &mut *state;
        let loaded = rooms.entry(room.clone()).or_insert_with(|| {
            let begun = Room::new(now, room.clone(), fresh, self.limits);
            match dormant.remove(room) {
                Some(dormant) => begun.remembering(dormant),
                None => begun,
            }
        });
        Ok(state_behind(loaded, PerLane::default()))
    }

    async fn read(
        &self,
        room: &RoomName,
        after: PerLane<u64>,
    ) -> Result<Option<RoomState>, Unavailable> {
        let state = self.state();
        Ok(state.rooms.get(room).map(|room| state_behind(room, after)))
    }

    async fn apply(
        &self,
        now: Time,
        room: &RoomName,
        known: Option<Positions>,
        ops: Vec<RoomOp>,
    ) -> Result<Option<Vec<Result<Done, Refusal>>>, Unavailable> {
        let mut state = self.state();
        let State { sessions, rooms, .. } = &mut *state;
        if known.is_some_and(|known| !is_in(rooms.get(room), known)) {
            return Ok(None);
        }
        let Some(changed) = rooms.get_mut(room) else {
            return Ok(Some(ops.iter().map(|_| Err(Refusal::NOT_A_MEMBER)).collect()));
        };
        // Not collected: that would use the room of `ops` again, and shrink it by a copy.
        let mut done = Vec::with_capacity(ops.len());
        done.extend(ops.into_iter().map(|op| apply(now, sessions, changed, room, op)));
        Ok(Some(done))
    }

    fn at_hand(&self) -> Option<&dyn AtHand> {
        Some(self)
    }

    async fn trim(
        &self,
        now: Time,
        room: &RoomName,
        known: Option<Positions>,
    ) -> Result<Option<Positions>, Unavailable> {
        let mut state = self.state();
        let Some(room) = state.rooms.get_mut(room) else { return Ok(None) };
        if known.is_some_and(|known| !is_in(Some(room), known)) {
            return Ok(None);
        }
        room.trim(now);
        Ok(Some(room.positions()))
    }

    async fn remove_if_empty(&self, now: Time, room: &RoomName) -> Result<bool, Unavailable> {
        let mut state = self.state();
        let empty_for = state.rooms.get(room).map(|room| room.empty_for(now));
        if empty_for.is_some_and(|empty| empty.is_none_or(|empty| empty < ROOM_LINGER)) {
            return Ok(false);
        }
        if let Some(removed) = state.rooms.remove(room)
            && !removed.remembers_nobody()
        {
            state.dormant.insert(room.clone(), removed.into_dormant());
        }
        Ok(true)
    }
}

impl AtHand for MemoryBroker {
    fn apply_one(&self, now: Time, room: &RoomName, op: RoomOp) -> Result<Done, Refusal> {
        let mut state = self.state();
        let State { sessions, rooms, .. } = &mut *state;
        let changed = rooms.get_mut(room).ok_or(Refusal::NOT_A_MEMBER)?;
        apply(now, sessions, changed, room, op)
    }

    fn dormant(&self) -> usize {
        self.state().dormant.len()
    }

    fn shrink(&self, now: Time, room: &RoomName, bytes: usize, spared: Duration) {
        if let Some(room) = self.state().rooms.get_mut(room) {
            room.shrink(now, bytes, spared);
        }
    }
}

/// Whether a room is in the life that `known` was learnt of.
fn is_in(room: Option<&Room>, known: Positions) -> bool {
    room.is_some_and(|room| room.epoch() == known.epoch)
}

fn state_behind(room: &Room, after: PerLane<u64>) -> RoomState {
    let held = |lane| {
        let log = room.log(lane);
        let mut entries = Vec::new();
        let mut after = after[lane].max(log.first() - 1);
        while let Read::Entry(entry) = log.read(after) {
            after = entry.offset;
            entries.push(entry);
        }
        entries
    };
    let entries = PerLane { signal: held(LogLane::Signal), bulk: held(LogLane::Bulk) };
    RoomState { positions: room.positions(), entries }
}

fn apply(
    now: Time,
    sessions: &mut HashMap<SessionId, Session>,
    room: &mut Room,
    name: &RoomName,
    op: RoomOp,
) -> Result<Done, Refusal> {
    let RoomOp { author, change } = op;
    let Some(session) = sessions.get_mut(&author.session) else { return Ok(Done::Fenced) };
    if session.record.generation != author.generation {
        return Ok(Done::Fenced);
    }
    let peer = author.peer;
    match change {
        Change::Join { user, metadata } => {
            if session.sent_in.len() >= SEQ_ROOMS_MAX && !session.sent_in.contains(name) {
                let text = "the session has sent in as many rooms as it may in its life";
                return Err(Refusal::new(ErrorCode::TooManyRooms, text));
            }
            let joining = room.join(now, peer, user, metadata)?;
            session.rooms.insert(name.clone());
            Ok(Done::Joined(joining))
        }
        Change::Rejoin { user, metadata, .. } => {
            let entry = room.rejoin(now, peer, user, metadata).entry;
            session.rooms.insert(name.clone());
            place(room, peer).map(|place| Done::Rejoined(place, entry))
        }
        Change::Leave(reason) => {
            let entry = room.leave(now, peer, reason);
            session.rooms.remove(name);
            Ok(Done::Left(entry, room.positions()))
        }
        Change::Update(metadata) => room.update(now, peer, metadata).map(Done::Updated),
        Change::Fix(metadata) => room.fix(now, peer, metadata).map(Done::Updated),
        Change::Send(send) => {
            let first = send.seq == 1;
            let sent = room.send(now, peer, send)?;
            if first && matches!(sent, Sent::Appended(_)) {
                session.sent_in.insert(name.clone());
            }
            Ok(Done::Sent(sent))
        }
        Change::Pass { to, .. } => room.check_addressee(peer, to).map(|()| Done::Passed),
        Change::MarkAway(away) => Ok(Done::Marked(room.mark_away(now, peer, away))),
        Change::Snapshot => {
            if !room.is_member(peer) {
                return Err(Refusal::NOT_A_MEMBER);
            }
            Ok(Done::Snapshot(room.snapshot(peer)))
        }
        Change::Place => place(room, peer).map(Done::Place),
    }
}

fn place(room: &Room, peer: PeerId) -> Result<Place, Refusal> {
    let metadata = room.metadata(peer).cloned().ok_or(Refusal::NOT_A_MEMBER)?;
    Ok(Place { positions: room.positions(), seq: room.seq(peer), metadata })
}

#[cfg(test)]
mod tests {
    use handover_protocol::limits::Retention;
    use handover_protocol::wire::message::{LeaveReason, Send};
    use handover_protocol::wire::{Json, PeerId, Secret};

    use super::*;

    fn author() -> Author {
        Author {
            session: SessionId::parse("s").unwrap(),
            peer: PeerId::parse("p").unwrap(),
            generation: 1,
        }
    }

    /// With the session of [`author`].
    async fn opened() -> MemoryBroker {
        let retention =
            PerLane { signal: Retention::signal(ROOM_LINGER), bulk: Retention::bulk(ROOM_LINGER) };
        let broker =
            MemoryBroker::new(RoomLimits { members: 9, metadata_bytes: usize::MAX, retention });
        let Author { session, peer, generation } = author();
        let record = SessionRecord {
            session,
            peer,
            admission: Admission::anonymous(),
            secret_hash: SecretHash::of(&Secret::new("k".into())),
            generation,
            rooms: Vec::new(),
        };
        broker.open(record).await.unwrap();
        broker
    }

    fn name(n: usize) -> RoomName {
        RoomName::parse(&format!("room {n}")).unwrap()
    }

    fn join() -> Change {
        Change::Join { user: None, metadata: None }
    }

    fn send(room: &RoomName, seq: u64) -> Change {
        let (room, body) = (room.clone(), Json::parse(b"1").unwrap());
        Change::Send(Send { room, lane: LogLane::Bulk, seq, to: None, body })
    }

    /// What a session leaves behind in rooms stays until it ends, so there is an end to it.
    #[tokio::test]
    async fn a_session_sends_in_so_many_rooms_in_its_life() {
        let broker = opened().await;
        let apply = |room: &RoomName, change| {
            broker.apply_one(Time::ZERO, room, RoomOp { author: author(), change })
        };
        for n in 0..=256 {
            let room = name(n);
            broker.load(Time::ZERO, &room, Epoch::parse("e").unwrap()).await.unwrap();
            if n == 256 {
                let refused = apply(&room, join()).unwrap_err();
                assert_eq!(refused.code, ErrorCode::TooManyRooms);
                break;
            }
            apply(&room, join()).unwrap();
            apply(&room, send(&room, 1)).unwrap();
            apply(&room, Change::Leave(LeaveReason::Left)).unwrap();
        }
        let known = name(7);
        apply(&known, join()).unwrap();
        apply(&known, send(&known, 2)).unwrap();
    }

    /// Rooms that somebody has sent in are remembered when they are removed, and counted, until
    /// the session ends or they begin again.
    #[tokio::test]
    async fn rooms_that_are_only_remembered_are_counted_and_begin_again() {
        let (broker, author) = (opened().await, author());
        let epoch = |text| Epoch::parse(text).unwrap();
        let apply =
            |room: &RoomName, change| broker.apply_one(Time::ZERO, room, RoomOp { author, change });
        let later = Time::ZERO + ROOM_LINGER;
        for n in 0..10 {
            let room = name(n);
            broker.load(Time::ZERO, &room, epoch("one")).await.unwrap();
            apply(&room, join()).unwrap();
            if n < 8 {
                apply(&room, send(&room, 1)).unwrap();
            }
            apply(&room, Change::Leave(LeaveReason::Left)).unwrap();
            assert!(broker.remove_if_empty(later, &room).await.unwrap());
        }
        assert_eq!((broker.dormant(), broker.state().rooms.len()), (8, 0));
        let again = name(3);
        let state = broker.load(later, &again, epoch("two")).await.unwrap();
        assert_eq!((state.positions.epoch, broker.dormant()), (epoch("two"), 7));
        let Ok(Done::Joined(joining)) = apply(&again, join()) else { panic!("refused") };
        assert_eq!(joining.snapshot.seq, PerLane { signal: 0, bulk: 1 });
        let repeated = apply(&again, send(&again, 1)).unwrap();
        assert!(matches!(repeated, Done::Sent(Sent::Duplicate(_))));
        broker.end(author).await.unwrap();
        assert_eq!(broker.dormant(), 0);
    }
}
