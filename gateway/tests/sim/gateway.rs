//! One gateway: its disk, its clock, and while it runs, its process. The process consists of the cores and the storage
//! that ship; this module takes the place of the actors, which carry between them.

use super::clock::Clock;
use super::disk::SimDisk;
use super::edge::{Edge, Left};
use super::invariants::wills::Counted;
use super::links::Links;
use super::pipe::Piece;
use super::random::Random;
use selvedge_fabric::agreement::{Agreement, WallTime};
use selvedge_fabric::decode::TopicRule;
use selvedge_fabric::detour;
use selvedge_fabric::directory::{DIRECTORY_GROUP, Genesis};
use selvedge_fabric::forward::{self, Forward, Forwardable, Ticket};
use selvedge_fabric::link::Known;
use selvedge_fabric::machine::{CountingRules, Item, ItemOutcome, Origin};
use selvedge_fabric::peer::{PeerMessage, QueryAnswer, TableQuestion};
use selvedge_fabric::reach::News;
use selvedge_fabric::record::Suspect;
use selvedge_fabric::replica::{Encoding, Replica, Said, StoreWork};
use selvedge_fabric::ring::Ring;
use selvedge_fabric::shard::{Now, ShardEvent};
use selvedge_fabric::uplink::{self, Confirmation, Uplink};
use selvedge_log::storage::{
    self, Done, Errand, LogKeeper, LogWork, OpenError, Opened, ReadStorage, ReplicaSettings, StorageDesk,
    Stores,
};
use selvedge_log::{Groups, Room, ScrubRound, Scrubber};
use selvedge_paxos::Limits;
use selvedge_seal::{Opener, Sealer, SiteSecret};
use selvedge_types::ids::{GatewayId, ShardId, SiteId};
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{Down, Up};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub mod steward;

use steward::StewardDesk;

/// The bytes that the outbox of a shard may take before its leader accepts nothing more.
pub const OUTBOX_BUDGET_BYTES: u64 = 12_000;
/// A log of more segments asks for snapshots.
pub const MAX_SEGMENTS: u64 = 4;
const SHELF_BYTES: usize = 400;
/// How fast a scrub reads, and how long after a round the next one begins.
const SCRUB_BYTES_PER_MS: u64 = 256;
const SCRUB_PAUSE_MS: u64 = 3_000;
/// How often the log's length and the disk's room are checked.
const LOOK_MS: u64 = 1_000;

/// The facts that all gateways of a site share.
pub struct Common {
    pub ring: Arc<Ring>,
    pub rules: Arc<CountingRules>,
    pub limits: Limits,
    pub topics: Vec<TopicRule>,
    /// The bytes of publishes that a gateway may hold.
    pub credit_bytes: usize,
    /// The longest keep alive, in seconds.
    pub keepalive_s: u16,
    pub site: SiteId,
    pub secret: SiteSecret,
    /// Whether its gateways scrub their disks.
    pub scrubs: bool,
    /// The beginning of the directory, in a site whose members change. Other sites run without a directory.
    pub genesis: Option<Genesis>,
}

/// A gateway's box, which outlives its processes.
pub struct Place {
    pub disk: SimDisk,
    pub clock: Clock,
    pub live: Option<Live>,
    pub start: u64,
    /// When it wants to run next.
    pub due: u64,
    /// When it is started again, while it is down.
    pub back_at: u64,
    /// Until when its process is frozen.
    pub frozen_until: u64,
    /// Since when its process has been frozen.
    pub stood_since: Option<u64>,
    /// Whether the box is without power.
    pub off: bool,
    /// Whether the box was lost or removed for good. It may still run for a while after a removal.
    pub gone: bool,
    /// Whether it is a witness.
    pub is_witness: bool,
    /// The random number of its data folder.
    pub incarnation: u128,
    /// The gateways that its settings name.
    pub peers: Vec<GatewayId>,
    /// What it remembers of its peers, on disk.
    pub known: BTreeMap<GatewayId, Known>,
    /// The number of faults that keep it from its uplink.
    pub cut_off: u32,
    /// The least time that a write takes, besides the weather.
    pub slow_ms: u64,
    /// The last start found damage. It may be repaired by now, but the disk need not show that yet.
    pub damaged: bool,
    /// It lost the content of a batch, which may go unnoticed for long.
    pub lost_batch: bool,
    /// Acknowledged records are gone from the log's end.
    pub lost_end: bool,
    /// Files that rot before the next start.
    pub rots: Vec<(super::plan::Rot, u64, bool)>,
}

