//! What other nodes do to rooms that have members here: one subscription to each shard.
//!
//! Publishing is not storing: what is published while the subscription is down is gone. So the
//! subscription is proven end to end by a beat that is written and published the way of all
//! changes, and heard through it; one that has gone silent is replaced, and every room that
//! follows is told that it may have missed something, and reads its log.
//!
//! If replicas have to have what counts, entries are passed on once a beat behind them is on
//! that many: nobody sees what a failover can take back.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, OptionFuture, try_join_all};
use handover_protocol::time::Time;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, Pipeline, PushInfo, PushKind,
    RedisResult, ServerErrorKind, Value,
};
use tokio::sync::{mpsc, oneshot};

use super::board::{Board, Lines, Shard, failed};
use super::process::Process;
use super::rooms::Rooms;
use super::stored::garbled;
use super::{PATIENCE, Shift, keys};
use crate::broker::{News, Unavailable};
use crate::clock::Clock;

/// A beat is published this often.
const BEAT_EVERY: Duration = Duration::from_millis(500);
/// The subscription is replaced when none was heard for this long. With a beat more, less than the
/// two seconds after which the gateway has to say that it is degraded.
const SILENCE_MAX: Duration = Duration::from_millis(1_400);
/// A beat that is not answered for this long is not waited for.
const BEAT_PATIENCE: Duration = Duration::from_millis(1_300);
/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(250);
/// Rooms that are subscribed to at once.
const FOLLOWED_AT_ONCE: usize = 256;
/// What was published and not looked at yet.
const PUSHED_MAX: usize = 8_192;
/// Bytes of it. What is more is not kept: the rooms read it from their logs.
const PUSHED_BYTES_MAX: usize = 64 << 20;
/// Connections that wait for replicas, to each shard.
const WAITING_LINES: usize = 8;
/// What a beat is written under goes by itself when its node is gone.
const BEAT_KEPT_MS: u64 = 60_000;
/// What the time is there is believed if it was answered this fast.
const CLOCK_ASKED_MAX: Duration = Duration::from_millis(100);
/// How often it is asked at the start, for one fast answer.
const CLOCK_ASKED_TIMES: usize = 3;
/// Replicas are waited for this long by a beat.
const BEAT_WAIT_MS: u64 = 1_000;

// What is promised is the sum of these: that Redis does not answer shows within two seconds, and a
// subscription that is silent is replaced within three, of which half a second is left to connect in.
const _: () = {
    let shows = SILENCE_MAX.as_millis() + BEAT_EVERY.as_millis();
    assert!(shows < 2_000 && BEAT_EVERY.as_millis() + BEAT_PATIENCE.as_millis() < 2_000);
    assert!(shows + PAUSE.as_millis() + 500 <= 3_000);
};

/// Somebody wants to follow a room.
pub(super) struct Follow {
    pub(super) channel: String,
    pub(super) slot: u16,
    pub(super) room: handover_protocol::wire::RoomName,
    /// Told once nothing published is missed any more; dropped if that cannot be had.
    pub(super) followed: oneshot::Sender<News>,
}

/// Keeps the connections to one shard, and the subscription to what is published there.
pub(super) struct Subscription {
    pub(super) client: Client,
    /// Of a cluster: only who has a slot publishes to it.
    pub(super) sharded: bool,
    pub(super) board: Arc<Board>,
    pub(super) shard: Arc<Shard>,
    pub(super) rooms: Arc<Rooms>,
    pub(super) clock: Clock,
    /// This node's name among the others.
    pub(super) node: String,
    pub(super) asked: mpsc::Receiver<Follow>,
}

/// A subscription that stands.
struct Standing {
    sink: MultiplexedConnection,
    pushed: mpsc::Receiver<PushInfo>,
    pushed_bytes: Arc<AtomicUsize>,
    /// Something did not fit in.
    overflown: Arc<AtomicBool>,
    channels: HashSet<String>,
    /// Asks for beats, and for nothing else.
    line: MultiplexedConnection,
    beat: String,
}

