//! A host: a network namespace, and a runtime whose threads live in it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

pub struct Host {
    name: &'static str,
    runtime: Option<Runtime>,
}

impl Host {
    /// Makes one, with its loopback interface up and nothing else.
    pub fn new(name: &'static str) -> io::Result<Host> {
        run("ip", &["netns", "add", name])?;
        let mut host = Host { name, runtime: None };
        host.ip(&["link", "set", "lo", "up"])?;
        // Threads are born into the namespace of whoever starts them.
        let runtime =
            host.enter(|| Builder::new_multi_thread().worker_threads(2).enable_all().build())?;
        host.runtime = Some(runtime);
        Ok(host)
    }

    /// Does something on a thread inside.
    pub fn enter<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let namespace = File::open(format!("/run/netns/{}", self.name))?;
        let inside = thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            act()
        });
        inside.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    }

    /// Spawns a task inside.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.runtime.as_ref().expect("a host is made with its runtime").spawn(task)
    }

    /// `ip` for this host.
    pub fn ip(&self, arguments: &[&str]) -> io::Result<()> {
        run("ip", &[&["-n", self.name], arguments].concat())
    }

    /// Any program, inside.
    pub fn run(&self, arguments: &[&str]) -> io::Result<()> {
        run("ip", &[&["netns", "exec", self.name], arguments].concat())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Runs a program to its end.
pub fn run(program: &str, arguments: &[&str]) -> io::Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = arguments.join(" ");
    Err(io::Error::other(format!("{program} {line}: {}", said.trim())))
}
