//! A real Redis, alone with one test.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Ends with the test.
pub struct RedisServer {
    child: Child,
    pub address: String,
    socket: String,
    _dir: TempDir,
}

impl RedisServer {
    /// On a socket of its own: nobody else can have taken its place.
    pub fn start() -> RedisServer {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket").to_str().unwrap().to_owned();
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", &socket])
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let address = format!("redis+unix://{socket}");
        RedisServer { child, address, socket, _dir: dir }
    }

    /// What an operator would type.
    pub fn command(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-s", &self.socket]).args(words).output();
        let output = output.expect("redis-cli is installed");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// It answers nobody, and keeps everything.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// It goes on.
    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It is this process's own child: there is nobody else to hit.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
