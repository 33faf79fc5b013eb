//! From a token's claims to what its bearer may do: a pure function of claims, expectations
//! and the time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use handover_protocol::session::grant::{
    Admission, Grant, Lapse, Right, Rights, RoomGrant, RoomPattern,
};
use handover_protocol::wire::{Json, UserId};
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::error::TokenError;
use crate::clock::UnixTime;

/// What tokens have to say besides their signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expectations {
    /// `iss` is one of these; anything if there are none.
    pub issuers: Vec<String>,
    /// `aud` has one of these; if there are none, tokens have no `aud`.
    pub audiences: Vec<String>,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// What metadata may have.
    pub metadata_bytes: u64,
}

/// The claims as they stand in a token.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Claims {
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The end, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<NumericDate>,
    /// The beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<NumericDate>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<NumericDate>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// For whom.
    #[serde(default, skip_serializing_if = "Audience::is_empty")]
    pub aud: Audience,
    /// What it allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rooms: Option<Vec<RoomClaim>>,
}

/// One grant as it stands in a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoomClaim {
    /// A room's name, or the beginning of names and a `*`.
    pub room: String,
    /// Names of rights.
    pub can: Vec<String>,
    /// What the member shows there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Json>,
}

/// Seconds since 1970; a fraction is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct NumericDate(pub u64);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seconds;

        impl Visitor<'_> for Seconds {
            type Value = NumericDate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("seconds since 1970")
            }

            fn visit_u64<E>(self, value: u64) -> Result<NumericDate, E> {
                Ok(NumericDate(value))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<NumericDate, E> {
                // Far beyond any date, and still exact.
                if (0.0..9e15).contains(&value) {
                    Ok(NumericDate(value as u64))
                } else {
                    Err(E::custom("out of range"))
                }
            }
        }

        deserializer.deserialize_any(Seconds)
    }
}

/// `aud`: one name or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Audience(pub Vec<String>);

impl Audience {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Audience;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a list of names")
            }

            fn visit_str<E>(self, name: &str) -> Result<Audience, E> {
                Ok(Audience(vec![name.to_owned()]))
            }

            fn visit_unit<E>(self) -> Result<Audience, E> {
                Ok(Audience::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Audience, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Ok(Audience(names))
            }
        }

        deserializer.deserialize_any(Names)
    }
}

/// `sub` has at most so many bytes.
pub const USER_BYTES_MAX: usize = 255;
/// A token has at most so many grants: each send looks through them.
pub const GRANTS_MAX: usize = 256;

/// Who a token's bearer is and what they may do, if the token is good at `now`.
pub fn admit(
    claims: Claims,
    expected: &Expectations,
    now: UnixTime,
) -> Result<Admission, TokenError> {
    let wrong = |claim, problem| TokenError::Claim { claim, problem };
    let lapse = lapse(&claims, expected.leeway, now)?;
    if !expected.issuers.is_empty()
        && !claims.iss.as_ref().is_some_and(|issuer| expected.issuers.contains(issuer))
    {
        return Err(TokenError::Issuer);
    }
    let ours = claims.aud.0.iter().any(|name| expected.audiences.contains(name));
    let either_has = !claims.aud.is_empty() || !expected.audiences.is_empty();
    if either_has && !ours {
        return Err(TokenError::Audience);
    }
    let user = claims.sub.ok_or(wrong("sub", "is missing"))?;
    if user.is_empty() || user.len() > USER_BYTES_MAX {
        return Err(wrong("sub", "must have 1 to 255 bytes"));
    }
    if user.chars().any(char::is_control) {
        return Err(wrong("sub", "has a control character"));
    }
    let rooms = claims.rooms.unwrap_or_default();
    if rooms.len() > GRANTS_MAX {
        return Err(wrong("rooms", "has more than 256 grants"));
    }
    let rooms: Result<_, _> =
        rooms.into_iter().map(|claim| room_grant(claim, expected.metadata_bytes)).collect();
    let grant = Grant { rooms: rooms.map_err(|problem| wrong("rooms", problem))? };
    Ok(Admission { user: Some(UserId::new(&user)), grant: Arc::new(grant), lapse: Some(lapse) })
}

/// When a token ends for us. One that clocks apart let us take past its end gets the leeway.
fn lapse(claims: &Claims, leeway: Duration, now: UnixTime) -> Result<Lapse, TokenError> {
    let date = |date: NumericDate| UnixTime::from_secs(date.0);
    let missing = TokenError::Claim { claim: "exp", problem: "is missing" };
    let end = claims.exp.map(date).ok_or(missing)?;
    let at = if now < end { end } else { end.plus(leeway) };
    if now >= at {
        return Err(TokenError::Expired { ago_s: now.since(end).as_secs() });
    }
    let start = claims.nbf.map(date);
    if let Some(ahead) = start.filter(|start| start.minus(leeway) > now) {
        return Err(TokenError::NotYet { in_s: ahead.since(now).as_secs() });
    }
    let made = claims.iat.map(date).or(start).unwrap_or(now);
    Ok(Lapse { at: at.as_secs(), life: end.since(made).as_secs() })
}

fn room_grant(claim: RoomClaim, metadata_bytes: u64) -> Result<RoomGrant, &'static str> {
    let room = RoomPattern::parse(&claim.room)
        .map_err(|_| "has a `room` that is neither a room's name nor the beginning of one")?;
    let rights: Option<Rights> = claim.can.iter().map(|name| Right::from_name(name)).collect();
    let can = rights.ok_or("has a `can` with an unknown right")?;
    if let Some(metadata) = &claim.metadata {
        if !metadata.is_object() {
            return Err("has `metadata` that is not an object");
        }
        if metadata.len() as u64 > metadata_bytes {
            return Err("has `metadata` larger than limits.metadata_bytes");
        }
    }
    Ok(RoomGrant { room, can, metadata: claim.metadata })
}
