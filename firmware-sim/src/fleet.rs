//! A fleet: devices of several kinds, some with faults, running against a site's gateways.

use crate::board::{Board, DeviceView, Phase};
use crate::client::{Client, Timebase};
use crate::device::{Device, DevicePlan, Source};
use crate::faults::{Clock, LinkFault};
use crate::gaps::{GapReport, Gaps};
use crate::ledger::Ledger;
use crate::payload::Form;
use crate::replay::{REPLAY_STREAM, Recording};
use crate::sensors::Signal;
use crate::session::Manner;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The most devices of one fleet.
pub const MAX_DEVICES_ENTRIES: usize = 20_000;

/// Unacknowledged publishes that a device keeps.
pub const DEVICE_QUEUE_ENTRIES: usize = 1_024;

/// Publishes on the wire of a device that replays at full speed.
pub const REPLAY_IN_FLIGHT_ENTRIES: usize = 1_000;

/// What a fleet is made of.
#[derive(Debug, Clone)]
pub struct FleetSettings {
    /// Where the gateways are, `host:port`.
    pub gateways: Vec<String>,
    /// How many simulated devices.
    pub devices: usize,
    /// Readings per second and device.
    pub rate: f64,
    /// Everything random follows from it.
    pub seed: u64,
    /// Names this start; must never be used twice with the same device names.
    pub boot: u64,
    /// A share of the devices has wrong clocks and broken links.
    pub faults: bool,
    /// Publishes on the wire of a device.
    pub in_flight_entries: usize,
    /// The width of the ledger's windows.
    pub window_ms: u32,
    /// Replayed instead of simulated devices, when there is any.
    pub recordings: Vec<Recording>,
    /// Replay speed, as a multiple of real time; `None` replays as fast as acknowledgements allow.
    pub speed: Option<f64>,
}

/// What devices that measure the same have in common.
#[derive(Debug, Clone, Copy)]
pub struct DeviceKind {
    /// First half of its devices' names.
    pub name: &'static str,
    /// The name and the signal of each stream.
    pub streams: &'static [(&'static str, Signal)],
    pub form: Form,
    pub manner: Manner,
}

const fn manner(v5: bool, qos: u8, persistent: bool) -> Manner {
    Manner { v5, qos, persistent }
}

/// The kinds, in the order in which a fleet takes them in turn.
pub const KINDS: [DeviceKind; 9] = [
    DeviceKind {
        name: "oven",
        streams: &[("temperature", Signal::Walk { min: 15.0, max: 240.0, step: 0.8 })],
        form: Form::Json,
        manner: manner(false, 1, false),
    },
    DeviceKind {
        name: "bearing",
        streams: &[
            ("vibration", Signal::Vibration { amplitude: 4.2, period_ms: 730.0, noise: 0.6 }),
            ("temperature", Signal::Walk { min: 20.0, max: 95.0, step: 0.2 }),
        ],
        form: Form::Json,
        manner: manner(true, 1, false),
    },
    DeviceKind {
        name: "meter",
        streams: &[
            ("power", Signal::Duty { idle: 40.0, busy: 2_300.0, every: 40 }),
            ("voltage", Signal::Walk { min: 222.0, max: 238.0, step: 0.4 }),
            ("energy", Signal::Counter { most: 3 }),
        ],
        form: Form::Object,
        manner: manner(false, 1, true),
    },
    DeviceKind {
        name: "door",
        streams: &[("open", Signal::Door { every: 25 })],
        form: Form::Plain,
        manner: manner(true, 2, true),
    },
    DeviceKind {
        name: "line",
        streams: &[("parts", Signal::Counter { most: 4 })],
        form: Form::JsonText,
        manner: manner(true, 1, false),
    },
    DeviceKind {
        name: "weather",
        streams: &[
            ("temperature", Signal::Walk { min: -20.0, max: 38.0, step: 0.1 }),
            ("humidity", Signal::Walk { min: 15.0, max: 100.0, step: 0.5 }),
        ],
        form: Form::SenmlJson,
        manner: manner(true, 1, true),
    },
    DeviceKind {
        name: "tank",
        streams: &[("level", Signal::Walk { min: 0.0, max: 12.0, step: 0.05 })],
        form: Form::SenmlCbor,
        manner: manner(false, 1, true),
    },
    DeviceKind {
        name: "pump",
        streams: &[
            ("flow", Signal::Duty { idle: 0.0, busy: 18.0, every: 50 }),
            ("pressure", Signal::Walk { min: 0.5, max: 9.0, step: 0.05 }),
        ],
        form: Form::Sparkplug,
        manner: manner(true, 1, true),
    },
    DeviceKind {
        name: "scale",
        streams: &[("weight", Signal::Duty { idle: 0.0, busy: 64.0, every: 8 })],
        form: Form::Plain,
        manner: manner(false, 2, true),
    },
];

impl FleetSettings {
    /// The devices of this fleet.
    pub fn plans(&self) -> Vec<DevicePlan> {
        if self.recordings.is_empty() {
            return (0..self.devices.min(MAX_DEVICES_ENTRIES)).map(|i| self.simulated(i)).collect();
        }
        self.recordings.iter().enumerate().map(|(i, recording)| self.replayed(i, recording)).collect()
    }

    fn seed_of(&self, index: usize) -> u64 {
        fastrand::Rng::with_seed(self.seed ^ ((index as u64 + 1) << 20)).u64(..)
    }

