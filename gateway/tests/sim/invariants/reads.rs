//! Reads are linearizable: an answer holds everything that was acknowledged, or that another answer showed, before it
//! was asked for, and nothing that was sent only after it came.
//!
//! Readings of a device are only ever added, so histories of its count have no other way to go wrong. Retired streams
//! are not shown any more: an answer about such a device may hold less.

use selvedge_fabric::peer::QueryAnswer;
use std::collections::{BTreeMap, BTreeSet};

/// A question under way.
struct Question {
    device: String,
    /// The least that an answer must hold.
    least: u64,
}

#[derive(Default)]
pub struct Reads {
    open: BTreeMap<u64, Question>,
    /// The greatest count of each device in any answer.
    shown: BTreeMap<String, u64>,
    retired: BTreeSet<String>,
}

impl Reads {
    /// Notes a question, asked when this many of the device's readings were acknowledged.
    pub fn asked(&mut self, id: u64, device: &str, acknowledged: u64) {
        let least = acknowledged.max(self.shown.get(device).copied().unwrap_or(0));
        self.open.insert(id, Question { device: device.to_string(), least });
    }

    /// Streams of this device are retired from now on.
    pub fn retired(&mut self, device: &str) {
        self.retired.insert(device.to_string());
    }

    /// The device of a question.
    pub fn about(&self, id: u64) -> Option<String> {
        self.open.get(&id).map(|q| q.device.clone())
    }

    /// Notes an answer, which came when this many of the device's readings had been measured. Returns whether it was an
    /// answer.
    pub fn answered(&mut self, id: u64, answer: &QueryAnswer, measured: u64) -> bool {
        let (QueryAnswer::Windows(told), Some(question)) = (answer, self.open.remove(&id)) else {
            return false;
        };
        if told.next.is_some() {
            return false;
        }
        let windows = &told.windows;
        let found: u64 = windows.iter().map(|w| w.aggregate.count).sum();
        let Question { device, least } = question;
        let least = if self.retired.contains(&device) { 0 } else { least };
        // A replica says when it leaves something out.
        let all = told.since.is_none() && told.lacking == 0;
        assert!(found >= least || !all, "an answer about {device} has {found} readings, {least} were known");
        assert!(found <= measured, "an answer about {device} has {found} readings of {measured}");
        if !all {
            return true;
        }
        let shown = self.shown.entry(device).or_default();
        *shown = found.max(*shown);
        true
    }
}
