//! File descriptors: the system gives a process only so many, and one that the log needs must not be a client's connection.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is kept for the log, snapshots, batches, peers, the broker and HTTP.
pub const RESERVED_DESCRIPTORS_ENTRIES: usize = 512;

/// The most that is asked for: what the system keeps of each has to be kept, too.
const MOST_DESCRIPTORS_ENTRIES: u64 = 1 << 20;

/// Raises the limit of this process as far as it may; gives what it is then.
pub fn raise_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(MOST_DESCRIPTORS_ENTRIES).min(MOST_DESCRIPTORS_ENTRIES);
    let now = current.unwrap_or(u64::MAX);
    let raised =
        now < wanted && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_ok();
    usize::try_from(if raised { wanted } else { now }).unwrap_or(usize::MAX)
}

/// How many of the connections that the settings allow there is room for, with so many descriptors.
pub fn connections(limit: usize, wanted: usize) -> usize {
    // With very few, half are better than none.
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
