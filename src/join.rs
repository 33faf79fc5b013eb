//! `handover join ROOM`: a member in a terminal, for trying things out and for looking on.
//!
//! It speaks the call page's chat: `{"kind": "chat", "text": ...}` on the bulk lane.

mod screen;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use handover_client::{
    Client, ClientEvent, Codec, ConnectError, Error, Json, LogLane, Options, PeerId, Room,
    RoomEvent, Sending, State, Token, Transport,
};
use serde::Serialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

use self::screen::{Input, Screen};
use crate::trust::{IdentityError, TrustArgs};

/// What `handover join` takes.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The room.
    pub room: String,
    /// The gateway: https://, or wss://, http:// and ws:// for WebSocket alone.
    #[arg(long, value_name = "URL", default_value = "https://localhost:4433")]
    pub url: String,
    /// Which transports may be used.
    #[arg(long, value_enum, default_value_t = TransportArg::Auto)]
    pub transport: TransportArg,
    /// How messages are written.
    #[arg(long, value_enum, default_value_t = CodecArg::Bincode)]
    pub codec: CodecArg,
    /// Whom to trust.
    #[command(flatten)]
    pub trust: TrustArgs,
    /// The name shown to the others.
    #[arg(long, default_value = "terminal")]
    pub name: String,
    /// A token, where the gateway wants one. Other users of this machine can read it in the
    /// list of processes.
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// A file with such a token, read again before each connection and when the token is about
    /// to end.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
}

/// See [`JoinArgs::transport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TransportArg {
    /// WebTransport, and WebSocket where that does not come about.
    Auto,
    /// WebTransport alone.
    #[value(name = "webtransport")]
    WebTransport,
    /// WebSocket alone.
    #[value(name = "websocket")]
    WebSocket,
}

/// See [`JoinArgs::codec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CodecArg {
    /// JSON text.
    Json,
    /// The compact one.
    Bincode,
}

/// Why `handover join` ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The gateway's certificate cannot be known.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The gateway could not be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The room could not be joined.
    #[error("{room}: {error}")]
    Room {
        /// The room.
        room: String,
        /// Why.
        error: Error,
    },
    /// The terminal is gone.
    #[error("terminal: {0}")]
    Terminal(#[from] io::Error),
    /// The session ended without being asked to.
    #[error("the gateway ended the session: {0}")]
    Ended(String),
}

#[derive(Serialize)]
struct Chat<'a> {
    kind: &'static str,
    text: &'a str,
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
}

/// Joins, and shows what happens until the input ends or says so.
pub async fn run(args: JoinArgs) -> Result<(), JoinError> {
    let input = BufReader::new(tokio::io::stdin());
    run_with(args, input, io::stdout()).await
}

/// [`run`] with another terminal.
pub async fn run_with(
    args: JoinArgs,
    input: impl AsyncBufRead + Unpin,
    output: impl Write,
) -> Result<(), JoinError> {
    let options = Options {
        transport: match args.transport {
            TransportArg::Auto => Transport::Auto,
            TransportArg::WebTransport => Transport::WebTransport,
            TransportArg::WebSocket => Transport::WebSocket,
        },
        codec: match args.codec {
            CodecArg::Json => Codec::Json,
            CodecArg::Bincode => Codec::Bincode,
        },
        certificates: args.trust.certificates(&args.url).await?,
        token: token(&args),
        agent: Some(concat!("handover-join/", env!("CARGO_PKG_VERSION")).to_owned()),
        ..Options::default()
    };
    let client = Client::connect(&args.url, options).await?;
    let shown =
        Json::from_value(&Shown { name: &args.name }).unwrap_or_else(|_| Json::empty_object());
    let joined = client.join(&args.room, Some(shown)).await;
    let room = match joined {
        Ok(room) => room,
        Err(error) => {
            // Otherwise the gateway would wait for somebody who is not coming back.
            client.close().await;
            return Err(JoinError::Room { room: args.room, error });
        }
    };
    let done = talk(&client, &room, input, Screen::new(output)).await;
    client.close().await;
    done
}

