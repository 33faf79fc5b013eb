//! Which Redis has which slot, and how to ask it.
//!
//! Without a Redis Cluster there is one shard with every slot.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::OptionFuture;
use handover_protocol::time::Time;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::address::Place;
use super::follow::Follow;
use super::keys::SLOTS;
use super::process::Process;
use super::{HEED, PATIENCE, Shift};
use crate::broker::Unavailable;

/// Rooms asked to follow at once, of one shard.
const ASKED_MAX: usize = 256;
/// Between two tries while slots move.
const MOVING_PAUSE: Duration = Duration::from_millis(25);
/// All nodes have noticed a loss by then, each by its next beat, and have told again what they know.
const TOLD_AGAIN_WITHIN: Duration = Duration::from_secs(5);
/// How far the clocks may be from what was last found, in microseconds.
const CLOCKS_APART_MAX: u64 = 100_000;
/// How long replicas are waited for.
const REPLICAS_PATIENCE: Duration = Duration::from_millis(1_000);

/// A script, wholly applied or not at all.
pub(super) struct Script {
    text: String,
    hash: String,
    /// It is told which process runs it.
    is_about_log: bool,
}

impl Script {
    pub(super) fn new(text: &str) -> Script {
        let hash = redis::Script::new(text).get_hash().to_owned();
        Script { text: text.to_owned(), hash, is_about_log: false }
    }

    /// One about a room's log, which begins with `room.lua`.
    pub(super) fn about_log(text: &str) -> Script {
        let heed = format!("local heed = {}\n", HEED.as_micros());
        let text = [&heed, include_str!("room.lua"), text].concat();
        Script { is_about_log: true, ..Script::new(&text) }
    }

    /// Adds a call: by its name, or by its text where it is not known yet.
    fn call(&self, calls: &mut Pipeline, by: &Asked<'_>, keys: &[String], args: &[String]) {
        let call = match by.known {
            Known::ByName => calls.cmd("EVALSHA").arg(&self.hash),
            Known::ByText => calls.cmd("EVAL").arg(&self.text),
        };
        call.arg(keys.len()).arg(keys).arg(args);
        if self.is_about_log {
            call.arg(&by.process.name).arg(by.forebears);
        }
    }
}

/// How a script is named.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    ByName,
    ByText,
}

/// Who is asked.
pub(super) struct Asked<'a> {
    known: Known,
    process: &'a Process,
    forebears: &'a str,
}

/// Who has to have what is asked for, before it counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// The Redis that is asked.
    ByOne,
    /// As many replicas of it as the setting wants, too.
    ByReplicas,
}

/// The connections to a shard, while it answers.
pub(super) struct Lines {
    /// Counts those there have been.
    number: u64,
    plain: MultiplexedConnection,
    /// WAIT is about what its own connection wrote, and holds up what comes behind it there. So
    /// each of these is asked about some slots, and several can wait at a time.
    waiting: Vec<(MultiplexedConnection, Arc<Semaphore>)>,
    /// Who answers on `plain`.
    process: Arc<Process>,
    /// Under which key this node's beats are there, and in which slot.
    beat: (String, u16),
}

impl Lines {
    pub(super) fn new(
        number: u64,
        plain: MultiplexedConnection,
        waiting: Vec<MultiplexedConnection>,
        process: Process,
        beat: (String, u16),
    ) -> Lines {
        let one = |line| (line, Arc::new(Semaphore::new(1)));
        let waiting = waiting.into_iter().map(one).collect();
        Lines { number, plain, waiting, process: Arc::new(process), beat }
    }
}

/// One Redis that is written to.
pub(super) struct Shard {
    pub(super) place: Place,
    lines: watch::Sender<Option<Arc<Lines>>>,
    /// It takes nothing new.
    is_full: AtomicBool,
    /// When it was last found to have less than it was told.
    forgot: Mutex<Option<Time>>,
    /// It is not told yet that this has been found.
    is_noted: AtomicBool,
    /// See [`Shift`]; known while there are lines.
    shift: AtomicI64,
    /// The number of the newest [`Lines`] that failed.
    failed: watch::Sender<u64>,
    pub(super) follow: mpsc::Sender<Follow>,
}

