//! Helpers to feed a machine in few words.

use selvedge_fabric::machine::*;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::{ElapsedMs, EpochMs};
use selvedge_types::uplink::{Batch, StreamName};
use std::sync::Arc;

pub const SHARD: ShardId = ShardId(3);

/// A machine with the batches that it has cut, and the next batch number of gateway 9, start 1.
pub struct Shard {
    pub machine: Machine,
    pub batches: Vec<CutBatch>,
    pub history: Vec<Proposal>,
    /// How far the wall time is ahead of the elapsed time, in milliseconds.
    pub wall_ahead: i64,
    pub sure: bool,
    pub n: u64,
}

impl Shard {
    /// A shard whose rules are in force since slot 1.
    pub fn new(rules: CountingRules) -> Self {
        Self::fresh(rules).ruled()
    }

    /// Puts the rules of the settings in force.
    pub fn ruled(mut self) -> Self {
        let first = self.machine.rules_command();
        self.apply(0, first.into_iter().collect());
        self
    }

    pub fn fresh(rules: CountingRules) -> Self {
        rules.validate().unwrap();
        let machine = Machine::new(SHARD, Arc::new(rules));
        Self { machine, batches: Vec::new(), history: Vec::new(), wall_ahead: 0, sure: true, n: 0 }
    }

    pub fn apply(&mut self, at: i64, commands: Vec<Command>) -> Applied {
        let wall = EpochMs(at).plus(self.wall_ahead);
        let proposal = Proposal { wall, sure: self.sure, ..proposal(at, commands) };
        let applied = self.machine.apply(self.machine.slot() + 1, &proposal).unwrap();
        self.history.push(proposal);
        for batch in &applied.batches {
            assert_eq!(batch.seq, self.batches.len() as u64 + 1, "seqs have no gaps");
            assert!(batch.bytes.len() <= selvedge_types::uplink::MAX_BATCH_BYTES);
            match self.machine.batch_record(batch.seq) {
                Some(record) => assert_eq!(record.crc, crc32c::crc32c(&batch.bytes)),
                None => assert!(batch.seq <= self.machine.outbox_stats().kept, "released at once"),
            }
            self.batches.push(batch.clone());
        }
        applied
    }

    pub fn tick(&mut self, at: i64) -> Applied {
        self.apply(at, vec![Command::Tick])
    }

    /// Submits items as the next batch of gateway 9.
    pub fn submit(&mut self, at: i64, submission: &Submission) -> (Vec<ItemOutcome>, Applied) {
        self.n += 1;
        let origin = Origin { gateway: GatewayId(9), start: 1 };
        let command = forwarded(origin, self.n, submission);
        let applied = self.apply(at, vec![command]);
        match applied.verdicts.as_slice() {
            [(o, n, BatchVerdict::Applied(outcomes))] if *o == origin && *n == self.n => {
                (outcomes.iter().cloned().collect(), applied)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Submits one item and returns its outcome.
    pub fn item(&mut self, at: i64, item: Item) -> ItemOutcome {
        self.submit(at, &Submission { streams: Vec::new(), makers: Vec::new(), items: vec![item] })
            .0
            .remove(0)
    }

    /// Publishes one reading of stream `d/s` and returns the outcome.
    pub fn publish(&mut self, at: i64, source: Option<Source>, reading: Reading) -> ItemOutcome {
        let items = vec![Item::Publish(PublishItem { source, readings: vec![reading] })];
        self.submit(at, &Submission { streams: vec![name("d", "s")], makers: Vec::new(), items }).0.remove(0)
    }

    /// Ticks until nothing is due any more.
    pub fn settle(&mut self) {
        while let Some(due) = self.machine.next_tick_due() {
            assert!(self.history.len() < 1_000_000, "ticks never end");
            let at = due.max(self.machine.elapsed().plus(1));
            self.tick(at.0 as i64);
        }
    }

    /// The answer of a replica that has every content.
    pub fn ask(&self, query: &Query<'_>, page: &Page) -> Scanned {
        let mut scan = self.machine.scan(query, page);
        for seq in scan.wanted() {
            assert!(self.machine.batch_record(seq).is_some(), "{seq} is not kept");
            assert!(scan.look_at(seq, &self.batches[seq as usize - 1].bytes));
        }
        assert!(scan.is_complete());
        scan.finish()
    }

    /// All parts that were cut, with their stream's name.
    pub fn parts(&self) -> Vec<(StreamName, selvedge_types::uplink::Part)> {
        let decoded = self.batches.iter().map(|b| Batch::decode(&b.bytes).unwrap());
        decoded
            .flat_map(|b| b.parts.clone().into_iter().map(move |p| (b.streams[p.stream as usize].clone(), p)))
            .collect()
    }
}

/// A proposal at `at` by both clocks, with a majority that agrees.
pub fn proposal(at: i64, commands: Vec<Command>) -> Proposal {
    let elapsed = ElapsedMs(u64::try_from(at).unwrap_or(0));
    Proposal { elapsed, wall: EpochMs(at), sure: true, commands }
}

pub fn forwarded(origin: Origin, n: u64, submission: &Submission) -> Command {
    Command::Forwarded { origin, n, submission: submission.encode().into() }
}

pub fn name(device: &str, stream: &str) -> StreamName {
    StreamName { device: device.into(), stream: stream.into() }
}

pub fn reading(time: i64, value: f64) -> Reading {
    Reading { stream: 0, time: Some(EpochMs(time)), value, seq: None, boot: None }
}

pub fn numbered(seq: u64, boot: Option<u64>) -> Reading {
    Reading { seq: Some(seq), boot, ..reading(1_000, 1.0) }
}

pub const COUNTED: ItemOutcome =
    ItemOutcome::Judged(Judged { counted: 1, recognised: 0, set_aside: Vec::new() });
pub const RECOGNISED: ItemOutcome =
    ItemOutcome::Judged(Judged { counted: 0, recognised: 1, set_aside: Vec::new() });

/// The outcome of a publish whose only reading was set aside.
pub fn aside(reason: Reason) -> ItemOutcome {
    let set_aside = vec![SetAside { reading: 0, reason }];
    ItemOutcome::Judged(Judged { set_aside, ..Judged::default() })
}

/// Applies a history to another machine, which is stored and restored after every slot for which `at` holds.
pub fn replay(
    rules: &CountingRules,
    history: &[Proposal],
    at: impl Fn(u64) -> bool,
) -> (Machine, Vec<Applied>) {
    let rules = Arc::new(rules.clone());
    let mut machine = Machine::new(SHARD, rules.clone());
    let mut all = Vec::new();
    for (slot, proposal) in (1..).zip(history) {
        let decoded = <Proposal>::decode(&proposal.encode()).unwrap();
        all.push(machine.apply(slot, &decoded).unwrap());
        if at(slot) {
            machine = Machine::restore(SHARD, rules.clone(), &machine.snapshot()).unwrap();
        }
    }
    (machine, all)
}
