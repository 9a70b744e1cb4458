//! What moves: `selvedge shards --moving` and `selvedge rebalance`, from the answer of `/v1/directory`.

use crate::table::{Table, bytes, items, number};
use serde_json::Value;

/// Renders the answer of `/v1/directory`: a line about all groups, then one row for each that moves or has yet to move.
pub fn list(answer: &Value) -> String {
    let mut said = format!("{}\n", headline(answer));
    let misplaced = items(&answer["misplaced"]);
    // A move that lost its purpose may still be under way in a group that is where it should be.
    let others =
        items(&answer["moves"]).iter().filter(|m| !misplaced.iter().any(|g| g["shard"] == m["shard"]));
    let groups: Vec<_> = misplaced.iter().chain(others).collect();
    if groups.is_empty() {
        return said;
    }
    let mut table = Table::new(&["SHARD", "VOTERS", "WANTED", "FROM", "TO", "STATE"]);
    for g in groups {
        let (voters, wanted) = (items(&g["voters"]), items(&g["wanted"]));
        let without = |from: &[Value], these: &[Value]| {
            spaced(&from.iter().filter(|g| !these.contains(g)).cloned().collect::<Vec<_>>())
        };
        let under_way = items(&answer["moves"]).iter().find(|m| m["shard"] == g["shard"]);
        let (from, to) = match under_way {
            Some(m) => (number(&m["leaves"]), number(&m["comes"])),
            None => (without(voters, wanted), without(wanted, voters)),
        };
        let state = under_way.map_or("waits".to_string(), progress);
        table.row(vec![group(&g["shard"]), spaced(voters), spaced(wanted), from, to, state]);
    }
    said += "\n";
    said + &table.text()
}

/// What moves, for `selvedge site status`; empty if nothing does and nothing is paused.
pub fn summary(directory: &Value) -> String {
    if directory.is_null() || is_settled(directory) && directory["paused"] != true {
        return String::new();
    }
    let mut said = format!("\n{}\n", headline(directory));
    for m in items(&directory["moves"]) {
        let way = match (m["leaves"].as_u64(), m["comes"].as_u64()) {
            (Some(leaves), Some(comes)) => format!("from gateway {leaves} to {comes}"),
            (Some(leaves), None) => format!("away from gateway {leaves}"),
            (None, _) => format!("to gateway {}", number(&m["comes"])),
        };
        let what =
            if m["shard"].is_null() { "the directory".to_string() } else { format!("shard {}", m["shard"]) };
        said += &format!("  {what} {way}: {}\n", progress(m));
    }
    said
}

/// Whether nothing moves and nothing has yet to.
pub fn is_settled(directory: &Value) -> bool {
    directory["misplaced_count"] == 0 && items(&directory["moves"]).is_empty()
}

/// The groups that have yet to move, and the bounds on moves.
fn headline(directory: &Value) -> String {
    let groups = number(&directory["group_count"]);
    let what = match is_settled(directory) {
        true => format!("the replicas of all {groups} groups are where they should be"),
        false => format!(
            "{} of {groups} groups have yet to move, {} of them move now",
            number(&directory["misplaced_count"]),
            items(&directory["moves"]).len(),
        ),
    };
    let paused = match directory["paused"] == true {
        true => "; moves are paused, and `selvedge rebalance continue` ends the pause",
        false => "",
    };
    format!("{what}; at most {}/s{paused}", bytes(&directory["rate_bytes_per_s"]))
}

/// How far a move is.
fn progress(m: &Value) -> String {
    match (m["done_bytes"].as_u64(), m["total_bytes"].as_u64()) {
        (Some(done), Some(total @ 1..)) => {
            format!("{} % of {}", u128::from(done) * 100 / u128::from(total), bytes(&m["total_bytes"]))
        }
        _ => "moves".to_string(),
    }
}

/// The number of a shard; the directory group has none.
fn group(shard: &Value) -> String {
    if shard.is_null() { "directory".to_string() } else { number(shard) }
}

fn spaced(numbers: &[Value]) -> String {
    if numbers.is_empty() {
        number(&Value::Null)
    } else {
        numbers.iter().map(number).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    /// A site where gateway 3 drains; half of shard 7 has moved to gateway 4.
    pub fn draining() -> Value {
        json!({
            "slot": 9, "elapsed_ms": 60_000, "level": 1, "paused": false, "rate_bytes_per_s": 4_194_304,
            "group_count": 65, "misplaced_count": 2,
            "moves": [
                {"shard": 7, "leaves": 3, "comes": 4, "since_slot": 8, "done_bytes": 10_240, "total_bytes": 20_480},
            ],
            "misplaced": [
                {"shard": 7, "configuration": 1, "voters": [1, 2, 3], "wanted": [1, 2, 4]},
                {"shard": null, "configuration": 1, "voters": [1, 2, 3], "wanted": [1, 2, 4]},
            ],
            "gateways": [
                {"gateway": 1, "state": "active", "replicas": 65, "wanted_replicas": 65},
                {"gateway": 3, "state": "draining", "replicas": 2, "wanted_replicas": 0},
            ],
        })
    }

    #[test]
    fn a_list_has_what_moves_and_what_waits() {
        let wanted = "\
2 of 65 groups have yet to move, 1 of them move now; at most 4096 KiB/s

SHARD      VOTERS  WANTED  FROM  TO  STATE
7          1 2 3   1 2 4      3   4  50 % of 20 KiB
directory  1 2 3   1 2 4      3   4  waits
";
        assert_eq!(list(&draining()), wanted);
    }

    #[test]
    fn a_site_at_rest_has_one_line() {
        let mut answer = draining();
        (answer["moves"], answer["misplaced"], answer["misplaced_count"]) = (json!([]), json!([]), json!(0));
        let wanted = "the replicas of all 65 groups are where they should be; at most 4096 KiB/s\n";
        assert_eq!((list(&answer).as_str(), summary(&answer).as_str()), (wanted, ""));
        answer["paused"] = true.into();
        assert!(summary(&answer).contains("selvedge rebalance continue"), "a pause is always shown");
        assert_eq!(summary(&Value::Null), "", "a gateway without a copy of the directory shows nothing");
    }

    #[test]
    fn a_summary_names_each_move() {
        let mut answer = draining();
        let wanted = "\n2 of 65 groups have yet to move, 1 of them move now; at most 4096 KiB/s
  shard 7 from gateway 3 to 4: 50 % of 20 KiB\n";
        assert_eq!(summary(&answer), wanted);
        answer["moves"] = json!([
            {"shard": null, "leaves": 3, "comes": null, "done_bytes": 0, "total_bytes": null},
            {"shard": 5, "leaves": null, "comes": 4, "done_bytes": 0, "total_bytes": null},
        ]);
        let said = summary(&answer);
        assert!(said.contains("  the directory away from gateway 3: moves\n"), "{said}");
        assert!(said.ends_with("  shard 5 to gateway 4: moves\n"), "{said}");
    }
}
