//! What a gateway keeps for its sessions is bounded here, and how fast each of them goes.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use handover_protocol::pace::Pace;
use handover_protocol::wire::{SessionId, UserId};

/// How much there may be on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Sessions of one user.
    pub sessions_per_user: usize,
    /// Sessions without a connection; those that have been without one longest end first.
    pub sessions_away: usize,
    /// Rooms, those included that were left a moment ago.
    pub rooms: usize,
    /// Bytes that the logs of all rooms hold; beyond it each room keeps its share.
    pub log_bytes: usize,
}

impl Default for Bounds {
    /// No bounds.
    fn default() -> Self {
        Bounds {
            sessions_per_user: usize::MAX,
            sessions_away: usize::MAX,
            rooms: usize::MAX,
            log_bytes: usize::MAX,
        }
    }
}

/// How much the logs of all rooms may hold. Looked at whenever one grows, so it has no lock.
#[derive(Debug)]
pub(super) struct LogBudget(AtomicUsize);

impl LogBudget {
    pub(super) fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// What each of so many rooms may hold, if all logs hold more than they may.
    pub(super) fn share(&self, held: usize, rooms: usize) -> Option<usize> {
        let budget = self.0.load(Ordering::Relaxed);
        (held > budget).then(|| budget / rooms.max(1))
    }
}

impl Default for LogBudget {
    /// No bound.
    fn default() -> Self {
        LogBudget(AtomicUsize::new(usize::MAX))
    }
}

/// A session's pace, shared by its connections.
pub type SharedPace = Arc<Mutex<Pace>>;

/// Where a session is counted, elsewhere than here, until this is dropped.
pub type Counted = Box<dyn fmt::Debug + Send>;

/// What is counted of sessions.
#[derive(Debug, Default)]
pub(super) struct Quota {
    pub(super) bounds: Bounds,
    of_user: HashMap<UserId, usize>,
    users: HashMap<SessionId, UserId>,
    paces: HashMap<SessionId, SharedPace>,
    elsewhere: HashMap<SessionId, Counted>,
}

impl Quota {
    /// Counts a new session, if its user may have one more.
    pub(super) fn try_add(&mut self, session: SessionId, user: Option<&UserId>) -> bool {
        let Some(user) = user else { return true };
        let count = self.of_user.get(user).copied().unwrap_or(0);
        if count >= self.bounds.sessions_per_user {
            return false;
        }
        self.count(session, Some(user));
        true
    }

    /// Counts a session that goes on here, however many its user has. Once is enough.
    pub(super) fn count(&mut self, session: SessionId, user: Option<&UserId>) {
        let Some(user) = user else { return };
        if self.users.insert(session, user.clone()).is_none() {
            *self.of_user.entry(user.clone()).or_default() += 1;
        }
    }

    /// The session has ended.
    pub(super) fn remove(&mut self, session: SessionId) {
        self.paces.remove(&session);
        self.elsewhere.remove(&session);
        let Some(user) = self.users.remove(&session) else { return };
        if let Some(count) = self.of_user.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                self.of_user.remove(&user);
            }
        }
    }

    /// Has the session count there, if anywhere; where it did before.
    pub(super) fn replace(
        &mut self,
        session: SessionId,
        there: Option<Counted>,
    ) -> Option<Counted> {
        match there {
            Some(there) => self.elsewhere.insert(session, there),
            None => self.elsewhere.remove(&session),
        }
    }

    /// The session's pace: `fresh` if it has none yet. A new connection is no new pace.
    pub(super) fn pace(&mut self, session: SessionId, fresh: SharedPace) -> SharedPace {
        self.paces.entry(session).or_insert(fresh).clone()
    }
}

#[cfg(test)]
mod tests {
    use handover_protocol::pace::PaceLimits;
    use handover_protocol::time::Time;

    use super::*;

    fn id(text: &str) -> SessionId {
        SessionId::parse(text).unwrap()
    }

    #[test]
    fn users_are_counted_apart_and_forgotten() {
        let bounds = Bounds { sessions_per_user: 2, ..Bounds::default() };
        let mut quota = Quota { bounds, ..Quota::default() };
        let (ada, bob) = (UserId::new("ada"), UserId::new("bob"));
        assert!(quota.try_add(id("a1"), Some(&ada)) && quota.try_add(id("a2"), Some(&ada)));
        assert!(!quota.try_add(id("a3"), Some(&ada)));
        assert!(quota.try_add(id("b1"), Some(&bob)));
        assert!((0..9).all(|n| quota.try_add(id(&format!("n{n}")), None)), "nobody in particular");
        quota.remove(id("a3"));
        assert!(!quota.try_add(id("a3"), Some(&ada)), "it was not counted");
        quota.remove(id("a1"));
        quota.remove(id("a1"));
        assert!(quota.try_add(id("a3"), Some(&ada)));
        for session in ["a2", "a3", "b1"] {
            quota.remove(id(session));
        }
        assert!(quota.of_user.is_empty() && quota.users.is_empty());
    }

    #[test]
    fn rooms_have_a_share_where_all_hold_more_than_they_may() {
        let budget = LogBudget::default();
        assert_eq!(budget.share(usize::MAX, 1), None, "no bound");
        budget.set(1_000);
        assert_eq!(budget.share(1_000, 9), None, "there is a place for all");
        assert_eq!(budget.share(1_001, 10), Some(100));
        assert_eq!(budget.share(1_001, 0), Some(1_000), "no rooms, no division");
    }

    #[test]
    fn a_session_counts_in_one_place_as_long_as_it_lives() {
        let (here, there) = (Arc::new(()), Arc::new(()));
        let counts = |place: &Arc<()>| Arc::strong_count(place) > 1;
        let mut quota = Quota::default();
        quota.replace(id("a"), Some(Box::new(here.clone())));
        assert!(counts(&here));
        quota.replace(id("a"), Some(Box::new(there.clone())));
        assert!(!counts(&here) && counts(&there));
        quota.replace(id("a"), None);
        assert!(!counts(&there));
        quota.replace(id("a"), Some(Box::new(here.clone())));
        quota.remove(id("a"));
        assert!(!counts(&here));
    }

    #[test]
    fn a_session_has_one_pace_as_long_as_it_lives() {
        let fresh = || Arc::new(Mutex::new(Pace::new(&PaceLimits::default(), Time::ZERO)));
        let mut quota = Quota::default();
        let first = quota.pace(id("a"), fresh());
        assert!(Arc::ptr_eq(&first, &quota.pace(id("a"), fresh())));
        quota.remove(id("a"));
        assert!(!Arc::ptr_eq(&first, &quota.pace(id("a"), fresh())));
    }
}
