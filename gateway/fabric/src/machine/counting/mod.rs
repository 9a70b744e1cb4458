//! Counting: from readings to batches. This table knows the streams, which of their readings were counted,
//! their open windows, and the outbox in which closed parts become batches.
//!
//! Each reading is judged by itself ([`Counting::judge`]). Its stream is looked up by name, or made known if
//! there is room ([`names`]). Its time and its sequence number are judged ([`dedup`]). A new reading is
//! counted into a window of each of its stream's widths ([`window`]). Closed parts go to the outbox
//! ([`outbox`]), which cuts batches and keeps the latest of them. A retired stream leaves a tombstone
//! ([`retire`], [`tombstones`]).
//!
//! Invariant: a reading is counted in exactly one part of each of its stream's widths.
//! Invariant: each reading of a publish is judged by itself (counted, recognised or set aside), independently
//! of the publish's other readings.

mod dedup;
mod idle;
mod names;
mod outbox;
mod pace;
mod retire;
mod slots;
mod tombstones;
mod window;

pub use dedup::{MAX_BOOTS_ENTRIES, MAX_NUMBER, SEQUENCE_WIDTH_ENTRIES};
pub use outbox::{BatchRecord, MAX_CUT_WAIT_MS, OutboxFence, OutboxStats};
pub use retire::MAX_TICK_RETIRED_ENTRIES;
pub use tombstones::{MAX_TOMBSTONES_ENTRIES, TOMBSTONE_MS};
pub use window::{ClosedPart, MAX_OPEN_WINDOWS_ENTRIES};

use super::applied::Applied;
use super::command::{Item, Reading};
use super::fullness::Fullness;
use super::judged::{Judged, Reason, SetAside};
use super::outcomes::ItemOutcome;
use super::rules::{CountingRules, MAX_STREAMS_ENTRIES, StreamClass};
use super::snapshot::{MAX_COUNT, Reader, RestoreError, Writer, inconsistent};
use super::submission::{NameRef, Submission};
use super::table::{Moment, Table};
use super::trust::MAX_LEAD_MS;
use dedup::{Fate, Numbering};
use idle::Idle;
use names::{DeviceImage, MakerImage, Names, StreamImage};
use outbox::Outbox;
use selvedge_types::aggregate::Sample;
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::MAX_NAME_BYTES;
use selvedge_types::time::{ElapsedMs, EpochMs, LATEST_NOW, TIME_RANGE};
use selvedge_types::uplink::SiteIncarnation;
use tombstones::Tombstones;
use window::{Measured, Stored, Streams};

/// A submission whose names borrow from the slot's bytes.
pub type Named<'a> = Submission<NameRef<'a>>;

/// In [`Counting::ids`]: the stream has not been looked up yet.
const UNRESOLVED: u32 = u32::MAX;

/// The streams of a shard, their windows and the outbox.
#[derive(Debug)]
pub struct Counting {
    pub names: Names,
    pub streams: Streams,
    tombstones: Tombstones,
    pub outbox: Outbox,
    /// Derived from the rules in force.
    pub classes: Vec<StreamClass>,
    /// Derived from `streams` and the rules.
    idle: Idle,
    /// The number of readings counted so far in the slot that is being applied.
    index: u32,
    /// For each stream of the submission that is being applied: its number, or [`UNRESOLVED`].
    ids: Vec<u32>,
}

/// Why a reading is not counted.
enum NotCounted {
    /// It was counted before.
    Recognised,
    /// It is set aside for this reason.
    Not(Reason),
}

impl Default for Counting {
    /// No streams, and [`CountingRules::default`] in force.
    fn default() -> Self {
        Self {
            names: Names::default(),
            streams: Streams::default(),
            tombstones: Tombstones::default(),
            outbox: Outbox::default(),
            classes: CountingRules::default().classes(),
            idle: Idle::default(),
            index: 0,
            ids: Vec::new(),
        }
    }
}

impl Counting {
    /// Starts a new slot: the readings judged from now on belong to it.
    pub fn begin_slot(&mut self) {
        self.index = 0;
    }

