//! The same with the web client in Chromium, which does not move its QUIC connections.

use std::env::current_dir;
use std::io;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use handover_client::Kind;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::host::Host;
use super::lab::Lab;
use super::stream::{Log, Receiver, Sender};
use super::trial::{AFTERWARDS, CALM, Outcome};

const SCRIPT: &str = "tests/network/browser.js";
/// Nothing is as slow as a browser that starts on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Without any network.
const OUTAGE: Duration = Duration::from_millis(300);
/// The browser closes a connection that has gone silent after 6.4 s; this is longer.
const UNHINTED: Duration = Duration::from_secs(8);

/// What the other link does.
#[derive(Clone, Copy)]
pub enum Outage {
    /// It is up all the time: the browser sees no reason to say anything.
    Other,
    /// It comes up a little later, and the browser says `offline` and `online`.
    Later,
}

/// Node with the browser, on the client host.
struct Page {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Page {
    async fn open(host: &Host, url: String, hash: &[u8; 32]) -> io::Result<Page> {
        let hash = base64(hash);
        let start = async move {
            let mut command = Command::new("node");
            command.arg(current_dir()?.join(SCRIPT)).args([url, hash]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()
        };
        let mut child = host.spawn(start).await??;
        let gone = || io::Error::other("no pipe to the browser");
        let input = child.stdin.take().ok_or_else(gone)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(gone)?).lines();
        let mut page = Page { child, input, output };
        match page.line().await?.as_str() {
            "ready" => Ok(page),
            other => Err(io::Error::other(format!("the browser says {other:?}"))),
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        let line = timeout(PATIENCE, self.output.next_line()).await.map_err(io::Error::other)?;
        line?.ok_or_else(|| io::Error::other("the browser has ended"))
    }

    /// What it saw, once it has everything that was sent to it.
    async fn stop(mut self, sent: usize) -> io::Result<Value> {
        self.input.write_all(format!("stop {sent}\n").as_bytes()).await?;
        let seen = serde_json::from_str(&self.line().await?)?;
        drop(self.input);
        timeout(PATIENCE, self.child.wait()).await.map_err(io::Error::other)??;
        Ok(seen)
    }
}

pub async fn run(lab: &Lab, outage: Outage) -> io::Result<Outcome> {
    if matches!(outage, Outage::Later) {
        lab.down(&lab.cell)?;
    }
    let migrations = lab.metric("handover_migrations_total").await?;
    let other = lab.neighbour().await?;
    let room = other.join("r", None).await.map_err(io::Error::other)?;
    let page = Page::open(&lab.client, lab.url(), &lab.hash).await?;
    let far = (&lab.gateway, &room);
    let (stop, stopped) = watch::channel(false);
    let (total_up, from_page) = watch::channel(None);
    let began = Instant::now();
    let sender = Sender::start(far, &stopped);
    let receiver = Receiver::start(far, from_page);
    let mut sent = sender.total();
    sleep(CALM).await;

    let went = Instant::now();
    lab.down(&lab.wifi)?;
    if matches!(outage, Outage::Later) {
        sleep(OUTAGE).await;
        lab.up(&lab.cell)?;
    } else {
        sleep(UNHINTED).await;
    }
    sleep(AFTERWARDS).await;

    stop.send_replace(true);
    let total = sent.wait_for(Option::is_some).await.map_err(io::Error::other)?.unwrap_or_default();
    let seen = page.stop(total).await?;
    let clock = Clock::now();
    let page_sent = clock.times(&seen["sent"]);
    total_up.send_replace(Some(page_sent.len()));
    let (came, broken) = receiver.came().await;
    let refused = seen["refused"].as_u64().unwrap_or(0) as usize;
    let up = Log { sent: page_sent, came, refused, broken };
    let (sent, refused) = sender.sent().await;
    let reset = (seen["reset"] != 0).then(|| "reset".to_owned());
    let down = Log { sent, came: clock.arrivals(&seen["came"]), refused, broken: reset };
    other.close().await;

    let hints = clock.named(&seen["hints"]);
    let (transports, hinted) =
        (clock.named(&seen["transports"]), hints.iter().filter(|(_, at)| *at >= went));
    let online = hinted.clone().find(|(name, _)| name == "online" || name == "changed");
    let after = |at: Instant| (at - went).as_millis();
    let told = hinted
        .map(|(name, at)| format!("the page heard {name:?} {} ms after Wi-Fi went", after(*at)));
    let switched = transports.iter().filter(|(_, at)| *at >= went);
    let notes = told
        .chain(
            switched
                .clone()
                .map(|(name, at)| format!("{name} carries the session after {} ms", after(*at))),
        )
        .collect();
    Ok(Outcome {
        began,
        changed: online.map_or(went, |(_, at)| *at),
        ended: Instant::now(),
        up,
        down,
        kept: switched.count() == 0,
        transport: match seen["transport"].as_str() {
            Some("webtransport") => Some(Kind::WebTransport),
            Some("websocket") => Some(Kind::WebSocket),
            _ => None,
        },
        migrations: lab.metric("handover_migrations_total").await? - migrations,
        moved: 0,
        notes,
    })
}

/// From the page's milliseconds since 1970 to this program's time.
struct Clock {
    instant: Instant,
    unix: Duration,
}

impl Clock {
    fn now() -> Clock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { instant: Instant::now(), unix }
    }

    fn time(&self, ms: &Value) -> Option<Instant> {
        let unix = Duration::try_from_secs_f64(ms.as_f64()? / 1_000.0).ok()?;
        self.instant.checked_sub(self.unix.checked_sub(unix)?)
    }

    fn times(&self, list: &Value) -> Vec<Instant> {
        list.as_array().into_iter().flatten().filter_map(|ms| self.time(ms)).collect()
    }

    fn arrivals(&self, list: &Value) -> Vec<(usize, Instant)> {
        let pairs = list.as_array().into_iter().flatten();
        pairs.filter_map(|pair| Some((pair[0].as_u64()? as usize, self.time(&pair[1])?))).collect()
    }

    fn named(&self, list: &Value) -> Vec<(String, Instant)> {
        let pairs = list.as_array().into_iter().flatten();
        pairs
            .filter_map(|pair| Some((pair[0].as_str()?.to_owned(), self.time(&pair[1])?)))
            .collect()
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| (bits << 8) | u32::from(*chunk.get(at).unwrap_or(&0)));
        for digit in 0..4 {
            let at = ((bits >> (18 - 6 * digit)) & 63) as usize;
            text.push(if digit <= chunk.len() { DIGITS[at] as char } else { '=' });
        }
    }
    text
}
