//! A replica that was given up is deleted, whenever the power fails; it never comes back as a voter, and another replica of
//! its shard finds nothing of it. Marks tell a gateway which replicas it had, whatever is lost of its log.

use selvedge_fabric::configuration::Configuration;
use selvedge_fabric::machine::{CountingRules, CutBatch, Machine, PROPOSAL_VERSION};
use selvedge_fabric::record::LogRecord;
use selvedge_fabric::replica::StoreWork;
use selvedge_fabric::ring::{Member, Ring};
use selvedge_fabric::shard::{
    KIND_ACCEPTED, KIND_COMMITTED, KIND_CONFIGURATION, KIND_LEARNS, KIND_PROMISED, Now,
};
use selvedge_fabric::site_state::ReplicaRole;
use selvedge_log::storage::{
    self, Errand, Folders, LogKeeper, LogWork, Opened, ReplicaSettings, StorageDesk, Stores,
};
use selvedge_log::{Crash, Disk, Faults, Floor, LogError, LogOptions, MARKS_NAME, MemoryDisk, ReplicaMark};
use selvedge_paxos::Limits;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::EpochMs;
use std::sync::Arc;

const ME: GatewayId = GatewayId(1);
const NOW: Now = Now { mono_ms: 1, wall: EpochMs(1_764_000_000_000), sure: true };
const BATCHES: u64 = 70;
/// The configuration in which the replica is given up.
const LEFT_IN: u32 = 4;
/// The ballot of what a later replica of the shard writes.
const LATER: (u64, u16) = (9, 9);

fn ring() -> Ring {
    let members: Vec<_> = (1..=5).map(|id| Member { id: GatewayId(id), weight: 1 }).collect();
    Ring::new(8, &members, 3).unwrap()
}

/// A shard that the ring gives this gateway, or one that it does not.
fn shard(of_ring: bool) -> ShardId {
    (0..8).map(ShardId).find(|shard| ring().replicas(*shard).contains(&ME) == of_ring).unwrap()
}

/// Another shard of this gateway, which stays.
fn stays() -> ShardId {
    ring().shards_of(ME).find(|other| *other != shard(true)).unwrap()
}

fn settings() -> ReplicaSettings {
    ReplicaSettings {
        rules: Arc::new(CountingRules::default()),
        limits: Limits::default(),
        outbox_budget_bytes: 1 << 20,
        incarnation: 1,
        shelf_bytes: 1 << 10,
        is_witness: false,
    }
}

fn try_open(disk: &MemoryDisk) -> Result<Opened, storage::OpenError> {
    let folder = |name| disk.folder(name);
    let failed = |e| LogError::Io { doing: "opening", name: "a folder".to_string(), source: e };
    let floor = Arc::new(disk.clone());
    let (log, snapshots) = (folder("log").map_err(failed)?, folder("snapshots").map_err(failed)?);
    let folders = Folders { floor, log, snapshots, batches: folder("batches").map_err(failed)? };
    let mut options = LogOptions::new([1; 16]);
    (options.segment_bytes, options.keep_free_bytes, options.unit_bytes) = (8 * 1024, 0, 1_024);
    storage::read(folders, options)?.open(ME, &ring(), &settings(), &mut || 7)
}

fn open(disk: &MemoryDisk) -> Opened {
    try_open(disk).unwrap()
}

fn fresh() -> MemoryDisk {
    let disk = MemoryDisk::new(1 << 20);
    Floor::create(Arc::new(disk.clone()), [1; 16]).unwrap();
    disk
}

fn record(shard: ShardId, configuration: u32, kind: u8, slot: u64, payload: Vec<u8>) -> LogRecord {
    let payload = payload.into();
    LogRecord { group: shard.0, configuration, kind, ballot: (configuration.into(), 2), slot, payload }
}

fn entry(shard: ShardId, configuration: u32, slot: u64) -> LogRecord {
    let mut payload = vec![slot as u8; 300];
    payload[0] = PROPOSAL_VERSION;
    record(shard, configuration, KIND_ACCEPTED, slot, payload)
}

