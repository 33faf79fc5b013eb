//! What is granted while there is more to do than time to do it in.
//!
//! Tasks wait in a queue for their turn, those who come first in one and the others in another. When
//! it grows long, everybody in it waits, whoever made it long. So the wait is measured, and while it is too
//! long, all rates (messages and bytes of a session, handshakes) are cut down to a share of what they may be
//! otherwise, equal for all: who says little notices nothing, who says much is read more slowly. Long
//! before that, who says more than the line goes over to the others.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use handover_protocol::pace::Rate;
use handover_protocol::time::Time;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::telemetry::Metrics;

/// Between two measurements.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// What one decision rests on; fewer measurements where each of them takes long.
const WINDOW: Duration = Duration::from_millis(50);
/// In what a share is counted.
const WHOLE: u32 = 1_000;
/// Never less than this: of a thousand messages a second, five.
const LEAST: f64 = 0.005;
/// A share that is granted again grows by so much a window, where waits are short ...
const GROWTH: f64 = 1.02;
/// ... and where they are nearly as long as they may be.
const GROWTH_NEAR: f64 = 1.005;

/// What a session may say and still come first while there is time for everybody, when that has just been
/// too little.
const LINE: Rate = Rate { per_s: 1_000, burst: 1_000 };
/// Where there has been enough for long it is so many times as much: to go from one thread to another costs
/// time, too, and an empty queue is no reason to.
const LINE_MOST: f64 = 100.0;
/// Who says ten messages a second comes first however busy it is.
const LINE_LEAST: f64 = 0.01;
/// The line is drawn at a tenth of the wait at which rates are cut: to come after others is no harm
/// where there is time.
const LINE_SOONER: u32 = 10;
/// ... and moves back so slowly, twice as high in half a minute, that those behind it do not come
/// back all the time to make everybody wait.
const LINE_GROWTH: f64 = 1.001;

/// Finds the share. A wait that is too long cuts it at once, short ones let it grow again slowly.
#[derive(Clone, Debug)]
pub struct Governor {
    target: Duration,
    least: f64,
    most: f64,
    growth: f64,
    growth_near: f64,
    share: f64,
    began: Time,
    waited: Duration,
    turns: u32,
}

impl Governor {
    /// One that tries to keep the mean wait for a turn below `target`.
    pub fn new(target: Duration, now: Time) -> Self {
        Governor {
            target,
            least: LEAST,
            most: 1.0,
            growth: GROWTH,
            growth_near: GROWTH_NEAR,
            share: 1.0,
            began: now,
            waited: Duration::ZERO,
            turns: 0,
        }
    }

    /// One that draws the line between those who come first and the others.
    fn of_line(target: Duration, now: Time) -> Self {
        let (least, most, growth, growth_near) = (LINE_LEAST, LINE_MOST, LINE_GROWTH, 1.0);
        let governor = Governor::new(target / LINE_SOONER, now);
        Governor { least, most, growth, growth_near, share: most, ..governor }
    }

    /// Something has waited so long for its turn.
    pub fn handle_wait(&mut self, now: Time, wait: Duration) {
        self.waited += wait;
        self.turns += 1;
        if now.since(self.began) < WINDOW {
            return;
        }
        let mean = self.waited / self.turns;
        if mean > self.target {
            // Half of it if it is far too much, and gently where it is nearly right.
            let excess = self.target.as_secs_f64() / mean.as_secs_f64();
            // What was granted beyond the whole goes at once.
            self.share = self.share.min(1.0) * excess.clamp(0.5, 0.95);
        } else {
            // Nobody is called back from far away by what is more than whole.
            let growth = if self.share < 1.0 { self.growth } else { GROWTH };
            self.share *= if mean < self.target / 2 { growth } else { self.growth_near };
        }
        self.share = self.share.clamp(self.least, self.most);
        (self.began, self.waited, self.turns) = (now, Duration::ZERO, 0);
    }

    /// What may be granted of every rate, from a two-hundredth to 1; of the line, from a hundredth to a
    /// hundred times as much.
    pub fn share(&self) -> f64 {
        self.share
    }
}

/// The share that holds now. Clones agree.
#[derive(Clone, Debug)]
pub struct Pressure(Arc<State>);

/// In which queue somebody waits: of the threads that come first, or of the others
/// ([`crate::turns`]).
#[derive(Clone, Copy, Debug)]
pub enum Queue {
    /// The first.
    First,
    /// The others.
    Other,
}

/// How much longer than the first those may wait who come after them.
const OTHER_TIMES: u32 = 10;

#[derive(Debug)]
struct State {
    /// By queue. The smaller one holds.
    thousandths: [AtomicU32; 2],
    line: AtomicU32,
    dropped: AtomicU64,
}

