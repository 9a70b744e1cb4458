//! Snapshots of the directory.
//!
//! A snapshot is a frame ([`selvedge_types::frame`]) of the whole state, followed by the frame's xxh3 as 8
//! little-endian bytes. Two directories are in the same state if and only if their snapshots have the same bytes. The
//! placement is derived, so snapshots leave it out.

use super::gateway::GatewayState;
use super::{DIRECTORY_GROUP, Directory, State};
use crate::ring::{MAX_REPLICAS, MAX_SHARDS};
use selvedge_types::frame::{self, FrameError};
use selvedge_types::ids::ShardId;
use selvedge_types::time::ElapsedMs;
use xxhash_rust::xxh3::xxh3_64;

/// Format version of directory snapshots.
pub const DIRECTORY_SNAPSHOT_VERSION: u8 = 2;
/// The greatest slot and elapsed time: far more than a site reaches, and far enough from overflow.
pub(super) const MAX_COUNT: u64 = 1 << 62;

/// Why bytes can't be restored as a directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryRestoreError {
    /// The checksum is wrong: the bytes were truncated or changed.
    #[error("directory snapshot: {0} bytes whose checksum is wrong; fetch it again from another gateway")]
    Damaged(usize),
    /// The snapshot has another version, or can't be decoded.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// This part of the state breaks a bound or an invariant.
    #[error("directory snapshot: the {0} can't be")]
    Unsound(&'static str),
}

impl Directory {
    /// Encodes the state; the same state always gives the same bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut bytes = frame::encode(DIRECTORY_SNAPSHOT_VERSION, &self.state);
        let digest = xxh3_64(&bytes);
        bytes.extend(digest.to_le_bytes());
        bytes
    }

    /// Restores a directory from a snapshot.
    ///
    /// # Errors
    /// When `bytes` are damaged, have another version, or break a bound or an invariant.
    pub fn restore(bytes: &[u8]) -> Result<Self, DirectoryRestoreError> {
        // The version comes first, since another version may have another checksum.
        if let Some(found) = bytes.first().copied().filter(|v| *v != DIRECTORY_SNAPSHOT_VERSION) {
            let (what, known) = ("directory snapshot", DIRECTORY_SNAPSHOT_VERSION);
            return Err(FrameError::Version { what, found, known }.into());
        }
        let body = bytes
            .split_last_chunk::<8>()
            .filter(|(body, digest)| xxh3_64(body) == u64::from_le_bytes(**digest));
        let Some((body, _)) = body else { return Err(DirectoryRestoreError::Damaged(bytes.len())) };
        let state: State = frame::decode("directory snapshot", DIRECTORY_SNAPSHOT_VERSION, body)?;
        state.check().map_err(DirectoryRestoreError::Unsound)?;
        if frame::encode(DIRECTORY_SNAPSHOT_VERSION, &state) != body {
            return Err(DirectoryRestoreError::Unsound("order of its entries"));
        }
        Ok(Self::from_state(state))
    }

    /// A 64-bit hash of the state, to compare replicas with each other.
    pub fn digest(&self) -> u64 {
        xxh3_64(&frame::encode(DIRECTORY_SNAPSHOT_VERSION, &self.state))
    }
}

impl State {
    /// Checks a decoded state's bounds and invariants; the error names the part that breaks one.
    fn check(&self) -> Result<(), &'static str> {
        let sound = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        sound(self.slot <= MAX_COUNT && self.elapsed <= ElapsedMs(MAX_COUNT) && self.level > 0, "head")?;
        let replicas = usize::from(self.replicas);
        let shape = (1..=MAX_SHARDS).contains(&self.shards) && !replicas.is_multiple_of(2);
        sound(shape && replicas <= MAX_REPLICAS, "number of shards or replicas")?;
        sound(self.gateways.is_sound(self.level), "list of gateways")?;
        let common = Some(self.gateways.common_level()).filter(|common| *common > self.level);
        let next = self.next_level.map(|(level, _)| level);
        let since = self.next_level.is_none_or(|(_, since)| since <= self.elapsed);
        sound(next == common && since, "next level")?;
        let known = |id| self.gateways.may_have_been(id);
        let groups = (0..self.shards).map(ShardId).chain([DIRECTORY_GROUP]);
        let configurations = &self.configurations.0;
        let all_there = configurations.keys().copied().eq(groups);
        let mut each = configurations.values();
        sound(
            all_there && each.all(|c| c.is_sound() && c.voters.iter().chain(&c.learners).all(|g| known(*g))),
            "configurations",
        )?;
        let move_sound = |(shard, m): (&ShardId, &super::ShardMove)| {
            let voters = configurations.get(shard).map(|c| m.next_voters(c).len());
            let here = m.leaves.into_iter().chain(m.comes).all(known);
            here && voters.is_some_and(|n| n <= MAX_REPLICAS + 1)
        };
        sound(self.moves.is_sound(self.slot) && self.moves.under_way.iter().all(move_sound), "moves")?;
        sound(self.invitations.is_sound(self.elapsed), "invitations")?;
        sound(self.requests.is_sound(), "requests")?;
        let in_time = |g: &super::GatewayRecord| g.changed <= self.slot && g.since <= self.elapsed;
        sound(self.gateways.all.values().all(in_time), "times of gateways")?;
        let tombstones = self.gateways.all.values().filter(|g| g.state == GatewayState::Gone).count();
        let needed = usize::from(self.shards) * MAX_REPLICAS + super::MAX_TOMBSTONES_ENTRIES;
        sound(tombstones <= needed, "number of tombstones")
    }
}
