//! The ring's placement: frozen for good, balanced, and stable when gateways come and go.

use selvedge_fabric::directory::{DIRECTORY_GROUP, Directory, FirstGateway, Genesis};
use selvedge_fabric::ring::{MAX_GATEWAYS, MAX_WEIGHT, Member, ReplicaSet, Ring, RingError, shard_of};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::{BTreeMap, HashSet};

fn members(weights: &[u32]) -> Vec<Member> {
    let member = |(n, weight): (usize, &u32)| Member { id: GatewayId(n as u16 + 1), weight: *weight };
    weights.iter().enumerate().map(member).collect()
}

fn ring(shards: u16, weights: &[u32], replicas: usize) -> Ring {
    Ring::new(shards, &members(weights), replicas).unwrap()
}

/// All sets as text, one word a shard: `1.2.3` is led by gateway 1.
fn shown(ring: &Ring) -> String {
    let set = |s| ring.replicas(ShardId(s)).iter().map(|g| g.0.to_string()).collect::<Vec<_>>().join(".");
    (0..ring.shards()).map(set).collect::<Vec<_>>().join(" ")
}

/// How many replicas `to` places where `from` has none.
fn moved(from: &Ring, to: &Ring) -> usize {
    let new = |s| to.replicas(s).iter().filter(|g| !from.replicas(s).contains(g)).count();
    (0..to.shards()).map(|s| new(ShardId(s))).sum()
}

/// ceil(1.1 x the share) of `places` (each of `shards` at most once), computed independently of the ring's code: a
/// bisection finds the level to which the weights fill.
fn bounds(shards: u16, each: usize, weights: &[u32]) -> Vec<usize> {
    let (shards, places) = (f64::from(shards), f64::from(shards) * each as f64);
    let (mut low, mut high) = (0.0, places);
    for _ in 0..200 {
        let level = (low + high) / 2.0;
        let held: f64 = weights.iter().map(|w| (level * f64::from(*w)).min(shards)).sum();
        if held < places { low = level } else { high = level }
    }
    weights.iter().map(|w| ((high * f64::from(*w)).min(shards) * 1.1 - 1e-6).ceil() as usize).collect()
}

fn assert_bounded(ring: &Ring, weights: &[u32], replicas: usize) {
    let said = format!("{} shards, weights {weights:?}, {replicas} replicas", ring.shards());
    let mut held = vec![0usize; weights.len()];
    let mut led = vec![0usize; weights.len()];
    for shard in 0..ring.shards() {
        let set = ring.replicas(ShardId(shard));
        assert_eq!(set.len(), ring.replication(), "{said}");
        assert_eq!(set.iter().collect::<HashSet<_>>().len(), set.len(), "distinct: {said}");
        set.iter().for_each(|g| held[g.0 as usize - 1] += 1);
        led[set[0].0 as usize - 1] += 1;
    }
    for (n, bound) in bounds(ring.shards(), ring.replication(), weights).into_iter().enumerate() {
        assert!(held[n] <= bound, "gateway {} holds {} of at most {bound}: {said}", n + 1, held[n]);
    }
    for (n, bound) in bounds(ring.shards(), 1, weights).into_iter().enumerate() {
        assert!(led[n] <= bound, "gateway {} leads {} of at most {bound}: {said}", n + 1, led[n]);
    }
}

