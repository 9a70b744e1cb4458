//! The plan of a measurement: its load and its length.

use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The most connections: one address has ports for about as many.
pub const MAX_CONNECTIONS_ENTRIES: usize = 60_000;
/// The most devices whose readings are spread over the connections.
pub const MAX_DEVICES_ENTRIES: usize = 1_000_000;
/// The most publishes of a connection without an acknowledgement: MQTT's packet ids are 16 bits.
pub const MAX_IN_FLIGHT_ENTRIES: usize = 65_535;
/// The longest measurement, in seconds.
pub const MAX_SECONDS: u64 = 86_400;
/// The most threads of the generator.
pub const MAX_THREADS_ENTRIES: usize = 64;

/// Measure an MQTT broker: how fast it acknowledges, and what that costs it.
///
/// Closed loop: every connection keeps `--in-flight` publishes unacknowledged, which finds the highest throughput.
/// Open loop, with `--rate`: readings are due at fixed times whether the broker keeps up or not, and latency counts
/// from the time a reading was due (no coordinated omission).
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
pub struct BenchPlan {
    /// Address of the broker; repeatable, the connections are spread over all addresses.
    #[arg(long = "target", value_name = "HOST:PORT", default_value = "127.0.0.1:1883")]
    pub targets: Vec<String>,
    /// Name of the broker in tables and pictures.
    #[arg(long, default_value = "selvedge")]
    pub label: String,
    /// Number of connections.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub connections: usize,
    /// Unacknowledged publishes of each connection at most; with --rate up to 65535.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub in_flight: usize,
    /// Number of devices, spread over the connections; 0: one for each connection.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub devices: usize,
    /// Open loop: readings per second of all connections together; 0: closed loop.
    #[arg(long, value_name = "R", default_value_t = 0.0)]
    pub rate: f64,
    /// Only connect, and publish nothing.
    #[arg(long)]
    pub idle: bool,
    /// Measure for this many seconds.
    #[arg(long, value_name = "S", default_value_t = 10)]
    pub seconds: u64,
    /// Run this many seconds without measuring first.
    #[arg(long, value_name = "S", default_value_t = 3)]
    pub warmup: u64,
    /// Number of threads of the generator in a closed loop.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// First create a persistent session with a subscription, for brokers that store publishes only for subscribers.
    #[arg(long)]
    pub subscriber: bool,
    /// Measure a write of 256 bytes and its fdatasync in this folder first.
    #[arg(long, value_name = "DIR")]
    pub disk: Option<PathBuf>,
    /// User name at the broker.
    #[arg(long, default_value = "")]
    pub username: String,
    /// Password at the broker.
    #[arg(long, default_value = "", env = "SELVEDGE_BENCH_PASSWORD", hide_env_values = true)]
    #[serde(skip)]
    pub password: String,
    /// Process of the broker whose memory, processor time and bytes written to measure; repeatable.
    #[arg(long = "watch", value_name = "PID")]
    pub watch: Vec<u32>,
}

impl Default for BenchPlan {
    fn default() -> Self {
        Self {
            targets: vec!["127.0.0.1:1883".into()],
            label: "selvedge".into(),
            connections: 50,
            in_flight: 100,
            devices: 0,
            rate: 0.0,
            idle: false,
            seconds: 10,
            warmup: 3,
            threads: 1,
            subscriber: false,
            disk: None,
            username: String::new(),
            password: String::new(),
            watch: Vec::new(),
        }
    }
}

impl BenchPlan {
    /// Checks what types can't.
    ///
    /// # Errors
    /// Names the option and what would be right.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: usize, least: usize, most: usize| {
            let right = (least..=most).contains(&value);
            right.then_some(()).ok_or_else(|| format!("--{name} is {value}; give {least} to {most}"))
        };
        within("connections", self.connections, 1, MAX_CONNECTIONS_ENTRIES)?;
        within("in-flight", self.in_flight, 1, MAX_IN_FLIGHT_ENTRIES)?;
        within("devices", self.devices, 0, MAX_DEVICES_ENTRIES)?;
        within("threads", self.threads, 1, MAX_THREADS_ENTRIES)?;
        within("seconds", self.seconds as usize, 1, MAX_SECONDS as usize)?;
        within("warmup", self.warmup as usize, 0, MAX_SECONDS as usize)?;
        if !(self.rate.is_finite() && self.rate >= 0.0 && self.rate <= 1e8) {
            return Err(format!("--rate is {}; give readings per second, or 0 for a closed loop", self.rate));
        }
        if self.devices > 0 && self.devices < self.connections {
            return Err(format!(
                "--devices is {} for {} connections; give at least one each",
                self.devices, self.connections
            ));
        }
        Ok(())
    }

    /// How many devices publish: one for each connection, unless the plan says otherwise.
    pub fn devices(&self) -> usize {
        if self.devices == 0 { self.connections } else { self.devices }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_named() {
        let said = |change: fn(&mut BenchPlan)| {
            let mut plan = BenchPlan::default();
            change(&mut plan);
            plan.check().unwrap_err()
        };
        assert!(said(|p| p.connections = 0).contains("--connections is 0"));
        assert!(said(|p| p.in_flight = 70_000).contains("65535"));
        assert!(said(|p| p.rate = f64::NAN).contains("--rate"));
        assert!(said(|p| p.devices = 3).contains("at least one each"));
        assert!(said(|p| p.seconds = 0).contains("--seconds"));
        BenchPlan::default().check().unwrap();
    }
}
