//! Snapshots of the directory: its state as bytes, and back.
//!
//! A frame ([`selvedge_types::frame`]) of the whole state, and the xxh3 of that. Two directories are in the same state if and only if
//! their snapshots are the same bytes. The placement is derived and left out.

use super::gateway::GatewayState;
use super::{DIRECTORY_GROUP, Directory, State};
use crate::ring::{MAX_REPLICAS, MAX_SHARDS};
use selvedge_types::frame::{self, FrameError};
use selvedge_types::ids::ShardId;
use selvedge_types::time::ElapsedMs;
use xxhash_rust::xxh3::xxh3_64;

/// Format version of snapshots.
pub const DIRECTORY_SNAPSHOT_VERSION: u8 = 1;
/// Far above any slot and any elapsed time that a site reaches, far below where counting on would overflow.
pub(super) const MAX_COUNT: u64 = 1 << 62;

/// Why bytes are no snapshot of a directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryRestoreError {
    /// Cut short, or changed.
    #[error("directory snapshot: {0} bytes whose checksum is wrong; fetch it again from another gateway")]
    Damaged(usize),
    /// Of another version, or not of this form.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A part of the state that can't have come about.
    #[error("directory snapshot: the {0} can't be")]
    Unsound(&'static str),
}

impl Directory {
    /// The state as bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut bytes = frame::encode(DIRECTORY_SNAPSHOT_VERSION, &self.state);
        let digest = xxh3_64(&bytes);
        bytes.extend(digest.to_le_bytes());
        bytes
    }

    /// The directory that gave `bytes`.
    ///
    /// # Errors
    /// When `bytes` are damaged, of another version, or break a bound.
    pub fn restore(bytes: &[u8]) -> Result<Self, DirectoryRestoreError> {
        // The version first: how a snapshot of another one is checked is not known here.
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

    /// A 64-bit hash of the state, by which replicas are compared.
    pub fn digest(&self) -> u64 {
        xxh3_64(&frame::encode(DIRECTORY_SNAPSHOT_VERSION, &self.state))
    }
}

impl State {
    /// Names the part that can't have come about.
    fn check(&self) -> Result<(), &'static str> {
        let sound = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        sound(self.slot <= MAX_COUNT && self.elapsed <= ElapsedMs(MAX_COUNT) && self.level > 0, "head")?;
        let replicas = usize::from(self.replicas);
        let shape = (1..=MAX_SHARDS).contains(&self.shards) && !replicas.is_multiple_of(2);
        sound(shape && replicas <= MAX_REPLICAS, "number of shards or replicas")?;
        sound(self.gateways.is_sound(self.level), "list of gateways")?;
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
