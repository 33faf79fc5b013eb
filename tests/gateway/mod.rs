//! The gateway in this process, met over real sockets by clients without any cleverness.

mod drain;
mod entering;
mod garbage;
mod jwks;
mod priority;
mod setup;
mod silence;
mod slow_reader;
