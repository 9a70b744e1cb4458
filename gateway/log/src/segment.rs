//! Reads one segment unit by unit, and finds the next unit behind damage.

use super::disk::DiskFile;
use super::form::{
    self, ALIGN_BYTES, HEADER_BYTES, Head, HeadRead, Header, HeaderRead, LogIdentity, UNIT_HEAD_BYTES,
    UnitRole,
};
use selvedge_fabric::record::Position;
use selvedge_types::canary::{self, Canary};
use std::collections::BTreeSet;
use std::io;

/// Bytes that are searched at a time for the next unit.
const SCAN_BYTES: usize = 64 * 1024;

/// A read that the disk refuses is retried in pieces of this size, so that one lost sector does not hide its
/// neighbours.
const SECTOR_BYTES: usize = 512;

/// The longest segment file that is read.
pub const MAX_SEGMENT_BYTES: u64 = 1024 * 1024 * 1024;

const NAME_START: &str = "wal-";
const NAME_END: &str = ".log";

/// The file name of a segment.
pub fn name_of(number: u64) -> String {
    format!("{NAME_START}{number:016x}{NAME_END}")
}

/// The number in a segment's file name; `None` for any other name.
pub fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(NAME_START)?.strip_suffix(NAME_END)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (number > 0 && number < form::MAX_COUNT && name_of(number) == name).then_some(number)
}

/// The result of reading at an offset of a segment.
pub enum UnitRead {
    /// An intact unit; its body is in [`Segment::body`].
    Whole(Head),
    /// A unit with a valid head and a damaged body.
    Body(Head),
    /// No valid head stands there.
    Nothing,
}

/// A segment's open file, and what was read of it.
pub struct Segment {
    /// From the file's name.
    pub number: u64,
    /// The file's length, at most [`MAX_SEGMENT_BYTES`].
    pub bytes: u32,
    pub header: HeaderRead,
    /// The body of the unit that was read last.
    pub body: Vec<u8>,
    /// An intact unit that this release does not know: its offset, version and role.
    pub unknown: Option<(u32, u8, u8)>,
    file: Box<dyn DiskFile>,
    identity: LogIdentity,
}

/// One finding of [`Segment::walk`].
pub enum SegmentFinding<'a> {
    /// An intact unit: its offset, head and body.
    Unit(u32, &'a Head, &'a [u8]),
    /// The range of bytes that should have been units, and the groups that were in them, if they are known.
    Bad(u32, u32, Option<&'a BTreeSet<u16>>),
}

impl Segment {
    /// Opens a segment and reads its header.
    pub fn open(file: Box<dyn DiskFile>, number: u64, identity: LogIdentity) -> io::Result<Self> {
        let bytes = file.length()?.min(MAX_SEGMENT_BYTES) as u32;
        let (header, body, unknown) = (HeaderRead::Bad, Vec::new(), None);
        let mut segment = Self { number, bytes, header, body, unknown, file, identity };
        let mut head = [0; HEADER_BYTES as usize];
        segment.read(0, &mut head)?;
        segment.header = Header::read(&head, &identity, number);
        Ok(segment)
    }

    /// The header, if it is intact.
    pub fn good_header(&self) -> Option<Header> {
        match self.header {
            HeaderRead::Good(header) => Some(header),
            _ => None,
        }
    }

    /// Fills `into`, with zeros where the file ends or the disk can't read.
    fn read(&self, offset: u32, into: &mut [u8]) -> io::Result<()> {
        if let Ok(read) = self.file.read_at(u64::from(offset), into) {
            into.get_mut(read..).unwrap_or_default().fill(0);
            return Ok(());
        }
        let first = SECTOR_BYTES - offset as usize % SECTOR_BYTES;
        let mut at = 0;
        while at < into.len() {
            let end = if at == 0 { first } else { at + SECTOR_BYTES }.min(into.len());
            let part = &mut into[at..end];
            let read = self.file.read_at(u64::from(offset) + at as u64, part).unwrap_or(0);
            part.get_mut(read..).unwrap_or_default().fill(0);
            at = end;
        }
        Ok(())
    }

