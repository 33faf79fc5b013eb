//! A link between two ends that delays, loses and dies, decided by a seed.
//!
//! What a transport promises holds here too: each stream keeps its order and loses nothing
//! while the link lives. Everything else is left to chance: streams overtake each other,
//! datagrams are lost, repeated and overtaken, and a link dies with what is on its way, at
//! once or unnoticed.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::Rng;
use crate::session::server::Streams;
use crate::time::Time;
use crate::wire::Lane;

/// How good a link is. Each has a name that says where one meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grade {
    /// One way, at the least.
    pub delay: Duration,
    /// On top of that, at the most.
    pub jitter: Duration,
    /// One in so many datagrams is lost.
    pub datagram_loss: u64,
    /// Messages on their way in one stream before it takes no more.
    pub window: usize,
}

impl Grade {
    /// The same machine.
    pub const LOOPBACK: Grade = Grade::of(0, 0, 1_000_000, 64);
    /// A cable.
    pub const WIRED: Grade = Grade::of(5, 1, 1_000, 64);
    /// A flat full of neighbours.
    pub const BUSY_WIFI: Grade = Grade::of(8, 60, 30, 32);
    /// A phone on a train.
    pub const MOBILE: Grade = Grade::of(40, 120, 20, 16);
    /// A dish on a roof, and a reader that hardly reads.
    pub const SATELLITE: Grade = Grade::of(300, 30, 100, 2);

    /// From the best to the worst.
    pub const ALL: [Grade; 5] =
        [Grade::LOOPBACK, Grade::WIRED, Grade::BUSY_WIFI, Grade::MOBILE, Grade::SATELLITE];

    const fn of(delay: u64, jitter: u64, datagram_loss: u64, window: usize) -> Grade {
        let (delay, jitter) = (Duration::from_millis(delay), Duration::from_millis(jitter));
        Grade { delay, jitter, datagram_loss, window }
    }
}

/// Which end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Who dialled.
    Client,
    /// Who answered.
    Gateway,
}

impl End {
    /// The other one.
    pub const fn other(self) -> End {
        match self {
            End::Client => End::Gateway,
            End::Gateway => End::Client,
        }
    }
}

/// What travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parcel {
    /// A message.
    Message(Lane, Bytes),
    /// A sign of life, answered by the other end's transport.
    Ping,
    /// The answer to that.
    Pong,
}

/// What reaches an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Something that was sent.
    Parcel(Parcel),
    /// The link is gone, closed with this code if any.
    Gone(Option<u16>),
}

/// Ends of the link's life that an end has yet to notice.
#[derive(Clone, Copy, Debug)]
struct Gone {
    at: Time,
    code: Option<u16>,
}

#[derive(Debug, Default)]
struct Direction {
    signal: VecDeque<(Time, Parcel)>,
    bulk: VecDeque<(Time, Parcel)>,
    datagrams: Vec<(Time, Parcel)>,
    /// What is sent vanishes, and nobody is told.
    silent: bool,
    gone: Option<Gone>,
    /// The end that receives has been told, or has closed the link itself.
    over: bool,
}

impl Direction {
    fn stream(&mut self, streams: Streams, parcel: &Parcel) -> &mut VecDeque<(Time, Parcel)> {
        match (streams, parcel) {
            (Streams::PerLane, Parcel::Message(Lane::Bulk, _)) => &mut self.bulk,
            _ => &mut self.signal,
        }
    }

    fn next(&self) -> Option<Time> {
        if self.over {
            return None;
        }
        let streams = [self.signal.front(), self.bulk.front()].into_iter().flatten();
        let arrivals = streams.chain(&self.datagrams).map(|(at, _)| *at);
        arrivals.chain(self.gone.map(|gone| gone.at)).min()
    }

    fn take(&mut self, now: Time) -> Option<Arrival> {
        if self.over {
            return None;
        }
        if let Some(gone) = self.gone.filter(|gone| gone.at <= now) {
            self.over = true;
            return Some(Arrival::Gone(gone.code));
        }
        for stream in [&mut self.signal, &mut self.bulk] {
            if stream.front().is_some_and(|(at, _)| *at <= now) {
                return stream.pop_front().map(|(_, parcel)| Arrival::Parcel(parcel));
            }
        }
        let due = self.datagrams.iter().position(|(at, _)| *at <= now)?;
        Some(Arrival::Parcel(self.datagrams.swap_remove(due).1))
    }
}

