//! Who is let in: new sessions and those that go on, with tokens or without.

use std::collections::BTreeSet;

use super::{Author, ConnectionId, Gateway, Session};
use crate::room::Refusal;
use crate::session::Slot;
use crate::session::grant::{Admission, OTHER_USER, Right};
use crate::session::server::{Opened, OpenedRoom};
use crate::time::Time;
use crate::wire::message::{Close, Hello, LeaveReason, Resume};
use crate::wire::{CloseCode, ErrorCode, PeerId, Secret, SessionId};

/// Seconds since 1970, in a world that begins then.
fn unix(now: Time) -> u64 {
    now.as_micros() / 1_000_000
}

impl Gateway {
    /// From now on everybody needs a token, and this is one.
    pub fn issue(&mut self, token: &str, admission: Admission) {
        self.tokens.insert(token.to_owned(), admission);
    }

    fn admit(&self, now: Time, token: Option<&Secret>) -> Result<Admission, Refusal> {
        if self.tokens.is_empty() {
            return Ok(Admission::anonymous());
        }
        let unauthorized = Refusal::new(ErrorCode::Unauthorized, "no token, or not a good one");
        let known = token.and_then(|token| self.tokens.get(token.expose()));
        let good = known.filter(|known| known.lapse.is_none_or(|lapse| unix(now) < lapse.at));
        good.cloned().ok_or(unauthorized)
    }

    /// Opens the session that a connection's `hello` asked for.
    pub fn open(&mut self, now: Time, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(hello) = connection.opening.take() else { return };
        if let Err(refusal) = self.try_open(now, id, &hello)
            && let Some(connection) = self.connections.get_mut(&id)
        {
            connection.session.handle_refused(&refusal);
        }
        self.act(now, id);
    }

    fn try_open(&mut self, now: Time, id: ConnectionId, hello: &Hello) -> Result<(), Refusal> {
        let asked = !self.tokens.is_empty();
        let token = hello.token.as_ref();
        match &hello.resume {
            None => {
                let admission = self.admit(now, token)?;
                self.open_new(now, id, admission);
                Ok(())
            }
            Some(resume) if asked && token.is_none() => self.resume(now, id, resume, None),
            Some(resume) => {
                let admission = self.admit(now, token)?;
                self.resume(now, id, resume, Some(admission))
            }
        }
    }

    fn open_new(&mut self, now: Time, id: ConnectionId, admission: Admission) {
        self.named += 1;
        let name = |kind: &str| format!("{kind}{}", self.named);
        let (Ok(session), Ok(peer)) = (SessionId::parse(&name("s")), PeerId::parse(&name("p")))
        else {
            return;
        };
        let secret = Secret::new(name("secret of "));
        let (user, pass) = (admission.user.clone(), admission.pass(now, unix(now)));
        let (generation, connection) = (1, Some(id));
        let record = Session {
            secret: secret.clone(),
            peer,
            generation,
            rooms: BTreeSet::new(),
            admission,
            connection,
        };
        self.sessions.insert(session, record);
        let opened = Opened { session, secret, peer, user, pass, resumed: None };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.author = Some(Author { session, peer, generation });
            connection.session.handle_opened(&self.settings, opened);
        }
    }

    fn resume(
        &mut self,
        now: Time,
        id: ConnectionId,
        resume: &Resume,
        presented: Option<Admission>,
    ) -> Result<(), Refusal> {
        let record = self.sessions.get_mut(&resume.session);
        let record = record.filter(|record| record.secret == resume.secret);
        let record = record.ok_or(Refusal::new(ErrorCode::SessionUnknown, "no such session"))?;
        record.admission = record.admission.succeed(presented, unix(now))?;
        record.generation += 1;
        let admission = record.admission.clone();
        let (peer, generation) = (record.peer, record.generation);
        let older = record.connection.replace(id);
        let names: Vec<_> = record.rooms.iter().cloned().collect();
        let session = resume.session;
        self.presence.handle_back(session);
        if let Some(older) = older.and_then(|older| self.connections.get_mut(&older)) {
            older.cut_short = Some(Close::new(CloseCode::Replaced));
        }
        let mut rooms = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            self.turn(now, &name);
            let slot = Slot { index: index as u8, generation: index as u32 };
            let Some(live) = self.rooms.get_mut(&name) else { continue };
            if !live.room.borrow().is_member(peer) {
                continue;
            }
            if !admission.grant.allows(&name, Right::Join) {
                let left = live.room.borrow_mut().leave(now, peer, LeaveReason::Kicked);
                self.note(&name, left);
                if let Some(record) = self.sessions.get_mut(&session) {
                    record.rooms.remove(&name);
                }
                continue;
            }
            let back = live.room.borrow_mut().mark_away(now, peer, false);
            live.seat(peer, id, slot);
            let (log, seq) = (live.log(&self.saboteur), live.room.borrow().seq(peer));
            self.note(&name, back);
            rooms.push(OpenedRoom { slot, room: name, log, seq });
        }
        self.fix(now, session);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.author = Some(Author { session, peer, generation });
            connection.rooms = rooms.iter().map(|room| (room.slot, room.room.clone())).collect();
            let (secret, resumed) = (resume.secret.clone(), Some(rooms));
            let pass = admission.pass(now, unix(now));
            let opened = Opened { session, secret, peer, user: admission.user, pass, resumed };
            connection.session.handle_opened(&self.settings, opened);
        }
        Ok(())
    }

    /// Looks at a newer token of a connection's session.
    pub(super) fn refresh(&mut self, now: Time, id: ConnectionId, request: u64, token: &Secret) {
        let admitted = self.admit(now, Some(token));
        let asked = !self.tokens.is_empty();
        let author = self.connections.get(&id).and_then(|connection| connection.author);
        let record = author.and_then(|author| self.sessions.get_mut(&author.session));
        let outcome = match (admitted, record) {
            (Ok(_), _) if !asked => Ok(None),
            (Ok(newer), Some(record)) if newer.user == record.admission.user => {
                record.admission = newer.clone();
                Ok(Some(newer.pass(now, unix(now))))
            }
            (Ok(_), _) => Err(OTHER_USER),
            (Err(refusal), _) => Err(refusal),
        };
        if let (Ok(Some(_)), Some(author)) = (&outcome, author) {
            self.fix(now, author.session);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.session.handle_refreshed(request, outcome);
        }
    }

    /// Has a session show what its token fixes, in the rooms it is in.
    fn fix(&mut self, now: Time, session: SessionId) {
        let Some(record) = self.sessions.get(&session) else { return };
        let (peer, grant) = (record.peer, record.admission.grant.clone());
        for name in record.rooms.clone() {
            let (Some(fixed), Some(live)) = (grant.metadata(&name), self.rooms.get_mut(&name))
            else {
                continue;
            };
            let shows = live.room.borrow().metadata(peer) == Some(fixed);
            let fixed = (!shows).then(|| live.room.borrow_mut().fix(now, peer, fixed.clone()).ok());
            self.note(&name, fixed.flatten());
        }
    }
}
