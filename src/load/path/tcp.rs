//! TCP connections, passed on byte by byte.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use handover_client::Kind;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Passage, Shared, Way};

/// Passed on at once.
const CHUNK: usize = 16 * 1024;
/// Between two tries to accept, when the system has no more files to give.
const BREATH: Duration = Duration::from_millis(50);

pub(super) async fn relay(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((near, _)) => drop(connections.spawn(pass(near, shared.clone()))),
            Err(error) => {
                tracing::debug!(%error, "a path could not accept");
                tokio::time::sleep(BREATH).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(mut near: TcpStream, shared: Arc<Shared>) {
    // Refused, as by a balancer with nobody behind it.
    let Some(gateway) = shared.next_gateway() else { return };
    let mut passage = shared.open(Kind::WebSocket, gateway);
    let Ok(mut far) = TcpStream::connect(gateway).await else { return };
    // Without it the two ends see larger delays, and nothing else.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let cut = {
        let (near_in, near_out) = near.split();
        let (far_in, far_out) = far.split();
        let up = pump(near_in, far_out, passage.clone(), |passage| passage.up);
        let down = pump(far_in, near_out, passage.clone(), |passage| passage.down);
        tokio::select! {
            // Each direction ends by itself; one that breaks takes the other along.
            _ = async { tokio::try_join!(up, down) } => false,
            _ = passage.wait_for(|passage| passage.cut) => true,
        }
    };
    if cut {
        for stream in [&near, &far] {
            // A reset instead of an orderly end.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut passage: watch::Receiver<Passage>,
    way: impl Fn(&Passage) -> Way,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let len = from.read(&mut chunk).await?;
        // An error would mean that the path is gone, and this task with it.
        let thawed = passage.wait_for(|passage| way(passage) != Way::Frozen).await;
        let silent = thawed.is_ok_and(|passage| way(&passage) == Way::Silent);
        if len == 0 {
            return if silent { Ok(()) } else { to.shutdown().await };
        }
        if !silent {
            to.write_all(chunk.get(..len).unwrap_or_default()).await?;
        }
    }
}
