//! `selvedge-gateway` as a program: its command line, its settings, and its log output.

use crate::actors::wiring;
use crate::settings::{ENVIRONMENT_PREFIX, Settings, SettingsError, SiteEntry};
use clap::Parser;
use rustix::fs::Mode;
use rustix::process::umask;
use selvedge_config::{
    SettingOrigin, bounded_log_filter, check_log_filter, key_value, origin_of, wants_colours,
};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Accept readings from devices over MQTT, keep them on a majority of the site's gateways, and send their
/// aggregates to cloud nodes.
///
/// Settings come from the file, from SELVEDGE_GATEWAY_* environment variables (SELVEDGE_GATEWAY_MQTT__BIND sets mqtt.bind)
/// and from the command line; the later one wins. RUST_LOG sets the log filter (info by default).
#[derive(Debug, Parser)]
#[command(name = "selvedge-gateway", version)]
struct Arguments {
    /// Read the settings from this file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the settings and exit.
    #[arg(long)]
    check_config: bool,
    /// Keep the gateway's data in this folder (`gateway.data_dir`).
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<String>,
    /// Join a running site with the one-time token in this file (`gateway.join_token_file`).
    #[arg(long, value_name = "FILE")]
    join: Option<String>,
    /// Set any other setting, such as `--set mqtt.bind=0.0.0.0:1883`; repeatable.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

/// Runs the program with this command line (its name first) until a signal stops it.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(e) => {
            let _ = e.print(); // if printing fails, nothing is left to report it to
            return if e.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let mut overrides = arguments.set;
    overrides.extend(arguments.join.map(|file| ("gateway.join_token_file".to_string(), file)));
    overrides.extend(arguments.data_dir.map(|dir| ("gateway.data_dir".to_string(), dir)));
    let checked = Settings::load(arguments.config.as_deref(), &overrides).and_then(Settings::check);
    let checked = match checked {
        Ok(checked) => checked,
        Err(e) => return say(&e, arguments.config.as_deref(), &overrides),
    };
    let logged = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let logged = logged.unwrap_or_else(|| "info".to_string());
    if let Err(why) = check_log_filter(&logged) {
        eprintln!("selvedge-gateway: the environment variable RUST_LOG: {why}");
        return ExitCode::from(2);
    }
    if arguments.check_config {
        let site = &checked.site;
        match &checked.entry {
            SiteEntry::Founds { me, genesis, .. } => {
                println!("the settings are valid: gateway {me} of {} in site {site}", genesis.gateways.len());
            }
            SiteEntry::Joins { seeds, .. } => {
                println!(
                    "the settings are valid: a gateway that joins site {site}, and asks {}",
                    seeds.join(", ")
                );
            }
        }
        return ExitCode::SUCCESS;
    }
    // Files that this process creates are for its own user only, whatever umask it inherited.
    umask(Mode::from_raw_mode(0o077));
    let colours = wants_colours(std::io::stderr().is_terminal());
    // A log that can't be written (its disk is full) must not end the program.
    tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(EnvFilter::new(bounded_log_filter(&logged)))
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .init();
    match actix::System::new().block_on(wiring::run(checked)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("selvedge-gateway: {e}");
            // Ends everything that was started at once, instead of one part after the other while the rest still relies
            // on it.
            std::process::exit(1)
        }
    }
}

fn say(e: &SettingsError, file: Option<&Path>, overrides: &[(String, String)]) -> ExitCode {
    let origin = e.key().map(|key| origin_of::<Settings>(file, ENVIRONMENT_PREFIX, overrides, key));
    match origin.filter(|origin| *origin != SettingOrigin::Defaults) {
        Some(origin) => eprintln!("selvedge-gateway: {e} (the value is {origin})"),
        None => eprintln!("selvedge-gateway: {e}"),
    }
    ExitCode::from(2)
}
