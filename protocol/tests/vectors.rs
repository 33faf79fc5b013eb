//! The golden vectors: the exact bytes of every message in both codecs, and what the decoders
//! make of everything else. Clients in other languages read the same files.
//!
//! `HANDOVER_WRITE_VECTORS=1 cargo test -p handover-protocol --test vectors` writes
//! `messages.json` anew. A difference in a line that was there before is a new protocol version.

#[path = "vectors/messages.rs"]
mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use handover_protocol::wire::message::Reference;
use handover_protocol::wire::{ClientMessage, Codec, DecodeError, ServerMessage};
use serde::{Deserialize, Serialize};

/// One message in both codecs.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Vector {
    name: String,
    direction: Direction,
    /// The JSON text.
    json: String,
    /// The bincode bytes in hexadecimal.
    bincode: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Direction {
    /// From client to gateway.
    Client,
    /// From gateway to client.
    Server,
}

/// A payload: JSON as `text` where it is text, everything else as `hex`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    name: String,
    direction: Direction,
    codec: String,
    text: Option<String>,
    hex: Option<String>,
    /// The message of `messages.json` that it reads as.
    #[serde(default)]
    means: Option<String>,
    /// `unparseable`, or the code it is refused with.
    #[serde(default)]
    outcome: Option<String>,
    /// What the refusal refers to.
    #[serde(default)]
    reference: Reference,
}

impl Input {
    fn codec(&self) -> Codec {
        Codec::from_query(&self.codec).expect("a codec")
    }

    fn bytes(&self) -> Vec<u8> {
        match (&self.text, &self.hex) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(hex)) => from_hex(hex),
            _ => panic!("{}: either text or hex", self.name),
        }
    }
}

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(file)
}

