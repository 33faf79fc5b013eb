//! The `handover` command.

#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use handover::cli::{Cli, Command, ConfigCommand, SettingArgs};
use handover::config::Config;
use handover::gateway::{Drained, Gateway};
use handover::telemetry::logs;
use tokio::signal::unix::{Signal, SignalKind, signal};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(settings) => serve(&settings),
        Command::Config(ConfigCommand::Check(settings)) => {
            settings.load().map(|_| println!("the configuration is good")).map_err(Into::into)
        }
        Command::Config(ConfigCommand::Print(settings)) => {
            settings.load().map(|loaded| print!("{}", loaded.print())).map_err(Into::into)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("handover: {error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<(), Box<dyn Error>>;

fn serve(settings: &SettingArgs) -> Outcome {
    let config = settings.load()?.config;
    logs::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> Outcome {
    // Before anything listens, so that no signal finds the process unprepared.
    let mut signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    if config.allow_anonymous {
        tracing::warn!("anybody who can reach the gateway may use it: allow_anonymous is set");
    }
    let gateway = Gateway::start(config).await?;
    announce(&gateway);
    received(&mut signals).await;
    tracing::info!("draining; a second signal ends it at once");
    tokio::select! {
        drained = gateway.drain() => match drained {
            Drained::Left => tracing::info!("drained; everybody had left"),
            Drained::Cut(connections) => tracing::info!(connections, "drained; cut who was left"),
        },
        () = received(&mut signals) => tracing::warn!("ended at once by a second signal"),
    }
    Ok(())
}

async fn received([interrupt, terminate]: &mut [Signal; 2]) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// What to connect to, on standard output.
fn announce(gateway: &Gateway) {
    let list = |addresses: &[std::net::SocketAddr]| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    println!("handover {} is ready", env!("CARGO_PKG_VERSION"));
    println!("  QUIC and TLS  {}", list(gateway.listening()));
    if let Some(first) = gateway.http().first() {
        println!("  plain HTTP    {}", list(gateway.http()));
        println!("  call page     http://localhost:{}/", first.port());
    }
    let identity = gateway.identity();
    let origin = if identity.self_made { "self-made" } else { "from files" };
    println!("  certificate   sha-256 {} ({origin})", identity.hash_base64());
}
