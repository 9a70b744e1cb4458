//! Rules: the settings by which the state machines of a site count, wait and bound.
//!
//! They are part of the replicated state: a chosen [`super::Command::Rules`] puts them in force at the same
//! slot on every replica. If each gateway followed its own file, two gateways that restart a minute apart
//! with a changed file would cut different batches under the same number.

use bincode::{Decode, Encode};
use selvedge_types::ids::MAX_NAME_BYTES;
use selvedge_types::pattern::Pattern;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The least width of a window, in milliseconds: a second.
pub const MIN_WINDOW_MS: u32 = 1_000;
/// The greatest width of a window, in milliseconds: a day.
pub const MAX_WINDOW_MS: u32 = 86_400_000;
/// The most widths that one stream is counted in.
pub const MAX_WIDTHS_ENTRIES: usize = 8;
/// The most overrides in [`CountingRules::streams`].
pub const MAX_OVERRIDES_ENTRIES: usize = 256;
/// The longest pattern of an override.
pub const MAX_PATTERN_BYTES: usize = 256;
/// The longest wait that a rule may set, in milliseconds: a day.
pub const MAX_WAIT_MS: u32 = 86_400_000;
/// The greatest `max_streams`, `max_streams_per_device` and `max_streams_per_client`.
pub const MAX_STREAMS_ENTRIES: u32 = 1_000_000;
/// The least and the greatest `retire_idle_after_s` other than 0: a minute, and ten years.
const MIN_RETIRE_IDLE_S: u32 = 60;
const MAX_RETIRE_IDLE_S: u32 = 10 * 366 * 86_400;

/// The narrowest sequence counter that may wrap, in bits.
pub const MIN_SEQUENCE_BITS: u32 = 8;
/// The widest sequence counter that may wrap, in bits.
pub const MAX_SEQUENCE_BITS: u32 = 32;

/// How a shard counts and waits, and its bounds. Each bound holds for one shard, not for the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(default, deny_unknown_fields)]
pub struct CountingRules {
    /// The widths of the windows that each stream is counted in, in milliseconds.
    pub windows_ms: Vec<u32>,
    /// How far a stream's watermark stays behind its latest reading, in milliseconds.
    pub allowed_lateness_ms: u32,
    /// A stream closes all its windows when it has had no new reading for this long, in milliseconds. A slow
    /// stream does so when it has missed about three readings at the pace that the shard has learned.
    pub idle_close_ms: u32,
    /// How long readings for a closed window gather in a further part of it, in milliseconds.
    pub late_flush_ms: u32,
    /// Whether windows keep a sketch of their values, which answers quantiles. A sketch takes about 5 bytes
    /// for each of a few readings, and at most about 230 bytes for any number.
    pub quantiles: bool,
    /// How long closed parts wait at most to be cut into a batch, in milliseconds. They wait longer while
    /// many batches are unconfirmed.
    pub cut_after_ms: u32,
    /// Readings older than this are set aside, in seconds. The default of 30 years excludes clocks that start
    /// in 1970. It admits recordings, readings that were buffered for years, and clocks that lost the 1,024
    /// weeks of a GPS epoch.
    pub max_past_s: u32,
    /// Readings further in the future than this are set aside, in seconds. The default of a day admits
    /// devices that send their local time as UTC.
    pub max_future_s: u32,
    /// A sequence number further than this above its stream's greatest one is set aside, unless the next one
    /// follows it.
    pub max_leap: u32,
    /// The longest that a session may outlive its connection, in seconds, whatever its client asks for.
    pub session_expiry_cap_s: u32,
    /// The most streams. Readings of further new streams are set aside.
    pub max_streams: u32,
    /// The most streams of one device. Readings of further new streams are set aside.
    pub max_streams_per_device: u32,
    /// The most streams that one client may make known. Readings of further new streams are set aside. A
    /// client that carries many devices, such as a bridge, needs more.
    pub max_streams_per_client: u32,
    /// The most bytes of all names: of devices, of streams (a name that several devices use counts once) and
    /// of the clients that made them known. The names that one client made known may take at most half of it.
    pub max_names_bytes: u32,
    /// A stream is retired when it has had no new reading for this long, in seconds; 0 never retires it. Its
    /// windows stay counted, and the stream becomes known again when it returns.
    pub retire_idle_after_s: u32,
    /// The most sessions. At the bound, a new session replaces the disconnected one that ends first; if there
    /// is none, the connection is refused.
    pub max_sessions: u32,
    /// The most subscriptions of all sessions together. Further ones are refused.
    pub max_subscriptions: u32,
    /// The most clients whose packet ids are remembered. At the bound, the one not heard from for longest is
    /// forgotten.
    pub max_clients: u32,
    /// The most bytes of all quarantined publishes together, apart from the newest.
    pub quarantine_bytes: u32,
    /// The most open parts of all streams together. At the bound, the stream whose deadline comes first
    /// closes all its parts.
    pub max_open_parts: u32,
    /// The most unconfirmed batches. At the bound, leaders accept nothing more from gateways.
    pub max_outbox_batches: u32,
    /// The most bytes of batches on each replica's disk. Confirmed batches stay to answer queries at the
    /// site, as long as they and the unconfirmed ones keep within it. A small batch counts as 1 KiB.
    pub recent_bytes: u32,
    /// Rules for some of the streams; the first override that matches a stream applies.
    pub streams: Vec<Override>,
}

