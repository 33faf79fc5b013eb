//! Members of rooms that talk to each other at a given pace, and what is counted meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::rig::Result;
use crate::rig::dial::Dialer;
use crate::rig::line::{Receiver, Sender, Wire};
use crate::rig::member::{Held, Member, Purpose, Said, trouble};
use crate::rig::redis::Redis;
use crate::rig::server::Server;
use crate::rig::system;
use crate::text::{self, Script};

/// Who talks to whom.
#[derive(Clone, Copy, Debug)]
pub enum Cast {
    /// So many rooms of two, in each of which one member talks to the other alone.
    Pairs(usize),
    /// One room in which one member talks to so many others.
    Audience(usize),
}

impl Cast {
    /// Deliveries for one message.
    fn fan_out(self) -> u64 {
        match self {
            Cast::Pairs(_) => 1,
            Cast::Audience(members) => members as u64,
        }
    }
}

/// How fast the talkers talk.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// All together so many messages a second, come what may.
    PerSecond(u32),
    /// As fast as messages arrive, with at most so many of each talker's under way.
    Window(u64),
}

/// What one round came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Microseconds of the servers' processor for each delivery.
    pub cpu_us: f64,
    /// ... and of what they keep their rooms in, if that is another process.
    pub store_cpu_us: f64,
    /// Deliveries a second.
    pub rate: f64,
    /// Microseconds from the sending to the arrival.
    pub p50_us: f64,
    pub p99_us: f64,
    /// Deliveries that never came.
    pub lost: u64,
    /// Deliveries out of order or twice.
    pub misplaced: u64,
}

/// Whose processor time is counted.
#[derive(Clone, Copy, Debug)]
pub struct Processes<'a> {
    pub servers: &'a [u32],
    pub store: Option<u32>,
}

impl Processes<'_> {
    fn cpu_time(&self) -> Result<(Duration, Duration)> {
        let mut servers = Duration::ZERO;
        for pid in self.servers {
            servers += system::cpu_time(*pid)?;
        }
        let store = self.store.map_or(Ok(Duration::ZERO), system::cpu_time)?;
        Ok((servers, store))
    }
}

/// Talkers and listeners, connected to one server or two.
pub struct Stage {
    talkers: Vec<Talker>,
    fan_out: u64,
    reliable: bool,
    tally: Arc<Tally>,
    started: Instant,
    readers: Vec<JoinHandle<()>>,
    /// What has to stay open although nobody speaks on it.
    _held: Vec<(Option<Sender>, Held)>,
}

struct Talker {
    sender: Sender,
    script: Script,
    sent: u64,
}

/// What the listeners count.
#[derive(Default)]
struct Tally {
    delivered: AtomicU64,
    misplaced: AtomicU64,
    /// Latencies are noted only while a round runs.
    is_recording: AtomicBool,
    latencies_ns: Mutex<Vec<u64>>,
    /// The first thing that should not have happened.
    trouble: Mutex<Option<String>>,
    progress: Notify,
}

static ROOMS: AtomicU64 = AtomicU64::new(0);

/// How long nothing may arrive before what is missing counts as lost.
const PATIENCE: Duration = Duration::from_millis(1_000);

impl Stage {
    fn new(cast: Cast, wire: Wire) -> Stage {
        Stage {
            talkers: Vec::new(),
            fan_out: cast.fan_out(),
            reliable: wire.is_reliable(),
            tally: Arc::default(),
            started: Instant::now(),
            readers: Vec::new(),
            _held: Vec::new(),
        }
    }

    /// So many who publish to a Redis, each for one who has subscribed to that.
    pub async fn on_redis(redis: &Redis, pairs: usize) -> Result<Stage> {
        let mut stage = Stage::new(Cast::Pairs(pairs), Wire::WebSocket);
        for nth in 0..pairs {
            let channel = format!("channel-{nth}");
            let (publisher, answers) = redis.publisher(&channel).await?;
            stage.listen(Receiver::Redis(redis.subscription(&channel).await?));
            stage.listen(Receiver::Redis(answers));
            let script = Script::new(Wire::WebSocket, &channel, Some(&channel));
            stage.talkers.push(Talker { sender: Sender::Redis(publisher), script, sent: 0 });
        }
        Ok(stage)
    }

    /// Connects everybody and has them join their rooms: talkers and listeners to one of the
    /// servers each, the other way around in every second room.
    pub async fn set(
        dialer: &Dialer,
        servers: [&Server; 2],
        wire: Wire,
        cast: Cast,
    ) -> Result<Stage> {
        let mut stage = Stage::new(cast, wire);
        let rooms = match cast {
            Cast::Pairs(pairs) => pairs,
            Cast::Audience(_) => 1,
        };
        for nth in 0..rooms {
            // Never the same room twice: an earlier stage may not have been cleared yet.
            let room = format!("room-{}", ROOMS.fetch_add(1, Ordering::Relaxed));
            let join = |at: usize| {
                let server = servers[(nth + at) % 2];
                Member::join(dialer, server, wire, &room, Purpose::Talk)
            };
            let talker = join(0).await?;
            let mut to = String::new();
            for _ in 0..stage.fan_out {
                let listener = join(1).await?;
                to.clone_from(&listener.peer);
                stage.listen(listener.receiver);
                stage._held.push((Some(listener.sender), listener.held));
            }
            let to = matches!(cast, Cast::Pairs(_)).then_some(to.as_str());
            // Its own messages come back as `accepted`, which has to be read too.
            stage.listen(talker.receiver);
            stage._held.push((None, talker.held));
            let script = Script::new(wire, &room, to);
            stage.talkers.push(Talker { sender: talker.sender, script, sent: 0 });
        }
        Ok(stage)
    }

