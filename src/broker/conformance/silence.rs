//! A subscription on which nothing comes any more, though no connection has failed.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use handover_redis_servers::{Server, own_host};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::losses::{hear_of, send_on};
use super::server::nodes;
use super::*;

/// A way to a Redis that can be made to lose what comes on subscriptions there are.
#[derive(Clone, Default)]
struct Way(Arc<Mutex<Vec<Arc<AtomicBool>>>>);

impl Way {
    /// Of connections to the first of two ports, to the second.
    async fn open(host: Ipv4Addr, from: u16, to: u16) -> Way {
        let listener = TcpListener::bind((host, from)).await.unwrap();
        let way = Way::default();
        let opened = way.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect((host, to)).await.unwrap();
                let (up, down) = (near.into_split(), far.into_split());
                let hushed = Arc::new(AtomicBool::new(false));
                tokio::spawn(opened.clone().asked(up.0, down.1, hushed.clone()));
                tokio::spawn(answered(down.0, up.1, hushed));
            }
        });
        way
    }

    async fn asked(
        self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        hushed: Arc<AtomicBool>,
    ) {
        let mut bytes = [0; 4_096];
        while let Ok(read @ 1..) = from.read(&mut bytes).await {
            if bytes[..read].windows(9).any(|word| word == b"SUBSCRIBE") {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).push(hushed.clone());
            }
            if to.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    }

    /// Nothing comes on them from now on.
    fn hush(&self) {
        let subscribed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(!subscribed.is_empty());
        subscribed.iter().for_each(|hushed| hushed.store(true, Ordering::Release));
    }
}

async fn answered(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    hushed: Arc<AtomicBool>,
) {
    let mut bytes = [0; 4_096];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if !hushed.load(Ordering::Acquire) && to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_subscription_that_is_silent_is_replaced() {
    let host = own_host();
    let server = Server::on_port(host, 7000, &[]);
    server.line().await;
    let way = Way::open(host, 7001, 7000).await;
    let [here] = nodes(&server.address, limits(GENEROUS), 0).await;
    let [there] = nodes(&format!("redis://{host}:7001"), limits(GENEROUS), 0).await;
    let node = |broker| Node { broker, _behind: None, room: room(), now: at(10) };
    let (here, there) = (node(here as Arc<dyn Broker>), node(there as Arc<dyn Broker>));
    here.broker.open(record("ann")).await.unwrap();
    here.load("first").await;
    here.join(author("ann")).await.unwrap();
    let mut news = there.broker.follow(&room()).await.unwrap().unwrap();
    there.load("second").await;
    way.hush();
    send_on(&here, 1).await;
    // Nothing fails, and nothing is said: the next that comes has to be read from the log.
    let heard = tokio::time::timeout(Duration::from_secs(30), hear_of(&there, &mut news, 1)).await;
    heard.expect("nobody noticed");
    send_on(&here, 2).await;
    hear_of(&there, &mut news, 2).await;
}
