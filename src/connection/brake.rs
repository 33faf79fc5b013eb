//! Reading more slowly while the gateway has too much to do.

use std::time::Duration;

use handover_protocol::pace::{Bucket, PaceLimits, Rate};
use handover_protocol::time::Time;

use crate::pressure::Pressure;

/// Holds a connection back that says more than its share. Nothing is refused: what is not read
/// waits where it is, with the client.
#[derive(Debug)]
pub(super) struct Brake {
    messages: Option<(Rate, Bucket)>,
    bytes: Option<(Rate, Bucket)>,
    until: Option<Time>,
}

impl Brake {
    pub(super) fn new(limits: &PaceLimits, now: Time) -> Self {
        let bucket = |rate: Option<Rate>| rate.map(|rate| (rate, Bucket::new(rate, now)));
        Brake { messages: bucket(limits.messages), bytes: bucket(limits.bytes), until: None }
    }

    /// Something of so many bytes has been read.
    pub(super) fn handle_message(&mut self, now: Time, pressure: &Pressure, bytes: usize) {
        if !pressure.is_on() {
            return;
        }
        let take = |bucket: &mut Option<(Rate, Bucket)>, amount| {
            let (whole, bucket) = bucket.as_mut()?;
            bucket.set_rate(now, pressure.of(*whole));
            bucket.take(now, amount).err().or_else(|| bucket.debt(now))
        };
        let waits = [take(&mut self.messages, 1), take(&mut self.bytes, bytes as u64)];
        let longest: Option<Duration> = waits.into_iter().flatten().max();
        self.until = longest.map(|wait| now + wait).max(self.until);
    }

    /// Lets go when it is time to.
    pub(super) fn handle_timeout(&mut self, now: Time) {
        self.until = self.until.filter(|until| now < *until);
    }

    /// Until when nothing is to be read.
    pub(super) fn until(&self) -> Option<Time> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PaceLimits = PaceLimits {
        messages: Some(Rate { per_s: 1_000, burst: 4_000 }),
        bytes: Some(Rate { per_s: 100_000, burst: 400_000 }),
        joins: None,
    };

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1_000)
    }

    /// How many messages are read until reading stops.
    fn read(brake: &mut Brake, now: Time, pressure: &Pressure, bytes: usize) -> usize {
        let mut messages = 0;
        while brake.until().is_none() && messages < 10_000 {
            brake.handle_message(now, pressure, bytes);
            messages += 1;
        }
        messages
    }

    #[test]
    fn without_pressure_nobody_is_held_back() {
        let mut brake = Brake::new(&LIMITS, at(0));
        assert_eq!(read(&mut brake, at(0), &Pressure::default(), 1_000), 10_000);
    }

    #[test]
    fn under_pressure_a_burst_is_read_and_then_the_rate() {
        let pressure = Pressure::of_share(0.02);
        let mut brake = Brake::new(&LIMITS, at(0));
        assert_eq!(read(&mut brake, at(0), &pressure, 0), 80);
        let until = brake.until().unwrap();
        brake.handle_timeout(at(0));
        assert_eq!(brake.until(), Some(until), "not before its time");
        brake.handle_timeout(at(1_000));
        assert_eq!(read(&mut brake, at(1_000), &pressure, 0), 20);
    }

    #[test]
    fn bytes_count_as_messages_do_and_no_message_is_too_large() {
        let pressure = Pressure::of_share(0.02);
        let mut brake = Brake::new(&LIMITS, at(0));
        assert_eq!(read(&mut brake, at(0), &pressure, 4_000), 2, "8,000 at once");
        let mut brake = Brake::new(&LIMITS, at(0));
        assert_eq!(read(&mut brake, at(0), &pressure, 64_000), 1);
        assert!(brake.until().unwrap() > at(25_000), "the mean is kept");
    }

    #[test]
    fn what_is_not_bounded_is_not_held_back() {
        let mut brake = Brake::new(&PaceLimits::default(), at(0));
        assert_eq!(read(&mut brake, at(0), &Pressure::of_share(0.02), 1_000), 10_000);
    }
}
