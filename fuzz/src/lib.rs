//! What strangers reach, given anything: each module takes bytes and panics if something does
//! not hold that must.
//!
//! `fuzz/run` builds them with coverage and lets libFuzzer choose the bytes; `cargo test` runs
//! the corpus it left.

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is what a finding is")]

pub mod codec;
pub mod room;
pub mod session;

/// Runs the inputs in `files`.
pub fn replay(
    files: impl Iterator<Item = impl AsRef<std::path::Path>>,
    run: impl Fn(&[u8]),
) -> std::io::Result<()> {
    for file in files {
        run(&std::fs::read(file)?);
    }
    Ok(())
}
