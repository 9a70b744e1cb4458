//! Reads the files that a crash left, to make of them a log that can be written.
//!
//! 1. The **tail** is the last segment with a valid unit (or with a header that continues a cut log, or that the floor
//!    has reached). Its highest **mark**, or the floor if that is higher, says what was durable. A log that does not
//!    reach up to it has **lost** its end: that is damage of all groups, and the log continues in a new segment above
//!    the floor, whose header says so. A segment is sealed and synced before the next one gets its first unit, so
//!    everything in front of the tail is below the mark too.
//! 2. Everything below the mark is read in order. Whatever is not a valid unit there is **corruption**.
//! 3. The tail above the mark is read up to the first thing that is not a valid unit. The rest is a **torn write** and
//!    is cut off.
//! 4. The units of step 3 are written again, in a new segment that is synced before it gets its name. Its header says
//!    where the old segment's content ends, and carries the mark. (If there are no such units and nothing was torn, the
//!    log continues in the tail itself.)
//!
//! Reading ([`read`], here) changes nothing. Only when all of it was understood, and everything else that the gateway
//! keeps too, is anything written ([`FoundLog::begin`], in `begin.rs`).
//!
//! Invariant: what another release wrote and is intact by its checksum is an error before anything is written, and not
//! damage.
//! Invariant: the log continues with numbers (of segments and of units) above all that were found, and they are believed
//! at the next start. A log with numbers so high that this could end is refused by the name of the file: only somebody
//! who forged checksums can have written them ([`form::MAX_FOUND_COUNT`]). A log that such a number leaves just below that
//! bound goes on, and is refused at a later start.
//! Invariant: no file that holds evidence of damage is changed, so opening a log twice reports the same.
//! Invariant: a power cut at any point of this leaves files that recover to the same records.

use super::damage::{Groups, LogDamage, Span};
use super::disk::Disk;
use super::error::LogError;
use super::form::{
    self, ALIGN_BYTES, HEADER_BYTES, Head, Header, HeaderRead, LogIdentity, UnitForm, UnitRole, hex,
};
use super::found::{FoundLog, MAKING_NAME, Recovery, Rewrite, SegmentInfo, States, Tail};
use super::segment::{self, Segment, SegmentFinding, UnitRead};
use selvedge_fabric::record::{LogRecord, Position};
use std::collections::{BTreeMap, BTreeSet};

/// The least room behind the end of a segment for the log to continue in it.
const MIN_LEFT_BYTES: u64 = 128;

/// Collects the content of the units.
struct Reading<'a> {
    visit: &'a mut dyn FnMut(LogRecord),
    recovery: Recovery,
    damage: LogDamage,
    repairs: Vec<(Vec<Span>, Groups)>,
    states: States,
    /// The groups that were forgotten, and the segment in which they were last.
    forgotten: BTreeMap<u16, u64>,
    /// Where the first unit lies that is intact but does not decode.
    unreadable: Option<Position>,
}

