//! A simulated gateway: a disk, and a process with one replica of the shard, its log and its stores. Each piece of work
//! of the log and the stores takes simulated time.

use crate::seeded::Random;
use crate::world::GATEWAYS;
use selvedge_fabric::machine::{CountingRules, Item, Origin, PublishItem, Reading, Submission};
use selvedge_fabric::peer::PeerMessage;
use selvedge_fabric::replica::{Encoding, Replica, StoreWork};
use selvedge_fabric::ring::{Member, Ring};
use selvedge_fabric::shard::{Now, ShardEvent};
use selvedge_log::storage::{
    self, Done, Errand, Folders, LogKeeper, LogWork, ReplicaSettings, StorageDesk, Stores,
};
use selvedge_log::{Crash, Disk, Floor, LogOptions, MemoryDisk};
use selvedge_paxos::Limits;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::uplink::StreamName;
use std::collections::VecDeque;
use std::sync::Arc;

pub const SHARD: ShardId = ShardId(0);
pub const WALL: i64 = 1_764_000_000_000;
/// How long a client waits for an answer before it sends the batch to another gateway.
const RESEND_MS: u64 = 150;

pub struct Gateway {
    id: GatewayId,
    disk: MemoryDisk,
    pub process: Option<Process>,
    /// The number of the present process, which each start increases.
    pub start: u64,
    pub back_at_ms: u64,
    /// Whether its disk holds a replica for certain.
    pub hosts: bool,
    /// Whether the mark of the replica that it gave up is on disk for certain.
    pub gave_up: bool,
    /// Whether its log was lost and its replica is not repaired yet.
    pub damaged: bool,
    /// The names of all batches that clients sent here to earlier processes.
    pub names: Vec<String>,
}

/// A batch that waits for an answer.
pub struct Batch {
    pub n: u64,
    pub name: String,
    submission: Arc<[u8]>,
    pub to: Option<GatewayId>,
    pub at_ms: u64,
}

pub struct Process {
    pub replica: Option<Replica>,
    log: LogKeeper,
    stores: Stores,
    desk: StorageDesk,
    log_work: VecDeque<(u64, LogWork)>,
    store_work: VecDeque<(u64, StoreWork)>,
    encodings: VecDeque<(u64, Encoding)>,
    look_log_at_ms: u64,
    /// No log work is done until this time.
    pub slow_until_ms: u64,
    /// Whether the process wrote records of the replica.
    pub wrote: bool,
    /// Whether the log no longer counts the replica as damaged.
    pub healed: bool,
    /// The replica was given up, and there may be some of it left.
    pub dropping: bool,
    /// The mark of the replica that was given up is on disk.
    pub gave_up: bool,
    pub look_at_ms: u64,
    pub seen: Vec<Option<u64>>,
    pub learners: Vec<GatewayId>,
    pub batch: Option<Batch>,
    /// The gateway that answered last.
    pub leader: Option<GatewayId>,
    next_n: u64,
    pub names: Vec<String>,
    pub checked: Option<(u64, u32)>,
}

fn rules() -> Arc<CountingRules> {
    // A single window holds all readings, so that none leaves the machine.
    Arc::new(CountingRules {
        windows_ms: vec![86_400_000],
        idle_close_ms: 86_400_000,
        max_names_bytes: 1 << 20,
        ..CountingRules::default()
    })
}

fn limits() -> Limits {
    Limits { window_entries: 6, chunk_bytes: 2_000, in_flight_bytes: 4_000, ..Limits::default() }
}

fn settings() -> ReplicaSettings {
    ReplicaSettings {
        rules: rules(),
        limits: limits(),
        outbox_budget_bytes: 1 << 20,
        incarnation: 1,
        shelf_bytes: 1 << 10,
        is_witness: false,
    }
}

pub fn ring() -> Ring {
    let members: Vec<_> = (1..=3).map(|id| Member { id: GatewayId(id), weight: 1 }).collect();
    Ring::new(1, &members, 3).unwrap()
}

fn fresh_disk(id: GatewayId) -> MemoryDisk {
    let disk = MemoryDisk::new(1 << 26);
    Floor::create(Arc::new(disk.clone()), [id.0 as u8; 16]).unwrap();
    disk
}

impl Gateway {
    pub fn new(id: u16, hosts: bool) -> Self {
        let id = GatewayId(id);
        let (process, names) = (None, Vec::new());
        let (disk, gave_up, damaged) = (fresh_disk(id), false, false);
        Self { id, disk, process, start: 0, back_at_ms: 0, hosts, gave_up, damaged, names }
    }

