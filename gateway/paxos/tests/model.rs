//! The Paxos core under a model checker, which explores every reachable state of small worlds.
//!
//! Random runs (`random.rs`, `reconfiguration/`) go deep, but see only a sample; the model checker sees everything, up to a size. The
//! checker is `stateright`: from a first state it takes every possible action, and does the same from each
//! resulting state, until no new state turns up. [`checks`] must hold in every state. Each replica is a
//! [`Consensus`], the very code that ships; the host around the replicas, its disk and the network are the model's
//! ([`world`]).
//!
//! # What can happen
//!
//! There are three replicas, two of which are a majority. Each of these may happen, at any replica, at any time, as
//! far as the world's [`Budget`] allows:
//!
//! - A message arrives. The network is the set of all messages ever sent, and a message stays in it after it
//!   arrives. So a message may be lost (never arrive), duplicated (arrive twice), overtaken, and arrive after a
//!   restart of its sender or its receiver.
//! - A write reaches the disk, the oldest first. `send` leaves at once, `records` wait in memory, `send_after`
//!   leaves with the write that holds its token.
//! - A process dies and starts again from its disk. A prefix of any length of the records under way survived,
//!   although the process was not notified.
//! - A replica campaigns: its failure detector lost the leader for a moment, and the canvass was granted. (A
//!   canvass binds no replica and no promise rests on it, so the model lets it always succeed, whatever the others
//!   know.)
//! - A client proposes to a leader, or reads. A candidate asks again.
//! - A replica's failure detector is wrong for a moment (`blinks`): a leader steps down, a candidate gives up, a
//!   follower forgets its leader.
//! - A host makes a snapshot of what it applied and trims memory and log; a snapshot of another replica is
//!   installed.
//! - A disk loses its log, with its snapshot or without, and the replica repairs itself.
//! - A stop is proposed. Once a replica has applied it, the next configuration begins with the replicas that have
//!   applied it, and with a newcomer that takes the place and, to keep the model small, the number of the third replica.
//!
//! The former configuration stands still from the moment at which the next one begins. The two share nothing but the
//! base, so whatever else happens in the former might as well have happened before; another branch explores that more
//! of its members stop first. A read at the former configuration may then miss what the next one chose. So once a host
//! knows that the stop is chosen, a read has to cover one slot more than there is.
//!
//! # What must hold
//!
//! Agreement: at most one value is chosen for a slot. The disks decide what is *chosen*, not what a replica says: a
//! majority had the value on disk in one ballot, at whatever times, even if it was overwritten since. Validity.
//! Every leader of a higher ballot holds what was chosen in lower ones. A commit index covers only chosen slots. A
//! replica says Accepted only of slots that are chosen or on its disk in that ballot. Commit index <= accepted
//! prefix <= last slot. One ballot has one value for a slot, and belongs to one process: a restarted process uses
//! another. A read is served at a slot that covers everything that any replica knew as chosen when the read was
//! requested. A restart finds a log that it can start from. Nothing is chosen after a stop, and every replica begins the
//! next configuration after the same slots.
//!
//! So that a world in which nothing ever happens can't pass, each world must also *sometimes* reach the states it
//! is for: a value is chosen, a later leader carries it on, a restarted replica votes, a damaged one heals, a read
//! is served, a newcomer votes.
//!
//! # Time, and which states count as the same
//!
//! The core reads time in one place only, its timer, and keeps points in time for nothing else. So the model's
//! clock stands still except for the timer, which fires when the model decides, late or early. A timer has four
//! kinds of consequences: a campaign, giving up, asking again, and a leader's resending what a follower has not
//! answered. The first three are actions above, possible whenever the core could come to them (each wait is set to
//! 1 ms or one day, so that the intended consequence is the one that is due).
//!
//! The model takes the fourth out of the leader's hands, together with everything that a leader notes about what it
//! sent to whom, how much is in flight, and when it resends: *whatever a leader holds of its ballot's log may
//! arrive at any replica, in any run of slots, with any commit index up to its own, at any time* ([`Reign`]). This
//! is more than any schedule of sending can bring about. The model checks that each accept which the core really
//! sends is one of these.
//!
//! Therefore two states are the same if they differ only in times, and in what a leader believes to be under way
//! ([`Consensus::digest`]). Merging them hides nothing: the parts left out only decide which of the actions comes
//! when, and the model lets each come at any time from either state.
//!
//! Further savings drop only what can't matter:
//!
//! - Of accepts that have the same effect at a follower (they differ in entries that it already has), one is tried.
//!   Those after a gap are tried, too, and must do nothing.
//! - Of a follower's Accepted messages the network keeps the greatest, and all below it may arrive: saying less is
//!   always true.
//! - Canvass, Canvassed, Lagging and Resigned are not delivered. They influence when a replica campaigns or what a
//!   leader sends next, which is free here, or make a follower forget its leader, which `blinks` does.
//! - An answer to a ballot whose candidate or leader gave it up is dropped, and so are a ballot's own messages when
//!   all others have durably promised it or a higher one.
//! - A replica that can't crash (any more) has a fast disk: the records it gives out are on disk at once. A slow
//!   disk would delay its messages and its votes; a late network does that anyway.
//!
//! A `plain` world makes neither of the last two savings, and thins out only Accepted: it must be smaller, and
//! gives the same result.
//!
//! The checker remembers states by 64 bits of hash. With ten million states, the chance that two were taken for one
//! is below one in 300,000.
//!
//! # What is not covered
//!
//! Progress: nothing here has to happen eventually (random runs and the simulation assert that groups heal). Full
//! disks and full memory (`Room`, `WindowFull`). Damage while others campaign on their own. More than the budgets:
//! three ballots, two values, a crash or a damage, not all at once. Five replicas. The worlds with `batches` cover
//! what the core does when several events come before effects are taken, for two events. The host: its order of
//! durability is a model here; the simulation covers that of the actors.
//!
//! # How to run it
//!
//! Small worlds, and mistakes of the host that must be found, run with `cargo test`. The larger ones:
//!
//! ```text
//! cargo test --release -p selvedge-paxos --test model -- --ignored --nocapture --test-threads 1
//! ```
//!
//! Each prints what it saw. The figures are in `docs/internals/decisions/0010-model-check.md`.
//!
//! [`Consensus`]: selvedge_paxos::Consensus
//! [`Consensus::digest`]: selvedge_paxos::Consensus::digest
//! [`Reign`]: world::Reign

