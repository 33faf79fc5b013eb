//! Two gateways on one Redis: members meet in rooms wherever they are connected.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::redis::RedisServer;
use super::setup::{Member, Served, soon};

struct Cluster {
    redis: RedisServer,
    nodes: [Served; 2],
}

impl Cluster {
    async fn start() -> Cluster {
        let redis = RedisServer::start();
        let nodes = [Served::node(&redis.address).await, Served::node(&redis.address).await];
        Cluster { redis, nodes }
    }

    /// One member on each node, both in `r`, on different transports.
    async fn members(&self) -> [Member; 2] {
        let mut ann = self.nodes[0].websocket().await;
        let mut bob = self.nodes[1].webtransport().await;
        ann.join("r").await;
        let joined = bob.join("r").await;
        assert_eq!(joined["members"].as_array().unwrap().len(), 2);
        assert_eq!(ann.expect("signal", "member_joined").await["peer"], bob.peer);
        [ann, bob]
    }
}

#[tokio::test]
async fn members_meet_across_nodes() {
    let cluster = Cluster::start().await;
    let [mut ann, mut bob] = cluster.members().await;
    for lane in ["signal", "bulk"] {
        for round in 0..20 {
            let seq = ann.post("r", lane, json!({ "round": round })).await;
            let heard = bob.expect(lane, "message").await;
            assert_eq!(
                (&heard["body"]["round"], &heard["from"]),
                (&json!(round), &json!(ann.peer))
            );
            let offset = ann.accepted(lane, seq).await;
            assert_eq!(heard["offset"], offset);
            let seq = bob.post("r", lane, json!("back")).await;
            assert_eq!(ann.expect(lane, "message").await["offset"], offset + 1);
            bob.accepted(lane, seq).await;
        }
    }
    let to = ann.peer.clone();
    bob.post_to("r", "signal", &to, json!("only you")).await;
    assert_eq!(ann.expect("signal", "message").await["to"], to);
    bob.accepted("signal", 21).await;
    bob.send("signal", json!({"type": "ephemeral", "room": "r", "body": "quick"})).await;
    assert_eq!(ann.expect("signal", "ephemeral").await["body"], "quick");
    ann.send("signal", json!({"type": "ephemeral", "room": "r", "to": bob.peer, "body": 1})).await;
    ann.send("signal", json!({"type": "leave", "id": 90, "room": "r"})).await;
    assert_eq!(bob.expect("signal", "member_left").await["reason"], "left");
}

#[tokio::test]
async fn a_session_goes_on_at_another_node() {
    let cluster = Cluster::start().await;
    let [mut ann, mut bob] = cluster.members().await;
    let seq = bob.post("r", "signal", json!(1)).await;
    let first = ann.expect("signal", "message").await;
    bob.accepted("signal", seq).await;
    let mut moved = Member::over_webtransport(cluster.nodes[1].secure()).await;
    let at = json!({"r": {"epoch": first["epoch"], "signal": first["offset"], "bulk": 0}});
    moved.resume_at(&ann.welcome, at).await;
    let welcome = moved.expect("signal", "welcome").await;
    assert_eq!((&welcome["resumed"], &welcome["lost"]), (&json!(true), &json!([])));
    assert_eq!(ann.closed().await, 4504);
    // What is said meanwhile reaches it, once.
    for n in 2..6 {
        bob.post("r", "signal", json!(n)).await;
    }
    for n in 2..6 {
        assert_eq!(moved.expect("signal", "message").await["body"], n);
    }
    moved.post("r", "bulk", json!("hello")).await;
    assert_eq!(bob.expect("bulk", "message").await["from"], ann.peer);
    moved.answers().await;
    for node in cluster.nodes {
        soon(node.gateway.drain()).await;
    }
}

/// What `/healthz` says.
async fn health(node: &Served) -> String {
    let mut tcp = soon(TcpStream::connect(node.plain())).await.unwrap();
    let ask = "GET /healthz HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    soon(tcp.write_all(ask.as_bytes())).await.unwrap();
    let mut answer = String::new();
    soon(tcp.read_to_string(&mut answer)).await.unwrap();
    answer
}

async fn health_says(node: &Served, text: &str) {
    soon(async {
        while !health(node).await.contains(text) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_stands_still_costs_nothing_that_was_accepted() {
    let cluster = Cluster::start().await;
    let [mut ann, mut bob] = cluster.members().await;
    health_says(&cluster.nodes[0], "ok").await;
    cluster.redis.pause();
    let seq = ann.post("r", "signal", json!(1)).await;
    let refused = ann.expect("signal", "error").await;
    assert_eq!((&refused["code"], &refused["seq"]), (&json!("unavailable"), &json!(seq)));
    assert!(refused["retry_after"].as_u64().unwrap() > 0);
    health_says(&cluster.nodes[0], "degraded").await;
    health_says(&cluster.nodes[1], "503").await;
    cluster.redis.go_on();
    health_says(&cluster.nodes[0], "ok").await;
    // It may have been applied after all, or not: said again, it is there once.
    let message = json!({"type": "send", "room": "r", "lane": "signal", "seq": seq, "body": 1});
    loop {
        ann.send("signal", message.clone()).await;
        let answer = ann.next("signal").await.unwrap();
        if answer["type"] == "accepted" {
            break;
        }
        assert_eq!(answer["code"], "unavailable", "{answer}");
    }
    ann.post("r", "signal", json!(2)).await;
    for body in [1, 2] {
        assert_eq!(bob.expect("signal", "message").await["body"], body);
    }
    bob.answers().await;
}

#[tokio::test]
async fn an_emptied_redis_is_a_new_beginning_for_who_is_there() {
    let cluster = Cluster::start().await;
    let [mut ann, mut bob] = cluster.members().await;
    let seq = ann.post("r", "bulk", json!("old")).await;
    let old = bob.expect("bulk", "message").await;
    ann.accepted("bulk", seq).await;
    cluster.redis.command(&["FLUSHALL"]);
    let (reset, again) = (ann.expect("signal", "reset").await, bob.expect("signal", "reset").await);
    assert_eq!((&reset["reason"], &reset["epoch"]), (&json!("epoch"), &again["epoch"]));
    assert_ne!(reset["epoch"], old["epoch"]);
    assert_eq!(reset["seq"], json!({"signal": 0, "bulk": 1}), "what was accepted stays so");
    // Who was there first hears of the other one coming back.
    let there = |reset: &Value| reset["members"].as_array().unwrap().len();
    for (member, reset) in [(&mut ann, &reset), (&mut bob, &again)] {
        if there(reset) == 1 {
            member.expect("signal", "member_joined").await;
        }
        assert_eq!(member.expect("bulk", "position").await["start"], true);
    }
    ann.post("r", "bulk", json!("new")).await;
    let new = bob.expect("bulk", "message").await;
    assert_eq!(
        (&new["body"], &new["epoch"], &new["offset"]),
        (&json!("new"), &reset["epoch"], &json!(1))
    );
    bob.post("r", "signal", json!("back")).await;
    assert_eq!(ann.expect("signal", "message").await["body"], "back");
    // The session is there again, too, for whichever node it resumes at.
    let mut moved = Member::over_websocket(cluster.nodes[1].plain()).await;
    moved.resume(&ann.welcome).await;
    assert_eq!(moved.expect("signal", "welcome").await["rooms"]["r"]["seq"]["bulk"], 2);
}
