//! Windows: the open parts of every stream, and when they close.
//!
//! A reading goes into one open part for each of its stream's widths. A part closes
//! - when the stream's watermark (its latest event time less the allowed lateness) reaches the window's end;
//! - when the stream's own time has passed the end by the lateness and the stream's lag, and the stream's
//!   next reading was not expected before the end; the watermark then moves to the end;
//! - if it was opened after its window had closed (a late part), `late_flush_ms` after it was opened;
//! - when the stream falls silent, which closes all its parts and leaves the watermark where it is;
//! - at a bound: for one width of a stream ([`MAX_OPEN_WINDOWS_ENTRIES`]), the earliest window closes; for
//!   the whole shard, all parts of the stream whose deadline comes first.
//!
//! The shard remembers nothing of a window whose parts have closed. A later reading opens a further part of
//! it, and parts add up.
//!
//! # A stream's own time
//! A device's clock may be hours off, and a recording may be years old, so neither wall time nor elapsed time
//! shows how far a stream has come. Its own time does: the latest event time, advanced by the time that has
//! elapsed since it arrived. Together with the pace that the shard has learned ([`super::pace`]), it closes
//! windows properly for streams of one reading an hour as well as of ten a second:
//! - A sensor publishes once a minute, and its windows of 10 s hold one reading. No more readings are
//!   expected in such a window, so it closes the lateness after its end, as one complete part, and does not
//!   wait for the next minute.
//! - Its windows of an hour hold sixty readings each. A stream falls silent only after missing about three
//!   readings (or after `idle_close_ms`, if that is longer), so these form one part and not sixty.
//! - A stream of ten readings a second that stops within a window was expected to go on, so the window is not
//!   reported as complete. Its part closes when the stream falls silent. Readings that the device buffered
//!   and sends later add up.
//! - A device that sends bursts is always late by its usual pause. Its windows wait for that long.
//!
//! # A watermark that is too far ahead
//! Device clocks jump, and so may the wall time that labels readings without a time of their own. While a
//! majority agrees on the wall time, one reading that is at most [`MAX_LEAD_MS`](crate::machine::MAX_LEAD_MS)
//! ahead of it refutes an own time that is further ahead. The stream's own time and its watermark go back to
//! that reading, and the parts beyond the limit close.
//!
//! # What is reported
//! Each part that closes reports how far its stream has come (`told`). If the watermark is more than
//! [`MAX_LEAD_MS`](crate::machine::MAX_LEAD_MS) ahead of the time that the shard believes
//! ([`crate::machine::trust`]), the part reports the believed time less the lateness. So nobody takes a
//! window for complete that readings still enter by any clock. When a watermark has gone back, the next part
//! that closes reports it. Until then, readings in windows that were reported as passed count as late.
//!
//! # Invariants
//! Invariant: every counted reading is in exactly one part of each of its stream's widths.
//! Invariant: an open part that is not late ends after its stream's watermark.
//! Invariant: a part that is not late ends after the latest report of its stream before the parts that closed
//! with it.

use super::dedup::{Boot, MAX_BOOTS_ENTRIES};
use super::names::Names;
use super::pace::{Course, NO_WATERMARK};
use crate::machine::clocks::MachineTime;
use crate::machine::judged::Reason;
use crate::machine::rules::{MAX_WINDOW_MS, StreamClass};
use bincode::{Decode, Encode};
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::sequences::Sequences;
use selvedge_types::time::{ElapsedMs, EpochMs, TIME_RANGE};
use std::collections::{BTreeMap, BTreeSet};

/// The most open parts of one stream and width.
pub const MAX_OPEN_WINDOWS_ENTRIES: usize = 64;

