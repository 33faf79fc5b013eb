//! What attacks end with. The gateway is a process of its own, with limits that are soon reached;
//! after each attack two who behave, one on each transport, come, meet in a room and are heard, and
//! the gateway has no more memory than its limits allow for.
//!
//! How long they took and what is left is printed and in `docs/security.md`. That they are served
//! within a second is for that table: here they have [`PATIENCE`], which tells a gateway that hangs
//! from a machine that is busy.

use std::net::SocketAddr;
use std::time::Duration;

use handover::clock::Clock;
use serde_json::json;
use tempfile::TempDir;

use super::entering::enters;
use super::setup::{Member, soon};
use crate::process::Process;

const PATIENCE: Duration = Duration::from_secs(10);
/// What a TCP connection that nobody has greeted on may cost: an idle session, which has more, costs
/// 32 kB, and with TLS what is being handshaken is on top.
pub const TCP_KB: u64 = 48;
/// The same by QUIC: 74 kB.
pub const QUIC_KB: u64 = 96;
/// ... and what one that says half of something has besides: its window, 40 KiB of streams that have
/// not said what they are or of the bulk stream, and a message on the signal stream.
pub const QUIC_HALF_KB: u64 = QUIC_KB + 64 + 40 + 64;
/// The same by TCP: a message.
pub const TCP_HALF_KB: u64 = TCP_KB + 64;
/// A room's task, its mailbox and its place.
pub const ROOM_KB: u64 = 32;
/// What a session without a connection may cost.
const AWAY_KB: u64 = 4;
/// A log is kept in its text and in each codec that somebody reads.
const FORMS: u64 = 3;
/// What any process gains as it goes on: an allocator gives little back, and less of it is whole.
const WEAR_KB: u64 = 4 * 1_024;

/// What the gateway is started with where a test does not say otherwise, so that what it may have
/// is little.
const LIMITS: [(&str, u64); 6] = [
    ("limits.connections", 64),
    ("limits.ungreeted", 64),
    ("limits.sessions_away", 64),
    ("limits.rooms_total", 4),
    ("retention.signal.bytes", 256 * 1_024),
    ("retention.bulk.bytes", 256 * 1_024),
];

pub struct Besieged {
    process: Process,
    /// For those who behave, where one is asked for.
    token: Option<String>,
    /// Resident once somebody has been served, and by how much that may grow.
    memory: Option<(u64, u64)>,
}

impl Besieged {
    /// With these settings, and [`LIMITS`].
    pub async fn start(settings: &[&str]) -> Self {
        Self::within(tempfile::tempdir().unwrap(), settings, None).await
    }

    /// The same in a directory with files, where those who behave have a token.
    pub async fn within(dir: TempDir, settings: &[&str], token: Option<String>) -> Self {
        let set = |name: &str| {
            let named = settings.iter().filter_map(|setting| setting.split_once('='));
            named.filter(|(key, _)| *key == name).map(|(_, value)| value.parse().unwrap()).next()
        };
        let limits = LIMITS.map(|(name, value)| (name, set(name).unwrap_or(value)));
        let [connections, ungreeted, away, rooms, signal, bulk] = limits.map(|(_, value)| value);
        // Set-ups have places of their own, on either transport.
        let bound_kb = connections * QUIC_KB
            + ungreeted * (QUIC_HALF_KB + TCP_HALF_KB)
            + away * AWAY_KB
            + rooms * (ROOM_KB + FORMS * (signal + bulk) / 1_024)
            + WEAR_KB;
        let limits = limits.map(|(name, value)| format!("{name}={value}"));
        let others = settings.iter().copied();
        let others = others.filter(|setting| !limits.iter().any(|limit| limit == setting));
        let settings: Vec<&str> = limits.iter().map(String::as_str).chain(others).collect();
        Self::bounded(dir, &settings, token, bound_kb).await
    }

    /// With these settings alone, and so much memory besides what it has to begin with.
    pub async fn bounded(
        dir: TempDir,
        settings: &[&str],
        token: Option<String>,
        bound_kb: u64,
    ) -> Self {
        // Its attackers share its processors, and what else is tested at the same time does.
        let mut flags = vec!["--log", "error", "--set", "limits.wait_us=0"];
        for setting in settings {
            flags.extend(["--set", setting]);
        }
        let process = Process::with(dir, &flags);
        let mut besieged = Besieged { process, token, memory: None };
        besieged.honest_call().await;
        besieged.memory = besieged.memory_kb("VmRSS:").map(|before| (before, bound_kb));
        besieged
    }

