//! The planner brings every site to the placement that the ring wants, whatever happened before, with no unnecessary
//! moves.

use crate::site::*;
use selvedge_fabric::directory::*;
use selvedge_fabric::ring::MAX_REPLICAS;
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

fn some<T: Copy>(random: &mut fastrand::Rng, all: &[T]) -> Option<T> {
    (!all.is_empty()).then(|| all[random.usize(..all.len())])
}

fn living(site: &Site) -> Vec<GatewayId> {
    site.directory.gateways().map(|(id, _)| id).collect()
}

/// A random change by an operator. The directory may refuse it.
fn change(site: &mut Site, random: &mut fastrand::Rng, zones: bool) {
    let all = living(site);
    let Some(gateway) = some(random, &all) else { return };
    let zone = zones.then(|| ["north", "south", "east", "west"][random.usize(..4)].to_string());
    match random.u32(..10) {
        0..3 if all.len() < 12 && site.tokens < 100 => {
            let weight = Some(random.u32(1..3));
            let role = if random.u32(..5) == 0 { GatewayRole::Witness } else { GatewayRole::Full };
            site.add(Admission { role, weight, zone, replaces: None });
        }
        3 if all.len() < 12 && site.tokens < 100 && site.directory.replacement_of(gateway).is_none() => {
            site.add(Admission { replaces: Some(gateway), ..Admission::default() });
        }
        4 | 5 => _ = site.tell(DirectoryCommand::Drain { gateway }),
        6 => _ = site.tell(DirectoryCommand::Resume { gateway }),
        7 => {
            site.hear_all();
            let outcome = site.tell(DirectoryCommand::Remove { gateway, force: false, unsound: vec![] });
            if outcome == DirectoryOutcome::Done {
                site.seen.gateways.remove(&gateway);
                site.seen.learners.retain(|(_, g), _| *g != gateway);
            }
        }
        8 => _ = site.tell(DirectoryCommand::Reweigh { gateway, weight: random.u32(1..4) }),
        _ => {
            let state = site.seen.gateways.entry(gateway);
            state.and_modify(|g| (g.leads, g.devices) = (random.u32(..3), random.u32(..3)));
        }
    }
}

/// Checks that each group has the voters it should have, and that the load is balanced.
fn check_settled(site: &Site, said: &str) {
    let directory = &site.directory;
    let full: BTreeMap<GatewayId, &GatewayRecord> =
        directory.gateways().filter(|(_, g)| g.is_active_full()).collect();
    let witnesses =
        directory.gateways().any(|(_, g)| g.role == GatewayRole::Witness && g.state == GatewayState::Active);
    assert!(directory.moves().is_empty(), "{said}");
    let mut held: BTreeMap<GatewayId, usize> = BTreeMap::new();
    for (shard, configuration) in directory.configurations() {
        let voters: BTreeSet<GatewayId> = configuration.voters.iter().copied().collect();
        for id in &voters {
            let gateway =
                directory.gateway(*id).unwrap_or_else(|| panic!("{shard} is left with {id}: {said}"));
            assert_eq!(gateway.state, GatewayState::Active, "{shard} is left with {id}: {said}");
        }
        let voting_witnesses = voters.iter().filter(|id| !full.contains_key(id)).count();
        assert!(voting_witnesses <= 1 && (voting_witnesses == 0 || full.len().is_multiple_of(2)), "{said}");
        if shard == DIRECTORY_GROUP {
            assert!(voters.len() <= MAX_REPLICAS, "{voters:?}: {said}");
            assert!(full.len() < 3 || voters.len() >= 3, "{voters:?}: {said}");
            assert!(full.len() == 2 || !voters.len().is_multiple_of(2), "{voters:?}: {said}");
            continue;
        }
        let wanted: BTreeSet<GatewayId> = directory.placement().wanted(shard).iter().copied().collect();
        if voters != wanted {
            // Two gateways keep the shards that both of them hold.
            assert!(full.len() == 2 && wanted.len() == 1 && voters.len() == 2, "{shard}: {voters:?}, {said}");
        }
        if full.len() >= directory.replicas().max(3) {
            assert_eq!(voters.len(), directory.replicas(), "{said}");
        } else if full.len() == 2 && directory.replicas() > 2 && witnesses {
            assert_eq!((voters.len(), voting_witnesses), (3, 1), "{shard}: two boxes and a witness, {said}");
        }
        voters.iter().for_each(|id| *held.entry(*id).or_default() += 1);
        let zones: Vec<_> = voters.iter().filter_map(|id| full.get(id)?.zone.clone()).collect();
        let all_zones: BTreeSet<_> = full.values().filter_map(|g| g.zone.clone()).collect();
        let alone = full.values().filter(|g| g.zone.is_none()).count();
        if all_zones.len() + alone >= voters.len() {
            assert_eq!(
                zones.iter().collect::<BTreeSet<_>>().len(),
                zones.len(),
                "{shard}: {zones:?}, {said}"
            );
        }
    }
    // With equal weights and no zones, the bound of the load is simple.
    if full.len() >= 3 && full.values().all(|g| g.weight == 1 && g.zone.is_none()) {
        let places: usize = directory
            .configurations()
            .filter(|(s, _)| *s != DIRECTORY_GROUP)
            .map(|(_, c)| c.voters.len())
            .sum();
        let most = (places * 11).div_ceil(10 * full.len());
        assert!(held.values().all(|n| *n <= most), "{held:?}, at most {most}: {said}");
    }
}

