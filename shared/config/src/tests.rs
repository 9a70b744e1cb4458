use super::*;
use serde::Deserialize;

#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Site {
    name: String,
    #[serde(default)]
    shards: u16,
    #[serde(default)]
    password: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq, Default)]
#[serde(deny_unknown_fields)]
struct Tls {
    #[serde(default)]
    cert: String,
    #[serde(default)]
    depth: u8,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Mqtt {
    host: String,
    port: u16,
    password: String,
    keep: bool,
    rate: f64,
    tls: Option<Tls>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Settings {
    name: String,
    mqtt: Mqtt,
    sites: Vec<Site>,
    peers: Vec<String>,
    disk_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        let mqtt = Mqtt {
            host: "localhost".into(),
            port: 1883,
            password: String::new(),
            keep: true,
            rate: 1.5,
            tls: None,
        };
        Self { name: "n".into(), mqtt, sites: vec![], peers: vec![], disk_bytes: u64::MAX }
    }
}

fn load_text(
    toml: &str,
    variables: &[(&str, &str)],
    overrides: &[(&str, &str)],
) -> Result<Settings, SettingsLoadError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.toml");
    std::fs::write(&path, toml).unwrap();
    let owned = |all: &[(&str, &str)]| -> Vec<(String, String)> {
        all.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    };
    load_from(Some(&path), "SELVEDGE", owned(variables), &owned(overrides))
}

fn said(toml: &str, variables: &[(&str, &str)], overrides: &[(&str, &str)]) -> String {
    load_text(toml, variables, overrides).unwrap_err().to_string()
}

#[test]
fn later_sources_win_key_by_key() {
    let toml = "name = \"file\"\n[mqtt]\nport = 1\nhost = \"file\"\nrate = 2\n[[sites]]\nname = \"a\"\n";
    let env = [("SELVEDGE_MQTT__PORT", "2"), ("SELVEDGE_MQTT__KEEP", "false"), ("OTHER_NAME", "x")];
    let got = load_text(toml, &env, &[("mqtt.port", "3")]).unwrap();
    assert_eq!((got.mqtt.port, got.mqtt.host.as_str(), got.mqtt.keep), (3, "file", false));
    assert_eq!((got.mqtt.rate, got.name.as_str(), got.disk_bytes), (2.0, "file", u64::MAX));
    assert_eq!(got.sites, [Site { name: "a".into(), shards: 0, password: None }]);
    assert_eq!(load_text(toml, &env[..1], &[]).unwrap().mqtt.port, 2);
    assert_eq!(load_from::<Settings>(None, "SELVEDGE", [], &[]).unwrap(), Settings::default());
}

