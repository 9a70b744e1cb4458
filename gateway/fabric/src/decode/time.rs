//! Times in JSON payloads: numbers in the unit that the topic's rule sets, or texts.

use super::excerpt::cut;
use super::scalar::Scalar;
use selvedge_types::time::EpochMs;
use serde::{Deserialize, Serialize};

const RIGHT: &str =
    "send epoch milliseconds (or the unit that the topic's rule sets) or RFC 3339, of years 1 to 9999";
const RIGHT_ZONE: &str = "end it in Z for UTC, or in an offset such as +01:00";

/// The most bytes of a text that an error shows.
const MAX_SHOWN_BYTES: usize = 60;

/// The unit in which numbers count the time since 1970-01-01 UTC. A text is RFC 3339 or such a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum TimeUnit {
    #[default]
    Ms,
    /// Seconds, with or without a fraction.
    S,
    Us,
    Ns,
    /// The unit follows from the size, such that the time is between the years 1971 and 2286: numbers below
    /// 10^10 are seconds, below 10^13 milliseconds, below 10^16 microseconds, others nanoseconds.
    Auto,
}

impl TryFrom<String> for TimeUnit {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        Ok(match name.as_str() {
            "ms" => Self::Ms,
            "s" => Self::S,
            "us" => Self::Us,
            "ns" => Self::Ns,
            "auto" => Self::Auto,
            _ => return Err(format!("{:?} is not a unit of time: set ms, s, us, ns or auto", cut(name, 80))),
        })
    }
}

/// What is wrong, and what would be right.
type Wrong = (String, &'static str);

/// Reads a time from a number or a text.
pub(super) fn time_of(scalar: &Scalar<'_>, unit: TimeUnit) -> Result<EpochMs, Wrong> {
    match scalar {
        Scalar::Int(n) => whole(i128::from(*n), unit),
        Scalar::Uint(n) => whole(i128::from(*n), unit),
        Scalar::Float(x) => {
            let scale = match settled(unit, x.abs()) {
                TimeUnit::S => 1_000.0,
                TimeUnit::Us => 1e-3,
                TimeUnit::Ns => 1e-6,
                TimeUnit::Ms | TimeUnit::Auto => 1.0,
            };
            // The cast saturates, and a saturated value is out of range.
            EpochMs::in_range((x * scale).round() as i64).ok_or_else(|| out_of_range(*x, unit))
        }
        Scalar::Text(text) => match text.parse::<i64>() {
            Ok(n) => whole(i128::from(n), unit),
            Err(_) => EpochMs::parse(text).map_err(|_| what_is_wrong(text)),
        },
        _ => Err(("it is not a time".into(), RIGHT)),
    }
}

/// Says why a text is not a time, for the person who builds the device.
fn what_is_wrong(text: &str) -> Wrong {
    let shown = cut(text.into(), MAX_SHOWN_BYTES);
    let is_time = |text: String| EpochMs::parse(&text).is_ok();
    if is_time(format!("{shown}T00:00:00Z")) {
        (format!("{shown:?} is a date without a time"), RIGHT)
    } else if is_time(format!("{shown}Z")) {
        (format!("the time {shown:?} has no zone"), RIGHT_ZONE)
    } else {
        (format!("{shown:?} is not a time"), RIGHT)
    }
}

fn whole(n: i128, unit: TimeUnit) -> Result<EpochMs, Wrong> {
    let size = u64::try_from(n.unsigned_abs()).unwrap_or(u64::MAX) as f64;
    let ms = match settled(unit, size) {
        TimeUnit::S => n * 1_000,
        TimeUnit::Us => n.div_euclid(1_000),
        TimeUnit::Ns => n.div_euclid(1_000_000),
        TimeUnit::Ms | TimeUnit::Auto => n,
    };
    i64::try_from(ms).ok().and_then(EpochMs::in_range).ok_or_else(|| out_of_range(n as f64, unit))
}

fn out_of_range(n: f64, unit: TimeUnit) -> Wrong {
    let name = match unit {
        TimeUnit::S => "seconds",
        TimeUnit::Ms => "milliseconds",
        TimeUnit::Us => "microseconds",
        TimeUnit::Ns => "nanoseconds",
        TimeUnit::Auto => "any unit",
    };
    (format!("{n} is outside the years 1 to 9999 in {name}"), RIGHT)
}

/// The unit that `auto` stands for. The limits are between the values of the years 1971 to 2100 in each unit:
/// 3.2e7 to 4.1e9 seconds, 3.2e10 to 4.1e12 milliseconds, and so on.
fn settled(unit: TimeUnit, size: f64) -> TimeUnit {
    match unit {
        TimeUnit::Auto if size < 1e10 => TimeUnit::S,
        TimeUnit::Auto if size < 1e13 => TimeUnit::Ms,
        TimeUnit::Auto if size < 1e16 => TimeUnit::Us,
        TimeUnit::Auto => TimeUnit::Ns,
        unit => unit,
    }
}
