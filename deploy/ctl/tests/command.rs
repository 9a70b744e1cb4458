//! The command against a fake gateway that gives fixed answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::thread::JoinHandle;

/// Serves one request with this answer. Returns the address, and a thread that returns the request.
fn gateway(status: &str, body: &str) -> (String, JoinHandle<String>) {
    let (address, served) = gateways(&[(status, body)]);
    (address, std::thread::spawn(move || served.join().unwrap().remove(0)))
}

/// Serves one request after the other, each with its answer; an empty status breaks the connection instead. Returns the
/// address, and a thread that returns the requests.
fn gateways(answers: &[(&str, &str)]) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = |(status, body): &(&str, &str)| match *status {
        "" => String::new(),
        status => {
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
        }
    };
    let answers: Vec<String> = answers.iter().map(answer).collect();
    let one = move |answer: String| {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        while !request.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut request).unwrap() > 0);
        }
        let length = request
            .to_lowercase()
            .split_once("content-length: ")
            .map_or(0, |(_, rest)| rest.lines().next().unwrap().parse().unwrap());
        let mut body = vec![0; length];
        lines.read_exact(&mut body).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        request + std::str::from_utf8(&body).unwrap()
    };
    (address, std::thread::spawn(move || answers.into_iter().map(one).collect()))
}

fn selvedge(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(words).env_remove("SELVEDGE_GATEWAY").env_remove("SELVEDGE_TOKEN_FILE");
    // A proxy must not receive the token, so the command has to ignore these.
    command.env("http_proxy", "http://127.0.0.1:9").env("ALL_PROXY", "http://127.0.0.1:9").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const SHARD: &str = r#"{"shard":17,"configuration":1,"leader":2,"commit":5,"outbox_batches":0,"outbox_bytes":0,
    "replicas":[{"gateway":2,"role":"leader","ballot":"b1.2","commit":5,"applied":5,"behind_slots":0}],"missing_gateways":[]}"#;

#[test]
fn a_shard_is_asked_for_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "sv-0123456789\n").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (address, served) = gateway("200 OK", SHARD);
    let said = selvedge(&["--gateway", &address, "--token-file", token.to_str().unwrap(), "shard", "17"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert!(text(&said.stdout).starts_with("shard 17, configuration 1: leader 2, chosen up to slot 5"));
    let request = served.join().unwrap().to_lowercase();
    assert!(request.starts_with("get /v1/shards/17 http/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: bearer sv-0123456789\r\n"), "{request}");
}

#[test]
fn json_is_the_answer_of_the_gateway() {
    let (address, served) = gateway("200 OK", SHARD);
    let said = selvedge(&["shard", "17", "--json", "--gateway", &format!("http://{address}/")]);
    let printed: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(printed, serde_json::from_str::<serde_json::Value>(SHARD).unwrap());
    assert!(!served.join().unwrap().to_lowercase().contains("authorization"));
}

#[test]
fn failures_say_what_is_wrong_and_what_to_do() {
    let problem = r#"{"detail":"there is no token"}"#;
    for (status, body, parts) in [
        ("401 Unauthorized", problem, ["there is no token", "--token-file"]),
        ("503 Service Unavailable", "no\u{1b}[2J", ["answered 503", "no[2J"]),
        (
            "404 Not Found",
            r#"{"type":"/docs#problem-not-found","detail":"no such path"}"#,
            ["no such", "release"],
        ),
        (
            "404 Not Found",
            r#"{"type":"/docs#problem-unknown","detail":"no shard 9"}"#,
            ["404", "no shard 9\n"],
        ),
        ("403 Forbidden", r#"{"type":"/docs#problem-stranger","detail":"no name"}"#, ["403", "no name\n"]),
        ("200 OK", "{}", ["no `gateways`", "--gateway"]),
        ("200 OK", "<html>", ["not JSON", "<html>"]),
    ] {
        let (address, served) = gateway(status, body);
        let said = selvedge(&["--gateway", &address, "site", "status"]);
        assert_eq!(said.status.code(), Some(1), "{status}");
        let why = text(&said.stderr);
        assert!(why.starts_with("selvedge: ") && parts.iter().all(|part| why.contains(part)), "{why}");
        assert!(said.stdout.is_empty());
        served.join().unwrap();
    }
}

#[test]
fn a_gateway_that_does_not_run_is_named() {
    let nobody = format!("127.0.0.1:{}", selvedge_ports::claim(1).unwrap());
    let said = selvedge(&["--gateway", &nobody, "shards"]);
    let why = text(&said.stderr);
    assert_eq!(said.status.code(), Some(1));
    assert!(why.contains(&nobody) && why.contains("--gateway"), "{why}");
}

#[test]
fn a_token_that_others_can_read_is_refused_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "sv-0123456789\n").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = selvedge(&["--token-file", token.to_str().unwrap(), "shards"]);
    let why = text(&said.stderr);
    assert!(why.contains("chmod 600") && !why.contains("sv-0123456789"), "{why}");
    std::fs::write(&token, "Here it is:\nsv-0123456789\n").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let why = text(&selvedge(&["--token-file", token.to_str().unwrap(), "shards"]).stderr);
    assert!(why.contains("one token") && !why.contains("sv-0123456789"), "{why}");
}

