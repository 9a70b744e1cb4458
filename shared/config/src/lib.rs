//! Settings: defaults, then a TOML file, then environment variables, then the command line; the later
//! one wins, key by key.
//!
//! A program's settings are one struct that derives `Serialize` and `Deserialize` and has a `Default`. Its
//! default value is also the list of keys that exist: a key that is not in it is refused, with the place it came from
//! and the nearest key that does exist. What the default can't show (elements of lists, tables that are
//! absent by default) is checked by serde: give those structs `#[serde(deny_unknown_fields)]`.
//!
//! The variable of a key is the prefix, `_`, and the key in capitals, with `__` between its parts: with
//! the prefix `SELVEDGE`, `SELVEDGE_MQTT__PORT` sets `mqtt.port`. A list is written as in TOML
//! (`SELVEDGE_SITES='[{ name = "plant-7" }]'`), or with commas if it is of plain texts.
//!
//! Values of keys that are named like secrets never appear in an error. A program takes no secret from its command line, which every
//! user of the machine can read, and none from a file that others may read ([`secrets`]). Left out: enums with fields,
//! whose tables can't be merged over a default, and reloading while the program runs.

mod secrets;

use config::{Config, File, FileFormat, Map, Source, Value, ValueKind};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;
use std::path::{Path, PathBuf};

/// The longest settings file that is read.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The longest piece of a wrong value that an error repeats.
const MAX_SHOWN_CHARS: usize = 60;

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingOrigin {
    File(PathBuf),
    Variable(String),
    CommandLine,
    /// Nowhere: it was left out, or it is a default.
    Defaults,
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Variable(name) => write!(f, "from the environment variable {name}"),
            Self::CommandLine => f.write_str("from the command line"),
            Self::Defaults => f.write_str("in the settings"),
        }
    }
}

/// An error in the settings, worded for the person who wrote them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsLoadError {
    /// The file can't be read, or is no TOML.
    #[error("the settings file {}: {why}", path.display())]
    File {
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A key that does not exist.
    #[error("there is no setting `{key}` ({origin}){}", suggest(.nearest, .known))]
    UnknownKey {
        key: String,
        /// The source of the value.
        origin: SettingOrigin,
        /// The key that was probably meant.
        nearest: Option<String>,
        /// The keys that exist in its place.
        known: Vec<String>,
    },
    /// A value of the wrong type, or out of its range.
    #[error("the setting `{key}` ({origin}) is {found}, but must be {expected}")]
    WrongType {
        key: String,
        /// The source of the value.
        origin: SettingOrigin,
        /// The value, cut short; not shown for secrets.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A key that has to be given and is not.
    #[error("the setting `{key}` is missing ({origin})")]
    Missing {
        key: String,
        /// The source of the table that lacks it.
        origin: SettingOrigin,
    },
    /// A secret where others can read it.
    #[error("the setting `{key}` is a secret, which does not belong {place}: {instead}")]
    Exposed {
        key: String,
        /// Where it was given, in words for the message.
        place: &'static str,
        /// Where to put it instead, in words for the message.
        instead: String,
    },
    /// A value that is of the right type and still wrong.
    #[error("the setting `{key}` ({origin}): {why}")]
    Invalid {
        key: String,
        /// The source of the value.
        origin: SettingOrigin,
        /// What is wrong with it.
        why: String,
    },
}

/// Checks that a log filter consists of levels, and of targets with levels: `info`, `selvedge_node=debug,info`. What a program
/// can't make anything of would else be taken for the name of a target, and nothing be logged.
///
/// # Errors
/// Names the piece that is wrong, and what would be right.
pub fn check_log_filter(filter: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for piece in filter.split(',').map(str::trim).filter(|piece| !piece.contains('[')) {
        let level = piece.rsplit('=').next().unwrap_or_default();
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            let shown: String = level.chars().take(MAX_SHOWN_CHARS).collect();
            return Err(format!(
                "{shown:?} is not a level; write {}, or levels of targets such as selvedge_node=debug,info",
                LEVELS.join(", ")
            ));
        }
    }
    Ok(())
}

/// What is to be logged, without what the HTTP server says of its own of each broken request or connection: a stranger could fill the
/// disk with that. A filter that names it is left as it is.
pub fn bounded_log_filter(filter: &str) -> String {
    match filter.contains("actix") {
        true => filter.to_string(),
        false => format!("{filter},actix_http=off,actix_server::accept=off"),
    }
}