impl Shard {
    /// The shard, and where it is asked to follow rooms.
    pub(super) fn new(place: Place) -> (Arc<Shard>, mpsc::Receiver<Follow>) {
        let (follow, asked) = mpsc::channel(ASKED_MAX);
        let (lines, shift) = (watch::Sender::new(None), AtomicI64::new(0));
        let (is_full, failed) = (AtomicBool::new(false), watch::Sender::new(0));
        let (forgot, is_noted) = (Mutex::default(), AtomicBool::new(false));
        let shard = Shard { place, lines, is_full, forgot, is_noted, shift, failed, follow };
        (Arc::new(shard), asked)
    }

    pub(super) fn is_up(&self) -> bool {
        self.lines.borrow().is_some()
    }

    /// Whether it answers, and takes what is new.
    fn is_sound(&self) -> bool {
        self.is_up() && !self.is_full.load(Ordering::Acquire)
    }

    /// It is full, or is not: says whether that is news.
    pub(super) fn is_news_of_room(&self, is_full: bool) -> bool {
        let is_news = self.is_full.swap(is_full, Ordering::AcqRel) != is_full;
        if is_news && is_full {
            tracing::warn!(place = %self.place, "redis is full: it takes nothing new");
        } else if is_news {
            tracing::info!(place = %self.place, "redis has room again");
        }
        is_news
    }

    /// Whether what it does not know may be known to a node that has not told it again yet.
    pub(super) fn has_forgotten(&self, now: Time) -> bool {
        let forgot = *self.forgot.lock().unwrap_or_else(PoisonError::into_inner);
        forgot.is_some_and(|at| now.since(at) < TOLD_AGAIN_WITHIN)
    }

    /// Whether it is to be told that its loss has been found: once.
    pub(super) fn takes_note(&self) -> bool {
        self.is_noted.swap(false, Ordering::AcqRel)
    }

    pub(super) fn opened(&self, lines: Lines) {
        self.lines.send_replace(Some(Arc::new(lines)));
    }

    pub(super) fn set_shift(&self, shift: Shift) {
        self.shift.store(shift.0, Ordering::Release);
    }

    /// The clocks are looked at again and again: they drift, and are set. What is no more than
    /// the time that it takes to ask leaves them as they are.
    pub(super) fn adjust(&self, shift: Shift) {
        if shift.0.abs_diff(self.shift().0) > CLOCKS_APART_MAX {
            self.set_shift(shift);
        }
    }

    /// These connections may be of no use any more; those that have replaced them are not meant.
    fn suspect(&self, number: u64) {
        self.failed.send_if_modified(|failed| {
            let is_news = *failed < number;
            *failed = number.max(*failed);
            is_news
        });
    }

    /// Once those connections are suspected.
    pub(super) async fn suspected(&self, number: u64) {
        let mut failed = self.failed.subscribe();
        // It cannot be dropped meanwhile.
        let _ = failed.wait_for(|failed| *failed >= number).await;
    }

    pub(super) fn closed(&self) {
        self.lines.send_replace(None);
    }

    /// The two clocks.
    pub(super) fn shift(&self) -> Shift {
        Shift(self.shift.load(Ordering::Acquire))
    }

    fn line(&self, slot: u16, held: Held) -> Result<Line, Unavailable> {
        let lines = self.lines.borrow();
        let lines = lines.as_ref().ok_or_else(|| silent(&self.place))?;
        let waiting = match held {
            Held::ByOne => None,
            Held::ByReplicas => lines.waiting.get(usize::from(slot) % lines.waiting.len().max(1)),
        };
        let (connection, turns) = match waiting {
            Some((connection, turns)) => (connection.clone(), Some(turns.clone())),
            None => (lines.plain.clone(), None),
        };
        Ok(Line { number: lines.number, connection, turns, process: lines.process.clone() })
    }

    /// Where this node's beats are, while they are heard.
    pub(super) fn beat(&self) -> Option<(String, u16)> {
        self.lines.borrow().as_ref().map(|lines| lines.beat.clone())
    }

