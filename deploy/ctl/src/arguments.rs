//! The command line.

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Show how a site is: its gateways, its shards and their replicas.
///
/// Any gateway of the site answers for all of it.
#[derive(Debug, Parser)]
#[command(name = "selvedge", version)]
pub struct Arguments {
    /// Ask the gateway whose HTTP is at this address.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "SELVEDGE_GATEWAY",
        default_value = "http://127.0.0.1:8081"
    )]
    pub gateway: String,
    /// Show the token in this file, which only its owner may read.
    #[arg(long, global = true, value_name = "FILE", env = "SELVEDGE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Print the answer as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at the site as a whole.
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
