//! A Redis Cluster.

use std::net::Ipv4Addr;

use crate::{Server, ask, own_host, until};

const SLOTS: usize = 16_384;

/// Masters, each with a third of the slots or so, and behind them replicas.
#[derive(Debug)]
pub struct Cluster {
    /// Where all of them are,
    pub host: Ipv4Addr,
    /// on ports from 7000 on: the masters, and then the replicas.
    pub servers: Vec<Server>,
    masters: usize,
    addresses: String,
}

impl Cluster {
    /// With that many masters, and replicas for them in turn.
    pub async fn start(masters: usize, replicas: usize) -> Cluster {
        let host = own_host();
        let announced = host.to_string();
        let args = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
        let args = [&args[..], &["--cluster-announce-ip", &announced]].concat();
        let ports = 7000..7000 + u16::try_from(masters + replicas).unwrap();
        let servers: Vec<Server> =
            ports.clone().map(|port| Server::on_port(host, port, &args)).collect();
        // Before any of them has met another.
        for (at, server) in servers.iter().enumerate() {
            let epoch = format!("CLUSTER SET-CONFIG-EPOCH {}", at + 1);
            ask(&mut server.line().await, &epoch).await;
        }
        let mut ids = Vec::new();
        for (at, server) in servers.iter().enumerate() {
            let mut line = server.line().await;
            if at < masters {
                let (first, end) = (at * SLOTS / masters, (at + 1) * SLOTS / masters);
                ask(&mut line, &format!("CLUSTER ADDSLOTSRANGE {first} {}", end - 1)).await;
            }
            for port in ports.clone() {
                ask(&mut line, &format!("CLUSTER MEET {host} {port}")).await;
            }
            let redis::Value::BulkString(id) = ask(&mut line, "CLUSTER MYID").await else {
                panic!("an id is a string");
            };
            ids.push(String::from_utf8(id).unwrap());
        }
        let all = format!("cluster_known_nodes:{}", servers.len());
        for (at, server) in servers.iter().enumerate() {
            let mut line = server.line().await;
            until(&mut line, "CLUSTER INFO", &[&all, "cluster_slots_ok:16384"]).await;
            if at >= masters {
                ask(&mut line, &format!("CLUSTER REPLICATE {}", ids[at % masters])).await;
                until(&mut line, "INFO replication", &["master_link_status:up"]).await;
            }
        }
        for server in &servers {
            until(&mut server.line().await, "CLUSTER INFO", &["cluster_state:ok"]).await;
        }
        let addresses: Vec<String> = ports.map(|port| format!("{host}:{port}")).collect();
        Cluster { host, servers, masters, addresses: addresses.join(",") }
    }

    /// For the setting `broker`.
    pub fn address(&self) -> String {
        format!("redis-cluster://{}", self.addresses)
    }

    /// Which master was given the slot of a key.
    pub async fn owner(&self, key: &str) -> usize {
        let mut line = self.servers[0].line().await;
        let slot = ask(&mut line, &format!("CLUSTER KEYSLOT {key}")).await;
        let redis::Value::Int(slot) = slot else { panic!("a slot is a number") };
        let slot = usize::try_from(slot).unwrap();
        let end = |at| (at + 1) * SLOTS / self.masters;
        (0..self.masters).find(|at| slot < end(*at)).unwrap()
    }
}