/// A gateway's process.
pub struct Live {
    pub me: GatewayId,
    pub origin: Origin,
    pub replicas: BTreeMap<ShardId, Replica>,
    pub forward: Forward,
    pub uplink: Uplink,
    pub log: LogKeeper,
    sealer: Sealer<Up>,
    opener: Opener<Down>,
    desk: StorageDesk,
    stores: Stores,
    log_work: VecDeque<LogWork>,
    log_due: Option<u64>,
    store_work: VecDeque<StoreWork>,
    store_due: Option<u64>,
    encodings: VecDeque<Encoding>,
    encoded_at: Option<u64>,
    look_at: u64,
    /// A segment of the log is rotten.
    rotten: bool,
    /// The scrubber, its round, and when it goes on; only where disks rot.
    scrub: Option<(Scrubber, ScrubRound, u64)>,
    pub links: Links,
    /// When it next compares clocks and disks.
    pub peers_look_at: u64,
    /// Its front and the connections of devices.
    pub edge: Edge,
    /// Its part in the site's growth, in a site whose members change.
    steward: Option<StewardDesk>,
    /// The gateways that can be reached, as it told its shards.
    up: Vec<GatewayId>,
    /// What it knows of the others' clocks.
    pub agreement: Agreement,
    /// The gateways whose clocks are outside, as its shards know it.
    outside: Vec<GatewayId>,
    /// The gateways that reported full disks, and those that should lead nothing as its shards know it.
    pub full: BTreeSet<GatewayId>,
    told_full: BTreeSet<GatewayId>,
    /// A replica got an event after its turn.
    again: bool,
    last_order: u64,
}

/// The effects of a process on the world outside of it.
#[derive(Default)]
pub struct Out {
    pub send: Vec<(GatewayId, PeerMessage)>,
    /// To devices, by connection.
    pub pieces: Vec<(u64, Piece)>,
    /// Items that shards settled: shard and slot.
    pub settled: Vec<(ShardId, u64)>,
    /// The publishes, and the wills, that shards have counted.
    pub published: Vec<Counted>,
    pub wills: Vec<Counted>,
    /// Sealed frames for the broker.
    pub up: Vec<(ShardId, Vec<u8>)>,
    /// Answers to queries that were asked here.
    pub queries: Vec<(u64, QueryAnswer)>,
}

/// The process must end, for this reason.
#[derive(Debug)]
pub struct Ended(pub String);

impl Place {
    pub fn new(gateway: GatewayId, incarnation: u128, peers: Vec<GatewayId>, wide: bool) -> Self {
        Self {
            disk: SimDisk::new(gateway, wide),
            clock: Clock::default(),
            live: None,
            start: 0,
            due: 0,
            back_at: 0,
            frozen_until: 0,
            stood_since: None,
            off: false,
            gone: false,
            is_witness: false,
            incarnation,
            peers,
            known: BTreeMap::new(),
            cut_off: 0,
            slow_ms: 0,
            damaged: false,
            lost_batch: false,
            lost_end: false,
            rots: Vec::new(),
        }
    }

    pub fn now(&self, mono_ms: u64) -> Now {
        let own = self.clock.read(mono_ms);
        let told = self.live.as_ref().map(|live| live.agreement.now(mono_ms, own));
        let WallTime { wall, sure } = told.unwrap_or(WallTime { wall: own, sure: false });
        Now { mono_ms, wall, sure }
    }

