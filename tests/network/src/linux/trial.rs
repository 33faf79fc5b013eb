//! One change of network under one running session.

use std::io;
use std::time::{Duration, Instant};

use handover_client::{Client, ClientEvent, Kind, Options, State};
use tokio::sync::{broadcast, watch};
use tokio::time::{sleep, timeout};

use super::lab::Lab;
use super::stream::{Log, Stream};

/// Of quiet before the change: the round-trip estimates settle.
pub const CALM: Duration = Duration::from_millis(1_500);
/// Of traffic after the session is back.
pub const AFTERWARDS: Duration = Duration::from_secs(3);
/// The gateway tells how a new path does within five seconds.
const MEASURING: Duration = Duration::from_secs(7);
/// A session that is not back by then never will be.
const RECOVERY: Duration = Duration::from_secs(30);

/// What was seen.
pub struct Outcome {
    pub began: Instant,
    pub changed: Instant,
    pub ended: Instant,
    pub up: Log,
    pub down: Log,
    /// The client has had one connection all the time.
    pub kept: bool,
    pub transport: Option<Kind>,
    /// What the gateway counted meanwhile.
    pub migrations: u64,
    /// How often the client was told that its address is another.
    pub moved: usize,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// A session with a stream in each direction, a change, and what becomes of them.
///
/// `change` returns the time from which the interruption counts.
pub async fn run<F>(
    lab: &Lab,
    options: Options,
    change: impl FnOnce(Client) -> F,
) -> io::Result<Outcome>
where
    F: Future<Output = io::Result<Instant>>,
{
    let migrations = lab.metric("handover_migrations_total").await?;
    let (client, other) = (lab.connect(options).await?, lab.neighbour().await?);
    let room = client.join("r", None).await.map_err(io::Error::other)?;
    let other_room = other.join("r", None).await.map_err(io::Error::other)?;
    let (stop, stopped) = watch::channel(false);
    let began = Instant::now();
    let near = (&lab.client, &room);
    let far = (&lab.gateway, &other_room);
    let up = Stream::start(near, far, &stopped);
    let down = Stream::start(far, near, &stopped);
    sleep(CALM).await;

    let (mut states, mut events) = (client.state(), client.events());
    states.mark_unchanged();
    let changed = change(client.clone()).await?;
    // Answered by whichever connection carries the session by then.
    let back = timeout(RECOVERY, async { while client.ping().await.is_err() {} }).await;
    sleep(AFTERWARDS).await;
    let mut told = Told::default();
    told.take_all(&mut events).await;
    let kept = !states.has_changed().unwrap_or(true);
    let transport = match &*states.borrow() {
        State::Live { transport, .. } => Some(*transport),
        _ => None,
    };
    let _ = stop.send(true);
    let (up, mut down) = (up.log().await, down.log().await);
    if back.is_err() {
        down.broken.get_or_insert_with(|| "never came back".to_owned());
    }
    let ended = Instant::now();
    let migrations = lab.metric("handover_migrations_total").await? - migrations;
    let estimate = |ms| format!("the gateway measures {ms} ms of round trip on the new path");
    let notes = told.round_trip.filter(|_| told.moved > 0).map(estimate).into_iter().collect();
    client.close().await;
    other.close().await;
    Ok(Outcome {
        began,
        changed,
        ended,
        up,
        down,
        kept,
        transport,
        migrations,
        moved: told.moved,
        notes,
    })
}

/// What the client was told of its path.
#[derive(Default)]
struct Told {
    moved: usize,
    /// The last round trip that the gateway measured since.
    round_trip: Option<f64>,
}

impl Told {
    fn take(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Moved => (self.moved, self.round_trip) = (self.moved + 1, None),
            ClientEvent::Quality(quality) => self.round_trip = Some(quality.rtt),
            _ => {}
        }
    }

    /// Everything so far; of a path that is new, also what the gateway makes of it.
    async fn take_all(&mut self, events: &mut broadcast::Receiver<ClientEvent>) {
        while let Ok(event) = events.try_recv() {
            self.take(event);
        }
        let _ = timeout(MEASURING, async {
            while self.moved > 0 && self.round_trip.is_none() {
                let Ok(event) = events.recv().await else { break };
                self.take(event);
            }
        })
        .await;
    }
}
