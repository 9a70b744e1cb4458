//! The bytes of a file that is written once and read as a whole: a snapshot or a batch.
//!
//! ```text
//!   0 magic 8 | 8 version 4 | 12 crc32c 4 (of these 12 bytes)
//!  16 crc32c 4 (of all else), zero 4 | 24 identity 16 | 40 group 2, zero 6 | 48 number 8 | 56 length 8 | content
//! ```
//!
//! The first line is the same in every version, so that a release can tell what another one wrote from what rotted.

use super::disk::{CHUNK_BYTES, Disk, DiskFile};
use super::error::LogError;
use super::form::{LogIdentity, hex};
use std::io;

/// Bytes before the content.
pub const HEAD_BYTES: usize = 64;

/// Bytes that hold the magic, the version and their checksum.
const VERSION_BYTES: usize = 16;

const VERSION: u32 = 1;

/// The fields that identify a stored file; together with the content it fixes every byte.
#[derive(Debug, Clone, Copy)]
pub struct Label<'a> {
    /// The kind of file.
    pub magic: &'static [u8; 8],
    /// The gateway and incarnation that the file belongs to.
    pub identity: &'a LogIdentity,
    /// The group that the file belongs to.
    pub group: u16,
    /// A slot or a sequence number.
    pub number: u64,
}

