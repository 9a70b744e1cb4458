//! A window as its site knows it: what a query is answered with, from the shard that kept it to whoever asked.

use crate::aggregate::Aggregate;
use crate::sequences::Sequences;
use crate::time::EpochMs;
use bincode::{Decode, Encode};
use std::sync::Arc;

/// A window as its site knows it, merged from the parts that the site still has.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct SiteWindow {
    pub device: Arc<str>,
    pub stream: Arc<str>,
    /// The width in milliseconds.
    pub width_ms: u32,
    pub start: EpochMs,
    pub aggregate: Aggregate,
    /// How many of its readings came late.
    pub late: u64,
    /// How many parts it has here.
    pub parts: u32,
    /// None of them is open.
    pub closed: bool,
    /// The stream's watermark now.
    pub watermark: EpochMs,
    /// How many readings of the stream were set aside while its closed parts were open (see [`crate::uplink::Part`]).
    pub set_aside: u64,
    /// The sequence numbers of its readings.
    pub sequences: Sequences,
}

impl SiteWindow {
    /// What windows are ordered by.
    pub fn order(&self) -> (&str, &str, EpochMs) {
        (&self.device, &self.stream, self.start)
    }

    /// The first time that is not in it any more.
    pub fn end(&self) -> EpochMs {
        self.start.plus(i64::from(self.width_ms))
    }

    /// Whether its stream has passed its end.
    pub fn is_complete(&self) -> bool {
        self.end() <= self.watermark
    }
}
