//! The floor: a position below which the log was durable, kept beside the log's folder and not in it.
//!
//! The log itself shows what rotted in its middle. It can't show that its end is gone (the folder was emptied, the last
//! segment is missing or cut short): the rest looks like a log that never went further. A gateway that believed it
//! would vote again where it has voted. So the log raises the floor with the first batch that it acknowledges in a
//! segment, and then every [`super::LogOptions::floor_every_bytes`]. A log that ends below its floor has lost records,
//! possibly of every group.
//!
//! The floor is one file of two sectors, which are written in turn and in place: a torn write leaves the other sector
//! intact, and a full disk has room for it.
//!
//! ```text
//!  0 magic 8 | 8 version 4 | 12 crc32c 4 (of these 12 bytes)
//! 16 crc32c 4 (of the 28 bytes behind it) | 20 identity 16 | 36 segment 8 | 44 offset 4 | zero to 512
//! ```
//!
//! Invariant: everything below the floor is durable in the log.
//! Invariant: nothing in a segment is acknowledged before the floor has reached that segment.

use super::disk::{Disk, DiskFile};
use super::error::LogError;
use super::form::{LogIdentity, MAX_COUNT, hex};
use selvedge_fabric::record::Position;
use std::io;
use std::sync::Arc;

/// The floor's file name, in the gateway's data folder.
pub const FLOOR_NAME: &str = "log-floor";

const MAGIC: [u8; 8] = *b"SelvgFlr";
const VERSION: u32 = 1;
const SLOT_BYTES: usize = 512;
const USED_BYTES: usize = 48;

/// The floor of one log.
pub struct Floor {
    disk: Arc<dyn Disk>,
    identity: LogIdentity,
    /// `None` while the file is missing or damaged.
    at: Option<Position>,
    /// The sector to overwrite next: the older one.
    next: usize,
}

impl Floor {
    /// Creates the floor of a log that is about to begin; it is durable when this returns.
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::Full`].
    pub fn create(disk: Arc<dyn Disk>, identity: LogIdentity) -> Result<Self, LogError> {
        let mut floor = Self { disk, identity, at: None, next: 0 };
        floor.make(Position::default())?;
        Ok(floor)
    }

    /// Reads the floor and changes nothing.
    ///
    /// # Errors
    /// [`LogError::Version`], [`LogError::Foreign`], [`LogError::Io`].
    pub fn read(disk: Arc<dyn Disk>, identity: LogIdentity) -> Result<Self, LogError> {
        let mut floor = Self { disk, identity, at: None, next: 0 };
        let shown = floor.disk.describe(FLOOR_NAME);
        let file = match floor.disk.open(FLOOR_NAME) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(floor),
            Err(e) => return Err(LogError::io("opening", &shown, e)),
        };
        for slot in 0..2 {
            let mut bytes = [0; USED_BYTES];
            // A sector that can't be read counts as damaged.
            let whole = file.read_at((slot * SLOT_BYTES) as u64, &mut bytes).is_ok_and(|n| n == USED_BYTES);
            if let Some(at) = whole.then(|| floor.decode(&shown, &bytes)).transpose()?.flatten()
                && floor.at.is_none_or(|known| known <= at)
            {
                (floor.at, floor.next) = (Some(at), 1 - slot);
            }
        }
        Ok(floor)
    }

    /// The floor; `None` if it is lost, in which case the log's end counts as lost too.
    pub fn at(&self) -> Option<Position> {
        self.at
    }

    /// Raises the floor, durably. The previous position stays readable until then.
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::Full`]: the floor is then either unchanged or raised.
    pub fn raise(&mut self, to: Position) -> Result<(), LogError> {
        if self.at.is_none() {
            return self.make(to);
        }
        let shown = self.disk.describe(FLOOR_NAME);
        let bytes = self.encode(to);
        let place = (self.next * SLOT_BYTES) as u64;
        let write = |mut file: Box<dyn DiskFile>| {
            file.write_at(place, &bytes)?;
            file.sync()
        };
        self.disk.open(FLOOR_NAME).and_then(write).map_err(|e| LogError::io("raising", &shown, e))?;
        (self.at, self.next) = (Some(to), 1 - self.next);
        Ok(())
    }

    fn make(&mut self, at: Position) -> Result<(), LogError> {
        let shown = self.disk.describe(FLOOR_NAME);
        let bytes = self.encode(at).repeat(2);
        let make = || {
            let mut file = self.disk.create(FLOOR_NAME)?;
            file.write_at(0, &bytes)?;
            file.sync()?;
            self.disk.sync_folder()
        };
        make().map_err(|e| LogError::io("making", &shown, e))?;
        (self.at, self.next) = (Some(at), 0);
        Ok(())
    }

    fn encode(&self, at: Position) -> Vec<u8> {
        let mut rest = Vec::with_capacity(USED_BYTES);
        rest.extend(self.identity);
        rest.extend(at.segment.to_le_bytes());
        rest.extend(at.offset.to_le_bytes());
        let mut out = Vec::with_capacity(SLOT_BYTES);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(crc32c::crc32c(&out).to_le_bytes());
        out.extend(crc32c::crc32c(&rest).to_le_bytes());
        out.extend(rest);
        out.resize(SLOT_BYTES, 0);
        out
    }

    /// The position in a sector; `None` if the sector is damaged.
    fn decode(&self, shown: &str, bytes: &[u8; USED_BYTES]) -> Result<Option<Position>, LogError> {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        if bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..12]) != word(12) {
            return Ok(None);
        }
        if word(8) != VERSION {
            let name = shown.to_string();
            return Err(LogError::Version { name, found: word(8), known: VERSION });
        }
        if crc32c::crc32c(&bytes[20..]) != word(16) {
            return Ok(None);
        }
        if bytes[20..36] != self.identity {
            let (name, found) = (shown.to_string(), hex(&bytes[20..36]));
            return Err(LogError::Foreign { name, found, ours: hex(&self.identity) });
        }
        let segment = u64::from_le_bytes(bytes[36..44].try_into().unwrap_or_default());
        Ok((segment < MAX_COUNT).then(|| Position { segment, offset: word(44) }))
    }
}
