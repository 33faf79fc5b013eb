//! A gateway in a process of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::Outcome;
use crate::redis::signal;

/// Far longer than it takes.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What a gateway is started with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) program: PathBuf,
    /// Where its certificate is kept.
    pub(crate) dir: PathBuf,
    pub(crate) broker: String,
    /// What it logs.
    pub(crate) log: String,
    /// Beside what all have.
    pub(crate) others: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct GatewayProcess {
    settings: Settings,
    address: SocketAddr,
    certificate: [u8; 32],
    child: Child,
    /// Held: what it prints must have somewhere to go.
    _printed: Lines<BufReader<ChildStdout>>,
}

impl GatewayProcess {
    pub(crate) async fn start(settings: Settings) -> Outcome<GatewayProcess> {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (child, printed, address, certificate) = begin(&settings, nowhere).await?;
        Ok(GatewayProcess { settings, address, certificate, child, _printed: printed })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn certificate(&self) -> [u8; 32] {
        self.certificate
    }

    /// As when the machine loses its power.
    pub(crate) async fn kill(&mut self) -> Outcome<()> {
        Ok(self.child.kill().await?)
    }

    /// Lets its clients go elsewhere, and ends.
    pub(crate) async fn drain(&mut self) -> Outcome<()> {
        signal(&self.child, "TERM").await?;
        let status = self.child.wait().await?;
        if status.success() { Ok(()) } else { Err(format!("the gateway ended: {status}").into()) }
    }

    /// Begins again at the same address.
    pub(crate) async fn restart(&mut self) -> Outcome<()> {
        let begun = begin(&self.settings, self.address).await?;
        (self.child, self._printed, ..) = begun;
        Ok(())
    }
}

type Begun = (Child, Lines<BufReader<ChildStdout>>, SocketAddr, [u8; 32]);

async fn begin(settings: &Settings, address: SocketAddr) -> Outcome<Begun> {
    let Settings { program, dir, broker, log, others } = settings;
    let mut command = Command::new(program);
    // Settings of whoever runs this are not this gateway's.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HANDOVER_") {
            command.env_remove(name);
        }
    }
    let mut child = command
        .args(["serve", "--http", "off", "--broker", broker, "--log", log])
        .args(["--listen", &address.to_string()])
        // All clients are here, and share the processors.
        .arg("--set=limits.wait_us=0")
        .args(["--set=limits.connections_per_address=0", "--set=limits.ungreeted_per_address=0"])
        .args(others)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let mut printed = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let announced = async {
        let mut at = None;
        while let Some(line) = printed.next_line().await? {
            let line = line.trim();
            if let Some(addresses) = line.strip_prefix("QUIC and TLS") {
                at = Some(addresses.trim().parse()?);
            } else if let Some(certificate) = line.strip_prefix("certificate") {
                let hash = certificate.split_whitespace().nth(1).ok_or("no certificate")?;
                let hash = STANDARD.decode(hash)?.try_into().map_err(|_| "no hash")?;
                return Ok((at.ok_or("no address")?, hash));
            }
        }
        Err::<(SocketAddr, [u8; 32]), Box<dyn std::error::Error + Send + Sync>>(
            "a gateway did not start".into(),
        )
    };
    let (address, certificate) = tokio::time::timeout(START_TIMEOUT, announced)
        .await
        .map_err(|_| "a gateway takes too long to start")??;
    Ok((child, printed, address, certificate))
}
