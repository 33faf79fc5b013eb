//! What 1,000 hostile connections do to 100 honest sessions: the latency of relayed messages
//! before, during and after attacks, and how long somebody new takes to get in.
//!
//! `cargo bench --bench attack`; with `BENCH_SHORT=1` it takes seconds and its figures mean little,
//! `ATTACK_SECONDS` says how many (30) a phase lasts and `ATTACK_ROUNDS` how many attacks (3) there
//! are, with quiet phases around each. Where others have a part of the machine, the quiet figures
//! differ by more than attacks do; so what counts is the median of either kind.
//!
//! The gateway is a process of its own with its limits as shipped. The honest sessions are in this
//! process: ten rooms of ten, half of each on WebSocket over TLS and half on WebTransport, each
//! saying 300 bytes to its room twice a second. The hostile ones are a third process (`hostile.rs`),
//! of one thread, from fifty other addresses. All three share the machine's cores. What the hostile
//! ones take of the processor themselves is in the table; it stands for machines elsewhere, so that
//! they have what the other two leave (`ATTACK_NICE=0` gives them as much).

#![allow(clippy::disallowed_methods, reason = "a bench reads time and its environment itself")]

mod honest;
mod hostile;
#[expect(dead_code, reason = "every bench uses its part of the rig")]
#[path = "../rig/mod.rs"]
mod rig;
#[path = "../relay/text.rs"]
mod text;

use std::io::Read;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use honest::{Honest, Sample};
use rig::Result;
use rig::server::Server;
use rig::system;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some(hostile::ROLE) {
        return hostile::main(args.next().unwrap_or_default());
    }
    rig::start(run())
}

/// One stretch of time.
struct Phase {
    name: &'static str,
    sample: Sample,
    /// Processor time a second of the gateway, of the hostile process and of this one.
    cpu: [f64; 3],
    rss: u64,
}

async fn run() -> Result<()> {
    // What is measured is how long the gateway takes, not how long this process waits for a processor
    // that the other two have: honest clients are on machines of their own.
    handover::turns::come_first();
    let short = rig::is_short();
    let seconds = std::env::var("ATTACK_SECONDS").ok().map(|seconds| seconds.parse());
    let lasting = seconds.unwrap_or(Ok(if short { 2 } else { 30 }))?;
    let lasting = Duration::from_secs(lasting);
    let rounds = std::env::var("ATTACK_ROUNDS").ok().map(|rounds| rounds.parse());
    let rounds = rounds.unwrap_or(Ok(if short { 1_u32 } else { 3 }))?;
    println!("{}", system::machine());
    system::raise_open_files();
    let server = Server::as_shipped()?;
    let mut honest = Honest::gather(&server).await?;
    println!(
        "{} honest sessions, {} hostile connections\n",
        honest::SESSIONS,
        hostile::CONNECTIONS
    );
    head();
    // The first seconds bring in code and tables.
    honest.measure(&server, lasting / 4).await?;
    let quiet = phase("quiet", &server, &mut honest, None, lasting).await?;
    print(&quiet);
    let (mut calm, mut attacked, mut said) = (vec![quiet.sample.p99], Vec::new(), String::new());
    for _ in 0..rounds {
        let hostile = Hostile::start(&server)?;
        honest.measure(&server, lasting / 3).await?;
        let under = phase("attack", &server, &mut honest, Some(&hostile), lasting).await?;
        print(&under);
        attacked.push(under.sample.p99);
        said = hostile.end()?;
        let after = phase("after", &server, &mut honest, None, lasting).await?;
        print(&after);
        calm.push(after.sample.p99);
    }
    let [calm, attacked] = [calm, attacked].map(median);
    let ratio = attacked / calm;
    let verdict = if ratio <= 2.0 { "met" } else { "MISSED" };
    println!(
        "\nmedian p99 under attack {attacked:.2} ms, quiet {calm:.2} ms: {ratio:.2} of it; wanted at \
         most 2: {verdict}"
    );
    println!("what the hostile ones did in the last attack:\n{}", said.trim_end());
    println!("load average afterwards: {}", system::load());
    Ok(())
}

/// In milliseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let [low, high] = [(times.len() - 1) / 2, times.len() / 2].map(|nth| times[nth]);
    (low + high).as_secs_f64() * 1e3 / 2.0
}

async fn phase(
    name: &'static str,
    server: &Server,
    honest: &mut Honest,
    hostile: Option<&Hostile>,
    lasting: Duration,
) -> Result<Phase> {
    let cpu = || -> Result<[Duration; 3]> {
        let hostile = hostile.map_or(Ok(Duration::ZERO), |hostile| hostile.cpu_time())?;
        Ok([server.cpu_time()?, hostile, system::cpu_time(std::process::id())?])
    };
    let (began, before) = (Instant::now(), cpu()?);
    let sample = honest.measure(server, lasting).await?;
    let (took, after) = (began.elapsed(), cpu()?);
    let share =
        |nth: usize| after[nth].saturating_sub(before[nth]).as_secs_f64() / took.as_secs_f64();
    Ok(Phase { name, sample, cpu: [share(0), share(1), share(2)], rss: server.memory()?.rss })
}

const WIDTHS: [usize; 13] = [7, 8, 8, 8, 10, 5, 9, 9, 8, 8, 8, 7, 6];
const HEADS: [&str; 13] = [
    "phase",
    "p50 ms",
    "p99 ms",
    "max ms",
    "delivered",
    "lost",
    "enter p50",
    "enter max",
    "kept out",
    "gateway",
    "hostile",
    "honest",
    "RSS MB",
];

fn head() {
    line(HEADS.map(str::to_owned));
    println!("|{}|", WIDTHS.map(|width| "-".repeat(width + 2)).join("|"));
}

fn print(phase: &Phase) {
    let sample = &phase.sample;
    let ms = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1e3);
    let share = |nth: usize| format!("{:.0}%", phase.cpu[nth] * 100.0);
    line([
        phase.name.to_owned(),
        ms(sample.p50),
        ms(sample.p99),
        ms(sample.max),
        sample.delivered.to_string(),
        sample.lost.to_string(),
        ms(sample.enter_p50),
        ms(sample.enter_max),
        sample.kept_out.to_string(),
        share(0),
        share(1),
        share(2),
        (phase.rss >> 20).to_string(),
    ]);
}

fn line(cells: [String; 13]) {
    let padded: Vec<_> =
        cells.iter().zip(WIDTHS).map(|(cell, width)| format!("{cell:>width$}")).collect();
    println!("| {} |", padded.join(" | "));
}

/// The hostile process.
struct Hostile(Child);

impl Hostile {
    fn start(server: &Server) -> Result<Hostile> {
        let nice = std::env::var("ATTACK_NICE").unwrap_or_else(|_| "19".to_owned());
        let mut command = Command::new("nice");
        command.args(["-n", &nice]).arg(std::env::current_exe()?);
        command.args([hostile::ROLE, &server.secure.to_string()]);
        Ok(Hostile(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?))
    }

    fn cpu_time(&self) -> Result<Duration> {
        system::cpu_time(self.0.id())
    }

    /// Has it stop; what it says of itself.
    fn end(mut self) -> Result<String> {
        drop(self.0.stdin.take());
        let mut said = String::new();
        if let Some(mut output) = self.0.stdout.take() {
            output.read_to_string(&mut said)?;
        }
        Ok(said)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
