//! Rooms and sessions in Redis, shared by every node that is given the same one.
//!
//! # What lies where
//! A room has five keys in one hash slot: `handover:{r:NAME}:` and `meta` (the epoch, the last
//! offsets, the bytes held, since when it is empty), `members`, `s` and `b` (the logs: lists
//! of lines), `past` (the newest generation and the highest `seq`s of sessions, kept while the
//! session or the room lives). A session has three: `handover:{s:ID}:` and `record`, `rooms`,
//! `ever`. What sessions did also has the node that each member is on. NAME is base64: nothing in a room's name means anything to Redis.
//!
//! # What it costs
//! One round trip for any number of changes of a room, by one script; one more before it if a
//! session joins, and one after it if one leaves, for the session's record lies elsewhere. A
//! resume takes three: the record is read, raised, and its rooms are fenced.
//!
//! # Order of writing
//! A session's record names a room before the room has the member, and until after it has
//! lost it: whatever is cut short in between, `resume` finds every room there is to find, and
//! those it is not in any more say so.

mod census;
mod change;
mod follow;
mod stored;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
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
use handover_protocol::wire::{Epoch, ErrorCode, LogLane, PeerId, PerLane, RoomName, SessionId};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, FromRedisValue, Script, Value};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Author, Broker, Change, Done, News, ResumeError, RoomOp, RoomState, SecretHash, SessionRecord,
    Unavailable,
};
use crate::clock::Clock;
use census::Census;
use change::{Recorded, done, housekeeping, op_args, stands};
use follow::{Follow, Subscriber, bounded};
use stored::{Fields, garbled};

/// An answer that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Sessions are kept this much longer than their resume window without a node that keeps them:
/// more than one [`KEEP_EVERY`](super::KEEP_EVERY), so that none is lost while its node lives.
const KEEP_MARGIN: Duration = Duration::from_secs(60);
/// What sessions did in a room is remembered this long without the room.
const PAST_KEPT: Duration = Duration::from_secs(7 * 86_400);
/// Rooms asked to follow at once.
const ASKED_MAX: usize = 256;

/// What to add to this node's time to get that of Redis, microseconds.
#[derive(Clone, Copy)]
struct Shift(i64);

impl Shift {
    fn to_there(self, time: Time) -> u64 {
        time.as_micros().saturating_add_signed(self.0)
    }

    /// What happened before this node began, happened when it did.
    fn to_here(self, there: u64) -> Time {
        Time::from_micros(there.saturating_add_signed(self.0.saturating_neg()))
    }
}

/// The scripts, each wholly applied or not at all.
struct Scripts {
    apply: Script,
    load: Script,
    remove: Script,
    fence: Script,
    session: Script,
}

/// Rooms and sessions in a Redis.
pub struct RedisBroker {
    manager: ConnectionManager,
    scripts: Scripts,
    limits: RoomLimits,
    session_kept: Duration,
    node: String,
    random: SystemRandom,
    follow: mpsc::Sender<Follow>,
    shift: Arc<AtomicI64>,
    up: watch::Receiver<bool>,
    clock: Clock,
    /// Held for a copy at a time.
    census: Mutex<Census>,
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the connection: nobody has to wonder what it shows of itself.
        f.debug_struct("RedisBroker").field("node", &self.node).finish_non_exhaustive()
    }
}

/// An address of Redis that cannot be used. Says nothing of what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address of Redis that can be used")]
pub struct BadAddress;

struct RoomKeys {
    keys: [String; 5],
    channel: String,
}

fn room_keys(room: &RoomName) -> RoomKeys {
    let name = URL_SAFE_NO_PAD.encode(room.as_str());
    let key = |part: &str| format!("handover:{{r:{name}}}:{part}");
    let keys = ["meta", "members", "s", "b", "past"].map(key);
    RoomKeys { keys, channel: key("news") }
}

