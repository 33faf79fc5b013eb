//! What a session may do, in which rooms, and until when.
//!
//! Plain data: an authority outside makes it from a token, the session and the router act on
//! it. Nothing is allowed that no rule allows.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::{EXPIRING_AHEAD, ROOM_NAME_BYTES_MAX};
use crate::room::Refusal;
use crate::time::Time;
use crate::wire::id::NameError;
use crate::wire::{ErrorCode, Json, LogLane, RoomName, UserId};

/// Something a grant can allow in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// To be a member: to see who is there and what is said, to show metadata.
    Join,
    /// To send on the signal lane.
    Signal,
    /// To send on the bulk lane.
    Publish,
    /// To send what may be lost.
    Ephemeral,
    /// To act on other members.
    Admin,
}

impl Right {
    /// All of them.
    pub const ALL: [Right; 5] =
        [Right::Join, Right::Signal, Right::Publish, Right::Ephemeral, Right::Admin];

    /// The name in a token.
    pub const fn name(self) -> &'static str {
        match self {
            Right::Join => "join",
            Right::Signal => "signal",
            Right::Publish => "publish",
            Right::Ephemeral => "ephemeral",
            Right::Admin => "admin",
        }
    }

    /// The right with this name.
    pub fn from_name(name: &str) -> Option<Right> {
        Right::ALL.into_iter().find(|right| right.name() == name)
    }

    /// What sending on a lane takes.
    pub const fn to_send(lane: LogLane) -> Right {
        match lane {
            LogLane::Signal => Right::Signal,
            LogLane::Bulk => Right::Publish,
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }

    const fn refusal(self) -> Refusal {
        Refusal::new(
            ErrorCode::Forbidden,
            match self {
                Right::Join => "the token does not allow being in this room",
                Right::Signal => "the token does not allow sending on signal in this room",
                Right::Publish => "the token does not allow sending on bulk in this room",
                Right::Ephemeral => "the token does not allow sending ephemeral in this room",
                Right::Admin => "the token does not allow this in this room",
            },
        )
    }
}

/// A set of rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Right>", into = "Vec<Right>")]
pub struct Rights(u8);

impl Rights {
    /// What a member needs to take part, and nothing that touches others.
    pub const MEMBER: Rights = Rights(
        Right::Join.bit() | Right::Signal.bit() | Right::Publish.bit() | Right::Ephemeral.bit(),
    );

    /// Whether `right` is among them.
    pub const fn contains(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        Rights(rights.into_iter().fold(0, |bits, right| bits | right.bit()))
    }
}

impl From<Vec<Right>> for Rights {
    fn from(rights: Vec<Right>) -> Self {
        rights.into_iter().collect()
    }
}

impl From<Rights> for Vec<Right> {
    fn from(rights: Rights) -> Self {
        Right::ALL.into_iter().filter(|right| rights.contains(*right)).collect()
    }
}

/// One room by its name, or every room whose name begins alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RoomPattern {
    /// This room.
    Exact(RoomName),
    /// Every room whose name starts with this; every room there is if it is empty.
    Prefix(Box<str>),
}

impl RoomPattern {
    /// Takes a room's name, or the beginning of names and a `*`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let Some(prefix) = text.strip_suffix('*') else {
            return RoomName::parse(text).map(RoomPattern::Exact);
        };
        if prefix.len() > ROOM_NAME_BYTES_MAX {
            return Err(NameError::TooLong(ROOM_NAME_BYTES_MAX));
        }
        if prefix.starts_with(char::is_whitespace) || prefix.chars().any(char::is_control) {
            return Err(NameError::Character);
        }
        Ok(RoomPattern::Prefix(prefix.into()))
    }

    /// Whether it names `room`.
    pub fn matches(&self, room: &RoomName) -> bool {
        match self {
            RoomPattern::Exact(name) => name == room,
            RoomPattern::Prefix(prefix) => room.as_str().starts_with(&**prefix),
        }
    }

    /// The more of the name it gives, the higher.
    fn precision(&self) -> usize {
        match self {
            RoomPattern::Exact(_) => usize::MAX,
            RoomPattern::Prefix(prefix) => prefix.len(),
        }
    }
}

