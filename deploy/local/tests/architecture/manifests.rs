//! Which crates a crate's manifest may list.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use toml::de::{DeTable, DeValue};

/// A table of a manifest.
pub type Table = Map<String, Value>;

/// What holds for the crate in one folder.
#[derive(Debug)]
pub struct Rule {
    /// The folder, from the top.
    pub folder: &'static str,
    /// The crates of the workspace that it may build on.
    pub builds_on: &'static [&'static str],
    /// Whether it does no IO, so that it lists nothing of [`IO`].
    pub core: bool,
}

/// Runtimes, databases, networks, settings and what a process does once: no core lists one, not even for its tests. A
/// star stands for any ending.
pub const IO: [&str; 15] = [
    "actix*",
    "config",
    "futures*",
    "metrics*",
    "object_store",
    "parquet",
    "reqwest",
    "rumqttc",
    "rusqlite",
    "rustix",
    "rustls*",
    "tempfile",
    "tokio*",
    "tracing*",
    "utoipa",
];

/// What is wrong with a manifest by a rule, in words. `top` is the workspace's manifest: what it calls a crate counts.
pub fn breaches(rule: &Rule, manifest: &Table, top: &Table) -> Vec<String> {
    let mut all = vec![];
    for (listed, package) in listed(manifest, top) {
        let ours = package.starts_with("selvedge") || package == "firmware-sim";
        if ours && !rule.builds_on.contains(&package.as_str()) {
            all.push(format!("{} lists {listed}: it may build on {:?} alone", rule.folder, rule.builds_on));
        }
        if rule.core && IO.iter().any(|name| fits(name, &package)) {
            all.push(format!("{} lists {listed}: a core does no IO", rule.folder));
        }
    }
    all
}

fn fits(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |beginning| name.starts_with(beginning))
}

/// The members of a workspace.
pub fn members(top: &Table) -> Vec<&str> {
    let members =
        top.get("workspace").and_then(|workspace| workspace.get("members")).and_then(Value::as_array);
    members.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Reads a manifest. Numbers, flags and dates in it are left out.
pub fn parse(text: &str) -> Table {
    fn table(of: DeTable<'_>) -> Table {
        of.into_iter()
            .map(|(name, value)| (name.into_inner().into_owned(), plain(value.into_inner())))
            .collect()
    }
    fn plain(value: DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::String(text.into_owned()),
            DeValue::Array(all) => all.into_iter().map(|one| plain(one.into_inner())).collect(),
            DeValue::Table(inner) => Value::Object(table(inner)),
            _ => Value::Null,
        }
    }
    table(DeTable::parse(text).unwrap().into_inner())
}

/// All dependencies that a manifest lists, of whatever kind and system: by what they are called there, the packages'
/// names.
fn listed(manifest: &Table, top: &Table) -> BTreeMap<String, String> {
    let systems = manifest.get("target").and_then(Value::as_object).into_iter().flat_map(Table::values);
    let tables = systems.filter_map(Value::as_object).chain([manifest]);
    let of_workspace = top.get("workspace").and_then(|workspace| workspace.get("dependencies"));
    let mut all = BTreeMap::new();
    for table in tables {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, said) in table.get(kind).and_then(Value::as_object).into_iter().flatten() {
                let inherited =
                    of_workspace.and_then(|all| all.get(name)).filter(|_| said.get("workspace").is_some());
                let package =
                    inherited.unwrap_or(said).get("package").and_then(Value::as_str).unwrap_or(name);
                all.insert(name.clone(), package.to_string());
            }
        }
    }
    all
}
