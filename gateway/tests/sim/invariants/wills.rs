//! A client's next connection comes after its will: in the shard of its device, the will of a connection lies in a
//! lower slot than anything that a later connection has published. (The check of readings shows that a will counts
//! once.)

use selvedge_types::ids::ShardId;
use std::collections::BTreeMap;

/// Something of one connection of one client that a shard has counted.
#[derive(Debug, Clone)]
pub struct Counted {
    pub client: String,
    pub epoch: u64,
    pub shard: ShardId,
    pub slot: u64,
}

/// By client and shard: epochs and the slots of their wills, or of their first publishes.
type Slots = BTreeMap<(String, ShardId), BTreeMap<u64, u64>>;

#[derive(Default)]
pub struct Wills {
    wills: Slots,
    published: Slots,
}

impl Wills {
    pub fn will(&mut self, c: Counted) {
        let place = (c.client.clone(), c.shard);
        for (epoch, slot) in self.published.get(&place).into_iter().flat_map(|all| all.range(c.epoch + 1..)) {
            assert!(c.slot < *slot, "the will {c:?} comes after what epoch {epoch} published in slot {slot}");
        }
        self.wills.entry(place).or_default().insert(c.epoch, c.slot);
    }

    pub fn published(&mut self, c: Counted) {
        let place = (c.client.clone(), c.shard);
        for (epoch, slot) in self.wills.get(&place).into_iter().flat_map(|all| all.range(..c.epoch)) {
            assert!(*slot < c.slot, "{c:?} comes before the will of epoch {epoch} in slot {slot}");
        }
        let first = self.published.entry(place).or_default().entry(c.epoch).or_insert(c.slot);
        *first = c.slot.min(*first);
    }

    pub fn count(&self) -> u64 {
        self.wills.values().map(|all| all.len() as u64).sum()
    }
}