    /// Starts a process on what the disk holds.
    pub fn start(&mut self, now: Now, nonce: u64) {
        let disk = &self.disk;
        let folder = |name| disk.folder(name).unwrap();
        let (floor, log) = (Arc::new(disk.clone()), folder("log"));
        let folders = Folders { floor, log, snapshots: folder("snapshots"), batches: folder("batches") };
        let mut log = LogOptions::new([self.id.0 as u8; 16]);
        (log.segment_bytes, log.keep_free_bytes, log.unit_bytes) = (64 * 1024, 0, 4 * 1024);
        let found = storage::read(folders, log).unwrap();
        let here = found.shards(self.id, &ring()).unwrap().contains(&SHARD);
        assert!(here || !self.hosts, "{} forgets its replica", self.id);
        assert!(!here || !self.gave_up, "{} has its replica again that it gave up", self.id);
        let mut opened = found.open(self.id, &ring(), &settings(), &mut || nonce).unwrap();
        let given_up = opened.marks.given_up().next();
        let (replica, log) = (opened.replicas.remove(&SHARD), LogKeeper::new(opened.log, opened.marks));
        self.start += 1;
        self.process = Some(Process {
            replica,
            log,
            stores: opened.stores,
            desk: StorageDesk::new(3, true, 0),
            log_work: VecDeque::new(),
            store_work: VecDeque::new(),
            encodings: VecDeque::new(),
            look_log_at_ms: now.mono_ms,
            slow_until_ms: 0,
            wrote: false,
            healed: false,
            dropping: false,
            gave_up: false,
            look_at_ms: 0,
            seen: vec![None; GATEWAYS],
            learners: Vec::new(),
            batch: None,
            leader: None,
            next_n: 1,
            names: Vec::new(),
            checked: None,
        });
        if let Some((_, through)) = given_up {
            self.give_up(now, through);
        }
    }

    /// Fails the power: writes that were not synced may survive or not, and the write under way may survive in part.
    pub fn crash(&mut self, random: &mut Random, back_at_ms: u64) {
        let Some(mut process) = self.process.take() else { return };
        self.back_at_ms = back_at_ms;
        self.names.append(&mut process.names);
        if let Some((_, LogWork::Write(mut records))) = process.log_work.pop_front() {
            records.truncate(random.below(records.len() as u64 + 1) as usize);
            if !records.is_empty() {
                let _ = process.log.perform(LogWork::Write(records));
            }
        }
        drop(process);
        self.disk = self.disk.crash(Crash::Torn(random.next()));
    }

    /// Removes the log.
    pub fn lose_log(&mut self) {
        let log = self.disk.folder("log").unwrap();
        log.list().unwrap().iter().for_each(|name| log.remove(name).unwrap());
        self.damaged = true;
    }

    /// Gives up the replica while the shard is in this configuration, or goes on with it.
    pub fn give_up(&mut self, now: Now, through: u32) {
        (self.hosts, self.damaged) = (false, false);
        if let Some(process) = self.process.as_mut() {
            (process.replica, process.wrote, process.dropping) = (None, false, true);
            process.learners.clear();
            let errands = process.desk.give_up(SHARD, through);
            process.errands(now, errands, &mut Random::new(0), false);
        }
    }
}

impl Process {
    /// Makes a replica that learns, while the shard is in this configuration.
    pub fn make_replica(&mut self, me: GatewayId, configuration: u32) {
        let made = storage::new_replica(me, SHARD, &ring(), &settings(), configuration, None);
        self.replica = Some(made.unwrap());
        self.gave_up = false;
        self.log_work.push_back((0, LogWork::Add { shard: SHARD, silent_until: configuration }));
        self.seen.fill(None);
        self.look_at_ms = 0;
    }

    pub fn step(&mut self, now: Now, event: ShardEvent) {
        if let Some(replica) = &mut self.replica {
            replica.step(now, event);
        }
    }

