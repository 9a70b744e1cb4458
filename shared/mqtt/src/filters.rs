//! The filters that one connection holds, and what they take.

use super::MAX_CONNECTION_FILTER_ENTRIES;
use selvedge_types::topic::Filter;
use std::collections::HashSet;

/// The most that the subscriptions of one connection may take in memory, in bytes, by [`cost_bytes`]: some thousand of few
/// levels, or a hundred of as many levels as may be.
pub const MAX_CONNECTION_FILTER_BYTES: usize = 2 * 1024 * 1024;

/// What a subscription takes beside its text: its places in the lists of the connection and of the router.
const ENTRY_BYTES: usize = 320;
/// What a level takes in the router's tree.
const LEVEL_BYTES: usize = 320;

/// What a subscription takes in memory at most, in bytes: a bit more than was measured. Levels that filters share are counted for
/// each of them.
pub fn cost_bytes(filter: &Filter) -> usize {
    let text = filter.as_str();
    let levels = if filter.has_wildcard() { text.split('/').count() } else { 0 };
    ENTRY_BYTES + 2 * text.len() + levels * LEVEL_BYTES
}

/// The filters of a connection.
#[derive(Debug, Default)]
pub(super) struct Filters {
    held: HashSet<Filter>,
    bytes: usize,
}

impl Filters {
    /// What a session brings along; it was admitted before.
    pub fn restored(filters: impl Iterator<Item = Filter>) -> Self {
        let mut restored = Self::default();
        for filter in filters {
            restored.keep(filter);
        }
        restored
    }

    /// Adds a filter, and says whether it is new; nothing if there is no room for it.
    pub fn add(&mut self, filter: &Filter) -> Option<bool> {
        if self.held.contains(filter) {
            return Some(false);
        }
        let fits = self.held.len() < MAX_CONNECTION_FILTER_ENTRIES
            && self.bytes + cost_bytes(filter) <= MAX_CONNECTION_FILTER_BYTES;
        fits.then(|| {
            self.keep(filter.clone());
            true
        })
    }

    fn keep(&mut self, filter: Filter) {
        self.bytes += cost_bytes(&filter);
        self.held.insert(filter);
    }

    /// Takes a filter out; nothing if it is not held.
    pub fn take(&mut self, filter: &str) -> Option<Filter> {
        let filter = self.held.take(filter)?;
        self.bytes = self.bytes.saturating_sub(cost_bytes(&filter));
        Some(filter)
    }
}