impl Reading<'_> {
    /// Takes in the content of an intact unit.
    fn unit(&mut self, offset: u32, head: &Head, body: &[u8], info: &mut SegmentInfo) {
        info.units += 1;
        if self.understand(head, body, info).is_none() {
            self.unreadable.get_or_insert(Position { segment: info.number, offset });
        }
    }

    fn understand(&mut self, head: &Head, body: &[u8], info: &mut SegmentInfo) -> Option<()> {
        info.groups.extend(&head.groups);
        match head.role {
            UnitRole::Seal => {}
            UnitRole::Repaired => self.repairs.push(decode_repair(head, body)?),
            UnitRole::Batch => {
                let mut at = 0;
                for _ in 0..head.records {
                    let (record, next) = form::decode_record(body, at)?;
                    at = next;
                    info.note(&record);
                    if record.forgets() {
                        self.states.retain(|(group, _), _| *group != record.group);
                        self.forgotten.insert(record.group, info.number);
                    } else if record.is_state() {
                        self.states.insert((record.group, record.kind), (info.number, record.clone()));
                    }
                    self.recovery.records += 1;
                    (self.visit)(record);
                }
            }
        }
        Some(())
    }

    /// Reads everything of a segment below `to` as units that were durable; with `sealed`, it must end with a seal.
    /// Returns whether it does.
    fn durable(
        &mut self,
        segment: &mut Segment,
        to: u32,
        sealed: bool,
        after: &mut u64,
        info: &mut SegmentInfo,
    ) -> std::io::Result<bool> {
        let number = segment.number;
        let place = |from, to| Span { segment: number, from, to };
        let mut unknown: Vec<Span> = Vec::new();
        let mut seal: Option<BTreeSet<u16>> = None;
        let mut visit = |found: SegmentFinding<'_>| match found {
            SegmentFinding::Unit(offset, head, body) => {
                if head.role == UnitRole::Seal {
                    seal = Some(head.groups.clone());
                }
                self.unit(offset, head, body, info);
            }
            SegmentFinding::Bad(from, to, Some(groups)) => {
                self.damage.add(place(from, to), Groups::these(groups.iter().copied()));
            }
            SegmentFinding::Bad(from, to, None) => unknown.push(place(from, to)),
        };
        let (end, by_seal) = segment.walk(HEADER_BYTES, to, after, &mut visit)?;
        if sealed && !by_seal {
            unknown.push(place(end, end + 1));
        }
        // The seal lists the groups in the segment; without one the bytes may have been of any group.
        let groups = seal.map_or_else(Groups::all, Groups::these);
        unknown.into_iter().for_each(|place| self.damage.add(place, groups.clone()));
        Ok(by_seal)
    }
}

/// The most places that one [`UnitRole::Repaired`] unit names; more places take several units.
pub const REPAIR_PLACES_ENTRIES: usize = 64;

/// Bytes of the body of a [`UnitRole::Repaired`] unit that names this many places.
pub fn repair_bytes(places: usize) -> usize {
    8 + 16 * places
}

/// The body of a [`UnitRole::Repaired`] unit: whether it repairs all groups, and the places.
pub fn encode_repair(places: &[Span], all: bool) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(u32::from(all).to_le_bytes());
    body.extend((places.len() as u32).to_le_bytes());
    for place in places {
        body.extend(place.segment.to_le_bytes());
        body.extend(place.from.to_le_bytes());
        body.extend(place.to.to_le_bytes());
    }
    body
}

fn decode_repair(head: &Head, body: &[u8]) -> Option<(Vec<Span>, Groups)> {
    let (fields, places) = body.split_at_checked(8)?;
    let all = u32::from_le_bytes(fields[..4].try_into().ok()?) == 1;
    let count = u32::from_le_bytes(fields[4..].try_into().ok()?) as usize;
    let groups = if all { Groups::all() } else { Groups::these(head.groups.iter().copied()) };
    let place = |bytes: &[u8]| {
        let (segment, ends) = bytes.split_first_chunk::<8>()?;
        let (from, to) = ends.split_first_chunk::<4>()?;
        let to = u32::from_le_bytes(to.try_into().ok()?);
        Some(Span { segment: u64::from_le_bytes(*segment), from: u32::from_le_bytes(*from), to })
    };
    // Padding is shorter than a place.
    let whole = places.len() / 16 == count && places.len() % 16 < ALIGN_BYTES as usize;
    let places = places.chunks_exact(16).map(place).collect::<Option<Vec<_>>>()?;
    whole.then_some((places, groups))
}

