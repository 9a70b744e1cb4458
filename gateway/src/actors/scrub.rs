//! The thread that reads again what lies on disk ([`Scrubber`]): slowly, at the lowest priority, for as long as the
//! process lives.
//!
//! The log says what its segments hold. A suspect goes to the thread that owns the file, which verifies it.

use selvedge_fabric::record::Suspect;
use selvedge_fabric::replica::StoreWork;
use selvedge_log::Scrubber;
use selvedge_log::storage::LogWork;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// A round begins this many seconds after the previous one began, or when that one ends, so that a small disk is not
/// read all day.
const ROUND_S: u64 = 3_600;
/// The first round begins this many seconds after the start, which has just read most of the disk.
const FIRST_S: u64 = 60;
/// The lowest priority of a thread.
const NICE: i32 = 19;

/// Starts the thread, which reads `bytes_per_s` bytes a second.
///
/// # Errors
/// When the operating system can't start a thread.
pub fn start(
    scrubber: Scrubber,
    bytes_per_s: u64,
    log: Sender<LogWork>,
    store: Sender<StoreWork>,
) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("scrub".into());
    thread.spawn(move || {
        let _ = rustix::process::nice(NICE); // affects only this thread
        std::thread::sleep(Duration::from_secs(FIRST_S));
        loop {
            let began = Instant::now();
            if round(&scrubber, bytes_per_s, &log, &store).is_none() {
                return;
            }
            std::thread::sleep(Duration::from_secs(ROUND_S).saturating_sub(began.elapsed()));
        }
    })?;
    Ok(())
}

/// `None` if the log's threads are gone: the process is about to end.
fn round(
    scrubber: &Scrubber,
    bytes_per_s: u64,
    log: &Sender<LogWork>,
    store: &Sender<StoreWork>,
) -> Option<()> {
    let (reply, extents) = channel();
    log.send(LogWork::Extents(reply)).ok()?;
    let extents = extents.recv().ok()?;
    let read = metrics::counter!("selvedge_scrubbed_bytes_total");
    let mut pace = |bytes: u64| {
        read.increment(bytes);
        std::thread::sleep(Duration::from_secs_f64(bytes as f64 / bytes_per_s.max(1) as f64));
    };
    let mut tell = |suspect| match suspect {
        Suspect::Segment(number) => _ = log.send(LogWork::Rotten(number)),
        Suspect::Snapshot { .. } | Suspect::Batch { .. } | Suspect::Folder(_) => {
            let _ = store.send(StoreWork::Check(suspect));
        }
    };
    scrubber.round(&extents, &mut pace, &mut tell);
    Some(())
}
