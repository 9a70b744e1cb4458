//! Moves under way: which replica comes where, which one leaves for it, and how far that is.

use super::configuration::ShardConfiguration;
use bincode::{Decode, Encode};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

/// The most moves at a time: each is a replica that somebody reads and somebody writes beside their work.
pub const MAX_MOVES_ENTRIES: usize = 4;
/// The least rate of moves that is accepted: below it a move may never end.
pub const MIN_RATE_BYTES_PER_S: u64 = 16 * 1024;
/// The greatest rate of moves that is accepted.
pub const MAX_RATE_BYTES_PER_S: u64 = 1 << 30;
/// The rate of all moves of the site together, unless somebody sets another.
pub const DEFAULT_RATE_BYTES_PER_S: u64 = 4 * 1024 * 1024;

/// One replica of one group on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct ShardMove {
    /// Who leaves; nobody where a replica is added.
    pub leaves: Option<GatewayId>,
    /// Who comes; nobody where a replica is taken away.
    pub comes: Option<GatewayId>,
    /// The slot in which it began. The stop entry of its shard names it.
    pub since: u64,
    pub done_bytes: u64,
    /// 0 before it is known.
    pub total_bytes: u64,
}

impl ShardMove {
    /// The voters after it, in the order of `configuration`.
    pub fn next_voters(&self, configuration: &ShardConfiguration) -> Vec<GatewayId> {
        let stay = configuration.voters.iter().copied().filter(|g| Some(*g) != self.leaves);
        stay.chain(self.comes.filter(|g| !configuration.voters.contains(g))).collect()
    }

    /// Whether a configuration is what it was begun for.
    pub fn is_done(&self, configuration: &ShardConfiguration) -> bool {
        let voters = &configuration.voters;
        self.leaves.is_none_or(|g| !voters.contains(&g)) && self.comes.is_none_or(|g| voters.contains(&g))
    }
}

/// All moves, and how they are carried out.
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
    /// Whether this can have come about by `slot`.
    pub fn is_sound(&self, slot: u64) -> bool {
        let sound = |m: &ShardMove| {
            m.since <= slot && m.done_bytes <= m.total_bytes && m.leaves != m.comes // at least one, and not the same
        };
        self.under_way.len() <= MAX_MOVES_ENTRIES
            && self.under_way.values().all(sound)
            && (MIN_RATE_BYTES_PER_S..=MAX_RATE_BYTES_PER_S).contains(&self.rate_bytes_per_s)
    }
}
