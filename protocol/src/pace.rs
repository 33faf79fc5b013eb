//! How fast a session may go: token buckets, and what becomes of who is faster.
//!
//! A bucket may be overdrawn by one helping, however large, and gives nothing until it has been
//! filled up again: so no message is too large for a small bucket, and the mean is kept.

use std::time::Duration;

use crate::time::Time;

/// How many refused messages are put up with at once before the connection is closed. A client
/// that had a window of sends under way when it became too fast stays below.
const PATIENCE: Rate = Rate { per_s: 100, burst: 4_096 };
/// Newer tokens: each is work to check, and may change what up to 64 rooms see. One that is brought
/// whenever the last is about to end, or twice, stays below.
const REFRESHES: Rate = Rate { per_s: 1, burst: 8 };
/// What a bucket counts in: millionths, so that a microsecond fills in whole numbers.
const MILLION: i128 = 1_000_000;

/// So much per second, and so much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What comes in per second.
    pub per_s: u64,
    /// What there is at the most.
    pub burst: u64,
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    /// In millionths; below zero where it is overdrawn.
    level: i128,
    filled: Time,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate, now: Time) -> Self {
        Bucket { rate, level: i128::from(rate.burst) * MILLION, filled: now }
    }

    /// Takes `amount` if there is anything; otherwise says after what time there is.
    pub fn take(&mut self, now: Time, amount: u64) -> Result<(), Duration> {
        self.fill(now);
        if self.level > 0 {
            self.level -= i128::from(amount) * MILLION;
            return Ok(());
        }
        Err(self.wait())
    }

    /// Takes `amount` of what there is or will be within a second, however much more it is.
    pub fn charge(&mut self, now: Time, amount: u64) {
        self.fill(now);
        let owed = -i128::from(self.rate.per_s) * MILLION;
        self.level = self.level.saturating_sub(i128::from(amount) * MILLION).max(owed);
    }

    /// How long there will be nothing; `None` if there is something.
    pub fn debt(&mut self, now: Time) -> Option<Duration> {
        self.fill(now);
        (self.level <= 0).then(|| self.wait())
    }

    /// Fills at another rate from now on, and holds no more than that rate's burst.
    pub fn set_rate(&mut self, now: Time, rate: Rate) {
        if self.rate != rate {
            self.fill(now);
            self.rate = rate;
            self.level = self.level.min(i128::from(rate.burst) * MILLION);
        }
    }

    /// The part of a full bucket that is left, from 0 to 1.
    pub fn fraction(&mut self, now: Time) -> f64 {
        self.fill(now);
        let full = i128::from(self.rate.burst.max(1)) * MILLION;
        self.level.max(0) as f64 / full as f64
    }

    fn fill(&mut self, now: Time) {
        let passed = now.since(self.filled).as_micros();
        self.filled = self.filled.max(now);
        let passed = i128::try_from(passed).unwrap_or(i128::MAX);
        let gained = passed.saturating_mul(i128::from(self.rate.per_s));
        let full = i128::from(self.rate.burst) * MILLION;
        self.level = self.level.saturating_add(gained).min(full);
    }

    /// Until there is something again. Rounded up to milliseconds, as it is told.
    fn wait(&self) -> Duration {
        let per_ms = i128::from(self.rate.per_s.max(1)) * 1_000;
        let ms = (1 - self.level).div_euclid(per_ms) + 1;
        Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
    }
}

/// What a session may do in a time. Nothing is bounded that is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaceLimits {
    /// Messages of any kind.
    pub messages: Option<Rate>,
    /// Their bytes.
    pub bytes: Option<Rate>,
    /// Rooms joined.
    pub joins: Option<Rate>,
}

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take it.
    Go,
    /// Refuse it; it may come again after this.
    TooFast(Duration),
    /// Close the connection: it has been told often enough. It may come back after this.
    Abuse(Duration),
}

/// How fast a session goes.
#[derive(Clone, Debug)]
pub struct Pace {
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    joins: Option<Bucket>,
    refreshes: Bucket,
    patience: Bucket,
}

