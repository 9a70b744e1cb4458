//! Several reports as one table: the median of each label's runs.

use super::plot::read_reports;
use super::report::BenchReport;
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Print the medians of reports of `bench --json`, one line per label and size.
#[derive(Debug, Clone, Args)]
pub struct Summary {
    /// Files of reports, one JSON object per line.
    #[arg(required = true, value_name = "FILE.jsonl")]
    pub files: Vec<PathBuf>,
}

/// What tells rows apart, in the order in which they were met.
type Key = (usize, String, usize, usize, u64);

impl Summary {
    /// The table, as Markdown.
    ///
    /// # Errors
    /// Names the file and line that can't be read.
    pub fn table(&self) -> Result<String, String> {
        let mut order: Vec<String> = Vec::new();
        let mut rows: BTreeMap<Key, Vec<BenchReport>> = BTreeMap::new();
        for value in read_reports(&self.files)? {
            let report: BenchReport = serde_json::from_value(value).map_err(|e| format!("no report: {e}"))?;
            let plan = &report.plan;
            let place = order.iter().position(|label| *label == plan.label).unwrap_or_else(|| {
                order.push(plan.label.clone());
                order.len() - 1
            });
            let key = (place, plan.label.clone(), plan.connections, plan.devices(), plan.rate as u64);
            rows.entry(key).or_default().push(report);
        }
        let mut out = String::from(
            "| | connections | devices | due/s | acked/s | p50 us | p99 us | cpu us/reading | cores | resident MiB | written B/reading | runs |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for ((_, label, connections, devices, rate), reports) in rows {
            let median = |of: fn(&BenchReport) -> f64| median(reports.iter().map(of).collect());
            let cells = [
                connections.to_string(),
                devices.to_string(),
                if rate == 0 { String::new() } else { rate.to_string() },
                format!("{:.0}", median(|r| r.acked_per_s)),
                format!("{:.0}", median(|r| r.latency_us.p50 as f64)),
                format!("{:.0}", median(|r| r.latency_us.p99 as f64)),
                format!("{:.2}", median(|r| r.broker.cpu_us_per_reading)),
                format!("{:.3}", median(|r| r.broker.cores)),
                format!("{:.1}", median(|r| r.broker.largest_resident_bytes as f64) / (1024.0 * 1024.0)),
                format!("{:.1}", median(|r| r.broker.most_written_bytes_per_reading)),
                reports.len().to_string(),
            ];
            out.push_str(&format!("| {label} | {} |\n", cells.join(" | ")));
        }
        Ok(out)
    }
}

/// The middle one; of an even number the upper of the two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_three_runs_stands_in_the_table() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("r.jsonl");
        let report = |acked_per_s: f64| {
            let mut report = BenchReport::empty();
            (report.acked_per_s, report.plan.label) = (acked_per_s, "one".into());
            serde_json::to_string(&report).unwrap()
        };
        std::fs::write(&file, [report(3e5), report(1e5), report(2e5)].join("\n")).unwrap();
        let table = Summary { files: vec![file] }.table().unwrap();
        assert!(table.contains("| one | 50 | 50 |  | 200000 |"), "{table}");
        assert!(table.trim_end().ends_with("| 3 |"), "{table}");
        assert_eq!(table.lines().count(), 3);
    }
}
