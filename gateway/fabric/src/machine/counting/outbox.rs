//! Outbox: closed parts until they are cut into batches, and the batches that the shard keeps. It keeps all
//! unconfirmed batches and, before those, the latest confirmed ones, which answer queries about recent
//! windows.
//!
//! A chosen command cuts a batch and thereby fixes its content before anything of it is sent, so all replicas
//! cut the same bytes under the same number. The host stores the bytes; the machine keeps the manifest.
//!
//! # Cutting
//! Parts wait until they fill a batch, or until the oldest has waited for `cut_after_ms`. While batches are
//! unconfirmed, the wait grows with the square of their number, up to [`MAX_CUT_WAIT_MS`]. A week without the
//! cloud thus makes about a thousand batches rather than one batch a second. This keeps the manifest small,
//! which is in memory and in every snapshot.
//!
//! # Releasing
//! When all kept batches exceed the rule `recent_bytes`, confirmed ones are released, the oldest first. Every
//! replica releases a batch at the same slot, and only then may its content be deleted.
//!
//! # Losing
//! When every replica has lost a batch's content, a chosen command marks the batch as lost for good. Its
//! number and its entry in the manifest stay. The uplink sends these instead of the content, so the batches
//! behind it do not wait for ever, and nothing goes missing in silence.
//!
//! # Ledgers
//! A confirmation counts only if it comes from the admitted ledger: the first that confirmed, or the one that
//! an operator has admitted since. When another ledger is admitted, all kept batches count as unconfirmed
//! again, because it may not have them.
//!
//! # Generations
//! A recovery ends the generation of a group whose majority is lost ([`crate::recovery`]). What the lost replicas cut and
//! sent after the last slot that the survivor holds is not known here. But the ledger knows how many batches of the earlier
//! generation it has, and says so when it is asked under that generation's incarnation. Until it has said so, an
//! [`OutboxFence`] holds back all batches that were cut since:
//!
//! - Batches up to `last` were cut before the recovery. They are sent as always, under their old incarnation and numbers: a
//!   ledger that has one recognises it.
//! - Batches up to `through` were cut by the recovery. They hold all parts that were open or waiting then. If the ledger
//!   has nothing beyond `last`, no batch of the lost replicas holds any of it, and they are sent under the new incarnation.
//!   If it has more, these parts may be in there, and the batches are marked as lost: nothing is counted twice, and the ledger
//!   records a hole for what may be missing.
//! - Later batches hold what was counted since, which no batch of the earlier generation can hold.
//!
//! Under the new incarnation the ledger numbers batches from 1 again, so a batch is sent with its number less `base`.
//!
//! # Invariants
//! Invariant: no batch after `last` is sent while the fence stands.
//! Invariant: an encoded batch has at most [`MAX_BATCH_BYTES`] bytes.
//! Invariant: seqs are given without gaps, and kept <= cursor <= last.

use super::names::Names;
use super::window::ClosedPart;
use crate::machine::applied::CutBatch;
use bincode::{Decode, Encode};
use selvedge_types::frame::varint_bytes;
use selvedge_types::time::{ElapsedMs, EpochMs};
use selvedge_types::uplink::{
    Batch, LedgerId, LostBatch, MAX_BATCH_BYTES, Part, SiteIncarnation, StreamName,
};
use std::collections::{HashMap, VecDeque};

/// The longest wait of closed parts while batches are unconfirmed, in milliseconds.
pub const MAX_CUT_WAIT_MS: u64 = 900_000;
/// With this many unconfirmed batches, closed parts wait for twice `cut_after_ms`; with twice as many, five
/// times as long.
const BACKLOG_STEP_ENTRIES: u64 = 16;
/// The least that a batch counts towards `recent_bytes`. It bounds the number of batches, and so the
/// manifest.
const LEAST_KEPT_BYTES: u64 = 1024;