fn committed(shard: ShardId, configuration: u32, slot: u64) -> LogRecord {
    record(shard, configuration, KIND_COMMITTED, 0, slot.to_le_bytes().to_vec())
}

/// The same record, written by a later replica of the shard.
fn later(record: LogRecord) -> LogRecord {
    LogRecord { ballot: LATER, ..record }
}

/// A gateway's storage, with its work done at once.
struct Storage {
    desk: StorageDesk,
    log: LogKeeper,
    stores: Stores,
    /// The shards of which nothing is left.
    dropped: Vec<ShardId>,
}

impl Storage {
    fn new(opened: Opened) -> Self {
        let desk = StorageDesk::new(100, true, 0);
        let log = LogKeeper::new(opened.log, opened.marks);
        Self { desk, log, stores: opened.stores, dropped: Vec::new() }
    }

    fn perform(&mut self, errands: Vec<Errand>) -> Result<(), LogError> {
        let mut errands = std::collections::VecDeque::from(errands);
        while let Some(errand) = errands.pop_front() {
            let done = match errand {
                Errand::Log(work) => self.log.perform(work)?,
                Errand::Store(work) => self.stores.perform(work)?,
                Errand::Dropped(shard) => {
                    self.dropped.push(shard);
                    continue;
                }
                _ => continue,
            };
            errands.extend(done.into_iter().flat_map(|done| self.desk.done(0, done)));
        }
        Ok(())
    }

    fn log(&mut self, work: LogWork) -> Result<(), LogError> {
        self.perform(vec![Errand::Log(work)])
    }

    fn give_up(&mut self, shard: ShardId) -> Result<(), LogError> {
        let errands = self.desk.give_up(shard, LEFT_IN);
        self.perform(errands)
    }

    /// Does what a start does for the replicas that were given up.
    fn finish(&mut self) -> Result<(), LogError> {
        let gone: Vec<_> = self.log.marks().given_up().collect();
        for (group, through) in gone {
            let errands = self.desk.give_up(ShardId(group), through);
            self.perform(errands)?;
        }
        Ok(())
    }

    fn makes(&mut self, shard: ShardId, configuration: u32) -> Result<(), LogError> {
        let made = storage::new_replica(ME, shard, &ring(), &settings(), configuration, None);
        let effects = made.unwrap().take(NOW).unwrap();
        self.log(LogWork::Add { shard, silent_until: configuration })?;
        self.log(LogWork::Write(effects.persist.expect("it writes that it is new").records))
    }
}

/// A disk with a replica of the shard that has voted, with entries, a snapshot and contents of batches; and with another
/// shard's records between them.
fn used(shard: ShardId) -> MemoryDisk {
    let disk = fresh();
    let mut storage = Storage::new(open(&disk));
    if shard == self::shard(false) {
        storage.makes(shard, 2).unwrap();
        // It becomes a member.
        let members = vec![ME, GatewayId(2), GatewayId(3)];
        let begins = Configuration { number: 3, members, witnesses: Vec::new(), base: 2, directory: 2 };
        let begins = record(shard, 3, KIND_CONFIGURATION, 2, begins.encode());
        storage.log(LogWork::Write(vec![entry(shard, 2, 1), entry(shard, 2, 2), begins])).unwrap();
    }
    let number = if shard == self::shard(false) { 3 } else { 1 };
    if number == 1 {
        storage.log(LogWork::Write(vec![entry(shard, 1, 1), entry(shard, 1, 2)])).unwrap();
    }
    for slot in 3..=30 {
        let promise = record(shard, number, KIND_PROMISED, 0, vec![]);
        let records = vec![
            entry(shard, number, slot),
            promise,
            committed(shard, number, slot),
            entry(stays(), 1, slot - 2),
        ];
        storage.log(LogWork::Write(records)).unwrap();
    }
    for seq in 1..=BATCHES {
        let batch = CutBatch { seq, bytes: vec![1; 100] };
        storage.perform(vec![Errand::Store(StoreWork::Batch(shard, batch))]).unwrap();
    }
    storage.stores.batches.sync(shard.0, u64::MAX).unwrap();
    let bytes = Machine::new(shard, Arc::new(CountingRules::default())).snapshot();
    storage.stores.snapshots.save(shard.0, 0, &bytes).unwrap();
    drop(storage);
    disk.image()
}