/// Gateways join, drain, leave and fail, reports are late, and the planner's host crashes. Once all of that ends, the
/// site settles.
#[test]
fn whatever_happened_the_site_comes_to_where_the_ring_wants_it() {
    let (mut copies, mut shrinks) = (0, 0);
    for seed in 0..150 {
        let mut random = fastrand::Rng::with_seed(seed);
        let first: Vec<(u16, u32)> = (1..=random.u16(1..6)).map(|id| (id, 1)).collect();
        let (shards, replicas) = (random.u16(1..20), [1, 3, 3, 5][random.usize(..4)]);
        let zones = random.bool();
        let mut site = Site::new(&genesis(shards, replicas, &first));
        for _ in 0..random.usize(5..40) {
            site.elapse(random.u64(0..30_000));
            match random.u32(..8) {
                0..3 => change(&mut site, &mut random, zones),
                3 => {
                    let all = living(&site);
                    if let Some(gateway) = some(&mut random, &all) {
                        site.seen.gateways.remove(&gateway);
                    }
                }
                4 => living(&site).into_iter().filter(|_| random.bool()).for_each(|id| site.up(id)),
                5 => site.directory = Directory::restore(&site.directory.snapshot()).unwrap(),
                6 => match site.held_up.take() {
                    None => site.held_up = Some(vec![]),
                    Some(mut late) => {
                        random.shuffle(&mut late);
                        late.into_iter().for_each(|report| _ = site.tell(report));
                    }
                },
                _ => {
                    let gateway = some(&mut random, &living(&site));
                    gateway.map(|id| site.seen.gateways.entry(id).and_modify(|g| g.has_room ^= true));
                    let command =
                        if random.bool() { DirectoryCommand::Pause } else { DirectoryCommand::Continue };
                    site.tell(command);
                }
            }
            for _ in 0..random.usize(..6) {
                for step in plan(&site.directory, &site.seen) {
                    // About every fifth step is lost.
                    if random.u32(..5) > 0 {
                        site.carry_out(&step);
                    }
                }
            }
        }
        living(&site).into_iter().for_each(|id| site.up(id));
        site.hear_all();
        site.tell(DirectoryCommand::Continue);
        site.settle();
        check_settled(&site, &format!("seed {seed}"));
        (copies, shrinks) = (copies + site.copies, shrinks + site.shrinks);
    }
    assert!(copies > 1_000 && shrinks > 50, "{copies} copies, {shrinks} shrinks");
}

/// How many replicas the shards lack, compared with the voters they should have.
fn missing(site: &Site) -> usize {
    let shards = site.directory.configurations().filter(|(shard, _)| *shard != DIRECTORY_GROUP);
    let missing = |(shard, c): (ShardId, &ShardConfiguration)| {
        site.directory.wanted(shard).iter().filter(|g| !c.voters.contains(g)).count()
    };
    shards.map(missing).sum()
}

#[test]
fn a_change_copies_what_the_ring_moves_and_nothing_twice() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let first: Vec<(u16, u32)> = (1..=random.u16(3..8)).map(|id| (id, 1)).collect();
        let mut site = Site::new(&genesis(64, 3, &first));
        site.settle();
        for _ in 0..6 {
            change(&mut site, &mut random, seed % 2 == 0);
            let (least, before) = (missing(&site), site.copies);
            site.settle();
            assert_eq!(site.copies - before, least, "seed {seed}");
            check_settled(&site, &format!("seed {seed}"));
        }
    }
}

#[test]
fn a_replacement_takes_over_exactly_the_replicas_of_the_one_before_it() {
    let mut site = Site::new(&genesis(64, 3, &[(1, 1), (2, 1), (3, 2), (4, 1), (5, 1)]));
    let had = |site: &Site, id: GatewayId| {
        let has = |c: &ShardConfiguration| c.voters.contains(&id);
        site.directory.configurations().filter(|(_, c)| has(c)).map(|(s, _)| s).collect::<BTreeSet<_>>()
    };
    let before = had(&site, GatewayId(3));
    site.seen.gateways.remove(&GatewayId(3)); // dead for good
    let new = site.add(Admission { replaces: Some(GatewayId(3)), ..Admission::default() });
    site.settle();
    let shards = |all: &BTreeSet<ShardId>| {
        all.iter().copied().filter(|s| *s != DIRECTORY_GROUP).collect::<BTreeSet<_>>()
    };
    assert_eq!(shards(&had(&site, new)), shards(&before));
    assert_eq!(site.copies, shards(&before).len());
    assert_eq!(site.directory.gateway(new).unwrap().weight, 2);
    assert!(site.directory.gateway(GatewayId(3)).is_none(), "it was removed when it held nothing any more");
    check_settled(&site, "replaced");
}

#[test]
fn a_gateway_that_comes_takes_its_share_and_little_else_moves() {
    for n in 3..10u16 {
        let first: Vec<(u16, u32)> = (1..=n).map(|id| (id, 1)).collect();
        let mut site = Site::new(&genesis(256, 3, &first));
        let new = site.add(Admission::default());
        site.settle();
        let share = 3 * 256 / usize::from(n + 1);
        let holds = site.directory.configurations().filter(|(_, c)| c.voters.contains(&new)).count();
        assert!(site.copies <= share * 3 / 2 + 8, "of {n}: {} copies, its share is {share}", site.copies);
        assert!(holds * 10 <= share * 11 + 20, "of {n}: it holds {holds}, its share is {share}");
    }
}
