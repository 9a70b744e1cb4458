//! File descriptors: the operating system limits them per process, and clients' connections must not use up those that
//! the log needs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors reserved for the log, snapshots, batches, peers, the broker and HTTP.
pub const RESERVED_DESCRIPTORS_ENTRIES: usize = 512;

/// The most that is asked for: the system keeps memory for each.
const MOST_DESCRIPTORS_ENTRIES: u64 = 1 << 20;

/// Raises this process's limit as far as allowed. Returns the limit that holds then.
pub fn raise_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(MOST_DESCRIPTORS_ENTRIES).min(MOST_DESCRIPTORS_ENTRIES);
    let now = current.unwrap_or(u64::MAX);
    let raised =
        now < wanted && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_ok();
    usize::try_from(if raised { wanted } else { now }).unwrap_or(usize::MAX)
}

/// How many of the `wanted` connections a limit of descriptors leaves room for.
pub fn connections(limit: usize, wanted: usize) -> usize {
    // With very few descriptors, half of them are better than none.
    wanted.min(limit.saturating_sub(RESERVED_DESCRIPTORS_ENTRIES.min(limit / 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_back() {
        assert_eq!(connections(1_000_000, 10_000), 10_000);
        assert_eq!(connections(1_024, 10_000), 512);
        assert_eq!(connections(256, 10_000), 128);
        assert_eq!(connections(10_000, 10_000), 9_488);
    }
}
