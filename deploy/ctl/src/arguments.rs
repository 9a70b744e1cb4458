//! The command line.

use clap::{Args, Parser, Subcommand};
use selvedge_types::time::parse_duration_ms;
use std::path::PathBuf;

/// Show the state of a site, and order changes to it: its gateways, its shards and their replicas.
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
    /// Invite, drain, weigh or remove a gateway.
    #[command(subcommand)]
    Gateway(GatewayCommand),
    /// Watch replicas move to where they should be.
    ///
    /// The site balances by itself whenever a gateway drains, is removed, or gets another weight. This command shows how
    /// far it is, and can pause or slow it down.
    #[command(args_conflicts_with_subcommands = true)]
    Rebalance(Rebalance),
    /// List the shards: configuration, leader, replicas.
    Shards {
        /// List only those whose replicas move, or are not where they should be.
        #[arg(long)]
        moving: bool,
    },
    /// Show one shard with its replicas.
    Shard {
        /// Number of the shard, from 0.
        shard: u16,
    },
}

#[derive(Debug, Subcommand)]
pub enum SiteCommand {
    /// List the gateways: state, release, leaders, lag, room on disk; and what moves.
    Status,
    /// Go on from what survives, when a majority of the gateways is gone for good.
    ///
    /// A shard serves only while a majority of its replicas runs. First try to start the gateways that don't run: everything is
    /// on their disks. This command is for disks that will never come back. It gives the gateways that don't answer up FOR
    /// GOOD: whatever only they had is lost, and they can never return to this site.
    ///
    /// 1. Run it without --yes. It changes nothing, and says what would be kept, what may be lost, and who is given up. Name
    ///    every gateway that still runs: `selvedge site recover --survivor http://box-1:8081 --survivor http://box-2:8081`.
    ///    Others that they know are asked too.
    ///
    /// 2. Make sure that the gateways it gives up are switched off, and stay so.
    ///
    /// 3. Run it again with --yes. Each survivor writes the plan down and ends its process; the service manager starts it
    ///    again, and it carries the plan out. If a survivor did not hear it, run the command again: it finishes what was begun.
    ///
    /// 4. When the site serves (`selvedge site status`), let new gateways join: `selvedge gateway invite`.
    #[command(verbatim_doc_comment)]
    Recover {
        /// A gateway that survives; may be given several times. The one of --gateway is asked as well.
        #[arg(long = "survivor", value_name = "URL")]
        survivors: Vec<String>,
        /// Carry it out: the gateways that don't answer are given up for good.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum GatewayCommand {
    /// Let one new gateway join, with a one-time token.
    ///
    /// The token is printed, or written into a file, once: nobody can ask for it again. The new gateway needs an empty data
    /// folder and the site's secret, and gets a number that no gateway had before.
    Invite(Invite),
    /// List the open invitations.
    ///
    /// The tokens are not shown: the site does not know them.
    Invitations,
    /// Withdraw an invitation, so that nobody can join with its token.
    Withdraw {
        /// Invitation, as `selvedge gateway invitations` names it: 8 hexadecimal digits.
        #[arg(value_name = "INVITATION", value_parser = invitation)]
        id: String,
    },
    /// Empty a gateway, for maintenance or before its removal.
    ///
    /// Its leaders, devices and replicas move to other gateways. The command watches until the gateway is empty; Ctrl-C
    /// stops only the watching.
    Drain {
        /// Number of the gateway.
        #[arg(value_name = "GATEWAY")]
        id: u16,
        /// Return as soon as the site has accepted the order.
        #[arg(long)]
        no_wait: bool,
    },
    /// End a drain: the gateway takes replicas again.
    Resume {
        /// Number of the gateway.
        #[arg(value_name = "GATEWAY")]
        id: u16,
    },
    /// Change a gateway's share of the replicas.
    Weight {
        /// Number of the gateway.
        #[arg(value_name = "GATEWAY")]
        id: u16,
        /// Share in relation to the other gateways' weights, 1 to 64.
        #[arg(allow_hyphen_values = true, value_parser = weight)]
        weight: u32,
    },
    /// Remove a gateway for good, whether or not it runs.
    ///
    /// The site refuses if a shard would lose its majority or its last good replica. Drain a gateway that runs first.
    Remove {
        /// Number of the gateway.
        #[arg(value_name = "GATEWAY")]
        id: u16,
        /// Remove it even if a shard loses its majority or its last good replica.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub struct Invite {
    /// Let it take the place of this gateway, which is removed when the new one holds all that it held. It may be dead.
    #[arg(long, value_name = "GATEWAY")]
    pub replace: Option<u16>,
    /// Let it vote without leading or taking devices: with two other gateways, the site survives the loss of any one.
    #[arg(long, conflicts_with = "replace")]
    pub witness: bool,
    /// Share of the replicas in relation to the other gateways' weights, 1 to 64; 1 by default, or as the replaced gateway.
    #[arg(long, allow_hyphen_values = true, value_parser = weight)]
    pub weight: Option<u32>,
    /// Zone: a shard's replicas are spread over zones. By default what the new gateway's settings say, or as the replaced
    /// gateway.
    #[arg(long)]
    pub zone: Option<String>,
    /// The token expires after this time (30m, 24h), at most 7d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = seconds)]
    pub lasts: u64,
    /// Write the token into this new file, which only its owner can read, instead of printing it.
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Rebalance {
    #[command(subcommand)]
    pub order: Option<RebalanceCommand>,
    /// Only show which replicas have yet to move, and where.
    #[arg(long, conflicts_with_all = ["max_rate", "no_wait"])]
    pub dry_run: bool,
    /// First limit the bandwidth of all moves together, such as 10MB/s or 512KiB/s.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub max_rate: Option<u64>,
    /// Show what has yet to move and return, instead of watching.
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub enum RebalanceCommand {
    /// Stop all moves, until they are continued.
    Pause,
    /// End a pause: moves go on from where they were.
    Continue,
}

/// The greatest weight of a gateway. The site itself checks it too.
const MAX_WEIGHT: u32 = 64;

fn weight(text: &str) -> Result<u32, String> {
    let weight = text.parse().ok().filter(|weight| (1..=MAX_WEIGHT).contains(weight));
    weight.ok_or_else(|| {
        format!(
            "give a whole number from 1 to {MAX_WEIGHT}; `selvedge gateway drain` moves everything off a gateway"
        )
    })
}

/// A time in whole seconds, from a text such as `24h`.
fn seconds(text: &str) -> Result<u64, String> {
    let ms = parse_duration_ms(text).map_err(|e| e.to_string())?;
    u64::try_from(ms / 1_000).ok().filter(|s| *s > 0).ok_or_else(|| "give one second or more".to_string())
}

/// The name of an invitation.
fn invitation(text: &str) -> Result<String, String> {
    match text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(text.to_lowercase()),
        false => {
            Err("give 8 hexadecimal digits, as `selvedge gateway invitations` lists them; not the token"
                .to_string())
        }
    }
}

/// A rate in bytes per second, from a text such as `10MB/s`.
fn rate(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).trim_end();
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    let (count, unit) = number.split_at(digits);
    let unit: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err("give a whole number and a unit, such as 10MB/s or 512KiB/s".to_string()),
    };
    let count: u64 =
        count.parse().map_err(|_| "give a whole number and a unit, such as 10MB/s".to_string())?;
    count.checked_mul(unit).ok_or_else(|| "is too large".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_a_unit_or_are_bytes() {
        for (text, bytes) in
            [("10MB/s", 10_000_000), ("512KiB/s", 524_288), ("1GiB", 1 << 30), ("7", 7), ("3 kB/s", 3_000)]
        {
            assert_eq!(rate(text), Ok(bytes), "{text}");
        }
        for wrong in
            ["", "MB/s", "10Mbit/s", "1.5MB/s", "-1", "10 m", "99999999999GB", "99999999999999999999"]
        {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_weight_that_is_out_of_range_is_answered_with_the_range() {
        let read = |words: &[&str]| {
            let words = [&["selvedge", "gateway"], words].concat();
            Arguments::try_parse_from(words).map(|_| ()).map_err(|e| e.to_string())
        };
        assert_eq!((read(&["weight", "3", "64"]), read(&["invite", "--weight", "1"])), (Ok(()), Ok(())));
        for wrong in ["-1", "0", "65", "1.5", "two"] {
            for words in [&["weight", "3", wrong][..], &["invite", "--weight", wrong]] {
                let said = read(words).unwrap_err();
                assert!(said.contains("a whole number from 1 to 64"), "{words:?}: {said}");
            }
        }
    }

    #[test]
    fn rebalance_takes_an_order_or_options_but_not_both() {
        let read = |words: &[&str]| {
            Arguments::try_parse_from([&["selvedge", "rebalance"], words].concat()).map_err(|e| e.to_string())
        };
        for right in [
            &[][..],
            &["pause"],
            &["continue", "--json"],
            &["--dry-run"],
            &["--max-rate", "1MB/s", "--no-wait"],
        ] {
            assert!(read(right).is_ok(), "{right:?}");
        }
        for wrong in
            [&["--dry-run", "pause"][..], &["--dry-run", "--max-rate", "1MB/s"], &["--max-rate", "fast"]]
        {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
