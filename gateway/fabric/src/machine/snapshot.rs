//! Snapshots: the whole state of a machine as bytes, and back.
//!
//! A snapshot is one byte of format version, the parts of the state in a fixed order in the form of
//! [`selvedge_types::frame`], and the xxh3 of all that. Each table writes and reads its own part
//! ([`super::table`]). A new table, or one that writes something else, needs a new version. Two machines are
//! in the same state if and only if their snapshots are the same bytes, so [`Machine::digest`] can compare
//! replicas. Derived state (orders of deadlines and of use, sizes) is left out and rebuilt.
//!
//! In the first configuration of a shard, a snapshot does not name the configuration. In later ones, the version byte
//! has the bit [`NAMES_CONFIGURATION`] set, and the configuration follows the head.
//!
//! A witness holds no state. Its *base* has the bit [`IS_BASE`] set, and nothing follows the head but the configuration.

use super::Machine;
use super::rules::{BadRule, CountingRules};
use super::verdicts::Verdicts;
use crate::configuration::Configuration;
use bincode::error::DecodeError;
use bincode::{Decode, Encode};
use selvedge_types::ids::{GatewayId, ShardId};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Format version of snapshots. No release wrote lower versions.
pub const SNAPSHOT_VERSION: u8 = 10;
/// The bit of the version byte that a snapshot sets if it names its configuration.
pub const NAMES_CONFIGURATION: u8 = 0x80;
/// The bit of the version byte that the base of a witness sets.
pub const IS_BASE: u8 = 0x40;
/// The most bytes of a base, with a margin.
pub const MAX_BASE_BYTES: usize = 1024;
/// The most memory that an entry of a table takes for each of its bytes, with a margin. A length that claims
/// more than that for the remaining bytes is refused before memory is allocated for it.
const MAX_GROWTH: usize = 32;

/// Far above any count that a shard reaches, and far below where counting further would overflow.
pub(super) const MAX_COUNT: u64 = 1 << 62;

const FORM: bincode::config::Configuration = bincode::config::standard();

/// Why bytes are no snapshot of this shard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The bytes were cut short or changed.
    #[error("snapshot: {0} bytes whose checksum is wrong; fetch it again from another replica")]
    Damaged(usize),
    /// This release does not know the format version.
    #[error(
        "snapshot: format version {0} is unknown, this release reads {SNAPSHOT_VERSION}; a newer release wrote it"
    )]
    Version(u8),
    /// The snapshot is of another shard.
    #[error("snapshot: it is of shard {found}, not of {wanted}")]
    Shard { found: ShardId, wanted: ShardId },
    /// A table does not decode, or its entries contradict each other.
    #[error("snapshot: the {0} can't be valid: {1}")]
    Table(&'static str, String),
    /// The rules in the snapshot are not valid.
    #[error("snapshot: {0}")]
    Rules(#[from] BadRule),
}

/// A snapshot that is being written.
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub fn put(&mut self, value: impl Encode) {
        let written = bincode::encode_into_std_write(value, &mut self.0, FORM);
        debug_assert!(written.is_ok(), "writing to memory does not fail");
    }

    fn finish(mut self) -> Vec<u8> {
        let digest = xxh3_64(&self.0);
        self.0.extend(digest.to_le_bytes());
        self.0
    }
}

/// The part of a snapshot that is still to be read.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

fn limited<T: Decode<()>, const BYTES: usize>(bytes: &[u8]) -> Result<(T, usize), DecodeError> {
    bincode::decode_from_slice(bytes, FORM.with_limit::<BYTES>())
}

impl Reader<'_> {
    /// Reads the next value; errors name `table`.
    pub fn take<T: Decode<()>>(&mut self, table: &'static str) -> Result<T, RestoreError> {
        const MIB: usize = 1024 * 1024;
        let decode = match self.0.len().saturating_mul(MAX_GROWTH).div_ceil(MIB) {
            0..=1 => limited::<T, MIB>,
            2..=16 => limited::<T, { 16 * MIB }>,
            17..=128 => limited::<T, { 128 * MIB }>,
            _ => limited::<T, { 512 * MIB }>,
        };
        let (value, used) = decode(self.0).map_err(|e| RestoreError::Table(table, e.to_string()))?;
        self.0 = self.0.get(used..).unwrap_or_default();
        Ok(value)
    }
}

