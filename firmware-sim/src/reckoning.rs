//! The reckoning: the devices' ledger against the node's windows, stream by stream and window by window.
//!
//! Where everything published was acknowledged, the node must have exactly that: the same count and the
//! same fingerprint. The same count with another fingerprint means that at least one reading is missing and
//! at least one is there twice (or is wrong), so a loss can't hide behind a duplicate.
//! Where a run was cut short and some are unacknowledged, the node may have any of those: its count must
//! lie between acknowledged and published, and at either end the fingerprint must fit as well.
//!
//! Every figure is a lower bound: a window that lost two and doubled one shows as one lost.
//!
//! Windows of devices that the ledger does not know belong to others and are left alone; windows that the
//! ledger does not know of a device that it does are duplicates. What the node had before the run (the
//! baseline) is subtracted.

use crate::ledger::{Account, Accounts, Ledger, Tally};
use selvedge_types::time::EpochMs;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The most findings that a report lists one by one.
pub const MAX_FINDINGS_ENTRIES: usize = 20;

/// The node's windows of one width, by device, stream and start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeWindows {
    streams: HashMap<(String, String), BTreeMap<EpochMs, Tally>>,
}

impl NodeWindows {
    /// Takes in one window, or one part of it.
    pub fn add(&mut self, device: &str, stream: &str, start: EpochMs, tally: Tally) {
        let windows = self.streams.entry((device.to_string(), stream.to_string())).or_default();
        windows.entry(start).or_default().add(tally);
    }

    /// Takes out what `baseline` had.
    pub fn minus(mut self, baseline: &NodeWindows) -> Self {
        for (key, windows) in &baseline.streams {
            let Some(mine) = self.streams.get_mut(key) else { continue };
            for (start, tally) in windows {
                let Some(window) = mine.get_mut(start) else { continue };
                window.remove(*tally);
                if window.count == 0 {
                    mine.remove(start);
                }
            }
        }
        self
    }

    /// Readings in all windows.
    pub fn counted(&self) -> u64 {
        self.streams.values().flat_map(|w| w.values()).map(|t| t.count).sum()
    }
}

/// What is wrong in one window, or in one stream as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub device: String,
    pub stream: String,
    /// The start of the window; `None` for the stream as a whole.
    pub start: Option<EpochMs>,
    /// What the devices say.
    pub account: Account,
    /// What the node says.
    pub counted: Tally,
    /// A lower bound of the missing readings.
    pub lost: u64,
    /// A lower bound of the readings counted twice.
    pub duplicated: u64,
}

/// The ledger and the node's windows compared: sums, and where they differ.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reckoning {
    /// Readings sent at least once.
    pub published: u64,
    pub acked: u64,
    /// Readings of these devices in the node's windows.
    pub counted: u64,
    /// Acknowledged and not counted.
    pub lost: u64,
    /// Counted more than published.
    pub duplicated: u64,
    /// Windows of these devices at the node.
    pub windows: u64,
    /// The first [`MAX_FINDINGS_ENTRIES`] of what is wrong.
    pub findings: Vec<Finding>,
}

/// At least how many of an account are lost and duplicated, given what the node counted.
fn compare(account: &Account, counted: Tally) -> (u64, u64) {
    let (published, acked) = (account.published, account.acked);
    if counted.count < acked.count {
        return (acked.count - counted.count, 0);
    }
    if counted.count > published.count {
        return (0, counted.count - published.count);
    }
    let (at_all, at_acked) = (counted.count == published.count, counted.count == acked.count);
    let fits = |of: Tally| counted.fingerprint == of.fingerprint;
    match (at_acked, at_all) {
        (true, true) if !fits(published) => (1, 1),
        // As many as were acknowledged, and not those: one of them is missing.
        (true, false) if !fits(acked) => (1, 0),
        // As many as were published, and not those: one is there twice.
        (false, true) if !fits(published) => (0, 1),
        _ => (0, 0),
    }
}

/// Compares the ledger with what the node has (baseline already taken out).
pub fn reckon(ledger: &Ledger, node: &NodeWindows) -> Reckoning {
    let totals = ledger.totals();
    let mut result =
        Reckoning { published: totals.published.count, acked: totals.acked.count, ..Reckoning::default() };
    let mut known = HashSet::new();
    let none = BTreeMap::new();
    for entry in ledger.streams() {
        let key = (entry.device.clone(), entry.stream.clone());
        let theirs = node.streams.get(&key).unwrap_or(&none);
        known.insert(key);
        let mut check = |start: Option<EpochMs>, account: Account, counted: Tally| {
            result.judge(&entry.device, &entry.stream, start, account, counted);
        };
        match &entry.accounts {
            Accounts::Whole(account) => {
                let mut all = Tally::default();
                theirs.values().for_each(|tally| all.add(*tally));
                check(None, *account, all);
            }
            Accounts::Windows(ours) => {
                for (start, account) in ours {
                    check(Some(*start), *account, theirs.get(start).copied().unwrap_or_default());
                }
                for (start, tally) in theirs.iter().filter(|(start, _)| !ours.contains_key(start)) {
                    check(Some(*start), Account::default(), *tally);
                }
            }
        }
        result.windows += theirs.len() as u64;
    }
    let devices: HashSet<&str> = ledger.streams().iter().map(|s| s.device.as_str()).collect();
    for (key, windows) in &node.streams {
        if known.contains(key) || !devices.contains(key.0.as_str()) {
            continue;
        }
        for (start, tally) in windows {
            result.judge(&key.0, &key.1, Some(*start), Account::default(), *tally);
        }
        result.windows += windows.len() as u64;
    }
    result
}