/// The manifest's entry for a batch that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct BatchRecord {
    /// The length of the encoded batch.
    pub bytes: u32,
    /// The crc32c of the encoded batch.
    pub crc: u32,
    /// The number of its parts.
    pub parts: u32,
    /// The start of its earliest window.
    pub from: EpochMs,
    /// The end of its latest window.
    pub to: EpochMs,
    /// The elapsed time at which it was cut.
    pub cut: ElapsedMs,
    /// The readings in its parts, counted in the shortest width of each stream that the batch holds.
    pub readings: u64,
    /// A chosen command has marked the content as lost on every replica.
    pub lost: bool,
}

impl BatchRecord {
    /// Whether these bytes are the batch's content. Always false for a lost batch.
    pub fn matches(&self, content: &[u8]) -> bool {
        !self.lost && content.len() == self.bytes as usize && crc32c::crc32c(content) == self.crc
    }

    /// The record that the uplink sends in place of content that is lost.
    pub fn as_lost(&self) -> LostBatch {
        LostBatch { readings: self.readings, parts: self.parts, from: self.from, to: self.to }
    }

    /// Whether one of its windows may end after `from` and start before `to`.
    pub fn overlaps(&self, from: EpochMs, to: EpochMs) -> bool {
        self.from < to && from < self.to
    }

    /// The bytes of its content on disk; 0 if it is lost.
    fn held(&self) -> u64 {
        if self.lost { 0 } else { self.bytes.into() }
    }

    /// The bytes that it counts towards `recent_bytes`.
    fn charge(&self) -> u64 {
        self.held().max(LEAST_KEPT_BYTES)
    }

    fn is_sound(&self) -> bool {
        self.parts > 0 && self.from < self.to && self.bytes as usize <= MAX_BATCH_BYTES
    }
}

/// How full the outbox is, and how far its batches are cut and confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutboxStats {
    /// All batches up to this seq are released: nobody needs their contents.
    pub kept: u64,
    /// All batches up to this seq are confirmed.
    pub cursor: u64,
    /// The last seq that was cut.
    pub last: u64,
    /// The ledger whose confirmations count; `None` before the first confirmation.
    pub ledger: Option<LedgerId>,
    /// The number of unconfirmed batches.
    pub batches: u64,
    /// The bytes of the encoded unconfirmed batches.
    pub bytes: u64,
    /// How many batches lost their contents on every replica, since the shard began.
    pub lost: u64,
    /// The last batch of the site's earlier generations; 0 in the first.
    pub base: u64,
    /// What waits for the ledger's word on the generation before a recovery.
    pub fence: Option<OutboxFence>,
    /// Closed parts that wait to be cut.
    pub waiting_parts: u64,
    /// Since when the oldest of these parts has been waiting.
    pub waiting_since: Option<ElapsedMs>,
}

/// What waits for the ledger's word on the generation before a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct OutboxFence {
    /// The last batch that was cut before the recovery.
    pub last: u64,
    /// The last batch that the recovery cut.
    pub through: u64,
    /// The incarnation that batches after `last` are sent under.
    pub next: SiteIncarnation,
}

#[derive(Debug, Default)]
pub struct Outbox {
    /// Batches up to this one are released.
    pub kept: u64,
    /// When the last released batch was cut; `None` as long as none is released.
    pub released: Option<ElapsedMs>,
    pub cursor: u64,
    /// How many batches were ever marked as lost.
    pub lost: u64,
    /// The admitted ledger, whose confirmations count; `None` before the first confirmation.
    pub ledger: Option<LedgerId>,
    /// The batches from `kept + 1` on.
    pub manifest: VecDeque<BatchRecord>,
    pub waiting: Vec<ClosedPart>,
    pub since: ElapsedMs,
    /// The last batch of the earlier generations: those after it are numbered from 1 in the present incarnation.
    pub base: u64,
    pub fence: Option<OutboxFence>,
    /// Derived from `manifest`: the bytes of the unconfirmed batches, and what all batches count towards
    /// `recent_bytes`.
    bytes: u64,
    charged: u64,
    /// Derived from `waiting`: the streams in the order of their first part, their places in that order (only
    /// for lookups), and the encoded bytes of streams and parts.
    streams: Vec<u32>,
    places: HashMap<u32, u32>,
    size: usize,
}

