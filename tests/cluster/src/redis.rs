//! A Redis of our own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, Command};

use crate::Outcome;

/// Between two looks at whether something is so.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Far longer than it takes, also on a busy machine.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a Redis listens.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A socket that nobody else can take.
    Socket(PathBuf),
    Port(SocketAddr),
}

impl Place {
    /// What is answered to a line; the beginning of it if it is long.
    pub(crate) async fn ask(&self, line: &str) -> Outcome<String> {
        match self {
            Place::Socket(path) => ask(UnixStream::connect(path).await?, line).await,
            Place::Port(address) => ask(TcpStream::connect(address).await?, line).await,
        }
    }

    /// What is told has to be taken.
    pub(crate) async fn tell(&self, line: &str) -> Outcome<()> {
        let answer = self.ask(line).await?;
        if answer.starts_with("+OK") { Ok(()) } else { Err(format!("{line}: {answer}").into()) }
    }

    /// Asks until the answer has this in it.
    pub(crate) async fn wait_for(&self, line: &str, part: &str) -> Outcome<()> {
        let answered = async {
            while !self.ask(line).await.is_ok_and(|answer| answer.contains(part)) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let late = |_| format!("redis does not answer `{line}` with `{part}`");
        Ok(tokio::time::timeout(START_TIMEOUT, answered).await.map_err(late)?)
    }
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, line: &str) -> Outcome<String> {
    stream.write_all(format!("{line}\r\n").as_bytes()).await?;
    let mut answer = vec![0; 16 * 1024];
    let len = stream.read(&mut answer).await?;
    Ok(String::from_utf8_lossy(answer.get(..len).unwrap_or_default()).into_owned())
}

/// A Redis that keeps what it is told.
#[derive(Debug)]
pub(crate) struct RedisProcess {
    dir: PathBuf,
    place: Place,
    child: Child,
}

impl RedisProcess {
    /// With these settings beside its own, in a directory of its own.
    pub(crate) async fn start(dir: PathBuf, place: Place, others: &[String]) -> Outcome<Self> {
        std::fs::create_dir_all(&dir)?;
        let child = begin(&dir, &place, others).await?;
        Ok(RedisProcess { dir, place, child })
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Where it listens, if not on a socket.
    pub(crate) fn port(&self) -> Outcome<u16> {
        match &self.place {
            Place::Socket(_) => Err("it has no port".into()),
            Place::Port(address) => Ok(address.port()),
        }
    }

    /// It stands still; the connections to it stay.
    pub(crate) async fn freeze(&self) -> Outcome<()> {
        signal(&self.child, "STOP").await
    }

    pub(crate) async fn go_on(&self) -> Outcome<()> {
        signal(&self.child, "CONT").await
    }

    /// It ends in order.
    pub(crate) async fn end(&mut self) -> Outcome<()> {
        signal(&self.child, "TERM").await?;
        self.child.wait().await?;
        Ok(())
    }

    /// As when the machine loses its power.
    pub(crate) async fn kill(&mut self) -> Outcome<()> {
        Ok(self.child.kill().await?)
    }

    /// Begins again with what it had.
    pub(crate) async fn begin_again(&mut self, others: &[String]) -> Outcome<()> {
        self.child = begin(&self.dir, &self.place, others).await?;
        Ok(())
    }

    /// It forgets everything.
    pub(crate) async fn empty(&self) -> Outcome<()> {
        self.place.tell("FLUSHALL").await
    }
}

async fn begin(dir: &Path, place: &Place, others: &[String]) -> Outcome<Child> {
    let mut command = Command::new("redis-server");
    match place {
        Place::Socket(path) => command.args(["--port", "0", "--unixsocket"]).arg(path),
        Place::Port(address) => {
            let (host, port) = (address.ip().to_string(), address.port().to_string());
            command.args(["--bind", &host, "--port", &port])
        }
    };
    let child = command
        .args(["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""])
        .args(others)
        .arg("--dir")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("redis-server: {error}"))?;
    // What it had is read by then.
    place.wait_for("PING", "+PONG").await?;
    Ok(child)
}

/// Sends a signal to a process that this one started.
pub(crate) async fn signal(child: &Child, name: &str) -> Outcome<()> {
    let id = child.id().ok_or("the process has ended")?.to_string();
    let sent = Command::new("kill").args(["-s", name, &id]).status().await?;
    if sent.success() { Ok(()) } else { Err(format!("no {name} for process {id}").into()) }
}