#[test]
fn a_wrong_command_line_is_told_apart() {
    for (gateway, part) in [
        ("", "is not an address"),
        ("http://[::1", "is not an address"),
        ("ftp://box", "a scheme other than http"),
        ("https://box", "is https"),
        ("http://box:99999", "port that does not exist"),
        ("http://box?x=1", "query"),
        ("http://user:s3cret@box", "user name"),
    ] {
        let said = selvedge(&["--gateway", gateway, "shards"]);
        let why = text(&said.stderr);
        assert_eq!(said.status.code(), Some(2), "{gateway}: {why}");
        assert!(why.contains(part) && !why.contains("s3cret"), "{gateway}: {why}");
    }
    assert_eq!(selvedge(&["shard", "many"]).status.code(), Some(2));
    let token = "5f".repeat(32);
    let said = selvedge(&["gateway", "withdraw", &token]);
    assert_eq!(said.status.code(), Some(2));
    assert!(text(&said.stderr).contains("gateway invitations"), "{}", text(&said.stderr));
    assert_eq!(selvedge(&["--help"]).status.code(), Some(0));
}

/// The idempotency key in a request.
fn key(request: &str) -> &str {
    let header = request.lines().find_map(|line| {
        line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("idempotency-key"))
    });
    header.map(|(_, key)| key).unwrap()
}