#[test]
fn devices_and_shards_stay_where_they_are_in_every_release() {
    let shards: Vec<_> = ["", "pump-7", "line-1/press-3", "Müller 4"]
        .into_iter()
        .map(|device| (shard_of(device, 64).0, shard_of(device, 1024).0))
        .collect();
    assert_eq!(shards, [(11, 180), (42, 680), (50, 801), (8, 136)]);
    assert_eq!(
        shown(&ring(16, &[1, 1, 1], 3)),
        "2.1.3 3.1.2 1.3.2 3.2.1 1.3.2 3.2.1 3.1.2 2.1.3 1.2.3 2.3.1 2.3.1 3.2.1 2.3.1 3.1.2 2.3.1 1.2.3"
    );
    assert_eq!(
        shown(&ring(16, &[1, 1, 1, 1, 1], 3)),
        "2.1.3 4.3.1 5.1.3 3.2.5 1.3.5 5.4.3 5.3.4 4.2.1 5.4.1 4.5.2 2.3.1 4.3.2 2.4.5 3.4.5 3.5.2 2.1.5"
    );
    assert_eq!(
        shown(&ring(12, &[1, 2, 4, 1], 3)),
        "3.2.1 3.2.4 3.1.2 2.3.4 3.1.2 3.4.2 3.2.4 4.2.1 3.2.4 4.3.2 2.3.1 2.3.1"
    );
    // Whole sites, as one number each.
    let whole = |shards, weights: &[u32], replicas| {
        xxhash_rust::xxh3::xxh3_64(shown(&ring(shards, weights, replicas)).as_bytes())
    };
    assert_eq!(whole(64, &[1, 1, 1], 3), 6_229_981_603_025_829_940);
    assert_eq!(whole(64, &[1; 7], 3), 1_324_606_480_981_920_407);
    assert_eq!(whole(1024, &[1, 2, 3, 4, 5, 6, 7, 8], 5), 1_057_793_176_398_333_445);
}

#[test]
fn a_hundred_thousand_devices_spread_evenly_over_the_shards() {
    for shards in [3u16, 64, 1000, 1024] {
        let mut held = vec![0u32; usize::from(shards)];
        (0..100_000).for_each(|n| held[usize::from(shard_of(&format!("sensor-{n:05}"), shards).0)] += 1);
        let even = 100_000.0 / f64::from(shards);
        for (shard, n) in held.into_iter().enumerate() {
            let off = (f64::from(n) - even).abs() / even.sqrt();
            assert!(off < 5.0, "shard {shard} of {shards} has {n} devices: {off:.1} standard deviations off");
        }
    }
}

#[test]
fn no_gateway_holds_or_leads_more_than_its_bound() {
    for n in 1..=32usize {
        let kinds: [Vec<u32>; 5] = [
            vec![1; n],
            (1..=n as u32).collect(),
            (0..n).map(|i| if i == 0 { MAX_WEIGHT } else { 1 }).collect(),
            (0..n).map(|i| if i % 3 == 0 { 1 } else { 9 }).collect(),
            (0..n as u32).map(|i| 1 + i * 37 % 11).collect(),
        ];
        for weights in kinds {
            for (shards, replicas) in [(1, 3), (7, 3), (64, 1), (64, 3), (64, 5), (200, 3)] {
                assert_bounded(&ring(shards, &weights, replicas), &weights, replicas);
            }
        }
    }
    assert_bounded(&ring(1024, &[2; MAX_GATEWAYS], 5), &[2; MAX_GATEWAYS], 5);
}

#[test]
fn a_gateway_that_joins_or_leaves_moves_about_its_share() {
    for shards in [64u16, 256, 1024] {
        for n in [4, 5, 6, 7, 8, 10, 12, 14, 16, 24, 32usize] {
            let all = members(&vec![1; n]);
            let whole = Ring::new(shards, &all, 3).unwrap();
            let (mut most, mut sum) = (0, 0);
            for gone in 0..n {
                let mut rest = all.clone();
                rest.remove(gone);
                let less = Ring::new(shards, &rest, 3).unwrap();
                most = most.max(moved(&whole, &less)).max(moved(&less, &whole));
                sum += moved(&whole, &less);
            }
            // Eight replicas more, because ceil() is coarse with few of them per gateway.
            let share = 3 * usize::from(shards) / n;
            let said = format!("{shards} shards, {n} gateways: share {share}, most {most}, all {sum}");
            assert!(most <= share * 3 / 2 + 8, "{said}");
            assert!(sum / n <= share * 5 / 4 + 8, "{said}");
        }
    }
}

