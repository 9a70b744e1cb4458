//! Three replicas agree on one value, from its proposal until the leader knows it as chosen and the others have voted.

use super::load::{BATCH, Load, MIXES, Mix};
use super::{Measure, Step};
use selvedge_paxos::{Consensus, Event, GroupConfig, Limits, PaxosEffects, Role, Value};
use selvedge_types::ids::{GatewayId, ShardId};

pub fn steps(m: &mut impl Measure) {
    for (mix, name) in MIXES {
        m.step(&format!("paxos, {name}: proposed to chosen"), BATCH as u32, || Agree::new(mix));
    }
}

struct Agree {
    groups: Vec<Consensus>,
    now: u64,
    value: Value,
}

impl Agree {
    fn new(mix: Mix) -> Self {
        let members: Vec<_> = (1..=3).map(GatewayId).collect();
        let group = |&me: &GatewayId| {
            let members = members.clone();
            let config = GroupConfig::new(ShardId(0), me, members, Limits::default());
            let mut group = Consensus::new(config).unwrap();
            group.step(0, Event::Peers { up: (1..=3).map(GatewayId).collect(), restarted: Vec::new() });
            group
        };
        let groups = members.iter().map(group).collect();
        let value = Load::new(mix).proposal().encode().into();
        let mut agree = Self { groups, now: 0, value };
        while agree.groups[0].role() != Role::Leader {
            agree.settle();
            agree.now += 1_000;
            let now = agree.now;
            agree.groups[0].step(now, Event::Timer);
        }
        agree.settle();
        agree
    }

    /// Messages arrive and records are on disk until nothing moves.
    fn settle(&mut self) {
        let mut quiet = 0;
        for me in (0..self.groups.len()).cycle() {
            let effects = self.groups[me].take();
            quiet = if effects.is_empty() { quiet + 1 } else { 0 };
            if quiet == self.groups.len() {
                return;
            }
            let PaxosEffects { send, records, token, send_after, .. } = effects;
            for (to, message) in send.into_iter().chain(send_after) {
                let from = GatewayId(me as u16 + 1);
                self.groups[usize::from(to.0) - 1].step(self.now, Event::Message { from, message });
            }
            if !records.is_empty() {
                self.groups[me].step(self.now, Event::Persisted { token });
            }
        }
    }
}

impl Step for Agree {
    type Input = Value;
    type Output = ();

    fn prepare(&mut self) -> Value {
        self.now += 1;
        for group in &mut self.groups {
            group.step(self.now, Event::TrimMemory { through: group.commit() });
        }
        self.value.clone()
    }

    fn run(&mut self, value: Value) {
        let (_, slot) = self.groups[0].propose(self.now, value).unwrap();
        self.settle();
        assert_eq!(self.groups[0].commit(), slot);
    }
}
