//! A master, its replicas, and sentinels that watch over them.

use std::net::Ipv4Addr;

use crate::{Server, own_host, until};

/// A master, its replicas, and two sentinels that watch over them.
#[derive(Debug)]
pub struct Sentinels {
    host: Ipv4Addr,
    /// The master at the start.
    pub master: Server,
    /// What was there to replace it.
    pub replicas: Vec<Server>,
    _sentinels: [Server; 2],
}

impl Sentinels {
    /// With that many replicas.
    pub async fn start(replicas: u16) -> Sentinels {
        Sentinels::with(&vec![&[][..]; usize::from(replicas)]).await
    }

    /// With replicas that have these settings of their own.
    pub async fn with(replicas: &[&[&str]]) -> Sentinels {
        let host = own_host();
        let announced = host.to_string();
        let announced = ["--replica-announce-ip", announced.as_str()];
        let master = Server::on_port(host, 7000, &announced);
        let mut line = master.line().await;
        let of = format!("{host} 7000");
        let settings = ["--replicaof", &of, "--repl-diskless-sync-delay", "0"];
        let settings = [&settings[..], &announced].concat();
        let replicas: Vec<Server> = (7001..)
            .zip(replicas)
            .map(|(port, own)| Server::on_port(host, port, &[&settings, *own].concat()))
            .collect();
        for (at, replica) in replicas.iter().enumerate() {
            until(&mut replica.line().await, "INFO replication", &["master_link_status:up"]).await;
            let online = format!("port={},state=online", 7001 + at);
            until(&mut line, "INFO replication", &[&online]).await;
        }
        // The second takes longer to notice: two that ask for each other's vote at once get none, and
        // ask again far later.
        let sentinels = [(26_000, 800), (26_001, 2_400)].map(|(port, silence)| {
            let settings = format!(
                "sentinel monitor main {host} 7000 1\n\
                 sentinel down-after-milliseconds main {silence}\n\
                 sentinel failover-timeout main 4000\n\
                 sentinel announce-ip {host}\n"
            );
            Server::sentinel(host, port, &settings)
        });
        let field = |name: &str, value: usize| format!("{name}\"'), bulk-string('\"{value}\"')");
        let known = [field("num-other-sentinels", 1), field("num-slaves", replicas.len())];
        for sentinel in &sentinels {
            let known = known.each_ref().map(String::as_str);
            until(&mut sentinel.line().await, "SENTINEL MASTER main", &known).await;
        }
        Sentinels { host, master, replicas, _sentinels: sentinels }
    }

    /// For the setting `broker`.
    pub fn address(&self) -> String {
        format!("redis-sentinel://{0}:26000,{0}:26001/main", self.host)
    }
}
