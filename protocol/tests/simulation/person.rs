//! Somebody with a client: does things, dials, and watches what comes of it.

use std::collections::HashMap;
use std::time::Duration;

use handover_protocol::session::backoff::Backoff;
use handover_protocol::session::client::{
    Answer, ClientSession, Config, Ended, Event, LinkId, Live, Output, RequestId, RoomEvent, SendId,
};
use handover_protocol::sim::Rng;
use handover_protocol::time::Time;
use handover_protocol::wire::message::{Member, Positions, ServerMessage};
use handover_protocol::wire::{Json, LogLane, PeerId, RoomName};

use crate::watch::{Watch, Wrong};

/// A membership that a message may have begun.
type Begun = Option<(RoomName, Positions)>;

pub struct Person {
    pub index: usize,
    pub session: ClientSession,
    backoff: Backoff,
    /// A dial is under way until then.
    dialling: Option<Time>,
    /// Another one is, whether wanted or not.
    dialling_also: Option<Time>,
    not_before: Time,
    offline_until: Time,
    sends: HashMap<SendId, usize>,
    joins: HashMap<RequestId, RoomName>,
    leaves: HashMap<RequestId, RoomName>,
    /// Rooms that one is in, as far as one has been told.
    rooms: Vec<RoomName>,
    /// Links that the session is done with.
    closes: Vec<LinkId>,
    ended: bool,
}

impl Person {
    pub fn new(index: usize) -> Person {
        Person {
            index,
            session: ClientSession::new(Config::default()),
            backoff: Backoff::new(),
            dialling: None,
            dialling_also: None,
            not_before: Time::ZERO,
            offline_until: Time::ZERO,
            sends: HashMap::new(),
            joins: HashMap::new(),
            leaves: HashMap::new(),
            rooms: Vec::new(),
            closes: Vec::new(),
            ended: false,
        }
    }

    // --- The network -------------------------------------------------------------------------

    pub fn go_offline(&mut self, until: Time) {
        self.offline_until = until;
    }

    pub fn come_online(&mut self) {
        self.offline_until = Time::ZERO;
    }

    pub fn dial_also(&mut self, now: Time) {
        self.dialling_also = Some(now + Duration::from_millis(5));
    }

    /// When something has to be done that nobody else asks for.
    pub fn due(&self) -> [Option<Time>; 3] {
        if self.session.is_ended() {
            return [None; 3];
        }
        let wanted = self.session.wants_link().map(|wanted| {
            let at = wanted.not_before.unwrap_or(Time::ZERO).max(self.not_before);
            self.dialling.unwrap_or(at.max(self.offline_until))
        });
        [self.session.poll_timeout(), wanted, self.dialling_also]
    }

    /// Whether a connection has come about.
    pub fn dial(&mut self, now: Time, rng: &mut Rng) -> bool {
        if self.session.is_ended() {
            return false;
        }
        if self.dialling_also.take_if(|at| now >= *at).is_some() && now >= self.offline_until {
            return true;
        }
        let Some(wanted) = self.session.wants_link() else {
            self.dialling = None;
            return false;
        };
        let Some(done) = self.dialling else {
            let at = wanted.not_before.unwrap_or(Time::ZERO).max(self.not_before);
            if now >= at.max(self.offline_until) {
                self.dialling = Some(now + Duration::from_millis(rng.below(60)));
            }
            return false;
        };
        if now < done {
            return false;
        }
        self.dialling = None;
        if now < self.offline_until || rng.one_in(10) {
            self.not_before = self.backoff.fail(now, rng.any() as u32, None);
            return false;
        }
        self.backoff.succeed(now);
        true
    }

    /// A connection is gone.
    pub fn lose(&mut self, now: Time, id: LinkId, code: Option<u16>, rng: &mut Rng) {
        self.session.handle_disconnected(now, id, code);
        if self.session.wants_link().is_some() {
            self.not_before = self.backoff.fail(now, rng.any() as u32, None);
        }
    }

    // --- What one does -----------------------------------------------------------------------

