//! The shared room router: which rooms live on this node, and whose connections are here.

pub mod handle;
pub mod identifiers;
pub mod live_log;
pub mod mailbox;
pub mod quota;
pub mod room;
pub mod seat;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use handover_protocol::limits::ROOMS_MAX;
use handover_protocol::room::presence::{Due, Presence};
use handover_protocol::room::{Refusal, RoomLimits};
use handover_protocol::session::Slot;
use handover_protocol::session::grant::{Admission, Grant, LAPSED, OTHER_USER, Pass, Right};
use handover_protocol::session::server::{Opened, OpenedRoom};
use handover_protocol::wire::message::{Hello, LeaveReason, Resume};
use handover_protocol::wire::{ErrorCode, LogLane, PerLane, RoomName, SessionId};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::{
    AtHand, Author, Broker, ResumeError, Retired, SecretHash, SessionRecord, Unavailable,
};
use crate::clock::Clock;
use crate::telemetry::{Metrics, restarted};
use handle::{Attach, Attached, Command, RoomHandle};
use identifiers::Identifiers;
use live_log::SharedLog;
use mailbox::{Mailbox, Notice};
use quota::{Bounds, Counted, LogBudget, Quota, SharedPace};
use seat::{Kept, Seat};

/// What the router's tasks share.
#[derive(Debug)]
pub struct Shared {
    broker: Arc<dyn Broker>,
    clock: Clock,
    metrics: Arc<Metrics>,
    identifiers: Identifiers,
    room_limits: RoomLimits,
    log_budget: LogBudget,
    tasks: TaskTracker,
    /// Where rooms are served, whoever is the first to enter them.
    threads: Handle,
    stopping: CancellationToken,
    rooms: Mutex<HashMap<RoomName, RoomHandle>>,
    sessions: Mutex<Sessions>,
    /// The agenda of sessions without a connection has changed.
    agenda_changed: Notify,
    /// For rooms to be left behind at a time.
    left_behind: Semaphore,
}

#[derive(Debug)]
struct Sessions {
    here: HashMap<SessionId, Whereabouts>,
    presence: Presence,
    quota: Quota,
    leaving: Leaving,
}

/// What connections are told that come while the gateway goes away.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    /// Nothing: it stays.
    Not,
    /// To come back within so many milliseconds.
    Draining { spread: u64 },
    /// That they are closed now.
    Stopped,
}

/// Where a session that was last seen on this node is.
#[derive(Debug)]
enum Whereabouts {
    Connected(Arc<Seat>),
    Lost(Author, Vec<RoomName>, Option<Arc<Kept>>),
}

impl Whereabouts {
    fn author(&self) -> Author {
        match self {
            Whereabouts::Connected(seat) => seat.author,
            Whereabouts::Lost(author, ..) => *author,
        }
    }

    fn generation(&self) -> u64 {
        self.author().generation
    }
}

/// Rooms that are only remembered, for as many as one that is there. They take less than a
/// thirtieth of it.
const DORMANT_PER_ROOM: usize = 16;

/// The shared room router.
#[derive(Clone, Debug)]
pub struct Router(Arc<Shared>);

/// A session that was opened or resumed for a connection.
pub type SeatedSession = (Arc<Seat>, Opened<SharedLog>, Vec<(Slot, RoomName, RoomHandle)>);

impl Router {
    /// Starts the router. It ends when `stopping` is cancelled, and `tasks` tells when.
    pub fn start(
        broker: Arc<dyn Broker>,
        clock: Clock,
        metrics: Arc<Metrics>,
        room_limits: RoomLimits,
        resume_window: Duration,
        tasks: TaskTracker,
        stopping: CancellationToken,
    ) -> Router {
        let presence = Presence::new(resume_window);
        let shared = Arc::new(Shared {
            broker,
            clock,
            metrics,
            identifiers: Identifiers::default(),
            room_limits,
            log_budget: LogBudget::default(),
            tasks,
            threads: Handle::current(),
            stopping,
            rooms: Mutex::default(),
            sessions: Mutex::new(Sessions {
                here: HashMap::new(),
                presence,
                quota: Quota::default(),
                leaving: Leaving::Not,
            }),
            agenda_changed: Notify::new(),
            left_behind: Semaphore::new(upkeep::UNDER_WAY_MAX),
        });
        let router = Router(shared);
        router.look_after("presence", Router::watch_presence);
        router.look_after("sessions", Router::keep_sessions);
        router.look_after("other nodes", Router::say_alive);
        router
    }

