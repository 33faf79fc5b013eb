//! A Redis of our own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::Outcome;

/// Between two looks at whether it listens.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A Redis that keeps what it is told, on a socket that nobody else can take.
#[derive(Debug)]
pub(crate) struct RedisProcess {
    dir: PathBuf,
    socket: PathBuf,
    child: Child,
}

impl RedisProcess {
    pub(crate) async fn start(dir: &Path) -> Outcome<Self> {
        let socket = dir.join("redis.socket");
        let child = begin(dir, &socket).await?;
        Ok(RedisProcess { dir: dir.to_owned(), socket, child })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// It stands still for so long; the connections to it stay.
    pub(crate) async fn freeze(&self, lasting: Duration) -> Outcome<()> {
        signal(&self.child, "STOP").await?;
        tokio::time::sleep(lasting).await;
        signal(&self.child, "CONT").await
    }

    /// It ends in order and begins again with what it had.
    pub(crate) async fn restart(&mut self) -> Outcome<()> {
        signal(&self.child, "TERM").await?;
        self.child.wait().await?;
        self.child = begin(&self.dir, &self.socket).await?;
        Ok(())
    }
}

async fn begin(dir: &Path, socket: &Path) -> Outcome<Child> {
    let child = Command::new("redis-server")
        .args(["--port", "0", "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""])
        .arg("--unixsocket")
        .arg(socket)
        .arg("--dir")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("redis-server: {error}"))?;
    let listening = async {
        while UnixStream::connect(socket).await.is_err() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(START_TIMEOUT, listening).await.map_err(|_| "redis does not listen")?;
    Ok(child)
}

/// Sends a signal to a process that this one started.
pub(crate) async fn signal(child: &Child, name: &str) -> Outcome<()> {
    let id = child.id().ok_or("the process has ended")?.to_string();
    let sent = Command::new("kill").args(["-s", name, &id]).status().await?;
    if sent.success() { Ok(()) } else { Err(format!("no {name} for process {id}").into()) }
}
