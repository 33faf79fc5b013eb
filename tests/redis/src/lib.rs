//! Real Redis processes, alone with one test: one, a cluster, a master with replicas and
//! sentinels. What is missing on the machine fails the test that asks for it.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod cluster;
mod sentinels;
mod way;

pub use cluster::Cluster;
pub use sentinels::Sentinels;
pub use way::Way;

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

/// Between two looks at whether something has come about.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// For an answer, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(40);

/// A loopback address that nobody else in this process is given, nor any process beside it:
/// there every port is free.
pub fn own_host() -> Ipv4Addr {
    static GIVEN: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high.max(1), low, GIVEN.fetch_add(1, Ordering::Relaxed))
}

/// A process that ends with the test.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// An address for the client.
    pub address: String,
    args: Vec<String>,
    dir: TempDir,
}

impl Server {
    /// On a socket of its own.
    pub fn on_socket() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let args = ["--port", "0", "--unixsocket", socket.to_str().unwrap()].map(str::to_owned);
        let address = format!("redis+unix://{}", socket.display());
        let args = args.to_vec();
        Server { child: redis_server(&dir, &args), address, args, dir }
    }

    /// On a port.
    pub fn on_port(host: Ipv4Addr, port: u16, args: &[&str]) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let mut all = vec!["--bind".to_owned(), host.to_string()];
        all.extend(["--port".to_owned(), port.to_string()]);
        all.extend(args.iter().map(|&arg| arg.to_owned()));
        Server {
            child: redis_server(&dir, &all),
            address: format!("redis://{host}:{port}"),
            args: all,
            dir,
        }
    }

    /// A sentinel with these settings of its own.
    fn sentinel(host: Ipv4Addr, port: u16, settings: &str) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sentinel.conf");
        std::fs::write(&file, format!("bind {host}\nport {port}\n{settings}")).unwrap();
        let mut command = Command::new("redis-sentinel");
        command.arg(&file).current_dir(dir.path()).stdout(Stdio::null());
        let child = command.spawn().expect("redis-sentinel is installed");
        Server { child, address: format!("redis://{host}:{port}"), args: Vec::new(), dir }
    }

    /// Once it answers.
    pub async fn line(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.address.as_str()).unwrap();
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        loop {
            let line = client.get_multiplexed_async_connection_with_config(&config);
            if let Ok(mut line) = line.await {
                let pong: redis::RedisResult<String> =
                    redis::cmd("PING").query_async(&mut line).await;
                if pong.is_ok() {
                    return line;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Its process ends at once, as if it were killed.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts again with what it kept, once it was killed.
    pub fn start_again(&mut self) {
        self.child = redis_server(&self.dir, &self.args);
    }

    /// Where it keeps what it keeps.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }
}

fn redis_server(dir: &TempDir, args: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(dir.path()).args(args);
    command.stdout(Stdio::null()).spawn().expect("redis-server is installed")
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is this process's own child: there is nobody else to hit.
        self.kill();
    }
}

/// The answer to a command whose words are parted by spaces.
pub async fn ask(line: &mut MultiplexedConnection, command: &str) -> redis::Value {
    let mut words = command.split(' ');
    let mut question = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        question.arg(word);
    });
    question.query_async(line).await.unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// Asks until an answer contains all of `wanted`.
pub async fn until(line: &mut MultiplexedConnection, command: &str, wanted: &[&str]) {
    let mut last = String::new();
    // Far longer than it takes: so that it is said what did not come.
    let patience = tokio::time::timeout(PATIENCE, async {
        loop {
            let answer = match ask(line, command).await {
                redis::Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                redis::Value::VerbatimString { text, .. } => text,
                other => format!("{other:?}"),
            };
            if wanted.iter().all(|wanted| answer.contains(wanted)) {
                return;
            }
            last = answer;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    if patience.await.is_err() {
        panic!("{command}: no {wanted:?} in {last}");
    }
}