    fn look_after<F>(&self, what: &'static str, task: impl Fn(Router) -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (router, metrics) = (self.clone(), self.0.metrics.clone());
        self.0.tasks.spawn(restarted(metrics, what, move || task(router.clone())));
    }

    /// Bounds what is kept from now on.
    pub fn bound(&self, bounds: Bounds) {
        self.0.log_budget.set(bounds.log_bytes);
        self.0.sessions().quota.bounds = bounds;
    }

    /// Whether the room is here, or there is a place for one more.
    pub fn has_place_for(&self, room: &RoomName) -> bool {
        let most = self.0.sessions().quota.bounds.rooms;
        let dormant = self.0.broker.at_hand().map_or(0, AtHand::dormant);
        let rooms = self.0.rooms();
        rooms.len() + dormant / DORMANT_PER_ROOM < most || rooms.contains_key(room)
    }

    /// How fast a session has been; `fresh` if it is new here.
    pub fn pace(&self, session: SessionId, fresh: SharedPace) -> SharedPace {
        let mut sessions = self.0.sessions();
        // Kept as long as the session is: one that has ended meanwhile would leave it behind.
        if sessions.here.contains_key(&session) {
            sessions.quota.pace(session, fresh)
        } else {
            fresh
        }
    }

    /// Has a session count somewhere for as long as it lives here, and no longer where it did before.
    pub fn count(&self, session: SessionId, counted: Option<Counted>) {
        let mut sessions = self.0.sessions();
        // As with its pace.
        let is_here = sessions.here.contains_key(&session);
        let before = is_here.then(|| sessions.quota.replace(session, counted));
        drop((sessions, before));
    }

    /// The room, started if nobody on this node was in it.
    pub fn room(&self, name: &RoomName) -> RoomHandle {
        let mut rooms = self.0.rooms();
        match rooms.entry(name.clone()) {
            MapEntry::Occupied(live) if live.get().is_live() => live.get().clone(),
            // Whoever served it has panicked: the room begins again from what the broker holds.
            MapEntry::Occupied(mut dead) => {
                dead.insert(handle::start(&self.0, name.clone()));
                dead.get().clone()
            }
            MapEntry::Vacant(place) => place.insert(handle::start(&self.0, name.clone())).clone(),
        }
    }

    /// Opens the session a `hello` asks for, for the connection behind `mailbox`. Without an
    /// admission only a session that has one of its own can go on.
    pub async fn open(
        &self,
        hello: Hello,
        admission: Option<Admission>,
        mailbox: Arc<Mailbox>,
    ) -> Result<SeatedSession, Refusal> {
        match (hello.resume, admission) {
            (None, Some(admission)) => self.open_new(admission, mailbox).await,
            (None, None) => Err(LAPSED),
            (Some(resume), admission) => self.resume(resume, admission, mailbox).await,
        }
    }

    async fn open_new(
        &self,
        admission: Admission,
        mailbox: Arc<Mailbox>,
    ) -> Result<SeatedSession, Refusal> {
        let internal = |_| Refusal::new(ErrorCode::Internal, "no session can be made right now");
        let identifiers = &self.0.identifiers;
        let session = identifiers.session().map_err(internal)?;
        let peer = identifiers.peer().map_err(internal)?;
        let secret = identifiers.secret().map_err(internal)?;
        let (user, generation) = (admission.user.clone(), 1);
        let pass = self.pass(&admission);
        if !self.0.sessions().quota.try_add(session, user.as_ref()) {
            return Err(USER_FULL);
        }
        let record = SessionRecord {
            session,
            peer,
            admission,
            secret_hash: SecretHash::of(&secret),
            generation,
            rooms: Vec::new(),
        };
        let kept = self.0.kept(&record);
        if self.0.broker.open(record).await.is_err() {
            self.0.sessions().quota.remove(session);
            return Err(UNAVAILABLE);
        }
        let author = Author { session, peer, generation };
        let seat = Arc::new(Seat::new(author, user.clone(), mailbox, kept));
        self.take_seat(&seat);
        let opened = Opened { session, secret, peer, user, pass, resumed: None };
        Ok((seat, opened, Vec::new()))
    }

