//! What members and connections ask of a room, and how they are answered.

use std::sync::Arc;

use handover_protocol::room::entry::Ephemeral;
use handover_protocol::room::{Refusal, Sent};
use handover_protocol::session::{About, Op, Outcome, Reply, Slot};
use handover_protocol::wire::message::{LeaveReason, Positions, ResetReason};
use handover_protocol::wire::{ErrorCode, Json, LogLane, PeerId, PerLane};
use tokio::sync::oneshot;

use super::{LiveRoom, Seated};
use crate::broker::{Author, Change, Done, Place};
use crate::router::handle::{Attach, Attached};
use crate::router::live_log::SharedLog;
use crate::router::mailbox::Notice;
use crate::router::seat::Seat;

/// What is left to do with a command once the broker has applied its change.
pub(super) enum Then {
    Answer(Arc<Seat>, Slot, Asked),
    Attach(Box<Attach>),
    Marked(Option<oneshot::Sender<()>>),
    Removed(PeerId, Option<oneshot::Sender<Option<PerLane<u64>>>>),
    Fixed(Author, Json),
}

/// What an answer needs to know of its request.
pub(super) enum Asked {
    Join { id: u64 },
    Leave { id: u64 },
    Update { id: u64 },
    Members { id: u64 },
    Send { lane: LogLane, seq: u64 },
    Ephemeral { to: Option<PeerId>, body: Json, answered: bool },
    Snapshot { reason: ResetReason },
}

/// The answer while the broker gives none.
pub(super) const UNAVAILABLE: Refusal =
    Refusal::new(ErrorCode::Unavailable, "the room cannot be changed right now");

impl LiveRoom {
    /// Sees to what is left to do once the broker has answered.
    pub(super) fn finish(&mut self, log: &SharedLog, result: Result<Done, Refusal>, then: Then) {
        match then {
            Then::Marked(done) => {
                let Ok(marked) = result else { return };
                if let Done::Marked(Some(entry)) = marked {
                    self.take_in(log, entry);
                }
                // Whoever asked may be gone by now, and then needs no answer.
                let _ = done.map(|done| done.send(()));
            }
            Then::Removed(peer, done) => {
                let at = match result {
                    Ok(Done::Left(entry, Positions { signal, bulk, .. })) => {
                        self.left(log, peer, entry);
                        Some(PerLane { signal, bulk })
                    }
                    // Asked for again.
                    Err(Refusal { code: ErrorCode::Unavailable, .. }) => return,
                    // A newer connection speaks for it, or the room is gone.
                    Ok(_) | Err(_) => {
                        self.absent.remove(&peer);
                        None
                    }
                };
                let _ = done.map(|done| done.send(at));
            }
            Then::Fixed(author, metadata) => match result {
                Ok(Done::Updated(entry)) => {
                    self.take_in(log, entry);
                }
                Err(Refusal { code: ErrorCode::Unavailable, .. }) => {
                    self.owe_fixed(author, metadata);
                }
                // It has left, or a newer connection sees to it.
                Ok(_) | Err(_) => {}
            },
            Then::Attach(attach) => {
                let Attach { seat, slot, attached } = *attach;
                let answer = match result {
                    Ok(Done::Place(Place { seq, metadata, .. })) => {
                        self.seat(Seated { seat, slot, metadata: Some(metadata), seq });
                        Attached::Member { log: log.clone(), seq }
                    }
                    Err(Refusal { code: ErrorCode::NotAMember, .. }) => Attached::Stranger,
                    // Unavailable, or fenced by a still newer connection.
                    Ok(_) | Err(_) => return,
                };
                // A connection that has ended meanwhile detaches by itself.
                let _ = attached.send(answer);
            }
            Then::Answer(seat, slot, asked) => {
                let about = asked.about();
                if let (
                    Err(Refusal { code: ErrorCode::Unavailable, .. }),
                    &Asked::Snapshot { reason },
                ) = (&result, &asked)
                {
                    return self.owed.push((seat, slot, reason));
                }
                if let (Err(Refusal { code: ErrorCode::Unavailable, .. }), Asked::Join { .. }) =
                    (&result, &asked)
                {
                    let at = self.shared.clock.now();
                    self.unanswered.insert(seat.author.peer, (seat.author, at));
                }
                let outcome = match result {
                    Ok(done) => self.outcome(log, &seat, slot, asked, done),
                    Err(refusal) => Some(refused(log, about, refusal)),
                };
                if let Some(outcome) = outcome {
                    seat.mailbox.notify(Notice::Reply(Reply { slot, outcome }));
                }
            }
        }
    }

