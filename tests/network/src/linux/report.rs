//! What is printed, and what counts as a failure.

use std::time::Duration;

use super::cases::{Case, Target};
use super::lab::Lab;
use super::stream::Log;
use super::trial::Outcome;

/// So many times the target, and what the machine made of an unchanged path in the same run, is no longer
/// a busy machine's fault.
const GROSS: u32 = 3;

/// Runs a case so often, prints it, and returns whether it holds.
pub async fn case(lab: &Lab, case: &Case, rounds: usize) -> bool {
    println!("\n({}) {}", case.name, case.what);
    let mut holds = true;
    for round in 1..=rounds {
        match case.run(lab).await {
            Ok(outcome) => {
                let wrong = faults(case, &outcome);
                line(case, round, &outcome);
                for fault in &wrong {
                    println!("    FAILED: {fault}");
                }
                holds &= wrong.is_empty();
            }
            Err(error) => {
                println!("    FAILED: {error}");
                holds = false;
            }
        }
    }
    holds
}

fn line(case: &Case, round: usize, outcome: &Outcome) {
    let Outcome { changed, ended, up, down, .. } = outcome;
    let kept = if outcome.kept { "kept" } else { "another" };
    let transport = outcome.transport.map_or("none", |kind| kind.name());
    let verdict = if measured(case, outcome) <= target(case) { "met" } else { "MISSED" };
    println!(
        "  {round}: connection {kept}, on {transport}, migrations {}, moved {}; target {} {verdict}",
        outcome.migrations,
        outcome.moved,
        match case.target {
            Target::Interruption(most) => format!("interruption {}", ms(most)),
            Target::AfterHint(most) => format!("{} after the hint", ms(most)),
            Target::Latest(most) => format!("no message later than {}", ms(most)),
        }
    );
    for note in &outcome.notes {
        println!("     {note}");
    }
    for (name, log) in [("to the gateway  ", up), ("from the gateway", down)] {
        println!(
            "     {name} interruption {:>9} (before {:>8}), latest {:>9}, sent {}, lost {}, repeated {}",
            ms(log.interruption(*changed, *ended)),
            ms(before(outcome, log)),
            ms(log.latest(*changed)),
            log.sent.len(),
            log.lost(),
            log.repeated(),
        );
    }
}

/// The longest gap while nothing had changed yet: what the machine alone makes of it.
fn before(outcome: &Outcome, log: &Log) -> Duration {
    log.interruption(outcome.began + Duration::from_millis(500), outcome.changed)
}

fn target(case: &Case) -> Duration {
    match case.target {
        Target::Interruption(most) | Target::AfterHint(most) | Target::Latest(most) => most,
    }
}

/// The worse of both directions.
fn measured(case: &Case, outcome: &Outcome) -> Duration {
    let one = |log: &Log| match case.target {
        Target::Interruption(_) => log.interruption(outcome.changed, outcome.ended),
        Target::AfterHint(_) => log.silence(outcome.changed),
        Target::Latest(_) => log.latest(outcome.changed),
    };
    one(&outcome.up).max(one(&outcome.down))
}

fn faults(case: &Case, outcome: &Outcome) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, log) in [("to", &outcome.up), ("from", &outcome.down)] {
        let counts = [
            ("lost", log.lost()),
            ("repeated", log.repeated()),
            ("out of order", log.out_of_order()),
            ("refused", log.refused),
        ];
        let bad = counts.into_iter().filter(|(_, count)| *count > 0);
        faults.extend(bad.map(|(what, count)| format!("{count} {what}, {name} the gateway")));
        faults.extend(log.broken.as_ref().map(|why| format!("{name} the gateway: {why}")));
    }
    if case.keeps && !outcome.kept {
        faults.push("the connection was not kept".to_owned());
    }
    if outcome.transport != Some(case.ends_on) {
        faults.push(format!("not on {}", case.ends_on.name()));
    }
    if let Some(moves) = case.moves
        && (outcome.moved, outcome.migrations) != (moves, moves as u64)
    {
        faults.push(format!("moved {} times, not {moves}", outcome.moved));
    }
    let took = measured(case, outcome);
    let floor = before(outcome, &outcome.up).max(before(outcome, &outcome.down));
    if took > (target(case) + floor) * GROSS {
        faults.push(format!(
            "{} is more than {GROSS} times the target and {}",
            ms(took),
            ms(floor)
        ));
    }
    faults
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1_000.0)
}
