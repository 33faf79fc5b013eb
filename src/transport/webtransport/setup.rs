//! From a QUIC connection attempt to a session, or a refusal.

use handover_protocol::wire::Codec;
use wtransport::endpoint::{IncomingSessionFuture, SessionRequest};

use super::super::Settings;
use super::super::accept::{Admitted, Entered, Gate, Refused, Visitor};
use super::WebTransport;
use super::subprotocol::{self, Offer};

const PATH: &str = "/v1/wt";
const CODEC_PARAMETER: &str = "codec";

/// Sets a session up. The caller puts a deadline to it.
pub async fn accept(
    connecting: quinn::Connecting,
    entered: Entered,
    gate: &Gate,
    settings: Settings,
) -> Result<(WebTransport, Admitted), Refused> {
    let request = IncomingSessionFuture::with_quic_connecting(connecting)
        .await
        .map_err(|error| Refused::Broken(error.to_string()))?;
    let (chosen, admitted) = match judge(&request, entered, gate) {
        Ok(judged) => judged,
        Err(refused) => {
            match refused {
                Refused::Origin => request.forbidden().await,
                Refused::Capacity => request.too_many_requests().await,
                _ => request.not_found().await,
            }
            return Err(refused);
        }
    };
    let answer =
        chosen.by_subprotocol.then(|| (subprotocol::CHOSEN, subprotocol::answer(chosen.codec)));
    let session = request
        .accept_with_headers(answer)
        .await
        .map_err(|error| Refused::Broken(error.to_string()))?;
    Ok((WebTransport::new(session, chosen.codec, settings.message_bytes), admitted))
}

/// The codec, and whether it was the sub-protocols that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chosen {
    codec: Codec,
    by_subprotocol: bool,
}

fn judge(
    request: &SessionRequest,
    entered: Entered,
    gate: &Gate,
) -> Result<(Chosen, Admitted), Refused> {
    let offered = request.headers().get(subprotocol::AVAILABLE).map(String::as_str);
    let chosen = choose(request.path(), offered)?;
    let visitor = Visitor {
        origin: request.origin(),
        authority: Some(request.authority()),
        address: request.remote_address().ip(),
        encrypted: true,
    };
    if !gate.allows(visitor) {
        return Err(Refused::Origin);
    }
    Ok((chosen, gate.admit(entered)?))
}

fn choose(target: &str, offered: Option<&str>) -> Result<Chosen, Refused> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if path != PATH {
        return Err(Refused::Path);
    }
    match subprotocol::offer(offered) {
        Offer::Known(codec) => Ok(Chosen { codec, by_subprotocol: true }),
        Offer::Unknown => Err(Refused::Codec),
        Offer::None => {
            let name = query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find_map(|(key, value)| (key == CODEC_PARAMETER).then_some(value));
            let codec = match name {
                Some(name) => Codec::from_query(name).ok_or(Refused::Codec)?,
                None => Codec::Json,
            };
            Ok(Chosen { codec, by_subprotocol: false })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_query_and_offer_choose_the_codec() {
        let chosen = |codec, by_subprotocol| Ok(Chosen { codec, by_subprotocol });
        let (json, bincode) = ("\"handover.v1.json\"", "\"handover.v1.bincode\"");
        for (target, offered, expected) in [
            ("/v1/wt", None, chosen(Codec::Json, false)),
            ("/v1/wt?", None, chosen(Codec::Json, false)),
            ("/v1/wt?codec=bincode", None, chosen(Codec::Bincode, false)),
            ("/v1/wt?x=1&codec=json&y", None, chosen(Codec::Json, false)),
            ("/v1/wt?codec=xml", None, Err(Refused::Codec)),
            ("/v1/wt?codec=", None, Err(Refused::Codec)),
            ("/v1/wt?codec=json", Some(bincode), chosen(Codec::Bincode, true)),
            ("/v1/wt?codec=xml", Some(json), chosen(Codec::Json, true)),
            ("/v1/wt?codec=json", Some("\"x\""), Err(Refused::Codec)),
            ("/v1/wt?codec=bincode", Some("not a list"), chosen(Codec::Bincode, false)),
            ("/v1/wt/", None, Err(Refused::Path)),
            ("/", None, Err(Refused::Path)),
            ("/v1/ws", Some(json), Err(Refused::Path)),
        ] {
            assert_eq!(choose(target, offered), expected, "{target} {offered:?}");
        }
    }
}
