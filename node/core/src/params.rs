//! The parameters of a request: each at most once, none unknown, with an error text that says what is wrong with one.

use selvedge_types::pattern::Pattern;
use selvedge_types::time::{EpochMs, TIME_RANGE, parse_duration_ms};
use std::collections::BTreeMap;

const DAY_MS: i64 = 86_400_000;
const MAX_SHOWN_CHARS: usize = 40;

/// A parameter that is wrong, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parameter `{parameter}`: {why}")]
pub struct BadParameter {
    pub parameter: String,
    /// What is wrong, and what would be right.
    pub why: String,
}

/// Names the parameter that is wrong.
pub fn bad(parameter: &str, why: impl Into<String>) -> BadParameter {
    BadParameter { parameter: parameter.to_string(), why: why.into() }
}

/// A piece of a request, in quotes and cut short.
pub fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(MAX_SHOWN_CHARS).collect::<String>())
}

/// The parameters of a request, each at most once and none unknown.
pub struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Takes them, if they are all in `known`.
    ///
    /// # Errors
    /// Names the one that is unknown or doubled.
    pub fn new(given: Vec<(String, String)>, known: &[&str]) -> Result<Self, BadParameter> {
        let mut all = BTreeMap::new();
        for (name, value) in given {
            if !known.contains(&name.as_str()) {
                let name: String = name.chars().take(MAX_SHOWN_CHARS).collect();
                let there_are = if known.is_empty() { "there is none".into() } else { known.join(", ") };
                return Err(bad(&name, format!("is not known; there are: {there_are}")));
            }
            if all.insert(name.clone(), value).is_some() {
                return Err(bad(&name, "is given twice"));
            }
        }
        Ok(Self(all))
    }

    /// A text that is not empty.
    ///
    /// # Errors
    /// When it is empty, or holds a character that no name has.
    pub fn text(&self, name: &str) -> Result<Option<&str>, BadParameter> {
        match self.0.get(name).map(String::as_str) {
            Some("") => Err(bad(name, "is empty")),
            // PostgreSQL takes none.
            Some(text) if text.contains('\0') => Err(bad(name, "holds a zero character")),
            other => Ok(other),
        }
    }

    /// A name, or a pattern of names.
    ///
    /// # Errors
    /// When it is neither.
    pub fn pattern(&self, name: &str) -> Result<Option<Pattern>, BadParameter> {
        self.text(name)?.map(|text| Pattern::parse(text).map_err(|why| bad(name, why))).transpose()
    }

    /// Which streams are asked for, by `site`, `device`, `stream` and `q`.
    ///
    /// # Errors
    /// Names the one that is wrong.
    pub fn wanted(&self) -> Result<WantedStreams, BadParameter> {
        Ok(WantedStreams {
            site: self.pattern("site")?,
            device: self.pattern("device")?,
            stream: self.pattern("stream")?,
            search: self.text("q")?.map(str::to_string),
        })
    }

    /// The times from which and to which is asked; all times if nothing is said.
    ///
    /// # Errors
    /// When one is no time, or `to` is not after `from`.
    pub fn from_to(&self) -> Result<(EpochMs, EpochMs), BadParameter> {
        let from = self.time("from", EpochMs(*TIME_RANGE.start()))?;
        let to = self.time("to", EpochMs(*TIME_RANGE.end()).plus(1))?;
        if to <= from {
            return Err(bad("to", format!("{to} is not after `from`, which is {from}")));
        }
        Ok((from, to))
    }

    /// Whether it is given.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A comma list, each of which `read` understands and none of which is there twice; nothing if it is not given.
    ///
    /// # Errors
    /// Says what there is, in the words of `known`.
    pub fn list<T: PartialEq>(
        &self,
        name: &str,
        read: impl Fn(&str) -> Option<T>,
        known: &str,
    ) -> Result<Option<Vec<T>>, BadParameter> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let mut all = vec![];
        for item in text.split(',').map(str::trim) {
            let one = read(item).ok_or_else(|| bad(name, format!("{} is none of: {known}", shown(item))))?;
            if all.contains(&one) {
                return Err(bad(name, format!("names {} twice", shown(item))));
            }
            all.push(one);
        }
        Ok(Some(all))
    }

    /// A time, or `default`.
    ///
    /// # Errors
    /// When it is no time.
    pub fn time(&self, name: &str, default: EpochMs) -> Result<EpochMs, BadParameter> {
        let parse = |text: &String| EpochMs::parse_asked(text).map_err(|e| bad(name, e.to_string()));
        self.0.get(name).map_or(Ok(default), parse)
    }

    /// A duration in milliseconds.
    ///
    /// # Errors
    /// When it is none.
    pub fn duration(&self, name: &str) -> Result<Option<i64>, BadParameter> {
        let read = |text: &String| parse_duration_ms(text).map_err(|e| bad(name, e.to_string()));
        self.0.get(name).map(read).transpose()
    }

    /// A number of rows, 1 to `most`, or `default`.
    ///
    /// # Errors
    /// When it is none.
    pub fn limit(&self, default: u32, most: u32) -> Result<u32, BadParameter> {
        let why =
            |text: &String| bad("limit", format!("{} is no whole number from 1 to {most}", shown(text)));
        self.0.get("limit").map_or(Ok(default), |text| {
            text.parse().ok().filter(|n| (1..=most).contains(n)).ok_or_else(|| why(text))
        })
    }

    /// A place to go on from, as an answer's `next` gave it.
    ///
    /// # Errors
    /// When it is none.
    pub fn place(&self, name: &str) -> Result<Option<WindowPlace>, BadParameter> {
        let why = || bad(name, "is not what an earlier answer gave as `next`");
        let parse = |text: &String| {
            let (series, start) = text.split_once('.')?;
            let start = start.parse().ok().map(EpochMs)?;
            Some(WindowPlace { series: series.parse().ok()?, start })
        };
        self.0.get(name).map(|text| parse(text).ok_or_else(why)).transpose()
    }
}