impl Pace {
    /// One that has done nothing yet.
    pub fn new(limits: &PaceLimits, now: Time) -> Self {
        let bucket = |rate: Option<Rate>| rate.map(|rate| Bucket::new(rate, now));
        Pace {
            messages: bucket(limits.messages),
            bytes: bucket(limits.bytes),
            joins: bucket(limits.joins),
            refreshes: Bucket::new(REFRESHES, now),
            patience: Bucket::new(PATIENCE, now),
        }
    }

    /// A message of so many bytes has come.
    pub fn handle_message(&mut self, now: Time, bytes: usize) -> Verdict {
        let take = |bucket: &mut Option<Bucket>, amount| match bucket {
            Some(bucket) => bucket.take(now, amount),
            None => Ok(()),
        };
        let by_count = take(&mut self.messages, 1);
        // What is refused for its number has not used up bytes.
        let taken = by_count.and_then(|()| take(&mut self.bytes, bytes as u64));
        match taken {
            Ok(()) => Verdict::Go,
            Err(wait) => match self.patience.take(now, 1) {
                Ok(()) => Verdict::TooFast(wait),
                Err(longer) => Verdict::Abuse(wait.max(longer)),
            },
        }
    }

    /// A message was answered with so many bytes that nobody but its sender has caused.
    pub fn handle_answer(&mut self, now: Time, bytes: usize) {
        if let Some(bucket) = &mut self.bytes {
            bucket.charge(now, bytes as u64);
        }
    }

    /// A room is to be joined.
    pub fn handle_join(&mut self, now: Time) -> Result<(), Duration> {
        self.joins.as_mut().map_or(Ok(()), |joins| joins.take(now, 1))
    }

    /// A newer token is to be looked at.
    pub fn handle_refresh(&mut self, now: Time) -> Result<(), Duration> {
        self.refreshes.take(now, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1_000)
    }