    /// Starts a process on what the disk holds.
    pub fn start(&mut self, me: GatewayId, common: &Common, mono_ms: u64) -> Result<(), OpenError> {
        self.start += 1;
        let (start, mut draws) = (self.start, 0);
        let mut nonce = || {
            draws += 1;
            start << 20 | u64::from(me.0) << 10 | draws
        };
        let found = storage::read(self.disk.folders(), self.disk.settings(me))?;
        let settings = replica_settings(common, self.is_witness);
        let opened = open(found, me, common, &settings, &mut nonce)?;
        let replicas = opened.replicas;
        let lost = if std::mem::take(&mut self.lost_end) { Groups::all() } else { Groups::default() };
        super::invariants::corruption::started(me, &lost, &replicas);
        super::invariants::corruption::started(me, &opened.recovery.damaged_groups, &replicas);
        let origin = Origin { gateway: me, start: self.start };
        // Every other process keeps many small batches under way, because errors are most likely there.
        let pipeline_bytes =
            if (u64::from(me.0) + self.start).is_multiple_of(2) { 0 } else { forward::PIPELINE_BYTES };
        let mut opener = Opener::new();
        opener.add(&common.site, &common.secret);
        let steward = common.genesis.as_ref().map(|genesis| {
            StewardDesk::new(me, self.incarnation, genesis, &settings, common, &opened.marks, mono_ms)
        });
        self.live = Some(Live {
            me,
            origin,
            forward: Forward::new(origin, common.ring.clone(), pipeline_bytes),
            uplink: Uplink::default(),
            desk: StorageDesk::new(MAX_SEGMENTS, opened.log.room() == Room::Plenty, 0),
            log: LogKeeper::new(opened.log, opened.marks),
            replicas,
            sealer: Sealer::new(&common.secret, &common.site).expect("a salt"),
            opener,
            stores: opened.stores,
            log_work: VecDeque::new(),
            log_due: None,
            store_work: VecDeque::new(),
            store_due: None,
            encodings: VecDeque::new(),
            encoded_at: None,
            look_at: mono_ms,
            rotten: false,
            scrub: common.scrubs.then(|| (self.disk.scrubber(me), ScrubRound::new(&[]), 0)),
            links: Links::new(
                mono_ms,
                (me, self.incarnation),
                self.start,
                self.start << 16 | u64::from(me.0),
                &self.peers,
            ),
            peers_look_at: mono_ms,
            edge: Edge::new(common, origin),
            steward,
            up: vec![me],
            agreement: Agreement::new(me, self.peers.iter().copied()),
            outside: Vec::new(),
            full: BTreeSet::new(),
            told_full: BTreeSet::new(),
            again: false,
            last_order: 0,
        });
        let own = self.clock.read(mono_ms);
        if let Some(live) = &mut self.live {
            live.agreement.look(mono_ms, own);
            live.forward.begin();
            let given_up: Vec<_> = live.steward.iter().flat_map(StewardDesk::given_up).collect();
            for (shard, through) in given_up {
                let errands = live.desk.give_up(shard, through);
                live.run(Now { mono_ms, wall: own, sure: false }, errands);
            }
        }
        Ok(())
    }

    /// Starts this release on a copy in which another release wrote a snapshot. It must refuse and leave everything as
    /// it is, so that the other release finds its data and its votes. Returns whether there was a snapshot.
    pub fn refuses_another_release(&self, me: GatewayId, common: &Common) -> bool {
        let Some(disk) = self.disk.with_snapshot_of_another_release() else { return false };
        let before = disk.files();
        let opened = storage::read(disk.folders(), disk.settings(me))
            .and_then(|found| open(found, me, common, &replica_settings(common, self.is_witness), &mut || 1));
        let refused = matches!(opened, Err(OpenError::Unreadable { .. }));
        assert!(refused, "{me} takes what another release wrote for damage");
        assert!(before == disk.files(), "{me} changed what another release wrote");
        true
    }

