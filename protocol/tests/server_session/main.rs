//! The gateway's end of a connection, one test for each rule of the protocol, with real rooms
//! behind it and messages as a client would write them.

mod bench;
mod flow;
mod grants;
mod greeting;
mod limits;
mod membership;
mod order;
mod refused;
mod resets;
mod resume;
mod seq;
