//! Scans: queries with everything that the machine had in memory, and the list of batches that still have to
//! be read.
//!
//! The state of a stream at one slot consists of its open parts, its closed parts that wait to be cut, and
//! the contents of the batches that the shard keeps. The scan copies the first two, for many streams turn by
//! turn (see [`super::gather`]). Then it lists the batches that may hold windows asked for. The contents of
//! batches never change, so any thread may read them at any time. Of each stream, the scan counts the batches
//! that were cut by the time it looked at the stream. Parts add up in any order. So the answer about a stream
//! is its state at one slot, whatever the machine applies meanwhile.
//!
//! The scan gathers the rows of one page only. When there are too many, it drops the last one in the order of
//! all rows, and the page ends before that row.
//!
//! Invariant: an answer holds every part of each of its windows, as of its stream's slot, with two
//! exceptions: parts in batches that it counts as lacking, and parts in batches cut up to the time `since`
//! that it reports.
//! Limits: a scan gathers one page of at most [`MAX_SCAN_STREAMS`] streams, and reads at most the latest
//! [`MAX_SCAN_BYTES`] of batches. Windows of widths that are no longer in the rules are not answered.

use super::Machine;
use super::counting::{BatchRecord, ClosedPart};
use super::query::{MAX_ANSWER_BYTES, MAX_ANSWER_ENTRIES, Page, Query};
use super::rules::StreamClass;
use bincode::{Decode, Encode};
use selvedge_types::aggregate::Aggregate;
use selvedge_types::frame::encoded_bytes;
use selvedge_types::question::SiteWindowPlace;
use selvedge_types::sequences::Sequences;
use selvedge_types::site_window::SiteWindow;
use selvedge_types::time::{ElapsedMs, EpochMs};
use selvedge_types::uplink::{Batch, Part};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most bytes of batches that one scan reads.
pub const MAX_SCAN_BYTES: u64 = 8 * 1024 * 1024;
/// The most streams of one page, including those without a row.
pub const MAX_SCAN_STREAMS: usize = 4_096;

/// A stream that the query asks for, as of the slot at which the scan looked at it.
#[derive(Debug)]
pub(super) struct Of {
    pub device: Arc<str>,
    pub stream: Arc<str>,
    /// The width of the parts that make up the stream's windows in the answer.
    pub width_ms: u32,
    pub watermark: EpochMs,
    /// The last batch that had been cut. The scan has the parts of later batches from memory.
    pub cut: u64,
}

/// A window of the answer as far as its parts are merged, with its encoded size.
#[derive(Debug)]
struct Row {
    aggregate: Aggregate,
    late: u64,
    parts: u32,
    closed: bool,
    set_aside: u64,
    sequences: Sequences,
    bytes: usize,
}

/// The contribution of one part to its window.
pub(super) struct Addend<'a> {
    width_ms: u32,
    start: EpochMs,
    aggregate: &'a Aggregate,
    late: u64,
    closed: bool,
    set_aside: u64,
    sequences: &'a Sequences,
}

impl<'a> Addend<'a> {
    pub fn of(part: &'a ClosedPart, closed: bool) -> Self {
        let ClosedPart { width_ms, start, aggregate, set_aside, sequences, .. } = part;
        let (width_ms, start, set_aside, late) = (*width_ms, *start, *set_aside, part.late_count());
        Self { width_ms, start, aggregate, late, closed, set_aside, sequences }
    }
}

/// A query with what the machine had in memory, to be completed with contents of batches.
#[derive(Debug)]
pub struct Scan {
    from: EpochMs,
    to: EpochMs,
    pub(super) every_ms: Option<u32>,
    after: Option<SiteWindowPlace>,
    most_rows: usize,
    most_bytes: usize,
    /// In the order of device and stream.
    pub(super) streams: Vec<Of>,
    /// By (index in `streams`, start).
    rows: BTreeMap<(usize, EpochMs), Row>,
    bytes: usize,
    next: Option<SiteWindowPlace>,
    wanted: BTreeMap<u64, BatchRecord>,
    since: Option<EpochMs>,
    lacking: u32,
}

