//! Holds `docs/protocol.md` to the code: its examples are real messages, its tables complete.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use handover_protocol::limits::Limits;
use handover_protocol::wire::message::LeaveReason;
use handover_protocol::wire::{Codec, close, error, frame};
use serde_json::value::RawValue;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn document() -> String {
    std::fs::read_to_string(root().join("docs/protocol.md")).expect("the protocol's document")
}

fn byte(hex: &str) -> Option<u8> {
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

/// The bytes at the start of a line, and what follows them.
fn leading_bytes(mut line: &str) -> (Vec<u8>, &str) {
    let mut bytes = Vec::new();
    while let Some((word, rest)) = line.split_once(' ') {
        let Some(byte) = byte(word) else { break };
        bytes.push(byte);
        line = rest;
    }
    match byte(line) {
        Some(last) => (bytes.into_iter().chain([last]).collect(), ""),
        None => (bytes, line),
    }
}

/// A line of an exchange: who says it on which stream, the bytes before the payload, the payload.
struct Said<'a> {
    by_client: bool,
    stream: Option<&'a str>,
    prefix: Vec<u8>,
    payload: &'a str,
}

fn said(line: &str) -> Option<Said<'_>> {
    let (speaker, rest) = line.split_once("> ")?;
    let (who, stream) = match speaker.split_once(' ') {
        Some((who, stream)) => (who, Some(stream)),
        None => (speaker, None),
    };
    let by_client = match who {
        "C" => true,
        "S" => false,
        _ => return None,
    };
    let (prefix, payload) = leading_bytes(rest);
    Some(Said { by_client, stream, prefix, payload })
}

#[test]
fn every_line_of_the_exchanges_is_a_message() {
    let document = document();
    let mut lines = 0;
    for Said { by_client, stream, prefix, payload } in document.lines().filter_map(said) {
        lines += 1;
        let bytes = payload.as_bytes();
        let encoded = if by_client {
            let message = Codec::Json.decode_client(bytes).expect(payload);
            Codec::Json.encode_client(&message)
        } else {
            let message = Codec::Json.decode_server(bytes).expect(payload);
            Codec::Json.encode_server(&message)
        };
        assert_eq!(std::str::from_utf8(&encoded.payload()), Ok(payload));
        let mut expected = BytesMut::new();
        if matches!(stream, Some("signal" | "bulk")) {
            frame::put_prefix(&mut expected, bytes.len());
        }
        assert_eq!(prefix, expected, "the length before {payload}");
    }
    assert!(lines > 40, "the exchanges were found: {lines}");
}

#[test]
fn the_bytes_explained_are_those_of_the_vectors() {
    let file = root().join("protocol/vectors/messages.json");
    let vectors = std::fs::read_to_string(file).expect("the vectors");
    let vectors: serde_json::Value = serde_json::from_str(&vectors).expect("JSON");
    let document = document();
    let mut sections = 0;
    for section in document.split("```bincode ").skip(1) {
        sections += 1;
        let (name, rest) = section.split_once('\n').expect("a name");
        let (block, _) = rest.split_once("```").expect("an end");
        let explained: String = block
            .lines()
            .flat_map(|line| leading_bytes(line).0)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut named = vectors.as_array().expect("an array").iter().filter(|v| v["name"] == name);
        let vector = named.next().expect(name);
        assert_eq!(vector["bincode"], explained, "{name}");
        let json = vector["json"].as_str().expect("a text");
        assert!(document.contains(&format!("`{json}`")), "{json}");
    }
    assert!(sections > 0, "the sections were found");
}

#[test]
fn the_tables_are_complete() {
    let document = document();
    let has = |text: String| assert!(document.contains(&text), "{text:?} is missing");
    for (number, code) in error::ALL.into_iter().enumerate() {
        has(format!("\n| `{code}` |"));
        assert!(
            [" ", "\n"].iter().any(|space| document.contains(&format!("{space}{number} `{code}`"))),
            "the number of {code}"
        );
    }
    for code in close::ALL {
        has(format!("\n| {} | `{code}` |", code.number()));
    }
    let Limits { message_bytes, metadata_bytes, ephemeral_bytes, room_bytes, rooms } =
        Limits::default();
    let thousands = |n: u64| match n {
        1_000.. => format!("{},{:03}", n / 1_000, n % 1_000),
        _ => n.to_string(),
    };
    for (name, value) in [
        ("message_bytes", message_bytes),
        ("metadata_bytes", metadata_bytes),
        ("ephemeral_bytes", ephemeral_bytes),
        ("room_bytes", room_bytes),
        ("rooms", rooms),
    ] {
        has(format!("\n| `{name}` | {} |", thousands(value)));
    }
    for codec in Codec::ALL {
        has(format!("`{}`", codec.subprotocol()));
    }
    let reason = serde_json::to_string(&LeaveReason::Expired).expect("a word");
    has(format!("`{}` (the resume window passed)", reason.trim_matches('"')));
}

/// Each vector's message has a row with its number among the variants, and a row with its fields.
#[test]
fn every_message_is_described() {
    let file = root().join("protocol/vectors/messages.json");
    let vectors = std::fs::read_to_string(file).expect("the vectors");
    let vectors: serde_json::Value = serde_json::from_str(&vectors).expect("JSON");
    let document = document();
    let part = |from: &str, to: &str| {
        let (_, rest) = document.split_once(from).expect(from);
        rest.split_once(to).expect(to).0
    };
    let described = [
        (
            "client",
            part("### From the client", "### From"),
            part("### Variants from the client", "###"),
        ),
        (
            "server",
            part("### From the gateway", "## Rooms"),
            part("### Variants from the gateway", "###"),
        ),
    ];
    for vector in vectors.as_array().expect("an array") {
        let text = vector["json"].as_str().expect("a text");
        let message: BTreeMap<&str, &RawValue> = serde_json::from_str(text).expect("JSON");
        let (_, fields, variants) = described
            .into_iter()
            .find(|(direction, ..)| vector["direction"] == *direction)
            .expect("a direction");
        let kind = message["type"].get().trim_matches('"');
        let row = |table: &str, start: String| {
            table.lines().find(|line| line.starts_with(&start)).map(str::to_owned).expect(&start)
        };
        let fields = row(fields, format!("| `{kind}` |"));
        for name in message.keys().filter(|name| **name != "type") {
            assert!(fields.contains(&format!("`{name}`")), "`{name}` of {kind}");
        }
        let hex = vector["bincode"].as_str().expect("a text");
        let number = byte(&hex[..2]).expect("a byte");
        row(variants, format!("| {number} | `{kind}` |"));
    }
}
