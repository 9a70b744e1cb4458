//! What operators see of connections that end: lines in the log, counters, and the last ones by reason.

use crate::departures::{Departures, Left};
use selvedge_mqtt::{Departure, DepartureLog};
use selvedge_types::mqtt::CloseReason;
use selvedge_types::time::EpochMs;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The settings behind the bounds of a connection: by the name of the bound ([`CloseReason::bound`]), as they are set.
pub type Bounds = BTreeMap<&'static str, String>;

/// Takes in how connections end, from all their tasks.
#[derive(Debug)]
pub struct DepartureDesk {
    bounds: Bounds,
    log: DepartureLog,
    last: Mutex<Departures>,
}

impl DepartureDesk {
    /// A desk that has seen nothing.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, log: DepartureLog::default(), last: Mutex::default() }
    }

    fn last(&self) -> MutexGuard<'_, Departures> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has ended, or was refused.
    pub fn note(&self, at: EpochMs, departure: &Departure) {
        metrics::counter!("selvedge_connections_ended_total", "reason" => departure.reason.label())
            .increment(1);
        self.log.note(departure, self.setting(departure.reason));
        self.last().note(at, departure);
    }

    /// The setting that bounds what a connection ended for.
    pub fn setting(&self, reason: CloseReason) -> Option<&str> {
        self.bounds.get(reason.bound()?).map(String::as_str)
    }

    /// How often each reason came since the start.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.last().counts()
    }

    /// The last ones that are wanted, the latest first.
    pub fn list(&self, wanted: impl Fn(&Departure) -> bool) -> Vec<Left> {
        self.last().list(wanted)
    }

    /// Writes what is left to be said of those that were left out of the log.
    pub fn sweep(&self) {
        self.log.sweep();
    }
}
