//! Keeping step with other nodes that change the same room.
//!
//! What this node's copy of the log holds, it holds in the order of offsets and without holes,
//! whichever way an entry came here: as the answer to a change, published, or read from the
//! store's log because it was published in vain. A room that the store has lost, in whole or at
//! its end, begins another life: its members here are members again, and start anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use handover_protocol::room::entry::{Entry, Event};
use handover_protocol::room::{Refusal, Sent, Snapshot};
use handover_protocol::session::{RoomLog, Slot};
use handover_protocol::time::Time;
use handover_protocol::wire::message::{LeaveReason, Member, Positions};
use handover_protocol::wire::{LogLane, PeerId, PerLane};

use super::answers::{Asked, Then};
use super::opening::Opening;
use super::{LiveRoom, Seated};
use crate::broker::{Change, Done, Heard, RoomOp, RoomState, Unavailable};
use crate::router::live_log::SharedLog;
use crate::router::mailbox::Notice;
use crate::router::seat::Seat;

/// Members seen to in one script: as many as are asked for in a batch, or so.
const AT_ONCE: usize = 64;
/// Whoever was told that a join cannot be stored asks again by then, or does without.
const ASKED_AGAIN_WITHIN: Duration = Duration::from_secs(5);
/// News taken in at once.
const HEARD_MAX: usize = 256;

type Results = Vec<Result<Done, Refusal>>;

impl Seated {
    pub(super) fn new(seat: Arc<Seat>, slot: Slot, snapshot: &Snapshot) -> Self {
        let is_own = |member: &&Member| member.peer == seat.author.peer;
        let shown = snapshot.members.iter().find(is_own);
        let metadata = shown.map(|member| member.metadata.clone());
        Seated { seat, slot, metadata, seq: snapshot.seq }
    }

    pub(super) fn mark(&self, lane: LogLane) {
        self.seat.mailbox.mark(self.slot.index, lane);
    }
}

impl LiveRoom {
    /// Seats a member. Says who sat there before.
    pub(super) fn seat(&mut self, seated: Seated) -> Option<Seated> {
        self.vacant_since = None;
        seated.seat.enter(&self.name);
        self.absent.remove(&seated.seat.author.peer);
        self.seats.insert(seated.seat.author.peer, seated)
    }

    /// Takes the seat of who is no member any more.
    pub(super) fn unseat(&mut self, peer: PeerId) -> Option<Arc<Seat>> {
        self.absent.remove(&peer);
        let Seated { seat, .. } = self.seats.remove(&peer)?;
        seat.exit(&self.name);
        Some(seat)
    }

    /// Gives the snapshots that could not be had before, if they can be now.
    pub(super) async fn pay(&mut self) {
        let (seats, owed) = (&self.seats, &mut self.owed);
        let is_here = |seat: &Arc<Seat>| {
            seats.get(&seat.author.peer).is_some_and(|held| Arc::ptr_eq(&held.seat, seat))
        };
        owed.retain(|(seat, ..)| is_here(seat));
        while !self.owed.is_empty() {
            let Ok(log) = self.load().await else { return };
            let some: Vec<_> = self.owed.drain(..self.owed.len().min(AT_ONCE)).collect();
            let left = self.owed.len();
            let ask = |author| RoomOp { author, change: Change::Snapshot };
            let ops = some.iter().map(|(seat, ..)| ask(seat.author)).collect();
            let then = some
                .into_iter()
                .map(|(seat, slot, reason)| Then::Answer(seat, slot, Asked::Snapshot { reason }));
            self.change(log, ops, then.collect()).await;
            if self.owed.len() > left {
                return;
            }
        }
    }

    /// Lets go of what only members here need: whoever comes next has it from the broker.
    pub(super) fn unfollow(&mut self) {
        self.news = None;
        self.log = None;
        self.opening = None;
        self.in_doubt = false;
    }

    /// What other nodes did, once there is something.
    pub(in crate::router) fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Heard>> {
        let mut heard = Vec::new();
        while heard.len() < HEARD_MAX
            && let Some(news) = &mut self.news
        {
            match news.poll_heard(cx) {
                Poll::Ready(Some(one)) => heard.push(one),
                // The broker is being taken down.
                Poll::Ready(None) => self.news = None,
                Poll::Pending => break,
            }
        }
        if heard.is_empty() { Poll::Pending } else { Poll::Ready(heard) }
    }

