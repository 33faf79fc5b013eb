//! What other nodes do to rooms that have members here: one subscription for all of them.
//!
//! Publishing is not storing: what is published while the subscription is down is gone. So the
//! subscription is proven end to end by a beat published and heard through it; one that has
//! gone silent is replaced, and every room that follows is told that it may have missed
//! something, and reads its log.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt, OptionFuture};
use handover_protocol::time::Time;
use handover_protocol::wire::{LogLane, PeerId, RoomName};
use redis::aio::{ConnectionManager, PubSubSink, PubSubStream};
use redis::{Client, RedisResult};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{PATIENCE, Shift, stored};
use crate::broker::{Heard, News, Unavailable};
use crate::clock::Clock;

/// A beat is published this often.
const BEAT_EVERY: Duration = Duration::from_millis(500);
/// The subscription is replaced when none was heard for this long. With a beat more, less than the
/// two seconds after which the gateway has to say that it is degraded.
const SILENCE_MAX: Duration = Duration::from_millis(1_400);
/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(250);
/// News a room may be behind before it is sent to read its log.
const NEWS_HELD_MAX: usize = 1_024;

/// Somebody wants to follow a room.
pub(super) struct Follow {
    pub(super) channel: String,
    pub(super) room: RoomName,
    /// Told once nothing published is missed any more; dropped if that cannot be had.
    pub(super) followed: oneshot::Sender<News>,
}

/// A room that is followed here.
pub(super) struct Follower {
    room: RoomName,
    heard: mpsc::Sender<Heard>,
    missed: Arc<AtomicBool>,
}

/// Keeps the subscription.
pub(super) struct Subscriber {
    pub(super) client: Client,
    pub(super) manager: ConnectionManager,
    pub(super) clock: Clock,
    /// This node's name among the others.
    pub(super) node: String,
    pub(super) asked: mpsc::Receiver<Follow>,
    /// See [`Shift`]; nothing is done before it is known.
    pub(super) shift: Arc<AtomicI64>,
    /// Whether Redis answers.
    pub(super) up: watch::Sender<bool>,
    pub(super) rooms: HashMap<String, Follower>,
}

