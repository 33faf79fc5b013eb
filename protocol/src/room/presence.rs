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

/// Watches over sessions that lost their connection.
#[derive(Debug)]
pub struct Presence {
    resume_window: Duration,
    /// Who counts as away, and when.
    aways: BTreeSet<(Time, SessionId)>,
    /// Who ends, and when: whoever has been lost longest comes first.
    ends: BTreeSet<(Time, SessionId)>,
    /// Who ends now because there are too many.
    surplus: BTreeSet<SessionId>,
    /// When each counts as away, and when it ends.
    lost: HashMap<SessionId, (Time, Time)>,
}

impl Presence {
    /// Nobody is missing yet.
    pub fn new(resume_window: Duration) -> Self {
        Presence {
            resume_window,
            aways: BTreeSet::new(),
            ends: BTreeSet::new(),
            surplus: BTreeSet::new(),
            lost: HashMap::new(),
        }
    }

    /// A session lost its connection at `now`.
    pub fn handle_lost(&mut self, now: Time, session: SessionId) {
        self.end_at(now + AWAY_AFTER, now + self.resume_window, session);
        if AWAY_AFTER < self.resume_window {
            self.aways.insert((now + AWAY_AFTER, session));
        }
    }

    /// Not all rooms of a session could be told that it is away: that is due again at `again`.
    pub fn handle_untold(&mut self, session: SessionId, again: Time) {
        let Some((away, end)) = self.lost.get_mut(&session) else { return };
        if again < *end {
            self.aways.remove(&(*away, session));
            self.aways.insert((again, session));
            *away = again;
        }
    }

    /// A session whose end was due at `now` could not be ended: that is due again at `again`.
    pub fn handle_stuck(&mut self, now: Time, session: SessionId, again: Time) {
        self.end_at(now, again, session);
    }

    fn end_at(&mut self, away: Time, end: Time, session: SessionId) {
        self.handle_back(session);
        self.lost.insert(session, (away, end));
        self.ends.insert((end, session));
    }

    /// A session has a connection again, or has ended: nothing more is due for it.
    pub fn handle_back(&mut self, session: SessionId) {
        self.surplus.remove(&session);
        if let Some((away, end)) = self.lost.remove(&session) {
            self.aways.remove(&(away, session));
            self.ends.remove(&(end, session));
        }
    }

    /// Ends those that have been lost longest until no more than `most` are.
    pub fn keep_at_most(&mut self, most: usize) {
        while self.lost.len() > most {
            let Some(&(_, session)) = self.ends.first() else { return };
            self.handle_back(session);
            self.surplus.insert(session);
        }
    }

    /// When [`Presence::poll_due`] has something next.
    pub fn poll_timeout(&self) -> Option<Time> {
        let surplus = (!self.surplus.is_empty()).then_some(Time::ZERO);
        let away = self.aways.first().map(|(at, _)| *at);
        let end = self.ends.first().map(|(at, _)| *at);
        [surplus, away, end].into_iter().flatten().min()
    }

    /// The next thing due by `now`.
    pub fn poll_due(&mut self, now: Time) -> Option<Due> {
        if let Some(session) = self.surplus.pop_first() {
            return Some(Due::Expired(session));
        }
        let away = self.aways.first().copied();
        let end = self.ends.first().copied();
        match (away, end) {
            (Some((at, session)), end)
                if at <= now && end.is_none_or(|(ends_at, _)| at <= ends_at) =>
            {
                self.aways.remove(&(at, session));
                Some(Due::Away(session))
            }
            (_, Some((at, session))) if at <= now => {
                self.handle_back(session);
                Some(Due::Expired(session))
            }
            _ => None,
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
    fn who_could_not_be_shown_away_is_shown_so_later() {
        let session = SessionId::parse("s").unwrap();
        let mut presence = Presence::new(Duration::from_secs(120));
        presence.handle_untold(session, at(5));
        assert_eq!(presence.poll_timeout(), None, "nobody is lost");
        presence.handle_lost(at(10), session);
        assert_eq!(presence.poll_due(at(12)), Some(Due::Away(session)));
        presence.handle_untold(session, at(45));
        presence.handle_untold(session, at(46));
        assert_eq!((presence.poll_due(at(45)), presence.poll_timeout()), (None, Some(at(46))));
        assert_eq!(presence.poll_due(at(46)), Some(Due::Away(session)));
        presence.handle_untold(session, at(130));
        assert_eq!(presence.poll_timeout(), Some(at(130)));
        assert_eq!(presence.poll_due(at(130)), Some(Due::Expired(session)), "its end says it all");
        presence.handle_lost(at(200), session);
        presence.handle_untold(session, at(240));
        presence.handle_back(session);
        assert_eq!(presence.poll_timeout(), None);
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

    #[test]
    fn an_end_that_could_not_be_is_due_again_before_long() {
        let session = SessionId::parse("s").unwrap();
        let mut presence = Presence::new(Duration::from_secs(120));
        presence.handle_lost(at(0), session);
        assert_eq!(presence.poll_due(at(120)), Some(Due::Away(session)));
        for due in [120, 123, 126] {
            assert_eq!(presence.poll_due(at(due)), Some(Due::Expired(session)));
            presence.handle_stuck(at(due), session, at(due + 3));
            assert_eq!(
                presence.poll_timeout(),
                Some(at(due + 3)),
                "nobody hears again that it is away"
            );
        }
        presence.handle_back(session);
        assert_eq!((presence.poll_due(at(999)), presence.poll_timeout()), (None, None));
    }

    #[test]
    fn of_too_many_those_lost_longest_end_first() {
        let [one, two, three] = ["1", "2", "3"].map(|id| SessionId::parse(id).unwrap());
        let mut presence = Presence::new(Duration::from_secs(120));
        presence.handle_lost(at(0), one);
        presence.handle_lost(at(1), two);
        presence.keep_at_most(2);
        assert_eq!(presence.poll_due(at(1)), None);
        presence.handle_lost(at(10), three);
        presence.keep_at_most(2);
        assert!(presence.poll_timeout().is_some_and(|due| due <= at(10)));
        assert_eq!(presence.poll_due(at(10)), Some(Due::Expired(one)));
        assert_eq!(presence.poll_due(at(10)), Some(Due::Away(two)), "those that stay go on");
        assert_eq!(presence.poll_due(at(10)), None);
        presence.keep_at_most(0);
        presence.handle_back(two);
        assert_eq!(presence.poll_due(at(10)), Some(Due::Expired(three)));
        assert_eq!((presence.poll_due(at(500)), presence.poll_timeout()), (None, None));
    }
}
