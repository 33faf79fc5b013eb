//! Events, taken or not.

use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use handover_client::{
    Attention, Client, Codec, LogLane, Options, ResetCause, RoomEvent, Transport,
};
use tokio::sync::Notify;

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

struct Woken(Notify);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn a_room_that_nobody_waited_for_is_left() {
    let served = Served::start().await;
    let (watcher, watched) = talker(&served).await;
    let client = served.client(Transport::WebSocket, Codec::Bincode).await;
    let woken = Arc::new(Woken(Notify::new()));
    let mut joining = Box::pin(client.join("r", None));
    let waker = Waker::from(woken.clone());
    assert!(joining.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    // The answer is there, and nobody takes it any more.
    soon(woken.0.notified()).await;
    drop(joining);
    assert!(matches!(next(&watched).await, RoomEvent::Joined(_)));
    assert!(matches!(next(&watched).await, RoomEvent::Left(..)));
    soon(client.close()).await;
    soon(watcher.close()).await;
    served.gateway.drain().await;
}

#[tokio::test]
async fn a_room_that_is_dropped_while_much_else_is_asked_is_left() {
    let served = Served::start().await;
    let (watcher, watched) = talker(&served).await;
    let (client, room) = talker(&served).await;
    assert!(matches!(next(&watched).await, RoomEvent::Joined(_)));
    let often = Attention { probe_after: Some(Duration::from_millis(100)), ..Attention::IDLE };
    // As many commands as may wait, before the client has a turn.
    let much = async {
        for _ in 0..256 {
            client.set_attention(often).await.unwrap();
        }
        drop(room);
    };
    tokio::task::unconstrained(much).await;
    assert!(matches!(next(&watched).await, RoomEvent::Left(..)));
    soon(client.close()).await;
    soon(watcher.close()).await;
    served.gateway.drain().await;
}