    /// The process that answers, if one does and is known.
    pub(super) fn process(&self) -> Option<Arc<Process>> {
        let lines = self.lines.borrow();
        let process = lines.as_ref().map(|lines| lines.process.clone());
        process.filter(|process| !process.name.is_empty())
    }
}

/// One connection, and who answers on it.
struct Line {
    number: u64,
    connection: MultiplexedConnection,
    /// One at a time, where one holds up the next: that is no reason to take the Redis for gone.
    turns: Option<Arc<Semaphore>>,
    process: Arc<Process>,
}

fn silent(place: &Place) -> Unavailable {
    Unavailable(format!("redis at {place} does not answer"))
}

/// Who has which slots.
#[derive(Default)]
pub(super) struct Map {
    /// The last slot of each range and whose it is, in order; a gap has nobody.
    ranges: Vec<(u16, Option<Arc<Shard>>)>,
}

impl Map {
    /// Of ranges, first and last slot each.
    pub(super) fn of(mut ranges: Vec<(u16, u16, Arc<Shard>)>) -> Map {
        ranges.sort_unstable_by_key(|(first, ..)| *first);
        let mut map = Map::default();
        let mut next = 0;
        for (first, last, shard) in ranges {
            if first > next {
                map.ranges.push((first - 1, None));
            }
            map.ranges.push((last, Some(shard)));
            next = last.saturating_add(1);
        }
        map
    }

    pub(super) fn owner(&self, slot: u16) -> Option<&Arc<Shard>> {
        let at = self.ranges.partition_point(|(last, _)| *last < slot);
        self.ranges.get(at)?.1.as_ref()
    }

    /// Every shard, some of them several times.
    pub(super) fn shards(&self) -> impl Iterator<Item = &Arc<Shard>> {
        self.ranges.iter().filter_map(|(_, shard)| shard.as_ref())
    }

    fn is_whole_and_sound(&self) -> bool {
        let whole = self.ranges.last().is_some_and(|(last, _)| *last >= SLOTS - 1);
        whole && self.ranges.iter().all(|(_, shard)| shard.as_ref().is_some_and(|s| s.is_sound()))
    }

    /// The same slots at the same places?
    pub(super) fn is_like(&self, other: &Map) -> bool {
        let place = |shard: &Option<Arc<Shard>>| shard.as_ref().map(|shard| shard.place.clone());
        self.ranges.len() == other.ranges.len()
            && self.ranges.iter().zip(&other.ranges).all(|((last, here), (last_there, there))| {
                last == last_there && place(here) == place(there)
            })
    }
}

/// What is known of the Redis or the cluster, and the way to it.
pub(super) struct Board {
    pub(super) map: watch::Sender<Arc<Map>>,
    /// Whether all of it answers, and takes what is new.
    pub(super) up: watch::Sender<bool>,
    /// The map may be of yesterday.
    pub(super) outdated: Notify,
    /// How many replicas have to have what is written.
    pub(super) replicas: u32,
    /// Counts when a shard was found to have less than it was told.
    pub(super) losses: watch::Sender<u64>,
    /// There was a time when all of it answered.
    was_whole: AtomicBool,
    /// The processes that are written to, by name. A room that was with one of them, and is not
    /// now, has moved.
    masters: watch::Sender<Arc<str>>,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("replicas", &self.replicas).finish_non_exhaustive()
    }
}

impl Board {
    pub(super) fn new(replicas: u32) -> Board {
        Board {
            map: watch::Sender::new(Arc::default()),
            up: watch::Sender::new(false),
            outdated: Notify::new(),
            replicas,
            losses: watch::Sender::new(0),
            was_whole: AtomicBool::new(false),
            masters: watch::Sender::new(Arc::from("")),
        }
    }

    /// A shard has less than it was told, or may have.
    pub(super) fn forgot(&self, shard: &Shard, now: Time) {
        tracing::warn!(place = %shard.place, "redis may have lost something: what is known is told again");
        *shard.forgot.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        shard.is_noted.store(true, Ordering::Release);
        self.losses.send_modify(|losses| *losses += 1);
    }