    pub fn next_batch(&mut self, me: GatewayId, start: u64, large: bool) {
        let (n, name) = (self.next_n, format!("g{}-{start}-{}", me.0, self.next_n));
        self.next_n += 1;
        let reading = Reading { stream: 0, time: None, value: 1.0, seq: None, boot: None };
        let items = vec![Item::Publish(PublishItem { source: None, readings: vec![reading] })];
        let streams = vec![StreamName { device: name.as_str().into(), stream: "s".into() }];
        let submission = Submission { streams, makers: Vec::new(), items }.encode();
        // A batch that can't be decoded uses up its number and fills the log.
        let submission = if large { vec![255; 12_000] } else { submission };
        if !large {
            self.names.push(name.clone());
        }
        let to = self.leader.take();
        self.batch = Some(Batch { n, name, submission: submission.into(), to, at_ms: 0 });
    }

    /// The message that sends the waiting batch again, if that is due.
    pub fn resend(
        &mut self,
        now_ms: u64,
        me: GatewayId,
        start: u64,
        anybody: GatewayId,
    ) -> Option<(GatewayId, PeerMessage)> {
        let batch = self.batch.as_mut().filter(|batch| batch.at_ms <= now_ms)?;
        batch.at_ms = now_ms + RESEND_MS;
        let to = batch.to.take().unwrap_or(anybody);
        let (origin, submission) = (Origin { gateway: me, start }, batch.submission.clone());
        Some((to, PeerMessage::Forward { shard: SHARD, origin, n: batch.n, submission }))
    }

    /// Does the work that is due, and returns the messages to send.
    pub fn turn(&mut self, now: Now, random: &mut Random, faults: bool) -> Vec<(GatewayId, PeerMessage)> {
        let now_ms = now.mono_ms;
        let slow = self.slow_until_ms > now_ms;
        while let Some((_, work)) = self.log_work.pop_front_if(|(due, _)| !slow && *due <= now_ms) {
            self.wrote |= matches!(work, LogWork::Write(_)) && self.replica.is_some();
            let heals = matches!(work, LogWork::Healed(_));
            let done = self.log.perform(work).unwrap();
            self.healed |= heals;
            self.carry(now, done, random, faults);
        }
        while let Some((_, work)) = self.store_work.pop_front_if(|(due, _)| *due <= now_ms) {
            let done = self.stores.perform(work).unwrap();
            self.carry(now, done, random, faults);
        }
        while let Some((_, encoding)) = self.encodings.pop_front_if(|(due, _)| *due <= now_ms) {
            let (shard, work) = encoding.perform();
            self.carry(now, vec![Done::Encoded(shard, work)], random, faults);
        }
        if self.look_log_at_ms <= now_ms {
            self.look_log_at_ms = now_ms + 500;
            self.errands(now, vec![Errand::Log(LogWork::Look)], random, faults);
        }
        let due = self.desk.timer(now_ms);
        self.errands(now, due.into_iter().collect(), random, faults);
        let Some(replica) = &mut self.replica else { return Vec::new() };
        if replica.deadline_ms(now).is_some_and(|at| at <= now_ms) {
            replica.step(now, ShardEvent::Timer);
        }
        // Now and then, more events arrive before the replica takes its turn.
        if faults && random.chance(200) {
            return Vec::new();
        }
        let effects = replica.take(now).unwrap();
        let persist = effects.persist.and_then(|request| self.desk.persist(now_ms, request));
        if effects.healed {
            self.errands(now, vec![Errand::Log(LogWork::Healed(SHARD))], random, faults);
        }
        self.errands(now, persist.into_iter().collect(), random, faults);
        for work in effects.store {
            let errands = self.desk.store(now_ms, work);
            self.errands(now, errands, random, faults);
        }
        effects.send
    }

    fn carry(&mut self, now: Now, done: Vec<Done>, random: &mut Random, faults: bool) {
        for done in done {
            self.gave_up |= matches!(done, Done::GivenUp(_));
            let errands = self.desk.done(now.mono_ms, done);
            self.errands(now, errands, random, faults);
        }
    }

    fn errands(&mut self, now: Now, errands: Vec<Errand>, random: &mut Random, faults: bool) {
        for errand in errands {
            let due = now.mono_ms + 1 + random.below(if faults { 40 } else { 5 });
            match errand {
                Errand::Log(work) => self.log_work.push_back((due, work)),
                Errand::Store(work) => self.store_work.push_back((due, work)),
                Errand::Encode(encoding) => self.encodings.push_back((due, encoding)),
                Errand::Shard(_, said) => {
                    if let Some(replica) = &mut self.replica {
                        replica.said(now, said);
                    }
                }
                Errand::Room(_) => {}
                Errand::Dropped(_) => self.dropping = false,
            }
        }
    }
}
