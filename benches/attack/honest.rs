//! Those who behave.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::rig::Result;
use crate::rig::dial::Dialer;
use crate::rig::line::{Receiver, Wire};
use crate::rig::member::{Held, Member, Purpose, Said, trouble};
use crate::rig::server::Server;
use crate::text::{self, Script};

pub const SESSIONS: usize = 100;
const ROOM: usize = 10;
const EVERY: Duration = Duration::from_millis(500);
/// One after the other, so many enter and leave again in each phase, on either transport.
const NEWCOMERS: u32 = 20;
/// What has not arrived by then is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was seen in a phase.
#[derive(Default)]
pub struct Sample {
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
    pub delivered: usize,
    pub lost: u64,
    /// From the first packet to being in a room.
    pub enter_p50: Duration,
    pub enter_max: Duration,
    /// Newcomers who did not get in within 5 s.
    pub kept_out: usize,
}

#[derive(Default)]
struct Tally {
    latencies: Mutex<Vec<Duration>>,
    trouble: Mutex<Option<String>>,
    progress: Notify,
}

struct Talker {
    member: crate::rig::line::Sender,
    script: Script,
    said: u64,
    _held: Held,
}

/// Sessions in rooms that talk while they are measured.
pub struct Honest {
    talkers: Vec<Talker>,
    dialer: Dialer,
    tally: Arc<Tally>,
    began: Instant,
    listeners: JoinSet<()>,
}

impl Honest {
    pub async fn gather(server: &Server) -> Result<Honest> {
        let mut honest = Honest {
            talkers: Vec::new(),
            dialer: Dialer::new()?,
            tally: Arc::default(),
            began: Instant::now(),
            listeners: JoinSet::new(),
        };
        for nth in 0..SESSIONS {
            let room = format!("honest-{}", nth / ROOM);
            let wire = wire(nth);
            let member = Member::join(&honest.dialer, server, wire, &room, Purpose::Talk).await?;
            let script = Script::new(wire, &room, None);
            let (tally, began) = (honest.tally.clone(), honest.began);
            honest.listeners.spawn(listen(member.receiver, tally, began));
            let talker = Talker { member: member.sender, script, said: 0, _held: member.held };
            honest.talkers.push(talker);
        }
        Ok(honest)
    }

    /// Has everybody talk for so long.
    pub async fn measure(&mut self, server: &Server, lasting: Duration) -> Result<Sample> {
        lock(&self.tally.latencies).clear();
        let Honest { talkers, dialer, tally, began, .. } = self;
        let talk = talk(talkers, *began, lasting);
        let enter = enter(dialer, server, lasting);
        let (said, mut entering) = tokio::try_join!(talk, enter)?;
        let expected = said * (ROOM as u64 - 1);
        let delivered = || lock(&tally.latencies).len() as u64;
        while delivered() < expected && lock(&tally.trouble).is_none() {
            if tokio::time::timeout(PATIENCE, tally.progress.notified()).await.is_err() {
                break;
            }
        }
        if let Some(trouble) = lock(&tally.trouble).take() {
            return Err(format!("an honest session ended: {trouble}").into());
        }
        let mut latencies = std::mem::take(&mut *lock(&tally.latencies));
        latencies.sort_unstable();
        entering.sort_unstable();
        Ok(Sample {
            p50: quantile(&latencies, 50),
            p99: quantile(&latencies, 99),
            max: quantile(&latencies, 100),
            delivered: latencies.len(),
            lost: expected.saturating_sub(latencies.len() as u64),
            enter_p50: quantile(&entering, 50),
            enter_max: quantile(&entering, 100),
            kept_out: (2 * NEWCOMERS as usize).saturating_sub(entering.len()),
        })
    }
}

fn wire(nth: usize) -> Wire {
    if nth.is_multiple_of(2) { Wire::WebSocketTls } else { Wire::Stream }
}

/// Everybody in turn, evenly spread; how many messages that were.
async fn talk(talkers: &mut [Talker], began: Instant, lasting: Duration) -> Result<u64> {
    let mut ticks = tokio::time::interval(EVERY / SESSIONS as u32);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let end = Instant::now() + lasting;
    let mut said = 0;
    'talk: loop {
        for talker in &mut *talkers {
            if Instant::now() >= end {
                break 'talk Ok(said);
            }
            ticks.tick().await;
            talker.said += 1;
            let line = talker.script.line(talker.said, began.elapsed());
            talker.member.feed(line).await?;
            talker.member.flush().await?;
            said += 1;
        }
    }
}

/// How long each took that came meanwhile.
async fn enter(dialer: &Dialer, server: &Server, lasting: Duration) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    let mut ticks = tokio::time::interval(lasting / (NEWCOMERS * 2));
    for nth in 0..2 * NEWCOMERS as usize {
        ticks.tick().await;
        let began = Instant::now();
        let joining = Member::join(dialer, server, wire(nth), "newcomers", Purpose::Talk);
        // Whoever is turned away is counted: under attack that is a finding, not a fault.
        if let Ok(Ok(_)) = tokio::time::timeout(PATIENCE, joining).await {
            took.push(began.elapsed());
        }
    }
    Ok(took)
}

async fn listen(mut receiver: Receiver, tally: Arc<Tally>, began: Instant) {
    let ended = loop {
        let message = match receiver.next().await {
            Ok(message) => message,
            Err(error) => break error,
        };
        match Said::of(&message) {
            Said::Delivery => {
                let Some((_, sent)) = text::stamp(&message) else {
                    break "a message that nobody sent".into();
                };
                lock(&tally.latencies).push(began.elapsed().saturating_sub(sent));
                tally.progress.notify_one();
            }
            Said::Trouble => break trouble(&message),
            Said::Welcome | Said::Ready | Said::Other => {}
        }
    };
    lock(&tally.trouble).get_or_insert(ended.to_string());
    tally.progress.notify_one();
}

fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
