//! A way to a Redis on which what it says can be lost.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A relay of connections.
#[derive(Clone, Debug, Default)]
pub struct Way(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Of every connection with a subscription: whether nothing comes on it any more.
    subscribed: Mutex<Vec<Arc<AtomicBool>>>,
    /// What is published with this in it is lost.
    unheard: Mutex<Option<String>>,
    lost: AtomicUsize,
    /// Nothing gets through any more once this is said.
    last: Mutex<Option<String>>,
    /// Nothing gets through in either direction.
    held: watch::Sender<bool>,
    /// What Redis says comes so much later, in ms.
    late: AtomicU64,
}

impl Way {
    /// Of connections to the first of two ports, to the second.
    pub async fn open(host: Ipv4Addr, from: u16, to: u16) -> Way {
        let listener = TcpListener::bind((host, from)).await.unwrap();
        let way = Way::default();
        let opened = way.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect((host, to)).await else { continue };
                let (up, down) = (near.into_split(), far.into_split());
                let hushed = Arc::new(AtomicBool::new(false));
                tokio::spawn(opened.clone().asked(up.0, down.1, hushed.clone()));
                tokio::spawn(opened.clone().answered(down.0, up.1, hushed));
            }
        });
        way
    }

    /// Nothing comes on subscriptions there are from now on, and nothing fails.
    pub fn hush(&self) {
        let subscribed = self.0.subscribed.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(!subscribed.is_empty());
        subscribed.iter().for_each(|hushed| hushed.store(true, Ordering::Release));
    }

    /// What is published with this in it is lost, and nothing else.
    pub fn lose(&self, text: &str) {
        *self.0.unheard.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
    }

    /// How many connections have had a subscription.
    pub fn subscriptions(&self) -> usize {
        self.0.subscribed.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What is said from now on does not get through in either direction, and nothing fails.
    pub fn hold(&self) {
        self.0.held.send_replace(true);
    }

    /// The same from the moment on that Redis says something with this in it.
    pub fn hold_at(&self, text: &str) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
    }

    /// Once nothing gets through.
    pub async fn is_held(&self) {
        let mut held = self.0.held.subscribe();
        // It cannot be dropped meanwhile.
        let _ = held.wait_for(|held| *held).await;
    }

    /// It gets through, late.
    pub fn release(&self) {
        self.0.held.send_replace(false);
    }

    /// What Redis says from now on comes so much later, one piece after another.
    pub fn delay(&self, late: Duration) {
        let late = u64::try_from(late.as_millis()).unwrap();
        self.0.late.store(late, Ordering::Release);
    }

    fn look_for_last(&self, said: &[u8]) {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.take_if(|text| contains(said, text.as_bytes())).is_some() {
            self.hold();
        }
    }

    async fn held(&self) {
        let mut held = self.0.held.subscribe();
        // It cannot be dropped meanwhile.
        let _ = held.wait_for(|held| !held).await;
    }

    /// How many messages were lost.
    pub fn lost(&self) -> usize {
        self.0.lost.load(Ordering::Acquire)
    }

    async fn asked(
        self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        hushed: Arc<AtomicBool>,
    ) {
        let mut bytes = vec![0; 65_536];
        while let Ok(read @ 1..) = from.read(&mut bytes).await {
            if contains(&bytes[..read], b"SUBSCRIBE") {
                let subscribed = self.0.subscribed.lock();
                let mut subscribed = subscribed.unwrap_or_else(PoisonError::into_inner);
                if !subscribed.iter().any(|known| Arc::ptr_eq(known, &hushed)) {
                    subscribed.push(hushed.clone());
                }
            }
            self.held().await;
            if to.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    }

    async fn answered(
        self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        hushed: Arc<AtomicBool>,
    ) {
        let mut bytes = vec![0; 65_536];
        while let Ok(read @ 1..) = from.read(&mut bytes).await {
            self.look_for_last(&bytes[..read]);
            let late = Duration::from_millis(self.0.late.load(Ordering::Acquire));
            tokio::time::sleep(late).await;
            self.held().await;
            if hushed.load(Ordering::Acquire) {
                continue;
            }
            let mut said = bytes[..read].to_vec();
            let unheard = self.0.unheard.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if unheard.is_some_and(|text| cut(&mut said, &text)) {
                self.0.lost.fetch_add(1, Ordering::Release);
            }
            if to.write_all(&said).await.is_err() {
                return;
            }
        }
    }
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|part| part == word)
}

/// Takes a published message with this text out of what Redis says: `>3`, `message`, the channel
/// and the payload, each on a line behind its length.
fn cut(said: &mut Vec<u8>, text: &str) -> bool {
    const HEAD: &[u8] = b">3\r\n$7\r\nmessage\r\n";
    let mut from = 0;
    while let Some(at) = said[from..].windows(HEAD.len()).position(|part| part == HEAD) {
        let start = from + at;
        let mut lines = said[start..].split(|byte| *byte == b'\n');
        let taken = lines.by_ref().take(6).map(|line| line.len() + 1).sum::<usize>();
        let length = said[start..][..taken].rsplit(|byte| *byte == b'$').next().unwrap_or_default();
        let length: usize = String::from_utf8_lossy(length).trim().parse().unwrap();
        let end = start + taken + length + 2;
        assert!(end <= said.len(), "a message in two parts");
        if contains(&said[start..end], text.as_bytes()) {
            said.drain(start..end);
            return true;
        }
        from = end;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_is_taken_out() {
        let message = |text: &str| {
            format!(">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n${}\r\n{text}\r\n", text.len())
        };
        let (one, two, three) = (message("one"), message("a $2 two"), message("three"));
        let mut said = format!("+OK\r\n{one}{two}{three}:1\r\n").into_bytes();
        assert!(!cut(&mut said, "four"));
        assert!(cut(&mut said, "two"));
        assert_eq!(String::from_utf8(said).unwrap(), format!("+OK\r\n{one}{three}:1\r\n"));
    }
}