    /// The power fails while the disk is at work: a part of that work may be done.
    pub fn cut_power(&mut self, how: selvedge_log::Crash, random: &mut Random) {
        if let Some(mut live) = self.live.take() {
            self.disk.power_off_after(random.below(6));
            if let Some(work) = live.log_work.pop_front() {
                let _ = live.log.perform(work); // its outcome is lost with the process
            }
            if let Some(work) = live.store_work.pop_front() {
                let _ = live.stores.perform(work);
            }
        }
        self.disk.crash(how);
    }

    /// The process is killed; the system keeps what the process wrote.
    pub fn kill(&mut self) {
        self.live = None;
        self.disk.kill();
    }
}

impl Live {
    pub fn event(&mut self, now: Now, shard: ShardId, event: ShardEvent) {
        if let Some(replica) = self.replicas.get_mut(&shard) {
            replica.step(now, event);
        }
    }

    pub fn snapshots(&mut self, now: Now) {
        self.replicas.values_mut().for_each(|r| r.said(now, Said::SnapshotWanted));
    }

    /// Compares the clocks by what frames have brought. Returns whether the shards were told of a change.
    pub fn look_at_clocks(&mut self, now: Now, own: EpochMs) -> bool {
        self.agreement.look(now.mono_ms, own);
        let outside = self.agreement.outside();
        if outside == self.outside {
            return false;
        }
        for replica in self.replicas.values_mut() {
            replica.step(now, ShardEvent::Clocks { outside: outside.clone() });
        }
        self.outside = outside;
        true
    }

    pub fn has_room(&self) -> bool {
        self.desk.figures().room
    }

    /// Compares the reports of full disks. Returns whether the shards were told of a change.
    pub fn look_at_room(&mut self, now: Now) -> bool {
        // A gateway that is being emptied leads no more than one whose disk is full.
        let draining = self.steward.as_ref().map_or(&[][..], StewardDesk::draining);
        let reluctant: BTreeSet<_> = self.full.iter().chain(draining).copied().collect();
        if reluctant == self.told_full {
            return false;
        }
        for replica in self.replicas.values_mut() {
            replica.step(now, ShardEvent::Full { who: reluctant.iter().copied().collect() });
        }
        self.told_full = reluctant;
        true
    }

    /// The set of reachable gateways has changed.
    pub fn peers(&mut self, now: Now, news: &News) {
        for replica in self.replicas.values_mut() {
            replica.step(now, ShardEvent::Peers { up: news.up.clone(), restarted: news.restarted.clone() });
            replica.step(now, ShardEvent::Said(Arc::new(news.said.clone())));
        }
        self.up = self.links.reach().within().into_iter().collect();
        news.gone.iter().for_each(|gone| self.forward.gateway_down(now.mono_ms, *gone));
        news.back.iter().for_each(|back| self.forward.gateway_up(*back));
    }

