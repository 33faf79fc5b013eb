//! Changes of a room as `apply.lua` takes them, and what it answers.

use handover_protocol::room::entry::Event;
use handover_protocol::room::{Joining, Refusal, Sent};
use handover_protocol::wire::message::{LeaveReason, Member, Positions};
use handover_protocol::wire::{Epoch, Json, LogLane, PeerId, PerLane, RoomName};
use redis::Value;

use super::stored::{self, Fields, garbled};
use super::{Author, Change, Done, RoomOp, Shift, Unavailable};

/// Whether a join is written down with its session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Recorded {
    /// It is, or needs not be.
    As,
    Fenced,
    TooMany,
    /// Who has its record does not answer.
    Not,
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
        Change::Join { user, metadata } | Change::Rejoin { user, metadata, .. } => {
            let user_text = serde_json::to_string(user).map_err(|_| garbled("a user"))?;
            let metadata = metadata.clone().unwrap_or_else(Json::empty_object);
            let (kind, seqs) = match &op.change {
                Change::Rejoin { seq: PerLane { signal, bulk }, .. } => {
                    ("K", format!("s{signal}b{bulk}"))
                }
                _ => ("J", String::new()),
            };
            let shown = [user_text, metadata.as_str().to_owned(), seqs];
            (kind, Some(Event::Joined { user: user.clone(), metadata }), shown)
        }
        Change::Leave(reason) => ("L", Some(Event::Left { reason: *reason }), Default::default()),
        Change::Update(metadata) | Change::Fix(metadata) => {
            let event = Event::Updated { metadata: metadata.clone() };
            let fixed = if let Change::Fix(_) = op.change { "1" } else { "" };
            ("U", Some(event), [metadata.as_str().to_owned(), fixed.to_owned(), String::new()])
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
        Change::Place => ("W", None, Default::default()),
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

/// What `apply.lua` takes for housekeeping: which nodes live, since when that is known, and since when
/// this one is not without Redis any more.
pub(super) fn housekeeping(
    room: &RoomName,
    epoch: Epoch,
    living: String,
    listed: u64,
    back: [u64; 2],
) -> Result<[String; 8], Unavailable> {
    let expired = Event::Left { reason: LeaveReason::Expired };
    // Their bytes are the same, whoever they are about.
    let nobody = PeerId::parse("nobody").map_err(|_| garbled("a name"))?;
    let cost = stored::cost(room, nobody, epoch, expired.clone());
    let (away, expired) = (stored::event_text(&Event::Away)?, stored::event_text(&expired)?);
    let (cost, listed) = (cost.to_string(), listed.to_string());
    let [back, met] = back.map(|at| at.to_string());
    Ok(["O".to_owned(), back, met, away, cost, living, expired, listed])
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

/// Who is in a room, while the answers to changes of it are read: it is told once.
#[derive(Default)]
pub(super) struct Roster(Option<Vec<Member>>);

impl Roster {
    /// Everybody, after a change; `told` is empty unless this is the first time.
    fn everybody(&mut self, told: Value) -> Result<Vec<Member>, Unavailable> {
        if let Value::Array(_) = told {
            self.0 = Some(stored::members(told)?);
        }
        self.0.clone().ok_or_else(|| garbled("an answer"))
    }

    /// What a change that was applied has changed of it.
    fn note(&mut self, author: Author, event: &Event, offset: u64) {
        let Some(members) = &mut self.0 else { return };
        let peer = author.peer;
        match event {
            Event::Joined { user, metadata } => {
                let (user, metadata) = (user.clone(), metadata.clone());
                members.push(Member { peer, user, metadata, since: offset, away: false });
            }
            Event::Left { .. } => members.retain(|member| member.peer != peer),
            Event::Updated { .. } | Event::Away | Event::Back | Event::Message { .. } => {
                let own = members.iter_mut().find(|member| member.peer == peer);
                if let Some(own) = own {
                    match event {
                        Event::Updated { metadata } => own.metadata = metadata.clone(),
                        Event::Away | Event::Back => own.away = *event == Event::Away,
                        _ => {}
                    }
                }
            }
        }
    }
}

/// What `apply.lua` has to say of a change.
pub(super) fn done(
    room: &RoomName,
    op: &RoomOp,
    answer: Value,
    shift: Shift,
    roster: &mut Roster,
) -> Result<Result<Done, Refusal>, Unavailable> {
    let change = &op.change;
    let mut fields = Fields::of(answer)?;
    let what = fields.text()?;
    let mut entry = |line: String| {
        let entry = stored::entry(room, change.lane(), &line, shift)?;
        roster.note(op.author, &entry.event, entry.offset);
        Ok::<_, Unavailable>(entry)
    };
    let mut maybe = |line: String| if line.is_empty() { Ok(None) } else { entry(line).map(Some) };
    Ok(Ok(match (what.as_str(), change) {
        ("F", _) => Done::Fenced,
        ("R", _) => return Ok(Err(fields.refusal()?)),
        ("C", Change::Pass { .. }) => Done::Passed,
        ("D", Change::Send(_)) => Done::Sent(Sent::Duplicate(fields.applied()?)),
        ("S", Change::Join { .. }) => {
            let entry = maybe(fields.text()?)?;
            let snapshot = fields.snapshot(|told| roster.everybody(told))?;
            Done::Joined(Joining { snapshot, entry })
        }
        ("S", Change::Snapshot) => {
            fields.text()?;
            Done::Snapshot(fields.snapshot(|told| roster.everybody(told))?)
        }
        ("O", Change::Rejoin { .. }) => {
            let entry = maybe(fields.text()?)?;
            Done::Rejoined(fields.place()?, entry)
        }
        ("O", Change::Place) => {
            fields.text()?;
            Done::Place(fields.place()?)
        }
        ("N", Change::Leave(_)) => Done::Left(None, fields.positions()?),
        ("N", Change::MarkAway(_)) => Done::Marked(None),
        ("E", change) => {
            let entry = entry(fields.text()?)?;
            match change {
                Change::Send(_) => Done::Sent(Sent::Appended(entry)),
                Change::Leave(_) => Done::Left(Some(entry), fields.positions()?),
                Change::Update(_) | Change::Fix(_) => Done::Updated(entry),
                Change::MarkAway(_) => Done::Marked(Some(entry)),
                Change::Join { .. }
                | Change::Rejoin { .. }
                | Change::Pass { .. }
                | Change::Snapshot
                | Change::Place => return Err(garbled("an answer")),
            }
        }
        _ => return Err(garbled("an answer")),
    }))
}
