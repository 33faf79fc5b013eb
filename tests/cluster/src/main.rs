//! Gateways that share a Redis, and what their clients notice of it when one or the other fails.
//! Run by `tests/cluster/run`.
//!
//! The load, and the judgement of every message, are those of `handover load`: nothing may be
//! lost, repeated, out of order or anybody else's, and no session may be forgotten. How long
//! sessions took to come back is told, not judged: they share the machine with what they test.

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "this starts processes, and times them")]

mod gateway;
mod link;
mod redis;
mod trouble;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use handover::load::{self, Fleet, LoadArgs, Report};
use handover::trust::TrustArgs;
use handover_client::Certificates;

use gateway::GatewayProcess;
use link::Link;
use redis::RedisProcess;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Gateways that share a Redis, under load, with trouble.
#[derive(Debug, Parser)]
struct Args {
    /// What to try; everything if not given.
    #[arg(value_enum)]
    cases: Vec<Case>,
    /// How long each case sends.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Sessions.
    #[arg(long, default_value_t = 150)]
    sessions: usize,
    /// Rooms.
    #[arg(long, default_value_t = 15)]
    rooms: usize,
    /// Messages a second that each session sends.
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Chooses who says what.
    #[arg(long, default_value_t = 11)]
    seed: u64,
    /// What the gateways log; to standard error.
    #[arg(long, default_value = "warn,quinn_proto=error")]
    log: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    /// Gateways killed, Redis frozen and restarted, a gateway cut off from it.
    Chaos,
    /// Every gateway replaced in order, as for a new version.
    Rolling,
}

impl Case {
    const ALL: [Case; 2] = [Case::Chaos, Case::Rolling];
}

/// Three gateways on one Redis, each with a link of its own to it that can be cut.
struct Cluster {
    redis: RedisProcess,
    gateways: Vec<GatewayProcess>,
    links: Vec<Link>,
    fleet: Fleet,
    // Last: nobody uses it any more once the processes are gone.
    _dir: tempfile::TempDir,
}

const GATEWAYS: usize = 3;

impl Cluster {
    async fn start(args: &Args) -> Outcome<Cluster> {
        let dir = tempfile::tempdir()?;
        let redis = RedisProcess::start(dir.path()).await?;
        let (mut links, mut gateways) = (Vec::new(), Vec::new());
        for _ in 0..GATEWAYS {
            let link = Link::open(redis.socket().to_owned()).await?;
            let broker = format!("redis://{}", link.address());
            gateways
                .push(GatewayProcess::start(&program()?, dir.path(), &broker, &args.log).await?);
            links.push(link);
        }
        let addresses = gateways.iter().map(GatewayProcess::address).collect();
        let certificates = gateways.iter().map(GatewayProcess::certificate).collect();
        let fleet = Fleet::new(addresses, Certificates::Hashes(certificates));
        let fleet = fleet.ok_or("there is no gateway")?;
        Ok(Cluster { redis, gateways, links, fleet, _dir: dir })
    }
}

/// The gateway built beside this program.
fn program() -> Outcome<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().unwrap_or(Path::new(".")).join("handover"))
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let cases = if args.cases.is_empty() { &Case::ALL[..] } else { &args.cases };
    let (mut passed, mut failed) = (0, 0);
    for case in cases {
        println!("== {case:?}");
        match run(*case, &args).await {
            Ok(report) => {
                // Without the verdict's last line: there is one for all cases.
                let told = report.to_string();
                println!("{}", told.trim_end().rsplit_once('\n').map_or("", |(told, _)| told));
                match report.is_good() {
                    true => passed += 1,
                    false => failed += 1,
                }
            }
            Err(error) => {
                println!("{case:?} could not be tried: {error}");
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(case: Case, args: &Args) -> Outcome<Report> {
    let mut cluster = Cluster::start(args).await?;
    let load = LoadArgs {
        url: Vec::new(),
        // The fleet says which certificates there are.
        trust: TrustArgs {
            cert_hash: Vec::new(),
            ca: None,
            insecure: false,
            identity_from: String::new(),
        },
        token: None,
        sessions: args.sessions,
        rooms: args.rooms,
        seconds: args.seconds,
        rate: args.rate,
        bytes: 200,
        chaos: false,
        kill_every: 1_000,
        log: Default::default(),
        seed: Some(args.seed),
    };
    let Cluster { redis, gateways, links, fleet, _dir } = &mut cluster;
    let trouble = async {
        fleet.wait_begun().await;
        match case {
            Case::Chaos => trouble::chaos(redis, gateways, links, fleet, args.seconds).await,
            Case::Rolling => trouble::rolling(gateways, fleet, args.seconds).await,
        }
    };
    let load = async { Ok(load::run_on(&load, fleet).await?) };
    // Trouble that cannot be made ends the case at once.
    let (report, ()) = tokio::try_join!(load, trouble)?;
    Ok(report)
}
