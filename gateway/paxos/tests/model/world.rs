//! The world of the model: three replicas, their disks and hosts, and the network between them.

use selvedge_paxos::{
    Ballot, Consensus, Entry, Event, GroupConfig, Limits, Message, PaxosEffects, Record, Recovered, Role,
    Slot, Value,
};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// The number of replicas. A majority is two.
pub const REPLICAS: usize = 3;
/// Longer than every wait of [`limits`], and than the sum of all waits that a run can come by.
const FAR_MS: u64 = 4 * DAY_MS;
const DAY_MS: u64 = 86_400_000;
/// The value that ends a configuration.
pub const STOP: u8 = 200;

/// A message with its sender and receiver; without a receiver it may arrive at any replica.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Envelope {
    pub from: u16,
    pub to: Option<u16>,
    pub message: Message,
}

/// Everything that the leader of a ballot may send: any run of it, with any commit index up to this, may arrive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reign {
    pub ballot: Ballot,
    /// The slot of the first value.
    pub first: Slot,
    pub values: Vec<Value>,
    pub commit: Slot,
}

impl Reign {
    pub fn last(&self) -> Slot {
        self.first + self.values.len() as Slot - 1
    }

    fn run(&self, prev: Slot, upto: Slot) -> Vec<Value> {
        (prev + 1..=upto).map(|s| self.values[(s - self.first) as usize].clone()).collect()
    }
}

/// All messages ever sent. None is ever taken out: so a message may be lost, duplicated, late, and in any order.
#[derive(Debug, Clone, Default)]
pub struct Net {
    /// Accepts, by ballot.
    pub reigns: Vec<Reign>,
    /// Everything else, in the order of its hashes.
    pub said: Vec<(u64, Arc<Envelope>)>,
}

/// A vote that was on disk once: slot, ballot, value.
pub type Vote = (Slot, Ballot, Value);

/// The state that a replica would find after a restart, and every vote that it ever had.
#[derive(Debug, Clone, Default, Hash)]
pub struct Disk {
    promised: Ballot,
    commit: Slot,
    entries: Vec<Entry>,
    /// The values of the slots that a durable snapshot stands for.
    pub snapshot: Vec<Value>,
    damaged: bool,
    /// Every vote that was ever durable here, even if it was overwritten or lost since. The replica can't see it.
    pub votes: BTreeSet<Vote>,
}

/// One write on its way to the disk, and the messages that leave once it is there.
#[derive(Debug, Clone, Default, Hash)]
struct Write {
    records: Vec<Record>,
    after: Vec<Envelope>,
    healed: bool,
}

/// A replica with its host.
#[derive(Debug, Clone)]
pub struct Replica {
    pub group: Consensus,
    now: u64,
    /// The last token that is on disk; each of `writing` has the next.
    persisted: u64,
    writing: Vec<Write>,
    pub disk: Disk,
    /// The values that it applied, in order.
    pub applied: Vec<Value>,
    /// Counts its processes.
    pub life: u8,
    /// Events stepped since the effects were taken.
    held: u8,
    /// For each read: the highest slot that any replica knew to be chosen when the read was requested.
    asked: Vec<(u64, Slot)>,
    digest: u64,
}

/// How often each thing may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    /// For each replica.
    pub campaigns: [u8; REPLICAS],
    pub proposals: u8,
    /// Of these, a stop each.
    pub stops: u8,
    pub crashes: u8,
    pub damages: u8,
    pub trims: u8,
    pub reads: u8,
}

/// A mistake of the model's host, to show that the checks find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// Messages that must wait for the disk leave at once.
    SpeaksBeforeFsync,
    /// The host reports records as persisted at once.
    ReportsBeforeFsync,
    /// A restart finds no accepted entries.
    LosesVotes,
    /// A restart finds an older promised ballot.
    LosesPromises,
    /// A replica that lost its disk is started as if nothing was lost.
    HidesDamage,
    /// A snapshot is reported as durable before it is.
    ReportsSnapshotEarly,
    /// Records are written in the wrong order: a crash keeps the last ones instead of the first.
    WritesOutOfOrder,
}