    pub fn act(&mut self, now: Time, rng: &mut Rng, watch: &mut Watch, rooms: &[RoomName]) {
        let Some(room) = rooms.get(rng.below(rooms.len() as u64) as usize) else { return };
        let joined = self.session.members(room).is_some();
        match rng.below(40) {
            _ if !joined => {
                if let Ok(id) = self.session.join(room.clone(), None) {
                    self.joins.insert(id, room.clone());
                }
            }
            0 => {
                if let Ok(id) = self.session.leave(room) {
                    self.leaves.insert(id, room.clone());
                }
            }
            1 | 2 => {
                let metadata = HashMap::from([("mood", rng.below(9))]);
                let _ = self.session.update(room, Json::from_value(&metadata).expect("JSON"));
            }
            3 => self.session.fetch_members(room).map_or((), drop),
            4 => self.session.ping().map_or((), drop),
            5 if rng.one_in(8) => self.session.bye(now + Duration::from_secs(30)),
            6..12 => {
                let to = self.addressee(room, rng);
                let named = to.map(|peer| peer.to_string());
                let body = Json::from_value(&(room.as_str(), named)).expect("JSON");
                let _ = self.session.ephemeral(room, to, body);
            }
            _ => {
                for _ in 0..=rng.below(4) {
                    let to = self.addressee(room, rng);
                    let lane = if rng.one_in(2) { LogLane::Signal } else { LogLane::Bulk };
                    let text = format!("{}/{}", self.index, watch.sent());
                    let body = Json::from_value(&text).expect("JSON");
                    if let Ok(id) = self.session.send(now, room, lane, to, body.clone()) {
                        let send = watch.send(self.index, room, lane, body.as_str());
                        self.sends.insert(id, send);
                    }
                }
            }
        }
    }

    /// Everybody, somebody, oneself, or somebody who is not there.
    fn addressee(&self, room: &RoomName, rng: &mut Rng) -> Option<PeerId> {
        let members = self.session.members(room)?;
        match rng.below(12) {
            0 => PeerId::parse("stranger").ok(),
            1..6 => rng.pick(&members.iter().map(|member| member.peer).collect::<Vec<_>>()),
            _ => None,
        }
    }

    // --- What one is told --------------------------------------------------------------------

    pub fn hear(&mut self, now: Time, id: LinkId, message: ServerMessage, watch: &mut Watch) {
        let begun = match &message {
            ServerMessage::Joined(joined) => {
                let (epoch, signal, bulk) = (joined.epoch, joined.signal, joined.bulk);
                Some((joined.room.clone(), Positions { epoch, signal, bulk }))
            }
            ServerMessage::Reset(reset) => {
                let (epoch, signal, bulk) = (reset.epoch, reset.signal, reset.bulk);
                Some((reset.room.clone(), Positions { epoch, signal, bulk }))
            }
            _ => None,
        };
        self.session.handle_message(now, id, message);
        self.listen(begun, watch);
    }

    /// Takes what the session has by now. Returns the links that are to be closed.
    pub fn attend(&mut self, watch: &mut Watch) -> Vec<LinkId> {
        self.listen(None, watch);
        if std::mem::take(&mut self.ended) {
            // Somebody who has said goodbye comes back as somebody else.
            let closes = std::mem::take(&mut self.closes);
            *self = Person { offline_until: self.offline_until, ..Person::new(self.index) };
            return closes;
        }
        std::mem::take(&mut self.closes)
    }

    /// Who is in a room, as far as one knows who is in it.
    pub fn settled_in(&self, room: &RoomName) -> Option<Vec<Member>> {
        self.session.members(room).filter(|_| self.rooms.contains(room))
    }

    fn listen(&mut self, mut begun: Begun, watch: &mut Watch) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Event(event) => self.event(event, &mut begun, watch),
                Output::Answer(id, answer) => {
                    if let (Some(room), Ok(Answer::Joined(_))) = (self.joins.remove(&id), &answer) {
                        self.begin(&room, &mut begun, watch);
                    }
                    if let (Some(room), Ok(_)) = (self.leaves.remove(&id), &answer) {
                        self.rooms.retain(|joined| *joined != room);
                        watch.over(self.index, &room);
                    }
                }
                Output::Sent(id, outcome) => {
                    if let Some(send) = self.sends.remove(&id) {
                        watch.outcome(send, outcome);
                    }
                }
                Output::Close(id, why) => {
                    watch.count(format!("link closed: {why:?}"));
                    self.closes.push(id);
                }
            }
        }
    }

    fn event(&mut self, event: Event, begun: &mut Begun, watch: &mut Watch) {
        match event {
            Event::Live(Live { peer, resumed, .. }) => {
                watch.count(if resumed { "session resumed" } else { "session opened" });
                watch.live(self.index, peer);
            }
            Event::Room(room, event) => {
                match &event {
                    RoomEvent::Reset(..) => self.begin(&room, begun, watch),
                    RoomEvent::Lost { .. } => {
                        self.rooms.retain(|joined| *joined != room);
                        watch.over(self.index, &room);
                    }
                    _ => {}
                }
                watch.event(self.index, &room, &event);
            }
            Event::Ended(Ended::Bye) => self.ended = true,
            Event::Ended(why) => {
                let what = format!("person {} was sent away: {why:?}", self.index);
                watch.wrong(Wrong::SentAway, what);
            }
            _ => {}
        }
    }

    fn begin(&mut self, room: &RoomName, begun: &mut Begun, watch: &mut Watch) {
        if let Some((_, at)) = begun.take_if(|(begun, _)| begun == room) {
            watch.start(self.index, room, &at);
            if !self.rooms.contains(room) {
                self.rooms.push(room.clone());
            }
        }
    }
}