#[test]
fn each_order_is_one_request_that_says_whether_it_changed_anything() {
    let removed = "DELETE /v1/gateways/3 HTTP/1.1";
    for (words, line, body, said) in [
        (
            &["gateway", "drain", "3", "--no-wait"][..],
            "POST /v1/gateways/3/drain HTTP/1.1",
            "",
            ["drains", "was draining already"],
        ),
        (
            &["gateway", "resume", "3"],
            "POST /v1/gateways/3/resume HTTP/1.1",
            "",
            ["active again", "not draining"],
        ),
        (
            &["gateway", "weight", "3", "2"],
            "POST /v1/gateways/3/weight HTTP/1.1",
            r#"{"weight":2}"#,
            ["has weight 2", "had weight 2"],
        ),
        (
            &["gateway", "withdraw", "0A1B2C3D"],
            "DELETE /v1/invitations/0a1b2c3d HTTP/1.1",
            "",
            ["nobody can join", "withdrawn already"],
        ),
        (&["gateway", "remove", "3"], removed, "", ["removed for good", "removed already"]),
        (
            &["gateway", "remove", "3", "--force"],
            "DELETE /v1/gateways/3?force=true HTTP/1.1",
            "",
            ["removed for good", "removed already"],
        ),
        (
            &["rebalance", "pause"],
            "POST /v1/moves/pause HTTP/1.1",
            "",
            ["rebalance continue", "paused already"],
        ),
        (&["rebalance", "continue"], "POST /v1/moves/continue HTTP/1.1", "", ["go on", "not paused"]),
    ] {
        let mut keys = Vec::new();
        for (changed, part) in [true, false].into_iter().zip(said) {
            let (address, served) = gateway("200 OK", &format!(r#"{{"gateway":3,"changed":{changed}}}"#));
            let ran = selvedge(&[&["--gateway", &address], words].concat());
            assert!(ran.status.success(), "{words:?}: {}", text(&ran.stderr));
            assert!(text(&ran.stdout).contains(part), "{words:?}: {}", text(&ran.stdout));
            let request = served.join().unwrap();
            assert_eq!(request.lines().next(), Some(line));
            assert!(request.ends_with(&format!("\r\n\r\n{body}")), "{request}");
            keys.push(key(&request).to_string());
        }
        assert!(keys[0].len() == 32 && keys[0] != keys[1], "each order has a key of its own: {keys:?}");
    }
}

#[test]
fn an_order_is_repeated_with_its_key_when_the_connection_breaks() {
    let (address, served) = gateways(&[("", ""), ("", ""), ("200 OK", r#"{"changed":true}"#)]);
    let ran = selvedge(&["--gateway", &address, "gateway", "resume", "3"]);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let requests = served.join().unwrap();
    assert!(requests.iter().all(|request| key(request) == key(&requests[0])), "{requests:?}");
    // A gateway that always breaks the connection may have carried it out.
    let (address, served) = gateways(&[("", ""); 5]);
    let why = text(&selvedge(&["--gateway", &address, "gateway", "resume", "3"]).stderr);
    assert!(why.contains("sent 5 times") && why.contains("may have been carried out"), "{why}");
    served.join().unwrap();
    let nobody = format!("127.0.0.1:{}", selvedge_ports::claim(1).unwrap());
    let why = text(&selvedge(&["--gateway", &nobody, "gateway", "resume", "3"]).stderr);
    assert!(
        why.contains("no answer") && why.contains("--gateway"),
        "where nobody listens, nothing is ordered: {why}"
    );
}

#[test]
fn an_order_is_repeated_with_its_key_while_its_outcome_is_unknown() {
    let undecided = r#"{"detail":"no majority has chosen it yet. It may still be carried out; repeat it with the same Idempotency-Key to learn its outcome"}"#;
    let unavailable = ("503 Service Unavailable", undecided);
    let (address, served) =
        gateways(&[unavailable, ("200 OK", r#"{"gateway":3,"weight":2,"changed":true}"#)]);
    let said = selvedge(&["--gateway", &address, "gateway", "weight", "3", "2"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let requests = served.join().unwrap();
    assert_eq!(key(&requests[0]), key(&requests[1]));
    let (address, served) = gateways(&[unavailable; 5]);
    let said = selvedge(&["--gateway", &address, "gateway", "weight", "3", "2"]);
    assert_eq!((said.status.code(), served.join().unwrap().len()), (Some(1), 5));
    let why = text(&said.stderr);
    assert!(why.contains("no majority has chosen it yet;") && why.contains("repeat the command"), "{why}");
    assert!(!why.contains("Idempotency-Key"), "{why}");
}

#[test]
fn a_refused_order_says_why_and_what_a_token_lacks() {
    let refused =
        r#"{"type":"/docs#problem-refused","detail":"gateway 3 is the last one: add another first"}"#;
    let (address, served) = gateway("409 Conflict", refused);
    let ran = selvedge(&["--gateway", &address, "gateway", "drain", "3"]);
    assert_eq!(ran.status.code(), Some(1), "{}", text(&ran.stderr));
    served.join().unwrap();
    assert!(text(&ran.stderr).contains("answered 409: gateway 3 is the last one: add another first\n"));
    let (address, served) =
        gateway("403 Forbidden", r#"{"type":"/docs#problem-forbidden","detail":"no scope"}"#);
    let ran = selvedge(&["--gateway", &address, "gateway", "drain", "3"]);
    assert!(text(&ran.stderr).contains("scope operate with --token-file"), "{}", text(&ran.stderr));
    served.join().unwrap();
}

/// An answer of `/v1/directory` of a site where gateway 3 drains and has this many replicas.
fn draining(replicas: u32) -> String {
    format!(
        r#"{{"group_count":65,"misplaced_count":{replicas},"moves":[],"misplaced":[],"paused":false,"rate_bytes_per_s":4194304,
        "gateways":[{{"gateway":3,"state":"draining","replicas":{replicas}}}]}}"#
    )
}

#[test]
fn a_drain_is_watched_until_the_gateway_is_empty() {
    let (one, none) = (draining(1), draining(0));
    let answers = [
        ("200 OK", r#"{"changed":true}"#),
        ("200 OK", &one),
        ("503 Service Unavailable", "{}"),
        ("200 OK", &none),
    ];
    let (address, served) = gateways(&answers);
    let ran = selvedge(&["--gateway", &address, "--json", "gateway", "drain", "3"]);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let printed: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(printed, serde_json::from_str::<serde_json::Value>(&none).unwrap());
    let progress = text(&ran.stderr);
    assert!(
        progress.starts_with("gateway 3 drains: 1 of 1 replicas have yet to move, 0 moving now\n"),
        "{progress}"
    );
    let requests = served.join().unwrap();
    assert!(
        requests[1..].iter().all(|request| request.starts_with("GET /v1/directory HTTP/1.1\r\n")),
        "{requests:?}"
    );
}

#[test]
fn rebalance_sets_the_rate_and_shows_what_moves() {
    let (one, none) = (draining(1), draining(0));
    let (address, served) = gateways(&[("200 OK", r#"{"changed":true}"#), ("200 OK", &one)]);
    let ran = selvedge(&["--gateway", &address, "rebalance", "--max-rate", "10MB/s", "--no-wait"]);
    assert!(text(&ran.stdout).starts_with("1 of 65 groups have yet to move"), "{}", text(&ran.stdout));
    let requests = served.join().unwrap();
    assert!(
        requests[0].starts_with("POST /v1/moves/rate ")
            && requests[0].ends_with(r#"{"bytes_per_s":10000000}"#)
    );
    for words in [&["rebalance", "--dry-run"][..], &["shards", "--moving"]] {
        let (address, served) = gateway("200 OK", &one);
        let ran = selvedge(&[&["--gateway", &address], words].concat());
        assert!(text(&ran.stdout).starts_with("1 of 65 groups have yet to move"), "{words:?}");
        assert!(served.join().unwrap().starts_with("GET /v1/directory "));
    }
    let (address, served) = gateways(&[("200 OK", &one), ("200 OK", &none)]);
    let ran = selvedge(&["--gateway", &address, "rebalance"]);
    assert_eq!(text(&ran.stdout), "all replicas are where they should be\n");
    assert_eq!(served.join().unwrap().len(), 2);
}

#[test]
fn an_invitation_has_a_token_of_its_own_which_can_go_into_a_file() {
    let answer =
        r#"{"changed":true,"replaces":2,"witness":false,"lasts_s":86400,"seeds":["10.0.0.11:7081"]}"#;
    let (address, served) = gateway("200 OK", answer);
    let said = selvedge(&["--gateway", &address, "gateway", "invite", "--replace", "2", "--lasts", "24h"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let request = served.join().unwrap();
    let body: serde_json::Value = serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let token = body["token"].as_str().unwrap();
    assert_eq!((token.len(), &body["replaces"], &body["lasts_s"]), (64, &2.into(), &86_400.into()));
    assert!(text(&said.stdout).contains(token), "it is printed once");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let path = file.to_str().unwrap();
    let (address, served) = gateway("200 OK", answer);
    let said = selvedge(&["--gateway", &address, "gateway", "invite", "--write", path]);
    let request = served.join().unwrap();
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(request.contains(written.trim()) && !request.contains(token), "another one each time");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!text(&said.stdout).contains(written.trim()) && text(&said.stdout).contains("--join token"));

    // An existing file is not overwritten, and a refusal leaves no token behind.
    let said = selvedge(&["--gateway", "127.0.0.1:9", "gateway", "invite", "--write", path]);
    assert_eq!((said.status.code(), text(&said.stderr).contains("name a new file")), (Some(1), true));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), written);
    let (address, served) = gateway("409 Conflict", r#"{"type":"/docs#problem-refused","detail":"no"}"#);
    let other = folder.path().join("other");
    let said = selvedge(&["--gateway", &address, "gateway", "invite", "--write", other.to_str().unwrap()]);
    served.join().unwrap();
    assert!(!said.status.success() && !other.exists());
}

/// What the last of three gateways says.
const SURVIVOR: &str = r#"{"site":"plant-7","gateway":1,"generation":0,"plan":null,"reachable":[1],
    "gateways":[{"gateway":1,"http":"","witness":false},{"gateway":2,"http":"","witness":false},{"gateway":3,"http":"","witness":false}],
    "groups":[{"group":1,"configuration":1,"members":[2,3]}],
    "replicas":[{"group":0,"configuration":1,"members":[1,2,3],"witness":false,"sound":true,"ballot":[2,1],"commit":7,"prefix":9,
    "last":9,"applied":7,"unconfirmed_batches":4,"generation":5}]}"#;

#[test]
fn a_recovery_says_what_may_be_lost_and_changes_nothing_without_yes() {
    let (address, request) = gateway("200 OK", SURVIVOR);
    let output = selvedge(&["site", "recover", "--gateway", &address]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(request.join().unwrap().starts_with("GET /v1/recovery "));
    for part in [
        "gateways 2, 3 are given up FOR GOOD",
        "on gateway 1",
        "EMPTY on gateway 1",
        "s1 has no replica left, and BEGINS ANEW, EMPTY",
        "Nothing was changed",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_recovery_is_handed_out_with_yes_and_refused_while_a_lost_gateway_is_reached() {
    let answers = [("200 OK", SURVIVOR), ("200 OK", r#"{"changed":true}"#)];
    let (address, requests) = gateways(&answers);
    let output = selvedge(&["site", "recover", "--yes", "--gateway", &address]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let requests = requests.join().unwrap();
    assert!(requests[1].starts_with("POST /v1/recovery "), "{requests:?}");
    assert!(requests[1].contains(r#""lost":[2,3]"#) && requests[1].contains(r#""site":"plant-7""#));
    assert!(text(&output.stdout).contains("The survivor has the plan"), "{}", text(&output.stdout));

    let reaches = SURVIVOR.replace(r#""reachable":[1]"#, r#""reachable":[1,3]"#);
    let (address, _) = gateway("200 OK", &reaches);
    let output = selvedge(&["site", "recover", "--yes", "--gateway", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("still reaches gateway 3"), "{}", text(&output.stderr));
}
