//! How a live room is asked for something, and who serves it.
//!
//! A room's state lies on its desk while nobody serves it. Its task takes it from there to work
//! through what has gathered in the mailboxes. A connection that finds it there while nothing
//! waits, and whose broker needs no waiting either, is served on the spot: handing a message
//! to another task and waking it costs more than applying it.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::task::{Context, Poll};
use std::time::Duration;

use handover_protocol::limits::POSITION_AFTER;
use handover_protocol::session::{Op, Slot};
use handover_protocol::wire::message::LeaveReason;
use handover_protocol::wire::{Json, LogLane, PerLane, RoomName};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::live_log::SharedLog;
use super::mailbox::Notice;
use super::room::LiveRoom;
use super::seat::Seat;
use crate::broker::{Author, Heard};
use crate::telemetry::guarded;

/// Changes of the signal lane applied in one go.
const BATCH_MAX: usize = 64;
/// ... and of the bulk lane behind them: a flood of signal slows bulk down, but does not stop it.
const BULK_BATCH_MAX: usize = 16;
/// Requests a room holds per lane before its members are read no further. Each is at most a
/// message long, and holds a place its member's connection cannot fill again before it is
/// served.
const MAILBOX_MAX: usize = 256;
/// Housekeeping: retention by age, and marks for members that were left behind.
const TIDY_EVERY: Duration = POSITION_AFTER;

/// What a room is asked. Boxed where it is large: an idle room's mailbox is mostly this.
#[derive(Debug)]
pub enum Command {
    /// A member's request, or one from who wants to be a member.
    Request(Box<(Arc<Seat>, Slot, Op)>),
    /// A resumed session's connection takes its seat.
    Attach(Box<Attach>),
    /// A connection is gone; the membership stays.
    Detach(Arc<Seat>),
    /// The session has been without a connection for a while. Answered once that is noted.
    Away(Author, oneshot::Sender<()>),
    /// The member shows this from now on: its token says so.
    Fix(Author, Json),
    /// Somebody who could be in the room has died.
    Tidy,
    /// The session's membership ends. Answered once it has, with where it ended, if anywhere.
    Remove(Author, LeaveReason, Option<oneshot::Sender<Option<PerLane<u64>>>>),
}

/// See [`Command::Attach`].
#[derive(Debug)]
pub struct Attach {
    /// Whose seat.
    pub seat: Arc<Seat>,
    /// The room's place on the connection.
    pub slot: Slot,
    /// Told what to read on from; nothing if the room cannot tell.
    pub attached: oneshot::Sender<Attached>,
}

/// What a resumed session is to a room.
#[derive(Debug)]
pub enum Attached {
    /// A member.
    Member {
        /// The room's logs.
        log: SharedLog,
        /// The highest `seq` applied for the session.
        seq: PerLane<u64>,
    },
    /// No member any more.
    Stranger,
}

/// How to reach a live room. One mailbox per lane, so that bulk waits behind signal here too.
#[derive(Clone, Debug)]
pub struct RoomHandle {
    signal: mpsc::Sender<Command>,
    bulk: mpsc::Sender<Command>,
    desk: Arc<Desk>,
}

/// Where a room's state lies while nobody serves it.
#[derive(Debug)]
struct Desk {
    room: Mutex<Option<LiveRoom>>,
    /// Members with a connection here, when it was served last.
    seats: AtomicUsize,
}

impl RoomHandle {
    /// Whether the room will serve what it is asked.
    pub(super) fn is_live(&self) -> bool {
        // A panic while the room was served leaves the lock poisoned and the state half changed.
        !self.signal.is_closed() && !self.desk.room.is_poisoned()
    }

