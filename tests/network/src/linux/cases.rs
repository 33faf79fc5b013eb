//! The changes.

use std::io;
use std::time::{Duration, Instant};

use handover_client::{Client, Kind, Options, Transport};

use super::browser::{self, Outage};
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
    /// How often the client has to be told that its address is another, if that is known.
    pub moves: Option<usize>,
    pub change: Change,
}

pub enum Target {
    Interruption(Duration),
    /// Since the page was told that there is a network.
    AfterHint(Duration),
    Latest(Duration),
}

#[derive(Clone, Copy)]
pub enum Change {
    /// Wi-Fi goes down; the client's own watch notices.
    Watched,
    /// Wi-Fi goes down and the application says so.
    Told,
    /// Nobody says anything.
    Untold,
    /// Wi-Fi goes down, and what is left lets no UDP through.
    NoUdp,
    /// As the first, under a session that is on a WebSocket by choice.
    WebSocket,
    /// Chromium: Wi-Fi goes down.
    Browser(Outage),
    /// The NAT gives everybody another port.
    Ports,
    /// The NAT gets another address.
    Address,
}

/// Two round trips and a message's distance from the next.
const AT_ONCE: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_secs(1);
const DIALLED: Duration = Duration::from_millis(1_500);
/// A client in a call knows within three seconds, and then dials.
const NOTICED: Duration = Duration::from_millis(4_500);

const fn case(name: &'static str, what: &'static str, target: Target, change: Change) -> Case {
    let (keeps, ends_on, moves) = match change {
        Change::NoUdp | Change::WebSocket => (false, Kind::WebSocket, Some(0)),
        Change::Browser(_) => (false, Kind::WebTransport, None),
        Change::Ports => (true, Kind::WebTransport, Some(0)),
        _ => (true, Kind::WebTransport, Some(1)),
    };
    Case { name, what, target, keeps, ends_on, moves, change }
}

pub const ALL: [Case; 9] = [
    case(
        "a",
        "Wi-Fi goes down, the client notices",
        Target::Interruption(AT_ONCE),
        Change::Watched,
    ),
    case(
        "a-told",
        "Wi-Fi goes down, the application says so",
        Target::Interruption(AT_ONCE),
        Change::Told,
    ),
    case("b", "Wi-Fi goes down, nobody notices", Target::Interruption(SOON), Change::Untold),
    case(
        "c",
        "Wi-Fi goes down, no UDP on the other link",
        Target::Interruption(DIALLED),
        Change::NoUdp,
    ),
    case(
        "c-websocket",
        "Wi-Fi goes down under a WebSocket",
        Target::Interruption(DIALLED),
        Change::WebSocket,
    ),
    case(
        "d",
        "Chromium: Wi-Fi goes down, the other link comes up",
        Target::AfterHint(DIALLED),
        Change::Browser(Outage::Later),
    ),
    case(
        "d-untold",
        "Chromium: Wi-Fi goes down, the browser says nothing",
        Target::Interruption(NOTICED),
        Change::Browser(Outage::Other),
    ),
    case(
        "e-port",
        "the NAT forgets the port",
        Target::Latest(ROUND_TRIP.saturating_mul(3)),
        Change::Ports,
    ),
    case(
        "e-address",
        "the NAT gets another address",
        Target::Latest(ROUND_TRIP.saturating_mul(3)),
        Change::Address,
    ),
];

impl Case {
    pub async fn run(&self, lab: &Lab) -> io::Result<Outcome> {
        lab.reset()?;
        let options = self.options(lab);
        match self.change {
            Change::NoUdp => lab.cell.block_udp(true),
            Change::Ports | Change::Address => {
                lab.down(&lab.wifi)?;
                lab.masquerade()?;
            }
            _ => {}
        }
        if let Change::Browser(outage) = self.change {
            return browser::run(lab, outage).await;
        }
        run(lab, options, async |client: Client| {
            let now = Instant::now();
            match self.change {
                Change::Ports => lab.forget_ports()?,
                Change::Address => lab.renumber()?,
                _ => lab.down(&lab.wifi)?,
            }
            if matches!(self.change, Change::Told) {
                client.network_changed().await.map_err(io::Error::other)?;
            }
            Ok(now)
        })
        .await
    }

    fn options(&self, lab: &Lab) -> Options {
        let options = lab.options();
        match self.change {
            Change::Told | Change::Untold => Options { watch_network: false, ..options },
            Change::WebSocket => Options { transport: Transport::WebSocket, ..options },
            _ => options,
        }
    }
}
