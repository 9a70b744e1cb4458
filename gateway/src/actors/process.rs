//! How the process ends when it may not go on.

/// Ends the process at once: nothing may be promised on what may not be on disk.
pub fn end_process(why: &str) -> ! {
    tracing::error!("{why}; ending, to be started again");
    std::process::exit(70)
}