    /// Reads the unit at `offset`, body included.
    pub fn unit_at(&mut self, offset: u32) -> io::Result<UnitRead> {
        self.unit_if(offset, &|_| true)
    }

    /// Reads the unit at `offset`. Of a unit that is not `wanted` only the head is read; it counts as intact and has no
    /// body.
    pub fn unit_if(&mut self, offset: u32, wanted: &dyn Fn(&Head) -> bool) -> io::Result<UnitRead> {
        let mut head = vec![0; UNIT_HEAD_BYTES];
        if u64::from(offset) + UNIT_HEAD_BYTES as u64 > u64::from(self.bytes) {
            return Ok(UnitRead::Nothing);
        }
        self.read(offset, &mut head)?;
        let Some(claimed) = form::claimed_head_bytes(&head) else { return Ok(UnitRead::Nothing) };
        let room = (self.bytes - offset) as usize;
        if claimed > room {
            return Ok(UnitRead::Nothing);
        }
        head.resize(claimed, 0);
        self.read(offset, &mut head)?;
        let at = Position { segment: self.number, offset };
        let head = match form::decode_head(&head, &self.identity, at) {
            HeadRead::Good(head) => head,
            HeadRead::Unknown { version, role } => {
                self.unknown = Some((offset, version, role));
                return Ok(UnitRead::Nothing);
            }
            HeadRead::Bad => return Ok(UnitRead::Nothing),
        };
        if head.unit_bytes() > room as u64 {
            return Ok(UnitRead::Nothing);
        }
        if !wanted(&head) {
            self.body.clear();
            return Ok(UnitRead::Whole(head));
        }
        self.body.resize(head.body_bytes as usize, 0);
        let mut body = std::mem::take(&mut self.body);
        self.read(offset + claimed as u32, &mut body)?;
        self.body = body;
        let whole = crc32c::crc32c(&self.body) == head.body_crc;
        if whole || canary::makes(Canary::TornTailTaken) {
            Ok(UnitRead::Whole(head))
        } else {
            Ok(UnitRead::Body(head))
        }
    }

    /// The first offset in `from..to` at which a valid head stands.
    pub fn next_head(&mut self, from: u32, to: u32) -> io::Result<Option<u32>> {
        // `to` may come from a header, so it may be a number that was never written.
        let to = to.min(self.bytes);
        let mut at = from.checked_next_multiple_of(ALIGN_BYTES).unwrap_or(to);
        let mut buffer = vec![0; SCAN_BYTES.min(to.saturating_sub(at) as usize)];
        while at < to {
            let part = buffer.len().min((to - at) as usize);
            self.read(at, &mut buffer[..part])?;
            for (i, chunk) in buffer[..part].chunks(ALIGN_BYTES as usize).enumerate() {
                let offset = at + i as u32 * ALIGN_BYTES;
                if chunk.starts_with(&form::UNIT_MAGIC) && !matches!(self.unit_at(offset)?, UnitRead::Nothing)
                {
                    return Ok(Some(offset));
                }
            }
            at += part as u32;
        }
        Ok(None)
    }

    /// Bytes from `from` up to and including the last one that is not zero.
    pub fn bytes_used_from(&self, from: u32) -> io::Result<u32> {
        let mut buffer = vec![0; SCAN_BYTES.min(self.bytes.saturating_sub(from) as usize)];
        let (mut at, mut last) = (from, from);
        while at < self.bytes {
            let part = buffer.len().min((self.bytes - at) as usize);
            self.read(at, &mut buffer[..part])?;
            if let Some(i) = buffer[..part].iter().rposition(|&b| b != 0) {
                last = at + i as u32 + 1;
            }
            at += part as u32;
        }
        Ok(last.saturating_sub(from))
    }

