//! `selvedge shards` and `selvedge shard`.

use crate::site::missing;
use crate::table::{Table, bytes, items, number, word};
use serde_json::Value;

/// Renders the answer of `/v1/shards`, one row per shard.
pub fn list(answer: &Value) -> String {
    let mut table =
        Table::new(&["SHARD", "CONFIGURATION", "LEADER", "REPLICAS", "BEHIND", "OUTBOX BATCHES", "OUTBOX"]);
    for s in items(&answer["shards"]) {
        let replicas = items(&s["replicas"]);
        let behind = replicas.iter().filter_map(|r| r["behind_slots"].as_u64()).max();
        let replicas: Vec<_> = replicas.iter().map(replica_name).collect();
        table.row(vec![
            number(&s["shard"]),
            number(&s["configuration"]),
            number(&s["leader"]),
            replicas.join(" "),
            number(&behind.into()),
            number(&s["outbox_batches"]),
            bytes(&s["outbox_bytes"]),
        ]);
    }
    table.text() + &missing(answer)
}

/// The number of a replica's gateway, followed by the replica's role or `no answer` unless it leads or follows.
fn replica_name(replica: &Value) -> String {
    let gateway = number(&replica["gateway"]);
    match replica["role"].as_str() {
        Some("leader" | "follower") => gateway,
        Some(role) => format!("{gateway}({role})"),
        None => format!("{gateway}(no answer)"),
    }
}

/// Renders the answer of `/v1/shards/{shard}`, one row per replica.
pub fn one(answer: &Value) -> String {
    let mut said = format!(
        "shard {}, configuration {}: leader {}, chosen up to slot {}, {} unconfirmed batches ({})\n\n",
        number(&answer["shard"]),
        number(&answer["configuration"]),
        number(&answer["leader"]),
        number(&answer["commit"]),
        number(&answer["outbox_batches"]),
        bytes(&answer["outbox_bytes"]),
    );
    let mut table = Table::new(&["GATEWAY", "ROLE", "BALLOT", "COMMIT", "APPLIED", "BEHIND"]);
    for r in items(&answer["replicas"]) {
        table.row(vec![
            number(&r["gateway"]),
            r["role"].as_str().map_or("no answer".to_string(), str::to_string),
            word(&r["ballot"]),
            number(&r["commit"]),
            number(&r["applied"]),
            number(&r["behind_slots"]),
        ]);
    }
    said += &table.text();
    said + &missing(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shard() -> Value {
        json!({
            "shard": 17, "configuration": 1, "leader": 2, "commit": 41_000, "outbox_batches": 3, "outbox_bytes": 20_480,
            "replicas": [
                {"gateway": 2, "role": "leader", "ballot": "b7.2", "commit": 41_000, "applied": 41_000, "behind_slots": 0},
                {"gateway": 3, "role": "damaged", "ballot": "b0.0", "commit": 100, "applied": 100, "behind_slots": 40_900},
                {"gateway": 1, "role": null},
            ],
            "missing_gateways": [],
        })
    }

    #[test]
    fn a_list_marks_replicas_that_do_not_serve() {
        let wanted = "\
SHARD  CONFIGURATION  LEADER  REPLICAS                   BEHIND  OUTBOX BATCHES  OUTBOX
   17              1       2  2 3(damaged) 1(no answer)  40,900               3  20 KiB
";
        let answer = json!({ "shards": [shard()], "missing_gateways": [] });
        assert_eq!(list(&answer), wanted);
    }

    #[test]
    fn one_shard_shows_each_replica() {
        let wanted = "\
shard 17, configuration 1: leader 2, chosen up to slot 41,000, 3 unconfirmed batches (20 KiB)

GATEWAY  ROLE       BALLOT  COMMIT  APPLIED  BEHIND
      2  leader     b7.2    41,000   41,000       0
      3  damaged    b0.0       100      100  40,900
      1  no answer  -            -        -       -
";
        assert_eq!(one(&shard()), wanted);
    }
}