fn read<T: for<'a> Deserialize<'a>>(file: &str) -> Vec<T> {
    let text = std::fs::read_to_string(path(file)).expect("the file of vectors");
    serde_json::from_str(&text).expect("vectors")
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    assert!(digits.len().is_multiple_of(2), "half a byte in {hex}");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn encoded() -> Vec<Vector> {
    let vector = |name, direction, encode: &dyn Fn(Codec) -> Vec<u8>| Vector {
        name,
        direction,
        json: String::from_utf8(encode(Codec::Json)).expect("JSON is text"),
        bincode: to_hex(&encode(Codec::Bincode)),
    };
    let client = messages::client().into_iter().map(|(name, message)| {
        vector(name, Direction::Client, &|codec| codec.encode_client(&message).payload().into())
    });
    let server = messages::server().into_iter().map(|(name, message)| {
        vector(name, Direction::Server, &|codec| codec.encode_server(&message).payload().into())
    });
    client.chain(server).collect()
}

#[test]
fn every_message_encodes_to_its_bytes() {
    let encoded = encoded();
    if std::env::var_os("HANDOVER_WRITE_VECTORS").is_some() {
        let lines: Vec<String> = encoded
            .iter()
            .map(|vector| serde_json::to_string(vector).expect("a vector has a JSON form"))
            .collect();
        std::fs::write(path("messages.json"), format!("[\n{}\n]\n", lines.join(",\n")))
            .expect("write the vectors");
    }
    let golden = read::<Vector>("messages.json");
    for (golden, encoded) in golden.iter().zip(&encoded) {
        assert_eq!(golden, encoded);
    }
    assert_eq!(golden.len(), encoded.len());
    let names: BTreeSet<_> = golden.iter().map(|v| (v.direction, v.name.as_str())).collect();
    assert_eq!(names.len(), golden.len(), "names are unique");
}

#[test]
fn the_bytes_of_every_message_decode_to_it() {
    let client: BTreeMap<_, _> = messages::client().into_iter().collect();
    let server: BTreeMap<_, _> = messages::server().into_iter().collect();
    for Vector { name, direction, json, bincode } in read("messages.json") {
        for (codec, bytes) in
            [(Codec::Json, json.into_bytes()), (Codec::Bincode, from_hex(&bincode))]
        {
            match direction {
                Direction::Client => {
                    assert_eq!(codec.decode_client(&bytes).as_ref(), Ok(&client[&name]), "{name}");
                }
                Direction::Server => {
                    assert_eq!(codec.decode_server(&bytes).as_ref(), Ok(&server[&name]), "{name}");
                }
            }
        }
    }
}

#[test]
fn other_writings_of_a_message_read_as_the_same() {
    let client: BTreeMap<_, _> = messages::client().into_iter().collect();
    let server: BTreeMap<_, _> = messages::server().into_iter().collect();
    for input in read::<Input>("readings.json") {
        let (codec, bytes) = (input.codec(), input.bytes());
        let means = input.means.expect("what it means");
        match input.direction {
            Direction::Client => {
                assert_eq!(codec.decode_client(&bytes).as_ref(), Ok(&client[&means]), "{means}");
            }
            Direction::Server => {
                assert_eq!(codec.decode_server(&bytes).as_ref(), Ok(&server[&means]), "{means}");
            }
        }
    }
}

#[test]
fn what_breaks_the_rules_is_refused_as_documented() {
    for input in read::<Input>("refusals.json") {
        let (codec, bytes) = (input.codec(), input.bytes());
        let error = match input.direction {
            Direction::Client => codec.decode_client(&bytes).map(drop),
            Direction::Server => codec.decode_server(&bytes).map(drop),
        };
        let outcome = match error.expect_err(&input.name) {
            DecodeError::Unparseable { .. } => ("unparseable", Reference::default()),
            DecodeError::Refused { code, reference, message, is_hello } => {
                let hello = match codec {
                    Codec::Json => bytes.windows(7).any(|text| text == b"\"hello\""),
                    Codec::Bincode => bytes[0] == 0,
                };
                let hello = hello && input.direction == Direction::Client;
                assert_eq!(is_hello, hello, "{}", input.name);
                assert!(message.len() < 200, "{}: a message is a short sentence", input.name);
                (code.name(), reference)
            }
        };
        let expected = (input.outcome.as_deref().expect("an outcome"), input.reference);
        assert_eq!(outcome, expected, "{}", input.name);
    }
}

/// A variant's place in its enum. A new variant does not compile until it is counted here, and
/// then is missing among the vectors until it has one.
fn client_variant(message: &ClientMessage) -> usize {
    match message {
        ClientMessage::Hello(_) => 0,
        ClientMessage::Lane { .. } => 1,
        ClientMessage::Join { .. } => 2,
        ClientMessage::Leave { .. } => 3,
        ClientMessage::Send(_) => 4,
        ClientMessage::Ephemeral { .. } => 5,
        ClientMessage::Update { .. } => 6,
        ClientMessage::Members { .. } => 7,
        ClientMessage::Ice { .. } => 8,
        ClientMessage::Refresh { .. } => 9,
        ClientMessage::Ping { .. } => 10,
        ClientMessage::Bye => 11,
    }
}

/// See [`client_variant`].
fn server_variant(message: &ServerMessage) -> usize {
    match message {
        ServerMessage::Welcome(_) => 0,
        ServerMessage::Joined(_) => 1,
        ServerMessage::Accepted(_) => 2,
        ServerMessage::MemberJoined(_) => 3,
        ServerMessage::MemberUpdated(_) => 4,
        ServerMessage::MemberLeft(_) => 5,
        ServerMessage::MemberAway(_) => 6,
        ServerMessage::MemberBack(_) => 7,
        ServerMessage::Message(_) => 8,
        ServerMessage::Position(_) => 9,
        ServerMessage::Ephemeral(_) => 10,
        ServerMessage::Reset(_) => 11,
        ServerMessage::Members(_) => 12,
        ServerMessage::Quality(_) => 13,
        ServerMessage::Moved => 14,
        ServerMessage::Expiring { .. } => 15,
        ServerMessage::Draining { .. } => 16,
        ServerMessage::Ok { .. } => 17,
        ServerMessage::Pong { .. } => 18,
        ServerMessage::Ice(_) => 19,
        ServerMessage::Error(_) => 20,
        ServerMessage::Close(_) => 21,
    }
}

#[test]
fn every_variant_has_a_vector_and_its_documented_number() {
    let mut client = [false; 12];
    for (name, message) in messages::client() {
        let variant = client_variant(&message);
        client[variant] = true;
        let first = Codec::Bincode.encode_client(&message).payload()[0];
        assert_eq!(usize::from(first), variant, "{name}");
    }
    assert_eq!(client, [true; 12]);
    let mut server = [false; 22];
    for (name, message) in messages::server() {
        let variant = server_variant(&message);
        server[variant] = true;
        let first = Codec::Bincode.encode_server(&message).payload()[0];
        assert_eq!(usize::from(first), variant, "{name}");
    }
    assert_eq!(server, [true; 22]);
}