pub(super) fn inconsistent(table: &'static str) -> RestoreError {
    RestoreError::Table(table, "its entries contradict each other".to_string())
}

impl Machine {
    /// The state as bytes, which [`Machine::restore`] reads.
    pub fn snapshot(&self) -> Vec<u8> {
        let named = if self.configuration.is_some() { NAMES_CONFIGURATION } else { 0 };
        let base = if self.is_witness { IS_BASE } else { 0 };
        let mut w = Writer(vec![SNAPSHOT_VERSION | named | base]);
        w.put((self.shard, self.slot, self.level, self.incarnation));
        if let Some(configuration) = &self.configuration {
            w.put(configuration);
        }
        if self.is_witness {
            return w.finish();
        }
        w.put(self.clocks);
        w.put(&*self.rules);
        let origins: Vec<(GatewayId, u64, u64)> =
            self.origins.iter().map(|(g, (s, n))| (*g, *s, *n)).collect();
        w.put(origins);
        for table in self.tables.list() {
            table.snapshot(&mut w);
        }
        self.tables.counting.snapshot_outbox(&mut w);
        w.put(self.verdicts.image());
        w.finish()
    }

    /// The machine whose [`Machine::snapshot`] is `bytes`. The rules in force are those of the snapshot;
    /// `rules` are those of this gateway's settings (see [`Machine::rules_command`]).
    ///
    /// # Errors
    /// The bytes are damaged, are of another shard or version, or contradict themselves.
    pub fn restore(shard: ShardId, rules: Arc<CountingRules>, bytes: &[u8]) -> Result<Self, RestoreError> {
        let damaged = RestoreError::Damaged(bytes.len());
        // The version comes first, because this release does not know how another version is checked.
        match bytes.first() {
            None => return Err(damaged),
            Some(version) if *version & !(NAMES_CONFIGURATION | IS_BASE) != SNAPSHOT_VERSION => {
                return Err(RestoreError::Version(*version));
            }
            Some(_) => {}
        }
        let Some((body, digest)) = bytes.split_last_chunk::<8>() else { return Err(damaged) };
        if xxh3_64(body) != u64::from_le_bytes(*digest) {
            return Err(damaged);
        }
        let Some((version, tables)) = body.split_first() else { return Err(damaged) };
        let mut r = Reader(tables);
        let mut m = Self::new(shard, rules);
        let found;
        (found, m.slot, m.level, m.incarnation) = r.take("head")?;
        if found != shard {
            return Err(RestoreError::Shard { found, wanted: shard });
        }
        if m.slot > MAX_COUNT {
            return Err(inconsistent("head"));
        }
        if version & NAMES_CONFIGURATION != 0 {
            let named: Configuration = r.take("configuration")?;
            named.check().map_err(|why| RestoreError::Table("configuration", why.to_string()))?;
            if named.base > m.slot {
                return Err(inconsistent("configuration"));
            }
            m.configuration = Some(named);
        }
        if version & IS_BASE != 0 {
            if !r.0.is_empty() {
                return Err(RestoreError::Table("end", format!("{} bytes too many", r.0.len())));
            }
            return Ok(Self::witness(shard, m.slot, m.configuration));
        }
        m.clocks = r.take("clocks")?;
        if !m.clocks.is_sound() {
            return Err(inconsistent("clocks"));
        }
        let in_force: CountingRules = r.take("rules")?;
        in_force.validate()?;
        m.rules = Arc::new(in_force);
        let origins: Vec<(GatewayId, u64, u64)> = r.take("origins")?;
        m.origins = origins.into_iter().map(|(gateway, start, n)| (gateway, (start, n))).collect();
        let at = m.moment();
        for table in m.tables.list_mut() {
            table.restore(&mut r, &at)?;
        }
        m.tables.counting.restore_outbox(&mut r)?;
        m.verdicts = Verdicts::from_image(r.take("verdicts")?);
        if !r.0.is_empty() {
            return Err(RestoreError::Table("end", format!("{} bytes too many", r.0.len())));
        }
        Ok(m)
    }

    /// A 64-bit hash of the state. It takes as long as a snapshot.
    pub fn digest(&self) -> u64 {
        let snapshot = self.snapshot();
        snapshot.last_chunk::<8>().map_or(0, |digest| u64::from_le_bytes(*digest))
    }
}