fn session_keys(session: SessionId) -> [String; 3] {
    ["record", "rooms", "ever"].map(|part| format!("handover:{{s:{session}}}:{part}"))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl RedisBroker {
    /// The broker, and what keeps its subscription until it is told to stop. Nothing is
    /// connected yet: without a Redis everything is refused until there is one.
    pub fn open(
        address: &str,
        limits: RoomLimits,
        resume_window: Duration,
        clock: Clock,
        stopping: CancellationToken,
    ) -> Result<(RedisBroker, impl Future<Output = ()> + Send + 'static), BadAddress> {
        let client = Client::open(address).map_err(|_| BadAddress)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PATIENCE / 2))
            .set_response_timeout(Some(PATIENCE))
            .set_min_delay(Duration::from_millis(20))
            .set_max_delay(Duration::from_millis(200))
            .set_number_of_retries(1);
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config);
        let manager = manager.map_err(|_| BadAddress)?;
        let random = SystemRandom::new();
        let node = token(&random).map_err(|_| BadAddress)?;
        let (follow, asked) = mpsc::channel(ASKED_MAX);
        let shift = Arc::new(AtomicI64::new(0));
        let (up_sender, up) = watch::channel(false);
        let subscriber = Subscriber {
            client,
            manager: manager.clone(),
            clock,
            node: node.clone(),
            asked,
            shift: shift.clone(),
            up: up_sender,
            rooms: HashMap::new(),
        };
        let scripts = Scripts {
            apply: Script::new(include_str!("redis/apply.lua")),
            load: Script::new(include_str!("redis/load.lua")),
            remove: Script::new(include_str!("redis/remove.lua")),
            fence: Script::new(include_str!("redis/fence.lua")),
            session: Script::new(include_str!("redis/session.lua")),
        };
        let session_kept = resume_window + KEEP_MARGIN;
        let broker = RedisBroker {
            manager,
            scripts,
            limits,
            session_kept,
            node,
            random,
            follow,
            shift,
            up,
            clock,
            census: Mutex::default(),
        };
        Ok((broker, subscriber.run(stopping)))
    }

    /// Whether Redis answers, now and from now on.
    pub fn up(&self) -> watch::Receiver<bool> {
        self.up.clone()
    }

    /// The two clocks; not known before Redis has answered for the first time.
    fn shift(&self) -> Result<Shift, Unavailable> {
        if !*self.up.borrow() {
            return Err(Unavailable("redis does not answer".to_owned()));
        }
        Ok(Shift(self.shift.load(Ordering::Acquire)))
    }

    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        args: &[String],
    ) -> Result<T, Unavailable> {
        let mut manager = self.manager.clone();
        let mut invocation = script.prepare_invoke();
        keys.iter().for_each(|key| {
            invocation.key(key);
        });
        invocation.arg(args);
        bounded(invocation.invoke_async(&mut manager)).await
    }

    async fn change_session(
        &self,
        what: &str,
        session: SessionId,
        generation: u64,
        about: [&str; 2],
    ) -> Result<u64, Unavailable> {
        let [one, two] = about.map(str::to_owned);
        let kept = millis(self.session_kept).to_string();
        let args = [what.to_owned(), generation.to_string(), kept, one, two];
        self.run(&self.scripts.session, &session_keys(session), &args).await
    }

    /// Applies changes whose joins are recorded with their sessions already.
    async fn change_room(
        &self,
        now: Time,
        room: &RoomName,
        known: Option<Positions>,
        ops: impl Fn(Epoch) -> Result<Vec<[String; 8]>, Unavailable>,
    ) -> Result<Option<Vec<Value>>, Unavailable> {
        let shift = self.shift()?;
        let fresh = Epoch::parse(&token(&self.random)?).map_err(|_| garbled("an epoch"))?;
        let RoomKeys { keys, channel } = room_keys(room);
        let PerLane { signal, bulk } = self.limits.retention;
        let mut args = vec![
            shift.to_there(now).to_string(),
            channel,
            self.node.clone(),
            fresh.to_string(),
            self.limits.members.to_string(),
        ];
        for keep in [signal, bulk] {
            args.extend([keep.entries.to_string(), keep.bytes.to_string()]);
            args.extend([keep.age.as_micros().to_string(), keep.window.as_micros().to_string()]);
        }
        args.push(millis(ROOM_LINGER * 2).to_string());
        args.extend(match known {
            Some(Positions { epoch, signal, bulk }) => {
                [epoch.to_string(), signal.to_string(), bulk.to_string()]
            }
            None => Default::default(),
        });
        args.extend(ops(fresh)?.into_iter().flatten());
        match self.run(&self.scripts.apply, &keys, &args).await? {
            Value::Nil => Ok(None),
            Value::Array(answers) => Ok(Some(answers)),
            _ => Err(garbled("an answer")),
        }
    }

    async fn state(
        &self,
        now: Time,
        room: &RoomName,
        fresh: &str,
        after: PerLane<u64>,
    ) -> Result<Option<RoomState>, Unavailable> {
        let shift = self.shift()?;
        let args = [
            fresh.to_owned(),
            shift.to_there(now).to_string(),
            after.signal.to_string(),
            after.bulk.to_string(),
            millis(ROOM_LINGER * 2).to_string(),
        ];
        let state = self.run(&self.scripts.load, &room_keys(room).keys[..4], &args).await?;
        if state == Value::Nil {
            return Ok(None);
        }
        let mut fields = Fields::of(state)?;
        let positions = fields.positions()?;
        let signal = fields.entries(room, LogLane::Signal, shift)?;
        let bulk = fields.entries(room, LogLane::Bulk, shift)?;
        Ok(Some(RoomState { positions, entries: PerLane { signal, bulk } }))
    }

    async fn record(&self, session: SessionId) -> Result<Option<Kept>, Unavailable> {
        let mut manager = self.manager.clone();
        let [record, rooms, _] = session_keys(session);
        let mut both = redis::pipe();
        both.hgetall(record).smembers(rooms);
        let (fields, rooms): (HashMap<String, String>, Vec<String>) =
            bounded(both.query_async(&mut manager)).await?;
        if fields.is_empty() {
            return Ok(None);
        }
        let read = || {
            let rooms = rooms.iter().map(|room| RoomName::parse(room).ok());
            let record = SessionRecord {
                session,
                peer: PeerId::parse(fields.get("peer")?).ok()?,
                admission: serde_json::from_str(fields.get("admission")?).ok()?,
                secret_hash: SecretHash::from_text(fields.get("secret")?)?,
                generation: fields.get("generation")?.parse().ok()?,
                rooms: rooms.collect::<Option<Vec<_>>>()?,
            };
            Some(Kept { record, retired: fields.contains_key("retired") })
        };
        read().map(Some).ok_or_else(|| garbled("a session"))
    }
}

