//! How to connect.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use handover_protocol::session::client::Attention;
use handover_protocol::wire::Codec;

use crate::endpoint::Endpoint;
use crate::token::Token;

/// Which transports may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// WebTransport with a head start, WebSocket racing after it.
    #[default]
    Auto,
    /// WebTransport alone.
    WebTransport,
    /// WebSocket alone.
    WebSocket,
}

/// Which certificates of a gateway are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Certificates {
    /// Those that the system's certificate authorities signed.
    #[default]
    System,
    /// Those that an authority in this PEM file signed.
    AuthorityFile(PathBuf),
    /// Those whose SHA-256 hash is one of these, whatever name they are for. This is how a
    /// gateway with a self-made certificate is trusted.
    Hashes(Vec<[u8; 32]>),
    /// Any at all. **Whoever is between here and the gateway can read and change everything.**
    /// For experiments on a machine of one's own.
    DangerouslyAny,
}

/// How a [`crate::Client`] connects and behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which transports may be used.
    pub transport: Transport,
    /// How messages are written. Rooms are shared between both.
    pub codec: Codec,
    /// Which certificates are trusted.
    pub certificates: Certificates,
    /// A token, where the gateway wants one. [`crate::Client::refresh`] brings a newer one; with
    /// [`Token::from_fn`] that happens by itself.
    pub token: Option<Token>,
    /// Name and version of the application, for the gateway's operator.
    pub agent: Option<String>,
    /// How soon a silent connection is doubted. [`crate::Client::set_attention`] changes it.
    pub attention: Attention,
    /// Keep trying when the gateway cannot be reached at first, instead of returning an error
    /// from [`crate::Client::connect`].
    pub retry: bool,
    /// How long WebSocket waits for WebTransport before it races it. It does not wait for one that
    /// has just gone silent.
    pub head_start: Duration,
    /// How long one attempt to connect may take, and asking for a token.
    pub dial_timeout: Duration,
    /// How long [`crate::Client::close`] waits for what was sent before it.
    pub close_timeout: Duration,
    /// Bytes that may wait to be accepted, per room and lane.
    pub outbox_bytes: usize,
    /// Events of a room that may wait to be taken.
    pub room_events: usize,
    /// Their bytes.
    pub room_event_bytes: usize,
    /// How long a room whose events are not taken may hold the client up, before they are let
    /// go and the room is reset with [`crate::ResetCause::Lagged`].
    pub stall_timeout: Duration,
    /// Notice by itself that the network changed, as if [`crate::Client::network_changed`] had
    /// been called: whenever another address of this machine leads to the gateway. On Linux,
    /// with the feature `watch-network`; elsewhere the application has to say so.
    pub watch_network: bool,
    /// A UDP socket shared by several clients; each has its own if absent.
    pub endpoint: Option<Endpoint>,
    /// Where to connect instead of to the addresses of the host in the URL, which stays the
    /// name that is asked for and that the certificate has to be for. For a proxy on the way,
    /// or a gateway that has no name yet.
    pub connect_to: Option<SocketAddr>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            transport: Transport::Auto,
            codec: Codec::Bincode,
            certificates: Certificates::System,
            token: None,
            agent: Some(concat!("handover-client/", env!("CARGO_PKG_VERSION")).to_owned()),
            attention: Attention::IDLE,
            retry: false,
            head_start: Duration::from_millis(300),
            dial_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(2),
            outbox_bytes: 4 << 20,
            room_events: 4_096,
            room_event_bytes: 8 << 20,
            stall_timeout: Duration::from_secs(5),
            watch_network: true,
            endpoint: None,
            connect_to: None,
        }
    }
}
