//! The whole road, once, with real processes: devices publish, gateways are killed, the node counts, and
//! the reckoning finds nothing lost and nothing twice.

use std::process::{Command, Output};

use selvedge_ports::claim;

fn site(options: &[&str]) -> Output {
    let (mqtt, http) = (claim(3).unwrap(), claim(3).unwrap());
    let (node, uplink) = (claim(1).unwrap(), claim(1).unwrap());
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

/// A run in which this is done to gateways must end with all that was published, acknowledged and counted once. Returns how
/// often each kind of fault was done.
fn nothing_is_lost_or_doubled(faults: &[&str], kinds: &[&str]) -> Vec<u64> {
    let output = site(&[faults, &["--devices", "18", "--rate", "5", "--json"]].concat());
    let found = reckoning(&output);
    let done = |kind: &&str| found["gaps"]["faults"][kind]["count"].as_u64().unwrap_or(0);
    assert!(kinds.iter().map(done).sum::<u64>() > 0, "{found}");
    assert!(output.status.success(), "{found}");
    assert_eq!((&found["lost"], &found["duplicated"]), (&0.into(), &0.into()), "{found}");
    let published = found["published"].as_u64().unwrap();
    assert!(published > 100, "{found}");
    assert_eq!(found["acked"].as_u64(), Some(published), "{found}");
    assert_eq!(found["counted"].as_u64(), Some(published), "{found}");
    kinds.iter().map(done).collect()
}

#[test]
fn killed_gateways_lose_nothing_and_count_nothing_twice() {
    nothing_is_lost_or_doubled(&["--for", "6s", "--kill-every", "2s"], &["kill"]);
}

/// A leader that is stopped for longer than the others' patience wakes and still takes itself for the leader.
#[test]
fn gateways_that_wake_as_leaders_of_the_past_lose_nothing_and_count_nothing_twice() {
    nothing_is_lost_or_doubled(&["--for", "8s", "--pause-every", "2s", "--pause-for", "1500ms"], &["pause"]);
}

#[test]
#[ignore = "needs root and ip (on Debian: apt-get install iproute2): it puts gateways into network namespaces"]
fn gateways_cut_off_from_each_other_lose_nothing_and_count_nothing_twice() {
    let kinds = ["pair cut", "mute", "island", "cable"];
    nothing_is_lost_or_doubled(&["--for", "25s", "--cut-every", "1s", "--cut-for", "2s"], &kinds);
    no_namespaces_are_left();
}

/// Each cut lasts for longer than a leader waits before it hands over to one that is better connected.
#[test]
#[ignore = "needs root and ip (on Debian: apt-get install iproute2): it puts gateways into network namespaces"]
fn two_gateways_that_the_third_one_reaches_lose_nothing_and_count_nothing_twice() {
    let faults = ["--for", "36s", "--cut-every", "3s", "--cut-for", "11s", "--cut-only", "pair"];
    nothing_is_lost_or_doubled(&faults, &["pair cut"]);
    no_namespaces_are_left();
}

/// Each of the three boxes is cut off from the others in turn, and then goes dark in turn: no link and no process. A fault comes
/// only when all three are ready again, so the box that was hit has come back before.
#[test]
#[ignore = "needs root and ip (on Debian: apt-get install iproute2): it puts gateways into network namespaces"]
fn two_boxes_and_a_witness_lose_nothing_whichever_of_them_is_cut_off_or_dark() {
    let options = ["--gateways", "2", "--witness", "--for", "50s", "--cut-every", "1s", "--cut-for", "3s"];
    let done = nothing_is_lost_or_doubled(&options, &["island", "dark"]);
    assert!(done[0] >= 3 && done[1] > 0, "each box once at least, and then the dark ones: {done:?}");
    no_namespaces_are_left();
}

fn no_namespaces_are_left() {
    let left = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    let gone = |name: &str| {
        let pid = name.strip_prefix("selvedge-").and_then(|rest| rest.split('-').next());
        pid.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists())
    };
    assert!(!left.split_whitespace().any(gone), "namespaces of a site that has ended: {left}");
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
