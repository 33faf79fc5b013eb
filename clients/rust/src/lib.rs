//! Client of the Handover signaling gateway for tokio.
//!
//! A [`Client`] is one session that outlives its connections: it dials WebTransport first and
//! WebSocket 300 ms later, comes back with a back-off, resumes, repeats what was not
//! answered, and lets every message through once and in order. A [`Room`] is a membership.
//!
//! ```no_run
//! use handover_client::{Client, LogLane, Options, RoomEvent};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("https://gateway.example", Options::default()).await?;
//! let room = client.join("lobby", None).await?;
//! room.send_value(LogLane::Bulk, &serde_json::json!({"kind": "chat", "text": "hello"})).await?;
//! while let Some(event) = room.next_event().await {
//!     if let RoomEvent::Message { from, body, .. } = event {
//!         println!("{from}: {}", body.as_str());
//!     }
//! }
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What decides and what moves bytes
//! Everything that can be decided without a socket is in
//! [`handover_protocol::session::client`]; one task per client owns that, the connections and
//! the timers, and ends with the last handle or with [`Client::close`].

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod address;
mod client;
mod clock;
mod command;
mod dial;
mod driver;
mod endpoint;
mod error;
mod events;
mod options;
mod room;
mod tls;
mod token;
mod transport;
#[cfg(all(feature = "watch-network", target_os = "linux"))]
mod watch;
#[cfg(not(all(feature = "watch-network", target_os = "linux")))]
#[path = "watch_nothing.rs"]
mod watch;

pub use client::{Client, ClientEvent, State};
pub use endpoint::Endpoint;
pub use error::{ConnectError, DialError, Error};
pub use handover_protocol::session::client::{
    Attention, CommandError, Ended, Receipt, RequestError, ResetCause, RoomEvent, SendError,
};
pub use handover_protocol::wire::message::{IceServer, Member};
pub use handover_protocol::wire::{Codec, Json, LogLane, PeerId, RoomName, UserId};
pub use options::{Certificates, Options, Transport};
pub use room::{Room, Sending};
pub use token::Token;
pub use transport::Kind;
