//! The session outlives its connections.

use std::time::Duration;

use handover_client::{
    Attention, Certificates, Client, ClientEvent, Codec, Kind, LogLane, Options, ResetCause, Room,
    RoomEvent, State, Transport,
};

use crate::relay::Relay;
use crate::setup::{KINDS, Served, json, message, next, soon, transport_of, until};

/// Quick to doubt, so that the tests are quick.
const NERVOUS: Attention = Attention {
    probe_after: Some(Duration::from_millis(100)),
    probe_timeout: Duration::from_millis(200),
};

async fn behind_relay(served: &Served, options: Options) -> (Relay, Client) {
    let relay = Relay::start(served.gateway.listening()[0]).await;
    let client = soon(Client::connect(&relay.url(), options)).await.unwrap();
    (relay, client)
}

/// A client behind a relay and a direct one, in one room.
async fn pair(served: &Served, options: Options) -> (Relay, Client, Room, Room) {
    let (relay, client) = behind_relay(served, options).await;
    let room = soon(client.join("r", None)).await.unwrap();
    let other = served.client(Transport::WebSocket, Codec::Json).await;
    let other = soon(other.join("r", None)).await.unwrap();
    (relay, client, room, other)
}

/// Sends on both lanes both ways, and checks that each arrives once and in order.
struct Traffic {
    sent: u32,
}

impl Traffic {
    async fn run(&mut self, one: &Room, other: &Room, trouble: impl FnOnce()) {
        let from = self.sent;
        let mut sendings = Vec::new();
        let mut trouble = Some(trouble);
        for n in from..from + 40 {
            if n == from + 20 {
                trouble.take().unwrap()();
            }
            for room in [one, other] {
                for lane in LogLane::ALL {
                    sendings.push(room.queue(lane, None, json(&n.to_string())).await.unwrap());
                }
            }
        }
        self.sent += 40;
        for room in [one, other] {
            let mut expected = [from; 2];
            while expected != [self.sent; 2] {
                match next(room).await {
                    RoomEvent::Message { lane, body, .. } => {
                        let n: u32 = body.to_value().unwrap();
                        assert_eq!(n, expected[lane as usize], "{lane:?}");
                        expected[lane as usize] += 1;
                    }
                    RoomEvent::Reset(cause, _) => panic!("reset: {cause:?}"),
                    _ => {}
                }
            }
        }
        for sending in sendings {
            soon(sending).await.unwrap();
        }
    }
}

#[tokio::test]
async fn broken_websockets_lose_and_repeat_nothing() {
    let served = Served::start().await;
    for codec in Codec::ALL {
        let options = served.options(Transport::WebSocket, codec);
        let (relay, client, one, other) = pair(&served, options).await;
        let mut traffic = Traffic { sent: 0 };
        for _ in 0..5 {
            traffic.run(&one, &other, || relay.break_tcp()).await;
        }
        let resumed = |state: &State| matches!(state, State::Live { resumed: true, .. });
        until(&client, resumed).await;
        soon(client.close()).await;
    }
    served.gateway.drain().await;
}

#[tokio::test]
async fn blocked_udp_moves_the_session_to_a_websocket() {
    let served = Served::start().await;
    let options = Options { attention: NERVOUS, ..served.options(Transport::Auto, Codec::Bincode) };
    let (relay, client, one, other) = pair(&served, options).await;
    assert_eq!(transport_of(&client.state().borrow()), Some(Kind::WebTransport));
    let mut traffic = Traffic { sent: 0 };
    traffic.run(&one, &other, || relay.set_udp(false)).await;
    until(&client, |state| transport_of(state) == Some(Kind::WebSocket)).await;
    relay.set_udp(true);
    // The hint spares the wait until WebTransport would be tried again by itself.
    client.network_changed().await.unwrap();
    until(&client, |state| transport_of(state) == Some(Kind::WebTransport)).await;
    traffic.run(&one, &other, || ()).await;
    soon(client.close()).await;
    served.gateway.drain().await;
}

