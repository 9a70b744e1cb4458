//! A simulated device: takes readings, numbers them, writes them down in its form and hands them to its
//! [`Session`], which sends each until a gateway has acknowledged it.
//!
//! Time and randomness come from outside: a device is a function of its plan, its seed and its events.
//!
//! Invariant: a stream's sequence numbers grow by one with each of its readings, from 0 at each boot.
//! Invariant: a reading that finds the queue full is not taken (a real sensor's next one overwrites it); it
//! is counted as skipped, never as published.

use crate::faults::{Clock, LinkFault};
use crate::payload::{Content, Form, encode};
use crate::sensors::{Sensor, Signal};
use crate::session::{Effect, Event, Manner, Message, Session, SessionSettings, SessionStats};
use selvedge_types::time::EpochMs;

/// The most readings that a device takes in one step; what is due beyond it waits for the next.
const MAX_READINGS_A_STEP: usize = 1_024;

/// One reading as its device remembers it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Taken {
    /// Which of the device's streams.
    pub stream: usize,
    /// The time that its payload carries.
    pub time: Option<EpochMs>,
    pub value: f64,
}

/// The source of a device's readings.
#[derive(Debug, Clone)]
pub enum Source {
    /// Sensors, one a stream, read at an even pace.
    Sensors {
        signals: Vec<Signal>,
        /// Readings per second of the whole device.
        rate: f64,
    },
    /// Recorded rows of one stream.
    Rows {
        rows: Vec<(EpochMs, f64)>,
        /// A multiple of real time; `None` publishes all rows at once.
        speed: Option<f64>,
    },
}

/// All that decides what a device sends, and how.
#[derive(Debug, Clone)]
pub struct DevicePlan {
    /// Its name, also its MQTT client id.
    pub name: String,
    pub streams: Vec<String>,
    /// The source of its readings.
    pub source: Source,
    /// How it writes them.
    pub form: Form,
    /// How it speaks MQTT.
    pub manner: Manner,
    /// How its clock goes.
    pub clock: Clock,
    /// How its link breaks.
    pub link: LinkFault,
    /// For everything random about it.
    pub seed: u64,
    /// Names this start of the device.
    pub boot: u64,
    /// How many gateways it knows.
    pub gateways: usize,
    /// The most publishes that wait for an acknowledgement; readings beyond them are skipped.
    pub queue_entries: usize,
    /// The most publishes that are on the wire at a time.
    pub in_flight_entries: usize,
}

/// Counters of one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceStats {
    pub session: SessionStats,
    /// Readings not taken because the queue was full.
    pub skipped: u64,
}

/// The core. Times are epoch milliseconds of a clock that does not go back.
#[derive(Debug)]
pub struct Device {
    plan: DevicePlan,
    session: Session<Vec<Taken>>,
    sensors: Vec<Sensor>,
    seqs: Vec<u64>,
    start_ms: u64,
    /// Publishes made so far, or the next row.
    made: u64,
    /// Publishes that came due so far, with those that were skipped.
    due: u64,
    next_stream: usize,
    measuring: bool,
    rng: fastrand::Rng,
    breaks_at: Option<u64>,
    skipped: u64,
}

impl Device {
    /// A device that boots at `now`.
    pub fn new(plan: DevicePlan, now: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        let session = Session::new(SessionSettings {
            manner: plan.manner,
            gateways: plan.gateways,
            queue_entries: plan.queue_entries,
            in_flight_entries: plan.in_flight_entries,
            seed: rng.u64(..),
        });
        let signals = match &plan.source {
            Source::Sensors { signals, .. } => signals.as_slice(),
            Source::Rows { .. } => &[],
        };
        let sensors = signals.iter().map(|signal| Sensor::new(*signal, rng.u64(..))).collect();
        let breaks_at = plan.link.next(now, &mut rng);
        Self {
            session,
            sensors,
            seqs: vec![0; plan.streams.len()],
            plan,
            start_ms: now,
            made: 0,
            due: 0,
            next_stream: 0,
            measuring: true,
            rng,
            breaks_at,
            skipped: 0,
        }
    }

    /// The plan that the device was made with.
    pub fn plan(&self) -> &DevicePlan {
        &self.plan
    }

    /// The counters of the device and of its session, since its start.
    pub fn stats(&self) -> DeviceStats {
        DeviceStats { session: self.session.stats(), skipped: self.skipped }
    }

    /// Takes no more readings from now on; what it has is still sent. Links stop breaking, too.
    pub fn quiet(&mut self) {
        self.measuring = false;
        self.breaks_at = None;
    }

    /// It has nothing unacknowledged, and will take no more readings.
    pub fn is_done(&self) -> bool {
        let at_end = match &self.plan.source {
            Source::Rows { rows, .. } => self.made >= rows.len() as u64,
            Source::Sensors { .. } => false,
        };
        self.session.pending() == 0 && (at_end || !self.measuring)
    }

