//! The gateway in this process, met over real sockets by clients without any cleverness.

mod amplification;
mod balancer;
mod bounds;
mod certificates;
mod cluster;
mod downgrade;
mod drain;
mod entering;
mod garbage;
mod hostile;
mod http;
mod jwks;
mod limits;
mod migration;
mod origins;
mod priority;
mod reach;
mod redis;
mod reload;
mod secrets;
mod setup;
mod silence;
mod slow_reader;
