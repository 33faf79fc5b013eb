//! A burst on the bulk lane does not stand in the way of the signal lane.

use serde_json::json;

use super::setup::{Member, Served};

/// More than all the buffers below a WebSocket hold.
const BURST: usize = 200;
const BODY_BYTES: usize = 40_000;

/// Sends a burst to a receiver that reads nothing yet, and an urgent message behind it.
async fn burst(sender: &mut Member) {
    let body = "x".repeat(BODY_BYTES);
    let mut seq = 0;
    for _ in 0..BURST {
        seq = sender.post("room", "bulk", json!(body)).await;
    }
    sender.accepted("bulk", seq).await;
    let seq = sender.post("room", "signal", json!("urgent")).await;
    sender.accepted("signal", seq).await;
}

async fn rest(receiver: &mut Member) {
    for offset in 1..=BURST {
        let message = receiver.expect("bulk", "message").await;
        assert_eq!(message["offset"], json!(offset));
    }
}

#[tokio::test]
async fn on_webtransport_the_bulk_stream_may_stand_still() {
    let served = Served::start().await;
    let [mut sender, mut receiver] = served.both("room").await;
    burst(&mut sender).await;
    // Not a byte of the bulk stream has been read.
    let urgent = receiver.expect("signal", "message").await;
    assert_eq!(urgent["body"], json!("urgent"));
    receiver.answers().await;
    rest(&mut receiver).await;
}

#[tokio::test]
async fn on_a_websocket_it_overtakes_what_is_not_on_the_wire() {
    let served = Served::start().await;
    let [mut receiver, mut sender] = served.both("room").await;
    burst(&mut sender).await;
    let urgent = receiver.expect("signal", "message").await;
    assert_eq!(urgent["body"], json!("urgent"));
    let before = receiver.passed_over("bulk");
    assert!(before < BURST / 2, "{before} of {BURST} bulk messages came first");
    rest(&mut receiver).await;
}
