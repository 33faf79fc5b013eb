//! A server under test, in a process of its own.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::system::{self, Memory};
use super::{Result, floor};

/// What is set to nothing where everything comes from one address, as fast as it goes.
const LIMITS: [&str; 7] = [
    "ungreeted_per_address",
    "connections_per_address",
    "handshakes_per_s",
    "wait_us",
    "messages_per_s",
    "bytes_per_s",
    "joins_per_s",
];

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A bare relay on the same libraries.
    Floor,
    /// The gateway as it is shipped.
    Gateway,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Floor, Kind::Gateway];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Floor => "floor",
            Kind::Gateway => "gateway",
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    pub kind: Kind,
    /// TCP without TLS.
    pub plain: SocketAddr,
    /// TCP with TLS.
    pub secure: SocketAddr,
    /// UDP.
    pub quic: SocketAddr,
    child: Child,
    scratch: Option<PathBuf>,
}

impl Server {
    pub fn start(kind: Kind) -> Result<Server> {
        match kind {
            Kind::Floor => Self::floor(),
            Kind::Gateway => Self::gateway(&LIMITS, &[]),
        }
    }

    /// A gateway that shares its rooms with others on the same broker.
    pub fn on_broker(address: &str) -> Result<Server> {
        Self::gateway(&LIMITS, &["--broker", address])
    }

    /// A gateway with all its limits.
    pub fn as_shipped() -> Result<Server> {
        Self::gateway(&[], &[])
    }

    fn floor() -> Result<Server> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(floor::ROLE);
        let (child, [plain, secure, quic]) = announced(command, floor::ANNOUNCED)?;
        Ok(Server { kind: Kind::Floor, plain, secure, quic, child, scratch: None })
    }

    fn gateway(unlimited: &[&str], others: &[&str]) -> Result<Server> {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let nth = STARTED.fetch_add(1, Ordering::Relaxed);
        let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("bench-{}-identity-{nth}", std::process::id()));
        std::fs::create_dir_all(&scratch)?;
        // Another build can be measured with the same load, to compare before and after.
        let built = || OsString::from(env!("CARGO_BIN_EXE_handover"));
        let mut command = Command::new(std::env::var_os("BENCH_GATEWAY").unwrap_or_else(built));
        command.args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        command.args(["--log", "warn"]).args(others);
        for limit in unlimited {
            command.args(["--set", &format!("limits.{limit}=0")]);
        }
        // The caller's own settings are not what is measured here.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HANDOVER_") {
                command.env_remove(name);
            }
        }
        command.env("HANDOVER_CERTS_DIR", &scratch);
        let marks = ["plain HTTP", "QUIC and TLS"];
        let (child, [plain, secure]) = announced(command, marks)?;
        let scratch = Some(scratch);
        Ok(Server { kind: Kind::Gateway, plain, secure, quic: secure, child, scratch })
    }

    /// For tools that look at a process from outside.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// User and system time so far.
    pub fn cpu_time(&self) -> Result<Duration> {
        system::cpu_time(self.pid())
    }

    /// As when the machine loses its power.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Resident memory now.
    pub fn memory(&self) -> Result<Memory> {
        system::memory(self.pid())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(scratch) = &self.scratch {
            let _ = std::fs::remove_dir_all(scratch);
        }
    }
}

/// Starts a server and waits until its output has a line with each mark, that ends with a port.
/// All are on 127.0.0.1.
fn announced<const N: usize>(
    mut command: Command,
    marks: [&str; N],
) -> Result<(Child, [SocketAddr; N])> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().ok_or("a child without output")?;
    let mut lines = BufReader::new(output).lines();
    let mut found = [None; N];
    while found.contains(&None) {
        let Some(line) = lines.next() else {
            let _ = child.kill();
            let status = child.wait()?;
            return Err(format!("a server ended before it listened: {status}").into());
        };
        let line = line?;
        for (mark, place) in marks.iter().zip(&mut found) {
            if let (None, Some((_, behind))) = (&place, line.split_once(mark)) {
                let port = behind.rsplit(':').next().unwrap_or_default().trim();
                *place = Some(SocketAddr::from(([127, 0, 0, 1], port.parse()?)));
            }
        }
    }
    // A pipe that nobody reads would stop the server once it is full.
    std::thread::spawn(move || lines.for_each(drop));
    Ok((child, found.map(|address| address.unwrap_or(SocketAddr::from(([0; 4], 0))))))
}