/// The version byte, and the counts of streams and of parts.
const HEAD_BYTES: usize = 1 + 3 + 3;

impl Outbox {
    pub fn last(&self) -> u64 {
        self.kept + self.manifest.len() as u64
    }

    /// The number of unconfirmed batches.
    pub fn unconfirmed(&self) -> u64 {
        self.last() - self.cursor
    }

    /// Adds a part that closed at `now`. If it does not fit, the parts that wait are cut into a batch first.
    pub fn push(&mut self, part: ClosedPart, now: ElapsedMs, names: &Names) -> Option<CutBatch> {
        let name_bytes = || {
            let (device, stream) = names.of(part.stream);
            [device.len(), stream.len()].iter().map(|n| varint_bytes(*n as u64) + n).sum::<usize>()
        };
        let place = self.places.get(&part.stream).copied();
        let mut size = part_bytes(&part, place.unwrap_or(self.streams.len() as u32));
        if place.is_none() {
            size += name_bytes();
        }
        let mut cut = None;
        if HEAD_BYTES + self.size + size > MAX_BATCH_BYTES {
            cut = self.cut(now, names);
            size = part_bytes(&part, 0) + name_bytes();
        }
        if self.waiting.is_empty() {
            self.since = now;
        }
        if !self.places.contains_key(&part.stream) {
            self.places.insert(part.stream, self.streams.len() as u32);
            self.streams.push(part.stream);
        }
        self.size += size;
        self.waiting.push(part);
        cut
    }

    /// Whether a part of this stream waits.
    pub fn holds(&self, stream: u32) -> bool {
        self.places.contains_key(&stream)
    }

    /// When the parts that wait must be cut.
    pub fn due(&self, cut_after_ms: u32) -> Option<ElapsedMs> {
        let after = u64::from(cut_after_ms);
        let steps = self.unconfirmed() / BACKLOG_STEP_ENTRIES;
        let times = steps.saturating_mul(steps).saturating_add(1);
        let wait = after.saturating_mul(times).min(MAX_CUT_WAIT_MS.max(after));
        (!self.waiting.is_empty()).then(|| self.since.plus(wait))
    }

    /// Cuts the parts that wait into a batch.
    pub fn cut(&mut self, now: ElapsedMs, names: &Names) -> Option<CutBatch> {
        if self.waiting.is_empty() {
            return None;
        }
        let name = |id: &u32| {
            let (device, stream) = names.of(*id);
            StreamName { device: device.to_string(), stream: stream.to_string() }
        };
        let part = |c: &ClosedPart| Part {
            stream: self.places.get(&c.stream).copied().unwrap_or(u32::MAX),
            width_ms: c.width_ms,
            start: c.start,
            aggregate: c.aggregate.clone(),
            late: c.late_count(),
            watermark: c.watermark,
            set_aside: c.set_aside,
            sequences: c.sequences.clone(),
        };
        let batch = Batch {
            streams: self.streams.iter().map(name).collect(),
            parts: self.waiting.iter().map(part).collect(),
        };
        let bytes = batch.encode();
        debug_assert!(bytes.len() <= HEAD_BYTES + self.size && HEAD_BYTES + self.size <= bytes.len() + 4);
        let end = |c: &ClosedPart| c.start.plus(i64::from(c.width_ms));
        let mut shortest = vec![u32::MAX; batch.streams.len()];
        for part in &batch.parts {
            if let Some(width_ms) = shortest.get_mut(part.stream as usize) {
                *width_ms = part.width_ms.min(*width_ms);
            }
        }
        let is_shortest = |part: &&Part| shortest.get(part.stream as usize) == Some(&part.width_ms);
        let once = batch.parts.iter().filter(is_shortest);
        let record = BatchRecord {
            bytes: bytes.len() as u32,
            crc: crc32c::crc32c(&bytes),
            parts: batch.parts.len() as u32,
            from: self.waiting.iter().map(|c| c.start).min().unwrap_or_default(),
            to: self.waiting.iter().map(end).max().unwrap_or_default(),
            cut: now,
            readings: once.map(|part| part.aggregate.count).fold(0, u64::saturating_add),
            lost: false,
        };
        self.bytes += u64::from(record.bytes);
        self.charged += record.charge();
        self.manifest.push_back(record);
        self.waiting.clear();
        self.streams.clear();
        self.places.clear();
        self.size = 0;
        Some(CutBatch { seq: self.last(), bytes })
    }

