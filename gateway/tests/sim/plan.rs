//! The faults of a run, and when they happen: drawn from the seed before the run begins, so that a failure can be
//! shrunk by leaving faults out.

use super::random::Random;
use super::wire::Temper;
use selvedge_fabric::agreement::APART_MS;
use selvedge_fabric::machine::{CountingRules, MAX_LEAD_MS};
use selvedge_log::Crash;
use selvedge_mqtt::credit::DEFAULT_CREDIT_BYTES;
use selvedge_types::ids::GatewayId;
use std::fmt;

/// How long the storm lasts, in milliseconds.
const STORM_MS: u64 = 8_000;

/// How long the storm lasts where members change, in milliseconds: a move takes some seconds.
const GROWTH_MS: u64 = 16_000;
/// The sizes with which such sites begin.
const GROWTH_GATEWAYS: [u16; 3] = [4, 5, 6];

/// Draws the runs under load from numbers of their own, so that all other runs stay the same.
const HEAVY_SALT: u64 = 0x6865_6176_7900;

/// The same for the runs in which disks rot while gateways run.
const ROT_SALT: u64 = 0x726f_7400;

/// The same for the properties of connections between gateways, and for noisy subscribers.
const LINK_SALT: u64 = 0x006c_696e_6b00;
/// The same for links that stay cut for long.
const CUT_SALT: u64 = 0x0063_7574_0000;
/// The same for the runs whose devices publish more than a gateway may hold.
const THIRST_SALT: u64 = 0x7468_6972_7374;

/// The same for the runs in which the members of the site change.
const GROWTH_SALT: u64 = 0x0067_726f_7774_6800;

/// The same for the runs with a witness.
const WITNESS_SALT: u64 = 0x7769_746e_6573;

/// Small disturbances throughout a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// Messages that are lost, in thousandths.
    pub loss: u64,
    /// Messages that come twice, in thousandths.
    pub doubled: u64,
    /// Messages that come much later than those behind them, in thousandths.
    pub late: u64,
    /// The longest that a write takes, in milliseconds.
    pub disk_ms: u64,
}

/// The kind of file that loses bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rot {
    /// A segment of the log that is no longer written.
    Log,
    /// The active segment of the log.
    LastSegment,
    Snapshot,
    Batch,
}

