//! The end: the node's windows fetched over HTTP, and the reckoning in words and in JSON.

use crate::http;
use crate::settings::SITE;
use firmware_sim::gaps::GapReport;
use firmware_sim::ledger::Tally;
use firmware_sim::reckoning::{NodeWindows, Reckoning};
use selvedge_types::time::EpochMs;
use serde::Deserialize;
use std::net::SocketAddrV4;

/// The most pages that are fetched for one reckoning.
const MAX_PAGES_ENTRIES: usize = 10_000;

/// All of the node's windows of one width.
///
/// # Errors
/// In words: the node does not answer, or not as expected.
pub async fn node_windows(node: SocketAddrV4, width_ms: u32) -> Result<NodeWindows, String> {
    let mut windows = NodeWindows::default();
    let mut after = String::new();
    for _ in 0..MAX_PAGES_ENTRIES {
        let from = if after.is_empty() { String::new() } else { format!("&after={after}") };
        let path = format!("/v1/ledger?site={SITE}&width={width_ms}ms{from}");
        let Some((status, body)) = http::get(node, &path).await else {
            return Err("the node does not answer".to_string());
        };
        if status != 200 {
            return Err(format!("the node answers {status} to {path}"));
        }
        match add_page(&body, &mut windows)? {
            Some(next) if next != after => after = next,
            _ => return Ok(windows),
        }
    }
    Err("the node's ledger does not end".to_string())
}

/// A page of the node's ledger.
#[derive(Debug, Deserialize)]
struct Page {
    series: Vec<Series>,
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Series {
    device: String,
    stream: String,
    /// Start in epoch milliseconds, count, fingerprint in hexadecimal.
    windows: Vec<(i64, u64, String)>,
}

/// Takes in one page; gives the place of the next, if there is one.
fn add_page(body: &[u8], windows: &mut NodeWindows) -> Result<Option<String>, String> {
    let page: Page =
        serde_json::from_slice(body).map_err(|e| format!("the node's ledger can't be read: {e}"))?;
    for series in &page.series {
        for (start, count, print) in &series.windows {
            let fingerprint = u64::from_str_radix(print, 16)
                .map_err(|_| format!("the node's ledger has a fingerprint {print:?}"))?;
            let tally = Tally { count: *count, fingerprint };
            windows.add(&series.device, &series.stream, EpochMs(*start), tally);
        }
    }
    Ok(page.next)
}

/// All that the end says.
#[derive(Debug, Clone, Default)]
pub struct RunOutcome {
    pub reckoning: Reckoning,
    /// Changes of leadership after the first election.
    pub leader_changes: u64,
    /// How long devices went without an acknowledgement.
    pub gaps: GapReport,
    /// From the start of the devices to the end.
    pub seconds: f64,
    /// Why losses can't be told (the windows are still open), or why it was cut short.
    pub remarks: Vec<String>,
    /// All windows were closed and confirmed, so losses can be told.
    pub complete: bool,
}

impl RunOutcome {
    /// The reckoning in words, several lines, for a terminal.
    pub fn text(&self) -> String {
        let r = &self.reckoning;
        let mut text = format!(
            "The reckoning\n  published       {:>10}\n  acknowledged    {:>10}\n  counted         {:>10}\n  lost            {:>10}\n  duplicated      {:>10}\n  windows         {:>10}\n  leader changes  {:>10}\n  seconds         {:>10.1}\n",
            r.published,
            r.acked,
            r.counted,
            r.lost,
            r.duplicated,
            r.windows,
            self.leader_changes,
            self.seconds
        );
        text.push_str(&self.gaps.text());
        for finding in &r.findings {
            let place = finding.start.map_or("all windows".to_string(), |start| start.to_string());
            text.push_str(&format!(
                "  {} {} {place}: published {}, acknowledged {}, counted {}: lost {}, duplicated {}\n",
                finding.device,
                finding.stream,
                finding.account.published.count,
                finding.account.acked.count,
                finding.counted.count,
                finding.lost,
                finding.duplicated
            ));
        }
        for remark in &self.remarks {
            text.push_str(&format!("  {remark}\n"));
        }
        text
    }

    /// As one line of JSON.
    pub fn json(&self) -> String {
        let r = &self.reckoning;
        serde_json::json!({
            "published": r.published,
            "acked": r.acked,
            "counted": r.counted,
            "lost": r.lost,
            "duplicated": r.duplicated,
            "windows": r.windows,
            "leader_changes": self.leader_changes,
            "seconds": (self.seconds * 1_000.0).round() / 1_000.0,
            "complete": self.complete,
            "gaps": self.gaps.json(),
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn pages_are_read_and_odd_ones_named() {
        let mut windows = NodeWindows::default();
        let page = |print: &str, next: Value| {
            let series = json!([{
                "site": "local", "device": "d", "stream": "s", "width_ms": 10_000,
                "windows": [[-10_000, 2, print], [0, 1, "0000000000000005"]],
            }]);
            json!({ "series": series, "next": next }).to_string()
        };
        let next = add_page(page("ffffffffffffffff", json!("7.-10000")).as_bytes(), &mut windows);
        assert_eq!(next.unwrap(), Some("7.-10000".to_string()));
        let mut expected = NodeWindows::default();
        expected.add("d", "s", EpochMs(-10_000), Tally { count: 2, fingerprint: u64::MAX });
        expected.add("d", "s", EpochMs(0), Tally { count: 1, fingerprint: 5 });
        assert_eq!(windows, expected);
        assert_eq!(add_page(br#"{"series": [], "next": null}"#, &mut windows).unwrap(), None);
        for odd in ["", "{}", r#"{"series": [{}]}"#, &page("xyz", Value::Null)] {
            assert!(add_page(odd.as_bytes(), &mut windows).is_err(), "{odd}");
        }
    }

    #[test]
    fn the_json_has_the_documented_keys() {
        let value: Value = serde_json::from_str(&RunOutcome::default().json()).unwrap();
        for key in
            ["published", "acked", "counted", "lost", "duplicated", "windows", "leader_changes", "seconds"]
        {
            assert!(value.get(key).is_some_and(Value::is_number), "{key}");
        }
    }
}