    /// Asks for something: served at once if nothing waits, otherwise left in the mailbox of
    /// `lane`.
    pub fn ask(&self, lane: LogLane, command: Command) -> Result<(), TrySendError<Command>> {
        let mut desk = match self.desk.room.try_lock() {
            Ok(desk) => desk,
            Err(TryLockError::WouldBlock) => return self.sender(lane).try_send(command),
            // The mailbox is there still, but nobody will look into it.
            Err(TryLockError::Poisoned(_)) => return Err(TrySendError::Closed(command)),
        };
        match self.serve_at_once(&mut desk, command) {
            Ok(()) => Ok(()),
            Err(command) => self.sender(lane).try_send(command),
        }
    }

    fn serve_at_once(&self, desk: &mut Option<LiveRoom>, command: Command) -> Result<(), Command> {
        let is_empty =
            |mailbox: &mpsc::Sender<Command>| mailbox.capacity() == mailbox.max_capacity();
        if !is_empty(&self.signal) || !is_empty(&self.bulk) {
            return Err(command);
        }
        // Taken from the desk: a panic drops the room, and so tells its members.
        let Some(mut room) = desk.take() else { return Err(command) };
        let served = room.handle_at_once(command);
        self.desk.seats.store(room.seats(), Ordering::Relaxed);
        *desk = Some(room);
        served
    }

    /// How many members have a connection here: what is said to the room goes to so many.
    pub fn seats(&self) -> usize {
        self.desk.seats.load(Ordering::Relaxed)
    }

    /// The mailbox of a lane.
    pub fn sender(&self, lane: LogLane) -> &mpsc::Sender<Command> {
        match lane {
            LogLane::Signal => &self.signal,
            LogLane::Bulk => &self.bulk,
        }
    }
}

impl Command {
    /// Who waits for its answer.
    fn asker(&self) -> Option<&Arc<Seat>> {
        match self {
            Command::Request(request) => Some(&request.0),
            _ => None,
        }
    }

    fn ends_membership(&self) -> bool {
        match self {
            Command::Request(request) => matches!(request.2, Op::Leave { .. }),
            Command::Remove(..) => true,
            Command::Attach(_)
            | Command::Detach(_)
            | Command::Away(..)
            | Command::Fix(..)
            | Command::Tidy => false,
        }
    }
}

/// Starts a room's task.
pub(super) fn start(shared: &Arc<Shared>, name: RoomName) -> RoomHandle {
    let (signal, from_signal) = mpsc::channel(MAILBOX_MAX);
    let (bulk, from_bulk) = mpsc::channel(MAILBOX_MAX);
    let room = LiveRoom::new(shared.clone(), name);
    let desk = Arc::new(Desk { room: Mutex::new(Some(room)), seats: AtomicUsize::new(0) });
    let mailboxes = Mailboxes { signal: from_signal, bulk: from_bulk };
    let (owned, at_desk) = (shared.clone(), desk.clone());
    let serving = async move {
        let serving = run(owned.clone(), at_desk, mailboxes);
        guarded(&owned.metrics, "a room", serving).await;
    };
    shared.tasks.spawn_on(serving, &shared.threads);
    RoomHandle { signal, bulk, desk }
}

async fn run(shared: Arc<Shared>, desk: Arc<Desk>, mut mailboxes: Mailboxes) {
    let tidy = tokio::time::sleep(TIDY_EVERY);
    tokio::pin!(tidy);
    loop {
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => break,
            // First: a room that is never idle is tidied, too.
            () = &mut tidy => {
                let Some(mut room) = desk.take() else { break };
                if room.tidy().await && room.retire(|| mailboxes.are_idle()) {
                    break;
                }
                desk.put_back(room);
                tidy.set(tokio::time::sleep(TIDY_EVERY));
            }
            work = poll_fn(|cx| desk.poll_work(cx, &mut mailboxes)) => {
                let Some((mut room, heard, batch)) = work else { break };
                let asking = Asking::of(&batch);
                room.handle(heard, batch).await;
                drop(asking);
                desk.put_back(room);
            }
        }
    }
    // Whoever still holds a handle finds the mailboxes closed, and nobody at the desk.
    if let Some(room) = desk.take() {
        room.dismiss();
    }
}