/// Opens every segment, and refuses those of another log or version. Also returns the files that an interrupted opening
/// left.
fn open_segments(disk: &dyn Disk, identity: LogIdentity) -> Result<(Vec<Segment>, Vec<String>), LogError> {
    let mut numbers: Vec<u64> = Vec::new();
    let mut leftovers = Vec::new();
    for name in disk.list().map_err(|e| LogError::io("listing", &disk.describe(""), e))? {
        numbers.extend(segment::number_of(&name));
        if name == MAKING_NAME {
            leftovers.push(name);
        }
    }
    numbers.sort_unstable();
    let mut segments = Vec::with_capacity(numbers.len());
    for number in numbers {
        let name = segment::name_of(number);
        let shown = disk.describe(&name);
        let segment = disk
            .open(&name)
            .and_then(|file| Segment::open(file, number, identity))
            .map_err(|e| LogError::io("opening", &shown, e))?;
        match segment.header {
            HeaderRead::Foreign(found) => {
                return Err(LogError::Foreign { name: shown, found: hex(&found), ours: hex(&identity) });
            }
            HeaderRead::Version(found) => {
                return Err(LogError::Version { name: shown, found, known: u32::from(form::VERSION) });
            }
            HeaderRead::Good(_) | HeaderRead::Bad => segments.push(segment),
        }
    }
    Ok((segments, leftovers))
}

/// Refuses a segment in which a unit of another release was found.
fn check_known(disk: &dyn Disk, segment: &Segment) -> Result<(), LogError> {
    let Some((offset, version, role)) = segment.unknown else { return Ok(()) };
    let name = disk.describe(&segment::name_of(segment.number));
    if version != form::VERSION {
        return Err(LogError::Version { name, found: version.into(), known: form::VERSION.into() });
    }
    Err(LogError::Unreadable { name, why: format!("the unit at byte {offset} has the unknown role {role}") })
}

/// Refuses a segment if its own number, or the number of a unit in it, is so high that the log could not continue.
fn check_count(disk: &dyn Disk, segment: u64, highest: u64) -> Result<(), LogError> {
    let found = segment.max(highest);
    if found < form::MAX_FOUND_COUNT {
        return Ok(());
    }
    let name = disk.describe(&segment::name_of(segment));
    Err(LogError::Unreadable { name, why: format!("no log ever counts to {found}") })
}

