//! Whether every integer of a gateway's message is one that both codecs have.

use crate::limits::{INTEGER_MAX, Limits};
use crate::wire::PerLane;
use crate::wire::message::{Error, Member, Members, Reference, ResumedRoom, ServerMessage};

/// Not so in a message of no gateway: positions count up from what is taken here, and JSON's
/// readers do not tell greater numbers apart.
pub(super) fn holds(message: &ServerMessage) -> bool {
    use ServerMessage as M;
    match message {
        M::Welcome(m) => {
            let Limits { message_bytes, metadata_bytes, ephemeral_bytes, room_bytes, rooms } =
                m.limits;
            all([m.heartbeat, m.resume_window, message_bytes, metadata_bytes])
                && all([ephemeral_bytes, room_bytes, rooms])
                && m.rooms.values().all(|ResumedRoom { seq }| lanes(*seq))
        }
        M::Joined(m) => all([m.id, m.signal, m.bulk]) && lanes(m.seq) && members(&m.members),
        M::Reset(m) => all([m.signal, m.bulk]) && lanes(m.seq) && members(&m.members),
        M::Members(Members { id, signal, members: list, .. }) => {
            all([*id, *signal]) && members(list)
        }
        M::Accepted(m) => all([m.seq, m.offset]),
        M::MemberJoined(m) => all([m.offset]),
        M::MemberUpdated(m) => all([m.offset]),
        M::MemberLeft(m) => all([m.offset]),
        M::MemberAway(m) | M::MemberBack(m) => all([m.offset]),
        M::Message(m) => all([m.offset]),
        M::Position(m) => all([m.offset]),
        M::Expiring { in_ms: number }
        | M::Draining { reconnect_in: number }
        | M::Ok { id: number }
        | M::Pong { id: number } => all([*number]),
        M::Ice(m) => all([m.id, m.ttl]),
        M::Error(Error { reference: Reference { id, seq, .. }, retry_after, expected, .. }) => {
            all([id, seq, retry_after, expected].into_iter().copied().flatten())
        }
        M::Close(m) => all(m.retry_after),
        M::Ephemeral(_) | M::Quality(_) | M::Moved => true,
    }
}

fn all(numbers: impl IntoIterator<Item = u64>) -> bool {
    numbers.into_iter().all(|number| number <= INTEGER_MAX)
}

fn lanes(of: PerLane<u64>) -> bool {
    all([of.signal, of.bulk])
}

fn members(list: &[Member]) -> bool {
    list.iter().all(|member| all([member.since]))
}
