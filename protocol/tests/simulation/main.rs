//! Clients, links and a gateway under trouble, thousands of times, each from its seed.
//!
//! `HANDOVER_SEED=n` runs one seed, `HANDOVER_SEEDS=n` so many.

#![allow(
    clippy::disallowed_methods,
    reason = "how many seeds to run is asked of the environment, and how long they took is told"
)]

mod person;
mod planted;
mod watch;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use world::World;

/// Seeds of an ordinary run.
const SEEDS: u64 = 2_000;

/// What an ordinary run must have seen at least once, or it has not shown much.
const EVERYWHERE: [&str; 25] = [
    "closed by the gateway: bye",
    "closed by the gateway: draining",
    "closed by the gateway: hello_timeout",
    "closed by the gateway: idle_timeout",
    "closed by the gateway: internal",
    "closed by the gateway: replaced",
    "entry seen",
    "link closed: ByGateway",
    "link closed: Ended",
    "link closed: NoWelcome",
    "link closed: Replaced",
    "reset: Gateway(Epoch)",
    "reset: Gateway(Trimmed)",
    "reset: Gateway(Unlisted)",
    "reset: NewSession",
    "reset: Rejoined",
    "room lost: room_full",
    "send accepted",
    "send not sent",
    "send refused: bad_request",
    "send refused: no_such_peer",
    "send uncertain",
    "session opened",
    "session resumed",
    "arrival",
];

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs a seed that must come out well.
fn run(seed: u64) -> BTreeMap<String, u64> {
    let mut world = World::new(seed, None);
    world.run();
    let wrongs = world.watch.wrongs();
    assert!(wrongs.is_empty(), "HANDOVER_SEED={seed}: {wrongs:#?} under {:?}", world.plan);
    world.watch.tally
}

#[test]
fn nothing_is_lost_repeated_swapped_or_leaked() {
    if let Some(seed) = setting("HANDOVER_SEED") {
        println!("{:#?}", run(seed));
        return;
    }
    let (started, seeds) = (Instant::now(), setting("HANDOVER_SEEDS").unwrap_or(SEEDS));
    let next = AtomicU64::new(0);
    let work = || {
        let mut tally = BTreeMap::<String, u64>::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return tally;
            }
            run(seed).into_iter().for_each(|(what, n)| *tally.entry(what).or_default() += n);
        }
    };
    let tally = std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut sum = BTreeMap::<String, u64>::new();
        for worker in workers {
            let tally = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            tally.into_iter().for_each(|(what, n)| *sum.entry(what).or_default() += n);
        }
        sum
    });
    let seconds = started.elapsed().as_secs_f64();
    let arrivals = tally.get("arrival").copied().unwrap_or(0) as f64;
    println!(
        "{seeds} seeds in {seconds:.1} s, {:.0} arrivals a second: {tally:#?}",
        arrivals / seconds
    );
    if seeds >= SEEDS {
        let missed: Vec<_> = EVERYWHERE.iter().filter(|what| !tally.contains_key(**what)).collect();
        assert!(missed.is_empty(), "never seen: {missed:?}");
    }
}

#[test]
fn a_seed_is_a_run() {
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed), "HANDOVER_SEED={seed}");
    }
}
