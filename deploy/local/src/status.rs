//! The status of gateways and node, read tolerantly: a missing field is unknown, not an error.

use serde_json::Value;
use std::collections::BTreeMap;

/// One gateway at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gateway {
    /// Its number in the site, as far as known.
    pub id: Option<u64>,
    pub up: bool,
    /// It says that it is ready.
    pub ready: bool,
    /// Shards that it leads.
    pub leading: u64,
    /// Batches that wait for the node's confirmation, over the shards that it leads.
    pub outbox_batches: u64,
    pub outbox_bytes: u64,
    /// Windows that are still open, or closed and not yet in a batch; `None` if the gateway does not report them.
    pub open_windows: Option<u64>,
    /// Readings that it acknowledged since it started.
    pub publishes_acked: u64,
    /// Shards that it leads by number, for following changes of leadership.
    pub leads: Vec<u64>,
}

/// The node at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    pub up: bool,
    /// Parts of windows that it has put on disk since it started, and so confirmed.
    pub windows: u64,
    /// Batches that it knows of and has not got.
    pub missing: u64,
}

/// The first of some places that holds a number.
fn number(value: &Value, places: &[&str]) -> Option<u64> {
    places.iter().find_map(|place| value.pointer(place)?.as_u64())
}

/// Reads a gateway's `/v1/status`; a gateway that did not answer is down.
pub fn gateway(value: Option<&Value>) -> Gateway {
    let Some(value) = value else { return Gateway::default() };
    let none = Vec::new();
    let shards = value.pointer("/shards").and_then(Value::as_array).unwrap_or(&none);
    let led: Vec<&Value> =
        shards.iter().filter(|s| s.get("role").and_then(Value::as_str) == Some("leader")).collect();
    // A follower holds the same outbox as its leader, so only leaders are summed up.
    let sum = |name: &str| led.iter().filter_map(|s| s.get(name)?.as_u64()).sum::<u64>();
    let some = |name: &str| led.iter().any(|s| s.get(name).is_some());
    Gateway {
        id: number(value, &["/gateway"]),
        up: true,
        ready: value.pointer("/ready").and_then(Value::as_bool).unwrap_or(false),
        leading: number(value, &["/totals/leading"]).unwrap_or(led.len() as u64),
        outbox_batches: sum("outbox_batches"),
        outbox_bytes: sum("outbox_bytes"),
        open_windows: some("open_windows")
            .then(|| sum("open_windows"))
            .or_else(|| number(value, &["/totals/open_windows"])),
        publishes_acked: number(value, &["/totals/publishes_acked"]).unwrap_or(0),
        leads: led.iter().filter_map(|s| s.get("shard")?.as_u64()).collect(),
    }
}

/// The node's `/v1/status` and `/metrics`.
pub fn node(value: Option<&Value>, metrics: &str) -> Node {
    let Some(value) = value else { return Node::default() };
    let written = |line: &str| line.strip_prefix("selvedge_node_windows_written_total ")?.trim().parse().ok();
    Node {
        up: true,
        windows: metrics.lines().find_map(written).unwrap_or(0),
        missing: number(value, &["/batches_missing"]).unwrap_or(0),
    }
}

/// Follows who leads which shard. The first leader of a shard is no change.
#[derive(Debug, Clone, Default)]
pub struct Leaders {
    known: BTreeMap<u64, usize>,
    changes: u64,
}

impl Leaders {
    /// Takes in what each gateway says it leads. Where two say so, one of them has not noticed yet that it does not.
    pub fn observe<'a>(&mut self, all: impl IntoIterator<Item = &'a [u64]>) {
        let mut said: BTreeMap<u64, Option<usize>> = BTreeMap::new();
        for (index, leads) in all.into_iter().enumerate() {
            for shard in leads {
                said.entry(*shard).and_modify(|leader| *leader = None).or_insert(Some(index));
            }
        }
        for (shard, leader) in said {
            if let Some(leader) = leader
                && self.known.insert(shard, leader).is_some_and(|before| before != leader)
            {
                self.changes += 1;
            }
        }
    }

    /// How often a shard's leader changed after the first election.
    pub fn changes(&self) -> u64 {
        self.changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_is_read_whatever_is_missing() {
        let full = json!({
            "gateway": 1, "ready": true,
            "shards": [
                {"shard": 0, "leader": 1, "role": "leader", "outbox_batches": 2, "outbox_bytes": 100},
                {"shard": 1, "leader": 2, "role": "follower", "outbox_batches": 9, "outbox_bytes": 900},
            ],
            "totals": {"leading": 1, "publishes_acked": 12},
        });
        let read = gateway(Some(&full));
        assert_eq!((read.leading, read.outbox_batches, read.outbox_bytes), (1, 2, 100));
        assert_eq!((read.publishes_acked, read.leads, read.open_windows), (12, vec![0], None));
        assert!(read.ready && read.id == Some(1));
        for odd in [json!({}), json!([1]), json!({"shards": 5, "totals": []}), json!({"shards": [5, {}]})] {
            assert_eq!(gateway(Some(&odd)).leading, 0);
            assert!(gateway(Some(&odd)).up);
            assert_eq!(node(Some(&odd), "").missing, 0);
        }
        assert!(!gateway(None).up);
        let metrics =
            "# TYPE selvedge_node_windows_written_total counter\nselvedge_node_windows_written_total 42\n";
        let read = node(Some(&json!({"batches_missing": 3})), metrics);
        assert_eq!((read.windows, read.missing), (42, 3));
    }

    #[test]
    fn only_a_new_leader_is_a_change() {
        let mut leaders = Leaders::default();
        let mut changes = |first: &[u64], second: &[u64]| {
            leaders.observe([first, second]);
            leaders.changes()
        };
        assert_eq!(changes(&[1, 2], &[3]), 0);
        assert_eq!(changes(&[1, 2], &[]), 0);
        assert_eq!(
            changes(&[1, 2], &[1, 3]),
            0,
            "the first wakes as a leader of the past, or the second does"
        );
        assert_eq!(changes(&[2], &[1, 3]), 1);
        assert_eq!(changes(&[2, 1], &[3]), 2);
    }
}
