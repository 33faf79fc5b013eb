//! What relaying costs: processor time of the server per message, and latency, for the gateway
//! beside a bare relay on the same libraries in the same run.
//!
//! `cargo bench --bench relay` runs everything; `-- tls` only what has `tls` in its name. With
//! `BENCH_SHORT=1` in the environment it takes seconds and its figures mean little.
//!
//! Each server is a process of its own on loopback, and this one is the load: one thread, the
//! same for both. The two servers run side by side and take turns round by round, so that
//! whatever else the machine does meets both alike. Reported are medians of the rounds.

#![allow(clippy::disallowed_methods, reason = "a bench reads time and its environment itself")]

mod report;
#[expect(dead_code, reason = "every bench uses its part of the rig")]
#[path = "../rig/mod.rs"]
mod rig;
#[expect(dead_code, reason = "some of it is for talk across gateways")]
mod stage;
mod text;

use std::process::ExitCode;
use std::time::Duration;

use report::Row;
use rig::Result;
use rig::dial::Dialer;
use rig::line::Wire;
use rig::server::{Kind, Server};
use stage::{Cast, Pace, Processes, Sample, Stage};

fn main() -> ExitCode {
    rig::start(run())
}

/// One thing to measure.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    name: &'static str,
    cast: Cast,
    pace: Pace,
    /// Whether it also makes sense for datagrams: a window does not, where some may be lost.
    with_loss: bool,
    /// What the ratio to the floor may be at most.
    target: Target,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Cpu(f64),
    Latency(f64),
}

const SCENARIOS: [Scenario; 5] = [
    Scenario {
        name: "latency",
        cast: Cast::Pairs(1),
        pace: Pace::PerSecond(500),
        with_loss: true,
        target: Target::Latency(1.3),
    },
    Scenario {
        name: "directed",
        cast: Cast::Pairs(8),
        pace: Pace::PerSecond(8_000),
        with_loss: true,
        target: Target::Cpu(1.5),
    },
    Scenario {
        name: "directed-full",
        cast: Cast::Pairs(8),
        pace: Pace::Window(32),
        with_loss: false,
        target: Target::Cpu(1.5),
    },
    Scenario {
        name: "fanout",
        cast: Cast::Audience(50),
        pace: Pace::PerSecond(200),
        with_loss: true,
        target: Target::Cpu(1.5),
    },
    Scenario {
        name: "fanout-full",
        cast: Cast::Audience(50),
        pace: Pace::Window(16),
        with_loss: false,
        target: Target::Cpu(1.5),
    },
];

/// How often and how long.
struct Effort {
    rounds: usize,
    warm_up: Duration,
    lasting: Duration,
}

async fn run() -> Result<()> {
    let effort = if rig::is_short() {
        let (warm_up, lasting) = (Duration::from_millis(50), Duration::from_millis(200));
        Effort { rounds: 1, warm_up, lasting }
    } else {
        Effort { rounds: 5, warm_up: Duration::from_secs(1), lasting: Duration::from_secs(4) }
    };
    println!("{}", rig::system::machine());
    println!("{} rounds of {:?} each, body {} bytes\n", effort.rounds, effort.lasting, text::BODY);
    let servers = [Server::start(Kind::Floor)?, Server::start(Kind::Gateway)?];
    let dialer = Dialer::new()?;
    report::head();
    let mut failed = false;
    for wire in Wire::ALL {
        for scenario in SCENARIOS {
            let name = format!("{}/{}", wire.name(), scenario.name);
            if !rig::is_chosen(&name) || !(wire.is_reliable() || scenario.with_loss) {
                continue;
            }
            match compare(&dialer, &servers, wire, scenario, &effort).await {
                Ok(samples) => report::print(&Row { name, target: scenario.target, samples }),
                Err(error) => {
                    println!("| {name} | failed: {error} |");
                    failed = true;
                }
            }
        }
    }
    println!("\nload average afterwards: {}", rig::system::load());
    if failed { Err("some of it could not be measured".into()) } else { Ok(()) }
}

/// Rounds in turns; the samples of the floor and of the gateway.
async fn compare(
    dialer: &Dialer,
    servers: &[Server; 2],
    wire: Wire,
    scenario: Scenario,
    effort: &Effort,
) -> Result<[Vec<Sample>; 2]> {
    let [floor, gateway] = servers;
    let mut stages = [
        Stage::set(dialer, [floor, floor], wire, scenario.cast).await?,
        Stage::set(dialer, [gateway, gateway], wire, scenario.cast).await?,
    ];
    let mut samples = [Vec::new(), Vec::new()];
    for _ in 0..effort.rounds {
        for ((stage, server), samples) in stages.iter_mut().zip(servers).zip(&mut samples) {
            let processes = Processes { servers: &[server.pid()], store: None };
            let round = stage.round(processes, scenario.pace, effort.warm_up, effort.lasting);
            let sample = round.await.map_err(|error| format!("{}: {error}", server.kind.name()))?;
            samples.push(sample);
        }
    }
    Ok(samples)
}
