//! The gateway in this process, met over real sockets by clients without any cleverness.

mod amplification;
mod balancer;
mod bounds;
mod certificates;
mod cluster;
#[cfg(target_os = "linux")]
mod crowds;
mod downgrade;
mod drain;
mod entering;
mod garbage;
mod halves;
mod hostile;
mod http;
mod jwks;
mod limits;
mod malformed;
mod migration;
mod origins;
mod priority;
mod raw;
mod reach;
mod redis;
mod reload;
mod secrets;
mod setup;
mod silence;
mod slow;
mod slow_reader;
mod split;
