//! The whole road, once, with real processes: devices publish, gateways are killed, the node counts, and
//! the reckoning finds nothing lost and nothing twice.

use std::net::TcpListener;
use std::process::{Command, Output};

/// The first of `count` ports in a row that are free now.
fn free_ports(count: u16) -> u16 {
    for _ in 0..100 {
        let Ok(probe) = TcpListener::bind("127.0.0.1:0") else { continue };
        let first = probe.local_addr().unwrap().port();
        let row: Vec<_> =
            (1..count).map(|i| first.checked_add(i).map(|p| TcpListener::bind(("127.0.0.1", p)))).collect();
        if row.iter().all(|l| matches!(l, Some(Ok(_)))) {
            return first;
        }
    }
    panic!("no {count} free ports in a row");
}

fn site(options: &[&str]) -> Output {
    let (mqtt, http) = (free_ports(3), free_ports(3));
    let (node, uplink) = (free_ports(1), free_ports(1));
    let ports =
        [("--mqtt-port", mqtt), ("--http-port", http), ("--node-port", node), ("--uplink-port", uplink)];
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-local"));
    for (option, port) in ports {
        command.args([option, &port.to_string()]);
    }
    command.args(options).output().unwrap()
}

fn reckoning(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|e| {
        panic!("no reckoning ({e}):\n{text}\n{}", String::from_utf8_lossy(&output.stderr))
    })
}

#[test]
fn killed_gateways_lose_nothing_and_count_nothing_twice() {
    let output = site(&["--for", "6s", "--kill-every", "2s", "--devices", "18", "--rate", "5", "--json"]);
    let found = reckoning(&output);
    assert!(output.status.success(), "{found}");
    assert_eq!((&found["lost"], &found["duplicated"]), (&0.into(), &0.into()), "{found}");
    let published = found["published"].as_u64().unwrap();
    assert!(published > 100, "{found}");
    assert_eq!(found["acked"].as_u64(), Some(published), "{found}");
    assert_eq!(found["counted"].as_u64(), Some(published), "{found}");
}

#[test]
fn a_replay_counts_every_row_also_those_whose_time_stands_twice() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("machine.csv");
    let mut rows = String::from("timestamp,value\n");
    for i in 0..2_000 {
        let minute = i / 3; // every time stands three times, with other values
        rows += &format!(
            "2013-12-{:02} {:02}:{:02}:00,{}.25\n",
            1 + minute / 1440,
            minute / 60 % 24,
            minute % 60,
            i
        );
    }
    std::fs::write(&file, rows).unwrap();
    let output = site(&["--replay", file.to_str().unwrap(), "--speed", "max", "--json"]);
    let found = reckoning(&output);
    assert!(output.status.success(), "{found}");
    assert_eq!((&found["published"], &found["counted"]), (&2_000.into(), &2_000.into()), "{found}");
    assert_eq!((&found["lost"], &found["duplicated"]), (&0.into(), &0.into()), "{found}");
}
