//! Settings of any kind: a file of whatever text, variables, and a command line. They load and check, or one error says
//! in words what is wrong; nothing named like a secret is in it.

use crate::source::Source;
use selvedge_config::SettingsLoadError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Write;

/// The longest that an operator is told.
const MAX_SAID_BYTES: usize = 16 * 1024;

const MARKER: &str = "hunter2hunter2";

const KEYS: [&str; 18] = [
    "site.name",
    "site.shards",
    "site.gateways",
    "gateway.id",
    "mqtt.bind",
    "mqtt.max_connections",
    "rules.windows_ms",
    "rules.streams",
    "topics",
    "default_topics",
    "log.segment_mib",
    "log",
    "data_dir",
    "http.host",
    "uplink.password",
    "uplink.port",
    "sites",
    "sites.name",
];

/// Loads settings from what the source says. `prefix` is that of the variables; `secret` a key whose value never shows.
pub fn load<T>(source: &mut Source, prefix: &str, secret: Option<&str>) -> Option<T>
where
    T: DeserializeOwned + Serialize + Default,
{
    if source.byte() < 16 {
        hides_secret::<T>(source, secret?);
        return None;
    }
    let pair = |source: &mut Source| {
        let key = if source.byte() < 200 { source.pick(&KEYS).to_string() } else { source.text(40) };
        let value = match source.below(6) {
            0 => source.number(1).to_string(),
            1 => "[1, 2]".to_string(),
            2 => "[{ name = \"a\" }]".to_string(),
            3 => "{ x = 1 }".to_string(),
            _ => source.text(80),
        };
        (key, value)
    };
    let overrides: Vec<_> = (0..source.below(3)).map(|_| pair(source)).collect();
    let variables: Vec<_> = (0..source.below(3)).map(|_| pair(source)).collect();
    let variables = variables.into_iter().map(|(k, v)| (format!("{prefix}_{}", k.replace('.', "__")), v));
    let text = source.rest();
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text).expect("written");
    let path = (!text.is_empty()).then_some(file.path());
    match selvedge_config::load_from::<T>(path, prefix, variables, &overrides) {
        Ok(settings) => Some(settings),
        Err(e) => {
            check_error(&e);
            None
        }
    }
}

fn check_error(e: &SettingsLoadError) {
    let said = e.to_string();
    assert!(said.len() <= MAX_SAID_BYTES, "{} bytes: {said:.400}", said.len());
}

/// A password that is not a text is not shown in the error about it.
fn hides_secret<T: DeserializeOwned + Serialize + Default>(source: &mut Source, key: &str) {
    let value = match source.below(3) {
        0 => format!("[\"{MARKER}\", {}]", source.number(1)),
        1 => format!("{{ a = \"{MARKER}\" }}"),
        _ => format!("{}\"{MARKER}{}", source.text(9), source.text(9)),
    };
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    writeln!(file, "{key} = {value}").expect("written");
    if let Err(e) = selvedge_config::load_from::<T>(Some(file.path()), "X", [], &[]) {
        assert!(!e.to_string().contains(MARKER), "{e}");
    }
}
