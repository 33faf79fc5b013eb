//! What the session says, passed on.

use std::task::Context;
use std::time::Duration;

use handover_protocol::session::client::{
    Answer, Event, LinkClose, LinkId, Live, Output, RequestError, RequestId, RoomEvent,
};
use handover_protocol::wire::RoomName;

use super::{About, CLOSE_GRACE, Driver, Stuck};
use crate::client::{ClientEvent, State};
use crate::command::{answered, sent};
use crate::error::ConnectError;
use crate::events::Pushed;
use crate::transport::Kind;

impl Driver {
    /// Passes on everything there is a place for.
    pub(super) fn poll_outputs(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        if let Some(Stuck { room, event, since }) = self.stuck.take() {
            moved |= self.deliver(cx, room, event);
            if let Some(stuck) = &mut self.stuck {
                stuck.since = since;
            }
        }
        while self.stuck.is_none()
            && let Some(output) = self.session.poll_output()
        {
            moved = true;
            match output {
                Output::Event(Event::Room(room, event)) => {
                    self.deliver(cx, room, event);
                }
                Output::Event(event) => self.announce(event),
                Output::Answer(id, answer) => self.answer(id, answer),
                Output::Sent(id, result) => {
                    if let Some(reply) = self.receipts.remove(&id) {
                        // Whoever sent it may not want to know.
                        let _ = reply.send(sent(result));
                    }
                }
                Output::Close(id, why) => self.close(id, why),
            }
        }
        moved
    }

    /// Returns whether the event found its place.
    fn deliver(&mut self, cx: &mut Context<'_>, room: RoomName, event: RoomEvent) -> bool {
        let Some(events) = self.rooms.get(&room) else { return true };
        if events.is_abandoned() {
            self.abandon(&room);
            return true;
        }
        let lost = matches!(event, RoomEvent::Lost { .. });
        if let Pushed::Full(event) = events.push(cx, event) {
            self.stuck = Some(Stuck { room, event, since: self.clock.now() });
            if !self.has_reader() {
                // Somebody who only sends is not worth waiting for.
                self.cut_stuck();
            }
            return false;
        }
        if lost {
            self.forget(&room);
        }
        true
    }

    fn has_reader(&self) -> bool {
        let events = self.stuck.as_ref().and_then(|stuck| self.rooms.get(&stuck.room));
        events.is_some_and(|events| events.has_reader())
    }

    /// Lets the events go that nobody takes, and tells whoever will.
    pub(super) fn cut_stuck(&mut self) {
        let Some(Stuck { room, event, .. }) = self.stuck.take() else { return };
        let Some(events) = self.rooms.get(&room) else { return };
        events.cut(self.session.members(&room).unwrap_or_default());
        if matches!(event, RoomEvent::Lost { .. }) {
            events.push_last(event);
            self.forget(&room);
        }
    }

    /// The membership is over: nothing more comes of it.
    fn forget(&mut self, room: &RoomName) {
        if let Some(events) = self.rooms.remove(room) {
            events.close();
        }
    }

    fn answer(&mut self, id: RequestId, answer: Result<Answer, RequestError>) {
        let Some((reply, about)) = self.answers.remove(&id) else { return };
        let failed = answer.is_err();
        if let Some(reply) = reply {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(answered(answer));
        }
        match about {
            About::Joining(room) if failed => self.forget(&room),
            About::Leaving(room) if !failed => self.forget(&room),
            About::Joining(_) | About::Leaving(_) | About::Nothing => {}
        }
    }

    fn announce(&mut self, event: Event) {
        let event = match event {
            Event::Live(live) => return self.live(live),
            Event::Down => {
                self.down_since = Some(self.clock.now());
                // One that was lost or closed is not there any more, and says nothing.
                let mut silent = self.links.iter().filter(|link| Some(link.id) == self.carrier);
                self.webtransport_silent =
                    silent.any(|link| link.transport.kind() == Kind::WebTransport);
                return self.set_state(State::Reconnecting);
            }
            Event::Ended(why) => {
                self.tell_first(Err(ConnectError::Ended(why.clone())));
                return self.set_state(State::Ended(why));
            }
            Event::Quality(quality) => ClientEvent::Quality(quality),
            Event::Moved => ClientEvent::Moved,
            Event::Expiring(ms) => {
                let left = Duration::from_millis(ms);
                self.renew_token(left);
                ClientEvent::Expiring(left)
            }
            Event::Draining(ms) => ClientEvent::Draining(Duration::from_millis(ms)),
            Event::Refused { room, code, message } => ClientEvent::Refused { room, code, message },
            Event::Room(..) => return,
        };
        self.tell(event);
    }

    fn live(&mut self, live: Live) {
        let Live { link, peer, user, resumed } = live;
        let now = self.clock.now();
        let Some(transport) = self.links.iter().find(|known| known.id == link) else { return };
        let transport = transport.transport.kind();
        if self.carrier.replace(link) != Some(link) {
            // Its greeting has brought a token: an answer to an earlier question may be an older one.
            self.renewal = None;
        }
        self.webtransport_silent = false;
        self.backoff.succeed(now);
        self.promote_later(now, transport);
        self.tell_first(Ok(()));
        self.set_state(State::Live { transport, peer, user, resumed });
        if let Some(since) = self.down_since.take() {
            self.tell(ClientEvent::Back { gap: now.since(since), resumed });
        }
    }

    fn close(&mut self, id: LinkId, why: LinkClose) {
        let Some(at) = self.links.iter().position(|link| link.id == id) else { return };
        let link = self.links.swap_remove(at);
        tracing::debug!(link = id.0, ?why, "closing a connection");
        let goodbye = tokio::time::timeout(CLOSE_GRACE, link.transport.close());
        self.closing.push(Box::pin(async {
            // Late or not, it is gone.
            let _ = goodbye.await;
        }));
        match why {
            LinkClose::ByGateway
            | LinkClose::NoWelcome
            | LinkClose::NotNow
            | LinkClose::Refused
            | LinkClose::OutOfStep => {
                // The session knows when it may come again; this is the jitter.
                let put_off = matches!(why, LinkClose::NotNow).then_some(Duration::ZERO);
                self.back_off(self.clock.now(), put_off);
                self.note_failure(|| crate::error::DialError::Failed {
                    transport: "session",
                    reason: format!("not opened: {why:?}"),
                });
            }
            LinkClose::Replaced | LinkClose::Dropped | LinkClose::Ended => {}
        }
    }

    pub(super) fn tell(&self, event: ClientEvent) {
        // Nobody may be listening.
        let _ = self.handles.events.send(event);
    }

    pub(super) fn tell_first(&mut self, result: Result<(), ConnectError>) {
        if let Some(first) = self.handles.first.take() {
            // The handle may have been given up.
            let _ = first.send(result);
        }
    }

    fn set_state(&self, state: State) {
        self.handles.state.send_replace(state);
    }
}
