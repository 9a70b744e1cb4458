//! `docs/reference/settings.md` names every setting of every program with its default, and no other.

use selvedge_fabric::decode::TopicRule;
use selvedge_fabric::machine::Override;
use serde_json::Value;
use std::collections::BTreeMap;

/// Settings as the page writes their keys: `http.sql.enabled`.
type Flat = BTreeMap<String, Value>;

fn flatten(prefix: &str, value: Value, flat: &mut Flat) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                flatten(&key, value, flat);
            }
        }
        leaf => drop(flat.insert(prefix.to_string(), leaf)),
    }
}

fn defaults(settings: &impl serde::Serialize) -> Flat {
    let mut flat = Flat::new();
    flatten("", serde_json::to_value(settings).unwrap(), &mut flat);
    flat
}

/// A default as the page writes it: as in a settings file, or `none` for what is empty.
fn written(default: &Value) -> String {
    let list = |all: Vec<String>| all.join(", ");
    match default {
        Value::Null => "none".to_string(),
        Value::String(text) if text.is_empty() => "none".to_string(),
        Value::Array(all) if all.is_empty() => "none".to_string(),
        Value::Array(all) => format!("[{}]", list(all.iter().map(written).collect())),
        Value::Object(table) => {
            let pairs = table.iter().map(|(key, value)| format!("{key} = {}", written(value)));
            format!("{{ {} }}", list(pairs.collect()))
        }
        other => other.to_string(),
    }
}

/// The keys of a section's tables, with what the page calls their defaults.
fn shown(section: &str) -> BTreeMap<String, String> {
    let mut shown = BTreeMap::new();
    let mut is_of_settings = false;
    for line in section.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        match cells.as_slice() {
            ["", "Key", "Default", ..] => is_of_settings = true,
            ["", keys, default, ..] if is_of_settings && !keys.starts_with('-') => {
                let keys: Vec<&str> = keys.split(", ").map(|key| key.trim_matches('`')).collect();
                let each: Vec<&str> =
                    if keys.len() == 1 { vec![default] } else { default.split(", ").collect() };
                for (key, default) in keys.iter().zip(each.iter().cycle()) {
                    assert!(
                        shown.insert(key.to_string(), default.to_string()).is_none(),
                        "{key} stands twice"
                    );
                }
            }
            ["", ..] => {}
            _ => is_of_settings = false,
        }
    }
    shown
}

#[test]
fn the_page_names_every_setting_with_its_default() {
    let page = super::root().join("docs/reference/settings.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = |title: &str| {
        let found = page.split("\n## ").find(|section| section.lines().next() == Some(title));
        found.unwrap_or_else(|| panic!("no section {title}"))
    };
    let programs = [
        ("Gateway", defaults(&selvedge_gateway::settings::Settings::default())),
        ("Node", defaults(&selvedge_node::settings::NodeSettings::default())),
        ("firmware-sim", defaults(&firmware_sim::settings::Settings::default())),
    ];
    let mut wrong = Vec::new();
    for (program, defaults) in programs {
        let shown = shown(section(program));
        for (key, default) in &defaults {
            let default = written(default);
            match shown.get(key).map(|cell| cell.trim_matches('`')) {
                Some(cell) if cell == default => {}
                Some(cell) => {
                    wrong.push(format!("{program}: {key} is {default} by default, the page says {cell}"))
                }
                None => wrong.push(format!("{program}: the page does not name {key}, by default {default}")),
            }
        }
        let unknown = shown.keys().filter(|key| !defaults.contains_key(*key));
        wrong.extend(unknown.map(|key| format!("{program}: there is no setting {key}")));
    }
    let keys = |value: Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let tables = [
        ("[[rules.streams]]", keys(serde_json::to_value(Override::default()).unwrap())),
        ("[[topics]]", keys(serde_json::to_value(TopicRule::default()).unwrap())),
    ];
    for (table, keys) in tables {
        let unnamed = keys.into_iter().filter(|key| !section("Gateway").contains(&format!("`{key}`")));
        wrong.extend(unnamed.map(|key| format!("{table}: the page does not name {key}")));
    }
    assert!(wrong.is_empty(), "docs/reference/settings.md\n{}", wrong.join("\n"));
}