    pub(super) async fn hear(&mut self, heard: Vec<Heard>) {
        let Some(log) = self.log.clone() else { return };
        for heard in heard {
            match heard {
                Heard::Entry(entry) => self.in_doubt |= !self.take_in(&log, entry),
                Heard::Ephemeral(ephemeral) => self.pass_on(*ephemeral),
                Heard::Resumed(peer, generation) => self.replaced(peer, generation),
                Heard::Doubt => {
                    self.in_doubt = true;
                    self.unhomed = true;
                }
            }
        }
        if self.in_doubt
            && let Err(unavailable) = self.catch_up(&log).await
        {
            tracing::debug!(room = self.name.as_str(), error = %unavailable, "the log is not read yet");
        }
        self.mark();
    }

    /// A newer connection speaks for a member, wherever it is.
    fn replaced(&mut self, peer: PeerId, generation: u64) {
        self.absent.remove(&peer);
        if self.seats.get(&peer).is_some_and(|s| s.seat.author.generation < generation)
            && let Some(older) = self.seats.remove(&peer)
        {
            older.seat.replace();
        }
    }

    /// Adds an entry if it is the next one. Says whether nothing is missing before it.
    pub(super) fn take_in(&mut self, log: &SharedLog, entry: Arc<Entry>) -> bool {
        if entry.epoch != log.epoch() {
            return false;
        }
        // Whether it has a place in the log yet or not: it was applied.
        if let (Event::Message { seq, .. }, Some(seated)) =
            (&entry.event, self.seats.get_mut(&entry.peer))
        {
            let highest = &mut seated.seq[entry.lane];
            *highest = (*highest).max(*seq);
        }
        let last = log.last(entry.lane);
        if entry.offset == last + 1 {
            self.append(log, entry);
            return true;
        }
        entry.offset <= last
    }

    /// Notes what would be needed if the room's life were lost.
    pub(super) fn remember(&mut self, entry: &Entry) {
        if matches!(entry.event, Event::Left { .. }) {
            self.absent.remove(&entry.peer);
        }
        let Some(seated) = self.seats.get_mut(&entry.peer) else { return };
        match &entry.event {
            Event::Updated { metadata } => seated.metadata = Some(metadata.clone()),
            // This node was taken for dead.
            Event::Away => self.unhomed = true,
            Event::Left { reason: LeaveReason::Expired } => {
                // ... for so long that the client has to learn that it is in the room no more.
                seated.seat.mailbox.notify(Notice::RoomLost);
                self.unseat(entry.peer);
            }
            Event::Left { .. } => self.departed.push(entry.peer),
            Event::Joined { .. } => self.departed.retain(|peer| *peer != entry.peer),
            Event::Message { .. } | Event::Back => {}
        }
    }

    /// Looks after what came up while other things were done.
    pub(super) async fn settle_doubts(&mut self, tidy: bool) {
        for peer in std::mem::take(&mut self.departed) {
            // A `leave` that was answered as unavailable was applied after all.
            if let Some(seat) = self.unseat(peer) {
                seat.mailbox.notify(Notice::RoomLost);
            }
        }
        let strangers = std::mem::take(&mut self.strangers);
        let revived = strangers.iter().map(|seat| self.shared.revive(seat));
        for revived in futures_util::future::join_all(revived).await {
            if let Err(error) = revived {
                // Looked after with all sessions of this node, or at its next change.
                tracing::debug!(%error, "a session is not recorded again yet");
            }
        }
        let settled = async {
            // First those who are here: housekeeping may find that nobody has them.
            self.take_home().await?;
            if tidy {
                self.keep_up().await?;
            }
            Ok(())
        };
        if let Err::<(), Unavailable>(unavailable) = settled.await {
            tracing::debug!(room = self.name.as_str(), error = %unavailable, "not settled yet");
        }
        self.mark();
    }

    /// Says that the members who are here are here, if that may have been lost or doubted.
    pub(super) async fn take_home(&mut self) -> Result<(), Unavailable> {
        if !std::mem::take(&mut self.unhomed) {
            return Ok(());
        }
        let here = self.seats.values().map(|seated| seated.seat.author);
        let back = |author| RoomOp { author, change: Change::MarkAway(false) };
        let back: Vec<RoomOp> = here.map(back).collect();
        for some in back.chunks(AT_ONCE) {
            let back = self.apply(some.to_vec()).await;
            self.unhomed |= back.is_err();
            for (RoomOp { author, .. }, done) in some.iter().zip(back?) {
                if matches!(done, Ok(Done::Fenced)) {
                    // Where it was taken over that was said, and not heard here.
                    self.replaced(author.peer, author.generation + 1);
                }
            }
        }
        Ok(())
    }

