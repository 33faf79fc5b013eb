//! What a change of network does to a running session, measured. Run by `tests/network/run`,
//! which gives it namespaces of its own.
//!
//! Fails on what must never happen: a message lost or repeated, a connection not kept where it
//! can be, a session that does not come back, and an interruption of more than three times the
//! sum of the target and of what the path did before. A target itself is only reported as met or MISSED: the clients, the gateway and the
//! links share this machine's cores with whatever else runs on it.

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "this measures, and carries packets on threads")]

#[cfg(target_os = "linux")]
mod linux;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    println!("network namespaces are Linux's\n0 passed, 1 failed");
    ExitCode::FAILURE
}
