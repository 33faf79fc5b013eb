//! Reading more slowly, and writing more at a time, while the gateway has too much to do.

use std::time::Duration;

use handover_protocol::pace::{Bucket, PaceLimits, Rate};
use handover_protocol::time::Time;

use crate::pressure::{Pressure, Queue};

/// What may be said at once under pressure, as a part of what may be said in a second: what many
/// have saved up would keep everybody waiting.
const AT_ONCE: u64 = 10;
/// ... but no less than this: somebody says something now and then.
const AT_ONCE_LEAST: u64 = 4;
/// Writes per second, of which pressure leaves a share, but no less than [`WRITES_LEAST`]. Most of
/// what a delivery costs is the write, and one write carries any number of them: a busy member of a
/// busy room gets its deliveries together, who gets few gets each at once.
const WRITES: Rate = Rate { per_s: 2_000, burst: 200 };
/// See [`WRITES`]: nobody waits longer than 20 ms.
const WRITES_LEAST: Rate = Rate { per_s: 50, burst: 10 };
/// Deliveries of a message that together are worth as much as one more message.
const REACH: usize = 10;

/// Who has said more than those may who come first comes after them for so much longer.
const CALM: Duration = Duration::from_secs(2);

/// Holds a connection back that says more than its share. Nothing is refused: what is not read
/// waits where it is, with the client.
#[derive(Debug)]
pub(super) struct Brake {
    messages: Option<(Rate, Bucket)>,
    bytes: Option<(Rate, Bucket)>,
    /// Bytes of what was read last.
    last: usize,
    until: Option<Time>,
    /// Whether it came first when that was last looked at.
    is_first: bool,
    /// Since when it may come first.
    calm_from: Time,
    line: Bucket,
    writes: Bucket,
    quiet_until: Option<Time>,
}

impl Brake {
    pub(super) fn new(limits: &PaceLimits, pressure: &Pressure, now: Time) -> Self {
        let bucket = |rate: Option<Rate>| rate.map(|rate| (rate, Bucket::new(rate, now)));
        Brake {
            messages: bucket(limits.messages),
            bytes: bucket(limits.bytes),
            last: 0,
            until: None,
            is_first: false,
            calm_from: now,
            line: Bucket::new(pressure.line(), now),
            writes: Bucket::new(WRITES, now),
            quiet_until: None,
        }
    }

    /// Something of so many bytes has been read.
    pub(super) fn handle_message(&mut self, now: Time, pressure: &Pressure, bytes: usize) {
        self.last = bytes;
        self.charge(now, pressure, 1, bytes as u64);
    }

    /// What was read last goes to so many: each [`REACH`] of them cost what it cost to read it.
    pub(super) fn handle_reach(&mut self, now: Time, pressure: &Pressure, members: usize) {
        let times = (members / REACH) as u64;
        if times > 0 {
            self.charge(now, pressure, times, times.saturating_mul(self.last as u64));
        }
    }

    /// Something has been let go unread.
    pub(super) fn handle_unread(&mut self, now: Time, pressure: &Pressure) {
        self.count(now, pressure, 1);
    }

    fn count(&mut self, now: Time, pressure: &Pressure, messages: u64) {
        self.line.set_rate(now, pressure.line());
        self.line.charge(now, messages);
        if let Some(wait) = self.line.debt(now) {
            self.calm_from = now + wait + CALM;
        }
    }

    fn charge(&mut self, now: Time, pressure: &Pressure, messages: u64, bytes: u64) {
        self.count(now, pressure, messages);
        let queue = self.queue(now);
        if !pressure.is_on(queue) {
            return;
        }
        let charge = |bucket: &mut Option<(Rate, Bucket)>, amount| {
            let (whole, bucket) = bucket.as_mut()?;
            let Rate { per_s, burst } = pressure.of(queue, *whole);
            bucket.set_rate(
                now,
                Rate { per_s, burst: burst.min((per_s / AT_ONCE).max(AT_ONCE_LEAST)) },
            );
            bucket.charge(now, amount);
            bucket.debt(now)
        };
        let waits = [charge(&mut self.messages, messages), charge(&mut self.bytes, bytes)];
        // A second at the most: a client whose pings are not read for longer takes the connection for
        // dead, and comes again.
        let longest: Option<Duration> = waits.into_iter().flatten().max();
        self.until = longest.map(|wait| now + wait).max(self.until);
    }

    /// Lets go when it is time to.
    pub(super) fn handle_timeout(&mut self, now: Time) {
        self.quiet_until = self.quiet_until.filter(|until| now < *until);
        self.until = self.until.filter(|until| now < *until);
    }

    /// Until when nothing is to be read.
    pub(super) fn until(&self) -> Option<Time> {
        self.until
    }

    /// Whether it has said no more for some time than those may who come first.
    pub(super) fn is_calm(&self, now: Time) -> bool {
        now >= self.calm_from
    }

    /// When it may come first again, if it may not now.
    pub(super) fn calm_from(&self, now: Time) -> Option<Time> {
        (!self.is_calm(now)).then_some(self.calm_from)
    }

    /// It comes first from now on, or after those who do.
    pub(super) fn set_first(&mut self, first: bool) {
        self.is_first = first;
    }

    /// Whose wait is its own: strangers who wait long are no reason to hold those back who come first.
    fn queue(&self, now: Time) -> Queue {
        if self.is_first && self.is_calm(now) { Queue::First } else { Queue::Other }
    }

