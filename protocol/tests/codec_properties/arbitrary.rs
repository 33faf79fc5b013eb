//! Messages drawn at random, with every optional field there or not.

use handover_protocol::limits::{INTEGER_MAX, Limits};
use handover_protocol::wire::error;
use handover_protocol::wire::message::{
    Accepted, Close, EphemeralMessage, Error, Hello, Ice, IceServer, Joined, LeaveReason, Member,
    MemberJoined, MemberLeft, MemberPresence, MemberUpdated, Members, Message, PositionMark,
    Positions, Quality, QualityLevel, Reference, Reset, ResetReason, Resume, ResumedRoom, Send,
    Welcome,
};
use handover_protocol::wire::{
    ClientMessage, Epoch, Json, LogLane, PeerId, PerLane, RoomName, Secret, ServerMessage,
    SessionId, UserId,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn integer() -> impl Strategy<Value = u64> {
    prop_oneof![0..=300_u64, 65_530..=65_540_u64, (u64::from(u32::MAX) - 3)..=(1 << 32), {
        0..=INTEGER_MAX
    }]
}

fn room() -> impl Strategy<Value = RoomName> {
    "[a-z\u{e4}\u{1f600}\"\\\\/][ -~\u{e4}\u{1f600}]{0,20}[!-~]"
        .prop_map(|text| RoomName::parse(&text).expect("a room name"))
}

fn peer() -> impl Strategy<Value = PeerId> {
    "[A-Za-z0-9_-]{1,31}".prop_map(|text| PeerId::parse(&text).expect("a peer id"))
}

fn session() -> impl Strategy<Value = SessionId> {
    "[A-Za-z0-9_-]{1,31}".prop_map(|text| SessionId::parse(&text).expect("a session id"))
}

fn epoch() -> impl Strategy<Value = Epoch> {
    "[A-Za-z0-9_-]{1,16}".prop_map(|text| Epoch::parse(&text).expect("an epoch"))
}

fn lane() -> impl Strategy<Value = LogLane> {
    select(&LogLane::ALL[..])
}

/// Any characters: quotes, backslashes, control characters.
fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..12).prop_map(String::from_iter)
}

fn secret() -> impl Strategy<Value = Secret> {
    text().prop_map(Secret::new)
}

fn user() -> impl Strategy<Value = Option<UserId>> {
    option::of(text().prop_map(|text| UserId::new(&text)))
}

/// JSON texts in forms that a re-serialisation would change.
pub fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        select(
            &["null", "true", "false", "-0", "1.0", "1e999", "0.10", "18446744073709551616"][..]
        )
        .prop_map(str::to_owned),
        select(&[r#""\ud800""#, r#""\/\u0041""#, r#""é\"\\""#, r#""""#][..])
            .prop_map(str::to_owned),
        text().prop_map(|text| serde_json::to_string(&text).expect("a text has a JSON form")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let space = || select(&["", " ", "\n\t", "\r "][..]);
        prop_oneof![
            (vec(inner.clone(), 0..4), space())
                .prop_map(|(items, s)| format!("[{s}{}{s}]", items.join(&format!("{s},{s}")))),
            (vec(inner, 0..4), space()).prop_map(|(items, s)| {
                // The same key again and again: an object's duplicates are its sender's affair.
                let members: Vec<_> = items.iter().map(|i| format!("\"k\"{s}:{s}{i}")).collect();
                format!("{{{s}{}{s}}}", members.join(","))
            }),
        ]
    })
}

fn json() -> impl Strategy<Value = Json> {
    json_text().prop_map(|text| Json::parse(text.as_bytes()).expect("JSON"))
}

fn metadata() -> impl Strategy<Value = Json> {
    json().prop_map(|value| {
        Json::parse(format!("{{\"a\" : {}}}", value.as_str()).as_bytes()).expect("JSON")
    })
}

fn positions() -> impl Strategy<Value = Positions> {
    (epoch(), integer(), integer()).prop_map(|(epoch, signal, bulk)| Positions {
        epoch,
        signal,
        bulk,
    })
}

fn resume() -> impl Strategy<Value = Resume> {
    (session(), secret(), btree_map(room(), positions(), 0..4))
        .prop_map(|(session, secret, rooms)| Resume { session, secret, rooms })
}

