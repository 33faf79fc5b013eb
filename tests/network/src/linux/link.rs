//! A link with a delay: two network interfaces, and this program as the wire between them.
//!
//! The kernel here has no netem, so each direction is a thread that takes packets from one
//! interface and a thread that hands them to the other one when they are due. The interfaces
//! are the kernel's own (TUN), so TCP, UDP, ICMP, routes and an interface going down behave as
//! they do anywhere.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::host::Host;

/// Of an ordinary path; QUIC starts with less and finds this.
const MTU: u16 = 1_500;
/// Packets on the way in one direction; more are dropped, as a real link would.
const QUEUE: usize = 4_096;
/// Between two looks at an interface that is down.
const DOWN: Duration = Duration::from_millis(1);
const IP_PROTOCOL_UDP: u8 = 17;

/// One end of a link.
pub struct End<'a> {
    pub host: &'a Host,
    pub name: &'static str,
    /// With its prefix.
    pub address: &'static str,
}

/// A link, for as long as the program runs.
pub struct Link {
    near: &'static str,
    drops: Arc<Drops>,
}

/// What does not get through.
#[derive(Default)]
struct Drops {
    udp: AtomicBool,
    everything: AtomicBool,
}

struct Packet {
    due: Instant,
    bytes: Vec<u8>,
}

impl Link {
    /// Connects two hosts: what goes in at one end comes out at the other after `delay`.
    pub fn between(near: End<'_>, far: End<'_>, delay: Duration) -> io::Result<Link> {
        let (one, other) = (interface(&near)?, interface(&far)?);
        let drops = Arc::new(Drops::default());
        carry(one.clone(), other.clone(), delay, drops.clone());
        carry(other, one, delay, drops.clone());
        Ok(Link { near: near.name, drops })
    }

    /// The interface of the near end.
    pub fn name(&self) -> &'static str {
        self.near
    }

    /// Drops UDP without a word, as some networks do.
    pub fn block_udp(&self, block: bool) {
        self.drops.udp.store(block, Ordering::Relaxed);
    }

    /// Drops everything, also what is on its way.
    pub fn cut(&self, cut: bool) {
        self.drops.everything.store(cut, Ordering::Relaxed);
    }
}

fn interface(end: &End<'_>) -> io::Result<Arc<SyncDevice>> {
    let name = end.name;
    let device = end.host.enter(move || {
        DeviceBuilder::new().name(name).layer(Layer::L3).mtu(MTU).enable(true).build_sync()
    })?;
    end.host.ip(&["address", "add", end.address, "dev", end.name])?;
    Ok(Arc::new(device))
}

fn carry(from: Arc<SyncDevice>, to: Arc<SyncDevice>, delay: Duration, drops: Arc<Drops>) {
    let (sender, receiver) = sync_channel(QUEUE);
    let on_the_way = drops.clone();
    thread::spawn(move || take(&from, &sender, delay, &drops));
    thread::spawn(move || hand_over(&to, &receiver, &on_the_way));
}

fn take(from: &SyncDevice, queue: &SyncSender<Packet>, delay: Duration, drops: &Drops) {
    let mut buffer = [0; 65_536];
    loop {
        match from.recv(&mut buffer) {
            Ok(length) => {
                let due = Instant::now() + delay;
                let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                if is_udp(&bytes) && drops.udp.load(Ordering::Relaxed) {
                    continue;
                }
                // A full queue is a full router.
                let _ = queue.try_send(Packet { due, bytes });
            }
            // The interface is down, and may come up again.
            Err(_) => thread::sleep(DOWN),
        }
    }
}

fn hand_over(to: &SyncDevice, queue: &Receiver<Packet>, drops: &Drops) {
    for Packet { due, bytes } in queue {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if !drops.everything.load(Ordering::Relaxed) {
            // An interface that is down takes nothing.
            let _ = to.send(&bytes);
        }
    }
}

/// IPv4 alone: nothing else is configured here.
fn is_udp(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 4) && packet.get(9) == Some(&IP_PROTOCOL_UDP)
}