fn part(rate: Rate, thousandths: u32) -> Rate {
    let part = |whole: u64| {
        let part = u128::from(whole) * u128::from(thousandths) / u128::from(WHOLE);
        u64::try_from(part).unwrap_or(whole).max(1)
    };
    Rate { per_s: part(rate.per_s), burst: part(rate.burst) }
}

fn thousandths(share: f64) -> u32 {
    (share * f64::from(WHOLE)).round() as u32
}

impl Default for Pressure {
    fn default() -> Self {
        let (line, dropped) = (AtomicU32::new(thousandths(LINE_MOST)), AtomicU64::new(0));
        let thousandths = [AtomicU32::new(WHOLE), AtomicU32::new(WHOLE)];
        Pressure(Arc::new(State { thousandths, line, dropped }))
    }
}

impl Pressure {
    /// Whether less than everything is granted to those who wait in `queue`.
    pub fn is_on(&self, queue: Queue) -> bool {
        self.thousandths(queue) < WHOLE
    }

    /// What is left of a rate now, for those who wait in `queue`.
    pub fn of(&self, queue: Queue, rate: Rate) -> Rate {
        part(rate, self.thousandths(queue))
    }

    /// How much those may say who come first.
    pub fn line(&self) -> Rate {
        part(LINE, self.0.line.load(Ordering::Relaxed))
    }

    /// What is left now of the rate at which those come who say as much as the line.
    pub fn of_line(&self, rate: Rate) -> Rate {
        part(rate, self.0.line.load(Ordering::Relaxed).min(WHOLE))
    }

    /// Those who come first wait for each other, the others for both.
    fn thousandths(&self, queue: Queue) -> u32 {
        let [first, other] = &self.0.thousandths;
        let first = first.load(Ordering::Relaxed);
        match queue {
            Queue::First => first,
            Queue::Other => first.min(other.load(Ordering::Relaxed)),
        }
    }

