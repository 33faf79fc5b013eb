//! What every broker has to hold to, as tests that run on each of them.
//!
//! A broker is looked at from two nodes: what one did, the other sees. Time is the tests' own.

mod deaths;
mod failovers;
mod losses;
mod many;
mod replicas;
mod rooms;
mod server;
mod sessions;
mod silence;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use handover_protocol::limits::Retention;
use handover_protocol::room::entry::{Entry, Event};
use handover_protocol::room::{Joining, Refusal, RoomLimits, Sent, Snapshot};
use handover_protocol::session::grant::Admission;
use handover_protocol::time::Time;
use handover_protocol::wire::message::{LeaveReason, Send as SendMessage};
use handover_protocol::wire::{Epoch, Json, LogLane, PeerId, PerLane, RoomName, Secret, SessionId};
use handover_redis_servers::{Cluster, Sentinels};

use super::memory::MemoryBroker;
use super::{Author, Broker, Change, Done, RoomOp, RoomState, SecretHash, SessionRecord};

/// A broker as two nodes see it.
struct Nodes {
    here: Arc<dyn Broker>,
    there: Arc<dyn Broker>,
    /// What both ask, if it is not in this process.
    _behind: Option<Behind>,
}

/// Processes that end when nobody needs them any more.
type Behind = Arc<dyn Any + Send + Sync>;

/// How a broker for one test comes to be.
trait Kind {
    async fn start(limits: RoomLimits) -> Nodes;
}

struct Memory;

impl Kind for Memory {
    async fn start(limits: RoomLimits) -> Nodes {
        let broker = Arc::new(MemoryBroker::new(limits));
        Nodes { here: broker.clone(), there: broker, _behind: None }
    }
}

/// Runs every test on every broker.
macro_rules! conformance {
    ($($group:ident::$case:ident;)+) => {
        mod memory {
            $(#[tokio::test]
            async fn $case() {
                super::$group::$case::<super::Memory>().await;
            })+
        }

        mod redis {
            $(#[tokio::test]
            async fn $case() {
                super::$group::$case::<super::server::Redis>().await;
            })+
        }

        /// On those that take long to start: one for all.
        async fn every_case<K: Kind>() {
            $(
                eprintln!("{}", stringify!($case));
                $group::$case::<K>().await;
            )+
        }
    };
}

conformance! {
    rooms::offsets_count_up_on_each_lane_and_are_read_back;
    rooms::a_send_is_applied_once;
    rooms::a_seq_is_never_skipped;
    rooms::what_was_sent_outlives_membership_and_room;
    rooms::members_come_change_and_go;
    rooms::a_full_room_takes_nobody_but_its_members;
    rooms::what_members_show_together_is_bounded;
    rooms::addressees_are_members_and_others;
    rooms::away_and_back_alternate;
    rooms::bodies_come_back_as_they_were_written;
    rooms::a_log_is_bounded_by_entries_past_the_window;
    rooms::a_log_is_bounded_by_bytes;
    rooms::a_log_is_bounded_by_age;
    rooms::sends_from_two_nodes_are_one_order;
    rooms::an_empty_room_lingers_and_goes;
    rooms::a_room_that_is_not_there_has_no_members;
    rooms::a_life_that_is_over_is_changed_no_more;
    rooms::snapshots_of_one_go_differ_by_what_lies_between;
    rooms::a_member_finds_its_own_place;
    rooms::what_lies_behind_a_position_is_read;
    sessions::a_session_is_resumed_by_its_secret_alone;
    sessions::each_resume_fences_the_one_before;
    sessions::a_fenced_join_leaves_nothing_behind;
    sessions::the_rooms_are_recorded_with_the_session;
    sessions::a_retired_session_still_finishes_but_is_not_resumed;
    sessions::only_who_speaks_for_a_session_retires_or_readmits_it;
    sessions::an_ended_session_does_nothing_more;
    sessions::an_ended_session_is_forgotten_by_its_rooms;
    sessions::what_a_session_may_do_goes_with_it;
}

