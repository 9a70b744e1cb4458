//! The link between two gateways stays cut, for longer than leaders wait before they hand over. The site serves
//! everybody nevertheless, as if it were healed:
//!
//! - the two gateways have each other within reach by a detour (`invariants/reached.rs`),
//! - the batches of every gateway are answered, whoever leads their shards,
//! - leadership goes to gateways that reach all others.

use super::{FRESH_MS, World};
use crate::gateway::Place;
use crate::invariants::reached::REACH_MS;
use selvedge_fabric::detector::DETECT_MS;
use selvedge_fabric::shard::HAND_BACK_MS;
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

/// How long no batch of a gateway may be answered while some wait: twice as long as until it takes a shard for stuck. A
/// leader may step down meanwhile, and the one that comes next may have to be asked for.
const ANSWERED_MS: u64 = 2_000;
/// How long leadership may take to leave the two gateways. If one of them wins the election after the other has stepped
/// down, it waits again.
const LED_WELL_MS: u64 = 6 * HAND_BACK_MS;
/// The bytes of what a gateway forwards to each shard.
const PUBLISH_BYTES: usize = 40;
/// How often devices measure before and after leadership has moved.
const ROUNDS: usize = 4;

/// Two gateways that don't reach each other.
pub struct Apart {
    a: GatewayId,
    b: GatewayId,
    /// What is unanswered before then may have waited since before the cut was noticed.
    noticed_at: u64,
    /// Since when shards have been stuck at a gateway.
    stuck_since: BTreeMap<GatewayId, u64>,
}

impl Apart {
    pub fn pair(&self) -> (GatewayId, GatewayId) {
        (self.a, self.b)
    }

    /// Checks that all batches are answered.
    pub fn check(&mut self, now: u64, places: &BTreeMap<GatewayId, Place>) {
        for (id, place) in places.iter().filter(|_| now >= self.noticed_at) {
            let stuck = place.live.as_ref().map(|live| live.forward.stuck(now)).unwrap_or_default();
            if stuck.is_empty() {
                self.stuck_since.remove(id);
                continue;
            }
            let since = *self.stuck_since.entry(*id).or_insert(now);
            let (a, b) = self.pair();
            assert!(
                now < since + ANSWERED_MS,
                "{id} gets no answer from {stuck:?}, although only the link between {a} and {b} is cut"
            );
        }
    }
}

impl World {
    pub(super) fn stay_apart(&mut self) {
        self.calm();
        self.pass(REACH_MS);
        let (a, mut b) = (self.pick(), self.pick());
        while a == b {
            b = self.pick();
        }
        let both = self.random.chance(700);
        self.trace(|| format!("the link between {a} and {b} is cut, both ways: {both}"));
        self.cut_apart(a, b, both, true);
        self.calm_since = self.now;
        let noticed_at = self.now + 2 * DETECT_MS;
        self.apart = Some(Apart { a, b, noticed_at, stuck_since: BTreeMap::new() });
        self.pass(2 * DETECT_MS);
        self.serve_all();
        let until = self.now + LED_WELL_MS;
        while let Some((shard, leader)) = self.led_by_one_of(a, b) {
            assert!(self.now < until, "{leader} still leads {shard}, and others reach more: {}", self.show());
            self.forward_all();
            self.pass(500);
        }
        self.serve_all();
        self.trace(|| "the link is whole again".to_string());
        self.apart = None;
        self.cut_apart(a, b, both, false);
        self.calm_since = self.now;
    }

    fn cut_apart(&mut self, a: GatewayId, b: GatewayId, both: bool, cut: bool) {
        self.wires.cut(&mut self.random, self.now, a, b, cut);
        if both {
            self.wires.cut(&mut self.random, self.now, b, a, cut);
        }
    }

    /// Devices measure, and every reading is acknowledged; every gateway has something for every shard, and is answered.
    fn serve_all(&mut self) {
        for _ in 0..ROUNDS {
            for _ in 0..10 {
                self.devices.measure(&mut self.random, self.now, false);
            }
            self.forward_all();
            let until = self.now + FRESH_MS;
            while !self.devices.done() || !self.all_are_answered() {
                assert!(self.now < until, "not all is acknowledged: {}", self.show());
                self.pass(50);
            }
        }
    }

    /// Every gateway forwards something to every shard.
    fn forward_all(&mut self) {
        for at in self.places.keys().copied().collect::<Vec<_>>() {
            for shard in (0..self.common.ring.shards()).map(ShardId) {
                self.load_at(at, shard, PUBLISH_BYTES);
            }
        }
    }

    fn all_are_answered(&self) -> bool {
        let lives = self.places.values().filter_map(|place| place.live.as_ref());
        lives.into_iter().all(|live| live.forward.deadline_ms().is_none())
    }

    /// A shard that one of these leads, although another of its replicas reaches all gateways.
    fn led_by_one_of(&self, a: GatewayId, b: GatewayId) -> Option<(ShardId, GatewayId)> {
        let lives = [a, b].into_iter().filter_map(|id| Some((id, self.places[&id].live.as_ref()?)));
        let mut led = lives.flat_map(|(id, live)| live.replicas.iter().map(move |(s, r)| (*s, id, r)));
        led.find(|(_, _, replica)| {
            let core = replica.core();
            core.serves() && core.consensus().config().members.iter().any(|m| *m != a && *m != b)
        })
        .map(|(shard, id, _)| (shard, id))
    }
}
