//! The command line of the local site.

use crate::net::{self, CutKind};
use clap::Parser;
use selvedge_types::time::parse_duration_ms;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

/// The most gateways of a local site.
pub const MAX_GATEWAYS_ENTRIES: u16 = 16;

/// How many gateways more than `--gateways` a site that grows has at most.
const MAX_JOINED_ENTRIES: u16 = 2;

/// The shortest time between two faults.
const MIN_FAULT_EVERY_MS: u128 = 100;

/// The most devices that are simulated.
const MAX_DEVICES_ENTRIES: usize = firmware_sim::fleet::MAX_DEVICES_ENTRIES;

/// Start a whole Selvedge site on this machine: gateways, a cloud node and simulated devices.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(name = "selvedge-local", version)]
pub struct Options {
    /// Stop after this time (30s, 5m, 1h); devices then resend until everything is acknowledged.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
    pub run_for: Option<Duration>,
    /// Number of simulated devices; 0: none, the site just runs.
    #[arg(long, value_name = "N", default_value_t = 36, value_parser = parse_devices)]
    pub devices: usize,
    /// Readings per second and device.
    #[arg(long, value_name = "R", default_value_t = 5.0, value_parser = parse_rate)]
    pub rate: f64,
    /// Number of gateways, each a process with a data folder of its own.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=MAX_GATEWAYS_ENTRIES as i64))]
    pub gateways: u16,
    /// Replay this CSV file (timestamp,value) instead of simulating, as one device; repeatable.
    #[arg(long, value_name = "FILE.csv")]
    pub replay: Vec<PathBuf>,
    /// Replay speed: a multiple of real time, or max.
    #[arg(long, value_name = "N|max", default_value = "1", value_parser = parse_speed)]
    pub speed: Speed,
    /// Keep all data in this folder, and continue with existing data; by default the data is temporary.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// MQTT port of the first gateway; the others take the following ones.
    #[arg(long, value_name = "P", default_value_t = 1883, value_parser = clap::value_parser!(u16).range(1..))]
    pub mqtt_port: u16,
    /// HTTP port of the first gateway; the others take the following ones.
    #[arg(long, value_name = "P", default_value_t = 8081, value_parser = clap::value_parser!(u16).range(1..))]
    pub http_port: u16,
    /// HTTP port of the node.
    #[arg(long, value_name = "P", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    pub node_port: u16,
    /// MQTT port of the node, to which gateways send their windows.
    #[arg(long, value_name = "P", default_value_t = 18830, value_parser = clap::value_parser!(u16).range(1..))]
    pub uplink_port: u16,
    /// Kill a random leading gateway with SIGKILL, this often (5s), and start it again.
    #[arg(long, value_name = "TIME", value_parser = parse_every)]
    pub kill_every: Option<Duration>,
    /// Keep a killed gateway down for this time; by default it is started again at once.
    #[arg(long, value_name = "TIME", value_parser = parse_time, requires = "kill_every")]
    pub down_for: Option<Duration>,
    /// Stop a random leading gateway with SIGSTOP, this often (5s), and let it continue afterwards.
    #[arg(long, value_name = "TIME", value_parser = parse_every)]
    pub pause_every: Option<Duration>,
    /// Keep a gateway stopped for this time.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_time)]
    pub pause_for: Duration,
    /// Cut the network of a random leading gateway, this often (5s): from one other gateway, from all, in one direction,
    /// or altogether. Needs root and the program ip, since each gateway gets a network namespace of its own.
    #[arg(long, value_name = "TIME", value_parser = parse_every)]
    pub cut_every: Option<Duration>,
    /// Keep a cut for this time.
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_time)]
    pub cut_for: Duration,
    /// Cut in this way only: from one other gateway, in one direction, from all, or altogether.
    #[arg(long, value_name = "KIND", requires = "cut_every")]
    pub cut_only: Option<CutKind>,
    /// Kill a random gateway for good, this often (30s): delete its disk, and have a new gateway take its place. Each next
    /// fault comes only when the site is whole again.
    #[arg(long, value_name = "TIME", value_parser = parse_every, conflicts_with = "data_dir")]
    pub replace_every: Option<Duration>,
    /// Let a new gateway join, or a random one leave, this often (30s). Kills and pauses go on meanwhile.
    #[arg(long, value_name = "TIME", value_parser = parse_every, conflicts_with_all = ["data_dir", "cut_every"])]
    pub grow_every: Option<Duration>,
    /// Let one more gateway join as a witness before the devices start: with `--gateways 2`, two boxes and a witness. Faults
    /// hit the boxes one after the other then, and every other cut also kills the gateway that is cut off.
    #[arg(long, conflicts_with_all = ["data_dir", "grow_every", "replace_every"])]
    pub witness: bool,
    /// Set a setting of all gateways, such as log.commit_delay_ms=250, or of the node if the key begins with `node.`, such
    /// as node.http.sql.enabled=true; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub settings: Vec<String>,
    /// Namespaces that this process was started in.
    #[arg(long, hide = true)]
    pub net: Option<String>,
    /// Print the reckoning as one JSON object on the last line.
    #[arg(long)]
    pub json: bool,
}