    /// A message comes from a peer, or from this gateway itself.
    pub fn hear(&mut self, now: Now, from: GatewayId, message: PeerMessage, out: &mut Out) {
        match message {
            PeerMessage::Paxos { group, configuration, message } => {
                self.event(now, group, ShardEvent::Paxos { from, configuration, message });
            }
            PeerMessage::Transfer { shard, configuration, message } => {
                self.event(now, shard, ShardEvent::Transfer { from, configuration, message });
            }
            PeerMessage::Superseded { shard, configuration } => {
                self.event(now, shard, ShardEvent::Superseded { from, configuration });
            }
            PeerMessage::Forward { shard, origin, n, submission } => {
                self.event(now, shard, ShardEvent::Forward { from, origin, n, submission });
            }
            PeerMessage::Forwarded { shard, origin, n, answer } => {
                let mut effects = forward::ForwardEffects::default();
                self.forward.answered(now.mono_ms, (from, origin, shard, n), answer, &mut effects);
                self.forwarded(now, effects, out);
            }
            PeerMessage::Answer { id, answer } => out.queries.push((id, answer)),
            PeerMessage::Evict { start, connection } => self.edge.front.evict(start, connection),
            PeerMessage::EvictAll { start, shard } => self.edge.front.evict_all(start, shard),
            PeerMessage::Interest { filters } => self.edge.front.set_interest(from, &filters),
            PeerMessage::Route { publisher, publishes } => {
                self.edge.front.route_in(from, publisher, publishes);
                self.edge.front.tell_taken();
            }
            PeerMessage::Taken { publishers } => self.edge.front.taken(publishers),
            PeerMessage::AskTable { id, question: TableQuestion::Gateway } => {
                self.describe(now, from, id, out);
            }
            PeerMessage::TableAnswer { id, answer } => self.described(now, from, id, answer),
            PeerMessage::Detour { to, message } => {
                out.send.extend(detour::pass_on(self.links.reach(), from, to, message));
            }
            PeerMessage::Detoured { from: origin, message } => {
                let is_peer = |from| self.links.peers().any(|peer| peer == from);
                if let Ok(message) = detour::arrived(from, origin, &message, is_peer) {
                    self.hear(now, origin, message, out);
                }
            }
            _ => {}
        }
    }

    fn forwarded(&mut self, now: Now, effects: forward::ForwardEffects, out: &mut Out) {
        let origin = self.origin;
        for (to, forward::Outgoing { shard, n, submission }) in effects.send {
            out.send.push((to, PeerMessage::Forward { shard, origin, n, submission }));
        }
        if effects.outcomes.is_empty() {
            return;
        }
        self.edge.settled(now, effects.outcomes, |settled, about| {
            let kept = match &settled.outcome {
                ItemOutcome::Judged(judged) => judged.is_kept(),
                ItemOutcome::Done | ItemOutcome::Duplicate | ItemOutcome::Retired { .. } => true,
                ItemOutcome::Stale
                | ItemOutcome::Refused(_)
                | ItemOutcome::Connected(_)
                | ItemOutcome::Subscribed { .. }
                | ItemOutcome::WillDue(_)
                | ItemOutcome::Directory(_) => false,
            };
            let (shard, slot) = (settled.shard, settled.slot);
            if let Some(desk) = &mut self.steward {
                desk.settled(settled.ticket);
            }
            if kept {
                out.settled.push((shard, slot));
            }
            let new =
                matches!(&settled.outcome, ItemOutcome::Judged(judged) if judged.counted > 0) && slot > 0;
            if let Some(about) = about.filter(|_| new) {
                let list = if about.is_will { &mut out.wills } else { &mut out.published };
                list.push(Counted { client: about.client, epoch: about.epoch, shard, slot });
            }
        });
        self.again = true;
    }

    /// Lets its connections and its front do what they can.
    fn serve(&mut self, now: Now, out: &mut Out) {
        let mut left = Left::default();
        self.edge.serve(now, &mut self.forward, &mut left);
        self.edge.tell_interest(self.links.peers(), &mut left);
        out.pieces.extend(left.pieces);
        out.send.extend(left.send);
    }

    /// An operator's order for a shard; no test waits for its answer.
    pub fn order(&mut self, shard: ShardId, item: Item) {
        self.last_order += 1;
        let ticket = Ticket { connection: u64::MAX, token: self.last_order };
        self.forward.submit(shard, ticket, Forwardable::Item(item));
    }

    /// Takes in a sealed confirmation from the broker. Returns whether it was accepted.
    pub fn confirmed(
        &mut self,
        common: &Common,
        now: Now,
        shard: ShardId,
        frame: &[u8],
        out: &mut Out,
    ) -> bool {
        let Ok((incarnation, _, Down::Confirm { ledger, cursor })) =
            self.opener.open_of(&common.site, shard, frame)
        else {
            return false;
        };
        let mut effects = Vec::new();
        let said = Confirmation { incarnation, ledger, cursor };
        // A leader that was cut off may get confirmations of batches that a later leader has cut.
        let _ = self.uplink.confirmed(now.mono_ms, shard, said, &mut effects);
        self.uplinked(now, effects, out);
        true
    }

