//! A connection whose own code fails.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Mutex;

use bytes::Bytes;
use handover_protocol::limits::{ANSWER_BYTES_MAX, Limits, Retention};
use handover_protocol::pace::Rate;
use handover_protocol::room::RoomLimits;
use handover_protocol::session::grant::{Grant, Rights, RoomGrant, RoomPattern};
use handover_protocol::wire::frame::Frame;
use handover_protocol::wire::{Codec, Json};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::broker::memory::MemoryBroker;
use crate::pressure::Pressure;
use crate::transport::PathSample;
use crate::transport::accept::{Gate, GateLimits};

/// What comes to a connection.
#[derive(Clone)]
enum Coming {
    Message(Bytes),
    Datagram,
    SignOfLife,
}

/// Delivers what it is given, then does what no transport should.
struct Treacherous {
    arriving: VecDeque<Coming>,
    closed_with: Arc<Mutex<Option<CloseCode>>>,
    told: Arc<Mutex<Vec<Frame>>>,
    then: Then,
}

/// What it does at the end.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Fail,
    /// ... and once more when it is to be closed.
    FailAgain,
    Close,
    /// Gives this as its reason.
    Say(&'static str),
}

impl Transport for Treacherous {
    fn kind(&self) -> Kind {
        Kind::WebSocket
    }

    fn codec(&self) -> Codec {
        Codec::Json
    }

    fn is_complete(&self) -> bool {
        true
    }

    fn path(&self) -> PathSample {
        let remote = (Ipv4Addr::LOCALHOST, 1).into();
        PathSample { rtt: None, packets_sent: 0, packets_lost: 0, remote }
    }

    fn poll_recv(
        &mut self,
        _cx: &mut Context<'_>,
        intake: Intake,
    ) -> Poll<Result<Inbound, TransportEnd>> {
        // Datagrams cannot be held back.
        if !intake.signal && !matches!(self.arriving.front(), Some(Coming::Datagram)) {
            return Poll::Pending;
        }
        if self.then == Then::Close && self.arriving.is_empty() {
            return Poll::Ready(Err(TransportEnd::Closed));
        }
        if let (Then::Say(reason), true) = (self.then, self.arriving.is_empty()) {
            return Poll::Ready(Err(TransportEnd::Lost(reason.to_owned())));
        }
        let (lane, payload) = match self.arriving.pop_front().expect("a fault on purpose") {
            Coming::Message(said) => (Lane::Signal, said),
            Coming::Datagram => (Lane::Ephemeral, Bytes::from_static(b"{}")),
            Coming::SignOfLife => return Poll::Ready(Ok(Inbound::Alive)),
        };
        Poll::Ready(Ok(Inbound::Frame { lane, payload }))
    }

    fn poll_ready(&mut self, _: &mut Context<'_>, _: Lane) -> Poll<Result<(), TransportEnd>> {
        Poll::Ready(Ok(()))
    }

