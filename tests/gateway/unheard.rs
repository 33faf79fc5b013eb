//! What Redis says and a gateway does not hear.

use std::time::Duration;

use handover::config::BrokerPlace;
use handover_redis_servers::{Server, Way, ask, own_host};
use serde_json::json;

use super::cluster::health_says;
use super::failover::say;
use super::redis::RedisServer;
use super::setup::{Member, Served, soon};
use crate::process::Process;

/// Two gateways on a Redis, the second of them by a way on which things can be lost, and a member
/// on each.
struct Apart {
    nodes: [Served; 2],
    way: Way,
    members: [Member; 2],
    server: Server,
}

impl Apart {
    async fn start() -> Apart {
        let host = own_host();
        let server = Server::on_port(host, 7000, &[]);
        server.line().await;
        let way = Way::open(host, 7001, 7000).await;
        let nodes = [
            Served::node(&server.address).await,
            Served::node(&format!("redis://{host}:7001")).await,
        ];
        let mut ann = nodes[0].websocket().await;
        let mut bob = nodes[1].webtransport().await;
        ann.join("r").await;
        bob.join("r").await;
        ann.expect("signal", "member_joined").await;
        Apart { nodes, way, members: [ann, bob], server }
    }
}

#[tokio::test]
async fn one_message_that_is_lost_is_read_from_the_log() {
    let Apart { nodes, way, members: [mut ann, mut bob], server: _server } = Apart::start().await;
    way.lose("the second");
    let before = nodes[1].metric("handover_log_reads_total").await;
    // Once, unless the subscription was being replaced just then: nothing is lost on it meanwhile.
    for _ in 0..5 {
        for body in ["the first", "the second", "the third"] {
            ann.post("r", "bulk", json!(body)).await;
            // One after another: each is published by itself.
            ann.expect("bulk", "accepted").await;
        }
        for body in ["the first", "the second", "the third"] {
            assert_eq!(bob.expect("bulk", "message").await["body"], body);
        }
        if way.lost() > 0 {
            break;
        }
    }
    assert!(way.lost() > 0);
    assert!(nodes[1].metric("handover_log_reads_total").await > before);
    bob.answers().await;
}