    /// Something has been written, however much at once.
    pub(super) fn handle_write(&mut self, now: Time, pressure: &Pressure) {
        let queue = self.queue(now);
        if pressure.is_on(queue) {
            let Rate { per_s, burst } = pressure.of(queue, WRITES);
            let (per_s, burst) = (per_s.max(WRITES_LEAST.per_s), burst.max(WRITES_LEAST.burst));
            self.writes.set_rate(now, Rate { per_s, burst });
            let wait = self.writes.take(now, 1).err().or_else(|| self.writes.debt(now));
            self.quiet_until = wait.map(|wait| now + wait);
        }
    }

    /// Until when nothing is to be written.
    pub(super) fn quiet_until(&self) -> Option<Time> {
        self.quiet_until
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
        let mut brake = Brake::new(&LIMITS, &Pressure::default(), at(0));
        assert_eq!(read(&mut brake, at(0), &Pressure::default(), 1_000), 10_000);
    }

    #[test]
    fn under_pressure_a_tenth_of_a_second_is_read_at_once() {
        let pressure = Pressure::of_share(0.02);
        let mut brake = Brake::new(&LIMITS, &Pressure::default(), at(0));
        assert_eq!(read(&mut brake, at(0), &pressure, 0), 4, "or four");
        let until = brake.until().unwrap();
        brake.handle_timeout(at(0));
        assert_eq!(brake.until(), Some(until), "not before its time");
        brake.handle_timeout(at(1_000));
        assert_eq!(read(&mut brake, at(1_000), &pressure, 0), 4);
    }

    #[test]
    fn bytes_count_as_messages_do_and_no_message_is_too_large() {
        let pressure = Pressure::of_share(0.02);
        let mut brake = Brake::new(&LIMITS, &Pressure::default(), at(0));
        assert_eq!(read(&mut brake, at(0), &pressure, 100), 2, "200 bytes at once");
        let mut brake = Brake::new(&LIMITS, &Pressure::default(), at(0));
        assert_eq!(read(&mut brake, at(0), &pressure, 64_000), 1);
        assert!(brake.until().unwrap() <= at(1_001), "however much it is");
    }

    #[test]
    fn who_speaks_to_many_speaks_less_often() {
        let (limits, pressure) = (LIMITS, Pressure::of_share(0.1));
        let said = |members| {
            let mut brake = Brake::new(&limits, &Pressure::default(), at(0));
            let said = (0..1_000).filter(|ms| {
                brake.handle_timeout(at(*ms));
                let may = brake.until().is_none();
                if may {
                    brake.handle_message(at(*ms), &pressure, 0);
                    brake.handle_reach(at(*ms), &pressure, members);
                }
                may
            });
            said.count()
        };
        assert_eq!((said(1), said(9)), (110, 110));
        assert!((18..=22).contains(&said(40)), "a fifth: {}", said(40));
        assert_eq!(said(1_000), 2);
    }

    #[test]
    fn who_says_more_than_the_line_comes_first_again_when_it_was_calm() {
        let (pressure, limits) = (Pressure::default().with_line(0.02), PaceLimits::default());
        let said = |every: u64| {
            let mut brake = Brake::new(&limits, &pressure, at(0));
            let said = (0..3_000).filter(|ms| ms % every == 0);
            said.for_each(|ms| brake.handle_message(at(ms), &pressure, 300));
            brake
        };
        assert!(said(100).is_calm(at(3_000)), "ten a second, where twenty may be said");
        let much = said(10);
        assert!(!much.is_calm(at(3_000)));
        assert!(!much.is_calm(at(4_990)));
        assert!(much.is_calm(at(6_000)), "a second to be even, two to be calm");
        let mut unread = said(1_000);
        (0..100).for_each(|_| unread.handle_unread(at(3_000), &pressure));
        assert!(!unread.is_calm(at(3_000)), "what is let go unread has come all the same");
        assert_eq!(unread.until(), None, "and holds nothing back");
    }

    #[test]
    fn who_is_told_much_is_told_it_together() {
        let (mut brake, pressure) =
            (Brake::new(&LIMITS, &Pressure::default(), at(0)), Pressure::of_share(0.02));
        let mut writes = 0;
        for ms in 0..2_000 {
            brake.handle_timeout(at(ms));
            if brake.quiet_until().is_none() {
                brake.handle_write(at(ms), &pressure);
                writes += 1;
            }
        }
        assert!((90..=110).contains(&writes), "{writes}: fifty a second, and ten at once");
        // Without pressure, and for who is told little, there is nothing to wait for.
        brake.handle_timeout(at(2_100));
        brake.handle_write(at(2_100), &Pressure::default());
        assert_eq!(brake.quiet_until(), None);
        brake.handle_write(at(2_200), &pressure);
        assert_eq!(brake.quiet_until(), None);
    }

    #[test]
    fn who_comes_first_does_not_wait_for_strangers_and_strangers_wait_for_each_other() {
        let pressure = Pressure::of_others(0.02);
        let said = |first| {
            let mut brake = Brake::new(&LIMITS, &Pressure::default(), at(0));
            brake.set_first(first);
            read(&mut brake, at(0), &pressure, 0)
        };
        assert_eq!(said(false), 4, "before `hello`, and who says more than the line");
        assert!(said(true) >= 1_000, "up to the line");
    }

    #[test]
    fn what_is_not_bounded_is_not_held_back() {
        let mut brake = Brake::new(&PaceLimits::default(), &Pressure::default(), at(0));
        assert_eq!(read(&mut brake, at(0), &Pressure::of_share(0.02), 1_000), 10_000);
    }
}