    /// Starts a submission: the readings judged from now on belong to it.
    pub fn begin(&mut self, submission: &Named<'_>) {
        self.ids.clear();
        self.ids.resize(submission.streams.len(), UNRESOLVED);
    }

    /// Judges each reading and counts the new ones. The readings belong to the submission of the latest
    /// [`Counting::begin`].
    pub fn judge(
        &mut self,
        readings: &[Reading],
        submission: &Named<'_>,
        at: &Moment,
        applied: &mut Applied,
    ) -> Judged {
        let mut judged = Judged::default();
        for (place, r) in (0..).zip(readings) {
            match self.judge_one(r, submission, at, applied) {
                Ok(()) => judged.counted += 1,
                Err(NotCounted::Recognised) => judged.recognised += 1,
                Err(NotCounted::Not(reason)) => judged.set_aside.push(SetAside { reading: place, reason }),
            }
        }
        let counters = &mut applied.counters;
        counters.counted += u64::from(judged.counted);
        counters.recognised += u64::from(judged.recognised);
        judged.set_aside.iter().for_each(|aside| counters.set_aside[aside.reason as usize] += 1);
        judged
    }

    /// Judges one reading and counts it if it is new. Every replica does this for every reading, so the rare
    /// cases are in functions of their own that are not inlined here.
    fn judge_one(
        &mut self,
        r: &Reading,
        submission: &Named<'_>,
        at: &Moment,
        applied: &mut Applied,
    ) -> Result<(), NotCounted> {
        let in_range = |t: EpochMs| TIME_RANGE.contains(&t.0);
        if !r.value.is_finite() || !r.time.is_none_or(in_range) {
            return Err(NotCounted::Not(Reason::Unsound));
        }
        let id = match self.ids.get(r.stream as usize) {
            Some(id) if *id != UNRESOLVED => *id,
            _ => self.resolve(r, submission, at)?,
        };
        let now = at.now;
        let time = r.time.unwrap_or(now.wall);
        if let Some(reason) = self.wrong_time(id, time, at) {
            return Err(self.not_at_that_time(id, r, reason));
        }
        let mut number = None;
        if let Some(seq) = r.seq {
            let stream = &mut self.streams.list[id as usize];
            let numbering = Numbering::of(&self.classes[usize::from(stream.class)]);
            let forgotten = &mut applied.counters.boots_forgotten;
            match dedup::note(&mut stream.boots, r.boot, seq, numbering, forgotten) {
                Fate::New(n) => number = Some((r.boot, n)),
                Fate::Repeated => return Err(NotCounted::Recognised),
                Fate::FarBehind => return Err(self.set_aside(id, Reason::FarBehind)),
                Fate::LeapsAhead => return Err(self.set_aside(id, Reason::LeapsAhead)),
            }
        }
        // Writes -0 as 0, because processors differ in which of the two is the lesser.
        let value = r.value + 0.0;
        let sample = Sample { time, slot: at.slot, index: self.index, value };
        self.index = self.index.wrapping_add(1);
        let most_open = at.rules.max_open_parts;
        let (late, forced) =
            self.streams.count(id, Measured { sample, number }, now, most_open, &self.classes);
        let counters = &mut applied.counters;
        counters.late += u64::from(late);
        counters.future += u64::from(now.sure && time > now.wall.plus(MAX_LEAD_MS));
        counters.forced += forced;
        if self.streams.has_closed() {
            self.keep_closed(at, applied);
        }
        Ok(())
    }

    #[cold]
    fn set_aside(&mut self, id: u32, reason: Reason) -> NotCounted {
        self.streams.set_aside(id, reason, &self.classes);
        NotCounted::Not(reason)
    }

    #[cold]
    fn not_at_that_time(&mut self, id: u32, r: &Reading, reason: Reason) -> NotCounted {
        if self.was_counted(id, r) { NotCounted::Recognised } else { self.set_aside(id, reason) }
    }

