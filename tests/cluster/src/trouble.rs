//! What goes wrong, and when.

use std::time::Duration;

use handover::load::Fleet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Outcome;
use crate::gateway::GatewayProcess;
use crate::link::Link;
use crate::redis::RedisProcess;
use crate::sentinels::Sentinels;

/// Between two gateways that are killed.
const KILL_EVERY: Duration = Duration::from_secs(5);
/// How long Redis stands still, or is out of a gateway's reach.
const AWAY: Duration = Duration::from_secs(3);

/// Gateways are killed in turn all the time; Redis stands still after a fifth of it, is
/// restarted after two, and out of one gateway's reach after three.
pub(crate) async fn chaos(
    redis: &mut RedisProcess,
    gateways: &mut [GatewayProcess],
    links: &[Link],
    fleet: &Fleet,
    lasting: Duration,
) -> Outcome<()> {
    let began = Instant::now();
    let failing = async {
        sleep_until(began + lasting / 5).await;
        tell(began, "redis stands still");
        redis.freeze(AWAY).await?;
        tell(began, "... and goes on");
        sleep_until(began + lasting * 2 / 5).await;
        redis.restart().await?;
        tell(began, "redis is restarted");
        sleep_until(began + lasting * 3 / 5).await;
        let Some(link) = links.last() else { return Ok(()) };
        link.cut();
        tell(began, "a gateway is cut off from redis");
        sleep(AWAY).await;
        link.mend();
        tell(began, "... and not any more");
        Ok(())
    };
    tokio::try_join!(killing(gateways, fleet, began, lasting), failing)?;
    Ok(())
}

/// The replica takes over after a third, and the old master follows it; after two, the new one stands
/// still, and may find when it goes on that it is no master any more. Gateways are killed all the time.
pub(crate) async fn failover(
    sentinels: &mut Sentinels,
    gateways: &mut [GatewayProcess],
    fleet: &Fleet,
    lasting: Duration,
) -> Outcome<()> {
    let began = Instant::now();
    let failing = async {
        sleep_until(began + lasting / 3).await;
        tell(began, "the master is killed");
        sentinels.fail_over().await?;
        tell(began, "... and the replica is the master");
        sentinels.follow().await?;
        tell(began, "... and has a replica");
        sleep_until(began + lasting * 2 / 3).await;
        tell(began, "the master stands still");
        let has_changed = sentinels.freeze(AWAY).await?;
        tell(began, if has_changed { "... and follows the other" } else { "... and goes on" });
        Ok(())
    };
    tokio::try_join!(killing(gateways, fleet, began, lasting), failing)?;
    Ok(())
}

async fn killing(
    gateways: &mut [GatewayProcess],
    fleet: &Fleet,
    began: Instant,
    lasting: Duration,
) -> Outcome<()> {
    let mut turn = 0;
    loop {
        sleep(KILL_EVERY.min(lasting / 3)).await;
        if began.elapsed() + AWAY > lasting {
            return Ok(());
        }
        let count = gateways.len().max(1);
        let Some(gateway) = gateways.get_mut(turn % count) else { return Ok(()) };
        turn += 1;
        let carried = fleet.carried(gateway.address());
        fleet.lose(gateway.address());
        gateway.kill().await?;
        tell(began, &format!("a gateway with {carried} sessions is killed"));
        gateway.restart().await?;
        tell(began, "... and is back");
    }
}

/// Each gateway drains while new connections go to the others, and is started anew.
pub(crate) async fn rolling(
    gateways: &mut [GatewayProcess],
    fleet: &Fleet,
    lasting: Duration,
) -> Outcome<()> {
    let began = Instant::now();
    let all: Vec<_> = gateways.iter().map(GatewayProcess::address).collect();
    let each = turn(lasting, all.len());
    for (nth, gateway) in gateways.iter_mut().enumerate() {
        sleep_until(began + each * u32::try_from(nth)? + each / 4).await;
        let own = gateway.address();
        fleet.set_up(all.iter().copied().filter(|at| *at != own).collect());
        tell(began, &format!("a gateway with {} sessions drains", fleet.carried(own)));
        gateway.drain().await?;
        tell(began, &format!("... and has ended, with {} sessions left", fleet.carried(own)));
        gateway.restart().await?;
        fleet.set_up(all.clone());
        tell(began, "... and is back");
    }
    Ok(())
}

/// How long each gateway has for its drain, with time between two.
pub(crate) fn turn(lasting: Duration, gateways: usize) -> Duration {
    lasting / (u32::try_from(gateways).unwrap_or(u32::MAX - 1) + 1)
}

/// Redis forgets everything, twice.
pub(crate) async fn emptied(redis: &RedisProcess, fleet: &Fleet, lasting: Duration) -> Outcome<()> {
    let began = Instant::now();
    for nth in 1..=2 {
        sleep_until(began + lasting * nth / 3).await;
        fleet.empty();
        redis.empty().await?;
        tell(began, "redis is emptied");
    }
    Ok(())
}

fn tell(began: Instant, what: &str) {
    println!("  {:5.1} s  {what}", began.elapsed().as_secs_f64());
}
