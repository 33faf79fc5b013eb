//! The gateway in this process, met over real sockets by clients without any cleverness.

mod amplification;
mod certificates;
mod cluster;
mod downgrade;
mod drain;
mod entering;
mod garbage;
mod hostile;
mod jwks;
mod limits;
mod priority;
mod redis;
mod reload;
mod secrets;
mod setup;
mod silence;
mod slow_reader;
