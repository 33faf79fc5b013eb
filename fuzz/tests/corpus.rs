//! The corpus that fuzzing left, run without a fuzzer: whatever it found once stays found.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

use std::fs;
use std::path::Path;

fn replay(target: &str, run: impl Fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        handover_fuzz::replay([&path].into_iter(), &run).unwrap();
        inputs += 1;
    }
    assert!(inputs > 0, "the corpus of {target} is gone");
}

#[test]
fn codec() {
    replay("codec", handover_fuzz::codec::run);
}

#[test]
fn session() {
    replay("session", handover_fuzz::session::run);
}

#[test]
fn room() {
    replay("room", handover_fuzz::room::run);
}