/// What only a store that outlives a node, and may lose what it had, has to answer for.
mod elsewhere {
    use super::{Kind, rooms, server, sessions};

    #[tokio::test]
    async fn what_is_known_to_have_been_is_not_used_again() {
        rooms::what_is_known_to_have_been_is_not_used_again::<server::Redis>().await;
    }

    #[tokio::test]
    async fn a_lost_session_is_recorded_again_by_who_speaks_for_it() {
        sessions::a_lost_session_is_recorded_again_by_who_speaks_for_it::<server::Redis>().await;
    }

    #[tokio::test]
    async fn who_spoke_for_a_lost_session_before_does_not_end_it() {
        sessions::who_spoke_for_a_lost_session_before_does_not_end_it::<server::Redis>().await;
    }

    #[tokio::test]
    async fn an_ended_session_is_not_recorded_again() {
        sessions::an_ended_session_is_not_recorded_again::<server::Redis>().await;
    }

    pub(super) async fn every_case<K: Kind>() {
        rooms::what_is_known_to_have_been_is_not_used_again::<K>().await;
        sessions::a_lost_session_is_recorded_again_by_who_speaks_for_it::<K>().await;
        sessions::who_spoke_for_a_lost_session_before_does_not_end_it::<K>().await;
        sessions::an_ended_session_is_not_recorded_again::<K>().await;
    }
}

#[tokio::test]
async fn every_case_holds_on_a_cluster() {
    many::OnCluster::lend(Cluster::start(3, 0).await);
    every_case::<many::OnCluster>().await;
    elsewhere::every_case::<many::OnCluster>().await;
}

#[tokio::test]
async fn every_case_holds_under_sentinels() {
    many::OnSentinels::lend(Sentinels::start(1).await);
    every_case::<many::OnSentinels>().await;
    elsewhere::every_case::<many::OnSentinels>().await;
}

const GENEROUS: Retention = Retention {
    entries: 1_000,
    bytes: 1 << 20,
    age: Duration::from_secs(150),
    window: Duration::from_secs(60),
};

fn limits(retention: Retention) -> RoomLimits {
    let retention = PerLane { signal: retention, bulk: retention };
    RoomLimits { members: 3, metadata_bytes: 1_000, retention }
}

fn at(seconds: u64) -> Time {
    Time::from_micros(seconds * 1_000_000)
}

fn room() -> RoomName {
    // Nothing a room may be called may mislead a store's own syntax.
    RoomName::parse("{a} b}/*[é]:0\u{1F980}").unwrap()
}

fn epoch(name: &str) -> Epoch {
    Epoch::parse(name).unwrap()
}

fn json(text: &str) -> Json {
    Json::parse(text.as_bytes()).unwrap()
}

