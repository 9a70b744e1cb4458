//! Tombstones: the sequence numbers of retired streams, so that readings which a device sends again are not
//! counted again.
//!
//! A stream without sequence numbers leaves no tombstone. A tombstone is removed when its stream returns,
//! which then continues with these numbers, or after [`TOMBSTONE_MS`]. At the bound of entries the oldest one
//! is removed.
//!
//! Limit: once a tombstone is removed, a resend counts again.

use super::dedup::{Boot, MAX_BOOTS_ENTRIES};
use bincode::{Decode, Encode};
use selvedge_types::canary::{self, Canary};
use selvedge_types::time::ElapsedMs;
use std::collections::{BTreeMap, BTreeSet};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// How long a tombstone is kept, in milliseconds: as long as a device may hold back readings that it has sent
/// before.
pub const TOMBSTONE_MS: u64 = 7 * 86_400_000;
/// The most tombstones of a shard.
pub const MAX_TOMBSTONES_ENTRIES: usize = 1_024;

/// The remembered sequence numbers of one stream.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Tombstone {
    /// The elapsed time at which the stream was retired.
    at: ElapsedMs,
    boots: Vec<Boot>,
}

/// All tombstones of a shard, by a hash of the stream's names.
#[derive(Debug, Default)]
pub struct Tombstones {
    by_hash: BTreeMap<u128, Tombstone>,
    /// Derived: the tombstones in the order in which their streams were retired.
    order: BTreeSet<(ElapsedMs, u128)>,
}

/// A hash of a stream's names. The upper half is the device's, so the streams of a device follow each other.
/// 128 bits tell apart all streams that there will ever be, and take a fraction of the names' room.
fn hash(device: &str, stream: &str) -> u128 {
    let of = xxh3_64(device.as_bytes());
    u128::from(of) << 64 | u128::from(xxh3_64_with_seed(stream.as_bytes(), of))
}

impl Tombstones {
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Adds the tombstone of a stream that is retired. Returns how many older ones were removed.
    pub fn add(&mut self, device: &str, stream: &str, boots: Vec<Boot>, now: ElapsedMs) -> u64 {
        if boots.is_empty() || canary::makes(Canary::RetiredIsForgotten) {
            return 0;
        }
        self.insert(hash(device, stream), Tombstone { at: now, boots });
        let mut forgotten = 0;
        while self.by_hash.len() > MAX_TOMBSTONES_ENTRIES
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.by_hash.remove(&oldest);
            forgotten += 1;
        }
        forgotten
    }

    fn insert(&mut self, hash: u128, tombstone: Tombstone) {
        self.order.insert((tombstone.at, hash));
        if let Some(old) = self.by_hash.insert(hash, tombstone) {
            let at = self.by_hash[&hash].at;
            if old.at != at {
                self.order.remove(&(old.at, hash));
            }
        }
    }

    /// The sequence numbers of a retired stream.
    pub fn boots(&self, device: &str, stream: &str) -> Option<&[Boot]> {
        if self.by_hash.is_empty() {
            return None;
        }
        self.by_hash.get(&hash(device, stream)).map(|t| t.boots.as_slice())
    }

    /// Takes the sequence numbers of a retired stream that returns.
    pub fn remove(&mut self, device: &str, stream: &str) -> Option<Vec<Boot>> {
        let hash = hash(device, stream);
        let tombstone = self.by_hash.remove(&hash)?;
        self.order.remove(&(tombstone.at, hash));
        Some(tombstone.boots)
    }

    /// Forgets one retired stream of a device, or all of them. Returns whether there was one.
    pub fn forget(&mut self, device: &str, stream: Option<&str>) -> bool {
        if let Some(stream) = stream {
            return self.remove(device, stream).is_some();
        }
        let of = u128::from(xxh3_64(device.as_bytes())) << 64;
        let hashes: Vec<u128> = self.by_hash.range(of..=of | u128::from(u64::MAX)).map(|(h, _)| *h).collect();
        for hash in &hashes {
            if let Some(tombstone) = self.by_hash.remove(hash) {
                self.order.remove(&(tombstone.at, *hash));
            }
        }
        !hashes.is_empty()
    }

    /// When the next tombstone must be removed.
    pub fn due(&self) -> Option<ElapsedMs> {
        self.order.first().map(|(at, _)| at.plus(TOMBSTONE_MS))
    }

    /// Removes tombstones whose time is over.
    pub fn expire(&mut self, now: ElapsedMs) {
        while self.due().is_some_and(|at| at <= now) {
            if let Some((_, hash)) = self.order.pop_first() {
                self.by_hash.remove(&hash);
            }
        }
    }

    pub fn image(&self) -> Vec<(u128, &Tombstone)> {
        self.by_hash.iter().map(|(hash, tombstone)| (*hash, tombstone)).collect()
    }

    /// Restores what [`Tombstones::image`] returned; `None` if that contradicts itself.
    pub fn from_image(image: Vec<(u128, Tombstone)>) -> Option<Self> {
        let sound = |t: &Tombstone| {
            (1..=MAX_BOOTS_ENTRIES).contains(&t.boots.len()) && t.boots.iter().all(Boot::is_sound)
        };
        let ordered = image.windows(2).all(|w| w[0].0 < w[1].0);
        if !ordered || image.len() > MAX_TOMBSTONES_ENTRIES || !image.iter().all(|(_, t)| sound(t)) {
            return None;
        }
        let mut tombstones = Self::default();
        image.into_iter().for_each(|(hash, tombstone)| tombstones.insert(hash, tombstone));
        Some(tombstones)
    }
}