pub fn client_message() -> impl Strategy<Value = ClientMessage> {
    let hello = (option::of(secret()), option::of(text()), option::of(resume()))
        .prop_map(|(token, agent, resume)| Hello { version: 1, token, agent, resume });
    let send = (room(), lane(), 1..=INTEGER_MAX, option::of(peer()), json())
        .prop_map(|(room, lane, seq, to, body)| Send { room, lane, seq, to, body });
    prop_oneof![
        hello.prop_map(ClientMessage::Hello),
        lane().prop_map(|lane| ClientMessage::Lane { lane }),
        (integer(), room(), option::of(metadata()))
            .prop_map(|(id, room, metadata)| ClientMessage::Join { id, room, metadata }),
        (integer(), room()).prop_map(|(id, room)| ClientMessage::Leave { id, room }),
        send.prop_map(ClientMessage::Send),
        (room(), option::of(peer()), json())
            .prop_map(|(room, to, body)| ClientMessage::Ephemeral { room, to, body }),
        (integer(), room(), metadata()).prop_map(|(id, room, metadata)| ClientMessage::Update {
            id,
            room,
            metadata
        }),
        (integer(), room()).prop_map(|(id, room)| ClientMessage::Members { id, room }),
        integer().prop_map(|id| ClientMessage::Ice { id }),
        (integer(), secret()).prop_map(|(id, token)| ClientMessage::Refresh { id, token }),
        integer().prop_map(|id| ClientMessage::Ping { id }),
        Just(ClientMessage::Bye),
    ]
}

fn per_lane() -> impl Strategy<Value = PerLane<u64>> {
    (integer(), integer()).prop_map(|(signal, bulk)| PerLane { signal, bulk })
}

fn member() -> impl Strategy<Value = Member> {
    (peer(), user(), metadata(), integer(), any::<bool>()).prop_map(
        |(peer, user, metadata, since, away)| Member { peer, user, metadata, since, away },
    )
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    vec(member(), 0..4)
}

fn limits() -> impl Strategy<Value = Limits> {
    (integer(), integer(), integer(), integer(), integer()).prop_map(
        |(message_bytes, metadata_bytes, ephemeral_bytes, room_bytes, rooms)| Limits {
            message_bytes,
            metadata_bytes,
            ephemeral_bytes,
            room_bytes,
            rooms,
        },
    )
}

fn welcome() -> impl Strategy<Value = Welcome> {
    let rooms = btree_map(room(), per_lane().prop_map(|seq| ResumedRoom { seq }), 0..4);
    let names = (session(), secret(), peer(), user(), any::<bool>());
    (names, rooms, vec(room(), 0..4), integer(), integer(), limits()).prop_map(
        |(
            (session, secret, peer, user, resumed),
            rooms,
            lost,
            heartbeat,
            resume_window,
            limits,
        )| {
            Welcome {
                session,
                secret,
                peer,
                user,
                resumed,
                rooms,
                lost,
                heartbeat,
                resume_window,
                limits,
            }
        },
    )
}

/// Thousandths, which every reader of decimal fractions takes for the same number.
fn measure() -> impl Strategy<Value = f64> {
    (0..10_000_000_u32).prop_map(|n| f64::from(n) / 1_000.0)
}

fn place() -> impl Strategy<Value = (RoomName, Epoch, u64)> {
    (room(), epoch(), integer())
}

fn presence() -> impl Strategy<Value = MemberPresence> {
    (place(), peer()).prop_map(|((room, epoch, offset), peer)| MemberPresence {
        room,
        epoch,
        offset,
        peer,
    })
}