#[test]
fn more_weight_only_draws_replicas_towards_itself() {
    let (before, after) = (ring(256, &[4, 4, 4, 4, 4, 4], 3), ring(256, &[5, 4, 4, 4, 4, 4], 3));
    let held = |ring: &Ring| ring.shards_of(GatewayId(1)).count();
    assert!(held(&after) > held(&before));
    assert!(moved(&before, &after) <= 256 * 3 / 12, "{} moved", moved(&before, &after));
}

#[test]
fn the_order_of_members_has_no_influence() {
    let mut named = members(&[3, 1, 4, 1, 5]);
    let one = Ring::new(64, &named, 3).unwrap();
    named.reverse();
    assert_eq!(one, Ring::new(64, &named, 3).unwrap());
}

#[test]
fn a_small_site_has_as_many_replicas_as_make_sense() {
    let replication = |n: usize, wanted| ring(64, &vec![1; n], wanted).replication();
    assert_eq!([1, 2, 3, 4, 5, 6].map(|n| replication(n, 3)), [1, 1, 3, 3, 3, 3]);
    assert_eq!([1, 2, 3, 4, 5, 6].map(|n| replication(n, 5)), [1, 1, 3, 3, 5, 5]);
    assert_eq!(ring(64, &[1; 3], 3).replicas(ShardId(64)), [], "no such shard");
}

#[test]
fn a_ring_with_other_replica_sets_hashes_as_before_and_keeps_what_is_not_replaced() {
    let ring = ring(8, &[1; 4], 3);
    let set = |configuration, members: &[u16]| {
        let members = members.iter().copied().map(GatewayId).collect();
        ReplicaSet { configuration, members }
    };
    let sets = BTreeMap::from([
        (ShardId(2), set(3, &[9, 1])),
        (ShardId(3), set(2, &[])),
        (ShardId(4), set(2, &[1, 2, 3, 4, 5, 6, 7, 8])),
        (ShardId(8), set(2, &[9])),
        (DIRECTORY_GROUP, set(2, &[4, 9])),
    ]);
    let placed = ring.placed(sets);
    assert_eq!(placed.replicas(ShardId(2)), [GatewayId(9), GatewayId(1)]);
    for shard in (0..8).map(ShardId).filter(|shard| *shard != ShardId(2)) {
        assert_eq!(placed.replicas(shard), ring.replicas(shard));
    }
    assert_eq!((placed.replicas(ShardId(8)), placed.shards(), placed.replication()), (&[][..], 8, 3));
    assert_eq!(placed.replicas(DIRECTORY_GROUP), [GatewayId(4), GatewayId(9)]);
    assert_eq!(placed.shards_of(GatewayId(9)).collect::<Vec<_>>(), [ShardId(2)]);
    for device in (0..100).map(|n| format!("device-{n}")) {
        assert_eq!(placed.shard_of(&device), ring.shard_of(&device));
    }
}

#[test]
fn the_directory_group_begins_where_the_directory_places_it() {
    for count in 1..=MAX_GATEWAYS as u16 {
        // The ids have gaps, and the settings list them in any order.
        let ids: Vec<GatewayId> = (0..count).rev().map(|n| GatewayId(3 * n + 2)).collect();
        let gateways: Vec<FirstGateway> =
            ids.iter().map(|id| FirstGateway { id: *id, weight: 2, peer: "box:7400".into() }).collect();
        let directory = Directory::genesis(&Genesis { shards: 4, replicas: 3, gateways }).unwrap();
        let members: Vec<Member> = ids.iter().map(|id| Member { id: *id, weight: 2 }).collect();
        let ring = Ring::new(4, &members, 3).unwrap();
        let voters = &directory.configuration(DIRECTORY_GROUP).unwrap().voters;
        assert_eq!(ring.replicas(DIRECTORY_GROUP), voters, "{count} gateways");
    }
}

