//! MQTT topic names and topic filters: what they may look like, and when a filter matches a name.
//!
//! Both are cut into levels at `/`; an empty level is a level. In a filter `+` stands for exactly one level and
//! `#`, as the last level, for the level before it and everything below. A filter that begins with a wildcard
//! matches no name that begins with `$` (MQTT 5, 4.7.2).
//!
//! Invariant: a [`Filter`] is well-formed; a name that passed [`check_name`] holds no wildcard and no NUL, and both
//! have at most [`MAX_TOPIC_BYTES`] bytes and [`MAX_TOPIC_LEVELS_ENTRIES`] levels, so that walking them is bounded.
//!
//! MQTT allows 65,535 bytes; ours is less, because each connection may hold many filters and aliases.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The longest topic name or filter, in bytes.
pub const MAX_TOPIC_BYTES: usize = 1024;

/// The most levels of a topic name or filter.
pub const MAX_TOPIC_LEVELS_ENTRIES: usize = 64;

/// What a shared subscription's filter begins with.
const SHARED: &str = "$share/";

/// A text that is no topic name or no topic filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTopic {
    /// It has no byte.
    #[error("a topic has at least one character")]
    Empty,
    /// It has too many bytes.
    #[error("a topic has at most {MAX_TOPIC_BYTES} bytes")]
    TooLong,
    /// It has too many levels.
    #[error("a topic has at most {MAX_TOPIC_LEVELS_ENTRIES} levels")]
    TooDeep,
    #[error("a topic must not contain a NUL character")]
    Nul,
    /// A topic name with `+` or `#`.
    #[error("a topic name must not contain a wildcard; + and # are for filters")]
    Wildcard,
    /// A filter in which `+` or `#` shares its level.
    #[error("in a filter + and # stand alone in their level: a/+/b, a/#")]
    WildcardNotAlone,
    /// A filter in which something follows `#`.
    #[error("in a filter # is the last level: a/#")]
    HashNotLast,
    #[error("shared subscriptions are not supported here: subscribe without $share/")]
    Shared,
}

impl BadTopic {
    /// Whether it is a bound of ours, within which MQTT allows more.
    pub fn is_bound(self) -> bool {
        matches!(self, Self::TooLong | Self::TooDeep)
    }
}

fn check_text(text: &str) -> Result<(), BadTopic> {
    if text.is_empty() {
        return Err(BadTopic::Empty);
    }
    if text.len() > MAX_TOPIC_BYTES {
        return Err(BadTopic::TooLong);
    }
    let mut levels = 1;
    for byte in text.bytes() {
        match byte {
            0 => return Err(BadTopic::Nul),
            b'/' => levels += 1,
            _ => {}
        }
    }
    if levels > MAX_TOPIC_LEVELS_ENTRIES { Err(BadTopic::TooDeep) } else { Ok(()) }
}

/// Whether `name` can be published to.
///
/// # Errors
/// Says what a topic name must not hold.
pub fn check_name(name: &str) -> Result<(), BadTopic> {
    check_text(name)?;
    if name.bytes().any(|b| b == b'+' || b == b'#') { Err(BadTopic::Wildcard) } else { Ok(()) }
}

/// A well-formed topic filter that is not shared. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter(Arc<str>);

impl Filter {
    /// A filter.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn new(text: &str) -> Result<Self, BadTopic> {
        check_text(text)?;
        if text.starts_with(SHARED) {
            return Err(BadTopic::Shared);
        }
        let mut ended = false;
        for level in text.split('/') {
            if ended {
                return Err(BadTopic::HashNotLast);
            }
            match level {
                "#" => ended = true,
                "+" => {}
                _ if level.contains(['+', '#']) => return Err(BadTopic::WildcardNotAlone),
                _ => {}
            }
        }
        Ok(Self(text.into()))
    }

    /// The filter as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches names other than its own text.
    pub fn has_wildcard(&self) -> bool {
        self.0.bytes().any(|b| b == b'+' || b == b'#')
    }

    /// Whether it matches this name.
    pub fn matches(&self, name: &str) -> bool {
        matches(&self.0, name)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Filter {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Whether `filter` matches `name`; both well-formed. (On malformed ones the answer has no meaning.)
pub fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = name.split('/');
    for want in filter.split('/') {
        match (want, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (want, Some(level)) if want == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_standard_says() {
        for (filter, name, want) in [
            ("a/b", "a/b", true),
            ("a/b", "a/B", false),
            ("a/b", "a", false),
            ("a", "a/b", false),
            ("a", "/a", false),
            ("/a", "/a", true),
            ("a/", "a", false),
            ("a/", "a/", true),
            ("#", "a", true),
            ("#", "a/b/c", true),
            ("#", "/", true),
            ("a/#", "a", true),
            ("a/#", "a/", true),
            ("a/#", "a/b", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("a/b/#", "a", false),
            ("+", "a", true),
            ("+", "/a", false),
            ("+/+", "/a", true),
            ("/+", "/a", true),
            ("+", "a/b", false),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("a/+/c", "a/b/c", true),
            ("a/+/c", "a//c", true),
            ("a/+/c", "a/b/d", false),
            ("a/+/#", "a/b", true),
            ("a/+/#", "a", false),
            ("+/b/#", "a/b/c/d", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("$SYS/+", "$SYS/x", true),
            ("a/#", "a/$x", true),
            ("a/+", "a/$x", true),
        ] {
            assert_eq!(Filter::new(filter).unwrap().matches(name), want, "{filter} on {name}");
            check_name(name).unwrap();
        }
    }

    #[test]
    fn malformed_filters_are_refused() {
        for (filter, why) in [
            ("", BadTopic::Empty),
            ("a\0", BadTopic::Nul),
            ("a+", BadTopic::WildcardNotAlone),
            ("a/b#", BadTopic::WildcardNotAlone),
            ("++", BadTopic::WildcardNotAlone),
            ("#/a", BadTopic::HashNotLast),
            ("a/#/", BadTopic::HashNotLast),
            ("$share/g/a", BadTopic::Shared),
            (&"a".repeat(MAX_TOPIC_BYTES + 1), BadTopic::TooLong),
            (&"/".repeat(MAX_TOPIC_LEVELS_ENTRIES), BadTopic::TooDeep),
        ] {
            assert_eq!(Filter::new(filter), Err(why), "{filter:.20}");
        }
        assert!(Filter::new(&"a".repeat(MAX_TOPIC_BYTES)).is_ok());
        assert!(Filter::new("/").is_ok());
    }

    #[test]
    fn malformed_names_are_refused() {
        for (name, why) in [
            ("", BadTopic::Empty),
            ("a/\0", BadTopic::Nul),
            ("a/+", BadTopic::Wildcard),
            ("a#", BadTopic::Wildcard),
            (&"a".repeat(MAX_TOPIC_BYTES + 1), BadTopic::TooLong),
        ] {
            assert_eq!(check_name(name), Err(why), "{name:.20}");
        }
        assert!(check_name("/").is_ok());
        assert!(check_name("$SYS/x").is_ok());
    }
}