/// A part of a window that still takes readings.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct OpenPart {
    /// An index into the widths of the stream's class.
    pub width: u8,
    /// The part was opened after its window had closed.
    pub late: bool,
    pub start: EpochMs,
    /// The elapsed time at which the part was opened.
    pub opened: ElapsedMs,
    /// The elapsed time at which to check whether the stream's own time has passed the window. [`NEVER`]
    /// after it has passed while more readings were expected in the window.
    pub passed: ElapsedMs,
    pub aggregate: Aggregate,
    /// The sequence numbers of the part's readings.
    pub sequences: Sequences,
}

/// A part of a window that takes no more readings.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct ClosedPart {
    pub stream: u32,
    pub width_ms: u32,
    pub start: EpochMs,
    pub late: bool,
    pub watermark: EpochMs,
    pub aggregate: Aggregate,
    /// How many readings of the stream were set aside since the previous part of this width closed.
    pub set_aside: u64,
    /// The sequence numbers of the part's readings.
    pub sequences: Sequences,
}

/// The state of one stream, apart from its names.
#[derive(Debug)]
pub struct StreamState {
    /// An index into the classes of the rules in force.
    pub class: u16,
    /// The elapsed time of the latest new reading.
    pub heard: ElapsedMs,
    /// The wall time of that reading, for people.
    pub seen: EpochMs,
    /// [`NO_WATERMARK`] at first. It only rises, except in [`StreamState::go_back`].
    pub watermark: EpochMs,
    /// The watermark that the latest closed part reported.
    pub told: EpochMs,
    /// The stream's own time and its pace.
    pub course: Course,
    /// Derived: its deadline in [`Streams::due`], which may be too early but not too late; [`NEVER`] if it
    /// has none there.
    due: ElapsedMs,
    /// In the order of (width, start).
    pub open: Vec<OpenPart>,
    pub boots: Vec<Boot>,
    /// `None` as long as no reading of the stream was set aside.
    pub set_aside: Option<Box<Aside>>,
}

/// How many readings of a stream were set aside.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Aside {
    /// All of them, by reason.
    pub reasons: BTreeMap<Reason, u64>,
    /// Those that no closed part has reported yet, by width.
    waiting: Vec<u64>,
}

/// The form of a stream in a snapshot.
#[derive(Decode)]
pub struct Stored {
    pub heard: ElapsedMs,
    pub seen: EpochMs,
    pub watermark: EpochMs,
    pub told: EpochMs,
    pub course: Course,
    pub open: Vec<OpenPart>,
    pub boots: Vec<Boot>,
    pub set_aside: Option<Box<Aside>>,
}

/// A reading that is to be counted.
pub struct Measured {
    pub sample: Sample,
    /// Its boot and its sequence number, if it has one.
    pub number: Option<(Option<u64>, u64)>,
}

const NEVER: ElapsedMs = ElapsedMs(u64::MAX);

impl Default for StreamState {
    /// A stream without readings. It also stands under numbers that are free.
    fn default() -> Self {
        Self {
            class: 0,
            heard: ElapsedMs(0),
            seen: EpochMs(0),
            watermark: NO_WATERMARK,
            told: NO_WATERMARK,
            course: Course::default(),
            due: NEVER,
            open: Vec::new(),
            boots: Vec::new(),
            set_aside: None,
        }
    }
}

/// All streams of a shard, by number. [`Names`] knows which numbers are taken.
#[derive(Debug, Default)]
pub struct Streams {
    pub list: Vec<StreamState>,
    /// Derived, and updated lazily: a reading postpones its stream's deadline without touching this. So an
    /// entry may be earlier than the stream's deadline, never later, and is moved when it comes first.
    due: BTreeSet<(ElapsedMs, u32)>,
    /// Derived: the number of open parts.
    open: usize,
    /// Parts that have closed and were not taken yet.
    closed: Vec<ClosedPart>,
}

impl Streams {
    /// Adds a stream under a free number, with these sequence numbers.
    pub fn add(&mut self, id: u32, class: u16, boots: Vec<Boot>, now: MachineTime) {
        // Its first reading may be set aside. Silence then counts from now, not from the beginning of time.
        let (heard, seen) = (now.elapsed, now.wall);
        *self.place(id) = StreamState { class, heard, seen, boots, ..StreamState::default() };
    }