    /// Why a stream's reading can't be of that time, if it can't. It is too old relative to the earliest time
    /// that it may be now. It is too far ahead relative to the wall time, or to [`LATEST_NOW`] while no
    /// majority agrees on the wall time.
    fn wrong_time(&self, id: u32, time: EpochMs, at: &Moment) -> Option<Reason> {
        let class = &self.classes[usize::from(self.streams.list[id as usize].class)];
        let latest = if at.now.sure { at.now.wall } else { LATEST_NOW };
        if time < at.now.earliest.plus(-class.max_past_ms) {
            Some(Reason::TooOld)
        } else if time > latest.plus(class.max_future_ms) {
            Some(Reason::TooFarAhead)
        } else {
            None
        }
    }

    /// Whether the reading's sequence number shows that it was counted before. Changes nothing.
    fn was_counted(&self, id: u32, r: &Reading) -> bool {
        let stream = &self.streams.list[id as usize];
        let numbering = Numbering::of(&self.classes[usize::from(stream.class)]);
        let seen = |seq| dedup::note(&mut stream.boots.clone(), r.boot, seq, numbering, &mut 0);
        r.seq.is_some_and(|seq| seen(seq) == Fate::Repeated)
    }

    /// The number of a reading's stream, which becomes known if it is new; or why it has none.
    #[inline(never)]
    fn resolve(&mut self, r: &Reading, submission: &Named<'_>, at: &Moment) -> Result<u32, NotCounted> {
        const UNSOUND: NotCounted = NotCounted::Not(Reason::Unsound);
        let place = r.stream as usize;
        if place >= self.ids.len() {
            return Err(UNSOUND);
        }
        let (name, maker) = submission.named(r.stream).ok_or(UNSOUND)?;
        let id = match self.names.find(name.device, name.stream) {
            Some(id) => id,
            None => {
                let sound = 1..=MAX_NAME_BYTES;
                if !sound.contains(&name.device.len()) || !sound.contains(&name.stream.len()) {
                    return Err(UNSOUND);
                }
                self.let_in(name, maker, r, at)?
            }
        };
        self.ids[place] = id;
        Ok(id)
    }

    /// Makes a reading's stream known if there is room, and returns its number. A reading that the stream had
    /// counted before it was retired does not bring the stream back.
    fn let_in(
        &mut self,
        name: NameRef<'_>,
        maker: Option<&str>,
        r: &Reading,
        at: &Moment,
    ) -> Result<u32, NotCounted> {
        let (device, stream) = (name.device, name.stream);
        let class = at.rules.class_of(device, stream);
        let numbering = Numbering::of(&self.classes[usize::from(class)]);
        if let (Some(seq), Some(boots)) = (r.seq, self.tombstones.boots(device, stream)) {
            match dedup::note(&mut boots.to_vec(), r.boot, seq, numbering, &mut 0) {
                Fate::Repeated => return Err(NotCounted::Recognised),
                Fate::FarBehind => return Err(NotCounted::Not(Reason::FarBehind)),
                // A leap counts once the next number follows it, so the stream must exist to remember the
                // leap.
                Fate::New(_) | Fate::LeapsAhead => {}
            }
        }
        if let Err(full) = self.names.admits(device, stream, maker, &at.rules) {
            self.names.note_refused(device);
            return Err(NotCounted::Not(full));
        }
        let id = self.names.add(device, stream, maker);
        let boots = self.tombstones.remove(device, stream).unwrap_or_default();
        self.streams.add(id, class, boots, at.now);
        self.idle.add(id, &self.classes[usize::from(class)], at.now.elapsed);
        Ok(id)
    }

    /// Forgets the sequence numbers of one stream of a device, or of all. Returns whether there is such a
    /// stream, known or retired.
    fn reset_sequence(&mut self, device: &str, stream: Option<&str>) -> bool {
        let known = self.names.device(device).into_iter();
        let ids = known.flat_map(|id| self.names.devices[id].streams.iter().copied());
        let ids: Vec<u32> = ids.filter(|id| stream.is_none_or(|s| &**self.names.of(*id).1 == s)).collect();
        for id in &ids {
            self.streams.list[*id as usize].boots = Vec::new();
        }
        let retired = self.tombstones.forget(device, stream);
        retired || !ids.is_empty()
    }

