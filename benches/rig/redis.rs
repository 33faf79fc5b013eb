//! A Redis of a bench's own, and bare connections to it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::{Result, system};

const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Far more than it takes.
const LOOKS_MAX: usize = 1_000;

/// A Redis that keeps what it is told as `docs/operations.md` wants it to.
pub struct Redis {
    child: Child,
    socket: PathBuf,
    _dir: TempDir,
}

impl Redis {
    pub async fn start() -> Result<Redis> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("socket");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "everysec"])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("redis-server: {error}"))?;
        let redis = Redis { child, socket, _dir: dir };
        for _ in 0..LOOKS_MAX {
            if redis.line().await.is_ok() {
                return Ok(redis);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err("redis-server does not listen".into())
    }

    /// For gateways.
    pub fn address(&self) -> String {
        format!("redis+unix://{}", self.socket.display())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// User and system time so far.
    pub fn cpu_time(&self) -> Result<Duration> {
        system::cpu_time(self.pid())
    }

    async fn line(&self) -> Result<UnixStream> {
        Ok(UnixStream::connect(&self.socket).await?)
    }

    /// Who publishes to a channel, and the answers to that, which have to be read.
    pub async fn publisher(&self, channel: &str) -> Result<(Publisher, Subscription)> {
        let (from, to) = self.line().await?.into_split();
        let before = format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n$", channel.len());
        let publisher = Publisher { to, before: before.into_bytes(), command: Vec::new() };
        Ok((publisher, Subscription { from: BufReader::new(from), _to: None }))
    }

    /// What is published to a channel from now on.
    pub async fn subscription(&self, channel: &str) -> Result<Subscription> {
        let (from, mut to) = self.line().await?.into_split();
        to.write_all(format!("SUBSCRIBE {channel}\r\n").as_bytes()).await?;
        let mut subscription = Subscription { from: BufReader::new(from), _to: Some(to) };
        // An array of its name, the channel's, and a number.
        for _ in 0..6 {
            subscription.line().await?;
        }
        Ok(subscription)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where messages are published.
pub struct Publisher {
    to: OwnedWriteHalf,
    before: Vec<u8>,
    command: Vec<u8>,
}

impl Publisher {
    pub async fn publish(&mut self, text: &str) -> Result<()> {
        self.command.clear();
        self.command.extend_from_slice(&self.before);
        self.command.extend_from_slice(format!("{}\r\n{text}\r\n", text.len()).as_bytes());
        Ok(self.to.write_all(&self.command).await?)
    }
}

/// Where what was published comes out.
pub struct Subscription {
    from: BufReader<OwnedReadHalf>,
    /// Held: closed, it would end the subscription.
    _to: Option<OwnedWriteHalf>,
}

impl Subscription {
    /// The next message. Whatever else is said is passed over.
    pub async fn next(&mut self) -> Result<Bytes> {
        loop {
            if !self.line().await?.starts_with('*') {
                continue;
            }
            // `message` and the channel, each behind its length.
            for _ in 0..4 {
                self.line().await?;
            }
            let head = self.line().await?;
            let len: usize = head.trim_start_matches('$').trim_end().parse()?;
            let mut message = vec![0; len + 2];
            self.from.read_exact(&mut message).await?;
            message.truncate(len);
            return Ok(message.into());
        }
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.from.read_line(&mut line).await? {
            0 => Err("redis has closed a connection".into()),
            _ => Ok(line),
        }
    }
}