/// The answer to a query.
#[derive(Debug, Clone, PartialEq, Default, Encode, Decode)]
pub struct Scanned {
    /// In the order of device, stream and start.
    pub windows: Vec<SiteWindow>,
    /// The first row of the next page; `None` if this is the last page.
    pub next: Option<SiteWindowPlace>,
    /// Batches cut up to this time were not read, because the shard no longer keeps them or the query asked
    /// for too much. `None` if nothing is left out.
    pub since: Option<EpochMs>,
    /// How many kept batches could not be read.
    pub lacking: u32,
}

impl Machine {
    /// The wall time of an earlier elapsed time, reckoned back from the current wall time.
    pub fn wall_of(&self, earlier: ElapsedMs) -> EpochMs {
        self.clocks.wall.plus(-i64::try_from(self.clocks.elapsed.since(earlier)).unwrap_or(i64::MAX))
    }
}

impl Scan {
    /// A scan without streams, which [`super::gather`] adds.
    pub(super) fn new(query: &Query<'_>, page: &Page) -> Self {
        Self {
            from: query.from,
            to: query.to,
            every_ms: query.every_ms,
            after: page.after.clone(),
            most_rows: (page.limit as usize).clamp(1, MAX_ANSWER_ENTRIES),
            most_bytes: page.bytes.min(MAX_ANSWER_BYTES) as usize,
            streams: Vec::new(),
            rows: BTreeMap::new(),
            bytes: 0,
            next: None,
            wanted: BTreeMap::new(),
            since: None,
            lacking: 0,
        }
    }

    /// Lists the batches to read, once all streams are known.
    pub(super) fn want_batches(&mut self, machine: &Machine) {
        if !self.streams.is_empty() {
            let outbox = &machine.tables.counting.outbox;
            let cut = self.want(outbox.kept, outbox.manifest.iter());
            self.since = outbox.released.max(cut).map(|at| machine.wall_of(at));
        }
    }

    /// Whether the page ends before this stream.
    pub(super) fn is_beyond_page(&self, device: &str, stream: &str) -> bool {
        self.next.as_ref().is_some_and(|next| (device, stream) > (next.device.as_str(), next.stream.as_str()))
    }

    /// Whether no batches are left to read.
    pub fn is_complete(&self) -> bool {
        self.wanted.is_empty()
    }

    /// The batches that are still to be read, in ascending order.
    pub fn wanted(&self) -> Vec<u64> {
        self.wanted.keys().copied().collect()
    }

    /// Reads the content of a batch. Returns false, and does nothing, if the batch is not wanted or the
    /// content is damaged.
    pub fn look_at(&mut self, seq: u64, content: &[u8]) -> bool {
        if !self.wanted.get(&seq).is_some_and(|record| record.matches(content)) {
            return false;
        }
        let Ok(batch) = Batch::decode(content) else { return false };
        self.wanted.remove(&seq);
        let place = |device: &str, stream: &str| {
            self.streams.binary_search_by(|of| (&*of.device, &*of.stream).cmp(&(device, stream))).ok()
        };
        let places: Vec<_> = batch.streams.iter().map(|of| place(&of.device, &of.stream)).collect();
        for part in &batch.parts {
            if let Some(Some(place)) = places.get(part.stream as usize)
                && self.streams.get(*place).is_some_and(|of| seq <= of.cut)
            {
                let Part { width_ms, start, late, set_aside, .. } = *part;
                let (aggregate, sequences, closed) = (&part.aggregate, &part.sequences, true);
                self.add(*place, &Addend { width_ms, start, aggregate, late, closed, set_aside, sequences });
            }
        }
        true
    }

    /// Counts a batch as lacking, because its content can't be had.
    pub fn give_up(&mut self, seq: u64) {
        self.lacking += u32::from(self.wanted.remove(&seq).is_some());
    }

