//! Gathering: the first half of a query, which collects what the machine has in memory of the streams asked
//! for.
//!
//! A pattern may concern every name of a shard, and the thread that compares the names also answers
//! heartbeats. So a query is gathered turn by turn. Each turn has a number of steps ([`GATHER_TURN_STEPS`]);
//! comparing a name takes one step. Between two turns the machine goes on applying commands. The query
//! remembers where to resume as a name, not as a number, so it does not matter which streams appear or
//! disappear meanwhile: the next turn meets a new stream behind that name, and does not meet one before it.
//!
//! Invariant: each stream is looked at once, with all its parts, at one slot that is at or after the slot of
//! the query. The scan remembers the last batch that was cut by then, so no part counts twice. Streams that
//! one turn covers are answered as of one slot; streams of later turns may be answered as of later slots.
//! Every answer includes whatever was chosen before the query arrived.
//!
//! Limits: a turn may exceed its steps by the open parts of one stream and by the parts that wait to be cut,
//! which make one batch.

use super::Machine;
use super::counting::Counting;
use super::query::{Page, Query};
use super::scan::{Addend, MAX_SCAN_STREAMS, Of, Scan, width_of};
use selvedge_types::pattern::Pattern;
use selvedge_types::question::SiteWindowPlace;
use selvedge_types::time::EpochMs;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// The steps that all queries of a shard may take in one turn. A thousand steps take about 0.1 ms.
pub const GATHER_TURN_STEPS: usize = 4_096;

/// The steps that adding a part to an answer takes.
const PART_STEPS: usize = 8;

/// A query with names still to be compared.
#[derive(Debug)]
pub struct Gathering {
    device: Pattern,
    stream: Option<Pattern>,
    /// The device to resume with.
    from_device: Bound<Arc<str>>,
    /// The stream to resume with, if that device still exists.
    from_stream: Bound<Arc<str>>,
    scan: Scan,
}

impl Gathering {
    /// Starts at the place that `page` names, with nothing gathered.
    pub fn new(query: &Query<'_>, page: &Page) -> Self {
        let (device, stream) = (Pattern::read(query.device), query.stream.map(Pattern::read));
        let after = page.after.as_ref().filter(|after| after.device.as_str() >= device.prefix());
        let (from_device, from_stream) = match after {
            Some(SiteWindowPlace { device, stream, .. }) => {
                (Bound::Included(device.as_str().into()), Bound::Included(stream.as_str().into()))
            }
            None => (Bound::Included(device.prefix().into()), Bound::Unbounded),
        };
        Self { device, stream, from_device, from_stream, scan: Scan::new(query, page) }
    }

    /// Whether the query asks for a single device by name.
    pub fn is_of_one(&self) -> bool {
        self.device.exact().is_some()
    }

    /// Goes on as long as there are steps left. Returns true once everything is gathered.
    pub fn go_on(&mut self, machine: &Machine, steps: &mut usize) -> bool {
        let mut places = BTreeMap::new();
        let is_done = self.look_at_names(machine, steps, &mut places);
        for part in &machine.tables.counting.outbox.waiting {
            if let Some(place) = places.get(&part.stream) {
                self.scan.add(*place, &Addend::of(part, true));
                *steps = steps.saturating_sub(PART_STEPS);
            }
        }
        if is_done {
            self.scan.want_batches(machine);
        }
        is_done
    }

    /// The scan that goes on with the contents of batches.
    pub fn into_scan(self) -> Scan {
        self.scan
    }

    /// Compares names and looks at the open parts of streams that match. `places` receives the position of
    /// these streams in the scan. Returns true if no names are left.
    fn look_at_names(
        &mut self,
        machine: &Machine,
        steps: &mut usize,
        places: &mut BTreeMap<u32, usize>,
    ) -> bool {
        let names = &machine.tables.counting.names;
        let mut from_stream = std::mem::replace(&mut self.from_stream, Bound::Unbounded);
        for (name, id) in names.devices_from(self.from_device.as_ref().map(|name| &**name)) {
            let is_first = std::mem::replace(&mut from_stream, Bound::Unbounded);
            let is_over = self.device.exact().is_some_and(|exact| exact != &**name);
            if is_over || !name.starts_with(self.device.prefix()) {
                return true;
            }
            // `from_stream` belongs to the device where the last turn stopped; it does not apply if that
            // device is gone.
            let is_it = matches!(&self.from_device, Bound::Included(from) if from == name);
            let streams_from = if is_it { is_first } else { Bound::Unbounded };
            if *steps == 0 {
                (self.from_device, self.from_stream) = (Bound::Included(name.clone()), streams_from);
                return false;
            }
            *steps -= 1;
            if !self.device.matches(name) {
                continue;
            }
            for id in names.streams_from(id, streams_from.as_ref().map(|stream| &**stream)) {
                let stream = names.of(*id).1;
                if *steps == 0 {
                    self.from_device = Bound::Included(name.clone());
                    self.from_stream = Bound::Included(stream.clone());
                    return false;
                }
                *steps -= 1;
                if self.stream.as_ref().is_some_and(|pattern| !pattern.matches(stream)) {
                    continue;
                }
                if self.scan.is_beyond_page(name, stream) {
                    return true;
                }
                if !self.look_at_stream(machine, *id, steps, places) {
                    return true;
                }
            }
        }
        true
    }

    /// Takes in a stream and its open parts. Returns false if the page already has as many streams as it may
    /// have.
    fn look_at_stream(
        &mut self,
        machine: &Machine,
        id: u32,
        steps: &mut usize,
        places: &mut BTreeMap<u32, usize>,
    ) -> bool {
        let Counting { names, streams, outbox, classes, .. } = &machine.tables.counting;
        let known = &streams.list[id as usize];
        let class = &classes[usize::from(known.class)];
        let Some(width_ms) = width_of(class, self.scan.every_ms) else { return true };
        let (device, stream) = names.of(id);
        if self.scan.streams.len() >= MAX_SCAN_STREAMS {
            let (device, stream) = (device.to_string(), stream.to_string());
            self.scan.end_before(SiteWindowPlace { device, stream, start: EpochMs(i64::MIN) });
            return false;
        }
        let place = self.scan.streams.len();
        places.insert(id, place);
        let watermark = machine.clocks.now().told(known.watermark, class);
        let (device, stream, cut) = (device.clone(), stream.clone(), outbox.last());
        self.scan.streams.push(Of { device, stream, width_ms, watermark, cut });
        for open in &known.open {
            let part = open.clone().close(id, class, known.watermark, 0);
            self.scan.add(place, &Addend::of(&part, false));
        }
        *steps = steps.saturating_sub(known.open.len() * PART_STEPS);
        true
    }
}

impl Machine {
    /// Gathers a query in one turn, however many names there are: for callers that have nothing else to do.
    pub fn scan(&self, query: &Query<'_>, page: &Page) -> Scan {
        let (mut gathering, mut steps) = (Gathering::new(query, page), usize::MAX);
        gathering.go_on(self, &mut steps);
        gathering.into_scan()
    }
}