    pub fn connect_uplink(&mut self, now: Now, connected: bool, out: &mut Out) {
        if self.uplink.is_connected() != connected {
            let mut effects = Vec::new();
            self.uplink.connected(now.mono_ms, connected, &mut effects);
            self.uplinked(now, effects, out);
        }
    }

    fn uplinked(&mut self, now: Now, effects: Vec<uplink::UplinkEffect>, out: &mut Out) {
        for effect in effects {
            let (incarnation, shard, seq, message) = match effect {
                uplink::UplinkEffect::Load(shard, seq) => {
                    if let Some(replica) = self.replicas.get_mut(&shard) {
                        replica.load(seq);
                        self.again = true;
                    }
                    continue;
                }
                uplink::UplinkEffect::Settled { shard, ledger, last, beyond } => {
                    self.event(now, shard, ShardEvent::Settled { ledger, last, beyond });
                    self.again = true;
                    continue;
                }
                uplink::UplinkEffect::Confirmed(shard, ledger, cursor) => {
                    self.event(now, shard, ShardEvent::Confirmed { ledger, cursor });
                    self.again = true;
                    continue;
                }
                uplink::UplinkEffect::Batch { shard, incarnation, seq, first_kept, last, body } => {
                    (incarnation, shard, seq, Up::Batch { first_kept, last, body })
                }
                uplink::UplinkEffect::Lost { shard, incarnation, seq, first_kept, last, lost } => {
                    (incarnation, shard, seq, Up::Lost { first_kept, last, lost })
                }
                uplink::UplinkEffect::Beacon { shard, incarnation, first_kept, last } => {
                    (incarnation, shard, last, Up::Beacon { first_kept, last })
                }
            };
            let sealed = self.sealer.seal_of(incarnation, shard, seq, &message);
            out.up.push((shard, sealed.expect("it fits")));
        }
    }

    /// Completes the disk's work, if that is due.
    pub fn disk(&mut self, now: Now, writes_ms: u64, random: &mut Random) -> Result<(), Ended> {
        let mut done = Vec::new();
        if self.look_at <= now.mono_ms {
            self.look_at = u64::MAX;
            self.log_work.push_back(LogWork::Look);
        }
        if self.log_due.is_some_and(|due| due <= now.mono_ms) {
            self.log_due = None;
            if let Some(work) = self.log_work.pop_front() {
                if !matches!(work, LogWork::Look) {
                    self.look_at = self.look_at.min(now.mono_ms + LOOK_MS);
                }
                done.extend(self.log.perform(work).map_err(|e| Ended(e.to_string()))?);
            }
        }
        if self.store_due.is_some_and(|due| due <= now.mono_ms) {
            self.store_due = None;
            if let Some(work) = self.store_work.pop_front() {
                done.extend(self.stores.perform(work).map_err(|e| Ended(e.to_string()))?);
            }
        }
        if self.encoded_at.is_some_and(|at| at <= now.mono_ms) {
            self.encoded_at = None;
            let encoded = self.encodings.pop_front().map(Encoding::perform);
            done.extend(encoded.map(|(shard, work)| Done::Encoded(shard, work)));
        }
        self.scrub(now);
        for done in done {
            if let Done::Looked { rotten, .. } = &done {
                self.rotten = *rotten;
            }
            let errands = self.desk.done(now.mono_ms, done);
            self.run(now, errands);
        }
        let figures = self.desk.figures();
        if !figures.room || figures.segments > MAX_SEGMENTS || self.desk.transfers() > 0 || self.rotten {
            // As long as nothing is written and there is room, another look would find the same.
            self.look_at = self.look_at.min(now.mono_ms + LOOK_MS);
        }
        if self.log_due.is_none() && !self.log_work.is_empty() {
            self.log_due = Some(now.mono_ms + random.below(writes_ms));
        }
        if self.store_due.is_none() && !self.store_work.is_empty() {
            self.store_due = Some(now.mono_ms + random.below(2 * writes_ms));
        }
        if self.encoded_at.is_none() && !self.encodings.is_empty() {
            self.encoded_at = Some(now.mono_ms + random.below(40)); // independently of the disk's work
        }
        Ok(())
    }

