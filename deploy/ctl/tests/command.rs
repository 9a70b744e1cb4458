//! The command against a fake gateway that gives one fixed answer.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::thread::JoinHandle;

/// Serves one request with this answer. Returns the address, and a thread that returns the request.
fn gateway(status: &str, body: &str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        while !request.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut request).unwrap() > 0);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        request
    });
    (address, served)
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
    assert_eq!(selvedge(&["--help"]).status.code(), Some(0));
}