#[tokio::test]
async fn a_subscription_that_is_silent_is_replaced_and_nothing_is_missed() {
    let Apart { nodes: _nodes, way, members: [mut ann, mut bob], server: _server } =
        Apart::start().await;
    let before = way.subscriptions();
    way.hush();
    let since = now();
    for body in ["unheard", "unheard, too"] {
        ann.post("r", "signal", json!(body)).await;
        ann.expect("signal", "accepted").await;
    }
    for body in ["unheard", "unheard, too"] {
        assert_eq!(bob.expect("signal", "message").await["body"], body);
    }
    println!("what was missed is told after {:?}", now() - since);
    // By another subscription, not only by looking at the log now and then.
    soon(async {
        while way.subscriptions() == before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    bob.post("r", "signal", json!("heard")).await;
    assert_eq!(ann.expect("signal", "message").await["body"], "heard");
    bob.expect("signal", "accepted").await;
    ann.post("r", "signal", json!("heard")).await;
    assert_eq!(bob.expect("signal", "message").await["body"], "heard");
}

#[tokio::test]
async fn what_a_node_says_late_for_who_is_elsewhere_is_refused() {
    let Apart { nodes, way, members: [mut ann, mut bob], server: _server } = Apart::start().await;
    way.hold();
    bob.post("r", "signal", json!("too late")).await;
    let mut moved = Member::over_websocket(nodes[0].plain()).await;
    moved.resume(&bob.welcome).await;
    assert_eq!(moved.expect("signal", "welcome").await["resumed"], true);
    // It did not say how far it had read.
    moved.expect("signal", "reset").await;
    // What was said before the session went elsewhere gets through now, and what is said still.
    way.release();
    let code = loop {
        let told = bob.next("signal").await.expect("the connection has ended");
        if told["type"] == "close" {
            break told["code"].clone();
        }
        assert_eq!(told["code"], "unavailable", "{told}");
    };
    assert_eq!(code, 4504);
    moved.post("r", "signal", json!("in time")).await;
    moved.expect("signal", "accepted").await;
    assert_eq!(ann.expect("signal", "message").await["body"], "in time");
    ann.answers().await;
}

#[tokio::test]
async fn what_was_applied_in_a_life_that_ended_is_not_applied_again() {
    let Apart { nodes: _nodes, way, members: [mut ann, mut bob], server } = Apart::start().await;
    // His node has missed something when it is told that his message was applied,
    way.lose("unheard");
    ann.post("r", "bulk", json!("unheard")).await;
    ann.expect("bulk", "accepted").await;
    way.hold_at("once");
    let seq = bob.post("r", "bulk", json!("once")).await;
    assert_eq!(ann.expect("bulk", "message").await["body"], "once");
    soon(way.is_held()).await;
    // and when it looks for that, nothing is there any more.
    ask(&mut server.line().await, "FLUSHALL").await;
    way.release();
    let again = json!({"type": "send", "room": "r", "lane": "bulk", "seq": seq, "body": "once"});
    loop {
        let told = bob.next("bulk").await.expect("the connection has ended");
        match told["type"].as_str() {
            Some("accepted") => break,
            Some("error") => bob.send("bulk", again.clone()).await,
            // It starts anew, and says again what it was not answered.
            Some("position") => bob.send("bulk", again.clone()).await,
            // His node may have looked before.
            Some("message") => assert_eq!(told["body"], "unheard"),
            _ => panic!("{told}"),
        }
    }
    bob.post("r", "bulk", json!("after")).await;
    let told = loop {
        let told = ann.next("bulk").await.expect("the connection has ended");
        if told["type"] == "message" {
            break told;
        }
    };
    assert_eq!(told["body"], "after");
}

#[tokio::test]
async fn a_redis_that_answers_late_is_used_as_it_is() {
    let Apart { nodes, way, members: [mut ann, mut bob], server: _server } = Apart::start().await;
    way.delay(Duration::from_millis(300));
    for seq in 1..=5 {
        let accepted = say(&mut bob, "r", "signal", seq).await;
        assert_eq!(ann.expect("signal", "message").await["offset"], accepted["offset"]);
    }
    for seq in 1..=5 {
        ann.post("r", "bulk", json!(seq)).await;
    }
    for seq in 1..=5 {
        assert_eq!(bob.expect("bulk", "message").await["body"], seq);
    }
    health_says(&nodes[1], "ok").await;
}

#[tokio::test]
async fn who_dies_is_missed_by_a_gateway_whose_redis_is_late() {
    let host = own_host();
    let server = Server::on_port(host, 7000, &[]);
    server.line().await;
    let way = Way::open(host, 7001, 7000).await;
    let late = Served::node(&format!("redis://{host}:7001")).await;
    let dies = Process::with(tempfile::tempdir().unwrap(), &["--broker", &server.address]);
    let mut bob = late.webtransport().await;
    bob.join("r").await;
    let mut ann = Member::websocket(dies.plain()).await;
    ann.join("r").await;
    bob.expect("signal", "member_joined").await;
    way.delay(Duration::from_millis(800));
    dies.signal("KILL");
    // There is nobody else to find out.
    assert_eq!(bob.expect("signal", "member_away").await["peer"], ann.peer);
}

#[tokio::test]
async fn who_was_told_that_it_cannot_join_is_no_member_for_long() {
    let Apart { nodes, way, members: [mut ann, _bob], server: _server } = Apart::start().await;
    let mut cid = nodes[1].websocket().await;
    // It is applied, and the answer does not come in time.
    way.hold_at("applied all the same");
    let metadata = json!({"it is": "applied all the same"});
    let join = json!({"type": "join", "id": 7, "room": "r", "metadata": metadata});
    cid.send("signal", join).await;
    assert_eq!(cid.expect("signal", "error").await["code"], "unavailable");
    way.release();
    let mut told = Vec::new();
    while !told.contains(&json!("member_left")) {
        let event = ann.next("signal").await.expect("the connection has ended");
        if event["peer"] == cid.peer {
            told.push(event["type"].clone());
        }
    }
    assert_eq!(told.first(), Some(&json!("member_joined")), "{told:?}");
}

#[tokio::test]
async fn a_redis_that_answers_far_too_late_is_none() {
    let Apart { nodes, way, members: [mut ann, mut bob], server: _server } = Apart::start().await;
    way.delay(Duration::from_secs(4));
    let seq = bob.post("r", "bulk", json!("late")).await;
    let refused = bob.expect("bulk", "error").await;
    assert_eq!((&refused["code"], &refused["seq"]), (&json!("unavailable"), &json!(seq)));
    health_says(&nodes[1], "degraded").await;
    way.delay(Duration::ZERO);
    health_says(&nodes[1], "ok").await;
    // It was applied, and is not again.
    let accepted = say(&mut bob, "r", "bulk", seq).await;
    assert_eq!(ann.expect("bulk", "message").await["offset"], accepted["offset"]);
    bob.post("r", "bulk", json!("in time")).await;
    assert_eq!(ann.expect("bulk", "message").await["body"], "in time");
}

#[tokio::test]
async fn a_redis_that_stands_still_shows() {
    let redis = RedisServer::start();
    let node = Served::node(&redis.address).await;
    let mut ann = node.websocket().await;
    for room in ["nobody asks", "followed"] {
        health_says(&node, "ok").await;
        metric_says(&node, "handover_broker_up", 1).await;
        redis.pause();
        let since = now();
        if room == "followed" {
            // A subscription that is waited for does not hide it.
            ann.send("signal", json!({"type": "join", "id": 7, "room": room})).await;
        }
        health_says(&node, "degraded").await;
        println!("{room}: degraded after {:?}", now() - since);
        metric_says(&node, "handover_broker_up", 0).await;
        redis.go_on();
        let since = now();
        health_says(&node, "ok").await;
        println!("{room}: well again after {:?}", now() - since);
        metric_says(&node, "handover_broker_up", 1).await;
    }
}

#[tokio::test]
async fn a_room_is_heard_where_it_has_members_alone() {
    let redis = RedisServer::start();
    let nodes = [Served::node(&redis.address).await, Served::node(&redis.address).await];
    // The name in base64.
    let listeners = || redis.command(&["PUBSUB", "NUMSUB", "handover:{r:cg}:news"]);
    let (mut ann, mut bob) = (nodes[0].websocket().await, nodes[1].webtransport().await);
    assert!(listeners().trim_end().ends_with("\n0"), "{}", listeners());
    ann.join("r").await;
    assert!(listeners().trim_end().ends_with("\n1"), "{}", listeners());
    bob.join("elsewhere").await;
    assert!(listeners().trim_end().ends_with("\n1"), "{}", listeners());
    bob.join("r").await;
    assert!(listeners().trim_end().ends_with("\n2"), "{}", listeners());
}

#[tokio::test]
async fn gateways_that_go_by_different_settings_say_so() {
    let redis = RedisServer::start();
    let node = async |seconds| {
        let node = Served::with(|config| {
            config.broker = BrokerPlace::parse(&redis.address).unwrap();
            config.resume_window = Duration::from_secs(seconds);
        });
        node.await
    };
    let nodes = [node(60).await, node(60).await, node(61).await];
    for (node, others) in nodes.iter().zip([1, 1, 2]) {
        metric_says(node, "handover_broker_settings_differ", others).await;
    }
    let [one, _two, odd] = nodes;
    soon(odd.gateway.drain()).await;
    metric_says(&one, "handover_broker_settings_differ", 0).await;
}

#[tokio::test]
async fn what_is_ephemeral_leaves_no_trace() {
    let redis = RedisServer::start();
    let nodes = [Served::node(&redis.address).await, Served::node(&redis.address).await];
    let (mut ann, mut bob) = (nodes[0].websocket().await, nodes[1].webtransport().await);
    ann.join("r").await;
    bob.join("r").await;
    ann.expect("signal", "member_joined").await;
    let kept = || redis.command(&["HGETALL", "handover:{r:cg}:meta"]);
    let before = kept();
    for n in 0..5 {
        bob.send("signal", json!({"type": "ephemeral", "room": "r", "body": n})).await;
        assert_eq!(ann.expect("signal", "ephemeral").await["body"], n);
    }
    let position = |kept: &str| {
        let lines: Vec<&str> = kept.lines().collect();
        let field =
            |name| lines.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].to_owned());
        (field("epoch"), field("s"), field("b"))
    };
    assert_eq!(position(&before), position(&kept()));
    assert_eq!(position(&before).1.as_deref(), Some("2"));
}

async fn metric_says(node: &Served, name: &str, value: u64) {
    soon(async {
        while node.metric(name).await != value {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// To tell how long things take, not to judge it.
#[allow(clippy::disallowed_methods, reason = "what is told here is how long it took")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}
