//! `handover join ROOM`: a member in a terminal.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use handover_client::{
    Certificates, Client, ConnectError, Error as ClientError, Json, LogLane, Member, Options,
    PeerId, Room, RoomEvent, State, Transport,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Stdin};
use tokio::net::TcpStream;

/// How to join.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The room.
    pub room: String,
    /// The gateway.
    #[arg(long, value_name = "URL", default_value = "https://localhost:4433")]
    pub url: String,
    /// Which transport may be used.
    #[arg(long, value_enum, default_value_t = TransportArg::Auto)]
    pub transport: TransportArg,
    /// Which codec is spoken.
    #[arg(long, value_enum, default_value_t = CodecArg::Bincode)]
    pub codec: CodecArg,
    /// The name the others see.
    #[arg(long, default_value = "terminal")]
    pub name: String,
    /// SHA-256 of the gateway's certificate in base64, as `serve` prints it.
    #[arg(long, value_name = "BASE64", conflicts_with_all = ["ca", "insecure"])]
    pub cert_hash: Vec<String>,
    /// PEM file with the authority that signed the gateway's certificate.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub ca: Option<PathBuf>,
    /// Trust any certificate: whoever is in between can read and change everything.
    #[arg(long)]
    pub insecure: bool,
    /// Where a gateway on this machine tells its certificate's hash, if none is given.
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:8080")]
    pub identity_from: String,
}

/// See [`Transport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TransportArg {
    /// WebTransport first, WebSocket after it.
    Auto,
    /// WebTransport alone.
    Webtransport,
    /// WebSocket alone.
    Websocket,
}

/// The codec on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CodecArg {
    /// Readable.
    Json,
    /// Compact.
    Bincode,
}

/// Why there is no conversation.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A hash on the command line is none.
    #[error("--cert-hash {0}: not the base64 of a SHA-256 hash")]
    Hash(String),
    /// A gateway on this machine did not tell its certificate's hash.
    #[error(
        "no certificate hash from http://{address}/v1/identity ({reason}); is the gateway running? \
         Name the certificate with --cert-hash, --ca or --insecure"
    )]
    Identity {
        /// Where it was asked for.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// No session.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No membership, or something in it failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The terminal is gone.
    #[error("standard input: {0}")]
    Input(#[from] io::Error),
}

#[derive(Debug, Serialize, Deserialize)]
struct Chat {
    kind: String,
    text: String,
}

/// Runs until `/quit`, the end of the input, or the end of the membership.
pub async fn run(args: JoinArgs) -> Result<(), JoinError> {
    let options = Options {
        transport: match args.transport {
            TransportArg::Auto => Transport::Auto,
            TransportArg::Webtransport => Transport::WebTransport,
            TransportArg::Websocket => Transport::WebSocket,
        },
        codec: match args.codec {
            CodecArg::Json => handover_client::Codec::Json,
            CodecArg::Bincode => handover_client::Codec::Bincode,
        },
        certificates: certificates(&args).await?,
        agent: Some(concat!("handover-join/", env!("CARGO_PKG_VERSION")).to_owned()),
        ..Options::default()
    };
    let client = Client::connect(&args.url, options).await?;
    let metadata = Json::from_value(&serde_json::json!({ "name": args.name }));
    let room = client.join(&args.room, metadata.ok()).await?;
    println!("in {}; /members, /to PEER TEXT, /leave, /quit", room.name());
    show_members(&client, &room.members().await?);
    let outcome = converse(&client, &room).await;
    client.close().await;
    outcome
}

async fn converse(client: &Client, room: &Room) -> Result<(), JoinError> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut state = client.state();
    loop {
        tokio::select! {
            event = room.next_event() => match event {
                Some(event) => show(&event),
                None => return Ok(()),
            },
            line = next_line(&mut lines) => match line? {
                Some(line) => if !obey(client, room, line.trim()).await? {
                    return Ok(());
                },
                None => return Ok(()),
            },
            changed = state.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let now = state.borrow_and_update().clone();
                show_state(&now);
                if matches!(now, State::Ended(_)) {
                    return Ok(());
                }
            }
        }
    }
}

async fn next_line(
    lines: &mut tokio::io::Lines<BufReader<Stdin>>,
) -> Result<Option<String>, io::Error> {
    lines.next_line().await
}

/// Does what a line says. `false` ends the conversation.
async fn obey(client: &Client, room: &Room, line: &str) -> Result<bool, JoinError> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let sent = match word {
        "" => return Ok(true),
        "/quit" | "/leave" => return Ok(false),
        "/members" => {
            show_members(client, &room.fetch_members().await?);
            return Ok(true);
        }
        "/to" => {
            let (peer, text) = rest.split_once(' ').unwrap_or((rest, ""));
            let Ok(peer) = PeerId::parse(peer) else {
                println!("! {peer} is not a peer id; /members lists them");
                return Ok(true);
            };
            room.send_to(peer, LogLane::Bulk, chat(text)?).await
        }
        _ => room.send(LogLane::Bulk, chat(line)?).await,
    };
    match sent {
        Ok(_) => Ok(true),
        // What one message failed of is no reason to go.
        Err(error) => {
            println!("! not sent: {error}");
            Ok(!matches!(error, ClientError::Closed))
        }
    }
}

