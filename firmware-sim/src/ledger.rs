//! The devices' own account of what they published and what was acknowledged, per stream and window, as
//! counts and fingerprints: small enough to keep for any run, exact enough to find one lost reading.
//!
//! A stream whose readings carry their time is kept window by window; one whose readings get their time from
//! the gateway can't be, and is kept as a whole. A stream becomes a whole for good with its first reading
//! without a time, or when the ledger's bound of windows is reached.

use selvedge_types::aggregate::fingerprint;
use selvedge_types::time::EpochMs;
use std::collections::{BTreeMap, HashMap};

/// The most windows that a ledger tells apart.
pub const MAX_LEDGER_WINDOW_ENTRIES: usize = 2_000_000;

/// How many readings, and the wrapping sum of their values' fingerprints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub count: u64,
    /// Sum of [`fingerprint`] modulo 2^64.
    pub fingerprint: u64,
}

impl Tally {
    /// Takes in one reading.
    pub fn add_value(&mut self, value: f64) {
        self.add(Tally { count: 1, fingerprint: fingerprint(value) });
    }

    /// Takes in another tally.
    pub fn add(&mut self, other: Tally) {
        self.count = self.count.wrapping_add(other.count);
        self.fingerprint = self.fingerprint.wrapping_add(other.fingerprint);
    }

    /// Takes another tally out; its count stops at 0.
    pub fn remove(&mut self, other: Tally) {
        self.count = self.count.saturating_sub(other.count);
        self.fingerprint = self.fingerprint.wrapping_sub(other.fingerprint);
    }
}

/// Both sides of one account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Sent at least once.
    pub published: Tally,
    pub acked: Tally,
}

/// The accounts of one stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Accounts {
    /// One account a window, by the window's start.
    Windows(BTreeMap<EpochMs, Account>),
    Whole(Account),
}

/// One device's stream in the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamAccounts {
    pub device: String,
    pub stream: String,
    pub accounts: Accounts,
}

/// What devices published and what was acknowledged, by stream and window.
#[derive(Debug)]
pub struct Ledger {
    width_ms: u32,
    streams: Vec<StreamAccounts>,
    index: HashMap<(String, String), usize>,
    windows: usize,
    totals: Account,
    set_aside: u64,
}

impl Ledger {
    /// An empty ledger with windows of this width in milliseconds.
    pub fn new(width_ms: u32) -> Self {
        Self {
            width_ms: width_ms.max(1),
            streams: Vec::new(),
            index: HashMap::new(),
            windows: 0,
            totals: Account::default(),
            set_aside: 0,
        }
    }

    /// The handle of a stream; the same for the same names.
    pub fn stream(&mut self, device: &str, stream: &str) -> usize {
        let key = (device.to_string(), stream.to_string());
        let next = self.streams.len();
        let at = *self.index.entry(key).or_insert(next);
        if at == next {
            self.streams.push(StreamAccounts {
                device: device.to_string(),
                stream: stream.to_string(),
                accounts: Accounts::Windows(BTreeMap::new()),
            });
        }
        at
    }

    /// A reading was sent for the first time.
    pub fn published(&mut self, stream: usize, time: Option<EpochMs>, value: f64) {
        self.totals.published.add_value(value);
        self.change(stream, time, |account| account.published.add_value(value));
    }

    /// A published reading was acknowledged.
    pub fn acked(&mut self, stream: usize, time: Option<EpochMs>, value: f64) {
        self.totals.acked.add_value(value);
        self.change(stream, time, |account| account.acked.add_value(value));
    }

    /// A published reading was set aside, since it can't be read or is of a time that can't be: it is in no window.
    pub fn set_aside(&mut self, stream: usize, time: Option<EpochMs>, value: f64) {
        let mut one = Tally::default();
        one.add_value(value);
        self.set_aside += 1;
        self.totals.published.remove(one);
        self.change(stream, time, |account| account.published.remove(one));
    }

    fn change(&mut self, stream: usize, time: Option<EpochMs>, change: impl FnOnce(&mut Account)) {
        let Some(entry) = self.streams.get_mut(stream) else { return };
        if let Accounts::Windows(windows) = &mut entry.accounts {
            let start = time.map(|t| t.window_start(self.width_ms));
            let known = start.is_some_and(|s| windows.contains_key(&s));
            if start.is_none() || (!known && self.windows >= MAX_LEDGER_WINDOW_ENTRIES) {
                let mut whole = Account::default();
                for account in windows.values() {
                    whole.published.add(account.published);
                    whole.acked.add(account.acked);
                }
                self.windows -= windows.len();
                entry.accounts = Accounts::Whole(whole);
            } else if !known {
                self.windows += 1;
            }
        }
        match (&mut entry.accounts, time) {
            (Accounts::Whole(account), _) => change(account),
            (Accounts::Windows(windows), Some(time)) => {
                change(windows.entry(time.window_start(self.width_ms)).or_default())
            }
            (Accounts::Windows(_), None) => {}
        }
    }

    /// The width of its windows in milliseconds.
    pub fn width_ms(&self) -> u32 {
        self.width_ms
    }

    /// The accounts of all streams, in the order in which they were registered.
    pub fn streams(&self) -> &[StreamAccounts] {
        &self.streams
    }

    /// One account that adds up all streams.
    pub fn totals(&self) -> Account {
        self.totals
    }

    /// Readings that were set aside.
    pub fn set_aside_count(&self) -> u64 {
        self.set_aside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_with_a_time_are_kept_by_window_and_without_one_as_a_whole() {
        let mut ledger = Ledger::new(10_000);
        let (a, b) = (ledger.stream("d", "a"), ledger.stream("d", "b"));
        assert_eq!(ledger.stream("d", "a"), a);
        for ms in [0, 9_999, 10_000, -1] {
            ledger.published(a, Some(EpochMs(ms)), 1.0);
        }
        ledger.acked(a, Some(EpochMs(3)), 1.0);
        let Accounts::Windows(windows) = &ledger.streams()[a].accounts else { panic!("not windows") };
        let counts: Vec<(i64, u64, u64)> =
            windows.iter().map(|(s, w)| (s.0, w.published.count, w.acked.count)).collect();
        assert_eq!(counts, [(-10_000, 1, 0), (0, 2, 1), (10_000, 1, 0)]);

        ledger.published(b, Some(EpochMs(5)), 2.0);
        ledger.published(b, None, 3.0);
        ledger.published(b, Some(EpochMs(5)), 4.0);
        let Accounts::Whole(whole) = &ledger.streams()[b].accounts else { panic!("not whole") };
        assert_eq!(whole.published.count, 3);
        assert_eq!(ledger.totals().published.count, 7);
    }

    #[test]
    fn a_reading_that_was_set_aside_leaves_no_trace_in_its_account() {
        let mut ledger = Ledger::new(1_000);
        let a = ledger.stream("d", "a");
        ledger.published(a, None, 1.5);
        ledger.published(a, None, 2.5);
        ledger.set_aside(a, None, 1.5);
        ledger.acked(a, None, 2.5);
        let Accounts::Whole(whole) = &ledger.streams()[a].accounts else { panic!("not whole") };
        assert_eq!(whole.published, whole.acked);
        assert_eq!(ledger.set_aside_count(), 1);
    }
}
