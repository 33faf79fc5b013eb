//! A gateway on the bench: clients are pairs of hands that write JSON and read JSON.

use std::time::Duration;

use handover_protocol::limits::{ANSWER_BYTES_MAX, Retention};
use handover_protocol::room::RoomLimits;
use handover_protocol::session::server::{Settings, Streams};
use handover_protocol::sim::{ConnectionId, Gateway};
use handover_protocol::time::Time;
use handover_protocol::wire::message::IceServer;
use handover_protocol::wire::{Codec, Lane, PerLane};
use serde_json::{Value, json};

pub const WINDOW: Duration = Duration::from_secs(120);

/// One connection, and what its client knows.
#[derive(Clone, Debug)]
pub struct Client {
    pub id: ConnectionId,
    pub codec: Codec,
    /// The session's name in rooms.
    pub peer: String,
    pub session: Value,
    pub secret: Value,
}

pub struct Bench {
    pub now: Time,
    pub gateway: Gateway,
}

pub fn settings() -> Settings {
    Settings {
        limits: handover_protocol::limits::Limits::default(),
        heartbeat: Duration::from_secs(15),
        resume_window: WINDOW,
        outbox_bytes: ANSWER_BYTES_MAX,
        ice_servers: vec![IceServer {
            urls: vec!["stun:stun.example:3478".into()],
            username: None,
            credential: None,
        }],
        ice_ttl: Duration::from_secs(600),
    }
}

impl Default for Bench {
    fn default() -> Self {
        Bench::keeping(PerLane { signal: Retention::signal(WINDOW), bulk: Retention::bulk(WINDOW) })
    }
}

impl Bench {
    /// Rooms keep so much and take 100 members.
    pub fn keeping(retention: PerLane<Retention>) -> Self {
        Bench::with(settings(), retention)
    }

    /// Connections hold so many bytes of answers.
    pub fn holding(outbox_bytes: usize) -> Self {
        let retention =
            PerLane { signal: Retention::signal(WINDOW), bulk: Retention::bulk(WINDOW) };
        Bench::with(Settings { outbox_bytes, ..settings() }, retention)
    }

    fn with(settings: Settings, retention: PerLane<Retention>) -> Self {
        let limits = RoomLimits { members: 100, metadata_bytes: 1 << 20, retention };
        Bench { now: Time::ZERO, gateway: Gateway::new(settings, limits) }
    }

    /// Rooms keep so many entries.
    pub fn keeping_entries(entries: usize) -> Self {
        let keep = Retention { entries, window: Duration::ZERO, ..Retention::signal(WINDOW) };
        Bench::keeping(PerLane { signal: keep, bulk: keep })
    }

    /// Whether something should have been done by now that is not.
    pub fn is_overdue(&self) -> bool {
        self.gateway.poll_timeout().is_some_and(|at| at <= self.now)
    }

