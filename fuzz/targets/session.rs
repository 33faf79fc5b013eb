//! `fuzz/run SECONDS session`. In an ordinary build: runs the inputs in the files named.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| handover_fuzz::session::run(input));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    handover_fuzz::replay(std::env::args_os().skip(1), handover_fuzz::session::run)
}