    /// Reads the next file again, if that is due; the owner of a suspect verifies it.
    fn scrub(&mut self, now: Now) {
        let Some((scrubber, round, due)) = self.scrub.as_mut().filter(|(.., due)| *due <= now.mono_ms) else {
            return;
        };
        let (mut bytes, mut suspects) = (0, Vec::new());
        let goes_on = scrubber.step(round, &mut |read| bytes += read, &mut |what| suspects.push(what));
        *due = now.mono_ms + 1 + bytes / SCRUB_BYTES_PER_MS;
        if !goes_on {
            *round = ScrubRound::new(&self.log.log().extents());
            *due = now.mono_ms + SCRUB_PAUSE_MS;
        }
        for suspect in suspects {
            match suspect {
                Suspect::Segment(number) => self.log_work.push_back(LogWork::Rotten(number)),
                _ => self.store_work.push_back(StoreWork::Check(suspect)),
            }
        }
    }

    fn run(&mut self, now: Now, errands: impl IntoIterator<Item = Errand>) {
        for errand in errands {
            match errand {
                Errand::Log(work) => self.log_work.push_back(work),
                Errand::Store(work) => self.store_work.push_back(work),
                Errand::Encode(encoding) => self.encodings.push_back(encoding),
                Errand::Shard(shard, said) => {
                    if let Some(replica) = self.replicas.get_mut(&shard) {
                        replica.said(now, said);
                    }
                }
                Errand::Room(room) => {
                    self.replicas.values_mut().for_each(|r| r.said(now, Said::Room(room)));
                }
                Errand::Dropped(shard) => {
                    if let Some(desk) = &mut self.steward {
                        desk.deleted(shard);
                    }
                }
            }
        }
    }

    /// Fires the timers that are due.
    pub fn timers(&mut self, now: Now, out: &mut Out) {
        for replica in self.replicas.values_mut() {
            if replica.deadline_ms(now).is_some_and(|at| at <= now.mono_ms) {
                replica.step(now, ShardEvent::Timer);
            }
        }
        if self.forward.deadline_ms().is_some_and(|at| at <= now.mono_ms) {
            let mut effects = forward::ForwardEffects::default();
            self.forward.timer(now.mono_ms, &mut effects);
            self.forwarded(now, effects, out);
        }
        if self.uplink.deadline_ms().is_some_and(|at| at <= now.mono_ms) {
            let mut effects = Vec::new();
            self.uplink.timer(now.mono_ms, &mut effects);
            self.uplinked(now, effects, out);
        }
        self.edge.look(now, &self.forward);
    }

    /// Performs the effects of the cores until there are none.
    pub fn turn(&mut self, now: Now, out: &mut Out) -> Result<(), Ended> {
        loop {
            self.again = false;
            self.serve(now, out);
            let mut effects = forward::ForwardEffects::default();
            self.forward.flush(now.mono_ms, &mut effects);
            self.forwarded(now, effects, out);
            let ids: Vec<ShardId> = self.replicas.keys().copied().collect();
            for shard in ids {
                self.turn_of(now, shard, out)?;
            }
            self.again |= self.steward(now, out);
            if !self.again {
                return Ok(());
            }
        }
    }

