//! The layout of the gateway's messages.

use super::super::DecodeError;
use super::super::field::{self, Refusal};
use super::{Reader, Word, Writer, Written};
use crate::limits::Limits;
use crate::wire::error::ErrorCode;
use crate::wire::id::{
    Epoch, LogLane, NameError, PeerId, PerLane, RoomName, Secret, SessionId, UserId,
};
use crate::wire::json::Json;
use crate::wire::message::{
    Accepted, Close, EphemeralMessage, Error, Ice, IceServer, Joined, LeaveReason, Member,
    MemberJoined, MemberLeft, MemberPresence, MemberUpdated, Members, Message, PositionMark,
    Quality, QualityLevel, Reference, Reset, ResetReason, ResumedRoom, ServerMessage, Welcome,
};

// Variant numbers: never changed, only added to.
const WELCOME: u32 = 0;
const JOINED: u32 = 1;
const ACCEPTED: u32 = 2;
const MEMBER_JOINED: u32 = 3;
const MEMBER_UPDATED: u32 = 4;
const MEMBER_LEFT: u32 = 5;
const MEMBER_AWAY: u32 = 6;
const MEMBER_BACK: u32 = 7;
const MESSAGE: u32 = 8;
const POSITION: u32 = 9;
const EPHEMERAL: u32 = 10;
const RESET: u32 = 11;
const MEMBERS: u32 = 12;
const QUALITY: u32 = 13;
const MOVED: u32 = 14;
const EXPIRING: u32 = 15;
const DRAINING: u32 = 16;
const OK: u32 = 17;
const PONG: u32 = 18;
const ICE: u32 = 19;
const ERROR: u32 = 20;
const CLOSE: u32 = 21;

pub(in super::super) fn put_server(out: &mut Writer<'_>, message: &ServerMessage) -> Written {
    match message {
        ServerMessage::Welcome(m) => put_welcome(out, m),
        ServerMessage::Joined(m) => {
            out.put((JOINED, m.id, m.room.as_str(), m.epoch.as_str()))?;
            out.put((m.signal, m.bulk, m.seq.signal, m.seq.bulk))?;
            put_members(out, &m.members)
        }
        ServerMessage::Accepted(m) => {
            let lane = m.lane.number();
            out.put((ACCEPTED, m.room.as_str(), lane, m.epoch.as_str(), m.seq, m.offset))
        }
        ServerMessage::MemberJoined(m) => {
            let user = m.user.as_ref().map(UserId::as_str);
            out.put((MEMBER_JOINED, m.room.as_str(), m.epoch.as_str(), m.offset))?;
            out.put((m.peer.as_str(), user, m.metadata.as_bytes()))
        }
        ServerMessage::MemberUpdated(m) => {
            out.put((MEMBER_UPDATED, m.room.as_str(), m.epoch.as_str(), m.offset))?;
            out.put((m.peer.as_str(), m.metadata.as_bytes()))
        }
        ServerMessage::MemberLeft(m) => {
            out.put((MEMBER_LEFT, m.room.as_str(), m.epoch.as_str(), m.offset))?;
            out.put((m.peer.as_str(), m.reason.number()))
        }
        ServerMessage::MemberAway(m) => put_presence(out, MEMBER_AWAY, m),
        ServerMessage::MemberBack(m) => put_presence(out, MEMBER_BACK, m),
        ServerMessage::Message(m) => {
            out.put((MESSAGE, m.room.as_str(), m.lane.number(), m.epoch.as_str(), m.offset))?;
            out.put((m.from.as_str(), m.to.as_ref().map(PeerId::as_str), m.body.as_bytes()))
        }
        ServerMessage::Position(m) => {
            let lane = m.lane.number();
            out.put((POSITION, m.room.as_str(), lane, m.epoch.as_str(), m.offset, m.start))
        }
        ServerMessage::Ephemeral(m) => {
            out.put((EPHEMERAL, m.room.as_str(), m.from.as_str(), m.body.as_bytes()))
        }
        ServerMessage::Reset(m) => {
            out.put((RESET, m.room.as_str(), m.reason.number(), m.epoch.as_str()))?;
            out.put((m.signal, m.bulk, m.seq.signal, m.seq.bulk))?;
            put_members(out, &m.members)
        }
        ServerMessage::Members(m) => {
            out.put((MEMBERS, m.id, m.room.as_str(), m.epoch.as_str(), m.signal))?;
            put_members(out, &m.members)
        }
        ServerMessage::Quality(m) => out.put((QUALITY, m.rtt, m.jitter, m.loss, m.level.number())),
        ServerMessage::Moved => out.put(MOVED),
        ServerMessage::Expiring { in_ms } => out.put((EXPIRING, in_ms)),
        ServerMessage::Draining { reconnect_in } => out.put((DRAINING, reconnect_in)),
        ServerMessage::Ok { id } => out.put((OK, id)),
        ServerMessage::Pong { id } => out.put((PONG, id)),
        ServerMessage::Ice(m) => put_ice(out, m),
        ServerMessage::Error(m) => {
            let Reference { id, room, lane, seq } = &m.reference;
            out.put((ERROR, m.code.number(), m.message.as_str(), id))?;
            out.put((room.as_ref().map(RoomName::as_str), lane.map(LogLane::number), seq))?;
            out.put((m.retry_after, m.expected))
        }
        ServerMessage::Close(m) => out.put((CLOSE, m.code, m.reason.as_str(), m.retry_after)),
    }
}