impl Reckoning {
    /// Nothing lost, nothing counted twice.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0
    }

    fn judge(
        &mut self,
        device: &str,
        stream: &str,
        start: Option<EpochMs>,
        account: Account,
        counted: Tally,
    ) {
        let (lost, duplicated) = compare(&account, counted);
        self.counted += counted.count;
        self.lost += lost;
        self.duplicated += duplicated;
        if lost + duplicated > 0 && self.findings.len() < MAX_FINDINGS_ENTRIES {
            let (device, stream) = (device.to_string(), stream.to_string());
            self.findings.push(Finding { device, stream, start, account, counted, lost, duplicated });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(values: &[f64]) -> Tally {
        let mut tally = Tally::default();
        values.iter().for_each(|v| tally.add_value(*v));
        tally
    }

    fn ledger(published: &[f64], acked: &[f64], timed: bool) -> Ledger {
        let mut ledger = Ledger::new(10_000);
        let stream = ledger.stream("d", "s");
        let time = timed.then_some(EpochMs(15_000));
        published.iter().for_each(|v| ledger.published(stream, time, *v));
        acked.iter().for_each(|v| ledger.acked(stream, time, *v));
        ledger
    }

    fn node(windows: &[(i64, &[f64])]) -> NodeWindows {
        let mut node = NodeWindows::default();
        for (start, values) in windows {
            node.add("d", "s", EpochMs(*start), tally(values));
        }
        node
    }

    fn verdict(ledger: &Ledger, node: &NodeWindows) -> (u64, u64) {
        let result = reckon(ledger, node);
        assert_eq!(result.is_clean(), result.findings.is_empty());
        (result.lost, result.duplicated)
    }

    #[test]
    fn what_is_all_there_is_clean_and_every_difference_is_found() {
        let all = ledger(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0], true);
        let at = |values: &[f64]| verdict(&all, &node(&[(10_000, values)]));
        assert_eq!(at(&[3.0, 1.0, 2.0]), (0, 0));
        assert_eq!(at(&[1.0, 2.0]), (1, 0));
        assert_eq!(at(&[1.0, 2.0, 3.0, 3.0]), (0, 1));
        assert_eq!(at(&[1.0, 2.0, 2.0]), (1, 1), "a loss hidden behind a duplicate");
        assert_eq!(verdict(&all, &node(&[])), (3, 0));
        let elsewhere = node(&[(10_000, &[1.0, 2.0]), (20_000, &[3.0])]);
        assert_eq!(verdict(&all, &elsewhere), (1, 1), "in the wrong window");
    }

    #[test]
    fn what_is_unacknowledged_may_be_there_or_not() {
        let cut = ledger(&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0], true);
        let at = |values: &[f64]| verdict(&cut, &node(&[(10_000, values)]));
        for fine in [&[1.0, 2.0][..], &[1.0, 2.0, 4.0], &[4.0, 3.0, 2.0, 1.0]] {
            assert_eq!(at(fine), (0, 0), "{fine:?}");
        }
        assert_eq!(at(&[1.0]), (1, 0));
        assert_eq!(at(&[1.0, 3.0]), (1, 0), "an acknowledged one is missing, an unacknowledged one is there");
        assert_eq!(at(&[1.0, 2.0, 3.0, 3.0]), (0, 1));
        assert_eq!(at(&[1.0, 2.0, 3.0, 4.0, 4.0]), (0, 1));
    }

    #[test]
    fn streams_without_a_time_are_compared_over_all_windows() {
        let whole = ledger(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0], false);
        assert_eq!(verdict(&whole, &node(&[(0, &[2.0]), (70_000, &[1.0, 3.0])])), (0, 0));
        assert_eq!(verdict(&whole, &node(&[(0, &[2.0]), (70_000, &[1.0, 1.0])])), (1, 1));
        assert_eq!(reckon(&whole, &node(&[(0, &[2.0]), (70_000, &[1.0, 3.0])])).windows, 2);
    }

    #[test]
    fn other_peoples_windows_are_left_alone_and_unknown_streams_of_ours_are_not() {
        let all = ledger(&[1.0], &[1.0], true);
        let mut node = node(&[(10_000, &[1.0])]);
        node.add("other", "s", EpochMs(0), tally(&[5.0]));
        assert_eq!(verdict(&all, &node), (0, 0));
        assert_eq!(reckon(&all, &node).counted, 1);
        node.add("d", "ghost", EpochMs(0), tally(&[5.0, 6.0]));
        assert_eq!(verdict(&all, &node), (0, 2));
    }

    #[test]
    fn what_was_there_before_the_run_is_subtracted() {
        let all = ledger(&[1.0, 2.0], &[1.0, 2.0], true);
        let before = node(&[(0, &[9.0]), (10_000, &[7.0])]);
        let after = node(&[(0, &[9.0]), (10_000, &[7.0, 2.0, 1.0])]);
        assert_eq!(verdict(&all, &after.minus(&before)), (0, 0));
        let twice = node(&[(0, &[9.0, 9.0]), (10_000, &[7.0, 2.0, 1.0])]);
        assert_eq!(verdict(&all, &twice.minus(&before)), (0, 1));
    }
}