    /// Puts rules in force. First it closes all open parts under the earlier rules, which `at` has, because
    /// the widths may change.
    pub fn put_in_force(&mut self, rules: &CountingRules, at: &Moment, applied: &mut Applied) {
        self.streams.close_all(at.now, &self.classes);
        self.keep_closed(at, applied);
        self.classes = rules.classes();
        for (id, _) in self.names.streams.iter() {
            let (device, name) = self.names.of(id);
            let stream = &mut self.streams.list[id as usize];
            stream.class = rules.class_of(device, name);
            stream.widths_changed(self.classes[usize::from(stream.class)].windows_ms.len());
        }
        self.find_idle();
    }

    /// Cuts everything that was counted so far into batches, and has them wait for the ledger's word on the earlier
    /// generation.
    pub fn fence(&mut self, next: SiteIncarnation, at: &Moment, applied: &mut Applied) {
        let last = self.outbox.last();
        self.streams.close_all(at.now, &self.classes);
        self.keep_closed(at, applied);
        applied.batches.extend(self.outbox.cut(at.now.elapsed, &self.names));
        self.outbox.fence(last, next);
        self.find_idle();
    }

    fn find_idle(&mut self) {
        let ids = self.names.streams.iter().map(|(id, _)| id);
        self.idle = Idle::of(ids, &self.streams, &self.classes);
    }

    /// Moves closed parts into the outbox.
    #[inline(never)]
    fn keep_closed(&mut self, at: &Moment, applied: &mut Applied) {
        let mut closed = self.streams.take_closed();
        applied.counters.closed += closed.len() as u64;
        for part in closed.drain(..) {
            applied.batches.extend(self.outbox.push(part, at.now.elapsed, &self.names));
        }
        self.streams.give_back(closed);
    }

    /// The number of retired streams whose sequence numbers are remembered.
    pub fn tombstones(&self) -> usize {
        self.tombstones.len()
    }

    /// Writes the outbox, which a snapshot holds after all tables.
    pub fn snapshot_outbox(&self, to: &mut Writer) {
        let o = &self.outbox;
        to.put(((o.kept, o.released, o.cursor, o.lost, o.ledger), &o.manifest, &o.waiting, o.since));
        to.put((o.base, o.fence));
    }

    /// Reads the outbox; all names must have been restored.
    pub fn restore_outbox(&mut self, from: &mut Reader<'_>) -> Result<(), RestoreError> {
        let (edges, manifest, waiting, since): ((u64, _, u64, u64, _), _, _, _) = from.take("outbox")?;
        if edges.2 > MAX_COUNT {
            return Err(inconsistent("counts"));
        }
        let outbox = Outbox::restore(edges, manifest, waiting, since, &self.names);
        let (base, fence) = from.take("outbox")?;
        let outbox = outbox.and_then(|outbox| outbox.fenced(base, fence));
        self.outbox = outbox.ok_or(inconsistent("outbox"))?;
        Ok(())
    }

    fn restore_streams(&mut self, from: &mut Reader<'_>, rules: &CountingRules) -> Result<(), RestoreError> {
        let most = MAX_STREAMS_ENTRIES;
        let (names, streams) = (&mut self.names, &mut self.streams);
        let devices: Vec<DeviceImage> = from.take("devices")?;
        if !devices.into_iter().all(|device| names.restore_device(device, most)) {
            return Err(inconsistent("devices"));
        }
        let makers: Vec<MakerImage> = from.take("clients of streams")?;
        if !makers.into_iter().all(|maker| names.restore_maker(maker, most)) {
            return Err(inconsistent("clients of streams"));
        }
        let count: u32 = from.take("streams")?;
        for _ in 0..count {
            let (image, stored): (StreamImage, Stored) = from.take("streams")?;
            let id = image.0;
            if !names.restore_stream(image, most) {
                return Err(inconsistent("streams"));
            }
            let (device, name) = names.of(id);
            let class = rules.class_of(device, name);
            if !streams.restore(id, class, stored, &self.classes) {
                return Err(inconsistent("streams"));
            }
        }
        match names.is_whole() {
            true => Ok(()),
            false => Err(inconsistent("devices")),
        }
    }
}

