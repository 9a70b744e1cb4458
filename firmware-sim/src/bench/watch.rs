//! What a broker's processes use, as Linux accounts it in `/proc/PID`.

use serde::{Deserialize, Serialize};

/// What one process used while it was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub pid: u32,
    pub name: String,
    /// The most memory that was resident, in bytes.
    pub resident_bytes: u64,
    /// Processor time, user and system, in microseconds.
    pub cpu_us: u64,
    /// Bytes that it caused to be written to storage, page cache included.
    pub written_bytes: u64,
}

/// Looks at processes while a measurement runs.
#[derive(Debug)]
pub struct Watch {
    start: Vec<Usage>,
    most_resident: Vec<u64>,
}

/// Clock ticks of `/proc` in microseconds: Linux reports 100 a second to programs on all its platforms of today.
const TICK_US: u64 = 10_000;

fn look(pid: u32) -> Result<Usage, String> {
    let file = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        std::fs::read_to_string(&path)
            .map_err(|e| format!("{path}: {e}; --watch takes the ids of running processes"))
    };
    let stat = file("stat")?;
    let (name, rest) = stat.rsplit_once(')').unwrap_or((&stat, ""));
    let name = name.split_once('(').map_or("", |(_, name)| name).to_string();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Fields 14 and 15 of proc(5), of which the first two are cut off here.
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    let value = |text: &str, key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Ok(Usage {
        pid,
        name,
        resident_bytes: value(&file("status")?, "VmRSS:").unwrap_or(0) * 1024,
        cpu_us: (ticks(11) + ticks(12)) * TICK_US,
        written_bytes: value(&file("io")?, "write_bytes:").unwrap_or(0),
    })
}

impl Watch {
    /// Begins to look.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn start(pids: &[u32]) -> Result<Self, String> {
        let start = pids.iter().map(|pid| look(*pid)).collect::<Result<Vec<_>, _>>()?;
        let most_resident = start.iter().map(|u| u.resident_bytes).collect();
        Ok(Self { start, most_resident })
    }

    /// Looks how much memory is resident now.
    pub fn look(&mut self) {
        for (usage, most) in self.start.iter().zip(&mut self.most_resident) {
            if let Ok(now) = look(usage.pid) {
                *most = now.resident_bytes.max(*most);
            }
        }
    }

    /// What was used since the start.
    ///
    /// # Errors
    /// When a process has ended.
    pub fn end(self) -> Result<Vec<Usage>, String> {
        let ended = |(start, resident_bytes): (Usage, u64)| {
            let now = look(start.pid)?;
            Ok(Usage {
                resident_bytes: now.resident_bytes.max(resident_bytes),
                cpu_us: now.cpu_us.saturating_sub(start.cpu_us),
                written_bytes: now.written_bytes.saturating_sub(start.written_bytes),
                ..start
            })
        };
        self.start.into_iter().zip(self.most_resident).map(ended).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_a_missing_one_is_named() {
        let watch = Watch::start(&[std::process::id()]).unwrap();
        let usage = watch.end().unwrap();
        assert!(usage[0].resident_bytes > 100_000, "{usage:?}");
        assert!(Watch::start(&[u32::MAX]).unwrap_err().contains("/proc/4294967295"));
    }
}
