//! Decoding errors, in words that help the person who builds the device.

use super::excerpt::cut;
use super::skipped::{Skipped, name_skipped};
use serde_json::error::Category;
use std::fmt;

/// The most bytes of a payload that an error shows.
pub const MAX_EXCERPT_BYTES: usize = 80;

/// The most bytes of an error's description.
const MAX_WHAT_BYTES: usize = 500;

/// The most bytes of a parser's message that an error repeats.
const MAX_PARSER_BYTES: usize = 100;

/// The place of an error within a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishPlace {
    Topic,
    /// The payload as a whole.
    Payload,
    /// An offset into the payload, from 0.
    Byte(usize),
    /// A key of the payload, dotted if nested.
    Key(String),
    /// A record, element or metric of the payload, from 0.
    Record(usize),
}

impl fmt::Display for PublishPlace {
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

/// The command that makes a Sparkplug B edge node send its births again, to be published to subscribers of
/// its command topic. The decoder limits how often it returns one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebirth {
    /// The command topic of the edge node.
    pub topic: String,
    /// An encoded Sparkplug payload.
    pub payload: Vec<u8>,
}

/// Why a publish that maps to a stream has no reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    pub place: PublishPlace,
    /// A description of the fault, for people.
    pub what: String,
    /// A description of what would be right, for people.
    pub right: String,
    /// The payload at that place, escaped, at most [`MAX_EXCERPT_BYTES`].
    pub excerpt: String,
    /// Whether the payload is well-formed, but exceeds a bound.
    pub too_large: bool,
    /// The fields of the payload, if none of them is a number.
    pub skipped: Vec<Skipped<'static>>,
    /// A request to a Sparkplug edge node whose aliases are not known here.
    pub rebirth: Option<Box<Rebirth>>,
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
    /// An error without an excerpt, which [`Decoder::decode`](super::Decoder::decode) adds.
    pub(super) fn new(place: PublishPlace, what: impl Into<String>, right: impl Into<String>) -> Box<Self> {
        let what = cut(what.into(), MAX_WHAT_BYTES);
        let (right, excerpt, skipped) = (right.into(), String::new(), Vec::new());
        Box::new(Self { place, what, right, excerpt, too_large: false, skipped, rebirth: None })
    }

    /// A payload that can be read, but holds no number.
    pub(super) fn no_number(skipped: Vec<Skipped<'_>>, right: &str) -> Box<Self> {
        let what = match skipped.as_slice() {
            [] => "it holds no number".to_string(),
            skipped => format!("it holds no number; {}", name_skipped(skipped)),
        };
        let mut e = Self::new(PublishPlace::Payload, what, right);
        e.skipped = skipped.into_iter().map(Skipped::into_owned).collect();
        e
    }

    /// Marks the error as one that exceeds a bound.
    pub(super) fn too_large(mut self: Box<Self>) -> Box<Self> {
        self.too_large = true;
        self
    }

    /// Adds an excerpt of the payload at the place of the error.
    pub(super) fn showing(mut self: Box<Self>, payload: &[u8]) -> Box<Self> {
        let from = match self.place {
            PublishPlace::Topic => return self,
            PublishPlace::Byte(at) => at.saturating_sub(MAX_EXCERPT_BYTES / 2).min(payload.len()),
            _ => 0,
        };
        let some = payload[from..].iter().take(MAX_EXCERPT_BYTES);
        let escaped: String = some.flat_map(|b| b.escape_ascii()).map(char::from).collect();
        self.excerpt = cut(escaped, MAX_EXCERPT_BYTES);
        self
    }
}

/// The error of a JSON parser, at the byte where it occurred.
pub(super) fn syntax_error(e: &serde_json::Error, payload: &[u8], right: &str) -> Box<DecodeError> {
    let lines = payload.split_inclusive(|b| *b == b'\n').take(e.line().saturating_sub(1));
    let before: usize = lines.map(<[u8]>::len).sum();
    let at = (before + e.column()).saturating_sub(1).min(payload.len());
    let said = e.to_string();
    let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said);
    let what = match e.classify() {
        Category::Data => plain(said),
        Category::Eof => "it ends too early: a bracket, a brace or a quotation mark is not closed".into(),
        Category::Syntax | Category::Io => what_is_no_json(said, payload, at).into(),
    };
    let e = DecodeError::new(PublishPlace::Byte(at), what, right);
    if said.starts_with(MORE_THAN) { e.too_large() } else { e }
}

/// The beginning of all errors about an exceeded bound.
pub(super) const MORE_THAN: &str = "it holds more than";

/// Translates a parser's message for the person who builds the device.
fn what_is_no_json(said: &str, payload: &[u8], at: usize) -> &'static str {
    match said {
        _ if payload.starts_with(b"\x1f\x8b") => "it is compressed, not JSON",
        _ if payload.starts_with(b"\xff\xfe") || payload.starts_with(b"\xfe\xff") || payload.contains(&0) => {
            "it holds zero bytes or begins as UTF-16: it is not JSON in UTF-8"
        }
        "trailing characters" => "there is more text after the end",
        "trailing comma" => "a comma precedes the closing bracket",
        "key must be a string" => "a key is not in double quotation marks",
        "number out of range" => "the number is larger than a double can hold",
        "invalid number" => {
            "it is not a JSON number: decimal, without leading zeros, with digits on both sides of the point"
        }
        "invalid unicode code point" => "a string is not UTF-8",
        "lone leading surrogate in hex escape" | "unexpected end of hex escape" => {
            r"half of a surrogate pair of \u escapes stands alone"
        }
        "invalid escape" => "a backslash precedes a character that needs none",
        _ if said.starts_with("control character") => {
            "a string holds a line break or another control character"
        }
        _ if said.starts_with("expected `:`") => "a colon is missing after a key",
        _ if said.starts_with("expected `,` or") => "a comma or the closing bracket is missing",
        _ if said.starts_with("recursion limit") => "it is nested too deep",
        "expected value" | "expected ident" => match payload.get(at) {
            Some(b'\'') => "a string is in single quotation marks; JSON uses double ones",
            Some(b'N' | b'n' | b'I' | b'i' | b'+') => {
                "JSON has no such word or number; NaN, Infinity and +5 are not JSON"
            }
            Some(b',' | b']' | b'}') => "a value is missing",
            _ => "this is not a JSON value",
        },
        _ => "it is not JSON",
    }
}

/// Translates a deserializer's message: `invalid type: map, expected an array` becomes
/// `expected an array, found an object`. Messages of this crate's own readers stay as they are.
pub(super) fn plain(said: &str) -> String {
    let said = cut(said.into(), MAX_PARSER_BYTES);
    let Some(rest) = said.strip_prefix("invalid type: ").or_else(|| said.strip_prefix("invalid value: "))
    else {
        return said;
    };
    let (found, wanted) = rest.split_once(", expected ").unwrap_or((rest, "something else"));
    let found = match found {
        "map" => "an object",
        "sequence" => "an array",
        "null" | "unit value" | "Option value" => "no value",
        "byte array" => "bytes",
        _ if found.starts_with("string") => "a string",
        _ if found.starts_with("boolean") => "true or false",
        _ if found.starts_with("integer") || found.starts_with("floating point") => "a number",
        _ => "something else",
    };
    let wanted = match wanted {
        "array" | "map" => "an array or an object",
        "str" | "string" | "a string" => "a string",
        "integer" => "a number",
        wanted => wanted,
    };
    format!("expected {wanted}, found {found}")
}