#[test]
fn lists_and_absent_tables_can_come_from_the_environment() {
    let env = [
        ("SELVEDGE_SITES", r#"[{ name = "a", shards = 8 }, { name = "b" }]"#),
        ("SELVEDGE_PEERS", "one, two"),
        ("SELVEDGE_MQTT__TLS__DEPTH", "3"),
    ];
    let got = load_text("", &env, &[]).unwrap();
    assert_eq!((got.sites.len(), got.sites[0].shards), (2, 8));
    assert_eq!(got.peers, ["one", "two"]);
    assert_eq!(got.mqtt.tls, Some(Tls { cert: String::new(), depth: 3 }));
}

#[test]
fn a_text_stays_as_it_was_written() {
    let env =
        [("SELVEDGE_MQTT__PASSWORD", "007"), ("SELVEDGE_NAME", "1e3"), ("SELVEDGE_MQTT__HOST", "[::1]")];
    let got = load_text("", &env, &[]).unwrap();
    assert_eq!(
        (got.mqtt.password.as_str(), got.name.as_str(), got.mqtt.host.as_str()),
        ("007", "1e3", "[::1]")
    );
}

#[test]
fn an_unknown_key_is_named_with_its_origin_and_the_nearest_one() {
    let file = said("[mqtt]\nprot = 1\n", &[], &[]);
    assert!(file.contains("`mqtt.prot` (in ") && file.contains("site.toml)"), "{file}");
    assert!(file.ends_with("did you mean `mqtt.port`?"), "{file}");
    assert_eq!(
        said("", &[("SELVEDGE_MQQT__PORT", "1")], &[]),
        "there is no setting `mqqt` (from the environment variable SELVEDGE_MQQT__PORT); did you mean `mqtt`?"
    );
    assert_eq!(
        said("", &[], &[("mqtt.hots", "x")]),
        "there is no setting `mqtt.hots` (from the command line); did you mean `mqtt.host`?"
    );
    assert!(said("colour = 1", &[], &[]).ends_with("; there are: disk_bytes, mqtt, name, peers, sites"));
}

#[test]
fn an_unknown_key_in_a_list_or_an_absent_table_is_named_too() {
    let list = said("[[sites]]\nname = \"a\"\n[[sites]]\nname = \"b\"\nshard = 1\n", &[], &[]);
    assert!(list.contains("`sites[1].shard` (in "), "{list}");
    assert!(list.ends_with("did you mean `sites[1].shards`?"), "{list}");
    let table = said("", &[("SELVEDGE_MQTT__TLS__CRET", "x")], &[]);
    assert!(
        table.contains("`mqtt.tls.cret` (from the environment variable SELVEDGE_MQTT__TLS__CRET)"),
        "{table}"
    );
    assert!(table.ends_with("did you mean `mqtt.tls.cert`?"), "{table}");
}

#[test]
fn a_wrong_type_names_key_value_and_what_would_be_right() {
    assert_eq!(
        said("", &[("SELVEDGE_MQTT__PORT", "many")], &[]),
        "the setting `mqtt.port` (from the environment variable SELVEDGE_MQTT__PORT) is \"many\", but must be a whole number"
    );
    let range = said("[mqtt]\nport = 70000\n", &[], &[]);
    assert!(range.contains("`mqtt.port` (in ") && range.contains("70000"), "{range}");
    assert!(range.ends_with("must be a whole number from 0 to 65535"), "{range}");
    for (toml, right) in [
        ("name = 5", "a text"),
        ("sites = 5", "a list"),
        ("mqtt = 5", "a table"),
        ("[mqtt]\nkeep = 1", "true or false"),
        ("[mqtt]\nport = 1.5", "a whole number"),
        ("[mqtt]\nport = true", "a whole number"),
        ("disk_bytes = -1", "a whole number, 0 or more"),
    ] {
        let text = said(toml, &[], &[]);
        assert!(text.ends_with(&format!("must be {right}")), "{toml}: {text}");
    }
}

#[test]
fn a_missing_key_and_a_bad_element_are_named() {
    let missing = said("[[sites]]\nshards = 1\n", &[], &[]);
    assert!(missing.contains("`sites[0].name` is missing (in "), "{missing}");
    let bad = said("[[sites]]\nname = \"a\"\nshards = \"x\"\n", &[], &[]);
    assert!(bad.contains("`sites[0].shards`") && bad.contains("\"x\""), "{bad}");
}

#[test]
fn a_secret_is_never_repeated() {
    let texts = [
        said("[mqtt]\npassword = 12345678\n", &[], &[]),
        said("[mqtt]\npassword = hunter12345678\n", &[], &[]),
        said("[[sites]]\nname = \"a\"\npassword = [\"12345678\"]\n", &[], &[]),
    ];
    for text in texts {
        assert!(!text.contains("12345678"), "{text}");
    }
}

#[test]
fn a_list_that_breaks_off_is_not_repeated() {
    let broken = r#"[{ name = "a", password = "hunter2" "#;
    let texts = [
        said("", &[("SELVEDGE_SITES", broken)], &[]),
        said("", &[], &[("sites", broken)]),
        said("sites = \"hunter2\"", &[], &[]),
        said("mqtt = \"hunter2\"", &[], &[]),
    ];
    for text in texts {
        assert!(!text.contains("hunter2") && text.contains("is a text, but must be a "), "{text}");
    }
}

#[test]
fn the_origin_of_a_value_is_its_last_source() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.toml");
    std::fs::write(&path, "[mqtt]\nport = 1\n[[sites]]\nname = \"a\"\n").unwrap();
    let overrides = [("mqtt.rate".to_string(), "2".to_string())];
    let origin = |key: &str| origin_of::<Settings>(Some(&path), "SELVEDGE_NOWHERE", &overrides, key);
    assert_eq!(origin("mqtt.port"), SettingOrigin::File(path.clone()));
    assert_eq!(origin("sites[0].shards"), SettingOrigin::File(path.clone()));
    assert_eq!(origin("mqtt.rate"), SettingOrigin::CommandLine);
    assert_eq!(origin("mqtt.host"), SettingOrigin::Defaults, "another key of the same table is set");
    let text = said("", &[("SELVEDGE_MQTT__PORT", "x")], &[]);
    assert!(text.contains("from the environment variable SELVEDGE_MQTT__PORT"), "{text}");
}

#[test]
fn a_file_that_is_not_there_or_no_toml_is_named() {
    let none = load_from::<Settings>(Some(Path::new("/nowhere/x.toml")), "S", [], &[]).unwrap_err();
    assert!(none.to_string().starts_with("the settings file /nowhere/x.toml: "), "{none}");
    let broken = said("name = \"a\"\n[mqtt\n", &[], &[]);
    assert!(broken.contains("site.toml") && broken.contains("line 2"), "{broken}");
}

#[test]
fn addresses_that_kubernetes_injects_are_not_settings() {
    let env = [
        ("SELVEDGE_NODE_SERVICE_HOST", "10.0.0.1"),
        ("SELVEDGE_NODE_SERVICE_PORT_HTTP", "80"),
        ("SELVEDGE_NODE_PORT", "tcp://10.0.0.1:80"),
        ("SELVEDGE_NODE_PORT_80_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(load_text("", &env, &[]).unwrap(), Settings::default());
}

#[test]
fn a_filter_of_the_log_is_made_of_levels() {
    for sound in ["info", "WARN", "selvedge_node=debug,info", "off, actix=error", "a[span]"] {
        assert_eq!(check_log_filter(sound), Ok(()));
    }
    for wrong in ["verbose", "", "info,", "selvedge_node=loud"] {
        assert!(check_log_filter(wrong).unwrap_err().contains("trace"), "{wrong}");
    }
}
