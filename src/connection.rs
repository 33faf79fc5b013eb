//! One connection: pumps messages between its transport, its session and the rooms.
//!
//! A single task owns all three, so none of them needs a lock. Everything that can be waited
//! for is polled in one place, `Pump::poll`, in a fixed order: what the router has left, what has
//! arrived, then what is to be sent (signal before ephemeral before bulk).

mod arrivals;
mod bounds;
mod brake;
mod door;
mod output;
#[cfg(test)]
mod tests;
mod timers;

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use handover_protocol::limits::QUALITY_EVERY;
use handover_protocol::pace::{PaceLimits, Rate};
use handover_protocol::session::server::{Action, ServerSession, Settings, Streams};
use handover_protocol::session::{Request, Slot};
use handover_protocol::time::Time;
use handover_protocol::wire::message::{Close, Hello, LeaveReason, ServerMessage};
use handover_protocol::wire::{CloseCode, Lane, LogLane, PerLane, RoomName};
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use self::arrivals::Arrivals;
use self::brake::Brake;
use self::door::Refreshing;
use self::output::Sent;
use crate::auth::Authority;
use crate::clock::Clock;
use crate::pressure::Pressure;
use crate::quality::QualityMeter;
use crate::router::Router;
use crate::router::handle::{Command, RoomHandle};
use crate::router::live_log::SharedLog;
use crate::router::mailbox::{Mailbox, Notice};
use crate::router::quota::SharedPace;
use crate::router::seat::Seat;
use crate::telemetry::{Lines, Metrics, guarded, shown};
use crate::transport::accept::Admitted;
use crate::transport::{Inbound, Intake, Kind, Transport, TransportEnd};
use crate::turns::Rank;

/// What every connection of a gateway shares.
#[derive(Debug)]
pub struct Shared {
    /// What sessions are told and bounded by.
    pub settings: Settings,
    /// When a `hello` must have come.
    pub hello_timeout: Duration,
    /// A connection that takes nothing for this long is closed with `too_slow`.
    pub blocked_timeout: Duration,
    /// How fast a session may go.
    pub pace: PaceLimits,
    /// What is left of that while there is too much to do.
    pub pressure: Pressure,
    /// Looks at tokens; nobody is asked for one where this is absent.
    pub authority: Option<Arc<Authority>>,
    /// The rooms.
    pub router: Router,
    /// The time.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the log says of connections that ended.
    pub lines: Lines,
    /// Ends those at once that have no session. The others are told by the router.
    pub stopping: CancellationToken,
}

/// Messages read in one go before others get their turn.
const READS_PER_POLL: usize = 64;
/// Frames handed over in one go before others get their turn.
const WRITES_PER_POLL: usize = 256;
/// Rounds of one poll, those without a read or a write among them.
const LOOKS_PER_POLL: usize = 2 * READS_PER_POLL;
/// How soon after an arrival from a new address the client learns of it.
const MOVE_CHECK_EVERY: Duration = Duration::from_millis(100);
/// How long the last messages of a connection may take.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// Lines in the log for connections that ended; the metrics count all of them.
pub const LINES: Rate = Rate { per_s: 20, burst: 200 };