fn files(disk: &MemoryDisk, folder: &str) -> Vec<String> {
    disk.folder(folder).unwrap().list().unwrap()
}

/// The files of the shard's snapshots and batches.
fn stored(disk: &MemoryDisk, shard: ShardId) -> usize {
    let own = format!("snapshot-{:04x}-", shard.0);
    let snapshots = files(disk, "snapshots").into_iter().filter(|name| name.starts_with(&own)).count();
    snapshots + files(disk, &format!("batches/{:04x}", shard.0)).len()
}

fn used_bytes(disk: &MemoryDisk) -> u64 {
    (1 << 20) - disk.free_bytes().unwrap()
}

/// What a start makes of the shard: its role, its last slot, and whether it votes.
fn seen(opened: &Opened, shard: ShardId) -> Option<(ReplicaRole, u64, bool)> {
    let core = opened.replicas.get(&shard)?.core();
    let consensus = core.consensus();
    Some((core.status(NOW).role, consensus.last_slot(), consensus.config().members.contains(&ME)))
}

/// The records of the shard that a start reads behind the one that voids the earlier ones.
fn records(disk: &MemoryDisk, shard: ShardId) -> Vec<LogRecord> {
    let (mut options, mut read) = (LogOptions::new([1; 16]), Vec::new());
    (options.segment_bytes, options.keep_free_bytes) = (8 * 1024, 0);
    let log = disk.image().folder("log").unwrap();
    let mut visit = |record: LogRecord| match record.forgets() {
        true => read.retain(|of: &LogRecord| of.group != record.group),
        false => read.push(record),
    };
    drop(selvedge_log::Log::read(log, None, options, &mut visit).unwrap());
    read.retain(|record| record.group == shard.0);
    read
}

/// Fails the power at every operation of `work`, and hands what each crash leaves to `check`.
fn at_every_cut(
    disk: &MemoryDisk,
    work: &dyn Fn(&MemoryDisk) -> Result<(), storage::OpenError>,
    check: &mut dyn FnMut(MemoryDisk, &str),
) -> u64 {
    for after in 0.. {
        let mut whole = false;
        for how in [Crash::Lost, Crash::Kept, Crash::Torn(after), Crash::Torn(1_000 + after)] {
            let disk = disk.image();
            disk.set_faults(Faults { power_off_after: Some(after), ..Faults::default() });
            whole = work(&disk).is_ok();
            check(disk.crash(how), &format!("{how:?} after {after} operations"));
        }
        if whole {
            return after;
        }
    }
    unreachable!("some run is whole")
}

#[test]
fn a_power_cut_leaves_a_whole_replica_or_one_that_the_next_start_deletes() {
    for of_ring in [true, false] {
        let shard = shard(of_ring);
        let disk = used(shard);
        let (whole, other) = (seen(&open(&disk.image()), shard), seen(&open(&disk.image()), stays()));
        assert!(
            whole.is_some_and(|(role, last, votes)| role == ReplicaRole::Follower && last == 30 && votes)
        );
        let work = |disk: &MemoryDisk| {
            let mut storage = Storage::new(try_open(disk)?);
            storage.give_up(shard)?;
            // A failed deletion is no error: the next start goes on.
            let done = storage.dropped == [shard];
            if done { Ok(()) } else { Err(LogError::Poisoned { why: "no power".to_string() }.into()) }
        };
        let (mut stayed, mut went) = (0, 0);
        let cuts = at_every_cut(&disk, &work, &mut |left, case| {
            let opened = open(&left);
            assert_eq!(seen(&opened, stays()), other, "{case}");
            assert!(opened.recovery.damaged_groups.is_empty(), "{case}");
            match seen(&opened, shard) {
                None => {
                    went += 1;
                    assert_eq!(
                        opened.marks.get(shard.0),
                        Some(ReplicaMark::GivenUp { through: LEFT_IN }),
                        "{case}"
                    );
                    let mut storage = Storage::new(opened);
                    storage.finish().unwrap();
                    assert_eq!(storage.dropped, [shard], "{case}");
                    drop(storage);
                    let left = left.crash(Crash::Lost);
                    assert_eq!((stored(&left, shard), records(&left, shard)), (0, vec![]), "{case}");
                    assert_eq!(seen(&open(&left), shard), None, "{case}");
                    assert_eq!(seen(&open(&left), stays()), other, "{case}");
                }
                found => {
                    stayed += 1;
                    assert_eq!(found, whole, "{case}");
                    assert_eq!(stored(&left, shard), BATCHES as usize + 1, "{case}");
                }
            }
        });
        println!("{shard}: {cuts} operations, {stayed} times it stayed, {went} times it went");
        assert!(stayed > 0 && went > 4 * BATCHES);
    }
}