/// One fault. Faults that last end by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The power of a gateway fails, between two operations of its disk or within a write.
    PowerCut { at: GatewayId, how: Crash, down_ms: u64 },
    /// The disk writes ever more slowly, and then the power fails.
    DyingDisk { at: GatewayId, write_ms: u64, cut_after_ms: u64, how: Crash, down_ms: u64 },
    /// The process is killed; the system keeps what the process wrote.
    Kill { at: GatewayId, down_ms: u64 },
    /// The process is killed, and while it is down the wrong release is started on what a newer one wrote.
    OtherRelease { at: GatewayId, down_ms: u64 },
    /// The process is frozen, and later continues as if nothing had happened.
    Freeze { at: GatewayId, for_ms: u64 },
    /// The next fsync fails: the process ends.
    SyncFails { at: GatewayId },
    /// The disk accepts no more bytes.
    Full { at: GatewayId, for_ms: u64 },
    /// All disks of the site accept no more bytes.
    AllFull { for_ms: u64 },
    /// Writes take long.
    SlowDisk { at: GatewayId, write_ms: u64, for_ms: u64 },
    /// A restart finds flipped bits or a lost sector in a file.
    Rotten { at: GatewayId, what: Rot, pick: u64, sector: bool },
    /// Bits flip, or a sector is lost, while a gateway runs.
    Rots { at: GatewayId, what: Rot, pick: u64, sector: bool },
    /// Nothing passes from one gateway to the other; the other direction may be open.
    Cut { from: GatewayId, to: GatewayId, both: bool, for_ms: u64 },
    /// A gateway reaches no other gateway, but it reaches its devices.
    Isolate { at: GatewayId, for_ms: u64 },
    /// The link between two gateways fails and recovers several times.
    Flap { a: GatewayId, b: GatewayId, times: u64, each_ms: u64 },
    /// A wall clock jumps.
    ClockJump { at: GatewayId, by_ms: i64 },
    /// All wall clocks of the site jump, as when their common source of time does.
    AllClocksJump { by_ms: i64 },
    /// An operator corrects a wall clock.
    ClockSetRight { at: GatewayId },
    /// A wall clock runs fast or slow, by this many thousandths.
    ClockDrift { at: GatewayId, per_mille: i64 },
    /// A wall clock is in 1970, as on a box without a battery, and stays there until the run is healed.
    Clock1970 { at: GatewayId },
    /// A gateway has no uplink.
    NoUplink { at: GatewayId, for_ms: u64 },
    /// The cloud is away.
    CloudAway { for_ms: u64 },
    /// The cloud is away, and then one of the batches that wait for it is damaged on the disks of all its replicas, or
    /// (`spare`) of all but one.
    LostContents { for_ms: u64, spare: bool },
    /// The cloud is away for days, in which little happens.
    CloudAwayForDays { days: u64 },
    /// The operator of the broker alters, moves and repeats frames.
    Meddling { for_ms: u64 },
    /// Devices reconnect, to any gateway; their old connections live on for a while.
    DevicesMove { share: u64 },
    /// A device restarts and counts from 0 again.
    Reboot { device: u64 },
    /// An operator retires a device's streams, or one of them, at this gateway.
    Retire { at: GatewayId, pick: u64 },
    /// All replicas of a gateway are asked for a snapshot.
    Snapshots { at: GatewayId },
    /// Bytes to and from a gateway take this much longer, until the run is healed.
    SlowLink { at: GatewayId, by_ms: u64 },
    /// An operator has a gateway emptied; sometimes its devices leave it at once.
    Drain { at: GatewayId, devices_leave: bool },
    /// An operator takes a draining gateway back.
    Resume { at: GatewayId },
    /// An operator changes a gateway's weight.
    Reweigh { at: GatewayId, weight: u32 },
    /// An operator removes a gateway: once it is emptied, or at once. Its process runs on for a while, and may come back
    /// for another while.
    Remove { at: GatewayId, once_empty: bool, runs_on_ms: u64, back_for_ms: Option<u64> },
    /// A gateway is lost with its disk, and an operator removes it some time later.
    Dies { at: GatewayId, noticed_after_ms: u64 },
    /// A new box with an empty disk joins, perhaps in place of a gateway. It is first started this long after it was
    /// admitted.
    Join { replaces: Option<GatewayId>, starts_after_ms: u64 },
    /// Some gateway is struck shortly after its part in a move has come to this step.
    Ambush { step: MoveStep, blow: Blow, after_ms: u64 },
}

/// A gateway's part in a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveStep {
    /// It has taken on a replica, which learns.
    TakenOn,
    /// It leads while somebody learns, and has proposed what is not chosen yet.
    Teaching,
    /// It leads, and has proposed a stop.
    StopProposed,
    /// The next configuration has begun at its replica.
    Begun,
}

/// What strikes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    PowerCut {
        how: Crash,
        down_ms: u64,
    },
    Kill {
        down_ms: u64,
    },
    Freeze {
        for_ms: u64,
    },
    Isolate {
        for_ms: u64,
    },
    /// For good.
    Dies,
}

impl Blow {
    /// The fault that strikes this gateway.
    pub fn at(self, at: GatewayId) -> Fault {
        match self {
            Self::PowerCut { how, down_ms } => Fault::PowerCut { at, how, down_ms },
            Self::Kill { down_ms } => Fault::Kill { at, down_ms },
            Self::Freeze { for_ms } => Fault::Freeze { at, for_ms },
            Self::Isolate { for_ms } => Fault::Isolate { at, for_ms },
            Self::Dies => Fault::Dies { at, noticed_after_ms: 500 },
        }
    }
}

impl Fault {
    /// The gateways that it names.
    pub fn gateways(&self) -> Vec<GatewayId> {
        use Fault::*;
        match *self {
            PowerCut { at, .. }
            | DyingDisk { at, .. }
            | Kill { at, .. }
            | OtherRelease { at, .. }
            | Freeze { at, .. }
            | SyncFails { at }
            | Full { at, .. }
            | SlowDisk { at, .. }
            | Rotten { at, .. }
            | Rots { at, .. }
            | Isolate { at, .. }
            | ClockJump { at, .. }
            | ClockSetRight { at }
            | ClockDrift { at, .. }
            | Clock1970 { at }
            | NoUplink { at, .. }
            | Retire { at, .. }
            | Snapshots { at }
            | SlowLink { at, .. }
            | Drain { at, .. }
            | Resume { at }
            | Reweigh { at, .. }
            | Remove { at, .. }
            | Dies { at, .. } => vec![at],
            Cut { from, to, .. } => vec![from, to],
            Flap { a, b, .. } => vec![a, b],
            Join { replaces, .. } => replaces.into_iter().collect(),
            AllFull { .. }
            | AllClocksJump { .. }
            | CloudAway { .. }
            | LostContents { .. }
            | CloudAwayForDays { .. }
            | Meddling { .. }
            | DevicesMove { .. }
            | Reboot { .. }
            | Ambush { .. } => Vec::new(),
        }
    }
}

