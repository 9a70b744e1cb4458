//! Groups that change their members again and again under random faults: loss, duplication, reordering, partitions,
//! crashes that lose what was not yet on disk, full disks, snapshots, and damaged disks. Then the faults stop, and the
//! last configuration must heal.
//!
//! The hosts of [`world`] keep what the essay of the crate asks of them, and nothing more. [`checks`] holds what must be
//! true whenever anything is chosen.
//!
//! A seed reproduces a run. `SELVEDGE_SEEDS=FROM..TO` runs those seeds instead of the usual ones.

#![allow(clippy::disallowed_methods)] // A seed may be given.

mod checks;
mod host;
#[path = "../seeded/mod.rs"]
mod seeded;
#[path = "../stop/mod.rs"]
mod stop;
mod world;

use seeded::seeds;
use selvedge_types::canary::{self, Canary};
use world::World;

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    world.run();
    world
}

#[test]
fn chains_of_reconfigurations_agree_and_heal() {
    let (mut slots, mut configurations, mut reads, mut healed) = (0, 0, 0, 0);
    let seeds = seeds(0..1500);
    for seed in seeds.clone() {
        let world = run(seed);
        slots += world.checks.chosen.len();
        configurations += world.checks.newest().configuration as usize;
        reads += world.reads_served;
        healed += world.healed;
    }
    println!(
        "{} groups: {slots} slots chosen in {configurations} configurations, {reads} reads, {healed} healed",
        seeds.count()
    );
}

/// How many seeds a mistake may hide in.
const MAX_SEEDS: u64 = 3000;

fn is_found(mistake: Canary) {
    canary::make(Some(mistake));
    let fails = |seed: &u64| std::panic::catch_unwind(|| run(*seed)).is_err();
    let found = (0..MAX_SEEDS).find(fails);
    canary::make(None);
    println!("{mistake:?} is found after {:?} seeds", found.map(|seed| seed + 1));
    assert!(found.is_some(), "{mistake:?} is not found in {MAX_SEEDS} seeds");
}

#[test]
fn a_proposal_after_the_stop_is_found() {
    is_found(Canary::ProposesAfterStop);
}

#[test]
fn a_learner_that_votes_is_found() {
    is_found(Canary::LearnerVotes);
}

#[test]
fn an_opening_entry_after_an_adopted_stop_is_found() {
    is_found(Canary::OpensAfterStop);
}

#[test]
fn entries_kept_above_an_adopted_stop_are_found() {
    is_found(Canary::KeptAboveStop);
}