    async fn resume(
        &self,
        resume: Resume,
        presented: Option<Admission>,
        mailbox: Arc<Mailbox>,
    ) -> Result<SeatedSession, Refusal> {
        let Resume { session, secret, .. } = resume;
        let hash = SecretHash::of(&secret);
        let unix_now = self.0.clock.unix_now().as_secs();
        let resumed = self.0.broker.resume(session, hash, presented, unix_now).await;
        let record = resumed.map_err(|error| match error {
            ResumeError::Unknown => SESSION_UNKNOWN,
            ResumeError::Refused(refusal) => refusal,
            ResumeError::Unavailable(_) => UNAVAILABLE,
        })?;
        let kept = self.0.kept(&record);
        let SessionRecord { peer, admission, generation, rooms, .. } = record;
        let (user, pass) = (admission.user.clone(), self.pass(&admission));
        let author = Author { session, peer, generation };
        let seat = Arc::new(Seat::new(author, user.clone(), mailbox, kept));
        self.take_seat(&seat);
        let allowed = |room: &RoomName| admission.grant.allows(room, Right::Join);
        let (rooms, forbidden): (Vec<_>, Vec<_>) = rooms.into_iter().partition(allowed);
        // A join that came to nothing for its client may have been applied after all.
        let (rooms, beyond) = rooms.split_at(rooms.len().min(ROOMS_MAX));
        // The client learns that they are lost: they are not among those it goes on in.
        self.leave_rooms(author, forbidden, LeaveReason::Kicked).await;
        self.leave_rooms(author, beyond.to_vec(), LeaveReason::Left).await;
        let mut attaching = Vec::with_capacity(rooms.len());
        for (index, room) in rooms.iter().cloned().enumerate() {
            let slot = Slot { index: index as u8, generation: index as u32 };
            let handle = self.room(&room);
            let (attached, waiting) = oneshot::channel();
            let attach = Box::new(Attach { seat: seat.clone(), slot, attached });
            let sent = handle.sender(LogLane::Signal).send(Command::Attach(attach)).await;
            attaching.push((slot, room, handle, sent.map(|()| waiting)));
        }
        let (mut opened, mut handles) = (Vec::new(), Vec::new());
        let mut whole = true;
        for (slot, room, handle, waiting) in attaching {
            let attached = match waiting {
                Ok(waiting) => waiting.await.ok(),
                Err(_) => None,
            };
            match attached {
                Some(Attached::Member { log, seq }) => {
                    handles.push((slot, room.clone(), handle));
                    opened.push(OpenedRoom { slot, room, log, seq });
                }
                // The membership ended on the way here; the client learns that it is lost, and
                // the place is free for another room.
                Some(Attached::Stranger) => {}
                None => {
                    handles.push((slot, room, handle));
                    whole = false;
                }
            }
        }
        if !whole {
            let rooms = handles.into_iter().map(|(_, name, handle)| (name, handle)).collect();
            self.lost(&seat, rooms).await;
            return Err(UNAVAILABLE);
        }
        let rooms = handles.iter().map(|(_, name, handle)| (name, handle));
        fix(author, &admission.grant, rooms).await;
        let opened = Opened { session, secret, peer, user, pass, resumed: Some(opened) };
        Ok((seat, opened, handles))
    }

    /// What an admission means on a connection here.
    fn pass(&self, admission: &Admission) -> Pass {
        let clock = &self.0.clock;
        admission.pass(clock.now(), clock.unix_now().as_secs())
    }