    const TEN: Rate = Rate { per_s: 10, burst: 20 };

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(TEN, at(0));
        let taken =
            |bucket: &mut Bucket, now| (0..).take_while(|_| bucket.take(now, 1).is_ok()).count();
        assert_eq!(taken(&mut bucket, at(0)), 20);
        assert_eq!(bucket.take(at(0), 1), Err(Duration::from_millis(1)), "empty, not overdrawn");
        assert_eq!(taken(&mut bucket, at(1_000)), 10);
        assert_eq!(taken(&mut bucket, at(100_000)), 20, "no more than a burst is saved up");
    }

    #[test]
    fn long_answers_count_as_what_was_sent() {
        let limits = PaceLimits { bytes: Some(TEN), ..PaceLimits::default() };
        let mut pace = Pace::new(&limits, at(0));
        assert_eq!(pace.handle_message(at(0), 1), Verdict::Go);
        // Taken in before the answers to what came before were known.
        for _ in 0..1_000 {
            pace.handle_answer(at(0), 1_000);
        }
        assert!(matches!(pace.handle_message(at(999), 1), Verdict::TooFast(_)));
        assert_eq!(pace.handle_message(at(1_001), 1), Verdict::Go, "no more than a second is owed");
    }

    #[test]
    fn what_it_tells_to_wait_is_enough_and_not_too_much() {
        for overdraft in [1, 7, 1_000] {
            let mut bucket = Bucket::new(TEN, at(0));
            bucket.take(at(0), 20 + overdraft).unwrap();
            let wait = bucket.take(at(0), 1).unwrap_err();
            assert!(bucket.take(at(0) + wait - Duration::from_millis(2), 1).is_err());
            assert_eq!(bucket.take(at(0) + wait, 1), Ok(()), "{overdraft}");
        }
    }

    #[test]
    fn large_helpings_keep_the_mean() {
        let mut bucket = Bucket::new(TEN, at(0));
        let mut taken = 0;
        for ms in 0..100_000 {
            taken += bucket.take(at(ms), 300).map_or(0, |()| 300);
        }
        assert!((1_000..=1_320).contains(&taken), "{taken} in 100 s at 10 a second");
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_gives_nothing() {
        let mut bucket = Bucket::new(TEN, at(5_000));
        bucket.take(at(5_000), 20).unwrap();
        assert!(bucket.take(at(0), 1).is_err());
        assert!(bucket.take(at(5_000), 1).is_err());
        assert!(bucket.fraction(at(5_000)) < f64::EPSILON);
        assert!((bucket.fraction(at(6_000)) - 0.5).abs() < 0.01);
    }

    #[test]
    fn another_rate_holds_from_then_on() {
        let mut bucket = Bucket::new(TEN, at(0));
        let taken =
            |bucket: &mut Bucket, now| (0..).take_while(|_| bucket.take(now, 1).is_ok()).count();
        assert_eq!(bucket.debt(at(0)), None);
        bucket.set_rate(at(0), Rate { per_s: 1, burst: 2 });
        assert_eq!(taken(&mut bucket, at(0)), 2, "what was saved up beyond the burst is gone");
        assert_eq!(bucket.debt(at(0)), Some(Duration::from_millis(1)));
        assert_eq!(taken(&mut bucket, at(1_500)), 2, "one whole, and half of one");
        bucket.set_rate(at(2_000), TEN);
        assert!((10..=11).contains(&taken(&mut bucket, at(3_000))));
    }

    #[test]
    fn bytes_and_messages_are_both_bounded() {
        let limits = PaceLimits { messages: Some(TEN), bytes: Some(TEN), joins: None };
        let mut pace = Pace::new(&limits, at(0));
        assert_eq!(pace.handle_message(at(0), 500), Verdict::Go);
        assert!(matches!(pace.handle_message(at(0), 1), Verdict::TooFast(_)), "bytes");
        let mut pace = Pace::new(&limits, at(0));
        assert!((0..20).all(|_| pace.handle_message(at(0), 0) == Verdict::Go));
        assert!(matches!(pace.handle_message(at(0), 0), Verdict::TooFast(_)), "messages");
        let mut pace = Pace::new(&PaceLimits::default(), at(0));
        assert!((0..100_000).all(|_| pace.handle_message(at(0), 65_536) == Verdict::Go));
        assert!((0..100_000).all(|_| pace.handle_join(at(0)).is_ok()));
    }

    #[test]
    fn patience_ends_and_comes_back() {
        let limits = PaceLimits { messages: Some(TEN), ..PaceLimits::default() };
        let mut pace = Pace::new(&limits, at(0));
        let refused = (0..).map(|_| pace.handle_message(at(0), 1)).skip(20);
        let patient = refused.take_while(|verdict| matches!(verdict, Verdict::TooFast(_))).count();
        assert_eq!(patient as u64, PATIENCE.burst);
        assert!(matches!(pace.handle_message(at(0), 1), Verdict::Abuse(_)));
        let later = at(60_000);
        assert!((0..20).all(|_| pace.handle_message(later, 1) == Verdict::Go));
        assert!(matches!(pace.handle_message(later, 1), Verdict::TooFast(_)));
    }

    #[test]
    fn newer_tokens_have_a_bucket_that_those_who_need_them_never_empty() {
        let mut pace = Pace::new(&PaceLimits::default(), at(0));
        assert!((0..8).all(|_| pace.handle_refresh(at(0)).is_ok()));
        assert_eq!(pace.handle_refresh(at(0)), Err(Duration::from_millis(1)), "empty");
        let refreshed = (1..=100_000).filter(|ms| pace.handle_refresh(at(*ms)).is_ok()).count();
        assert!((99..=101).contains(&refreshed), "{refreshed} in 100 s");
        let mut pace = Pace::new(&PaceLimits::default(), at(0));
        assert!((0..10_000).all(|n| pace.handle_refresh(at(n * 1_000)).is_ok()), "one a second");
    }

    #[test]
    fn joins_have_a_bucket_of_their_own() {
        let limits = PaceLimits { joins: Some(TEN), ..PaceLimits::default() };
        let mut pace = Pace::new(&limits, at(0));
        assert!((0..20).all(|_| pace.handle_join(at(0)).is_ok()));
        assert!(pace.handle_join(at(0)).is_err());
        assert_eq!(pace.handle_message(at(0), 1), Verdict::Go);
        assert_eq!(pace.handle_join(at(150)), Ok(()));
    }
}
