//! What handles ask of the driver.

use handover_protocol::session::client::{
    Answer, Attention, CommandError, Receipt, RequestError, SendError,
};
use handover_protocol::wire::message::Member;
use handover_protocol::wire::{Json, LogLane, PeerId, RoomName, Secret};
use std::sync::Arc;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::events::RoomEvents;

/// Commands that may wait for the driver.
pub(crate) const COMMANDS_MAX: usize = 256;

/// Where the answer to a request goes.
pub(crate) type AnswerTo = oneshot::Sender<Result<Answer, Error>>;
/// Where the outcome of a send goes.
pub(crate) type ReceiptTo = oneshot::Sender<Result<Receipt, Error>>;

/// What handles ask of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Join {
        room: RoomName,
        metadata: Option<Json>,
        events: Arc<RoomEvents>,
        reply: AnswerTo,
    },
    Leave {
        room: RoomName,
        reply: AnswerTo,
    },
    /// The last handle of a room is gone.
    Abandon {
        room: RoomName,
    },
    Send {
        room: RoomName,
        lane: LogLane,
        to: Option<PeerId>,
        body: Json,
        reply: ReceiptTo,
    },
    Ephemeral {
        room: RoomName,
        to: Option<PeerId>,
        body: Json,
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
    Update {
        room: RoomName,
        metadata: Json,
        reply: AnswerTo,
    },
    FetchMembers {
        room: RoomName,
        reply: AnswerTo,
    },
    Members {
        room: RoomName,
        reply: oneshot::Sender<Option<Vec<Member>>>,
    },
    Ice {
        reply: AnswerTo,
    },
    Refresh {
        token: Secret,
        reply: AnswerTo,
    },
    Ping {
        reply: AnswerTo,
    },
    Attention(Attention),
    NetworkChanged,
    DropConnection,
    Close,
}

/// An outcome as the handles report it.
pub(crate) fn answered(result: Result<Answer, RequestError>) -> Result<Answer, Error> {
    result.map_err(Error::from)
}

/// An outcome as the handles report it.
pub(crate) fn sent(result: Result<Receipt, SendError>) -> Result<Receipt, Error> {
    result.map_err(Error::from)
}
