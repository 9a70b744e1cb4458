//! `selvedge`, the operators' command: asks any gateway over HTTP for the state of its site, and prints tables or JSON.
//!
//! ```text
//! command line -> arguments -> client (one request) -> site, shards (JSON into a view) -> table
//! ```
//!
//! That gateway collects the answers of all others, so one address is enough. With `--json` the command prints the
//! gateway's JSON without a view, for programs.

mod arguments;
mod client;
mod shards;
mod site;
mod table;

use arguments::{Arguments, Command, SiteCommand};
use clap::Parser;
use client::{AskError, Client};
use serde_json::Value;
use std::ffi::OsString;
use std::process::ExitCode;

/// Why a command has nothing to print.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line is wrong, or asks for help or the version.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// The gateway gave no usable answer.
    #[error(transparent)]
    Ask(#[from] AskError),
}

impl Failure {
    /// Prints the failure and returns the exit code: 0 for help and version, 2 for a wrong command line, 1 for
    /// everything else.
    pub fn exit(self) -> ExitCode {
        match self {
            Self::CommandLine(e) => {
                let _ = e.print(); // if printing fails, nothing is left to report it to
                if e.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
            }
            Self::Ask(e) => {
                eprintln!("selvedge: {e}");
                let of_the_command_line = matches!(e, AskError::Address(_));
                ExitCode::from(if of_the_command_line { 2 } else { 1 })
            }
        }
    }
}

/// Carries out a command line, whose first word is the program's name. Returns the text to print.
///
/// # Errors
/// When the command line is wrong, or the gateway gives no usable answer.
pub fn run(words: impl IntoIterator<Item = OsString>) -> Result<String, Failure> {
    let arguments = Arguments::try_parse_from(words)?;
    let client = Client::new(&arguments.gateway, arguments.token_file.as_deref())?;
    let (path, list, view): (String, _, fn(&Value) -> String) = match arguments.command {
        Command::Site(SiteCommand::Status) => ("/v1/gateways".into(), "gateways", site::status),
        // The largest page: it holds the shards of any site.
        Command::Shards => ("/v1/shards?limit=10000".into(), "shards", shards::list),
        Command::Shard { shard } => (format!("/v1/shards/{shard}"), "replicas", shards::one),
    };
    let answer = client.get(&path, list)?;
    match arguments.json {
        true => Ok(format!("{answer:#}\n")),
        // Names in it come from elsewhere, and control characters would reach the terminal.
        false => Ok(view(&answer).chars().filter(|c| *c == '\n' || !c.is_control()).collect()),
    }
}
