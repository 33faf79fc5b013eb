//! What a run comes to, for people.

use std::fmt;
use std::time::Duration;

use super::chaos::{Harm, Harmed};
use super::receiver::Tally;

/// How durations are spread, to within 5 percent, in the same memory however many there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Spread {
    /// Of everything between two powers of [`STEP`] microseconds.
    counts: Vec<u64>,
}

const STEP: f64 = 1.05;

impl Spread {
    pub(super) fn add(&mut self, duration: Duration) {
        let micros = duration.as_secs_f64().mul_add(1e6, 1.0);
        // Below 700 for any duration there is.
        let at = micros.log(STEP) as usize;
        if self.counts.len() <= at {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] += 1;
    }

    pub(super) fn merge(&mut self, other: &Spread) {
        let len = self.counts.len().max(other.counts.len());
        self.counts.resize(len, 0);
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What this share of them, of 1, does not exceed.
    pub(super) fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
        let mut before = 0;
        let at = self.counts.iter().position(|counted| {
            before += counted;
            before >= rank
        })?;
        Some(Duration::from_secs_f64(STEP.powi(i32::try_from(at + 1).ok()?) / 1e6))
    }
}

/// A session that was asked to leave its gateway.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// When it was to do so, from when it was asked.
    pub announced: Duration,
    /// When another gateway carried it.
    pub took: Duration,
}

/// What a run comes to.
#[derive(Debug, Default)]
pub struct Report {
    pub(super) sessions: usize,
    pub(super) rooms: usize,
    pub(super) targets: Vec<String>,
    pub(super) seed: u64,
    pub(super) lasted: Duration,
    pub(super) sent: u64,
    pub(super) accepted: u64,
    pub(super) failed: u64,
    pub(super) renewed: u64,
    pub(super) ended: u64,
    pub(super) resets: u64,
    pub(super) tally: Tally,
    pub(super) delays: Spread,
    pub(super) harmed: Option<Harmed>,
    pub(super) recoveries: Vec<(Harm, Duration)>,
    pub(super) failovers: Vec<Duration>,
    pub(super) gaps: Vec<Duration>,
    pub(super) moves: Vec<Move>,
    /// The sessions were on gateways that may be gone for a while.
    pub(super) of_fleet: bool,
    /// How often what the gateways share was emptied.
    pub(super) lives_ended: u64,
    /// Memberships that were not told of that.
    pub(super) resets_missed: u64,
    /// Sessions that had not come to rest when the run was given up.
    pub(super) restless: u64,
}

impl Report {
    fn promises(&self) -> [(&'static str, u64); 13] {
        [
            ("lost", self.tally.lost),
            ("repeated", self.tally.repeated),
            ("out of order", self.tally.misordered),
            ("leaked", self.tally.leaked),
            ("in a life of the room other than its own", self.tally.mixed),
            ("two messages at one place", self.tally.doubled),
            ("refused although the addressee was there", self.tally.turned_away),
            ("resets without cause", self.resets),
            ("new lives of a room not told of", self.resets_missed),
            ("sends neither accepted nor under way", self.failed),
            ("sessions forgotten by the gateway", self.renewed),
            ("sessions that ended by themselves", self.ended),
            ("sessions that did not come to rest", self.restless),
        ]
    }

    /// Whether every promise was kept, on messages that there were.
    pub fn is_good(&self) -> bool {
        self.tally.delivered > 0 && self.promises().iter().all(|(_, broken)| *broken == 0)
    }

    /// How long sessions took to come back after their gateway had died, each time.
    pub fn failovers(&self) -> &[Duration] {
        &self.failovers
    }

    /// Every time that a session was asked to leave its gateway and did.
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// The longest that a session was without a connection and knew it.
    pub fn longest_gap(&self) -> Duration {
        self.gaps.iter().max().copied().unwrap_or_default()
    }

    fn interruptions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nsessions")?;
        heading(f)?;
        let late = |m: &Move| m.took.saturating_sub(m.announced);
        let late: Vec<Duration> = self.moves.iter().map(late).collect();
        let rows = [
            ("whose gateway died", &self.failovers),
            ("asked to move, and late", &late),
            ("without a connection", &self.gaps),
        ];
        for (name, times) in rows {
            row(f, name, times.len() as u64, times.clone())?;
        }
        Ok(())
    }