#[test]
fn what_makes_no_ring_is_said() {
    let m = |id, weight| Member { id: GatewayId(id), weight };
    let fails = |shards, members: &[Member], replicas| Ring::new(shards, members, replicas).unwrap_err();
    assert_eq!(fails(0, &[m(1, 1)], 3), RingError::Shards(0));
    assert_eq!(fails(1025, &[m(1, 1)], 3), RingError::Shards(1025));
    assert_eq!(fails(64, &[m(1, 1)], 2), RingError::Replicas(2));
    assert_eq!(fails(64, &[m(1, 1)], 0), RingError::Replicas(0));
    assert_eq!(fails(64, &[m(1, 1)], 7), RingError::Replicas(7));
    assert_eq!(fails(64, &[], 3), RingError::NoGateway);
    assert_eq!(fails(64, &[m(1, 1), m(2, 1), m(1, 2)], 3), RingError::Duplicate(GatewayId(1)));
    assert_eq!(fails(64, &[m(1, 1), m(2, 0)], 3), RingError::Weight { id: GatewayId(2), weight: 0 });
    assert_eq!(fails(64, &[m(1, MAX_WEIGHT + 1)], 3), RingError::Weight { id: GatewayId(1), weight: 65 });
    let many: Vec<Member> = (0..65).map(|id| m(id, 1)).collect();
    assert_eq!(fails(64, &many, 3), RingError::TooManyGateways(65));
}

/// The zones of members that are named in order: `ab-` puts the first two in zones of their own and the third in none.
fn zones(named: &str) -> BTreeMap<GatewayId, String> {
    let zones = named.chars().zip(1..).filter(|(zone, _)| *zone != '-');
    zones.map(|(zone, id)| (GatewayId(id), zone.to_string())).collect()
}

fn zoned(shards: u16, weights: &[u32], named: &str, replicas: usize) -> Ring {
    Ring::zoned(shards, &members(weights), &zones(named), replicas).unwrap()
}

/// To what level each may be filled: places divided by weight, nobody above its limit. By bisection.
fn filled(places: f64, limits: &[f64], weights: &[f64]) -> Vec<f64> {
    let (mut low, mut high) = (0.0, places + 1.0);
    let held = |level: f64| limits.iter().zip(weights).map(move |(limit, w)| (level * w).min(*limit));
    for _ in 0..200 {
        let level = (low + high) / 2.0;
        if held(level).sum::<f64>() < places { low = level } else { high = level }
    }
    held(high).collect()
}

#[test]
fn zones_that_bound_nothing_change_nothing() {
    let weights = [1, 2, 4, 1, 3, 2, 1];
    let without = ring(64, &weights, 3);
    for named in ["-------", "aaaaaaa", "abcdefg", "a-bcde-"] {
        assert_eq!(zoned(64, &weights, named, 3), without, "{named}");
    }
    assert_eq!(
        shown(&zoned(16, &[1; 6], "aabbcc", 3)),
        "2.3.5 4.1.5 5.1.3 3.2.5 1.3.5 5.4.2 5.3.1 4.2.5 4.5.1 6.4.2 2.3.6 2.4.6 6.2.4 1.4.6 3.2.6 6.3.1"
    );
}

