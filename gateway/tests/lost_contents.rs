//! What becomes of questions about recent windows, and of the uplink, where disks have lost contents of batches: three replicas of one
//! shard with their logs and stores, turn by turn.

use selvedge_gateway::logic::machine::{Item, Origin, Page, Publish, Reading, Rules, Scanned, Submission};
use selvedge_gateway::logic::paxos::Limits;
use selvedge_gateway::logic::peer::{PeerMessage, QueryAnswer, TransferMessage, WindowQuery};
use selvedge_gateway::logic::replica::{FETCH_WAIT_MS, Replica, Said};
use selvedge_gateway::logic::ring::{Member, Ring};
use selvedge_gateway::logic::shard::{CONFIGURATION, Event, Now};
use selvedge_gateway::logic::uplink::UplinkContent;
use selvedge_gateway::storage::{self, Done, Folders, LogKeeper, LogWork, ReplicaSettings, Stores};
use selvedge_gateway::wal::{Disk, Floor, MemoryDisk, Settings};
use selvedge_shared::ids::{GatewayId, ShardId};
use selvedge_shared::time::EpochMs;
use selvedge_shared::uplink::{LostBatch, StreamName};
use std::collections::BTreeMap;
use std::sync::Arc;

const SHARD: ShardId = ShardId(0);
const WALL: i64 = 1_764_000_000_000;

struct Gateway {
    disk: MemoryDisk,
    replica: Replica,
    log: LogKeeper,
    stores: Stores,
    /// The others get nothing of what it says of contents.
    mute: bool,
    fetches: u32,
    /// What came for the uplink.
    loaded: Vec<(u64, UplinkContent)>,
    /// The slots of snapshots that were saved.
    saved: Vec<u64>,
}

struct Site {
    gateways: BTreeMap<GatewayId, Gateway>,
    now_ms: u64,
    forwarded: u64,
    asked: u64,
    answers: Vec<(u64, u64, Scanned)>,
}

