//! `selvedge-node` as a program: its command line, its settings, its log of events.

use crate::lake::command::Export;
use crate::lake::target;
use crate::node::{Node, NodeError};
use crate::settings::{Checked, ENV_PREFIX, NodeSettings, SettingsError};
use crate::stats::describe_metrics;
use crate::store::{Database, sql_worker};
use crate::token::TokenArguments;
use clap::{Parser, Subcommand};
use metrics_exporter_prometheus::PrometheusBuilder;
use rustix::fs::Mode;
use rustix::process::umask;
use selvedge_config::{SettingOrigin, bounded_log_filter, key_value, origin_of, wants_colours};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Apply the batches of the sites' gateways, each exactly once, and answer queries.
///
/// Settings come from the file, from SELVEDGE_NODE_* environment variables (SELVEDGE_NODE_HTTP__PORT sets
/// http.port) and from the command line; the later one wins.
#[derive(Parser)]
#[command(
    name = "selvedge-node",
    version,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Read the settings from this file (TOML).
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the settings and exit.
    #[arg(long)]
    check_config: bool,
    /// Keep the database in this folder (`data_dir`).
    #[arg(long, global = true, value_name = "FOLDER")]
    data_dir: Option<String>,
    /// Listen for HTTP at this address (`http.host`).
    #[arg(long, value_name = "ADDRESS")]
    http_host: Option<String>,
    /// Listen for HTTP at this port (`http.port`).
    #[arg(long, value_name = "PORT")]
    http_port: Option<String>,
    /// Address of the broker (`uplink.host`).
    #[arg(long, value_name = "HOST")]
    uplink_host: Option<String>,
    /// Port of the broker (`uplink.port`).
    #[arg(long, value_name = "PORT")]
    uplink_port: Option<String>,
    /// Set any other setting, such as `--set uplink.broker=external`; repeatable.
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

/// What is done instead of running a node.
#[derive(Subcommand)]
enum Command {
    Token(TokenArguments),
    Export(Export),
}

/// What a process does.
enum Job<'a> {
    Serve(Box<Checked>),
    Export(&'a Export, Box<NodeSettings>, Database),
}

impl Job<'_> {
    fn settings(&self) -> &NodeSettings {
        match self {
            Self::Serve(checked) => &checked.settings,
            Self::Export(_, settings, _) => settings,
        }
    }
}

fn make_token(arguments: &TokenArguments) -> ExitCode {
    match arguments.make().and_then(|made| Ok((made, arguments.holder()?))) {
        Ok(((token, lines), holder)) => {
            println!("The token, shown this once; it goes into `Authorization: Bearer ...`:\n\n{token}\n");
            println!("For {holder}:\n\n{lines}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("selvedge-node: {why}");
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    /// What the command line sets, by dotted keys.
    fn overrides(&self) -> Vec<(String, String)> {
        let named = [
            ("data_dir", &self.data_dir),
            ("http.host", &self.http_host),
            ("http.port", &self.http_port),
            ("uplink.host", &self.uplink_host),
            ("uplink.port", &self.uplink_port),
        ];
        let named = named.into_iter().filter_map(|(key, value)| Some((key.to_string(), value.clone()?)));
        self.set.iter().cloned().chain(named).collect()
    }

    fn settings(&self) -> Result<NodeSettings, SettingsError> {
        NodeSettings::load(self.config.as_deref(), &self.overrides())
    }

    /// Where the value that an error names stands, if it is anywhere but in the defaults.
    fn origin(&self, error: &SettingsError) -> Option<SettingOrigin> {
        let SettingsError::Wrong { key, .. } = error else { return None };
        let file = self.config.as_deref();
        let origin = origin_of::<NodeSettings>(file, ENV_PREFIX, &self.overrides(), key);
        (origin != SettingOrigin::Defaults).then_some(origin)
    }

    /// What is to be done.
    fn job(&self) -> Result<Job<'_>, SettingsError> {
        let settings = self.settings()?;
        Ok(match &self.command {
            // Needs no site's secret.
            Some(Command::Export(export)) => {
                let database = settings.database()?;
                Job::Export(export, Box::new(settings), database)
            }
            _ => Job::Serve(Box::new(settings.check()?)),
        })
    }
}

/// Runs the program with this command line (its name first) until a signal stops it.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.get(1).is_some_and(|first| first == sql_worker::ARGUMENT) {
        return sql_worker::run();
    }
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print(); // nobody reads it if that fails
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    if let Some(Command::Token(token)) = &arguments.command {
        return make_token(token);
    }
    let job = match arguments.job() {
        Ok(job) => job,
        Err(error) => {
            match arguments.origin(&error) {
                Some(origin) => eprintln!("selvedge-node: {error} (the value is {origin})"),
                None => eprintln!("selvedge-node: {error}"),
            }
            return ExitCode::from(2);
        }
    };
    if arguments.check_config {
        println!("the settings are valid: {} sites", job.settings().sites.len());
        return ExitCode::SUCCESS;
    }
    if matches!(job, Job::Serve(_)) {
        // What a node writes is its own; what is exported by hand is for whom the caller's umask says.
        umask(Mode::from_raw_mode(0o077));
    }
    let filter = tracing_subscriber::EnvFilter::new(bounded_log_filter(&job.settings().log));
    let colours = wants_colours(std::io::stderr().is_terminal());
    // A log that can't be written (its disk is full) must not end the program.
    tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Runtime::new().map_err(|error| tracing::error!("can't start: {error}"));
    let Ok(runtime) = runtime else { return ExitCode::FAILURE };
    let checked = match job {
        Job::Export(export, settings, database) => {
            return runtime.block_on(run_export(export, &settings, database));
        }
        Job::Serve(checked) => *checked,
    };
    match runtime.block_on(serve(checked)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Exports what a database holds; one that is not there is not made.
async fn run_export(export: &Export, settings: &NodeSettings, database: Database) -> ExitCode {
    let failed = |why: String| {
        eprintln!("selvedge-node: {why}");
        ExitCode::from(2)
    };
    let address = match export.to.as_deref().unwrap_or(&settings.lake.url) {
        "" => return failed("say where to: `--to ADDRESS`, or the setting `lake.url`".to_string()),
        address => address,
    };
    if let Database::Sqlite(folder) = &database
        && !folder.join("selvedge.db").exists()
    {
        return failed(format!("there is no database in {} (setting `data_dir`)", folder.display()));
    }
    if let Err(error) = target::check_address(address) {
        return failed(error.to_string());
    }
    export.run(&database, address).await
}

async fn serve(checked: Checked) -> Result<(), NodeError> {
    // Heard from the start: a stop that comes while the node starts is no crash either.
    let asked_to_stop = asked_to_stop();
    let metrics = PrometheusBuilder::new().install_recorder().ok();
    describe_metrics();
    let mut node = Node::start(checked, metrics).await?;
    tracing::info!("queries: http://{}/v1/status", node.http);
    if let Some(broker) = node.broker {
        tracing::info!("embedded broker: {broker}");
    }
    let ended = tokio::select! {
        () = asked_to_stop => None,
        error = node.ended() => Some(error),
    };
    match ended {
        Some(error) => Err(error),
        None => {
            tracing::info!("stopping");
            node.stop().await
        }
    }
}

/// SIGTERM or SIGINT, from the call on, not only from the first poll on.
fn asked_to_stop() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut term), Ok(mut int)) = signals else {
            tracing::warn!("can't watch for signals; stop the node with SIGKILL");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    }
}
