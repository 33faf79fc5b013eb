//! A live room on this node: serialises what its members ask.
//!
//! It has the broker apply what is asked, copies the entries into this node's log and marks
//! the members that have something to read. It never waits for a member.

mod answers;
mod following;
mod opening;
mod share;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use handover_protocol::limits::ROOM_LINGER;
use handover_protocol::room::entry::{Entry, Ephemeral, Event};
use handover_protocol::room::log::Trimmed;
use handover_protocol::session::outbox::Kept;
use handover_protocol::session::{Outcome, Reply, Slot};
use handover_protocol::time::Time;
use handover_protocol::wire::message::ResetReason;
use handover_protocol::wire::{Json, LogLane, PeerId, PerLane, RoomName};

use super::Shared;
use super::handle::Command;
use super::live_log::{LiveLog, SharedLog};
use super::mailbox::Notice;
use super::seat::Seat;
use crate::broker::{Author, Change, Done, Heard, News, RoomOp, Unavailable};
use answers::{Then, UNAVAILABLE, split};
use opening::Opening;

/// Every this many entries of directed traffic, those it is not for move on as well.
const STRIDE: u64 = 32;

/// Whom to mark on a lane once a batch is done.
#[derive(Debug, Default)]
struct Marks {
    everybody: bool,
    some: Vec<PeerId>,
}

/// A member with a connection on this node.
#[derive(Debug)]
struct Seated {
    seat: Arc<Seat>,
    slot: Slot,
    /// What it shows of itself,
    metadata: Option<Json>,
    /// and the highest `seq` applied for it: for the room's next life, should this one be lost.
    seq: PerLane<u64>,
}

/// A room's state on this node. Whoever holds it serves the room: its task, or a connection
/// that asks for something while nothing waits.
#[derive(Debug)]
pub(super) struct LiveRoom {
    shared: Arc<Shared>,
    name: RoomName,
    /// Loaded before the first change.
    log: Option<SharedLog>,
    /// The members with a connection on this node.
    seats: HashMap<PeerId, Seated>,
    /// Members whose last connection here has gone, and who have neither left nor come back elsewhere.
    absent: HashSet<PeerId>,
    /// What other nodes do to it, if there are any.
    news: Option<News>,
    /// Something may have been missed and could not be read.
    in_doubt: bool,
    /// Those that the broker does not know, or not under their generation.
    strangers: Vec<Arc<Seat>>,
    /// Members here may be taken for away, or to have been on a node that died.
    unhomed: bool,
    /// Since when a room that others have, too, has had no seat here.
    vacant_since: Option<Time>,
    /// Those who are seated here and have left, if nobody here asked for that.
    departed: Vec<PeerId>,
    /// Where members start in the life that has begun instead of one that was lost.
    opening: Option<Opening>,
    /// Those whose joins were not answered by the store, since when, and may have been applied.
    unanswered: HashMap<PeerId, (Author, Time)>,
    /// Snapshots that could not be had.
    owed: Vec<(Arc<Seat>, Slot, ResetReason)>,
    /// What members have to show by their tokens, and may not show yet.
    unfixed: Vec<(Author, Json)>,
    marks: PerLane<Marks>,
    /// Whether entries were appended that not every member was marked for.
    left_behind: PerLane<bool>,
    /// It ends in order, with nobody in it or with the gateway.
    dismissed: bool,
}

impl LiveRoom {
    /// A room that nobody has asked for anything yet.
    pub(super) fn new(shared: Arc<Shared>, name: RoomName) -> Self {
        shared.metrics.rooms.inc();
        LiveRoom {
            shared,
            name,
            log: None,
            seats: HashMap::new(),
            absent: HashSet::new(),
            news: None,
            in_doubt: false,
            strangers: Vec::new(),
            unhomed: false,
            vacant_since: None,
            departed: Vec::new(),
            opening: None,
            unanswered: HashMap::new(),
            owed: Vec::new(),
            unfixed: Vec::new(),
            marks: PerLane::default(),
            left_behind: PerLane::default(),
            dismissed: false,
        }
    }