    /// A ledger confirms everything up to `cursor`. Ignored unless the ledger is the admitted one; the first
    /// to confirm is admitted.
    pub fn confirmed(&mut self, ledger: LedgerId, cursor: u64) {
        if *self.ledger.get_or_insert(ledger) == ledger {
            self.confirm(cursor);
        }
    }

    /// Admits a ledger: from now on only its confirmations count, and it has confirmed nothing of what is
    /// kept.
    pub fn admit(&mut self, ledger: LedgerId) {
        if self.ledger.replace(ledger) == Some(ledger) {
            return;
        }
        // Numbers of earlier generations mean nothing in the present one.
        self.cursor = self.kept.max(self.base);
        let confirmed = (self.cursor - self.kept) as usize; // at most the manifest's length
        self.bytes = self.manifest.iter().skip(confirmed).map(BatchRecord::held).sum();
    }

    /// Puts a fence behind batch `last`, after everything that waited was cut. A fence that stands already keeps its
    /// place: nothing behind it was sent.
    pub fn fence(&mut self, last: u64, next: SiteIncarnation) {
        let last = self.fence.map_or(last, |standing| standing.last);
        self.fence = Some(OutboxFence { last, through: self.last(), next });
    }

    /// The ledger has said how far it has the batches before the fence, which falls: all batches up to it are confirmed.
    /// Returns the incarnation that counts from now on, and the batches that are lost. `None` if this fence does not
    /// stand, or the ledger is not the admitted one.
    pub fn settle(
        &mut self,
        ledger: LedgerId,
        last: u64,
        beyond: bool,
    ) -> Option<(SiteIncarnation, Vec<u64>)> {
        let fence = self.fence.filter(|fence| fence.last == last)?;
        if *self.ledger.get_or_insert(ledger) != ledger {
            return None;
        }
        self.confirm(last);
        let doubtful = fence.last + 1..=fence.through;
        let lost = doubtful.filter(|seq| beyond && self.lose(*seq)).collect();
        (self.base, self.fence) = (last, None);
        Some((fence.next, lost))
    }

    /// The same outbox with what a snapshot says of generations; `None` if that contradicts it.
    pub fn fenced(mut self, base: u64, fence: Option<OutboxFence>) -> Option<Self> {
        let sound = |f: &OutboxFence| base <= f.last && f.last <= f.through && f.through <= self.last();
        let held_back = fence.is_none_or(|f| self.cursor <= f.last);
        if base > self.last() || self.cursor < base || !fence.as_ref().is_none_or(sound) || !held_back {
            return None;
        }
        (self.base, self.fence) = (base, fence);
        Some(self)
    }

    /// Marks everything up to `cursor` as confirmed. Returns false, and does nothing, if it already is or was
    /// never cut.
    fn confirm(&mut self, cursor: u64) -> bool {
        let most = self.fence.map_or(self.last(), |fence| fence.last);
        if cursor <= self.cursor || cursor > most {
            return false;
        }
        while self.cursor < cursor {
            self.cursor += 1;
            self.bytes -= self.record(self.cursor).map_or(0, |r| r.held());
        }
        true
    }

