//! What crosses the wire, and nothing about how it gets there.

pub mod close;
pub mod codec;
pub mod error;
pub mod frame;
pub mod id;
pub mod json;
pub mod message;

pub use close::CloseCode;
pub use codec::{Codec, DecodeError};
pub use error::ErrorCode;
pub use id::{
    Epoch, Lane, LogLane, PeerId, PerLane, Position, RoomName, Secret, SessionId, UserId,
};
pub use json::Json;
pub use message::{ClientMessage, ServerMessage};