/// The speed of a replay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// A multiple of real time.
    Times(f64),
    /// As fast as acknowledgements allow.
    Max,
}

/// The prefix of a `--set` key that belongs to the node.
const OF_NODE: &str = "node.";

impl Options {
    /// The settings of all gateways beside those in their files.
    pub fn gateway_settings(&self) -> Vec<String> {
        self.settings.iter().filter(|setting| !setting.starts_with(OF_NODE)).cloned().collect()
    }

    /// The node's settings beside those in its file.
    pub fn node_settings(&self) -> Vec<String> {
        self.settings.iter().filter_map(|setting| setting.strip_prefix(OF_NODE)).map(str::to_string).collect()
    }

    /// How many boxes there are for gateways: those that the site begins with, and those that may join.
    pub fn boxes(&self) -> u16 {
        self.gateways
            + u16::from(self.witness)
            + if self.grow_every.is_some() { MAX_JOINED_ENTRIES } else { 0 }
    }

    /// The address of gateway `index`: loopback, or one in its network namespace.
    pub fn gateway_host(&self, index: u16) -> Ipv4Addr {
        if self.net.is_some() { net::gateway(index) } else { Ipv4Addr::LOCALHOST }
    }

    /// The address of the node: loopback, or one in the network namespace of the bridge.
    pub fn node_host(&self) -> Ipv4Addr {
        if self.net.is_some() { net::NODE } else { Ipv4Addr::LOCALHOST }
    }

    /// The MQTT address of gateway `index`.
    pub fn mqtt(&self, index: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.gateway_host(index), self.mqtt_port + index)
    }

    /// The HTTP address of gateway `index`.
    pub fn http(&self, index: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.gateway_host(index), self.http_port + index)
    }

    /// The HTTP address of the node.
    pub fn node_http(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.node_host(), self.node_port)
    }
}

impl Speed {
    /// The factor, if there is one.
    pub fn factor(self) -> Option<f64> {
        match self {
            Speed::Times(factor) => Some(factor),
            Speed::Max => None,
        }
    }
}

fn parse_speed(text: &str) -> Result<Speed, String> {
    Ok(firmware_sim::settings::parse_speed(text)?.map_or(Speed::Max, Speed::Times))
}

fn parse_setting(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.is_empty() && key != OF_NODE => Ok(text.to_string()),
        _ => Err("give KEY=VALUE, such as log.commit_delay_ms=250 or node.http.sql.enabled=true".to_string()),
    }
}

fn parse_devices(text: &str) -> Result<usize, String> {
    let devices = text.parse::<usize>().ok().filter(|n| *n <= MAX_DEVICES_ENTRIES);
    devices.ok_or_else(|| format!("give a whole number, at most {MAX_DEVICES_ENTRIES}"))
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let most = firmware_sim::settings::MAX_RATE;
    let rate = text.parse::<f64>().ok().filter(|r| *r > 0.0 && *r <= most);
    rate.ok_or_else(|| format!("give readings per second, more than 0 and at most {most}"))
}

fn parse_every(text: &str) -> Result<Duration, String> {
    let every = parse_time(text)?;
    if every.as_millis() < MIN_FAULT_EVERY_MS {
        return Err(format!("give {MIN_FAULT_EVERY_MS}ms or more"));
    }
    Ok(every)
}

