//! Days of windows, as they are exported to a lake: which, what is in one, and what was written of it.

use selvedge_types::time::EpochMs;

/// A day (UTC) of a site's windows of one width: what is written as one file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DayKey {
    pub site: String,
    /// The width of the windows.
    pub width_ms: i64,
    /// Where the day starts.
    pub day: EpochMs,
}

/// A day's windows in two figures, by which a change is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayState {
    /// The sum of its windows' revisions, how many of its streams have passed its end, and twice how often they went back: greater
    /// with every part that was added to a window, and when windows become complete by what came after the day, or are not any more.
    pub revisions: i64,
    /// How far the slowest of its streams has come; nothing if that is not known.
    pub passed: Option<EpochMs>,
}

/// What was written last of a day, as the table `lake_export` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// [`DayState::revisions`] as they were before its windows were read.
    pub revisions: i64,
    pub windows: i64,
    /// How large the file is.
    pub bytes: i64,
    /// When it was written.
    pub at: EpochMs,
}

/// A writer's claim on a day of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The target's address, without any secret.
    pub target: String,
    pub key: DayKey,
    /// The owner of the claim: a name that no other run has.
    pub owner: String,
}
