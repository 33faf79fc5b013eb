//! Two gateways on a Redis of many processes: members meet, and rooms outlive a master.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use handover::config::BrokerPlace;
use handover_redis_servers::{Cluster, Sentinels, Server, ask, until};
use serde_json::{Value, json};

use super::cluster::health_says;
use super::setup::{Member, Served, soon};

async fn nodes(address: &str, replicas: u32) -> [Served; 2] {
    let node = async || {
        let served = Served::with(|config| {
            config.broker = BrokerPlace::parse(address).unwrap();
            config.broker_replicas = replicas;
        });
        let served = served.await;
        soon(served.gateway.ready()).await;
        served
    };
    [node().await, node().await]
}

/// One member on each node, on different transports.
async fn members(nodes: &[Served; 2], rooms: &[String]) -> [Member; 2] {
    let (mut ann, mut bob) = (nodes[0].websocket().await, nodes[1].webtransport().await);
    for room in rooms {
        ann.join(room).await;
        assert_eq!(bob.join(room).await["members"].as_array().unwrap().len(), 2);
        assert_eq!(ann.expect("signal", "member_joined").await["peer"], bob.peer);
    }
    [ann, bob]
}

/// Says it until it is accepted, as a client does.
pub async fn say(member: &mut Member, room: &str, lane: &str, seq: u64) -> Value {
    let message =
        json!({"type": "send", "room": room, "lane": lane, "seq": seq, "body": [room, seq]});
    loop {
        member.send(lane, message.clone()).await;
        let answer = member.next(lane).await.expect("the connection has ended");
        if answer["type"] == "accepted" {
            assert_eq!((&answer["room"], &answer["seq"]), (&json!(room), &json!(seq)));
            return answer;
        }
        assert_eq!((&answer["code"], &answer["seq"]), (&json!("unavailable"), &json!(seq)));
        let pause = Duration::from_millis(answer["retry_after"].as_u64().unwrap());
        tokio::time::sleep(pause).await;
    }
}

/// The next thing on the lane is what was just accepted.
async fn hears(member: &mut Member, lane: &str, accepted: &Value) {
    let heard = member.expect(lane, "message").await;
    let place = |at: &Value| ["room", "epoch", "offset"].map(|field| at[field].clone());
    assert_eq!(place(&heard), place(accepted));
    assert_eq!(heard["body"], json!([accepted["room"], accepted["seq"]]));
}

fn log_of(room: &str) -> String {
    format!("handover:{{r:{}}}:b", URL_SAFE_NO_PAD.encode(room))
}

/// Once the replica has as much of the room's bulk log.
async fn copied(replica: &Server, room: &str, entries: usize) {
    let mut line = replica.line().await;
    let length = format!("int({entries})");
    until(&mut line, &format!("LLEN {}", log_of(room)), &[&length]).await;
}

#[tokio::test]
async fn rooms_on_a_redis_cluster_outlive_a_master_of_it() {
    // Two replicas for the first master: one takes over, and the other one is waited for.
    let mut cluster = Cluster::start(3, 4).await;
    let nodes = nodes(&cluster.address(), 1).await;
    // A room on each master.
    let mut rooms = Vec::new();
    for number in 0.. {
        let room = format!("room-{number}");
        if cluster.owner(&log_of(&room)).await == rooms.len() {
            rooms.push(room);
        }
        if rooms.len() == 3 {
            break;
        }
    }
    let [mut ann, mut bob] = members(&nodes, &rooms).await;
    for room in &rooms {
        for lane in ["signal", "bulk"] {
            let accepted = say(&mut ann, room, lane, 1).await;
            hears(&mut bob, lane, &accepted).await;
            let accepted = say(&mut bob, room, lane, 1).await;
            hears(&mut ann, lane, &accepted).await;
        }
        bob.send("signal", json!({"type": "ephemeral", "room": room, "body": room})).await;
        assert_eq!(ann.expect("signal", "ephemeral").await["body"], *room);
    }
    drop(cluster.servers.remove(0));
    // The others' rooms need not wait for it, and its own lose nothing.
    for room in rooms.iter().rev() {
        for lane in ["signal", "bulk"] {
            let accepted = say(&mut ann, room, lane, 2).await;
            hears(&mut bob, lane, &accepted).await;
            let accepted = say(&mut bob, room, lane, 2).await;
            hears(&mut ann, lane, &accepted).await;
        }
    }
    for node in &nodes {
        health_says(node, "ok").await;
    }
    ann.answers().await;
    bob.answers().await;
    // Its sessions are spread over all masters.
    let mut moved = Member::over_websocket(nodes[1].plain()).await;
    moved.resume(&ann.welcome).await;
    let welcome = moved.expect("signal", "welcome").await;
    for room in &rooms {
        assert_eq!(welcome["rooms"][room]["seq"], json!({"signal": 2, "bulk": 2}));
    }
}