/// Runs a connection to its end. `admitted` is its place, told of the `hello`.
pub async fn run<T: Transport>(transport: T, admitted: Admitted, shared: Arc<Shared>) {
    let started = shared.clock.now();
    let kind = transport.kind();
    let remote = transport.path().remote;
    shared.metrics.connection_opened(kind);
    let mut pump = Pump::new(transport, admitted, shared.clone(), started);
    // A panic is our bug. It ends this connection alone: its session lives on, and the client
    // comes back.
    let end = AssertUnwindSafe(pump.run()).catch_unwind().await.unwrap_or_else(|_| {
        shared.metrics.panicked();
        tracing::error!(%remote, "a connection's task panicked; the others go on");
        End::Close(Close::new(CloseCode::Internal))
    });
    let Pump { transport, seat, rooms, ended, admitted, .. } = pump;
    let live = seat.as_ref().map(|seat| (seat.author.session, seat.author.peer));
    let now = shared.clock.now();
    let lasted_ms = now.since(started).as_millis() as u64;
    let codec = transport.codec();
    // What the peer gave as its reason may be in it.
    let said = end.to_string();
    let detail = shown(&said);
    let reason = match &end {
        End::Close(close) => close_name(close),
        End::Transport(end) => end_name(end),
    };
    shared.metrics.connection_ended(kind, reason);
    match live {
        Some((session, peer)) if shared.lines.may_write(now) => tracing::info!(
            transport = kind.name(), codec = codec.name(), %remote, %session, %peer, reason,
            detail, lasted_ms, "connection ended"
        ),
        Some((session, peer)) => tracing::debug!(
            transport = kind.name(), codec = codec.name(), %remote, %session, %peer, reason,
            detail, lasted_ms, "connection ended, as many do"
        ),
        // Anybody may make these by the thousand; the metrics count them.
        None => tracing::debug!(
            transport = kind.name(), codec = codec.name(), %remote, reason, detail,
            lasted_ms, "connection ended without a session"
        ),
    }
    // Boxed, for it is over soon, and what comes before may last for days.
    let let_go = Box::pin(async {
        if let (Some(seat), false) = (&seat, ended) {
            let rooms = rooms.into_iter().map(|(_, name, handle)| (name, handle)).collect();
            shared.router.lost(seat, rooms).await;
        }
    });
    let say_why = Box::pin(async {
        if let End::Close(close) = end {
            let code = CloseCode::from_number(close.code.into()).unwrap_or(CloseCode::Internal);
            let last = codec.encode_server(&ServerMessage::Close(close));
            transport.close(Some(last), code, CLOSE_GRACE).await;
        }
    });
    // Neither a busy room nor a peer that does not read keeps the other waiting.
    tokio::join!(
        guarded(&shared.metrics, "leaving a connection", let_go),
        guarded(&shared.metrics, "a connection's last words", say_why),
    );
    drop(admitted);
}

/// How a connection ended.
#[derive(Debug)]
enum End {
    /// The gateway closes it.
    Close(Close),
    /// Its transport is gone.
    Transport(TransportEnd),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Close(close) => f.write_str(&close.reason),
            End::Transport(end) => end.fmt(f),
        }
    }
}

fn close_name(close: &Close) -> &'static str {
    CloseCode::from_number(close.code.into()).map_or("unknown", CloseCode::name)
}

fn end_name(end: &TransportEnd) -> &'static str {
    match end {
        TransportEnd::Closed => "closed_by_peer",
        TransportEnd::Lost(_) => "lost",
        TransportEnd::Idle => CloseCode::IdleTimeout.name(),
        TransportEnd::Violation { code, .. } => code.name(),
    }
}

/// What the pump cannot do while it is being polled.
enum Event {
    Open(Box<Hello>),
    EndSession,
    End(End),
}

/// A full room mailbox: the command that waits, and its turn.
struct Blocked {
    command: Option<Command>,
    turn: Turn,
}

type Turn = Pin<
    Box<dyn Future<Output = Result<mpsc::OwnedPermit<Command>, mpsc::error::SendError<()>>> + Send>,
>;

struct Pump<T> {
    transport: T,
    arrivals: Arrivals,
    admitted: Admitted,
    shared: Arc<Shared>,
    /// The session's, once there is one.
    pace: SharedPace,
    brake: Brake,
    /// Whether it is served before others.
    rank: Rank,
    session: ServerSession<SharedLog>,
    mailbox: Arc<Mailbox>,
    seat: Option<Arc<Seat>>,
    /// The rooms of the session's memberships.
    rooms: Vec<(Slot, RoomName, RoomHandle)>,
    blocked: PerLane<Option<Blocked>>,
    /// A newer token is being looked at.
    refreshing: Option<Refreshing>,
    /// Reading waits for an answer.
    held: bool,
    /// The client said `bye`: the session is no more.
    ended: bool,
    /// Bulk and ephemeral take turns, so that neither starves the other.
    bulk_next: bool,
    started: Time,
    /// Since when the transport has taken nothing although there was something.
    stuck_since: Option<Time>,
    next_heartbeat: Time,
    next_quality: Time,
    next_move_check: Time,
    quality: QualityMeter,
    timer: Pin<Box<Sleep>>,
    timer_at: Option<Time>,
    closing_since: Option<Time>,
    sent: Sent,
    /// Of the transport's own count, what the metrics have already.
    datagrams_dropped: u64,
}