#![allow(clippy::disallowed_methods)] // It is measured, and told what to check.

mod model {
    pub mod checks;
    pub mod world;
}

use model::checks;
use model::world::{Action, Mistake, REPLICAS, Setup, World};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;
use std::time::Instant;

impl Model for Setup {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(self, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        world.next(self, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! always {
            ($($name:ident),*) => {
                vec![$(Property::always(checks::$name, |_, w: &World| !w.wrong.contains(checks::$name))),*]
            };
        }
        let mut all = always![
            AGREEMENT, VALIDITY, CHOSEN, LEADERS, ONE_VALUE, BALLOTS, PREFIX, ACCEPTED, TELLS, READS,
            APPLIES, RECOVERS, STOPPED, AFTER, BASES, TOKENS
        ];
        let budget = self.budget;
        let ballots = budget.campaigns.iter().sum::<u8>() + u8::from(self.settled);
        let mut sometimes = |possible, name, seen: fn(&Self, &World) -> bool| {
            if possible {
                all.push(Property::sometimes(name, seen));
            }
        };
        sometimes(budget.proposals > 0, "a value is chosen", |_, w| checks::value_chosen(w));
        sometimes(ballots > 1 && budget.proposals > 0, "a later leader carries a value on", |_, w| {
            checks::value_carried_on(w)
        });
        // A replica must lead whose process lasts.
        let leads = |i: usize| budget.campaigns[i] > 0 || (self.settled && i == 0);
        let led = (0..REPLICAS).any(|i| leads(i) && !self.fragile[i]) && budget.proposals > 0;
        sometimes(led && budget.crashes + budget.damages > 0, "one that started anew votes", |_, w| {
            checks::reborn_votes(w)
        });
        sometimes(budget.reads > 0, "a read is served", |_, w| w.served);
        let stops = budget.stops > 0;
        sometimes(stops && ballots > 1, "a later leader adopts a stop", |_, w| checks::stop_carried_on(w));
        let next = self.next.as_ref().is_some_and(|next| next.budget.campaigns.iter().any(|c| *c > 0));
        sometimes(stops && next, "the next configuration chooses a value", |_, w| checks::newcomer_votes(w));
        all
    }
}

/// Reads a world from text: `settled`, `blinks`, `chunks`, `batches`, `plain`, and numbers; `campaigns`, `fragile`
/// and `trimmers` have a digit for each replica. What follows `next:` is the world of the next configuration.
fn setup(text: &str) -> Setup {
    let (text, next) = text.split_once(" next: ").map_or((text, None), |(own, next)| (own, Some(next)));
    let mut setup = Setup { next: next.map(|next| Box::new(self::setup(next))), ..Setup::default() };
    for word in text.split_whitespace() {
        let (name, number) = word.split_once('=').unwrap_or((word, "1"));
        let digits = |i: usize| number.as_bytes().get(i).map_or(0, |d| d - b'0');
        let (b, each) = (&mut setup.budget, std::array::from_fn(digits));
        match name {
            "settled" => setup.settled = true,
            "blinks" => setup.blinks = true,
            "chunks" => setup.chunks = true,
            "batches" => setup.batches = true,
            "plain" => setup.plain = true,
            "campaigns" => b.campaigns = each,
            "trimmers" => setup.trimmers = each.map(|d| d > 0),
            "fragile" => setup.fragile = each.map(|d| d > 0),
            "proposals" => b.proposals = digits(0),
            "stops" => b.stops = digits(0),
            "crashes" => b.crashes = digits(0),
            "damages" => b.damages = digits(0),
            "trims" => b.trims = digits(0),
            "reads" => b.reads = digits(0),
            _ => panic!("{word} is no property of a world"),
        }
    }
    setup
}

/// Explores everything that can happen in this world, and finds nothing wrong.
fn exhaust(text: &str) {
    let begun = Instant::now();
    let checker = setup(text).checker().finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    let (states, steps, depth) = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
    println!("{text}: {states} states, {steps} steps, depth {depth}, {:.1?}", begun.elapsed());
    checker.assert_properties();
}

/// Checks that the mistake leads to this violation.
fn finds(text: &str, mistake: Mistake, wrong: &'static str) {
    let setup = Setup { mistake: Some(mistake), ..setup(text) };
    let begun = Instant::now();
    let until = HasDiscoveries::AnyOf(BTreeSet::from([wrong]));
    let checker = setup.checker().finish_when(until).spawn_bfs().join();
    let path = checker.discovery(wrong).unwrap_or_else(|| panic!("{mistake:?} goes unnoticed in {text}"));
    println!("{mistake:?}: {} states, {:.1?}", checker.unique_state_count(), begun.elapsed());
    for action in path.into_actions() {
        println!("  {action:?}");
    }
}

#[test]
fn a_first_leader_and_a_follower_that_crashes() {
    exhaust("campaigns=100 proposals=1 crashes=1 fragile=010");
}

#[test]
fn a_leader_that_crashes() {
    exhaust("settled proposals=1 crashes=1 fragile=100");
    exhaust("campaigns=200 crashes=1 fragile=100");
}

#[test]
fn a_leader_and_its_rival() {
    exhaust("settled campaigns=010 proposals=1");
}

#[test]
fn a_member_is_replaced() {
    exhaust("settled proposals=1 stops=1 next: campaigns=001 proposals=1");
}

#[test]
fn a_member_is_replaced_while_a_rival_proposes_otherwise() {
    exhaust("settled campaigns=010 proposals=1 stops=1 next: campaigns=001");
}

#[test]
fn two_leaders_propose_a_stop() {
    exhaust("settled campaigns=010 stops=2 next: campaigns=001");
}

#[test]
fn a_member_is_replaced_while_the_rival_crashes() {
    exhaust("settled campaigns=010 stops=1 crashes=1 fragile=010 next: campaigns=001");
}

#[test]
fn a_member_is_replaced_while_somebody_reads() {
    exhaust("settled campaigns=010 stops=1 reads=1 next: campaigns=001");
}

#[test]
#[ignore = "some minutes; see the essay for the command"]
fn a_member_is_replaced_and_two_want_to_lead() {
    exhaust("settled stops=1 next: campaigns=101 proposals=1");
}

#[test]
#[ignore = "some minutes; see the essay for the command"]
fn three_leaders_propose_a_stop() {
    exhaust("settled campaigns=011 stops=3 next: campaigns=001");
}

#[test]
#[ignore = "some minutes; see the essay for the command"]
fn a_member_is_replaced_while_anybody_crashes() {
    exhaust("settled campaigns=010 stops=1 crashes=1 fragile=111 next: campaigns=001");
}

#[test]
#[ignore = "some minutes; see the essay for the command"]
fn two_elections_from_nothing() {
    exhaust("campaigns=110 proposals=1");
}

#[test]
#[ignore = "some minutes; see the essay for the command"]
fn three_ballots() {
    exhaust("settled campaigns=011 proposals=1");
}

#[test]
#[ignore = "some minutes; see the essay for the command"]
fn a_rival_and_a_crash_of_anybody() {
    exhaust("settled campaigns=010 proposals=1 crashes=1 fragile=111");
}

#[test]
#[ignore = "some minutes; see the essay for the command"]
fn a_rival_and_a_detector_that_errs() {
    exhaust("settled campaigns=010 proposals=1 blinks");
}

#[test]
#[ignore = "some minutes; see the essay for the command"]
fn a_rival_that_hears_promises_in_pieces() {
    exhaust("settled campaigns=010 proposals=2 chunks");
}

#[test]
#[ignore = "some minutes; see the essay for the command"]
fn a_rival_and_effects_taken_late() {
    exhaust("settled campaigns=010 proposals=1 batches");
}

#[test]
#[ignore = "some minutes; see the essay for the command"]
fn a_rival_while_somebody_reads() {
    exhaust("settled campaigns=010 proposals=1 reads=1");
}

#[test]
#[ignore = "some minutes; see the essay for the command"]
fn snapshots_and_trimmed_logs() {
    exhaust("settled campaigns=010 proposals=1 trims=1 trimmers=111");
}

#[test]
#[ignore = "some minutes; see the essay for the command"]
fn a_damaged_follower_heals() {
    exhaust("settled proposals=1 damages=1 fragile=001");
}

#[test]
#[ignore = "some minutes; see the essay for the command"]
fn nothing_is_spared() {
    exhaust("settled campaigns=010 proposals=1 plain");
}

#[test]
#[ignore = "a world of your own, from SELVEDGE_WORLD"]
fn one_world() {
    if let Ok(text) = std::env::var("SELVEDGE_WORLD") {
        exhaust(&text);
    }
}

#[test]
fn speaking_before_the_fsync_is_noticed() {
    finds(
        "settled campaigns=010 proposals=1 crashes=1 fragile=010",
        Mistake::SpeaksBeforeFsync,
        checks::CHOSEN,
    );
    finds(
        "settled campaigns=010 proposals=1 crashes=1 fragile=001",
        Mistake::SpeaksBeforeFsync,
        checks::AGREEMENT,
    );
    finds("campaigns=200 crashes=1 fragile=100", Mistake::SpeaksBeforeFsync, checks::BALLOTS);
}

#[test]
fn reporting_before_the_fsync_is_noticed() {
    finds("settled proposals=1 crashes=1 fragile=100", Mistake::ReportsBeforeFsync, checks::CHOSEN);
}

#[test]
fn losing_votes_is_noticed() {
    finds("settled campaigns=010 proposals=1 crashes=1 fragile=010", Mistake::LosesVotes, checks::LEADERS);
}

#[test]
fn losing_promises_is_noticed() {
    finds(
        "settled campaigns=010 proposals=1 crashes=1 fragile=001",
        Mistake::LosesPromises,
        checks::AGREEMENT,
    );
}

#[test]
fn hiding_damage_is_noticed() {
    finds("settled campaigns=010 proposals=1 damages=1 fragile=010", Mistake::HidesDamage, checks::LEADERS);
}

#[test]
fn reporting_a_snapshot_early_is_noticed() {
    let text = "settled proposals=2 crashes=1 fragile=010 trims=1 trimmers=100";
    finds(text, Mistake::ReportsSnapshotEarly, checks::RECOVERS);
}

#[test]
fn writing_out_of_order_is_noticed() {
    finds("settled proposals=2 crashes=1 fragile=010", Mistake::WritesOutOfOrder, checks::RECOVERS);
}
