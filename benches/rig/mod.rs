//! What the benches that run real processes share: servers to measure, lines to load them
//! with, and the figures that come out.

pub mod dial;
pub mod floor;
pub mod line;
pub mod member;
pub mod redis;
pub mod server;
pub mod system;
pub mod tls;

/// Whatever goes wrong in a bench ends it with a sentence.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// See [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Set to anything: every measurement is cut to what shows that it works.
pub fn is_short() -> bool {
    std::env::var_os("BENCH_SHORT").is_some()
}

/// Runs a bench, or the floor's server if this process was started to be that.
pub fn start(bench: impl Future<Output = Result<()>>) -> std::process::ExitCode {
    let mut args = std::env::args().skip(1);
    let outcome = match args.next().as_deref() {
        Some(floor::ROLE) => floor::serve(),
        // `cargo test --all-targets` starts benches too, without saying so.
        _ if !std::env::args().any(|arg| arg == "--bench") => {
            println!("nothing to test: run by `cargo bench`");
            Ok(())
        }
        _ => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(bench)),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// What the caller chose on the command line: `cargo bench --bench relay -- websocket`.
pub fn is_chosen(name: &str) -> bool {
    let mut chosen = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).peekable();
    chosen.peek().is_none() || chosen.any(|part| name.contains(&part))
}
