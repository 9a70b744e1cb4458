//! Known mistakes, each made on purpose: the simulation must find every one of them. What finds none of its canaries
//! proves nothing.

use super::plan::Plan;
use super::search::attempt;
use selvedge_shared::canary::{self, Canary};

/// How many seeds a mistake may hide in.
const MAX_SEEDS: u64 = 400;

fn hunt(canary: Canary) -> Option<(u64, String)> {
    let sizes = [3, 3, 3, 5, 1];
    for seed in 0..MAX_SEEDS {
        let plan = Plan::new(seed, sizes[(seed % 5) as usize]);
        canary::make(Some(canary));
        let result = attempt(&plan, false);
        canary::make(None);
        if let Err(why) = result {
            return Some((seed, why));
        }
    }
    None
}

/// In how many seeds each is found: for those who change the simulation.
#[test]
#[ignore = "takes minutes; prints how easily each mistake is found"]
fn census() {
    for canary in Canary::ALL {
        match hunt(canary) {
            Some((seed, why)) => {
                let why: String =
                    why.lines().take(2).collect::<Vec<_>>().join(" ").chars().take(160).collect();
                println!("{canary:?}: after {} seeds: {why}", seed + 1);
            }
            None => println!("{canary:?}: NOT FOUND in {MAX_SEEDS} seeds"),
        }
    }
}
