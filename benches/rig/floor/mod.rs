//! The floor: what the libraries cost that the gateway is built on, with nothing of ours.
//!
//! A bare relay. Whoever connects to `/relay/NAME` is put into the group NAME; every frame of
//! a member is handed to all the others as it came, by the task that read it, straight into
//! their sockets. No rooms, no log, no session, no acknowledgement, no protection against a
//! member that does not read. `/datagrams/NAME` is the same for datagrams, and `/idle` only
//! ever listens. The first frame of a connection is a greeting and is answered by one frame.
//!
//! Libraries, TLS provider, buffer sizes and socket options are the gateway's.

mod quic;
mod tcp;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::MutexGuard;

use super::Result;

/// The argument that makes a bench's process the floor's server.
pub const ROLE: &str = "floor";
/// What its output has before the ports: TCP, TCP with TLS, UDP.
pub const ANNOUNCED: [&str; 3] = ["plain ", "secure ", "quic "];
/// What it answers to a greeting.
pub const READY: &str = r#"{"type":"ready"}"#;

/// Runs the server until the process is ended.
pub fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (plain, plain_port) = tcp::bind()?;
        let (secure, secure_port) = tcp::bind()?;
        let (endpoint, quic_port) = quic::bind()?;
        println!("plain {plain_port}\nsecure {secure_port}\nquic {quic_port}");
        tokio::try_join!(
            tcp::serve(plain, None),
            tcp::serve(secure, Some(tcp::tls()?)),
            quic::serve(endpoint),
        )?;
        Ok(())
    })
}

/// Where a connection asked to go.
enum Place {
    Relay(String),
    Datagrams(String),
    Idle,
}

fn place(path: &str) -> Option<Place> {
    if let Some(name) = path.strip_prefix("/relay/") {
        Some(Place::Relay(name.to_owned()))
    } else if let Some(name) = path.strip_prefix("/datagrams/") {
        Some(Place::Datagrams(name.to_owned()))
    } else {
        (path == "/idle").then_some(Place::Idle)
    }
}

/// The sending halves of everybody in a group.
struct Group<S> {
    members: tokio::sync::Mutex<Vec<(usize, S)>>,
}

impl<S> Group<S> {
    /// Everybody but the member with that place.
    async fn others(&self, me: usize) -> Others<'_, S> {
        Others { members: self.members.lock().await, me }
    }
}

struct Others<'a, S> {
    members: MutexGuard<'a, Vec<(usize, S)>>,
    me: usize,
}

impl<S> Others<'_, S> {
    fn iter_mut(&mut self) -> impl Iterator<Item = &mut S> {
        let me = self.me;
        self.members.iter_mut().filter(move |(place, _)| *place != me).map(|(_, sender)| sender)
    }
}

struct Groups<S>(Mutex<HashMap<String, Arc<Group<S>>>>);

impl<S> Groups<S> {
    fn new() -> Arc<Self> {
        Arc::new(Groups(Mutex::new(HashMap::new())))
    }

    /// The group, and the place of the new member in it.
    async fn join(&self, name: String, sender: S) -> (Arc<Group<S>>, usize) {
        let group = {
            let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let empty = || Arc::new(Group { members: tokio::sync::Mutex::new(Vec::new()) });
            groups.entry(name).or_insert_with(empty).clone()
        };
        let mut members = group.members.lock().await;
        let me = members.len();
        members.push((me, sender));
        drop(members);
        (group, me)
    }
}
