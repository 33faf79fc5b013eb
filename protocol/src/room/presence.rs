//! Sessions without a connection: when they count as away, and when they end.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::limits::AWAY_AFTER;
use crate::time::Time;
use crate::wire::SessionId;

/// Something that is due for a session without a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Its rooms are told that it is away.
    Away(SessionId),
    /// Its resume window has passed: it ends.
    Expired(SessionId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Away,
    Expire,
}

/// Watches over sessions that lost their connection.
#[derive(Debug)]
pub struct Presence {
    resume_window: Duration,
    agenda: BTreeSet<(Time, Step, SessionId)>,
    lost: HashMap<SessionId, Time>,
}

impl Presence {
    /// Nobody is missing yet.
    pub fn new(resume_window: Duration) -> Self {
        Presence { resume_window, agenda: BTreeSet::new(), lost: HashMap::new() }
    }

    /// A session lost its connection at `now`.
    pub fn handle_lost(&mut self, now: Time, session: SessionId) {
        self.handle_back(session);
        self.lost.insert(session, now);
        self.agenda.insert((now + self.resume_window, Step::Expire, session));
        if AWAY_AFTER < self.resume_window {
            self.agenda.insert((now + AWAY_AFTER, Step::Away, session));
        }
    }

    /// A session has a connection again, or has ended: nothing more is due for it.
    pub fn handle_back(&mut self, session: SessionId) {
        if let Some(lost) = self.lost.remove(&session) {
            self.agenda.remove(&(lost + AWAY_AFTER, Step::Away, session));
            self.agenda.remove(&(lost + self.resume_window, Step::Expire, session));
        }
    }

    /// When [`Presence::poll_due`] has something next.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.agenda.first().map(|(at, ..)| *at)
    }

    /// The next thing due by `now`.
    pub fn poll_due(&mut self, now: Time) -> Option<Due> {
        let &(at, step, session) = self.agenda.first().filter(|(at, ..)| *at <= now)?;
        self.agenda.remove(&(at, step, session));
        match step {
            Step::Away => Some(Due::Away(session)),
            Step::Expire => {
                self.lost.remove(&session);
                Some(Due::Expired(session))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn away_first_then_the_end() {
        let session = SessionId::parse("s").unwrap();
        let mut presence = Presence::new(Duration::from_secs(120));
        presence.handle_lost(at(10), session);
        assert_eq!(presence.poll_timeout(), Some(at(12)));
        assert_eq!(presence.poll_due(at(11)), None);
        assert_eq!(presence.poll_due(at(12)), Some(Due::Away(session)));
        assert_eq!(presence.poll_timeout(), Some(at(130)));
        assert_eq!(presence.poll_due(at(200)), Some(Due::Expired(session)));
        assert_eq!((presence.poll_due(at(999)), presence.poll_timeout()), (None, None));
    }

    #[test]
    fn a_return_clears_the_agenda_and_a_new_loss_starts_it_over() {
        let session = SessionId::parse("s").unwrap();
        let mut presence = Presence::new(Duration::from_secs(120));
        presence.handle_lost(at(0), session);
        presence.handle_back(session);
        assert_eq!(presence.poll_due(at(500)), None);
        presence.handle_lost(at(500), session);
        presence.handle_lost(at(501), session);
        assert_eq!(presence.poll_due(at(502)), None);
        assert_eq!(presence.poll_due(at(503)), Some(Due::Away(session)));
        presence.handle_back(session);
        assert_eq!(presence.poll_timeout(), None);
    }

    #[test]
    fn a_window_shorter_than_away_just_expires() {
        let session = SessionId::parse("s").unwrap();
        let mut presence = Presence::new(Duration::from_secs(1));
        presence.handle_lost(at(0), session);
        assert_eq!(presence.poll_due(at(1)), Some(Due::Expired(session)));
        assert_eq!(presence.poll_timeout(), None);
    }
}
