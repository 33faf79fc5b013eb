//! A gateway dies with all its sessions, and two others take them in.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::rig::Result;
use crate::rig::dial::Dialer;
use crate::rig::line::Wire;
use crate::rig::member::{Member, Purpose, Ticket};
use crate::rig::redis::Redis;
use crate::rig::server::Server;
use crate::rig::{is_short, system};

const ROOM: usize = 5;
/// Sessions that are being set up at the same time.
const SETTING_UP: usize = 64;
/// ... and that come back at the same time.
const COMING_BACK: usize = 256;

pub async fn run(wire: Wire) -> Result<()> {
    let sessions = if is_short() { 60 } else { 2_000 };
    let redis = Redis::start().await?;
    let server = || Server::on_broker(&redis.address());
    let (mut dying, others) = (server()?, [server()?, server()?]);
    let dialer = Dialer::new()?;
    let setting_up = (0..sessions).map(|nth| {
        let (dialer, dying) = (&dialer, &dying);
        async move {
            let room = format!("room-{}", nth / ROOM);
            Member::join(dialer, dying, wire, &room, Purpose::Idle).await
        }
    });
    let members: Vec<Member> =
        stream::iter(setting_up).buffer_unordered(SETTING_UP).try_collect().await?;
    let tickets: Option<Vec<Ticket>> = members.iter().map(|member| member.ticket.clone()).collect();
    let tickets = tickets.ok_or("a session cannot be resumed")?;

    dying.kill()?;
    let began = Instant::now();
    let cpu = || -> Result<(Duration, Duration)> {
        let gateways = system::cpu_time(others[0].pid())? + system::cpu_time(others[1].pid())?;
        Ok((redis.cpu_time()?, gateways))
    };
    let before = cpu()?;
    let coming_back = tickets.iter().enumerate().map(|(nth, ticket)| {
        let (dialer, server) = (&dialer, &others[nth % others.len()]);
        async move {
            let asked = Instant::now();
            let member = Member::resume(dialer, server, wire, ticket).await?;
            Ok::<_, crate::rig::Error>((member, asked.elapsed()))
        }
    });
    let back: Vec<(Member, Duration)> =
        stream::iter(coming_back).buffer_unordered(COMING_BACK).try_collect().await?;
    let took = began.elapsed();
    let after = cpu()?;
    drop(members);

    let mut each: Vec<Duration> = back.iter().map(|(_, took)| *took).collect();
    each.sort_unstable();
    let ms = |share: f64| {
        let at = (each.len() as f64 * share) as usize;
        each.get(at.min(each.len() - 1)).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    let us = |after: Duration, before: Duration| {
        after.saturating_sub(before).as_secs_f64() * 1e6 / back.len() as f64
    };
    println!(
        "\nresume, {}: {} sessions in rooms of {ROOM} on a gateway that is killed, back at two \
         others after {:.2} s: {:.0} a second, {COMING_BACK} at a time, each within p50 {:.0} ms, \
         p99 {:.0} ms; processor time for each: redis {:.0} us, gateways {:.0} us",
        wire.name(),
        back.len(),
        took.as_secs_f64(),
        back.len() as f64 / took.as_secs_f64(),
        ms(0.5),
        ms(0.99),
        us(after.0, before.0),
        us(after.1, before.1),
    );
    Ok(())
}
