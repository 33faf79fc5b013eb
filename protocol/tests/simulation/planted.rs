//! A simulation that finds nothing shows nothing: bugs on purpose, each of which it must find.

use handover_protocol::sim::Fault;

use crate::watch::Wrong;
use crate::world::World;

/// Seeds tried before a bug counts as not found.
const SEEDS: u64 = 40;

/// The first seed under which the bug shows as what it is.
fn find(fault: Fault, wrong: Wrong) {
    let found = |seed: &u64| {
        let mut world = World::new(*seed, Some(fault));
        world.run();
        world.watch.wrongs().iter().any(|(kind, _)| *kind == wrong)
    };
    let seed = (0..SEEDS).find(found);
    assert!(seed.is_some(), "{fault:?} is not found as {wrong:?} in {SEEDS} seeds");
    println!("{fault:?} is found with seed {}", seed.unwrap_or(0));
}

#[test]
fn an_entry_that_is_lost() {
    find(Fault::Lost, Wrong::Lost);
}

#[test]
fn an_entry_that_comes_twice() {
    find(Fault::Repeated, Wrong::Repeated);
}

#[test]
fn two_entries_in_the_wrong_order() {
    find(Fault::Swapped, Wrong::Swapped);
}

#[test]
fn an_entry_that_goes_to_the_wrong_member() {
    find(Fault::Leaked, Wrong::Leaked);
}

#[test]
fn a_send_that_is_applied_twice() {
    find(Fault::AppliedTwice, Wrong::AppliedTwice);
}

#[test]
fn a_send_that_is_accepted_and_not_applied() {
    find(Fault::AcceptedUnapplied, Wrong::AcceptedUnapplied);
}
