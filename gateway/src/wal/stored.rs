//! The bytes of a file that is written once and read whole: a snapshot, a batch.
//!
//! ```text
//!  0 magic 8 | 8 version 4 | 12 crc32c 4 (of all else) | 16 identity 16 | 32 group 2, zero 6 | 40 number 8 | 48 length 8 | content
//! ```

use super::disk::{Disk, DiskFile};
use super::error::LogError;
use super::form::Identity;
use super::recovery::hex;
use std::io;

/// Bytes before the content.
pub const HEAD_BYTES: usize = 56;

const VERSION: u32 = 1;

/// What a file is, beside its content.
#[derive(Debug, Clone, Copy)]
pub struct Label<'a> {
    /// What kind of file.
    pub magic: &'static [u8; 8],
    /// Whose.
    pub identity: &'a Identity,
    /// The group it belongs to.
    pub group: u16,
    /// A slot or a sequence number.
    pub number: u64,
}

impl Label<'_> {
    fn head(&self, version: u32, content: &[u8]) -> Vec<u8> {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend(self.magic);
        head.extend(version.to_le_bytes());
        head.extend([0; 4]);
        head.extend(self.identity);
        head.extend(self.group.to_le_bytes());
        head.extend([0; 6]);
        head.extend(self.number.to_le_bytes());
        head.extend((content.len() as u64).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head), content);
        head[12..16].copy_from_slice(&crc.to_le_bytes());
        head
    }

    /// Writes it to a new file. Nothing is synced.
    pub fn write(&self, file: &mut dyn DiskFile, content: &[u8]) -> io::Result<()> {
        file.write_at(0, &self.head(VERSION, content))?;
        file.write_at(HEAD_BYTES as u64, content)
    }

    /// Reads it back: its content, if all of it is what was written under this label.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Foreign`], [`LogError::Version`], [`LogError::Io`] when it can't be opened.
    pub fn read(&self, disk: &dyn Disk, name: &str, most_bytes: u64) -> Result<Vec<u8>, LogError> {
        let shown = disk.describe(name);
        let damaged = |why: &str| LogError::Damaged { name: shown.clone(), why: why.to_string() };
        let file = disk.open(name).map_err(|e| LogError::io("opening", &shown, e))?;
        let bytes = file.length().map_err(|e| LogError::io("reading", &shown, e))?;
        let content = bytes.checked_sub(HEAD_BYTES as u64).ok_or_else(|| damaged("it is too short"))?;
        if content > most_bytes {
            return Err(damaged("it is longer than any that is written"));
        }
        let mut head = [0; HEAD_BYTES];
        let mut found = vec![0; usize::try_from(content).map_err(|_| damaged("it is too long"))?];
        let whole = file.read_at(0, &mut head).is_ok_and(|read| read == HEAD_BYTES)
            && file.read_at(HEAD_BYTES as u64, &mut found).is_ok_and(|read| read == found.len());
        if !whole {
            return Err(damaged("the disk can't read it"));
        }
        if head.as_slice() == self.head(VERSION, &found) {
            return Ok(found);
        }
        // Not what it should be: why?
        let crc: [u8; 4] = head[12..16].try_into().unwrap_or_default();
        head[12..16].fill(0);
        if crc32c::crc32c_append(crc32c::crc32c(&head), &found) != u32::from_le_bytes(crc) {
            return Err(damaged("its checksum does not match"));
        }
        let version = u32::from_le_bytes(head[8..12].try_into().unwrap_or_default());
        if head[..8] == *self.magic && version != VERSION {
            return Err(LogError::Version { name: shown, found: version, known: VERSION });
        }
        if head[16..32] != *self.identity {
            return Err(LogError::Foreign {
                name: shown,
                found: hex(&head[16..32]),
                ours: hex(self.identity),
            });
        }
        Err(damaged("it is whole but another file's content"))
    }
}

/// A group's number in a name.
pub fn group_of(text: &str) -> Option<u16> {
    let group = u16::from_str_radix(text, 16).ok()?;
    (format!("{group:04x}") == text).then_some(group)
}

/// A slot or sequence number in a name.
pub fn number_of(text: &str) -> Option<u64> {
    let number = u64::from_str_radix(text, 16).ok()?;
    (format!("{number:016x}") == text).then_some(number)
}