/// Reads the log in `disk`, and changes nothing there. The log was durable up to `floor`; `None` if the floor is lost.
pub fn read(
    disk: &dyn Disk,
    identity: LogIdentity,
    floor: Option<Position>,
    visit: &mut dyn FnMut(LogRecord),
) -> Result<FoundLog, LogError> {
    let (mut segments, mut removals) = open_segments(disk, identity)?;
    let io = |doing: &'static str, number: u64| {
        let shown = disk.describe(&segment::name_of(number));
        move |e| LogError::io(doing, &shown, e)
    };

    // Step 1: the tail and its mark.
    let (mut tail, mut found) = (0, false);
    let (mut mark, mut highest) = (Position::default(), 0);
    for i in (0..segments.len()).rev() {
        let number = segments[i].number;
        let evidence = segments[i].survey().map_err(io("reading", number))?;
        check_known(disk, &segments[i])?;
        let held = floor.is_some_and(|floor| number <= floor.segment);
        if evidence.is_some() || held {
            (mark, highest) = evidence.unwrap_or_default();
            check_count(disk, number, highest)?;
            (tail, found) = (i, true);
            break;
        }
    }
    let last = segments.get(tail);
    mark = mark.max(floor.filter(|f| last.is_some_and(|last| last.number == f.segment)).unwrap_or_default());
    let lost = match (floor, last) {
        (None, _) => true,
        (Some(floor), _) if !found => floor > Position::default(),
        (Some(_), None) => false,
        (Some(floor), Some(last)) => {
            last.number < floor.segment || (mark.segment == last.number && last.bytes < mark.offset)
        }
    };
    let mut reading = Reading {
        visit,
        recovery: Recovery::default(),
        damage: LogDamage::default(),
        repairs: Vec::new(),
        states: BTreeMap::new(),
        forgotten: BTreeMap::new(),
        unreadable: None,
    };
    // Behind the tail there is at most an unused reserve; if it has bytes in it, they are a torn first unit.
    for unused in segments.drain((tail + 1).min(segments.len())..) {
        let cut = unused.bytes_used_from(HEADER_BYTES).map_err(io("reading", unused.number))?;
        reading.recovery.torn_bytes_cut += u64::from(cut);
        removals.push(segment::name_of(unused.number));
    }

    // Step 2: below the mark.
    let mut infos: Vec<SegmentInfo> = Vec::new();
    let mut cuts: Vec<(usize, u32)> = Vec::new();
    let mut ends_sealed = false;
    let mut after = 0;
    for i in 0..segments.len() {
        let next = segments.get(i + 1).map(|next| (next.number, next.good_header()));
        let segment = &mut segments[i];
        let number = segment.number;
        let (bytes, header) = (u64::from(segment.bytes), segment.good_header().is_some());
        let mut info = SegmentInfo { number, bytes, header, ..SegmentInfo::default() };
        match segment.good_header() {
            None => reading.damage.add(Span { segment: number, from: 0, to: HEADER_BYTES }, Groups::all()),
            Some(header) if header.lost => reading.damage.add(Span::lost_before(number), Groups::all()),
            Some(_) => {}
        }
        let (to, sealed) = match next {
            None if mark.segment == number => {
                (mark.offset.clamp(HEADER_BYTES, segment.bytes.max(HEADER_BYTES)), false)
            }
            None => (HEADER_BYTES, false),
            Some((_, Some(next))) if next.continues.segment == number => (next.continues.offset, false),
            Some(_) => (segment.bytes, true),
        };
        ends_sealed =
            reading.durable(segment, to, sealed, &mut after, &mut info).map_err(io("reading", number))?;
        check_known(disk, segment)?;
        check_count(disk, number, after)?;
        if let Some((next, _)) = next.filter(|(next, _)| *next != number + 1) {
            // A whole segment is gone. It is noted at the segment in front of the gap, where the evidence is.
            reading.damage.add(Span::gap(number, next - number - 1), Groups::all());
        }
        if let Some((_, Some(next))) = next
            && next.continues.segment == number
        {
            // A crash may have come after the next segment got its name and before this cut.
            cuts.push((i, to));
        }
        infos.push(info);
    }

    // Steps 3 and 4: above the mark.
    let before = segments.last().map_or(0, |s| s.number);
    let before_tail = segments.len().checked_sub(2).and_then(|i| segments.get(i)).map(|s| s.number);
    let next = match floor.filter(|_| lost) {
        Some(floor) => before.max(floor.segment) + 1,
        None => before + 1,
    };
    check_count(disk, next, 0)?;
    if lost {
        reading.damage.add(Span::lost_before(next), Groups::all());
        if before > 0 && next > before + 1 {
            // As the next opening will see it.
            reading.damage.add(Span::gap(before, next - before - 1), Groups::all());
        }
    }
    let tail = match segments.last_mut() {
        None => {
            let (continues, mark_offset) = (Position::default(), HEADER_BYTES);
            Tail::Absent(Header { number: next, continues, mark_offset, lost })
        }
        Some(segment) => {
            let number = segment.number;
            let end = segment.bytes.max(HEADER_BYTES);
            let start =
                if mark.segment == number { mark.offset.clamp(HEADER_BYTES, end) } else { HEADER_BYTES };
            // Behind a seal nothing would be read, and the floor may cover a seal.
            let reusable = !lost
                && !ends_sealed
                && segment.good_header().is_some()
                && matches!(segment.unit_at(start).map_err(io("reading", number))?, UnitRead::Nothing)
                && segment.bytes_used_from(start).map_err(io("reading", number))? == 0
                && u64::from(segment.bytes) >= u64::from(start) + MIN_LEFT_BYTES;
            let next_sequence = highest.max(after) + 1;
            if reusable {
                // All of it was durable: there is nothing to write again and nothing to cut. Restarts without work
                // leave no trace.
                Tail::GoOn { end: Position { segment: number, offset: start }, next_sequence }
            } else {
                // A tail with nothing durable in it, and no evidence of damage, is replaced under its own number. But
                // the new segment must still show that the segment before it was durable to its end, by its header or
                // by a unit.
                let shows = before_tail.is_none()
                    || segment.good_header().is_some_and(|h| h.continues.segment > 0)
                    || matches!(segment.unit_at(start).map_err(io("reading", number))?,
                        UnitRead::Whole(head) if head.sequence > after && head.role != UnitRole::Seal);
                let replaces = !lost && start == HEADER_BYTES && !reading.damage.lies_in(number) && shows;
                let (number, continues) = if replaces {
                    (number, segment.good_header().map(|h| h.continues).unwrap_or_default())
                } else {
                    (next, Position { segment: number, offset: start })
                };
                let header = Header { number, continues, mark_offset: 0, lost };
                let above = Above { identity, header, replaces, start };
                let rewrite =
                    above.read(&mut reading, segment, after, next_sequence).map_err(io("reading", number))?;
                check_known(disk, segment)?;
                Tail::Rewrite(Box::new(rewrite))
            }
        }
    };
    let Reading { mut recovery, mut damage, repairs, states, forgotten, unreadable, .. } = reading;
    if let Some(Position { segment, offset }) = unreadable {
        let name = disk.describe(&segment::name_of(segment));
        return Err(LogError::Unreadable { name, why: format!("the unit at byte {offset} does not decode") });
    }
    for info in &mut infos {
        info.slots.retain(|group, _| forgotten.get(group).is_none_or(|since| info.number >= *since));
    }
    for (places, groups) in &repairs {
        damage.repaired(places, groups);
    }
    recovery.damaged_groups = damage.groups();
    recovery.damaged_places = damage.places();
    Ok(FoundLog { recovery, damage, infos, states, removals, cuts, tail })
}