/// Different rules for the streams that match. An unset field leaves the general rule in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(default, deny_unknown_fields)]
pub struct Override {
    /// A pattern of devices; `*` stands for any number of characters.
    pub device: String,
    /// A pattern of streams; `*` stands for any number of characters.
    pub stream: String,
    pub windows_ms: Option<Vec<u32>>,
    pub allowed_lateness_ms: Option<u32>,
    pub idle_close_ms: Option<u32>,
    pub late_flush_ms: Option<u32>,
    pub quantiles: Option<bool>,
    pub max_past_s: Option<u32>,
    pub max_future_s: Option<u32>,
    pub max_leap: Option<u32>,
    /// The width of the device's sequence counter in bits, if it wraps: 8 to 32.
    pub sequence_bits: Option<u8>,
    pub retire_idle_after_s: Option<u32>,
}

impl Default for Override {
    /// Matches every stream and changes nothing.
    fn default() -> Self {
        Self {
            device: "*".to_string(),
            stream: "*".to_string(),
            windows_ms: None,
            allowed_lateness_ms: None,
            idle_close_ms: None,
            late_flush_ms: None,
            quantiles: None,
            max_past_s: None,
            max_future_s: None,
            max_leap: None,
            sequence_bits: None,
            retire_idle_after_s: None,
        }
    }
}

impl Default for CountingRules {
    fn default() -> Self {
        Self {
            windows_ms: vec![60_000],
            allowed_lateness_ms: 5_000,
            idle_close_ms: 15_000,
            late_flush_ms: 5_000,
            quantiles: true,
            cut_after_ms: 1_000,
            max_past_s: 30 * 31_557_600,
            max_future_s: 86_400,
            max_leap: 1_000_000,
            session_expiry_cap_s: 7 * 86_400,
            max_streams: 1_000,
            max_streams_per_device: 500,
            max_streams_per_client: 500,
            max_names_bytes: 128 * 1024,
            retire_idle_after_s: 0,
            max_sessions: 2_000,
            max_subscriptions: 10_000,
            max_clients: 4_096,
            quarantine_bytes: 64 * 1024,
            max_open_parts: 8_000,
            max_outbox_batches: 1_000_000,
            recent_bytes: 1024 * 1024,
            streams: Vec::new(),
        }
    }
}

/// A rule that can't be put in force, with what it may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rules: {name} is {found}, it must be {wanted}")]
pub struct BadRule {
    name: String,
    found: String,
    wanted: String,
}

