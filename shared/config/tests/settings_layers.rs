//! Defaults, then the file, then variables, then the command line: of each key the last that names it counts, and it
//! is read as it was written.

use proptest::prelude::*;
use selvedge_config::{key_value, load_from};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    name: String,
    port: u16,
    keep: bool,
    inner: Inner,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inner {
    bytes: u64,
    offset: i64,
    peers: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        let inner = Inner { bytes: 7, offset: -7, peers: vec!["p".into()] };
        Self { name: "n".into(), port: 7, keep: true, inner }
    }
}

/// What one source says: of each key a value or nothing.
type Said = (Option<String>, Option<u16>, Option<bool>, Option<u64>, Option<i64>, Option<Vec<String>>);

fn said() -> impl Strategy<Value = Said> {
    // TOML's integers are signed and have 64 bits.
    let bytes = prop::option::of(0..=i64::MAX as u64);
    let peers = prop::option::of(prop::collection::vec("[a-z0-9:.]{1,8}", 0..4));
    let name = prop::option::of("[ -~äπ]{0,12}");
    (name, any::<Option<u16>>(), any::<Option<bool>>(), bytes, any::<Option<i64>>(), peers)
}

fn put(to: &mut Settings, said: &Said) {
    let (name, port, keep, bytes, offset, peers) = said.clone();
    to.name = name.unwrap_or(to.name.clone());
    to.port = port.unwrap_or(to.port);
    to.keep = keep.unwrap_or(to.keep);
    to.inner.bytes = bytes.unwrap_or(to.inner.bytes);
    to.inner.offset = offset.unwrap_or(to.inner.offset);
    to.inner.peers = peers.unwrap_or(to.inner.peers.clone());
}

/// As keys and values of a command line.
fn pairs(said: &Said) -> Vec<(String, String)> {
    let (name, port, keep, bytes, offset, peers) = said.clone();
    let all = [
        ("name", name),
        ("port", port.map(|v| v.to_string())),
        ("keep", keep.map(|v| v.to_string())),
        ("inner.bytes", bytes.map(|v| v.to_string())),
        ("inner.offset", offset.map(|v| v.to_string())),
        ("inner.peers", peers.map(|v| v.join(","))),
    ];
    all.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?))).collect()
}

/// As a file. Texts stand in single quotes, in which nothing else is special.
fn toml(said: &Said) -> String {
    let quote = |text: &str| format!("'{text}'");
    let mut lines = Vec::new();
    for (key, value) in pairs(said) {
        let value = match key.as_str() {
            "name" => quote(&value),
            "inner.peers" => {
                let list: Vec<_> = value.split(',').filter(|p| !p.is_empty()).map(quote).collect();
                format!("[{}]", list.join(", "))
            }
            _ => value,
        };
        lines.push(format!("{key} = {value}\n"));
    }
    lines.concat()
}

proptest! {
    #[test]
    fn of_each_key_the_last_that_names_it_counts(file in said(), environment in said(), command_line in said()) {
        prop_assume!(file.0.as_ref().is_none_or(|n| !n.contains('\'')));
        let mut path = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut path, toml(&file).as_bytes()).unwrap();
        let variable = |(key, value): (String, String)| (format!("X_{}", key.to_uppercase().replace('.', "__")), value);
        let variables = pairs(&environment).into_iter().map(variable);
        let found: Settings = load_from(Some(path.path()), "X", variables, &pairs(&command_line)).unwrap();
        let mut wanted = Settings::default();
        [&file, &environment, &command_line].into_iter().for_each(|said| put(&mut wanted, said));
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn a_pair_of_the_command_line_is_cut_at_its_first_sign(key in "[a-z.]{1,12}", value in ".{0,20}") {
        prop_assert_eq!(key_value(&format!("{key}={value}")), Ok((key, value)));
    }
}