impl Site {
    /// Whose leader keeps next to nothing in memory, after so many seconds with a reading each; nothing is confirmed.
    fn after(seconds: u64) -> Self {
        let members: Vec<_> = (1..=3).map(|id| Member { id: GatewayId(id), weight: 1 }).collect();
        let ring = Ring::new(1, &members, 3).unwrap();
        let rules =
            Rules { windows_ms: vec![1_000], allowed_lateness_ms: 0, cut_after_ms: 0, ..Rules::default() };
        let settings = ReplicaSettings {
            rules: Arc::new(rules),
            limits: Limits::default(),
            outbox_budget_bytes: 1 << 20,
            incarnation: 1,
            shelf_bytes: 1,
        };
        let start = |id: u16| {
            let disk = MemoryDisk::new(1 << 24);
            let folder = |name| disk.folder(name).unwrap();
            let floor = Arc::new(disk.clone());
            Floor::create(floor.clone(), [id as u8; 16]).unwrap();
            let (log, snapshots, batches) = (folder("log"), folder("snapshots"), folder("batches"));
            let folders = Folders { floor, log, snapshots, batches };
            let me = GatewayId(id);
            let mut log = Settings::new([id as u8; 16]);
            (log.segment_bytes, log.keep_free_bytes, log.unit_bytes) = (256 * 1024, 0, 16 * 1024);
            let found = storage::read(folders, log).unwrap();
            let mut opened = found.open(me, &ring, &settings, &mut || u64::from(id)).unwrap();
            let mut replica = opened.replicas.remove(&SHARD).unwrap();
            let up = (1..=3).filter(|other| *other != id).map(GatewayId).collect();
            replica.step(now(0), Event::Peers { up, restarted: vec![] });
            let log = LogKeeper::new(opened.log, [SHARD]);
            let (mute, fetches, loaded, saved) = (false, 0, vec![], vec![]);
            (me, Gateway { disk, replica, log, stores: opened.stores, mute, fetches, loaded, saved })
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

    fn leader(&self) -> GatewayId {
        let leads = |(id, g): (&GatewayId, &Gateway)| g.replica.core().serves().then_some(*id);
        self.gateways.iter().find_map(leads).expect("one leads")
    }

    fn at(&mut self, gateway: GatewayId) -> &mut Gateway {
        self.gateways.get_mut(&gateway).unwrap()
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.now_ms += 50;
            let now = now(self.now_ms);
            for gateway in self.gateways.values_mut() {
                if gateway.replica.deadline_ms(now).is_some_and(|at| at <= now.mono_ms) {
                    gateway.replica.step(now, Event::Timer);
                }
            }
            self.settle();
        }
    }

    /// Turns until nobody has anything to say.
    fn settle(&mut self) {
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
                    PeerMessage::Paxos { message, .. } => Event::Paxos { from, message },
                    PeerMessage::Transfer { message, configuration: CONFIGURATION, .. } => {
                        Event::Transfer { from, message }
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

    fn publish(&mut self) {
        self.forwarded += 1;
        let (leader, n) = (self.leader(), self.forwarded);
        let reading = Reading { stream: 0, time: None, value: 1.0, seq: None, boot: None };
        let submission = Submission {
            streams: vec![StreamName { device: "d".into(), stream: "s".into() }],
            makers: vec![],
            items: vec![Item::Publish(Publish { source: None, readings: vec![reading] })],
        };
        let origin = Origin { gateway: leader, start: 1 };
        let event = Event::Forward { from: leader, origin, n, submission: submission.encode().into() };
        let now = now(self.now_ms);
        self.at(leader).replica.step(now, event);
        self.settle();
    }

    /// The answer to a question about everything, and after how many milliseconds it came.
    fn ask(&mut self) -> (Scanned, u64) {
        self.asked += 1;
        let (id, leader, began) = (self.asked, self.leader(), self.now_ms);
        let (from, to) = (EpochMs(i64::MIN), EpochMs(i64::MAX));
        let query = WindowQuery {
            device: "*".into(),
            stream: None,
            from,
            to,
            every_ms: None,
            stale: false,
            page: Page::default(),
        };
        let now = now(began);
        self.at(leader).replica.step(now, Event::Query { from: leader, id, query });
        self.settle();
        while self.answers.iter().all(|(answered, ..)| *answered != id) {
            assert!(self.now_ms < began + 10_000, "no answer comes");
            self.run(50);
        }
        let (_, at, scanned) = self.answers.pop().unwrap();
        (scanned, at - began)
    }

    /// What the leader's uplink gets when it asks for a batch.
    fn load(&mut self, seq: u64) -> UplinkContent {
        let leader = self.leader();
        self.at(leader).replica.load(seq);
        self.settle();
        let loaded = std::mem::take(&mut self.at(leader).loaded);
        assert!(loaded.len() == 1 && loaded[0].0 == seq, "{loaded:?}");
        loaded[0].1.clone()
    }

    /// At how many gateways a batch is marked as lost.
    fn marked(&self, seq: u64) -> usize {
        let record = |g: &&Gateway| g.replica.core().machine().batch_record(seq).is_some_and(|r| r.lost);
        self.gateways.values().filter(record).count()
    }

    /// The batches whose contents are in the leader's store.
    fn stored(&mut self) -> Vec<u64> {
        let leader = self.leader();
        self.at(leader).stores.batches.list(SHARD.0).unwrap().into_iter().map(|(seq, _)| seq).collect()
    }
}

impl Gateway {
    fn turn(&mut self, now: Now) -> Vec<(GatewayId, PeerMessage)> {
        let effects = self.replica.take(now).unwrap();
        let mut said = effects.send;
        self.loaded.extend(effects.loaded);
        if let Some(submission) = effects.persist {
            self.log.perform(LogWork::Write(submission.records)).unwrap();
            self.replica.said(now, Said::Persisted(submission.token));
            said.extend(self.turn(now));
        }
        for work in effects.store {
            match self.stores.perform(work).unwrap() {
                Some(Done::Loaded { seq, stored, .. }) => {
                    self.replica.said(now, Said::Loaded { seq, stored })
                }
                Some(Done::Scanned { ticket, scan, .. }) => {
                    self.replica.said(now, Said::Scanned { ticket, scan })
                }
                Some(Done::Snapshot { slot, saved, .. }) => {
                    self.saved.extend(saved.then_some(slot));
                    self.replica.said(now, Said::SnapshotSaved { slot, saved });
                }
                _ => continue,
            }
            said.extend(self.turn(now));
        }
        said
    }

    /// Whether the others get this.
    fn says(&mut self, message: &PeerMessage) -> bool {
        let PeerMessage::Transfer { message, .. } = message else { return true };
        self.fetches += u32::from(matches!(message, TransferMessage::FetchBatch { .. }));
        !self.mute || !matches!(message, TransferMessage::Batch { .. })
    }

    fn rot(&mut self, seq: u64) {
        let name = format!("batches/0000/batch-{seq:016x}");
        assert!(self.disk.bytes(&name).is_some(), "{name}");
        self.disk.meddle(&name, |bytes| bytes[40] ^= 1);
    }

    /// The file of a batch is of another release from now on, or of this one again.
    fn set_version(&mut self, seq: u64, version: u32) {
        self.disk.meddle(&format!("batches/0000/batch-{seq:016x}"), |bytes| {
            bytes[8..12].copy_from_slice(&version.to_le_bytes());
            let crc = crc32c::crc32c(&bytes[..12]).to_le_bytes();
            bytes[12..16].copy_from_slice(&crc);
        });
    }
}

fn now(mono_ms: u64) -> Now {
    Now { mono_ms, wall: EpochMs(WALL + mono_ms as i64), sure: true }
}

fn count(answer: &Scanned) -> u64 {
    answer.windows.iter().map(|w| w.aggregate.count).sum()
}

#[test]
fn what_the_leader_has_lost_is_fetched_from_the_others_and_kept() {
    let mut site = Site::after(20);
    let (leader, stored) = (site.leader(), site.stored());
    assert!(stored.len() > 10, "{stored:?}");
    let (whole, took_ms) = site.ask();
    assert_eq!((count(&whole), whole.lacking, took_ms), (20, 0, 0));
    assert_eq!(site.at(leader).fetches, 0);
    // Some are gone, and one can't be read.
    site.at(leader).stores.batches.remove_through(SHARD.0, stored[3]).unwrap();
    site.at(leader).rot(stored[5]);
    let (answer, took_ms) = site.ask();
    assert_eq!((answer, took_ms), (whole.clone(), 0));
    assert_eq!(site.at(leader).fetches, 5 * 2, "each of both others");
    // Next time they are at hand, also when nobody else has them.
    site.gateways.values_mut().for_each(|gateway| gateway.mute = true);
    assert_eq!(site.ask(), (whole, 0));
    assert_eq!(site.at(leader).fetches, 5 * 2);
}

#[test]
fn what_one_other_has_lost_too_comes_from_the_third() {
    let mut site = Site::after(12);
    let (leader, stored) = (site.leader(), site.stored());
    let (whole, _) = site.ask();
    let others: Vec<_> = site.gateways.keys().copied().filter(|id| *id != leader).collect();
    for (n, other) in others.iter().enumerate() {
        site.at(leader).rot(stored[n]);
        site.at(*other).rot(stored[n]);
    }
    assert_eq!(site.ask().0, whole);
}

#[test]
fn what_nobody_has_is_told_as_lacking_at_once_and_what_nobody_answers_for_after_a_while() {
    let mut site = Site::after(12);
    let (leader, stored) = (site.leader(), site.stored());
    site.gateways.values_mut().for_each(|gateway| gateway.rot(stored[2]));
    let (answer, took_ms) = site.ask();
    assert_eq!((count(&answer), answer.lacking, took_ms), (11, 1, 0));
    site.gateways.values_mut().for_each(|gateway| gateway.mute = true);
    site.at(leader).rot(stored[4]);
    let (answer, took_ms) = site.ask();
    assert_eq!((count(&answer), answer.lacking), (10, 2));
    assert!((FETCH_WAIT_MS..FETCH_WAIT_MS + 200).contains(&took_ms), "{took_ms}");
    // The others speak again.
    site.gateways.values_mut().for_each(|gateway| gateway.mute = false);
    let (answer, _) = site.ask();
    assert_eq!((count(&answer), answer.lacking), (11, 1));
}

#[test]
fn a_batch_that_all_have_lost_is_given_up_and_the_uplink_is_told_what_it_held() {
    let mut site = Site::after(12);
    let (leader, stored) = (site.leader(), site.stored());
    let seq = stored[2];
    site.gateways.values_mut().for_each(|gateway| gateway.rot(seq));
    let record = site.at(leader).replica.core().machine().batch_record(seq).unwrap();
    assert_eq!(site.load(seq), UplinkContent::NotNow);
    site.run(1_000); // the others hear of it
    assert_eq!(site.marked(seq), 3);
    let machine = site.at(leader).replica.core().machine();
    let outbox = machine.outbox_stats();
    let others = (1..=outbox.last).filter(|other| *other != seq);
    let bytes: u64 = others.map(|other| u64::from(machine.batch_record(other).unwrap().bytes)).sum();
    assert_eq!((outbox.lost, outbox.bytes), (1, bytes), "it takes no room any more");
    let lost = LostBatch { readings: 1, parts: 1, from: record.from, to: record.to };
    assert_eq!(site.load(seq), UplinkContent::Lost(lost));
    assert!(matches!(site.load(stored[3]), UplinkContent::Here(_)));
    assert_eq!(site.at(leader).replica.core().status(now(0)).lost_batches, 1);
    // It is chosen once, and never taken back.
    let slot = site.at(leader).replica.core().machine().slot();
    site.gateways.values_mut().for_each(|gateway| gateway.rot(seq)); // as it was
    assert_eq!(site.load(seq), UplinkContent::Lost(lost));
    assert_eq!(site.at(leader).replica.core().machine().slot(), slot);
    // Nobody asks for it any more, and questions say that it is lacking.
    let fetches = site.at(leader).fetches;
    let (answer, took_ms) = site.ask();
    assert_eq!((count(&answer), answer.lacking, took_ms), (11, 1, 0));
    assert_eq!(site.at(leader).fetches, fetches);
}

#[test]
fn neither_silence_nor_doubt_gives_a_batch_up_and_whoever_has_it_wins() {
    let mut site = Site::after(12);
    let (leader, stored) = (site.leader(), site.stored());
    let seq = stored[2];
    let others: Vec<_> = site.gateways.keys().copied().filter(|id| *id != leader).collect();
    site.at(leader).rot(seq);
    site.at(others[0]).rot(seq);
    let tries = |site: &mut Site| {
        for _ in 0..5 {
            assert_eq!(site.load(seq), UplinkContent::NotNow);
            site.run(2_000);
        }
        assert_eq!(site.marked(seq), 0);
    };
    site.at(others[1]).mute = true;
    tries(&mut site);
    site.at(others[1]).mute = false;
    site.at(others[1]).set_version(seq, 2);
    tries(&mut site);
    site.at(others[1]).set_version(seq, 1);
    assert_eq!(site.load(seq), UplinkContent::NotNow);
    assert!(matches!(site.load(seq), UplinkContent::Here(_)), "it was fetched");
    assert_eq!(site.marked(seq), 0);
}

#[test]
fn a_batch_whose_files_are_gone_is_given_up_and_snapshots_go_on_without_it() {
    let mut site = Site::after(12);
    let stored = site.stored();
    let seq = stored[0];
    for gateway in site.gateways.values_mut() {
        gateway.stores.batches.remove_through(SHARD.0, seq).unwrap();
        gateway.replica.said(now(0), Said::SnapshotWanted);
    }
    site.settle();
    assert!(
        site.gateways.values().all(|gateway| gateway.saved.is_empty()),
        "it would count without the content"
    );
    for seq in 1..=seq {
        assert_eq!(site.load(seq), UplinkContent::NotNow);
        site.run(1_000); // the others hear of it
        assert_eq!(site.marked(seq), 3);
    }
    for gateway in site.gateways.values_mut() {
        gateway.replica.said(now(0), Said::SnapshotWanted);
    }
    site.settle();
    assert!(site.gateways.values().all(|gateway| gateway.saved.len() == 1));
}
