//! Handover's signaling protocol, version 1, without any I/O.
//!
//! This crate decides; the gateway and the clients move bytes. Nothing here opens a socket,
//! reads a clock, draws a random number or spawns a task: time comes in as [`time::Time`],
//! randomness as finished identifiers, and what has to happen comes out as values.
//!
//! # Map
//! - [`wire`]: what crosses the wire: messages, codecs, close codes, error codes, identifiers.
//! - [`room`]: one room: its members, its two ordered logs, retention and recovery.
//! - [`session`]: both ends of a connection: [`session::server`] and its mirror
//!   [`session::client`], and the outbox between a session and its transport.
//! - [`limits`]: every bound, in one table.
//! - [`pace`]: how fast a session may go.
//! - `sim` (a feature): chance, links and a gateway made up, for simulations.
//!
//! # The one contract of every state machine
//! A `handle_*` call gives it one input (and the time); afterwards the caller drains its
//! `poll_*` outputs until they return `None`. A state machine never calls back, never blocks
//! and keeps its invariants after every single call. `poll_timeout` names the next instant at
//! which `handle_timeout` is due.
//!
//! # Invariants
//! - A log's offsets are contiguous; an entry never changes after `append`.
//! - A cursor only ever moves forward within one epoch.
//! - A body is the sender's JSON text, byte for byte; nothing here re-serialises it.
//! - Every buffer a peer can fill is bounded by [`limits`].

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod limits;
pub mod pace;
pub mod room;
pub mod session;
#[cfg(feature = "sim")]
pub mod sim;
pub mod time;
pub mod wire;