    fn simulated(&self, index: usize) -> DevicePlan {
        let kind = KINDS[index % KINDS.len()];
        let seed = self.seed_of(index);
        let mut rng = fastrand::Rng::with_seed(!seed);
        let (mut clock, mut link) = (Clock::True, LinkFault::None);
        if self.faults {
            clock = match rng.u32(0..16) {
                0 | 1 => Clock::None,
                2 => Clock::Drift { ppm: 20_000 },
                3 => Clock::Drift { ppm: -20_000 },
                4 => Clock::Epoch1970,
                5 => Clock::GpsRollover,
                _ => Clock::True,
            };
            if rng.u32(0..4) == 0 {
                link = LinkFault::Flaky { mean_ms: 15_000, abandon: true };
            }
        }
        DevicePlan {
            name: format!("{}-{:02}", kind.name, index / KINDS.len() + 1),
            streams: kind.streams.iter().map(|(name, _)| (*name).to_string()).collect(),
            source: Source::Sensors {
                signals: kind.streams.iter().map(|(_, signal)| *signal).collect(),
                rate: self.rate,
            },
            form: kind.form,
            manner: kind.manner,
            clock,
            link,
            seed,
            boot: self.boot,
            gateways: self.gateways.len(),
            queue_entries: DEVICE_QUEUE_ENTRIES,
            in_flight_entries: self.in_flight_entries,
        }
    }

    fn replayed(&self, index: usize, recording: &Recording) -> DevicePlan {
        let in_flight_entries =
            if self.speed.is_none() { REPLAY_IN_FLIGHT_ENTRIES } else { self.in_flight_entries };
        DevicePlan {
            name: recording.device.clone(),
            streams: vec![REPLAY_STREAM.to_string()],
            source: Source::Rows { rows: recording.rows.clone(), speed: self.speed },
            form: Form::Json,
            manner: manner(true, 1, false),
            clock: Clock::True,
            link: LinkFault::None,
            seed: self.seed_of(index),
            boot: self.boot,
            gateways: self.gateways.len(),
            queue_entries: 2 * REPLAY_IN_FLIGHT_ENTRIES,
            in_flight_entries,
        }
    }
}

/// A boot id that was never used before, small enough for any JSON number.
pub fn new_boot() -> u64 {
    fastrand::u64(1..1 << 53)
}

/// The fleet's state in a few numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub devices: usize,
    /// Devices with nothing left to do.
    pub done: usize,
    /// Readings sent at least once.
    pub published: u64,
    pub acked: u64,
    /// Readings that gateways set aside: they can't be read, or are of a time that can't be.
    pub set_aside: u64,
    /// Publishes that wait for their acknowledgement.
    pub pending: usize,
    pub resends: u64,
    pub connects: u64,
    /// How often gateways sent devices to other servers.
    pub sent_away: u64,
    /// Readings not taken because a device's queue was full.
    pub skipped: u64,
}

/// Devices that run, each as a task.
pub struct Fleet {
    board: Arc<Mutex<Board>>,
    time: Timebase,
    phase: watch::Sender<Phase>,
    tasks: JoinSet<()>,
}

impl Fleet {
    /// Starts all devices, one task each, on the current tokio runtime.
    pub fn start(settings: &FleetSettings) -> Self {
        let plans = settings.plans();
        let devices = vec![DeviceView::default(); plans.len()];
        let ledger = Ledger::new(settings.window_ms);
        let gaps = Gaps::new(devices.len());
        let board = Arc::new(Mutex::new(Board { ledger, devices, gaps }));
        let addresses: Arc<[String]> = settings.gateways.clone().into();
        let (phase, watching) = watch::channel(Phase::Run);
        let time = Timebase::start();
        let mut tasks = JoinSet::new();
        for (index, plan) in plans.into_iter().enumerate() {
            let streams = {
                let ledger = &mut Board::lock(&board).ledger;
                let name = plan.form.device_name(&plan.name);
                plan.streams.iter().map(|stream| ledger.stream(&name, stream)).collect()
            };
            let device = Device::new(plan, time.now_ms());
            let client = Client::new(device, index, streams, addresses.clone(), board.clone(), time);
            tasks.spawn(client.run(watching.clone()));
        }
        Self { board, time, phase, tasks }
    }

    /// The sums over all devices, as they are now.
    pub fn progress(&self) -> Progress {
        let board = Board::lock(&self.board);
        let totals = board.ledger.totals();
        let mut progress = Progress {
            devices: board.devices.len(),
            published: totals.published.count,
            acked: totals.acked.count,
            set_aside: board.ledger.set_aside_count(),
            ..Progress::default()
        };
        for view in &board.devices {
            progress.done += usize::from(view.done);
            progress.pending += view.pending;
            progress.resends += view.stats.session.resends;
            progress.connects += view.stats.session.connects;
            progress.sent_away += view.stats.session.sent_away;
            progress.skipped += view.stats.skipped;
        }
        progress
    }

    /// Every device has sent what it had and got it acknowledged.
    pub fn is_done(&self) -> bool {
        let progress = self.progress();
        progress.done == progress.devices
    }

    /// Looks at the ledger; devices wait meanwhile.
    pub fn with_ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&Board::lock(&self.board).ledger)
    }

    /// A fault happens to a gateway (its place in the settings) now.
    pub fn fault(&self, kind: &'static str, gateway: usize) {
        Board::lock(&self.board).gaps.fault(self.time.now_ms(), kind, gateway);
    }

    /// How long devices went without an acknowledgement, up to now.
    pub fn gaps(&self) -> GapReport {
        Board::lock(&self.board).gaps.report(self.time.now_ms())
    }

    /// Devices measure no more and send until all is acknowledged.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Drain);
    }

    /// Ends all devices and waits for their tasks.
    pub async fn stop(&mut self) {
        self.phase.send_replace(Phase::Stop);
        while self.tasks.join_next().await.is_some() {}
    }
}
