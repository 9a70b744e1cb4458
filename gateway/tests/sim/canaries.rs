//! Known mistakes, each made on purpose: the simulation must find every one of them. A simulation that finds none of
//! its canaries proves nothing.

use super::plan::Plan;
use super::search::attempt;
use selvedge_types::canary::{self, Canary};

/// The most seeds that are searched for one mistake.
const MAX_SEEDS: u64 = 1_000;
/// The same for one of [`RARE`].
const MAX_RARE_SEEDS: u64 = 3_000;

fn plan(canary: Canary, seed: u64) -> Plan {
    let sizes = [3, 3, 3, 5, 1];
    if Canary::OF_GROWTH.contains(&canary) {
        return Plan::growth(seed);
    }
    if Canary::OF_DETOURS.contains(&canary) {
        return Plan::apart(seed, 3);
    }
    if Canary::OF_WITNESSES.contains(&canary) {
        return Plan::witness(seed);
    }
    let plan = Plan::new(seed, sizes[(seed % 5) as usize]);
    // Catching up is hard only under load.
    if canary == Canary::TransferReplaced { plan.heavy() } else { plan }
}

/// Where mistakes that few seeds show were found last, so that a hunt need not take all that come before. A change of the
/// simulation may move them; then the hunt takes all seeds.
const FOUND_LAST: [(Canary, u64); 2] = [(Canary::LostByMajority, 50), (Canary::ExpiryByWall, 184)];

/// Mistakes that about one seed in three hundred shows: their hunts take minutes, and a test of their own.
const RARE: [Canary; 2] = [Canary::PrepareBeforeDurable, Canary::FewPacketIds];

fn hunt(canary: Canary, seeds: impl IntoIterator<Item = u64>) -> Option<(u64, String)> {
    for seed in seeds {
        let plan = plan(canary, seed);
        canary::make(Some(canary));
        let result = attempt(&plan, false);
        canary::make(None);
        if let Err(why) = result {
            return Some((seed, why));
        }
    }
    None
}

/// All that the simulation must find.
pub fn all() -> impl Iterator<Item = Canary> {
    Canary::OF_SITES
        .into_iter()
        .chain(Canary::OF_DETOURS)
        .chain(Canary::OF_GROWTH)
        .chain(Canary::OF_WITNESSES)
}

/// Hunts a quarter of the canaries, so that the quarters run in parallel.
fn find(quarter: usize) {
    for canary in all().filter(|canary| !RARE.contains(canary)).skip(quarter).step_by(4) {
        let last = FOUND_LAST.iter().filter(|(of, _)| *of == canary).map(|(_, seed)| *seed);
        let found = hunt(canary, last.chain(0..MAX_SEEDS));
        assert!(found.is_some(), "{canary:?} is not found in {MAX_SEEDS} seeds");
    }
}

#[test]
fn the_first_quarter_is_found() {
    find(0);
}

#[test]
fn the_second_quarter_is_found() {
    find(1);
}

#[test]
fn the_third_quarter_is_found() {
    find(2);
}

#[test]
fn the_last_quarter_is_found() {
    find(3);
}

#[test]
#[ignore = "takes minutes"]
fn the_rare_ones_are_found() {
    for canary in RARE {
        let found = hunt(canary, 0..MAX_RARE_SEEDS);
        println!("{canary:?}: {:?}", found.as_ref().map(|(seed, _)| seed));
        assert!(found.is_some(), "{canary:?} is not found in {MAX_RARE_SEEDS} seeds");
    }
}

/// For work on the simulation: prints in how many seeds each mistake is found and how it shows, for all canaries or
/// those whose names contain `SELVEDGE_CANARY`.
#[test]
#[ignore = "prints how easily each mistake is found"]
fn census() {
    let wanted = std::env::var("SELVEDGE_CANARY").unwrap_or_default();
    let named = |canary: &Canary| format!("{canary:?}").contains(&wanted);
    for canary in all().filter(named) {
        match hunt(canary, 0..MAX_SEEDS) {
            Some((seed, why)) => {
                let why: String =
                    why.lines().take(2).collect::<Vec<_>>().join(" ").chars().take(160).collect();
                println!("{canary:?}: after {} seeds: {why}", seed + 1);
            }
            None => println!("{canary:?}: NOT FOUND in {MAX_SEEDS} seeds"),
        }
    }
}