/// A span of time as everywhere else (`30s`, `5m`, `1h`, `500ms`), only that a number without a unit is seconds.
fn parse_time(text: &str) -> Result<Duration, String> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let ms = if plain { parse_duration_ms(&format!("{text}s")) } else { parse_duration_ms(text) };
    let ms = ms.ok().and_then(|ms| u64::try_from(ms).ok());
    ms.map(Duration::from_millis).ok_or_else(|| "give a time such as 30s, 5m or 1h".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, String> {
        Options::try_parse_from([&["selvedge-local"], args].concat()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let options = parse(&[]).unwrap();
        assert_eq!((options.gateways, options.mqtt_port, options.http_port), (3, 1883, 8081));
        assert_eq!((options.node_port, options.uplink_port), (8080, 18830));
        assert_eq!((options.run_for, options.kill_every, options.json), (None, None, false));
        assert_eq!(options.speed, Speed::Times(1.0));
    }

    #[test]
    fn every_option_is_read() {
        let text = "--for 30s --devices 0 --rate 2.5 --gateways 5 --replay a.csv --replay b.csv --speed max \
                    --data-dir x --mqtt-port 2000 --http-port 3000 --node-port 4000 --uplink-port 5000 \
                    --kill-every 1500ms --down-for 1s --pause-every 7s --pause-for 3s --cut-every 9s --cut-for 4s --cut-only pair --json";
        let growing = parse(&["--grow-every", "20s", "--replace-every", "30s"]).unwrap();
        assert_eq!((growing.gateways, growing.boxes()), (3, 5));
        assert_eq!(growing.replace_every, Some(Duration::from_secs(30)));
        assert!(parse(&["--grow-every", "20s", "--data-dir", "x"]).is_err(), "nothing of it is kept");
        assert!(parse(&["--down-for", "1s"]).unwrap_err().contains("--kill-every"), "nothing is killed");
        let guarded = parse(&["--gateways", "2", "--witness", "--cut-every", "1s"]).unwrap();
        assert_eq!((guarded.witness, guarded.boxes()), (true, 3));
        assert!(parse(&["--witness", "--grow-every", "20s"]).is_err());
        let options = parse(&text.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!(options.run_for, Some(Duration::from_secs(30)));
        assert_eq!(options.kill_every, Some(Duration::from_millis(1_500)));
        let seconds = Duration::from_secs;
        assert_eq!((options.down_for, options.pause_every), (Some(seconds(1)), Some(seconds(7))));
        assert_eq!((options.pause_for, options.cut_for), (seconds(3), seconds(4)));
        assert_eq!((options.cut_every, options.cut_only), (Some(seconds(9)), Some(CutKind::Pair)));
        assert_eq!((options.devices, options.rate, options.gateways), (0, 2.5, 5));
        assert_eq!(options.replay.len(), 2);
        assert_eq!(options.speed, Speed::Max);
        assert!(options.json);
        assert_eq!(parse(&["--for", "90"]).unwrap().run_for, Some(seconds(90)), "a plain number is seconds");
    }

    #[test]
    fn settings_go_to_whom_they_concern() {
        let set = ["--set", "node.http.sql.enabled=true", "--set", "log.commit_delay_ms=250"];
        let options = parse(&set).unwrap();
        assert_eq!(options.node_settings(), ["http.sql.enabled=true"]);
        assert_eq!(options.gateway_settings(), ["log.commit_delay_ms=250"]);
    }

    #[test]
    fn wrong_values_say_what_would_be_right() {
        for (args, says) in [
            (["--for", "soon"], "30s"),
            (["--for", "0s"], "30s"),
            (["--for", "nan"], "30s"),
            (["--kill-every", "1ms"], "100ms"),
            (["--pause-every", "1ms"], "100ms"),
            (["--cut-for", "0s"], "30s"),
            (["--rate", "0"], "more than 0"),
            (["--rate", "NaN"], "more than 0"),
            (["--devices", "many"], "whole number"),
            (["--devices", "99999999"], "at most"),
            (["--gateways", "0"], "1..=16"),
            (["--speed", "fast"], "max"),
            (["--mqtt-port", "0"], "--mqtt-port"),
            (["--set", "node.http.sql.enabled"], "KEY=VALUE"),
            (["--set", "node.=1"], "KEY=VALUE"),
        ] {
            let said = parse(&args).unwrap_err();
            assert!(said.contains(says), "{args:?}: {said}");
        }
    }
}
