//! The parameters of an HTTP request. Gateway and node read theirs by the same rules: each parameter at most once, none that is not
//! known, and an error that names the parameter and says what would be right.
//!
//! A page of a list has [`DEFAULT_LIMIT_ENTRIES`] rows unless `limit` asks for another number, at most [`MAX_LIMIT_ENTRIES`]; an answer
//! that ends before the list does has a `next`, which `after` takes.

use crate::pattern::Pattern;
use crate::time::{EpochMs, TIME_RANGE, parse_duration_ms};
use std::collections::BTreeMap;

/// The most rows of one page.
pub const MAX_LIMIT_ENTRIES: u32 = 10_000;

/// The rows of one page if `limit` is not given.
pub const DEFAULT_LIMIT_ENTRIES: u32 = 1_000;

/// How much of a piece of a request an error repeats.
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
    /// Takes the pairs of a query string if they are all in `known`.
    ///
    /// # Errors
    /// Names the parameter that is unknown or given twice.
    pub fn new(given: Vec<(String, String)>, known: &[&str]) -> Result<Self, BadParameter> {
        let mut all = BTreeMap::new();
        for (name, value) in given {
            if !known.contains(&name.as_str()) {
                let name: String = name.chars().take(MAX_SHOWN_CHARS).collect();
                let why = match known {
                    [] => "is not known; this request takes no parameters".to_string(),
                    known => format!("is not known; there are: {}", known.join(", ")),
                };
                return Err(bad(&name, why));
            }
            if all.insert(name.clone(), value).is_some() {
                return Err(bad(&name, "is given twice"));
            }
        }
        Ok(Self(all))
    }

    /// Whether the parameter is given.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A text that is not empty.
    ///
    /// # Errors
    /// When it is empty, or holds a zero character, which no name has and PostgreSQL does not take.
    pub fn text(&self, name: &str) -> Result<Option<&str>, BadParameter> {
        match self.0.get(name).map(String::as_str) {
            Some("") => Err(bad(name, "is empty")),
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

    /// A comma list of different items, each of which `read` understands.
    ///
    /// # Errors
    /// Says which items there are, in the words of `known`.
    pub fn list<T: PartialEq>(
        &self,
        name: &str,
        read: impl Fn(&str) -> Option<T>,
        known: &str,
    ) -> Result<Option<Vec<T>>, BadParameter> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let mut all = vec![];
        for item in text.split(',').map(str::trim) {
            let one =
                read(item).ok_or_else(|| bad(name, format!("{} is not one of: {known}", shown(item))))?;
            if all.contains(&one) {
                return Err(bad(name, format!("names {} twice", shown(item))));
            }
            all.push(one);
        }
        Ok(Some(all))
    }

    /// The times `from` (included) and `to` (excluded); all times if neither is given.
    ///
    /// # Errors
    /// When one is no time, or `to` is not after `from`.
    pub fn from_to(&self) -> Result<(EpochMs, EpochMs), BadParameter> {
        let from = self.time("from")?.unwrap_or(EpochMs(*TIME_RANGE.start()));
        let to = self.time("to")?.unwrap_or(EpochMs(*TIME_RANGE.end()).plus(1));
        if to <= from {
            return Err(bad("to", format!("{to} is not after `from`, which is {from}")));
        }
        Ok((from, to))
    }

    fn time(&self, name: &str) -> Result<Option<EpochMs>, BadParameter> {
        let read = |text: &String| EpochMs::parse_asked(text).map_err(|e| bad(name, e.to_string()));
        self.0.get(name).map(read).transpose()
    }

    /// A duration in milliseconds.
    ///
    /// # Errors
    /// When it is none.
    pub fn duration(&self, name: &str) -> Result<Option<i64>, BadParameter> {
        let read = |text: &String| parse_duration_ms(text).map_err(|e| bad(name, e.to_string()));
        self.0.get(name).map(read).transpose()
    }

    /// How many rows a page has at most.
    ///
    /// # Errors
    /// When `limit` is no number from 1 to [`MAX_LIMIT_ENTRIES`].
    pub fn limit(&self) -> Result<u32, BadParameter> {
        self.limit_within(DEFAULT_LIMIT_ENTRIES, MAX_LIMIT_ENTRIES)
    }

    /// The same for a list whose pages have another size.
    ///
    /// # Errors
    /// When `limit` is no number from 1 to `most`.
    pub fn limit_within(&self, default: u32, most: u32) -> Result<u32, BadParameter> {
        let why =
            |text: &String| bad("limit", format!("{} is not a whole number from 1 to {most}", shown(text)));
        self.0.get("limit").map_or(Ok(default), |text| {
            text.parse().ok().filter(|n| (1..=most).contains(n)).ok_or_else(|| why(text))
        })
    }

    /// The place at which to go on: the `next` of an earlier answer, given as `after`.
    ///
    /// # Errors
    /// When `read` does not understand it.
    pub fn after<T>(&self, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, BadParameter> {
        let why = || bad("after", "is not what an earlier answer gave as `next`");
        self.0.get("after").map(|text| read(text).ok_or_else(why)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Parameters, BadParameter> {
        let pair = |p: &str| p.split_once('=').map(|(k, v)| (k.to_string(), v.to_string())).unwrap();
        let known = ["device", "from", "to", "every", "limit", "after", "fn"];
        Parameters::new(text.split('&').filter(|p| !p.is_empty()).map(pair).collect(), &known)
    }

    #[test]
    fn what_is_unknown_or_given_twice_is_refused() {
        let refused = |text: &str| read(text).err().map(|bad| (bad.parameter, bad.why)).unwrap();
        let (named, why) = refused("devise=d");
        assert!(named == "devise" && why.contains("there are: device, from"), "{why}");
        assert_eq!(refused("device=d&device=d"), ("device".into(), "is given twice".into()));
        let long = "x".repeat(600);
        let (named, why) = refused(&format!("{long}={long}"));
        assert!(named == long[..40] && why.len() < 200, "{named}: {why}");
        assert!(
            Parameters::new(vec![("x".into(), String::new())], &[])
                .is_err_and(|bad| bad.why.contains("takes no parameters"))
        );
    }

    #[test]
    fn a_wrong_value_is_named_with_what_would_be_right() {
        let p = |text: &str| read(text).unwrap();
        for (error, named, right) in [
            (p("device=").text("device").err(), "device", "empty"),
            (p("device=a\0").pattern("device").err(), "device", "zero"),
            (p("device=*****").pattern("device").err(), "device", "more than 4"),
            (p("from=yesterday").from_to().err(), "from", "RFC 3339"),
            (p("from=2025-11-24T08:00:00").from_to().err(), "from", "no time zone"),
            (p("to=1764000000").from_to().err(), "to", "1764000000s"),
            (p("from=2&to=1").from_to().err(), "to", "after `from`"),
            (p("every=soon").duration("every").err(), "every", "10s"),
            (p("limit=0").limit().err(), "limit", "1 to 10000"),
            (p("limit=101").limit_within(10, 100).err(), "limit", "1 to 100"),
            (p("after=x").after(|text| text.parse::<u8>().ok()).err(), "after", "`next`"),
            (p("fn=a,b").list("fn", |one| (one == "a").then_some(()), "a").err(), "fn", "not one of: a"),
            (p("fn=a,a").list("fn", |one| (one == "a").then_some(()), "a").err(), "fn", "twice"),
        ] {
            let error = error.unwrap();
            assert_eq!(error.parameter, named);
            assert!(error.why.contains(right), "{error}");
        }
    }

    #[test]
    fn what_is_not_given_has_the_same_default_everywhere() {
        let p = read("").unwrap();
        let all = (EpochMs(*TIME_RANGE.start()), EpochMs(TIME_RANGE.end() + 1));
        assert_eq!((p.from_to(), p.limit(), p.has("from")), (Ok(all), Ok(DEFAULT_LIMIT_ENTRIES), false));
        assert_eq!(p.after(|text| Some(text.to_string())), Ok(None));
        // A `+` that was not percent-encoded comes as a space.
        let zoned = read("from=2025-11-24T17:00:00 01:00").unwrap().from_to().unwrap();
        assert_eq!(zoned.0, EpochMs(1_764_000_000_000));
    }
}
