//! The changes.

use std::io;
use std::time::{Duration, Instant};

use handover_client::{Client, Kind, Options};

use super::lab::{Lab, ROUND_TRIP};
use super::trial::{Outcome, run};

/// What may be asked of a case, and how it is done.
pub struct Case {
    pub name: &'static str,
    pub what: &'static str,
    /// The most that the interruption should be, or the delay of a message.
    pub target: Target,
    /// Whether the connection has to be kept.
    pub keeps: bool,
    /// What has to carry the session afterwards.
    pub ends_on: Kind,
    /// How often the client has to be told that its address is another; it is not where the
    /// connection was not kept.
    pub moves: usize,
    pub change: Change,
}

pub enum Target {
    Interruption(Duration),
    Latest(Duration),
}

#[derive(Clone, Copy)]
pub enum Change {
    /// Wi-Fi goes down and the application says so.
    Told,
    /// Nobody says anything.
    Untold,
    /// The NAT gives everybody another port.
    Ports,
    /// The NAT gets another address.
    Address,
}

pub const ALL: [Case; 4] = [
    Case {
        name: "a",
        what: "Wi-Fi goes down, the application says so",
        target: Target::Interruption(Duration::from_millis(100)),
        keeps: true,
        ends_on: Kind::WebTransport,
        moves: 1,
        change: Change::Told,
    },
    Case {
        name: "b",
        what: "Wi-Fi goes down, nobody says anything",
        target: Target::Interruption(Duration::from_secs(1)),
        keeps: true,
        ends_on: Kind::WebTransport,
        moves: 1,
        change: Change::Untold,
    },
    Case {
        name: "e-port",
        what: "the NAT forgets the port",
        target: Target::Latest(ROUND_TRIP.saturating_mul(3)),
        keeps: true,
        ends_on: Kind::WebTransport,
        moves: 0,
        change: Change::Ports,
    },
    Case {
        name: "e-address",
        what: "the NAT gets another address",
        target: Target::Latest(ROUND_TRIP.saturating_mul(3)),
        keeps: true,
        ends_on: Kind::WebTransport,
        moves: 1,
        change: Change::Address,
    },
];

impl Case {
    pub async fn run(&self, lab: &Lab) -> io::Result<Outcome> {
        lab.reset()?;
        let options = Options { ..lab.options() };
        match self.change {
            Change::Told => {
                run(lab, options, async |client: Client| {
                    let now = Instant::now();
                    lab.down(&lab.wifi)?;
                    client.network_changed().await.map_err(io::Error::other)?;
                    Ok(now)
                })
                .await
            }
            Change::Untold => {
                run(lab, options, async |_| {
                    let now = Instant::now();
                    lab.down(&lab.wifi)?;
                    Ok(now)
                })
                .await
            }
            Change::Ports => {
                lab.down(&lab.wifi)?;
                lab.masquerade()?;
                run(lab, options, async |_| {
                    let now = Instant::now();
                    lab.forget_ports()?;
                    Ok(now)
                })
                .await
            }
            Change::Address => {
                lab.down(&lab.wifi)?;
                lab.masquerade()?;
                run(lab, options, async |_| {
                    let now = Instant::now();
                    lab.renumber()?;
                    Ok(now)
                })
                .await
            }
        }
    }
}
