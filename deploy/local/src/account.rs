//! The end: the node's windows fetched over HTTP, and the reckoning in words and in JSON.

use crate::http;
use firmware_sim::ledger::Tally;
use firmware_sim::reckoning::{NodeWindows, Reckoning};
use selvedge_shared::time::EpochMs;
use serde_json::Value;

/// The most pages that are fetched for one reckoning.
const MAX_PAGES_ENTRIES: usize = 10_000;

/// All of the node's windows of one width.
///
/// # Errors
/// In words: the node does not answer, or not as expected.
pub async fn node_windows(port: u16, width_ms: u32) -> Result<NodeWindows, String> {
    let mut windows = NodeWindows::default();
    let mut after = String::new();
    for _ in 0..MAX_PAGES_ENTRIES {
        let from = if after.is_empty() { String::new() } else { format!("&after={after}") };
        let path = format!("/v1/ledger?width={width_ms}{from}");
        let Some((status, body)) = http::get(port, &path).await else {
            return Err("the node does not answer".to_string());
        };
        if status != 200 {
            return Err(format!("the node answers {status} to {path}"));
        }
        let page: Value =
            serde_json::from_slice(&body).map_err(|e| format!("the node's ledger is no JSON: {e}"))?;
        match add_page(&page, &mut windows)? {
            Some(next) if next != after => after = next,
            _ => return Ok(windows),
        }
    }
    Err("the node's ledger does not end".to_string())
}

/// Takes in one page; gives the name of the next, if there is one.
fn add_page(page: &Value, windows: &mut NodeWindows) -> Result<Option<String>, String> {
    let rows = page.get("rows").and_then(Value::as_array).ok_or("the node's ledger has no \"rows\"")?;
    for row in rows {
        let text = |name: &str| row.get(name).and_then(Value::as_str);
        let count = row.get("count").and_then(Value::as_u64);
        let parsed = (|| {
            let start = row.get("start")?;
            let start = start.as_i64().map(EpochMs).or_else(|| EpochMs::parse(start.as_str()?).ok())?;
            let tally = Tally { count: count?, fingerprint: fingerprint(row.get("fingerprint")?)? };
            Some((text("device")?, text("stream")?, start, tally))
        })();
        let (device, stream, start, tally) =
            parsed.ok_or_else(|| format!("a row of the node's ledger is odd: {row}"))?;
        windows.add(device, stream, start, tally);
    }
    let next = page.get("next").filter(|_| !rows.is_empty());
    Ok(next.and_then(|n| n.as_str().map(str::to_string).or_else(|| n.as_u64().map(|n| n.to_string()))))
}

/// A 64-bit number as JSON number (of either sign) or as text (JSON readers tend to lose its last bits).
fn fingerprint(value: &Value) -> Option<u64> {
    let signed = || value.as_i64().map(i64::cast_unsigned);
    let text = || {
        let text = value.as_str()?;
        text.parse().ok().or_else(|| text.parse().ok().map(i64::cast_unsigned))
    };
    value.as_u64().or_else(signed).or_else(text)
}

/// All that the end says.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What was compared.
    pub reckoning: Reckoning,
    /// Changes of leadership after the first election.
    pub leader_changes: u64,
    /// From the start of the devices to the end.
    pub seconds: f64,
    /// Why losses can't be told (the windows are still open), or why it was cut short.
    pub remarks: Vec<String>,
    /// All windows were closed and confirmed, so losses can be told.
    pub complete: bool,
}

impl Outcome {
    /// In words.
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
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pages_are_read_and_odd_ones_named() {
        let mut windows = NodeWindows::default();
        let row = |fingerprint: Value| json!({"device": "d", "stream": "s", "width_ms": 10_000, "start": 0, "count": 2, "fingerprint": fingerprint});
        let page = json!({"rows": [row(json!(5)), row(json!("18446744073709551615"))], "next": "abc"});
        assert_eq!(add_page(&page, &mut windows).unwrap(), Some("abc".to_string()));
        let mut expected = NodeWindows::default();
        expected.add("d", "s", EpochMs(0), Tally { count: 4, fingerprint: 4 });
        assert_eq!(windows, expected);
        assert_eq!(fingerprint(&json!(-1)), Some(u64::MAX));
        assert_eq!(fingerprint(&json!("-1")), Some(u64::MAX));
        assert_eq!(add_page(&json!({"rows": []}), &mut windows).unwrap(), None);
        for odd in [json!({}), json!({"rows": [{}]}), json!({"rows": [row(json!(1.5))]})] {
            assert!(add_page(&odd, &mut windows).is_err());
        }
    }

    #[test]
    fn the_json_has_the_documented_keys() {
        let value: Value = serde_json::from_str(&Outcome::default().json()).unwrap();
        for key in
            ["published", "acked", "counted", "lost", "duplicated", "windows", "leader_changes", "seconds"]
        {
            assert!(value.get(key).is_some_and(Value::is_number), "{key}");
        }
    }
}