fn put_welcome(out: &mut Writer<'_>, m: &Welcome) -> Written {
    let user = m.user.as_ref().map(UserId::as_str);
    out.put((WELCOME, m.session.as_str(), m.secret.expose(), m.peer.as_str(), user, m.resumed))?;
    out.list(m.rooms.iter(), |out, (room, ResumedRoom { seq })| {
        out.put((room.as_str(), seq.signal, seq.bulk))
    })?;
    out.list(m.lost.iter(), |out, room| out.put(room.as_str()))?;
    out.put((m.heartbeat, m.resume_window))?;
    let limits = &m.limits;
    out.put((limits.message_bytes, limits.metadata_bytes, limits.ephemeral_bytes))?;
    out.put((limits.room_bytes, limits.rooms))
}

fn put_members(out: &mut Writer<'_>, members: &[Member]) -> Written {
    out.list(members.iter(), |out, m| {
        let user = m.user.as_ref().map(UserId::as_str);
        out.put((m.peer.as_str(), user, m.metadata.as_bytes(), m.since, m.away))
    })
}

fn put_presence(out: &mut Writer<'_>, variant: u32, m: &MemberPresence) -> Written {
    out.put((variant, m.room.as_str(), m.epoch.as_str(), m.offset, m.peer.as_str()))
}

fn put_ice(out: &mut Writer<'_>, m: &Ice) -> Written {
    out.put((ICE, m.id))?;
    out.list(m.servers.iter(), |out, server| {
        out.list(server.urls.iter(), |out, url| out.put(url.as_str()))?;
        let credential = server.credential.as_ref().map(Secret::expose);
        out.put((server.username.as_deref(), credential))
    })?;
    out.put(m.ttl)
}

pub(in super::super) fn decode_server(payload: &[u8]) -> Result<ServerMessage, DecodeError> {
    let mut reader = Reader { rest: payload };
    let r = &mut reader;
    let variant: u64 = r.get()?;
    Ok(match u32::try_from(variant).unwrap_or(u32::MAX) {
        WELCOME => ServerMessage::Welcome(welcome(r)?),
        JOINED => ServerMessage::Joined(Joined {
            id: r.get()?,
            room: r.room()?,
            epoch: r.epoch()?,
            signal: r.get()?,
            bulk: r.get()?,
            seq: r.per_lane()?,
            members: r.list(member)?,
        }),
        ACCEPTED => ServerMessage::Accepted(Accepted {
            room: r.room()?,
            lane: r.lane()?,
            epoch: r.epoch()?,
            seq: r.get()?,
            offset: r.get()?,
        }),
        MEMBER_JOINED => ServerMessage::MemberJoined(MemberJoined {
            room: r.room()?,
            epoch: r.epoch()?,
            offset: r.get()?,
            peer: r.peer()?,
            user: r.user()?,
            metadata: r.json()?,
        }),
        MEMBER_UPDATED => ServerMessage::MemberUpdated(MemberUpdated {
            room: r.room()?,
            epoch: r.epoch()?,
            offset: r.get()?,
            peer: r.peer()?,
            metadata: r.json()?,
        }),
        MEMBER_LEFT => ServerMessage::MemberLeft(MemberLeft {
            room: r.room()?,
            epoch: r.epoch()?,
            offset: r.get()?,
            peer: r.peer()?,
            reason: r.word()?.unwrap_or(LeaveReason::Left),
        }),
        MEMBER_AWAY => ServerMessage::MemberAway(presence(r)?),
        MEMBER_BACK => ServerMessage::MemberBack(presence(r)?),
        MESSAGE => ServerMessage::Message(Message {
            room: r.room()?,
            lane: r.lane()?,
            epoch: r.epoch()?,
            offset: r.get()?,
            from: r.peer()?,
            to: r.get::<Option<&str>>()?.map(|text| name("to", PeerId::parse(text))).transpose()?,
            body: r.json()?,
        }),
        POSITION => ServerMessage::Position(PositionMark {
            room: r.room()?,
            lane: r.lane()?,
            epoch: r.epoch()?,
            offset: r.get()?,
            start: r.get()?,
        }),
        EPHEMERAL => ServerMessage::Ephemeral(EphemeralMessage {
            room: r.room()?,
            from: r.peer()?,
            body: r.json()?,
        }),
        RESET => ServerMessage::Reset(Reset {
            room: r.room()?,
            reason: r.word()?.unwrap_or(ResetReason::Epoch),
            epoch: r.epoch()?,
            signal: r.get()?,
            bulk: r.get()?,
            seq: r.per_lane()?,
            members: r.list(member)?,
        }),
        MEMBERS => ServerMessage::Members(Members {
            id: r.get()?,
            room: r.room()?,
            epoch: r.epoch()?,
            signal: r.get()?,
            members: r.list(member)?,
        }),
        QUALITY => ServerMessage::Quality(Quality {
            rtt: r.get()?,
            jitter: r.get()?,
            loss: r.get()?,
            level: r.word::<QualityLevel>()?.ok_or_else(|| wrong("`level` is unknown"))?,
        }),
        MOVED => ServerMessage::Moved,
        EXPIRING => ServerMessage::Expiring { in_ms: r.get()? },
        DRAINING => ServerMessage::Draining { reconnect_in: r.get()? },
        OK => ServerMessage::Ok { id: r.get()? },
        PONG => ServerMessage::Pong { id: r.get()? },
        ICE => {
            ServerMessage::Ice(Ice { id: r.get()?, servers: r.list(ice_server)?, ttl: r.get()? })
        }
        ERROR => ServerMessage::Error(error(r)?),
        CLOSE => {
            let (code, reason, retry_after): (u16, &str, Option<u64>) = r.get()?;
            ServerMessage::Close(Close { code, reason: reason.into(), retry_after })
        }
        _ => return Err(DecodeError::refused(Refusal::unknown_type(), Reference::default())),
    })
}