impl TryFrom<String> for RoomPattern {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        RoomPattern::parse(&text)
    }
}

impl From<RoomPattern> for String {
    fn from(pattern: RoomPattern) -> Self {
        match pattern {
            RoomPattern::Exact(name) => name.as_str().to_owned(),
            RoomPattern::Prefix(prefix) => format!("{prefix}*"),
        }
    }
}

/// One rule of a grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoomGrant {
    /// Where it holds.
    pub room: RoomPattern,
    /// What it allows there.
    pub can: Rights,
    /// What the member shows there, whatever it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Json>,
}

/// What a session may do: in a room, what any rule for that room allows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Grant {
    /// In no order that matters, but that of two equally precise rules the first gives the
    /// metadata.
    pub rooms: Vec<RoomGrant>,
}

impl Grant {
    /// Every room, as a member: what everybody has where nobody is asked for a token.
    pub fn everything() -> Self {
        let room = RoomPattern::Prefix("".into());
        Grant { rooms: vec![RoomGrant { room, can: Rights::MEMBER, metadata: None }] }
    }

    /// Whether it allows `right` in `room`.
    pub fn allows(&self, room: &RoomName, right: Right) -> bool {
        self.rooms.iter().any(|rule| rule.can.contains(right) && rule.room.matches(room))
    }

    /// The refusal, if it does not.
    pub fn check(&self, room: &RoomName, right: Right) -> Result<(), Refusal> {
        if self.allows(room, right) { Ok(()) } else { Err(right.refusal()) }
    }

    /// The metadata that is fixed in `room`: that of the most precise rule that has any.
    pub fn metadata(&self, room: &RoomName) -> Option<&Json> {
        let fixing = self.rooms.iter().filter(|rule| rule.room.matches(room));
        let fixing =
            fixing.filter_map(|rule| Some((rule.room.precision(), rule.metadata.as_ref()?)));
        // The last of equals is what `max_by_key` takes.
        fixing.rev().max_by_key(|(precision, _)| *precision).map(|(_, metadata)| metadata)
    }
}

/// Who was let in, as what, and until when; kept with the session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Admission {
    /// Whose session it is; `None` where nobody is asked.
    pub user: Option<UserId>,
    /// What it may do.
    pub grant: Arc<Grant>,
    /// When that ends.
    pub lapse: Option<Lapse>,
}

/// The end of an admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lapse {
    /// Seconds since 1970.
    pub at: u64,
    /// How long the token is good for in all, seconds.
    pub life: u64,
}

impl Lapse {
    /// When that is, where it is `now`, which is `unix_now` seconds since 1970.
    fn end(self, now: Time, unix_now: u64) -> Time {
        now + Duration::from_secs(self.at.saturating_sub(unix_now))
    }
}

impl Admission {
    /// Everybody's, where nobody is asked for a token.
    pub fn anonymous() -> Self {
        static GRANT: LazyLock<Arc<Grant>> = LazyLock::new(|| Arc::new(Grant::everything()));
        Admission { user: None, grant: GRANT.clone(), lapse: None }
    }

    /// Under what a session that was let in as `self` goes on: what is presented, if it is the
    /// same user's. Nothing is where a token is needed and none was brought: then what it had, if
    /// that ends one day and has not ended yet. What has no end is of before tokens were needed.
    /// `now` is in seconds since 1970.
    pub fn succeed(&self, presented: Option<Admission>, now: u64) -> Result<Admission, Refusal> {
        match presented {
            Some(newer) if newer.user == self.user => Ok(newer),
            Some(_) => Err(OTHER_USER),
            None if self.lapse.is_none_or(|lapse| now >= lapse.at) => Err(LAPSED),
            None => Ok(self.clone()),
        }
    }

