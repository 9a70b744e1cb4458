//! A node: applies each batch once, by its shard and number.

use selvedge_shared::aggregate::Aggregate;
use selvedge_shared::ids::ShardId;
use selvedge_shared::uplink::{Batch, StreamName};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Node {
    batches: BTreeMap<(ShardId, u64), Vec<u8>>,
    cursors: BTreeMap<ShardId, u64>,
    /// By stream and start.
    pub windows: BTreeMap<(StreamName, i64), Aggregate>,
}

impl Node {
    pub fn cursor(&self, shard: ShardId) -> u64 {
        self.cursors.get(&shard).copied().unwrap_or(0)
    }

    /// Takes a batch and says how far it is.
    pub fn apply(&mut self, seed: u64, shard: ShardId, seq: u64, first_kept: u64, body: Vec<u8>) -> u64 {
        self.beacon(seed, shard, first_kept);
        if let Some(had) = self.batches.get(&(shard, seq)) {
            assert!(*had == body, "seed {seed}: {shard} batch {seq} has changed");
            return self.cursor(shard);
        }
        let batch = Batch::decode(&body).unwrap_or_else(|e| panic!("seed {seed}: {shard} batch {seq}: {e}"));
        for part in batch.parts {
            let name = batch.streams[part.stream as usize].clone();
            let a = part.aggregate;
            for time in [a.first.time, a.last.time] {
                assert_eq!(time.window_start(part.width_ms), part.start, "seed {seed}: in the wrong window");
            }
            let window = self.windows.entry((name, part.start.0));
            window.and_modify(|w| w.merge(&a)).or_insert(a);
        }
        self.batches.insert((shard, seq), body);
        let cursor = self.cursors.entry(shard).or_default();
        while self.batches.contains_key(&(shard, *cursor + 1)) {
            *cursor += 1;
        }
        *cursor
    }

    /// What the edge no longer keeps must be here.
    pub fn beacon(&self, seed: u64, shard: ShardId, first_kept: u64) -> u64 {
        let cursor = self.cursor(shard);
        assert!(
            first_kept <= cursor + 1,
            "seed {seed}: {shard} dropped batches from {} to {first_kept}",
            cursor + 1
        );
        cursor
    }
}