    fn start_send(&mut self, _: Lane, frame: Frame) -> Result<(), TransportEnd> {
        self.told.lock().unwrap().push(frame);
        Ok(())
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportEnd>> {
        Poll::Ready(Ok(()))
    }

    fn keep_alive(&mut self) {}

    async fn close(self, last: Option<Frame>, code: CloseCode, _: Duration) {
        assert!(self.then != Then::FailAgain, "a fault on purpose");
        assert!(last.is_some(), "it is told why");
        *self.closed_with.lock().unwrap() = Some(code);
    }
}

/// A gateway without sockets.
fn shared(pace: PaceLimits) -> Arc<Shared> {
    pressed(pace, Pressure::default())
}

fn pressed(pace: PaceLimits, pressure: Pressure) -> Arc<Shared> {
    let window = Duration::from_secs(120);
    let retention = PerLane { signal: Retention::signal(window), bulk: Retention::bulk(window) };
    let limits = RoomLimits { members: 9, metadata_bytes: usize::MAX, retention };
    let (clock, metrics) = (Clock::start(), Arc::<Metrics>::default());
    let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
    let broker = Arc::new(MemoryBroker::new(limits));
    let router =
        Router::start(broker, clock, metrics.clone(), limits, window, tasks, stopping.clone());
    let settings = Settings {
        limits: Limits::default(),
        heartbeat: Duration::from_secs(15),
        resume_window: window,
        outbox_bytes: ANSWER_BYTES_MAX,
        ice_servers: Vec::new(),
        ice_ttl: window,
    };
    Arc::new(Shared {
        settings,
        hello_timeout: Duration::from_secs(5),
        lines: Lines::new(LINES, Time::ZERO),
        blocked_timeout: Duration::from_secs(30),
        pace,
        pressure,
        authority: None,
        router,
        clock,
        metrics,
        stopping,
    })
}

/// What a connection is closed with to which this comes.
async fn closed_with(
    shared: &Arc<Shared>,
    arriving: impl IntoIterator<Item = Coming>,
) -> Option<CloseCode> {
    let closed_with = Arc::default();
    let (arriving, told) = (arriving.into_iter().collect(), Arc::default());
    let (then, kept) = (Then::Fail, Arc::clone(&closed_with));
    serve(shared, Treacherous { arriving, closed_with: kept, told, then }).await;
    *closed_with.lock().unwrap()
}

/// What a client is told that says this and goes.
async fn told(shared: &Arc<Shared>, said: &[Value]) -> Vec<Value> {
    let message = |said: &Value| Coming::Message(said.to_string().into());
    let (arriving, told) = (said.iter().map(message).collect(), Arc::default());
    let (then, closed_with) = (Then::Close, Arc::default());
    serve(shared, Treacherous { arriving, closed_with, told: Arc::clone(&told), then }).await;
    let told = told.lock().unwrap();
    told.iter().map(|frame| serde_json::from_slice(&frame.payload()).unwrap()).collect()
}

async fn serve(shared: &Arc<Shared>, transport: Treacherous) {
    let gate = Gate::new(GateLimits::of(2, 2), Time::ZERO, |_| true);
    let entered = gate.enter_plain().await.unwrap();
    run(transport, gate.admit(entered).unwrap(), shared.clone()).await;
}

const HELLO: Coming = Coming::Message(Bytes::from_static(br#"{"type":"hello","version":1}"#));
const JOIN: Coming = Coming::Message(Bytes::from_static(br#"{"type":"join","id":1,"room":"r"}"#));

#[tokio::test]
async fn a_panic_ends_its_connection_alone_and_is_counted() {
    let shared = shared(PaceLimits::default());
    for _ in 0..2 {
        assert_eq!(closed_with(&shared, [HELLO, JOIN]).await, Some(CloseCode::Internal));
    }
    let counted = shared.metrics.encode().unwrap();
    assert!(counted.contains("handover_panics_total 2"), "{counted}");
    // Both sessions live on, and so does the room they are in.
    assert!(counted.contains("handover_sessions 2"), "{counted}");
    assert!(counted.contains("handover_rooms 1"), "{counted}");
    shared.stopping.cancel();
}

#[tokio::test]
async fn a_panic_in_the_farewell_is_counted_too() {
    let shared = shared(PaceLimits::default());
    let (arriving, closed_with, told) = ([HELLO, JOIN].into(), Arc::default(), Arc::default());
    serve(&shared, Treacherous { arriving, closed_with, told, then: Then::FailAgain }).await;
    let counted = shared.metrics.encode().unwrap();
    assert!(counted.contains("handover_panics_total 2"), "{counted}");
    assert!(counted.contains("handover_sessions 1"), "{counted}");
    shared.stopping.cancel();
}

/// What is logged, as people read it.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn those_who_come_and_go_do_not_write_the_log() {
    const REASON: &str = "I go\nERROR the gateway was broken into\r\u{1b}[2J \"x\"";
    let page = Page::default();
    let writer = page.clone();
    let lines = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    let shared = shared(PaceLimits::default());
    let logging = tracing::subscriber::set_default(lines.finish());
    for _ in 0..1_000 {
        let (arriving, then) = ([HELLO].into(), Then::Say(REASON));
        let (closed_with, told) = (Arc::default(), Arc::default());
        serve(&shared, Treacherous { arriving, closed_with, told, then }).await;
    }
    drop(logging);
    let written = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = written.lines().collect();
    // Another twenty for each second that this takes.
    assert!((200..900).contains(&lines.len()), "{} lines", lines.len());
    assert!(lines.iter().all(|line| line.contains("connection ended")), "{}", lines[1]);
    assert!(lines[0].contains(r"I go\nERROR") && !written.contains('\u{1b}'), "{}", lines[0]);
    let counted = shared.metrics.encode().unwrap();
    assert!(counted.contains("} 1000"), "all are counted: {counted}");
    shared.stopping.cancel();
}

const SLOW: PaceLimits =
    PaceLimits { messages: Some(Rate { per_s: 10, burst: 20 }), bytes: None, joins: None };

#[tokio::test]
async fn signs_of_life_without_end_are_too_much() {
    let shared = shared(SLOW);
    for before in [Coming::SignOfLife, HELLO] {
        let signs = std::iter::repeat_n(Coming::SignOfLife, 50_000);
        let closed = closed_with(&shared, std::iter::once(before).chain(signs)).await;
        assert_eq!(closed, Some(CloseCode::RateLimited));
    }
    shared.stopping.cancel();
}

#[tokio::test]
async fn datagrams_without_end_are_too_much_while_nothing_is_read() {
    // Under this pressure the `hello` is all that is read in a second.
    let shared = pressed(SLOW, Pressure::of_share(0.02));
    let datagrams = std::iter::repeat_n(Coming::Datagram, 50_000);
    let closed = closed_with(&shared, std::iter::once(HELLO).chain(datagrams)).await;
    assert_eq!(closed, Some(CloseCode::RateLimited));
    assert!(!shared.metrics.encode().unwrap().contains("{reason=\"unread\"} 0"));
    shared.stopping.cancel();
}

/// It is short to ask who is in a room, and the answer may be long, whatever the question was.
#[tokio::test]
async fn lists_of_members_count_with_what_their_asker_sends() {
    let hello = json!({"type": "hello", "version": 1});
    let shown = json!({"text": "x".repeat(1_200)});
    let join = json!({"type": "join", "id": 1, "room": "r", "metadata": shown});
    let ping = json!({"type": "ping", "id": 9});
    for what in ["nothing", "members", "join", "resume"] {
        // Joining takes 1,200 bytes, and being told of that as many.
        let bytes = Some(Rate { per_s: 0, burst: 3_000 });
        let shared = shared(PaceLimits { bytes, ..PaceLimits::default() });
        let again = match what {
            "resume" | "nothing" => ping.clone(),
            _ => json!({"type": what, "id": 2, "room": "r"}),
        };
        let mut heard = told(&shared, &[hello.clone(), join.clone(), again, ping.clone()]).await;
        assert_eq!(heard[1]["type"], "joined");
        if what == "resume" {
            let welcome = &heard[0];
            let resume =
                json!({"session": welcome["session"], "secret": welcome["secret"], "rooms": {}});
            let hello = json!({"type": "hello", "version": 1, "resume": resume});
            // Answered behind the new start.
            let update = json!({"type": "update", "id": 3, "room": "r", "metadata": {}});
            heard = told(&shared, &[hello, update, ping.clone()]).await;
            assert!(heard.iter().any(|message| message["type"] == "reset"), "{heard:?}");
        }
        let code = heard.iter().rfind(|message| message["id"] == 9).map(|last| &last["code"]);
        let expected = if what == "nothing" { json!(null) } else { json!("rate_limited") };
        assert_eq!(code, Some(&expected), "{what}: {heard:?}");
        shared.stopping.cancel();
    }
}

#[tokio::test]
async fn joining_again_counts_as_joining() {
    let joins = Some(Rate { per_s: 0, burst: 2 });
    let shared = shared(PaceLimits { joins, ..PaceLimits::default() });
    let join = json!({"type": "join", "id": 1, "room": "r"});
    let leave = json!({"type": "leave", "id": 1, "room": "r"});
    let hello = json!({"type": "hello", "version": 1});
    let heard = told(&shared, &[hello, join.clone(), join.clone(), join, leave]).await;
    let answers: Vec<_> =
        heard.iter().filter(|m| m["id"] == 1).map(|m| m["code"].as_str().unwrap_or("ok")).collect();
    // Refused, it is still in the room.
    assert_eq!(answers, ["ok", "ok", "rate_limited", "ok"], "{heard:?}");
    shared.stopping.cancel();
}

/// A newer token is work to check, and may change what many rooms see.
#[tokio::test]
async fn newer_tokens_without_end_are_too_many() {
    let shared = shared(PaceLimits::default());
    let refresh = |id| json!({"type": "refresh", "id": id, "token": "t"});
    let hello = json!({"type": "hello", "version": 1});
    let said: Vec<_> = std::iter::once(hello).chain((1..=50).map(refresh)).collect();
    let heard = told(&shared, &said).await;
    let answers: Vec<_> = heard.iter().filter(|m| m["id"].is_u64()).collect();
    assert_eq!(answers.len(), 50);
    assert!(answers[..8].iter().all(|answer| answer["type"] == "ok"), "{heard:?}");
    let mut refused = answers.iter().filter(|answer| answer["code"] == "rate_limited");
    assert_eq!(refused.next().map(|refused| refused["retry_after"].is_u64()), Some(true));
    shared.stopping.cancel();
}

#[test]
fn a_newer_grant_counts_by_those_who_see_it() {
    let name = |text| RoomName::parse(text).unwrap();
    let grant = |fixed: &[(&str, &str)]| Grant {
        rooms: fixed
            .iter()
            .map(|(room, shown)| RoomGrant {
                room: RoomPattern::parse(room).unwrap(),
                can: Rights::MEMBER,
                metadata: Some(Json::parse(shown.as_bytes()).unwrap()),
            })
            .collect(),
    };
    let rooms = [(name("a"), 3), (name("b"), 50), (name("c"), 700)];
    let reach = |before: &Grant, newer: &Grant| {
        let rooms = rooms.iter().map(|(room, seats)| (room, *seats));
        bounds::reach_of_newer(before, newer, rooms)
    };
    let (none, one) = (grant(&[]), grant(&[("a", "{}"), ("b", r#"{"n":1}"#)]));
    let other = grant(&[("a", "{}"), ("b", r#"{"n":2}"#), ("c", "{}")]);
    assert_eq!(reach(&none, &none), 0);
    assert_eq!(reach(&none, &one), 53);
    assert_eq!(reach(&one, &one), 0, "who brings the same again costs nobody anything");
    assert_eq!(reach(&one, &other), 750);
    assert_eq!(reach(&other, &none), 0, "what was shown stays");
}