/// The size of a world, and the things that may happen in it.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    pub budget: Budget,
    /// The replicas that may crash and lose their disks.
    pub fragile: [bool; REPLICAS],
    /// The replicas that may make snapshots and trim.
    pub trimmers: [bool; REPLICAS],
    /// The world begins with an election won by the first replica, of which all others have received everything.
    pub settled: bool,
    /// A failure detector may be wrong for a moment at any time.
    pub blinks: bool,
    /// Promises come one entry at a time.
    pub chunks: bool,
    /// Two events may be stepped before effects are taken.
    pub batches: bool,
    /// What may happen in the next configuration, which begins when a stop is chosen; without it nothing does. The third
    /// replica there is a newcomer.
    pub next: Option<Box<Setup>>,
    /// Few savings: messages that can't matter any more stay in the network, and every disk is slow.
    pub plain: bool,
    pub mistake: Option<Mistake>,
}

/// Something that can happen. Replicas are named by their gateway's number.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// The replica's failure detector saw no other for a moment.
    Blink,
    /// The same, and the replica campaigns; the canvass is granted.
    Campaign,
    /// A candidate asks again, or a damaged replica asks the others.
    Again,
    /// A client proposes.
    Propose,
    /// A stop is proposed.
    Stop,
    /// A client reads.
    Read,
    /// This message arrives.
    Hear(Arc<Envelope>),
    /// The oldest write is on disk.
    Fsync,
    /// The process dies and starts again; this many of the records under way survived.
    Crash { kept: usize },
    /// The disk loses its log, and also its snapshot or not; the process starts again.
    Damage { snapshot: bool },
    /// The host makes a snapshot of what it applied, and trims.
    Trim,
    /// A snapshot of another replica is installed.
    Install { from: u16 },
    /// Every host that has applied the stop makes the next configuration, and so does the newcomer.
    Begin,
}

/// Something happens at a replica; the effects are then taken, or not yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    pub at: u16,
    pub what: What,
    pub hold: bool,
}

/// One state of the whole world.
#[derive(Clone)]
pub struct World {
    pub replicas: [Arc<Replica>; REPLICAS],
    /// The slot of the stop that began this configuration; 0 in the first.
    pub base: Slot,
    /// The replicas that have begun it. The others never do anything.
    pub begun: [bool; REPLICAS],
    pub net: Arc<Net>,
    pub left: Budget,
    /// How many values were proposed: the values are 1, 2, ...
    pub proposed: u8,
    /// The process that used each ballot as its own.
    pub owners: Arc<Vec<(Ballot, u8)>>,
    /// The highest commit index that any replica ever had.
    pub known: Slot,
    /// A read was served.
    pub served: bool,
    /// The violations found on the way here.
    pub wrong: BTreeSet<&'static str>,
}

pub fn id(index: usize) -> u16 {
    index as u16 + 1
}

