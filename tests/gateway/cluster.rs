//! Two gateways on one Redis: members meet in rooms wherever they are connected.

use std::time::Duration;

use handover::config::{Auth, BrokerPlace};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::entering::{claims, enters, secret_file};
use super::redis::RedisServer;
use super::setup::{Member, Served, soon};
use crate::process::Process;
use crate::tokens::forge::{SECRET, Signer};

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

#[tokio::test]
async fn a_room_is_followed_where_it_has_members() {
    let cluster = Cluster::start().await;
    let followed_by = async |nodes: usize| {
        let count = || cluster.redis.command(&["PUBSUB", "NUMSUB", "handover:{r:cg}:news"]);
        soon(async {
            while count().split_whitespace().last() != Some(&nodes.to_string()) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    let [mut ann, mut bob] = cluster.members().await;
    followed_by(2).await;
    bob.send("signal", json!({"type": "leave", "id": 90, "room": "r"})).await;
    bob.expect("signal", "ok").await;
    followed_by(1).await;
    // Who comes after that misses nothing.
    let joined = bob.join("r").await;
    assert_eq!(joined["members"].as_array().unwrap().len(), 2);
    followed_by(2).await;
    ann.post("r", "signal", json!("there?")).await;
    assert_eq!(bob.expect("signal", "message").await["body"], "there?");
    // Who goes on elsewhere is a member there, and here no more.
    let mut moved = Member::over_websocket(cluster.nodes[0].plain()).await;
    moved.resume(&bob.welcome).await;
    assert_eq!(moved.expect("signal", "welcome").await["resumed"], true);
    followed_by(1).await;
    ann.post("r", "signal", json!("and now?")).await;
    assert_eq!(moved.expect("signal", "reset").await["reason"], "unlisted");
    assert_eq!(moved.expect("signal", "message").await["body"], "and now?");
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

pub async fn health_says(node: &Served, text: &str) {
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

#[tokio::test]
async fn what_begins_a_new_life_reaches_everybody() {
    let cluster = Cluster::start().await;
    let [mut ann, mut bob] = cluster.members().await;
    let mut cid = cluster.nodes[0].websocket().await;
    cid.join("r").await;
    for member in [&mut ann, &mut bob] {
        member.expect("signal", "member_joined").await;
    }
    cluster.redis.command(&["FLUSHALL"]);
    let mut at = Vec::new();
    for lane in ["bulk", "signal"] {
        let seq = ann.post("r", lane, json!(lane)).await;
        let again = json!({"type": "send", "room": "r", "lane": lane, "seq": seq, "body": lane});
        let accepted = loop {
            let told = ann.next(lane).await.expect("the connection has ended");
            match told["type"].as_str() {
                Some("accepted") => break told,
                Some("error") => {
                    assert_eq!(told["code"], "unavailable", "{told}");
                    ann.send(lane, again.clone()).await;
                }
                _ => {}
            }
        };
        at.push((lane, accepted["offset"].as_u64().unwrap()));
    }
    for (member, is_with_ann) in [(&mut cid, true), (&mut bob, false)] {
        let reset = member.expect("signal", "reset").await;
        assert_eq!(member.expect("bulk", "position").await["start"], true);
        for (lane, at) in &at {
            // His node may have taken longer to bring him in than messages wait.
            if !is_with_ann && reset[lane].as_u64().unwrap() >= *at {
                continue;
            }
            let heard = loop {
                let heard = member.next(lane).await.expect("the connection has ended");
                match heard["type"].as_str() {
                    // Who comes into the new life behind it.
                    Some("member_joined") => {}
                    _ => break heard,
                }
            };
            let told = ["type", "epoch", "body"].map(|field| &heard[field]);
            assert_eq!(told, [&json!("message"), &reset["epoch"], &json!(lane)], "{heard}");
        }
    }
}

#[tokio::test]
async fn who_was_on_a_node_that_died_leaves_once_unless_it_comes_back() {
    let redis = RedisServer::start();
    let window = Duration::from_secs(8);
    let node = async || {
        let node = Served::with(|config| {
            config.broker = BrokerPlace::parse(&redis.address).unwrap();
            config.resume_window = window;
        });
        node.await
    };
    let (here, there) = (node().await, node().await);
    soon(here.gateway.ready()).await;
    soon(there.gateway.ready()).await;
    let flags = ["--broker", &redis.address, "--set", "resume_window_ms=8000"];
    let dies = Process::with(tempfile::tempdir().unwrap(), &flags);
    let mut bob = here.webtransport().await;
    bob.join("r").await;
    let mut cid = there.websocket().await;
    cid.join("r").await;
    let mut ann = Member::websocket(dies.plain()).await;
    ann.join("r").await;
    let mut dan = Member::webtransport(dies.secure()).await;
    dan.join("r").await;
    dies.signal("KILL");
    let mut moved = Member::over_webtransport(there.secure()).await;
    moved.resume(&dan.welcome).await;
    assert_eq!(moved.expect("signal", "welcome").await["resumed"], true);
    // Everybody sees the same: the one goes away and leaves, the other one stays.
    let mut seen = Vec::new();
    for member in [&mut bob, &mut cid] {
        let mut of_ann = Vec::new();
        let left = loop {
            let told = member.next("signal").await.expect("the connection has ended");
            if told["peer"] == ann.peer {
                of_ann.push(told["type"].as_str().unwrap().to_owned());
            }
            if told["type"] == "member_left" {
                break told;
            }
        };
        assert_eq!((&left["peer"], &left["reason"]), (&json!(ann.peer), &json!("expired")));
        assert_eq!(of_ann, ["member_joined", "member_away", "member_left"]);
        seen.push(left["offset"].as_u64().unwrap());
    }
    assert_eq!(seen[0], seen[1]);
    let seq = bob.post("r", "signal", json!("still here")).await;
    assert_eq!(bob.accepted("signal", seq).await, seen[0] + 1, "nothing else has happened since");
    cid.send("signal", json!({"type": "members", "id": 70, "room": "r"})).await;
    cid.expect("signal", "message").await;
    let members = cid.expect("signal", "members").await;
    let peers: Vec<&Value> =
        members["members"].as_array().unwrap().iter().map(|member| &member["peer"]).collect();
    assert_eq!(peers, [&json!(bob.peer), &json!(cid.peer), &json!(dan.peer)]);
}

#[tokio::test]
async fn without_a_redis_it_waits_for_one() {
    let mut redis = RedisServer::absent();
    let place = BrokerPlace::parse(&redis.address).unwrap();
    let strict = Served::with(|config| config.broker = place.clone()).await;
    let lenient = Served::with(|config| {
        config.broker = place.clone();
        config.broker_optional = true;
    });
    let lenient = lenient.await;
    soon(lenient.gateway.ready()).await;
    assert!(health(&lenient).await.starts_with("HTTP/1.1 200"));
    let answer = health(&strict).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("degraded"), "{answer}");
    let mut early = Member::over_websocket(strict.plain()).await;
    early.send("signal", json!({"type": "hello", "version": 1})).await;
    is_for_later(&early.expect("signal", "error").await);
    redis.launch();
    soon(strict.gateway.ready()).await;
    health_says(&strict, "ok").await;
    early.send("signal", json!({"type": "hello", "version": 1})).await;
    early.expect("signal", "welcome").await;
    early.join("r").await;
}

/// It cannot be had now, and it is said when to ask again.
fn is_for_later(error: &Value) {
    assert_eq!(error["code"], "unavailable");
    assert!(error["retry_after"].as_u64().is_some_and(|ms| ms > 0), "{error}");
}

#[tokio::test]
async fn what_cannot_be_had_now_is_said_to_be_for_later() {
    let (redis, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let secret_file = Some(secret_file(&dir, "secret", SECRET));
    let node = Served::with(|config| {
        config.broker = BrokerPlace::parse(&redis.address).unwrap();
        config.auth = Some(Auth { secret_file, ..Auth::default() });
    });
    let node = node.await;
    soon(node.gateway.ready()).await;
    let token = Signer::secret().sign(None, &claims("ann"));
    let mut ann = Member::over_webtransport(node.secure()).await;
    let welcome = enters(&mut ann, &token).await;
    let mut moved = Member::over_websocket(node.plain()).await;
    redis.pause();
    health_says(&node, "degraded").await;
    ann.send("signal", json!({"type": "refresh", "id": 70, "token": token})).await;
    is_for_later(&ann.expect("signal", "error").await);
    let resume = json!({
        "session": welcome["session"], "secret": welcome["secret"], "rooms": {},
    });
    let hello = json!({"type": "hello", "version": 1, "token": token, "resume": resume});
    moved.send("signal", hello.clone()).await;
    is_for_later(&moved.expect("signal", "error").await);
    redis.go_on();
    health_says(&node, "ok").await;
    moved.send("signal", hello).await;
    assert_eq!(moved.expect("signal", "welcome").await["resumed"], true);
}

#[tokio::test]
async fn an_end_that_meets_an_outage_comes_soon_after_it() {
    let redis = RedisServer::start();
    let node = Served::with(|config| {
        config.broker = BrokerPlace::parse(&redis.address).unwrap();
        // Sessions without a connection end at once, and would otherwise after an hour.
        config.resume_window = Duration::from_secs(3_600);
        config.capacity.sessions_away = 0;
    });
    let node = node.await;
    soon(node.gateway.ready()).await;
    let (mut ann, mut bob) = (node.websocket().await, node.webtransport().await);
    ann.join("r").await;
    bob.join("r").await;
    redis.pause();
    health_says(&node, "degraded").await;
    let before = node.metric("handover_connections{transport=\"websocket\"}").await;
    drop(ann);
    soon(async {
        while node.metric("handover_connections{transport=\"websocket\"}").await == before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    redis.go_on();
    assert_eq!(bob.expect("signal", "member_left").await["reason"], "expired");
}

#[tokio::test]
async fn that_there_is_no_redis_is_in_the_log() {
    let mut redis = RedisServer::absent();
    let flags = ["--broker", &redis.address, "--broker-optional"];
    let node = Process::with(tempfile::tempdir().unwrap(), &flags);
    let lines = node.logged("redis does not answer; trying on", 1);
    assert!(lines[0].contains("WARN") && lines[0].contains("socket"), "{lines:?}");
    redis.launch();
    node.logged("redis answers", 1);
}

#[tokio::test]
async fn a_session_of_before_there_were_keys_does_not_go_on_at_a_node_that_has_them() {
    let (redis, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let open = Served::node(&redis.address).await;
    let secret_file = Some(secret_file(&dir, "secret", SECRET));
    let keyed = Served::with(|config| {
        config.broker = BrokerPlace::parse(&redis.address).unwrap();
        config.auth = Some(Auth { secret_file, ..Auth::default() });
    });
    let keyed = keyed.await;
    soon(keyed.gateway.ready()).await;
    for mut ann in [open.websocket().await, open.webtransport().await] {
        let joined = ann.join("r").await;
        let resume = json!({
            "session": ann.welcome["session"], "secret": ann.welcome["secret"],
            "rooms": {"r": {"epoch": joined["epoch"], "signal": joined["signal"], "bulk": 0}},
        });
        let hello = json!({"type": "hello", "version": 1, "resume": resume});
        let mut with_token = hello.clone();
        with_token["token"] = json!(Signer::secret().sign(None, &claims("ann")));
        for mut moved in [
            Member::over_websocket(keyed.plain()).await,
            Member::over_webtransport(keyed.secure()).await,
        ] {
            // Nobody's session does not become somebody's, either.
            moved.send("signal", with_token.clone()).await;
            assert_eq!(moved.expect("signal", "error").await["code"], "forbidden");
            moved.send("signal", hello.clone()).await;
            assert_eq!(moved.expect("signal", "error").await["code"], "unauthorized");
            assert_eq!(moved.closed().await, 4501);
        }
        // Where it is, it notices nothing, and there it can be resumed.
        ann.answers().await;
        let mut back = Member::over_webtransport(open.secure()).await;
        back.send("signal", hello).await;
        assert_eq!(back.expect("signal", "welcome").await["resumed"], true);
        assert_eq!(ann.closed().await, 4504);
        back.send("signal", json!({"type": "bye"})).await;
        back.bye().await;
    }
}
