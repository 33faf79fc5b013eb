//! Two terminals on a real gateway.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::config::{Addresses, Config, IdentitySource};
use crate::gateway::Gateway;

/// What a terminal shows, and a bell for whoever waits for more of it.
#[derive(Clone, Default)]
struct Shown {
    text: Arc<Mutex<String>>,
    more: Arc<Notify>,
}

impl Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
        self.more.notify_one();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Terminal {
    input: DuplexStream,
    shown: Shown,
    done: JoinHandle<Result<(), JoinError>>,
}

impl Terminal {
    fn start(gateway: &Gateway, flags: &[&str]) -> Self {
        let url = format!("https://localhost:{}", gateway.listening()[0].port());
        let identity = gateway.http()[0].to_string();
        let line = ["join", "lobby", "--url", &url, "--identity-from", &identity];
        let args = Line::try_parse_from(line.iter().chain(flags)).unwrap().args;
        let (input, stdin) = duplex(4_096);
        let shown = Shown::default();
        let done = tokio::spawn(run_with(args, BufReader::new(stdin), shown.clone()));
        Terminal { input, shown, done }
    }

    async fn shows(&self, text: &str) {
        let seen = async {
            while !self.shown.text.lock().unwrap().contains(text) {
                self.shown.more.notified().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), seen).await;
        assert!(waited.is_ok(), "no {text:?} in {}", self.shown.text.lock().unwrap());
    }

    async fn types(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }
}

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: JoinArgs,
}

#[tokio::test]
async fn two_terminals_chat_without_being_told_which_certificate_to_trust() {
    let dir = tempfile::tempdir().unwrap();
    let loopback = || Addresses::of(["127.0.0.1:0".parse().unwrap()]);
    let config = Config {
        listen: loopback(),
        http: loopback(),
        identity: IdentitySource::SelfMade { dir: dir.path().to_owned() },
        ..Config::default()
    };
    let gateway = Gateway::start(config).await.unwrap();
    let flags = ["--name", "Ann", "--transport", "websocket", "--codec", "json"];
    let mut ann = Terminal::start(&gateway, &flags);
    ann.shows("Ann (this is you)").await;
    let mut ben = Terminal::start(&gateway, &["--name", "Ben"]);
    ann.shows("Ben joined").await;
    ben.shows("Ann").await;
    ann.types("hello everybody").await;
    ben.shows("Ann: hello everybody").await;
    ben.types("/to Ann just you").await;
    ann.shows("Ben (to you): just you").await;
    ben.types("/to Cid who?").await;
    ben.shows("nobody here is called Cid").await;
    ben.types("/members").await;
    ben.types("/what").await;
    ben.shows("/what: there is").await;
    ben.types("/leave").await;
    ann.shows("Ben left").await;
    ben.done.await.unwrap().unwrap();
    drop(ann.input);
    ann.done.await.unwrap().unwrap();
    gateway.drain().await;
}
