//! How long the disk takes to make a small write durable: what any acknowledgement that means something has to wait for.

use super::report::Latency;
use super::{LATENCY_DIGITS, MAX_LATENCY_US};
use hdrhistogram::Histogram;
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Instant;

/// How often it is measured.
const ROUNDS: u64 = 500;
/// The bytes of each write: a small batch of readings.
const WRITE_BYTES: usize = 256;

/// Appends to a file whose space is claimed, as a log does, with an fdatasync each time.
///
/// # Errors
/// When the folder can't be written to.
pub fn measure(folder: &Path) -> Result<Latency, String> {
    let failed = |e: std::io::Error| format!("--disk {}: {e}", folder.display());
    let mut latency_us =
        Histogram::new_with_bounds(1, MAX_LATENCY_US, LATENCY_DIGITS).map_err(|e| e.to_string())?;
    let path = folder.join(format!("selvedge-bench-{}", std::process::id()));
    let mut file = std::fs::File::create(&path).map_err(failed)?;
    let measured = (|| {
        file.write_all(&vec![0; ROUNDS as usize * WRITE_BYTES])?;
        file.sync_all()?;
        file.rewind()?;
        for round in 0..ROUNDS {
            let begin = Instant::now();
            file.write_all(&[round as u8; WRITE_BYTES])?;
            file.sync_data()?;
            latency_us.saturating_record(begin.elapsed().as_micros() as u64);
        }
        Ok(())
    })();
    let _ = std::fs::remove_file(&path); // measured or not, it is of no more use
    measured.map(|()| Latency::of(&latency_us)).map_err(failed)
}