    /// The evidence in this segment of what was durable: the highest mark and the highest sequence number. `None` for
    /// an unused reserve: it has neither a valid unit nor a header that continues a cut log.
    pub fn survey(&mut self) -> io::Result<Option<(Position, u64)>> {
        let mut mark = Position::default();
        let mut found = false;
        if let Some(header) =
            self.good_header().filter(|h| h.continues.segment > 0 || h.mark_offset > HEADER_BYTES || h.lost)
        {
            found = true;
            mark = Position { segment: self.number, offset: header.mark_offset };
        }
        let mut highest = 0;
        let mut at = HEADER_BYTES;
        while let Some(offset) = self.next_head(at, self.bytes)? {
            let (UnitRead::Whole(head) | UnitRead::Body(head)) = self.unit_at(offset)? else { break };
            found = true;
            mark = mark.max(head.mark);
            highest = highest.max(head.sequence);
            at = offset + head.unit_bytes() as u32;
        }
        Ok(found.then_some((mark, highest)))
    }

    /// Visits everything in `from..to`, or up to a seal, that should be units. `after` is the last sequence number so
    /// far and is advanced. Returns the offset behind the last unit, and whether that unit was a seal.
    pub fn walk(
        &mut self,
        from: u32,
        to: u32,
        after: &mut u64,
        visit: &mut dyn FnMut(SegmentFinding<'_>),
    ) -> io::Result<(u32, bool)> {
        let mut at = from;
        while at < to {
            match self.unit_at(at)? {
                UnitRead::Whole(head) if head.sequence > *after => {
                    *after = head.sequence;
                    visit(SegmentFinding::Unit(at, &head, &self.body));
                    at += head.unit_bytes() as u32;
                    if head.role == UnitRole::Seal {
                        return Ok((at, true));
                    }
                }
                UnitRead::Body(head) if head.sequence > *after => {
                    *after = head.sequence;
                    let end = at + head.unit_bytes() as u32;
                    visit(SegmentFinding::Bad(at, end, Some(&head.groups)));
                    at = end;
                }
                _ => {
                    let end = self.next_head(at.saturating_add(ALIGN_BYTES), to)?.unwrap_or(to);
                    visit(SegmentFinding::Bad(at, end, None));
                    at = end;
                }
            }
        }
        Ok((at, false))
    }
}

#[cfg(test)]
mod tests {
    use super::form::UnitForm;
    use super::*;

    const IDENTITY: LogIdentity = [7; 16];

    #[test]
    fn numbers_that_no_log_reaches_are_not_believed() {
        let at = Position { segment: 1, offset: HEADER_BYTES };
        let is_unit = |sequence| {
            let (groups, mark, mut out) = (BTreeSet::new(), Position::default(), Vec::new());
            let (identity, role, groups) = (&IDENTITY, UnitRole::Seal, &groups);
            UnitForm { identity, at, role, sequence, mark, groups, records: 0 }.encode(&mut out, |_| {});
            matches!(form::decode_head(&out, &IDENTITY, at), HeadRead::Good(_))
        };
        for (number, known) in
            [(5, true), (form::MAX_COUNT - 1, true), (form::MAX_COUNT, false), (u64::MAX, false)]
        {
            assert_eq!(is_unit(number), known, "{number}");
            assert_eq!(number_of(&name_of(number)).is_some(), known, "{number}");
        }
    }

    /// A file that fails the test if it is read behind its end.
    struct Zeros(u64);

    impl DiskFile for Zeros {
        fn length(&self) -> io::Result<u64> {
            Ok(self.0)
        }
        fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
            assert!(offset < self.0, "read at {offset}");
            into.fill(0);
            Ok(into.len().min((self.0 - offset) as usize))
        }
        fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
            Ok(())
        }
        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
        fn preallocate(&mut self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn truncate(&mut self, _: u64) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn looking_for_a_unit_ends_where_the_file_ends_whatever_a_header_says() {
        let mut segment = Segment::open(Box::new(Zeros(4096)), 1, IDENTITY).unwrap();
        assert_eq!(segment.next_head(HEADER_BYTES, u32::MAX).unwrap(), None);
        let mut found = Vec::new();
        let mut visit = |f: SegmentFinding<'_>| {
            if let SegmentFinding::Bad(from, to, None) = f {
                found.push((from, to));
            }
        };
        assert_eq!(segment.walk(HEADER_BYTES, u32::MAX, &mut 0, &mut visit).unwrap(), (u32::MAX, false));
        assert_eq!(found, [(HEADER_BYTES, u32::MAX)], "and what is missing is damage");
    }
}
