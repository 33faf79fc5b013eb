//! Fifty messages a second from one member to another, and what became of them.

use std::time::{Duration, Instant};

use handover_client::{Json, LogLane, Room, RoomEvent};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::host::Host;

/// Between two messages.
pub const CADENCE: Duration = Duration::from_millis(20);
/// What has not arrived so long after the last was sent never will.
const PATIENCE: Duration = Duration::from_secs(20);

/// When each message was sent, and when each one came.
#[derive(Debug, Default)]
pub struct Log {
    pub sent: Vec<Instant>,
    pub came: Vec<(usize, Instant)>,
    /// Sends that the gateway refused, or of which nobody knows.
    pub refused: usize,
    /// Why receiving ended early.
    pub broken: Option<String>,
}

/// When each was sent, and how many were refused.
pub type Sent = (Vec<Instant>, usize);
/// Which came when, and why receiving ended early.
pub type Came = (Vec<(usize, Instant)>, Option<String>);

/// A stream under way.
pub struct Stream {
    sending: Sender,
    receiving: Receiver,
}

/// The end that sends, until it is told to stop.
pub struct Sender {
    task: JoinHandle<Sent>,
    total: watch::Receiver<Option<usize>>,
}

/// The end that receives, until all that was sent has come.
pub struct Receiver {
    task: JoinHandle<Came>,
}

impl Stream {
    /// Sends from `from` to `to` until `stop` is true.
    pub fn start(from: (&Host, &Room), to: (&Host, &Room), stop: &watch::Receiver<bool>) -> Stream {
        let sending = Sender::start(from, stop);
        let receiving = Receiver::start(to, sending.total());
        Stream { sending, receiving }
    }

    /// Everything there is to know, once it has stopped.
    pub async fn log(self) -> Log {
        let (sent, refused) = self.sending.sent().await;
        let (came, broken) = self.receiving.came().await;
        Log { sent, came, refused, broken }
    }
}

impl Sender {
    pub fn start(from: (&Host, &Room), stop: &watch::Receiver<bool>) -> Sender {
        let (total_out, total) = watch::channel(None);
        let task = from.0.spawn(send(from.1.clone(), stop.clone(), total_out));
        Sender { task, total }
    }

    /// How many were sent, once it is known.
    pub fn total(&self) -> watch::Receiver<Option<usize>> {
        self.total.clone()
    }

    pub async fn sent(self) -> Sent {
        self.task.await.unwrap_or_default()
    }
}

impl Receiver {
    pub fn start(to: (&Host, &Room), total: watch::Receiver<Option<usize>>) -> Receiver {
        Receiver { task: to.0.spawn(receive(to.1.clone(), total)) }
    }

    pub async fn came(self) -> Came {
        self.task.await.unwrap_or_default()
    }
}

async fn send(
    room: Room,
    mut stop: watch::Receiver<bool>,
    total: watch::Sender<Option<usize>>,
) -> Sent {
    let mut ticks = interval(CADENCE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sent, mut sendings, mut refused) = (Vec::new(), Vec::new(), 0);
    while !*stop.borrow_and_update() {
        ticks.tick().await;
        let body = serde_json::json!(sent.len()).to_string();
        let Ok(body) = Json::parse(body.as_bytes()) else { break };
        sent.push(Instant::now());
        match room.queue(LogLane::Signal, None, body).await {
            Ok(sending) => sendings.push(sending),
            Err(_) => refused += 1,
        }
    }
    total.send_replace(Some(sent.len()));
    for sending in sendings {
        let accepted = timeout(PATIENCE, sending).await;
        refused += usize::from(!matches!(accepted, Ok(Ok(_))));
    }
    (sent, refused)
}

async fn receive(room: Room, mut total: watch::Receiver<Option<usize>>) -> Came {
    let mut came = Vec::new();
    let wanted = total.clone();
    let mut late = std::pin::pin!(async {
        let _ = total.wait_for(Option::is_some).await;
        tokio::time::sleep(PATIENCE).await;
    });
    // A little longer than all have come, so that one that comes twice is seen.
    let mut lingering = false;
    loop {
        let complete = wanted.borrow().is_some_and(|total| came.len() >= total);
        lingering |= complete;
        tokio::select! {
            event = room.next_event() => match event {
                Some(RoomEvent::Message { body, .. }) => {
                    let number = body.as_str().trim().parse();
                    came.push((number.unwrap_or(usize::MAX), Instant::now()));
                }
                Some(RoomEvent::Reset(cause, _)) => return (came, Some(format!("reset: {cause:?}"))),
                Some(_) => {}
                None => return (came, Some("the room is over".to_owned())),
            },
            () = tokio::time::sleep(CADENCE * 10), if lingering => return (came, None),
            () = &mut late => return (came, None),
            () = tokio::time::sleep(CADENCE), if !lingering => {}
        }
    }
}

impl Log {
    pub fn lost(&self) -> usize {
        let came = |number: &usize| self.came.iter().any(|(other, _)| other == number);
        (0..self.sent.len()).filter(|number| !came(number)).count()
    }

    pub fn repeated(&self) -> usize {
        let mut numbers: Vec<_> = self.came.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers.windows(2).filter(|pair| pair[0] == pair[1]).count()
    }

    pub fn out_of_order(&self) -> usize {
        self.came.windows(2).filter(|pair| pair[0].0 > pair[1].0).count()
    }

    /// The longest time without a message that ended between both, beyond the cadence.
    pub fn interruption(&self, from: Instant, until: Instant) -> Duration {
        let pairs = self.came.windows(2).filter(|pair| pair[1].1 >= from && pair[1].1 <= until);
        let gaps = pairs.map(|pair| pair[1].1 - pair[0].1);
        gaps.max().unwrap_or_default().saturating_sub(CADENCE)
    }

    /// From `from` until messages came again, beyond the cadence.
    pub fn silence(&self, from: Instant) -> Duration {
        let next = self.came.iter().map(|(_, at)| *at).find(|at| *at >= from);
        next.map_or(Duration::MAX, |at| (at - from).saturating_sub(CADENCE))
    }

    /// The longest that a message took which came after `from`.
    pub fn latest(&self, from: Instant) -> Duration {
        let came = self.came.iter().filter(|(_, at)| *at >= from);
        let times = came.filter_map(|(number, at)| Some(*at - *self.sent.get(*number)?));
        times.max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sent every 20 ms from `T0` on; which came, after so many milliseconds.
    fn log(sent: usize, came: &[(usize, u64)]) -> (Instant, Log) {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let sent = (0..sent as u64).map(|number| after(number * 20)).collect();
        let came = came.iter().map(|(number, ms)| (*number, after(*ms))).collect();
        (start, Log { sent, came, ..Log::default() })
    }

    #[test]
    fn what_is_missing_doubled_or_swapped_is_counted() {
        let (_, log) = log(5, &[(0, 10), (2, 20), (1, 30), (2, 40), (3, 50)]);
        assert_eq!((log.lost(), log.repeated(), log.out_of_order()), (1, 1, 1));
    }

    #[test]
    fn the_longest_gap_and_the_slowest_message_are_found() {
        let (start, log) = log(5, &[(0, 15), (1, 30), (2, 130), (3, 131), (4, 140)]);
        let (calm, end) = (start + Duration::from_millis(50), start + Duration::from_secs(1));
        assert_eq!(log.interruption(start, calm), Duration::ZERO);
        assert_eq!(log.interruption(calm, end), Duration::from_millis(80));
        assert_eq!(log.latest(calm), Duration::from_millis(90));
        assert_eq!(log.latest(start + Duration::from_millis(131)), Duration::from_millis(71));
    }
}