    /// Removes a stream, whose parts must have been closed, and returns its sequence numbers.
    pub fn remove(&mut self, id: u32) -> Vec<Boot> {
        let stream = std::mem::take(&mut self.list[id as usize]);
        debug_assert!(stream.open.is_empty() && stream.due == NEVER, "its parts were closed before");
        stream.boots
    }

    /// The entry of a number. Adds entries up to it if necessary.
    fn place(&mut self, id: u32) -> &mut StreamState {
        let at = id as usize;
        if self.list.len() <= at {
            self.list.resize_with(at + 1, StreamState::default);
        }
        &mut self.list[at]
    }

    /// Restores a stream from a snapshot under a free number. Returns false if it contradicts itself or its
    /// class.
    pub fn restore(&mut self, id: u32, class: u16, stored: Stored, classes: &[StreamClass]) -> bool {
        let Stored { heard, seen, watermark, told, course, open, boots, set_aside } = stored;
        let Some(of) = classes.get(usize::from(class)) else { return false };
        let ordered = open.windows(2).all(|w| (w[0].width, w[0].start) < (w[1].width, w[1].start));
        let sound = |o: &OpenPart| {
            let width = of.windows_ms.get(usize::from(o.width));
            let aligned = |w: &u32| is_start(o.start) && o.start.window_start(*w) == o.start;
            o.aggregate.is_sound() && o.sequences.is_sound() && width.is_some_and(aligned)
        };
        let boots_sound = boots.len() <= MAX_BOOTS_ENTRIES && boots.iter().all(Boot::is_sound);
        let widths = set_aside.as_ref().is_none_or(|a| a.waiting.len() == of.windows_ms.len());
        if !ordered || !boots_sound || !widths || !open.iter().all(sound) || !course.is_sound() {
            return false;
        }
        self.open += open.len();
        *self.place(id) =
            StreamState { class, heard, seen, watermark, told, course, due: NEVER, open, boots, set_aside };
        self.register(id, classes);
        true
    }

    /// The number of open parts.
    pub fn open(&self) -> usize {
        self.open
    }

    pub fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// The parts that have closed, in order. The caller returns the vector with [`Streams::give_back`].
    pub fn take_closed(&mut self) -> Vec<ClosedPart> {
        std::mem::take(&mut self.closed)
    }

    pub fn give_back(&mut self, closed: Vec<ClosedPart>) {
        self.closed = closed;
    }

    /// Notes that a reading of stream `id` was set aside. The next part of each width that closes reports it.
    pub fn set_aside(&mut self, id: u32, reason: Reason, classes: &[StreamClass]) {
        let stream = &mut self.list[id as usize];
        let aside = stream.set_aside.get_or_insert_default();
        *aside.reasons.entry(reason).or_default() += 1;
        aside.waiting.resize(classes[usize::from(stream.class)].windows_ms.len(), 0);
        aside.waiting.iter_mut().for_each(|n| *n += 1);
    }