#[test]
fn no_shard_has_two_replicas_in_one_zone_where_there_are_enough_and_loads_stay_bounded() {
    let (mut rings, mut leads, mut beyond) = (0, 0, 0);
    for seed in 0..600 {
        let mut random = fastrand::Rng::with_seed(seed);
        let n = random.usize(1..=14);
        let kinds = random.usize(1..=6);
        let named: String = (0..n).map(|_| ["a", "b", "c", "d", "e", "-"][random.usize(..kinds)]).collect();
        let most = [1, 3, 20][random.usize(..3)];
        let weights: Vec<u32> = (0..n).map(|_| random.u32(1..=most)).collect();
        let (shards, replicas) = ([1, 7, 64, 200][random.usize(..4)], [1, 3, 5][random.usize(..3)]);
        let ring = zoned(shards, &weights, &named, replicas);
        let said = format!("{shards} shards, weights {weights:?} in {named}, {replicas} replicas");

        // Those without a zone stand alone.
        let mut by_zone: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (m, zone) in named.chars().enumerate() {
            let zone = if zone == '-' { format!("-{m}") } else { zone.to_string() };
            by_zone.entry(zone).or_default().push(m);
        }
        let zone_of =
            |g: &GatewayId| by_zone.values().position(|zone| zone.contains(&(usize::from(g.0) - 1)));
        let places = |each: usize| by_zone.values().map(|zone| zone.len().min(each)).sum::<usize>();
        let each = (1..).find(|each| places(*each) >= ring.replication()).unwrap();
        if by_zone.len() >= ring.replication() {
            assert_eq!(each, 1, "{said}");
        }
        let (mut held, mut led) = (vec![0usize; n], vec![0usize; n]);
        for shard in (0..shards).map(ShardId) {
            let set = ring.replicas(shard);
            assert_eq!(set.iter().collect::<HashSet<_>>().len(), ring.replication(), "{said}");
            for zone in 0..by_zone.len() {
                let here = set.iter().filter(|g| zone_of(g) == Some(zone)).count();
                assert!(here <= each, "{shard} has {here} replicas in one zone, at most {each}: {said}");
            }
            set.iter().for_each(|g| held[usize::from(g.0) - 1] += 1);
            led[usize::from(set[0].0) - 1] += 1;
        }

        let all = f64::from(shards);
        let limits: Vec<f64> = by_zone.values().map(|zone| all * zone.len().min(each) as f64).collect();
        let weight_of = |zone: &Vec<usize>| zone.iter().map(|m| f64::from(weights[*m])).sum::<f64>();
        let zone_weights: Vec<f64> = by_zone.values().map(weight_of).collect();
        let shares = filled(all * ring.replication() as f64, &limits, &zone_weights);
        let mut most = bounds(shards, ring.replication(), &weights);
        // Zones that are too small to take more bound nothing.
        if by_zone.values().any(|zone| zone.len().min(ring.replication()) > each) {
            for (zone, share) in by_zone.values().zip(shares) {
                let weights: Vec<f64> = zone.iter().map(|m| f64::from(weights[*m])).collect();
                for (m, share) in zone.iter().zip(filled(share, &vec![all; zone.len()], &weights)) {
                    most[*m] = (share * 1.1 - 1e-6).ceil() as usize;
                }
            }
        }
        for (m, (held, most)) in held.into_iter().zip(most).enumerate() {
            assert!(held <= most, "gateway {} holds {held} of at most {most}: {said}", m + 1);
        }
        for (n, bound) in bounds(shards, 1, &weights).into_iter().enumerate() {
            beyond += led[n].saturating_sub(bound);
            leads += led[n];
        }
        rings += 1;
    }
    println!("{rings} rings; {beyond} of {leads} leads beyond their bound");
    assert_eq!(beyond, 0, "of {leads}");
}

#[test]
fn a_gateway_that_joins_or_leaves_zones_moves_about_its_share() {
    let (shards, named) = (256u16, "aaabbbcccddd");
    let all = members(&[1; 12]);
    let whole = Ring::zoned(shards, &all, &zones(named), 3).unwrap();
    for gone in 0..12 {
        let mut rest = all.clone();
        rest.remove(gone);
        let less = Ring::zoned(shards, &rest, &zones(named), 3).unwrap();
        let share = 3 * usize::from(shards) / 12;
        let moved = moved(&whole, &less).max(moved(&less, &whole));
        assert!(moved <= share * 2 + 8, "gateway {}: {moved} moved, its share is {share}", gone + 1);
    }
}