impl<T: Transport> Pump<T> {
    fn new(transport: T, admitted: Admitted, shared: Arc<Shared>, now: Time) -> Self {
        let codec = transport.codec();
        let streams = match transport.kind() {
            Kind::WebTransport => Streams::PerLane,
            Kind::WebSocket => Streams::One,
        };
        let quality = QualityMeter::new(&transport.path());
        Pump {
            session: ServerSession::new(codec, streams),
            mailbox: Arc::new(Mailbox::new(codec)),
            seat: None,
            rooms: Vec::new(),
            blocked: PerLane { signal: None, bulk: None },
            refreshing: None,
            held: false,
            ended: false,
            bulk_next: false,
            started: now,
            stuck_since: None,
            next_heartbeat: now + shared.settings.heartbeat,
            next_quality: now + QUALITY_EVERY,
            next_move_check: now,
            quality,
            timer: Box::pin(tokio::time::sleep(shared.hello_timeout)),
            timer_at: None,
            closing_since: None,
            sent: Sent::default(),
            datagrams_dropped: 0,
            arrivals: Arrivals::new(),
            pace: shared.fresh_pace(now),
            brake: Brake::new(&shared.pace, &shared.pressure, now),
            rank: Rank::current().unwrap_or_default(),
            transport,
            admitted,
            shared,
        }
    }

    async fn run(&mut self) -> End {
        let stopping = self.shared.stopping.clone();
        // Boxed, for it is over soon, and the rest may last for days.
        match Box::pin(stopping.run_until_cancelled(self.greet())).await {
            Some(Ok(())) => {}
            Some(Err(end)) => return end,
            None => return End::Close(Close::new(CloseCode::Draining)),
        }
        loop {
            match poll_fn(|cx| self.poll(cx)).await {
                Event::Open(hello) => self.open(*hello).await,
                Event::EndSession => self.end_session().await,
                Event::End(end) => return end,
            }
        }
    }

    async fn open(&mut self, hello: Hello) {
        let agent = hello.agent.as_deref().map(|agent| agent.chars().take(64).collect::<String>());
        let resuming = hello.resume.is_some();
        // Many may be behind one address, and those who were there before may come back.
        let settled = if resuming { Ok(()) } else { self.settle() };
        let admitted = match settled {
            Ok(()) => self.shared.admit(&hello).await,
            Err(refusal) => Err(refusal),
        };
        let opened = match admitted {
            Ok(admission) => self.shared.router.open(hello, admission, self.mailbox.clone()).await,
            Err(refusal) => Err(refusal),
        };
        match opened {
            Ok((seat, opened, rooms)) => {
                tracing::debug!(
                    session = %opened.session, peer = %opened.peer, resuming,
                    agent = agent.as_deref().unwrap_or(""), "session opened"
                );
                self.pace = self.shared.router.pace(opened.session, self.pace.clone());
                self.seat = Some(seat);
                self.stay(opened.session);
                self.admitted.greeted();
                self.transport.greeted();
                self.rooms = rooms;
                self.session.handle_opened(&self.shared.settings, opened);
            }
            Err(refusal) => {
                self.session.handle_refused(&refusal);
            }
        }
    }

