//! The common part of answers that scan stored windows.

use super::problem::Failure;
use selvedge_types::params::bad;

/// The failure of an `after` that does not belong to the other parameters.
pub(super) fn of_another_query() -> Failure {
    bad("after", "belongs to another query; give it with all the parameters that it came from").into()
}
