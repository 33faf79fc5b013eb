//! The client against a real gateway in the same process, on ports the system chose.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod events;
mod refusals;
mod relay;
mod room;
mod setup;
mod survival;
mod token;
mod turned_away;
