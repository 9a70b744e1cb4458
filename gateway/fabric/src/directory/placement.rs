//! Placement: which gateways each group should have. It follows from the gateways alone, and for the directory group also from who
//! votes in it now.
//!
//! Shards follow the ring over the active full gateways, by weights and zones. A replacement stands in the ring where the gateway
//! stood that it replaces, so nothing moves but that one's replicas.
//!
//! A witness votes only where there are too few full gateways: an even number of them, and fewer than replicas are wanted. Then each
//! shard has all of them and one witness, which makes the number odd. Two boxes and a witness survive the loss of any one so.
//!
//! Two full gateways keep two replicas of what has as many: the ring would place one (an even number of voters stands no more failures),
//! but a site that shrinks to two gateways must not throw one of two copies away. What has one replica keeps one.
//!
//! The directory group has up to five voters, an odd number, all of them full: those that vote now as long as they can, then others
//! by their numbers, in as many zones as there are. Two full gateways take a witness, too.

use super::gateway::{GatewayRole, GatewayState, Gateways};
use crate::ring::{MAX_REPLICAS, Member, Ring};
use selvedge_types::ids::{GatewayId, ShardId};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The voters that each shard should have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    wanted: Vec<Vec<GatewayId>>,
}

impl Placement {
    pub(super) fn of(shards: u16, replicas: usize, gateways: &Gateways) -> Self {
        let mut members = Vec::new();
        let (mut zones, mut by_ring_id) = (BTreeMap::new(), BTreeMap::new());
        for (id, gateway) in gateways.active_full() {
            members.push(Member { id: gateway.ring_id, weight: gateway.weight });
            by_ring_id.insert(gateway.ring_id, id);
            if let Some(zone) = &gateway.zone {
                zones.insert(gateway.ring_id, zone.clone());
            }
        }
        let witness =
            witness(gateways).filter(|_| members.len() < replicas && members.len().is_multiple_of(2));
        // Beside a witness everybody has everything, and the ring says who leads.
        let ring = Ring::zoned(shards, &members, &zones, if witness.is_some() { 1 } else { replicas });
        let Ok(ring) = ring else { return Self::default() }; // there is always an active gateway
        let wanted = (0..shards).map(|shard| {
            let mut wanted: Vec<GatewayId> = ring
                .replicas(ShardId(shard))
                .iter()
                .filter_map(|ring_id| by_ring_id.get(ring_id).copied())
                .collect();
            if witness.is_some() {
                let others: Vec<GatewayId> =
                    by_ring_id.values().copied().filter(|id| !wanted.contains(id)).collect();
                wanted.extend(others);
                wanted.extend(witness);
            }
            wanted
        });
        Self { wanted: wanted.collect() }
    }

    /// The gateways on which the ring places a shard, the preferred leader first; with the witness where it votes. Empty for a shard
    /// that the site does not have.
    pub fn wanted(&self, shard: ShardId) -> &[GatewayId] {
        self.wanted.get(usize::from(shard.0)).map_or(&[], Vec::as_slice)
    }
}

/// The voters that the directory group should have, when it has `current` ones.
pub(super) fn directory_voters(gateways: &Gateways, current: &[GatewayId]) -> Vec<GatewayId> {
    let mut free: Vec<(GatewayId, Option<&str>)> =
        gateways.active_full().map(|(id, g)| (id, g.zone.as_deref())).collect();
    let full = free.len();
    let witness = witness(gateways).filter(|_| full == 2);
    let odd = full.saturating_sub(usize::from(full.is_multiple_of(2)));
    let all = witness.is_some() || keeps_both(full, current);
    let most = if all { full } else { odd.min(MAX_REPLICAS) };
    let mut voters = Vec::new();
    let mut taken: Vec<Option<&str>> = Vec::new();
    while voters.len() < most {
        let beside = |zone: Option<&str>| taken.iter().filter(|z| zone.is_some() && **z == zone).count();
        let best = free
            .iter()
            .enumerate()
            .min_by_key(|(_, (id, zone))| (beside(*zone), Reverse(current.contains(id)), *id))
            .map(|(at, _)| at);
        let Some(best) = best else { break };
        let (id, zone) = free.remove(best);
        voters.push(id);
        taken.push(zone);
    }
    voters.extend(witness);
    voters
}

/// Whether there are two full gateways, and a group has more than one voter to lose.
fn keeps_both(full: usize, current: &[GatewayId]) -> bool {
    full == 2 && current.len() > 1
}

/// The voters that a shard should have, when it has `current` ones.
pub(super) fn shard_voters(
    placement: &Placement,
    gateways: &Gateways,
    shard: ShardId,
    current: &[GatewayId],
) -> Vec<GatewayId> {
    let mut wanted = placement.wanted(shard).to_vec();
    if keeps_both(gateways.active_full().count(), current) && wanted.len() == 1 {
        let others = gateways.active_full().map(|(id, _)| id).filter(|id| !wanted.contains(id));
        wanted.extend(others.collect::<Vec<_>>());
    }
    wanted
}

/// The witness that votes where one is needed.
fn witness(gateways: &Gateways) -> Option<GatewayId> {
    let mut witnesses = gateways.living().filter(|(_, g)| g.role == GatewayRole::Witness);
    witnesses.find(|(_, g)| g.state == GatewayState::Active).map(|(id, _)| id)
}
