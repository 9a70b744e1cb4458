//! The bytes of version 1: segment headers and units. All integers are little-endian.
//!
//! A **segment** is a header of one sector ([`HEADER_BYTES`]) and then units, each starting at a multiple of
//! [`ALIGN_BYTES`]; zeros fill the rest of the file. A sector of its own means that no later write touches the header.
//!
//! ```text
//! segment header                          unit head
//!  0 magic            8                    0 magic           4
//!  8 version          4                    4 version         1
//! 12 crc32c           4                    5 role            1
//! 16 identity        16                    6 zero            2
//! 32 number           8                    8 groups          4   how many are listed after the head
//! 40 continues.segment 8                  12 records         4
//! 48 continues.offset 4                   16 body bytes      4   with padding
//! 52 mark.offset      4                   20 body crc32c     4
//! 56 lost, zero to 512                     24 sequence        8
//!                                         32 mark.segment    8
//! record, in a unit's body                40 mark.offset     4
//!  0 payload bytes    4                   44 head crc32c     4   seeded, see below
//!  4 group            2                   48 groups, 2 each; then the body, padded so that the unit
//!  6 configuration    4                      is a multiple of 8 bytes
//! 10 kind             1
//! 11 ballot round     8
//! 19 ballot gateway   2
//! 21 slot             8
//! 29 payload
//! ```
//!
//! In every version a segment's header is one sector that begins with magic, version and checksum, and a unit's head
//! has magic, version, role, the number of its groups and its checksum in these places. So a release can tell what
//! another one wrote from what rotted.
//!
//! The head's checksum is seeded with the log's identity, the segment's number and the unit's offset. So a unit is
//! valid in one place only: not in another log, not where a misdirected write put it, and not inside a payload that a
//! device made to look like a unit (the device does not know the identity).

use selvedge_fabric::record::{LogRecord, Position};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bytes of a segment's header: one sector.
pub const HEADER_BYTES: u32 = 512;

/// Every unit starts at a multiple of this.
pub const ALIGN_BYTES: u32 = 8;

/// Bytes of a unit in front of its list of groups.
pub const UNIT_HEAD_BYTES: usize = 48;

/// Bytes of a record without its payload.
pub const RECORD_HEAD_BYTES: usize = 29;

/// The most bytes of a record's payload; a small segment may hold even less.
pub const MAX_PAYLOAD_BYTES: usize = 8 * 1024 * 1024;

/// The most bytes of a state record's payload. State records are kept in memory, and trimming writes them again.
pub const MAX_STATE_PAYLOAD_BYTES: usize = 4 * 1024;

/// The most bytes of a unit's body: one record with the longest payload, and padding.
pub const MAX_BODY_BYTES: usize = MAX_PAYLOAD_BYTES + RECORD_HEAD_BYTES + ALIGN_BYTES as usize;

/// The most groups that a unit may list.
const MAX_GROUPS_ENTRIES: u32 = 65_536;

/// The version that this release writes.
pub const VERSION: u8 = 1;

/// Above every sequence number and segment number that is ever written, and far below where counting would overflow.
/// A unit or segment with such a number is not believed.
pub const MAX_COUNT: u64 = 1 << 62;

/// A log in which so high a number is found is refused. No log counts so far by itself, and one that continued from there
/// could reach [`MAX_COUNT`]: what it wrote would be synced, and not believed at the next start.
pub const MAX_FOUND_COUNT: u64 = MAX_COUNT - (1 << 60);

const SEGMENT_MAGIC: [u8; 8] = *b"SelvgLog";
/// The first bytes of a unit.
pub const UNIT_MAGIC: [u8; 4] = [0xF5, b'U', b'n', 0x1C];

/// Sixteen bytes that identify whose log it is: site, gateway and incarnation.
pub type LogIdentity = [u8; 16];

/// Bytes as hexadecimal digits, as errors show an identity.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The header of a segment, one sector long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub number: u64,
    /// Where the content of the segment before this one ends, if recovery cut it there; segment 0 if that one ends with
    /// its seal as usual.
    pub continues: Position,
    /// Bytes of this segment that were durable before it got its name.
    pub mark_offset: u32,
    /// Durable records in front of this segment were gone when it was made; they may have been of any group.
    pub lost: bool,
}

/// The result of reading a segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderRead {
    /// Intact, and of this log.
    Good(Header),
    /// Intact, and of another log.
    Foreign(LogIdentity),
    /// Intact, and of another version.
    Version(u32),
    /// Damaged, or no header.
    Bad,
}

/// The result of looking for a unit's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadRead {
    /// Intact, in its place, and of a known version and role.
    Good(Head),
    /// Intact and in its place, but this release does not know its version or role.
    Unknown { version: u8, role: u8 },
    /// There is no valid head.
    Bad,
}

