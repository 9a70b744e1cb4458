//! What is wrong with a payload, said so that whoever builds the device can put it right.

use std::fmt;

/// The most bytes of a payload that an error shows.
pub const MAX_EXCERPT_BYTES: usize = 80;

/// The most bytes of an error's description.
const MAX_WHAT_BYTES: usize = 400;

/// The most bytes that are kept of what a parser says.
const MAX_PARSER_BYTES: usize = 100;

/// Where in a publish something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The topic.
    Topic,
    /// The payload as a whole.
    Payload,
    /// A byte of the payload, from 0.
    Byte(usize),
    /// A key of the payload, dotted if nested.
    Key(String),
    /// A record, element or metric of the payload, from 0.
    Record(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic => write!(f, "topic"),
            Self::Payload => write!(f, "payload"),
            Self::Byte(at) => write!(f, "payload, byte {at}"),
            Self::Key(key) => write!(f, "payload, key {key:?}"),
            Self::Record(n) => write!(f, "payload, record {n}"),
        }
    }
}

/// The message that makes a Sparkplug B edge node say its aliases again. Publish it, at most once a few
/// seconds an edge node, if this gateway is to act as a host; whoever is connected as the edge node gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebirth {
    /// Where to.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
}

/// Why a publish that maps to a stream has no reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// Where it is wrong.
    pub place: Place,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub right: String,
    /// The payload there, escaped, at most [`MAX_EXCERPT_BYTES`].
    pub excerpt: String,
    /// What to send to an edge node whose aliases are not known here.
    pub rebirth: Option<Rebirth>,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        if !self.excerpt.is_empty() {
            write!(f, " in `{}`", self.excerpt)?;
        }
        write!(f, "; {}", self.right)
    }
}

impl std::error::Error for DecodeError {}

impl DecodeError {
    /// An error without an excerpt; the decoder's entry adds it.
    pub(super) fn new(place: Place, what: impl Into<String>, right: impl Into<String>) -> Box<Self> {
        let what = cut(what.into(), MAX_WHAT_BYTES);
        Box::new(Self { place, what, right: right.into(), excerpt: String::new(), rebirth: None })
    }

    /// Adds what of the payload stands there.
    pub(super) fn showing(mut self: Box<Self>, payload: &[u8]) -> Box<Self> {
        let from = match self.place {
            Place::Topic => return self,
            Place::Byte(at) => at.saturating_sub(MAX_EXCERPT_BYTES / 2).min(payload.len()),
            _ => 0,
        };
        let some = payload[from..].iter().take(MAX_EXCERPT_BYTES);
        let escaped: String = some.flat_map(|b| b.escape_ascii()).map(char::from).collect();
        self.excerpt = cut(escaped, MAX_EXCERPT_BYTES);
        self
    }
}

/// What a parser says, which may quote a text of the payload.
pub(super) fn parser_says(what: &str) -> String {
    cut(what.into(), MAX_PARSER_BYTES)
}

/// At most `most` bytes of a text from outside, ended with an ellipsis if it was longer.
pub(super) fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let mut end = most.saturating_sub('…'.len_utf8());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}
