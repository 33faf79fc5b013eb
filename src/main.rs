//! The `handover` command.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use handover::auth;
use handover::cli::{Cli, Command, ConfigCommand, SettingArgs};
use handover::clock::Clock;
use handover::config::{Config, IdentitySource, Log, LogFormat};
use handover::gateway::{Drained, Gateway};
use handover::join::JoinArgs;
use handover::load::LoadArgs;
use handover::telemetry::logs;
use handover::tls::{Identity, Tls};
use handover::token::TokenArgs;
use handover::turns;
use tokio::signal::unix::{Signal, SignalKind, signal};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(settings) => serve(&settings),
        Command::Join(args) => join(args),
        Command::Load(args) => load(&args),
        Command::Token(args) => token(*args),
        Command::Config(ConfigCommand::Check(settings)) => check(&settings),
        Command::Config(ConfigCommand::Print(settings)) => print(&settings),
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

fn check(settings: &SettingArgs) -> Outcome {
    let config = settings.load()?.config;
    // An operator's files are only read; a certificate of our own would be made.
    if let IdentitySource::Files { .. } = config.identity {
        Tls::open(&config.identity, &config.listen.list, Clock::start().unix_now())?;
    }
    if let Some(auth) = &config.auth {
        auth::check_files(auth)?;
    }
    say("the configuration is good\n");
    Ok(())
}

fn print(settings: &SettingArgs) -> Outcome {
    say(&settings.load()?.print());
    Ok(())
}

fn join(args: JoinArgs) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(handover::join::run(args));
    // Standard input is read by a thread that nothing can wake; it is not waited for.
    runtime.shutdown_background();
    Ok(outcome?)
}

fn load(args: &LoadArgs) -> Outcome {
    logs::init(&Log { filter: args.log.clone(), format: LogFormat::Human })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(handover::load::run(args))?;
    say(&report.to_string());
    if report.is_good() { Ok(()) } else { Err("a promise was broken".into()) }
}

fn token(args: TokenArgs) -> Outcome {
    say(&format!("{}\n", args.mint(Clock::start().unix_now())?));
    Ok(())
}

fn serve(settings: &SettingArgs) -> Outcome {
    let config = settings.load()?.config;
    logs::init(&config.log)?;
    turns::first().build()?.block_on(run(config))
}

async fn run(config: Config) -> Outcome {
    // Before anything listens, so that no signal finds the process unprepared.
    let mut signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    let mut hangup = signal(SignalKind::hangup())?;
    let (has_keys, allow_anonymous) = (config.auth.is_some(), config.allow_anonymous);
    let gateway = Gateway::start(config).await?;
    if has_keys {
        tracing::info!("everybody needs a token");
    } else if allow_anonymous {
        tracing::warn!("anybody who can reach the gateway may use it: allow_anonymous is set");
    } else {
        tracing::info!("nobody is asked for a token; only this machine can reach the gateway");
    }
    let mut is_announced = false;
    loop {
        tokio::select! {
            () = received(&mut signals) => break,
            _ = hangup.recv() => gateway.reload(),
            () = gateway.ready(), if !is_announced => {
                is_announced = true;
                say(&announcement(gateway.listening(), gateway.http(), &gateway.identity()));
            }
        }
    }
    tracing::info!("draining; a second signal ends it at once");
    tokio::select! {
        drained = gateway.drain() => match drained {
            Drained::Left => tracing::info!("drained; everybody had left"),
            Drained::Cut(connections) => tracing::info!(connections, "drained; cut who was left"),
        },
        () = received(&mut signals) => return Err("ended at once by a second signal".into()),
    }
    Ok(())
}

async fn received([interrupt, terminate]: &mut [Signal; 2]) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// To standard output. That nobody reads it any more is no reason to stop.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// What to connect to.
fn announcement(listening: &[SocketAddr], http: &[SocketAddr], identity: &Identity) -> String {
    let list = |addresses: &[SocketAddr]| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let mut lines = vec![
        format!("handover {} is ready", env!("CARGO_PKG_VERSION")),
        format!("  QUIC and TLS  {}", list(listening)),
    ];
    if !http.is_empty() {
        lines.push(format!("  plain HTTP    {}", list(http)));
    }
    lines.extend(page(listening, http).map(|page| format!("  call page     {page}")));
    let origin = if identity.self_made { "self-made" } else { "from files" };
    lines.push(format!("  certificate   sha-256 {} ({origin})", identity.hash_base64()));
    lines.join("\n") + "\n"
}

/// Where a browser on this machine finds the page: over plain HTTP if it can, for it does not
/// trust a self-made certificate.
fn page(listening: &[SocketAddr], http: &[SocketAddr]) -> Option<String> {
    let address = |scheme: &str, of: &SocketAddr| {
        let ip = of.ip();
        if ip.is_loopback() || ip.is_unspecified() {
            format!("{scheme}://localhost:{}/", of.port())
        } else {
            format!("{scheme}://{of}/")
        }
    };
    let plain = http.first().map(|of| address("http", of));
    plain.or_else(|| listening.first().map(|of| address("https", of)))
}

#[cfg(test)]
mod tests {
    use handover::clock::UnixTime;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn it_says_what_to_connect_to() {
        let identity = Identity { hash: [0; 32], expires: UnixTime::from_secs(1), self_made: true };
        let text = announcement(
            &addresses(&["127.0.0.1:4433", "[::1]:4433"]),
            &addresses(&["127.0.0.1:8080"]),
            &identity,
        );
        let rest = text.split_once("is ready\n").unwrap().1;
        assert_eq!(
            rest,
            "  QUIC and TLS  127.0.0.1:4433, [::1]:4433\n  \
               plain HTTP    127.0.0.1:8080\n  \
               call page     http://localhost:8080/\n  \
               certificate   sha-256 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= (self-made)\n"
        );
    }

    #[test]
    fn the_page_is_where_a_browser_finds_it() {
        for (listening, http, expected) in [
            ("[::]:443", None, "https://localhost:443/"),
            ("192.168.1.5:4433", None, "https://192.168.1.5:4433/"),
            ("[::]:443", Some("[::1]:80"), "http://localhost:80/"),
            ("[::]:443", Some("10.0.0.1:80"), "http://10.0.0.1:80/"),
        ] {
            let http: Vec<SocketAddr> = http.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(page(&addresses(&[listening]), &http).as_deref(), Some(expected));
        }
    }
}
