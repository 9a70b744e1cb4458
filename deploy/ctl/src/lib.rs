//! `selvedge`, the command for operators: asks any gateway over HTTP how its site is, and prints tables or JSON.
//!
//! ```text
//! command line -> arguments -> client (one request) -> site, shards (JSON into a view) -> table
//! ```
//!
//! The gateway that is asked gathers the answers of all others, so one address is enough. With `--json` the gateway's
//! answer is printed as it came, for programs.

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
    /// The command line is wrong, or asks for help.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// The gateway gave no answer that is one.
    #[error(transparent)]
    Ask(#[from] AskError),
}

impl Failure {
    /// Prints why, and gives the code to exit with: 2 for a wrong command line, 1 for everything else.
    pub fn exit(self) -> ExitCode {
        match self {
            Self::CommandLine(e) => {
                let _ = e.print(); // if printing fails, nothing is left to report it to
                if e.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
            }
            Self::Ask(e) => {
                eprintln!("selvedge: {e}");
                ExitCode::FAILURE
            }
        }
    }
}

/// Carries out a command line (its name first), and returns what it prints.
///
/// # Errors
/// Says what is wrong with the command line, or why the gateway gave no answer.
pub fn run(words: impl IntoIterator<Item = OsString>) -> Result<String, Failure> {
    let arguments = Arguments::try_parse_from(words)?;
    let client = Client::new(&arguments.gateway, arguments.token_file.as_deref())?;
    let (path, view): (String, fn(&Value) -> String) = match arguments.command {
        Command::Site(SiteCommand::Status) => ("/v1/gateways".into(), site::status),
        Command::Shards => ("/v1/shards".into(), shards::list),
        Command::Shard { shard } => (format!("/v1/shards/{shard}"), shards::one),
    };
    let answer = client.get(&path)?;
    match arguments.json {
        true => Ok(format!("{answer:#}\n")),
        false => Ok(view(&answer)),
    }
}
