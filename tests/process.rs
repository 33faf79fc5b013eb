//! The gateway in a process of its own, as an operator runs it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);

pub const PORTS_OF_THE_SYSTEM: [&str; 4] = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];

pub fn handover(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handover"));
    command.args(args).current_dir(dir).env_clear().stdin(Stdio::null());
    command
}

/// Waits for `work` on a thread of its own, so that a hanging process fails the test.
pub fn within_deadline<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    result.recv_timeout(DEADLINE).expect("it takes too long")
}

/// What has been logged so far, and a bell for whoever waits for more.
#[derive(Default)]
struct Log {
    text: Mutex<String>,
    more: Condvar,
}

/// `handover serve`, ended with the test.
pub struct Process {
    child: Child,
    announced: Vec<String>,
    log: Arc<Log>,
    reading: Option<JoinHandle<()>>,
    dir: TempDir,
}

impl Process {
    pub fn start() -> Self {
        Self::with(tempfile::tempdir().unwrap(), &[])
    }

    /// In this directory, with these flags; on ports of the system's where they do not say.
    pub fn with(dir: TempDir, flags: &[&str]) -> Self {
        Self::in_environment(dir, flags, &[])
    }

    /// The same with these variables.
    pub fn in_environment(dir: TempDir, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let listeners = PORTS_OF_THE_SYSTEM.chunks(2).filter(|pair| !flags.contains(&pair[0]));
        let mut child = handover(dir.path(), &["serve"])
            .args(listeners.flatten())
            .args(flags)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Log::default());
        let (mut stderr, written) = (child.stderr.take().unwrap(), log.clone());
        let reading = thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(size @ 1..) = stderr.read(&mut bytes) {
                let mut text = written.text.lock().unwrap();
                text.push_str(std::str::from_utf8(&bytes[..size]).unwrap());
                written.more.notify_all();
            }
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let announced = within_deadline(move || {
            let mut announced = Vec::new();
            for line in lines.by_ref() {
                announced.push(line.unwrap());
                if announced.last().is_some_and(|line| line.starts_with("  certificate ")) {
                    break;
                }
            }
            announced
        });
        Process { child, announced, log, reading: Some(reading), dir }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the announcement says of `what`.
    pub fn announced(&self, what: &str) -> &str {
        let line = self.announced.iter().find_map(|line| line.trim().strip_prefix(what));
        line.unwrap_or_else(|| panic!("no {what} in {:?}", self.announced)).trim()
    }

    /// Where QUIC and TLS listen.
    pub fn secure(&self) -> SocketAddr {
        self.announced("QUIC and TLS").parse().unwrap()
    }

    pub fn plain(&self) -> SocketAddr {
        self.announced("plain HTTP").parse().unwrap()
    }

    pub fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.plain()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Waits until this many lines with `part` have been logged; all of them.
    pub fn logged(&self, part: &str, times: usize) -> Vec<String> {
        let with_part = |text: &str| {
            // The last line may still be on its way.
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            whole.lines().filter(|l| l.contains(part)).map(str::to_owned).collect::<Vec<_>>()
        };
        let text = self.log.text.lock().unwrap();
        let waiting = |text: &mut String| with_part(text).len() < times;
        let (text, _) = self.log.more.wait_timeout_while(text, DEADLINE, waiting).unwrap();
        let lines = with_part(&text);
        assert!(lines.len() >= times, "not {times} lines with {part:?}: {text}");
        lines
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    }

    /// Sends a signal and returns how it ended and what it logged.
    pub fn end(&mut self, signal: &str) -> (ExitStatus, String) {
        self.signal(signal);
        let reading = self.reading.take().unwrap();
        within_deadline(move || reading.join().unwrap());
        let status = self.child.wait().unwrap();
        (status, self.log.text.lock().unwrap().clone())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