#[test]
fn a_shard_that_comes_back_finds_nothing_of_the_earlier_replica_and_does_not_vote_where_that_one_did() {
    for of_ring in [true, false] {
        let shard = shard(of_ring);
        let disk = used(shard);
        let mut storage = Storage::new(open(&disk));
        storage.give_up(shard).unwrap();
        drop(storage);
        let disk = disk.image();
        // Its order may come from an old copy of the directory.
        let work = |disk: &MemoryDisk| {
            let mut storage = Storage::new(try_open(disk)?);
            storage.finish()?;
            storage.makes(shard, LEFT_IN)?;
            let records = vec![later(entry(shard, 1, 1)), later(committed(shard, 1, 1))];
            Ok(storage.log(LogWork::Write(records))?)
        };
        at_every_cut(&disk, &work, &mut |left, case| {
            for _ in 0..2 {
                let opened = open(&left);
                let Some((role, last, votes)) = seen(&opened, shard) else {
                    assert_eq!(
                        opened.marks.get(shard.0),
                        Some(ReplicaMark::GivenUp { through: LEFT_IN }),
                        "{case}"
                    );
                    continue;
                };
                assert!(!votes && last <= 1, "{case}");
                let core = opened.replicas[&shard].core();
                assert!(core.consensus().commit() <= last, "{case}: it believes an earlier commit index");
                // Without its first record it may have lost some.
                let new = records(&left, shard).is_empty();
                assert_eq!(role == ReplicaRole::Damaged, new, "{case}");
            }
        });

        work(&disk).unwrap();
        // Records of the earlier replica don't keep the log from being trimmed, nor are they carried forward.
        let mut storage = Storage::new(open(&disk));
        for slot in 2..=80 {
            let records = vec![later(entry(shard, 1, slot)), entry(stays(), 1, 40 + slot)];
            storage.log(LogWork::Write(records)).unwrap();
        }
        storage.log(LogWork::Keep { shard: stays(), from: 110 }).unwrap();
        storage.log(LogWork::Keep { shard, from: 60 }).unwrap();
        drop(storage);
        let left = records(&disk, shard);
        let is_later = |record: &LogRecord| record.kind == KIND_LEARNS || record.ballot == LATER;
        assert!(left.iter().all(is_later), "{left:?}");
        assert!(left.iter().all(|record| record.slot == 0 || record.slot > 40), "{left:?}");
    }
}

#[test]
fn a_replica_that_is_given_up_gives_its_room_back() {
    let shard = shard(false);
    let disk = used(shard);
    let mut storage = Storage::new(open(&disk));
    // A snapshot covers the other shard, so that the replica alone holds the log back.
    storage.log(LogWork::Keep { shard: stays(), from: 31 }).unwrap();
    let (before, segments) = (used_bytes(&disk), storage.log.log().stats().segments);
    assert!(segments > 3, "{segments}");
    storage.give_up(shard).unwrap();
    assert_eq!(storage.log.log().stats().segments, 2, "the active one and the reserve");
    assert_eq!(stored(&disk, shard), 0);
    assert!(2 * used_bytes(&disk) < before, "{before} {}", used_bytes(&disk));
}

