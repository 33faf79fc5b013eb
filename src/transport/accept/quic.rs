//! The accept loop of a QUIC endpoint.

use quinn::{Connecting, Endpoint};

use super::super::{Kind, webtransport};
use super::{Acceptor, Attach, Entered, Refused, SETUP_TIMEOUT};
use crate::turns::Rank;

/// Accepts WebTransport sessions until told to stop, then refuses them until told to end.
pub async fn accept_quic<A: Attach>(endpoint: Endpoint, acceptor: Acceptor<A>) {
    while let Some(Some(incoming)) = acceptor.end.run_until_cancelled(endpoint.accept()).await {
        if acceptor.stop.is_cancelled() {
            incoming.refuse();
            continue;
        }
        let (now, address) = (acceptor.clock.now(), incoming.remote_address().ip());
        let gate = &acceptor.gate;
        if gate.wants_proof(now, address) && incoming.may_retry() {
            // An address that can be made up costs a packet each, not a place. What cannot be
            // retried any more has been validated, so this never fails here.
            let _ = incoming.retry();
            continue;
        }
        let Some((entered, footprint)) = gate.try_enter_quic(now, address) else {
            incoming.refuse();
            acceptor.attach.refused(Kind::WebTransport, &Refused::Capacity);
            continue;
        };
        // Here, because all that QUIC receives waits meanwhile: threads that step back must not do it.
        let rank = Rank::default();
        match webtransport::keeping(footprint, || rank.on_behalf(|| incoming.accept())) {
            Ok(connecting) => {
                let task = set_up(connecting, entered, acceptor.clone());
                acceptor.spawn(Kind::WebTransport, rank, task);
            }
            Err(error) => {
                let refused = Refused::Broken(error.to_string());
                let why = refused.to_string();
                tracing::debug!(%address, refused = why, "no webtransport session");
                acceptor.attach.refused(Kind::WebTransport, &refused);
            }
        }
    }
    endpoint.set_server_config(None);
    if !acceptor.end.is_cancelled() {
        tracing::error!("a QUIC endpoint is gone; no WebTransport session can reach it any more");
    }
}

async fn set_up<A: Attach>(connecting: Connecting, entered: Entered, acceptor: Acceptor<A>) {
    let remote = connecting.remote_address();
    let Acceptor { gate, settings, attach, stop, .. } = acceptor;
    let set_up = webtransport::accept(connecting, entered, &gate, settings);
    let set_up = stop.run_until_cancelled(tokio::time::timeout(SETUP_TIMEOUT, set_up));
    // Boxed, so that its memory is gone before the connection's own begins to count.
    let refused = match Box::pin(set_up).await {
        None => return,
        Some(Ok(Ok((transport, admitted)))) => return attach.attach(transport, admitted),
        Some(Ok(Err(refused))) => refused,
        Some(Err(_)) => Refused::Late,
    };
    // As a text: what the peer gave as its reason may be in it, and is to be escaped.
    tracing::debug!(%remote, refused = refused.to_string(), "no webtransport session");
    attach.refused(Kind::WebTransport, &refused);
}