/// The purpose of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitRole {
    /// Holds records: a batch, or part of one.
    Batch,
    /// Ends a segment, and lists all groups in it.
    Seal,
    /// Says that the damage in the places that its body names is repaired for the groups that it lists (see
    /// `recovery.rs`).
    Repaired,
}

/// The fields of a unit's head, its list of groups included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub role: UnitRole,
    /// Grows from unit to unit, with gaps where a write failed.
    pub sequence: u64,
    /// Everything below was known to be durable when the unit was written.
    pub mark: Position,
    /// The groups that have records in the unit; of a seal, in the segment.
    pub groups: BTreeSet<u16>,
    pub records: u32,
    /// Length of the body, padding included.
    pub body_bytes: u32,
    pub body_crc: u32,
}

impl Head {
    /// Bytes of the whole unit.
    pub fn unit_bytes(&self) -> u64 {
        (UNIT_HEAD_BYTES + 2 * self.groups.len()) as u64 + u64::from(self.body_bytes)
    }
}

/// Bytes of a unit that lists `groups` groups and whose records take `body` bytes.
pub fn unit_bytes(groups: usize, body: usize) -> usize {
    (UNIT_HEAD_BYTES + 2 * groups + body).next_multiple_of(ALIGN_BYTES as usize)
}

fn seed(identity: &LogIdentity, at: Position) -> u32 {
    let seed = crc32c::crc32c(identity);
    let seed = crc32c::crc32c_append(seed, &at.segment.to_le_bytes());
    crc32c::crc32c_append(seed, &at.offset.to_le_bytes())
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn take_u32(bytes: &[u8], at: usize) -> Option<u32> {
    take(bytes, at).map(u32::from_le_bytes)
}

fn take_u64(bytes: &[u8], at: usize) -> Option<u64> {
    take(bytes, at).map(u64::from_le_bytes)
}

impl Header {
    /// The header's sector, checksum included.
    pub fn encode(&self, identity: &LogIdentity) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES as usize);
        out.extend(SEGMENT_MAGIC);
        out.extend(u32::from(VERSION).to_le_bytes());
        out.extend([0; 4]);
        out.extend(identity);
        out.extend(self.number.to_le_bytes());
        out.extend(self.continues.segment.to_le_bytes());
        out.extend(self.continues.offset.to_le_bytes());
        out.extend(self.mark_offset.to_le_bytes());
        out.push(self.lost.into());
        out.resize(HEADER_BYTES as usize, 0);
        let crc = crc32c::crc32c(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Decodes a header; `number` is the one in the file's name.
    pub fn read(bytes: &[u8], identity: &LogIdentity, number: u64) -> HeaderRead {
        Self::try_read(bytes, identity, number).unwrap_or(HeaderRead::Bad)
    }

    fn try_read(bytes: &[u8], identity: &LogIdentity, number: u64) -> Option<HeaderRead> {
        let mut sector: [u8; HEADER_BYTES as usize] = take(bytes, 0)?;
        let crc = take_u32(&sector, 12)?;
        sector[12..16].fill(0);
        if sector[..8] != SEGMENT_MAGIC || crc32c::crc32c(&sector) != crc {
            return None;
        }
        let version = take_u32(&sector, 8)?;
        if version != u32::from(VERSION) {
            return Some(HeaderRead::Version(version));
        }
        let found: LogIdentity = take(&sector, 16)?;
        if found != *identity {
            return Some(HeaderRead::Foreign(found));
        }
        let header = Self {
            number: take_u64(&sector, 32)?,
            continues: Position { segment: take_u64(&sector, 40)?, offset: take_u32(&sector, 48)? },
            mark_offset: take_u32(&sector, 52)?,
            lost: sector[56] == 1,
        };
        (header.number == number).then_some(HeaderRead::Good(header))
    }
}

/// Appends a record to a unit's body. The caller has checked the payload's length against `MAX_PAYLOAD_BYTES`.
pub fn encode_record(record: &LogRecord, out: &mut Vec<u8>) {
    out.extend((record.payload.len() as u32).to_le_bytes());
    out.extend(record.group.to_le_bytes());
    out.extend(record.configuration.to_le_bytes());
    out.push(record.kind);
    out.extend(record.ballot.0.to_le_bytes());
    out.extend(record.ballot.1.to_le_bytes());
    out.extend(record.slot.to_le_bytes());
    out.extend_from_slice(&record.payload);
}

/// Decodes the record at `at` of a body. Returns it with the offset behind it.
pub fn decode_record(body: &[u8], at: usize) -> Option<(LogRecord, usize)> {
    let bytes = take_u32(body, at)? as usize;
    let start = at.checked_add(RECORD_HEAD_BYTES)?;
    let end = start.checked_add(bytes)?;
    let record = LogRecord {
        group: u16::from_le_bytes(take(body, at + 4)?),
        configuration: take_u32(body, at + 6)?,
        kind: *body.get(at + 10)?,
        ballot: (take_u64(body, at + 11)?, u16::from_le_bytes(take(body, at + 19)?)),
        slot: take_u64(body, at + 21)?,
        payload: Arc::from(body.get(start..end)?),
    };
    Some((record, end))
}

/// The fields around a body that make it a unit: the fields of [`Head`] that are not computed from the body.
pub struct UnitForm<'a> {
    pub identity: &'a LogIdentity,
    /// Where the unit will start.
    pub at: Position,
    pub role: UnitRole,
    pub sequence: u64,
    pub mark: Position,
    pub groups: &'a BTreeSet<u16>,
    pub records: u32,
}

