//! Members on every transport and codec in one room.

use handover_client::{LogLane, RoomEvent};

use crate::setup::{KINDS, Served, json, message, next, soon};

#[tokio::test]
async fn everybody_sees_the_same_whatever_they_speak() {
    let served = Served::start().await;
    let mut rooms = Vec::new();
    for (n, (transport, codec)) in KINDS.into_iter().enumerate() {
        let client = served.client(transport, codec).await;
        let metadata = json(&format!(r#"{{"n":{n}}}"#));
        let room = soon(client.join("lobby", Some(metadata))).await.unwrap();
        assert_eq!(room.members().await.unwrap().len(), n + 1);
        rooms.push(room);
    }
    // Each has seen those come that came after it.
    for (n, room) in rooms.iter().enumerate() {
        for later in n + 1..rooms.len() {
            let RoomEvent::Joined(member) = next(room).await else { panic!("not a join") };
            assert_eq!(member.metadata.as_str(), format!(r#"{{"n":{later}}}"#));
        }
        assert_eq!(room.members().await.unwrap(), room.fetch_members().await.unwrap());
    }
    for (n, sender) in rooms.iter().enumerate() {
        for lane in LogLane::ALL {
            let text = format!(r#"{{ "from" : {n}, "x" : 1.50 }}"#);
            let receipt = soon(sender.send(lane, json(&text))).await.unwrap();
            assert!(receipt.position.is_some());
            for (other, room) in rooms.iter().enumerate().filter(|(other, _)| *other != n) {
                assert_eq!(message(room).await, text, "{n} to {other} on {lane:?}");
            }
        }
    }
    // To one alone: the others see what comes after it next.
    let one = rooms[3].client().peer().unwrap();
    soon(rooms[0].send_to(one, LogLane::Signal, json("\"secret\""))).await.unwrap();
    soon(rooms[0].send(LogLane::Signal, json("\"all\""))).await.unwrap();
    assert_eq!(message(&rooms[3]).await, "\"secret\"");
    for room in &rooms[1..] {
        assert_eq!(message(room).await, "\"all\"");
    }
    let me = rooms[2].client().peer().unwrap();
    soon(rooms[2].update(json(r#"{"n":"two"}"#))).await.unwrap();
    assert_eq!(next(&rooms[0]).await, RoomEvent::Updated(me, json(r#"{"n":"two"}"#)));
    let leaver = rooms.remove(2);
    soon(leaver.leave()).await.unwrap();
    loop {
        if let RoomEvent::Left(who, _) = next(&rooms[0]).await {
            assert_eq!(who, me);
            break;
        }
    }
    assert_eq!(rooms[0].members().await.unwrap().len(), 3);
    served.gateway.drain().await;
}

#[tokio::test]
async fn ephemeral_messages_arrive_on_both_transports() {
    let served = Served::start().await;
    for (transport, codec) in KINDS {
        let (one, other) =
            (served.client(transport, codec).await, served.client(transport, codec).await);
        let one = soon(one.join("pointers", None)).await.unwrap();
        let other = soon(other.join("pointers", None)).await.unwrap();
        // Some may be lost; until one has come they go on coming.
        let arrived = async {
            loop {
                if let RoomEvent::Ephemeral { body, .. } = next(&other).await {
                    return body;
                }
            }
        };
        let pointing = async {
            loop {
                one.ephemeral(None, json(r#"{"x":1}"#)).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            body = soon(arrived) => assert_eq!(body, json(r#"{"x":1}"#)),
            () = pointing => {}
        }
    }
    served.gateway.drain().await;
}

#[tokio::test]
async fn many_sends_under_way_keep_their_order_on_each_lane() {
    let served = Served::start().await;
    for (transport, codec) in KINDS {
        let (one, other) =
            (served.client(transport, codec).await, served.client(transport, codec).await);
        let one = soon(one.join("order", None)).await.unwrap();
        let other = soon(other.join("order", None)).await.unwrap();
        let count = 300;
        let sender = one.clone();
        let sending = tokio::spawn(async move {
            let mut sendings = Vec::new();
            for n in 0..count {
                for lane in LogLane::ALL {
                    sendings.push(sender.queue(lane, None, json(&n.to_string())).await.unwrap());
                }
            }
            for sending in sendings {
                soon(sending).await.unwrap();
            }
        });
        let mut seen: [Vec<u32>; 2] = Default::default();
        while seen.iter().any(|lane| lane.len() < count) {
            if let RoomEvent::Message { lane, body, .. } = next(&other).await {
                seen[lane as usize].push(body.to_value().unwrap());
            }
        }
        soon(sending).await.unwrap();
        for lane in seen {
            assert!(lane.into_iter().eq(0..300));
        }
    }
    served.gateway.drain().await;
}

#[tokio::test]
async fn ice_ping_and_close_work_on_every_kind() {
    let served = Served::start().await;
    for (transport, codec) in KINDS {
        let client = served.client(transport, codec).await;
        soon(client.ping()).await.unwrap();
        soon(client.ice()).await.unwrap();
        let room = soon(client.join("bye", None)).await.unwrap();
        let watcher = served.client(transport, codec).await;
        let watched = soon(watcher.join("bye", None)).await.unwrap();
        let me = client.peer().unwrap();
        let last = room.queue(LogLane::Bulk, None, json("\"last words\"")).await.unwrap();
        soon(client.close()).await;
        soon(last).await.unwrap();
        assert_eq!(message(&watched).await, "\"last words\"");
        assert!(matches!(next(&watched).await, RoomEvent::Left(who, _) if who == me));
        while soon(room.next_event()).await.is_some() {}
        soon(watcher.close()).await;
    }
    served.gateway.drain().await;
}