    /// Marks a batch's content as lost everywhere. Returns false, and does nothing, if the batch is
    /// confirmed, already marked or unknown.
    pub fn lose(&mut self, seq: u64) -> bool {
        let at = seq.checked_sub(self.kept).and_then(|at| usize::try_from(at.checked_sub(1)?).ok());
        let Some(record) = at.and_then(|at| self.manifest.get_mut(at)) else { return false };
        if seq <= self.cursor || record.lost {
            return false;
        }
        self.bytes -= record.held();
        self.charged -= record.charge();
        record.lost = true;
        self.charged += record.charge();
        self.lost += 1;
        true
    }

    /// The seqs of kept batches that are marked as lost.
    pub fn lost_ones(&self) -> impl Iterator<Item = u64> {
        let from = self.kept + 1;
        (from..).zip(&self.manifest).filter(|(_, record)| record.lost).map(|(seq, _)| seq)
    }

    /// Releases confirmed batches while more than `most_bytes` are kept. Returns the last one released.
    pub fn release(&mut self, most_bytes: u32) -> Option<u64> {
        let before = self.kept;
        while self.kept < self.cursor && self.charged > u64::from(most_bytes) {
            let Some(record) = self.manifest.pop_front() else { break };
            self.kept += 1;
            self.charged -= record.charge();
            self.released = self.released.max(Some(record.cut));
        }
        (self.kept > before).then_some(self.kept)
    }

    /// The manifest's entry for a batch that is kept.
    pub fn record(&self, seq: u64) -> Option<BatchRecord> {
        let at = seq.checked_sub(self.kept)?.checked_sub(1)?;
        self.manifest.get(usize::try_from(at).ok()?).copied()
    }

    pub fn stats(&self) -> OutboxStats {
        OutboxStats {
            kept: self.kept,
            cursor: self.cursor,
            last: self.last(),
            ledger: self.ledger,
            batches: self.unconfirmed(),
            bytes: self.bytes,
            lost: self.lost,
            base: self.base,
            fence: self.fence,
            waiting_parts: self.waiting.len() as u64,
            waiting_since: (!self.waiting.is_empty()).then_some(self.since),
        }
    }

    /// Restores an outbox from a snapshot; `None` if its parts contradict each other.
    pub fn restore(
        (kept, released, cursor, lost, ledger): (u64, Option<ElapsedMs>, u64, u64, Option<LedgerId>),
        manifest: VecDeque<BatchRecord>,
        waiting: Vec<ClosedPart>,
        since: ElapsedMs,
        names: &Names,
    ) -> Option<Self> {
        let last = kept.checked_add(manifest.len() as u64)?;
        if !(kept..=last).contains(&cursor)
            || (cursor > 0 && ledger.is_none())
            || (kept == 0) != released.is_none()
        {
            return None;
        }
        let marked = manifest.iter().filter(|record| record.lost).count() as u64;
        if !manifest.iter().all(BatchRecord::is_sound) || !(marked..=last).contains(&lost) {
            return None;
        }
        let confirmed = usize::try_from(cursor - kept).ok()?;
        let bytes = manifest.iter().skip(confirmed).map(BatchRecord::held).sum();
        let charged = manifest.iter().map(BatchRecord::charge).sum();
        let mut outbox =
            Self { kept, released, cursor, lost, ledger, manifest, bytes, charged, ..Self::default() };
        for part in waiting {
            if !part.is_sound(names) || outbox.push(part, since, names).is_some() {
                return None;
            }
        }
        outbox.since = since;
        Some(outbox)
    }
}

/// The encoded size of a part whose stream has the index `place`.
fn part_bytes(c: &ClosedPart, place: u32) -> usize {
    let signed = |n: EpochMs| varint_bytes(((n.0 << 1) ^ (n.0 >> 63)) as u64);
    varint_bytes(place.into())
        + varint_bytes(c.width_ms.into())
        + signed(c.start)
        + c.aggregate.encoded_bytes()
        + varint_bytes(c.late_count())
        + signed(c.watermark)
        + varint_bytes(c.set_aside)
        + c.sequences.encoded_bytes()
}
