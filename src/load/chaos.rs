//! Breaks connections at random, in every way a network does.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use handover_client::Kind;
use tokio::task::JoinSet;

use super::member::Member;
use super::path::Way;
use super::random::Random;
use crate::clock::Clock;

/// How a connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Harm {
    /// The client closes it in an orderly way.
    Closed,
    /// TCP is reset, or the packets of this connection vanish for good.
    Cut,
    /// What the client says does not arrive; both ends think that the connection lives.
    SilentUp,
    /// What the gateway says does not arrive.
    SilentDown,
    /// Neither.
    SilentBoth,
    /// No UDP at all for a while, on any connection.
    UdpBlocked,
}

impl Harm {
    pub(super) const ALL: [Harm; 6] = [
        Harm::Closed,
        Harm::Cut,
        Harm::SilentUp,
        Harm::SilentDown,
        Harm::SilentBoth,
        Harm::UdpBlocked,
    ];
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Harm::Closed => "clean",
            Harm::Cut => "abrupt",
            Harm::SilentUp => "half-open, upward dead",
            Harm::SilentDown => "half-open, downward dead",
            Harm::SilentBoth => "half-open, both dead",
            Harm::UdpBlocked => "UDP blocked",
        })
    }
}

/// How often connections were broken.
#[derive(Clone, Debug, Default)]
pub(super) struct Harmed {
    pub(super) times: BTreeMap<Harm, u64>,
    /// Trouble that passed before anybody noticed it.
    pub(super) unnoticed: u64,
}

/// Breaks somebody's connection every so often, for so long; then undoes what can be undone.
pub(super) async fn wreak(
    members: &[Arc<Member>],
    clock: Clock,
    mut random: Random,
    every: Duration,
    lasting: Duration,
) -> Harmed {
    let mut harmed = Harmed::default();
    let mut passing = JoinSet::new();
    let end = clock.now() + lasting;
    let every = u64::try_from(every.as_micros()).unwrap_or(u64::MAX);
    while clock.now() < end {
        let pause = random.within(every / 2..every / 2 * 3);
        tokio::time::sleep(Duration::from_micros(pause)).await;
        let Some(member) = random.pick(members) else { break };
        let harm = choose(member, &mut random);
        if inflict(member, harm, clock, &mut random, &mut passing).await {
            *harmed.times.entry(harm).or_default() += 1;
        }
    }
    while let Some(passed) = passing.join_next().await {
        harmed.unnoticed += u64::from(passed.unwrap_or_default());
    }
    harmed
}

/// A third each: clean, abrupt, half-open. Who can do without UDP has it blocked now and then.
fn choose(member: &Member, random: &mut Random) -> Harm {
    if member.chooses && member.transport() == Some(Kind::WebTransport) && random.one_in(3) {
        return Harm::UdpBlocked;
    }
    match random.within(0..9) {
        0..3 => Harm::Closed,
        3..6 => Harm::Cut,
        6 => Harm::SilentUp,
        7 => Harm::SilentDown,
        _ => Harm::SilentBoth,
    }
}

/// Returns whether anything was done.
async fn inflict(
    member: &Arc<Member>,
    harm: Harm,
    clock: Clock,
    random: &mut Random,
    passing: &mut JoinSet<bool>,
) -> bool {
    let Some(path) = &member.path else { return false };
    let now = clock.now();
    member.breaks(harm, now);
    let (up, down) = match harm {
        Harm::Closed => return member.client.drop_connection().await.is_ok(),
        Harm::Cut => {
            path.cut();
            return true;
        }
        Harm::SilentUp => (true, false),
        Harm::SilentDown => (false, true),
        Harm::SilentBoth => (true, true),
        Harm::UdpBlocked => {
            path.block_udp(true);
            let pause = Duration::from_millis(random.within(500..6_000));
            let member = member.clone();
            passing.spawn(async move {
                tokio::time::sleep(pause).await;
                member.path.iter().for_each(|path| path.block_udp(false));
                member.passes(now)
            });
            return true;
        }
    };
    let passes = random.one_in(2);
    let dead = if passes { Way::Frozen } else { Way::Silent };
    let way = |is_dead| if is_dead { dead } else { Way::Open };
    let disturbed = path.disturb(way(up), way(down));
    if passes {
        let pause = Duration::from_millis(random.within(500..6_000));
        let member = member.clone();
        passing.spawn(async move {
            tokio::time::sleep(pause).await;
            disturbed.undo();
            member.passes(now)
        });
    }
    true
}