/// A run, drawn from its seed.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub gateways: u16,
    pub weather: Weather,
    /// How long the storm lasts, in milliseconds.
    pub storm_ms: u64,
    /// Shards soon have their most streams, and refuse more.
    pub cramped: bool,
    /// Devices have hundreds of publishes under way.
    pub wide: bool,
    /// Much is written all the time, states are large, and a replica that fell behind must catch up meanwhile.
    pub heavy: bool,
    /// Gateways scrub, and their disks rot while they run.
    pub rots: bool,
    /// Messages that gateways have read from each other are lost, doubled and reordered one by one before they are
    /// taken.
    pub rough: bool,
    /// Subscribers flood the links, and toggle their subscriptions.
    pub noisy: bool,
    pub temper: Temper,
    /// Many devices publish large payloads, sometimes all at once: more than a gateway may hold.
    pub thirsty: bool,
    /// The members of the site change: its gateways have a directory, and operators order moves.
    pub growth: bool,
    /// After the storm, the link between two gateways stays cut while the site serves.
    pub apart: bool,
    /// The site has two full gateways and a witness, and loses one of the two for good while the other is away.
    pub witness: bool,
    /// The faults, and when they begin.
    pub faults: Vec<(u64, Fault)>,
}

impl Plan {
    pub fn new(seed: u64, gateways: u16) -> Self {
        let mut r = Random::new(seed ^ (u64::from(gateways) << 56));
        let weather = Weather {
            loss: r.pick(&[0, 5, 30, 100]),
            doubled: r.pick(&[0, 20, 60]),
            late: r.pick(&[0, 30, 80]),
            disk_ms: r.pick(&[3, 20, 60]),
        };
        let cramped = r.chance(150);
        let mut faults = Vec::new();
        // Some runs are stormy, and most combine only a few kinds of faults.
        let kinds: Vec<u64> = (0..4 + r.below(8)).map(|_| r.below(26)).collect();
        let count = r.pick(&[6, 12, 24, 40]);
        for _ in 0..count {
            let kind = r.pick(&kinds);
            let at = r.below(STORM_MS);
            faults.push((at, Self::fault(&mut r, gateways, kind)));
        }
        faults.sort_by_key(|(at, _)| *at);
        // Not for days without the cloud: the outbox would be full, and devices that are slowed down would retry all
        // the time.
        let days = faults.iter().any(|(_, fault)| matches!(fault, Fault::CloudAwayForDays { .. }));
        let wide = r.chance(80) && !days;
        let mut l = Random::new(seed ^ LINK_SALT);
        let windows = if wide { [64 << 10, 256 << 10, 1 << 20] } else { [4 << 10, 64 << 10, 1 << 20] };
        let temper =
            Temper { window_bytes: l.pick(&windows), bytes_per_ms: l.pick(&[250, 2_000, 1_000_000]) };
        let plan = Self {
            seed,
            gateways,
            weather,
            storm_ms: STORM_MS,
            cramped,
            wide,
            heavy: false,
            rots: false,
            rough: l.chance(500),
            noisy: l.chance(150) && !days,
            temper,
            thirsty: false,
            growth: false,
            apart: false,
            witness: false,
            faults,
        };
        let plan = plan.with_long_cut();
        let plan = match !days && !cramped && Random::new(seed ^ HEAVY_SALT).chance(20) {
            true => plan.heavy(),
            false => plan,
        };
        let plan = match !days && gateways >= 3 && Random::new(seed ^ ROT_SALT).chance(200) {
            true => plan.rots(),
            false => plan,
        };
        let thirsty =
            !days && !plan.heavy && !wide && !cramped && Random::new(seed ^ THIRST_SALT).chance(120);
        Self { thirsty, ..plan }
    }

    /// In some runs the link between two gateways is cut for most of the storm, in one direction or both.
    fn with_long_cut(mut self) -> Self {
        let mut r = Random::new(self.seed ^ CUT_SALT);
        if self.gateways >= 3 && r.chance(250) {
            let at = r.below(STORM_MS / 2);
            let (from, to) = two(&mut r, self.gateways);
            let fault = Fault::Cut { from, to, both: r.chance(600), for_ms: 2_000 + r.below(STORM_MS) };
            self.faults.push((at, fault));
            self.faults.sort_by_key(|(at, _)| *at);
        }
        self
    }

