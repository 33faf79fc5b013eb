//! What the router sees to by itself: sessions that are away, and what the broker has to be told.

use std::time::Duration;

use futures_util::future::OptionFuture;
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use handover_protocol::room::presence::Due;
use handover_protocol::wire::message::LeaveReason;
use handover_protocol::wire::{LogLane, RoomName, SessionId};
use tokio::sync::oneshot;

use super::handle::{Command, RoomHandle};
use super::{Router, Whereabouts};
use crate::broker::{
    Author, BEAT_AGAIN, BEAT_EVERY, BEAT_PATIENCE, KEEP_EVERY, Keeping, Unavailable,
};
use crate::telemetry::guarded;

/// How long a room is asked for what cannot be left undone, and how far apart: longer than a store
/// takes to fail over.
const ASKED_FOR: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// An end that could not be is tried again after this long: whoever stays in its rooms for it is a
/// member who never comes back. So is telling rooms that somebody is away.
const AGAIN: Duration = Duration::from_secs(3);
/// Sessions whose absence is seen to at once.
pub(super) const UNDER_WAY_MAX: usize = 256;
/// A resume that has raised its session's generation has got to all rooms by then, or has failed:
/// that takes two answers of the store, of two seconds each at the most, and a pause.
const RESUMED_IN: Duration = Duration::from_secs(7);