    /// Takes those out who joined though they were told that they cannot, and have not asked again.
    pub(super) async fn take_back(&mut self, now: Time) -> Result<(), Unavailable> {
        let seats = &self.seats;
        self.unanswered.retain(|peer, _| !seats.contains_key(peer));
        let late = self.unanswered.values().filter(|(_, at)| now.since(*at) > ASKED_AGAIN_WITHIN);
        let leave = |author| RoomOp { author, change: Change::Leave(LeaveReason::Left) };
        let late: Vec<RoomOp> = late.map(|(author, _)| leave(*author)).take(AT_ONCE).collect();
        if late.is_empty() {
            return Ok(());
        }
        self.apply(late.clone()).await?;
        for RoomOp { author, .. } in late {
            self.unanswered.remove(&author.peer);
        }
        Ok(())
    }

    /// Has changes applied, to the room's next life if this one turns out to be lost.
    pub(super) async fn apply(&mut self, ops: Vec<RoomOp>) -> Result<Results, Unavailable> {
        // First: whether others have the room, too, and it may be lost, is known by then.
        self.load().await?;
        let again = if self.news.is_some() { ops.clone() } else { Vec::new() };
        if let Some(results) = self.apply_here(ops).await? {
            return Ok(results);
        }
        if self.news.is_some() {
            self.begin_again().await?;
            if let Some(results) = self.apply_here(again).await? {
                return Ok(results);
            }
        }
        Err(Unavailable("the room's life is lost".to_owned()))
    }

    /// `None` if the room is in another life than this node knows.
    async fn apply_here(&mut self, ops: Vec<RoomOp>) -> Result<Option<Results>, Unavailable> {
        let log = self.load().await?;
        let now = self.shared.clock.now();
        let known = Some(log.positions());
        let results = self.shared.broker.apply(now, &self.name, known, ops).await?;
        let Some(results) = results else { return Ok(None) };
        let mut in_step = true;
        let mut reached = log.positions();
        for done in results.iter().flatten() {
            let (entry, at) = traces(done);
            if let Some(entry) = entry {
                in_step &= self.take_in(&log, entry.clone());
            }
            if let Some(at) = at {
                reached.signal = reached.signal.max(at.signal);
                reached.bulk = reached.bulk.max(at.bulk);
            }
        }
        // What was done elsewhere before comes first, whoever hears of it first.
        if !in_step || !is_past(log.positions(), reached) {
            self.catch_up(&log).await?;
            if self.log.as_ref().is_none_or(|newest| !Arc::ptr_eq(newest, &log)) {
                return Err(Unavailable("the room's life ended under its changes".to_owned()));
            }
            // What was looked at is shown if it is there to stay.
            if !is_past(log.positions(), reached) {
                return Err(Unavailable("what was seen is lost again".to_owned()));
            }
        }
        Ok(Some(results))
    }

    /// Reads what is missing from the store's log.
    async fn catch_up(&mut self, log: &SharedLog) -> Result<(), Unavailable> {
        self.in_doubt = true;
        self.shared.metrics.log_read();
        let known = log.positions();
        let after = PerLane { signal: known.signal, bulk: known.bulk };
        match self.shared.broker.read(&self.name, after).await? {
            Some(state) if is_past(state.positions, known) => self.fill(log, state),
            _ => {
                // Gone, or begun anew, or set back: the last of these shows itself here.
                let now = self.shared.clock.now();
                if self.shared.broker.trim(now, &self.name, Some(known)).await?.is_some() {
                    return Err(Unavailable("the room is in doubt".to_owned()));
                }
                self.begin_again().await?;
            }
        }
        self.in_doubt = false;
        Ok(())
    }

    fn fill(&mut self, log: &SharedLog, state: RoomState) {
        let RoomState { positions, entries } = state;
        for (lane, entries) in [(LogLane::Signal, entries.signal), (LogLane::Bulk, entries.bulk)] {
            let before = entries.first().map_or(positions.on(lane).offset, |e| e.offset - 1);
            if before > log.last(lane) {
                // It is no longer held. Who has not read up to here learns that.
                log.skip_to(lane, before);
                self.marks[lane].everybody = true;
            }
            for entry in entries {
                self.take_in(log, entry);
            }
        }
    }

    /// Retention, and a look at whether anything was missed.
    pub(super) async fn keep_up(&mut self) -> Result<(), Unavailable> {
        let now = self.shared.clock.now();
        let log = self.log.clone();
        let known = log.as_ref().map(|log| log.positions());
        let at = self.shared.broker.trim(now, &self.name, known).await?;
        match (log, at, known) {
            (Some(log), Some(at), Some(known)) if self.in_doubt || !is_past(known, at) => {
                self.catch_up(&log).await
            }
            (Some(_), None, _) if self.news.is_some() => self.begin_again().await,
            _ => Ok(()),
        }
    }