#[tokio::test]
async fn a_move_to_where_udp_is_blocked_becomes_a_websocket() {
    let served = Served::start().await;
    // Silence alone is never doubted in the time of a test.
    let patient = Attention { probe_after: None, probe_timeout: Duration::from_secs(3_600) };
    let options = Options { attention: patient, ..served.options(Transport::Auto, Codec::Bincode) };
    let (relay, client, one, other) = pair(&served, options).await;
    assert_eq!(transport_of(&client.state().borrow()), Some(Kind::WebTransport));
    relay.set_udp(false);
    client.network_changed().await.unwrap();
    let mut traffic = Traffic { sent: 0 };
    traffic.run(&one, &other, || ()).await;
    until(&client, |state| transport_of(state) == Some(Kind::WebSocket)).await;
    soon(client.close()).await;
    served.gateway.drain().await;
}

#[tokio::test]
async fn a_webtransport_gone_silent_has_no_head_start() {
    let served = Served::start().await;
    // Who waits for a head start, or for the dial to fail, waits for longer than this test does.
    let patient = Duration::from_secs(3_600);
    let options = Options {
        head_start: patient,
        dial_timeout: patient,
        attention: NERVOUS,
        ..served.options(Transport::Auto, Codec::Bincode)
    };
    let (relay, client, one, other) = pair(&served, options).await;
    assert_eq!(transport_of(&client.state().borrow()), Some(Kind::WebTransport));
    let mut traffic = Traffic { sent: 0 };
    traffic.run(&one, &other, || relay.set_udp(false)).await;
    until(&client, |state| transport_of(state) == Some(Kind::WebSocket)).await;
    soon(client.close()).await;
    served.gateway.drain().await;
}

#[tokio::test]
async fn a_session_on_a_websocket_moves_by_itself_once_udp_gets_through() {
    let served = Served::start().await;
    let relay = Relay::start(served.gateway.listening()[0]).await;
    relay.set_udp(false);
    let options = served.options(Transport::Auto, Codec::Json);
    let client = soon(Client::connect(&relay.url(), options)).await.unwrap();
    let one = soon(client.join("r", None)).await.unwrap();
    let other = served.client(Transport::WebSocket, Codec::Bincode).await;
    let other = soon(other.join("r", None)).await.unwrap();
    let mut traffic = Traffic { sent: 0 };
    traffic.run(&one, &other, || relay.set_udp(true)).await;
    until(&client, |state| transport_of(state) == Some(Kind::WebTransport)).await;
    traffic.run(&one, &other, || ()).await;
    soon(client.close()).await;
    served.gateway.drain().await;
}

#[tokio::test]
async fn a_better_transport_that_does_not_answer_keeps_nobody_from_coming_back() {
    let served = Served::start().await;
    // Who waits for the better transport to fail waits for longer than this test does.
    let patient = Options {
        dial_timeout: Duration::from_secs(3_600),
        ..served.options(Transport::Auto, Codec::Bincode)
    };
    let relay = Relay::start(served.gateway.listening()[0]).await;
    relay.set_udp(false);
    let client = soon(Client::connect(&relay.url(), patient)).await.unwrap();
    let one = soon(client.join("r", None)).await.unwrap();
    let mut states = client.state();
    states.mark_unchanged();
    client.network_changed().await.unwrap();
    soon(states.changed()).await.unwrap();
    // The old connection may hear that it is replaced before the new one hears that it replaces it.
    soon(states.wait_for(|state| transport_of(state) == Some(Kind::WebSocket))).await.unwrap();
    // It tries the better transport again, all the while.
    soon(relay.stops(2)).await;
    relay.break_tcp();
    soon(one.send(LogLane::Bulk, json("\"back\""))).await.unwrap();
    soon(client.close()).await;
    served.gateway.drain().await;
}

#[tokio::test]
async fn a_connection_that_is_dropped_is_followed_by_the_next() {
    let served = Served::start().await;
    for (transport, codec) in KINDS {
        let options = served.options(transport, codec);
        let (_relay, client, one, other) = pair(&served, options).await;
        let mut states = client.state();
        states.mark_unchanged();
        let mut traffic = Traffic { sent: 0 };
        traffic.run(&one, &other, || ()).await;
        client.drop_connection().await.unwrap();
        traffic.run(&one, &other, || ()).await;
        let resumed = |state: &State| matches!(state, State::Live { resumed: true, .. });
        soon(states.wait_for(resumed)).await.unwrap();
        soon(client.close()).await;
    }
    served.gateway.drain().await;
}