/// Metadata of so many bytes.
fn shown(bytes: usize) -> Json {
    json(&format!(r#"{{"":"{}"}}"#, "x".repeat(bytes - 7)))
}

/// The author of a session's first connection.
fn author(name: &str) -> Author {
    let session = SessionId::parse(&format!("session-{name}")).unwrap();
    Author { session, peer: PeerId::parse(name).unwrap(), generation: 1 }
}

fn secret(name: &str) -> SecretHash {
    SecretHash::of(&Secret::new(name.to_owned()))
}

fn record(name: &str) -> SessionRecord {
    let Author { session, peer, generation } = author(name);
    let (admission, secret_hash) = (Admission::anonymous(), secret(name));
    SessionRecord { session, peer, admission, secret_hash, generation, rooms: Vec::new() }
}

/// One node's way to ask, in one room.
#[derive(Clone)]
struct Node {
    broker: Arc<dyn Broker>,
    _behind: Option<Behind>,
    room: RoomName,
    now: Time,
}

impl Nodes {
    /// Both nodes, with the room loaded and the sessions `names` opened but in no room.
    async fn with<K: Kind>(limits: RoomLimits, names: &[&str]) -> (Node, Node) {
        let Nodes { here, there, _behind } = K::start(limits).await;
        for name in names {
            here.open(record(name)).await.unwrap();
        }
        let node = |broker| Node { broker, _behind: _behind.clone(), room: room(), now: at(10) };
        let (here, there) = (node(here), node(there));
        here.load("first").await;
        // Only the first to load a room names its life.
        there.load("second").await;
        (here, there)
    }

    /// Both nodes, and everybody of `names` in the room.
    async fn joined<K: Kind>(limits: RoomLimits, names: &[&str]) -> (Node, Node) {
        let (here, there) = Nodes::with::<K>(limits, names).await;
        for name in names {
            here.join(author(name)).await.unwrap();
        }
        (here, there)
    }
}

impl Node {
    async fn load(&self, fresh: &str) -> RoomState {
        self.broker.load(self.now, &self.room, epoch(fresh)).await.unwrap()
    }

    async fn ask_all(&self, asked: Vec<(Author, Change)>) -> Vec<Result<Done, Refusal>> {
        let ops = asked.into_iter().map(|(author, change)| RoomOp { author, change }).collect();
        self.broker.apply(self.now, &self.room, None, ops).await.unwrap().unwrap()
    }

    async fn ask(&self, author: Author, change: Change) -> Result<Done, Refusal> {
        let mut results = self.ask_all(vec![(author, change)]).await;
        assert_eq!(results.len(), 1);
        results.remove(0)
    }

    async fn join(&self, author: Author) -> Result<Joining, Refusal> {
        match self.ask(author, joining()).await? {
            Done::Joined(joining) => Ok(joining),
            other => panic!("{other:?}"),
        }
    }

    async fn leave(&self, author: Author) -> Option<Arc<Entry>> {
        match self.ask(author, Change::Leave(LeaveReason::Left)).await.unwrap() {
            Done::Left(entry, _) => entry,
            other => panic!("{other:?}"),
        }
    }

    async fn snapshot(&self, author: Author) -> Result<Snapshot, Refusal> {
        match self.ask(author, Change::Snapshot).await? {
            Done::Snapshot(snapshot) => Ok(snapshot),
            other => panic!("{other:?}"),
        }
    }

    fn message(&self, lane: LogLane, seq: u64, body: &str) -> Change {
        let (room, body) = (self.room.clone(), json(body));
        Change::Send(SendMessage { room, lane, seq, to: None, body })
    }

    async fn send(&self, author: Author, lane: LogLane, seq: u64) -> Result<Sent, Refusal> {
        match self.ask(author, self.message(lane, seq, "1")).await? {
            Done::Sent(sent) => Ok(sent),
            other => panic!("{other:?}"),
        }
    }

    /// Sends, and expects it to be appended there.
    async fn append(&self, author: Author, lane: LogLane, seq: u64) -> Arc<Entry> {
        match self.send(author, lane, seq).await.unwrap() {
            Sent::Appended(entry) => entry,
            other => panic!("{other:?}"),
        }
    }

    fn later(&self, seconds: u64) -> Node {
        let now = self.now + Duration::from_secs(seconds);
        Node { now, room: self.room.clone(), ..self.clone() }
    }

    async fn remove(&self) -> bool {
        self.broker.remove_if_empty(self.now, &self.room).await.unwrap()
    }
}

/// The offsets held on a lane.
fn offsets(state: &RoomState, lane: LogLane) -> Vec<u64> {
    state.entries[lane].iter().map(|entry| entry.offset).collect()
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.members.iter().map(|member| member.peer.as_str()).collect()
}

fn code<T>(result: Result<T, Refusal>) -> Option<handover_protocol::wire::ErrorCode> {
    result.err().map(|refusal| refusal.code)
}

fn joining() -> Change {
    Change::Join { user: None, metadata: None }
}

fn is_fenced(result: Result<Done, Refusal>) -> bool {
    matches!(result, Ok(Done::Fenced))
}

fn body(entry: &Entry) -> &str {
    match &entry.event {
        Event::Message { body, .. } => body.as_str(),
        other => panic!("{other:?}"),
    }
}
