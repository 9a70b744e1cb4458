//! Placement: which gateways should vote in each group. It follows from the gateways; for the directory group, and with
//! two gateways, also from the present voters.
//!
//! # Shards
//! Shards follow the ring over the active full gateways, by weights and zones. A replacement has the ring position of
//! the gateway that it replaces, so only that gateway's replicas move.
//!
//! A witness votes only if the number of full gateways is even and below the wanted number of replicas. Then every
//! shard is on all full gateways and one witness, which makes the number of voters odd. In this way two full gateways
//! and a witness survive the loss of any one of the three.
//!
//! With two full gateways and no witness the ring places one replica per shard, since an even number of voters
//! tolerates no more failures than the odd number below it. But a site that shrinks to two gateways must not discard
//! one of two copies: a group with more than one voter keeps both gateways, and a group with one voter keeps one.
//!
//! # The directory group
//! The directory group has an odd number of voters, at most [`MAX_REPLICAS`], all of them full gateways. They are
//! spread over as many zones as possible; among equals, present voters go before others, and lower numbers before
//! higher ones. Two full gateways take a witness too; without one they also keep both copies.

use super::gateway::{GatewayRole, GatewayState, Gateways};
use crate::ring::{MAX_REPLICAS, Member, Ring};
use selvedge_types::ids::{GatewayId, ShardId};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The voters that each shard should have by the gateways alone.
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
        // With a witness, every full gateway has every shard, and the ring only chooses the preferred leaders.
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

    /// The gateways on which the ring places a shard, the preferred leader first, and the witness if one votes. Empty
    /// for a shard that the site does not have.
    pub fn wanted(&self, shard: ShardId) -> &[GatewayId] {
        self.wanted.get(usize::from(shard.0)).map_or(&[], Vec::as_slice)
    }
}

/// The voters that the directory group should have, given its present voters.
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

/// Whether a group keeps both copies: there are two full gateways, and it has more than one voter now.
fn keeps_both(full: usize, current: &[GatewayId]) -> bool {
    full == 2 && current.len() > 1
}

/// The voters that a shard should have, given its present voters.
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

/// The active witness with the lowest number. No other witness votes.
fn witness(gateways: &Gateways) -> Option<GatewayId> {
    let mut witnesses = gateways.living().filter(|(_, g)| g.role == GatewayRole::Witness);
    witnesses.find(|(_, g)| g.state == GatewayState::Active).map(|(id, _)| id)
}
