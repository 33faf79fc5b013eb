//! When to dial again: exponential backoff with full jitter.
//!
//! The first retry goes out at once, because most losses are a blip; after that the longest
//! wait doubles from one second to thirty, and each wait is drawn evenly from zero to it, so
//! that the clients of a gateway that went down do not come back together. The random number
//! is the caller's.

use std::time::Duration;

use crate::time::Time;

/// The longest wait before the second retry.
pub const STEP: Duration = Duration::from_secs(1);
/// The longest wait before any retry.
pub const CAP: Duration = Duration::from_secs(30);
/// A link that held this long ends the run of failures before it.
pub const STABLE_AFTER: Duration = Duration::from_secs(1);
/// A link that came about and did not hold counts as this many failures at the most: the
/// gateway is there, and only has to be spared a tight loop.
const SHAKY: u32 = 2;
/// One that the gateway put off counts as this many at the most, four seconds: it is there, waits for
/// something itself, and says when to come again. Who stayed away longer would be missed by others
/// long after that is over.
const PUT_OFF: u32 = 3;

/// The run of failures so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    up_since: Option<Time>,
}

impl Backoff {
    /// No failure yet.
    pub const fn new() -> Self {
        Backoff { failures: 0, up_since: None }
    }

    /// Failures in a row.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// A link is up. The run of failures ends once it has held for [`STABLE_AFTER`].
    pub fn succeed(&mut self, now: Time) {
        self.up_since = Some(now);
    }

    /// A link was lost, or could not be made. Returns when to dial next.
    ///
    /// `random` is drawn evenly from all of `u32`. `retry_after` is what the gateway asked
    /// for: then no dial goes out before that, and the jitter comes on top.
    pub fn fail(&mut self, now: Time, random: u32, retry_after: Option<Duration>) -> Time {
        if let Some(since) = self.up_since.take() {
            let held = now.since(since) >= STABLE_AFTER;
            self.failures = if held { 0 } else { self.failures.min(SHAKY) };
        }
        if retry_after.is_some() {
            self.failures = self.failures.min(PUT_OFF);
        }
        let ceiling = ceiling(self.failures);
        self.failures = self.failures.saturating_add(1);
        now + retry_after.unwrap_or_default() + jitter(ceiling, random)
    }

    /// The network changed, or the user asked: what failed before says nothing any more.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The longest wait after `failures` failures before this one.
fn ceiling(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => STEP.saturating_mul(1_u32.checked_shl(n - 1).unwrap_or(u32::MAX)).min(CAP),
    }
}

fn jitter(ceiling: Duration, random: u32) -> Duration {
    let micros = u64::try_from(ceiling.as_micros()).unwrap_or(u64::MAX);
    // At most 30 s times 2^32: far inside 128 bits.
    let drawn = u128::from(micros) * u128::from(random) / u128::from(u32::MAX);
    Duration::from_micros(u64::try_from(drawn).unwrap_or(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Time = Time::from_micros(1_000_000_000);

    fn longest(backoff: &mut Backoff) -> Duration {
        backoff.fail(T0, u32::MAX, None).since(T0)
    }

    #[test]
    fn the_first_retry_is_at_once_and_then_the_ceiling_doubles_to_its_cap() {
        let mut backoff = Backoff::new();
        let waits: Vec<u64> = (0..9).map(|_| longest(&mut backoff).as_secs()).collect();
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 30, 30, 30]);
        let mut tired = Backoff { failures: u32::MAX, up_since: None };
        assert_eq!(longest(&mut tired), CAP);
    }

    #[test]
    fn waits_are_spread_over_everything_below_the_ceiling() {
        let mut backoff = Backoff { failures: 3, up_since: None };
        assert_eq!(backoff.fail(T0, 0, None), T0);
        let mut backoff = Backoff { failures: 3, up_since: None };
        let half = backoff.fail(T0, u32::MAX / 2, None).since(T0);
        assert!(half > Duration::from_millis(1_990) && half < Duration::from_millis(2_010));
    }

    #[test]
    fn the_gateways_wish_is_a_floor() {
        let mut backoff = Backoff::new();
        let asked = Some(Duration::from_secs(7));
        assert_eq!(backoff.fail(T0, u32::MAX, asked), T0 + Duration::from_secs(7));
        assert_eq!(backoff.fail(T0, u32::MAX, asked), T0 + Duration::from_secs(8));
    }

    #[test]
    fn who_is_put_off_does_not_stay_away_ever_longer() {
        let mut backoff = Backoff { failures: 6, up_since: None };
        let asked = Duration::from_millis(500);
        for _ in 0..10 {
            let longest = backoff.fail(T0, u32::MAX, Some(asked)).since(T0);
            assert_eq!(longest, asked + Duration::from_secs(4));
        }
        assert_eq!(backoff.fail(T0, u32::MAX, None), T0 + Duration::from_secs(8));
    }

    #[test]
    fn only_a_link_that_held_ends_the_run() {
        let mut backoff = Backoff { failures: 4, up_since: None };
        backoff.succeed(T0);
        let lost = T0 + Duration::from_millis(10);
        assert_eq!(backoff.fail(lost, u32::MAX, None), lost + Duration::from_secs(2));
        assert_eq!(backoff.failures(), 3);
        backoff.succeed(T0);
        let lost = T0 + STABLE_AFTER;
        assert_eq!(backoff.fail(lost, u32::MAX, None), lost);
        assert_eq!(backoff.failures(), 1);
        backoff.reset();
        assert_eq!(backoff.failures(), 0);
    }
}