    pub fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.gateway.handle_timeout(self.now);
        self.gateway.run(self.now);
    }

    /// A connection that has said nothing.
    pub fn connect(&mut self, codec: Codec, streams: Streams) -> Client {
        let id = self.gateway.connect(self.now, codec, streams);
        let (session, secret) = (Value::Null, Value::Null);
        Client { id, codec, peer: String::new(), session, secret }
    }

    /// A WebSocket with JSON that has said nothing.
    pub fn websocket(&mut self) -> Client {
        self.connect(Codec::Json, Streams::One)
    }

    /// A client with a new session.
    pub fn greeted(&mut self, codec: Codec, streams: Streams) -> Client {
        let mut client = self.connect(codec, streams);
        self.say(&client, json!({"type": "hello", "version": 1}));
        let heard = self.hear(&client);
        client.learn(&heard[0]);
        client
    }

    /// A client in a room that has heard everything so far.
    pub fn member(&mut self, room: &str) -> Client {
        let client = self.greeted(Codec::Json, Streams::One);
        self.join(&client, room);
        client
    }

    pub fn join(&mut self, client: &Client, room: &str) -> Vec<Value> {
        self.say(client, json!({"type": "join", "id": 1, "room": room}));
        self.hear(client)
    }

    /// A connection that resumes `client`'s session, before anything was heard on it.
    pub fn resume(&mut self, client: &Client, rooms: Value) -> Client {
        self.resume_on(client, Codec::Json, Streams::One, rooms)
    }

    pub fn resume_on(
        &mut self,
        client: &Client,
        codec: Codec,
        streams: Streams,
        rooms: Value,
    ) -> Client {
        let id = self.connect(codec, streams).id;
        let again = Client { id, codec, ..client.clone() };
        let resume = json!({"session": client.session, "secret": client.secret, "rooms": rooms});
        self.say(&again, json!({"type": "hello", "version": 1, "resume": resume}));
        again
    }

    /// The connection breaks.
    pub fn cut(&mut self, client: &Client) {
        self.gateway.handle_disconnected(self.now, client.id);
    }

    /// Sends a message on the signal stream, or the only one, and lets the gateway work.
    pub fn say(&mut self, client: &Client, message: Value) {
        self.say_on(client, Lane::Signal, message);
    }

    pub fn say_on(&mut self, client: &Client, lane: Lane, message: Value) {
        self.put(client, lane, message);
        self.gateway.run(self.now);
    }

    /// As [`Bench::say_on`], without letting the gateway work.
    pub fn put(&mut self, client: &Client, lane: Lane, message: Value) {
        let mut bytes = message.to_string().into_bytes();
        if client.codec != Codec::Json {
            let message = Codec::Json.decode_client(&bytes).expect("well-formed");
            bytes = client.codec.encode_client(&message).payload().to_vec();
        }
        self.gateway.handle_frame(self.now, client.id, lane, &bytes);
    }

    /// As [`Bench::say`], but no connection looks at what the rooms did yet.
    pub fn say_unseen(&mut self, client: &Client, message: Value) {
        self.put(client, Lane::Signal, message);
        for room in self.gateway.waiting() {
            self.gateway.turn(self.now, &room);
        }
    }

    /// How many frames go out before the connection looks at what the rooms did.
    pub fn sent_unseen(&mut self, client: &Client) -> usize {
        std::iter::from_fn(|| self.gateway.poll_transmit(self.now, client.id, Lane::Signal)).count()
    }

    /// Sends bytes that need not be a message.
    pub fn say_bytes(&mut self, client: &Client, lane: Lane, bytes: &[u8]) {
        self.gateway.handle_frame(self.now, client.id, lane, bytes);
        self.gateway.run(self.now);
    }

    /// Puts something into a room's log.
    pub fn send(&mut self, client: &Client, room: &str, lane: &str, seq: u64, body: Value) {
        let message = json!({"type": "send", "room": room, "lane": lane, "seq": seq, "body": body});
        self.say(client, message);
    }

    /// Everything there is to hear: the signal lane, then the bulk lane.
    pub fn hear(&mut self, client: &Client) -> Vec<Value> {
        let mut heard = self.hear_on(client, Lane::Signal);
        heard.extend(self.hear_on(client, Lane::Bulk));
        heard
    }

    pub fn hear_on(&mut self, client: &Client, lane: Lane) -> Vec<Value> {
        std::iter::from_fn(|| self.hear_one(client, lane)).collect()
    }

    /// The next message of a lane.
    pub fn hear_one(&mut self, client: &Client, lane: Lane) -> Option<Value> {
        self.gateway.run(self.now);
        while self.gateway.may_transmit(client.id, lane) {
            let frame = self.gateway.poll_transmit(self.now, client.id, lane);
            self.gateway.run(self.now);
            if let Some(frame) = frame {
                let message = client.codec.decode_server(&frame.payload()).expect("well-formed");
                let json = Codec::Json.encode_server(&message).payload();
                return Some(serde_json::from_slice(&json).expect("JSON"));
            }
        }
        None
    }

    /// The code the connection is about to be closed with, once everything before was said.
    pub fn closed(&mut self, client: &Client) -> Option<u16> {
        self.gateway.poll_close(client.id).map(|(_, close)| close.code)
    }

    /// Hears everyone out, so that what comes next is new.
    pub fn hush(&mut self, clients: &[&Client]) {
        for client in clients {
            self.hear(client);
        }
    }
}

impl Client {
    pub fn learn(&mut self, welcome: &Value) {
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        self.peer = welcome["peer"].as_str().expect("a name").to_owned();
        (self.session, self.secret) = (welcome["session"].clone(), welcome["secret"].clone());
    }
}

/// Whether `value` has all that `pattern` has.
fn is_like(value: &Value, pattern: &Value) -> bool {
    match (value, pattern) {
        (Value::Object(value), Value::Object(pattern)) => pattern
            .iter()
            .all(|(name, pattern)| value.get(name).is_some_and(|value| is_like(value, pattern))),
        (Value::Array(values), Value::Array(patterns)) => {
            values.len() == patterns.len()
                && values.iter().zip(patterns).all(|(value, pattern)| is_like(value, pattern))
        }
        _ => value == pattern,
    }
}

/// Asserts that exactly these messages came, each with at least these fields.
#[track_caller]
pub fn assert_heard(heard: &[Value], expected: Value) {
    let heard = Value::Array(heard.to_vec());
    assert!(is_like(&heard, &expected), "heard {heard:#}\nexpected {expected:#}");
}

/// The `type` of each message.
pub fn kinds(heard: &[Value]) -> Vec<&str> {
    heard.iter().map(|message| message["type"].as_str().unwrap_or("?")).collect()
}