    /// A run without other faults in which a link stays cut.
    pub fn apart(seed: u64, gateways: u16) -> Self {
        let plain = Self::new(seed, gateways);
        let (heavy, rots, thirsty, noisy, wide, cramped) = (false, false, false, false, false, false);
        Self {
            apart: true,
            faults: Vec::new(),
            heavy,
            rots,
            thirsty,
            noisy,
            wide,
            cramped,
            storm_ms: 500,
            ..plain
        }
    }

    /// A run in which replicas move: a few gateways, whose number follows from the seed, with few shards, operators'
    /// orders, and the faults that may meet a move.
    pub fn growth(seed: u64) -> Self {
        let gateways = GROWTH_GATEWAYS[(seed % 3) as usize];
        let mut r = Random::new(seed ^ GROWTH_SALT);
        let plain = Self::new(seed, gateways);
        // Nothing that is about clocks or the cloud alone.
        let fit = [0, 1, 3, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 17, 20, 21, 22];
        let kinds: Vec<u64> = (0..2 + r.below(5)).map(|_| r.pick(&fit)).collect();
        let orders: Vec<u64> = (0..1 + r.below(5)).map(|_| r.below(9)).collect();
        let mut faults = Vec::new();
        // Those that join have numbers beyond the first ones.
        let ids = u64::from(gateways) + 2;
        for _ in 0..r.pick(&[0, 6, 12, 24]) {
            let kind = r.pick(&kinds);
            let fault = match Self::fault(&mut r, ids as u16, kind) {
                // A batch that was lost may go unnoticed until its replica has moved.
                Fault::Rotten { at, what: Rot::Batch, pick, sector } => {
                    Fault::Rotten { at, what: Rot::Log, pick, sector }
                }
                fault => fault,
            };
            faults.push((r.below(GROWTH_MS), fault));
        }
        for _ in 0..r.pick(&[2, 4, 7]) {
            let kind = r.pick(&orders);
            faults.push((r.below(GROWTH_MS - 4_000), Self::order(&mut r, ids, kind)));
        }
        for _ in 0..r.pick(&[0, 2, 6, 12]) {
            faults.push((r.below(GROWTH_MS), Self::ambush(&mut r)));
        }
        faults.sort_by_key(|(at, _)| *at);
        let rough = plain.rough;
        let Temper { bytes_per_ms, .. } = plain.temper;
        let temper = Temper { window_bytes: 1 << 20, bytes_per_ms };
        Self {
            storm_ms: GROWTH_MS,
            cramped: false,
            wide: false,
            heavy: false,
            rots: false,
            noisy: false,
            thirsty: false,
            growth: true,
            rough,
            temper,
            faults,
            ..plain
        }
    }

    /// A run of two full gateways and a witness, which joins first.
    pub fn witness(seed: u64) -> Self {
        let mut r = Random::new(seed ^ WITNESS_SALT);
        let plain = Self::growth(seed);
        let fit = [0, 1, 3, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 17, 20, 21, 22];
        let kinds: Vec<u64> = (0..2 + r.below(5)).map(|_| r.pick(&fit)).collect();
        let mut faults = Vec::new();
        for _ in 0..r.pick(&[0, 4, 8, 16]) {
            let kind = r.pick(&kinds);
            faults.push((r.below(STORM_MS), Self::fault(&mut r, 3, kind)));
        }
        faults.sort_by_key(|(at, _)| *at);
        Self { gateways: 2, storm_ms: STORM_MS, witness: true, faults, ..plain }
    }

    fn ambush(r: &mut Random) -> Fault {
        let step = r.pick(&[MoveStep::TakenOn, MoveStep::Teaching, MoveStep::StopProposed, MoveStep::Begun]);
        let (down_ms, for_ms) = (20 + r.below(1_500), r.pick(&[200, 700, 1_500, 4_000]));
        let blow = match r.below(9) {
            0 => Blow::PowerCut { how: Crash::Lost, down_ms },
            1 => Blow::PowerCut { how: Crash::Kept, down_ms },
            2 => Blow::PowerCut { how: Crash::Torn(r.next()), down_ms },
            3 | 4 => Blow::Kill { down_ms },
            5 => Blow::Freeze { for_ms },
            8 => Blow::Dies,
            _ => Blow::Isolate { for_ms },
        };
        Fault::Ambush { step, blow, after_ms: r.pick(&[0, 0, 2, 10, 60, 400]) }
    }

