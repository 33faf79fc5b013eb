//! How fast each of very many comes, in the same room however many there are.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};

use handover_protocol::pace::{Bucket, Rate};
use handover_protocol::time::Time;

/// Buckets in a row.
const ROW: usize = 4_096;

/// Each is counted in two rows, with others whose hashes meet there. Nobody can choose whose they
/// meet, and hardly anybody meets busy ones in both.
#[derive(Debug)]
pub struct Rates([Row; 2]);

#[derive(Debug)]
struct Row {
    hasher: RandomState,
    buckets: Box<[Mutex<Bucket>]>,
}

impl Rates {
    /// Nobody has come yet.
    pub fn new(now: Time) -> Self {
        Rates([Row::new(now), Row::new(now)])
    }

    /// Whether this one may come now with `amount`, if each may come at `rate`.
    pub fn may_come(&self, now: Time, who: impl Hash, rate: Rate, amount: u64) -> bool {
        // Counted in both, and let in by either.
        self.0.iter().filter(|row| row.may_come(now, &who, rate, amount)).count() > 0
    }
}

impl Row {
    fn new(now: Time) -> Self {
        let none = Rate { per_s: 1, burst: u64::MAX };
        let buckets = (0..ROW).map(|_| Mutex::new(Bucket::new(none, now)));
        Row { hasher: RandomState::new(), buckets: buckets.collect() }
    }

    fn may_come(&self, now: Time, who: impl Hash, rate: Rate, amount: u64) -> bool {
        let at = self.hasher.hash_one(who) as usize % ROW;
        let Some(bucket) = self.buckets.get(at) else { return true };
        // A bucket is whole after every call.
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.set_rate(now, rate);
        bucket.take(now, amount).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ONCE: Rate = Rate { per_s: 1, burst: 1 };

    #[test]
    fn each_is_counted_for_itself() {
        let rates = Rates::new(Time::ZERO);
        assert!(rates.may_come(Time::ZERO, 0, ONCE, 1));
        assert!(!rates.may_come(Time::ZERO, 0, ONCE, 1));
        let later = Time::ZERO + Duration::from_secs(1);
        assert!(rates.may_come(later, 0, ONCE, 1));
        let rates = Rates::new(Time::ZERO);
        assert!(rates.may_come(later, 1, ONCE, 3));
        assert!(!rates.may_come(later + Duration::from_secs(1), 1, ONCE, 1), "three are three");
    }

    #[test]
    fn many_busy_ones_hardly_ever_keep_another_out() {
        let rates = Rates::new(Time::ZERO);
        for busy in 0..1_000 {
            rates.may_come(Time::ZERO, busy, ONCE, 1);
        }
        let kept_out = (1_000..1_400).filter(|who| !rates.may_come(Time::ZERO, who, ONCE, 1));
        // One row alone keeps a quarter of them out.
        assert!(kept_out.count() < 60);
    }
}