impl CountingRules {
    /// Checks every rule and every override.
    ///
    /// # Errors
    /// Names the first rule that is not valid.
    pub fn validate(&self) -> Result<(), BadRule> {
        check_windows("windows_ms", &self.windows_ms)?;
        let waits = [
            ("allowed_lateness_ms", self.allowed_lateness_ms, 0, MAX_WAIT_MS),
            ("idle_close_ms", self.idle_close_ms, 100, MAX_WAIT_MS),
            ("late_flush_ms", self.late_flush_ms, 100, MAX_WAIT_MS),
            ("cut_after_ms", self.cut_after_ms, 0, 60_000),
            ("max_past_s", self.max_past_s, 1, u32::MAX),
            ("max_future_s", self.max_future_s, 1, u32::MAX),
            ("max_leap", self.max_leap, 1, u32::MAX),
            ("session_expiry_cap_s", self.session_expiry_cap_s, 0, u32::MAX),
            ("max_streams", self.max_streams, 1, MAX_STREAMS_ENTRIES),
            ("max_streams_per_device", self.max_streams_per_device, 1, MAX_STREAMS_ENTRIES),
            ("max_streams_per_client", self.max_streams_per_client, 1, MAX_STREAMS_ENTRIES),
            ("max_names_bytes", self.max_names_bytes, 1_024, 256 * 1024 * 1024),
            ("max_sessions", self.max_sessions, 1, 1_000_000),
            ("max_subscriptions", self.max_subscriptions, 1, 1_000_000),
            ("max_clients", self.max_clients, 1, 1_000_000),
            ("quarantine_bytes", self.quarantine_bytes, 0, 16 * 1024 * 1024),
            ("max_open_parts", self.max_open_parts, MAX_WIDTHS_ENTRIES as u32, 1_000_000),
            ("max_outbox_batches", self.max_outbox_batches, 1, 10_000_000),
            ("recent_bytes", self.recent_bytes, 0, 1 << 30),
        ];
        for (name, found, least, most) in waits {
            check(name, found, least, most)?;
        }
        check_idle("retire_idle_after_s", self.retire_idle_after_s)?;
        if self.streams.len() > MAX_OVERRIDES_ENTRIES {
            let found = format!("{} overrides long", self.streams.len());
            return Err(bad("streams", found, format!("at most {MAX_OVERRIDES_ENTRIES}")));
        }
        for (i, o) in self.streams.iter().enumerate() {
            for (name, pattern) in [("device", &o.device), ("stream", &o.stream)] {
                if !(1..=MAX_PATTERN_BYTES).contains(&pattern.len()) {
                    let wanted = format!("a pattern of 1 to {MAX_PATTERN_BYTES} bytes, \"*\" matches all");
                    let found = format!("{} bytes long", pattern.len());
                    return Err(bad(&format!("streams[{i}].{name}"), found, wanted));
                }
            }
            if let Some(windows) = &o.windows_ms {
                check_windows(&format!("streams[{i}].windows_ms"), windows)?;
            }
            check_idle(&format!("streams[{i}].retire_idle_after_s"), o.retire_idle_after_s.unwrap_or(0))?;
            let waits = [
                ("allowed_lateness_ms", o.allowed_lateness_ms, 0),
                ("idle_close_ms", o.idle_close_ms, 100),
                ("late_flush_ms", o.late_flush_ms, 100),
            ];
            for (name, found, least) in waits {
                check(&format!("streams[{i}].{name}"), found.unwrap_or(least), least, MAX_WAIT_MS)?;
            }
            for (name, found) in [("max_past_s", o.max_past_s), ("max_future_s", o.max_future_s)] {
                check(&format!("streams[{i}].{name}"), found.unwrap_or(1), 1, u32::MAX)?;
            }
            check(&format!("streams[{i}].max_leap"), o.max_leap.unwrap_or(1), 1, u32::MAX)?;
            let bits = u32::from(o.sequence_bits.unwrap_or(32));
            check(&format!("streams[{i}].sequence_bits"), bits, MIN_SEQUENCE_BITS, MAX_SEQUENCE_BITS)?;
        }
        Ok(())
    }

    /// Checks that every override can match a stream. [`CountingRules::validate`] accepts one that can't,
    /// because rules that were once chosen must stay valid.
    ///
    /// # Errors
    /// Names the first override whose pattern is malformed or matches no name, or whose streams all match an
    /// earlier override.
    pub fn validate_overrides(&self) -> Result<(), BadRule> {
        for (i, o) in self.streams.iter().enumerate() {
            for (name, text) in [("device", &o.device), ("stream", &o.stream)] {
                let key = format!("streams[{i}].{name}");
                let why = match Pattern::parse(text) {
                    Err(why) => format!("another pattern: it {why}"),
                    Ok(_) if text.chars().any(char::is_control) => {
                        "without control characters, which no name has: it can never match".to_string()
                    }
                    Ok(pattern) if pattern.exact().is_some_and(|exact| exact.len() > MAX_NAME_BYTES) => {
                        format!("at most {MAX_NAME_BYTES} bytes, as names are: it can never match")
                    }
                    Ok(_) => continue,
                };
                return Err(bad(&key, format!("{text:?}"), why));
            }
            let covers = |wide: &str, narrow: &str| Pattern::read(wide).covers(&Pattern::read(narrow));
            let first = self.streams.iter().take(i);
            let earlier =
                first.enumerate().find(|(_, e)| covers(&e.device, &o.device) && covers(&e.stream, &o.stream));
            if let Some((at, e)) = earlier {
                let found = format!("for device {:?} and stream {:?}", o.device, o.stream);
                let wanted = format!(
                    "before streams[{at}] (device {:?}, stream {:?}), which takes all its streams first, so that it can \
                     never match: move or remove one of them",
                    e.device, e.stream
                );
                return Err(bad(&format!("streams[{i}]"), found, wanted));
            }
        }
        Ok(())
    }