fn suggest(nearest: &Option<String>, known: &[String]) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None if known.is_empty() => String::new(),
        None => format!("; there are: {}", known.join(", ")),
    }
}

/// One override as a command line gives it: a dotted key, `=`, a value.
///
/// # Errors
/// Says how it is written.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or("it has no `=`; write it as key=value, such as http.port=8080")?;
    Ok((pair.0.trim().to_string(), pair.1.to_string()))
}

/// Reads the settings `T`. `prefix` is that of the environment variables, without the `_`; `overrides` are
/// (dotted key, value) from the command line.
///
/// # Errors
/// The first thing that is wrong, as a [`SettingsLoadError`].
pub fn load<T>(
    file: Option<&Path>,
    prefix: &str,
    overrides: &[(String, String)],
) -> Result<T, SettingsLoadError>
where
    T: DeserializeOwned + Serialize + Default,
{
    secrets::not_on_the_command_line(prefix, overrides)?;
    if let Some(path) = file {
        secrets::not_in_an_open_file(path)?;
    }
    load_from(file, prefix, environment(), overrides)
}

/// Where the value of a dotted key comes from, for errors about settings that have loaded. [`SettingOrigin::Defaults`] if
/// nothing sets it.
pub fn origin_of<T>(
    file: Option<&Path>,
    prefix: &str,
    overrides: &[(String, String)],
    key: &str,
) -> SettingOrigin
where
    T: Serialize + Default,
{
    let shape = serde_json::to_value(T::default()).unwrap_or(Shape::Null);
    let layers = Layers::read(&shape, file, prefix, environment(), overrides);
    layers.map_or(SettingOrigin::Defaults, |layers| layers.origin(key))
}

/// The variables of the environment that are text.
fn environment() -> impl Iterator<Item = (String, String)> {
    let readable = |(k, v): (std::ffi::OsString, std::ffi::OsString)| {
        Some((k.into_string().ok()?, v.into_string().ok()?))
    };
    std::env::vars_os().filter_map(readable)
}

