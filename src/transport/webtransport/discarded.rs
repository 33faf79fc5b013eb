//! What QUIC brings in and never gets as far as a connection: streams and datagrams of other sessions,
//! requests, what HTTP/3 calls grease. wtransport throws that away and tells nobody, so it is found by what is
//! missing: QUIC counts what came, the transport what it has passed on.

use quinn::ConnectionStats;

/// From so many messages' worth on its sender comes after others. More than what may wait to be read.
const MANY: i64 = 8_192;
/// So many are passed over each time, for what a connection needs besides.
const SPARED: i64 = 100;
/// Bytes that are as much work as a frame.
const FRAME_BYTES: u64 = 1_000;
/// Packets sent for which their acknowledgements are as much work as a frame that came.
const ACKNOWLEDGED: u64 = 8;

/// How much came and went nowhere, in frames.
#[derive(Debug, Default)]
pub(super) struct Discarded {
    messages: u64,
    bytes: u64,
    /// What was missing when that was last looked at; less than nothing if messages were larger than frames.
    missing: i64,
    level: i64,
}

impl Discarded {
    /// A message of so many bytes has been passed on.
    pub(super) fn handle_message(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }

    /// Looks at what has come since the last time. An honest message may come in two frames, or in one for
    /// every half of what a packet holds.
    pub(super) fn look(&mut self, stats: &ConnectionStats) {
        let frames = &stats.frame_rx;
        let came = frames.stream + frames.datagram + frames.reset_stream + frames.stop_sending;
        let came = came + stats.udp_rx.bytes / FRAME_BYTES;
        let passed_on = 2 * self.messages + 2 * self.bytes / FRAME_BYTES;
        let due = passed_on + stats.udp_tx.datagrams / ACKNOWLEDGED;
        let missing = i64::try_from(came).unwrap_or(i64::MAX).saturating_sub_unsigned(due);
        let more = missing.saturating_sub(self.missing).saturating_sub(SPARED);
        self.level = self.level.saturating_add(more).clamp(0, 2 * MANY);
        self.missing = missing;
    }

    /// Whether that is more than happens to anybody who means well.
    pub(super) fn is_much(&self) -> bool {
        self.level > MANY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How it looks after a minute of so many of these in each of five seconds.
    fn after(frames: u64, bytes: u64, sent: u64, messages: u64) -> Discarded {
        let (mut discarded, mut stats) = (Discarded::default(), ConnectionStats::default());
        for _ in 0..12 {
            stats.frame_rx.stream += frames;
            stats.udp_rx.bytes += bytes;
            stats.udp_tx.datagrams += sent;
            for _ in 0..messages {
                discarded.handle_message(bytes as usize / messages as usize);
            }
            discarded.look(&stats);
        }
        discarded
    }

    #[test]
    fn who_means_well_does_not_come_near() {
        for (name, frames, bytes, sent, messages) in [
            ("silence", 0, 300, 5, 0),
            ("listening in a busy room, with long acknowledgements", 0, 1_250_000, 10_000, 0),
            ("short messages, with what is around them", 5_000, 750_000, 2_500, 5_000),
            ("each in two halves", 10_000, 1_500_000, 5_000, 5_000),
            ("long messages", 17_000, 20_500_000, 8_000, 320),
        ] {
            assert_eq!(after(frames, bytes, sent, messages).level, 0, "{name}");
        }
    }

    #[test]
    fn who_sends_what_nobody_takes_is_noticed_and_forgotten() {
        for (name, frames, bytes) in [
            ("streams, each with a few bytes", 2_000, 100_000),
            ("one without end", 2_000, 2_500_000),
            ("what is no frame of a stream", 0, 2_500_000),
        ] {
            let mut discarded = after(frames, bytes, 0, 0);
            assert!(discarded.is_much(), "{name}");
            let mut stats = ConnectionStats::default();
            (stats.frame_rx.stream, stats.udp_rx.bytes) = (12 * frames, 12 * bytes);
            (0..200).for_each(|_| discarded.look(&stats));
            assert!(!discarded.is_much(), "{name}");
        }
    }

    #[test]
    fn what_waits_to_be_read_is_not_lost() {
        let (mut discarded, mut stats) = (Discarded::default(), ConnectionStats::default());
        // A window full of short messages, while nothing is read.
        (stats.frame_rx.stream, stats.udp_rx.bytes) = (3_840, 450_000);
        discarded.look(&stats);
        assert!(!discarded.is_much());
        (0..3_840).for_each(|_| discarded.handle_message(100));
        discarded.look(&stats);
        assert_eq!(discarded.level, 0);
    }
}