/// A session's record, and whether its end has begun.
struct Kept {
    record: SessionRecord,
    retired: bool,
}

const TOO_MANY_ROOMS: Refusal = Refusal::new(
    ErrorCode::TooManyRooms,
    "the session has been in as many rooms as it may in its life",
);

fn admission_text(admission: &Admission) -> Result<String, Unavailable> {
    serde_json::to_string(admission).map_err(|error| Unavailable(error.to_string()))
}

fn token(random: &SystemRandom) -> Result<String, Unavailable> {
    let mut bytes = [0; 8];
    random.fill(&mut bytes).map_err(|_| Unavailable("no randomness to be had".to_owned()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[async_trait]
impl Broker for RedisBroker {
    async fn open(&self, record: SessionRecord) -> Result<(), Unavailable> {
        self.enlist().await?;
        let mut manager = self.manager.clone();
        let [key, ..] = session_keys(record.session);
        let fields = [
            ("peer", record.peer.to_string()),
            ("admission", admission_text(&record.admission)?),
            ("secret", record.secret_hash.to_text()),
            ("generation", record.generation.to_string()),
        ];
        let kept = i64::try_from(self.session_kept.as_millis()).unwrap_or(i64::MAX);
        let mut both = redis::pipe();
        both.atomic().del(&key).ignore();
        both.hset_multiple(&key, &fields).ignore().pexpire(&key, kept).ignore();
        bounded(both.query_async(&mut manager)).await
    }

    async fn resume(
        &self,
        session: SessionId,
        secret_hash: SecretHash,
        presented: Option<Admission>,
        unix_now: u64,
    ) -> Result<SessionRecord, ResumeError> {
        self.enlist().await?;
        loop {
            let Some(Kept { mut record, retired }) = self.record(session).await? else {
                return Err(ResumeError::Unknown);
            };
            if retired || !record.secret_hash.fits(&secret_hash) {
                return Err(ResumeError::Unknown);
            }
            let succeeded = record.admission.succeed(presented.clone(), unix_now);
            record.admission = succeeded.map_err(ResumeError::Refused)?;
            let text = admission_text(&record.admission)?;
            let raised = self.change_session("resume", session, record.generation, [&text, ""]);
            if raised.await? == 0 {
                // Another resume was faster, or the session's end has begun: look again.
                continue;
            }
            record.generation += 1;
            // From here on no older connection adds a room: those there are, are all.
            let Some(Kept { record: newest, .. }) = self.record(session).await? else {
                return Err(ResumeError::Unknown);
            };
            record.rooms = newest.rooms;
            let mut manager = self.manager.clone();
            let mut fences = redis::pipe();
            fences.load_script(&self.scripts.fence).ignore();
            for room in &record.rooms {
                let RoomKeys { keys: [.., past], channel } = room_keys(room);
                let mut fence = self.scripts.fence.prepare_invoke();
                fence.key(past).arg(record.peer.as_str()).arg(record.generation).arg(channel);
                fences.invoke_script(&fence).ignore();
            }
            if !record.rooms.is_empty() {
                bounded(fences.query_async::<()>(&mut manager)).await?;
            }
            return Ok(record);
        }
    }

    async fn readmit(&self, author: Author, admission: Admission) -> Result<bool, Unavailable> {
        let (text, Author { session, generation, .. }) = (admission_text(&admission)?, author);
        Ok(self.change_session("readmit", session, generation, [&text, ""]).await? == 1)
    }

    async fn revive(&self, record: SessionRecord) -> Result<bool, Unavailable> {
        let SessionRecord { session, peer, admission, secret_hash, generation, .. } = record;
        let args = [
            "revive".to_owned(),
            generation.to_string(),
            millis(self.session_kept).to_string(),
            peer.to_string(),
            admission_text(&admission)?,
            secret_hash.to_text(),
        ];
        let alive: u64 = self.run(&self.scripts.session, &session_keys(session), &args).await?;
        Ok(alive == 1)
    }

    async fn retire(&self, author: Author) -> Result<bool, Unavailable> {
        let Author { session, generation, .. } = author;
        Ok(self.change_session("retire", session, generation, ["", ""]).await? == 1)
    }

    async fn keep(&self, sessions: Vec<Author>) -> Result<Vec<Author>, Unavailable> {
        self.count_sessions(sessions).await
    }

    async fn beat(&self) -> Result<bool, Unavailable> {
        self.count_in().await
    }

    async fn part(&self) -> Result<(), Unavailable> {
        self.count_out().await
    }

    async fn end(&self, session: SessionId) -> Result<(), Unavailable> {
        let mut manager = self.manager.clone();
        let keys = session_keys(session);
        let mut both = redis::pipe();
        both.hget(&keys[0], "peer").smembers(&keys[2]);
        let (peer, rooms): (Option<String>, Vec<String>) =
            bounded(both.query_async(&mut manager)).await?;
        let Some(peer) = peer else { return Ok(()) };
        let mut forget = redis::pipe();
        for room in rooms.iter().filter_map(|room| RoomName::parse(room).ok()) {
            let [.., past] = room_keys(&room).keys;
            let fields = ["g", "s", "b", "h"].map(|kind| format!("{kind}:{peer}"));
            forget.hdel(past, &fields).ignore();
        }
        // The record last: an end that is cut short can be asked for again.
        forget.del(&keys[..]).ignore();
        bounded(forget.query_async(&mut manager)).await
    }

    async fn load(
        &self,
        now: Time,
        room: &RoomName,
        fresh: Epoch,
    ) -> Result<RoomState, Unavailable> {
        let state = self.state(now, room, fresh.as_str(), PerLane::default()).await?;
        state.ok_or_else(|| garbled("an answer"))
    }

    async fn follow(&self, room: &RoomName) -> Result<Option<News>, Unavailable> {
        let gone = |_| Unavailable("no subscription to be had".to_owned());
        let (followed, waiting) = oneshot::channel();
        let channel = room_keys(room).channel;
        let follow = Follow { channel, room: room.clone(), followed };
        self.follow.try_send(follow).map_err(|_| gone(()))?;
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(Ok(news)) => Ok(Some(news)),
            Ok(Err(_)) | Err(_) => Err(gone(())),
        }
    }

    async fn read(
        &self,
        room: &RoomName,
        after: PerLane<u64>,
    ) -> Result<Option<RoomState>, Unavailable> {
        self.state(Time::ZERO, room, "", after).await
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
        let shift = self.shift()?;
        let rooms_max = SEQ_ROOMS_MAX.to_string();
        let joins = ops.iter().map(|op| async {
            if !matches!(op.change, Change::Join { .. }) {
                return Ok(Recorded::As);
            }
            let Author { session, generation, .. } = op.author;
            let about = [room.as_str(), rooms_max.as_str()];
            Ok(match self.change_session("enter", session, generation, about).await? {
                1 => Recorded::As,
                2 => Recorded::TooMany,
                _ => Recorded::Fenced,
            })
        });
        // At once over one connection: one round trip.
        let recorded: Vec<Recorded> = futures_util::future::try_join_all(joins).await?;
        let ops: Vec<(RoomOp, Recorded)> = ops.into_iter().zip(recorded).collect();
        let asked =
            |fresh| ops.iter().map(|(op, recorded)| op_args(room, fresh, op, *recorded)).collect();
        let Some(answers) = self.change_room(now, room, known, asked).await? else {
            return Ok(None);
        };
        if answers.len() != ops.len() {
            return Err(garbled("an answer"));
        }
        let read = answers.into_iter().zip(&ops);
        let results = read.map(|(answer, (op, recorded))| match recorded {
            Recorded::TooMany => Ok(Err(TOO_MANY_ROOMS)),
            Recorded::Fenced | Recorded::As => done(room, &op.change, answer, shift),
        });
        let results: Vec<Result<Done, Refusal>> = results.collect::<Result<_, Unavailable>>()?;
        let mut outside: HashMap<SessionId, (u64, bool)> = HashMap::new();
        for ((op, recorded), result) in ops.iter().zip(&results) {
            let is_out = match (&op.change, result) {
                (Change::Join { .. }, Ok(Done::Joined(_))) => false,
                (Change::Join { .. }, Err(_)) => *recorded == Recorded::As,
                (Change::Leave(_), Ok(Done::Left(..))) => true,
                _ => continue,
            };
            outside.insert(op.author.session, (op.author.generation, is_out));
        }
        let left = outside.into_iter().filter(|(_, (_, is_out))| *is_out);
        let exits = left.map(|(session, (generation, _))| {
            self.change_session("exit", session, generation, [room.as_str(), ""])
        });
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
        let window = self.session_kept.saturating_sub(KEEP_MARGIN);
        let keep = |fresh| {
            let dead = self.census().dead.clone();
            housekeeping(room, fresh, dead, window).map(|op| vec![op])
        };
        match self.change_room(now, room, known, keep).await? {
            Some(mut answers) => stands(answers.pop().ok_or_else(|| garbled("an answer"))?),
            None => Ok(None),
        }
    }

    async fn remove_if_empty(&self, now: Time, room: &RoomName) -> Result<bool, Unavailable> {
        let args = [
            self.shift()?.to_there(now).to_string(),
            ROOM_LINGER.as_micros().to_string(),
            millis(PAST_KEPT).to_string(),
        ];
        let gone: u64 = self.run(&self.scripts.remove, &room_keys(room).keys, &args).await?;
        Ok(gone == 1)
    }
}
