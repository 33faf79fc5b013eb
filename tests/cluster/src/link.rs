//! A gateway's way to Redis, which can be cut.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A relay. Dropping it ends what goes through it.
#[derive(Debug)]
pub(crate) struct Link {
    address: SocketAddr,
    whole: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Link {
    pub(crate) async fn open(socket: PathBuf) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (whole, watched) = watch::channel(true);
        let mut tasks = JoinSet::new();
        tasks.spawn(relay(listener, socket, watched));
        Ok(Link { address, whole, _tasks: tasks })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection, and takes no others until it is mended.
    pub(crate) fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.whole.send_replace(true);
    }
}

async fn relay(listener: TcpListener, socket: PathBuf, whole: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        // Out of files, say: whoever wanted to connect tries again.
        let Ok((mut near, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        if !*whole.borrow() {
            continue;
        }
        let (socket, mut whole) = (socket.clone(), whole.clone());
        connections.spawn(async move {
            let Ok(mut far) = UnixStream::connect(socket).await else { return };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = whole.wait_for(|whole| !whole) => {}
            }
        });
    }
}
