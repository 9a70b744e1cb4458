//! Deterministic simulation of whole sites: the cores, the log and the stores that ship, in a world whose network,
//! disks, clocks, devices and cloud misbehave as one seed determines.
//!
//! Every run has a storm, in which the faults of its [`plan::Plan`] happen, and then a calm, in which everything must
//! heal: all readings settled and counted once at the node, all replicas in one state, and then fresh readings accepted
//! at once. The invariants are in `invariants/`, one file each; the checks run after every turn of every gateway.
//!
//! # What is real
//!
//! Everything of a gateway between the sockets of its devices, those of its peers, and its disk:
//!
//! - the connections of devices (`shared::mqtt::attendant` around `connection`: what they read and by which credit,
//!   when they hold publishes back, answer and end), the front (admission, sessions, wills, subscribers, the site's
//!   load), decoders, forwarding, shards, Paxos, machine, group commit, log, snapshots, batch store, recovery, uplink
//!   and its seal;
//! - between gateways the links with their lanes, frames and greetings (`fabric/link`), the failure detector
//!   (`fabric/detector`) and the consequences of its changes (`fabric/reach`).
//!
//! In runs of their own ([`plan::Plan::growth`]) the members of the site change. There each gateway also has a replica of
//! the directory group and a steward, and operators drain, remove, reweigh and replace gateways, boxes are lost for good,
//! and new ones join. The faults of these runs meet moves at every step. Sites whose members stay run without a
//! directory, so that their seeds show what they always showed.
//!
//! # What is modelled
//!
//! Sockets of devices ([`pipe`]: bytes that come in pieces, late, and end at any time; a device that does not read
//! leaves a gateway little room to write) and of peers ([`wire`]: bytes in order, behind a delay and within a window,
//! broken as TCP breaks), actors and threads (here: one turn after another), the broker and the node.
//!
//! Devices are clients of another implementation ([`client`]), which encodes what they send and decodes what they
//! receive. Some are eager (they publish right behind CONNECT), some are hasty (they go to another gateway while
//! CONNECT waits), and some subscribe to others and sometimes read slowly. In some runs many of them publish more at
//! once than a gateway may hold.
//!
//! Operators (`world/growth.rs`) repeat each order until they see it carried out, and look before they remove a gateway,
//! as the HTTP API does for them. Commands of an operator admit a box that joins; its request over a link is left out.
//!
//! Heartbeats flow as they ship, each 100 ms on each link. They cost a run little, because one that carries nothing
//! wakes only the links and not the shards. Where nothing else would happen for seconds on links that are all up, a run
//! jumps to shortly before the next event, and gives detectors and clocks what they would have heard.
//!
//! A connection never loses, doubles or reorders a single message, but Paxos and forwarding must tolerate that. So in
//! half of the seeds (`Plan::rough`) it happens to messages that a gateway has read, before it takes them.
//!
//! # How to run it
//!
//! ```text
//! cargo test -p selvedge-gateway --test sim                  the usual seeds, and the canaries
//! SELVEDGE_SEED=17 cargo test -p selvedge-gateway --test sim -- --nocapture replay      one run with its trace
//! SELVEDGE_SIM_FOR=10m cargo test --release -p selvedge-gateway --test sim -- --ignored --nocapture budget
//! ```
//!
//! `SELVEDGE_CANARY=CommitPastPrefix` makes a known mistake in a replay. `SELVEDGE_GATEWAYS=5` sets the size for a
//! replay or a budget, `SELVEDGE_GROWTH=1` chooses sites whose members change, and `SELVEDGE_WITNESS=1` those with a
//! witness; otherwise a budget cycles through 1,
//! 3, 5 and 9, and runs for each seed also a site whose members change. A failure is shrunk to the faults that it
//! needs, and printed with the command that replays it.

mod canaries;
mod client;
mod clock;
mod cloud;
mod devices;
mod disk;
mod edge;
mod gateway;
mod invariants;
mod links;
mod net;
mod pipe;
mod plan;
#[path = "../../paxos/tests/seeded/mod.rs"]
mod random;
mod search;
mod wire;
mod world;

use search::{Budget, Sites, search};
use selvedge_types::canary;

fn usual(gateways: u16, seeds: std::ops::Range<u64>) {
    search(&Sites::OfSizes(vec![gateways]), seeds, Budget::Unbounded).expect_none();
}

#[test]
fn a_site_of_one_heals() {
    usual(1, 0..20);
}

#[test]
fn a_site_of_three_heals() {
    usual(3, 0..40);
}

#[test]
fn a_site_of_five_heals() {
    usual(5, 0..12);
}

#[test]
fn a_site_of_nine_heals() {
    usual(9, 0..6);
}

#[test]
fn a_site_whose_members_change_heals() {
    search(&Sites::Growing, 0..40, Budget::Unbounded).expect_none();
}

#[test]
fn two_gateways_and_a_witness_heal_and_lose_one_while_the_other_is_away() {
    search(&Sites::Witness, 0..24, Budget::Unbounded).expect_none();
}

#[test]
fn who_fell_behind_catches_up_under_load() {
    search::heavy(3, 0..3).expect_none();
}

#[test]
fn a_site_serves_while_a_link_stays_cut() {
    search::apart(3, 0..8).expect_none();
    search::apart(5, 0..3).expect_none();
}

/// Runs the seed in `SELVEDGE_SEED` (with `SELVEDGE_GATEWAYS` gateways) and prints its trace; the mistake in
/// `SELVEDGE_CANARY` is made.
#[test]
fn replay() {
    if let Ok(mistake) = std::env::var("SELVEDGE_CANARY") {
        canary::make(canaries::all().find(|canary| format!("{canary:?}") == mistake));
    }
    if let Some(seed) = search::number("SELVEDGE_SEED") {
        search::replay(seed, search::number("SELVEDGE_GATEWAYS").unwrap_or(3) as u16);
    }
}

/// Prints every failing seed of the next `SELVEDGE_SEEDS` (a number) from `SELVEDGE_SEED` on.
#[test]
#[ignore = "for those who work on the simulation"]
fn survey() {
    let from = search::number("SELVEDGE_SEED").unwrap_or(0);
    search::survey(&Sites::from_environment(), from..from + search::number("SELVEDGE_SEEDS").unwrap_or(100));
}

/// Runs seeds from `SELVEDGE_SEED` on for the time in `SELVEDGE_SIM_FOR` (`30s`, `10m`).
#[test]
#[ignore = "takes as long as SELVEDGE_SIM_FOR says, 1 minute unless told otherwise"]
fn budget() {
    let from = search::number("SELVEDGE_SEED").unwrap_or(1_000_000);
    search(&Sites::from_environment(), from..u64::MAX, Budget::from_environment()).expect_none();
}
