//! What a witness has dropped, every full member has on disk and knows to be chosen; a witness holds no state, and never leads.

use crate::gateway::Place;
use selvedge_fabric::shard::ShardCore;
use selvedge_paxos::Role;
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

/// What a witness dropped last: up to which slot, in which configuration, and that one's full members.
#[derive(Debug, Clone, Default)]
struct Dropped {
    through: u64,
    configuration: u32,
    full: Vec<GatewayId>,
}

#[derive(Default)]
pub struct Witness {
    dropped: BTreeMap<(GatewayId, ShardId), Dropped>,
}

impl Witness {
    pub fn check(
        &mut self,
        at: GatewayId,
        shard: ShardId,
        replica: &ShardCore,
        places: &BTreeMap<GatewayId, Place>,
    ) {
        let Some(through) = replica.dropped_through() else { return };
        let role = replica.consensus().role();
        assert!(role != Role::Leader, "{shard}: the witness {at} leads");
        let (outbox, sizes) = (replica.machine().outbox_stats(), replica.machine().sizes());
        assert!((outbox.last, sizes.open_parts) == (0, 0), "{shard}: the witness {at} holds state");
        let configuration = replica.configuration();
        let dropped = self.dropped.entry((at, shard)).or_default();
        if through > dropped.through {
            let is_full = |m: &&GatewayId| !configuration.witnesses.contains(*m);
            let full = configuration.members.iter().filter(is_full).copied().collect();
            *dropped = Dropped { through, configuration: configuration.number, full };
        }
        for member in &dropped.full {
            let live = places.get(member).and_then(|place| place.live.as_ref());
            let Some(found) = live.and_then(|live| live.replicas.get(&shard)) else { continue };
            let group = found.core().consensus();
            let counts =
                group.role() != Role::Damaged && found.core().configuration().number >= dropped.configuration;
            assert!(
                !counts || group.recorded_commit() >= through,
                "{shard}: the witness {at} has dropped everything up to slot {through}, and {member} has {}",
                group.recorded_commit()
            );
        }
    }
}
