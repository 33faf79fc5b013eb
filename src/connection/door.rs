//! Who may be on a connection: the token of a `hello`, and newer ones.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use handover_protocol::room::Refusal;
use handover_protocol::session::grant::{Admission, Pass};
use handover_protocol::wire::message::Hello;
use handover_protocol::wire::{RoomName, Secret};

use super::bounds::reach_of_newer;
use super::{End, Event, Pump, Shared};
use crate::router::handle::RoomHandle;
use crate::router::seat::Seat;
use crate::transport::Transport;

/// A newer token that is being looked at.
pub(super) struct Refreshing {
    id: u64,
    outcome: Pin<Box<dyn Future<Output = Result<Option<Pass>, Refusal>> + Send>>,
}

impl Shared {
    /// Under what a `hello` lets in; `None` if a session goes on under what it had.
    pub(super) async fn admit(&self, hello: &Hello) -> Result<Option<Admission>, Refusal> {
        let Some(authority) = &self.authority else { return Ok(Some(Admission::anonymous())) };
        if hello.token.is_none() && hello.resume.is_some() {
            return Ok(None);
        }
        let admitted = authority.admit(hello.token.as_ref()).await;
        admitted.map(Some).map_err(|error| error.refusal())
    }

    async fn readmit(
        &self,
        seat: &Seat,
        token: &Secret,
        rooms: &[(RoomName, RoomHandle)],
    ) -> Result<Option<Pass>, Refusal> {
        let Some(authority) = &self.authority else { return Ok(None) };
        let admission = authority.admit(Some(token)).await.map_err(|error| error.refusal())?;
        self.router.readmit(seat, admission, rooms).await.map(Some)
    }
}

impl<T: Transport> Pump<T> {
    /// Until there is a session.
    pub(super) async fn greet(&mut self) -> Result<(), End> {
        while self.seat.is_none() {
            match poll_fn(|cx| self.poll(cx)).await {
                Event::Open(hello) => self.open(*hello).await,
                // There is none to end.
                Event::EndSession => {}
                Event::End(end) => return Err(end),
            }
        }
        Ok(())
    }

    /// Has a newer token looked at, while everything else goes on.
    pub(super) fn refresh(&mut self, id: u64, token: Secret) {
        if self.forbids_refresh(id) {
            return;
        }
        let Some(seat) = &self.seat else { return };
        let (shared, seat): (Arc<Shared>, Arc<Seat>) = (self.shared.clone(), seat.clone());
        let rooms = self.rooms.iter().map(|(_, name, handle)| (name.clone(), handle.clone()));
        let rooms: Vec<_> = rooms.collect();
        let outcome = Box::pin(async move { shared.readmit(&seat, &token, &rooms).await });
        self.refreshing = Some(Refreshing { id, outcome });
    }

    pub(super) fn poll_refreshing(&mut self, cx: &mut Context<'_>) {
        let Some(refreshing) = &mut self.refreshing else { return };
        if let Poll::Ready(outcome) = refreshing.outcome.as_mut().poll(cx) {
            if let Ok(Some(pass)) = &outcome {
                let rooms = self.rooms.iter().map(|(_, name, handle)| (name, handle.seats()));
                let reach = reach_of_newer(self.session.grant(), &pass.grant, rooms);
                self.brake.handle_reach(self.shared.clock.now(), &self.shared.pressure, reach);
            }
            self.session.handle_refreshed(refreshing.id, outcome);
            self.refreshing = None;
        }
    }
}