    /// Another process answers than the one before: it may have less, unless nobody has told it
    /// anything yet.
    pub(super) fn met_another(&self, shard: &Shard, now: Time) {
        if self.was_whole.load(Ordering::Acquire) {
            self.forgot(shard, now);
        }
    }

    /// After a change of the map or of a shard.
    pub(super) fn settle(&self) {
        let map = self.map.borrow().clone();
        let masters = map.shards().filter_map(|shard| shard.process());
        let masters: BTreeSet<String> = masters.map(|process| process.name.clone()).collect();
        self.masters.send_replace(Vec::from_iter(masters).join(" ").into());
        let up = map.is_whole_and_sound();
        self.was_whole.fetch_or(up, Ordering::AcqRel);
        self.up.send_if_modified(|was| std::mem::replace(was, up) != up);
    }

    /// Nobody is there to be asked any more, until somebody is found anew.
    pub(super) fn clear(&self) {
        let map = self.map.send_replace(Arc::default());
        map.shards().for_each(|shard| shard.closed());
        self.settle();
    }

    /// Who has the slot, if it answers.
    pub(super) fn shard(&self, slot: u16) -> Result<Arc<Shard>, Unavailable> {
        let map = self.map.borrow();
        let Some(shard) = map.owner(slot) else {
            return Err(Unavailable("no redis is known to have this slot".to_owned()));
        };
        if shard.is_up() { Ok(shard.clone()) } else { Err(silent(&shard.place)) }
    }

    /// Asks for a script's answer.
    pub(super) async fn script(
        &self,
        slot: u16,
        held: Held,
        script: &Script,
        keys: &[String],
        args: &[String],
    ) -> Result<Value, Unavailable> {
        let mut answers =
            self.ask(slot, held, |calls, asked| script.call(calls, asked, keys, args)).await?;
        answers.pop().ok_or_else(|| Unavailable("no answer at all".to_owned()))
    }

