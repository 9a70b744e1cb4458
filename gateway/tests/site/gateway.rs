//! One gateway: what its disk holds, and its process. The order of what is done is that of the real actors.

use super::world::Random;
use selvedge_gateway::logic::commit::{GroupCommit, Submission};
use selvedge_gateway::logic::forward::{self, Forward};
use selvedge_gateway::logic::machine::{Machine, Origin, Rules};
use selvedge_gateway::logic::paxos::{GroupConfig, Limits};
use selvedge_gateway::logic::peer::{PeerMessage, TransferMessage};
use selvedge_gateway::logic::ring::Ring;
use selvedge_gateway::logic::shard::{CONFIGURATION, Event, Now, Replay, Settings, Shard};
use selvedge_gateway::logic::uplink::{self, Uplink};
use selvedge_gateway::wal;
use selvedge_shared::ids::{GatewayId, ShardId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub type Send = (GatewayId, PeerMessage);

/// What survives a crash, of one shard.
#[derive(Default)]
pub struct Disk {
    pub records: Vec<wal::Record>,
    pub snapshot: Option<(u64, Vec<u8>)>,
    pub batches: BTreeMap<u64, Vec<u8>>,
}

/// One replica and what its host holds for it.
pub struct Replica {
    pub core: Shard,
    pub batches: BTreeMap<u64, Vec<u8>>,
    /// Leaves when the token is on disk.
    held: VecDeque<(u64, Vec<Send>)>,
    persisted: u64,
    leader: Option<GatewayId>,
}

/// A snapshot that is being saved.
struct Saving {
    due: u64,
    shard: ShardId,
    slot: u64,
    bytes: Vec<u8>,
    batches: BTreeMap<u64, Vec<u8>>,
}

/// A gateway's process.
pub struct Live {
    pub me: GatewayId,
    pub replicas: BTreeMap<ShardId, Replica>,
    pub forward: Forward,
    pub uplink: Uplink,
    commit: GroupCommit,
    writing: Option<(u64, Vec<wal::Record>)>,
    saving: Vec<Saving>,
    /// Who was reached when it last looked, and which start of it.
    pub seen: BTreeMap<GatewayId, u64>,
    pub look_at: u64,
    /// Submitted, and not settled.
    pub asked: BTreeSet<u64>,
}

/// What a process wants done outside of it.
#[derive(Default)]
pub struct Out {
    pub send: Vec<Send>,
    pub settled: Vec<forward::Settled>,
    pub uplink: Vec<uplink::Effect>,
}

impl Live {
    pub fn start(
        seed: u64,
        origin: Origin,
        ring: &Arc<Ring>,
        rules: &Arc<Rules>,
        disks: &mut BTreeMap<ShardId, Disk>,
        mono_ms: u64,
    ) -> Self {
        let me = origin.gateway;
        let mut replicas = BTreeMap::new();
        for shard in ring.shards_of(me) {
            let disk = disks.entry(shard).or_default();
            let machine = match &disk.snapshot {
                Some((_, bytes)) => Machine::restore(shard, rules.clone(), bytes).expect("its own snapshot"),
                None => Machine::new(shard, rules.clone()),
            };
            let mut replay = Replay::default();
            disk.records.iter().cloned().for_each(|r| replay.record(r));
            let found = replay.finish(machine.slot(), None);
            let members = ring.replicas(shard).to_vec();
            let group = GroupConfig { group: shard, me, members, limits: Limits::default() };
            let settings = Settings { group, rules: rules.clone(), outbox_budget_bytes: 6_000 };
            let core =
                Shard::recover(settings, machine, found).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            let batches = disk.batches.clone();
            replicas
                .insert(shard, Replica { core, batches, held: VecDeque::new(), persisted: 0, leader: None });
        }
        Self {
            me,
            replicas,
            forward: Forward::new(origin, ring.clone()),
            uplink: Uplink::default(),
            commit: GroupCommit::default(),
            writing: None,
            saving: Vec::new(),
            seen: BTreeMap::new(),
            look_at: mono_ms,
            asked: BTreeSet::new(),
        }
    }

    /// The records of the write that is under way: perhaps on disk, perhaps not.
    pub fn torn(self) -> Vec<wal::Record> {
        self.writing.map(|(_, records)| records).unwrap_or_default()
    }

    pub fn event(&mut self, now: Now, shard: ShardId, event: Event) {
        if let Some(replica) = self.replicas.get_mut(&shard) {
            replica.core.step(now, event);
        }
    }

    pub fn every_shard(&mut self, now: Now, event: impl Fn() -> Event) {
        self.replicas.values_mut().for_each(|r| r.core.step(now, event()));
    }

    pub fn hear(&mut self, now: Now, from: GatewayId, message: PeerMessage, out: &mut Out) {
        match message {
            PeerMessage::Paxos { group, configuration: CONFIGURATION, message } => {
                self.event(now, group, Event::Paxos { from, message });
            }
            PeerMessage::Transfer { shard, configuration: CONFIGURATION, message } => {
                self.event(now, shard, Event::Transfer { from, message });
            }
            PeerMessage::Forward { shard, origin, n, submission } => {
                self.event(now, shard, Event::Forward { from, origin, n, submission });
            }
            PeerMessage::Forwarded { shard, origin, n, answer } => {
                let mut effects = forward::Effects::default();
                self.forward.answered(now.mono_ms, (from, origin, shard, n), answer, &mut effects);
                self.forwarded(effects, out);
            }
            _ => {}
        }
    }

    pub fn forwarded(&mut self, effects: forward::Effects, out: &mut Out) {
        let origin = self.forward.origin();
        for (to, forward::Outgoing { shard, n, submission }) in effects.send {
            out.send.push((to, PeerMessage::Forward { shard, origin, n, submission }));
        }
        for settled in effects.outcomes {
            assert!(self.asked.remove(&settled.ticket.token), "settled twice: {settled:?}");
            out.settled.push(settled);
        }
    }

    /// The disk's work that is due: a write, a snapshot.
    pub fn disk(
        &mut self,
        random: &mut Random,
        faults: bool,
        now: Now,
        disks: &mut BTreeMap<ShardId, Disk>,
        out: &mut Out,
    ) {
        if let Some((_, records)) = self.writing.take_if(|(due, _)| *due <= now.mono_ms) {
            for record in records {
                disks.entry(ShardId(record.group)).or_default().records.push(record);
            }
            for (shard, token) in self.commit.written() {
                let Some(replica) = self.replicas.get_mut(&shard) else { continue };
                replica.persisted = token;
                while let Some((_, sends)) = replica.held.pop_front_if(|(t, _)| *t <= token) {
                    out.send.extend(sends);
                }
                replica.core.step(now, Event::Persisted { token });
            }
        }
        let (due, later): (Vec<_>, _) = self.saving.drain(..).partition(|s| s.due <= now.mono_ms);
        self.saving = later;
        for Saving { shard, slot, bytes, batches, .. } in due {
            let saved = !faults || !random.chance(100);
            if saved {
                let disk = disks.entry(shard).or_default();
                disk.batches.extend(batches);
                disk.records.retain(|r| r.slot == 0 || r.slot > slot);
                disk.snapshot = Some((slot, bytes));
            }
            self.event(now, shard, Event::SnapshotSaved { slot, saved });
        }
    }

    /// Takes and performs what the cores want.
    pub fn turn(
        &mut self,
        random: &mut Random,
        faults: bool,
        now: Now,
        disks: &mut BTreeMap<ShardId, Disk>,
        out: &mut Out,
    ) {
        let mut leaders = Vec::new();
        for (&shard, replica) in &mut self.replicas {
            let effects = replica.core.take(now).expect("no halt");
            out.send.extend(effects.send);
            if !effects.records.is_empty() {
                self.commit.submit(Submission { shard, token: effects.token, records: effects.records });
            }
            if effects.token <= replica.persisted {
                out.send.extend(effects.send_after);
            } else {
                replica.held.push_back((effects.token, effects.send_after));
            }
            replica.batches.extend(effects.cut.into_iter().map(|c| (c.seq, c.bytes)));
            if let Some((slot, bytes)) = effects.snapshot {
                let due = now.mono_ms + 1 + random.below(if faults { 300 } else { 20 });
                self.saving.push(Saving { due, shard, slot, bytes, batches: replica.batches.clone() });
            }
            if let Some(through) = effects.confirmed {
                replica.batches.retain(|seq, _| *seq > through);
                disks.entry(shard).or_default().batches.retain(|seq, _| *seq > through);
            }
            for (to, seq) in effects.fetch {
                let body = replica.batches.get(&seq).map(|b| b.as_slice().into());
                let message = TransferMessage::Batch { seq, body };
                out.send.push((to, PeerMessage::Transfer { shard, configuration: CONFIGURATION, message }));
            }
            if let Some(view) = effects.uplink {
                self.uplink.view(now.mono_ms, shard, view, &mut out.uplink);
            }
            let leader = replica.core.group().leader();
            if leader != replica.leader {
                replica.leader = leader;
                leaders.extend(leader.map(|l| (shard, l)));
            }
        }
        let mut effects = forward::Effects::default();
        for (shard, leader) in leaders {
            self.forward.leader_is(now.mono_ms, shard, leader, &mut effects);
        }
        self.forward.flush(now.mono_ms, &mut effects);
        self.forwarded(effects, out);
        if let Some(records) = self.commit.next_write() {
            let wait = random.below(if faults { 40 } else { 5 });
            self.writing = Some((now.mono_ms + wait, records));
        }
    }

    /// Fires what timers are due.
    pub fn timers(&mut self, now: Now, out: &mut Out) {
        for replica in self.replicas.values_mut() {
            if replica.core.deadline_ms(now).is_some_and(|at| at <= now.mono_ms + 1) {
                replica.core.step(now, Event::Timer);
            }
        }
        if self.forward.deadline_ms().is_some_and(|at| at <= now.mono_ms) {
            let mut effects = forward::Effects::default();
            self.forward.timer(now.mono_ms, &mut effects);
            self.forwarded(effects, out);
        }
        if self.uplink.deadline_ms().is_some_and(|at| at <= now.mono_ms) {
            self.uplink.timer(now.mono_ms, &mut out.uplink);
        }
    }

    pub fn deadline(&mut self, now: Now) -> Option<u64> {
        let shards = self.replicas.values_mut().filter_map(|r| r.core.deadline_ms(now)).min();
        let writing = self.writing.as_ref().map(|(due, _)| *due);
        let saving = self.saving.iter().map(|s| s.due).min();
        [shards, writing, saving, self.forward.deadline_ms(), self.uplink.deadline_ms()]
            .into_iter()
            .flatten()
            .min()
    }
}