fn chat(text: &str) -> Result<Json, ClientError> {
    let chat = Chat { kind: "chat".to_owned(), text: text.to_owned() };
    Json::from_value(&chat).map_err(ClientError::from)
}

fn show(event: &RoomEvent) {
    match event {
        RoomEvent::Message { from, body, .. } => match body.to_value::<Chat>() {
            Ok(chat) if chat.kind == "chat" => println!("<{from}> {}", chat.text),
            _ => println!("<{from}> {}", body.as_str()),
        },
        RoomEvent::Ephemeral { from, body } => println!("~{from}~ {}", body.as_str()),
        RoomEvent::Joined(member) => println!("* {} joined", described(member)),
        RoomEvent::Updated(peer, metadata) => println!("* {peer} is now {}", metadata.as_str()),
        RoomEvent::Left(peer, reason) => println!("* {peer} left ({reason:?})"),
        RoomEvent::Away(peer) => println!("* {peer} lost the connection"),
        RoomEvent::Back(peer) => println!("* {peer} is back"),
        RoomEvent::Reset(cause, members) => {
            println!("* started again ({cause:?}); {} here", members.len());
        }
        RoomEvent::Lost { code, message } => println!("! no member any more: {code}: {message}"),
    }
}

fn show_state(state: &State) {
    match state {
        State::Connecting => {}
        State::Live { transport, resumed, .. } => {
            println!("* connected by {transport:?}{}", if *resumed { ", resumed" } else { "" });
        }
        State::Reconnecting => println!("* connection lost; reconnecting"),
        State::Ended(ended) => println!("* ended: {ended:?}"),
    }
}

fn show_members(client: &Client, members: &[Member]) {
    for member in members {
        let own = if Some(member.peer) == client.peer() { " (this one)" } else { "" };
        println!("  {}{own}", described(member));
    }
}

fn described(member: &Member) -> String {
    let away = if member.away { ", away" } else { "" };
    format!("{} {}{away}", member.peer, member.metadata.as_str())
}

/// What to trust: what the command line says, or what a gateway on this machine says of itself.
async fn certificates(args: &JoinArgs) -> Result<Certificates, JoinError> {
    if args.insecure {
        return Ok(Certificates::DangerouslyAny);
    }
    if let Some(ca) = &args.ca {
        return Ok(Certificates::AuthorityFile(ca.clone()));
    }
    if !args.cert_hash.is_empty() {
        let hashes = args.cert_hash.iter().map(|text| hash(text));
        return Ok(Certificates::Hashes(hashes.collect::<Result<_, _>>()?));
    }
    if !is_this_machine(&args.url) {
        return Ok(Certificates::System);
    }
    let told = tokio::time::timeout(Duration::from_secs(5), ask_identity(&args.identity_from));
    let failed =
        |reason: String| JoinError::Identity { address: args.identity_from.clone(), reason };
    let value = told
        .await
        .map_err(|_| failed("no answer in time".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    Ok(Certificates::Hashes(vec![hash(&value)?]))
}

fn is_this_machine(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    ["localhost", "127.", "[::1]"].iter().any(|local| host.starts_with(local))
}

fn hash(text: &str) -> Result<[u8; 32], JoinError> {
    let bytes = STANDARD.decode(text).ok();
    let hash = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    hash.ok_or_else(|| JoinError::Hash(text.to_owned()))
}

#[derive(Deserialize)]
struct Identity {
    value: String,
}

/// `GET /v1/identity`, which a gateway answers on its plain listener on loopback alone.
async fn ask_identity(address: &str) -> io::Result<String> {
    const ANSWER_BYTES_MAX: u64 = 16 * 1024;
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("GET /v1/identity HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    if !head.starts_with("HTTP/1.1 200 ") {
        let status = head.lines().next().unwrap_or("no answer").to_owned();
        return Err(io::Error::other(status));
    }
    let identity: Identity = serde_json::from_str(body).map_err(io::Error::other)?;
    Ok(identity.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_asked_for_its_certificate() {
        for url in ["https://localhost:4433", "https://127.0.0.1", "https://[::1]:1", "localhost"] {
            assert!(is_this_machine(url), "{url}");
        }
        for url in ["https://gateway.example", "https://10.0.0.1:4433"] {
            assert!(!is_this_machine(url), "{url}");
        }
    }

    #[test]
    fn a_hash_is_checked() {
        assert_eq!(hash(&STANDARD.encode([7; 32])).unwrap(), [7; 32]);
        assert!(hash("short").unwrap_err().to_string().contains("--cert-hash short"));
    }
}