fn welcome(r: &mut Reader<'_>) -> Result<Welcome, DecodeError> {
    Ok(Welcome {
        session: name("session", SessionId::parse(r.get()?))?,
        secret: Secret::new(r.text()?),
        peer: r.peer()?,
        user: r.user()?,
        resumed: r.get()?,
        rooms: r
            .list(|r| Ok((r.room()?, ResumedRoom { seq: r.per_lane()? })))?
            .into_iter()
            .collect(),
        lost: r.list(Reader::room)?,
        heartbeat: r.get()?,
        resume_window: r.get()?,
        limits: Limits {
            message_bytes: r.get()?,
            metadata_bytes: r.get()?,
            ephemeral_bytes: r.get()?,
            room_bytes: r.get()?,
            rooms: r.get()?,
        },
    })
}

fn member(r: &mut Reader<'_>) -> Result<Member, DecodeError> {
    Ok(Member {
        peer: r.peer()?,
        user: r.user()?,
        metadata: r.json()?,
        since: r.get()?,
        away: r.get()?,
    })
}

fn presence(r: &mut Reader<'_>) -> Result<MemberPresence, DecodeError> {
    Ok(MemberPresence { room: r.room()?, epoch: r.epoch()?, offset: r.get()?, peer: r.peer()? })
}

fn ice_server(r: &mut Reader<'_>) -> Result<IceServer, DecodeError> {
    Ok(IceServer {
        urls: r.list(Reader::text)?,
        username: r.get::<Option<&str>>()?.map(Into::into),
        credential: r.get::<Option<&str>>()?.map(|text| Secret::new(text.into())),
    })
}

fn error(r: &mut Reader<'_>) -> Result<Error, DecodeError> {
    Ok(Error {
        // A code of a later version is final, like this one.
        code: r.word()?.unwrap_or(ErrorCode::BadRequest),
        message: r.text()?,
        reference: Reference {
            id: r.get()?,
            room: r.get::<Option<&str>>()?.and_then(|text| RoomName::parse(text).ok()),
            lane: r.get::<Option<u64>>()?.and_then(LogLane::from_number),
            seq: r.get()?,
        },
        retry_after: r.get()?,
        expected: r.get()?,
    })
}

impl Reader<'_> {
    /// Read in place and then copied: an owned text is allocated as long as it claims to be,
    /// before anything of it is there.
    fn text(&mut self) -> Result<String, DecodeError> {
        self.get::<&str>().map(str::to_owned)
    }

    fn room(&mut self) -> Result<RoomName, DecodeError> {
        name("room", RoomName::parse(self.get()?))
    }

    fn peer(&mut self) -> Result<PeerId, DecodeError> {
        name("peer", PeerId::parse(self.get()?))
    }

    fn epoch(&mut self) -> Result<Epoch, DecodeError> {
        name("epoch", Epoch::parse(self.get()?))
    }

    fn user(&mut self) -> Result<Option<UserId>, DecodeError> {
        Ok(self.get::<Option<&str>>()?.map(UserId::new))
    }

    fn per_lane(&mut self) -> Result<PerLane<u64>, DecodeError> {
        Ok(PerLane { signal: self.get()?, bulk: self.get()? })
    }

    fn json(&mut self) -> Result<Json, DecodeError> {
        field::body_text(self.get()?)
            .map_err(|refusal| DecodeError::refused(refusal, Reference::default()))
    }

    fn word<T: Word>(&mut self) -> Result<Option<T>, DecodeError> {
        Ok(T::from_number(self.get()?))
    }

    fn lane(&mut self) -> Result<LogLane, DecodeError> {
        self.word()?.ok_or_else(|| wrong("`lane` is unknown"))
    }
}

fn name<T>(field: &str, parsed: Result<T, NameError>) -> Result<T, DecodeError> {
    parsed.map_err(|error| wrong(&format!("`{field}` {error}")))
}

fn wrong(message: &str) -> DecodeError {
    DecodeError::refused(Refusal::bad_request(message), Reference::default())
}