    /// The widths that any stream is counted in, in milliseconds.
    pub fn widths_ms(&self) -> BTreeSet<u32> {
        let overridden = self.streams.iter().filter_map(|o| o.windows_ms.as_ref()).flatten();
        self.windows_ms.iter().chain(overridden).copied().collect()
    }

    /// The rules as classes of streams: the general class first, then one for each override.
    pub(super) fn classes(&self) -> Vec<StreamClass> {
        let after = |s: u32| (s > 0).then(|| u64::from(s) * 1_000);
        let default = StreamClass {
            windows_ms: self.windows_ms.clone(),
            lateness_ms: i64::from(self.allowed_lateness_ms),
            idle_close_ms: u64::from(self.idle_close_ms),
            late_flush_ms: u64::from(self.late_flush_ms),
            quantiles: self.quantiles,
            max_leap: u64::from(self.max_leap),
            sequence_bits: None,
            retire_idle_ms: after(self.retire_idle_after_s),
            max_past_ms: i64::from(self.max_past_s) * 1_000,
            max_future_ms: i64::from(self.max_future_s) * 1_000,
        };
        let of = |o: &Override| StreamClass {
            windows_ms: o.windows_ms.clone().unwrap_or_else(|| default.windows_ms.clone()),
            lateness_ms: o.allowed_lateness_ms.map_or(default.lateness_ms, i64::from),
            idle_close_ms: o.idle_close_ms.map_or(default.idle_close_ms, u64::from),
            late_flush_ms: o.late_flush_ms.map_or(default.late_flush_ms, u64::from),
            quantiles: o.quantiles.unwrap_or(default.quantiles),
            max_past_ms: o.max_past_s.map_or(default.max_past_ms, |s| i64::from(s) * 1_000),
            max_future_ms: o.max_future_s.map_or(default.max_future_ms, |s| i64::from(s) * 1_000),
            max_leap: o.max_leap.map_or(default.max_leap, u64::from),
            sequence_bits: o.sequence_bits,
            retire_idle_ms: o.retire_idle_after_s.map_or(default.retire_idle_ms, after),
        };
        let overrides: Vec<StreamClass> = self.streams.iter().map(of).collect();
        std::iter::once(default).chain(overrides).collect()
    }

    /// The index in [`CountingRules::classes`] of the class that a stream belongs to.
    pub(super) fn class_of(&self, device: &str, stream: &str) -> u16 {
        let fits = |o: &Override| {
            Pattern::read(&o.device).matches(device) && Pattern::read(&o.stream).matches(stream)
        };
        self.streams.iter().position(fits).map_or(0, |i| i as u16 + 1)
    }
}

/// The rules that apply to one class of streams.
#[derive(Debug, Clone)]
pub(super) struct StreamClass {
    pub windows_ms: Vec<u32>,
    pub lateness_ms: i64,
    pub idle_close_ms: u64,
    pub late_flush_ms: u64,
    pub quantiles: bool,
    pub max_leap: u64,
    pub sequence_bits: Option<u8>,
    /// `None`: silence never retires the stream.
    pub retire_idle_ms: Option<u64>,
    pub max_past_ms: i64,
    pub max_future_ms: i64,
}

fn bad(name: &str, found: String, wanted: String) -> BadRule {
    BadRule { name: name.to_string(), found, wanted }
}

fn check(name: &str, found: u32, least: u32, most: u32) -> Result<(), BadRule> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(bad(name, found.to_string(), format!("{least} to {most}")))
}

