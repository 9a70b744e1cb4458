//! Messages of the uplink after verification, on their way to the store.

use selvedge_types::ids::{ShardId, SiteId};
use selvedge_types::uplink::{Batch, LostBatch, SiteIncarnation};

/// One authentic, checked message of the uplink.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// The site it came from.
    pub site: SiteId,
    /// The incarnation of that site.
    pub incarnation: SiteIncarnation,
    pub shard: ShardId,
    /// The lowest seq that the edge still has.
    pub first_kept: u64,
    /// The highest seq that the edge has cut.
    pub last: u64,
    /// The batch; nothing for a beacon.
    pub content: Option<IncomingBatch>,
    /// A batch that the site has lost for good, by its number, in place of its content.
    pub lost: Option<(u64, LostBatch)>,
}

impl Incoming {
    /// A batch of shard 0 of which all before it are kept, and none comes after it.
    pub fn latest(site: SiteId, seq: u64, batch: Batch) -> Self {
        Self {
            site,
            incarnation: SiteIncarnation::default(),
            shard: ShardId(0),
            first_kept: 1,
            last: seq,
            content: Some(IncomingBatch { seq, batch, body_hash: seq }),
            lost: None,
        }
    }
}

/// A batch and its name.
#[derive(Debug, Clone, PartialEq)]
pub struct IncomingBatch {
    /// Its number in its shard.
    pub seq: u64,
    pub batch: Batch,
    /// A hash of its encoded bytes: equal for the same content.
    pub body_hash: u64,
}

impl IncomingBatch {
    /// How many parts it has, and its hash.
    pub fn parts_and_hash(&self) -> (usize, u64) {
        (self.batch.parts.len(), self.body_hash)
    }
}