    /// Has a session that is in `rooms` go on under a newer admission of the same user.
    pub async fn readmit(
        &self,
        seat: &Seat,
        admission: Admission,
        rooms: &[(RoomName, RoomHandle)],
    ) -> Result<Pass, Refusal> {
        if admission.user != seat.user {
            return Err(OTHER_USER);
        }
        let pass = self.pass(&admission);
        let readmitted = self.0.broker.readmit(seat.author, admission.clone()).await;
        let is_current = readmitted.map_err(|_| UNAVAILABLE)?;
        if let Some(kept) = &seat.kept {
            kept.readmit(admission.clone());
        }
        if !is_current {
            // It has been replaced, or the broker has lost it.
            self.0.revive(seat).await.map_err(|_| UNAVAILABLE)?;
        }
        let rooms = rooms.iter().map(|(name, handle)| (name, handle));
        fix(seat.author, &admission.grant, rooms).await;
        Ok(pass)
    }

    /// Makes `seat` the session's connection. The older of two is told that it is replaced.
    fn take_seat(&self, seat: &Arc<Seat>) {
        let session = seat.author.session;
        let replaced = {
            let mut sessions = self.0.sessions();
            if let Some(notice) = self.0.leaving_notice(sessions.leaving) {
                seat.mailbox.notify(notice);
            }
            let newest = sessions.here.get(&session).map_or(0, Whereabouts::generation);
            if newest > seat.author.generation {
                // A later resume was faster, and is what counts even if it is gone again.
                Some(seat.clone())
            } else {
                sessions.presence.handle_back(session);
                match sessions.here.insert(session, Whereabouts::Connected(seat.clone())) {
                    Some(Whereabouts::Connected(older)) => Some(older),
                    Some(Whereabouts::Lost(..)) => None,
                    None => {
                        // One that comes from another node was not refused there.
                        sessions.quota.count(session, seat.user.as_ref());
                        self.0.metrics.sessions.inc();
                        None
                    }
                }
            }
        };
        if let Some(older) = replaced {
            older.mailbox.notify(Notice::Replaced);
        }
    }

    /// A connection is gone and its session lives on, for the resume window.
    pub async fn lost(&self, seat: &Arc<Seat>, rooms: Vec<(RoomName, RoomHandle)>) {
        let names = rooms.iter().map(|(name, _)| name.clone()).collect();
        {
            let mut sessions = self.0.sessions();
            let session = seat.author.session;
            let is_newest = matches!(
                sessions.here.get(&session),
                Some(Whereabouts::Connected(newest)) if Arc::ptr_eq(newest, seat)
            );
            // Also one that was replaced by another node's: what has replaced it may not have got as
            // far as all of its rooms, and who has them ends then.
            if is_newest {
                let kept = seat.kept.clone();
                sessions.here.insert(session, Whereabouts::Lost(seat.author, names, kept));
                sessions.presence.handle_lost(self.0.clock.now(), session);
                let most = sessions.quota.bounds.sessions_away;
                sessions.presence.keep_at_most(most);
            }
        }
        self.0.agenda_changed.notify_one();
        for (_, handle) in rooms {
            // A room that has ended needs no goodbye.
            let _ = handle.sender(LogLane::Signal).send(Command::Detach(seat.clone())).await;
        }
    }

    /// Ends a session, if `author` still speaks for it: it leaves its rooms and is forgotten.
    /// Returns where each room stood.
    pub async fn end(
        &self,
        author: Author,
        rooms: impl IntoIterator<Item = RoomName>,
        reason: LeaveReason,
    ) -> Result<Vec<(RoomName, PerLane<u64>)>, Unavailable> {
        let recorded = match self.0.broker.retire(author).await? {
            Retired::From(rooms) => rooms,
            Retired::Lost => Vec::new(),
            Retired::Not => {
                // A newer connection has taken the session over, or ended it. If that was before
                // this one was seated here, nobody else will clear its seat away.
                self.0.forget(&mut self.0.sessions(), author, |at| at == author.generation);
                self.leave_behind(author, rooms.into_iter().collect(), reason);
                return Ok(Vec::new());
            }
        };
        // A join that was not answered in time is known to its record alone.
        let rooms: BTreeSet<RoomName> = rooms.into_iter().chain(recorded).collect();
        let leaving = rooms.into_iter().map(|room| async {
            let remove = |done| Command::Remove(author, reason, Some(done));
            self.ask_until_done(&room, remove).await.map(|at| Some((room, at?)))
        });
        let left = futures_util::future::join_all(leaving).await;
        // Forgotten last: as long as it is in a room, somebody has to know.
        let left: Vec<_> = left.into_iter().collect::<Result<_, Unavailable>>()?;
        self.0.broker.end(author).await?;
        self.0.forget(&mut self.0.sessions(), author, |_| true);
        Ok(left.into_iter().flatten().collect())
    }