    /// Counts a reading of stream `id`. Returns whether it was late, and how many parts a bound closed.
    pub fn count(
        &mut self,
        id: u32,
        Measured { sample, number }: Measured,
        now: MachineTime,
        most_open: u32,
        classes: &[StreamClass],
    ) -> (bool, u64) {
        let stream = &mut self.list[id as usize];
        let class = &classes[usize::from(stream.class)];
        if let Some(lead) = now.lead()
            && stream.course.is_beyond(lead)
            && sample.time <= lead
        {
            self.open -= stream.go_back(id, class, sample.time, lead, now, &mut self.closed);
        }
        stream.course.hear(sample.time, now.elapsed, now.elapsed.since(stream.heard));
        (stream.heard, stream.seen) = (now.elapsed, now.wall);
        let (mut any_late, mut opened, mut forced) = (false, false, 0);
        for width in 0..class.windows_ms.len() as u8 {
            match stream.find(width, class, sample.time) {
                Ok(at) => {
                    let part = &mut stream.open[at];
                    any_late |= part.end(class) <= stream.watermark.max(stream.told);
                    part.aggregate.add(sample);
                    part.sequences.add(number);
                }
                Err(at) => {
                    any_late |= stream.open_part(at, width, class, Measured { sample, number }, now);
                    (self.open, opened) = (self.open + 1, true);
                    if let Some(first) = stream.over_bound(width, at) {
                        let set_aside = take(&mut stream.set_aside, first.width);
                        stream.told = now.told(stream.watermark, class);
                        self.closed.push(first.close(id, class, stream.told, set_aside));
                        self.open -= 1;
                        forced += 1;
                    }
                }
            }
        }
        let watermark = sample.time.plus(-class.lateness_ms);
        if watermark > stream.watermark {
            stream.watermark = watermark;
            let ended = |o: &OpenPart| !o.late && o.end(class) <= watermark;
            if stream.open.iter().any(ended) {
                self.open -= stream.close(id, class, now, ended, &mut self.closed);
            }
        }
        if opened {
            forced += self.opened(id, most_open, now, classes);
        }
        (any_late, forced)
    }

    /// Notes that a part of stream `id` was opened. Returns how many parts the shard's bound closed.
    #[inline(never)]
    fn opened(&mut self, id: u32, most_open: u32, now: MachineTime, classes: &[StreamClass]) -> u64 {
        let mut forced = 0;
        self.register(id, classes);
        while self.open > most_open as usize {
            let Some((_, first)) = self.earliest(classes) else { break };
            forced += self.list[first as usize].open.len() as u64;
            self.close_all_of(first, now, classes);
        }
        forced
    }

    /// Closes the parts that are due, in the order of their streams' numbers.
    pub fn close_due(&mut self, now: MachineTime, classes: &[StreamClass]) {
        let mut due = Vec::new();
        while let Some((at, id)) = self.due.first().copied() {
            if at > now.elapsed {
                break;
            }
            self.due.remove(&(at, id));
            self.list[id as usize].due = NEVER;
            due.push(id);
        }
        due.sort_unstable();
        for id in due {
            let stream = &mut self.list[id as usize];
            let class = &classes[usize::from(stream.class)];
            stream.pass(class, now.elapsed);
            if stream.silent_at(class) <= now.elapsed {
                self.close_all_of(id, now, classes);
                continue;
            }
            let watermark = stream.watermark;
            let ripe = |o: &OpenPart| match o.late {
                true => o.opened.plus(class.late_flush_ms) <= now.elapsed,
                false => o.end(class) <= watermark,
            };
            self.open -= stream.close(id, class, now, ripe, &mut self.closed);
            self.register(id, classes);
        }
    }

    /// Closes the parts of all streams, before the widths change.
    pub fn close_all(&mut self, now: MachineTime, classes: &[StreamClass]) {
        (0..self.list.len() as u32).for_each(|id| self.close_all_of(id, now, classes));
    }

    /// Closes all parts of a stream.
    pub fn close_all_of(&mut self, id: u32, now: MachineTime, classes: &[StreamClass]) {
        let stream = &mut self.list[id as usize];
        let class = &classes[usize::from(stream.class)];
        self.open -= stream.close(id, class, now, |_| true, &mut self.closed);
        // A stream that stays silent then takes no more memory than its names and its sequence numbers.
        stream.open = Vec::new();
        self.due.remove(&(stream.due, id));
        stream.due = NEVER;
    }

    /// When the next stream has parts to close.
    pub fn due(&mut self, classes: &[StreamClass]) -> Option<ElapsedMs> {
        self.earliest(classes).map(|(at, _)| at)
    }

    /// The stream with the earliest deadline, and the deadline. Of equal deadlines, the lowest number comes
    /// first.
    fn earliest(&mut self, classes: &[StreamClass]) -> Option<(ElapsedMs, u32)> {
        loop {
            let (at, id) = self.due.first().copied()?;
            if self.list[id as usize].deadline(classes) == at {
                return Some((at, id));
            }
            self.due.remove(&(at, id));
            self.list[id as usize].due = NEVER;
            self.register(id, classes);
        }
    }