fn index(id: u16) -> usize {
    usize::from(id) - 1
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn limits(setup: &Setup) -> Limits {
    // Waits that are short or beyond reach: which of two waits ends first then depends on their kind, not on what
    // happened before.
    Limits {
        stagger_ms: 1,
        patience_ms: 1,
        attempt_ms: DAY_MS,
        resend_ms: 1,
        commit_notice_ms: 1,
        stall_ms: DAY_MS,
        yield_ms: 1,
        chunk_bytes: if setup.chunks { 1 } else { Limits::default().chunk_bytes },
        ..Limits::default()
    }
}

fn others(me: u16) -> Vec<GatewayId> {
    (1..=REPLICAS as u16).filter(|&id| id != me).map(GatewayId).collect()
}

impl Replica {
    /// A replica that begins after these values.
    fn new(setup: &Setup, me: u16, before: &[Value]) -> Self {
        let mut disk = Disk { snapshot: before.to_vec(), ..Disk::default() };
        let group = start(setup, me, before.len() as Slot, &mut disk, 0).expect("a new replica starts");
        Self {
            group,
            now: 0,
            persisted: 0,
            writing: Vec::new(),
            disk,
            applied: before.to_vec(),
            life: 0,
            held: 0,
            asked: Vec::new(),
            digest: 0,
        }
    }

    fn me(&self) -> u16 {
        self.group.config().me.0
    }

    fn step(&mut self, event: Event) {
        self.group.step(self.now, event);
    }

    fn wait(&mut self, ms: u64) {
        self.now += ms;
    }

    fn seal(&mut self) {
        let mut hasher = DefaultHasher::new();
        self.group.digest(&mut hasher);
        (&self.writing, &self.disk, &self.applied, self.life, self.held, &self.asked).hash(&mut hasher);
        self.digest = hasher.finish();
    }

    /// The value of this slot, as far as this replica knows it.
    pub fn holds(&self, slot: Slot) -> Option<&Value> {
        let in_memory = self.group.entry(slot).map(|e| &e.value);
        in_memory.or_else(|| self.applied.get(slot as usize - 1))
    }
}

/// Starts a process with what the disk holds.
fn start(setup: &Setup, me: u16, base: Slot, disk: &mut Disk, life: u8) -> Option<Consensus> {
    let members: Vec<_> = (1..=REPLICAS as u16).map(GatewayId).collect();
    let config = GroupConfig {
        base,
        is_stop: |value| value == [STOP],
        ..GroupConfig::new(ShardId(1), GatewayId(me), members, limits(setup))
    };
    let found = Recovered {
        promised: disk.promised,
        commit: disk.commit,
        snapshot_slot: disk.snapshot.len() as Slot,
        entries: disk.entries.clone(),
        damaged: disk.damaged.then_some(u64::from(life)),
    };
    let mut group = Consensus::recover(config, found).ok()?;
    group.step(0, Event::Peers { up: others(me), restarted: Vec::new() });
    Some(group)
}

impl Disk {
    fn write(&mut self, record: Record) {
        match record {
            Record::Promised(ballot) => self.promised = self.promised.max(ballot),
            Record::Committed(slot) => self.commit = self.commit.max(slot),
            Record::Accepted(entry) => {
                // The entries that a damaged replica learns count as its votes once it is healed.
                if !self.damaged {
                    self.votes.insert((entry.slot, entry.ballot, entry.value.clone()));
                }
                if entry.slot > self.snapshot.len() as Slot {
                    match self.entries.iter_mut().find(|e| e.slot == entry.slot) {
                        Some(held) => *held = entry,
                        None => self.entries.push(entry),
                    }
                }
            }
        }
    }

    fn heal(&mut self) {
        self.damaged = false;
        self.votes.extend(self.entries.iter().map(|e| (e.slot, e.ballot, e.value.clone())));
    }

    fn keep_snapshot(&mut self, snapshot: Vec<Value>) {
        self.entries.retain(|e| e.slot > snapshot.len() as Slot);
        self.snapshot = snapshot;
    }

    fn lose_log(&mut self) {
        (self.promised, self.commit) = (Ballot::ZERO, 0);
        self.entries.clear();
    }
}

impl World {
    pub fn new(setup: &Setup) -> Self {
        let mut world = Self {
            replicas: std::array::from_fn(|i| Arc::new(Replica::new(setup, id(i), &[]))),
            base: 0,
            begun: [true; REPLICAS],
            net: Arc::default(),
            left: setup.budget,
            proposed: 0,
            owners: Arc::default(),
            known: 0,
            served: false,
            wrong: BTreeSet::new(),
        };
        for i in 0..REPLICAS {
            world.settle(setup, i);
        }
        if setup.settled {
            world.left = Budget { campaigns: [1, 0, 0], ..Budget::default() };
            world =
                world.next(setup, Action { at: 1, what: What::Campaign, hold: false }).expect("it campaigns");
            while let Some(next) = world.any_next(setup) {
                world = next;
            }
            world.left = setup.budget;
            for replica in &world.replicas {
                assert_eq!((replica.group.commit(), replica.group.leader()), (1, Some(GatewayId(1))));
            }
        }
        world
    }

    /// The next configuration, after the stop that somebody has applied. It shares nothing with this one but the base:
    /// whatever still happens here, and whenever, might as well have happened before. So it stands still from now on,
    /// and whoever has not stopped by now never begins; that others do is another branch.
    fn begin(&self, setup: &Setup) -> Option<Self> {
        let next = setup.next.as_ref()?;
        let stops = |r: &Arc<Replica>| Some(r.applied[..r.group.stopped()? as usize].to_vec());
        let before: Vec<_> = self.replicas.iter().map(stops).collect();
        let mut prefixes = before.iter().flatten();
        let prefix = prefixes.next()?;
        let mut world = Self {
            replicas: std::array::from_fn(|i| Arc::new(Replica::new(next, id(i), prefix))),
            base: prefix.len() as Slot,
            begun: [before[0].is_some(), before[1].is_some(), true],
            net: Arc::default(),
            left: next.budget,
            owners: Arc::default(),
            served: false,
            ..self.clone()
        };
        if prefixes.any(|other| other != prefix) {
            world.wrong.insert(super::checks::BASES);
        }
        (0..REPLICAS).for_each(|i| world.settle(next, i));
        Some(world)
    }

    fn any_next(&self, setup: &Setup) -> Option<Self> {
        let mut actions = Vec::new();
        self.actions(setup, &mut actions);
        actions
            .into_iter()
            .filter(|a| !a.hold && a.what != What::Blink)
            .rev()
            .find_map(|action| self.next(setup, action))
    }

    /// The actions that are possible next.
    pub fn actions(&self, setup: &Setup, actions: &mut Vec<Action>) {
        let begins = self.base == 0 && setup.next.is_some();
        if begins && self.replicas.iter().any(|r| r.group.stopped().is_some()) {
            actions.push(Action { at: 1, what: What::Begin, hold: false });
        }
        let setup = self.setup(setup);
        for (i, replica) in self.replicas.iter().enumerate().filter(|(i, _)| self.begun[*i]) {
            let at = id(i);
            let mut may = |what| {
                if setup.batches
                    && replica.held == 0
                    && !matches!(what, What::Crash { .. } | What::Damage { .. })
                {
                    actions.push(Action { at, what: What::clone(&what), hold: true });
                }
                actions.push(Action { at, what, hold: false });
            };
            let role = replica.group.role();
            if !replica.writing.is_empty() {
                may(What::Fsync);
            }
            for (_, envelope) in &self.net.said {
                if envelope.from == at || envelope.to.is_some_and(|to| to != at) {
                    continue;
                }
                if let Message::Accepted { ballot, upto, commit, recorded, vote, damaged } = envelope.message
                    && role == Role::Leader
                {
                    for upto in replica.group.commit() + 1..upto {
                        let message = Message::Accepted { ballot, upto, commit, recorded, vote, damaged };
                        may(What::Hear(Arc::new(Envelope { message, ..**envelope })));
                    }
                }
                may(What::Hear(envelope.clone()));
            }
            for reign in &self.net.reigns {
                if reign.ballot.gateway != at {
                    accepts(reign, &replica.group, |m| {
                        let envelope = Envelope { from: reign.ballot.gateway, to: Some(at), message: m };
                        may(What::Hear(Arc::new(envelope)));
                    });
                }
            }
            if role == Role::Leader && self.left.proposals > 0 {
                may(What::Propose);
            }
            if role == Role::Leader && self.left.stops > 0 {
                may(What::Stop);
            }
            if role == Role::Leader && self.left.reads > 0 {
                may(What::Read);
            }
            if self.left.campaigns[i] > 0 && role != Role::Damaged {
                may(What::Campaign);
            }
            if matches!(role, Role::Candidate | Role::Damaged) {
                may(What::Again);
            }
            if setup.blinks && (role != Role::Follower || replica.group.leader().is_some()) {
                may(What::Blink);
            }
            if self.left.trims > 0
                && setup.trimmers[i]
                && replica.group.commit() > replica.disk.snapshot.len() as Slot
            {
                may(What::Trim);
            }
            for (from, other) in self.replicas.iter().enumerate() {
                if other.disk.snapshot.len() as Slot > replica.group.commit() {
                    may(What::Install { from: id(from) });
                }
            }
            if self.left.crashes > 0 && setup.fragile[i] {
                let records: usize = replica.writing.iter().map(|w| w.records.len()).sum();
                for kept in 0..=records {
                    may(What::Crash { kept });
                }
            }
            // A majority stays undamaged: otherwise no replica could be learned from, and none leads.
            let others_damaged = self.replicas.iter().any(|r| r.disk.damaged && r.me() != at);
            if self.left.damages > 0 && setup.fragile[i] && !others_damaged {
                may(What::Damage { snapshot: true });
                if !replica.disk.snapshot.is_empty() {
                    may(What::Damage { snapshot: false });
                }
            }
        }
    }

    /// The state that an action leads to.
    pub fn next(&self, setup: &Setup, action: Action) -> Option<Self> {
        if action.what == What::Begin {
            return self.begin(setup);
        }
        let setup = self.setup(setup);
        let mut world = self.clone();
        let i = index(action.at);
        world.happen(setup, i, action.what);
        if action.hold {
            let replica = Arc::make_mut(&mut world.replicas[i]);
            replica.held += 1;
            replica.seal();
        } else {
            world.settle(setup, i);
        }
        if world.left.crashes + world.left.damages < self.left.crashes + self.left.damages {
            (0..REPLICAS).filter(|&o| o != i).for_each(|o| world.settle(setup, o));
        }
        if world.is(self) {
            return None;
        }
        world.check(i);
        if !setup.plain {
            world.forget();
        }
        Some(world)
    }

    /// What may happen in this configuration.
    fn setup<'a>(&self, setup: &'a Setup) -> &'a Setup {
        setup.next.as_deref().filter(|_| self.base > 0).unwrap_or(setup)
    }

    fn happen(&mut self, setup: &Setup, i: usize, what: What) {
        let known = self.known;
        let replica = Arc::make_mut(&mut self.replicas[i]);
        let me = replica.me();
        match what {
            What::Blink => blink(replica),
            What::Campaign => {
                self.left.campaigns[i] -= 1;
                blink(replica);
                replica.wait(FAR_MS);
                replica.step(Event::Timer);
                let mut effects = replica.group.take();
                let attempt = effects.send.iter().find_map(|(_, m)| match m {
                    Message::Canvass { attempt, .. } => Some(*attempt),
                    _ => None,
                });
                // The effects that were held are performed first.
                effects.send.retain(|(_, m)| !matches!(m, Message::Canvass { .. }));
                self.perform(setup, i, effects);
                let replica = Arc::make_mut(&mut self.replicas[i]);
                if let Some(attempt) = attempt {
                    let message = Message::Canvassed { attempt, granted: true, seen: Ballot::ZERO };
                    replica.step(Event::Message { from: others(me)[0], message });
                }
            }
            What::Again => {
                if let Some(at) = replica.group.deadline() {
                    replica.now = replica.now.max(at);
                    replica.step(Event::Timer);
                }
            }
            What::Propose => {
                if replica.group.propose(replica.now, Value::from([self.proposed + 1])).is_ok() {
                    self.left.proposals -= 1;
                    self.proposed += 1;
                }
            }
            What::Stop => {
                if replica.group.propose(replica.now, Value::from([STOP])).is_ok() {
                    self.left.stops -= 1;
                }
            }
            What::Begin => {}
            What::Read => {
                self.left.reads -= 1;
                let number = u64::from(self.left.reads);
                replica.asked.push((number, known));
                replica.step(Event::Read { id: number });
            }
            What::Hear(envelope) => {
                let (from, message) = (GatewayId(envelope.from), envelope.message.clone());
                replica.step(Event::Message { from, message });
            }
            What::Fsync => self.fsync(i),
            What::Crash { kept } => {
                self.left.crashes -= 1;
                self.crash(setup, i, kept);
            }
            What::Damage { snapshot } => {
                self.left.damages -= 1;
                replica.writing.clear();
                replica.disk.lose_log();
                replica.disk.damaged = setup.mistake != Some(Mistake::HidesDamage);
                if !snapshot {
                    replica.disk.snapshot.clear();
                }
                self.restart(setup, i);
            }
            What::Trim => {
                self.left.trims -= 1;
                let snapshot = replica.applied.clone();
                let through = snapshot.len() as Slot;
                replica.disk.keep_snapshot(snapshot);
                replica.step(Event::TrimMemory { through });
            }
            What::Install { from } => {
                let snapshot = self.replicas[index(from)].disk.snapshot.clone();
                let replica = Arc::make_mut(&mut self.replicas[i]);
                let slot = snapshot.len() as Slot;
                replica.applied.clone_from(&snapshot);
                if setup.mistake != Some(Mistake::ReportsSnapshotEarly) {
                    replica.disk.keep_snapshot(snapshot);
                }
                replica.step(Event::SnapshotInstalled { slot });
            }
        }
    }

    fn fsync(&mut self, i: usize) {
        let replica = Arc::make_mut(&mut self.replicas[i]);
        let write = replica.writing.remove(0);
        for record in write.records {
            replica.disk.write(record);
        }
        if write.healed {
            replica.disk.heal();
        }
        replica.persisted += 1;
        let token = replica.persisted;
        // Whether a host first steps the group or first sends makes no difference to a network that may delay
        // messages.
        replica.step(Event::Persisted { token });
        for envelope in write.after {
            self.say(i, envelope);
        }
    }

    fn crash(&mut self, setup: &Setup, i: usize, kept: usize) {
        let replica = Arc::make_mut(&mut self.replicas[i]);
        let records: Vec<_> =
            std::mem::take(&mut replica.writing).into_iter().flat_map(|w| w.records).collect();
        let lost = records.len() - kept;
        let skip = if setup.mistake == Some(Mistake::WritesOutOfOrder) { lost } else { 0 };
        for record in records.into_iter().skip(skip).take(kept) {
            replica.disk.write(record);
        }
        match setup.mistake {
            Some(Mistake::LosesVotes) => {
                replica.disk.entries.clear();
                replica.disk.commit = replica.disk.snapshot.len() as Slot;
            }
            Some(Mistake::LosesPromises) => replica.disk.promised = Ballot::ZERO,
            _ => {}
        }
        self.restart(setup, i);
    }

    fn restart(&mut self, setup: &Setup, i: usize) {
        let replica = Arc::make_mut(&mut self.replicas[i]);
        replica.life += 1;
        replica.now = 0;
        replica.persisted = 0;
        replica.held = 0;
        replica.asked.clear();
        replica.applied.clone_from(&replica.disk.snapshot);
        match start(setup, id(i), self.base, &mut replica.disk, replica.life) {
            Some(group) => replica.group = group,
            None => {
                self.wrong.insert(super::checks::RECOVERS);
            }
        }
    }

    /// Takes and performs effects.
    fn settle(&mut self, setup: &Setup, i: usize) {
        let effects = Arc::make_mut(&mut self.replicas[i]).group.take();
        self.perform(setup, i, effects);
        // A replica that can't crash any more may as well have a fast disk.
        while !self.may_crash(setup, i) && !setup.plain && !self.replicas[i].writing.is_empty() {
            self.fsync(i);
            let effects = Arc::make_mut(&mut self.replicas[i]).group.take();
            self.perform(setup, i, effects);
        }
        let replica = Arc::make_mut(&mut self.replicas[i]);
        replica.held = 0;
        replica.seal();
    }

    fn may_crash(&self, setup: &Setup, i: usize) -> bool {
        self.left.crashes + self.left.damages > 0 && setup.fragile[i]
    }

    /// Drops messages from the network that can't have any effect any more.
    fn forget(&mut self) {
        let damage = self.left.damages > 0 || self.replicas.iter().any(|r| r.disk.damaged);
        let busy = |ballot: Ballot| {
            let owner = &self.replicas[index(ballot.gateway)].group;
            matches!(owner.role(), Role::Candidate | Role::Leader) && owner.ballot() == ballot
        };
        // Whether every other replica ignores the messages of this ballot, or answers them in a way that is
        // ignored.
        let over = |ballot: Ballot, least: fn(Ballot, Ballot) -> bool| {
            let mut others = self.replicas.iter().filter(|r| r.me() != ballot.gateway);
            !damage && !busy(ballot) && others.all(|r| least(r.disk.promised.min(r.group.ballot()), ballot))
        };
        let dead = |envelope: &Envelope| match &envelope.message {
            Message::Promise { ballot, .. }
            | Message::Behind { ballot, .. }
            | Message::Accepted { ballot, .. }
            | Message::Confirm { ballot, .. }
            | Message::Confirmed { ballot, .. } => !busy(*ballot),
            Message::Refused { promised } => {
                let to = &self.replicas[envelope.to.map_or(0, index)];
                !damage && to.disk.promised.min(to.group.ballot()) >= *promised
            }
            Message::Prepare { ballot, .. } => over(*ballot, |held, b| held >= b),
            _ => false,
        };
        let dead_reign = |reign: &Reign| over(reign.ballot, |held, b| held > b);
        if self.net.said.iter().any(|(_, e)| dead(e)) || self.net.reigns.iter().any(dead_reign) {
            let mut net = Net::clone(&self.net);
            net.said.retain(|(_, e)| !dead(e));
            net.reigns.retain(|r| !dead_reign(r));
            self.net = Arc::new(net);
        }
    }

    fn perform(&mut self, setup: &Setup, i: usize, effects: PaxosEffects) {
        let me = id(i);
        let early = setup.mistake == Some(Mistake::SpeaksBeforeFsync);
        self.reign(i);
        for (to, message) in effects.send {
            self.say(i, Envelope { from: me, to: Some(to.0), message });
        }
        let replica = Arc::make_mut(&mut self.replicas[i]);
        let after: Vec<_> = effects
            .send_after
            .into_iter()
            .map(|(to, message)| Envelope { from: me, to: Some(to.0), message })
            .filter_map(shorten)
            .collect();
        if !effects.records.is_empty() {
            replica.writing.push(Write { records: effects.records, ..Write::default() });
            if setup.mistake == Some(Mistake::ReportsBeforeFsync) {
                replica.step(Event::Persisted { token: effects.token });
            }
        }
        if effects.token != replica.persisted + replica.writing.len() as u64 {
            self.wrong.insert(super::checks::TOKENS);
        }
        let mut now = after;
        match replica.writing.last_mut() {
            Some(write) => {
                write.healed |= effects.healed;
                if !early {
                    for envelope in now.drain(..) {
                        if !write.after.contains(&envelope) {
                            write.after.push(envelope);
                        }
                    }
                }
            }
            None if effects.healed => replica.disk.heal(),
            None => {}
        }
        if let Some(commit) = effects.commit {
            for slot in replica.applied.len() as Slot + 1..=commit {
                match replica.group.entry(slot) {
                    Some(entry) => replica.applied.push(entry.value.clone()),
                    None => {
                        self.wrong.insert(super::checks::APPLIES);
                    }
                }
            }
            if self.left.reads > 0 {
                // Once a host knows that the stop is chosen, the next configuration may choose more at any time.
                self.known = self.known.max(commit + u64::from(effects.stopped.is_some()));
            }
        }
        for (number, slot) in effects.reads {
            self.served = true;
            let asked =
                replica.asked.iter().position(|(n, _)| *n == number).map(|at| replica.asked.remove(at));
            if asked.is_none_or(|(_, least)| slot < least) {
                self.wrong.insert(super::checks::READS);
            }
        }
        for number in effects.reads_failed {
            replica.asked.retain(|(n, _)| *n != number);
        }
        for envelope in now {
            self.say(i, envelope);
        }
    }

    /// Puts everything that a leader holds into its reign, so that it may arrive.
    fn reign(&mut self, i: usize) {
        let group = &self.replicas[i].group;
        if group.role() != Role::Leader {
            return;
        }
        let (ballot, commit, last) = (group.ballot(), group.commit(), group.prefix());
        let at = self.net.reigns.binary_search_by_key(&ballot, |r| r.ballot);
        let told = at.ok().map(|at| &self.net.reigns[at]);
        if told.is_some_and(|r| r.commit == commit && r.last() == last) {
            return;
        }
        let from = told.map_or(group.first_slot(), |r| r.last() + 1);
        let fresh: Vec<_> = (from..=last).filter_map(|s| group.entry(s)).map(|e| e.value.clone()).collect();
        let net = Arc::make_mut(&mut self.net);
        match at {
            Ok(at) => {
                net.reigns[at].values.extend(fresh);
                net.reigns[at].commit = commit;
            }
            Err(at) => net.reigns.insert(at, Reign { ballot, first: from, values: fresh, commit }),
        }
    }

    /// A message leaves a replica.
    fn say(&mut self, i: usize, envelope: Envelope) {
        if let Some(wrong) = super::checks::said(self, i, &envelope.message) {
            self.wrong.insert(wrong);
        }
        if let Some(ballot) = super::checks::claims(&envelope.message) {
            let life = self.replicas[i].life;
            match self.owners.iter().find(|(b, _)| *b == ballot) {
                Some((_, owner)) if *owner != life => {
                    self.wrong.insert(super::checks::BALLOTS);
                }
                Some(_) => {}
                None => {
                    let owners = Arc::make_mut(&mut self.owners);
                    owners.push((ballot, life));
                    owners.sort_unstable();
                }
            }
        }
        let Some(envelope) = shorten(envelope) else { return };
        if let Message::Accepted { ballot, upto, vote, .. } = envelope.message {
            // Of these, only the one that says most is kept; those that say less may arrive all the same.
            let told = self.net.said.iter().position(|(_, e)| {
                e.from == envelope.from
                    && matches!(e.message, Message::Accepted { ballot: b, vote: v, .. } if (b, v) == (ballot, vote))
            });
            if let Some(at) = told {
                if matches!(self.net.said[at].1.message, Message::Accepted { upto: u, .. } if u >= upto) {
                    return;
                }
                Arc::make_mut(&mut self.net).said.remove(at);
            }
        }
        let key = hash_of(&envelope);
        if let Err(at) = self.net.said.binary_search_by_key(&key, |(k, _)| *k) {
            Arc::make_mut(&mut self.net).said.insert(at, (key, Arc::new(envelope)));
        }
    }

    fn check(&mut self, i: usize) {
        let wrong = super::checks::all(self, i);
        self.wrong.extend(wrong);
    }

    fn key(&self) -> impl Hash + PartialEq + use<> {
        let digests: [u64; REPLICAS] = std::array::from_fn(|i| self.replicas[i].digest);
        (digests, self.base, self.begun, self.left, self.proposed, self.known, self.served)
    }

    fn is(&self, other: &Self) -> bool {
        let same_net = |a: &Net, b: &Net| {
            a.reigns == b.reigns
                && a.said.len() == b.said.len()
                && a.said.iter().zip(&b.said).all(|(x, y)| x.0 == y.0)
        };
        self.key() == other.key()
            && (Arc::ptr_eq(&self.net, &other.net) || same_net(&self.net, &other.net))
            && self.owners == other.owners
            && self.wrong == other.wrong
    }
}

