//! Rooms and sessions in Redis, shared by every node that is given the same one.
//!
//! # What lies where
//! A room has five keys in one hash slot: `handover:{r:NAME}:` and `meta` (the epoch, the last
//! offsets, the bytes held and shown, since when it is empty), `members`, `s` and `b` (the logs: lists
//! of lines), `past` (the newest generation and the highest `seq`s of sessions, kept while the
//! session or the room lives, and the node that each member is on). A session has three:
//! `handover:{s:ID}:` and `record`, `rooms`, `ever`. `handover:nodes` says which nodes there are.
//! NAME is base64: nothing in a room's name means anything to Redis. News of a room go through
//! the channel `handover:{r:NAME}:news`, a sharded one in a Redis Cluster.
//!
//! # What it costs
//! One round trip for any number of changes of a room, by one script; one more before it if a
//! session joins, and one after it if one leaves, for the session's record lies elsewhere. A
//! resume takes four: the record is read, raised, read again, and its rooms are fenced, all at
//! once. Replicas that are waited for ([`Options::replicas`]) are asked in the same round trip.
//!
//! # Order of writing
//! A session's record names a room before the room has the member, and until after it has
//! lost it: whatever is cut short in between, `resume` finds every room there is to find, and
//! those it is not in any more say so.
//!
//! # When Redis loses what it had said
//! A failover to a replica that lags, or a restart from an older file, shows as a log that ends
//! before what this node has seen of it, or that has something else at the last offset it has
//! seen. Every script about a room is told what that is, and begins a new epoch if so, with the
//! members who are in it; those whom no node says it has, had left. Who knows what was lost may
//! not ask first, or not at all. So a room remembers which process it was with: in another one
//! it waits for a second, in which all who follow it read what there is, and begins a new epoch,
//! unless that process is the same one started again with its file, or the room has moved. With
//! replicas waited for, nothing is answered or heard that fewer of them have. It waits then, too, for
//! another one may have taken over, but goes on in its epoch unless a node knows more, or the process
//! was never given anything by a master: that is no replica, but a master started again.

mod address;
mod board;
mod census;
mod change;
mod find;
mod follow;
mod keys;
mod process;
mod read;
mod rooms;
mod scripts;
mod sessions;
mod stored;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use handover_protocol::limits::{ROOM_LINGER, SEQ_ROOMS_MAX};
use handover_protocol::room::{Refusal, RoomLimits};
use handover_protocol::session::grant::Admission;
use handover_protocol::time::Time;
use handover_protocol::wire::message::Positions;
use handover_protocol::wire::{Epoch, ErrorCode, LogLane, PerLane, RoomName, SessionId};
use redis::{FromRedisValue, Value};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Semaphore, oneshot, watch};

use super::{
    Author, Broker, Change, Done, Keeping, News, ResumeError, Retired, RoomOp, RoomState,
    SecretHash, SessionRecord, Unavailable,
};
use crate::clock::Clock;
pub use address::BadAddress;
use address::{Address, Way};
use board::{Board, Held};
use census::{Census, terms};
use change::{Recorded, Roster, done, housekeeping, op_args, stands};
pub use find::Keeper;
use follow::Follow;
use keys::RoomKeys;
use read::READ_AT_ONCE;
use rooms::{Rooms, Seen};
use scripts::Scripts;
use stored::{Fields, garbled};

/// An answer that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// After a loss, or when there may be one, those who know more of a room have this long to say so,
/// and those who have members in it to come back.
const HEED: Duration = Duration::from_millis(800);
/// Between two tries while a room waits for those who know more of it.
const HEED_PAUSE: Duration = Duration::from_millis(50);
/// Sessions are kept this much longer than their resume window without a node that keeps them:
/// more than one [`KEEP_EVERY`](super::KEEP_EVERY), so that none is lost while its node lives.
const KEEP_MARGIN: Duration = Duration::from_secs(60);
/// What sessions did in a room is remembered this long without the room.
const PAST_KEPT: Duration = Duration::from_secs(7 * 86_400);
/// A room with members goes when no node has looked after it for this long.
const ROOM_KEPT: Duration = Duration::from_secs(86_400);

/// What to add to this node's time to get that of Redis, microseconds.
#[derive(Clone, Copy)]
struct Shift(i64);