    fn listen(&mut self, receiver: Receiver) {
        let tally = self.tally.clone();
        self.readers.push(tokio::spawn(listen(receiver, tally, self.started)));
    }

    /// Talks for `warm_up`, then measures for `lasting`.
    pub async fn round(
        &mut self,
        processes: Processes<'_>,
        pace: Pace,
        warm_up: Duration,
        lasting: Duration,
    ) -> Result<Sample> {
        self.talk(pace, warm_up).await?;
        self.settle().await;
        lock(&self.tally.latencies_ns).clear();
        self.tally.is_recording.store(true, Ordering::Relaxed);
        let before = (self.expected(), self.delivered(), self.misplaced());
        let (began, cpu) = (Instant::now(), processes.cpu_time()?);
        self.talk(pace, lasting).await?;
        let took = began.elapsed();
        self.settle().await;
        let after = processes.cpu_time()?;
        self.tally.is_recording.store(false, Ordering::Relaxed);
        let delivered = self.delivered() - before.1;
        if let Some(trouble) = lock(&self.tally.trouble).take() {
            return Err(trouble.into());
        }
        let mut latencies = std::mem::take(&mut *lock(&self.tally.latencies_ns));
        latencies.sort_unstable();
        let quantile = |q: f64| {
            let at = (latencies.len() as f64 * q) as usize;
            latencies.get(at.min(latencies.len().saturating_sub(1))).map_or(0.0, |&ns| us(ns))
        };
        let each = |after: Duration, before: Duration| {
            after.saturating_sub(before).as_secs_f64() * 1e6 / delivered.max(1) as f64
        };
        let sample = Sample {
            cpu_us: each(after.0, cpu.0),
            store_cpu_us: each(after.1, cpu.1),
            rate: delivered as f64 / took.as_secs_f64(),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            lost: (self.expected() - before.0).saturating_sub(delivered),
            misplaced: self.misplaced() - before.2,
        };
        // The rooms of the next round start without what this one lost.
        self.tally.delivered.store(self.expected(), Ordering::Relaxed);
        Ok(sample)
    }

    async fn talk(&mut self, pace: Pace, lasting: Duration) -> Result<()> {
        let end = Instant::now() + lasting;
        match pace {
            Pace::PerSecond(rate) => {
                let every = Duration::from_secs(1) * self.talkers.len() as u32 / rate;
                let mut ticks = tokio::time::interval(every);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                while Instant::now() < end {
                    ticks.tick().await;
                    for talker in &mut self.talkers {
                        talker.say(self.started).await?;
                        talker.sender.flush().await?;
                    }
                }
            }
            Pace::Window(window) => {
                let window = window * self.talkers.len() as u64 * self.fan_out;
                while Instant::now() < end && !self.is_troubled() {
                    let under_way = self.expected().saturating_sub(self.delivered());
                    if under_way >= window {
                        // Lost ones would keep the window shut for ever.
                        let progress = self.tally.progress.notified();
                        if tokio::time::timeout(PATIENCE, progress).await.is_err() {
                            break;
                        }
                        continue;
                    }
                    for talker in &mut self.talkers {
                        talker.say(self.started).await?;
                        talker.sender.flush().await?;
                    }
                    tokio::task::yield_now().await;
                }
            }
        }
        Ok(())
    }

    /// Waits until everything has arrived, or nothing more does.
    async fn settle(&self) {
        while self.delivered() < self.expected() && !self.is_troubled() {
            if tokio::time::timeout(PATIENCE, self.tally.progress.notified()).await.is_err() {
                return;
            }
        }
    }

    fn expected(&self) -> u64 {
        self.talkers.iter().map(|talker| talker.sent).sum::<u64>() * self.fan_out
    }

    fn delivered(&self) -> u64 {
        self.tally.delivered.load(Ordering::Relaxed)
    }

    fn misplaced(&self) -> u64 {
        if self.reliable { self.tally.misplaced.load(Ordering::Relaxed) } else { 0 }
    }

    fn is_troubled(&self) -> bool {
        lock(&self.tally.trouble).is_some()
    }
}

impl Talker {
    async fn say(&mut self, started: Instant) -> Result<()> {
        self.sent += 1;
        let text = self.script.line(self.sent, started.elapsed());
        self.sender.feed(text).await
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.readers.iter().for_each(JoinHandle::abort);
    }
}

/// Reads whatever comes on one connection, to its end.
async fn listen(mut receiver: Receiver, tally: Arc<Tally>, started: Instant) {
    let mut last = 0;
    let ended = loop {
        let message = match receiver.next().await {
            Ok(message) => message,
            Err(error) => break error,
        };
        match Said::of(&message) {
            Said::Delivery => {
                let Some((number, sent)) = text::stamp(&message) else {
                    break "a message that nobody sent".into();
                };
                if number != last + 1 {
                    tally.misplaced.fetch_add(1, Ordering::Relaxed);
                }
                last = number;
                tally.delivered.fetch_add(1, Ordering::Relaxed);
                if tally.is_recording.load(Ordering::Relaxed) {
                    let took = started.elapsed().saturating_sub(sent);
                    lock(&tally.latencies_ns).push(took.as_nanos() as u64);
                }
                tally.progress.notify_one();
            }
            Said::Trouble => break trouble(&message),
            Said::Welcome | Said::Ready | Said::Other => {}
        }
    };
    lock(&tally.trouble).get_or_insert(ended.to_string());
    tally.progress.notify_one();
}

fn us(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
