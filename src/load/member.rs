//! One session under load: it sends, it listens, and it is timed when its connection breaks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use handover_client::{
    Attention, Client, ClientEvent, Codec, Error, Json, Kind, LogLane, Options, ResetCause, Room,
    RoomEvent, SendError, Sending, State, Token,
};
use handover_protocol::time::Time;
use handover_protocol::wire::ErrorCode;
use handover_protocol::wire::message::ResetReason;
use tokio::sync::{mpsc, watch};

use super::LoadError;
use super::chaos::Harm;
use super::ledger::{Note, Session, Stream};
use super::path::Path;
use super::random::Random;
use super::receiver::{Receiver, Tally};
use super::report::{Move, Spread};
use super::run::{Phase, Run};
use super::target::Target;

/// One message in so many goes to one member alone.
const DIRECTED: u64 = 4;

/// A session.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) session: Session,
    pub(super) client: Client,
    /// Whether it may fall back to a WebSocket, and come back from there.
    pub(super) chooses: bool,
    /// The rooms it is in, by number.
    pub(super) rooms: Vec<(usize, Room)>,
    /// Its way to the gateway, where that is to be broken.
    pub(super) path: Option<Path>,
    /// What its connection broke by, and when, until another one carries it.
    broken: Mutex<Option<(Harm, Time)>>,
    /// When its gateway died, until another one carries it.
    orphaned: Mutex<Option<Time>>,
}

/// What became of a send.
type Said = (Stream, usize, <Sending as Future>::Output);

/// What became of a session.
#[derive(Debug, Default)]
pub(super) struct Lived {
    pub(super) sent: u64,
    pub(super) accepted: u64,
    /// Neither accepted nor under way: refused, uncertain, or never sent.
    pub(super) failed: u64,
    /// The gateway had forgotten the session.
    pub(super) renewed: u64,
    /// The session ended by itself.
    pub(super) ended: u64,
    pub(super) recoveries: Vec<(Harm, Duration)>,
    /// How long it took until another gateway carried it, each time that its own died.
    pub(super) failovers: Vec<Duration>,
    /// How long it was without a connection, each time that it noticed.
    pub(super) gaps: Vec<Duration>,
    /// Each time that its gateway asked it to go elsewhere.
    pub(super) moves: Vec<Move>,
}

/// What became of a membership.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) tally: Tally,
    /// Because the room's life was over.
    pub(super) lives: u64,
    /// For any other reason.
    pub(super) resets: u64,
    pub(super) delays: Spread,
}

impl Member {
    /// Connects, and joins these rooms.
    pub(super) async fn start(
        session: Session,
        target: &Target,
        codec: Codec,
        token: Option<String>,
        rooms: &[(usize, String)],
        path: Option<Path>,
    ) -> Result<Member, LoadError> {
        let options = Options {
            transport: target.transport,
            codec,
            certificates: target.certificates.clone(),
            token: token.map(Token::from),
            agent: Some(concat!("handover-load/", env!("CARGO_PKG_VERSION")).to_owned()),
            attention: Attention::CALL,
            watch_network: false,
            connect_to: path.as_ref().map(Path::address),
            ..Options::default()
        };
        let client = Client::connect(&target.url, options).await?;
        let mut joined = Vec::new();
        for (room, name) in rooms {
            joined.push((*room, client.join(name, None).await?));
        }
        let chooses = target.transport == handover_client::Transport::Auto;
        let (broken, orphaned) = Default::default();
        Ok(Member { session, client, chooses, rooms: joined, path, broken, orphaned })
    }

    /// The transport that carries it now.
    pub(super) fn transport(&self) -> Option<Kind> {
        match &*self.client.state().borrow() {
            State::Live { transport, .. } => Some(*transport),
            _ => None,
        }
    }

    /// The gateway that carries it now, where that is known.
    pub(super) fn gateway(&self) -> Option<SocketAddr> {
        self.path.as_ref()?.gateway(self.transport()?)
    }