/// As [`load`], with the environment given, and wherever secrets stand.
///
/// # Errors
/// As [`load`].
pub fn load_from<T>(
    file: Option<&Path>,
    prefix: &str,
    variables: impl IntoIterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<T, SettingsLoadError>
where
    T: DeserializeOwned + Serialize + Default,
{
    let shape = serde_json::to_value(T::default()).unwrap_or(Shape::Null);
    let layers = Layers::read(&shape, file, prefix, variables, overrides)?;
    let mut builder = Config::builder().add_source(Layer(table_of(&shape)));
    for (_, _, layer) in &layers.all {
        builder = builder.add_source(layer.clone());
    }
    let built = builder.build().map_err(|e| layers.explain(e, String::new(), None))?;
    built.clone().try_deserialize().map_err(|e| {
        // Another reader says which values there are where the first one only says that a value is none of them.
        let known = built.clone().try_deserialize::<Shape>().ok().map(serde_json::from_value::<T>);
        let known = known.and_then(Result::err).and_then(|e| one_of(&e.to_string()));
        layers.explain(e, String::new(), Some((&built, known)))
    })
}

/// The values that there are, from serde's words about one that there is not.
fn one_of(said: &str) -> Option<String> {
    let (_, known) = said.strip_prefix("unknown variant `")?.split_once("`, expected ")?;
    let names: Vec<_> = known.split('`').skip(1).step_by(2).collect();
    Some(match names.as_slice() {
        [one] => (*one).to_string(),
        names => format!("one of {}", names.join(", ")),
    })
}

type Shape = serde_json::Value;

/// Whether what a program says may be coloured: only on a terminal, and not where `NO_COLOR` is set.
pub fn wants_colours(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Kubernetes puts the addresses of services into every container's environment; one that is called like
/// our prefix must not stop us.
fn is_service_link(name: &str, value: &str) -> bool {
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || ["_TCP", "_UDP"].iter().any(|way| name.contains("_PORT_") && name.contains(way))
        || (name.ends_with("_PORT") && (value.starts_with("tcp://") || value.starts_with("udp://")))
}

#[derive(Debug, Clone)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// What was given so far: (key it sets, empty for a whole file; where it is from; the values).
struct Layers<'a> {
    all: Vec<(String, SettingOrigin, Layer)>,
    shape: &'a Shape,
}

impl<'a> Layers<'a> {
    /// Reads what is given, the earlier sources first.
    fn read(
        shape: &'a Shape,
        file: Option<&Path>,
        prefix: &str,
        variables: impl IntoIterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Result<Self, SettingsLoadError> {
        let mut layers = Self { all: vec![], shape };
        if let Some(path) = file {
            layers.add_file(path)?;
        }
        let prefix = format!("{prefix}_");
        let mut variables: Vec<_> = variables
            .into_iter()
            .filter(|(name, value)| name.starts_with(&prefix) && !is_service_link(name, value))
            .collect();
        variables.sort();
        for (name, text) in variables {
            let key = name.get(prefix.len()..).unwrap_or_default().to_lowercase().replace("__", ".");
            layers.add_text(&key, &text, SettingOrigin::Variable(name))?;
        }
        for (key, text) in overrides {
            layers.add_text(key, text, SettingOrigin::CommandLine)?;
        }
        Ok(layers)
    }

    fn add_file(&mut self, path: &Path) -> Result<(), SettingsLoadError> {
        let failed = |why: String| SettingsLoadError::File { path: path.to_owned(), why };
        let size = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
        if size > MAX_FILE_BYTES {
            return Err(failed(format!("it has {size} bytes; at most {MAX_FILE_BYTES} are allowed")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        let values = parse_toml(&text).map_err(failed)?;
        let origin = SettingOrigin::File(path.to_owned());
        check_table(&values, self.shape, "", &origin)?;
        self.all.push((String::new(), origin, Layer(values)));
        Ok(())
    }

    fn add_text(&mut self, key: &str, text: &str, origin: SettingOrigin) -> Result<(), SettingsLoadError> {
        let shape = shape_at(key, self.shape, &origin)?;
        let looks_structured = text.starts_with(['[', '{']);
        let value = match shape {
            Shape::String(_) => Value::new(None, text),
            Shape::Array(_) if !looks_structured => {
                let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
                Value::new(None, parts.map(|p| Value::new(None, p)).collect::<Vec<_>>())
            }
            Shape::Bool(_) | Shape::Number(_) => plain(text),
            _ if looks_structured => parse_toml(&format!("value = {text}"))
                .ok()
                .and_then(|mut table| table.remove("value"))
                .unwrap_or_else(|| Value::new(None, text)),
            _ => Value::new(None, text),
        };
        check(&value, shape, key, &origin)?;
        // The key as nested tables.
        let (mut parts, mut value) = (key.rsplit('.'), value);
        let last = parts.next_back().unwrap_or(key);
        for part in parts {
            value = Value::new(None, Map::from([(part.to_string(), value)]));
        }
        self.all.push((key.to_string(), origin, Layer(Map::from([(last.to_string(), value)]))));
        Ok(())
    }

    /// Where the value of `key`, or the table around it, was last set.
    fn origin(&self, key: &str) -> SettingOrigin {
        let sets = |(set, _, layer): &&(String, SettingOrigin, Layer)| {
            if !set.is_empty() {
                return key == set
                    || (key.starts_with(set.as_str()) && key[set.len()..].starts_with(['.', '[']))
                    || (set.starts_with(key) && set[key.len()..].starts_with('.'));
            }
            holds(&layer.0, key)
        };
        let found = self.all.iter().rev().find(sets).or(self.all.last().filter(|_| key.is_empty()));
        found.map_or(SettingOrigin::Defaults, |(_, origin, _)| origin.clone())
    }

    /// `built`: all layers as one, and the values that there are if one was given that there is not.
    fn explain(
        &self,
        error: config::ConfigError,
        within: String,
        built: Option<(&Config, Option<String>)>,
    ) -> SettingsLoadError {
        use config::ConfigError as E;
        match error {
            E::At { error, key, .. } => self.explain(*error, key.map_or(within, |k| dotted(&k)), built),
            E::Type { unexpected, expected, key, .. } => {
                let key = key.map_or(within, |k| dotted(&k));
                // The library puts its own word for the kind of value before it.
                let said = unexpected.to_string();
                let found = show(&key, said.split('`').nth(1).unwrap_or(&said));
                WrongTypeParts { found, expected }.at(key.clone(), self.origin(&key))
            }
            E::NotFound(key) => {
                let key = dotted(&key);
                let origin = self.origin(key.rsplit_once('.').map_or("", |(table, _)| table));
                SettingsLoadError::Missing { key, origin }
            }
            other => {
                let why = other.to_string();
                let origin = self.origin(&within);
                match why.strip_prefix("unknown field ") {
                    Some(rest) => {
                        let mut quoted = rest.split('`').skip(1).step_by(2).map(str::to_string);
                        let wrong = quoted.next().unwrap_or_default();
                        let key = if within.is_empty() { wrong } else { format!("{within}.{wrong}") };
                        unknown(&key, quoted.collect(), origin)
                    }
                    None if is_secret(&within) && !why.starts_with("a site secret") => {
                        SettingsLoadError::Invalid { key: within, origin, why: "it is not valid".into() }
                    }
                    None => {
                        let (config, known) = built.unzip();
                        let expected = match why.as_str() {
                            "invalid socket address syntax" => {
                                Some("an address and a port, such as 0.0.0.0:1883 or [::1]:1883".to_string())
                            }
                            "invalid IP address syntax" => {
                                Some("an address, such as 127.0.0.1 or 0.0.0.0".to_string())
                            }
                            why if why.contains("does not have variant") => known.flatten(),
                            _ => None,
                        };
                        let found = config.and_then(|c| c.get_string(&within).ok());
                        match expected.zip(found) {
                            Some((expected, found)) => {
                                let found = show(&within, &format!("{found:?}"));
                                SettingsLoadError::WrongType { key: within, origin, found, expected }
                            }
                            None => SettingsLoadError::Invalid { key: within, origin, why },
                        }
                    }
                }
            }
        }
    }
}

/// Whether a file has this key, or the list in which it lies.
fn holds(file: &Map<String, Value>, key: &str) -> bool {
    let mut parts = key.split('[').next().unwrap_or_default().split('.');
    let mut found = parts.next().and_then(|first| file.get(first));
    for part in parts {
        let Some(ValueKind::Table(table)) = found.map(|value| &value.kind) else { break };
        found = table.get(part);
    }
    found.is_some()
}

struct WrongTypeParts {
    found: String,
    expected: &'static str,
}

impl WrongTypeParts {
    fn at(self, key: String, origin: SettingOrigin) -> SettingsLoadError {
        let expected = match self.expected {
            "an unsigned 8 bit integer" => "a whole number from 0 to 255",
            "an unsigned 16 bit integer" => "a whole number from 0 to 65535",
            "an unsigned 32 bit integer" => "a whole number from 0 to 4294967295",
            "an unsigned 64 bit or less integer" => "a whole number, 0 or more",
            "an integer" => "a whole number",
            other => other,
        };
        SettingsLoadError::WrongType { key, origin, found: self.found, expected: expected.to_string() }
    }
}

/// A bare text as the number or boolean that it reads as.
fn plain(text: &str) -> Value {
    let kind = match text.trim() {
        "true" => ValueKind::Boolean(true),
        "false" => ValueKind::Boolean(false),
        t => match (t.parse::<i64>(), t.parse::<u64>(), t.parse::<f64>()) {
            (Ok(n), _, _) => ValueKind::I64(n),
            (_, Ok(n), _) => ValueKind::U64(n),
            (_, _, Ok(n)) => ValueKind::Float(n),
            _ => ValueKind::String(text.to_string()),
        },
    };
    Value::new(None, kind)
}

fn parse_toml(text: &str) -> Result<Map<String, Value>, String> {
    let parsed = Config::builder().add_source(File::from_str(text, FileFormat::Toml)).build();
    // The parser quotes the line it fails at, which may hold a secret: keep its words only.
    let words = |e: config::ConfigError| {
        let said = e.to_string();
        said.lines().filter(|l| !l.contains('|')).collect::<Vec<_>>().join(": ")
    };
    parsed.and_then(|c| c.collect()).map_err(words)
}

/// The default at a dotted key; null where the defaults say nothing of it.
fn shape_at<'a>(key: &str, shape: &'a Shape, origin: &SettingOrigin) -> Result<&'a Shape, SettingsLoadError> {
    let mut at = shape;
    let mut path = String::new();
    for part in key.split('.') {
        let Shape::Object(fields) = at else { return Ok(&Shape::Null) };
        if fields.is_empty() {
            return Ok(&Shape::Null);
        }
        let known = || fields.keys().cloned().collect();
        at = fields.get(part).ok_or_else(|| unknown(&join(&path, part), known(), origin.clone()))?;
        path = join(&path, part);
    }
    Ok(at)
}

fn check_table(
    table: &Map<String, Value>,
    shape: &Shape,
    path: &str,
    origin: &SettingOrigin,
) -> Result<(), SettingsLoadError> {
    let mut keys: Vec<_> = table.iter().collect();
    keys.sort_by_key(|(name, _)| name.as_str());
    for (name, value) in keys {
        check(value, shape_at(name, shape, origin).map_err(|e| within(e, path))?, &join(path, name), origin)?;
    }
    Ok(())
}

/// Puts the table's path before the key of an error about one of its fields.
fn within(error: SettingsLoadError, path: &str) -> SettingsLoadError {
    match error {
        SettingsLoadError::UnknownKey { key, origin, known, .. } => unknown(&join(path, &key), known, origin),
        other => other,
    }
}

fn check(value: &Value, shape: &Shape, path: &str, origin: &SettingOrigin) -> Result<(), SettingsLoadError> {
    let (sound, expected) = match (shape, &value.kind) {
        (Shape::Object(_), ValueKind::Table(table)) => return check_table(table, shape, path, origin),
        (Shape::Object(_), _) => (false, "a table"),
        (Shape::Array(_), kind) => (matches!(kind, ValueKind::Array(_)), "a list"),
        (Shape::String(_), kind) => (matches!(kind, ValueKind::String(_)), "a text"),
        (Shape::Bool(_), kind) => (matches!(kind, ValueKind::Boolean(_)), "true or false"),
        (Shape::Number(n), kind) if n.is_f64() => {
            (matches!(kind, ValueKind::I64(_) | ValueKind::U64(_) | ValueKind::Float(_)), "a number")
        }
        (Shape::Number(_), kind) => (matches!(kind, ValueKind::I64(_) | ValueKind::U64(_)), "a whole number"),
        (Shape::Null, _) => (true, ""),
    };
    if sound {
        return Ok(());
    }
    let found = match &value.kind {
        ValueKind::Table(_) => "a table".to_string(),
        ValueKind::Array(_) => "a list".to_string(),
        // It may be a list of tables with secrets that lacks its last bracket.
        ValueKind::String(_) if matches!(shape, Shape::Object(_) | Shape::Array(_)) => "a text".to_string(),
        ValueKind::String(text) => show(path, &format!("{text:?}")),
        _ => show(path, &value.to_string()),
    };
    Err(SettingsLoadError::WrongType {
        key: path.to_string(),
        origin: origin.clone(),
        found,
        expected: expected.to_string(),
    })
}

/// The library leaves out the dot after an index: `sites[0]name`.
fn dotted(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if out.ends_with(']') && c != '.' && c != '[' {
            out.push('.');
        }
        out.push(c);
    }
    out
}

fn join(path: &str, part: &str) -> String {
    if path.is_empty() { part.to_string() } else { format!("{path}.{part}") }
}

fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    ["secret", "password", "token", "psk", "database"].iter().any(|word| name.contains(word))
        && !name.ends_with("_file")
}

fn show(key: &str, value: &str) -> String {
    if is_secret(key) {
        return "(not shown)".to_string();
    }
    let mut shown: String = value.chars().take(MAX_SHOWN_CHARS).collect();
    if shown.len() < value.len() {
        shown.push_str("...");
    }
    shown
}

fn unknown(key: &str, mut known: Vec<String>, origin: SettingOrigin) -> SettingsLoadError {
    known.sort();
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let near = known.iter().map(|k| (edits(name, k), k)).min();
    let close = near.filter(|(distance, k)| *distance <= (k.chars().count() / 3).max(1));
    let nearest = close.map(|(_, k)| join(table, k));
    SettingsLoadError::UnknownKey { key: key.to_string(), origin, nearest, known }
}

/// How many letters to add, drop, change or swap with their neighbour to get from `a` to `b`, looking at the first 64 of
/// each.
fn edits(a: &str, b: &str) -> usize {
    let first = |text: &str| text.chars().take(64).collect::<String>();
    strsim::osa_distance(&first(a), &first(b))
}

fn table_of(shape: &Shape) -> Map<String, Value> {
    match value_of(shape).kind {
        ValueKind::Table(table) => table,
        _ => Map::new(),
    }
}

fn value_of(shape: &Shape) -> Value {
    let kind = match shape {
        Shape::Null => ValueKind::Nil,
        Shape::Bool(b) => ValueKind::Boolean(*b),
        Shape::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => ValueKind::I64(n),
            (_, Some(n)) => ValueKind::U64(n),
            _ => ValueKind::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        Shape::String(s) => ValueKind::String(s.clone()),
        Shape::Array(all) => ValueKind::Array(all.iter().map(value_of).collect()),
        Shape::Object(fields) => {
            ValueKind::Table(fields.iter().map(|(k, v)| (k.clone(), value_of(v))).collect())
        }
    };
    Value::new(None, kind)
}

#[cfg(test)]
mod tests;
