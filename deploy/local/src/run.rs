//! The whole run: start the site, show its state, end it, and reckon.
//!
//! Stages: *running* until the time is over, the recordings are at their end or the person asks to stop;
//! *resending* until every publish is acknowledged; *settling* until every window is closed and the node has
//! confirmed it. The last two are bounded, and are left out when the person asks to stop: acknowledged
//! readings may then still be in open windows, so losses are not judged.
//!
//! A resumed site has windows of earlier runs, of devices of the same names. They are taken out of the
//! reckoning as a baseline, which is read once those earlier windows have settled, before the devices start.
//! Each run's devices count their sequences under a boot id of their own and start their persistent
//! sessions anew, so that no reading is taken for a resend of an earlier run.

use crate::account::{self, RunOutcome};
use crate::folder::Folder;
use crate::options::Options;
use crate::ports;
use crate::settings::WINDOW_MS;
use crate::site::Site;
use crate::status::{Gateway, Node};
use crate::table::{Screen, View};
use firmware_sim::fleet::{Fleet, FleetSettings, new_boot};
use firmware_sim::reckoning::{NodeWindows, reckon};
use firmware_sim::replay;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often the run asks gateways and node for their state.
const LOOK_MS: u64 = 200;

/// How often the table is shown.
const SHOW_MS: u64 = 1_000;

/// How long devices may send until all is acknowledged.
const DRAIN_PATIENCE_MS: u64 = 120_000;

/// How long windows may take to close and to be confirmed by the node.
const SETTLE_PATIENCE_MS: u64 = 120_000;

/// After this long without a further reading at the node, what is missing there is called lost: longer than
/// any window of the local site waits before it is sent.
const SETTLED_MS: u64 = 20_000;

/// For this long nothing may change before an unknown number of open windows counts as none.
const QUIET_MS: u64 = 3_000;

/// Publishes on the wire of one simulated device.
const IN_FLIGHT_ENTRIES: usize = 16;

/// Runs a site until its end; the outcome is nothing when no devices ran.
///
/// # Errors
/// In words, for the person at the terminal.
pub async fn run(options: &Options, interrupt: watch::Receiver<u32>) -> Result<Option<RunOutcome>, String> {
    let recordings = options.replay.iter().map(|file| replay::load(file).map_err(|e| e.to_string()));
    let recordings = recordings.collect::<Result<Vec<_>, _>>()?;
    let mut names: Vec<&str> = recordings.iter().map(|r| r.device.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("two files to replay would both be device {:?}; rename one", pair[0]));
    }
    let wanted = ports::wanted(options).map_err(|e| e.to_string())?;
    ports::check(&wanted).map_err(|e| e.to_string())?;
    let folder = Folder::open(options, &wanted)?;
    let fleet = FleetSettings {
        gateways: (0..options.gateways).map(|i| options.mqtt(i).to_string()).collect(),
        devices: options.devices,
        rate: options.rate,
        seed: 1,
        boot: new_boot(),
        faults: true,
        in_flight_entries: IN_FLIGHT_ENTRIES,
        window_ms: WINDOW_MS,
        recordings,
        speed: options.speed.factor(),
    };
    let mut site = Site::start(options, &folder).await?;
    let mut run =
        Run { options, interrupt, screen: Screen::new(), started: Instant::now(), shown: None, acked: 0 };
    let result = run.whole(&mut site, &folder, &fleet).await;
    site.stop().await;
    result
}

/// Why a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    TimeIsOver,
    Interrupted,
}

struct Run<'a> {
    options: &'a Options,
    interrupt: watch::Receiver<u32>,
    screen: Screen,
    started: Instant,
    shown: Option<Instant>,
    acked: u64,
}

