//! Turns what a transport knows of its path into the `quality` a client is told.

use std::net::IpAddr;

use handover_protocol::wire::message::{Quality, QualityLevel};

use crate::transport::PathSample;

/// Follows one connection's path.
#[derive(Debug)]
pub struct QualityMeter {
    address: IpAddr,
    sent: u64,
    lost: u64,
    /// Mean deviation of the round-trip time in milliseconds, smoothed as in RFC 9002, 5.3.
    jitter: f64,
    last_rtt: Option<f64>,
    told: Option<Quality>,
}

impl QualityMeter {
    /// Starts from how the path is now.
    pub fn new(path: &PathSample) -> Self {
        QualityMeter {
            address: path.remote.ip().to_canonical(),
            sent: path.packets_sent,
            lost: path.packets_lost,
            jitter: 0.0,
            last_rtt: None,
            told: None,
        }
    }

    /// Whether the peer's IP address has changed since the last call. A new port alone is a
    /// NAT's doing and nobody's concern.
    pub fn has_moved(&mut self, path: &PathSample) -> bool {
        let address = path.remote.ip().to_canonical();
        let moved = address != self.address;
        if moved {
            // The new path starts without a history.
            (self.jitter, self.last_rtt, self.told) = (0.0, None, None);
            (self.sent, self.lost) = (path.packets_sent, path.packets_lost);
        }
        self.address = address;
        moved
    }

    /// The path's quality, if it has changed enough since it was last told to be worth telling.
    pub fn measure(&mut self, path: &PathSample) -> Option<Quality> {
        let rtt = path.rtt?.as_secs_f64() * 1_000.0;
        if let Some(last) = self.last_rtt {
            self.jitter += ((rtt - last).abs() - self.jitter) / 4.0;
        }
        self.last_rtt = Some(rtt);
        let sent = path.packets_sent.saturating_sub(self.sent);
        let lost = path.packets_lost.saturating_sub(self.lost);
        (self.sent, self.lost) = (path.packets_sent, path.packets_lost);
        let loss = if sent == 0 { 0.0 } else { (lost as f64 / sent as f64).min(1.0) };
        let (rtt, jitter) = (round(rtt, 10.0), round(self.jitter, 10.0));
        let loss = round(loss, 1_000.0);
        let now = Quality { rtt, jitter, loss, level: level(rtt, jitter, loss) };
        let changed = self.told.is_none_or(|told| differs(&told, &now));
        changed.then(|| {
            self.told = Some(now);
            now
        })
    }
}

fn round(value: f64, per_unit: f64) -> f64 {
    (value * per_unit).round() / per_unit
}

/// The thresholds below which a call is good, or possible (ITU-T G.114 for the delay).
fn level(rtt: f64, jitter: f64, loss: f64) -> QualityLevel {
    if rtt <= 150.0 && jitter <= 30.0 && loss <= 0.02 {
        QualityLevel::Good
    } else if rtt <= 400.0 && jitter <= 80.0 && loss <= 0.08 {
        QualityLevel::Fair
    } else {
        QualityLevel::Poor
    }
}

/// Whether a change is more than the noise of measuring: a tenth, and at least a millisecond
/// or half a percent.
fn differs(told: &Quality, now: &Quality) -> bool {
    let far = |a: f64, b: f64, least: f64| (a - b).abs() > (a * 0.1).max(least);
    told.level != now.level
        || far(told.rtt, now.rtt, 1.0)
        || far(told.jitter, now.jitter, 1.0)
        || far(told.loss, now.loss, 0.005)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn path(rtt_ms: u64, sent: u64, lost: u64, remote: &str) -> PathSample {
        PathSample {
            rtt: Some(Duration::from_millis(rtt_ms)),
            packets_sent: sent,
            packets_lost: lost,
            remote: remote.parse().unwrap(),
        }
    }

    #[test]
    fn is_told_while_it_changes() {
        let mut meter = QualityMeter::new(&path(20, 0, 0, "10.0.0.1:1"));
        let first = meter.measure(&path(20, 100, 0, "10.0.0.1:1")).unwrap();
        assert_eq!((first.rtt, first.loss, first.level), (20.0, 0.0, QualityLevel::Good));
        assert_eq!(meter.measure(&path(20, 200, 0, "10.0.0.1:1")), None);
        let worse = meter.measure(&path(500, 300, 50, "10.0.0.1:1")).unwrap();
        assert_eq!((worse.rtt, worse.loss, worse.level), (500.0, 0.5, QualityLevel::Poor));
        assert_eq!(worse.jitter, 120.0);
    }

    #[test]
    fn a_new_port_is_no_move() {
        let mut meter = QualityMeter::new(&path(20, 0, 0, "10.0.0.1:1"));
        assert!(!meter.has_moved(&path(20, 0, 0, "10.0.0.1:2")));
        assert!(!meter.has_moved(&path(20, 0, 0, "[::ffff:10.0.0.1]:2")));
        assert!(meter.has_moved(&path(20, 0, 0, "10.0.0.2:2")));
        assert!(!meter.has_moved(&path(20, 0, 0, "10.0.0.2:2")));
    }
}