/// The replica can reach no other for a moment: a leader steps down, a candidate gives up, a follower forgets its
/// leader.
fn blink(replica: &mut Replica) {
    let me = replica.me();
    replica.step(Event::Peers { up: Vec::new(), restarted: Vec::new() });
    replica.step(Event::Peers { up: others(me), restarted: Vec::new() });
}

/// The accepts of a reign that differ in their effect at this follower.
fn accepts(reign: &Reign, follower: &Consensus, mut hear: impl FnMut(Message)) {
    let ballot = reign.ballot;
    let mut accept = |prev, upto, commit| {
        hear(Message::Accept { ballot, prev, values: reign.run(prev, upto), commit });
    };
    let (floor, last) = (reign.first - 1, reign.last());
    if ballot < follower.ballot() {
        return accept(floor, last, reign.commit); // refused, whatever it says
    }
    // In a ballot that the follower joins now, its prefix starts at its commit index.
    let prefix = if ballot == follower.ballot() { follower.prefix() } else { follower.commit() };
    for prev in prefix.max(floor)..=last {
        if prev > prefix {
            accept(prev, last, reign.commit); // after a gap
            continue;
        }
        for upto in prev..=last {
            for commit in follower.commit().min(reign.commit)..=reign.commit.min(upto) {
                accept(prev, upto, commit);
            }
        }
    }
    if prefix > floor {
        accept(floor, last.min(prefix), reign.commit); // an echo of what it has
        accept(floor, last, reign.commit); // with something new at its end
    }
}

