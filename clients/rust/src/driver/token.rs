//! Tokens from whoever is asked for them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use handover_protocol::time::Time;
use handover_protocol::wire::Secret;
use tokio::sync::broadcast;

use super::{About, Driver};
use crate::client::ClientEvent;
use crate::clock::Clock;
use crate::error::DialError;
use crate::token::{Asking, Token};

/// A newer token on its way; `None` once it would come too late.
pub(super) type Renewal = Pin<Box<dyn Future<Output = Option<Secret>> + Send>>;

/// Nobody is asked again if less than this is left.
const TOO_LATE: Duration = Duration::from_millis(500);

impl Driver {
    /// The present token ends in `left`.
    pub(super) fn renew_token(&mut self, left: Duration) {
        if let Some(token) = self.token.clone().filter(|token| token.fixed().is_none()) {
            let (clock, events) = (self.clock, self.handles.events.clone());
            let end = clock.now() + left;
            let renewal = renewed(token, self.dial_timeout, events, clock, end);
            self.renewal = Some(Box::pin(renewal));
        }
    }

    pub(super) fn poll_renewal(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(renewal) = &mut self.renewal else { return false };
        let Poll::Ready(token) = renewal.as_mut().poll(cx) else { return false };
        self.renewal = None;
        // With too many requests under way it is left to the next greeting.
        if let Some(id) = token.and_then(|token| self.session.refresh(token).ok()) {
            self.answers.insert(id, (None, About::Nothing));
        }
        true
    }
}

/// Asks until there is a token, later each time, and from `end` on no more.
async fn renewed(
    token: Token,
    patience: Duration,
    events: broadcast::Sender<ClientEvent>,
    clock: Clock,
    end: Time,
) -> Option<Secret> {
    loop {
        let left = end.since(clock.now());
        match asked(token.ask()?, patience.min(left)).await {
            Ok(fresh) => return Some(fresh),
            Err(reason) => {
                tracing::debug!(%reason, "no newer token");
                // Nobody may be listening.
                let _ = events.send(ClientEvent::TokenFailed(reason));
            }
        }
        let pause = end.since(clock.now()) / 2;
        if pause < TOO_LATE {
            return None;
        }
        tokio::time::sleep(pause).await;
    }
}

/// A token for a connection that is about to be made, from whoever is asked for one.
pub(super) async fn for_dial(
    token: Option<Token>,
    patience: Duration,
) -> Result<Option<Secret>, DialError> {
    let Some(asking) = token.and_then(|token| token.ask()) else { return Ok(None) };
    asked(asking, patience).await.map(Some).map_err(DialError::Token)
}

/// The answer, or why there is none.
async fn asked(asking: Asking, patience: Duration) -> Result<Secret, String> {
    let answer = tokio::time::timeout(patience, asking).await;
    answer.unwrap_or_else(|_| Err("it took too long".to_owned()))
}