    /// What a member is answered, if anything: an appended send is answered by its entry.
    fn outcome(
        &mut self,
        log: &SharedLog,
        seat: &Arc<Seat>,
        slot: Slot,
        asked: Asked,
        done: Done,
    ) -> Option<Outcome<SharedLog>> {
        Some(match (done, asked) {
            (Done::Joined(joining), Asked::Join { id }) => {
                let seated = Seated::new(seat.clone(), slot, &joining.snapshot);
                let before = self.seat(seated);
                let start = before.is_none().then(|| log.clone());
                if let Some(entry) = joining.entry {
                    self.take_in(log, entry);
                }
                Outcome::Joined { id, snapshot: joining.snapshot, start }
            }
            (Done::Left(entry, positions), Asked::Leave { id }) => {
                self.left(log, seat.author.peer, entry);
                let Positions { signal, bulk, .. } = positions;
                Outcome::Left { id, at: PerLane { signal, bulk } }
            }
            (Done::Updated(entry), Asked::Update { id }) => {
                let at = entry.offset;
                self.take_in(log, entry);
                Outcome::Updated { id, at }
            }
            (Done::Snapshot(snapshot), Asked::Members { id }) => Outcome::Members { id, snapshot },
            (Done::Snapshot(snapshot), Asked::Snapshot { reason }) => {
                Outcome::Snapshot { reason, snapshot, log: log.clone() }
            }
            (Done::Sent(Sent::Appended(entry)), Asked::Send { .. }) => {
                self.shared.metrics.accepted(entry.lane);
                self.take_in(log, entry);
                return None;
            }
            (Done::Sent(Sent::Duplicate(applied)), Asked::Send { lane, .. }) => {
                // Its entry may be of before this node came to the room.
                if let Some(seated) = self.seats.get_mut(&seat.author.peer) {
                    let highest = &mut seated.seq[lane];
                    *highest = (*highest).max(applied.seq);
                }
                Outcome::Duplicate { lane, applied }
            }
            (Done::Passed, Asked::Ephemeral { to, body, .. }) => {
                self.pass_on(Ephemeral::new(self.name.clone(), seat.author.peer, to, body));
                return None;
            }
            // Either another connection speaks for the session, or the broker has lost it.
            (Done::Fenced, Asked::Join { id }) if seat.kept.is_some() => {
                self.strangers.push(seat.clone());
                refused(log, About::Join { id }, UNAVAILABLE)
            }
            // Whoever replaced it has told it so already, unless it was not seated yet, or that
            // was on another node.
            (Done::Fenced, _) => {
                seat.replace();
                return None;
            }
            _ => return None,
        })
    }
}

fn refused(log: &SharedLog, about: About, refusal: Refusal) -> Outcome<SharedLog> {
    let lane = match about {
        About::Send { lane, .. } => lane,
        _ => LogLane::Signal,
    };
    Outcome::Refused { about, refusal, at: log.last(lane) }
}

/// What the broker is to do for a request, and what its answer needs to know.
pub(super) fn split(seat: &Seat, op: Op) -> (Change, Asked) {
    match op {
        Op::Join { id, metadata } => {
            (Change::Join { user: seat.user.clone(), metadata }, Asked::Join { id })
        }
        Op::Leave { id } => (Change::Leave(LeaveReason::Left), Asked::Leave { id }),
        Op::Update { id, metadata } => (Change::Update(metadata), Asked::Update { id }),
        Op::Members { id } => (Change::Snapshot, Asked::Members { id }),
        Op::Send(send) => {
            let asked = Asked::Send { lane: send.lane, seq: send.seq };
            (Change::Send(send), asked)
        }
        Op::Ephemeral { to, body, answered } => {
            (Change::Pass { to, body: body.clone() }, Asked::Ephemeral { to, body, answered })
        }
        Op::Snapshot { reason } => (Change::Snapshot, Asked::Snapshot { reason }),
    }
}

impl Asked {
    fn about(&self) -> About {
        match *self {
            Asked::Join { id } => About::Join { id },
            Asked::Leave { id } | Asked::Update { id } | Asked::Members { id } => {
                About::Request { id }
            }
            Asked::Send { lane, seq } => About::Send { lane, seq },
            Asked::Ephemeral { answered, .. } => About::Ephemeral { answered },
            Asked::Snapshot { .. } => About::Snapshot,
        }
    }
}
