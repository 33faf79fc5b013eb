//! The handle of a session.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use handover_protocol::session::client::{Answer, Attention, ClientSession, Config, Ended};
use handover_protocol::wire::error::ErrorCode;
use handover_protocol::wire::message::{IceServer, Quality};
use handover_protocol::wire::{Json, PeerId, RoomName, Secret, UserId};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::address::Address;
use crate::command::{AnswerTo, COMMANDS_MAX, Command};
use crate::dial::Dialer;
use crate::driver::{Driver, Handles};
use crate::error::{ConnectError, DialError, Error};
use crate::events::RoomEvents;
use crate::options::Options;
use crate::room::Room;
use crate::token::Token;
use crate::transport::Kind;

/// Client events that may wait for a slow listener; older ones are dropped.
const CLIENT_EVENTS_MAX: usize = 64;

/// How a session is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It has not been opened yet.
    Connecting,
    /// A connection carries it.
    Live {
        /// On which transport.
        transport: Kind,
        /// Its name inside rooms. A new one where `resumed` is false.
        peer: PeerId,
        /// Who it belongs to, if not anonymous.
        user: Option<UserId>,
        /// Whether it went on from where it was. Otherwise rooms are joined anew.
        resumed: bool,
    },
    /// The connection is lost or has gone silent; another one is being made.
    Reconnecting,
    /// It is over.
    Ended(Ended),
}

/// Something about the session rather than a room.
#[derive(Clone, Debug)]
pub enum ClientEvent {
    /// How the path to the gateway is doing.
    Quality(Quality),
    /// The connection's address changed: restart ICE.
    Moved,
    /// The token ends in so much time: bring a new one with [`Client::refresh`].
    Expiring(Duration),
    /// The gateway is about to go; the client moves by itself in so much time.
    Draining(Duration),
    /// Something without an answer of its own was refused: an ephemeral message, or a connection that
    /// was to take the place of the one that carries the session, which stays.
    Refused {
        /// The room it was about, as far as the gateway could tell.
        room: Option<RoomName>,
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// A connection carries the session again.
    Back {
        /// For how long none was known to, from when the loss was noticed.
        gap: Duration,
        /// Whether the session went on from where it was.
        resumed: bool,
    },
    /// [`Token::from_fn`] gave no newer token, or none in time, although the present one is about to
    /// end. It is asked again until then.
    TokenFailed(String),
    /// An attempt to connect failed; the next one comes by itself.
    DialFailed(DialError),
}

/// One session on a gateway, however many connections it takes.
///
/// Clones are handles of the same session. When the last one and every [`Room`] of it are
/// dropped, the connection is cut; the gateway then keeps the session for its resume window.
/// [`Client::close`] ends it properly.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<State>,
    events: broadcast::Sender<ClientEvent>,
    driver: AbortHandle,
    room_events: usize,
    room_event_bytes: usize,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("state", &*self.inner.state.borrow()).finish()
    }
}

impl Client {
    /// Connects to the gateway at `url`: `https://host:port` for WebTransport and WebSocket,
    /// `wss://`, `ws://` or `http://` for WebSocket alone.
    ///
    /// Returns once the session is open. From then on connections are made and lost without
    /// notice other than [`Client::state`].
    pub async fn connect(url: &str, options: Options) -> Result<Client, ConnectError> {
        let dialer = Dialer::new(Address::parse(url)?, &options)?;
        let mut session = ClientSession::new(Config {
            agent: options.agent.clone(),
            token: options.token.as_ref().and_then(Token::fixed),
            outbox_bytes: options.outbox_bytes,
            ..Config::default()
        });
        session.set_attention(options.attention);
        let (commands, commands_in) = mpsc::channel(COMMANDS_MAX);
        let (state_out, state) = watch::channel(State::Connecting);
        let (events, _) = broadcast::channel(CLIENT_EVENTS_MAX);
        let (first, opened) = oneshot::channel();
        let handles = Handles {
            commands: commands_in,
            state: state_out,
            events: events.clone(),
            first: Some(first),
        };
        let driver = Driver::new(session, dialer, &options, handles);
        let driver = tokio::spawn(driver.run()).abort_handle();
        let (room_events, room_event_bytes) = (options.room_events, options.room_event_bytes);
        // Made before waiting, so that giving up on the way ends the driver too.
        let inner = Inner { commands, state, events, driver, room_events, room_event_bytes };
        let client = Client { inner: Arc::new(inner) };
        opened.await.unwrap_or(Err(ConnectError::Closed))?;
        Ok(client)
    }

