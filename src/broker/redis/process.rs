//! Which process answers, and what is known of its past.
//!
//! One that was started again, or a replica that was made the master, may hold less than was
//! answered, and nobody needs to know. See `room.lua` for what follows from that.

use std::sync::atomic::{AtomicBool, Ordering};

use redis::aio::MultiplexedConnection;

use super::address::Place;
use super::follow::bounded;
use super::stored::garbled;
use crate::broker::Unavailable;

/// That much of a name tells processes apart.
const NAME_LEN: usize = 16;

/// A process that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    /// Its name, which it has chosen by chance at its start; nothing if it does not matter.
    pub(super) name: String,
    /// It has never been a replica, and writes all that it does to a file before it answers: what
    /// it found at its start is all there was, unless the machine had stopped, or its disk was behind.
    pub(super) goes_on: bool,
}

impl Process {
    /// Asks who answers on a connection. One that may not say so is known by its place: it is
    /// noticed when another one takes over, and not when it is started again.
    pub(super) async fn ask(
        mut line: MultiplexedConnection,
        place: &Place,
    ) -> Result<Process, Unavailable> {
        static TOLD: AtomicBool = AtomicBool::new(false);
        let asked = bounded(async {
            let mut question = redis::cmd("INFO");
            question.arg("server").arg("replication").arg("persistence");
            match question.query_async::<String>(&mut line).await {
                Err(error) if error.code() == Some("NOPERM") => Ok(None),
                told => told.map(Some),
            }
        });
        match asked.await? {
            Some(told) => Process::read(&told).ok_or_else(|| garbled("no name of its own")),
            None => {
                if !TOLD.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "redis does not let its user ask INFO: if it is started again, or replaced \
                         at the same address, and has lost something, that may go unnoticed"
                    );
                }
                Ok(Process { name: place.to_string().replace(' ', "+"), goes_on: false })
            }
        }
    }

    fn read(told: &str) -> Option<Process> {
        let field = |name: &str| {
            let value = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(str::trim)
        };
        let name = field("run_id")?.get(..NAME_LEN)?.to_owned();
        // The history that a replica had in common with its master.
        let was_replica = field("master_replid2")?.bytes().any(|digit| digit != b'0');
        let goes_on = !was_replica && field("aof_enabled")? == "1";
        Some(Process { name, goes_on })
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
        let process = |goes_on| Some(Process { name: "0123456789abcdef".to_owned(), goes_on });
        assert_eq!(told("000000", "1"), process(true));
        assert_eq!(told("000700", "1"), process(false));
        assert_eq!(told("000000", "0"), process(false));
        assert_eq!(Process::read("run_id:0123456789abcdef0123"), None);
    }
}
