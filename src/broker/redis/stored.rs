//! The forms in which entries, members and answers stand in Redis.

use std::sync::Arc;

use handover_protocol::room::entry::{Entry, Ephemeral, Event};
use handover_protocol::room::{Applied, Refusal, Snapshot};
use handover_protocol::time::Time;
use handover_protocol::wire::message::{LeaveReason, Member, Positions};
use handover_protocol::wire::{Epoch, ErrorCode, Json, LogLane, PeerId, PerLane, RoomName, UserId};
use redis::Value;
use serde::{Deserialize, Serialize};

use super::Shift;
use super::rooms::Last;
use crate::broker::{Place, Unavailable};

/// Something in Redis that this version did not write.
pub(super) fn garbled(what: &str) -> Unavailable {
    Unavailable(format!("it holds {what} that cannot be read"))
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Message,
    Joined,
    Updated,
    Left,
    Away,
    Back,
}

/// An [`Event`] as JSON. Not a tagged enum: serde's cannot carry raw JSON.
#[derive(Serialize, Deserialize)]
struct StoredEvent {
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<PeerId>,
    /// `null` reads as nothing, and is the same here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<LeaveReason>,
}

/// An event's text.
pub(super) fn event_text(event: &Event) -> Result<String, Unavailable> {
    let mut stored = StoredEvent {
        kind: Kind::Away,
        seq: None,
        to: None,
        body: None,
        user: None,
        metadata: None,
        reason: None,
    };
    match event.clone() {
        Event::Message { seq, to, body } => {
            stored.kind = Kind::Message;
            (stored.seq, stored.to, stored.body) = (Some(seq), to, Some(body));
        }
        Event::Joined { user, metadata } => {
            stored.kind = Kind::Joined;
            (stored.user, stored.metadata) = (user, Some(metadata));
        }
        Event::Updated { metadata } => {
            stored.kind = Kind::Updated;
            stored.metadata = Some(metadata);
        }
        Event::Left { reason } => {
            stored.kind = Kind::Left;
            stored.reason = Some(reason);
        }
        Event::Away => {}
        Event::Back => stored.kind = Kind::Back,
    }
    serde_json::to_string(&stored).map_err(|error| Unavailable(error.to_string()))
}

fn event(text: &str) -> Option<Event> {
    let stored: StoredEvent = serde_json::from_str(text).ok()?;
    Some(match stored.kind {
        Kind::Message => {
            let body = match stored.body {
                Some(body) => body,
                None => Json::parse(b"null").ok()?,
            };
            Event::Message { seq: stored.seq?, to: stored.to, body }
        }
        Kind::Joined => Event::Joined { user: stored.user, metadata: stored.metadata? },
        Kind::Updated => Event::Updated { metadata: stored.metadata? },
        Kind::Left => Event::Left { reason: stored.reason? },
        Kind::Away => Event::Away,
        Kind::Back => Event::Back,
    })
}

/// A line of a log: `offset at bytes epoch peer event`.
pub(super) fn entry(
    room: &RoomName,
    lane: LogLane,
    line: &str,
    shift: Shift,
) -> Result<Arc<Entry>, Unavailable> {
    let read = || {
        let mut parts = line.splitn(6, ' ');
        let offset = parts.next()?.parse().ok()?;
        let at = shift.to_here(parts.next()?.parse().ok()?);
        let _bytes = parts.next()?;
        let epoch = Epoch::parse(parts.next()?).ok()?;
        let peer = PeerId::parse(parts.next()?).ok()?;
        let event = event(parts.next()?)?;
        Some(Arc::new(Entry::new(room.clone(), lane, epoch, offset, at, peer, event)))
    };
    read().ok_or_else(|| garbled("an entry"))
}

/// An entry's offset, and what tells it from any other there: when, and by whom.
pub(super) fn last(line: &str) -> Option<Last> {
    let mut parts = line.splitn(6, ' ');
    let (offset, at, peer) = (parts.next()?.parse().ok()?, parts.next()?, parts.nth(2)?);
    Some(Last { offset, mark: format!("{at} {peer}") })
}

/// The same of what a change has appended, if anything.
pub(super) fn appended(answer: &Value) -> Option<Last> {
    let Value::Array(fields) = answer else { return None };
    let [Value::BulkString(what), Value::BulkString(line), ..] = &fields[..] else { return None };
    let line = std::str::from_utf8(line).ok()?;
    if matches!(&what[..], b"E" | b"S" | b"O") { last(line) } else { None }
}

/// What an entry with this event counts for.
pub(super) fn cost(room: &RoomName, peer: PeerId, epoch: Epoch, event: Event) -> usize {
    Entry::new(room.clone(), LogLane::Signal, epoch, 0, Time::ZERO, peer, event).bytes()
}

/// What is passed on past the log: `peer to body`, behind the node it came from.
pub(super) fn ephemeral(room: &RoomName, text: &str) -> Option<Ephemeral> {
    let mut parts = text.splitn(3, ' ');
    let from = PeerId::parse(parts.next()?).ok()?;
    let to = match parts.next()? {
        "" => None,
        to => Some(PeerId::parse(to).ok()?),
    };
    let body = Json::parse(parts.next()?.as_bytes()).ok()?;
    Some(Ephemeral::new(room.clone(), from, to, body))
}

