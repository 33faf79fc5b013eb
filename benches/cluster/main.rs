//! What it costs that gateways share their rooms through a Redis: relay latency across two of them
//! beside one alone and a bare publish and subscribe, appends for a second of the Redis's processor,
//! and how soon the sessions of a gateway that died are back at two others.
//!
//! `cargo bench --bench cluster` runs everything; `-- latency`, `-- appends` and `-- resume` a part.
//! With `BENCH_SHORT=1` in the environment it takes seconds and its figures mean little.
//!
//! Gateways and Redis are processes of their own, and this one, of one thread, is the load. They
//! all share the machine's cores. What is compared takes turns round by round; reported are medians
//! of the rounds.

#![allow(clippy::disallowed_methods, reason = "a bench reads time and its environment itself")]

mod resume;
#[expect(dead_code, reason = "every bench uses its part of the rig")]
#[path = "../rig/mod.rs"]
mod rig;
#[expect(dead_code, reason = "every bench has its own kinds of talk")]
#[path = "../relay/stage.rs"]
mod stage;
#[path = "../relay/text.rs"]
mod text;

use std::process::ExitCode;
use std::time::Duration;

use rig::Result;
use rig::dial::Dialer;
use rig::line::Wire;
use rig::redis::Redis;
use rig::server::Server;
use stage::{Cast, Pace, Processes, Sample, Stage};

fn main() -> ExitCode {
    rig::start(run())
}

/// What takes turns.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Redis alone: published by one connection, heard by another.
    Bare,
    /// Both members on one gateway that keeps its rooms in Redis.
    One,
    /// Each on another.
    Two,
}

impl Way {
    const ALL: [Way; 3] = [Way::Bare, Way::One, Way::Two];

    fn name(self) -> &'static str {
        match self {
            Way::Bare => "bare redis",
            Way::One => "one gateway",
            Way::Two => "two gateways",
        }
    }
}

struct Scenario {
    name: &'static str,
    pairs: usize,
    pace: Pace,
}

const SCENARIOS: [Scenario; 3] = [
    Scenario { name: "latency", pairs: 1, pace: Pace::PerSecond(500) },
    Scenario { name: "appends", pairs: 8, pace: Pace::PerSecond(2_000) },
    Scenario { name: "appends-full", pairs: 32, pace: Pace::Window(32) },
];

async fn run() -> Result<()> {
    let (rounds, warm_up, lasting) = match rig::is_short() {
        true => (1, Duration::from_millis(50), Duration::from_millis(300)),
        false => (5, Duration::from_secs(1), Duration::from_secs(4)),
    };
    println!("{}", rig::system::machine());
    rig::system::raise_open_files();
    println!("{rounds} rounds of {lasting:?} each, body {} bytes, WebSocket\n", text::BODY);
    let mut is_headed = false;
    for scenario in SCENARIOS.iter().filter(|scenario| rig::is_chosen(scenario.name)) {
        if !std::mem::replace(&mut is_headed, true) {
            head();
        }
        let samples = compare(scenario, rounds, warm_up, lasting).await?;
        for (way, samples) in Way::ALL.into_iter().zip(samples) {
            print(scenario.name, way, &samples);
        }
    }
    for wire in [Wire::WebSocket, Wire::Stream] {
        if rig::is_chosen("resume") || rig::is_chosen(wire.name()) {
            resume::run(wire).await?;
        }
    }
    println!("\nload average afterwards: {}", rig::system::load());
    Ok(())
}

/// Rounds in turns; the samples of each way.
async fn compare(
    scenario: &Scenario,
    rounds: usize,
    warm_up: Duration,
    lasting: Duration,
) -> Result<[Vec<Sample>; 3]> {
    let redis = Redis::start().await?;
    let [one, two] = [Server::on_broker(&redis.address())?, Server::on_broker(&redis.address())?];
    let (dialer, cast) = (Dialer::new()?, Cast::Pairs(scenario.pairs));
    let mut stages = [
        Stage::on_redis(&redis, scenario.pairs).await?,
        Stage::set(&dialer, [&one, &one], Wire::WebSocket, cast).await?,
        Stage::set(&dialer, [&one, &two], Wire::WebSocket, cast).await?,
    ];
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    let servers = [one.pid(), two.pid()];
    let processes = Processes { servers: &servers, store: Some(redis.pid()) };
    for _ in 0..rounds {
        for ((stage, samples), way) in stages.iter_mut().zip(&mut samples).zip(Way::ALL) {
            let round = stage.round(processes, scenario.pace, warm_up, lasting).await;
            samples.push(round.map_err(|error| format!("{}: {error}", way.name()))?);
        }
    }
    Ok(samples)
}

const WIDTHS: [usize; 9] = [14, 12, 7, 7, 7, 16, 20, 18, 4];

fn head() {
    line(
        [
            "scenario",
            "through",
            "per s",
            "p50 us",
            "p99 us",
            "redis CPU us/msg",
            "msgs / redis CPU-s",
            "gateway CPU us/msg",
            "lost",
        ]
        .map(str::to_owned),
    );
    println!("|{}|", WIDTHS.map(|width| "-".repeat(width + 2)).join("|"));
}

fn print(scenario: &str, way: Way, samples: &[Sample]) {
    let of = |what: fn(&Sample) -> f64| median(samples.iter().map(what));
    let redis = of(|sample| sample.store_cpu_us);
    line([
        scenario.to_owned(),
        way.name().to_owned(),
        format!("{:.0}", of(|sample| sample.rate)),
        format!("{:.0}", of(|sample| sample.p50_us)),
        format!("{:.0}", of(|sample| sample.p99_us)),
        format!("{redis:.1}"),
        format!("{:.0}", 1e6 / redis),
        format!("{:.1}", of(|sample| sample.cpu_us)),
        samples.iter().map(|sample| sample.lost + sample.misplaced).sum::<u64>().to_string(),
    ]);
}

fn line(cells: [String; 9]) {
    let padded: Vec<_> =
        cells.iter().zip(WIDTHS).map(|(cell, width)| format!("{cell:>width$}")).collect();
    println!("| {} |", padded.join(" | "));
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
