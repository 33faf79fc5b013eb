//! A member that does not read costs nobody else anything, and is never given a silent gap.

use serde_json::{Value, json};

use super::setup::Member;
use super::siege::Besieged;

const MESSAGES: usize = 600;
const BODY_BYTES: usize = 40_000;

/// The log holds a small part of what is sent.
async fn served() -> Besieged {
    Besieged::start(&[
        "retention.bulk.entries=50",
        "retention.bulk.bytes=8388608",
        "limits.rooms_total=2",
        "limits.bytes_per_s=0",
    ])
    .await
}

async fn lags_and_is_reset(mut slow: Member, mut others: [Member; 2], served: Besieged) {
    let joined = slow.join("room").await;
    for other in &mut others {
        other.expect("signal", "member_joined").await;
    }
    let [sender, reader] = &mut others;
    let body = "x".repeat(BODY_BYTES);
    for offset in 1..=MESSAGES {
        sender.post("room", "bulk", json!(body)).await;
        // The one that reads gets each as if the slow one were not there.
        assert_eq!(reader.expect("bulk", "message").await["offset"], json!(offset));
    }
    sender.accepted("bulk", MESSAGES as u64).await;

    // Now the slow one reads: what came before it fell behind, without a hole, then the mark of a
    // new start.
    let mut had = 0;
    let mark = loop {
        let message = slow.next("bulk").await.expect("the connection has ended");
        if message["type"] == "position" && message["start"] == true {
            break message;
        }
        assert_eq!((&message["type"], &message["offset"]), (&json!("message"), &json!(had + 1)));
        had += 1;
    };
    assert!(had < MESSAGES, "it had not fallen behind");
    let reset = slow.expect("signal", "reset").await;
    assert_eq!((&reset["reason"], &reset["room"]), (&json!("trimmed"), &json!("room")));
    assert_eq!((&reset["epoch"], &reset["bulk"]), (&joined["epoch"], &mark["offset"]));
    assert_eq!(reset["members"].as_array().unwrap().len(), 3);
    // From there on it gets everything again.
    let mut at = mark["offset"].as_u64().unwrap();
    let last = sender.post("room", "bulk", json!("the last")).await;
    let last = sender.accepted("bulk", last).await;
    let message: Value = loop {
        let message = slow.expect("bulk", "message").await;
        at += 1;
        assert_eq!(message["offset"], json!(at));
        if at == last {
            break message;
        }
    };
    assert_eq!(message["body"], json!("the last"));
    slow.answers().await;
    drop((slow, others));
    served.is_well().await;
}

/// Who takes nothing for long is let go, and may come back.
async fn is_let_go(mut slow: Member, mut others: [Member; 2], served: Besieged) {
    slow.join("room").await;
    for other in &mut others {
        other.expect("signal", "member_joined").await;
    }
    let [sender, reader] = &mut others;
    let body = "x".repeat(BODY_BYTES);
    let let_go = || served.metric_with("handover_connection_ends_total{", "reason=\"too_slow\"");
    let mut sent = 0;
    while let_go() == 0 {
        sender.post("room", "bulk", json!(body)).await;
        reader.expect("bulk", "message").await;
        sent += 1;
        assert!(sent < 10_000, "it is never let go");
    }
    assert_eq!(let_go(), 1, "those who read stay");
    reader.expect("signal", "member_away").await;
    let mut again = served.websocket_unheard().await;
    again.resume(&slow.welcome).await;
    assert_eq!(again.expect("signal", "welcome").await["resumed"], true);
    drop((slow, again, others));
    served.is_well().await;
}

/// The same, with little patience.
async fn impatient() -> Besieged {
    Besieged::start(&[
        "retention.bulk.bytes=8388608",
        "limits.rooms_total=2",
        "limits.bytes_per_s=0",
        "blocked_timeout_ms=300",
    ])
    .await
}

#[tokio::test]
async fn for_too_long_on_a_websocket() {
    let served = impatient().await;
    let others = served.both("room").await;
    let slow = served.websocket().await;
    is_let_go(slow, others, served).await;
}

#[tokio::test]
async fn for_too_long_on_webtransport() {
    let served = impatient().await;
    let others = served.both("room").await;
    let slow = served.webtransport().await;
    is_let_go(slow, others, served).await;
}

#[tokio::test]
async fn on_a_websocket() {
    let served = served().await;
    let others = served.both("room").await;
    let slow = served.websocket().await;
    lags_and_is_reset(slow, others, served).await;
}

#[tokio::test]
async fn on_webtransport() {
    let served = served().await;
    let others = served.both("room").await;
    let slow = served.webtransport().await;
    lags_and_is_reset(slow, others, served).await;
}
