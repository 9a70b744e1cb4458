//! Three replicas of one shard with their logs and stores, which a test runs step by step.

use selvedge_fabric::machine::{
    CountingRules, Item, Origin, Page, PublishItem, Reading, Scanned, Submission,
};
use selvedge_fabric::peer::{PeerMessage, QueryAnswer, ShardQuery, TransferMessage};
use selvedge_fabric::record::Suspect;
use selvedge_fabric::replica::{Replica, Said, StoreWork};
use selvedge_fabric::ring::{Member, Ring};
use selvedge_fabric::shard::{Now, ShardEvent};
use selvedge_fabric::uplink::UplinkContent;
use selvedge_log::storage::{
    self, Done, Errand, FileKind, Folders, LogKeeper, LogWork, ReplicaSettings, StorageDesk, Stores,
};
use selvedge_log::{Disk, Floor, LogOptions, MemoryDisk, Scrubber};
use selvedge_paxos::Limits;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::StreamName;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const SHARD: ShardId = ShardId(0);
const WALL: i64 = 1_764_000_000_000;

pub struct Gateway {
    pub disk: MemoryDisk,
    pub replica: Replica,
    pub log: LogKeeper,
    pub stores: Stores,
    /// Its messages with contents do not reach the others.
    pub mute: bool,
    pub fetches: u32,
    /// What the replica answered to its uplink.
    pub loaded: Vec<(u64, UplinkContent)>,
    /// The slots of snapshots that were saved.
    pub saved: Vec<u64>,
    id: u16,
    desk: StorageDesk,
    /// How many rotten files scrubs have found, and what was mended.
    pub rotten: usize,
    pub mended: Vec<FileKind>,
}

pub struct Site {
    pub gateways: BTreeMap<GatewayId, Gateway>,
    pub now_ms: u64,
    pub forwarded: u64,
    pub asked: u64,
    pub answers: Vec<(u64, u64, Scanned)>,
}

impl Site {
    /// A site whose leader keeps next to nothing in memory, after this many seconds with one reading each; nothing is
    /// confirmed.
    pub fn after(seconds: u64) -> Self {
        let start = |id: u16| {
            let disk = MemoryDisk::new(1 << 24);
            Floor::create(Arc::new(disk.clone()), [id as u8; 16]).unwrap();
            (GatewayId(id), Gateway::start(id, disk, now(0)))
        };
        let gateways = (1..=3).map(start).collect();
        let mut site = Self { gateways, now_ms: 0, forwarded: 0, asked: 0, answers: vec![] };
        site.run(5_000);
        for _ in 0..seconds {
            site.publish();
            site.run(1_000);
        }
        site
    }

    pub fn leader(&self) -> GatewayId {
        let leads = |(id, g): (&GatewayId, &Gateway)| g.replica.core().serves().then_some(*id);
        self.gateways.iter().find_map(leads).expect("one leads")
    }

    /// Ends a gateway's process, with everything that it had in memory, and starts another one.
    pub fn restart(&mut self, at: GatewayId) {
        let gateway = self.gateways.remove(&at).unwrap();
        let disk = gateway.disk.image();
        drop(gateway);
        self.gateways.insert(at, Gateway::start(at.0, disk, now(self.now_ms)));
    }

