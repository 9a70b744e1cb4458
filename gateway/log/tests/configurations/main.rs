//! A shard moves from gateway to gateway under random faults, on real logs in memory. The network loses, duplicates and
//! reorders messages; processes end in the middle of a write; logs are trimmed and lost; hosts give up replicas and make
//! them again on the same disk; and the directory moves one replica after another. Then the faults stop, and the last configuration must
//! heal.
//!
//! # Checked in every run
//!
//! - Replicas have the same state at the same slot, so the shard chose one value for it, in one configuration.
//! - All replicas that know a configuration know the same members, witnesses and base.
//! - Every acknowledged batch is counted exactly once, and every other batch at most once.
//! - When the faults have stopped, the members of the newest configuration reach the same state and one of them serves.
//!
//! A seed reproduces a run. `SELVEDGE_SEEDS=FROM..TO` runs those seeds instead of the usual ones.

#![allow(clippy::disallowed_methods)] // A seed may be given.

mod gateway;
#[path = "../../../paxos/tests/seeded/mod.rs"]
mod seeded;
mod world;

use seeded::{on_all_cores, seeds};
use selvedge_types::canary::{self, Canary};
use world::World;

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    world.run();
    world
}

#[test]
fn a_shard_that_moves_loses_nothing_and_counts_nothing_twice() {
    let mut told = world::Told::default();
    let seeds = seeds(0..400);
    for run in on_all_cores(seeds.clone(), |seed| run(seed).told) {
        told.slots += run.slots;
        told.configurations += run.configurations;
        told.acknowledged += run.acknowledged;
        told.restarts += run.restarts;
        told.dropped += run.dropped;
        told.damaged += run.damaged;
        told.superseded += run.superseded;
        told.offers += run.offers;
        told.logs += run.logs;
    }
    println!("{} sites: {told:?}", seeds.count());
    assert!(told.dropped > 0 && told.superseded > 0 && told.offers > 0 && told.logs > 0, "{told:?}");
}

/// The canary must be found within this many seeds.
const MAX_SEEDS: u64 = 1_000;

#[test]
fn promises_and_votes_of_an_earlier_configuration_that_are_taken_over_are_found() {
    canary::make(Some(Canary::OldPromiseReplaces));
    let fails = |seed: &u64| std::panic::catch_unwind(|| run(*seed)).is_err();
    let found = (0..MAX_SEEDS).find(fails);
    canary::make(None);
    println!("it is found after {:?} seeds", found.map(|seed| seed + 1));
    assert!(found.is_some(), "it is not found in {MAX_SEEDS} seeds");
}
