//! Those who want too much get what they may have, are told when there is more, and are closed if
//! they go on. Nobody else is.

use std::net::Ipv4Addr;

use handover_protocol::pace::Rate;
use serde_json::{Value, json};

use super::setup::{Member, Served, soon};

/// With one large message it is used up for the rest of the day.
const SCARCE: Rate = Rate { per_s: 1, burst: 4_000 };

async fn stingy() -> Served {
    Served::with(|config| config.pace.bytes = Some(SCARCE)).await
}

/// Uses up what the member may send.
async fn use_up(member: &mut Member) {
    let seq = member.post("room", "signal", json!("x".repeat(40_000))).await;
    member.accepted("signal", seq).await;
}

async fn is_told_and_then_closed(served: &Served, mut member: Member, mut again: Member) {
    let mut honest = served.websocket().await;
    honest.join("room").await;
    member.join("room").await;
    honest.expect("signal", "member_joined").await;
    use_up(&mut member).await;
    honest.expect("signal", "message").await;

    // A send, a request and one on the other lane: each is refused by its name.
    for lane in ["signal", "bulk"] {
        let seq = member.post("room", lane, json!(1)).await;
        let error = member.expect(lane, "error").await;
        assert_eq!(error["code"], "rate_limited");
        assert_eq!(
            (&error["room"], &error["lane"], &error["seq"]),
            (&json!("room"), &json!(lane), &json!(seq))
        );
        assert!(error["retry_after"].as_u64().unwrap() > 1_000_000, "{error}");
    }
    member.send("signal", json!({"type": "members", "id": 77, "room": "room"})).await;
    let error = member.expect("signal", "error").await;
    assert_eq!((&error["code"], &error["id"]), (&json!("rate_limited"), &json!(77)));

    // Whoever goes on regardless is closed, and may come back later.
    let mut close = None;
    for _ in 0..500 {
        for id in 0..100 {
            member.send("signal", json!({"type": "ping", "id": id})).await;
        }
        for _ in 0..100 {
            let said = member.next("signal").await.unwrap();
            if said["type"] == "close" {
                close = Some(said);
                break;
            }
            assert_eq!(said["code"], "rate_limited", "{said}");
        }
        if close.is_some() {
            break;
        }
    }
    let close = close.expect("it is never closed");
    assert_eq!(close["code"], 4004);
    assert!(close["retry_after"].as_u64().unwrap() > 0);

    // A new connection is no new start.
    again.resume(&member.welcome).await;
    assert_eq!(again.expect("signal", "welcome").await["resumed"], true);
    again.expect("signal", "reset").await;
    again.send("signal", json!({"type": "ping", "id": 1})).await;
    let said = again.next("signal").await.unwrap();
    // Patience comes back with time, what it may send does not.
    assert!(said["code"] == "rate_limited" || said["code"] == 4004, "{said}");
    honest.answers().await;
}

#[tokio::test]
async fn too_fast_on_a_websocket() {
    let served = stingy().await;
    let again = Member::over_websocket(served.plain()).await;
    is_told_and_then_closed(&served, served.websocket().await, again).await;
}

#[tokio::test]
async fn too_fast_on_webtransport() {
    let served = stingy().await;
    let again = Member::over_webtransport(served.secure()).await;
    is_told_and_then_closed(&served, served.webtransport().await, again).await;
}

#[tokio::test]
async fn bye_is_heard_however_fast_it_comes() {
    let served = stingy().await;
    let mut member = served.websocket().await;
    member.join("room").await;
    use_up(&mut member).await;
    member.send("signal", json!({"type": "bye"})).await;
    assert_eq!(member.closed().await, 4500);
}

/// The answer to a `hello` for a new session.
async fn greeting(member: &mut Member) -> Value {
    member.send("signal", json!({"type": "hello", "version": 1})).await;
    member.next("signal").await.unwrap()
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_a_resume_is_let_in_beyond() {
    let served = Served::with(|config| config.capacity.connections_per_address = 1).await;
    let first = served.webtransport().await;
    let mut second = Member::over_webtransport(served.secure()).await;
    let refused = greeting(&mut second).await;
    assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!("rate_limited")));
    assert!(refused["retry_after"].as_u64().unwrap() > 0);

    let mut neighbour = Member::from_address(Ipv4Addr::new(127, 0, 0, 2), served.secure()).await;
    assert_eq!(greeting(&mut neighbour).await["type"], "welcome");
    // What stands before the plain listener bounds those behind it.
    served.websocket().await.answers().await;
    served.websocket().await.answers().await;

    // On the connection that was refused a session that exists may go on; a wrong secret may not.
    let mut forged = first.welcome.clone();
    forged["secret"] = json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    second.resume(&forged).await;
    assert_eq!(second.expect("signal", "error").await["code"], "session_unknown");
    second.resume(&first.welcome).await;
    assert_eq!(second.expect("signal", "welcome").await["resumed"], true);
    second.answers().await;
}

