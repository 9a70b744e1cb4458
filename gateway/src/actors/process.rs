//! How the process ends when it must not continue.

/// Ends the process at once: no promise may rest on what may not be on disk.
pub fn end_process(why: &str) -> ! {
    tracing::error!("{why}; ending, to be started again");
    std::process::exit(70)
}
