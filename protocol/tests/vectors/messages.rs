//! The messages of `vectors/messages.json`, each under its name there.

use std::collections::BTreeMap;

use handover_protocol::limits::Limits;
use handover_protocol::wire::error::{self, ErrorCode};
use handover_protocol::wire::message::{
    Accepted, Close, EphemeralMessage, Error, Hello, Ice, IceServer, Joined, LeaveReason, Member,
    MemberJoined, MemberLeft, MemberPresence, MemberUpdated, Members, Message, PositionMark,
    Positions, Quality, QualityLevel, Reference, Reset, ResetReason, Resume, ResumedRoom, Send,
    Welcome,
};
use handover_protocol::wire::{
    ClientMessage, CloseCode, Epoch, Json, LogLane, PeerId, PerLane, RoomName, Secret,
    ServerMessage, SessionId, UserId,
};

/// The highest integer on the wire.
const HIGHEST: u64 = (1 << 53) - 1;
/// A body in which nothing may change: spaces, escapes, number forms, the order of keys.
const AWKWARD: &str = r#"{ "z":[1.0, -0,1e999], "a" : "\u00e4\ud800\/é" ,"z":null}"#;

fn room(name: &str) -> RoomName {
    RoomName::parse(name).expect("a room name")
}

fn peer(id: &str) -> PeerId {
    PeerId::parse(id).expect("a peer id")
}

fn epoch() -> Epoch {
    Epoch::parse("Zq3kP0aXw9").expect("an epoch")
}

fn json(text: &str) -> Json {
    Json::parse(text.as_bytes()).expect("JSON")
}

fn secret(text: &str) -> Secret {
    Secret::new(text.into())
}

