//! The program as a person runs it.

use selvedge_seal::SiteSecret;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-node"));
    command.current_dir(folder).env_clear();
    command
}

/// Settings of one site with a secret in a file of its own.
fn configure(folder: &Path) {
    SiteSecret::generate().unwrap().create_file(&folder.join("a.secret")).unwrap();
    let toml = "data_dir = \"data\"\n[http]\nport = 0\n[uplink]\nhost = \"127.0.0.1\"\nport = 0\n\
                [[sites]]\nname = \"a\"\nsecret_file = \"a.secret\"\n";
    std::fs::write(folder.join("node.toml"), toml).unwrap();
}

#[test]
fn check_config_says_whether_the_settings_are_sound() {
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path());
    let check = |more: &[&str]| {
        let mut command = program(folder.path());
        let done = command.args(["--config", "node.toml", "--check-config"]).args(more).output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    assert_eq!(check(&[]), (Some(0), String::new()));
    let (code, said) = check(&["--set", "htp.port=1"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("did you mean `http`?"), "{said}");
    let (code, said) = check(&["--http-port", "many"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("`http.port` (from the command line) is \"many\""), "{said}");
    assert!(!folder.path().join("data").exists(), "checking makes nothing");
}

#[cfg(unix)]
#[test]
fn it_ends_well_when_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path());
    let mut child =
        program(folder.path()).args(["--config", "node.toml"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let up = lines.by_ref().map_while(Result::ok).any(|line| line.contains("receiving from 1 sites"));
    let pid = child.id().to_string();
    // Where there is no `kill`, the test must not leave the process.
    let asked = Command::new("kill").args(["-TERM", &pid]).status().is_ok_and(|s| s.success());
    if !asked {
        child.kill().unwrap();
    }
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let code = child.wait().unwrap().code();
    assert!(up && asked, "{rest:?}");
    assert_eq!(code, Some(0), "{rest:?}");
}

#[test]
fn a_token_is_made_with_the_settings_that_let_it_in() {
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path());
    let done =
        program(folder.path()).args(["token", "--name", "grafana", "--scope", "read,live"]).output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    let (token, lines) = said.split_once("For the node's settings:").unwrap();
    assert!(done.status.success() && token.contains("\nselvedge_"), "{said}");
    let file = folder.path().join("node.toml");
    let with = std::fs::read_to_string(&file).unwrap() + lines;
    std::fs::write(&file, with).unwrap();
    let check = |more: &[&str]| {
        let mut command = program(folder.path());
        command.args(["--config", "node.toml", "--check-config", "--http-host", "0.0.0.0"]).args(more);
        command.output().unwrap()
    };
    assert!(check(&[]).status.success());
    let refused = check(&["--set", "http.tokens=[]"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("`http.host`") && said.contains("selvedge-node token"), "{said}");
    let wrong = program(folder.path()).args(["token", "--scope", "write"]).output().unwrap();
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(wrong.status.code() == Some(2) && said.contains("read, sql, live, edge, metrics"), "{said}");
}