    pub fn secure(&self) -> SocketAddr {
        self.process.secure()
    }

    pub fn plain(&self) -> SocketAddr {
        self.process.plain()
    }

    pub async fn websocket(&self) -> Member {
        Member::websocket(self.plain()).await
    }

    pub async fn webtransport(&self) -> Member {
        Member::webtransport(self.secure()).await
    }

    /// One that has said nothing.
    pub async fn websocket_unheard(&self) -> Member {
        Member::over_websocket(self.plain()).await
    }

    /// One on each transport that has said nothing.
    pub async fn strangers(&self) -> [Member; 2] {
        let websocket = Member::over_websocket(self.plain()).await;
        [websocket, Member::over_webtransport(self.secure()).await]
    }

    /// One on each transport, greeted and in `room`.
    pub async fn both(&self, room: &str) -> [Member; 2] {
        let mut one = self.websocket().await;
        let mut other = self.webtransport().await;
        one.join(room).await;
        other.join(room).await;
        one.expect("signal", "member_joined").await;
        [one, other]
    }

    /// The sum of the metrics that begin like this.
    pub fn metric(&self, start: &str) -> u64 {
        self.metric_with(start, "")
    }

    /// The sum of those that begin like this and have this in them.
    pub fn metric_with(&self, start: &str, part: &str) -> u64 {
        let text = self.process.get("/metrics");
        let lines = text.lines().filter(|line| line.starts_with(start) && line.contains(part));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// `None` where the system does not tell.
    fn memory_kb(&self, name: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// Two who behave come, meet in a room, and one hears the other.
    async fn honest_call(&self) {
        let mut one = Member::over_websocket(self.plain()).await;
        let mut other = Member::patient(self.secure()).await;
        for member in [&mut one, &mut other] {
            match &self.token {
                Some(token) => _ = enters(member, token).await,
                None => {
                    member.send("signal", json!({"type": "hello", "version": 1})).await;
                    member.expect("signal", "welcome").await;
                }
            }
            member.join("a room of those who behave").await;
        }
        one.expect("signal", "member_joined").await;
        let seq = one.post("a room of those who behave", "signal", json!("well?")).await;
        one.accepted("signal", seq).await;
        assert_eq!(other.expect("signal", "message").await["body"], "well?");
        for mut member in [one, other] {
            member.send("signal", json!({"type": "bye"})).await;
            member.bye().await;
        }
    }

    /// The end of every attack; see the module.
    pub async fn is_well(&self) {
        let clock = Clock::start();
        let began = clock.now();
        let called = tokio::time::timeout(PATIENCE, self.honest_call()).await;
        assert!(called.is_ok(), "those who behave are not served");
        let took = clock.now().since(began).as_millis();
        let thread = std::thread::current();
        let attack = thread.name().unwrap_or_default();
        if let (Some((before, bound)), Some(left)) = (self.memory, self.memory_kb("VmRSS:")) {
            println!("after {attack}: {took} ms, {before} kB before, {left} left, bound +{bound}");
            assert!(left <= before + bound, "{before} kB before, {left} left, bound +{bound}");
        }
        assert_eq!(self.metric("handover_panics_total"), 0);
    }

    /// Is attacked three times: an allocator does not give everything back, but whatever is lost by
    /// each attack adds up. The peak is within the bound, too.
    pub async fn withstands(&self, attack: impl AsyncFn(&Besieged)) {
        for _ in 0..3 {
            attack(self).await;
            self.is_well().await;
        }
        if let (Some((before, bound)), Some(peak)) = (self.memory, self.memory_kb("VmHWM:")) {
            println!("peak {peak} kB");
            assert!(peak <= before + bound, "{before} kB before, {peak} at the peak");
        }
    }

    /// Told to end, it does, in order.
    pub async fn ends(mut self) {
        let ended = tokio::task::spawn_blocking(move || self.process.end("TERM").0);
        assert!(soon(ended).await.unwrap().success());
    }
}