impl Run<'_> {
    async fn whole(
        &mut self,
        site: &mut Site,
        folder: &Folder,
        settings: &FleetSettings,
    ) -> Result<Option<RunOutcome>, String> {
        self.screen.say("starting ...");
        let interrupted = self.interrupt.clone();
        tokio::select! {
            ready = site.ready() => ready?,
            () = asked_to_stop(interrupted, 1) => return Ok(None),
        }
        self.announce(folder, settings);
        let mut baseline = NodeWindows::default();
        if folder.resumed {
            // What an earlier run left must be at the node before this one is counted.
            self.stage(site, None, "resuming", Some(SETTLE_PATIENCE_MS), false, Until::QUIET).await?;
            baseline = account::node_windows(self.options.node_http(), WINDOW_MS).await?;
        }
        self.started = Instant::now();
        if settings.recordings.is_empty() && settings.devices == 0 {
            let limit = self.options.run_for.map(|d| d.as_millis() as u64);
            self.stage(site, None, "running", limit, true, Until::Stopped).await?;
            return Ok(None);
        }
        let mut fleet = Fleet::start(settings);
        let outcome = self.devices(site, &mut fleet, &baseline).await;
        fleet.stop().await;
        outcome.map(Some)
    }

    async fn devices(
        &mut self,
        site: &mut Site,
        fleet: &mut Fleet,
        baseline: &NodeWindows,
    ) -> Result<RunOutcome, String> {
        let limit = self.options.run_for.map(|d| d.as_millis() as u64);
        let mut outcome = RunOutcome::default();
        let mut end = self.stage(site, Some(fleet), "running", limit, true, Until::DevicesDone).await?;
        fleet.drain();
        if end != End::Interrupted {
            end = self
                .stage(site, Some(fleet), "resending", Some(DRAIN_PATIENCE_MS), false, Until::DevicesDone)
                .await?;
            if end == End::TimeIsOver {
                outcome.remarks.push(format!(
                    "Cut short: {} publishes were not acknowledged within {} s.",
                    fleet.progress().pending,
                    DRAIN_PATIENCE_MS / 1_000
                ));
            }
        }
        if end != End::Interrupted {
            end = self.settle(site, fleet, baseline, &mut outcome).await?;
        }
        if end == End::Interrupted {
            let node = account::node_windows(self.options.node_http(), WINDOW_MS).await;
            let node = node.unwrap_or_default().minus(baseline);
            outcome.reckoning = fleet.with_ledger(|ledger| reckon(ledger, &node));
            let waiting = outcome.reckoning.acked.saturating_sub(outcome.reckoning.counted);
            outcome.reckoning.lost = 0;
            outcome.reckoning.findings.retain(|f| f.duplicated > 0);
            outcome.remarks.push(format!(
                "Stopped at once: {waiting} acknowledged readings are in windows that the node has not received yet, so lost readings \
                 can't be counted (use --for)."
            ));
        }
        outcome.seconds = self.started.elapsed().as_secs_f64();
        outcome.leader_changes = site.leader_changes();
        outcome.gaps = fleet.gaps();
        Ok(outcome)
    }

    /// Waits until the node has all windows, and reckons.
    async fn settle(
        &mut self,
        site: &mut Site,
        fleet: &Fleet,
        baseline: &NodeWindows,
        outcome: &mut RunOutcome,
    ) -> Result<End, String> {
        let until = Instant::now() + Duration::from_millis(SETTLE_PATIENCE_MS);
        let mut counted = (0, Instant::now());
        loop {
            let left = until.saturating_duration_since(Instant::now()).as_millis() as u64;
            let end = self.stage(site, Some(fleet), "settling", Some(left), false, Until::QUIET).await?;
            if end == End::Interrupted {
                return Ok(end);
            }
            let node = account::node_windows(self.options.node_http(), WINDOW_MS).await?.minus(baseline);
            outcome.reckoning = fleet.with_ledger(|ledger| reckon(ledger, &node));
            if counted.0 != outcome.reckoning.counted {
                counted = (outcome.reckoning.counted, Instant::now());
            }
            let settled =
                outcome.reckoning.lost == 0 || counted.1.elapsed() >= Duration::from_millis(SETTLED_MS);
            if (end == End::Done && settled) || left == 0 {
                outcome.complete = end == End::Done;
                if end == End::TimeIsOver {
                    outcome.remarks.push(format!(
                        "Cut short: the node had not confirmed everything within {} s.",
                        SETTLE_PATIENCE_MS / 1_000
                    ));
                }
                return Ok(end);
            }
        }
    }

    /// Looks, does harm (if it may) and shows until `done`, the time is over or the person asks to stop.
    async fn stage(
        &mut self,
        site: &mut Site,
        fleet: Option<&Fleet>,
        name: &str,
        limit_ms: Option<u64>,
        harass: bool,
        mut until: Until,
    ) -> Result<End, String> {
        let began = Instant::now();
        loop {
            site.check()?;
            site.harass(fleet, harass).await?;
            let (gateways, node) = site.look().await;
            let view = self.view(name, site, fleet, gateways, node);
            if until.is_reached(fleet, site.is_whole(), &view) {
                self.show(&view, fleet.is_none());
                return Ok(End::Done);
            }
            self.show(&view, false);
            if limit_ms.is_some_and(|limit| began.elapsed() >= Duration::from_millis(limit)) {
                return Ok(End::TimeIsOver);
            }
            let left = limit_ms.map_or(LOOK_MS, |limit| {
                limit.saturating_sub(began.elapsed().as_millis() as u64).clamp(1, LOOK_MS)
            });
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(left)) => {}
                () = asked_to_stop(self.interrupt.clone(), 1) => return Ok(End::Interrupted),
            }
        }
    }

    fn view(
        &self,
        stage: &str,
        site: &Site,
        fleet: Option<&Fleet>,
        gateways: Vec<Gateway>,
        node: Node,
    ) -> View {
        View {
            stage: stage.to_string(),
            seconds: self.started.elapsed().as_secs(),
            acked_per_second: 0,
            devices: fleet.map(Fleet::progress),
            gateways,
            node,
            leader_changes: site.leader_changes(),
            faults: site.faults(),
        }
    }

    /// Shows the view once a second, or at once.
    fn show(&mut self, view: &View, now: bool) {
        let since = self.shown.map(|at| at.elapsed());
        if !now && since.is_some_and(|since| since < Duration::from_millis(SHOW_MS)) {
            return;
        }
        let mut view = view.clone();
        let acked = match view.devices {
            Some(devices) => devices.acked,
            None => view.gateways.iter().map(|g| g.publishes_acked).sum(),
        };
        let new = acked.saturating_sub(self.acked) as f64;
        view.acked_per_second =
            since.map_or(0.0, |since| new / since.as_secs_f64().max(0.001)).round() as u64;
        self.acked = acked;
        self.shown = Some(Instant::now());
        self.screen.show(&view);
    }

    fn announce(&mut self, folder: &Folder, settings: &FleetSettings) {
        let o = self.options;
        let mut text = format!("Selvedge site \"{}\" is ready.\n", crate::settings::SITE);
        for i in 0..o.gateways {
            let (mqtt, http) = (o.mqtt(i), o.http(i));
            text.push_str(&format!("  gateway {}  mqtt://{mqtt}   http://{http}/v1/status\n", i + 1));
        }
        let (http, uplink) = (o.node_http(), SocketAddrV4::new(o.node_host(), o.uplink_port));
        text.push_str(&format!(
            "  node       mqtt://{uplink}  http://{http}/ in a browser; its API: http://{http}/docs\n"
        ));
        let devices = match (settings.recordings.len(), settings.devices) {
            (0, 0) => "none".to_string(),
            (0, n) => format!("{n} simulated, {} readings/s each", o.rate),
            (n, _) => format!("{n} replayed"),
        };
        text.push_str(&format!("  devices    {devices}\n  data       {}", folder.path().display()));
        if o.data_dir.is_none() {
            text.push_str(" (temporary)");
        }
        // Told otherwise, the node has another.
        let elsewhere =
            |setting: &String| setting.starts_with("database=") || setting.starts_with("data_dir=");
        if !o.node_settings().iter().any(elsewhere) {
            let file = folder.path().join("node").join("selvedge.db");
            text.push_str(&format!("\n  database   {} (SQLite)", file.display()));
        }
        self.screen.say(&text);
    }
}

