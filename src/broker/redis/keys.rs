//! What lies under which key.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use handover_protocol::wire::{RoomName, SessionId};

/// How many slots a Redis Cluster shares out.
pub(super) const SLOTS: u16 = 16_384;

/// A room's keys, all in one slot.
pub(super) struct RoomKeys {
    /// `meta`, `members`, the logs of signal and bulk, `past`.
    pub(super) keys: [String; 5],
    pub(super) channel: String,
    pub(super) slot: u16,
}

/// Channels, unlike keys, are the same ones in every database.
pub(super) fn room_keys(room: &RoomName, database: i64) -> RoomKeys {
    let name = URL_SAFE_NO_PAD.encode(room.as_str());
    let key = |part: &str| format!("handover:{{r:{name}}}:{part}");
    let keys = ["meta", "members", "s", "b", "past"].map(key);
    let channel = match database {
        0 => key("news"),
        _ => key(&format!("news:{database}")),
    };
    RoomKeys { keys, channel, slot: tag_slot(&format!("r:{name}")) }
}

/// `record`, `rooms` and `ever` of a session, and their slot.
pub(super) fn session_keys(session: SessionId) -> ([String; 3], u16) {
    let keys = ["record", "rooms", "ever"].map(|part| format!("handover:{{s:{session}}}:{part}"));
    (keys, tag_slot(&format!("s:{session}")))
}

/// The nodes there are, each with when it last said that it lives.
pub(super) const NODES: &str = "handover:nodes";

/// What each of them goes by, in the same slot.
pub(super) const TERMS: &str = "handover:{handover:nodes}:terms";

/// The slot of [`NODES`], which has no tag.
pub(super) fn nodes_slot() -> u16 {
    tag_slot(NODES)
}

/// A key of this node's own, and its channel, in a slot that `ours` takes.
pub(super) fn beat_key(node: &str, ours: impl Fn(u16) -> bool) -> Option<(String, u16)> {
    let tags = (0..u32::from(SLOTS) * 64).map(|number| format!("n:{node}:{number}"));
    let mut fitting = tags.map(|tag| (tag_slot(&tag), tag)).filter(|(slot, _)| ours(*slot));
    fitting.next().map(|(slot, tag)| (format!("handover:{{{tag}}}:beat"), slot))
}

/// The slot of every key with this tag: CRC16 (XMODEM) of it.
fn tag_slot(tag: &str) -> u16 {
    let crc = tag.bytes().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // The check value of CRC16-XMODEM, and a slot from the documentation of Redis.
        assert_eq!(tag_slot("123456789"), 0x31c3);
        assert_eq!(tag_slot("user1000"), 3443);
    }

    #[test]
    fn what_nodes_go_by_lies_beside_them() {
        assert!(TERMS.contains(&format!("{{{NODES}}}")));
    }

    #[test]
    fn a_beat_lies_in_any_slot_asked_for() {
        for wanted in [0, 1, 9_999, SLOTS - 1] {
            let (key, slot) = beat_key("node", |slot| slot == wanted).unwrap();
            assert_eq!(slot, wanted);
            assert!(key.starts_with("handover:{n:node:"));
        }
        assert!(beat_key("node", |_| false).is_none());
    }
}
