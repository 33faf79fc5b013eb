//! One run from the first connection to the verdict.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use handover_client::{Codec, PeerId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::chaos;
use super::fleet::Fleet;
use super::ledger::{Ledger, Session};
use super::member::{Heard, Lived, Member, listen};
use super::path::Path;
use super::random::Random;
use super::report::Report;
use super::target::Target;
use super::{LoadArgs, LoadError};
use crate::clock::Clock;

/// Sessions that connect at a time.
const CONNECT_AT_ONCE: usize = 16;
/// How long everything may take to arrive once nobody sends any more.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Everybody sends.
    Sending,
    /// What was sent is still under way.
    Finishing,
    /// Every send has its answer: what is owed is known.
    Settled,
}

/// What everybody in a run knows.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) clock: Clock,
    pub(super) ledger: Ledger,
    /// Each session's name inside rooms.
    pub(super) peers: Vec<PeerId>,
    /// Who is in each room.
    pub(super) members: Vec<Vec<Session>>,
    /// Between two sends of a session, on average.
    pub(super) every: Duration,
    /// Bytes that a message is made larger by.
    pub(super) padding: usize,
}

/// The rooms a session is in: two different ones, where there are two.
fn rooms_of(session: Session, rooms: usize) -> Vec<usize> {
    let first = session % rooms;
    // As many members for each, and other pairs of rooms on every round.
    let step = 1 + (session / rooms) % rooms.saturating_sub(1).max(1);
    let second = (first + step) % rooms;
    if first == second { vec![first] } else { vec![first, second] }
}

pub(super) async fn run(
    args: &LoadArgs,
    targets: &[Target],
    fleet: Option<&Fleet>,
) -> Result<Report, LoadError> {
    let seed = args.seed.unwrap_or_else(|| u64::from(getrandom::u32().unwrap_or(1)));
    let mut random = Random::new(seed);
    let rooms = args.rooms;
    let members = connect(args, targets, seed, fleet).await?;
    let mut in_room = vec![Vec::new(); rooms];
    for member in &members {
        for (room, _) in &member.rooms {
            in_room[*room].push(member.session);
        }
    }
    let peers = members.iter().map(|member| member.client.peer());
    let run = Arc::new(Run {
        clock: Clock::start(),
        ledger: if fleet.is_some() { Ledger::keeping_places() } else { Ledger::default() },
        peers: peers.collect::<Option<_>>().ok_or(LoadError::Unsteady)?,
        members: in_room,
        every: Duration::try_from_secs_f64(1.0 / args.rate).unwrap_or(Duration::MAX),
        padding: args.bytes,
    });

    if let Some(fleet) = fleet {
        fleet.begin(run.clone(), &members);
    }
    let (phase, phases) = watch::channel(Phase::Sending);
    let most = members.iter().map(|member| member.rooms.len()).sum::<usize>().max(1);
    let (complete, mut completed) = mpsc::channel(most);
    let mut listeners: JoinSet<Heard> = JoinSet::new();
    for member in &members {
        for (number, room) in &member.rooms {
            let at = (*number, room.clone());
            let (run, phases, complete) = (run.clone(), phases.clone(), complete.clone());
            listeners.spawn(listen(run, member.session, at, phases, complete));
        }
    }
    drop(complete);
    let mut lives: JoinSet<Lived> = JoinSet::new();
    for member in &members {
        let (member, run) = (member.clone(), run.clone());
        let (random, phases) = (random.fork(), phases.clone());
        lives.spawn(async move { member.live(&run, random, phases).await });
    }

    let lasting = Duration::from_secs(args.seconds);
    let harmed = if args.chaos {
        let every = Duration::from_millis(args.kill_every);
        Some(chaos::wreak(&members, run.clock, random, every, lasting).await)
    } else {
        tokio::time::sleep(lasting).await;
        None
    };
    let lasted = run.clock.now().since(handover_protocol::time::Time::ZERO);
    phase.send_replace(Phase::Finishing);

    let mut report = Report {
        sessions: members.len(),
        rooms,
        seed,
        lasted,
        harmed,
        of_fleet: fleet.is_some(),
        targets: describe(targets),
        ..Report::default()
    };
    let settle = tokio::time::timeout(SETTLE_TIMEOUT, async {
        while let Some(lived) = lives.join_next().await {
            report.add_life(lived.map_err(|_| LoadError::Unsteady)?);
        }
        phase.send_replace(Phase::Settled);
        for _ in 0..listeners.len() {
            let _ = completed.recv().await;
        }
        Ok::<(), LoadError>(())
    });
    match settle.await {
        Ok(settled) => settled?,
        // Whatever is missing shows as lost.
        Err(_) => {
            report.restless = lives.len() as u64;
            members.iter().for_each(|member| member.complain(run.clock.now()));
        }
    }
    lives.shutdown().await;
    stream::iter(&members)
        .for_each_concurrent(None, |member| async { member.client.close().await })
        .await;
    report.lives_ended = run.ledger.emptied().len() as u64;
    while let Some(heard) = listeners.join_next().await {
        report.add_heard(&heard.map_err(|_| LoadError::Unsteady)?);
    }
    Ok(report)
}

