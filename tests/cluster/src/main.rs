//! Gateways that share a Redis, and what their clients notice of it when one or the other fails.
//! Run by `tests/cluster/run`.
//!
//! The load, and the judgement of every message, are those of `handover load`: nothing may be
//! lost, repeated, out of order or anybody else's, and no session may be forgotten. How long
//! sessions took to come back is told, not judged: they share the machine with what they test. Only
//! where gateways are replaced in order nobody may be without a connection for more than a second; a
//! short run tells that as well, and does not judge it.

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "this starts processes, and times them")]

mod gateway;
mod link;
mod redis;
mod sentinels;
mod trouble;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use handover::load::{self, Fleet, LoadArgs, Report};
use handover::trust::TrustArgs;
use handover_client::Certificates;

use gateway::{GatewayProcess, Settings};
use link::Link;
use redis::{Place, RedisProcess};
use sentinels::{PORTS, SENTINEL_PORTS, Sentinels};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Gateways that share a Redis, under load, with trouble.
#[derive(Debug, Parser)]
struct Args {
    /// What to try; everything if not given.
    #[arg(value_enum)]
    cases: Vec<Case>,
    /// How long the longest case sends; the others are shorter in proportion.
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
    /// Gateways killed; Redis frozen, restarted, failed over, twice there, out of a gateway's reach.
    Chaos,
    /// Every gateway replaced in order, as for a new version.
    Rolling,
    /// Redis forgets everything.
    Emptied,
}

impl Case {
    const ALL: [Case; 3] = [Case::Chaos, Case::Rolling, Case::Emptied];

    fn lasting(self, args: &Args) -> Duration {
        let parts = match self {
            Case::Chaos => 20,
            Case::Rolling => 15,
            Case::Emptied => 8,
        };
        Duration::from_secs((args.seconds * parts).div_ceil(20))
    }
}

/// What gateways share.
enum Store {
    One(Box<RedisProcess>),
    /// Each has a link of its own to them, which can be cut.
    Watched(Box<Sentinels>, Vec<Link>),
}

/// Three gateways on one store.
struct Cluster {
    store: Store,
    gateways: Vec<GatewayProcess>,
    fleet: Fleet,
    // Last: nobody uses it any more once the processes are gone.
    _dir: tempfile::TempDir,
}

const GATEWAYS: usize = 3;
/// What a gateway has for its drain unless told otherwise; clients are asked to go within half.
const DRAIN: Duration = Duration::from_secs(10);
/// Runs that are as long as they are meant to be are judged by how long things took, too.
const JUDGED_SECONDS: u64 = 60;
/// Nobody may be without a connection for longer while gateways are replaced.
const GAP_MAX: Duration = Duration::from_secs(1);

impl Cluster {
    async fn start(case: Case, args: &Args) -> Outcome<Cluster> {
        let dir = tempfile::tempdir()?;
        let drain = drain(case.lasting(args)).as_millis();
        let mut others = vec![format!("--set=drain_timeout_ms={drain}")];
        let mut brokers = Vec::new();
        let store = if case == Case::Chaos {
            let sentinels = Sentinels::start(dir.path()).await?;
            let mut links = Vec::new();
            for nth in 1..=GATEWAYS {
                let host = sentinels.host_beside(nth).ok_or("there are too many gateways")?;
                let link = Link::open(host, sentinels.host(), &PORTS, &SENTINEL_PORTS).await?;
                brokers.push(Sentinels::address(link.host()));
                links.push(link);
            }
            others.push("--broker-replicas=1".to_owned());
            Store::Watched(Box::new(sentinels), links)
        } else {
            let socket = dir.path().join("redis.socket");
            let own = dir.path().join("redis");
            brokers.extend(vec![format!("redis+unix://{}", socket.display()); GATEWAYS]);
            Store::One(Box::new(RedisProcess::start(own, Place::Socket(socket), &[]).await?))
        };
        let mut gateways = Vec::new();
        for broker in brokers {
            let settings = Settings {
                program: program()?,
                dir: dir.path().to_owned(),
                broker,
                log: args.log.clone(),
                others: others.clone(),
            };
            gateways.push(GatewayProcess::start(settings).await?);
        }
        let addresses = gateways.iter().map(GatewayProcess::address).collect();
        let certificates = gateways.iter().map(GatewayProcess::certificate).collect();
        let fleet = Fleet::new(addresses, Certificates::Hashes(certificates));
        let fleet = fleet.ok_or("there is no gateway")?;
        Ok(Cluster { store, gateways, fleet, _dir: dir })
    }
}

/// In a short run drains are short, so that there is time between them.
fn drain(lasting: Duration) -> Duration {
    DRAIN.min(trouble::turn(lasting, GATEWAYS) * 8 / 5)
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
        println!("== {case:?}, {} s", case.lasting(&args).as_secs());
        match run(*case, &args).await {
            Ok(report) => {
                // Without the verdict's last line: there is one for all cases.
                let told = report.to_string();
                println!("{}", told.trim_end().rsplit_once('\n').map_or("", |(told, _)| told));
                println!(
                    "nobody was known to be without a connection for more than {} ms\n",
                    report.longest_gap().as_millis()
                );
                // In a short run among other suites that is told, and no more.
                let moved_well = *case != Case::Rolling
                    || has_moved_well(&report, &args)
                    || args.seconds < JUDGED_SECONDS;
                match report.is_good() && moved_well {
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

/// Whether those whose gateways were replaced were spread over the time they were given, and
/// stayed connected.
fn has_moved_well(report: &Report, args: &Args) -> bool {
    const PARTS: usize = 5;
    let within = drain(Case::Rolling.lasting(args)) / 2;
    let mut moved = [0; PARTS];
    let mut later = 0;
    for each in report.moves() {
        let part = each.took.as_secs_f64() / within.as_secs_f64() * PARTS as f64;
        match moved.get_mut(part as usize) {
            Some(part) => *part += 1,
            None => later += 1,
        }
    }
    println!("moved in each fifth of {} ms: {moved:?}, later: {later}\n", within.as_millis());
    let most = moved.iter().copied().max().unwrap_or_default();
    let is_spread = most * 2 <= report.moves().len() && later * 2 <= report.moves().len();
    if !is_spread {
        println!("they did not come as they were asked to");
    }
    let is_connected = report.longest_gap() <= GAP_MAX;
    if !is_connected {
        println!("somebody was without a connection for too long");
    }
    is_spread && is_connected
}

async fn run(case: Case, args: &Args) -> Outcome<Report> {
    let mut cluster = Cluster::start(case, args).await?;
    let lasting = case.lasting(args);
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
        seconds: lasting.as_secs(),
        rate: args.rate,
        bytes: 200,
        chaos: false,
        kill_every: 1_000,
        log: Default::default(),
        seed: Some(args.seed),
    };
    let Cluster { store, gateways, fleet, _dir } = &mut cluster;
    let trouble = async {
        fleet.wait_begun().await;
        match (case, store) {
            (Case::Chaos, Store::Watched(sentinels, links)) => {
                trouble::chaos(sentinels, gateways, links, fleet, lasting).await
            }
            (Case::Rolling, _) => trouble::rolling(gateways, fleet, lasting).await,
            (Case::Emptied, Store::One(redis)) => trouble::emptied(redis, fleet, lasting).await,
            (case, _) => Err(format!("{case:?} needs another store").into()),
        }
    };
    let load = async { Ok(load::run_on(&load, fleet).await?) };
    // Trouble that cannot be made ends the case at once.
    let (report, ()) = tokio::try_join!(load, trouble)?;
    Ok(report)
}
