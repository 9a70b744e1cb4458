//! The forward core: items to numbered batches, verdicts to outcomes.

use super::intake::ring;
use super::load::{BATCH, Load, MIXES, Mix, ORIGIN};
use super::{Measure, Step};
use selvedge_fabric::forward::{Forward, ForwardEffects, Forwardable, PIPELINE_BYTES, Ticket};
use selvedge_fabric::machine::{BatchVerdict, ItemOutcome, Judged};
use selvedge_fabric::peer::ForwardAnswer;
use selvedge_types::ids::{GatewayId, ShardId};
use std::sync::Arc;

const SHARD: ShardId = ShardId(0);

pub fn steps(m: &mut impl Measure) {
    for (mix, name) in MIXES {
        m.step(&format!("forward, {name}: submit and flush"), BATCH as u32, || Send(Way::new(mix)));
    }
    m.step("forward: answered", BATCH as u32, || Answered(Way::new(Mix::Spread)));
}

struct Way {
    forward: Forward,
    leader: GatewayId,
    load: Load,
    /// The last batch.
    n: u64,
}

impl Way {
    fn new(mix: Mix) -> Self {
        let ring = Arc::new(ring());
        let leader = ring.replicas(SHARD)[0];
        Self { forward: Forward::new(ORIGIN, ring, PIPELINE_BYTES), leader, load: Load::new(mix), n: 0 }
    }

    fn send(&mut self, items: Vec<(Ticket, Forwardable)>) -> ForwardEffects {
        let mut effects = ForwardEffects::default();
        for (ticket, item) in items {
            self.forward.submit(SHARD, ticket, item);
        }
        self.forward.flush(0, &mut effects);
        assert_eq!(effects.send.len(), 1);
        self.n += 1;
        effects
    }

    fn answer(&self) -> ForwardAnswer {
        let counted = ItemOutcome::Judged(Judged { counted: 1, recognised: 0, set_aside: Vec::new() });
        let outcomes = std::iter::repeat_n(counted, BATCH).collect();
        ForwardAnswer::Verdict { slot: self.n, verdict: BatchVerdict::Applied(outcomes) }
    }

    fn answered(&mut self, answer: ForwardAnswer) -> ForwardEffects {
        let mut effects = ForwardEffects::default();
        self.forward.answered(0, (self.leader, ORIGIN, SHARD, self.n), answer, &mut effects);
        assert_eq!(effects.outcomes.len(), BATCH);
        effects
    }
}

struct Send(Way);

impl Step for Send {
    type Input = Vec<(Ticket, Forwardable)>;
    type Output = ForwardEffects;

    fn prepare(&mut self) -> Self::Input {
        if self.0.n > 0 {
            let answer = self.0.answer();
            self.0.answered(answer);
        }
        self.0.load.items()
    }

    fn run(&mut self, items: Self::Input) -> ForwardEffects {
        self.0.send(items)
    }
}

struct Answered(Way);

impl Step for Answered {
    type Input = ForwardAnswer;
    type Output = ForwardEffects;

    fn prepare(&mut self) -> ForwardAnswer {
        let items = self.0.load.items();
        self.0.send(items);
        self.0.answer()
    }

    fn run(&mut self, answer: ForwardAnswer) -> ForwardEffects {
        self.0.answered(answer)
    }
}