    /// Lets it end with its members where they are.
    pub(super) fn dismiss(mut self) {
        self.dismissed = true;
    }

    /// Serves a member's request if that needs no waiting; otherwise gives it back.
    pub(super) fn handle_at_once(&mut self, command: Command) -> Result<(), Command> {
        let Command::Request(request) = command else { return Err(command) };
        let (Some(log), Some(broker)) = (self.log.clone(), self.shared.broker.at_hand()) else {
            return Err(Command::Request(request));
        };
        let (seat, slot, op) = *request;
        let author = seat.author;
        let (change, asked) = split(&seat, op);
        let now = self.shared.clock.now();
        let result = broker.apply_one(now, &self.name, RoomOp { author, change });
        self.finish(&log, result, Then::Answer(seat, slot, asked));
        self.mark();
        Ok(())
    }

    /// Serves what has gathered.
    pub(super) async fn handle(&mut self, heard: Vec<Heard>, batch: Vec<Command>) {
        self.hear(heard).await;
        self.pay().await;
        let tidy = batch.iter().any(|command| matches!(command, Command::Tidy));
        let needs_log = |command: &Command| !matches!(command, Command::Detach(_) | Command::Tidy);
        if self.unfixed.is_empty() && !batch.iter().any(needs_log) {
            // A room that nobody here is in is not read for these.
            for command in batch {
                if let Command::Detach(seat) = command {
                    self.detach(&seat);
                }
            }
            return self.settle_doubts(tidy).await;
        }
        let log = match self.load().await {
            Ok(log) => log,
            Err(unavailable) => return self.refuse_all(batch, &unavailable),
        };
        let mut ops = Vec::with_capacity(batch.len());
        let mut then = Vec::with_capacity(batch.len());
        let mut gone = Vec::new();
        let unfixed = std::mem::take(&mut self.unfixed).into_iter();
        let batch = unfixed.map(|(author, shown)| Command::Fix(author, shown)).chain(batch);
        for command in batch {
            match command {
                Command::Request(request) => {
                    let (seat, slot, op) = *request;
                    let author = seat.author;
                    let opening = self.opening_for(author.peer, &op);
                    let (change, asked) = split(&seat, op);
                    let answer = Then::Answer(seat, slot, asked);
                    if let Some(snapshot) = opening {
                        self.finish(&log, Ok(Done::Snapshot(snapshot)), answer);
                    } else {
                        ops.push(RoomOp { author, change });
                        then.push(answer);
                    }
                }
                Command::Attach(attach) => {
                    let author = attach.seat.author;
                    ops.push(RoomOp { author, change: Change::MarkAway(false) });
                    then.push(Then::Marked(None));
                    ops.push(RoomOp { author, change: Change::Place });
                    then.push(Then::Attach(attach));
                }
                Command::Away(author, done) => {
                    ops.push(RoomOp { author, change: Change::MarkAway(true) });
                    then.push(Then::Marked(Some(done)));
                }
                Command::Remove(author, reason, done) => {
                    ops.push(RoomOp { author, change: Change::Leave(reason) });
                    then.push(Then::Removed(author.peer, done));
                }
                Command::Fix(author, metadata) => {
                    if !self.shows(author.peer, &metadata) {
                        ops.push(RoomOp { author, change: Change::Fix(metadata.clone()) });
                        then.push(Then::Fixed(author, metadata));
                    }
                }
                Command::Detach(seat) => gone.push(seat),
                Command::Tidy => {}
            }
        }
        self.change(log, ops, then).await;
        // Last, for a seat may have been taken in this very batch.
        gone.iter().for_each(|seat| self.detach(seat));
        self.settle_doubts(tidy).await;
    }

