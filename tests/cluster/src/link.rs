//! A gateway's ways to Redis and its sentinels, which can be cut.
//!
//! Whoever asks sentinels goes where they say, past any relay. So a gateway is given a host of its
//! own: there all their ports lead to them, and what sentinels answer names this host for theirs.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Outcome;
use crate::redis::{LOOK_EVERY, START_TIMEOUT};

/// What gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passage {
    Open,
    /// Nothing, and nobody is told: what was said comes late.
    Held,
    /// Nothing, and every connection ends.
    Ended,
}

/// Relays, one for each port. Dropping it ends what goes through them.
#[derive(Debug)]
pub(crate) struct Link {
    host: Ipv4Addr,
    passage: watch::Sender<Passage>,
    /// Connections to Redis that go through it.
    carried: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Link {
    /// From the ports at one host to the same ports at another, of Redis and of sentinels. Both
    /// hosts are written in as many letters.
    pub(crate) async fn open(
        host: Ipv4Addr,
        to: Ipv4Addr,
        redis: &[u16],
        sentinels: &[u16],
    ) -> io::Result<Link> {
        let (passage, watched) = watch::channel(Passage::Open);
        let (carried, mut tasks) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        let names = [to, host].map(|host| host.to_string().into_bytes());
        let of_redis = redis.iter().map(|port| (port, Kind::Redis(carried.clone())));
        let of_sentinels = sentinels.iter().map(|port| (port, Kind::Sentinel(names.clone())));
        for (port, kind) in of_redis.chain(of_sentinels) {
            let listener = TcpListener::bind((host, *port)).await?;
            tasks.spawn(relay(listener, (to, *port), kind, watched.clone()));
        }
        Ok(Link { host, passage, carried, _tasks: tasks })
    }

    pub(crate) fn host(&self) -> Ipv4Addr {
        self.host
    }

    /// How many connections to Redis go through it, once there are any.
    pub(crate) async fn carried(&self) -> Outcome<usize> {
        let carried = async {
            loop {
                match self.carried.load(Ordering::Acquire) {
                    0 => sleep(LOOK_EVERY).await,
                    carried => return carried,
                }
            }
        };
        let late = |_| "a gateway does not connect to redis";
        Ok(timeout(START_TIMEOUT, carried).await.map_err(late)?)
    }

    /// From now on nothing gets through, and nothing fails: what was said meanwhile comes once it
    /// is mended.
    pub(crate) fn hold(&self) {
        self.passage.send_replace(Passage::Held);
    }

    /// Ends every connection, and takes no others until it is mended.
    pub(crate) fn cut(&self) {
        self.passage.send_replace(Passage::Ended);
    }

    pub(crate) fn mend(&self) {
        self.passage.send_replace(Passage::Open);
    }
}

/// What is behind a relay.
#[derive(Clone)]
enum Kind {
    /// Its connections are counted.
    Redis(Arc<AtomicUsize>),
    /// What it says names the second host for the first.
    Sentinel([Vec<u8>; 2]),
}

/// One connection more, until it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn relay(
    listener: TcpListener,
    to: (Ipv4Addr, u16),
    kind: Kind,
    passage: watch::Receiver<Passage>,
) {
    let mut connections = JoinSet::new();
    loop {
        // Out of files, say: whoever wanted to connect tries again.
        let Ok((near, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let (kind, passage) = (kind.clone(), passage.clone());
        connections.spawn(async move {
            let mut ended = passage.clone();
            tokio::select! {
                _ = ended.wait_for(|passage| *passage == Passage::Ended) => {}
                () = connect(near, to, kind, passage) => {}
            }
        });
    }
}

async fn connect(
    near: TcpStream,
    to: (Ipv4Addr, u16),
    kind: Kind,
    mut passage: watch::Receiver<Passage>,
) {
    is_open(&mut passage).await;
    let Ok(far) = TcpStream::connect(to).await else { return };
    // As without a relay between them.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((asked, answer), (answered, ask)) = (near.into_split(), far.into_split());
    let asking = carry(asked, ask, passage.clone(), std::mem::take);
    match kind {
        Kind::Redis(count) => {
            count.fetch_add(1, Ordering::AcqRel);
            let _counted = Counted(&count);
            let answering = carry(answered, answer, passage, std::mem::take);
            tokio::join!(asking, answering);
        }
        Kind::Sentinel([from, to]) => {
            let answering = carry(answered, answer, passage, |said| renamed(said, &from, &to));
            tokio::join!(asking, answering);
        }
    }
}

async fn is_open(passage: &mut watch::Receiver<Passage>) {
    // With the link this ends too.
    let _ = passage.wait_for(|passage| *passage == Passage::Open).await;
}

/// Carries what `ready` takes of what was said and not carried yet.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut passage: watch::Receiver<Passage>,
    ready: impl Fn(&mut Vec<u8>) -> Vec<u8>,
) {
    let mut said = Vec::new();
    loop {
        let read = from.read_buf(&mut said).await;
        // Nor does an end get through before.
        is_open(&mut passage).await;
        let is_over = !matches!(read, Ok(1..));
        let bytes = if is_over { std::mem::take(&mut said) } else { ready(&mut said) };
        if to.write_all(&bytes).await.is_err() || is_over {
            break;
        }
    }
    // Who has gone cannot be told.
    let _ = to.shutdown().await;
}

/// Takes what was said, with one host for the other; what may be the beginning of its name waits for
/// the rest.
fn renamed(said: &mut Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut at = 0;
    while let Some(part) = said.get_mut(at..at + from.len()) {
        if part == from {
            part.copy_from_slice(to);
        }
        at += 1;
    }
    let begins = (1..from.len()).rev().find(|len| said.ends_with(&from[..*len]));
    let rest = said.split_off(said.len() - begins.unwrap_or(0));
    std::mem::replace(said, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_replaced_wherever_it_is_parted() {
        let text = b"*2\r\n$9\r\n127.0.0.2\r\n127.0.0.127.0.0.2 127.0.0.1\r\n";
        for at in 0..text.len() {
            let (mut said, mut heard) = (Vec::new(), Vec::new());
            for part in [&text[..at], &text[at..]] {
                said.extend_from_slice(part);
                heard.extend(renamed(&mut said, b"127.0.0.2", b"127.0.0.3"));
            }
            let wanted = "*2\r\n$9\r\n127.0.0.3\r\n127.0.0.127.0.0.3 127.0.0.1\r\n";
            assert_eq!(String::from_utf8_lossy(&heard), wanted, "parted at {at}");
        }
    }
}
