//! What goes wrong, and when.

use std::time::Duration;

use handover::load::Fleet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::Outcome;
use crate::gateway::GatewayProcess;
use crate::link::Link;
use crate::redis::RedisProcess;
use crate::sentinels::Sentinels;

/// Between two gateways that are killed.
const KILL_EVERY: Duration = Duration::from_secs(5);
/// How long Redis stands still, or is out of a gateway's reach.
const AWAY: Duration = Duration::from_secs(3);

/// Gateways are killed in turn all the time. Meanwhile the master stands still, is restarted, is
/// one of two and is killed; and one gateway after another is out of its reach, first without
/// being told. The moments are parts of the whole.
pub(crate) async fn chaos(
    sentinels: &mut Sentinels,
    gateways: &mut [GatewayProcess],
    links: &[Link],
    fleet: &Fleet,
    lasting: Duration,
) -> Outcome<()> {
    let began = Instant::now();
    let ways: Vec<_> = gateways.iter().map(GatewayProcess::address).zip(links).collect();
    let busiest = || ways.iter().max_by_key(|(gateway, _)| fleet.carried(*gateway));
    let part = |number: u32| sleep_until(began + lasting * number / 20);
    let failing = async {
        part(2).await;
        tell(began, "the master stands still");
        sentinels.freeze(AWAY).await?;
        tell(began, "... and goes on");
        part(5).await;
        tell(began, "the master is restarted");
        sentinels.restart().await?;
        tell(began, "... and has its replica");
        part(7).await;
        let (gateway, link) = busiest().ok_or("there is no gateway")?;
        cut_off(began, || fleet.carried(*gateway), link, Link::hold).await?;
        part(10).await;
        tell(began, "the master stands still, and the replica takes over");
        sentinels.double().await?;
        tell(began, "... and there are two masters");
        sentinels.parted_no_more().await?;
        tell(began, "... and one follows the other");
        part(15).await;
        let (gateway, link) = busiest().ok_or("there is no gateway")?;
        cut_off(began, || fleet.carried(*gateway), link, Link::cut).await?;
        part(17).await;
        tell(began, "the master is killed");
        sentinels.fail_over().await?;
        tell(began, "... and the replica is the master");
        sentinels.follow().await?;
        tell(began, "... and has a replica");
        Ok(())
    };
    tokio::try_join!(killing(gateways, fleet, began, lasting), failing)?;
    Ok(())
}

async fn cut_off(
    began: Instant,
    sessions: impl Fn() -> usize,
    link: &Link,
    how: fn(&Link),
) -> Outcome<()> {
    // Where there is no connection none can be cut.
    let connections = link.carried().await?;
    let sessions = sessions();
    tell(
        began,
        &format!("a gateway with {sessions} sessions is cut off, on {connections} connections"),
    );
    how(link);
    sleep(AWAY).await;
    link.mend();
    tell(began, "... and not any more");
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

/// Redis forgets everything, twice. The second time once everybody was told of the first: two lives of
/// which somebody hears at once are one to him.
pub(crate) async fn emptied(redis: &RedisProcess, fleet: &Fleet, lasting: Duration) -> Outcome<()> {
    let began = Instant::now();
    for nth in 1..=2 {
        sleep_until(began + lasting * nth / 3).await;
        if nth > 1 && timeout_at(began + lasting * 5 / 6, fleet.wait_told()).await.is_err() {
            return Err("somebody was not told of it in time".into());
        }
        fleet.empty();
        redis.empty().await?;
        tell(began, "redis is emptied");
    }
    Ok(())
}

fn tell(began: Instant, what: &str) {
    println!("  {:5.1} s  {what}", began.elapsed().as_secs_f64());
}
