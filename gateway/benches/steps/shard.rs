//! A whole shard on three replicas: a forwarded batch becomes a proposal, is chosen, and is applied by the leader, whose
//! verdict leaves; the others apply the batch before it. Snapshots are made when they are due. Nothing is
//! written and nothing is sent over a network.

use super::load::{BATCH, Load, MIXES, Mix, ORIGIN};
use super::{Measure, Step};
use selvedge_fabric::machine::{Command, CountingRules, Machine};
use selvedge_fabric::peer::{ForwardAnswer, PeerMessage};
use selvedge_fabric::shard::{Now, ShardCore, ShardEffects, ShardEvent, ShardSettings};
use selvedge_paxos::{GroupConfig, Limits, Recovered};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::uplink::LedgerId;
use std::sync::Arc;

pub fn steps(m: &mut impl Measure) {
    for (mix, name) in MIXES {
        m.step(&format!("shard of three, {name}: forwarded to verdict"), BATCH as u32, || Site::new(mix));
    }
}

struct Site {
    shards: Vec<ShardCore>,
    load: Load,
    mono_ms: u64,
    verdicts: u64,
    /// A batch that was cut and is not confirmed.
    cut: Option<u64>,
}

impl Site {
    fn new(mix: Mix) -> Self {
        let rules = Arc::new(CountingRules::default());
        let members: Vec<_> = (1..=3).map(GatewayId).collect();
        let shard = |&me: &GatewayId| {
            let members = members.clone();
            let group = GroupConfig::new(ShardId(0), me, members, Limits::default());
            let settings =
                ShardSettings { group, rules: rules.clone(), outbox_budget_bytes: 1 << 30, incarnation: 1 };
            let machine = Machine::new(ShardId(0), rules.clone());
            ShardCore::recover(settings, machine, Recovered::default()).unwrap()
        };
        let shards = members.iter().map(shard).collect();
        let mut site = Self { shards, load: Load::new(mix), mono_ms: 0, verdicts: 0, cut: None };
        for to in 0..3 {
            site.step(to, ShardEvent::Peers { up: members.clone(), restarted: Vec::new() });
        }
        while !site.shards[0].serves() {
            site.settle();
            site.mono_ms += 1_000;
            site.step(0, ShardEvent::Timer);
        }
        site.settle();
        site
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.mono_ms, wall: self.load.now(), sure: true }
    }

    fn step(&mut self, to: usize, event: ShardEvent) {
        let now = self.now();
        self.shards[to].step(now, event);
    }

    /// Messages arrive and records and snapshots are on disk until nothing moves.
    fn settle(&mut self) {
        let mut quiet = 0;
        for me in (0..self.shards.len()).cycle() {
            let now = self.now();
            let ShardEffects { send, records, token, send_after, cut, snapshot, .. } =
                self.shards[me].take(now).unwrap();
            quiet =
                if send.is_empty() && records.is_empty() && send_after.is_empty() { quiet + 1 } else { 0 };
            if quiet == self.shards.len() {
                return;
            }
            for (to, message) in send.into_iter().chain(send_after) {
                let from = GatewayId(me as u16 + 1);
                match message {
                    PeerMessage::Paxos { configuration, message, .. } => {
                        self.step(usize::from(to.0) - 1, ShardEvent::Paxos { from, configuration, message });
                    }
                    PeerMessage::Forwarded { answer: ForwardAnswer::Verdict { .. }, .. } => {
                        self.verdicts += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            if !records.is_empty() {
                self.step(me, ShardEvent::Persisted { token });
            }
            if let Some((slot, _)) = snapshot {
                self.step(me, ShardEvent::SnapshotSaved { slot, saved: true });
            }
            self.cut = cut.last().map(|batch| batch.seq).or(self.cut);
        }
    }
}

impl Step for Site {
    type Input = (u64, Arc<[u8]>);
    type Output = ();

    fn prepare(&mut self) -> Self::Input {
        if let Some(cursor) = self.cut.take() {
            self.step(0, ShardEvent::Confirmed { ledger: LedgerId(1), cursor });
        }
        let before = self.load.now();
        let Command::Forwarded { n, submission, .. } = self.load.forwarded() else { unreachable!() };
        self.mono_ms += (self.load.now().0 - before.0) as u64;
        (n, submission)
    }

    fn run(&mut self, (n, submission): Self::Input) {
        let (from, before) = (ORIGIN.gateway, self.verdicts);
        self.step(0, ShardEvent::Forward { from, origin: ORIGIN, n, submission });
        self.settle();
        assert!(self.verdicts > before);
    }
}