/// What happens in a room.
fn event() -> impl Strategy<Value = ServerMessage> {
    let reason = select(
        &[LeaveReason::Left, LeaveReason::Bye, LeaveReason::Expired, LeaveReason::Kicked][..],
    );
    let accepted = (room(), lane(), epoch(), integer(), integer())
        .prop_map(|(room, lane, epoch, seq, offset)| Accepted { room, lane, epoch, seq, offset });
    let joined = (place(), peer(), user(), metadata()).prop_map(
        |((room, epoch, offset), peer, user, metadata)| MemberJoined {
            room,
            epoch,
            offset,
            peer,
            user,
            metadata,
        },
    );
    let updated =
        (place(), peer(), metadata()).prop_map(|((room, epoch, offset), peer, metadata)| {
            MemberUpdated { room, epoch, offset, peer, metadata }
        });
    let left = (place(), peer(), reason).prop_map(|((room, epoch, offset), peer, reason)| {
        MemberLeft { room, epoch, offset, peer, reason }
    });
    let message = (place(), lane(), peer(), option::of(peer()), json()).prop_map(
        |((room, epoch, offset), lane, from, to, body)| Message {
            room,
            lane,
            epoch,
            offset,
            from,
            to,
            body,
        },
    );
    let position =
        (place(), lane(), any::<bool>()).prop_map(|((room, epoch, offset), lane, start)| {
            PositionMark { room, lane, epoch, offset, start }
        });
    let ephemeral = (room(), peer(), json()).prop_map(|(room, from, body)| EphemeralMessage {
        room,
        from,
        body,
    });
    prop_oneof![
        accepted.prop_map(ServerMessage::Accepted),
        joined.prop_map(ServerMessage::MemberJoined),
        updated.prop_map(ServerMessage::MemberUpdated),
        left.prop_map(ServerMessage::MemberLeft),
        presence().prop_map(ServerMessage::MemberAway),
        presence().prop_map(ServerMessage::MemberBack),
        message.prop_map(ServerMessage::Message),
        position.prop_map(ServerMessage::Position),
        ephemeral.prop_map(ServerMessage::Ephemeral),
    ]
}

/// What carries a list of members.
fn snapshot() -> impl Strategy<Value = ServerMessage> {
    let reason = select(
        &[ResetReason::Trimmed, ResetReason::Epoch, ResetReason::Unlisted, ResetReason::Ahead][..],
    );
    let id = (integer(), reason);
    (id, room(), epoch(), integer(), integer(), per_lane(), members(), 0..3).prop_map(
        |((id, reason), room, epoch, signal, bulk, seq, members, kind)| match kind {
            0 => ServerMessage::Joined(Joined { id, room, epoch, signal, bulk, seq, members }),
            1 => ServerMessage::Reset(Reset { room, reason, epoch, signal, bulk, seq, members }),
            _ => ServerMessage::Members(Members { id, room, epoch, signal, members }),
        },
    )
}

fn error() -> impl Strategy<Value = Error> {
    let reference =
        (option::of(integer()), option::of(room()), option::of(lane()), option::of(integer()))
            .prop_map(|(id, room, lane, seq)| Reference { id, room, lane, seq });
    (select(&error::ALL[..]), text(), reference, option::of(integer()), option::of(integer()))
        .prop_map(|(code, message, reference, retry_after, expected)| Error {
            code,
            message,
            reference,
            retry_after,
            expected,
        })
}

pub fn server_message() -> impl Strategy<Value = ServerMessage> {
    let level = select(&[QualityLevel::Good, QualityLevel::Fair, QualityLevel::Poor][..]);
    let quality = (measure(), measure(), measure(), level)
        .prop_map(|(rtt, jitter, loss, level)| Quality { rtt, jitter, loss, level });
    let ice_server = (vec(text(), 0..3), option::of(text()), option::of(secret()))
        .prop_map(|(urls, username, credential)| IceServer { urls, username, credential });
    let ice = (integer(), vec(ice_server, 0..3), integer()).prop_map(|(id, servers, ttl)| Ice {
        id,
        servers,
        ttl,
    });
    let close = (any::<u16>(), text(), option::of(integer()))
        .prop_map(|(code, reason, retry_after)| Close { code, reason, retry_after });
    prop_oneof![
        1 => welcome().prop_map(ServerMessage::Welcome),
        4 => event(),
        2 => snapshot(),
        1 => quality.prop_map(ServerMessage::Quality),
        1 => Just(ServerMessage::Moved),
        1 => integer().prop_map(|in_ms| ServerMessage::Expiring { in_ms }),
        1 => integer().prop_map(|reconnect_in| ServerMessage::Draining { reconnect_in }),
        1 => integer().prop_map(|id| ServerMessage::Ok { id }),
        1 => integer().prop_map(|id| ServerMessage::Pong { id }),
        1 => ice.prop_map(ServerMessage::Ice),
        1 => error().prop_map(ServerMessage::Error),
        1 => close.prop_map(ServerMessage::Close),
    ]
}
