//! What must hold whenever a host applies something, over all configurations.

use crate::stop::Cast;
use selvedge_paxos::{Ballot, Entry, Slot, Value};
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeMap, BTreeSet};

/// A configuration: its number, who takes part, and the slot after which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub configuration: u32,
    pub cast: Cast,
    pub base: Slot,
}

/// Who voted for what in a slot of a configuration.
type Votes = BTreeMap<(Ballot, Value), BTreeSet<GatewayId>>;

/// Everything that was ever chosen, and every vote that was ever on a disk.
pub struct Checks {
    seed: u64,
    /// By slot, from 1 on: the value, and the configuration that chose it.
    pub chosen: Vec<(Value, u32)>,
    /// All configurations, in order.
    pub places: Vec<Place>,
    votes: BTreeMap<(u32, Slot), Votes>,
}

impl Checks {
    pub fn new(seed: u64, first: Cast) -> Self {
        let places = vec![Place { configuration: 1, cast: first, base: 0 }];
        Self { seed, chosen: Vec::new(), places, votes: BTreeMap::new() }
    }

    /// The configuration that begins after the last stop.
    pub fn newest(&self) -> &Place {
        self.places.last().unwrap()
    }

    /// The configuration of a host that has applied all slots up to this one.
    pub fn place_at(&self, slot: Slot) -> &Place {
        self.places.iter().rev().find(|place| place.base <= slot).unwrap()
    }

    /// A vote is on the disk of an undamaged replica.
    pub fn voted(&mut self, by: GatewayId, configuration: u32, entry: &Entry) {
        let votes = self.votes.entry((configuration, entry.slot)).or_default();
        votes.entry((entry.ballot, entry.value.clone())).or_default().insert(by);
    }

    /// A host applies what its replica in this configuration calls chosen.
    pub fn applied(&mut self, by: GatewayId, configuration: u32, slot: Slot, value: &Value) {
        let seed = self.seed;
        if let Some((chosen, chose)) = self.chosen.get(slot as usize - 1) {
            assert_eq!(chosen, value, "seed {seed}: {by} has another value in slot {slot}");
            assert_eq!(*chose, configuration, "seed {seed}: {by} has slot {slot} from another configuration");
            return;
        }
        assert_eq!(self.chosen.len() as u64 + 1, slot, "seed {seed}: {by} leaves slots out");
        let place = self.newest();
        // Nothing is chosen in a configuration after its stop.
        assert_eq!(place.configuration, configuration, "seed {seed}: {by} at slot {slot}");
        let members = &place.cast.members;
        let votes = self.votes.get(&(configuration, slot));
        let majority = votes.into_iter().flatten().any(|((_, voted), who)| {
            voted == value && who.iter().filter(|w| members.contains(w)).count() > members.len() / 2
        });
        assert!(
            majority,
            "seed {seed}: {by} calls slot {slot} chosen, but no majority of members voted for it"
        );
        self.chosen.push((value.clone(), configuration));
        if let Some(cast) = Cast::after(value) {
            self.places.push(Place { configuration: configuration + 1, cast, base: slot });
        }
    }
}