    /// Counts datagrams of QUIC that nobody looked at, for the metrics.
    pub fn dropped(&self, datagrams: u64) {
        self.0.dropped.fetch_add(datagrams, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn of_share(share: f64) -> Self {
        let pressure = Pressure::default();
        pressure.set(Queue::First, share);
        pressure
    }

    #[cfg(test)]
    pub(crate) fn of_others(share: f64) -> Self {
        let pressure = Pressure::default();
        pressure.set(Queue::Other, share);
        pressure
    }

    #[cfg(test)]
    pub(crate) fn with_line(self, share: f64) -> Self {
        self.0.line.store(thousandths(share), Ordering::Relaxed);
        self
    }

    fn set(&self, queue: Queue, share: f64) {
        self.0.thousandths[queue as usize].store(thousandths(share), Ordering::Relaxed);
    }

    /// Measures and decides until `end`, on the threads in question. `target` is what a task may wait
    /// for its turn on the first.
    pub async fn watch(
        self,
        queue: Queue,
        target: Duration,
        clock: Clock,
        metrics: Arc<Metrics>,
        end: CancellationToken,
    ) {
        let target = match queue {
            Queue::First => target,
            Queue::Other => target * OTHER_TIMES,
        };
        let mut governor = Governor::new(target, clock.now());
        let mut line = Governor::of_line(target, clock.now());
        let mut was_on = false;
        loop {
            let asleep = tokio::time::sleep(LOOK_EVERY);
            if end.run_until_cancelled(asleep).await.is_none() {
                return;
            }
            let ready = clock.now();
            to_the_end_of_the_queue().await;
            let now = clock.now();
            governor.handle_wait(now, now.since(ready));
            self.set(queue, governor.share());
            if let Queue::Other = queue {
                continue;
            }
            line.handle_wait(now, now.since(ready));
            self.0.line.store(thousandths(line.share()), Ordering::Relaxed);
            let share = f64::from(self.thousandths(Queue::Other)) / f64::from(WHOLE);
            metrics.granted(share);
            metrics.packets_dropped(self.0.dropped.swap(0, Ordering::Relaxed));
            if !was_on && share < 0.5 {
                was_on = true;
                tracing::warn!("more to do than time to do it in; rates are cut down");
            } else if was_on && share >= 1.0 {
                was_on = false;
                tracing::info!("time enough again; rates are as configured");
            }
        }
    }
}

/// Lets everybody have a turn who is waiting for one. (`yield_now` is no measure of that: its task
/// goes on before the others once the runtime has looked for news of its sockets.)
async fn to_the_end_of_the_queue() {
    let mut has_waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(1);

    fn after(governor: &mut Governor, windows: u64, wait: Duration) -> f64 {
        let from = governor.began;
        for nth in 1..=windows * 10 {
            governor.handle_wait(from + LOOK_EVERY * nth as u32, wait);
        }
        governor.share()
    }

    fn new() -> Governor {
        Governor::new(TARGET, Time::ZERO)
    }

    #[test]
    fn who_waits_little_gets_everything() {
        let mut governor = new();
        assert!(after(&mut governor, 100, TARGET / 2) >= 1.0);
        assert!(after(&mut governor, 100, TARGET) >= 1.0, "on the target nothing is cut");
    }

    #[test]
    fn a_wait_that_is_too_long_cuts_at_once_and_never_everything() {
        let mut governor = new();
        let share = after(&mut governor, 1, TARGET * 100);
        assert!((0.5..0.6).contains(&share), "{share}");
        assert!((after(&mut governor, 20, TARGET * 100) - LEAST).abs() < 1e-9);
        // One measurement that takes longer than a window decides by itself.
        let mut governor = new();
        governor.handle_wait(Time::ZERO + Duration::from_secs(1), Duration::from_secs(1));
        assert!(governor.share() < 0.6);
    }

    #[test]
    fn a_wait_that_is_nearly_right_cuts_gently() {
        let mut governor = new();
        assert!(after(&mut governor, 1, TARGET * 11 / 10) > 0.9);
    }

    #[test]
    fn everything_comes_back() {
        let mut governor = new();
        after(&mut governor, 20, TARGET * 100);
        assert!(after(&mut governor, 250, TARGET / 10) < 1.0);
        assert!(after(&mut governor, 50, TARGET / 10) >= 1.0);
        after(&mut governor, 20, TARGET * 100);
        assert!(
            after(&mut governor, 1_100, TARGET) >= 1.0,
            "more slowly where it is nearly too much"
        );
    }

    #[tokio::test]
    async fn the_end_of_the_queue_is_behind_everybody() {
        let turns = Arc::new(AtomicU32::new(0));
        let end = tokio::spawn(to_the_end_of_the_queue());
        for _ in 0..100 {
            let turns = turns.clone();
            tokio::spawn(async move { turns.fetch_add(1, Ordering::Relaxed) });
        }
        end.await.unwrap();
        assert_eq!(turns.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn the_line_moves_sooner_than_rates_do_and_back_slowly() {
        let (mut rates, mut line) = (new(), Governor::of_line(TARGET, Time::ZERO));
        assert!(after(&mut rates, 100, TARGET / 5) >= 1.0);
        assert!(after(&mut line, 2, TARGET / 5) <= 0.5);
        assert!((after(&mut line, 100, TARGET / 5) - LINE_LEAST).abs() < 1e-9);
        let doubled = 700;
        let back = after(&mut line, doubled, Duration::ZERO) / LINE_LEAST;
        assert!((1.9..2.1).contains(&back), "{back} times in 35 s");
        assert!(after(&mut line, doubled * 6, Duration::ZERO) >= 1.0);
        let most = after(&mut line, 240, Duration::ZERO);
        assert!((most - LINE_MOST).abs() < 1e-9, "{most} in 12 s more");
    }

    #[test]
    fn who_comes_first_waits_for_nobody_else() {
        let pressure = Pressure::default();
        let rate = Rate { per_s: 1_000, burst: 1_000 };
        let granted = || [Queue::First, Queue::Other].map(|queue| pressure.of(queue, rate).per_s);
        pressure.set(Queue::Other, 0.1);
        assert_eq!(granted(), [1_000, 100]);
        pressure.set(Queue::First, 0.5);
        assert_eq!(granted(), [500, 100]);
        pressure.set(Queue::Other, 1.0);
        assert_eq!(granted(), [500, 500]);
        let most = part(LINE, thousandths(LINE_MOST));
        assert_eq!(pressure.line(), most, "which is drawn by itself");
    }

    #[test]
    fn a_line_that_is_far_off_grants_no_more_than_there_is() {
        let rate = Rate { per_s: 500, burst: 500 };
        assert_eq!(Pressure::default().of_line(rate), rate);
        assert_eq!(Pressure::default().with_line(0.1).of_line(rate).per_s, 50);
    }

    #[test]
    fn a_rate_keeps_its_share_and_never_stops() {
        let pressure = Pressure::default();
        let rate = Rate { per_s: 1_000, burst: 4_000 };
        assert_eq!(pressure.of(Queue::First, rate), rate);
        assert!(!pressure.is_on(Queue::First));
        pressure.set(Queue::First, 0.02);
        assert!(pressure.clone().is_on(Queue::First));
        assert_eq!(pressure.of(Queue::First, rate), Rate { per_s: 20, burst: 80 });
        assert_eq!(
            pressure.of(Queue::First, Rate { per_s: 1, burst: 1 }),
            Rate { per_s: 1, burst: 1 }
        );
        assert_eq!(pressure.of(Queue::First, Rate { per_s: u64::MAX, burst: 0 }).burst, 1);
    }
}
