//! The handle of a membership.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use handover_protocol::session::client::{Answer, Receipt, RoomEvent};
use handover_protocol::wire::message::Member;
use handover_protocol::wire::{Json, LogLane, PeerId, RoomName};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::client::Client;
use crate::command::Command;
use crate::error::Error;
use crate::events::RoomEvents;

/// A membership of a room.
///
/// Clones are handles of the same membership; events go to whichever asks first. When the
/// last one is dropped, the client leaves the room.
///
/// Take the events: when [`crate::Options::room_events`] of them wait, the whole client waits
/// for up to [`crate::Options::stall_timeout`], and then lets them go with a
/// [`RoomEvent::Reset`]. Do not wait for a send in the same task that takes them, unless at
/// the same time. Who never asks for an event at all holds nobody up.
#[derive(Clone)]
pub struct Room {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    name: RoomName,
    events: Arc<RoomEvents>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.events.abandon();
        self.client.try_tell(Command::Abandon { room: self.name.clone() });
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

/// A send under way: resolves when it is accepted into the room's log, or for good is not.
/// Dropping it changes nothing for the send.
#[derive(Debug)]
#[must_use = "whether the send was accepted is known when this resolves"]
pub struct Sending {
    receipt: oneshot::Receiver<Result<Receipt, Error>>,
}

impl Future for Sending {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let receipt = ready!(Pin::new(&mut self.receipt).poll(cx));
        Poll::Ready(receipt.unwrap_or(Err(Error::Closed)))
    }
}

impl Room {
    pub(crate) fn new(client: Client, name: RoomName, events: Arc<RoomEvents>) -> Self {
        Room { inner: Arc::new(Inner { client, name, events }) }
    }

    /// The room's name.
    pub fn name(&self) -> &RoomName {
        &self.inner.name
    }

    /// The client whose membership this is.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// Sends to everybody else and waits until it is in the room's log.
    pub async fn send(&self, lane: LogLane, body: Json) -> Result<Receipt, Error> {
        self.queue(lane, None, body).await?.await
    }

    /// Sends to one member and waits until it is in the room's log.
    pub async fn send_to(&self, to: PeerId, lane: LogLane, body: Json) -> Result<Receipt, Error> {
        self.queue(lane, Some(to), body).await?.await
    }

    /// Sends any serialisable value to everybody else and waits until it is in the room's log.
    pub async fn send_value<T: Serialize + ?Sized>(
        &self,
        lane: LogLane,
        body: &T,
    ) -> Result<Receipt, Error> {
        self.send(lane, Json::from_value(body)?).await
    }

    /// Hands a send over and returns what resolves when it is accepted, so that many can be
    /// under way at a time. They keep their order.
    pub async fn queue(
        &self,
        lane: LogLane,
        to: Option<PeerId>,
        body: Json,
    ) -> Result<Sending, Error> {
        let (reply, receipt) = oneshot::channel();
        let room = self.inner.name.clone();
        self.inner.client.tell(Command::Send { room, lane, to, body, reply }).await?;
        Ok(Sending { receipt })
    }

    /// Passes something on to whoever is there now: everybody else, or `to` alone. It may be
    /// lost, and is dropped while no connection carries the session.
    pub async fn ephemeral(&self, to: Option<PeerId>, body: Json) -> Result<(), Error> {
        let (reply, taken) = oneshot::channel();
        let room = self.inner.name.clone();
        self.inner.client.tell(Command::Ephemeral { room, to, body, reply }).await?;
        taken.await.map_err(|_| Error::Closed)?.map_err(Error::from)
    }

    /// Replaces one's metadata, a JSON object.
    pub async fn update(&self, metadata: Json) -> Result<(), Error> {
        let room = self.inner.name.clone();
        self.inner.client.ask(|reply| Command::Update { room, metadata, reply }).await.map(drop)
    }

    /// Who is in the room, oneself included, in the order they joined. Known here; nothing is
    /// asked of the gateway.
    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        let (reply, members) = oneshot::channel();
        let room = self.inner.name.clone();
        self.inner.client.tell(Command::Members { room, reply }).await?;
        Ok(members.await.map_err(|_| Error::Closed)?.unwrap_or_default())
    }

    /// Who is in the room as the gateway sees it.
    pub async fn fetch_members(&self) -> Result<Vec<Member>, Error> {
        let room = self.inner.name.clone();
        match self.inner.client.ask(|reply| Command::FetchMembers { room, reply }).await? {
            Answer::Members(members) => Ok(members),
            _ => Err(Error::Closed),
        }
    }

    /// The next event; `None` once the membership is over.
    pub async fn next_event(&self) -> Option<RoomEvent> {
        self.inner.events.next().await
    }

    /// The events as a stream.
    pub fn events(&self) -> impl Stream<Item = RoomEvent> + Send + use<> {
        let events = self.inner.events.clone();
        futures_util::stream::unfold(events, |events| async move {
            let event = events.next().await?;
            Some((event, events))
        })
    }

    /// Leaves the room, after what was sent before has been answered.
    pub async fn leave(self) -> Result<(), Error> {
        let room = self.inner.name.clone();
        self.inner.client.ask(|reply| Command::Leave { room, reply }).await.map(drop)
    }
}
