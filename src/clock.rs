//! The one reader of the clock.
//!
//! Everything else is told the time; `clippy.toml` refuses other readers. Waiting is done with
//! tokio's timers, which need no reading.

use std::time::{Duration, SystemTime};

use handover_protocol::time::Time;
use tokio::time::Instant;

/// Counts time from when it was started, for the state machines. Copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that stands at [`Time::ZERO`].
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn start() -> Self {
        Clock { origin: Instant::now() }
    }

    /// A clock that was started so long ago.
    #[cfg(test)]
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    pub(crate) fn started(ago: Duration) -> Self {
        Clock { origin: Instant::now() - ago }
    }

    /// The time now.
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now(&self) -> Time {
        Time::ZERO + Instant::now().saturating_duration_since(self.origin)
    }

    /// When `time` will be, or was, for tokio's timers.
    pub fn instant(&self, time: Time) -> Instant {
        self.origin + Duration::from_micros(time.as_micros())
    }

    /// The calendar's time, for certificates and whatever else outlives the process.
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn unix_now(&self) -> UnixTime {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // A clock before 1970 is one that was never set.
        UnixTime::from_secs(since_epoch.unwrap_or_default().as_secs())
    }
}

/// Seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(u64);

impl UnixTime {
    /// That many seconds since 1970.
    pub const fn from_secs(secs: u64) -> Self {
        UnixTime(secs)
    }

    /// Seconds since 1970.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// The time from now until this one; zero if it has passed.
    pub const fn since(self, earlier: UnixTime) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }

    /// This much later.
    pub const fn plus(self, duration: Duration) -> Self {
        UnixTime(self.0.saturating_add(duration.as_secs()))
    }

    /// This much earlier.
    pub const fn minus(self, duration: Duration) -> Self {
        UnixTime(self.0.saturating_sub(duration.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_at_zero_and_only_rises() {
        let clock = Clock::start();
        let first = clock.now();
        let second = clock.now();
        assert!(first <= second);
        assert!(clock.instant(Time::ZERO) <= clock.instant(first));
        assert_eq!(clock.instant(first).duration_since(clock.origin), first.since(Time::ZERO));
    }

    #[test]
    fn the_calendar_saturates() {
        let (day, second) = (Duration::from_secs(86_400), UnixTime::from_secs(1));
        assert_eq!(second.minus(day), UnixTime::from_secs(0));
        assert_eq!(second.plus(day).since(second), day);
        assert_eq!(second.since(second.plus(day)), Duration::ZERO);
    }
}