impl UnitForm<'_> {
    /// Appends the unit to `out`; `body` writes the body.
    pub fn encode(&self, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
        let start = out.len();
        out.extend(UNIT_MAGIC);
        out.extend([VERSION, self.role as u8, 0, 0]);
        out.extend((self.groups.len() as u32).to_le_bytes());
        out.extend(self.records.to_le_bytes());
        out.extend([0; 8]);
        out.extend(self.sequence.to_le_bytes());
        out.extend(self.mark.segment.to_le_bytes());
        out.extend(self.mark.offset.to_le_bytes());
        out.extend([0; 4]);
        for group in self.groups {
            out.extend(group.to_le_bytes());
        }
        let body_start = out.len();
        body(out);
        out.resize(start + (out.len() - start).next_multiple_of(ALIGN_BYTES as usize), 0);
        let body_crc = crc32c::crc32c(&out[body_start..]);
        let body_bytes = (out.len() - body_start) as u32;
        out[start + 16..start + 20].copy_from_slice(&body_bytes.to_le_bytes());
        out[start + 20..start + 24].copy_from_slice(&body_crc.to_le_bytes());
        let head_crc = head_crc(self.identity, self.at, &out[start..body_start]);
        out[start + 44..start + 48].copy_from_slice(&head_crc.to_le_bytes());
    }
}

/// The checksum of a head and its groups, without the field that holds it.
fn head_crc(identity: &LogIdentity, at: Position, head: &[u8]) -> u32 {
    let (fields, rest) = head.split_at_checked(44).unwrap_or((head, &[]));
    let crc = crc32c::crc32c_append(seed(identity, at), fields);
    crc32c::crc32c_append(crc, rest.get(4..).unwrap_or(&[]))
}

/// Bytes that a possible head claims together with its groups: what must be read before its checksum can be computed.
pub fn claimed_head_bytes(head: &[u8]) -> Option<usize> {
    if take::<4>(head, 0)? != UNIT_MAGIC || take_u32(head, 8)? > MAX_GROUPS_ENTRIES {
        return None;
    }
    Some(UNIT_HEAD_BYTES + 2 * take_u32(head, 8)? as usize)
}

/// Decodes a head with its groups, if it is valid in this place.
pub fn decode_head(head: &[u8], identity: &LogIdentity, at: Position) -> HeadRead {
    try_decode_head(head, identity, at).unwrap_or(HeadRead::Bad)
}

fn try_decode_head(head: &[u8], identity: &LogIdentity, at: Position) -> Option<HeadRead> {
    if claimed_head_bytes(head)? != head.len() || head_crc(identity, at, head) != take_u32(head, 44)? {
        return None;
    }
    let role = match take::<2>(head, 4)? {
        [VERSION, 0] => UnitRole::Batch,
        [VERSION, 1] => UnitRole::Seal,
        [VERSION, 2] => UnitRole::Repaired,
        [version, role] => return Some(HeadRead::Unknown { version, role }),
    };
    let found = Head {
        role,
        sequence: take_u64(head, 24)?,
        mark: Position { segment: take_u64(head, 32)?, offset: take_u32(head, 40)? },
        groups: head[UNIT_HEAD_BYTES..].chunks_exact(2).map(|g| u16::from_le_bytes([g[0], g[1]])).collect(),
        records: take_u32(head, 12)?,
        body_bytes: take_u32(head, 16)?,
        body_crc: take_u32(head, 20)?,
    };
    // The log never writes a group twice. Accepting a list with duplicates would give the unit another length.
    let sound = found.groups.len() * 2 + UNIT_HEAD_BYTES == head.len()
        && found.body_bytes as usize <= MAX_BODY_BYTES
        && found.sequence < MAX_COUNT
        && found.mark <= at;
    sound.then_some(HeadRead::Good(found))
}
