//! A real Redis, alone with one test.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{Arc, Kind, Nodes, RoomLimits};
use crate::broker::redis::RedisBroker;
use crate::clock::Clock;

/// Ends with the test.
pub(super) struct RedisServer {
    child: Child,
    pub(super) address: String,
    _dir: TempDir,
}

impl RedisServer {
    /// On a socket of its own: nobody else can have taken its place.
    pub(super) fn start() -> RedisServer {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let address = format!("redis+unix://{}", socket.display());
        RedisServer { child, address, _dir: dir }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It is this process's own child: there is nobody else to hit.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two nodes on a Redis.
pub(super) struct Redis;

impl Kind for Redis {
    async fn start(limits: RoomLimits) -> Nodes {
        let server = RedisServer::start();
        let stopping = CancellationToken::new();
        let mut nodes = Vec::new();
        for _ in 0..2 {
            let (broker, subscription) = RedisBroker::open(
                &server.address,
                limits,
                std::time::Duration::from_secs(60),
                Clock::start(),
                stopping.clone(),
            )
            .unwrap();
            tokio::spawn(subscription);
            broker.up().wait_for(|up| *up).await.unwrap();
            nodes.push(Arc::new(broker));
        }
        let (there, here) = (nodes.remove(1), nodes.remove(0));
        Nodes { here, there, _behind: Some(server) }
    }
}
