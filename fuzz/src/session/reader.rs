//! What a client may rely on, checked frame by frame.

use std::collections::BTreeMap;

use handover_protocol::session::server::Streams;
use handover_protocol::wire::{Codec, Epoch, Lane, LogLane, PerLane, RoomName, ServerMessage};

/// One connection, as its client sees it.
pub struct Reader {
    pub codec: Codec,
    streams: Streams,
    greeted: bool,
    closed: bool,
    rooms: BTreeMap<RoomName, Room>,
}

#[derive(Default)]
struct Room {
    at: PerLane<Option<(Epoch, u64)>>,
    applied: PerLane<u64>,
    away: BTreeMap<String, bool>,
}

impl Reader {
    pub fn new(codec: Codec, streams: Streams) -> Self {
        Reader { codec, streams, greeted: false, closed: false, rooms: BTreeMap::new() }
    }

    /// The highest `seq` that the client knows to be applied.
    pub fn applied(&self, room: &RoomName, lane: LogLane) -> u64 {
        self.rooms.get(room).map_or(0, |room| room.applied[lane])
    }

    pub fn read(&mut self, lane: Lane, payload: &[u8]) {
        let message = self.codec.decode_server(payload).expect("the gateway's own words");
        assert!(!self.closed, "close is the last message: {message:?}");
        // Streams do not wait for each other.
        if !self.greeted && lane == Lane::Signal {
            let allowed = matches!(
                message,
                ServerMessage::Welcome(_) | ServerMessage::Error(_) | ServerMessage::Close(_)
            );
            assert!(allowed, "before welcome: {message:?}");
        }
        self.on_its_lane(lane, &message);
        match message {
            ServerMessage::Welcome(welcome) => {
                assert!(!self.greeted, "a second welcome");
                self.greeted = true;
                for (name, resumed) in welcome.rooms {
                    self.rooms.entry(name).or_default().applied = resumed.seq;
                }
            }
            ServerMessage::Close(_) => self.closed = true,
            ServerMessage::Joined(joined) => {
                let room = self.rooms.entry(joined.room).or_default();
                // Of a membership it has already, a plain answer, in the lane's order.
                let (epoch, offset) = (joined.epoch, joined.signal);
                assert!(room.at.signal.is_none_or(|(life, at)| life != epoch || at <= offset));
                room.begin(epoch, offset, joined.seq);
            }
            ServerMessage::Reset(reset) => {
                let room = self.rooms.entry(reset.room).or_default();
                room.begin(reset.epoch, reset.signal, reset.seq);
            }
            ServerMessage::Position(mark) => {
                let room = self.rooms.entry(mark.room).or_default();
                if mark.start {
                    assert_eq!(mark.lane, LogLane::Bulk);
                    room.at.bulk = Some((mark.epoch, mark.offset));
                } else {
                    room.pass(mark.lane, mark.epoch, mark.offset);
                }
            }
            ServerMessage::Accepted(accepted) => {
                let room = self.rooms.entry(accepted.room).or_default();
                let applied = &mut room.applied[accepted.lane];
                *applied = accepted.seq.max(*applied);
            }
            ServerMessage::Message(entry) => {
                let room = self.rooms.entry(entry.room).or_default();
                room.advance(entry.lane, entry.epoch, entry.offset);
            }
            ServerMessage::MemberJoined(entry) => {
                let room = self.rooms.entry(entry.room).or_default();
                room.advance(LogLane::Signal, entry.epoch, entry.offset);
            }
            ServerMessage::MemberUpdated(entry) => {
                let room = self.rooms.entry(entry.room).or_default();
                room.advance(LogLane::Signal, entry.epoch, entry.offset);
            }
            ServerMessage::MemberLeft(entry) => {
                let room = self.rooms.entry(entry.room).or_default();
                room.advance(LogLane::Signal, entry.epoch, entry.offset);
                room.away.remove(entry.peer.as_str());
            }
            ServerMessage::MemberAway(entry) => {
                let room = self.rooms.entry(entry.room).or_default();
                room.advance(LogLane::Signal, entry.epoch, entry.offset);
                room.alternate(entry.peer.as_str(), true);
            }
            ServerMessage::MemberBack(entry) => {
                let room = self.rooms.entry(entry.room).or_default();
                room.advance(LogLane::Signal, entry.epoch, entry.offset);
                room.alternate(entry.peer.as_str(), false);
            }
            _ => {}
        }
    }

    /// On a transport with a stream for each lane, everything travels where it belongs.
    fn on_its_lane(&self, lane: Lane, message: &ServerMessage) {
        let of = match message {
            ServerMessage::Message(entry) => entry.lane,
            ServerMessage::Accepted(accepted) => accepted.lane,
            ServerMessage::Position(mark) => mark.lane,
            ServerMessage::Error(error) if error.reference.seq.is_some() => {
                error.reference.lane.unwrap_or(LogLane::Signal)
            }
            ServerMessage::Ephemeral(_) => return assert_eq!(lane, Lane::Ephemeral),
            _ => LogLane::Signal,
        };
        assert_eq!(Lane::from(of), lane, "{:?}: {message:?}", self.streams);
    }
}

impl Room {
    fn begin(&mut self, epoch: Epoch, offset: u64, seq: PerLane<u64>) {
        self.at.signal = Some((epoch, offset));
        self.applied = seq;
        self.away.clear();
    }

    /// Each entry comes once and in order.
    fn advance(&mut self, lane: LogLane, epoch: Epoch, offset: u64) {
        if let Some((_, at)) = self.at[lane] {
            assert!(offset > at, "{lane:?}: {offset} behind {at}");
        }
        self.pass(lane, epoch, offset);
    }

    /// Never back, and to another life only behind a new start. A mark may say what a `joined`
    /// of a membership it has already has said: that one does not move the client.
    fn pass(&mut self, lane: LogLane, epoch: Epoch, offset: u64) {
        if let Some((life, at)) = self.at[lane] {
            assert_eq!(life, epoch, "another life without a start");
            assert!(offset >= at, "{lane:?}: {offset} behind {at}");
        }
        self.at[lane] = Some((epoch, offset));
    }

    fn alternate(&mut self, peer: &str, away: bool) {
        let was = self.away.insert(peer.to_owned(), away);
        assert_ne!(was, Some(away), "away and back alternate");
    }
}
