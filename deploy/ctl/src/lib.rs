//! `selvedge`, the operators' command: asks any gateway over HTTP for the state of its site, and prints tables or JSON. It
//! also orders changes to the site, and watches how they are carried out.
//!
//! ```text
//! command line -> arguments -> client (one request) -> site, shards, moving (JSON into a view) -> table
//!                           -> client (an order)    -> watch (requests until it is carried out)
//! ```
//!
//! That gateway collects the answers of all others, so one address is enough. With `--json` the command prints the
//! gateway's JSON without a view, for programs. Progress goes to standard error.

mod arguments;
mod client;
mod invite;
mod moving;
mod recover;
mod shards;
mod site;
mod table;
mod watch;

use arguments::{Arguments, Command, GatewayCommand, Rebalance, RebalanceCommand, SiteCommand};
use clap::Parser;
use client::{AskError, Client, Order};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::process::ExitCode;
use watch::Goal;

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
    let show = |path: &str, list, view: fn(&Value) -> String| {
        let answer = client.get(path, list)?;
        let text = view(&answer);
        Ok((answer, text))
    };
    let (answer, text) = match arguments.command {
        Command::Site(SiteCommand::Status) => show("/v1/gateways", "gateways", site::status),
        Command::Site(SiteCommand::Recover { survivors, yes }) => {
            recover::recover(&client, arguments.token_file.as_deref(), &survivors, yes)
        }
        // The largest page: it holds the shards of any site.
        Command::Shards { moving: false } => show("/v1/shards?limit=10000", "shards", shards::list),
        Command::Shards { moving: true } => show("/v1/directory", "gateways", moving::list),
        Command::Shard { shard } => show(&format!("/v1/shards/{shard}"), "replicas", shards::one),
        Command::Gateway(order) => gateway(&client, &order),
        Command::Rebalance(Rebalance { order: Some(RebalanceCommand::Pause), .. }) => {
            let answer = client.order(&Order::post("/v1/moves/pause", None))?;
            let text = told(
                &answer,
                "moves are paused; `selvedge rebalance continue` ends the pause",
                "moves were paused already",
            );
            Ok((answer, text))
        }
        Command::Rebalance(Rebalance { order: Some(RebalanceCommand::Continue), .. }) => {
            let answer = client.order(&Order::post("/v1/moves/continue", None))?;
            let text =
                told(&answer, "moves go on; `selvedge rebalance` watches them", "moves were not paused");
            Ok((answer, text))
        }
        Command::Rebalance(Rebalance { order: None, dry_run, max_rate, no_wait }) => {
            if let Some(bytes_per_s) = max_rate {
                client.order(&Order::post("/v1/moves/rate", Some(json!({ "bytes_per_s": bytes_per_s }))))?;
            }
            match dry_run || no_wait {
                true => show("/v1/directory", "gateways", moving::list),
                false => watched(&client, Goal::Balanced),
            }
        }
    }?;
    match arguments.json {
        true => Ok(format!("{answer:#}\n")),
        // Names in it come from elsewhere, and control characters would reach the terminal.
        false => Ok(text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()),
    }
}

/// Sends an order for one gateway. Returns the last answer, and what to print.
fn gateway(client: &Client, order: &GatewayCommand) -> Result<(Value, String), AskError> {
    let (order, changed, unchanged) = match order {
        GatewayCommand::Invite(asked) => return invite::invite(client, asked),
        GatewayCommand::Invitations => {
            let answer = client.get("/v1/invitations", "invitations")?;
            let text = invite::list(&answer);
            return Ok((answer, text));
        }
        GatewayCommand::Withdraw { id } => (
            Order::delete(format!("/v1/invitations/{id}")),
            format!("invitation {id} is withdrawn: nobody can join with its token"),
            format!("invitation {id} had expired or was withdrawn already"),
        ),
        GatewayCommand::Drain { id, no_wait } => {
            let answer = client.order(&Order::post(format!("/v1/gateways/{id}/drain"), None))?;
            if !no_wait {
                return watched(client, Goal::Drained(*id));
            }
            let text = told(
                &answer,
                &format!("gateway {id} drains; `selvedge site status` shows how far it is"),
                &format!("gateway {id} was draining already"),
            );
            return Ok((answer, text));
        }
        GatewayCommand::Resume { id } => (
            Order::post(format!("/v1/gateways/{id}/resume"), None),
            format!("gateway {id} is active again; `selvedge rebalance` watches its replicas move back"),
            format!("gateway {id} was not draining"),
        ),
        GatewayCommand::Weight { id, weight } => (
            Order::post(format!("/v1/gateways/{id}/weight"), Some(json!({ "weight": weight }))),
            format!("gateway {id} has weight {weight}; `selvedge rebalance` watches replicas move"),
            format!("gateway {id} had weight {weight} already"),
        ),
        GatewayCommand::Remove { id, force } => (
            Order::delete(format!("/v1/gateways/{id}{}", if *force { "?force=true" } else { "" })),
            format!(
                "gateway {id} is removed for good; `selvedge rebalance` watches its replicas being rebuilt on others, if it had any"
            ),
            format!("gateway {id} was removed already"),
        ),
    };
    let answer = client.order(&order)?;
    let text = told(&answer, &changed, &unchanged);
    Ok((answer, text))
}

fn watched(client: &Client, goal: Goal) -> Result<(Value, String), AskError> {
    let (answer, how) = watch::watch(client, goal)?;
    Ok((answer, format!("{how}\n")))
}

/// The line for an order that was accepted.
fn told(answer: &Value, changed: &str, unchanged: &str) -> String {
    format!("{}\n", if answer["changed"] == true { changed } else { unchanged })
}
