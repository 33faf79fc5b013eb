//! When to dial, and what becomes of it.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use handover_protocol::session::client::LinkId;
use handover_protocol::time::Time;
use handover_protocol::wire::Secret;

use super::{Driver, Link, token};
use crate::client::ClientEvent;
use crate::error::{ConnectError, DialError};
use crate::transport::{Kind, Transport};

/// How long a session stays on a WebSocket before WebTransport is tried again; doubled after
/// each failure, up to the longest.
const PROMOTE_AFTER: Duration = Duration::from_secs(5);
const PROMOTE_AFTER_MAX: Duration = Duration::from_secs(300);

/// How long a connection that has moved to a new path may take to show that it got there. A
/// retransmission fits in on any path worth having; what is in vain is no more than a dial.
const MOVE_PATIENCE: Duration = Duration::from_millis(400);

type Dialling =
    Pin<Box<dyn Future<Output = Result<(Transport, Option<Secret>), DialError>> + Send>>;

/// A dial under way.
pub(super) struct Dial {
    under_way: Dialling,
    /// The session lives on a WebSocket and would rather not.
    promotes: bool,
}

/// WebTransport is to be tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promotion {
    at: Time,
    wait: Duration,
}

impl Promotion {
    /// Tried now, whatever comes of it: the next time is after twice the wait.
    fn tried(&mut self, now: Time) {
        self.wait = (self.wait * 2).min(PROMOTE_AFTER_MAX);
        self.at = now + self.wait;
    }
}

impl Driver {
    /// Whether another address leads to the gateway now, as far as the system tells.
    pub(super) fn poll_watch(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(watch) = &mut self.watch else { return false };
        let Poll::Ready(source) = watch.poll_moved(cx) else { return false };
        tracing::debug!(%source, "the way to the gateway begins elsewhere now");
        self.network_changed(self.clock.now(), Some(source));
        true
    }

    pub(super) fn poll_dial(&mut self, cx: &mut Context<'_>) -> bool {
        let now = self.clock.now();
        if self.dial.as_ref().is_none_or(|dial| dial.promotes) {
            self.start_dial(now);
        }
        let Some(dial) = &mut self.dial else { return false };
        let Poll::Ready(result) = dial.under_way.as_mut().poll(cx) else { return false };
        let promotes = dial.promotes;
        self.dial = None;
        match result {
            Ok((transport, token)) => {
                if let Some(token) = token {
                    self.session.set_token(token);
                }
                self.last_link += 1;
                let id = LinkId(self.last_link);
                let streams = transport.streams();
                if let (Some(watch), Some(gateway)) = (&mut self.watch, transport.gateway()) {
                    watch.follow(gateway);
                }
                self.links.push(Link { id, transport });
                self.session.handle_connected(now, id, streams);
            }
            Err(error) if promotes => {
                tracing::debug!(%error, "still no WebTransport");
                if let Some(promotion) = &mut self.promotion {
                    // It may have taken long to find that out.
                    promotion.at = now + promotion.wait;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "dial failed");
                self.back_off(now, error.retry_after());
                self.tell(ClientEvent::DialFailed(error.clone()));
                self.note_failure(|| error);
            }
        }
        true
    }

    fn start_dial(&mut self, now: Time) {
        let promotes = if self.dial_due().is_some_and(|due| now >= due) {
            // A promotion under way is given up for it: that may be waiting for nothing.
            false
        } else if self.promotion_due().is_some_and(|due| now >= due)
            && let Some(promotion) = &mut self.promotion
        {
            promotion.tried(now);
            true
        } else {
            return;
        };
        let mut dialer = self.dialer.clone();
        if self.webtransport_silent {
            dialer = dialer.without_head_start();
        }
        let token = token::for_dial(self.token.clone(), self.dial_timeout);
        let under_way: Dialling = Box::pin(async move {
            let token = token.await?;
            let dialled =
                if promotes { dialer.dial_webtransport().await } else { dialer.dial().await };
            dialled.map(|transport| (transport, token))
        });
        self.dial = Some(Dial { under_way, promotes });
    }

    /// When the next dial is due, if one is wanted.
    pub(super) fn dial_due(&self) -> Option<Time> {
        if self.dial.as_ref().is_some_and(|dial| !dial.promotes) {
            return None;
        }
        let wanted = self.session.wants_link()?;
        Some(self.next_dial.max(wanted.not_before.unwrap_or(Time::ZERO)))
    }

    /// When WebTransport is to be tried again, if it is.
    pub(super) fn promotion_due(&self) -> Option<Time> {
        if self.dial.is_some() || self.links.len() != 1 {
            return None;
        }
        let not_before = self.session.not_before().unwrap_or(Time::ZERO);
        self.promotion.map(|promotion| promotion.at.max(self.next_dial).max(not_before))
    }

    /// A connection carries the session: if it is a WebSocket for want of something better,
    /// something better is tried later.
    pub(super) fn promote_later(&mut self, now: Time, kind: Kind) {
        self.promotion = match (kind, self.promotion) {
            (Kind::WebSocket, Some(promotion)) => Some(promotion),
            (Kind::WebSocket, None) if self.dialer.may_promote() => {
                Some(Promotion { at: now + PROMOTE_AFTER, wait: PROMOTE_AFTER })
            }
            _ => None,
        };
    }

    /// Something failed: the next dial waits.
    pub(super) fn back_off(&mut self, now: Time, retry_after: Option<Duration>) {
        // Without randomness the wait is the middle one.
        let random = getrandom::u32().unwrap_or(u32::MAX / 2);
        self.next_dial = self.backoff.fail(now, random, retry_after);
    }

    /// If the session has never been open and nobody wants to wait for it, that was it.
    pub(super) fn note_failure(&mut self, error: impl FnOnce() -> DialError) {
        if !self.retry_first && self.handles.first.is_some() && !self.session.is_ended() {
            self.tell_first(Err(ConnectError::Dial(error())));
            self.failed = true;
        }
    }

    /// What failed before says nothing any more.
    pub(super) fn dial_at_once(&mut self, now: Time) {
        self.backoff.reset();
        self.next_dial = now;
    }

    /// A hint that the address or the route has changed; from where it leads now, if the
    /// system said so.
    pub(super) fn network_changed(&mut self, now: Time, source: Option<IpAddr>) {
        self.dial_at_once(now);
        // That was on the old way.
        self.webtransport_silent = false;
        // It went out the old way and may wait for long.
        self.dial = None;
        if let Some(promotion) = &mut self.promotion {
            *promotion = Promotion { at: now, wait: PROMOTE_AFTER };
        }
        if let Some(endpoint) = self.dialer.endpoint()
            && let Err(error) =
                source.map_or_else(|| endpoint.rebind(), |s| endpoint.rebind_from(s))
        {
            tracing::warn!(%error, "no new UDP socket; staying on the old one");
        }
        if self.links.iter().all(|link| link.transport.kind() == Kind::WebTransport) {
            // It moves along; whether it got through shows soon.
            self.session.probe_link(now, MOVE_PATIENCE);
        } else {
            self.session.replace_link();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_try_doubles_the_wait_for_the_next_up_to_the_longest() {
        let mut promotion = Promotion { at: Time::ZERO, wait: PROMOTE_AFTER };
        let waits = std::array::from_fn(|_| {
            let now = promotion.at;
            promotion.tried(now);
            promotion.at.since(now).as_secs()
        });
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    }
}
