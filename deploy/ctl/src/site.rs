//! `selvedge site status`.

use crate::moving;
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
        "site {}: {reached} of {} gateways answer; {} shards, each on {} of them; {leaderless}{}\n\n",
        word(&answer["site"]),
        gateways.len(),
        number(&answer["shard_count"]),
        number(&answer["replicas_per_shard"]),
        level(&answer["directory"]),
    );
    // Most sites have neither zones nor weights, and the table is wide enough without them.
    let has_zones = gateways.iter().any(|g| g["zone"].is_string());
    let has_weights = gateways.iter().any(|g| g["weight"].as_u64().is_some_and(|weight| weight != 1));
    let mut titles = vec![
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
    titles.extend(has_zones.then_some("ZONE"));
    titles.extend(has_weights.then_some("WEIGHT"));
    let mut table = Table::new(&titles);
    for g in gateways {
        let mut row = vec![
            number(&g["gateway"]),
            state(g),
            word(&g["release"]),
            duration(&g["uptime_ms"]),
            number(&g["leads"]),
            number(&g["replicas"]),
            number(&g["behind_slots"]),
            number(&g["connections"]),
            yes_or_no(&g["room"]),
            number(&g["warnings"]),
            word(&g["trouble"]),
        ];
        row.extend(has_zones.then(|| word(&g["zone"])));
        row.extend(has_weights.then(|| number(&g["weight"])));
        table.row(row);
    }
    said += &table.text();
    said += &moving::summary(&answer["directory"]);
    said += &next_level(&answer["directory"]["next_level"]);
    said + &missing(answer)
}

/// The level of the forms that the site uses, if the gateway that answers knows it.
fn level(directory: &Value) -> String {
    directory["level"].as_u64().map_or(String::new(), |level| format!("; level {level}"))
}

/// A line about the next level; empty if no gateway understands a higher one.
fn next_level(next: &Value) -> String {
    let Some(level) = next["level"].as_u64() else { return String::new() };
    match items(&next["waits_for"]) {
        [] => format!(
            "\nLevel {level} begins in about {}; then no gateway can go back to a release that does not understand it. `selvedge rebalance \
             pause` holds it back.\n",
            duration(&next["begins_in_ms"])
        ),
        list => format!(
            "\nLevel {level} begins when every gateway understands it: update {} {}, or remove what is dead for good.\n",
            if list.len() == 1 { "gateway" } else { "gateways" },
            numbers(&next["waits_for"])
        ),
    }
}

/// How a gateway is, followed by what is special about its place in the site.
fn state(gateway: &Value) -> String {
    let special =
        |name: &str, usual: &str| gateway[name].as_str().filter(|text| *text != usual).map(str::to_string);
    let all = [Some(word(&gateway["state"])), special("directory_state", "active"), special("role", "full")];
    all.into_iter().flatten().collect::<Vec<_>>().join(", ")
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

    #[test]
    fn the_next_level_is_shown_with_what_it_waits_for() {
        let said = |waits_for: Value, begins_in_ms: Value| {
            next_level(&json!({ "level": 2, "waits_for": waits_for, "begins_in_ms": begins_in_ms }))
        };
        assert_eq!(next_level(&Value::Null), "");
        let waits = said(json!([2, 3]), Value::Null);
        assert!(waits.contains("Level 2 begins when") && waits.contains("update gateways 2, 3"), "{waits}");
        let begins = said(json!([]), json!(65_000));
        assert!(begins.contains("in about 1m 5s") && begins.contains("rebalance pause"), "{begins}");
    }

    #[test]
    fn what_is_special_about_gateways_is_shown_with_what_moves() {
        let gateway = |n: u64, directory_state: &str, role: &str, weight: u64, zone: Option<&str>| {
            json!({
                "gateway": n, "state": "ready", "release": "0.1.0", "uptime_ms": 1_000, "leads": 0, "replicas": 2,
                "behind_slots": 0, "connections": 0, "room": true, "warnings": 0, "trouble": null,
                "directory_state": directory_state, "role": role, "weight": weight, "zone": zone,
            })
        };
        let answer = json!({
            "site": "plant-7", "shard_count": 64, "replicas_per_shard": 3, "leaderless_shards": 0, "missing_gateways": [],
            "gateways": [
                gateway(1, "active", "full", 2, Some("hall 1")), gateway(2, "active", "witness", 1, None),
                gateway(3, "draining", "full", 1, None),
            ],
            "directory": moving::tests::draining(),
        });
        let wanted = "\
site plant-7: 3 of 3 gateways answer; 64 shards, each on 3 of them; every shard has a leader; level 1

GATEWAY  STATE            RELEASE  UP FOR  LEADS  REPLICAS  BEHIND  CONNECTIONS  ROOM  WARNINGS  TROUBLE  ZONE    WEIGHT
      1  ready              0.1.0      1s      0         2       0            0  yes          0  -        hall 1       2
      2  ready, witness     0.1.0      1s      0         2       0            0  yes          0  -        -            1
      3  ready, draining    0.1.0      1s      0         2       0            0  yes          0  -        -            1

2 of 65 groups have yet to move, 1 of them move now; at most 4096 KiB/s
  shard 7 from gateway 3 to 4: 50 % of 20 KiB
";
        assert_eq!(status(&answer), wanted);
    }
}
