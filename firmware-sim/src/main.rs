//! The program `firmware-sim`: simulated devices against any MQTT endpoint.

use clap::{Parser, Subcommand};
use firmware_sim::bench::{self, plan::BenchPlan, plot::Picture, summary::Summary};
use firmware_sim::fleet::{Fleet, Progress};
use firmware_sim::gaps::GapReport;
use firmware_sim::settings::{ENV_PREFIX, Settings};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Simulate devices that publish over MQTT until every reading is acknowledged.
#[derive(Debug, Parser)]
#[command(name = "firmware-sim", version, args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    /// Read the settings from this file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the settings and exit.
    #[arg(long)]
    check_config: bool,
    /// MQTT address of a gateway; repeatable.
    #[arg(long, value_name = "HOST:PORT")]
    gateway: Vec<String>,
    /// Number of simulated devices.
    #[arg(long, value_name = "N")]
    devices: Option<usize>,
    /// Readings per second and device.
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Seed of everything random: signals, faults, order of gateways.
    #[arg(long)]
    seed: Option<u64>,
    /// Replay this CSV file (timestamp,value) instead of simulating, as one device; repeatable.
    #[arg(long, value_name = "FILE.csv")]
    replay: Vec<PathBuf>,
    /// Replay speed: a multiple of real time, or max.
    #[arg(long, value_name = "N|max")]
    speed: Option<String>,
    /// Stop measuring after this many seconds.
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench {
        #[command(flatten)]
        plan: BenchPlan,
        /// Append the report to this file, as one line of JSON.
        #[arg(long, value_name = "FILE.jsonl")]
        json: Option<PathBuf>,
    },
    Plot(Picture),
    Summary(Summary),
}

impl Command {
    fn run(self) -> Result<(), String> {
        match self {
            Command::Bench { plan, json } => {
                let report = bench::run(&plan)?;
                print!("{report}");
                let Some(path) = json else { return Ok(()) };
                let mut line = serde_json::to_vec(&report).map_err(|e| e.to_string())?;
                line.push(b'\n');
                let file = std::fs::File::options().append(true).create(true).open(&path);
                file.and_then(|mut f| f.write_all(&line)).map_err(|e| format!("{}: {e}", path.display()))
            }
            Command::Plot(picture) => picture.make(),
            Command::Summary(summary) => summary.table().map(|table| print!("{table}")),
        }
    }
}

impl Options {
    fn settings(&self) -> Result<Settings, String> {
        let mut flags = Vec::new();
        let mut flag = |key: &str, value: Option<String>| {
            flags.extend(value.map(|value| (key.to_string(), value)));
        };
        flag("gateways", (!self.gateway.is_empty()).then(|| self.gateway.join(",")));
        flag("devices", self.devices.map(|v| v.to_string()));
        flag("rate", self.rate.map(|v| v.to_string()));
        flag("seed", self.seed.map(|v| v.to_string()));
        flag("speed", self.speed.clone());
        flag("seconds", self.seconds.map(|v| v.to_string()));
        let mut settings: Settings =
            selvedge_config::load(self.config.as_deref(), ENV_PREFIX, &flags).map_err(|e| e.to_string())?;
        if !self.replay.is_empty() {
            settings.replay.clone_from(&self.replay);
        }
        Ok(settings)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(command) = options.command {
        return match command.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("firmware-sim: {why}");
                ExitCode::FAILURE
            }
        };
    }
    let prepared = options.settings().and_then(|settings| Ok((settings.fleet()?, settings)));
    let (fleet, settings) = match prepared {
        Ok(prepared) => prepared,
        Err(why) => {
            eprintln!("firmware-sim: {why}");
            return ExitCode::from(2);
        }
    };
    if options.check_config {
        println!("the settings are valid");
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!("firmware-sim: no runtime: {why}");
            return ExitCode::FAILURE;
        }
    };
    let (progress, gaps, started) = runtime.block_on(async {
        let started = Instant::now();
        let (progress, gaps) = run(&settings, Fleet::start(&fleet)).await;
        (progress, gaps, started)
    });
    let summary = serde_json::json!({
        "devices": progress.devices,
        "published": progress.published,
        "acked": progress.acked,
        "set_aside": progress.set_aside,
        "unacknowledged": progress.published.saturating_sub(progress.acked),
        "resends": progress.resends,
        "connects": progress.connects,
        "sent_away": progress.sent_away,
        "skipped": progress.skipped,
        "longest_gap_ms": gaps.site_ms,
        "longest_device_gap_ms": gaps.device_ms,
        "seconds": (started.elapsed().as_secs_f64() * 1_000.0).round() / 1_000.0,
    });
    println!("{summary}");
    if progress.pending == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(settings: &Settings, mut fleet: Fleet) -> (Progress, GapReport) {
    let limit = match settings.seconds {
        0 => Duration::MAX,
        seconds => Duration::from_secs(seconds),
    };
    wait(&fleet, limit).await;
    fleet.drain();
    wait(&fleet, Duration::from_secs(settings.drain_seconds)).await;
    let gaps = fleet.gaps();
    fleet.stop().await;
    (fleet.progress(), gaps)
}

/// Waits until all devices are done, the time is over or Ctrl-C is pressed.
async fn wait(fleet: &Fleet, limit: Duration) {
    let done = async {
        while !fleet.is_done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let over = async {
        match limit {
            Duration::MAX => std::future::pending().await,
            limit => tokio::time::sleep(limit).await,
        }
    };
    tokio::select! {
        () = done => {}
        () = over => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