    /// Moves a stream forward in the order of deadlines if its own deadline is earlier than its entry.
    fn register(&mut self, id: u32, classes: &[StreamClass]) {
        let stream = &mut self.list[id as usize];
        let deadline = stream.deadline(classes);
        if deadline < stream.due {
            self.due.remove(&(stream.due, id));
            stream.due = deadline;
            self.due.insert((deadline, id));
        }
    }
}

impl StreamState {
    /// Adapts to new rules, by which the stream's class has this many widths.
    pub fn widths_changed(&mut self, widths: usize) {
        if let Some(aside) = &mut self.set_aside {
            let most = aside.waiting.iter().copied().max().unwrap_or(0);
            aside.waiting = vec![most; widths];
        }
    }

    /// How many readings were set aside, by reason.
    pub fn reasons(&self) -> impl Iterator<Item = (Reason, u64)> {
        self.set_aside.iter().flat_map(|aside| aside.reasons.iter().map(|(reason, n)| (*reason, *n)))
    }

    fn deadline(&self, classes: &[StreamClass]) -> ElapsedMs {
        let class = &classes[usize::from(self.class)];
        if self.open.is_empty() {
            return NEVER;
        }
        let of = |o: &OpenPart| if o.late { o.opened.plus(class.late_flush_ms) } else { o.passed };
        let first = self.open.iter().map(of).min();
        self.silent_at(class).min(first.unwrap_or(NEVER))
    }

    /// When the stream falls silent if no new reading arrives.
    fn silent_at(&self, class: &StreamClass) -> ElapsedMs {
        self.heard.plus(self.course.idle_ms(class.idle_close_ms))
    }

    /// Finds the windows that the stream's own time has passed. If no more readings were expected in a
    /// window, the watermark moves to its end.
    fn pass(&mut self, class: &StreamClass, now: ElapsedMs) {
        let (own, wait) = (self.course.time(now), self.course.wait_ms(class));
        for part in self.open.iter_mut().filter(|o| !o.late && o.passed <= now) {
            let end = part.end(class);
            let missing = end.plus(wait).since(own);
            if missing > 0 {
                part.passed = now.plus(missing + self.course.spare_ms() as u64);
            } else if end <= self.course.next() {
                self.watermark = self.watermark.max(end);
            } else {
                part.passed = NEVER;
            }
        }
    }

    /// The index of the open part that covers a time; or the index at which such a part belongs.
    fn find(&self, width: u8, class: &StreamClass, time: EpochMs) -> Result<usize, usize> {
        // It is mostly the latest part, which saves a division.
        let latest = self.open.iter().rposition(|o| o.width <= width);
        let holds = |o: &OpenPart| o.width == width && (o.start..o.end(class)).contains(&time);
        match latest.filter(|at| holds(&self.open[*at])) {
            Some(at) => Ok(at),
            None => {
                let start = time.window_start(class.windows_ms[usize::from(width)]);
                self.open.binary_search_by_key(&(width, start), |o| (o.width, o.start))
            }
        }
    }

    /// Opens a part for a reading, at its index. Returns whether the window had already closed.
    #[inline(never)]
    fn open_part(
        &mut self,
        at: usize,
        width: u8,
        class: &StreamClass,
        Measured { sample, number }: Measured,
        now: MachineTime,
    ) -> bool {
        let width_ms = class.windows_ms[usize::from(width)];
        let start = sample.time.window_start(width_ms);
        let end = start.plus(i64::from(width_ms));
        let late = end <= self.watermark.max(self.told);
        let aggregate = if class.quantiles { Aggregate::sketched(sample) } else { Aggregate::of(sample) };
        let sequences = Sequences::of(number);
        let wait = self.course.wait_ms(class) + self.course.spare_ms();
        let passed = now.elapsed.plus(end.plus(wait).since(sample.time));
        if self.open.is_empty() {
            self.open.reserve_exact(class.windows_ms.len());
        }
        let part = OpenPart { width, late, start, opened: now.elapsed, passed, aggregate, sequences };
        self.open.insert(at, part);
        late
    }