    /// Asks whoever has the slot, in one round trip, also while slots move.
    pub(super) async fn ask(
        &self,
        slot: u16,
        held: Held,
        calls: impl Fn(&mut Pipeline, &Asked<'_>),
    ) -> Result<Vec<Value>, Unavailable> {
        // Whom to suspect if there is no answer: nobody, if slots move for that long.
        let unanswered = Mutex::new(None);
        let held = if self.replicas == 0 { Held::ByOne } else { held };
        let asked = self.ask_on(slot, held, calls, &unanswered);
        // A turn is waited for as long as an answer.
        let patience = if held == Held::ByOne { PATIENCE } else { PATIENCE * 2 };
        match tokio::time::timeout(patience, asked).await {
            Ok(answers) => answers,
            Err(_) => {
                let unanswered = unanswered.into_inner().unwrap_or_else(PoisonError::into_inner);
                let asked: Option<(Arc<Shard>, u64)> = unanswered;
                let Some((shard, number)) = asked else {
                    return Err(Unavailable("its slot is on its way".to_owned()));
                };
                shard.suspect(number);
                Err(Unavailable("no answer in time".to_owned()))
            }
        }
    }

    async fn ask_on(
        &self,
        slot: u16,
        held: Held,
        calls: impl Fn(&mut Pipeline, &Asked<'_>),
        unanswered: &Mutex<Option<(Arc<Shard>, u64)>>,
    ) -> Result<Vec<Value>, Unavailable> {
        let waits_for = |asked| {
            *unanswered.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        };
        let (mut known, mut elsewhere) = (Known::ByName, None);
        let mut has_answered = false;
        loop {
            let (shard, is_elsewhere) = match elsewhere.take() {
                Some(shard) => (shard, true),
                None => (self.shard(slot)?, false),
            };
            let Line { number, mut connection, turns, process } = shard.line(slot, held)?;
            let turn = turns.map(|turns| timeout(PATIENCE, turns.acquire_owned()));
            let turn = OptionFuture::from(turn).await.transpose();
            let _turn = turn.map_err(|_| Unavailable("many wait for replicas".to_owned()))?;
            let masters = self.masters.borrow().clone();
            let forebears = if process.goes_on { "*" } else { &*masters };
            let mut pipe = redis::pipe();
            calls(&mut pipe, &Asked { known, process: &process, forebears });
            if is_elsewhere {
                pipe = asking(&pipe);
            }
            if held == Held::ByReplicas {
                pipe.cmd("WAIT").arg(self.replicas).arg(REPLICAS_PATIENCE.as_millis() as u64);
            }
            pipe.ignore_errors();
            // Who has just sent us on, or had us wait, is there.
            if !has_answered {
                waits_for(Some((shard.clone(), number)));
            }
            let answers: RedisResult<Vec<RedisResult<Value>>> =
                pipe.query_async(&mut connection).await;
            waits_for(None);
            let answers = answers.inspect_err(|_| shard.suspect(number)).map_err(failed)?;
            let error = match answers.into_iter().collect::<RedisResult<Vec<Value>>>() {
                Ok(answers) => return self.counted(held, answers),
                Err(error) => error,
            };
            has_answered = false;
            match error.kind() {
                ErrorKind::Server(ServerErrorKind::NoScript) if known == Known::ByName => {
                    known = Known::ByText;
                    elsewhere = is_elsewhere.then_some(shard);
                }
                ErrorKind::Server(ServerErrorKind::Ask) => {
                    has_answered = true;
                    elsewhere = self.at(&error);
                    if elsewhere.is_none() {
                        self.outdated.notify_one();
                        sleep(MOVING_PAUSE).await;
                    }
                }
                ErrorKind::Server(ServerErrorKind::Moved) => {
                    has_answered = true;
                    self.outdated.notify_one();
                    sleep(MOVING_PAUSE).await;
                }
                ErrorKind::Server(ServerErrorKind::TryAgain) => {
                    has_answered = true;
                    sleep(MOVING_PAUSE).await;
                }
                // It is no master any more, or not yet one that has its data.
                ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::BusyLoading) => {
                    shard.suspect(number);
                    return Err(failed(error));
                }
                _ => return Err(failed(error)),
            }
        }
    }

    /// The shard that an answer sends us to.
    fn at(&self, error: &RedisError) -> Option<Arc<Shard>> {
        let (address, _) = error.redirect_node()?;
        let (host, port) = address.rsplit_once(':')?;
        let place = Place::Tcp(host.to_owned(), port.parse().ok()?);
        let map = self.map.borrow();
        map.shards().find(|shard| shard.place == place && shard.is_up()).cloned()
    }

    /// Whether enough replicas have it.
    fn counted(&self, held: Held, mut answers: Vec<Value>) -> Result<Vec<Value>, Unavailable> {
        if held == Held::ByOne {
            return Ok(answers);
        }
        match answers.pop() {
            Some(Value::Int(have)) if have >= i64::from(self.replicas) => Ok(answers),
            Some(Value::Int(have)) => {
                let wanted = self.replicas;
                Err(Unavailable(format!("{have} of {wanted} replicas have it")))
            }
            _ => Err(Unavailable("no answer of the replicas".to_owned())),
        }
    }
}

/// The same calls, for a slot that is on its way to the one that is asked.
fn asking(calls: &Pipeline) -> Pipeline {
    let mut asking = redis::pipe();
    for call in calls.cmd_iter() {
        asking.cmd("ASKING").ignore().add_command(call.clone());
    }
    asking
}

pub(super) fn failed(error: RedisError) -> Unavailable {
    Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_followed_beyond_what_it_takes_to_ask() {
        let (shard, _asked) = Shard::new(Place::Tcp("redis".to_owned(), 1));
        let most = i64::try_from(CLOCKS_APART_MAX).unwrap();
        for (found, believed) in
            [(most, 0), (most + 1, most + 1), (1, most + 1), (0, 0), (-most - 1, -most - 1)]
        {
            shard.adjust(Shift(found));
            assert_eq!(shard.shift().0, believed);
        }
    }
}