#[tokio::test]
async fn what_was_accepted_with_a_replica_waited_for_outlives_the_master() {
    let sentinels = Sentinels::start(2).await;
    let nodes = nodes(&sentinels.address(), 1).await;
    let rooms = ["r".to_owned()];
    let [mut ann, mut bob] = members(&nodes, &rooms).await;
    let mut offsets = Vec::new();
    for seq in 1..=3 {
        let accepted = say(&mut ann, "r", "bulk", seq).await;
        hears(&mut bob, "bulk", &accepted).await;
        offsets.push(accepted["offset"].as_u64().unwrap());
    }
    // Accepted, and its master gone before anything else.
    offsets.push(say(&mut ann, "r", "bulk", 4).await["offset"].as_u64().unwrap());
    drop(sentinels.master);
    offsets.push(say(&mut ann, "r", "bulk", 5).await["offset"].as_u64().unwrap());
    assert_eq!(offsets, [1, 2, 3, 4, 5]);
    for seq in 4..=5 {
        assert_eq!(bob.expect("bulk", "message").await["body"], json!(["r", seq]));
    }
    for node in &nodes {
        health_says(node, "ok").await;
    }
    // Nobody was told anything else: no reset, nobody away.
    ann.answers().await;
    bob.answers().await;
}

#[tokio::test]
async fn a_failover_to_a_replica_that_lags_is_a_new_epoch() {
    let sentinels = Sentinels::start(1).await;
    let nodes = nodes(&sentinels.address(), 0).await;
    let [mut ann, mut bob] = members(&nodes, &["r".to_owned()]).await;
    let first = say(&mut ann, "r", "bulk", 1).await;
    hears(&mut bob, "bulk", &first).await;
    let replica = &sentinels.replicas[0];
    copied(replica, "r", 1).await;
    replica.signal("STOP");
    // What comes now does not even wait for it in a buffer.
    ask(&mut sentinels.master.line().await, "CLIENT KILL TYPE replica").await;
    for seq in 2..=3 {
        let accepted = say(&mut ann, "r", "bulk", seq).await;
        hears(&mut bob, "bulk", &accepted).await;
    }
    drop(sentinels.master);
    replica.signal("CONT");
    let (reset, again) = (ann.expect("signal", "reset").await, bob.expect("signal", "reset").await);
    assert_eq!((&reset["reason"], &reset["epoch"]), (&json!("epoch"), &again["epoch"]));
    assert_ne!(reset["epoch"], first["epoch"]);
    assert_eq!(reset["seq"], json!({"signal": 0, "bulk": 3}), "what was accepted stays so");
    let came = reset["members"].as_array().unwrap().iter();
    let came: Vec<_> =
        came.map(|member| (member["peer"].clone(), member["since"].clone())).collect();
    assert_eq!(came, [(json!(ann.peer), json!(1)), (json!(bob.peer), json!(2))]);
    for member in [&mut ann, &mut bob] {
        assert_eq!(member.expect("bulk", "position").await["start"], true);
    }
    let accepted = say(&mut ann, "r", "bulk", 4).await;
    assert_eq!((&accepted["epoch"], &accepted["offset"]), (&reset["epoch"], &json!(1)));
    hears(&mut bob, "bulk", &accepted).await;
    ann.answers().await;
    bob.answers().await;
}
