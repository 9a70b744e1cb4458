//! What answers that scan stored windows have in common.

use super::problem::Failure;
use selvedge_types::params::bad;

/// That `after` does not go with the rest.
pub(super) fn of_another_query() -> Failure {
    bad("after", "belongs to another query; give it with all the parameters that it came from").into()
}
