//! The integration tests: one binary, real sockets on ports the system chose, one behaviour a
//! file.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod any_certificate;
mod architecture;
mod command;
mod gateway;
mod process;
mod tokens;
