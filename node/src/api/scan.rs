//! What answers that scan stored windows have in common, whether streams are told apart or merged.

use super::problem::Failure;
use selvedge_node_core::params::bad;

/// How many windows are read at a time.
pub(super) const READ_ENTRIES: u32 = 5_000;

/// How many windows one answer reads at most before it ends with a `next`.
pub(super) const SCAN_ENTRIES: usize = 300_000;

/// That `after` does not go with the rest.
pub(super) fn of_another_query() -> Failure {
    bad("after", "belongs to another query; give it with all the parameters that it came from").into()
}
