//! Random commands in any order, with the directory's invariants checked after each of them.

use crate::seeded::{on_all_cores, seeds};
use crate::site::*;
use selvedge_fabric::directory::*;
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::ElapsedMs;
use std::collections::{BTreeMap, BTreeSet};

const SHARDS: u16 = 3;

fn some_gateway(random: &mut fastrand::Rng, directory: &Directory) -> GatewayId {
    GatewayId(random.u16(0..directory.highest_id().0 + 2))
}

fn some_shard(random: &mut fastrand::Rng) -> ShardId {
    [ShardId(0), ShardId(1), ShardId(2), ShardId(SHARDS), DIRECTORY_GROUP][random.usize(..5)]
}

fn maybe<T>(random: &mut fastrand::Rng, some: impl FnOnce(&mut fastrand::Rng) -> T) -> Option<T> {
    random.bool().then(|| some(random))
}

fn some_command(random: &mut fastrand::Rng, directory: &Directory) -> DirectoryCommand {
    let gateway = some_gateway(random, directory);
    let shard = some_shard(random);
    let zone = |random: &mut fastrand::Rng| ["north", "south", "", "\n"][random.usize(..4)].to_string();
    let role = if random.u32(..4) == 0 { GatewayRole::Witness } else { GatewayRole::Full };
    let since = directory.moves().get(&shard).map_or(0, |m| m.since);
    match random.u32(..24) {
        0..4 => DirectoryCommand::Invite {
            token: TokenHash([random.u8(..40); 32]),
            lasts_ms: random.u64(0..4_000),
            admits: Admission {
                role,
                replaces: maybe(random, |_| gateway),
                weight: maybe(random, |random| random.u32(0..66)),
                zone: maybe(random, zone),
            },
        },
        4..8 => {
            let token = directory.invitations().keys().next().filter(|_| random.bool()).map(|t| t.0[0]);
            let token = token.unwrap_or_else(|| random.u8(..40));
            let asked = join(token, random.u8(..), random.u32(1..4));
            DirectoryCommand::Join(Box::new(JoinRequest { zone: maybe(random, zone), ..asked }))
        }
        8 | 9 => DirectoryCommand::Activate { gateway },
        10 => {
            let record = directory.gateway(gateway);
            let box_number = random.u8(..);
            DirectoryCommand::Announce(Box::new(Announcement {
                gateway,
                incarnation: record.and_then(|g| g.incarnation).unwrap_or(u128::from(box_number)),
                key: record.and_then(|g| g.key).unwrap_or(GatewayKey([box_number; 32])),
                addresses: addresses(random.u8(..)),
                zone: maybe(random, zone),
                level: random.u32(1..4),
            }))
        }
        11 => DirectoryCommand::Drain { gateway },
        12 => DirectoryCommand::Resume { gateway },
        13 | 14 => DirectoryCommand::Remove {
            gateway,
            force: random.bool(),
            unsound: (0..random.usize(..3))
                .map(|_| UnsoundReplica {
                    shard: some_shard(random),
                    gateway: some_gateway(random, directory),
                })
                .collect(),
        },
        15 => DirectoryCommand::Reweigh { gateway, weight: random.u32(0..66) },
        16 | 17 => {
            let known = directory.configuration(shard).map_or(1, |c| c.number);
            let some: BTreeSet<_> = (0..6).map(|_| some_gateway(random, directory)).collect();
            let mut gateways: Vec<_> = some.into_iter().collect();
            random.shuffle(&mut gateways);
            let at = random.usize(..gateways.len());
            let (voters, learners) = gateways.split_at(at);
            DirectoryCommand::Report {
                shard,
                configuration: ShardConfiguration {
                    number: (known + random.u32(0..4)).saturating_sub(1),
                    voters: voters.to_vec(),
                    learners: learners.to_vec(),
                },
            }
        }
        18 | 19 => {
            let known = directory.configuration(shard);
            let leaves = known.and_then(|c| c.voters.first().copied()).filter(|_| random.bool());
            DirectoryCommand::BeginMove {
                shard,
                leaves,
                comes: maybe(random, |_| gateway),
                configuration: known.map_or(1, |c| c.number) + random.u32(0..5) / 4,
            }
        }
        20 => {
            let (done_bytes, total_bytes) = (random.u64(..20), random.u64(..20));
            DirectoryCommand::Progress { shard, since, done_bytes, total_bytes }
        }
        21 => DirectoryCommand::EndMove { shard, since: since + random.u64(0..2) },
        22 => match random.u32(..4) {
            0 => DirectoryCommand::Pause,
            1 => DirectoryCommand::SetRate { bytes_per_s: 1 << random.u32(..40) },
            _ => DirectoryCommand::Continue,
        },
        _ if random.bool() => DirectoryCommand::Upgrade { level: random.u32(0..4) },
        _ => DirectoryCommand::Elapsed,
    }
}

/// Facts from earlier slots that later slots must not undo.
#[derive(Default)]
struct Witnessed {
    /// By number: the data folder to which it was first given.
    given: BTreeMap<GatewayId, u128>,
    gone: Vec<GatewayId>,
    numbers: BTreeMap<ShardId, u32>,
    voters: BTreeMap<(ShardId, u32), Vec<GatewayId>>,
    level: u32,
}

