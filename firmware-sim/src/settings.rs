//! The settings of `firmware-sim`: defaults, file, `SELVEDGE_SIM_*` variables, flags.

use crate::fleet::{FleetSettings, MAX_DEVICES_ENTRIES, new_boot};
use crate::replay;
use crate::session::MAX_IN_FLIGHT_ENTRIES;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The prefix of the environment variables: `SELVEDGE_SIM_DEVICES` sets `devices`.
pub const ENV_PREFIX: &str = "SELVEDGE_SIM";

/// The greatest rate of readings per second and device.
pub const MAX_RATE: f64 = 10_000.0;

/// The settings, as the file and the environment name them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The gateways' MQTT addresses, `host:port`.
    pub gateways: Vec<String>,
    pub devices: usize,
    /// Readings per second and device.
    pub rate: f64,
    /// Everything random follows from it.
    pub seed: u64,
    /// Some devices have wrong clocks and broken links.
    pub faults: bool,
    /// Publishes that a device may have on the wire.
    pub in_flight: usize,
    /// Files to replay instead of simulating.
    pub replay: Vec<PathBuf>,
    /// Times real time, or `max`.
    pub speed: String,
    /// Stop measuring after this many seconds; 0: never.
    pub seconds: u64,
    /// Then wait at most this many seconds for acknowledgements.
    pub drain_seconds: u64,
    /// Width of the ledger's windows in milliseconds.
    pub window_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            gateways: vec!["127.0.0.1:1883".to_string()],
            devices: 27,
            rate: 5.0,
            seed: 1,
            faults: true,
            in_flight: 16,
            replay: Vec::new(),
            speed: "1".to_string(),
            seconds: 0,
            drain_seconds: 60,
            window_ms: 10_000,
        }
    }
}

/// Reads a speed: a positive number, or `max` (nothing).
///
/// # Errors
/// Says what a speed looks like.
pub fn parse_speed(text: &str) -> Result<Option<f64>, String> {
    if text == "max" {
        return Ok(None);
    }
    let speed = text.parse::<f64>().ok().filter(|s| s.is_finite() && *s >= 0.001);
    speed.map(Some).ok_or_else(|| {
        format!("{text:?} is not a speed; give a multiple of real time, for example 60, or \"max\"")
    })
}

impl Settings {
    /// Checks what types can't, and reads the files to replay.
    ///
    /// # Errors
    /// Names the setting, or the file and line.
    pub fn fleet(&self) -> Result<FleetSettings, String> {
        if self.gateways.is_empty() {
            return Err("the setting `gateways` is empty; name at least one as \"host:port\"".to_string());
        }
        for address in &self.gateways {
            let sound = address.rsplit_once(':').is_some_and(|(host, port)| {
                let host_sound = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
                host_sound && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
            if !sound {
                return Err(format!(
                    "the setting `gateways` has {address:?}; write \"host:port\", for example \"127.0.0.1:1883\""
                ));
            }
        }
        if self.devices > MAX_DEVICES_ENTRIES {
            return Err(format!(
                "the setting `devices` is {}; give at most {MAX_DEVICES_ENTRIES}",
                self.devices
            ));
        }
        if !(self.rate > 0.0 && self.rate <= MAX_RATE) {
            return Err(format!(
                "the setting `rate` is {}; give more than 0 and at most {MAX_RATE}",
                self.rate
            ));
        }
        if !(1..=MAX_IN_FLIGHT_ENTRIES).contains(&self.in_flight) {
            return Err(format!(
                "the setting `in_flight` is {}; give 1 to {MAX_IN_FLIGHT_ENTRIES}",
                self.in_flight
            ));
        }
        if !(1_000..=86_400_000).contains(&self.window_ms) {
            let found = self.window_ms;
            return Err(format!(
                "the setting `window_ms` is {found}; give 1000 to 86400000, the range of the gateways' rules"
            ));
        }
        if self.devices == 0 && self.replay.is_empty() {
            return Err(
                "the setting `devices` is 0 and there is nothing to replay; give at least 1".to_string()
            );
        }
        let speed = parse_speed(&self.speed).map_err(|e| format!("the setting `speed`: {e}"))?;
        let recordings = self.replay.iter().map(|file| replay::load(file).map_err(|e| e.to_string()));
        Ok(FleetSettings {
            gateways: self.gateways.clone(),
            devices: self.devices,
            rate: self.rate,
            seed: self.seed,
            boot: new_boot(),
            faults: self.faults,
            in_flight_entries: self.in_flight,
            window_ms: self.window_ms,
            recordings: recordings.collect::<Result<_, _>>()?,
            speed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_loads_and_holds_the_defaults() {
        let crate_folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
        let path = crate_folder.join("../deploy/firmware-sim.toml");
        let settings: Settings = selvedge_config::load_from(Some(&path), ENV_PREFIX, [], &[]).unwrap();
        assert_eq!(settings, Settings::default());
        settings.fleet().unwrap();
    }

    #[test]
    fn wrong_settings_are_named() {
        let said = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.fleet().unwrap_err()
        };
        assert!(said(|s| s.gateways.clear()).contains("`gateways`"));
        assert!(said(|s| s.gateways = vec!["localhost".into()]).contains("127.0.0.1:1883"));
        assert!(said(|s| s.gateways = vec![":1883".into()]).contains("`gateways`"));
        assert!(said(|s| s.gateways = vec!["h:0".into()]).contains("`gateways`"));
        assert!(said(|s| s.gateways = vec!["mqtt://h:1883".into()]).contains("`gateways`"));
        assert!(said(|s| s.window_ms = 0).contains("`window_ms`"));
        assert!(said(|s| s.devices = 0).contains("`devices`"));
        assert!(said(|s| s.rate = 0.0).contains("`rate`"));
        assert!(said(|s| s.rate = f64::NAN).contains("`rate`"));
        assert!(said(|s| s.speed = "fast".into()).contains("`speed`"));
        assert!(said(|s| s.in_flight = 0).contains("`in_flight`"));
        assert!(said(|s| s.replay = vec!["/nowhere/x.csv".into()]).contains("/nowhere/x.csv"));
    }
}
