//! What attacks end with. The gateway is a process of its own, with limits that are soon reached;
//! after each attack two who behave, one on each transport, come, meet in a room and are heard, at their
//! first attempt, and the gateway has given back what the attack took.
//!
//! How long they took is printed, collected for `tests/run`, and in `docs/security.md`. That they are
//! served within a second is for that table: here they have [`PATIENCE`], which tells a gateway that
//! hangs from a machine that is busy.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use handover::clock::Clock;
use serde_json::json;
use tempfile::TempDir;

use super::entering::enters;
use super::setup::{Member, soon};
use crate::process::Process;

const PATIENCE: Duration = Duration::from_secs(10);
/// How long what was taken may take to be given back.
const GIVING_BACK: Duration = Duration::from_secs(5);
/// An attack that leaves so much more than the one before may have lost it. Of each of two thousand
/// connections that would be half a kilobyte.
const NOISE_KB: u64 = 1_024;
/// So many of the same attack, and an allocator has all it needs for the next.
const ATTACKS_MAX: usize = 6;
/// Where each honest call leaves how many milliseconds it took, and after what.
const CALLS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/honest-calls");
/// What a TCP connection that nobody has greeted on may cost: an idle session, which has more, costs
/// 32 kB, and with TLS what is being handshaken is on top.
pub const TCP_KB: u64 = 48;
/// The same by QUIC: 74 kB.
pub const QUIC_KB: u64 = 96;
/// ... and what one that says half of something has besides: its window, and what may be said before
/// `hello`, on all streams together.
pub const QUIC_HALF_KB: u64 = QUIC_KB + 64 + 40;
/// The same by TCP, where the window is the system's.
pub const TCP_HALF_KB: u64 = TCP_KB + 40;
/// A room's task, its mailbox and its place.
pub const ROOM_KB: u64 = 32;
/// What a session without a connection may cost.
const AWAY_KB: u64 = 4;
/// A log is kept in its text and in each codec that somebody reads.
const FORMS: u64 = 3;
/// What any process gains as it goes on: pages of which a part is in use.
const WEAR_KB: u64 = 4 * 1_024;
/// An allocator keeps most of what it once had, in an arena for each thread, and whatever an attack
/// lost would hide in that. With these, glibc's has one arena, gives back what is free at its end, and
/// has the system give what is large.
const GIVES_BACK: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_TRIM_THRESHOLD_", "65536"),
    ("MALLOC_MMAP_THRESHOLD_", "16384"),
];

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
            + rooms * (ROOM_KB + FORMS * (signal + bulk) / 1_024);
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
        let mut flags = vec!["--log", "error"];
        if !settings.iter().any(|setting| setting.starts_with("limits.wait_us=")) {
            // Its attackers share its processors, and what else is tested at the same time does.
            flags.extend(["--set", "limits.wait_us=0"]);
        }
        for setting in settings {
            flags.extend(["--set", setting]);
        }
        let process = Process::in_environment(dir, &flags, &GIVES_BACK);
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

    /// Two who behave come, meet in a room, and one hears the other. How often they were turned away
    /// before.
    async fn honest_call(&self) -> usize {
        let mut one = Member::over_websocket(self.plain()).await;
        let (mut other, refused) = Member::patient(self.secure()).await;
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
        refused
    }

    /// The end of every attack; see the module.
    pub async fn is_well(&self) {
        assert_eq!(self.serves().await, 0, "those who behave are turned away");
        self.has_given_back().await;
    }

    /// While an attack goes on, or where it has left others to be turned away for a while: those who
    /// behave are served, and what the gateway has is within its limits. How often they were turned
    /// away.
    pub async fn serves(&self) -> usize {
        let clock = Clock::start();
        let began = clock.now();
        let called = tokio::time::timeout(PATIENCE, self.honest_call()).await;
        let refused = called.expect("those who behave are not served");
        let took = clock.now().since(began).as_millis();
        let thread = std::thread::current();
        let attack = thread.name().unwrap_or_default();
        println!("after {attack}: {took} ms");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(CALLS);
        file.unwrap().write_all(format!("{took} {attack}\n").as_bytes()).unwrap();
        if let (Some((before, bound)), Some(has)) = (self.memory, self.memory_kb("VmRSS:")) {
            let bound = bound + WEAR_KB;
            assert!(has <= before + bound, "{before} kB before, {has} now, bound +{bound}");
        }
        assert_eq!(self.metric("handover_panics_total"), 0);
        refused
    }

    /// What is still there, by what the gateway says that it has.
    fn there_kb(&self) -> u64 {
        self.metric("handover_connections{") * QUIC_KB
            + self.metric("handover_sessions ") * AWAY_KB
            + self.metric("handover_rooms ") * ROOM_KB
            + self.metric("handover_log_bytes ") * FORMS / 1_024
    }

    /// What the attack took has been given back, but for what is still there.
    pub async fn has_given_back(&self) {
        let Some((before, _)) = self.memory else { return };
        let (left, there) = self.left(before + WEAR_KB).await;
        println!("{before} kB before, {left} left, {there} of it accounted for");
        assert!(left <= before + WEAR_KB + there, "{before} before, {left} left, {there} there");
    }

    /// What it has, and what it says is there, once it has no more than `most` besides that:
    /// connections that have ended may take a while. If it takes too long, what it has then.
    async fn left(&self, most: u64) -> (u64, u64) {
        let (mut left, mut there) = (0, 0);
        let given_back = async {
            loop {
                (left, there) = (self.memory_kb("VmRSS:").unwrap_or(0), self.there_kb());
                if left <= most + there {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        let _ = tokio::time::timeout(GIVING_BACK, given_back).await;
        (left, there)
    }

    /// Is attacked by many until an attack leaves no more behind than the one before it. What the
    /// first leaves is what the allocator keeps for the next; what is lost by each would add up for
    /// ever. The peak is within the bound, too.
    pub async fn withstands(&self, attack: impl AsyncFn(&Besieged)) {
        let mut each = Vec::new();
        loop {
            attack(self).await;
            assert_eq!(self.serves().await, 0, "those who behave are turned away");
            // Where the system does not tell, nothing is ever left.
            let most = each.last().map_or(u64::MAX / 2, |last| last + NOISE_KB);
            let (left, there) = self.left(most).await;
            each.push(left.saturating_sub(there));
            if left <= most + there && each.len() > 1 {
                break;
            }
            assert!(each.len() < ATTACKS_MAX, "each leaves more, in kB: {each:?}");
        }
        let before = self.memory.unwrap_or_default().0;
        println!("{before} kB before, and after each attack, but for what is there: {each:?}");
        self.peaked_within_bounds();
    }

    /// The most that it ever had is what its limits allow for.
    pub fn peaked_within_bounds(&self) {
        if let (Some((before, bound)), Some(peak)) = (self.memory, self.memory_kb("VmHWM:")) {
            let bound = bound + WEAR_KB;
            println!("peak {peak} kB, {before} before, bound +{bound}");
            assert!(
                peak <= before + bound,
                "{before} kB before, {peak} at the peak, bound +{bound}"
            );
        }
    }

    /// Told to end, it does, in order.
    pub async fn ends(mut self) {
        let ended = tokio::task::spawn_blocking(move || self.process.end("TERM").0);
        assert!(soon(ended).await.unwrap().success());
    }
}
