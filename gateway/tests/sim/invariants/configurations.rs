//! A group changes its members safely: at most one configuration decides a slot, nothing is chosen or proposed after a
//! stop, and only votes of members count.
//!
//! - A configuration has one membership, and begins behind one slot, on every replica.
//! - Nothing is chosen in a configuration beyond the slot at which the next one begins.
//! - The log of a leader holds nothing above a stop.
//! - A gateway promises and votes only in a configuration of which it is a member, and which its replica has begun.
//! - What a leader calls chosen, in a ballot in which it was seen to lead before, has the votes of a majority of the
//!   members.

use crate::gateway::Live;
use selvedge_fabric::configuration::{Configuration, is_stop};
use selvedge_fabric::peer::PeerMessage;
use selvedge_fabric::shard::ShardCore;
use selvedge_paxos::{Ballot, Message, Role, Slot};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

/// The slots up to which each member has voted in a ballot.
type Votes = BTreeMap<GatewayId, Slot>;

#[derive(Default)]
pub struct Configurations {
    known: BTreeMap<ShardId, BTreeMap<u32, Configuration>>,
    /// The highest slot that was seen as chosen in each configuration.
    chosen: BTreeMap<(ShardId, u32), Slot>,
    votes: BTreeMap<(ShardId, u32, Ballot), Votes>,
    /// For each process's replica that leads: its configuration and ballot, and the commit index with which it was first
    /// seen.
    led: BTreeMap<(GatewayId, u64, ShardId), (u32, Ballot, Slot)>,
}

impl Configurations {
    /// The configurations of a group from this number on, in order.
    pub fn from(&self, shard: ShardId, number: u32) -> impl Iterator<Item = &Configuration> {
        self.known.get(&shard).into_iter().flat_map(move |all| all.range(number..)).map(|(_, known)| known)
    }

    /// How many configurations have begun beyond the first ones.
    pub fn count(&self) -> u64 {
        self.known.values().map(|all| all.keys().next_back().map_or(0, |number| u64::from(*number) - 1)).sum()
    }

    pub fn check(&mut self, at: GatewayId, start: u64, shard: ShardId, replica: &ShardCore) {
        let (found, group) = (replica.configuration(), replica.consensus());
        let all = self.known.entry(shard).or_default();
        let known = all.entry(found.number).or_insert_with(|| found.clone());
        assert!(known == found, "{shard} at {at}: {found:?} is elsewhere {known:?}");
        // A replica can be made of the first configuration before it knows of later ones.
        let commit = group.commit();
        let chosen = self.chosen.entry((shard, found.number)).or_default();
        *chosen = commit.max(*chosen);
        for number in [found.number, found.number.saturating_sub(1)] {
            let chosen = self.chosen.get(&(shard, number)).copied().unwrap_or(0);
            let end = self.known[&shard].get(&(number + 1)).map_or(Slot::MAX, |next| next.base);
            assert!(
                chosen <= end,
                "{shard}: slot {chosen} is chosen in configuration {number}, which ended with slot {end} (seen at {at})"
            );
        }
        if group.role() == Role::Leader {
            self.check_leader(at, start, shard, replica);
        }
    }

    fn check_leader(&mut self, at: GatewayId, start: u64, shard: ShardId, replica: &ShardCore) {
        let (number, group) = (replica.configuration().number, replica.consensus());
        let (ballot, commit, last) = (group.ballot(), group.commit(), group.last_slot());
        for slot in commit.max(group.first_slot())..last {
            let ends = group.entry(slot).is_some_and(|entry| is_stop(&entry.value));
            assert!(
                !ends,
                "{shard}: {at} leads in {ballot}, and has slot {last} after the stop in slot {slot}"
            );
        }
        let led = self.led.entry((at, start, shard)).or_insert((number, ballot, commit));
        if (led.0, led.1) != (number, ballot) {
            *led = (number, ballot, commit);
        }
        if commit <= led.2 {
            return;
        }
        led.2 = commit;
        let members = &replica.configuration().members;
        let votes = self.votes.get(&(shard, number, ballot));
        let voted = |m: &&GatewayId| {
            **m == at || votes.is_some_and(|votes| votes.get(*m).is_some_and(|upto| *upto >= commit))
        };
        let count = members.iter().filter(voted).count();
        assert!(
            count > members.len() / 2,
            "{shard}: {at} calls slot {commit} chosen in {ballot} of configuration {number}, for which {count} of {members:?} voted"
        );
    }

    /// A gateway sends this message.
    pub fn said(&mut self, from: GatewayId, live: &Live, message: &PeerMessage) {
        let PeerMessage::Paxos { group, configuration, message } = message else { return };
        let vote = match message {
            Message::Accepted { ballot, upto, vote: true, .. } => Some((*ballot, *upto)),
            Message::Promise { .. } => None,
            _ => return,
        };
        let begun = live.replicas.get(group).map_or(0, |replica| replica.core().configuration().number);
        let known = self.known.get(group).and_then(|all| all.get(configuration));
        let is_member = known.is_some_and(|known| known.has_member(from)) && begun >= *configuration;
        assert!(
            is_member,
            "{group}: {from}, in configuration {begun}, says in configuration {configuration}, which is {known:?}: {message:?}"
        );
        if let Some((ballot, upto)) = vote {
            let votes = self.votes.entry((*group, *configuration, ballot)).or_default();
            let known = votes.entry(from).or_default();
            *known = upto.max(*known);
        }
    }
}
