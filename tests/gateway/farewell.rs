//! Those who leave as slowly as QUIC lets them: a connection that is closed is kept for three times
//! as long as an answer of the peer's may take, by the peer's own account.

use std::net::Ipv4Addr;
use std::sync::Arc;

use quinn::crypto::{ClientConfig, Session};
use quinn_proto::ConnectError;
use quinn_proto::transport_parameters::TransportParameters;

use super::setup::{any_certificate, quic_crypto, soon};
use super::siege::Besieged;

/// Claims that its answers may take as long as QUIC can say: 16.383 s.
struct Slow<C>(Arc<C>);

/// `max_ack_delay`, its length and its value (RFC 9000, section 18.2).
const SLOWEST: [u8; 4] = [0x0b, 2, 0x7f, 0xff];

impl<C: ClientConfig + 'static> ClientConfig for Slow<C> {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        name: &str,
        parameters: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let mut bytes = Vec::new();
        parameters.write(&mut bytes);
        bytes.extend(SLOWEST);
        let slow = TransportParameters::read(quinn::Side::Server, &mut &bytes[..]).unwrap();
        self.0.clone().start_session(version, name, &slow)
    }
}

fn slow() -> quinn::ClientConfig {
    quinn::ClientConfig::new(Arc::new(Slow(Arc::new(quic_crypto()))))
}

/// How many of so many handshakes from this address end well. Each is closed at once.
async fn come_and_go(served: &Besieged, from: Ipv4Addr, times: usize) -> usize {
    let endpoint = quinn::Endpoint::client((from, 0).into()).unwrap();
    let mut came = 0;
    for _ in 0..times {
        let dialled = endpoint.connect_with(slow(), served.secure(), "localhost").unwrap();
        match soon(dialled).await {
            Ok(connection) => {
                // Before this QUIC would not have to wait for such answers.
                soon(connection.accept_uni()).await.unwrap();
                connection.close(0_u32.into(), b"");
                came += 1;
            }
            Err(error) => {
                assert!(format!("{error:?}").contains("CONNECTION_REFUSED"), "{error:?}");
            }
        }
    }
    came
}

#[tokio::test]
async fn whoever_comes_and_goes_has_what_one_address_may_have() {
    let served = Besieged::start(&["limits.ungreeted_per_address=8"]).await;
    let came = come_and_go(&served, Ipv4Addr::new(127, 0, 3, 1), 400).await;
    served.is_well().await;
    assert_eq!(came, 8);
}

#[tokio::test]
async fn all_who_left_are_no_more_than_may_be_there() {
    let served = Besieged::start(&["limits.connections=8", "limits.ungreeted=8"]).await;
    let mut came = 0;
    for last in 1..=10 {
        came += come_and_go(&served, Ipv4Addr::new(127, 0, 3, last), 4).await;
    }
    assert!(came <= 16, "{came} of 40");
    // The other door is open.
    served.websocket().await.answers().await;
}

#[tokio::test]
async fn who_leaves_like_others_can_soon_come_again() {
    let served = Besieged::start(&["limits.ungreeted_per_address=2"]).await;
    let endpoint = quinn::Endpoint::client((Ipv4Addr::new(127, 0, 3, 1), 0).into()).unwrap();
    let mut came = 0;
    while came < 12 {
        let dial = endpoint.connect_with(any_certificate(), served.secure(), "localhost").unwrap();
        if let Ok(connection) = soon(dial).await {
            connection.close(0_u32.into(), b"");
            came += 1;
        }
    }
    served.is_well().await;
}