impl Subscription {
    /// Runs until the shard is not on the map any more.
    pub(super) async fn run(mut self) {
        let mut map = self.board.map.subscribe();
        let (shard, board) = (self.shard.clone(), self.board.clone());
        let is_off = map.wait_for(|map| !map.shards().any(|on| Arc::ptr_eq(on, &shard)));
        tokio::select! {
            _ = is_off => {}
            () = self.keep() => {}
        }
        shard.closed();
        board.settle();
        tracing::info!(place = %shard.place, "no redis to write to any more");
    }

    async fn keep(&mut self) {
        let (mut told, mut before) = (false, None);
        for number in 1.. {
            let failed = match self.open(number, before.as_deref()).await {
                Ok(standing) => {
                    tracing::info!(place = %self.shard.place, "redis answers");
                    told = false;
                    before = self.shard.process().map(|process| process.name.clone());
                    self.board.settle();
                    self.rooms.doubt(&standing.channels);
                    self.serve(standing, number).await
                }
                Err(failed) => failed,
            };
            self.shard.closed();
            self.board.settle();
            self.board.outdated.notify_one();
            if !std::mem::replace(&mut told, true) {
                let place = &self.shard.place;
                tracing::warn!(%place, error = %failed, "redis does not answer; trying on");
            }
            self.pause().await;
        }
    }