impl Table for Counting {
    fn apply(&mut self, item: &Item, at: &Moment, applied: &mut Applied) -> Option<ItemOutcome> {
        Some(match item {
            Item::Retire { device, stream } => {
                // Later items of the submission may name a stream that no longer exists.
                self.ids.fill(UNRESOLVED);
                ItemOutcome::Retired { streams: self.retire(device, stream.as_deref(), at, applied) }
            }
            Item::ResetSequence { device, stream } => match self.reset_sequence(device, stream.as_deref()) {
                true => ItemOutcome::Done,
                false => ItemOutcome::Refused("there is no such stream".to_string()),
            },
            Item::AdmitLedger { ledger } => {
                self.outbox.admit(*ledger);
                ItemOutcome::Done
            }
            _ => return None,
        })
    }

    fn tick(&mut self, at: &Moment, applied: &mut Applied) {
        let elapsed = at.now.elapsed;
        self.streams.close_due(at.now, &self.classes);
        self.keep_closed(at, applied);
        self.tombstones.expire(elapsed);
        self.retire_idle(at, applied);
        if self.outbox.due(at.rules.cut_after_ms).is_some_and(|due| due <= elapsed) {
            applied.batches.extend(self.outbox.cut(elapsed, &self.names));
        }
    }

    fn next_due(&mut self, rules: &CountingRules) -> Option<ElapsedMs> {
        let (streams, cut) = (self.streams.due(&self.classes), self.outbox.due(rules.cut_after_ms));
        let idle = self.idle.due(&self.streams, &self.classes);
        [streams, cut, idle, self.tombstones.due()].into_iter().flatten().min()
    }

    fn snapshot(&self, to: &mut Writer) {
        to.put(self.names.device_images().collect::<Vec<_>>());
        to.put(self.names.maker_images().collect::<Vec<_>>());
        to.put(self.names.streams.len() as u32);
        for image in self.names.stream_images() {
            let s = &self.streams.list[image.0 as usize];
            to.put((image, s.heard, s.seen, s.watermark, s.told, s.course));
            match canary::makes(Canary::DedupNotInSnapshot) {
                true => to.put((&s.open, [0u8; 0].as_slice(), &s.set_aside)),
                false => to.put((&s.open, &s.boots, &s.set_aside)),
            }
        }
        to.put(self.tombstones.image());
    }

    fn restore(&mut self, from: &mut Reader<'_>, at: &Moment) -> Result<(), RestoreError> {
        self.classes = at.rules.classes();
        self.restore_streams(from, &at.rules)?;
        let tombstones = Tombstones::from_image(from.take("tombstones")?);
        self.tombstones = tombstones.ok_or(inconsistent("tombstones"))?;
        self.find_idle();
        Ok(())
    }

    fn fullness(&self, rules: &CountingRules) -> Vec<Fullness> {
        const STREAMS: &str = "at the bound, readings of further streams are set aside; retire streams that are gone (DELETE \
                               /v1/devices/{device}), set rules.retire_idle_after_s, or raise the rule";
        const PARTS: &str =
            "at the bound, the streams that were silent longest close their windows early; raise the rule";
        const OUTBOX: &str = "at the bound, publishes are refused; check that the node can be reached";
        let (device, of_device) = self.names.largest_device().unzip();
        let (client, of_client) = self.names.busiest_maker().unzip();
        let (of_device, of_client) = (of_device.unwrap_or(0), of_client.unwrap_or(0) as usize);
        let unconfirmed = self.outbox.unconfirmed() as usize;
        vec![
            Fullness::new("max_streams", self.names.streams.len(), rules.max_streams, STREAMS),
            Fullness::new("max_streams_per_device", of_device, rules.max_streams_per_device, STREAMS)
                .of(device),
            Fullness::new("max_streams_per_client", of_client, rules.max_streams_per_client, STREAMS)
                .of(client),
            Fullness::new("max_names_bytes", self.names.bytes(), rules.max_names_bytes, STREAMS),
            Fullness::new("max_open_parts", self.streams.open(), rules.max_open_parts, PARTS),
            Fullness::new("max_outbox_batches", unconfirmed, rules.max_outbox_batches, OUTBOX),
        ]
    }
}