    fn turn_of(&mut self, now: Now, shard: ShardId, out: &mut Out) -> Result<(), Ended> {
        let Some(replica) = self.replicas.get_mut(&shard) else { return Ok(()) };
        let effects = replica.take(now).map_err(|halt| Ended(halt.to_string()))?;
        out.send.extend(effects.send);
        if let Some(submission) = effects.persist {
            let errand = self.desk.persist(now.mono_ms, submission);
            self.run(now, errand);
        }
        if effects.healed {
            self.run(now, [Errand::Log(LogWork::Healed(shard))]);
        }
        for work in effects.store {
            let errands = self.desk.store(now.mono_ms, work);
            self.again |= errands.iter().any(|errand| matches!(errand, Errand::Shard(..)));
            self.run(now, errands);
        }
        if effects.began_to_lead {
            let mut effects = forward::ForwardEffects::default();
            self.forward.leader_is(now.mono_ms, shard, self.me, &mut effects);
            self.forwarded(now, effects, out);
        }
        if !effects.wills.is_empty() {
            self.edge.publish_wills(now, effects.wills);
            self.again = true;
        }
        let mut up = Vec::new();
        for (seq, content) in effects.loaded {
            self.uplink.loaded(now.mono_ms, shard, seq, content, &mut up);
        }
        // The directory group has nothing for the cloud.
        if let Some(view) = effects.uplink.filter(|_| shard != DIRECTORY_GROUP) {
            self.uplink.view(now.mono_ms, shard, view, &mut up);
        }
        self.uplinked(now, up, out);
        self.tell_steward(now, shard, effects.directory);
        Ok(())
    }

    /// When it wants to run next.
    pub fn deadline(&mut self, now: Now) -> u64 {
        let shards = self.replicas.values_mut().filter_map(|r| r.deadline_ms(now)).min();
        [
            shards,
            self.log_due,
            self.store_due,
            self.encoded_at,
            Some(self.look_at),
            self.scrub.as_ref().map(|(.., due)| *due),
            self.forward.deadline_ms(),
            self.uplink.deadline_ms(),
            Some(self.edge.deadline_ms()),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(u64::MAX)
    }

    /// Its work under way, for failure messages.
    pub fn works_at(&self) -> String {
        let (log, store) = (self.log_work.len(), self.store_work.len());
        let (held, connections) = (self.edge.front.held_bytes(), self.edge.front.connections());
        let wills = self.edge.front.wills_under_way();
        format!(
            "{log} of the log, {store} of the store, {wills} wills, {connections} connections that hold {held} bytes"
        )
    }

    pub fn is_idle(&self) -> bool {
        self.log_work.is_empty()
            && self.store_work.is_empty()
            && self.encodings.is_empty()
            && self.forward.deadline_ms().is_none()
            && self.edge.front.wills_under_way() == 0
    }

    /// Whether the store has the content of a batch.
    pub fn has_content(&self, shard: ShardId, seq: u64) -> bool {
        self.stores.batches.has(shard.0, seq)
    }

    /// The batches whose files are on disk.
    pub fn contents(&self, shard: ShardId) -> Vec<u64> {
        self.stores.batches.list(shard.0).expect("a folder").into_iter().map(|(seq, _)| seq).collect()
    }

    pub fn segments(&self) -> u64 {
        self.log.log().stats().segments
    }
}

/// Opens what was read, with the replicas that the gateway had; in a site whose members change also with one of the
/// directory group, which every gateway has.
fn open(
    found: ReadStorage,
    me: GatewayId,
    common: &Common,
    settings: &ReplicaSettings,
    nonce: &mut dyn FnMut() -> u64,
) -> Result<Opened, OpenError> {
    let mut shards = found.shards(me, &common.ring)?;
    shards.extend(common.genesis.as_ref().map(|_| DIRECTORY_GROUP));
    found.open_shards(me, shards, &common.ring, settings, nonce)
}

fn replica_settings(common: &Common, is_witness: bool) -> ReplicaSettings {
    ReplicaSettings {
        rules: common.rules.clone(),
        limits: common.limits.clone(),
        outbox_budget_bytes: OUTBOX_BUDGET_BYTES,
        incarnation: 1,
        shelf_bytes: SHELF_BYTES,
        is_witness,
    }
}
