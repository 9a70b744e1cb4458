//! The command line.

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Show the state of a site: its gateways, its shards and their replicas.
///
/// Any gateway can answer for the whole site.
#[derive(Debug, Parser)]
#[command(name = "selvedge", version)]
pub struct Arguments {
    /// Ask the gateway at this HTTP address.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "SELVEDGE_GATEWAY",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8081"
    )]
    pub gateway: String,
    /// Authenticate with the token in this file, which only its owner may be able to read.
    #[arg(long, global = true, value_name = "FILE", env = "SELVEDGE_TOKEN_FILE", hide_env_values = true)]
    pub token_file: Option<PathBuf>,
    /// Print the gateway's answer as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the site as a whole.
    #[command(subcommand)]
    Site(SiteCommand),
    /// List the shards: configuration, leader, replicas.
    Shards,
    /// Show one shard with its replicas.
    Shard {
        /// Number of the shard, from 0.
        shard: u16,
    },
}

#[derive(Debug, Subcommand)]
pub enum SiteCommand {
    /// List the gateways: state, release, leaders, lag, room on disk.
    Status,
}
