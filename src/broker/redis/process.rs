//! Which process answers, and what is known of its past.
//!
//! One that was started again, or a replica that was made the master, may hold less than was
//! answered, and nobody needs to know. See `room.lua` for what follows from that.

use std::sync::atomic::{AtomicBool, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, ServerErrorKind};

use super::follow::bounded;
use crate::broker::Unavailable;

/// That much of a name tells processes apart.
const NAME_LEN: usize = 16;

/// A process that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    /// Its name, which it has chosen by chance at its start; nothing if it is not to be had.
    pub(super) name: String,
    /// It has never been a replica, and writes all that it does to a file before it answers: what
    /// it found at its start is all there was, unless the machine had stopped, or its disk was behind.
    pub(super) goes_on: bool,
    /// It has been given something by a master: as much as was answered, where replicas are waited
    /// for. A master that was started again with an older copy has not, though it may call itself by
    /// the history that it finds in there.
    pub(super) was_fed: bool,
}

impl Process {
    /// Asks who answers on a connection. One that does not say so has no name: its address is
    /// none, for others may reach it by another one, or know its name.
    pub(super) async fn ask(mut line: MultiplexedConnection) -> Result<Process, Unavailable> {
        static TOLD: AtomicBool = AtomicBool::new(false);
        let asked = bounded(async {
            let mut question = redis::cmd("INFO");
            question.arg(&["server", "replication", "persistence", "stats"]);
            match question.query_async::<String>(&mut line).await {
                // It will say so when it has read its file.
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading) => {
                    Err(error)
                }
                // Not allowed, or not there.
                Err(error) if error.code().is_some() => Ok(None),
                told => told.map(Some),
            }
        });
        let process = asked.await?.and_then(|told| Process::read(&told));
        if process.is_none() && !TOLD.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "redis does not tell its user who it is (INFO): if it is started again, or \
                 replaced, and has lost something, that may go unnoticed"
            );
        }
        Ok(process.unwrap_or_default())
    }

    fn read(told: &str) -> Option<Process> {
        let field = |name: &str| {
            let value = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(str::trim)
        };
        let name = field("run_id")?.get(..NAME_LEN)?.to_owned();
        // The history that a replica had in common with its master.
        let common = field("master_replid2");
        let was_replica = common.is_none_or(|common| common.bytes().any(|digit| digit != b'0'));
        let goes_on = !was_replica && field("aof_enabled") == Some("1");
        let fed = field("total_net_repl_input_bytes").and_then(|bytes| bytes.parse::<u64>().ok());
        Some(Process { name, goes_on, was_fed: fed.is_some_and(|bytes| bytes > 0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_a_replica_or_keeps_no_file_does_not_go_on() {
        let told = |replid2: &str, aof: &str| {
            let run = "0123456789abcdef0123";
            let replication = format!("master_replid:77\r\nmaster_replid2:{replid2}\r\n");
            Process::read(&format!("run_id:{run}\r\n{replication}aof_enabled:{aof}\r\n"))
        };
        let name = || "0123456789abcdef".to_owned();
        let process = |goes_on| Some(Process { name: name(), goes_on, was_fed: false });
        assert_eq!(told("000000", "1"), process(true));
        assert_eq!(told("000700", "1"), process(false));
        assert_eq!(told("000000", "0"), process(false));
        assert_eq!(Process::read("run_id:0123456789abcdef0123"), process(false));
        assert_eq!(Process::read("master_replid2:000000\r\naof_enabled:1\r\n"), None);
        for (bytes, was_fed) in [("0", false), ("17", true)] {
            let told = format!("run_id:{}\r\ntotal_net_repl_input_bytes:{bytes}\r\n", name());
            assert_eq!(Process::read(&told).unwrap().was_fed, was_fed);
        }
    }
}
