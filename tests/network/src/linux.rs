//! The measurements. On Linux alone: namespaces and its interfaces.

mod browser;
mod cases;
mod host;
mod lab;
mod link;
mod report;
mod stream;
mod trial;

use std::io;
use std::process::ExitCode;

use lab::Lab;

/// Measures what the arguments ask for: `[ROUNDS [CASE...]]`.
#[tokio::main(flavor = "current_thread")]
pub async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments.next().and_then(|rounds| rounds.parse().ok()).unwrap_or(3);
    let only: Vec<String> = arguments.collect();
    match measure(rounds, &only).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("the hosts could not be set up: {error}\n0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

async fn measure(rounds: usize, only: &[String]) -> io::Result<bool> {
    let names = cases::ALL.map(|case| case.name);
    if let Some(unknown) = only.iter().find(|name| !names.contains(&name.as_str())) {
        println!("there is no case {unknown}, but {}\n0 passed, 1 failed", names.join(", "));
        return Ok(false);
    }
    let lab = Lab::build().await?;
    let (mut passed, mut failed) = (0, 0);
    for case in cases::ALL
        .iter()
        .filter(|case| only.is_empty() || only.iter().any(|name| name == case.name))
    {
        match report::case(&lab, case, rounds).await {
            true => passed += 1,
            false => failed += 1,
        }
    }
    lab.close().await?;
    println!("\n{passed} passed, {failed} failed");
    Ok(failed == 0)
}