    pub fn at(&mut self, gateway: GatewayId) -> &mut Gateway {
        self.gateways.get_mut(&gateway).unwrap()
    }

    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.now_ms += 50;
            let now = now(self.now_ms);
            for gateway in self.gateways.values_mut() {
                if gateway.replica.deadline_ms(now).is_some_and(|at| at <= now.mono_ms) {
                    gateway.replica.step(now, ShardEvent::Timer);
                }
            }
            self.settle();
        }
    }

    /// Delivers messages until no gateway has any left.
    pub fn settle(&mut self) {
        let now = now(self.now_ms);
        loop {
            let mut said: Vec<(GatewayId, GatewayId, PeerMessage)> = vec![];
            for (id, gateway) in &mut self.gateways {
                for (to, message) in gateway.turn(now) {
                    if gateway.says(&message) {
                        said.push((*id, to, message));
                    }
                }
            }
            if said.is_empty() {
                return;
            }
            for (from, to, message) in said {
                let event = match message {
                    PeerMessage::Paxos { configuration, message, .. } => {
                        ShardEvent::Paxos { from, configuration, message }
                    }
                    PeerMessage::Transfer { configuration, message, .. } => {
                        ShardEvent::Transfer { from, configuration, message }
                    }
                    PeerMessage::Answer { id, answer: QueryAnswer::Windows(scanned) } => {
                        self.answers.push((id, self.now_ms, scanned));
                        continue;
                    }
                    _ => continue,
                };
                self.at(to).replica.step(now, event);
            }
        }
    }

    pub fn publish(&mut self) {
        self.forwarded += 1;
        let (leader, n) = (self.leader(), self.forwarded);
        let reading = Reading { stream: 0, time: None, value: 1.0, seq: None, boot: None };
        let submission = Submission {
            streams: vec![StreamName { device: "d".into(), stream: "s".into() }],
            makers: vec![],
            items: vec![Item::Publish(PublishItem { source: None, readings: vec![reading] })],
        };
        let origin = Origin { gateway: leader, start: 1 };
        let event = ShardEvent::Forward { from: leader, origin, n, submission: submission.encode().into() };
        let now = now(self.now_ms);
        self.at(leader).replica.step(now, event);
        self.settle();
    }

    /// The answer to a question about everything, and after how many milliseconds it came.
    pub fn ask(&mut self) -> (Scanned, u64) {
        self.asked += 1;
        let (id, leader, began) = (self.asked, self.leader(), self.now_ms);
        let (from, to) = (EpochMs(i64::MIN), EpochMs(i64::MAX));
        let query = ShardQuery {
            device: "*".into(),
            stream: None,
            from,
            to,
            every_ms: None,
            stale: false,
            page: Page::default(),
            wait_ms: 10_000,
        };
        let now = now(began);
        self.at(leader).replica.step(now, ShardEvent::Query { from: leader, id, query });
        self.settle();
        while self.answers.iter().all(|(answered, ..)| *answered != id) {
            assert!(self.now_ms < began + 10_000, "no answer comes");
            self.run(50);
        }
        let (_, at, scanned) = self.answers.pop().unwrap();
        (scanned, at - began)
    }

    /// What the leader's uplink gets when it asks for a batch.
    pub fn load(&mut self, seq: u64) -> UplinkContent {
        let leader = self.leader();
        self.at(leader).replica.load(seq);
        self.settle();
        let loaded = std::mem::take(&mut self.at(leader).loaded);
        assert!(loaded.len() == 1 && loaded[0].0 == seq, "{loaded:?}");
        loaded[0].1.clone()
    }

    /// The number of gateways at which a batch is marked as lost.
    pub fn marked(&self, seq: u64) -> usize {
        let record = |g: &&Gateway| g.replica.core().machine().batch_record(seq).is_some_and(|r| r.lost);
        self.gateways.values().filter(record).count()
    }

    /// The batches whose contents are in the leader's store.
    pub fn stored(&mut self) -> Vec<u64> {
        let leader = self.leader();
        self.at(leader).stores.batches.list(SHARD.0).unwrap().into_iter().map(|(seq, _)| seq).collect()
    }
}

impl Gateway {
    /// Starts a gateway on what the disk holds.
    fn start(id: u16, disk: MemoryDisk, now: Now) -> Self {
        let members: Vec<_> = (1..=3).map(|id| Member { id: GatewayId(id), weight: 1 }).collect();
        let ring = Ring::new(1, &members, 3).unwrap();
        let rules = CountingRules {
            windows_ms: vec![1_000],
            allowed_lateness_ms: 0,
            cut_after_ms: 0,
            ..CountingRules::default()
        };
        let settings = ReplicaSettings {
            rules: Arc::new(rules),
            limits: Limits::default(),
            outbox_budget_bytes: 1 << 20,
            incarnation: 1,
            shelf_bytes: 1,
            is_witness: false,
        };
        let folder = |name| disk.folder(name).unwrap();
        let (floor, log) = (Arc::new(disk.clone()), folder("log"));
        let folders = Folders { floor, log, snapshots: folder("snapshots"), batches: folder("batches") };
        let mut log = LogOptions::new([id as u8; 16]);
        (log.segment_bytes, log.keep_free_bytes, log.unit_bytes) = (256 * 1024, 0, 16 * 1024);
        let found = storage::read(folders, log).unwrap();
        let nonce = u64::from(id) + now.mono_ms;
        let mut opened = found.open(GatewayId(id), &ring, &settings, &mut || nonce).unwrap();
        let mut replica = opened.replicas.remove(&SHARD).unwrap();
        let up = (1..=3).filter(|other| *other != id).map(GatewayId).collect();
        replica.step(now, ShardEvent::Peers { up, restarted: vec![] });
        let log = LogKeeper::new(opened.log, opened.marks);
        let (mute, fetches, loaded, saved) = (false, 0, vec![], vec![]);
        let (stores, desk, rotten, mended) = (opened.stores, StorageDesk::new(1_000, true, 0), 0, vec![]);
        Self { disk, replica, log, stores, mute, fetches, loaded, saved, id, desk, rotten, mended }
    }