    /// Tells every connection, and those still to come, that the gateway is going away and when
    /// to come back, spread over `spread` milliseconds.
    pub fn drain(&self, spread: u64) {
        self.leave(Leaving::Draining { spread });
    }

    /// Tells every connection, and those still to come, that they are closed now.
    pub fn stop(&self) {
        self.leave(Leaving::Stopped);
    }

    fn leave(&self, leaving: Leaving) {
        let mut sessions = self.0.sessions();
        sessions.leaving = leaving;
        for whereabouts in sessions.here.values() {
            if let (Whereabouts::Connected(seat), Some(notice)) =
                (whereabouts, self.0.leaving_notice(leaving))
            {
                seat.mailbox.notify(notice);
            }
        }
    }
}

/// Has a member show in these rooms what its token fixes there.
async fn fix<'a>(
    author: Author,
    grant: &Grant,
    rooms: impl Iterator<Item = (&'a RoomName, &'a RoomHandle)>,
) {
    for (name, handle) in rooms {
        if let Some(metadata) = grant.metadata(name) {
            // A room that has ended has nobody who would see it.
            let fixed = Command::Fix(author, metadata.clone());
            let _ = handle.sender(LogLane::Signal).send(fixed).await;
        }
    }
}

impl Sessions {
    fn poll_due(
        &mut self,
        now: handover_protocol::time::Time,
    ) -> Option<(Due, Author, Vec<RoomName>)> {
        loop {
            let due = self.presence.poll_due(now)?;
            let (Due::Away(session) | Due::Expired(session)) = due;
            if let Some(Whereabouts::Lost(author, rooms, _)) = self.here.get(&session) {
                return Some((due, *author, rooms.clone()));
            }
        }
    }
}

impl Shared {
    /// Records a session again that the broker does not know under this generation: it has lost
    /// it, or another connection speaks for it.
    async fn revive(&self, seat: &Seat) -> Result<(), Unavailable> {
        if self.is_replaced(seat.author, seat.kept.as_deref()).await? {
            seat.replace();
        }
        Ok(())
    }

    async fn is_replaced(&self, author: Author, kept: Option<&Kept>) -> Result<bool, Unavailable> {
        let Some(kept) = kept else { return Ok(true) };
        self.broker.revive(kept.record(author)).await.map(|is_recorded| !is_recorded)
    }

    /// Forgets where a session is, if it is under a generation that `which` allows.
    fn forget(&self, sessions: &mut Sessions, author: Author, which: impl FnOnce(u64) -> bool) {
        let session = author.session;
        if sessions.here.get(&session).is_some_and(|at| which(at.generation())) {
            sessions.presence.handle_back(session);
            sessions.here.remove(&session);
            sessions.quota.remove(session);
            self.metrics.sessions.dec();
        }
    }

    /// What a connection keeps of its session's record, where others than this node may lose it.
    fn kept(&self, record: &SessionRecord) -> Option<Arc<Kept>> {
        let is_elsewhere = self.broker.at_hand().is_none();
        is_elsewhere.then(|| Arc::new(Kept::new(record)))
    }

    fn leaving_notice(&self, leaving: Leaving) -> Option<Notice> {
        match leaving {
            Leaving::Not => None,
            Leaving::Draining { spread } => {
                Some(Notice::Draining { reconnect_in: self.identifiers.below(spread) })
            }
            Leaving::Stopped => Some(Notice::Stop),
        }
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<RoomName, RoomHandle>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const UNAVAILABLE: Refusal =
    Refusal::new(ErrorCode::Unavailable, "the session cannot be begun or gone on with right now");
const USER_FULL: Refusal =
    Refusal::new(ErrorCode::RateLimited, "as many sessions of this user as there may be");
const SESSION_UNKNOWN: Refusal =
    Refusal::new(ErrorCode::SessionUnknown, "no such session: it expired, ended, or never was");
