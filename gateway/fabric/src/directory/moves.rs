//! Moves under way: which replica is added, which one is dropped, and how much of the data is copied.

use super::configuration::ShardConfiguration;
use bincode::{Decode, Encode};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

/// How many moves may be under way in a site. Each costs two gateways bandwidth and disk time besides their other work.
pub const MAX_MOVES_ENTRIES: usize = 4;
/// The lowest accepted bandwidth limit for moves; below it, a move might not end within the time that a transfer may last.
pub const MIN_RATE_BYTES_PER_S: u64 = 256 * 1024;
/// The highest accepted bandwidth limit for moves.
pub const MAX_RATE_BYTES_PER_S: u64 = 1 << 30;
/// The bandwidth limit for all moves of the site together, until an operator sets another.
pub const DEFAULT_RATE_BYTES_PER_S: u64 = 4 * 1024 * 1024;

/// A change of one group's voters by one replica: one is added, one is dropped, or one replaces another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct ShardMove {
    /// The voter to drop; `None` if a replica is added.
    pub leaves: Option<GatewayId>,
    /// The gateway to add; `None` if a replica is taken away.
    pub comes: Option<GatewayId>,
    /// The directory slot that began the move. The shard's stop entry carries it.
    pub since: u64,
    pub done_bytes: u64,
    /// 0 until the size is known.
    pub total_bytes: u64,
}

impl ShardMove {
    /// The voters after the move, in the order of `configuration`; the new one comes last.
    pub fn next_voters(&self, configuration: &ShardConfiguration) -> Vec<GatewayId> {
        let stay = configuration.voters.iter().copied().filter(|g| Some(*g) != self.leaves);
        stay.chain(self.comes.filter(|g| !configuration.voters.contains(g))).collect()
    }

    /// Whether a configuration is the move's goal: the new voter is in, the old one out.
    pub fn is_done(&self, configuration: &ShardConfiguration) -> bool {
        let voters = &configuration.voters;
        self.leaves.is_none_or(|g| !voters.contains(&g)) && self.comes.is_none_or(|g| voters.contains(&g))
    }
}

/// All moves under way, and the operators' pause and bandwidth limit for them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Moves {
    pub under_way: BTreeMap<ShardId, ShardMove>,
    pub paused: bool,
    pub rate_bytes_per_s: u64,
}

impl Default for Moves {
    fn default() -> Self {
        Self { under_way: BTreeMap::new(), paused: false, rate_bytes_per_s: DEFAULT_RATE_BYTES_PER_S }
    }
}

impl Moves {
    /// Whether decoded moves keep their bounds at `slot`.
    pub fn is_sound(&self, slot: u64) -> bool {
        let sound = |m: &ShardMove| {
            m.since <= slot && m.done_bytes <= m.total_bytes && m.leaves != m.comes // not both `None`, and not the same
        };
        self.under_way.len() <= MAX_MOVES_ENTRIES
            && self.under_way.values().all(sound)
            && (MIN_RATE_BYTES_PER_S..=MAX_RATE_BYTES_PER_S).contains(&self.rate_bytes_per_s)
    }
}
