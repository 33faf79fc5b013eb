//! The one task of a client: owns the session, the connections and the timers.
//!
//! Everything is polled in one place and in a fixed order, so no lock and no channel lies
//! between a message's arrival and the session.

mod commands;
mod dialing;
mod outputs;
mod token;

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use handover_protocol::session::backoff::Backoff;
use handover_protocol::session::client::{ClientSession, LinkId, RequestId, RoomEvent, SendId};
use handover_protocol::time::Time;
use handover_protocol::wire::codec::DecodeError;
use handover_protocol::wire::{Codec, Lane, RoomName};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Sleep;

use crate::client::{ClientEvent, State};
use crate::clock::Clock;
use crate::command::{AnswerTo, Command, ReceiptTo};
use crate::dial::Dialer;
use crate::error::ConnectError;
use crate::events::RoomEvents;
use crate::options::Options;
use crate::token::Token;
use crate::transport::{Inbound, Transport, TransportEnd};
use crate::watch::Watch;
use dialing::Dial;
use token::Renewal;

/// Messages taken from a connection, and commands from handles, before others have a turn.
const TURN: usize = 64;
/// Turns before the runtime has one.
const TURNS: usize = 16;
/// How long a connection that is of no more use may take to say goodbye.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// The driver's ends of what the handles hold.
pub(crate) struct Handles {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) state: watch::Sender<State>,
    pub(crate) events: broadcast::Sender<ClientEvent>,
    /// Told once the session is open, or that it will not be.
    pub(crate) first: Option<oneshot::Sender<Result<(), ConnectError>>>,
}

struct Link {
    id: LinkId,
    transport: Transport,
}

/// What an answer means for a room's events.
#[derive(Clone, Debug)]
enum About {
    Joining(RoomName),
    Leaving(RoomName),
    Nothing,
}

/// An event that its room has no place for.
struct Stuck {
    room: RoomName,
    event: RoomEvent,
    since: Time,
}

pub(crate) struct Driver {
    clock: Clock,
    session: ClientSession,
    codec: Codec,
    close_timeout: Duration,
    stall_timeout: Duration,
    retry_first: bool,
    handles: Handles,
    links: Vec<Link>,
    last_link: u64,
    closing: FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>>,
    dialer: Dialer,
    dial_timeout: Duration,
    dial: Option<Dial>,
    token: Option<Token>,
    renewal: Option<Renewal>,
    /// The connection that was last known to carry the session.
    carrier: Option<LinkId>,
    /// That is on WebTransport, and nothing moves there any more.
    webtransport_silent: bool,
    watch: Option<Watch>,
    backoff: Backoff,
    /// No dial before this.
    next_dial: Time,
    promotion: Option<dialing::Promotion>,
    timer: Pin<Box<Sleep>>,
    timer_at: Option<Time>,
    rooms: HashMap<RoomName, Arc<RoomEvents>>,
    answers: HashMap<RequestId, (Option<AnswerTo>, About)>,
    receipts: HashMap<SendId, ReceiptTo>,
    stuck: Option<Stuck>,
    /// Since when no connection is known to carry the session.
    down_since: Option<Time>,
    /// The session could not be opened, and the handle has been told.
    failed: bool,
}

impl Driver {
    pub(crate) fn new(
        session: ClientSession,
        dialer: Dialer,
        options: &Options,
        handles: Handles,
    ) -> Self {
        let clock = Clock::start();
        Driver {
            clock,
            session,
            codec: options.codec,
            close_timeout: options.close_timeout,
            stall_timeout: options.stall_timeout,
            retry_first: options.retry,
            handles,
            links: Vec::new(),
            last_link: 0,
            closing: FuturesUnordered::new(),
            dialer,
            dial_timeout: options.dial_timeout,
            dial: None,
            token: options.token.clone(),
            renewal: None,
            carrier: None,
            webtransport_silent: false,
            watch: if options.watch_network { watch() } else { None },
            backoff: Backoff::new(),
            next_dial: Time::ZERO,
            promotion: None,
            timer: Box::pin(tokio::time::sleep_until(clock.instant(Time::ZERO))),
            timer_at: None,
            rooms: HashMap::new(),
            answers: HashMap::new(),
            receipts: HashMap::new(),
            stuck: None,
            down_since: None,
            failed: false,
        }
    }