    /// Those who ask meanwhile are not kept waiting.
    async fn pause(&mut self) {
        let over = tokio::time::sleep(PAUSE);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return,
                Some(ask) = self.asked.recv() => drop(ask),
            }
        }
    }

    fn is_ours(&self, slot: u16) -> bool {
        self.board.map.borrow().owner(slot).is_some_and(|owner| Arc::ptr_eq(owner, &self.shard))
    }

    async fn open(&self, number: u64, before: Option<&str>) -> Result<Standing, Unavailable> {
        let nothing = || Unavailable("it has no slots".to_owned());
        let (beat, slot) =
            keys::beat_key(&self.node, |slot| self.is_ours(slot)).ok_or_else(nothing)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE / 2))
            .set_response_timeout(Some(PATIENCE));
        let client = &self.client;
        let line = || bounded(client.get_multiplexed_async_connection_with_config(&config));
        let lines = if self.board.replicas == 0 { 0 } else { WAITING_LINES };
        let mut plain = line().await?;
        let beat_line = line().await?;
        let waiting = try_join_all((0..lines).map(|_| line())).await?;
        // Before any beat, which then finds out better. What took long may be far off.
        self.shard.set_shift(self.clocks(&mut plain).await?);
        let (sender, pushed) = mpsc::channel(PUSHED_MAX);
        let overflown = Arc::new(AtomicBool::new(false));
        let pushed_bytes = Arc::new(AtomicUsize::new(0));
        let (is_over, waiting_bytes) = (overflown.clone(), pushed_bytes.clone());
        let config = config.set_push_sender(move |push: PushInfo| {
            // Whoever subscribes is told so by itself: thousands of these would fill it for nothing.
            if matches!(push.kind, PushKind::Subscribe | PushKind::SSubscribe) {
                return Ok(());
            }
            let bytes = size(&push);
            let before = waiting_bytes.fetch_add(bytes, Ordering::AcqRel);
            if before + bytes > PUSHED_BYTES_MAX || sender.try_send(push).is_err() {
                waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
                is_over.store(true, Ordering::Release);
            }
            Ok::<(), ()>(())
        });
        let sink = bounded(client.get_multiplexed_async_connection_with_config(&config)).await?;
        let channels = HashSet::new();
        let mut standing = Standing {
            sink,
            pushed,
            pushed_bytes,
            overflown,
            channels,
            line: beat_line,
            beat: beat.clone(),
        };
        let mut wanted = self.rooms.channels(|slot| self.is_ours(slot));
        wanted.push(beat.clone());
        self.subscribe(&mut standing, wanted).await?;
        // It can be written to, and as many replicas as there have to be are there. A beat that is found gone
        // may have been lost, or its slot has moved, or it was not renewed for too long: what is told again
        // for nothing harms nobody.
        self.beat(&standing, before.is_none()).await?;
        let asked = Process::ask(plain.clone()).await?;
        // Where replicas are waited for, those that were have everything. Of the others nobody can
        // tell: it goes on with what it has, unless somebody knows more.
        let has_all = asked.was_fed && self.board.replicas > 0;
        let process = Process { goes_on: asked.goes_on || has_all, ..asked };
        if before != Some(process.name.as_str()) {
            // Before anybody asks it.
            self.board.met_another(&self.shard, self.clock.now());
        }
        self.shard.opened(Lines::new(number, plain, waiting, process, (beat, slot)));
        Ok(standing)
    }

    /// How far the clocks are apart, by the fastest of a few answers.
    async fn clocks(&self, line: &mut MultiplexedConnection) -> Result<Shift, Unavailable> {
        let mut fastest: Option<(Duration, Shift)> = None;
        for _ in 0..CLOCK_ASKED_TIMES {
            let asked = self.clock.now();
            let there = bounded(redis::cmd("TIME").query_async(line)).await?;
            let took = self.clock.now().since(asked);
            let shift = Shift::between(asked, there)?;
            if fastest.as_ref().is_none_or(|(before, _)| took < *before) {
                fastest = Some((took, shift));
            }
            if took < CLOCK_ASKED_MAX {
                break;
            }
        }
        fastest.map(|(_, shift)| shift).ok_or_else(|| garbled("no time"))
    }

    async fn serve(&mut self, mut standing: Standing, number: u64) -> Unavailable {
        let mut tick = tokio::time::interval(BEAT_EVERY);
        let mut last_heard = self.clock.now();
        let mut map = self.board.map.subscribe();
        let mut beat: Option<BoxFuture<'static, Result<(), Unavailable>>> = None;
        // Entries that are to be on replicas first; those of them a beat is behind.
        let (mut held, mut proven) = (Vec::new(), Vec::new());
        let shard = self.shard.clone();
        let mut asked = Vec::new();
        loop {
            if beat.is_none() && !held.is_empty() {
                proven = std::mem::take(&mut held);
                beat = Some(self.beat(&standing, false).boxed());
            }
            let done = tokio::select! {
                push = standing.pushed.recv() => match push {
                    Some(push) => self.pushed(&mut standing, push, &mut last_heard, &mut held),
                    None => Err(Unavailable("the subscription ended".to_owned())),
                },
                1.. = self.asked.recv_many(&mut asked, FOLLOWED_AT_ONCE) => {
                    let asked = std::mem::take(&mut asked);
                    self.in_time(last_heard, self.follow(&mut standing, asked)).await
                }
                Some(beaten) = OptionFuture::from(beat.as_mut()) => {
                    beat = None;
                    for (channel, payload) in proven.drain(..) {
                        if beaten.is_ok() {
                            self.hear(&channel, &payload);
                        }
                    }
                    beaten
                }
                () = shard.suspected(number) => {
                    Err(Unavailable("a connection failed".to_owned()))
                }
                changed = map.changed() => match changed {
                    Ok(()) => self.in_time(last_heard, self.align(&mut standing)).await,
                    Err(_) => Err(Unavailable("nobody asks any more".to_owned())),
                },
                _ = tick.tick() => {
                    if beat.is_none() {
                        beat = Some(self.beat(&standing, false).boxed());
                    }
                    self.look(&mut standing, last_heard).await
                }
            };
            if let Err(failed) = done {
                return failed;
            }
        }
    }

    /// At each beat: is it heard, and does everybody still listen?
    async fn look(&self, standing: &mut Standing, last_heard: Time) -> Result<(), Unavailable> {
        let silence = self.clock.now().since(last_heard);
        // What has come and was not looked at may be a beat.
        let is_silent = silence > SILENCE_MAX && standing.pushed.is_empty();
        if is_silent || silence > SILENCE_MAX * 2 {
            return Err(Unavailable("the subscription is silent".to_owned()));
        }
        if standing.overflown.swap(false, Ordering::AcqRel) {
            self.rooms.doubt(&standing.channels);
        }
        self.in_time(last_heard, self.align(standing)).await
    }

    /// Nothing is heard meanwhile: no longer than beats may be missing.
    async fn in_time(
        &self,
        last_heard: Time,
        done: impl Future<Output = Result<(), Unavailable>>,
    ) -> Result<(), Unavailable> {
        let left = SILENCE_MAX.saturating_sub(self.clock.now().since(last_heard));
        let late = |_| Unavailable("no answer to a subscription".to_owned());
        tokio::time::timeout(left.max(BEAT_EVERY), done).await.map_err(late)?
    }

    fn pushed(
        &self,
        standing: &mut Standing,
        push: PushInfo,
        last_heard: &mut Time,
        held: &mut Vec<(String, Vec<u8>)>,
    ) -> Result<(), Unavailable> {
        standing.pushed_bytes.fetch_sub(size(&push), Ordering::AcqRel);
        let mut data = push.data.into_iter();
        match (push.kind, data.next(), data.next()) {
            (
                PushKind::Message | PushKind::SMessage,
                Some(Value::BulkString(channel)),
                Some(Value::BulkString(payload)),
            ) => {
                let Ok(channel) = String::from_utf8(channel) else { return Ok(()) };
                if channel == standing.beat {
                    *last_heard = self.clock.now();
                } else if self.board.replicas > 0 && matches!(payload.first(), Some(b's' | b'b')) {
                    held.push((channel, payload));
                    if held.len() > PUSHED_MAX {
                        return Err(Unavailable("replicas fall behind".to_owned()));
                    }
                } else {
                    self.hear(&channel, &payload);
                }
                Ok(())
            }
            (PushKind::Disconnection, ..) => {
                Err(Unavailable("the subscription was cut".to_owned()))
            }
            (PushKind::SUnsubscribe, Some(Value::BulkString(channel)), _) => {
                let Ok(channel) = String::from_utf8(channel) else { return Ok(()) };
                if channel == standing.beat {
                    return Err(Unavailable("the slot of its beat has moved".to_owned()));
                }
                // By our own wish it is not among them any more. Otherwise its slot has moved.
                if standing.channels.remove(&channel) {
                    self.rooms.doubt([&channel]);
                    self.board.outdated.notify_one();
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn hear(&self, channel: &str, payload: &[u8]) {
        self.rooms.hear(channel, payload, &self.node, self.shard.shift());
    }

    /// Writes and publishes a beat the way all changes go.
    fn beat(
        &self,
        standing: &Standing,
        is_first: bool,
    ) -> impl Future<Output = Result<(), Unavailable>> + Send + 'static {
        let mut pipe = redis::pipe();
        let publish = if self.sharded { "SPUBLISH" } else { "PUBLISH" };
        pipe.cmd("EVAL").arg(include_str!("pulse.lua")).arg(1).arg(&standing.beat);
        pipe.arg(BEAT_KEPT_MS).arg(publish).arg(match (is_first, self.shard.takes_note()) {
            (true, _) => "first",
            (false, true) => "noted",
            (false, false) => "",
        });
        pipe.cmd("TIME");
        let wanted = self.board.replicas;
        if wanted > 0 {
            pipe.cmd("WAIT").arg(wanted).arg(BEAT_WAIT_MS);
        }
        let (mut line, clock, shard) = (standing.line.clone(), self.clock, self.shard.clone());
        let board = self.board.clone();
        async move {
            let (pipe, asked): (Pipeline, Time) = (pipe, clock.now());
            let answer = tokio::time::timeout(BEAT_PATIENCE, pipe.query_async(&mut line));
            let late = |_| Unavailable("no answer to a beat".to_owned());
            let answers: Vec<Value> = answer.await.map_err(late)?.map_err(failed)?;
            let mut answers = answers.into_iter();
            let pulse = answers.next().ok_or_else(|| garbled("no beat"))?;
            let (is_full, was_lost) =
                <(bool, bool)>::from_redis_value(pulse).map_err(|_| garbled("a beat"))?;
            if shard.is_news_of_room(is_full) {
                board.settle();
            }
            if was_lost {
                board.forgot(&shard, clock.now());
            }
            let there = answers.next().ok_or_else(|| garbled("no time"))?;
            if clock.now().since(asked) < CLOCK_ASKED_MAX {
                shard.adjust(Shift::between(asked, there)?);
            }
            match answers.next() {
                Some(Value::Int(have)) if have < i64::from(wanted) => {
                    Err(Unavailable(format!("{have} of {wanted} replicas are there")))
                }
                _ => Ok(()),
            }
        }
    }

    async fn follow(&self, standing: &mut Standing, asked: Vec<Follow>) -> Result<(), Unavailable> {
        let is_new =
            |ask: &&Follow| self.is_ours(ask.slot) && !standing.channels.contains(&ask.channel);
        let new: HashSet<String> =
            asked.iter().filter(is_new).map(|ask| ask.channel.clone()).collect();
        self.subscribe(standing, new.into_iter().collect()).await?;
        for Follow { channel, slot, room, followed } in asked {
            // Whoever waits for another one is told by its being dropped.
            if standing.channels.contains(&channel) {
                // Who has given up waiting is found gone at the next beat.
                let _ = followed.send(self.rooms.follow(channel, slot, room));
            }
        }
        Ok(())
    }

    /// Subscribes to what is followed in slots that have come here, and to nothing else.
    async fn align(&self, standing: &mut Standing) -> Result<(), Unavailable> {
        let mut wanted: HashSet<String> =
            self.rooms.channels(|slot| self.is_ours(slot)).into_iter().collect();
        wanted.insert(standing.beat.clone());
        let gone: Vec<String> = standing.channels.difference(&wanted).cloned().collect();
        let come: Vec<String> = wanted.difference(&standing.channels).cloned().collect();
        if !gone.is_empty() {
            standing.channels.retain(|channel| wanted.contains(channel));
            let sink = &standing.sink;
            let name = if self.sharded { "SUNSUBSCRIBE" } else { "UNSUBSCRIBE" };
            try_join_all(gone.iter().map(|channel| one(name, channel, sink.clone()))).await?;
        }
        let come = self.subscribe(standing, come).await?;
        self.rooms.doubt(&come);
        Ok(())
    }

    /// One by one: in a cluster they are in many slots, and each answer says what it is about. Says
    /// which are heard from now on: not those whose slot has gone elsewhere.
    async fn subscribe(
        &self,
        standing: &mut Standing,
        channels: Vec<String>,
    ) -> Result<Vec<String>, Unavailable> {
        let name = if self.sharded { "SSUBSCRIBE" } else { "SUBSCRIBE" };
        let sink = &standing.sink;
        let asked = channels.iter().map(|channel| one(name, channel, sink.clone()));
        let mut heard = Vec::with_capacity(channels.len());
        for (is_here, channel) in try_join_all(asked).await?.into_iter().zip(&channels) {
            if is_here {
                standing.channels.insert(channel.clone());
                heard.push(channel.clone());
            } else {
                self.board.outdated.notify_one();
            }
        }
        Ok(heard)
    }
}

/// Bytes of what was published.
fn size(push: &PushInfo) -> usize {
    let sizes = push.data.iter().map(|part| match part {
        Value::BulkString(text) => text.len(),
        _ => 0,
    });
    sizes.sum()
}

/// Whether the channel is there.
async fn one(
    name: &str,
    channel: &str,
    mut sink: MultiplexedConnection,
) -> Result<bool, Unavailable> {
    let mut command: Cmd = redis::cmd(name);
    command.arg(channel);
    let answer: RedisResult<Value> = command.query_async(&mut sink).await;
    match answer {
        // That a slot has moved is said unasked, and taken for the answer to what was asked first: one
        // that is about another channel says nothing of this one.
        Ok(Value::Push { data, .. }) => Ok(
            matches!(data.first(), Some(Value::BulkString(about)) if about == channel.as_bytes()),
        ),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::Moved) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// Redis answers in time, or counts as gone.
pub(super) async fn bounded<T>(
    answer: impl Future<Output = RedisResult<T>>,
) -> Result<T, Unavailable> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(Unavailable("no answer in time".to_owned())),
    }
}