/// The units above the mark, and the segment that is to be made of them.
struct Above {
    identity: LogIdentity,
    header: Header,
    replaces: bool,
    start: u32,
}

impl Above {
    fn read(
        self,
        reading: &mut Reading<'_>,
        segment: &mut Segment,
        mut after: u64,
        mut next_sequence: u64,
    ) -> std::io::Result<Rewrite> {
        let Self { identity, header, replaces, start } = self;
        let mut info = SegmentInfo { number: header.number, header: true, ..SegmentInfo::default() };
        let mut content = Vec::new();
        let mut at = start;
        loop {
            let head = match segment.unit_at(at)? {
                UnitRead::Whole(head) if head.sequence > after => head,
                _ => break,
            };
            after = head.sequence;
            let read_at = at;
            at += head.unit_bytes() as u32;
            if head.role == UnitRole::Seal {
                break;
            }
            reading.unit(read_at, &head, &segment.body, &mut info);
            let unit = UnitForm {
                identity: &identity,
                at: Position { segment: header.number, offset: HEADER_BYTES + content.len() as u32 },
                role: head.role,
                sequence: next_sequence,
                mark: head.mark,
                groups: &head.groups,
                records: head.records,
            };
            unit.encode(&mut content, |out| out.extend_from_slice(&segment.body));
            next_sequence += 1;
            reading.recovery.units_rewritten += 1;
        }
        let cut = segment.bytes_used_from(at)?;
        reading.recovery.torn_bytes_cut += u64::from(cut);
        let end = Position { segment: header.number, offset: HEADER_BYTES + content.len() as u32 };
        let header = Header { mark_offset: end.offset, ..header };
        Ok(Rewrite { header, replaces, start, used: at + cut, info, content, end, next_sequence })
    }
}