impl Router {
    /// Asks a room for something, more than once if it cannot be had at once.
    pub(super) async fn ask_until_done<T>(
        &self,
        room: &RoomName,
        command: impl Fn(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Unavailable> {
        let asked = async {
            loop {
                let (done, waiting) = oneshot::channel();
                // A room that has ended is begun anew by whoever asks again.
                let sent = self.room(room).sender(LogLane::Signal).send(command(done)).await;
                if let (Ok(()), Ok(done)) = (sent, waiting.await) {
                    return done;
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        let gone = || Unavailable("a room did not answer".to_owned());
        tokio::select! {
            () = self.0.stopping.cancelled() => Err(gone()),
            done = tokio::time::timeout(ASKED_FOR, asked) => done.map_err(|_| gone()),
        }
    }

    /// Leaves rooms that a session cannot go on in: now, or when they answer again. What the
    /// session asks of them afterwards comes behind that if it can be now.
    pub(super) async fn leave_rooms(
        &self,
        author: Author,
        rooms: Vec<RoomName>,
        reason: LeaveReason,
    ) {
        let mut asked = Vec::with_capacity(rooms.len());
        for room in rooms {
            let (done, waiting) = oneshot::channel();
            let remove = Command::Remove(author, reason, Some(done));
            // A room that has ended does not answer.
            let _ = self.room(&room).sender(LogLane::Signal).send(remove).await;
            asked.push((room, waiting));
        }
        if asked.is_empty() {
            return;
        }
        let router = self.clone();
        let removing = async move {
            for (room, waiting) in asked {
                let remove = |done| Command::Remove(author, reason, Some(done));
                if waiting.await.is_err()
                    && let Err(error) = router.ask_until_done(&room, remove).await
                {
                    // Its record still names the room: the session's end leaves it.
                    tracing::debug!(room = room.as_str(), %error, "not left yet");
                }
            }
        };
        self.0.tasks.spawn_on(removing, &self.0.threads);
    }

    /// Leaves rooms that a newer connection of the session has not got to, and will not: a resume
    /// that was cut short leaves nobody who speaks for it there. A room that one has got to refuses
    /// whatever is asked on behalf of an older one.
    pub(super) fn leave_behind(&self, author: Author, rooms: Vec<RoomName>, reason: LeaveReason) {
        // Where rooms and sessions are one, a resume is not cut short.
        if rooms.is_empty() || self.0.broker.at_hand().is_some() {
            return;
        }
        let router = self.clone();
        let leaving = async move {
            tokio::time::sleep(RESUMED_IN).await;
            for room in rooms {
                let remove = |done| Command::Remove(author, reason, Some(done));
                // For as long as it takes: nobody else will.
                while let Ok(_turn) = router.0.left_behind.acquire().await
                    && let Err(error) = router.ask_until_done(&room, remove).await
                {
                    tracing::debug!(room = room.as_str(), %error, "not left behind yet");
                }
            }
        };
        let (metrics, stopping) = (self.0.metrics.clone(), self.0.stopping.clone());
        let leaving = async move {
            // Members of a node that has gone are found by the others.
            let leaving = stopping.run_until_cancelled(leaving).map(drop);
            guarded(&metrics, "rooms left behind", leaving).await
        };
        self.0.tasks.spawn_on(leaving, &self.0.threads);
    }

    pub(super) async fn watch_presence(self) {
        // One that waits for the broker keeps nobody else waiting.
        let mut under_way = FuturesUnordered::new();
        loop {
            let next = self.0.sessions().presence.poll_timeout();
            let next = next.filter(|_| under_way.len() < UNDER_WAY_MAX);
            let timeout = async {
                match next {
                    Some(at) => tokio::time::sleep(at.since(self.0.clock.now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.0.stopping.cancelled() => return,
                () = self.0.agenda_changed.notified() => {}
                Some(_) = under_way.next() => {}
                () = timeout => {}
            }
            while under_way.len() < UNDER_WAY_MAX {
                let now = self.0.clock.now();
                let Some((due, author, rooms)) = self.0.sessions().poll_due(now) else { break };
                under_way.push(self.see_to_again(due, author, rooms));
            }
        }
    }

    /// Tells the broker again and again which sessions are here.
    pub(super) async fn keep_sessions(self) {
        let mut losses = self.0.broker.losses();
        let (mut pause, mut again) = (KEEP_EVERY, BEAT_EVERY);
        loop {
            let lost = OptionFuture::from(losses.as_mut().map(|losses| losses.changed()));
            tokio::select! {
                () = self.0.stopping.cancelled() => return,
                Some(Ok(())) = lost => again = BEAT_EVERY,
                () = tokio::time::sleep(pause) => {}
            }
            let kept = tokio::select! {
                () = self.0.stopping.cancelled() => return,
                kept = self.keep_once() => kept,
            };
            (pause, again) = match kept {
                Ok(()) => (KEEP_EVERY, BEAT_EVERY),
                Err(error) => {
                    tracing::debug!(%error, "sessions are not kept");
                    // It asks about all of them: ever later, should one alone fail for long.
                    (again, (again * 2).min(KEEP_EVERY))
                }
            };
        }
    }

    async fn keep_once(&self) -> Result<(), Unavailable> {
        let here: Vec<Author> = self.0.sessions().here.values().map(Whereabouts::author).collect();
        let Keeping { strangers, failed } = self.0.broker.keep(here).await;
        let revived = strangers.into_iter().map(async |stranger| {
            let (seat, kept) = match self.0.sessions().here.get(&stranger.session) {
                Some(Whereabouts::Connected(seat)) => (Some(seat.clone()), seat.kept.clone()),
                Some(Whereabouts::Lost(author, _, kept))
                    if author.generation == stranger.generation =>
                {
                    (None, kept.clone())
                }
                Some(Whereabouts::Lost(..)) | None => return Ok(()),
            };
            match seat {
                Some(seat) => self.0.revive(&seat).await,
                // If another connection speaks for it, its end finds out by itself.
                None => self.0.is_replaced(stranger, kept.as_deref()).await.map(drop),
            }
        });
        let revived = stream::iter(revived).buffer_unordered(UNDER_WAY_MAX);
        // Whatever becomes of one, the others are recorded.
        revived.fold(failed.map_or(Ok(()), Err), async |all, one| all.and(one)).await
    }

    /// Tells other nodes that this one lives, and its rooms when others have died.
    pub(super) async fn say_alive(self) {
        loop {
            // One that is not answered must not be the last that is heard before it counts as dead.
            let asked = self.0.clock.now();
            let beaten = tokio::time::timeout(BEAT_PATIENCE, self.0.broker.beat());
            let beaten = tokio::select! {
                () = self.0.stopping.cancelled() => break,
                beaten = beaten => beaten.ok().and_then(Result::ok),
            };
            if beaten == Some(true) {
                let rooms: Vec<RoomHandle> = self.0.rooms().values().cloned().collect();
                for room in rooms {
                    // One that is busy will do so by itself before long.
                    let _ = room.sender(LogLane::Signal).try_send(Command::Tidy);
                }
            }
            // A late answer makes the next beat no later.
            let left = BEAT_EVERY.saturating_sub(self.0.clock.now().since(asked));
            let pause = if beaten.is_some() { left } else { BEAT_AGAIN };
            tokio::select! {
                () = self.0.stopping.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        if let Err(error) = self.0.broker.part().await {
            tracing::debug!(%error, "the other nodes will find out by themselves");
        }
    }

    /// It is not lost with another that fails, and if this one fails, it is seen to once more.
    async fn see_to_again(&self, due: Due, author: Author, rooms: Vec<RoomName>) {
        let seen_to = self.see_to(due, author, rooms);
        let is_seen_to = guarded(&self.0.metrics, "an absent session", seen_to).await;
        if let (false, Due::Expired(session)) = (is_seen_to, due) {
            self.end_again(session);
        }
    }

    fn end_again(&self, session: SessionId) {
        let now = self.0.clock.now();
        let mut sessions = self.0.sessions();
        // It may have come back meanwhile.
        if matches!(sessions.here.get(&session), Some(Whereabouts::Lost(..))) {
            sessions.presence.handle_stuck(now, session, now + AGAIN);
        }
    }

    async fn see_to(&self, due: Due, author: Author, rooms: Vec<RoomName>) {
        match due {
            Due::Away(session) => {
                let told = rooms
                    .iter()
                    .map(|room| self.ask_until_done(room, |done| Command::Away(author, done)));
                let told = futures_util::future::join_all(told).await;
                if told.iter().any(Result::is_err) {
                    let again = self.0.clock.now() + AGAIN;
                    self.0.sessions().presence.handle_untold(session, again);
                }
            }
            Due::Expired(session) => {
                tracing::debug!(%session, "session expired");
                let ended = self.end(author, rooms, LeaveReason::Expired).await;
                if let Err(error) = ended {
                    // Said of each, again and again, it would be all that is said.
                    tracing::debug!(%session, %error, "an expired session stays for now");
                    self.end_again(session);
                }
            }
        }
    }
}