#[tokio::test]
async fn a_new_socket_keeps_the_connection() {
    let served = Served::start().await;
    let client = served.client(Transport::WebTransport, Codec::Bincode).await;
    let mut states = client.state();
    states.mark_unchanged();
    let one = soon(client.join("r", None)).await.unwrap();
    let other = served.client(Transport::WebTransport, Codec::Json).await;
    let other = soon(other.join("r", None)).await.unwrap();
    let mut traffic = Traffic { sent: 0 };
    for _ in 0..3 {
        client.network_changed().await.unwrap();
        traffic.run(&one, &other, || ()).await;
    }
    soon(client.ping()).await.unwrap();
    assert!(!states.has_changed().unwrap(), "another connection: {:?}", states.borrow());
    soon(client.close()).await;
    served.gateway.drain().await;
}

#[tokio::test]
async fn without_udp_it_is_a_websocket_from_the_start() {
    let served = Served::start().await;
    let relay = Relay::start(served.gateway.listening()[0]).await;
    relay.set_udp(false);
    let options = served.options(Transport::Auto, Codec::Bincode);
    let client = soon(Client::connect(&relay.url(), options)).await.unwrap();
    assert_eq!(transport_of(&client.state().borrow()), Some(Kind::WebSocket));
    soon(client.close()).await;
    served.gateway.drain().await;
}

#[tokio::test]
async fn without_tcp_webtransport_does_alone() {
    let served = Served::start().await;
    let relay = Relay::start(served.gateway.listening()[0]).await;
    relay.set_tcp(false);
    let options = served.options(Transport::Auto, Codec::Bincode);
    let client = soon(Client::connect(&relay.url(), options)).await.unwrap();
    assert_eq!(transport_of(&client.state().borrow()), Some(Kind::WebTransport));
    soon(client.close()).await;
    served.gateway.drain().await;
}

#[tokio::test]
async fn what_is_said_while_away_arrives_afterwards() {
    let served = Served::start().await;
    let options = served.options(Transport::WebSocket, Codec::Bincode);
    let (relay, client, one, other) = pair(&served, options).await;
    let mut events = client.events();
    relay.set_tcp(false);
    relay.break_tcp();
    until(&client, |state| *state == State::Reconnecting).await;
    let said = one.queue(LogLane::Bulk, None, json("\"said while away\"")).await.unwrap();
    soon(other.send(LogLane::Bulk, json("\"missed\""))).await.unwrap();
    relay.set_tcp(true);
    client.network_changed().await.unwrap();
    soon(said).await.unwrap();
    assert_eq!(message(&one).await, "\"missed\"");
    assert_eq!(message(&other).await, "\"said while away\"");
    let back = async {
        loop {
            if let ClientEvent::Back { gap, resumed } = events.recv().await.unwrap() {
                return (gap > Duration::ZERO, resumed);
            }
        }
    };
    assert_eq!(soon(back).await, (true, true));
    soon(client.close()).await;
    served.gateway.drain().await;
}

#[tokio::test]
async fn a_gateway_that_forgot_the_session_is_joined_anew() {
    for (transport, codec) in KINDS {
        let first = Served::start().await;
        let relay = Relay::start(first.gateway.listening()[0]).await;
        // Whichever gateway is there next has another certificate.
        let options = Options {
            certificates: Certificates::DangerouslyAny,
            attention: NERVOUS,
            ..first.options(transport, codec)
        };
        let client = soon(Client::connect(&relay.url(), options)).await.unwrap();
        let room = soon(client.join("r", Some(json(r#"{"name":"A"}"#)))).await.unwrap();
        let before = client.peer();
        let port = relay.port;
        drop(relay);
        first.gateway.drain().await;
        let second = Served::with(|config| {
            config.listen = handover::config::Addresses::of([std::net::SocketAddr::from((
                [127, 0, 0, 1],
                port,
            ))]);
        })
        .await;
        client.network_changed().await.unwrap();
        let RoomEvent::Reset(cause, members) = next(&room).await else { panic!("no reset") };
        assert_eq!(cause, ResetCause::NewSession);
        assert_eq!(members.len(), 1);
        assert_eq!(members[0].metadata, json(r#"{"name":"A"}"#));
        assert_ne!(client.peer(), before);
        soon(room.send(LogLane::Signal, json("1"))).await.unwrap();
        soon(client.close()).await;
        second.gateway.drain().await;
    }
}
