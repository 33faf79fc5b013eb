//! Changes of a room as `apply.lua` takes them, and what it answers.

use handover_protocol::room::entry::Event;
use handover_protocol::room::{Joining, Refusal, Sent};
use handover_protocol::wire::message::{LeaveReason, Positions};
use handover_protocol::wire::{Epoch, Json, LogLane, PeerId, PerLane, RoomName};
use redis::Value;

use super::stored::{self, Fields, garbled};
use super::{Change, Done, RoomOp, Shift, Unavailable};

/// Whether a join is written down with its session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Recorded {
    /// It is, or needs not be.
    As,
    Fenced,
    TooMany,
}

/// What `apply.lua` takes for a change.
pub(super) fn op_args(
    room: &RoomName,
    epoch: Epoch,
    op: &RoomOp,
    recorded: Recorded,
) -> Result<[String; 8], Unavailable> {
    let peer = op.author.peer;
    let to_text = |to: Option<PeerId>| to.map(|to| to.to_string()).unwrap_or_default();
    let (kind, event, [x, y, z]) = match &op.change {
        Change::Join { user, metadata, seq } => {
            let user_text = serde_json::to_string(user).map_err(|_| garbled("a user"))?;
            let metadata = metadata.clone().unwrap_or_else(Json::empty_object);
            let seqs = match seq {
                PerLane { signal: 0, bulk: 0 } => String::new(),
                PerLane { signal, bulk } => format!("s{signal}b{bulk}"),
            };
            let shown = [user_text, metadata.as_str().to_owned(), seqs];
            ("J", Some(Event::Joined { user: user.clone(), metadata }), shown)
        }
        Change::Leave(reason) => ("L", Some(Event::Left { reason: *reason }), Default::default()),
        Change::Update(metadata) => {
            let event = Event::Updated { metadata: metadata.clone() };
            ("U", Some(event), [metadata.as_str().to_owned(), String::new(), String::new()])
        }
        Change::Send(send) => {
            let lane = match send.lane {
                LogLane::Signal => "s",
                LogLane::Bulk => "b",
            };
            let event = Event::Message { seq: send.seq, to: send.to, body: send.body.clone() };
            ("M", Some(event), [lane.to_owned(), send.seq.to_string(), to_text(send.to)])
        }
        Change::Pass { to, .. } => ("P", None, [to_text(*to), String::new(), String::new()]),
        Change::MarkAway(away) => {
            let (event, mark) = if *away { (Event::Away, "1") } else { (Event::Back, "0") };
            ("A", Some(event), [mark.to_owned(), String::new(), String::new()])
        }
        Change::Snapshot => ("S", None, Default::default()),
    };
    let kind = if recorded == Recorded::As { kind } else { "X" };
    let (text, cost) = match (&op.change, event) {
        (Change::Pass { body, .. }, _) => (body.as_str().to_owned(), 0),
        (_, Some(event)) => (stored::event_text(&event)?, stored::cost(room, peer, epoch, event)),
        (_, None) => (String::new(), 0),
    };
    let generation = op.author.generation.to_string();
    Ok([kind.to_owned(), peer.to_string(), generation, text, cost.to_string(), x, y, z])
}

/// What `apply.lua` takes for housekeeping: which nodes are dead.
pub(super) fn housekeeping(
    room: &RoomName,
    epoch: Epoch,
    dead: String,
) -> Result<[String; 8], Unavailable> {
    let expired = Event::Left { reason: LeaveReason::Expired };
    // Their bytes are the same, whoever they are about.
    let nobody = PeerId::parse("nobody").map_err(|_| garbled("a name"))?;
    let cost = stored::cost(room, nobody, epoch, expired.clone());
    let (away, expired) = (stored::event_text(&Event::Away)?, stored::event_text(&expired)?);
    let [kind, none] = ["O", ""].map(str::to_owned);
    Ok([kind, none.clone(), none.clone(), away, cost.to_string(), dead, expired, none])
}

/// Where a room stands after its housekeeping; nothing if there is none.
pub(super) fn stands(answer: Value) -> Result<Option<Positions>, Unavailable> {
    let mut fields = Fields::of(answer)?;
    match fields.text()?.as_str() {
        "N" => fields.positions().map(Some),
        "R" => Ok(None),
        _ => Err(garbled("an answer")),
    }
}

impl Change {
    /// Where its entry is, if it has one.
    pub(super) fn lane(&self) -> LogLane {
        match self {
            Change::Send(send) => send.lane,
            _ => LogLane::Signal,
        }
    }
}

/// What `apply.lua` has to say of a change.
pub(super) fn done(
    room: &RoomName,
    change: &Change,
    answer: Value,
    shift: Shift,
) -> Result<Result<Done, Refusal>, Unavailable> {
    let mut fields = Fields::of(answer)?;
    let what = fields.text()?;
    let entry = |line: String| stored::entry(room, change.lane(), &line, shift);
    Ok(Ok(match (what.as_str(), change) {
        ("F", _) => Done::Fenced,
        ("R", _) => return Ok(Err(fields.refusal()?)),
        ("C", Change::Pass { .. }) => Done::Passed,
        ("D", Change::Send(_)) => Done::Sent(Sent::Duplicate(fields.applied()?)),
        ("S", Change::Join { .. }) => {
            let line = fields.text()?;
            let entry = if line.is_empty() { None } else { Some(entry(line)?) };
            Done::Joined(Joining { snapshot: fields.snapshot()?, entry })
        }
        ("S", Change::Snapshot) => {
            fields.text()?;
            Done::Snapshot(fields.snapshot()?)
        }
        ("N", Change::Leave(_)) => Done::Left(None, fields.positions()?),
        ("N", Change::MarkAway(_)) => Done::Marked(None),
        ("E", change) => {
            let entry = entry(fields.text()?)?;
            match change {
                Change::Send(_) => Done::Sent(Sent::Appended(entry)),
                Change::Leave(_) => Done::Left(Some(entry), fields.positions()?),
                Change::Update(_) => Done::Updated(entry),
                Change::MarkAway(_) => Done::Marked(Some(entry)),
                Change::Join { .. } | Change::Pass { .. } | Change::Snapshot => {
                    return Err(garbled("an answer"));
                }
            }
        }
        _ => return Err(garbled("an answer")),
    }))
}