/// The form in which the network keeps a message; none if it doesn't keep it. See the essay.
fn shorten(mut envelope: Envelope) -> Option<Envelope> {
    match &mut envelope.message {
        Message::Accept { .. } => return None,
        Message::Canvass { .. }
        | Message::Canvassed { .. }
        | Message::Lagging { .. }
        | Message::Resigned { .. } => return None,
        Message::Prepare { .. } | Message::Confirm { .. } => envelope.to = None,
        Message::Accepted { commit, recorded, .. } => (*commit, *recorded) = (0, 0),
        _ => {}
    }
    Some(envelope)
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
        self.net.reigns.hash(state);
        for (key, _) in &self.net.said {
            state.write_u64(*key);
        }
        self.owners.hash(state);
        self.wrong.hash(state);
    }
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.is(other)
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "wrong {:?}, left {:?}", self.wrong, self.left)?;
        for replica in &self.replicas {
            let g = &replica.group;
            let entries: Vec<_> = (g.first_slot()..=g.last_slot())
                .filter_map(|s| g.entry(s))
                .map(|e| format!("{}:{}:{:?}", e.slot, e.ballot, &e.value[..]))
                .collect();
            writeln!(
                f,
                "g{} {:?} {} leader {:?} commit {} prefix {} {entries:?} writing {:?} disk {:?}",
                g.config().me,
                g.role(),
                g.ballot(),
                g.leader(),
                g.commit(),
                g.prefix(),
                replica.writing,
                replica.disk,
            )?;
        }
        for reign in &self.net.reigns {
            writeln!(f, "{reign:?}")?;
        }
        for (_, envelope) in &self.net.said {
            writeln!(f, "{envelope:?}")?;
        }
        Ok(())
    }
}
