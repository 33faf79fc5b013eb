//! What a joined, idle session costs: resident memory of the gateway for each of 2,000 and of
//! 10,000 sessions, beside a bare server on the same libraries that holds as many connections
//! and does nothing with them. Beside that, the processor time to set one up and to keep it.
//!
//! `cargo bench --bench capacity`; `-- tls` for WebSocket alone, `-- webtransport` for the
//! other. With `BENCH_SHORT=1` there are few sessions, and the figures mean little.
//!
//! Every server is a fresh process; the sessions are in rooms of five. Memory is read once it
//! has stopped changing, and what the server had before the first session is taken off.

#![allow(clippy::disallowed_methods, reason = "a bench reads time and its environment itself")]

#[expect(dead_code, reason = "every bench uses its part of the rig")]
#[path = "../rig/mod.rs"]
mod rig;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt};
use rig::Result;
use rig::dial::Dialer;
use rig::line::Wire;
use rig::member::{Member, Purpose, Said, trouble};
use rig::server::{Kind, Server};
use rig::system::Memory;
use tokio::task::JoinSet;

const ROOM: usize = 5;
/// Sessions that are being set up at the same time.
const SETTING_UP: usize = 64;
/// Descriptors that are not sessions.
const OTHER_FILES: u64 = 100;

const WIRES: [(Wire, f64); 2] = [(Wire::WebSocketTls, 32.0), (Wire::Stream, 85.0)];

fn main() -> ExitCode {
    rig::start(run())
}

/// What a server is like with so many sessions.
struct Sample {
    sessions: usize,
    /// Above what it had before the first.
    memory: Memory,
    setup_cpu: Duration,
    /// In `idle_time` with all of them idle.
    idle_cpu: Duration,
    idle_time: Duration,
}

async fn run() -> Result<()> {
    let short = rig::is_short();
    let steps: &[usize] = if short { &[50, 200] } else { &[2_000, 10_000] };
    let idle_time = Duration::from_secs(if short { 1 } else { 30 });
    println!("{}", rig::system::machine());
    let files = rig::system::raise_open_files();
    println!("open files: {files}; rooms of {ROOM}\n");
    println!(
        "| {:<20} | {:>8} | {:>7} | {:>11} | {:>11} | {:>13} | {:>17} | {:<16} |",
        "transport",
        "sessions",
        "server",
        "RSS kB each",
        "PSS kB each",
        "set-up CPU us",
        "idle CPU us/s each",
        "target kB",
    );
    println!("|{}|", [22, 10, 9, 13, 13, 15, 20, 18].map(|width| "-".repeat(width)).join("|"));
    for (wire, target_kb) in WIRES {
        if !rig::is_chosen(wire.name()) {
            continue;
        }
        for kind in Kind::ALL {
            for sample in measure(wire, kind, steps, files, idle_time).await? {
                print(wire, kind, &sample, target_kb);
            }
        }
    }
    println!("\nload average afterwards: {}", rig::system::load());
    Ok(())
}

async fn measure(
    wire: Wire,
    kind: Kind,
    steps: &[usize],
    files: u64,
    idle_time: Duration,
) -> Result<Vec<Sample>> {
    let server = Server::start(kind)?;
    let dialer = Dialer::new()?;
    // The first one of all brings in code and tables that have nothing to do with sessions.
    drop(Member::join(&dialer, &server, wire, "first", Purpose::Idle).await?);
    let before = settled(&server).await?;
    let mut crowd = Crowd::default();
    let mut samples = Vec::new();
    let mut setup_cpu = Duration::ZERO;
    for &step in steps {
        let sessions = step.min(usize::try_from(files.saturating_sub(OTHER_FILES))?);
        if sessions < step {
            eprintln!("only {sessions} sessions: the system allows {files} open files");
        }
        let cpu = server.cpu_time()?;
        crowd.grow(&dialer, &server, wire, sessions).await?;
        setup_cpu += server.cpu_time()?.saturating_sub(cpu);
        let after = settled(&server).await?;
        let (began, cpu) = (Instant::now(), server.cpu_time()?);
        tokio::time::sleep(idle_time).await;
        let idle_cpu = server.cpu_time()?.saturating_sub(cpu);
        let idle_time = began.elapsed();
        crowd.check(sessions)?;
        let memory = Memory {
            rss: after.rss.saturating_sub(before.rss),
            pss: after.pss.saturating_sub(before.pss),
        };
        samples.push(Sample { sessions, memory, setup_cpu, idle_cpu, idle_time });
    }
    Ok(samples)
}

/// Sessions that are there and listen.
#[derive(Default)]
struct Crowd {
    listeners: JoinSet<()>,
    gone: Arc<AtomicUsize>,
}

impl Crowd {
    /// Adds sessions until there are so many.
    async fn grow(
        &mut self,
        dialer: &Dialer,
        server: &Server,
        wire: Wire,
        sessions: usize,
    ) -> Result<()> {
        let names = (self.listeners.len()..sessions).map(|nth| format!("room-{}", nth / ROOM));
        let joins = names.map(|room| async move {
            Member::join(dialer, server, wire, &room, Purpose::Idle).await
        });
        let members = futures_util::stream::iter(joins).buffer_unordered(SETTING_UP);
        members
            .try_for_each(|member| {
                self.listeners.spawn(listen(member, self.gone.clone()));
                std::future::ready(Ok(()))
            })
            .await
    }

    /// Whether they are all still there.
    fn check(&self, sessions: usize) -> Result<()> {
        match self.gone.load(Ordering::Relaxed) {
            0 => Ok(()),
            gone => Err(format!("{gone} of {sessions} sessions ended").into()),
        }
    }
}

/// Answers pings, which happens by reading, until the server ends the connection.
async fn listen(mut member: Member, gone: Arc<AtomicUsize>) {
    let ended = loop {
        match member.receiver.next().await {
            Ok(message) if Said::of(&message) == Said::Trouble => break trouble(&message),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    if gone.fetch_add(1, Ordering::Relaxed) == 0 {
        eprintln!("a session ended: {ended}");
    }
}

/// The memory of a server once it has stopped changing.
async fn settled(server: &Server) -> Result<Memory> {
    const TRIES: usize = 30;
    const STEADY: usize = 3;
    let mut last = server.memory()?;
    let mut steady = 0;
    for _ in 0..TRIES {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = server.memory()?;
        steady = if now.rss.abs_diff(last.rss) * 1_000 <= now.rss { steady + 1 } else { 0 };
        last = now;
        if steady == STEADY {
            break;
        }
    }
    Ok(last)
}

fn print(wire: Wire, kind: Kind, sample: &Sample, target_kb: f64) {
    let sessions = sample.sessions as f64;
    let kb = |bytes: u64| bytes as f64 / 1024.0 / sessions;
    let rss = kb(sample.memory.rss);
    let target = match kind {
        Kind::Floor => String::new(),
        Kind::Gateway if rss <= target_kb => format!("{target_kb:.0} met"),
        Kind::Gateway => format!("{target_kb:.0} MISSED"),
    };
    println!(
        "| {:<20} | {:>8} | {:>7} | {:>11.1} | {:>11.1} | {:>13.0} | {:>18.2} | {:<16} |",
        wire.name(),
        sample.sessions,
        kind.name(),
        rss,
        kb(sample.memory.pss),
        sample.setup_cpu.as_secs_f64() * 1e6 / sessions,
        sample.idle_cpu.as_secs_f64() * 1e6 / sample.idle_time.as_secs_f64() / sessions,
        target,
    );
}
