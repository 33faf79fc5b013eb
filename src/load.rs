//! `handover load`: many sessions on a gateway, and what became of their messages.
//!
//! Every message is written down before it goes out (`ledger`), and every member is judged by that
//! (`receiver`): nothing it is owed may be lost, repeated, out of order, or anybody else's.
//! With `--chaos` each session reaches the gateway through a relay of its own (`path`) on
//! which connections are broken at random (`chaos`), and the time until the session is back
//! is measured.

mod chaos;
mod fleet;
mod ledger;
mod member;
mod path;
mod random;
mod receiver;
mod report;
mod run;
mod target;

use std::io;

use clap::Args;
use handover_client::{ConnectError, Error};

pub use self::fleet::Fleet;
pub use self::report::{Move, Report};
use self::target::OwnGateway;
use crate::config::LogFilter;
use crate::error::StartError;
use crate::trust::{IdentityError, TrustArgs};

/// What `handover load` takes.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// A gateway: https:// for both transports, http:// or wss:// for WebSocket alone. May be
    /// given more than once, for several nodes or ports; sessions are spread over them. Without
    /// any, a gateway is started on this machine for the occasion.
    #[arg(long, value_name = "URL")]
    pub url: Vec<String>,
    /// Whom to trust.
    #[command(flatten)]
    pub trust: TrustArgs,
    /// A token, where the gateway wants one.
    #[arg(long)]
    pub token: Option<String>,
    /// Sessions.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = count)]
    pub sessions: usize,
    /// Rooms; each session is in two of them.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = count)]
    pub rooms: usize,
    /// How long they send.
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub seconds: u64,
    /// Messages a second that each session sends.
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = rate)]
    pub rate: f64,
    /// Bytes that each message is made larger by.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub bytes: usize,
    /// Break connections: orderly, abruptly, and by silence in one direction or both.
    #[arg(long)]
    pub chaos: bool,
    /// Between two breaks, on average.
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = millis)]
    pub kill_every: u64,
    /// What is logged to standard error, such as `handover_client=debug`.
    #[arg(long, value_name = "FILTER", default_value = "handover=warn", value_parser = LogFilter::parse)]
    pub log: LogFilter,
    /// Chooses what breaks and who says what; the order in which things happen is the
    /// machine's own. Drawn if absent.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "must be at least 1".to_owned())
}

fn millis(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|ms| *ms > 0).ok_or_else(|| "must be at least 1".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let fits = |rate: &f64| (0.001..=100_000.0).contains(rate);
    text.parse().ok().filter(fits).ok_or_else(|| "must be from 0.001 to 100000".to_owned())
}

/// Why there was no run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The gateway's certificate cannot be known.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An address is none.
    #[error("{url}: {reason}")]
    Url {
        /// As it was given.
        url: String,
        /// Why.
        reason: String,
    },
    /// The gateway of our own did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It has nowhere to keep its certificate.
    #[error("no directory for a certificate: {0}")]
    Directory(io::Error),
    /// The relay before a session could not be opened.
    #[error("no relay: {0}")]
    Path(io::Error),
    /// A session could not be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A session could not join its rooms.
    #[error("a room could not be joined: {0}")]
    Join(#[from] Error),
    /// A session was gone before anything had begun, or a task failed.
    #[error("a session did not hold")]
    Unsteady,
}

/// Runs, and says what came of it.
pub async fn run(args: &LoadArgs) -> Result<Report, LoadError> {
    if !args.url.is_empty() {
        return run::run(args, &target::named(args).await?, None).await;
    }
    let own = OwnGateway::start().await?;
    let report = run::run(args, &own.targets(), None).await;
    own.stop().await;
    report
}

/// Runs on gateways that share their rooms, of which some may be gone for a while.
pub async fn run_on(args: &LoadArgs, fleet: &Fleet) -> Result<Report, LoadError> {
    run::run(args, &fleet.targets(), Some(fleet)).await
}
