//! How long a message will be, roughly: so that its buffer is allocated once and wastes little.

use crate::wire::message::{
    ClientMessage, EphemeralMessage, Member, MemberJoined, MemberUpdated, Message, Send,
    ServerMessage,
};

/// A message, or a member in a list, without what it carries; in either codec, and a little more.
const AROUND: usize = 128;

pub(super) fn of_client(message: &ClientMessage) -> usize {
    AROUND
        + match message {
            ClientMessage::Send(Send { room, body, to, .. })
            | ClientMessage::Ephemeral { room, body, to } => {
                room.as_str().len() + body.len() + to.map_or(0, |to| to.as_str().len())
            }
            ClientMessage::Join { metadata: Some(metadata), .. }
            | ClientMessage::Update { metadata, .. } => metadata.len(),
            _ => 0,
        }
}

pub(super) fn of_server(message: &ServerMessage) -> usize {
    let members = |list: &[Member]| list.iter().map(|m| AROUND + m.metadata.len()).sum::<usize>();
    AROUND
        + match message {
            ServerMessage::Message(Message { room, body, from, to, epoch, .. }) => {
                let ids = from.as_str().len() + to.map_or(0, |to| to.as_str().len());
                room.as_str().len() + body.len() + ids + epoch.as_str().len()
            }
            ServerMessage::Ephemeral(EphemeralMessage { room, body, from }) => {
                room.as_str().len() + body.len() + from.as_str().len()
            }
            ServerMessage::MemberJoined(MemberJoined { metadata, .. })
            | ServerMessage::MemberUpdated(MemberUpdated { metadata, .. }) => metadata.len(),
            ServerMessage::Joined(joined) => members(&joined.members),
            ServerMessage::Reset(reset) => members(&reset.members),
            ServerMessage::Members(answer) => members(&answer.members),
            _ => 0,
        }
}