    /// Has changes applied and answered.
    async fn change(&mut self, log: SharedLog, ops: Vec<RoomOp>, then: Vec<Then>) {
        let applied = self.apply(ops).await;
        let log = self.log.clone().unwrap_or(log);
        match applied {
            Ok(results) => {
                for (result, then) in results.into_iter().zip(then) {
                    self.finish(&log, result, then);
                }
            }
            Err(unavailable) => {
                tracing::debug!(room = self.name.as_str(), error = %unavailable, "changes refused");
                then.into_iter().for_each(|then| self.finish(&log, Err(UNAVAILABLE), then));
            }
        }
        self.mark();
    }

    /// The log, from the broker if this is the first time.
    async fn load(&mut self) -> Result<SharedLog, Unavailable> {
        if let Some(log) = &self.log {
            return Ok(log.clone());
        }
        if self.news.is_none() {
            // Before it is loaded: nothing is missed in between.
            let news = self.shared.broker.follow(&self.name).await?;
            if news.is_some() {
                // Whose node has died while nobody had the room is away by the time it is shown, or gone.
                self.shared.broker.trim(self.shared.clock.now(), &self.name, None).await?;
            }
            self.news = news;
        }
        let log = self.load_newest().await?;
        self.log = Some(log.clone());
        Ok(log)
    }

    async fn load_newest(&self) -> Result<SharedLog, Unavailable> {
        let fresh =
            self.shared.identifiers.epoch().map_err(|error| Unavailable(error.to_string()))?;
        let now = self.shared.clock.now();
        let state = self.shared.broker.load(now, &self.name, fresh).await?;
        Ok(Arc::new(LiveLog::new(state, self.shared.metrics.log_bytes.clone())))
    }

    fn append(&mut self, log: &SharedLog, entry: Arc<Entry>) {
        // What a member shows is wanted wherever the room is kept.
        if self.news.is_some() || matches!(entry.event, Event::Updated { .. }) {
            self.remember(&entry);
        }
        let marks = &mut self.marks[entry.lane];
        match &entry.event {
            Event::Message { to: Some(to), .. } if !entry.offset.is_multiple_of(STRIDE) => {
                marks.some.extend([entry.peer, *to]);
                self.left_behind[entry.lane] = true;
            }
            _ => marks.everybody = true,
        }
        let keep = &self.shared.room_limits.retention[entry.lane];
        let trimmed = log.append(entry, keep);
        if trimmed != Trimmed::default() {
            self.shared.metrics.trimmed(&trimmed);
        }
    }

    /// Has a member show this before long.
    fn owe_fixed(&mut self, author: Author, metadata: Json) {
        self.unfixed.retain(|(other, _)| other.peer != author.peer);
        self.unfixed.push((author, metadata));
    }

    /// Whether a member here shows exactly this.
    fn shows(&self, peer: PeerId, metadata: &Json) -> bool {
        self.seats.get(&peer).is_some_and(|seated| seated.metadata.as_ref() == Some(metadata))
    }

    /// Tells the members' connections that there is something to read.
    fn mark(&mut self) {
        self.keep_to_share();
        for lane in LogLane::ALL {
            let marks = &mut self.marks[lane];
            if std::mem::take(&mut marks.everybody) {
                marks.some.clear();
                self.left_behind[lane] = false;
                self.seats.values().for_each(|seated| seated.mark(lane));
            } else {
                for peer in marks.some.drain(..) {
                    if let Some(seated) = self.seats.get(&peer) {
                        seated.mark(lane);
                    }
                }
            }
        }
    }

    fn pass_on(&self, ephemeral: Ephemeral) {
        let from = ephemeral.from;
        let reach = |Seated { seat, .. }: &Seated| {
            let frame = ephemeral.frame(seat.mailbox.codec());
            if seat.mailbox.push_ephemeral(frame) == Kept::InsteadOfOldest {
                self.shared.metrics.ephemeral_overtaken();
            }
        };
        match ephemeral.to {
            Some(to) => self.seats.get(&to).into_iter().for_each(reach),
            None => self.seats.values().filter(|s| s.seat.author.peer != from).for_each(reach),
        }
    }