    /// What holds on a connection where it is `now`, which is `unix_now` seconds since 1970.
    pub fn pass(&self, now: Time, unix_now: u64) -> Pass {
        let term = self.lapse.map(|lapse| {
            let ahead = EXPIRING_AHEAD.min(Duration::from_secs(lapse.life) / 2);
            let end = lapse.end(now, unix_now);
            Term { expiring: end - ahead, end, lapse }
        });
        Pass { grant: self.grant.clone(), term }
    }
}

/// The refusal of a token that belongs to somebody else than the session.
pub const OTHER_USER: Refusal =
    Refusal::new(ErrorCode::Forbidden, "the session belongs to another user");
/// The refusal of a session whose last token has ended.
pub const LAPSED: Refusal =
    Refusal::new(ErrorCode::Unauthorized, "the session's token has expired; bring a new one");

/// What holds on one connection; nothing, unless it says so.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pass {
    /// What the session may do.
    pub grant: Arc<Grant>,
    /// Until when.
    pub term: Option<Term>,
}

/// The end of a pass, and when to speak of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// The client is told that it nears.
    pub expiring: Time,
    /// The connection ends.
    pub end: Time,
    /// What that was worked out from.
    pub lapse: Lapse,
}

impl Term {
    /// It is `unix_now` seconds since 1970. The end comes sooner if the calendar has run ahead, as
    /// when the machine has slept or its clock was set; it never comes later.
    pub fn keep_to_calendar(&mut self, now: Time, unix_now: u64) {
        let (end, ahead) = (self.lapse.end(now, unix_now), self.end.since(self.expiring));
        if end < self.end {
            (self.end, self.expiring) = (end, end - ahead);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn rule(pattern: &str, can: &[Right], metadata: Option<&str>) -> RoomGrant {
        RoomGrant {
            room: RoomPattern::parse(pattern).unwrap(),
            can: can.iter().copied().collect(),
            metadata: metadata.map(|text| Json::parse(text.as_bytes()).unwrap()),
        }
    }

    fn admission(user: &str, lapse: Option<u64>) -> Admission {
        Admission {
            user: Some(UserId::new(user)),
            lapse: lapse.map(|at| Lapse { at, life: 100 }),
            ..Admission::anonymous()
        }
    }

    #[test]
    fn nothing_is_allowed_that_no_rule_allows() {
        let rules = vec![
            rule("team/*", &[Right::Join], None),
            rule("team/ops", &[Right::Signal], None),
            rule("hall", &[Right::Join, Right::Ephemeral], None),
        ];
        let grant = Grant { rooms: rules };
        for (name, allowed) in [
            ("team/ops", &[Right::Join, Right::Signal][..]),
            ("team/", &[Right::Join]),
            ("team", &[]),
            ("hall", &[Right::Join, Right::Ephemeral]),
            ("hall2", &[]),
            ("Hall", &[]),
        ] {
            for right in Right::ALL {
                assert_eq!(grant.allows(&room(name), right), allowed.contains(&right), "{name}");
                let refused = grant.check(&room(name), right).err().map(|refusal| refusal.code);
                let expected = (!allowed.contains(&right)).then_some(ErrorCode::Forbidden);
                assert_eq!(refused, expected, "{name} {right:?}");
            }
        }
        assert!(!Grant::default().allows(&room("hall"), Right::Join));
    }

    #[test]
    fn without_tokens_everybody_is_a_member_and_nobody_more() {
        for right in Right::ALL {
            let allowed = Grant::everything().allows(&room("any"), right);
            assert_eq!(allowed, right != Right::Admin, "{right:?}");
        }
    }

    #[test]
    fn the_most_precise_rule_fixes_the_metadata() {
        let grant = Grant {
            rooms: vec![
                rule("*", &[], Some("{\"a\":0}")),
                rule("team/*", &[], Some("{\"a\":1}")),
                rule("team/*", &[], Some("{\"a\":2}")),
                rule("team/ops", &[], Some("{\"a\":3}")),
                rule("team/ops/*", &[], None),
            ],
        };
        for (name, expected) in [("x", 0), ("team/x", 1), ("team/ops", 3), ("team/ops/x", 1)] {
            let metadata = grant.metadata(&room(name)).map(Json::as_str);
            assert_eq!(metadata, Some(&*format!("{{\"a\":{expected}}}")), "{name}");
        }
        assert_eq!(Grant::everything().metadata(&room("x")), None);
    }

    #[test]
    fn patterns_are_names_or_beginnings() {
        for good in ["a", "a*", "*", "a b*", "a *"] {
            assert_eq!(String::from(RoomPattern::parse(good).unwrap()), good);
        }
        for bad in ["", " a", "a ", " a*", "a\n*", &format!("{}*", "x".repeat(129))] {
            assert!(RoomPattern::parse(bad).is_err(), "{bad:?}");
        }
        // A `*` elsewhere is a letter like any other.
        assert!(!RoomPattern::parse("a*b").unwrap().matches(&room("axb")));
    }

    #[test]
    fn a_session_goes_on_as_its_own_user_alone() {
        let had = admission("ann", Some(50));
        let newer = admission("ann", Some(90));
        assert_eq!(had.succeed(Some(newer.clone()), 60), Ok(newer));
        assert_eq!(had.succeed(Some(admission("bob", None)), 40), Err(OTHER_USER));
        assert_eq!(had.succeed(Some(Admission::anonymous()), 40), Err(OTHER_USER));
        assert_eq!(had.succeed(None, 49), Ok(had.clone()));
        assert_eq!(had.succeed(None, 50), Err(LAPSED));
        let anonymous = Admission::anonymous();
        let again = Some(Admission::anonymous());
        assert_eq!(anonymous.succeed(again, u64::MAX), Ok(anonymous.clone()));
        assert_eq!(anonymous.succeed(None, 0), Err(LAPSED), "keys came in between");
    }

    #[test]
    fn the_end_is_announced_a_minute_or_half_a_life_ahead() {
        let now = Time::from_micros(1_000_000_000);
        let term = |at, life| {
            let lapse = Some(Lapse { at, life });
            Admission { lapse, ..Admission::anonymous() }.pass(now, 500).term.unwrap()
        };
        let seconds = Duration::from_secs;
        let long = term(1_100, 3_600);
        assert_eq!((long.end, long.expiring), (now + seconds(600), now + seconds(540)));
        let short = term(510, 20);
        assert_eq!((short.end, short.expiring), (now + seconds(10), now));
        assert_eq!(term(400, 20).end, now);
    }

    #[test]
    fn the_end_follows_the_calendar_forward_and_never_back() {
        let seconds = Duration::from_secs;
        let now = Time::from_micros(1_000_000_000);
        let lapse = Some(Lapse { at: 1_100, life: 3_600 });
        let admission = Admission { lapse, ..Admission::anonymous() };
        let mut term = admission.pass(now, 500).term.unwrap();
        let later = now + seconds(15);
        for (unix_now, left) in [(515, 585), (400, 585), (516, 584), (1_000, 100), (515, 100)] {
            term.keep_to_calendar(later, unix_now);
            assert_eq!(term.end, later + seconds(left), "{unix_now}");
            assert_eq!(term.end.since(term.expiring), seconds(60));
        }
        term.keep_to_calendar(later, 5_000);
        assert_eq!(term.end, later);
    }

    #[test]
    fn an_admission_can_be_stored() {
        let grant = Grant { rooms: vec![rule("a*", &[Right::Join, Right::Admin], Some("{}"))] };
        let kept = Admission { grant: Arc::new(grant), ..admission("ann", Some(7)) };
        let text = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Admission>(&text).unwrap(), kept);
    }
}
