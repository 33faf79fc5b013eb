//! What a message costs to read and to write: time by criterion, bytes in a table before it.
//!
//! Two real bodies: an offer with video, audio and a data channel as Chromium writes it, and
//! one of its ICE candidates. Beside the codecs stand two floors: a copy of the same bytes,
//! and `serde_json::Value` for the same text. The difference to the copy is what the codec
//! costs; `Value` is what a gateway would pay that takes bodies apart.

#![allow(clippy::disallowed_methods, reason = "a bench reads time and its environment itself")]

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use handover_protocol::wire::id::NameError;
use handover_protocol::wire::message::{Message, Send};
use handover_protocol::wire::{
    ClientMessage, Codec, Epoch, Json, LogLane, PeerId, RoomName, ServerMessage,
};

const BODIES: [(&str, &str); 2] = [
    ("offer", include_str!("../data/offer.json")),
    ("candidate", include_str!("../data/candidate.json")),
];

fn main() {
    let cases = match cases() {
        Ok(cases) => cases,
        Err(error) => {
            eprintln!("the bench's own messages are not valid: {error}");
            std::process::exit(1);
        }
    };
    print_sizes(&cases);
    let mut criterion = Criterion::default().configure_from_args();
    if std::env::var_os("BENCH_SHORT").is_some() {
        criterion = criterion
            .sample_size(10)
            .warm_up_time(Duration::from_millis(50))
            .measurement_time(Duration::from_millis(200));
    }
    for case in &cases {
        decode(&mut criterion, case);
        encode(&mut criterion, case);
    }
    criterion.final_summary();
}

/// One body as a client sends it and as the gateway passes it on.
struct Case {
    name: &'static str,
    body: &'static str,
    up: ClientMessage,
    down: ServerMessage,
}

fn cases() -> Result<Vec<Case>, Box<dyn std::error::Error>> {
    BODIES.into_iter().map(|(name, body)| Ok(case(name, body)?)).collect()
}

fn case(name: &'static str, body: &'static str) -> Result<Case, Invalid> {
    let room = RoomName::parse("daily stand-up")?;
    let (from, to) = (PeerId::parse("Zk3vQ8sXw1aB")?, PeerId::parse("p0L_mN7-rT2y")?);
    let json = Json::parse(body.as_bytes()).map_err(|_| Invalid::Body)?;
    let lane = LogLane::Signal;
    let up = Send { room: room.clone(), lane, seq: 17, to: Some(to), body: json.clone() };
    let down = Message {
        room,
        lane,
        epoch: Epoch::parse("h4Xq0bTz")?,
        offset: 1_234,
        from,
        to: Some(to),
        body: json,
    };
    Ok(Case { name, body, up: ClientMessage::Send(up), down: ServerMessage::Message(down) })
}

#[derive(Debug, thiserror::Error)]
enum Invalid {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("a body is not JSON")]
    Body,
}

fn print_sizes(cases: &[Case]) {
    println!("bytes per message");
    println!(
        "{:<12} {:>8} {:>8} {:>14} {:>18}",
        "body", "alone", "codec", "send (in)", "message (out)"
    );
    for Case { name, body, up, down } in cases {
        for codec in Codec::ALL {
            let (up, down) = (codec.encode_client(up).len(), codec.encode_server(down).len());
            println!("{name:<12} {:>8} {:>8} {up:>14} {down:>18}", body.len(), codec.name());
        }
    }
    println!();
}

fn decode(criterion: &mut Criterion, case: &Case) {
    let mut group = criterion.benchmark_group(format!("decode/{}", case.name));
    for codec in Codec::ALL {
        let payload = codec.encode_client(&case.up).payload();
        group.throughput(Throughput::Bytes(payload.len() as u64));
        group.bench_function(codec.name(), |bencher| {
            bencher.iter(|| codec.decode_client(black_box(&payload)));
        });
    }
    let text = Codec::Json.encode_client(&case.up).payload();
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("floor: copy", |bencher| {
        bencher.iter(|| Bytes::copy_from_slice(black_box(&text)));
    });
    group.bench_function("reference: serde_json::Value", |bencher| {
        bencher.iter(|| serde_json::from_slice::<serde_json::Value>(black_box(&text)));
    });
    group.finish();
}

fn encode(criterion: &mut Criterion, case: &Case) {
    let mut group = criterion.benchmark_group(format!("encode/{}", case.name));
    for codec in Codec::ALL {
        group.throughput(Throughput::Bytes(codec.encode_server(&case.down).len() as u64));
        group.bench_function(codec.name(), |bencher| {
            bencher.iter(|| codec.encode_server(black_box(&case.down)));
        });
    }
    let text = Codec::Json.encode_server(&case.down).payload();
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("floor: copy", |bencher| {
        bencher.iter(|| Bytes::copy_from_slice(black_box(&text)));
    });
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    group.bench_function("reference: serde_json::Value", |bencher| {
        bencher.iter(|| serde_json::to_vec(black_box(&value)));
    });
    group.finish();
}
