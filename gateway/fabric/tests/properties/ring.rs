//! The ring, for any number of shards and any gateways of any weights.

use proptest::prelude::*;
use proptest::sample::Index;
use selvedge_fabric::ring::{MAX_WEIGHT, Member, Ring, shard_of};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeSet;

/// Gateways of any ids, up to a weight.
fn members(
    weights: std::ops::RangeInclusive<u32>,
    count: std::ops::RangeInclusive<usize>,
) -> impl Strategy<Value = Vec<Member>> {
    prop::collection::btree_map(any::<u16>(), weights, count)
        .prop_map(|all| all.into_iter().map(|(id, weight)| Member { id: GatewayId(id), weight }).collect())
}

fn replicas() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![1, 3, 5])
}

fn held(ring: &Ring, by: GatewayId) -> usize {
    ring.shards_of(by).count()
}

/// Replicas that `to` has where `from` has none.
fn moved(from: &Ring, to: &Ring) -> usize {
    let new = |s| to.replicas(s).iter().filter(|g| !from.replicas(s).contains(g)).count();
    (0..to.shards()).map(|s| new(ShardId(s))).sum()
}

/// A gateway's share of `places`, each shard at most once: the excess goes to the others by weight.
fn shares(shards: u16, each: usize, members: &[Member]) -> Vec<f64> {
    let shards = f64::from(shards);
    let mut share = vec![0.0; members.len()];
    loop {
        let full = |s: &f64| *s >= shards;
        let places = shards * (each as f64 - share.iter().filter(|s| full(s)).count() as f64);
        let weight: u32 = members.iter().zip(&share).filter(|(_, s)| !full(s)).map(|(m, _)| m.weight).sum();
        let mut more = false;
        for (m, s) in members.iter().zip(&mut share) {
            if !full(s) {
                *s = places * f64::from(m.weight) / f64::from(weight.max(1));
                if *s >= shards {
                    (*s, more) = (shards, true);
                }
            }
        }
        if !more {
            return share;
        }
    }
}

proptest! {
    #[test]
    fn every_shard_has_distinct_replicas_of_the_site_and_nobody_has_more_than_its_bound(
        shards in 1u16..=128,
        members in members(1..=MAX_WEIGHT, 1..=16),
        replicas in replicas(),
    ) {
        let ring = Ring::new(shards, &members, replicas).unwrap();
        let ids: BTreeSet<GatewayId> = members.iter().map(|m| m.id).collect();
        // The greatest useful number of replicas: at most the number of gateways, and odd.
        let wanted = replicas.min(if members.len() % 2 == 0 { members.len() - 1 } else { members.len() });
        prop_assert_eq!(ring.replication(), wanted);
        let mut led = std::collections::BTreeMap::<GatewayId, usize>::new();
        for shard in 0..shards {
            let set = ring.replicas(ShardId(shard));
            prop_assert_eq!(set.len(), wanted);
            let distinct: BTreeSet<GatewayId> = set.iter().copied().collect();
            prop_assert!(distinct.len() == wanted && distinct.is_subset(&ids));
            *led.entry(set[0]).or_default() += 1;
        }
        let bound = |share: f64| (share * 1.1 - 1e-6).ceil() as usize;
        for (member, share) in members.iter().zip(shares(shards, wanted, &members)) {
            prop_assert!(held(&ring, member.id) <= bound(share), "{member:?} holds too many, its share is {share}");
        }
        for (member, share) in members.iter().zip(shares(shards, 1, &members)) {
            let leads = led.get(&member.id).copied().unwrap_or(0);
            prop_assert!(leads <= bound(share), "{member:?} leads {leads}, its share is {share}");
        }
    }

    #[test]
    fn who_leaves_moves_its_own_replicas_and_few_others_and_who_joins_takes_no_more(
        shards in 16u16..=128,
        members in members(1..=4, 4..=12),
        gone in any::<Index>(),
    ) {
        let whole = Ring::new(shards, &members, 3).unwrap();
        let mut rest = members.clone();
        let leaver = rest.remove(gone.index(members.len())).id;
        let less = Ring::new(shards, &rest, 3).unwrap();
        let own = if whole.replication() == less.replication() { held(&whole, leaver) } else { 0 };
        // The replicas that it held must go elsewhere. Beyond that, bounds that are reached elsewhere push a few
        // more on.
        let most = 2 * held(&whole, leaver) + usize::from(shards) / 4 + 8;
        for (from, to) in [(&whole, &less), (&less, &whole)] {
            let moved = moved(from, to);
            prop_assert!((own..=most).contains(&moved), "{moved} moved, it held {own}, at most {most}");
        }
    }

    #[test]
    fn the_order_in_which_gateways_are_named_is_of_no_matter(
        shards in 1u16..=64,
        members in members(1..=9, 1..=9),
        turn in any::<Index>(),
    ) {
        let mut named = members.clone();
        named.rotate_left(turn.index(members.len()));
        prop_assert_eq!(Ring::new(shards, &named, 3), Ring::new(shards, &members, 3));
    }

    #[test]
    fn every_device_has_one_shard_whatever_it_is_called(device in ".{0,60}", shards in 1u16..=1024) {
        let shard = shard_of(&device, shards);
        prop_assert!(shard.0 < shards);
        prop_assert_eq!(shard_of(&device, shards), shard);
        let ring = Ring::new(shards.min(64), &[Member { id: GatewayId(1), weight: 1 }], 1).unwrap();
        prop_assert_eq!(ring.shard_of(&device), shard_of(&device, shards.min(64)));
    }
}
