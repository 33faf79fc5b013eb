//! A real Redis, alone with one test.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Ends with the test.
pub struct RedisServer {
    child: Option<Child>,
    pub address: String,
    socket: String,
    dir: TempDir,
}

impl RedisServer {
    /// On a socket of its own: nobody else can have taken its place.
    pub fn start() -> RedisServer {
        let mut server = Self::absent();
        server.launch();
        server
    }

    /// One that wants a password.
    pub fn asking_for(password: &str) -> RedisServer {
        let mut server = Self::absent();
        server.launch_with(&["--requirepass", password]);
        server.address = format!("{}?pass={password}", server.address);
        server
    }

    /// One that is yet to come.
    pub fn absent() -> RedisServer {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket").to_str().unwrap().to_owned();
        let address = format!("redis+unix://{socket}");
        RedisServer { child: None, address, socket, dir }
    }

    pub fn launch(&mut self) {
        self.launch_with(&[]);
    }

    fn launch_with(&mut self, flags: &[&str]) {
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .args(["--unixsocket", &self.socket, "--dir"])
            .arg(self.dir.path())
            .args(flags)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.child = Some(child);
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
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It is this process's own child: there is nobody else to hit.
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