/// A member: `since away user`, a line feed, `metadata`. JSON texts of users have no line feed.
fn member(peer: &str, text: &str) -> Option<Member> {
    let (head, metadata) = text.split_once('\n')?;
    let mut parts = head.splitn(3, ' ');
    let since = parts.next()?.parse().ok()?;
    let away = parts.next()? == "1";
    let user = serde_json::from_str(parts.next()?).ok()?;
    let metadata = Json::parse(metadata.as_bytes()).ok()?;
    Some(Member { peer: PeerId::parse(peer).ok()?, user, metadata, since, away })
}

/// Everybody, in the order they joined.
pub(super) fn members(told: Value) -> Result<Vec<Member>, Unavailable> {
    let mut fields = Fields::of(told)?;
    let mut members = Vec::with_capacity(fields.0.len() / 2);
    while fields.0.len() > 0 {
        let (peer, text) = (fields.text()?, fields.text()?);
        members.push(member(&peer, &text).ok_or_else(|| garbled("a member"))?);
    }
    members.sort_unstable_by_key(|member| member.since);
    Ok(members)
}

/// An answer's fields, read one after another.
pub(super) struct Fields(std::vec::IntoIter<Value>);

impl Fields {
    pub(super) fn of(value: Value) -> Result<Fields, Unavailable> {
        match value {
            Value::Array(values) => Ok(Fields(values.into_iter())),
            _ => Err(garbled("an answer")),
        }
    }

    pub(super) fn value(&mut self) -> Result<Value, Unavailable> {
        self.0.next().ok_or_else(|| garbled("an answer"))
    }

    pub(super) fn text(&mut self) -> Result<String, Unavailable> {
        let text = match self.value()? {
            Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
            Value::SimpleString(text) => Some(text),
            Value::Int(number) => Some(number.to_string()),
            _ => None,
        };
        text.ok_or_else(|| garbled("an answer"))
    }

    pub(super) fn number(&mut self) -> Result<u64, Unavailable> {
        self.text()?.parse().map_err(|_| garbled("a number"))
    }

    pub(super) fn epoch(&mut self) -> Result<Epoch, Unavailable> {
        Epoch::parse(&self.text()?).map_err(|_| garbled("an epoch"))
    }

    /// Positions, or nothing if there is no room.
    pub(super) fn standing(mut self) -> Result<Option<Positions>, Unavailable> {
        match self.0.as_slice().first() {
            Some(Value::BulkString(epoch)) if epoch.is_empty() => Ok(None),
            _ => self.positions().map(Some),
        }
    }

    pub(super) fn positions(&mut self) -> Result<Positions, Unavailable> {
        Ok(Positions { epoch: self.epoch()?, signal: self.number()?, bulk: self.number()? })
    }

    pub(super) fn applied(&mut self) -> Result<Applied, Unavailable> {
        Ok(Applied { seq: self.number()?, offset: self.number()?, epoch: self.epoch()? })
    }

    pub(super) fn snapshot(
        &mut self,
        everybody: impl FnOnce(Value) -> Result<Vec<Member>, Unavailable>,
    ) -> Result<Snapshot, Unavailable> {
        let positions = self.positions()?;
        let seq = PerLane { signal: self.number()?, bulk: self.number()? };
        Ok(Snapshot { positions, seq, members: everybody(self.value()?)? })
    }

    pub(super) fn place(&mut self) -> Result<Place, Unavailable> {
        let positions = self.positions()?;
        let seq = PerLane { signal: self.number()?, bulk: self.number()? };
        let metadata = Json::parse(self.text()?.as_bytes()).map_err(|_| garbled("metadata"))?;
        Ok(Place { positions, seq, metadata })
    }

    pub(super) fn refusal(&mut self) -> Result<Refusal, Unavailable> {
        let (code, expected) = (self.text()?, self.number()?);
        Ok(match code.as_str() {
            "not_a_member" => Refusal::NOT_A_MEMBER,
            "room_full" => Refusal::new(ErrorCode::RoomFull, "this room is full"),
            "too_much_shown" => Refusal::TOO_MUCH_SHOWN,
            "oneself" => Refusal::new(ErrorCode::BadRequest, "a message to oneself"),
            "no_such_peer" => {
                Refusal::new(ErrorCode::NoSuchPeer, "the addressee is not in this room")
            }
            "seq_gap" => Refusal {
                code: ErrorCode::SeqGap,
                message: "an earlier seq is missing",
                expected: Some(expected),
            },
            _ => return Err(garbled("a refusal")),
        })
    }

    /// The lines of a log, and the last of them.
    pub(super) fn entries(
        &mut self,
        room: &RoomName,
        lane: LogLane,
        shift: Shift,
    ) -> Result<(Vec<Arc<Entry>>, Option<Last>), Unavailable> {
        let mut lines = Fields::of(self.value()?)?;
        let mut entries = Vec::with_capacity(lines.0.len());
        let mut last = None;
        while lines.0.len() > 0 {
            let line = lines.text()?;
            entries.push(entry(room, lane, &line, shift)?);
            if lines.0.len() == 0 {
                last = self::last(&line);
            }
        }
        Ok((entries, last))
    }
}