/// Which streams are asked for; what is nothing leaves all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedStreams {
    pub site: Option<Pattern>,
    pub device: Option<Pattern>,
    pub stream: Option<Pattern>,
    /// Of devices whose name holds this, in upper or lower case.
    pub search: Option<String>,
}

/// A duration as a person writes it.
pub fn duration_text(ms: i64) -> String {
    let units = [(DAY_MS, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let fits = units.iter().find(|(unit, _)| ms % unit == 0 && ms != 0);
    fits.map_or(format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

/// Where an answer ended: a series and the start of its next window or span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowPlace {
    /// The series' row number.
    pub series: i64,
    /// The start to continue from in that series.
    pub start: EpochMs,
}

impl std::fmt::Display for WindowPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.series, self.start.0)
    }
}

/// The place where a page of names ended, by its last names. Clients treat it as an opaque text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamesPlace(pub Vec<String>);

impl std::fmt::Display for NamesPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, name) in self.0.iter().enumerate() {
            f.write_str(if at > 0 { "-" } else { "" })?;
            name.bytes().try_for_each(|b| write!(f, "{b:02x}"))?;
        }
        Ok(())
    }
}

impl Parameters {
    /// A place to go on from in a list of `names` names each, as an answer's `next` gave it.
    ///
    /// # Errors
    /// When it is none.
    pub fn names_place(&self, name: &str, names: usize) -> Result<Option<NamesPlace>, BadParameter> {
        let why = || bad(name, "is not what an earlier answer gave as `next`");
        let name_of = |text: &str| {
            let digits: Option<Vec<u8>> = text.chars().map(|c| Some(c.to_digit(16)? as u8)).collect();
            let digits = digits.filter(|d| d.len() % 2 == 0)?;
            let bytes = digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |high, low| high << 4 | low));
            String::from_utf8(bytes.collect()).ok()
        };
        let parse = |text: &str| {
            let all = text.split('-').map(name_of).collect::<Option<Vec<String>>>()?;
            (all.len() == names).then_some(NamesPlace(all))
        };
        self.text(name)?.map(|text| parse(text).ok_or_else(why)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_list_of_names_is_written_and_read() {
        let place = NamesPlace(vec!["plant-7".into(), "a\0-ä".into(), String::new()]);
        let read = |text: &str, names| {
            let given = vec![("after".to_string(), text.to_string())];
            Parameters::new(given, &["after"]).unwrap().names_place("after", names)
        };
        assert_eq!(read(&place.to_string(), 3), Ok(Some(place.clone())));
        for (text, names) in [(place.to_string().as_str(), 2), ("6", 1), ("ff", 1), ("xy", 1), ("7.3", 1)] {
            assert!(read(text, names).unwrap_err().why.contains("`next`"), "{text}");
        }
    }
}