impl Witnessed {
    fn check(&mut self, directory: &Directory, said: &str) {
        for (id, gateway) in directory.gateways().chain(directory.tombstones()) {
            if let Some(incarnation) = gateway.incarnation {
                let first = *self.given.entry(id).or_insert(incarnation);
                assert_eq!(first, incarnation, "the number {id} is used again: {said}");
            }
            assert!(id <= directory.highest_id() && gateway.changed <= directory.slot(), "{said}");
        }
        for gone in &self.gone {
            assert!(directory.gateway(*gone).is_none(), "{gone} has come back: {said}");
        }
        self.gone = directory.tombstones().map(|(id, _)| id).collect();
        for (shard, configuration) in directory.configurations() {
            let number = self.numbers.insert(shard, configuration.number).unwrap_or(0);
            assert!(configuration.number >= number, "{shard} went back: {said}");
            let voters =
                self.voters.entry((shard, configuration.number)).or_insert(configuration.voters.clone());
            assert_eq!(*voters, configuration.voters, "{said}");
        }
        assert_eq!(self.numbers.len(), usize::from(SHARDS) + 1);
        assert!(directory.level() >= self.level, "{said}");
        self.level = directory.level();
        assert!(directory.gateways().all(|(_, g)| g.level >= self.level), "{said}");
        assert!(directory.gateways().count() <= selvedge_fabric::ring::MAX_GATEWAYS);
        assert!(directory.gateways().any(|(_, g)| g.is_active_full()), "{said}");
        assert!(directory.moves().len() <= MAX_MOVES_ENTRIES);
        assert!(directory.invitations().len() <= MAX_INVITATIONS_ENTRIES);
        assert!(directory.invitations().values().all(|i| i.expires > directory.elapsed()), "{said}");
        for shard in (0..SHARDS).map(ShardId) {
            let wanted = directory.placement().wanted(shard);
            let active =
                |id: &GatewayId| directory.gateway(*id).is_some_and(|g| g.state == GatewayState::Active);
            assert!(!wanted.is_empty() && wanted.iter().all(active), "{wanted:?}: {said}");
        }
    }
}

/// Applies 300 random commands. Returns how many were done, and how many refused.
fn run(seed: u64) -> (usize, usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut directory = Directory::genesis(&genesis(SHARDS, 3, &[(1, 1), (2, 1), (4, 2)])).unwrap();
    let mut restored = directory.clone();
    let mut witnessed = Witnessed::default();
    let (mut done, mut refused, mut elapsed) = (0, 0, 0u64);
    for slot in 1..=300 {
        elapsed += random.u64(0..200);
        let command = some_command(&mut random, &directory);
        let key = (random.u32(..4) == 0).then(|| RequestKey([random.u8(..40); 16]));
        let said = format!("seed {seed}, slot {slot}, {command:?}");
        let mut untouched = directory.clone();
        let outcome = directory.apply(slot, ElapsedMs(elapsed), key, &command);
        restored = Directory::restore(&restored.snapshot()).unwrap_or_else(|e| panic!("{e}: {said}"));
        assert_eq!(restored.apply(slot, ElapsedMs(elapsed), key, &command), outcome, "{said}");
        assert_eq!(restored.snapshot(), directory.snapshot(), "{said}");
        assert_eq!(restored.placement(), directory.placement(), "{said}");
        witnessed.check(&directory, &said);
        match outcome {
            DirectoryOutcome::Refused(why) => {
                refused += 1;
                assert!(why.to_string().len() < 400);
                if key.is_none() {
                    untouched.advance(slot, ElapsedMs(elapsed));
                    assert_eq!(untouched.snapshot(), directory.snapshot(), "refused, and changed: {said}");
                }
            }
            _ => done += 1,
        }
    }
    (done, refused)
}

#[test]
fn commands_in_any_order_keep_what_must_hold() {
    let (mut done, mut refused) = (0, 0);
    for (more, no) in on_all_cores(seeds(0..50), run) {
        (done, refused) = (done + more, refused + no);
    }
    assert!(done > 3_000 && refused > 3_000, "{done} done, {refused} refused");
}

#[test]
fn a_number_that_is_used_again_is_found() {
    let found = std::thread::spawn(|| {
        canary::make(Some(Canary::IdUsedAgain));
        (0..50).for_each(|seed| _ = run(seed));
    });
    let why = found.join().unwrap_err();
    let why = why.downcast_ref::<String>().map_or("", |why| why);
    assert!(why.contains("is used again") || why.contains("has come back"), "{why}");
}

/// Adds and removes more gateways, one after the other, than there can be tombstones.
#[test]
fn numbers_are_never_given_again_though_tombstones_are_dropped() {
    let mut site = Site::new(&genesis(1, 1, &[(1, 1)]));
    for n in 0..MAX_TOMBSTONES_ENTRIES as u32 + 100 {
        site.tell(DirectoryCommand::Invite {
            token: TokenHash(std::array::from_fn(|i| (n >> (8 * (i % 4))) as u8)),
            lasts_ms: 1_000,
            admits: Admission::default(),
        });
        let asked = JoinRequest {
            token: *site.directory.invitations().keys().next().unwrap(),
            incarnation: u128::from(n),
            key: GatewayKey(std::array::from_fn(|i| (n >> (8 * (i % 4))) as u8)),
            addresses: addresses(1),
            zone: None,
            level: 1,
        };
        let gateway = GatewayId(n as u16 + 2);
        assert_eq!(site.tell(DirectoryCommand::Join(Box::new(asked))), DirectoryOutcome::Joined { gateway });
        let remove = DirectoryCommand::Remove { gateway, force: false, unsound: vec![] };
        assert_eq!(site.tell(remove), DirectoryOutcome::Done);
    }
    assert_eq!(site.directory.tombstones().count(), MAX_TOMBSTONES_ENTRIES);
    let oldest = site.directory.tombstones().next().unwrap().0;
    assert_eq!(oldest, GatewayId(102), "the oldest were dropped");
    assert!(Directory::restore(&site.directory.snapshot()).is_ok());
}