/// Every client message, with and without its optional fields.
pub fn client() -> Vec<(String, ClientMessage)> {
    let hello = |hello: Hello| ClientMessage::Hello(hello);
    let resume = |rooms| Resume {
        session: SessionId::parse("s-4fK2").expect("a session id"),
        secret: secret("c2VjcmV0"),
        rooms,
    };
    let positions = |signal, bulk| Positions { epoch: epoch(), signal, bulk };
    let rooms = BTreeMap::from([
        (room("daily stand-up"), positions(17, 0)),
        (room("räume/1"), positions(HIGHEST, 300)),
    ]);
    let send = |room_name, lane, seq, to: Option<&str>, body| {
        let (room, to, body) = (room(room_name), to.map(peer), json(body));
        ClientMessage::Send(Send { room, lane, seq, to, body })
    };
    let ephemeral = |to: Option<&str>, body| {
        let (room, to, body) = (room("r"), to.map(peer), json(body));
        ClientMessage::Ephemeral { room, to, body }
    };
    let join = |metadata: Option<&str>| {
        let (room, metadata) = (room("daily stand-up"), metadata.map(json));
        ClientMessage::Join { id: 1, room, metadata }
    };
    let mut list = vec![
        ("hello", hello(Hello { version: 1, ..Hello::default() })),
        (
            "hello_token_agent",
            hello(Hello {
                version: 1,
                token: Some(secret("eyJhbGciOiJIUzI1NiJ9.e30.x")),
                agent: Some("demo \"web\"/1.0".into()),
                resume: None,
            }),
        ),
        (
            "hello_resume",
            hello(Hello {
                version: 1,
                token: Some(secret("t")),
                agent: Some("a".into()),
                resume: Some(resume(rooms)),
            }),
        ),
        (
            "hello_resume_without_rooms",
            hello(Hello { version: 1, resume: Some(resume(BTreeMap::new())), ..Hello::default() }),
        ),
        ("hello_version_2", hello(Hello { version: 2, ..Hello::default() })),
        ("lane_bulk", ClientMessage::Lane { lane: LogLane::Bulk }),
        ("lane_signal", ClientMessage::Lane { lane: LogLane::Signal }),
        ("join", join(None)),
        ("join_metadata", join(Some(r#"{"name":"Ada"}"#))),
        ("leave", ClientMessage::Leave { id: 2, room: room("r") }),
        ("send", send("r", LogLane::Signal, 1, None, r#"{"sdp":"v=0"}"#)),
        ("send_bulk", send("räume/1", LogLane::Bulk, HIGHEST, None, "\"hi\"")),
        ("send_to", send("r", LogLane::Signal, 300, Some("p_7-Q"), "[]")),
        ("send_null", send("r", LogLane::Signal, 2, None, "null")),
        ("send_awkward", send("r", LogLane::Bulk, 3, None, AWKWARD)),
        ("ephemeral", ephemeral(None, r#"{"x":1,"y":2}"#)),
        ("ephemeral_to", ephemeral(Some("p_7-Q"), "null")),
        ("update", ClientMessage::Update { id: 3, room: room("r"), metadata: json("{}") }),
        ("members", ClientMessage::Members { id: 4, room: room("r") }),
        ("ice", ClientMessage::Ice { id: 5 }),
        ("refresh", ClientMessage::Refresh { id: 6, token: secret("newer") }),
        ("bye", ClientMessage::Bye),
    ]
    .into_iter()
    .map(|(name, message)| (name.to_owned(), message))
    .collect::<Vec<_>>();
    // Each side of each step of bincode's integers.
    for id in [0, 250, 251, 65_535, 65_536, u64::from(u32::MAX), 1 << 32, HIGHEST] {
        list.push((format!("ping_{id}"), ClientMessage::Ping { id }));
    }
    list
}

fn members() -> Vec<Member> {
    vec![
        Member {
            peer: peer("p_7-Q"),
            user: Some(UserId::new("ada@example.org")),
            metadata: json(r#"{"name":"Ada"}"#),
            since: 1,
            away: false,
        },
        Member {
            peer: peer("p2"),
            user: None,
            metadata: Json::empty_object(),
            since: 260,
            away: true,
        },
    ]
}

fn welcomes() -> [(&'static str, ServerMessage); 2] {
    let fresh = Welcome {
        session: SessionId::parse("s-4fK2").expect("a session id"),
        secret: secret("c2VjcmV0"),
        peer: peer("p_7-Q"),
        user: None,
        resumed: false,
        rooms: BTreeMap::new(),
        lost: Vec::new(),
        heartbeat: 15_000,
        resume_window: 120_000,
        limits: Limits::default(),
    };
    let resumed = Welcome {
        user: Some(UserId::new("ada@example.org")),
        resumed: true,
        rooms: BTreeMap::from([
            (room("r"), ResumedRoom { seq: PerLane { signal: 3, bulk: 0 } }),
            (room("räume/1"), ResumedRoom { seq: PerLane { signal: 0, bulk: 300 } }),
        ]),
        lost: vec![room("gone"), room("gone too")],
        ..fresh.clone()
    };
    [
        ("welcome", ServerMessage::Welcome(fresh)),
        ("welcome_resumed", ServerMessage::Welcome(resumed)),
    ]
}

/// What happens in a room.
fn events() -> Vec<(&'static str, ServerMessage)> {
    let seq = PerLane { signal: 4, bulk: 300 };
    let joined = |members| Joined {
        id: 1,
        room: room("r"),
        epoch: epoch(),
        signal: 260,
        bulk: 0,
        seq,
        members,
    };
    let reset = |reason| {
        let Joined { room, epoch, signal, bulk, seq, members, .. } = joined(members());
        ServerMessage::Reset(Reset { room, reason, epoch, signal, bulk, seq, members })
    };
    let joining = |user: Option<&str>| {
        let (user, metadata) = (user.map(UserId::new), json(r#"{"name":"Ada"}"#));
        let (room, epoch, peer) = (room("r"), epoch(), peer("p_7-Q"));
        ServerMessage::MemberJoined(MemberJoined { room, epoch, offset: 1, peer, user, metadata })
    };
    let left = |reason| {
        let (room, epoch, peer) = (room("r"), epoch(), peer("p2"));
        ServerMessage::MemberLeft(MemberLeft { room, epoch, offset: 261, peer, reason })
    };
    let presence =
        |offset| MemberPresence { room: room("r"), epoch: epoch(), offset, peer: peer("p2") };
    let accepted = |lane, seq, offset| {
        ServerMessage::Accepted(Accepted { room: room("r"), lane, epoch: epoch(), seq, offset })
    };
    let message = |lane, to: Option<&str>, body| {
        let (room, epoch, from) = (room("r"), epoch(), peer("p2"));
        let (to, body) = (to.map(peer), json(body));
        ServerMessage::Message(Message { room, lane, epoch, offset: 70_000, from, to, body })
    };
    let position = |lane, offset, start| {
        let (room, epoch) = (room("r"), epoch());
        ServerMessage::Position(PositionMark { room, lane, epoch, offset, start })
    };
    let (ephemeral, listed) = (
        EphemeralMessage { room: room("r"), from: peer("p2"), body: json(r#"{"x":1}"#) },
        Members { id: 4, room: room("r"), epoch: epoch(), signal: 260, members: members() },
    );
    vec![
        ("joined", ServerMessage::Joined(joined(members()))),
        ("accepted", accepted(LogLane::Signal, 1, 2)),
        ("accepted_bulk", accepted(LogLane::Bulk, HIGHEST, HIGHEST)),
        ("member_joined", joining(None)),
        ("member_joined_user", joining(Some("ada@example.org"))),
        (
            "member_updated",
            ServerMessage::MemberUpdated(MemberUpdated {
                room: room("r"),
                epoch: epoch(),
                offset: 250,
                peer: peer("p2"),
                metadata: json(r#"{ "hand" : "up" }"#),
            }),
        ),
        ("member_left", left(LeaveReason::Left)),
        ("member_left_bye", left(LeaveReason::Bye)),
        ("member_left_expired", left(LeaveReason::Expired)),
        ("member_left_kicked", left(LeaveReason::Kicked)),
        ("member_away", ServerMessage::MemberAway(presence(251))),
        ("member_back", ServerMessage::MemberBack(presence(252))),
        ("message", message(LogLane::Signal, None, AWKWARD)),
        ("message_bulk_to", message(LogLane::Bulk, Some("p_7-Q"), "null")),
        ("position", position(LogLane::Signal, 64, false)),
        ("position_start", position(LogLane::Bulk, 0, true)),
        ("ephemeral", ServerMessage::Ephemeral(ephemeral)),
        ("reset_trimmed", reset(ResetReason::Trimmed)),
        ("reset_epoch", reset(ResetReason::Epoch)),
        ("reset_unlisted", reset(ResetReason::Unlisted)),
        ("reset_ahead", reset(ResetReason::Ahead)),
        ("members", ServerMessage::Members(listed)),
    ]
}

fn refusals() -> Vec<(String, ServerMessage)> {
    let error = |code: ErrorCode| Error {
        code,
        message: "for people".into(),
        reference: Reference { id: Some(300), ..Reference::default() },
        retry_after: None,
        expected: None,
    };
    let mut list = error::ALL
        .into_iter()
        .map(|code| (format!("error_{code}"), error(code)))
        .collect::<Vec<_>>();
    let gap =
        Reference { id: None, room: Some(room("r")), lane: Some(LogLane::Bulk), seq: Some(9) };
    let named = [
        (
            "error_of_a_send",
            Error { reference: gap, expected: Some(8), ..error(ErrorCode::SeqGap) },
        ),
        ("error_with_retry", Error { retry_after: Some(1_500), ..error(ErrorCode::RateLimited) }),
        (
            "error_without_reference",
            Error { reference: Reference::default(), ..error(ErrorCode::BadRequest) },
        ),
    ];
    list.extend(named.map(|(name, error)| (name.to_owned(), error)));
    list.into_iter().map(|(name, error)| (name, ServerMessage::Error(error))).collect()
}

/// Every gateway message, with and without its optional fields.
pub fn server() -> Vec<(String, ServerMessage)> {
    let quality =
        |rtt, jitter, loss, level| ServerMessage::Quality(Quality { rtt, jitter, loss, level });
    let turn = IceServer {
        urls: vec!["turn:turn.example.org:3478".into(), "turns:turn.example.org:443".into()],
        username: Some("1767225600:ada".into()),
        credential: Some(secret("cGFzcw==")),
    };
    let stun = IceServer {
        urls: vec!["stun:stun.example.org:3478".into()],
        username: None,
        credential: None,
    };
    let close = Close::new(CloseCode::Draining);
    let mut list = Vec::from(welcomes());
    list.extend(events());
    list.extend([
        ("quality_good", quality(12.5, 0.25, 0.0, QualityLevel::Good)),
        ("quality_fair", quality(180.0, 30.0, 0.02, QualityLevel::Fair)),
        ("quality_poor", quality(900.0, 250.5, 0.125, QualityLevel::Poor)),
        ("moved", ServerMessage::Moved),
        ("expiring", ServerMessage::Expiring { in_ms: 60_000 }),
        ("draining", ServerMessage::Draining { reconnect_in: 250 }),
        ("ok", ServerMessage::Ok { id: 2 }),
        ("pong", ServerMessage::Pong { id: 7 }),
        ("ice", ServerMessage::Ice(Ice { id: 5, servers: vec![stun, turn], ttl: 86_400 })),
        ("ice_none", ServerMessage::Ice(Ice { id: 5, servers: Vec::new(), ttl: 0 })),
        ("close", ServerMessage::Close(Close::new(CloseCode::Bye))),
        ("close_retry", ServerMessage::Close(Close { retry_after: Some(3_000), ..close })),
    ]);
    let mut list: Vec<_> =
        list.into_iter().map(|(name, message)| (name.to_owned(), message)).collect();
    list.extend(refusals());
    list
}