/// Those whose commands are being served. They would wait for ever if that came to nothing.
struct Asking(Vec<Arc<Seat>>);

impl Asking {
    fn of(batch: &[Command]) -> Self {
        Asking(batch.iter().filter_map(Command::asker).cloned().collect())
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.iter().for_each(|seat| seat.mailbox.notify(Notice::RoomLost));
        }
    }
}

impl Desk {
    /// The room, what it hears and what it is asked next; nothing if the room is lost to a panic.
    fn poll_work(&self, cx: &mut Context<'_>, mailboxes: &mut Mailboxes) -> Poll<Option<Work>> {
        let Ok(mut desk) = self.room.lock() else { return Poll::Ready(None) };
        // Received under the lock: who finds the room here and its mailboxes empty may be sure
        // that nothing is on its way between the two.
        let batch = mailboxes.poll_batch(cx);
        let heard = match desk.as_mut().map(|room| room.poll_heard(cx)) {
            Some(Poll::Ready(heard)) => heard,
            Some(Poll::Pending) | None => Vec::new(),
        };
        let batch = match batch {
            Poll::Ready(batch) => batch,
            Poll::Pending if heard.is_empty() => return Poll::Pending,
            Poll::Pending => Some(Vec::new()),
        };
        Poll::Ready(desk.take().zip(batch).map(|(room, batch)| (room, heard, batch)))
    }

    fn take(&self) -> Option<LiveRoom> {
        self.room.lock().ok()?.take()
    }

    fn put_back(&self, room: LiveRoom) {
        self.seats.store(room.seats(), Ordering::Relaxed);
        *self.room.lock().unwrap_or_else(PoisonError::into_inner) = Some(room);
    }
}

/// A room, what other nodes did to it, and what is asked of it here.
type Work = (LiveRoom, Vec<Heard>, Vec<Command>);

/// What a room's task receives from.
struct Mailboxes {
    signal: mpsc::Receiver<Command>,
    bulk: mpsc::Receiver<Command>,
}

impl Mailboxes {
    /// What is served in one go; `None` once nobody can ask any more.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<Command>>> {
        let (mut urgent, mut later) = (Vec::new(), Vec::new());
        match self.signal.poll_recv(cx) {
            Poll::Ready(Some(command)) => urgent.push(command),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => match self.bulk.poll_recv(cx) {
                Poll::Ready(Some(command)) => later.push(command),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            },
        }
        gather(&mut urgent, &mut self.signal, BATCH_MAX);
        // On a WebSocket a `leave` may follow bulk sends that are still in the other
        // mailbox: a member sent them, so all that is there goes first.
        Poll::Ready(Some(if urgent.iter().any(Command::ends_membership) {
            gather(&mut later, &mut self.bulk, MAILBOX_MAX);
            later.append(&mut urgent);
            later
        } else {
            gather(&mut later, &mut self.bulk, BULK_BATCH_MAX);
            urgent.append(&mut later);
            urgent
        }))
    }

    /// Whether nothing waits here and only the router's table could send anything.
    fn are_idle(&self) -> bool {
        self.signal.is_empty() && self.bulk.is_empty() && self.signal.sender_strong_count() == 1
    }
}

impl Drop for Mailboxes {
    /// Nobody will serve what waits here: the room's task has ended, by a panic or with the gateway.
    fn drop(&mut self) {
        for mailbox in [&mut self.signal, &mut self.bulk] {
            mailbox.close();
            while let Ok(command) = mailbox.try_recv() {
                if let Some(seat) = command.asker() {
                    seat.mailbox.notify(Notice::RoomLost);
                }
            }
        }
    }
}

/// Takes what waits in a mailbox until `batch` holds `most`.
fn gather(batch: &mut Vec<Command>, mailbox: &mut mpsc::Receiver<Command>, most: usize) {
    while batch.len() < most
        && let Ok(command) = mailbox.try_recv()
    {
        batch.push(command);
    }
}