    pub fn turn(&mut self, now: Now) -> Vec<(GatewayId, PeerMessage)> {
        let effects = self.replica.take(now).unwrap();
        let mut said = effects.send;
        self.loaded.extend(effects.loaded);
        if let Some(submission) = effects.persist {
            self.log.perform(LogWork::Write(submission.records)).unwrap();
            self.replica.said(now, Said::Persisted(submission.token));
            said.extend(self.turn(now));
        }
        for work in effects.store {
            let errands = self.desk.store(now.mono_ms, work);
            self.run(now, errands);
            said.extend(self.turn(now));
        }
        said
    }

    fn run(&mut self, now: Now, errands: Vec<Errand>) {
        for errand in errands {
            match errand {
                Errand::Log(work) => {
                    let done = self.log.perform(work).unwrap();
                    self.carry(now, done);
                }
                Errand::Store(work) => {
                    let done = self.stores.perform(work).unwrap();
                    self.carry(now, done);
                }
                Errand::Encode(encoding) => {
                    let (shard, work) = encoding.perform();
                    self.carry(now, vec![Done::Encoded(shard, work)]);
                }
                Errand::Shard(_, said) => self.replica.said(now, said),
                Errand::Room(_) | Errand::Dropped(_) => {}
            }
        }
    }

    /// Carries results to their receivers.
    fn carry(&mut self, now: Now, done: Vec<Done>) {
        for done in done {
            match &done {
                Done::Written => continue,
                Done::Snapshot { slot, saved: true, .. } => self.saved.push(*slot),
                Done::RottenBatches(_, seqs) => self.rotten += seqs.len(),
                Done::RottenSnapshot(_) | Done::RottenSegment(_) => self.rotten += 1,
                Done::Mended(what) => self.mended.push(*what),
                _ => {}
            }
            let errands = self.desk.done(now.mono_ms, done);
            self.run(now, errands);
        }
    }

    /// Scrubs everything on the gateway's disk, and has its owners verify what looks rotten.
    pub fn scrub(&mut self, now: Now) {
        let folder = |name| self.disk.folder(name).unwrap();
        let (log, snapshots, batches) = (folder("log"), folder("snapshots"), folder("batches"));
        let scrubber = Scrubber { log, snapshots, batches, identity: [self.id as u8; 16] };
        let mut named = vec![];
        scrubber.round(&self.log.log().extents(), &mut |_| {}, &mut |suspect| named.push(suspect));
        for suspect in named {
            let done = match suspect {
                Suspect::Segment(number) => self.log.perform(LogWork::Rotten(number)).unwrap(),
                _ => self.stores.perform(StoreWork::Check(suspect)).unwrap(),
            };
            self.carry(now, done);
        }
        self.look(now);
    }

    /// What the log's actor does every second.
    pub fn look(&mut self, now: Now) {
        let done = self.log.perform(LogWork::Look).unwrap();
        self.carry(now, done);
    }

    /// Whether the others receive this message.
    pub fn says(&mut self, message: &PeerMessage) -> bool {
        let PeerMessage::Transfer { message, .. } = message else { return true };
        self.fetches += u32::from(matches!(message, TransferMessage::FetchBatch { .. }));
        !self.mute || !matches!(message, TransferMessage::Batch { .. })
    }

    pub fn rot(&mut self, seq: u64) {
        let name = format!("batches/0000/batch-{seq:016x}");
        assert!(self.disk.bytes(&name).is_some(), "{name}");
        self.disk.meddle(&name, |bytes| bytes[40] ^= 1);
    }

    /// Removes the file of a batch, as an operator might.
    pub fn remove(&mut self, seq: u64) {
        let folder = self.disk.folder("batches").unwrap().folder("0000").unwrap();
        folder.remove(&format!("batch-{seq:016x}")).unwrap();
    }

    /// Makes the file of a batch one of another release, or of this one again.
    pub fn set_version(&mut self, seq: u64, version: u32) {
        self.disk.meddle(&format!("batches/0000/batch-{seq:016x}"), |bytes| {
            bytes[8..12].copy_from_slice(&version.to_le_bytes());
            let crc = crc32c::crc32c(&bytes[..12]).to_le_bytes();
            bytes[12..16].copy_from_slice(&crc);
        });
    }
}

pub fn now(mono_ms: u64) -> Now {
    Now { mono_ms, wall: EpochMs(WALL + mono_ms as i64), sure: true }
}

pub fn count(answer: &Scanned) -> u64 {
    answer.windows.iter().map(|w| w.aggregate.count).sum()
}