    /// What an operator orders, or what happens to a box.
    fn order(r: &mut Random, ids: u64, kind: u64) -> Fault {
        let at = GatewayId(r.below(ids) as u16 + 1);
        match kind {
            0 | 1 => Fault::Drain { at, devices_leave: r.chance(700) },
            2 => Fault::Resume { at },
            3 => Fault::Reweigh { at, weight: 1 + r.below(4) as u32 },
            4 | 5 => Fault::Remove {
                at,
                once_empty: r.chance(500),
                runs_on_ms: r.pick(&[0, 500, 4_000]),
                back_for_ms: r.chance(500).then(|| 500 + r.below(4_000)),
            },
            6 => Fault::Dies { at, noticed_after_ms: r.below(3_000) },
            _ => Fault::Join {
                replaces: (kind == 8).then_some(at),
                starts_after_ms: r.pick(&[0, 0, 2_000]) + r.below(500),
            },
        }
    }

    /// The site, in words.
    pub fn site(&self) -> String {
        match self.growth {
            true if self.witness => "two gateways and a witness".to_string(),
            true => format!("{} gateways that change", self.gateways),
            false => format!("{} gateways", self.gateways),
        }
    }

    /// Whether little happens for days.
    pub fn lasts_for_days(&self) -> bool {
        self.faults.iter().any(|(_, fault)| matches!(fault, Fault::CloudAwayForDays { .. }))
    }

    /// The bytes of publishes that a gateway may hold.
    pub fn credit_bytes(&self) -> usize {
        match self.heavy || self.wide {
            true => DEFAULT_CREDIT_BYTES,
            false => 64 * 1024,
        }
    }

    /// The same run with disks that rot while gateways run. (Not for days without the cloud: that many rounds show
    /// nothing new.)
    fn rots(mut self) -> Self {
        let mut r = Random::new(self.seed ^ ROT_SALT << 1);
        for _ in 0..4 + r.below(8) {
            let at = GatewayId(r.below(u64::from(self.gateways)) as u16 + 1);
            let what = r.pick(&[Rot::Log, Rot::Snapshot, Rot::Batch]);
            let fault = Fault::Rots { at, what, pick: r.next(), sector: r.chance(400) };
            self.faults.push((r.below(self.storm_ms), fault));
        }
        self.faults.sort_by_key(|(at, _)| *at);
        self.rots = true;
        self
    }

    /// The same run under load: a gateway is away for long, and the load continues when it comes back, perhaps over a
    /// slow link.
    pub fn heavy(mut self) -> Self {
        let mut r = Random::new(self.seed ^ HEAVY_SALT << 1);
        let at = GatewayId(r.below(u64::from(self.gateways)) as u16 + 1);
        let (from, for_ms) = (1_500 + r.below(1_500), 5_000);
        let away = match r.below(3) {
            0 => Fault::Kill { at, down_ms: for_ms },
            1 => Fault::Freeze { at, for_ms },
            _ => Fault::Isolate { at, for_ms },
        };
        let slow = Fault::SlowLink { at, by_ms: r.pick(&[20, 60, 120]) };
        let days = |fault: &Fault| matches!(fault, Fault::CloudAwayForDays { .. });
        self.faults.retain(|(_, fault)| !days(fault));
        self.faults.extend([(0, slow), (from, away)]);
        self.faults.sort_by_key(|(at, _)| *at);
        (self.heavy, self.wide, self.cramped) = (true, false, false);
        self.temper = Temper { window_bytes: 1 << 20, bytes_per_ms: self.temper.bytes_per_ms.max(2_000) };
        self
    }

