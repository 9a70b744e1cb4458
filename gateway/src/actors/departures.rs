//! How operators see connections that end: lines in the log, counters, and the last departures by reason.

use crate::departures::{Departures, Left};
use selvedge_mqtt::{Departure, DepartureLog};
use selvedge_types::mqtt::CloseReason;
use selvedge_types::time::EpochMs;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The settings that bound a connection, as text for operators, by the name of the bound ([`CloseReason::bound`]).
pub type Bounds = BTreeMap<&'static str, String>;

/// Records how connections end; called from all their tasks.
#[derive(Debug)]
pub struct DepartureDesk {
    bounds: Bounds,
    log: DepartureLog,
    last: Mutex<Departures>,
}

impl DepartureDesk {
    /// A desk that has seen no departure.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, log: DepartureLog::default(), last: Mutex::default() }
    }

    fn last(&self) -> MutexGuard<'_, Departures> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a connection has ended, or was refused.
    pub fn note(&self, at: EpochMs, departure: &Departure) {
        metrics::counter!("selvedge_connections_ended_total", "reason" => departure.reason.label())
            .increment(1);
        self.log.note(departure, self.setting(departure.reason));
        self.last().note(at, departure);
    }

    /// The setting whose bound ended the connection, if one did.
    pub fn setting(&self, reason: CloseReason) -> Option<&str> {
        self.bounds.get(reason.bound()?).map(String::as_str)
    }

    /// How often each reason came since the start.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.last().counts()
    }

    /// The `wanted` ones of the last departures, latest first.
    pub fn list(&self, wanted: impl Fn(&Departure) -> bool) -> Vec<Left> {
        self.last().list(wanted)
    }

    /// Logs how many departures were left out of the log, as far as that is still unsaid.
    pub fn sweep(&self) {
        self.log.sweep();
    }
}