fn check_idle(name: &str, found: u32) -> Result<(), BadRule> {
    if found == 0 || (MIN_RETIRE_IDLE_S..=MAX_RETIRE_IDLE_S).contains(&found) {
        return Ok(());
    }
    let wanted = format!("{MIN_RETIRE_IDLE_S} to {MAX_RETIRE_IDLE_S}, or 0 for never");
    Err(bad(name, found.to_string(), wanted))
}

fn check_windows(name: &str, windows: &[u32]) -> Result<(), BadRule> {
    let repeated = windows.iter().enumerate().any(|(i, w)| windows[..i].contains(w));
    if !(1..=MAX_WIDTHS_ENTRIES).contains(&windows.len()) || repeated {
        let wanted = format!("1 to {MAX_WIDTHS_ENTRIES} different widths");
        return Err(bad(name, format!("{windows:?}"), wanted));
    }
    for width in windows {
        check(name, *width, MIN_WINDOW_MS, MAX_WINDOW_MS)?;
        // A window lies within one minute, hour and day. Otherwise, roll-ups could not be sums of windows.
        let (unit_ms, unit) = match *width {
            0..=60_000 => (60_000, "minute: 1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30 or 60 s"),
            60_001..=3_600_000 => (3_600_000, "hour, such as 2, 5, 10, 15, 20, 30 or 60 min"),
            _ => (MAX_WINDOW_MS, "day, such as 2, 3, 4, 6, 8, 12 or 24 h"),
        };
        if unit_ms % width != 0 {
            return Err(bad(name, width.to_string(), format!("a width that divides a {unit}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_override_that_matches_counts_and_what_it_leaves_out_is_as_by_default() {
        let o = |device: &str, lateness| Override {
            device: device.into(),
            allowed_lateness_ms: Some(lateness),
            ..Override::default()
        };
        let rules = CountingRules { streams: vec![o("a*", 1), o("*", 2)], ..CountingRules::default() };
        rules.validate().unwrap();
        let lateness = |device: &str| rules.classes()[rules.class_of(device, "t") as usize].lateness_ms;
        assert_eq!((lateness("abc"), lateness("b")), (1, 2));
        assert_eq!(rules.classes()[1].windows_ms, [60_000]);
        assert_eq!(CountingRules::default().class_of("abc", "t"), 0);
    }

    #[test]
    fn a_rule_that_cannot_be_kept_is_named_with_what_it_may_be() {
        CountingRules::default().validate().unwrap();
        let said = |rules: CountingRules| rules.validate().unwrap_err().to_string();
        let windows = |w: &[u32]| CountingRules { windows_ms: w.to_vec(), ..CountingRules::default() };
        assert!(said(windows(&[])).contains("1 to 8 different widths"));
        assert!(said(windows(&[60_000, 60_000])).contains("different"));
        for width in [7_000, 61_000, 420_000, 7_000_000, 50_000_000] {
            let why = said(windows(&[1_000, width]));
            assert!(
                why.contains(&format!("windows_ms is {width}, it must be a width that divides a")),
                "{why}"
            );
        }
        for width in [1_500, 12_000, 90_000, 900_000, 3_600_000, 28_800_000, MAX_WINDOW_MS] {
            windows(&[width]).validate().unwrap();
        }
        assert!(said(windows(&[999])).contains("windows_ms is 999, it must be 1000 to 86400000"));
        assert!(
            said(CountingRules { max_streams: 0, ..CountingRules::default() }).contains("max_streams is 0")
        );
        let o = Override { stream: String::new(), ..Override::default() };
        let rules = CountingRules { streams: vec![o], ..CountingRules::default() };
        assert!(said(rules).contains("streams[0].stream"));
    }

    #[test]
    fn settings_read_with_defaults_and_refuse_unknown_names() {
        let text = r#"{"windows_ms":[10000],"streams":[{"device":"p*","idle_close_ms":60000}]}"#;
        let rules: CountingRules = serde_json::from_str(text).unwrap();
        rules.validate().unwrap();
        assert_eq!((rules.windows_ms[0], rules.streams[0].stream.as_str()), (10_000, "*"));
        assert!(serde_json::from_str::<CountingRules>(r#"{"window_ms":[1]}"#).is_err());
    }
}