impl Label<'_> {
    /// The head for content of this length, without the checksum of all else.
    fn blank_head(&self, content_bytes: u64) -> Vec<u8> {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend(self.magic);
        head.extend(VERSION.to_le_bytes());
        head.extend(crc32c::crc32c(&head).to_le_bytes());
        head.extend([0; 8]);
        head.extend(self.identity);
        head.extend(self.group.to_le_bytes());
        head.extend([0; 6]);
        head.extend(self.number.to_le_bytes());
        head.extend(content_bytes.to_le_bytes());
        head
    }

    fn head(&self, content: &[u8]) -> Vec<u8> {
        let mut head = self.blank_head(content.len() as u64);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head), content);
        head[VERSION_BYTES..VERSION_BYTES + 4].copy_from_slice(&crc.to_le_bytes());
        head
    }

    /// Reads only the version of a file.
    ///
    /// # Errors
    /// [`LogError::Version`] when this release reads another one. A damaged file is no error here; [`LogError::Io`]
    /// when it can't be opened.
    pub fn check_version(&self, disk: &dyn Disk, name: &str) -> Result<(), LogError> {
        let shown = disk.describe(name);
        let file = disk.open(name).map_err(|e| LogError::io("opening", &shown, e))?;
        let mut start = [0; VERSION_BYTES];
        match file.read_at(0, &mut start) {
            Ok(VERSION_BYTES) => self.known_version(&shown, &start).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Whether these first bytes are intact and of a file of this kind.
    fn known_version(&self, shown: &str, start: &[u8; VERSION_BYTES]) -> Result<bool, LogError> {
        let (said, crc) = start.split_at(VERSION_BYTES - 4);
        if crc32c::crc32c(said).to_le_bytes() != crc || said[..8] != *self.magic {
            return Ok(false);
        }
        let found = u32::from_le_bytes(said[8..].try_into().unwrap_or_default());
        match found == VERSION {
            true => Ok(true),
            false => Err(LogError::Version { name: shown.to_string(), found, known: VERSION }),
        }
    }

    /// Writes head and content to a new file. Nothing is synced.
    pub fn write(&self, file: &mut dyn DiskFile, content: &[u8]) -> io::Result<()> {
        file.write_at(0, &self.head(content))?;
        file.write_at(HEAD_BYTES as u64, content)
    }

    /// Whether a file holds what was written under this label. It is read from the disk in pieces; `pace` is called
    /// with the bytes of each. A file that does not exist, can't be opened or is of another release counts as intact:
    /// that is not rot.
    pub fn is_whole(&self, disk: &dyn Disk, name: &str, pace: &mut dyn FnMut(u64)) -> bool {
        let Ok(file) = disk.open(name) else { return true };
        let Ok(bytes) = file.length() else { return true };
        file.forget_cached();
        let shown = disk.describe(name);
        let whole = self.reads_whole(file.as_ref(), bytes, &shown, &mut |piece| pace(piece.len() as u64));
        file.forget_cached();
        whole
    }

    /// Whether the file is intact; `hear` is given its content piece by piece.
    fn reads_whole(&self, file: &dyn DiskFile, bytes: u64, shown: &str, hear: &mut dyn FnMut(&[u8])) -> bool {
        let (mut start, mut head) = ([0; VERSION_BYTES], [0; HEAD_BYTES]);
        if file.read_at(0, &mut start).is_ok_and(|read| read == VERSION_BYTES) {
            match self.known_version(shown, &start) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(_) => return true,
            }
        }
        let Some(content) = bytes.checked_sub(HEAD_BYTES as u64) else { return false };
        if !file.read_at(0, &mut head).is_ok_and(|read| read == HEAD_BYTES) {
            return false;
        }
        let mut expected = self.blank_head(content);
        let mut crc = crc32c::crc32c(&expected);
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut at = HEAD_BYTES as u64;
        while at < bytes {
            let part = chunk.len().min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
            if !file.read_at(at, &mut chunk[..part]).is_ok_and(|read| read == part) {
                return false;
            }
            crc = crc32c::crc32c_append(crc, &chunk[..part]);
            at += part as u64;
            hear(&chunk[..part]);
        }
        expected[VERSION_BYTES..VERSION_BYTES + 4].copy_from_slice(&crc.to_le_bytes());
        head.as_slice() == expected
    }

    /// Opens a file to read it in pieces, if it holds exactly what was written under this label. Returns the length and
    /// checksum (crc32c) of its content. Memory never holds more than one piece.
    ///
    /// # Errors
    /// [`LogError::Damaged`]; [`LogError::Io`] when it can't be opened.
    pub fn open_whole(&self, disk: &dyn Disk, name: &str) -> Result<(Box<dyn DiskFile>, u64, u32), LogError> {
        let shown = disk.describe(name);
        let file = disk.open(name).map_err(|e| LogError::io("opening", &shown, e))?;
        let bytes = file.length().map_err(|e| LogError::io("reading", &shown, e))?;
        let mut crc = 0;
        let whole = self.reads_whole(file.as_ref(), bytes, &shown, &mut |piece| {
            crc = crc32c::crc32c_append(crc, piece);
        });
        match whole {
            true => Ok((file, bytes.saturating_sub(HEAD_BYTES as u64), crc)),
            false => Err(LogError::Damaged { name: shown, why: "it is not what was written".to_string() }),
        }
    }

    /// Reads a file's content, if the file holds exactly what was written under this label.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Foreign`], [`LogError::Version`], [`LogError::Io`] when it can't be opened.
    pub fn read(&self, disk: &dyn Disk, name: &str, most_bytes: u64) -> Result<Vec<u8>, LogError> {
        let shown = disk.describe(name);
        let damaged = |why: &str| LogError::Damaged { name: shown.clone(), why: why.to_string() };
        let file = disk.open(name).map_err(|e| LogError::io("opening", &shown, e))?;
        let bytes = file.length().map_err(|e| LogError::io("reading", &shown, e))?;
        let mut start = [0; VERSION_BYTES];
        if file.read_at(0, &mut start).is_ok_and(|read| read == VERSION_BYTES)
            && !self.known_version(&shown, &start)?
        {
            return Err(damaged("its head is incomplete"));
        }
        let content = bytes.checked_sub(HEAD_BYTES as u64).ok_or_else(|| damaged("it is too short"))?;
        if content > most_bytes {
            return Err(damaged("it is longer than any file of its kind"));
        }
        let mut head = [0; HEAD_BYTES];
        let mut found = vec![0; usize::try_from(content).map_err(|_| damaged("it is too long"))?];
        let whole = file.read_at(0, &mut head).is_ok_and(|read| read == HEAD_BYTES)
            && file.read_at(HEAD_BYTES as u64, &mut found).is_ok_and(|read| read == found.len());
        if !whole {
            return Err(damaged("the disk can't read it"));
        }
        if head.as_slice() == self.head(&found) {
            return Ok(found);
        }
        // The file is not what was written; the rest finds out why.
        let place = VERSION_BYTES..VERSION_BYTES + 4;
        let crc: [u8; 4] = head[place.clone()].try_into().unwrap_or_default();
        head[place].fill(0);
        if crc32c::crc32c_append(crc32c::crc32c(&head), &found) != u32::from_le_bytes(crc) {
            return Err(damaged("its checksum does not match"));
        }
        if head[24..40] != *self.identity {
            return Err(LogError::Foreign {
                name: shown,
                found: hex(&head[24..40]),
                ours: hex(self.identity),
            });
        }
        Err(damaged("it is whole but another file's content"))
    }
}

/// A group's number from a file's or folder's name; `None` if it is not in the form that this crate writes.
pub fn group_of(text: &str) -> Option<u16> {
    let group = u16::from_str_radix(text, 16).ok()?;
    (format!("{group:04x}") == text).then_some(group)
}

/// A slot or sequence number from a file's name; `None` if it is not in the form that this crate writes.
pub fn number_of(text: &str) -> Option<u64> {
    let number = u64::from_str_radix(text, 16).ok()?;
    (format!("{number:016x}") == text).then_some(number)
}