    /// The answer. Batches that were not read count as lacking.
    pub fn finish(mut self) -> Scanned {
        self.wanted().into_iter().for_each(|seq| self.give_up(seq));
        let view = |((place, start), row): ((usize, EpochMs), Row)| {
            let of = &self.streams[place];
            SiteWindow {
                device: of.device.clone(),
                stream: of.stream.clone(),
                width_ms: self.every_ms.unwrap_or(of.width_ms),
                start,
                aggregate: row.aggregate,
                late: row.late,
                parts: row.parts,
                closed: row.closed,
                watermark: of.watermark,
                set_aside: row.set_aside,
                sequences: row.sequences,
            }
        };
        let windows = self.rows.into_iter().map(view).collect();
        Scanned { windows, next: self.next, since: self.since, lacking: self.lacking }
    }

    /// Lists the latest batches after `kept` that may hold windows asked for, within [`MAX_SCAN_BYTES`].
    /// Returns when the latest one was cut that exceeds this.
    fn want<'a>(
        &mut self,
        kept: u64,
        manifest: impl DoubleEndedIterator<Item = &'a BatchRecord> + ExactSizeIterator,
    ) -> Option<ElapsedMs> {
        let every = i64::from(self.every_ms.unwrap_or(0));
        let (from, to) = (self.from.plus(every.saturating_neg()), self.to.plus(every));
        let mut left = MAX_SCAN_BYTES;
        let last = kept + manifest.len() as u64;
        for (n, record) in (0..).zip(manifest.rev()).filter(|(_, record)| record.overlaps(from, to)) {
            let Some(rest) = left.checked_sub(record.bytes.into()) else {
                return Some(record.cut);
            };
            left = rest;
            self.wanted.insert(last - n, *record);
        }
        None
    }

    /// Merges a part into its window, if the page has room for it.
    pub(super) fn add(&mut self, place: usize, part: &Addend<'_>) {
        let Some(of) = self.streams.get(place).filter(|of| of.width_ms == part.width_ms) else { return };
        let every = self.every_ms.unwrap_or(part.width_ms);
        let start = part.start.window_start(every);
        if start >= self.to || start.plus(i64::from(every)) <= self.from {
            return;
        }
        let order = (&*of.device, &*of.stream, start);
        let before = self.after.as_ref().is_some_and(|after| order < after.order());
        if before || self.next.as_ref().is_some_and(|next| order >= next.order()) {
            return;
        }
        let names = of.device.len() + of.stream.len();
        let row = self.rows.entry((place, start)).and_modify(|row| {
            row.aggregate.merge(part.aggregate);
            row.late = row.late.saturating_add(part.late);
            row.parts = row.parts.saturating_add(1);
            row.closed &= part.closed;
            row.set_aside = row.set_aside.saturating_add(part.set_aside);
            row.sequences.merge(part.sequences);
        });
        let row = row.or_insert_with(|| Row {
            aggregate: part.aggregate.clone(),
            late: part.late,
            parts: 1,
            closed: part.closed,
            set_aside: part.set_aside,
            sequences: part.sequences.clone(),
            bytes: 0,
        });
        let had = row.bytes;
        row.bytes = names + encoded_bytes(&row.aggregate) + encoded_bytes(&row.sequences) + ROW_BYTES;
        self.bytes += row.bytes;
        self.bytes -= had;
        while self.rows.len() > 1 && (self.rows.len() > self.most_rows || self.bytes > self.most_bytes) {
            let Some(((place, start), row)) = self.rows.pop_last() else { break };
            self.bytes -= row.bytes;
            let of = &self.streams[place];
            let (device, stream) = (of.device.to_string(), of.stream.to_string());
            self.end_before(SiteWindowPlace { device, stream, start });
        }
    }

    pub(super) fn end_before(&mut self, next: SiteWindowPlace) {
        self.next = Some(self.next.take().map_or(next.clone(), |known| known.min(next)));
    }
}

/// The most bytes that a row takes in addition to its names, its aggregate and its sequences.
const ROW_BYTES: usize = 2 * 3 + 5 + 9 + 9 + 5 + 1 + 9 + 9;

/// The width of the parts that an answer merges: the first of the class, or the greatest that divides
/// `every_ms`.
pub(super) fn width_of(class: &StreamClass, every_ms: Option<u32>) -> Option<u32> {
    match every_ms {
        None => class.windows_ms.first().copied(),
        Some(every) => class.windows_ms.iter().copied().filter(|w| every > 0 && every % w == 0).max(),
    }
}