impl Shift {
    /// `there` is the answer to TIME, which was asked at `here`.
    fn between(here: Time, there: Value) -> Result<Shift, Unavailable> {
        let read = <(i64, i64)>::from_redis_value(there);
        let (seconds, micros) = read.map_err(|_| garbled("a time"))?;
        let there = seconds.saturating_mul(1_000_000).saturating_add(micros);
        let here = i64::try_from(here.as_micros()).unwrap_or(i64::MAX);
        Ok(Shift(there.saturating_sub(here)))
    }

    fn to_there(self, time: Time) -> u64 {
        time.as_micros().saturating_add_signed(self.0)
    }

    /// What happened before this node began, happened when it did.
    fn to_here(self, there: u64) -> Time {
        Time::from_micros(there.saturating_add_signed(self.0.saturating_neg()))
    }
}

/// How a Redis is used.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bounds on rooms.
    pub limits: RoomLimits,
    /// How long a session is kept without a connection.
    pub resume_window: Duration,
    /// How many replicas have to have what is answered as done.
    pub replicas: u32,
}

/// Rooms and sessions in a Redis.
pub struct RedisBroker {
    board: Arc<Board>,
    rooms: Arc<Rooms>,
    scripts: Scripts,
    limits: RoomLimits,
    session_kept: Duration,
    /// The command to publish with.
    publish: &'static str,
    database: i64,
    node: String,
    random: SystemRandom,
    clock: Clock,
    /// Held for a copy at a time.
    census: Mutex<Census>,
    /// Rooms with more to read than fits one answer take turns.
    reading: Semaphore,
    /// What this node goes by, and how many others go by something else.
    terms: String,
    at_odds: watch::Sender<usize>,
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the connection: nobody has to wonder what it shows of itself.
        f.debug_struct("RedisBroker").field("node", &self.node).finish_non_exhaustive()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl RedisBroker {
    /// The broker, and what keeps its connections, which has to be run. Nothing is connected
    /// yet: without a Redis everything is refused until there is one.
    pub fn open(
        address: &str,
        options: Options,
        clock: Clock,
    ) -> Result<(RedisBroker, Keeper), BadAddress> {
        let address = Address::parse(address)?;
        let random = SystemRandom::new();
        let node = token(&random).map_err(|_| BadAddress::new("no randomness to be had"))?;
        let (board, rooms) = (Arc::new(Board::new(options.replicas)), Arc::new(Rooms::default()));
        let publish = if address.way == Way::Cluster { "SPUBLISH" } else { "PUBLISH" };
        let database = address.database();
        let keeper = Keeper {
            address,
            board: board.clone(),
            rooms: rooms.clone(),
            clock,
            node: node.clone(),
        };
        let (terms, at_odds) = (terms(&options), watch::Sender::new(0));
        let Options { limits, resume_window, .. } = options;
        let (scripts, session_kept) = (Scripts::new(), resume_window + KEEP_MARGIN);
        let (census, reading) = (Mutex::default(), Semaphore::new(READ_AT_ONCE));
        let broker = RedisBroker {
            board,
            rooms,
            scripts,
            limits,
            session_kept,
            publish,
            database,
            node,
            random,
            clock,
            census,
            reading,
            terms,
            at_odds,
        };
        Ok((broker, keeper))
    }

    /// Whether Redis answers and takes what is new, now and from now on: all of it, if it is a
    /// cluster.
    pub fn up(&self) -> watch::Receiver<bool> {
        self.board.up.subscribe()
    }

    /// How many other nodes go by settings that differ where they must not.
    pub fn at_odds(&self) -> watch::Receiver<usize> {
        self.at_odds.subscribe()
    }

    /// What every script about a room's log begins with; see `room.lua`.
    fn room_args(
        &self,
        now: Time,
        known: Option<Positions>,
        fresh: Epoch,
        at: &RoomKeys,
        held: Held,
    ) -> Result<(Shift, Vec<String>), Unavailable> {
        let shift = self.board.shard(at.slot)?.shift();
        let mut args = vec![
            shift.to_there(now).to_string(),
            at.channel.clone(),
            self.publish.to_owned(),
            fresh.to_string(),
        ];
        match Seen::most(self.rooms.seen(&at.channel), known) {
            Some(seen) => {
                args.push(seen.epoch.to_string());
                for lane in [LogLane::Signal, LogLane::Bulk] {
                    let last = &seen.last[lane];
                    args.extend([last.offset.to_string(), last.mark.clone()]);
                }
            }
            None => args.extend(["", "0", "", "0", ""].map(str::to_owned)),
        }
        args.push(if self.is_held(held) { "1" } else { "0" }.to_owned());
        args.push(self.session_kept.saturating_sub(KEEP_MARGIN).as_micros().to_string());
        Ok((shift, args))
    }

    /// Whether replicas are waited for.
    fn is_held(&self, held: Held) -> bool {
        held == Held::ByReplicas && self.board.replicas > 0
    }

    fn room_keys(&self, room: &RoomName) -> RoomKeys {
        keys::room_keys(room, self.database)
    }

    fn fresh(&self) -> Result<Epoch, Unavailable> {
        Epoch::parse(&token(&self.random)?).map_err(|_| garbled("an epoch"))
    }

    /// Applies changes whose joins are recorded with their sessions already. Waits, within bounds,
    /// where it is to be found out first what of the room is lost, and who is in it.
    async fn change_room(
        &self,
        now: Time,
        room: &RoomName,
        known: Option<Positions>,
        held: Held,
        ops: impl Fn(Epoch) -> Result<Vec<[String; 8]>, Unavailable>,
    ) -> Result<Option<Changed>, Unavailable> {
        let (fresh, at) = (self.fresh()?, self.room_keys(room));
        let begun = self.clock.now();
        let (mut shift, mut args) = self.room_args(now, known, fresh, &at, held)?;
        args.extend([self.node.clone(), self.limits.members.to_string()]);
        let PerLane { signal, bulk } = self.limits.retention;
        for keep in [signal, bulk] {
            args.extend([keep.entries.to_string(), keep.bytes.to_string()]);
            args.extend([keep.age.as_micros().to_string(), keep.window.as_micros().to_string()]);
        }
        args.extend([ROOM_LINGER * 2, ROOM_KEPT].map(|kept| millis(kept).to_string()));
        args.push(known.map(|known| known.epoch.to_string()).unwrap_or_default());
        args.extend([millis(PAST_KEPT).to_string(), self.limits.metadata_bytes.to_string()]);
        let ops = ops(fresh)?;
        let asked = ops.len();
        args.extend(ops.into_iter().flatten());
        let script = &self.scripts.apply;
        let mut answers = loop {
            let answer = self.board.script(at.slot, held, script, &at.keys, &args).await?;
            match answer {
                Value::Nil => return Ok(None),
                Value::Array(answers) => break answers,
                Value::BulkString(_) => {}
                _ => return Err(garbled("an answer")),
            }
            let waited = self.clock.now().since(begun);
            if waited > PATIENCE {
                return Err(Unavailable("what is lost is not found out yet".to_owned()));
            }
            tokio::time::sleep(HEED_PAUSE).await;
            shift = self.board.shard(at.slot)?.shift();
            args[0] = shift.to_there(now + waited).to_string();
        };
        let last = answers.pop().ok_or_else(|| garbled("an answer"))?;
        if answers.len() != asked {
            return Err(garbled("an answer"));
        }
        Ok(Some(Changed { answers, positions: Fields::of(last)?.standing()?, shift }))
    }
}

/// What a room says of changes.
struct Changed {
    /// One for each.
    answers: Vec<Value>,
    /// Where it stands now, if it is there.
    positions: Option<Positions>,
    shift: Shift,
}

const TOO_MANY_ROOMS: Refusal = Refusal::new(
    ErrorCode::TooManyRooms,
    "the session has been in as many rooms as it may in its life",
);

const NOT_RECORDED: Refusal =
    Refusal::new(ErrorCode::Unavailable, "the session cannot be changed right now");

fn token(random: &SystemRandom) -> Result<String, Unavailable> {
    let mut bytes = [0; 8];
    random.fill(&mut bytes).map_err(|_| Unavailable("no randomness to be had".to_owned()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[async_trait]
impl Broker for RedisBroker {
    async fn open(&self, record: SessionRecord) -> Result<(), Unavailable> {
        self.enlist().await?;
        self.record_session("open", record).await.map(drop)
    }

    async fn revive(&self, record: SessionRecord) -> Result<bool, Unavailable> {
        self.record_session("revive", record).await
    }

    async fn resume(
        &self,
        session: SessionId,
        secret_hash: SecretHash,
        presented: Option<Admission>,
        unix_now: u64,
    ) -> Result<SessionRecord, ResumeError> {
        self.enlist().await?;
        self.resume_session(session, secret_hash, presented, unix_now).await
    }

    async fn readmit(&self, author: Author, admission: Admission) -> Result<bool, Unavailable> {
        self.readmit_session(author, admission).await
    }

    async fn retire(&self, author: Author) -> Result<Retired, Unavailable> {
        self.retire_session(author).await
    }

    async fn keep(&self, sessions: Vec<Author>) -> Keeping {
        self.count_sessions(sessions).await
    }

    fn losses(&self) -> Option<watch::Receiver<u64>> {
        Some(self.board.losses.subscribe())
    }

    async fn beat(&self) -> Result<bool, Unavailable> {
        self.count_in().await
    }

    async fn part(&self) -> Result<(), Unavailable> {
        self.count_out().await
    }

    async fn end(&self, author: Author) -> Result<(), Unavailable> {
        self.end_session(author).await
    }

    async fn load(
        &self,
        now: Time,
        room: &RoomName,
        fresh: Epoch,
    ) -> Result<RoomState, Unavailable> {
        let after = PerLane::default();
        let state = self.state(now, room, Some(fresh), after, Held::ByReplicas).await?;
        state.ok_or_else(|| garbled("an answer"))
    }

    async fn follow(&self, room: &RoomName) -> Result<Option<News>, Unavailable> {
        let gone = || Unavailable("no subscription to be had".to_owned());
        let (followed, waiting) = oneshot::channel();
        let RoomKeys { channel, slot, .. } = self.room_keys(room);
        let shard = self.board.shard(slot)?;
        let follow = Follow { channel, slot, room: room.clone(), followed };
        let asked = async {
            shard.follow.send(follow).await.ok()?;
            waiting.await.ok()
        };
        let news = tokio::time::timeout(PATIENCE, asked).await.ok().flatten();
        news.map(Some).ok_or_else(gone)
    }

    async fn read(
        &self,
        room: &RoomName,
        after: PerLane<u64>,
    ) -> Result<Option<RoomState>, Unavailable> {
        let now = self.clock.now();
        if self.board.replicas > 0 {
            // Where there is nothing new, there is nothing that replicas could lack.
            let state = self.state(now, room, None, after, Held::ByOne).await?;
            let is_known = |state: &RoomState| {
                let at = state.positions;
                let is_there = at.signal == after.signal && at.bulk == after.bulk;
                is_there && self.rooms.is_known(&self.room_keys(room).channel, at)
            };
            if state.as_ref().is_some_and(is_known) {
                return Ok(state);
            }
        }
        self.state(now, room, None, after, Held::ByReplicas).await
    }

    async fn apply(
        &self,
        now: Time,
        room: &RoomName,
        known: Option<Positions>,
        ops: Vec<RoomOp>,
    ) -> Result<Option<Vec<Result<Done, Refusal>>>, Unavailable> {
        if ops.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let rooms_max = SEQ_ROOMS_MAX.to_string();
        let joins = ops.iter().map(|op| async {
            if !matches!(op.change, Change::Join { .. } | Change::Rejoin { .. }) {
                return Recorded::As;
            }
            let Author { session, generation, .. } = op.author;
            let about = [room.as_str(), rooms_max.as_str()];
            match self.change_session("enter", session, generation, &about).await {
                Ok(1) => Recorded::As,
                Ok(2) => Recorded::TooMany,
                Ok(_) => Recorded::Fenced,
                // Where its record is, is nobody else's concern.
                Err(error) => {
                    tracing::debug!(%session, %error, "a join is not recorded");
                    Recorded::Not
                }
            }
        });
        // At once over one connection: one round trip.
        let recorded: Vec<Recorded> = futures_util::future::join_all(joins).await;
        let ops: Vec<(RoomOp, Recorded)> = ops.into_iter().zip(recorded).collect();
        let asked =
            |fresh| ops.iter().map(|(op, recorded)| op_args(room, fresh, op, *recorded)).collect();
        // Who only looks is shown something new when the node has read it from the log, which waits.
        let is_look = |op: &RoomOp| {
            matches!(op.change, Change::Pass { .. } | Change::Snapshot | Change::Place)
        };
        let is_all_looks = ops.iter().all(|(op, _)| is_look(op));
        let held = if is_all_looks { Held::ByOne } else { Held::ByReplicas };
        let changed = self.change_room(now, room, known, held, asked).await?;
        let Some(Changed { answers, positions, shift }) = changed else { return Ok(None) };
        if let Some(positions) = positions
            && (self.board.replicas == 0 || self.is_held(held))
        {
            let marks = answers.iter().zip(&ops).filter_map(|(answer, (op, _))| {
                Some((op.change.lane(), stored::appended(answer)?))
            });
            self.rooms.learn(&self.room_keys(room).channel, positions, marks.collect());
        }
        let (read, mut roster) = (answers.into_iter().zip(&ops), Roster::default());
        let results = read.map(|(answer, (op, recorded))| match recorded {
            Recorded::TooMany => Ok(Err(TOO_MANY_ROOMS)),
            Recorded::Not => Ok(Err(NOT_RECORDED)),
            Recorded::Fenced | Recorded::As => done(room, op, answer, shift, &mut roster),
        });
        let results: Vec<Result<Done, Refusal>> = results.collect::<Result<_, Unavailable>>()?;
        let mut outside: HashMap<SessionId, (u64, bool)> = HashMap::new();
        for ((op, recorded), result) in ops.iter().zip(&results) {
            let is_out = match (&op.change, result) {
                (_, Ok(Done::Joined(_) | Done::Rejoined(..))) => false,
                (Change::Join { .. } | Change::Rejoin { .. }, Err(_)) => *recorded == Recorded::As,
                (Change::Leave(_), Ok(Done::Left(..))) => true,
                // Its record knew better.
                (Change::Place, Err(refusal)) => refusal.code == ErrorCode::NotAMember,
                _ => continue,
            };
            outside.insert(op.author.session, (op.author.generation, is_out));
        }
        let left = outside.into_iter().filter(|(_, (_, is_out))| *is_out);
        let exit = async |session, generation| {
            self.change_session("exit", session, generation, &[room.as_str()]).await
        };
        let exits = left.map(|(session, (generation, _))| exit(session, generation));
        for exited in futures_util::future::join_all(exits).await {
            // What happened, happened: the room says at the next resume that it is not in it.
            if let Err(error) = exited {
                tracing::debug!(%error, "a room left is still in its session's record");
            }
        }
        Ok(Some(results))
    }

    async fn trim(
        &self,
        now: Time,
        room: &RoomName,
        known: Option<Positions>,
    ) -> Result<Option<Positions>, Unavailable> {
        let shift = self.board.shard(self.room_keys(room).slot)?.shift();
        let (living, listed) = self.living().unwrap_or_default();
        let listed = shift.to_there(listed);
        let back = self.back().map(|back| back.map_or(0, |back| shift.to_there(back)));
        let keep = |fresh| {
            let op = housekeeping(room, fresh, living.clone(), listed, back);
            op.map(|op| vec![op])
        };
        // It answers nobody. What it adds is heard when replicas have it, like all that is heard.
        let changed = self.change_room(now, room, known, Held::ByOne, keep).await?;
        let Some(Changed { mut answers, .. }) = changed else { return Ok(None) };
        let positions = stands(answers.pop().ok_or_else(|| garbled("an answer"))?)?;
        if let Some(positions) = positions
            && self.board.replicas == 0
        {
            self.rooms.learn(&self.room_keys(room).channel, positions, Vec::new());
        }
        Ok(positions)
    }

    async fn remove_if_empty(&self, now: Time, room: &RoomName) -> Result<bool, Unavailable> {
        let RoomKeys { keys, slot, .. } = self.room_keys(room);
        let args = [
            self.board.shard(slot)?.shift().to_there(now).to_string(),
            ROOM_LINGER.as_micros().to_string(),
            millis(PAST_KEPT).to_string(),
        ];
        let asked = self.board.script(slot, Held::ByOne, &self.scripts.remove, &keys, &args);
        Ok(asked.await? == Value::Int(1))
    }
}