#[test]
fn a_damaged_replica_that_is_given_up_holds_the_log_back_no_longer() {
    let shard = shard(false);
    let disk = used(shard);
    // The first unit with an entry of the shard.
    disk.meddle("log/wal-0000000000000001.log", |bytes| bytes[512 + 200] ^= 1);
    let opened = open(&disk);
    assert!(opened.recovery.damaged_groups.contains(shard.0));
    assert!(!opened.recovery.damaged_groups.contains(stays().0));
    let mut storage = Storage::new(opened);
    storage.log(LogWork::Keep { shard: stays(), from: 31 }).unwrap();
    assert!(storage.log.log().oldest().is_some_and(|oldest| oldest.damaged));
    storage.give_up(shard).unwrap();
    assert!(storage.log.log().damaged_groups().is_empty());
    assert_eq!(storage.log.log().stats().segments, 2);
}

fn lose_log(disk: &MemoryDisk) {
    let log = disk.folder("log").unwrap();
    log.list().unwrap().iter().for_each(|name| log.remove(name).unwrap());
}

#[test]
fn a_gateway_that_loses_its_log_knows_its_replicas_and_those_that_it_gave_up() {
    let (moved_in, of_ring) = (shard(false), shard(true));
    let disk = fresh();
    let mut storage = Storage::new(open(&disk));
    storage.makes(moved_in, 2).unwrap();
    storage.give_up(of_ring).unwrap();
    drop(storage);
    lose_log(&disk);
    for start in 0..3 {
        let opened = open(&disk);
        assert_eq!(seen(&opened, of_ring), None, "start {start}");
        let (role, _, votes) = seen(&opened, moved_in).expect("its mark says that it is here");
        assert_eq!((role, votes), (ReplicaRole::Damaged, false), "start {start}");
        let mut storage = Storage::new(opened);
        // The other shards are repaired, so that the log reports no damage any more.
        let ring = ring();
        let all = ring.shards_of(ME).filter(|shard| *shard != of_ring).chain([moved_in]);
        all.for_each(|shard| storage.log(LogWork::Healed(shard)).unwrap());
        assert!(storage.log.log().damaged_groups().is_empty());
    }
}

#[test]
fn a_folder_without_marks_is_read_as_before_and_rotten_marks_make_no_voter_without_memory() {
    let (moved_in, of_ring) = (shard(false), shard(true));
    let disk = used(moved_in);
    let before = seen(&open(&disk.image()), moved_in);
    disk.remove(MARKS_NAME).unwrap();
    disk.sync_folder().unwrap();
    let opened = open(&disk);
    assert_eq!(seen(&opened, moved_in), before);
    assert!(opened.marks.is_complete());
    assert_eq!(
        opened.marks.held().map(ShardId).collect::<Vec<_>>(),
        opened.replicas.keys().copied().collect::<Vec<_>>()
    );
    let mut storage = Storage::new(opened);
    storage.give_up(of_ring).unwrap();
    drop(storage);

    disk.meddle(MARKS_NAME, |bytes| bytes[70] ^= 1);
    let opened = open(&disk);
    assert!(!opened.marks.is_complete());
    assert_eq!(seen(&opened, moved_in), before, "its records are there");
    let (role, ..) = seen(&opened, of_ring).expect("nothing says that it was given up");
    assert_eq!(role, ReplicaRole::Damaged, "it does not vote");
}

#[test]
fn a_full_disk_delays_a_mark_and_all_that_follows_it() {
    let shard = shard(false);
    let disk = fresh();
    let mut storage = Storage::new(open(&disk));
    disk.set_capacity(used_bytes(&disk));
    storage.makes(shard, 2).unwrap();
    assert_eq!(records(&disk, shard), []);
    assert_eq!(storage.log.marks().get(shard.0), None);
    storage.give_up(shard).unwrap();
    assert_eq!(storage.dropped, [], "there is no room to say so");
    disk.set_capacity(1 << 20);
    storage.log(LogWork::Look).unwrap();
    assert_eq!(storage.dropped, [shard]);
    assert_eq!(records(&disk, shard), []);
    storage.makes(shard, 2).unwrap();
    assert_eq!(storage.log.marks().get(shard.0), Some(ReplicaMark::Held { silent_until: LEFT_IN }));
    assert_eq!(records(&disk, shard).len(), 1);
}
