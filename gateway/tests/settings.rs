//! A gateway's settings, as a person writes them.

use selvedge_fabric::directory::Genesis;
use selvedge_gateway::settings::{Settings, SettingsError};
use selvedge_seal::SiteSecret;
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
fn what_a_joining_gateway_says_otherwise_than_its_site_is_named() {
    let genesis = Genesis { shards: 128, replicas: 3, gateways: Vec::new() };
    let mut settings = Settings::default();
    assert_eq!(settings.site.contradicts(&genesis), None, "the default says nothing");
    (settings.site.shards, settings.site.replicas) = (32, 5);
    let said = settings.site.contradicts(&genesis).unwrap();
    let wanted = "site.shards is 32 here and 128 in the site, site.replicas is 5 here and 3 in the site";
    assert!(said.starts_with(wanted) && said.contains("remove the setting"), "{said}");
    (settings.site.shards, settings.site.replicas) = (128, 3);
    assert_eq!(settings.site.contradicts(&genesis), None);
}

#[test]
fn a_value_out_of_range_is_named_with_the_place_where_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("site-secret");
    SiteSecret::generate().unwrap().create_file(&secret).unwrap();
    let file = dir.path().join("gateway.toml");
    std::fs::write(&file, format!("[site]\nsecret_file = {secret:?}\n[log]\nsegment_mib = 0\n")).unwrap();
    let said = |change: &dyn Fn(&mut Command)| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-gateway"));
        command.args(["--check-config", "--config"]).arg(&file);
        change(&mut command);
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    let from_file = said(&|_| {});
    assert!(
        from_file.contains(&format!("set it to 1 to 1024 (the value is in {}", file.display())),
        "{from_file}"
    );
    let from_environment = said(&|command| _ = command.env("SELVEDGE_GATEWAY_LOG__SEGMENT_MIB", "2000"));
    assert!(
        from_environment.contains("environment variable SELVEDGE_GATEWAY_LOG__SEGMENT_MIB"),
        "{from_environment}"
    );
    let from_flag = said(&|command| _ = command.args(["--set", "log.segment_mib=3000"]));
    assert!(from_flag.contains("is 3000: ") && from_flag.contains("from the command line"), "{from_flag}");
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
        (
            "mqtt.bind",
            "here",
            "the setting `mqtt.bind` (from the command line) is \"here\", but must be an address and",
        ),
        ("topics", r#"[{ topic = "x/{device}", decoder = "senml" }]"#, "set auto, number, json"),
        ("rules.windows_ms", "[7000]", "divides"),
        ("rules.windows_ms", "[60000, 7000000]", "7000000"),
        ("uplink.host", "", "uplink.host is \"\": give the name"),
        ("uplink.host", "my broker", "uplink.host"),
        ("uplink.host", "tcp://h", "uplink.host"),
        ("uplink.port", "0", "1 to 65535"),
        ("uplink.port", "-1", "(from the command line) is -1, but must be a whole number, 0 or more"),
        ("uplink.port", "99999", "0 to 65535"),
        ("uplink.password_file", "/p", "set both or neither"),
        ("gateway.data_dir", "", "name a folder"),
        ("gateway.threads", "60000", "at most 256"),
        ("http.bind", "0.0.0.0:1883", "give each its own port"),
        ("mqtt.delivery_queue_bytes", "1000", "65536 to 16777216"),
        ("mqtt.balance", "fair", "set off, p2c, least_loaded, random, round_robin"),
        ("mqtt.advertise", "plant.local", "give host and port as others reach them"),
        ("mqtt.advertise", "0.0.0.0:1883", "mqtt.advertise"),
        ("http.advertise", "h:0", "http.advertise"),
        ("site.gateways", r#"[{ id = 1, peer = "10.0.0.11" }]"#, "host and port"),
        ("site.gateways", r#"[{ id = 1, peer = ":7081" }]"#, "host and port"),
        ("site.gateways", r#"[{ id = 1, peer = "a:0" }]"#, "host and port"),
        ("site.gateways", r#"[{ id = 1, peer = "a:1" }, { id = 2, peer = "a:1" }]"#, "gateways[1].peer"),
        ("site.gateways", r#"[{ id = 1, peer = "a:1" }, { id = 1, peer = "b:1" }]"#, "1"),
        ("site.gateways", "[]", "site"),
        ("site.name", "", "plant-7"),
        ("site.name", "a/b", "plant-7"),
        ("site.replicas", "0", "replicas"),
        ("mqtt.max_connections", "0", "1 to"),
        ("default_topics", "maybe", "true or false"),
        ("log", "verbose", "a table"),
        (
            "mqtt.bind",
            "127.0.0.1:8081",
            "http.bind is \"127.0.0.1:8081\": mqtt.bind = 127.0.0.1:8081 takes that address",
        ),
        (
            "http.bind",
            "127.0.0.1:1883",
            "mqtt.bind = 0.0.0.0:1883 takes that address too; give each its own port",
        ),
        ("http.bind", "[::]:7081", "peer.bind is \"0.0.0.0:7081\": http.bind = [::]:7081 takes"),
        ("http.bind", "[::ffff:127.0.0.1]:1883", "mqtt.bind = 0.0.0.0:1883 takes"),
        ("mqtt.bind", "0.0.0.0:0", "give a fixed one"),
        ("uplink.host", "x:1883", "its port goes to uplink.port"),
        ("uplink.host", "[::1]", "uplink.host is"),
        ("uplink.host", "x,y", "uplink.host is"),
        ("site.gateways", r#"[{ id = 1, peer = "a:b:7081" }]"#, "[fd00::11]:7081"),
        ("site.gateways", r#"[{ id = 1, peer = "::1:7081" }]"#, "[fd00::11]:7081"),
        ("site.gateways", r#"[{ id = 1, peer = "0.0.0.0:7081" }]"#, "no gateway can be reached"),
        ("site.gateways", r#"[{ id = 1, peer = "a:1" }, { id = 2, peer = "A:1" }]"#, "gateways[1].peer"),
        (
            "rules.streams",
            r#"[{ device = "p*", max_leap = 5 }, { device = "p*", max_leap = 9 }]"#,
            "streams[1] is for device \"p*\" and stream \"*\", it must be before streams[0]",
        ),
        (
            "rules.streams",
            r#"[{ max_leap = 5 }, { device = "p*", stream = "t" }]"#,
            "can never match: move or remove",
        ),
        ("rules.streams", r#"[{ device = "p\u0007" }]"#, "control characters"),
        ("rules.streams", r#"[{ device = "*a*b*c*d*" }]"#, "has more than 4"),
        (
            "topics",
            r#"[{ topic = "x/#", device = "x", stream = "y" }, { topic = "x/{device}/{stream}" }]"#,
            "number 2 (\"x/{device}/{stream}\"): it can never match",
        ),
    ] {
        let error = with(dir.path(), &[(key, value)]).map_or_else(|e| e.to_string(), |()| "sound".into());
        assert!(error.contains(said), "{key}={value}: {error}");
        let internal = ["variant constructor", "syntax", "serde", "unsigned", "rules: rules"];
        assert!(!internal.iter().any(|word| error.contains(word)), "{key}={value}: {error}");
    }
}

#[test]
fn what_only_looks_like_nonsense_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    for (key, value) in [
        ("http.bind", "[::1]:1883"),
        ("uplink.host", "::1"),
        ("uplink.host", "höst_1.example"),
        ("site.gateways", r#"[{ id = 1, peer = "[fd00::1]:7081" }, { id = 2, peer = "[fd00::1]:7082" }]"#),
        ("rules.streams", r#"[{ device = "a*", stream = "t" }, { device = "a*" }, { device = "*b" }]"#),
        ("topics", r#"[{ topic = "d/#", decoder = "none" }, { topic = "+/{device}/{stream}" }]"#),
    ] {
        with(dir.path(), &[(key, value)]).unwrap_or_else(|error| panic!("{key}={value}: {error}"));
    }
    let own = [("uplink.host", "localhost"), ("uplink.port", "1883")];
    let error = with(dir.path(), &own).unwrap_err().to_string();
    assert!(error.contains("this gateway listens there itself (mqtt.bind = 0.0.0.0:1883)"), "{error}");
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
    let logged = |filter: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-gateway"));
        command.args(["--check-config", "--set"]).env("RUST_LOG", filter);
        command.arg(format!("site.secret_file={}", dir.path().join("site-secret").display()));
        command.output().unwrap()
    };
    assert!(logged("selvedge_gateway=debug,warn").status.success());
    let verbose = logged("verbose");
    assert_eq!(verbose.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&verbose.stderr).contains("\"verbose\" is not a level"));
    let bad = run(&["--set", "uplink.prot=1"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("uplink.port"));
}

#[test]
fn a_gateway_announces_addresses_that_others_reach() {
    let announced = |overrides: &[(&str, &str)], peer: &str| {
        let all: Vec<_> = overrides.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let found = Settings::load(Some(&example()), &all).unwrap().announced(peer);
        assert_eq!(found.peer, peer);
        (found.mqtt, found.http)
    };
    let said = |mqtt: &str, http: &str| (mqtt.to_string(), http.to_string());
    // The example's API listens on a loopback address.
    assert_eq!(announced(&[], "10.0.0.11:7081"), said("10.0.0.11:1883", ""));
    assert_eq!(
        announced(&[("http.bind", "[::]:90")], "[fd00::1]:7081"),
        said("[fd00::1]:1883", "[fd00::1]:90")
    );
    let local = [("mqtt.bind", "127.0.0.1:1884")];
    assert_eq!(announced(&local, "127.0.0.1:7081"), said("127.0.0.1:1884", "127.0.0.1:8081"));
    assert_eq!(announced(&local, "gateway-1:7081"), said("", ""));
    let given = [("mqtt.advertise", "plant-7.local:8883"), ("http.advertise", "[fd00::2]:80")];
    assert_eq!(announced(&given, "10.0.0.11:7081"), said("plant-7.local:8883", "[fd00::2]:80"));
}
