//! A whole site in memory, without IO, under random faults: gateways with forwarder, shards, group commit and uplink, a
//! log that loses what was not yet on disk, a network that loses, doubles, delays and cuts, and a node that
//! applies batches. Then the faults stop, and everything that was taken in must be counted at the node, once.
//!
//! A seed reproduces a run. `SELVEDGE_SEEDS=FROM..TO` runs those seeds instead of the usual ones.

#[path = "site/checks.rs"]
mod checks;
#[path = "site/devices.rs"]
mod devices;
#[path = "site/gateway.rs"]
mod gateway;
#[path = "site/node.rs"]
mod node;
#[path = "site/world.rs"]
mod world;

use world::World;

fn seeds(usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SELVEDGE_SEEDS") else { return usual };
    let (from, to) = text.split_once("..").expect("SELVEDGE_SEEDS is FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

fn run(gateways: u16, usual: std::ops::Range<u64>) {
    let mut sum = world::Tally::default();
    for seed in seeds(usual) {
        let mut world = World::new(seed, gateways);
        world.run();
        sum.add(&world.tally);
    }
    println!("{gateways} gateways: {sum:?}");
}

#[test]
fn a_site_of_three_counts_everything_once_and_heals() {
    run(3, 0..60);
}

#[test]
fn a_site_of_four_counts_everything_once_and_heals() {
    run(4, 0..40);
}

#[test]
fn a_site_of_one_keeps_what_it_acknowledged() {
    run(1, 0..30);
}