    /// Removes the earliest part of a width that has too many, but not the part that was just opened.
    fn over_bound(&mut self, width: u8, just_opened: usize) -> Option<OpenPart> {
        if self.open.len() <= MAX_OPEN_WINDOWS_ENTRIES {
            return None;
        }
        let from = self.open.partition_point(|o| o.width < width);
        let to = self.open.partition_point(|o| o.width <= width);
        let first = if from == just_opened { from + 1 } else { from };
        (to - from > MAX_OPEN_WINDOWS_ENTRIES).then(|| self.open.remove(first))
    }

    /// Sets the stream's own time, which is too far ahead, back to `to`. Closes the parts that begin after
    /// `lead`, and returns how many.
    #[cold]
    fn go_back(
        &mut self,
        id: u32,
        class: &StreamClass,
        to: EpochMs,
        lead: EpochMs,
        now: MachineTime,
        closed: &mut Vec<ClosedPart>,
    ) -> usize {
        self.course.go_back(to, now.elapsed);
        self.watermark = self.watermark.min(to.plus(-class.lateness_ms));
        self.close(id, class, now, |o| o.start > lead, closed)
    }

    /// Closes the parts for which `which` holds, and returns how many.
    #[inline(never)]
    fn close(
        &mut self,
        id: u32,
        class: &StreamClass,
        now: MachineTime,
        which: impl Fn(&OpenPart) -> bool,
        closed: &mut Vec<ClosedPart>,
    ) -> usize {
        let (before, told) = (self.open.len(), now.told(self.watermark, class));
        let set_aside = &mut self.set_aside;
        closed.extend(self.open.extract_if(.., |o| which(o)).map(|o| {
            let set_aside = take(set_aside, o.width);
            o.close(id, class, told, set_aside)
        }));
        let count = before - self.open.len();
        if count > 0 {
            self.told = told;
        }
        count
    }
}

impl ClosedPart {
    /// How many of its readings arrived after the window had closed.
    pub fn late_count(&self) -> u64 {
        if self.late { self.aggregate.count } else { 0 }
    }

    /// Whether a snapshot may contain this part, given the streams of its shard.
    pub fn is_sound(&self, names: &Names) -> bool {
        let some = self.width_ms > 0 && self.aggregate.is_sound() && self.sequences.is_sound();
        some && names.streams.get(self.stream).is_some() && is_start(self.start)
    }
}

impl OpenPart {
    fn end(&self, class: &StreamClass) -> EpochMs {
        self.start.plus(i64::from(class.windows_ms[usize::from(self.width)]))
    }

    pub fn close(
        mut self,
        stream: u32,
        class: &StreamClass,
        watermark: EpochMs,
        set_aside: u64,
    ) -> ClosedPart {
        let width_ms = class.windows_ms[usize::from(self.width)];
        self.aggregate.settle();
        let Self { late, start, aggregate, sequences, .. } = self;
        ClosedPart { stream, width_ms, start, late, watermark, aggregate, set_aside, sequences }
    }
}

/// Takes the readings set aside that no part of this width has reported yet.
fn take(set_aside: &mut Option<Box<Aside>>, width: u8) -> u64 {
    let waiting = set_aside.as_mut().and_then(|aside| aside.waiting.get_mut(usize::from(width)));
    waiting.map_or(0, std::mem::take)
}

/// Whether a window that holds a valid time can start here.
fn is_start(start: EpochMs) -> bool {
    let least = EpochMs(*TIME_RANGE.start()).plus(-i64::from(MAX_WINDOW_MS));
    start > least && start.0 <= *TIME_RANGE.end()
}