    /// Joins a room. `metadata`, a JSON object, is shown to its members.
    pub async fn join(&self, room: &str, metadata: Option<Json>) -> Result<Room, Error> {
        let name = RoomName::parse(room)?;
        let (events_max, bytes_max) = (self.inner.room_events, self.inner.room_event_bytes);
        let events = Arc::new(RoomEvents::new(events_max, bytes_max));
        // Made before waiting, so that giving up on the way leaves the room too.
        let joined = Room::new(self.clone(), name.clone(), events.clone());
        self.ask(|reply| Command::Join { room: name, metadata, events, reply }).await?;
        Ok(joined)
    }

    /// Servers for ICE, and the seconds they are good for.
    pub async fn ice(&self) -> Result<(Vec<IceServer>, u64), Error> {
        match self.ask(|reply| Command::Ice { reply }).await? {
            Answer::Ice { servers, ttl } => Ok((servers, ttl)),
            _ => Err(Error::Closed),
        }
    }

    /// Brings a newer token, for this connection and every later one.
    pub async fn refresh(&self, token: String) -> Result<(), Error> {
        let token = Secret::new(token);
        self.ask(|reply| Command::Refresh { token, reply }).await.map(drop)
    }

    /// Waits for a sign of life of the gateway, on the present connection.
    pub async fn ping(&self) -> Result<(), Error> {
        self.ask(|reply| Command::Ping { reply }).await.map(drop)
    }

    /// How the session is doing, now and from now on.
    pub fn state(&self) -> watch::Receiver<State> {
        self.inner.state.clone()
    }

    /// The session's name inside rooms, while a connection carries it.
    pub fn peer(&self) -> Option<PeerId> {
        match &*self.inner.state.borrow() {
            State::Live { peer, .. } => Some(*peer),
            _ => None,
        }
    }

    /// What happens to the session rather than in a room, from now on. Who falls behind misses
    /// the oldest.
    pub fn events(&self) -> broadcast::Receiver<ClientEvent> {
        self.inner.events.subscribe()
    }

    /// How soon a silent connection is doubted from now on.
    pub async fn set_attention(&self, attention: Attention) -> Result<(), Error> {
        self.tell(Command::Attention(attention)).await
    }

    /// The network changed: a QUIC connection moves to a new socket at once, and is replaced if
    /// it does not answer from there; a WebSocket is replaced. Where
    /// [`Options::watch_network`] works, it is as if this were called. Without either it works
    /// too, once the silence is noticed.
    pub async fn network_changed(&self) -> Result<(), Error> {
        self.tell(Command::NetworkChanged).await
    }

    /// Closes the connection in an orderly way; the session goes on with the next one, which is
    /// made at once. For a "reconnect" button, and to see what an interruption does to an
    /// application.
    pub async fn drop_connection(&self) -> Result<(), Error> {
        self.tell(Command::DropConnection).await
    }

    /// Ends the session, after what was sent before, and waits until that is done.
    pub async fn close(&self) {
        // An error means that it is over already.
        let _ = self.inner.commands.send(Command::Close).await;
        self.inner.commands.closed().await;
    }

    pub(crate) async fn ask(
        &self,
        command: impl FnOnce(AnswerTo) -> Command,
    ) -> Result<Answer, Error> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply)).await?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    pub(crate) async fn tell(&self, command: Command) -> Result<(), Error> {
        self.inner.commands.send(command).await.map_err(|_| Error::Closed)
    }

    /// For a handle that is being dropped; if the driver is too busy it notices otherwise.
    pub(crate) fn try_tell(&self, command: Command) {
        let _ = self.inner.commands.try_send(command);
    }
}
