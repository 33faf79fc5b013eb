//! What is refused, and how it is told.

use handover_client::{
    Certificates, Client, Codec, CommandError, ConnectError, Error, LogLane, Options, PeerId,
    SendError, Transport,
};

use crate::setup::{KINDS, Served, json, message, soon};

#[tokio::test]
async fn a_refused_send_is_told_and_the_others_go_on() {
    let served = Served::start().await;
    for (transport, codec) in KINDS {
        let (one, other) =
            (served.client(transport, codec).await, served.client(transport, codec).await);
        let one = soon(one.join("refused", None)).await.unwrap();
        let other = soon(other.join("refused", None)).await.unwrap();
        let stranger = PeerId::parse("stranger").unwrap();
        let lane = LogLane::Bulk;
        let mut sendings = Vec::new();
        for n in 0..6 {
            let to = (n % 2 == 1).then_some(stranger);
            sendings.push(one.queue(lane, to, json(&n.to_string())).await.unwrap());
        }
        for (n, sending) in sendings.into_iter().enumerate() {
            match soon(sending).await {
                Ok(_) => assert_eq!(n % 2, 0),
                Err(Error::Send(SendError::Refused { .. })) => assert_eq!(n % 2, 1),
                other => panic!("{n}: {other:?}"),
            }
        }
        for n in [0, 2, 4] {
            assert_eq!(message(&other).await, n.to_string());
        }
    }
    served.gateway.drain().await;
}

#[tokio::test]
async fn what_the_gateway_would_not_take_is_not_sent() {
    let served = Served::start().await;
    let client = served.client(Transport::WebSocket, Codec::Json).await;
    let room = soon(client.join("limits", None)).await.unwrap();
    let long = json(&format!("\"{}\"", "x".repeat(66_000)));
    let refused = soon(room.send(LogLane::Bulk, long.clone())).await;
    assert_eq!(refused, Err(Error::Command(CommandError::TooLarge)));
    assert_eq!(room.ephemeral(None, long).await, Err(Error::Command(CommandError::TooLarge)));
    let again = soon(client.join("limits", None)).await.map(drop);
    assert_eq!(again, Err(Error::Command(CommandError::AlreadyInRoom)));
    let not_an_object = soon(client.join("other", Some(json("1")))).await.map(drop);
    assert_eq!(not_an_object, Err(Error::Command(CommandError::NotAnObject)));
    assert!(matches!(client.join(" x", None).await, Err(Error::Name(_))));
    // The largest that fits does fit.
    let fits = json(&format!("\"{}\"", "x".repeat(65_000)));
    soon(room.send(LogLane::Bulk, fits)).await.unwrap();
    served.gateway.drain().await;
}

#[tokio::test]
async fn a_gateway_with_another_certificate_is_not_trusted() {
    let served = Served::start().await;
    for transport in [Transport::WebTransport, Transport::WebSocket, Transport::Auto] {
        for certificates in [Certificates::System, Certificates::Hashes(vec![[7; 32]])] {
            let options = Options { transport, certificates, ..Options::default() };
            let refused = soon(Client::connect(&served.url(), options)).await;
            // A system without any authority says so.
            let named =
                matches!(refused, Err(ConnectError::Dial(_) | ConnectError::Certificates(_)));
            assert!(named, "{transport:?}: {refused:?}");
        }
        let certificates = Certificates::DangerouslyAny;
        let options = Options { transport, certificates, ..Options::default() };
        soon(soon(Client::connect(&served.url(), options)).await.unwrap().close()).await;
    }
    served.gateway.drain().await;
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let served = Served::start().await;
    let (url, options) = (served.url(), served.options(Transport::WebSocket, Codec::Json));
    served.gateway.drain().await;
    let refused = soon(Client::connect(&url, options)).await;
    assert!(matches!(refused, Err(ConnectError::Dial(_))), "{refused:?}");
}

#[tokio::test]
async fn plain_http_is_a_websocket() {
    let served = Served::start().await;
    let client = soon(Client::connect(&served.plain_url(), Options::default())).await.unwrap();
    soon(client.ping()).await.unwrap();
    let options = Options { transport: Transport::WebTransport, ..Options::default() };
    let refused = soon(Client::connect(&served.plain_url(), options)).await;
    assert!(matches!(refused, Err(ConnectError::Address { .. })));
    soon(client.close()).await;
    served.gateway.drain().await;
}