    /// The store has lost the room's life: its next one begins with the members that are here.
    /// They read what they have of the old one, and are then sent to start again.
    async fn begin_again(&mut self) -> Result<(), Unavailable> {
        let Some(old) = self.log.clone() else { return Ok(()) };
        if self.seats.is_empty() {
            old.end();
            // Nor is anybody a member who was.
            self.absent.clear();
            self.unfollow();
            return Ok(());
        }
        let log = self.load_newest().await?;
        let broker = &self.shared.broker;
        let revived = self.seats.values().filter_map(|Seated { seat, .. }| {
            let record = seat.kept.as_ref()?.record(seat.author);
            Some(async { (seat.author.peer, broker.revive(record).await) })
        });
        let revived: Vec<_> = revived.collect();
        for (peer, is_current) in futures_util::future::join_all(revived).await {
            if !is_current? && let Some(older) = self.seats.remove(&peer) {
                older.seat.replace();
            }
        }
        let joins = self.seats.values().map(|Seated { seat, metadata, seq, .. }| RoomOp {
            author: seat.author,
            change: Change::Rejoin {
                user: seat.user.clone(),
                metadata: metadata.clone(),
                seq: *seq,
            },
        });
        let joins: Vec<RoomOp> = joins.collect();
        let mut joined = Vec::with_capacity(joins.len());
        let mut seen = None;
        let mut waiting = joins.chunks(AT_ONCE).peekable();
        while let Some(some) = waiting.next() {
            let (now, known) = (self.shared.clock.now(), Some(log.positions()));
            let mut ops = some.to_vec();
            let is_last = waiting.peek().is_none();
            // Behind all of them: where they start.
            ops.extend(
                some.first()
                    .filter(|_| is_last)
                    .map(|join| RoomOp { author: join.author, change: Change::Snapshot }),
            );
            let done = self.shared.broker.apply(now, &self.name, known, ops).await?;
            joined.extend(done.ok_or_else(|| Unavailable("the room is gone again".to_owned()))?);
            seen = if is_last { joined.pop() } else { None };
        }
        let mut to_come = HashMap::new();
        for (join, joined) in joins.into_iter().zip(joined) {
            if let Ok(Done::Rejoined(place, _)) = joined {
                to_come.insert(join.author.peer, place.seq);
                continue;
            }
            if let Some(seat) = self.unseat(join.author.peer) {
                match joined {
                    Ok(Done::Fenced) => seat.replace(),
                    // The client comes back, and learns that it is in the room no more.
                    _ => seat.mailbox.notify(Notice::RoomLost),
                }
            }
        }
        tracing::warn!(room = self.name.as_str(), epoch = %log.epoch(), "the room begins again: it was lost");
        let Positions { signal, bulk, .. } = log.positions();
        let state = self.shared.broker.read(&self.name, PerLane { signal, bulk }).await?;
        let state = state.filter(|state| is_past(state.positions, log.positions()));
        let state = state.ok_or_else(|| Unavailable("the room is gone again".to_owned()))?;
        self.fill(&log, state);
        if let Some(Ok(Done::Snapshot(seen))) = seen {
            self.opening = Some(Opening::new(self.shared.clock.now(), seen, to_come));
        }
        old.end();
        self.log = Some(log);
        self.in_doubt = false;
        // What the store still had of them may be of some time ago.
        self.unhomed = true;
        LogLane::ALL.into_iter().for_each(|lane| self.marks[lane].everybody = true);
        // At once: what found it out may still have long to wait for.
        self.mark();
        Ok(())
    }
}

/// Whether `at` is as far as `known`, in the same life.
fn is_past(at: Positions, known: Positions) -> bool {
    at.epoch == known.epoch && at.signal >= known.signal && at.bulk >= known.bulk
}

/// What became of a change, as it shows in the logs: its entry, and how far they went.
fn traces(done: &Done) -> (Option<&Arc<Entry>>, Option<Positions>) {
    match done {
        Done::Joined(joining) => (joining.entry.as_ref(), Some(joining.snapshot.positions)),
        Done::Rejoined(place, entry) => (entry.as_ref(), Some(place.positions)),
        Done::Place(place) => (None, Some(place.positions)),
        Done::Left(entry, at) => (entry.as_ref(), Some(*at)),
        Done::Updated(entry) | Done::Sent(Sent::Appended(entry)) => (Some(entry), None),
        Done::Marked(entry) => (entry.as_ref(), None),
        Done::Snapshot(snapshot) => (None, Some(snapshot.positions)),
        Done::Sent(Sent::Duplicate(_)) | Done::Passed | Done::Fenced => (None, None),
    }
}
