//! Handover: a signaling gateway for real-time apps.
//!
//! `protocol` decides, this crate moves bytes. [`gateway`] builds everything in order and owns
//! every task; `docs/architecture.md` follows a message through it.

// But for `turns/slice.rs`.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod auth;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connection;
pub mod error;
pub mod gateway;
pub mod http;
pub mod join;
pub mod load;
pub mod pressure;
pub mod quality;
pub mod router;
pub mod telemetry;
pub mod tls;
pub mod token;
pub mod transport;
pub mod trust;
pub mod turns;