    /// Runs until the session is over, then lets connections say goodbye.
    pub(crate) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        for events in self.rooms.values() {
            events.close();
        }
        while self.closing.next().await.is_some() {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURNS {
            let mut moved = self.poll_commands(cx);
            moved |= self.poll_outputs(cx);
            moved |= self.poll_links(cx);
            moved |= self.poll_outputs(cx);
            if (self.session.is_ended() || self.failed) && self.stuck.is_none() {
                return Poll::Ready(());
            }
            moved |= self.poll_watch(cx);
            moved |= self.poll_dial(cx);
            moved |= self.poll_renewal(cx);
            moved |= self.poll_timer(cx);
            if !moved {
                while let Poll::Ready(Some(())) = self.closing.poll_next_unpin(cx) {}
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_commands(&mut self, cx: &mut Context<'_>) -> bool {
        for taken in 0..TURN {
            let Poll::Ready(Some(command)) = self.handles.commands.poll_recv(cx) else {
                return taken > 0;
            };
            self.obey(command);
        }
        true
    }

    fn poll_links(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        let mut at = 0;
        while let Some(link) = self.links.get_mut(at) {
            let id = link.id;
            let now = self.clock.now();
            let sent = transmit(&mut self.session, self.codec, link, now, cx);
            let done = sent.and_then(|sent| {
                moved |= sent;
                self.receive(at, now, cx)
            });
            match done {
                Ok(received) => moved |= received,
                Err(end) => {
                    moved = true;
                    self.lost(id, &end);
                }
            }
            // A connection that is gone has made place for the next.
            if self.links.get(at).is_some_and(|link| link.id == id) {
                at += 1;
            }
        }
        moved
    }

    /// Takes what has arrived, as long as there is somewhere to put it.
    fn receive(
        &mut self,
        at: usize,
        now: Time,
        cx: &mut Context<'_>,
    ) -> Result<bool, TransportEnd> {
        for taken in 0..TURN {
            let Some(link) = self.links.get_mut(at).filter(|_| self.stuck.is_none()) else {
                return Ok(taken > 0);
            };
            let id = link.id;
            match link.transport.poll_recv(cx)? {
                Poll::Pending => return Ok(taken > 0),
                Poll::Ready(Inbound::Alive) => self.session.handle_alive(now, id),
                Poll::Ready(Inbound::Message(payload)) => {
                    match self.codec.decode_server(&payload) {
                        Ok(message) => self.session.handle_message(now, id, message),
                        Err(DecodeError::Unparseable { reason }) => {
                            return Err(TransportEnd::lost(reason));
                        }
                        // What a later gateway may say; nothing that this version waits for.
                        Err(error) => tracing::debug!(%error, "passed over a message"),
                    }
                }
            }
            self.poll_outputs(cx);
            if self.links.get(at).is_none_or(|link| link.id != id) {
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// A connection is gone.
    fn lost(&mut self, id: LinkId, end: &TransportEnd) {
        let now = self.clock.now();
        tracing::debug!(link = id.0, code = end.code, reason = %end.reason, "connection lost");
        self.links.retain(|link| link.id != id);
        self.back_off(now, None);
        self.session.handle_disconnected(now, id, end.code);
        self.note_failure(|| crate::error::DialError::Failed {
            transport: "connection",
            reason: end.reason.clone(),
        });
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let now = self.clock.now();
        if self.stuck.is_some() {
            for link in &self.links {
                self.session.handle_unread(now, link.id);
            }
        }
        if self.session.poll_timeout().is_some_and(|due| now >= due) {
            self.session.handle_timeout(now);
            self.abandon_unheld();
            return true;
        }
        if self.stuck.as_ref().is_some_and(|stuck| now >= stuck.since + self.stall_timeout) {
            self.cut_stuck();
            return true;
        }
        let stalled = self.stuck.as_ref().map(|stuck| stuck.since + self.stall_timeout);
        let due = [self.session.poll_timeout(), self.dial_due(), self.promotion_due(), stalled];
        let due = due.into_iter().flatten().min();
        if due != self.timer_at
            && let Some(due) = due
        {
            self.timer.as_mut().reset(self.clock.instant(due));
        }
        self.timer_at = due;
        if due.is_some() && self.timer.as_mut().poll(cx).is_ready() {
            self.timer_at = None;
            return true;
        }
        false
    }
}

/// Some systems and sandboxes do not tell; the application may.
fn watch() -> Option<Watch> {
    Watch::open().inspect_err(|error| tracing::debug!(%error, "the network is not watched")).ok()
}

/// Sends what there is and the transport takes, the most urgent first.
fn transmit(
    session: &mut ClientSession,
    codec: Codec,
    link: &mut Link,
    now: Time,
    cx: &mut Context<'_>,
) -> Result<bool, TransportEnd> {
    let mut moved = false;
    'next: loop {
        for lane in [Lane::Signal, Lane::Ephemeral, Lane::Bulk] {
            if link.transport.poll_ready(cx, lane)?.is_pending() {
                continue;
            }
            if let Some(message) = session.poll_transmit(now, link.id, lane) {
                link.transport.start_send(lane, &codec.encode_client(&message))?;
                moved = true;
                continue 'next;
            }
        }
        break;
    }
    // Whether everything is out or not, the task is woken when more can go.
    let _ = link.transport.poll_flush(cx)?;
    Ok(moved)
}
