//! The machine: a proposal applied. Windows close as time passes, and what they leave is cut and confirmed.

use super::load::{BATCH, Load, MIXES, Mix};
use super::{Measure, Step};
use selvedge_fabric::machine::{Applied, Command, CountingRules, Machine, Proposal};
use selvedge_types::ids::ShardId;
use selvedge_types::uplink::LedgerId;
use std::sync::Arc;

/// As many as bring more than two windows to their end in [`Mix::Spread`], and meet every device in both.
const WARM_UP: usize = 700;

pub fn steps(m: &mut impl Measure) {
    for (mix, name) in MIXES {
        m.step(&format!("machine, {name}: apply"), BATCH as u32, || Apply::new(mix));
    }
}

struct Apply {
    machine: Machine,
    load: Load,
}

impl Apply {
    fn new(mix: Mix) -> Self {
        let machine = Machine::new(ShardId(0), Arc::new(CountingRules::default()));
        let mut apply = Self { machine, load: Load::new(mix) };
        for _ in 0..WARM_UP {
            let proposal = apply.prepare();
            apply.run(proposal);
        }
        assert!(matches!(mix, Mix::Bursts) || apply.machine.outbox_stats().last > 1);
        apply
    }
}

impl Step for Apply {
    type Input = Proposal;
    type Output = (Proposal, Applied);

    fn prepare(&mut self) -> Proposal {
        let mut proposal = self.load.proposal();
        if self.machine.next_tick_due().is_some_and(|at| at <= proposal.elapsed) {
            proposal.commands.push(Command::Tick);
        }
        let outbox = self.machine.outbox_stats();
        if outbox.batches > 0 {
            proposal.commands.push(Command::Confirmed { ledger: LedgerId(1), cursor: outbox.last });
        }
        proposal
    }

    fn run(&mut self, proposal: Proposal) -> (Proposal, Applied) {
        let applied = self.machine.apply(self.machine.slot() + 1, &proposal).unwrap();
        assert_eq!(applied.counters.counted, BATCH as u64);
        (proposal, applied)
    }
}