    /// Its gateway dies.
    pub(super) fn loses_gateway(&self, now: Time) {
        self.orphaned().get_or_insert(now);
    }

    fn orphaned(&self) -> MutexGuard<'_, Option<Time>> {
        self.orphaned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its connection is about to break. That is timed unless it is broken already.
    pub(super) fn breaks(&self, harm: Harm, now: Time) {
        let live = self.transport().is_some();
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if live && broken.is_none() {
            *broken = Some((harm, now));
        }
    }

    /// What broke at that time is whole again by itself. Returns whether nobody had noticed.
    pub(super) fn passes(&self, since: Time) -> bool {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.take_if(|(_, at)| *at == since).is_some()
    }

    /// Another connection carries it. Returns what broke the last one, if anything did.
    fn mend(&self) -> Option<(Harm, Time)> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Says what is the matter with a session that does not come to rest.
    pub(super) fn complain(&self, now: Time) {
        let state = self.client.state().borrow().clone();
        let broken = *self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((harm, since)) = broken {
            let ago = now.since(since).as_secs_f64();
            tracing::error!(session = self.session, %harm, ago, ?state, "never came back");
        } else if !matches!(state, State::Live { .. }) {
            tracing::error!(session = self.session, ?state, "not there");
        }
    }

    fn is_broken(&self) -> bool {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Sends until told to stop, then waits for what is under way.
    pub(super) async fn live(
        &self,
        run: &Run,
        mut random: Random,
        mut phase: watch::Receiver<Phase>,
    ) -> Lived {
        let mut lived = Lived::default();
        let mut sendings = FuturesUnordered::new();
        let mut states = self.client.state();
        states.mark_unchanged();
        let every = u64::try_from(run.every.as_micros()).unwrap_or(u64::MAX);
        let pause = |random: &mut Random| {
            // Twice the mean at most, so that sessions do not march in step.
            Box::pin(tokio::time::sleep(Duration::from_micros(random.within(1..2 * every))))
        };
        let mut next = pause(&mut random);
        let mut sending = true;
        let mut without = None;
        let mut events = self.client.events();
        let mut asked_to_go = None;
        while sending || !sendings.is_empty() || self.is_broken() {
            tokio::select! {
                () = &mut next, if sending => {
                    next = pause(&mut random);
                    lived.sent += 1;
                    match self.say(run, &mut random).await {
                        Some(sending) => sendings.push(sending),
                        None => lived.failed += 1,
                    }
                }
                Some((stream, number, outcome)) = sendings.next() => match outcome {
                    Ok(_) => lived.accepted += 1,
                    // Whether it should have been is judged with its addressee.
                    Err(Error::Send(SendError::Refused { code: ErrorCode::NoSuchPeer, .. })) => {
                        run.ledger.turn_away(stream, number, run.clock.now());
                    }
                    Err(error) => {
                        tracing::warn!(session = self.session, %error, "a send failed");
                        lived.failed += 1;
                    }
                },
                Ok(()) = states.changed() => match &*states.borrow_and_update() {
                    State::Live { resumed, .. } => {
                        lived.renewed += u64::from(!resumed);
                        let now = run.clock.now();
                        let since = self.mend();
                        lived.recoveries.extend(since.map(|(harm, at)| (harm, now.since(at))));
                        let orphaned = { self.orphaned().take() };
                        lived.failovers.extend(orphaned.map(|at| now.since(at)));
                        lived.gaps.extend(without.take().map(|since| now.since(since)));
                        let gone = asked_to_go.take_if(|(_, _, from)| self.gateway() != *from);
                        lived.moves.extend(gone.map(|(told, announced, _)| {
                            Move { announced, took: now.since(told) }
                        }));
                    }
                    State::Ended(why) => {
                        tracing::warn!(session = self.session, ?why, "a session ended");
                        lived.ended += 1;
                        return lived;
                    }
                    State::Connecting | State::Reconnecting => {
                        without.get_or_insert(run.clock.now());
                    }
                },
                Ok(event) = events.recv() => if let ClientEvent::Draining(announced) = event {
                    asked_to_go = Some((run.clock.now(), announced, self.gateway()));
                },
                () = reached(&mut phase, Phase::Finishing), if sending => sending = false,
            }
        }
        lived
    }

    async fn say(
        &self,
        run: &Run,
        random: &mut Random,
    ) -> Option<impl Future<Output = Said> + use<>> {
        let (room, handle) = random.pick(&self.rooms)?;
        let lane = *random.pick(&LogLane::ALL)?;
        let to = if random.one_in(DIRECTED) {
            let others = run.members.get(*room)?;
            random.pick(others).copied().filter(|other| *other != self.session)
        } else {
            None
        };
        let stream = Stream { from: self.session, room: *room, lane };
        let now = run.clock.now();
        let number = run.ledger.send(stream, to, now);
        let sent = now.as_micros();
        let padding = "x".repeat(run.padding);
        let note = Note { from: self.session, room: *room, number, sent, padding };
        let to = match to {
            Some(to) => Some(*run.peers.get(to)?),
            None => None,
        };
        let sending = handle.queue(lane, to, Json::from_value(&note).ok()?).await.ok()?;
        Some(async move { (stream, number, sending.await) })
    }
}

/// Listens to a room until the session is over. Says so on `complete` once everything owed
/// has come after the last send was accepted.
pub(super) async fn listen(
    run: Arc<Run>,
    session: Session,
    (number, room): (usize, Room),
    mut phase: watch::Receiver<Phase>,
    complete: mpsc::Sender<()>,
) -> Heard {
    let mut heard = Heard::default();
    let mut receiver = Receiver::new(session, number);
    let mut is_settled = false;
    let mut said = false;
    loop {
        let is_told = receiver.lives() >= run.ledger.emptied().len() as u64;
        if is_settled && !said && is_told && receiver.outstanding(&run.ledger) == 0 {
            said = true;
            // Nobody waits for it any more once the time is up.
            // Room for everybody who listens.
            let _ = complete.try_send(());
        }
        tokio::select! {
            event = room.next_event() => match event {
                Some(RoomEvent::Message { lane, position, from, body, .. }) => {
                    let note = body.to_value::<Note>().ok();
                    let Some(note) = note else { continue };
                    let genuine = run.peers.get(note.from) == Some(&from);
                    receiver.take(&run.ledger, lane, position, &note, genuine);
                    let now = run.clock.now();
                    heard.delays.add(now.since(Time::from_micros(note.sent)));
                }
                Some(RoomEvent::Reset(ResetCause::Gateway(ResetReason::Epoch), _)) => {
                    receiver.begin_again(&run.ledger, run.clock.now());
                }
                // Who had no connection when the store was emptied is told so: it is no member any
                // more, and joins the life that is.
                Some(RoomEvent::Reset(ResetCause::Rejoined, _))
                    if receiver.lives() < run.ledger.emptied().len() as u64 =>
                {
                    receiver.begin_again(&run.ledger, run.clock.now());
                }
                Some(RoomEvent::Reset(cause, _)) => {
                    tracing::warn!(session, ?cause, "a room was reset");
                    heard.resets += 1;
                }
                Some(_) => {}
                None => break,
            },
            () = reached(&mut phase, Phase::Settled), if !is_settled => is_settled = true,
        }
    }
    heard.lives = receiver.lives();
    let lost;
    (heard.tally, lost) = receiver.finish(&run.ledger);
    if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
        tracing::warn!(session, room = number, lost = lost.len(), ?first, ?last, "lost messages");
    }
    heard
}

/// Waits until the run is that far; one that was given up is.
async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    let _ = phase.wait_for(|phase| *phase >= wanted).await;
}
