//! A gateway's settings as a person writes them.

use selvedge_gateway::settings::{Settings, SettingsError};
use selvedge_shared::seal::SiteSecret;
use std::path::{Path, PathBuf};
use std::process::Command;

fn example() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../deploy/gateway.toml")
}

fn with(dir: &Path, overrides: &[(&str, &str)]) -> Result<(), SettingsError> {
    let secret = dir.join("site-secret");
    if !secret.exists() {
        SiteSecret::generate().unwrap().create_file(&secret).unwrap();
    }
    let mut all = vec![("site.secret_file".to_string(), secret.display().to_string())];
    all.extend(overrides.iter().map(|(k, v)| (k.to_string(), v.to_string())));
    Settings::load(Some(&example()), &all)?.check().map(|_| ())
}

#[test]
fn the_example_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    with(dir.path(), &[]).unwrap();
}

#[test]
fn what_is_wrong_is_named_with_what_would_be_right() {
    let dir = tempfile::tempdir().unwrap();
    for (key, value, said) in [
        ("gateway.id", "9", "[1, 2, 3]"),
        ("site.name", "Plant 7", "plant-7"),
        ("site.shards", "0", "1 to 1024"),
        ("rules.windows_ms", "[1]", "rules"),
        ("log.segment_mib", "0", "1 to 1024"),
        ("mqtt.bnd", "0.0.0.0:1", "mqtt.bind"),
        ("mqtt.bind", "here", "mqtt.bind"),
    ] {
        let error = with(dir.path(), &[(key, value)]).unwrap_err().to_string();
        assert!(error.contains(said), "{key}={value}: {error}");
    }
}

#[test]
fn check_config_says_it_and_sets_the_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    with(dir.path(), &[]).unwrap();
    let run = |extra: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_selvedge-gateway"))
            .args(["--check-config", "--config"])
            .arg(example())
            .arg("--set")
            .arg(format!("site.secret_file={}", dir.path().join("site-secret").display()))
            .args(extra)
            .output()
            .unwrap()
    };
    let good = run(&[]);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(String::from_utf8_lossy(&good.stdout).contains("gateway g1 of 3"));
    let bad = run(&["--set", "uplink.prot=1"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("uplink.port"));
}