impl Subscriber {
    /// Runs until `stopping`, or until nobody can ask any more.
    pub(super) async fn run(mut self, stopping: CancellationToken) {
        let stopped = stopping.clone();
        let work = async {
            let mut told = false;
            loop {
                let failed = match self.connect().await {
                    Ok((sink, stream)) => {
                        tracing::info!("redis answers");
                        told = false;
                        self.up.send_replace(true);
                        self.doubt();
                        self.serve(sink, stream).await
                    }
                    Err(failed) => failed,
                };
                self.up.send_replace(false);
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(error = %failed, "redis does not answer; trying on");
                }
                self.pause().await;
            }
        };
        tokio::select! {
            () = stopped.cancelled() => {}
            () = work => {}
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

    async fn connect(&mut self) -> Result<(PubSubSink, PubSubStream), Unavailable> {
        let before = self.clock.now();
        let mut manager = self.manager.clone();
        let time = redis::cmd("TIME");
        let (seconds, micros): (i64, i64) = bounded(time.query_async(&mut manager)).await?;
        let there = seconds.saturating_mul(1_000_000).saturating_add(micros);
        let here = i64::try_from(before.as_micros()).unwrap_or(i64::MAX);
        self.shift.store(there.saturating_sub(here), Ordering::Release);
        let (mut sink, stream) = bounded(self.client.get_async_pubsub()).await?.split();
        let mut channels: Vec<String> = self.rooms.keys().cloned().collect();
        channels.push(self.beat_channel());
        bounded(sink.subscribe(&channels)).await?;
        Ok((sink, stream))
    }

    fn beat_channel(&self) -> String {
        format!("handover:beat:{}", self.node)
    }

    /// Every room reads its log.
    fn doubt(&self) {
        for follower in self.rooms.values() {
            follower.tell(Heard::Doubt);
        }
    }

    async fn serve(&mut self, mut sink: PubSubSink, mut stream: PubSubStream) -> Unavailable {
        let beat_channel = self.beat_channel();
        let mut tick = tokio::time::interval(BEAT_EVERY);
        let mut last_heard = self.clock.now();
        let mut beat: Option<BoxFuture<'static, Result<i64, Unavailable>>> = None;
        loop {
            tokio::select! {
                message = stream.next() => {
                    let Some(message) = message else {
                        return Unavailable("the subscription ended".to_owned());
                    };
                    let channel = message.get_channel_name();
                    if channel == beat_channel {
                        last_heard = self.clock.now();
                    } else if let Some(follower) = self.rooms.get(channel) {
                        follower.hear(message.get_payload_bytes(), &self.node, self.shift());
                    }
                }
                Some(ask) = self.asked.recv() => {
                    if let Err(failed) = self.follow(&mut sink, ask).await {
                        return failed;
                    }
                }
                Some(beaten) = OptionFuture::from(beat.as_mut()) => {
                    beat = None;
                    if let Err(failed) = beaten {
                        return failed;
                    }
                }
                _ = tick.tick() => {
                    if self.is_silent(last_heard) {
                        return Unavailable("the subscription is silent".to_owned());
                    }
                    if let Err(failed) = self.unfollow(&mut sink).await {
                        return failed;
                    }
                    if beat.is_none() {
                        let (mut manager, channel) = (self.manager.clone(), beat_channel.clone());
                        let publish = async move {
                            let mut publish = redis::cmd("PUBLISH");
                            publish.arg(channel).arg("");
                            bounded(publish.query_async(&mut manager)).await
                        };
                        beat = Some(publish.boxed());
                    }
                }
            }
        }
    }

    fn shift(&self) -> Shift {
        Shift(self.shift.load(Ordering::Acquire))
    }

    fn is_silent(&self, last_heard: Time) -> bool {
        self.clock.now().since(last_heard) > SILENCE_MAX
    }

    async fn follow(&mut self, sink: &mut PubSubSink, ask: Follow) -> Result<(), Unavailable> {
        let Follow { channel, room, followed } = ask;
        bounded(sink.subscribe(&channel)).await?;
        let (heard, receiver) = mpsc::channel(NEWS_HELD_MAX);
        let missed = Arc::new(AtomicBool::new(false));
        let news = News { heard: receiver, missed: missed.clone() };
        self.rooms.insert(channel, Follower { room, heard, missed });
        // Who has given up waiting is found gone at the next beat.
        let _ = followed.send(news);
        Ok(())
    }

    async fn unfollow(&mut self, sink: &mut PubSubSink) -> Result<(), Unavailable> {
        let gone = |(_, follower): &(&String, &Follower)| follower.heard.is_closed();
        let gone: Vec<String> =
            self.rooms.iter().filter(gone).map(|(channel, _)| channel.clone()).collect();
        if gone.is_empty() {
            return Ok(());
        }
        for channel in &gone {
            self.rooms.remove(channel);
        }
        bounded(sink.unsubscribe(&gone)).await
    }
}

impl Follower {
    fn hear(&self, payload: &[u8], node: &str, shift: Shift) {
        self.tell(self.understand(payload, node, shift).unwrap_or(Some(Heard::Doubt)));
    }

    /// `Some(None)` for what this node said itself.
    fn understand(&self, payload: &[u8], node: &str, shift: Shift) -> Option<Option<Heard>> {
        let text = std::str::from_utf8(payload).ok()?;
        let (kind, rest) = text.split_at_checked(1)?;
        let lane = match kind {
            "s" => LogLane::Signal,
            "b" => LogLane::Bulk,
            "e" => {
                let (from, rest) = rest.split_once(' ')?;
                if from == node {
                    return Some(None);
                }
                let ephemeral = stored::ephemeral(&self.room, rest)?;
                return Some(Some(Heard::Ephemeral(Box::new(ephemeral))));
            }
            "f" => {
                let (peer, generation) = rest.split_once(' ')?;
                let peer = PeerId::parse(peer).ok()?;
                return Some(Some(Heard::Resumed(peer, generation.parse().ok()?)));
            }
            _ => return None,
        };
        let entry = stored::entry(&self.room, lane, rest, shift).ok()?;
        Some(Some(Heard::Entry(entry)))
    }

    fn tell(&self, heard: impl Into<Option<Heard>>) {
        let Some(heard) = heard.into() else { return };
        if let Err(TrySendError::Full(_)) = self.heard.try_send(heard) {
            self.missed.store(true, Ordering::Release);
        }
    }
}

/// Redis answers in time, or counts as gone.
pub(super) async fn bounded<T>(
    answer: impl Future<Output = RedisResult<T>>,
) -> Result<T, Unavailable> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|error| Unavailable(error.to_string())),
        Err(_) => Err(Unavailable("no answer in time".to_owned())),
    }
}