/// A file is read anew whenever a token is needed, so that somebody else can keep it fresh.
fn token(args: &JoinArgs) -> Option<Token> {
    let Some(path) = args.token_file.clone() else { return args.token.clone().map(Token::from) };
    Some(Token::from_fn(move || {
        let path = path.clone();
        async move {
            let read = tokio::fs::read_to_string(&path).await;
            read.map(|text| text.trim().to_owned())
                .map_err(|error| format!("cannot read {}: {error}", path.display()))
        }
    }))
}

async fn talk(
    client: &Client,
    room: &Room,
    input: impl AsyncBufRead + Unpin,
    mut screen: Screen<impl Write>,
) -> Result<(), JoinError> {
    let mut lines = input.lines();
    let mut sendings = FuturesUnordered::new();
    let (mut states, mut events) = (client.state(), client.events());
    let members = room.members().await.unwrap_or_default();
    let state = states.borrow_and_update().clone();
    screen.began(room.name().as_str(), &state, members)?;
    loop {
        tokio::select! {
            event = room.next_event() => match event {
                Some(RoomEvent::Lost { code, message }) => {
                    return Err(JoinError::Ended(format!("{code}: {message}")));
                }
                Some(event) => screen.event(event)?,
                None => return ended(&states.borrow()),
            },
            Ok(()) = states.changed() => {
                let state = states.borrow_and_update().clone();
                if let State::Ended(_) = state {
                    return ended(&state);
                }
                screen.state(&state)?;
            }
            Ok(event) = events.recv() => match event {
                ClientEvent::Quality(quality) => screen.quality(&quality)?,
                ClientEvent::Moved => screen.note("this machine's address changed")?,
                ClientEvent::Draining(_) => screen.note("the gateway is about to go")?,
                ClientEvent::Expiring(left) => {
                    screen.note(&format!("the token ends in {} s", left.as_secs()))?;
                }
                ClientEvent::Refused { code, message, .. } => {
                    screen.note(&format!("refused: {code}: {message}"))?;
                }
                ClientEvent::Back { gap, .. } => {
                    screen.note(&format!("back after {:.1} s", gap.as_secs_f64()))?;
                }
                ClientEvent::TokenFailed(reason) => {
                    screen.note(&format!("no newer token: {reason}"))?;
                }
                ClientEvent::DialFailed(error) => screen.note(&error.to_string())?,
            },
            line = lines.next_line() => match line?.as_deref().map(Input::read) {
                None | Some(Input::Quit) => return Ok(()),
                Some(Input::Leave) => {
                    let left = room.clone().leave().await;
                    let room = room.name().to_string();
                    return left.map_err(|error| JoinError::Room { room, error });
                }
                Some(Input::Members) => screen.members(room.members().await.unwrap_or_default())?,
                Some(Input::Nothing) => {}
                Some(Input::Unknown(command)) => screen.note(&format!(
                    "{command}: there is /members, /to NAME TEXT, /leave and /quit"
                ))?,
                Some(Input::Say(text)) => match say(room, None, text).await {
                    Ok(sending) => sendings.push(sending),
                    Err(error) => screen.note(&format!("not sent: {error}"))?,
                },
                Some(Input::SayTo(whom, text)) => match screen.find(whom) {
                    Some(peer) => match say(room, Some(peer), text).await {
                        Ok(sending) => sendings.push(sending),
                        Err(error) => screen.note(&format!("not sent: {error}"))?,
                    },
                    None => screen.note(&format!("nobody here is called {whom}"))?,
                },
            },
            Some(sent) = sendings.next() => if let Err(error) = sent {
                screen.note(&format!("not sent: {error}"))?;
            },
        }
    }
}

/// Hands a line over; that it was accepted is learned later.
async fn say(room: &Room, to: Option<PeerId>, text: &str) -> Result<Sending, Error> {
    room.queue(LogLane::Bulk, to, Json::from_value(&Chat { kind: "chat", text })?).await
}

fn ended(state: &State) -> Result<(), JoinError> {
    match state {
        State::Ended(why) => Err(JoinError::Ended(screen::describe_end(why))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