    fn left(&mut self, log: &SharedLog, peer: PeerId, entry: Option<Arc<Entry>>) {
        self.unseat(peer);
        if let Some(entry) = entry {
            self.take_in(log, entry);
        }
    }

    /// Members with a connection here.
    pub(super) fn seats(&self) -> usize {
        self.seats.len()
    }

    fn detach(&mut self, seat: &Arc<Seat>) {
        let held = self.seats.get(&seat.author.peer);
        if held.is_some_and(|held| Arc::ptr_eq(&held.seat, seat)) {
            self.seats.remove(&seat.author.peer);
            if self.news.is_some() {
                self.absent.insert(seat.author.peer);
            }
        }
    }

    /// Retention by age, and marks for members that directed traffic left behind. Says
    /// whether the room is gone.
    pub(super) async fn tidy(&mut self) -> bool {
        let now = self.shared.clock.now();
        self.close_opening(now);
        if let Some(log) = &self.log {
            let trimmed = log.trim(now, &self.shared.room_limits.retention);
            self.shared.metrics.trimmed(&trimmed);
        }
        for lane in LogLane::ALL {
            self.marks[lane].everybody = self.left_behind[lane];
        }
        self.mark();
        let tidied = async {
            self.take_home().await?;
            self.keep_up().await?;
            self.take_back(now).await?;
            if !self.seats.is_empty() {
                return Ok(false);
            }
            let since = *self.vacant_since.get_or_insert(now);
            let has_others = self.shared.broker.at_hand().is_none();
            // Who was here last may come again at once.
            if has_others && self.absent.is_empty() && since < now {
                self.unfollow();
            }
            // Other nodes have members of it still? Then it is theirs.
            let is_over = has_others && now.since(since) > ROOM_LINGER;
            Ok(self.shared.broker.remove_if_empty(now, &self.name).await? || is_over)
        };
        let is_gone = tidied.await.unwrap_or_else(|unavailable: Unavailable| {
            tracing::debug!(room = self.name.as_str(), error = %unavailable, "room not tidied");
            false
        });
        self.handle(Vec::new(), Vec::new()).await;
        is_gone
    }

    /// Takes the room out of the router's table unless somebody has turned to it meanwhile.
    pub(super) fn retire(&mut self, is_idle: impl FnOnce() -> bool) -> bool {
        // If the room is gone, its next life has a new epoch; otherwise what follows is not heard
        // here: this log is of no more use.
        self.unfollow();
        let mut rooms = self.shared.rooms();
        // Handles are only ever taken from the table under its lock: with the table's own as
        // the last one, nothing can be on its way.
        let idle = is_idle();
        if idle {
            rooms.remove(&self.name);
            self.dismissed = true;
        }
        idle
    }

    fn refuse_all(&mut self, batch: Vec<Command>, unavailable: &Unavailable) {
        tracing::debug!(room = self.name.as_str(), error = %unavailable, "room not loaded");
        for command in batch {
            match command {
                Command::Request(request) => {
                    let (seat, slot, op) = *request;
                    let (about, refusal) = (op.about(), UNAVAILABLE);
                    let outcome = Outcome::Refused { about, refusal, at: 0 };
                    seat.mailbox.notify(Notice::Reply(Reply { slot, outcome }));
                }
                Command::Fix(author, metadata) => self.owe_fixed(author, metadata),
                // Asked for again by those who need an answer.
                _ => {}
            }
        }
    }
}

impl Drop for LiveRoom {
    fn drop(&mut self) {
        self.shared.metrics.rooms.dec();
        if !self.dismissed {
            // Whoever served it has panicked. The members' logs would never grow again.
            self.seats.values().for_each(|s| s.seat.mailbox.notify(Notice::RoomLost));
        }
    }
}