    async fn end_session(&mut self) {
        let Some(seat) = &self.seat else { return };
        let rooms: Vec<_> = self.rooms.iter().map(|(_, name, _)| name.clone()).collect();
        let left = self.shared.router.end(seat.author, rooms, LeaveReason::Bye).await;
        // If it cannot be ended now, it expires like any session without a connection.
        self.ended = left.is_ok();
        let left = left.unwrap_or_default();
        let slot_of = |room: &RoomName| {
            self.rooms.iter().rev().find(|(_, name, _)| name == room).map(|(slot, ..)| *slot)
        };
        let ends: Vec<_> =
            left.iter().filter_map(|(room, at)| slot_of(room).map(|slot| (slot, *at))).collect();
        self.session.handle_ended(&ends);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let mut reads = READS_PER_POLL;
        let mut writes = WRITES_PER_POLL;
        let mut looks = LOOKS_PER_POLL;
        loop {
            looks -= 1;
            self.mailbox.attend();
            let now = self.shared.clock.now();
            self.brake.handle_timeout(now);
            self.take_rank(now);
            if let Some(event) = self.take_notices().or_else(|| self.act()) {
                return Poll::Ready(event);
            }
            self.poll_blocked(cx);
            self.poll_refreshing(cx);
            // What has arrived goes first, so that one write carries all there is to say to it.
            let intake = self.intake();
            // ... but for what reading has waited for: that answer goes out before anything that
            // came behind its question is read, and answered.
            let answered = std::mem::replace(&mut self.held, !intake.signal) && intake.signal;
            let arrival = if answered {
                Poll::Pending
            } else {
                self.arrivals.poll(cx, &mut self.transport, intake)
            };
            let ended = match arrival {
                Poll::Ready(Ok(inbound)) => {
                    self.receive(now, inbound);
                    reads -= 1;
                    if reads > 0 {
                        continue;
                    }
                    None
                }
                Poll::Ready(Err(end)) => Some(end),
                Poll::Pending => None,
            };
            let quiet = self.brake.quiet_until().is_some();
            let handed_over = match quiet {
                true => Ok(()),
                false => self.poll_output(cx, now, &mut writes),
            };
            if let Some(end) = ended.or(handed_over.err()) {
                return Poll::Ready(Event::End(self.ended_by(end)));
            }
            if let Some(end) = self.poll_closing(now) {
                return Poll::Ready(Event::End(end));
            }
            if reads == 0 || writes == 0 || looks == 0 {
                // Others on this runtime get their turn first.
                cx.waker().wake_by_ref();
                break;
            }
            // What was sent may have left something to do, such as to fetch a snapshot, or made
            // room to read more; and what was asked may have been answered.
            let is_done = !answered && !self.may_act() && self.intake() == intake;
            // While nothing is to be written, nobody needs to wake it for more.
            if is_done && (quiet || self.mailbox.rest(cx.waker())) {
                break;
            }
        }
        self.count();
        if let Poll::Ready(Err(end)) = self.transport.poll_flush(cx) {
            return Poll::Ready(Event::End(self.ended_by(end)));
        }
        self.poll_timers(cx).map(Event::End)
    }

    /// Comes before strangers and before those who say much, or steps back.
    fn take_rank(&mut self, now: Time) {
        let first = self.is_greeted() && self.transport.is_orderly() && self.brake.is_calm(now);
        self.brake.set_first(first);
        if self.rank.set_first(first) && !first {
            self.shared.metrics.stepped_back();
        }
    }

    /// What may be read: a full room mailbox holds back the lane it belongs to, and whatever
    /// waits behind it holds back both.
    fn intake(&self) -> Intake {
        let asks = self.session.wants_input() && !self.session.has_actions();
        let open = asks && self.brake.until().is_none();
        Intake {
            signal: open && self.blocked.signal.is_none(),
            bulk: open && self.blocked.bulk.is_none(),
        }
    }

    fn receive(&mut self, now: Time, inbound: Inbound) {
        if now >= self.next_move_check && self.transport.kind() == Kind::WebTransport {
            self.next_move_check = now + MOVE_CHECK_EVERY;
            self.notice_move();
        }
        let Inbound::Frame { lane, payload } = inbound else { return self.take_nothing(now) };
        if lane == Lane::Ephemeral && !self.intake().signal {
            // Datagrams cannot be held back. While their room takes nothing they are lost,
            // as they may be, rather than kept.
            self.shared.metrics.ephemeral_unread();
            self.brake.handle_unread(now, &self.shared.pressure);
            return self.pass_over(now, payload.len());
        }
        self.shared.metrics.received(self.transport.kind(), payload.len() as u64);
        self.take(now, lane, &payload);
        self.brake.handle_message(now, &self.shared.pressure, payload.len());
    }