    fn fault(r: &mut Random, gateways: u16, kind: u64) -> Fault {
        let any = |r: &mut Random| GatewayId(r.below(u64::from(gateways)) as u16 + 1);
        let at = any(r);
        let for_ms = r.pick(&[200, 700, 1_500, 4_000]);
        let how = match r.below(4) {
            0 => Crash::Lost,
            1 => Crash::Kept,
            _ => Crash::Torn(r.next()),
        };
        match kind {
            22 | 23 => {
                let (write_ms, cut_after_ms) = (200 + r.below(2_000), 100 + r.below(1_500));
                Fault::DyingDisk { at, write_ms, cut_after_ms, how, down_ms: 20 + r.below(300) }
            }
            24 | 25 => Fault::Retire { at, pick: r.next() },
            0..3 => Fault::PowerCut { at, how, down_ms: 20 + r.below(1_500) },
            3 | 4 => match 20 + r.below(700) {
                down_ms if down_ms % 4 == 0 => Fault::OtherRelease { at, down_ms },
                down_ms => Fault::Kill { at, down_ms },
            },
            5 => Fault::Freeze { at, for_ms },
            6 => Fault::SyncFails { at },
            7 => Fault::Full { at, for_ms },
            8 => Fault::AllFull { for_ms },
            9 => Fault::SlowDisk { at, write_ms: 100 + r.below(3_000), for_ms },
            10 | 11 => {
                let what = r.pick(&[Rot::Log, Rot::Log, Rot::Snapshot, Rot::Batch]);
                Fault::Rotten { at, what, pick: r.next(), sector: r.chance(400) }
            }
            12 | 13 => Fault::Cut { from: at, to: any(r), both: r.chance(500), for_ms },
            14 => Fault::Isolate { at, for_ms },
            15 => Fault::Flap { a: at, b: any(r), times: 2 + r.below(6), each_ms: 50 + r.below(400) },
            16 => match r.below(8) {
                0 => Fault::Clock1970 { at },
                1 => Fault::ClockDrift { at, per_mille: r.below(400) as i64 - 200 },
                2..5 => Fault::AllClocksJump { by_ms: Self::jump(r) },
                5 => Fault::ClockSetRight { at },
                _ => Fault::ClockJump { at, by_ms: Self::jump(r) },
            },
            17 => Fault::NoUplink { at, for_ms },
            18 => match r.below(8) {
                0 => Fault::CloudAwayForDays { days: 1 + r.below(3) },
                1 | 2 => Fault::LostContents { for_ms, spare: false },
                3 | 4 => Fault::LostContents { for_ms, spare: true },
                _ => Fault::CloudAway { for_ms },
            },
            19 => Fault::Meddling { for_ms },
            20 => match r.below(3) {
                0 => Fault::Reboot { device: r.next() },
                _ => Fault::DevicesMove { share: 100 + r.below(900) },
            },
            _ => Fault::Snapshots { at },
        }
    }
}

impl Plan {
    /// How far a wall clock jumps: by hours, by years, by exactly some bound, or by what a counter of GPS weeks loses.
    fn jump(r: &mut Random) -> i64 {
        const GPS_ROLLOVER_MS: i64 = 1_024 * 7 * 86_400_000;
        let rules = CountingRules::default();
        let by = match r.below(9) {
            0 => GPS_ROLLOVER_MS,
            1 => 86_400_000 * (1 + r.below(20_000) as i64),
            2 => r.pick(&[APART_MS / 2, APART_MS, 2 * APART_MS]),
            3 => i64::from(rules.session_expiry_cap_s) * 1_000,
            4 => i64::from(r.pick(&[rules.max_past_s, rules.max_future_s])) * 1_000,
            5 => MAX_LEAD_MS,
            _ => r.below(20_000_000) as i64,
        };
        let by = by + r.pick(&[0, 0, 1, -1]);
        if r.chance(500) { by } else { -by }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {} of {} gateways; {:?}; {:?}{}{}{}{}{}",
            self.seed,
            self.gateways,
            self.weather,
            self.temper,
            match self.cramped {
                true => "; streams refused at a bound",
                false => "",
            },
            match (self.wide, self.heavy) {
                (_, true) => "; under load",
                (true, _) => "; hundreds under way",
                _ if self.thirsty => "; more published than may be held",
                _ => "",
            },
            if self.rots { "; disks rot while they are used" } else { "" },
            if self.rough { "; messages are lost, doubled and reordered" } else { "" },
            match (self.noisy, self.growth) {
                (_, true) => "; members change",
                (true, _) => "; loud subscribers",
                _ => "",
            },
        )?;
        for (at, fault) in &self.faults {
            writeln!(f, "  {at:>6} ms  {fault:?}")?;
        }
        Ok(())
    }
}

/// Two gateways of a site of this size, which has at least two.
fn two(r: &mut Random, gateways: u16) -> (GatewayId, GatewayId) {
    let a = r.below(gateways.into());
    let b = (a + 1 + r.below(u64::from(gateways) - 1)) % u64::from(gateways);
    (GatewayId(a as u16 + 1), GatewayId(b as u16 + 1))
}