#[tokio::test]
async fn the_place_of_a_connection_that_ended_is_free() {
    let served = Served::with(|config| config.capacity.connections_per_address = 1).await;
    let mut first = served.webtransport().await;
    first.send("signal", json!({"type": "bye"})).await;
    assert_eq!(first.closed().await, 4500);
    let mut second = Member::over_webtransport(served.secure()).await;
    assert_eq!(greeting(&mut second).await["type"], "welcome");
    second.answers().await;
}

/// Those who leave count where they were for as long as they may come back. All of them coming back
/// at once are no more than might have stayed.
#[tokio::test]
async fn a_session_counts_at_its_address_without_a_connection_too() {
    let served = Served::with(|config| config.capacity.connections_per_address = 1).await;
    let first = served.webtransport().await;
    let session = first.welcome.clone();
    drop(first);
    soon(async { while served.metric("handover_connections{").await > 0 {} }).await;
    let elsewhere = Ipv4Addr::new(127, 0, 0, 2);
    let mut second = Member::over_webtransport(served.secure()).await;
    assert_eq!(greeting(&mut second).await["code"], "rate_limited");

    // It goes on from another address, and counts there from then on.
    let mut moved = Member::from_address(elsewhere, served.secure()).await;
    moved.resume(&session).await;
    assert_eq!(moved.expect("signal", "welcome").await["resumed"], true);
    assert_eq!(greeting(&mut second).await["type"], "welcome");
    let mut neighbour = Member::from_address(elsewhere, served.secure()).await;
    assert_eq!(greeting(&mut neighbour).await["code"], "rate_limited");

    // Until it ends.
    moved.send("signal", json!({"type": "bye"})).await;
    assert_eq!(moved.closed().await, 4500);
    assert_eq!(greeting(&mut neighbour).await["type"], "welcome");
}

#[tokio::test]
async fn a_gateway_has_so_many_rooms() {
    let served = Served::with(|config| config.capacity.rooms = 1).await;
    let mut members = served.both("the only one").await;
    for member in &mut members {
        member.send("signal", json!({"type": "join", "id": 9, "room": "another"})).await;
        let error = member.expect("signal", "error").await;
        assert_eq!((&error["code"], &error["id"]), (&json!("rate_limited"), &json!(9)));
        assert!(error["retry_after"].as_u64().unwrap() > 0);
        member.answers().await;
    }
}

#[tokio::test]
async fn joining_and_leaving_fresh_rooms_is_slowed_down() {
    let rate = Rate { per_s: 1, burst: 3 };
    let served = Served::with(|config| config.pace.joins = Some(rate)).await;
    let mut member = served.websocket().await;
    let mut refused = 0;
    for id in 0..40 {
        let room = format!("room {id}");
        member.send("signal", json!({"type": "join", "id": id, "room": room})).await;
        member.send("signal", json!({"type": "leave", "id": 100 + id, "room": room})).await;
        let said = member.next("signal").await.unwrap();
        if said["type"] == "error" {
            assert_eq!(said["code"], "rate_limited");
            refused += 1;
        }
        member.expect("signal", "ok").await;
    }
    assert!(refused > 0, "40 rooms in less than 37 seconds");
    member.answers().await;
}

#[tokio::test]
async fn of_too_many_sessions_without_a_connection_the_oldest_ends() {
    let served = Served::with(|config| config.capacity.sessions_away = 1).await;
    let [mut watching, first] = served.both("room").await;
    let mut second = served.websocket().await;
    second.join("room").await;
    watching.expect("signal", "member_joined").await;
    let peers = [json!(first.peer), json!(second.peer)];
    let sessions = [first.welcome.clone(), second.welcome.clone()];
    drop(first);
    let away = watching.expect("signal", "member_away").await;
    assert_eq!(away["peer"], peers[0]);
    drop(second);
    let left = watching.expect("signal", "member_left").await;
    assert_eq!((&left["peer"], &left["reason"]), (&peers[0], &json!("expired")));

    let mut again = Member::over_webtransport(served.secure()).await;
    again.resume(&sessions[0]).await;
    assert_eq!(again.expect("signal", "error").await["code"], "session_unknown");
    again.resume(&sessions[1]).await;
    assert_eq!(again.expect("signal", "welcome").await["peer"], peers[1]);
}
