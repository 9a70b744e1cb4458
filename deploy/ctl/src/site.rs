//! `selvedge site status`.

use crate::table::{Table, duration, items, number, numbers, word, yes_or_no};
use serde_json::Value;

/// Renders the answer of `/v1/gateways`: a line about the whole site, then one row per gateway.
pub fn status(answer: &Value) -> String {
    let gateways = items(&answer["gateways"]);
    let reached = gateways.iter().filter(|g| g["state"] != "unreachable").count();
    let leaderless = match answer["leaderless_shards"].as_u64() {
        Some(0) => "every shard has a leader".to_string(),
        _ => format!("{} without a leader that answers", number(&answer["leaderless_shards"])),
    };
    let mut said = format!(
        "site {}: {reached} of {} gateways answer; {} shards, each on {} of them; {leaderless}\n\n",
        word(&answer["site"]),
        gateways.len(),
        number(&answer["shard_count"]),
        number(&answer["replicas_per_shard"]),
    );
    let titles = [
        "GATEWAY",
        "STATE",
        "RELEASE",
        "UP FOR",
        "LEADS",
        "REPLICAS",
        "BEHIND",
        "CONNECTIONS",
        "ROOM",
        "WARNINGS",
        "TROUBLE",
    ];
    let mut table = Table::new(&titles);
    for g in gateways {
        table.row(vec![
            number(&g["gateway"]),
            word(&g["state"]),
            word(&g["release"]),
            duration(&g["uptime_ms"]),
            number(&g["leads"]),
            number(&g["replicas"]),
            number(&g["behind_slots"]),
            number(&g["connections"]),
            yes_or_no(&g["room"]),
            number(&g["warnings"]),
            word(&g["trouble"]),
        ]);
    }
    said += &table.text();
    said + &missing(answer)
}

/// A line that names the gateways that did not answer; empty if all did.
pub fn missing(answer: &Value) -> String {
    match items(&answer["missing_gateways"]) {
        [] => String::new(),
        list => format!(
            "\nNo answer from {} {}: this output may be incomplete.\n",
            if list.len() == 1 { "gateway" } else { "gateways" },
            numbers(&answer["missing_gateways"])
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_site_with_a_silent_gateway() {
        let answer = json!({
            "site": "plant-7", "gateways": [
                {"gateway": 1, "state": "ready", "release": "0.1.0", "uptime_ms": 61_000, "leads": 33, "replicas": 64,
                 "behind_slots": 0, "connections": 12, "room": true, "warnings": 0, "trouble": null},
                {"gateway": 2, "state": "troubled", "release": "0.1.0", "uptime_ms": 4_000, "leads": 31, "replicas": 64,
                 "behind_slots": 1_204, "connections": 0, "room": false, "warnings": 2, "trouble": "no disk"},
                {"gateway": 3, "state": "unreachable", "weight": 1},
            ],
            "shard_count": 64, "replicas_per_shard": 3, "leaderless_shards": 0, "missing_gateways": [3],
        });
        let wanted = "\
site plant-7: 2 of 3 gateways answer; 64 shards, each on 3 of them; every shard has a leader

GATEWAY  STATE        RELEASE  UP FOR  LEADS  REPLICAS  BEHIND  CONNECTIONS  ROOM  WARNINGS  TROUBLE
      1  ready          0.1.0   1m 1s     33        64       0           12  yes          0  -
      2  troubled       0.1.0      4s     31        64   1,204            0  no           2  no disk
      3  unreachable        -       -      -         -       -            -  -            -  -

No answer from gateway 3: this output may be incomplete.
";
        assert_eq!(status(&answer), wanted);
    }
}
