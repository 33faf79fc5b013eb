//! Tokens from whoever is asked for them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use handover_protocol::wire::Secret;
use tokio::sync::broadcast;

use super::{About, Driver};
use crate::client::ClientEvent;
use crate::error::DialError;
use crate::token::Token;

/// A newer token on its way; `None` once it would come too late.
pub(super) type Renewal = Pin<Box<dyn Future<Output = Option<Secret>> + Send>>;

/// Nobody is asked again if less than this is left.
const TOO_LATE: Duration = Duration::from_millis(500);

impl Driver {
    /// The present token ends in `left`.
    pub(super) fn renew_token(&mut self, left: Duration) {
        if let Some(token) = self.token.clone().filter(|token| token.fixed().is_none()) {
            self.renewal = Some(Box::pin(renewed(token, self.handles.events.clone(), left)));
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

/// Asks until there is a token, later each time, and in the end no more.
async fn renewed(
    token: Token,
    events: broadcast::Sender<ClientEvent>,
    mut left: Duration,
) -> Option<Secret> {
    loop {
        match token.ask()?.await {
            Ok(fresh) => return Some(fresh),
            Err(reason) => {
                tracing::debug!(%reason, "no newer token");
                // Nobody may be listening.
                let _ = events.send(ClientEvent::TokenFailed(reason));
            }
        }
        left /= 2;
        if left < TOO_LATE {
            return None;
        }
        tokio::time::sleep(left).await;
    }
}

/// A token for a connection that is about to be made, from whoever is asked for one.
pub(super) async fn for_dial(
    token: Option<Token>,
    timeout: Duration,
) -> Result<Option<Secret>, DialError> {
    let Some(asking) = token.and_then(|token| token.ask()) else { return Ok(None) };
    match tokio::time::timeout(timeout, asking).await {
        Ok(Ok(fresh)) => Ok(Some(fresh)),
        Ok(Err(reason)) => Err(DialError::Token(reason)),
        Err(_) => Err(DialError::Token("it took too long".to_owned())),
    }
}
