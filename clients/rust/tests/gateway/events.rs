//! Events, taken or not.

use std::time::Duration;

use handover_client::{Client, Codec, LogLane, Options, ResetCause, RoomEvent, Transport};

use crate::setup::{Served, json, message, next, soon};

async fn talker(served: &Served) -> (Client, handover_client::Room) {
    let client = served.client(Transport::WebSocket, Codec::Bincode).await;
    let room = soon(client.join("r", None)).await.unwrap();
    (client, room)
}

#[tokio::test]
async fn whoever_never_takes_an_event_can_go_on_sending() {
    let served = Served::start().await;
    let few = Options { room_events: 8, ..served.options(Transport::WebTransport, Codec::Bincode) };
    let deaf = soon(Client::connect(&served.url(), few)).await.unwrap();
    let deaf_room = soon(deaf.join("r", None)).await.unwrap();
    let (_client, room) = talker(&served).await;
    for n in 0..50 {
        soon(room.send(LogLane::Signal, json(&n.to_string()))).await.unwrap();
    }
    soon(deaf_room.send(LogLane::Signal, json("\"still here\""))).await.unwrap();
    assert_eq!(message(&room).await, "\"still here\"");
    // What it did not take is gone, and that is said.
    let RoomEvent::Reset(cause, members) = next(&deaf_room).await else { panic!("no reset") };
    assert_eq!((cause, members.len()), (ResetCause::Lagged, 2));
    soon(deaf.close()).await;
    served.gateway.drain().await;
}

#[tokio::test]
async fn a_slow_reader_is_waited_for() {
    let served = Served::start().await;
    let patient = Options {
        room_events: 8,
        stall_timeout: Duration::from_secs(60),
        ..served.options(Transport::WebSocket, Codec::Bincode)
    };
    let slow = soon(Client::connect(&served.url(), patient)).await.unwrap();
    let slow_room = soon(slow.join("r", None)).await.unwrap();
    let (_client, room) = talker(&served).await;
    assert!(matches!(next(&slow_room).await, RoomEvent::Joined(_)));
    for n in 0..100 {
        soon(room.send(LogLane::Signal, json(&n.to_string()))).await.unwrap();
    }
    for n in 0..100 {
        assert_eq!(message(&slow_room).await, n.to_string());
    }
    soon(slow.close()).await;
    served.gateway.drain().await;
}

#[tokio::test]
async fn a_dropped_room_is_left() {
    let served = Served::start().await;
    let (watcher, watched) = talker(&served).await;
    let (client, room) = talker(&served).await;
    assert!(matches!(next(&watched).await, RoomEvent::Joined(_)));
    drop(room);
    assert!(matches!(next(&watched).await, RoomEvent::Left(..)));
    soon(client.close()).await;
    soon(watcher.close()).await;
    served.gateway.drain().await;
}