/// When a stage is over by itself.
#[derive(Debug, Clone, Copy)]
enum Until {
    /// Never by itself: the person stops it, or its time is over.
    Stopped,
    /// The devices have nothing left to do.
    DevicesDone,
    /// All gateways are up, nothing waits in an outbox, the node misses no batch and no window is open. Where a gateway does not tell
    /// its open windows, nothing may have changed for a while instead.
    Quiet {
        /// The node's windows, and since when they are as many.
        last: Option<(u64, Instant)>,
    },
}

impl Until {
    const QUIET: Until = Until::Quiet { last: None };

    fn is_reached(&mut self, fleet: Option<&Fleet>, whole: bool, view: &View) -> bool {
        match self {
            Until::Stopped => false,
            Until::DevicesDone => fleet.is_some_and(Fleet::is_done),
            Until::Quiet { last } => {
                let empty = |g: &Gateway| {
                    g.up && g.ready && g.outbox_batches == 0 && g.open_windows.unwrap_or(0) == 0
                };
                if !whole || !view.node.up || view.node.missing > 0 || !view.gateways.iter().all(empty) {
                    *last = None;
                    return false;
                }
                let windows = view.node.windows;
                let (before, since) = *last.get_or_insert_with(|| (windows, Instant::now()));
                if before != windows {
                    *last = Some((windows, Instant::now()));
                    return false;
                }
                since.elapsed() >= Duration::from_millis(QUIET_MS)
            }
        }
    }
}

/// Waits until the person has asked `times` times to stop.
pub async fn asked_to_stop(mut interrupt: watch::Receiver<u32>, times: u32) {
    // The sender lives as long as the program; were it gone, nobody could ask any more.
    if interrupt.wait_for(|asked| *asked >= times).await.is_err() {
        std::future::pending::<()>().await;
    }
}