    fn take_notices(&mut self) -> Option<Event> {
        self.session.handle_news(self.mailbox.take_news());
        while let Some(notice) = self.mailbox.take_notice() {
            match notice {
                Notice::Reply(reply) => self.answered(reply),
                Notice::Replaced => return Some(close_now(CloseCode::Replaced)),
                Notice::Draining { reconnect_in } => {
                    self.session.notify(&ServerMessage::Draining { reconnect_in });
                }
                Notice::Stop => return Some(close_now(CloseCode::Draining)),
                Notice::RoomLost => return Some(close_now(CloseCode::Internal)),
            }
        }
        None
    }

    fn may_act(&self) -> bool {
        self.session.has_actions() && self.blocked.signal.is_none()
    }

    /// Does what the session wants done.
    fn act(&mut self) -> Option<Event> {
        while self.may_act() {
            match self.session.poll_action()? {
                Action::Open(hello) => return Some(Event::Open(hello)),
                Action::End => return Some(Event::EndSession),
                Action::Forget(slot) => self.rooms.retain(|(taken, ..)| *taken != slot),
                Action::Request(request) => self.request(request),
                Action::Refresh { id, token } => self.refresh(id, token),
            }
        }
        None
    }

    fn request(&mut self, request: Request) {
        let Some(seat) = self.seat.clone() else { return };
        let Request { slot, room, op } = request;
        let lane = op.lane();
        if self.forbids_join(slot, &room, &op) {
            return;
        }
        if !self.rooms.iter().any(|(taken, ..)| *taken == slot) {
            let handle = self.shared.router.room(&room);
            self.rooms.push((slot, room, handle));
        }
        let known = self.rooms.iter().find(|(taken, ..)| *taken == slot);
        let Some((.., handle)) = known else { return };
        let (now, reach) = (self.shared.clock.now(), bounds::reach(&op, handle.seats()));
        self.brake.handle_reach(now, &self.shared.pressure, reach);
        let command = Command::Request(Box::new((seat, slot, op)));
        match handle.ask(lane, command) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(command)) => {
                let turn = Box::pin(handle.sender(lane).clone().reserve_owned());
                self.blocked[lane] = Some(Blocked { command: Some(command), turn });
            }
            // Whoever served the room has panicked, which is our bug: the client comes back and
            // finds the room made anew.
            Err(mpsc::error::TrySendError::Closed(_)) => {
                self.session.close(Close::new(CloseCode::Internal));
            }
        }
    }

    fn poll_blocked(&mut self, cx: &mut Context<'_>) {
        for lane in LogLane::ALL {
            let Some(blocked) = &mut self.blocked[lane] else { continue };
            if let Poll::Ready(permit) = blocked.turn.as_mut().poll(cx) {
                match (permit, blocked.command.take()) {
                    (Ok(permit), Some(command)) => drop(permit.send(command)),
                    // As when it could not be asked at all.
                    _ => self.session.close(Close::new(CloseCode::Internal)),
                }
                self.blocked[lane] = None;
            }
        }
    }

    /// Tells the client if it is at another address now, so that it restarts ICE.
    fn notice_move(&mut self) {
        if self.quality.has_moved(&self.transport.path()) {
            self.session.notify(&ServerMessage::Moved);
            self.shared.metrics.migrated();
        }
    }

    /// Whether a session that wants its connection closed has said everything before.
    fn poll_closing(&mut self, now: Time) -> Option<End> {
        let close = self.session.closing()?;
        let since = *self.closing_since.get_or_insert(now);
        let unsaid = LogLane::ALL.into_iter().any(|lane| self.session.may_transmit(lane));
        let late = now.since(since) >= CLOSE_GRACE;
        (!unsaid || late).then(|| End::Close(close.clone()))
    }

    /// A transport that ended because of the peer's mistake, or its silence, is closed with
    /// the code for that.
    fn ended_by(&self, end: TransportEnd) -> End {
        match end {
            TransportEnd::Violation { code, reason } => {
                End::Close(Close { reason, ..Close::new(code) })
            }
            TransportEnd::Idle => End::Close(Close::new(CloseCode::IdleTimeout)),
            TransportEnd::Closed | TransportEnd::Lost(_) => End::Transport(end),
        }
    }
}

fn close_now(code: CloseCode) -> Event {
    Event::End(End::Close(Close::new(code)))
}
