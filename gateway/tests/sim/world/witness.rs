//! Two full gateways and a witness: how such a site begins, and how it loses a full one for good while the other is away.

use super::{FRESH_MS, HEAL_MS, World};
use crate::invariants::placement;
use selvedge_fabric::directory::GatewayRole;
use selvedge_fabric::shard::TAIL_BYTES;
use selvedge_types::ids::GatewayId;

/// How much each shard takes while a full gateway is away: several times what a witness holds in memory.
const AWAY_BYTES: usize = 12 * TAIL_BYTES;
const AWAY_PART_BYTES: usize = 16 * 1024;

impl World {
    /// The witness joins, and votes everywhere before the storm begins.
    pub(super) fn begin_with_witness(&mut self) {
        self.operators.join_witness();
        let until = self.now + HEAL_MS;
        self.pass(1_000);
        while self.witness().is_none() || !self.is_placed() {
            assert!(self.now < until, "the witness does not come to vote: {}", self.show());
            self.pass(200);
        }
    }

    fn witness(&self) -> Option<GatewayId> {
        let newest = placement::newest(&self.places)?;
        newest.gateways().find(|(_, g)| g.role == GatewayRole::Witness).map(|(id, _)| id)
    }

    /// A full gateway is away for so long that nobody holds in memory what it misses. Then the other one dies with its
    /// disk, and the first comes back: it must get from the witness what it lacks, and lead.
    pub(super) fn last_of_two(&mut self) {
        self.calm();
        self.settle();
        let witness = self.witness().expect("it votes");
        let mut full: Vec<GatewayId> = self.places.keys().copied().filter(|id| *id != witness).collect();
        assert_eq!(full.len(), 2, "two full gateways");
        let away = full.swap_remove(self.random.below(2) as usize);
        let dies = full[0];
        self.trace(|| format!("{away} is away, {dies} will die, {witness} is the witness"));
        self.kill(away, u64::MAX / 2);
        for _ in 0..AWAY_BYTES / AWAY_PART_BYTES {
            self.load(AWAY_PART_BYTES);
            self.devices.measure(&mut self.random, self.now, false);
            if self.random.chance(100) {
                let clock = self.places[&witness].now(self.now);
                self.places
                    .values_mut()
                    .filter_map(|p| p.live.as_mut())
                    .for_each(|live| live.snapshots(clock));
            }
            self.calm_since = self.now; // one is down
            self.pass(100);
        }
        let until = self.now + FRESH_MS;
        while !self.devices.done() {
            assert!(self.now < until, "one full gateway and a witness take nothing: {}", self.show());
            self.calm_since = self.now;
            self.pass(50);
        }
        if self.random.chance(500) {
            self.kill(witness, 200);
        }
        self.leaves(dies, true);
        self.place(away).back_at = self.now + 300;
        self.wake_all();
        self.devices.measure(&mut self.random, self.now, false);
        let until = self.now + 3 * FRESH_MS;
        while !self.devices.done() {
            assert!(self.now < until, "the gateway that was away does not lead: {}", self.show());
            self.pass(50);
        }
        // A new box takes the place of the lost one.
        self.operators.join(Some(dies), 0);
        let until = self.now + HEAL_MS;
        while !self.is_placed() {
            assert!(self.now < until, "the lost gateway is not replaced: {}", self.show());
            self.pass(200);
        }
    }
}