    /// How many publishes are unacknowledged.
    pub fn pending(&self) -> usize {
        self.session.pending()
    }

    /// Something that it has is not acknowledged yet.
    pub fn waits(&self) -> bool {
        self.session.waits()
    }

    /// The gateway that it uses or tries.
    pub fn gateway(&self) -> Option<usize> {
        self.session.gateway()
    }

    /// When it next wants an [`Event::Tick`].
    pub fn wake_at(&self) -> Option<u64> {
        let measure = self.next_due().filter(|_| self.measuring);
        let breaks = self.breaks_at.filter(|_| self.session.is_up());
        [self.session.wake_at(), measure, breaks].into_iter().flatten().min()
    }

    /// One step; the effects are appended to `out`.
    pub fn step(&mut self, now: u64, event: Event, out: &mut Vec<Effect<Vec<Taken>>>) {
        if self.measuring {
            self.measure(now);
        }
        self.session.step(now, event, out);
        if self.breaks_at.is_some_and(|at| at <= now) {
            if let LinkFault::Flaky { abandon, .. } = self.plan.link {
                self.session.step(now, Event::Break { abandon: abandon && self.rng.bool() }, out);
            }
            self.breaks_at = self.plan.link.next(now, &mut self.rng);
        }
    }

    /// When the next publish is due; nothing while that waits for room or at the end of the rows.
    fn next_due(&self) -> Option<u64> {
        match &self.plan.source {
            Source::Sensors { rate, .. } => {
                let each =
                    if self.plan.form.holds_all_streams() { self.plan.streams.len().max(1) } else { 1 };
                let every_ms = each as f64 * 1_000.0 / rate.max(1e-6);
                // The seed shifts devices against each other, so that they don't all publish at once.
                let shift = (self.plan.seed % 1_000) as f64 / 1_000.0;
                Some(self.start_ms.saturating_add(((self.due as f64 + shift) * every_ms) as u64))
            }
            Source::Rows { rows, speed } => {
                let (time, _) = rows.get(self.made as usize)?;
                if self.session.room() == 0 {
                    return None;
                }
                let first = rows.first().map_or(*time, |(first, _)| *first);
                let since = time.0.saturating_sub(first.0).max(0) as f64;
                Some(speed.map_or(0, |s| self.start_ms.saturating_add((since / s.max(1e-6)) as u64)))
            }
        }
    }

    fn measure(&mut self, now: u64) {
        for _ in 0..MAX_READINGS_A_STEP {
            let Some(due) = self.next_due().filter(|due| *due <= now) else { return };
            match &self.plan.source {
                Source::Sensors { .. } if self.session.room() == 0 => {
                    self.due += 1;
                    self.skipped += 1;
                }
                Source::Sensors { .. } => {
                    self.due += 1;
                    self.made += 1;
                    self.read_sensors(due);
                }
                Source::Rows { rows, .. } => {
                    let Some((time, value)) = rows.get(self.made as usize).copied() else { return };
                    self.made += 1;
                    self.publish(&[(0, value)], Some(time));
                }
            }
        }
    }

    fn read_sensors(&mut self, at: u64) {
        let time = self.plan.form.carried(self.plan.clock.read(self.start_ms, at));
        if self.plan.form.holds_all_streams() {
            let values: Vec<(usize, f64)> =
                self.sensors.iter_mut().enumerate().map(|(i, sensor)| (i, sensor.read(at))).collect();
            return self.publish(&values, time);
        }
        let stream = self.next_stream;
        self.next_stream = (stream + 1) % self.sensors.len().max(1);
        let Some(sensor) = self.sensors.get_mut(stream) else { return };
        let value = sensor.read(at);
        self.publish(&[(stream, value)], time);
    }

    fn publish(&mut self, values: &[(usize, f64)], time: Option<EpochMs>) {
        let stream = values.first().map_or(0, |(stream, _)| *stream);
        let Some(next) = self.seqs.get_mut(stream) else { return };
        let seq = *next;
        *next += 1;
        let name = |i: usize| self.plan.streams.get(i).map_or("", String::as_str);
        let named: Vec<(&str, f64)> = values.iter().map(|(i, value)| (name(*i), *value)).collect();
        let content = Content { device: &self.plan.name, values: &named, time, seq, boot: self.plan.boot };
        let (topic, payload) = encode(self.plan.form, &content);
        let tag = values.iter().map(|(stream, value)| Taken { stream: *stream, time, value: *value });
        let full = self.session.offer(Message { topic, payload, tag: tag.collect() });
        debug_assert!(full.is_ok(), "room was checked");
    }
}