/// One connection's way through the network.
#[derive(Debug)]
pub struct Link {
    grade: Grade,
    streams: Streams,
    rng: Rng,
    to_client: Direction,
    to_gateway: Direction,
}

impl Link {
    /// A link that works.
    pub fn new(grade: Grade, streams: Streams, seed: u64) -> Self {
        let (to_client, to_gateway) = (Direction::default(), Direction::default());
        Link { grade, streams, rng: Rng::new(seed), to_client, to_gateway }
    }

    /// Whether there is room for another message from `from` on the stream that `lane` uses.
    pub fn is_ready(&mut self, from: End, lane: Lane) -> bool {
        let (streams, window) = (self.streams, self.grade.window);
        let probe = Parcel::Message(lane, Bytes::new());
        lane == Lane::Ephemeral && streams == Streams::PerLane
            || self.to(from.other()).stream(streams, &probe).len() < window
    }

    /// Sends something.
    pub fn send(&mut self, now: Time, from: End, parcel: Parcel) {
        let (streams, loss) = (self.streams, self.grade.datagram_loss);
        let is_datagram =
            streams == Streams::PerLane && matches!(parcel, Parcel::Message(Lane::Ephemeral, _));
        let at = self.arrival(now);
        let (lost, repeated) = (self.rng.one_in(loss), self.rng.one_in(loss));
        let again = self.arrival(now);
        let direction = self.to(from.other());
        if direction.silent || direction.gone.is_some() {
            return;
        }
        if !is_datagram {
            let stream = direction.stream(streams, &parcel);
            let behind = stream.back().map_or(at, |(last, _)| at.max(*last));
            stream.push_back((behind, parcel));
            return;
        }
        if repeated {
            direction.datagrams.push((again, parcel.clone()));
        }
        if !lost {
            direction.datagrams.push((at, parcel));
        }
    }

    /// An end closes the link, as a transport is closed: what it sent on the signal stream
    /// arrives before that, and what it sent elsewhere may.
    pub fn close(&mut self, now: Time, from: End, code: Option<u16>) {
        let at = self.arrival(now);
        let behind = self.to(from.other()).signal.back().map_or(at, |(last, _)| at.max(*last));
        self.to(from).over = true;
        let direction = self.to(from.other());
        if !direction.silent {
            // One microsecond, so that it is behind what arrives at the same time.
            let at = behind + Duration::from_micros(1);
            direction.gone.get_or_insert(Gone { at, code });
        }
    }

    /// The link breaks, and both ends notice sooner or later, not at the same time. What is on
    /// its way may still arrive before that.
    pub fn cut(&mut self, now: Time) {
        for end in [End::Client, End::Gateway] {
            let notice = Duration::from_millis(self.rng.below(400));
            if self.rng.one_in(2) {
                let direction = self.to(end);
                direction.signal.clear();
                direction.bulk.clear();
                direction.datagrams.clear();
            }
            self.to(end).silent = true;
            self.to(end).gone.get_or_insert(Gone { at: now + notice, code: None });
        }
    }

    /// From now on nothing reaches `end`, and neither end is told.
    pub fn silence(&mut self, end: End) {
        let direction = self.to(end);
        direction.silent = true;
        direction.signal.clear();
        direction.bulk.clear();
        direction.datagrams.clear();
    }

    /// When something arrives next.
    pub fn poll_timeout(&self) -> Option<Time> {
        [self.to_client.next(), self.to_gateway.next()].into_iter().flatten().min()
    }

    /// What has arrived by now, and where.
    pub fn poll_arrival(&mut self, now: Time) -> Option<(End, Arrival)> {
        let first = if self.rng.one_in(2) { End::Client } else { End::Gateway };
        [first, first.other()].into_iter().find_map(|end| Some((end, self.to(end).take(now)?)))
    }

    fn arrival(&mut self, now: Time) -> Time {
        let jitter = u64::try_from(self.grade.jitter.as_micros()).unwrap_or(u64::MAX);
        now + self.grade.delay + Duration::from_micros(self.rng.below(jitter))
    }

    /// What travels to an end.
    fn to(&mut self, end: End) -> &mut Direction {
        match end {
            End::Client => &mut self.to_client,
            End::Gateway => &mut self.to_gateway,
        }
    }
}