async fn connect(
    args: &LoadArgs,
    targets: &[Target],
    seed: u64,
    fleet: Option<&Fleet>,
) -> Result<Vec<Arc<Member>>, LoadError> {
    let name = |room: usize| format!("load-{seed:x}-{room}");
    let one = |session: Session| {
        let target = &targets[session % targets.len()];
        let codec = Codec::ALL[session / targets.len() % Codec::ALL.len()];
        let rooms: Vec<(usize, String)> =
            rooms_of(session, args.rooms).into_iter().map(|room| (room, name(room))).collect();
        async move {
            let token = args.token.clone();
            let path = match fleet {
                Some(fleet) => Some(Path::open(fleet.up(), session).await),
                None if args.chaos => {
                    Some(Path::open(watch::channel(vec![target.address]).1, 0).await)
                }
                None => None,
            };
            let path = path.transpose().map_err(LoadError::Path)?;
            let member = Member::start(session, target, codec, token, &rooms, path).await?;
            Ok::<_, LoadError>(Arc::new(member))
        }
    };
    let mut connecting = stream::iter((0..args.sessions).map(one)).buffered(CONNECT_AT_ONCE);
    let mut members = Vec::new();
    while let Some(member) = connecting.next().await {
        members.push(member?);
    }
    Ok(members)
}

fn describe(targets: &[Target]) -> Vec<String> {
    let name = |target: &Target| {
        let transport = match target.transport {
            handover_client::Transport::Auto => "whichever comes about",
            handover_client::Transport::WebTransport => "WebTransport",
            handover_client::Transport::WebSocket => "WebSocket",
        };
        format!("{} ({transport}, JSON and bincode)", target.url)
    };
    targets.iter().map(name).collect()
}

impl Report {
    fn add_life(&mut self, lived: Lived) {
        self.sent += lived.sent;
        self.accepted += lived.accepted;
        self.failed += lived.failed;
        self.renewed += lived.renewed;
        self.ended += lived.ended;
        self.recoveries.extend(lived.recoveries);
        self.failovers.extend(lived.failovers);
        self.gaps.extend(lived.gaps);
        self.moves.extend(lived.moves);
    }

    fn add_heard(&mut self, heard: &Heard) {
        self.tally.add(heard.tally);
        self.resets += heard.resets + heard.lives.saturating_sub(self.lives_ended);
        self.resets_missed += self.lives_ended.saturating_sub(heard.lives);
        self.delays.merge(&heard.delays);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_shared_out_evenly_and_in_changing_pairs() {
        let mut sizes = vec![0; 20];
        let mut pairs = std::collections::BTreeSet::new();
        for session in 0..200 {
            let rooms = rooms_of(session, 20);
            assert_eq!(rooms.len(), 2);
            rooms.iter().for_each(|room| sizes[*room] += 1);
            pairs.insert(rooms);
        }
        assert_eq!(sizes, vec![20; 20]);
        assert_eq!(pairs.len(), 200);
        assert_eq!(rooms_of(7, 1), [0]);
    }
}