    fn broken_connections(&self, f: &mut fmt::Formatter<'_>, harmed: &Harmed) -> fmt::Result {
        let total: u64 = harmed.times.values().sum();
        writeln!(
            f,
            "\nconnections broken: {total}, of which {} passed unnoticed",
            harmed.unnoticed
        )?;
        heading(f)?;
        let mut all = Vec::new();
        for harm in Harm::ALL {
            let of_harm = self.recoveries.iter().filter(|(of, _)| *of == harm);
            let times: Vec<Duration> = of_harm.map(|(_, time)| *time).collect();
            all.extend(&times);
            let count = harmed.times.get(&harm).copied().unwrap_or_default();
            row(f, &harm.to_string(), count, times)?;
        }
        row(f, "all", total, all)
    }
}

fn heading(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "  {:<26}{:>8}{:>10}{:>10}{:>10}{:>10}",
        "", "times", "timed", "p50 ms", "p99 ms", "max ms"
    )
}

fn row(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    count: u64,
    mut times: Vec<Duration>,
) -> fmt::Result {
    times.sort_unstable();
    let at = |share: f64| {
        let rank = (times.len() as f64 * share).ceil() as usize;
        times.get(rank.saturating_sub(1)).map_or_else(|| "-".to_owned(), |time| millis(*time))
    };
    let (half, most, all) = (at(0.5), at(0.99), at(1.0));
    writeln!(f, "  {name:<26}{count:>8}{:>10}{half:>10}{most:>10}{all:>10}", times.len())
}

fn millis(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1e3)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { sessions, rooms, seed, .. } = self;
        writeln!(f, "{sessions} sessions in {rooms} rooms, seed {seed}, on")?;
        for target in &self.targets {
            writeln!(f, "  {target}")?;
        }
        let secs = self.lasted.as_secs_f64();
        writeln!(f, "\nin {secs:.1} s: sent {}, accepted {}", self.sent, self.accepted)?;
        let quantile = |share| self.delays.quantile(share).map_or_else(|| "-".to_owned(), millis);
        writeln!(
            f,
            "delivered {}, after p50 {} ms, p99 {} ms, at most {} ms",
            self.tally.delivered,
            quantile(0.5),
            quantile(0.99),
            quantile(1.0)
        )?;
        if self.lives_ended > 0 {
            writeln!(
                f,
                "the rooms' lives ended {} times: {} messages were cut off by that, and {} refused \
                 before their addressee was back",
                self.lives_ended, self.tally.cut_off, self.tally.too_early
            )?;
        }
        if let Some(harmed) = &self.harmed {
            self.broken_connections(f, harmed)?;
        }
        if self.of_fleet {
            self.interruptions(f)?;
        }
        writeln!(f)?;
        let promises = self.promises();
        for (name, broken) in promises {
            writeln!(f, "  {name:<42}{broken:>8}")?;
        }
        if self.tally.delivered == 0 {
            writeln!(f, "  nothing was delivered, so nothing is proven")?;
        }
        let kept = promises.iter().filter(|(_, broken)| *broken == 0).count();
        let failed = promises.len() - kept + usize::from(self.tally.delivered == 0);
        writeln!(f, "\n{kept} passed, {failed} failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_close() {
        let mut spread = Spread::default();
        assert_eq!(spread.quantile(0.5), None);
        for ms in 1..=1_000 {
            spread.add(Duration::from_millis(ms));
        }
        let mut twice = spread.clone();
        twice.merge(&spread);
        assert_eq!(twice.count(), 2_000);
        for (share, ms) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0), (0.0, 1.0)] {
            let got = twice.quantile(share).unwrap().as_secs_f64() * 1e3;
            assert!((ms..ms * 1.06).contains(&got), "{share}: {got}");
        }
    }

    #[test]
    fn one_broken_promise_is_enough() {
        let tally = Tally { delivered: 9, ..Tally::default() };
        let good = Report { tally, ..Report::default() };
        assert!(good.is_good());
        assert!(good.to_string().ends_with("\n13 passed, 0 failed\n"), "{good}");
        let bad = Report { tally: Tally { repeated: 1, ..tally }, ..Report::default() };
        assert!(!bad.is_good());
        assert!(bad.to_string().ends_with("\n12 passed, 1 failed\n"), "{bad}");
        assert!(!Report::default().is_good(), "nothing delivered proves nothing");
    }
}
