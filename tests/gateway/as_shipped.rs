//! The worst attacks against a gateway whose pressure control is as shipped: it takes much of what it is
//! given for too much, and those who behave are served all the same. Being turned away for a moment is
//! part of that, which is what their clients come again for.

use handover::config::Config;

use super::crowds::{FLOODS_KB, floods, shipped};
use super::hostile::requests;
use super::siege::Besieged;

fn control() -> String {
    let wait = Config::default().capacity.wait.unwrap();
    format!("limits.wait_us={}", wait.as_micros())
}

#[tokio::test]
async fn a_flood_of_requests_with_pressure_control() {
    let served = Besieged::start(&[&control()]).await;
    let refused = requests(&served).await;
    println!("turned away {refused} times meanwhile");
    served.serves().await;
    served.has_given_back().await;
}

#[tokio::test]
async fn floods_of_messages_datagrams_and_streams_with_pressure_control() {
    let served = shipped(&["retention.signal.bytes=1048576", &control()], FLOODS_KB).await;
    floods(&served).await;
    println!("turned away {} times", served.serves().await);
    served.peaked_within_bounds();
}
