//! Fields of a payload that can't be numbers. They are not readings, and are counted by name.

use super::excerpt::cut;
use bincode::{Decode, Encode};
use std::borrow::Cow;
use std::fmt;

/// The most bytes of the sentence that names skipped fields.
pub const MAX_SKIPPED_TEXT_BYTES: usize = 300;

/// The most bytes of one name in that sentence.
const MAX_SHOWN_NAME_BYTES: usize = 60;

/// A field that was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped<'a> {
    /// The device that the field belongs to.
    pub device: Cow<'a, str>,
    /// The name of the stream that the field would be, as far as it has one: the dotted key, the record's
    /// name, the metric.
    pub name: Cow<'a, str>,
    /// Why the field is not a reading.
    pub why: SkipReason,
}

impl Skipped<'_> {
    /// A copy that borrows nothing.
    pub fn into_owned(self) -> Skipped<'static> {
        let owned = |name: Cow<'_, str>| Cow::Owned(name.into_owned());
        Skipped { device: owned(self.device), name: owned(self.name), why: self.why }
    }
}

/// Why a field is not a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum SkipReason {
    /// A text that is neither a number nor `true`, `false`, `on` or `off`.
    Text,
    /// Null, or a Sparkplug metric without a value.
    Null,
    /// NaN, an infinity, or more than a double can hold.
    NotFinite,
    /// An object where one number belongs.
    Object,
    EmptyArray,
    /// An array whose elements are not single values.
    Array,
    /// An array of more than [`super::json::MAX_ARRAY_ENTRIES`] values.
    LongArray,
    /// Objects nested more than [`super::json::MAX_OBJECT_DEPTH`] deep.
    TooDeep,
    /// The name is empty, too long, or contains a control character.
    BadName,
    /// The name has characters that SenML does not allow (it allows letters, digits and `-:./_`), or begins
    /// with none of letters and digits.
    SenmlName,
    Bytes,
    /// A date and time.
    Time,
    /// A SenML record with a sum over time and no value.
    Sum,
    /// A Sparkplug template, data set or other structure.
    Structure,
    /// No birth known here defines this Sparkplug alias.
    UnknownAlias,
    /// No birth known here defines the type of this Sparkplug integer.
    UnknownType,
    /// A historical Sparkplug value without a time of its own.
    HistoricalWithoutTime,
    /// A Sparkplug value that its sender marks as not to be stored.
    Transient,
}

impl SkipReason {
    /// One word for programs: metric labels, answers over HTTP.
    pub fn label(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Null => "null",
            Self::NotFinite => "not_finite",
            Self::Object => "object",
            Self::EmptyArray => "empty_array",
            Self::Array => "array",
            Self::LongArray => "long_array",
            Self::TooDeep => "too_deep",
            Self::BadName => "bad_name",
            Self::SenmlName => "senml_name",
            Self::Bytes => "bytes",
            Self::Time => "time",
            Self::Sum => "sum",
            Self::Structure => "structure",
            Self::UnknownAlias => "unknown_alias",
            Self::UnknownType => "unknown_type",
            Self::HistoricalWithoutTime => "historical_without_time",
            Self::Transient => "transient",
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "a string that is not a number",
            Self::Null => "no value",
            Self::NotFinite => "not a finite number",
            Self::Object => "an object",
            Self::EmptyArray => "an empty array",
            Self::Array => "an array of objects or arrays",
            Self::LongArray => "a long array",
            Self::TooDeep => "nested too deep",
            Self::BadName => "a name that is empty, too long or holds control characters",
            Self::SenmlName => "a name that SenML does not allow",
            Self::Bytes => "bytes",
            Self::Time => "a date and time",
            Self::Sum => "a sum without a value",
            Self::Structure => "a structure",
            Self::UnknownAlias => "an unknown alias",
            Self::UnknownType => "an integer of an unknown type",
            Self::HistoricalWithoutTime => "a historical value without a time",
            Self::Transient => "marked as transient",
        })
    }
}

/// Names skipped fields in one sentence of at most [`MAX_SKIPPED_TEXT_BYTES`]:
/// `skipped: "name" (a string that is not a number), "x" (no value) and 3 more`.
pub fn name_skipped(skipped: &[Skipped<'_>]) -> String {
    let mut said = String::from("skipped: ");
    for (n, field) in skipped.iter().enumerate() {
        let name = format!("{:?}", field.name);
        let one =
            format!("{}{} ({})", if n > 0 { ", " } else { "" }, cut(name, MAX_SHOWN_NAME_BYTES), field.why);
        let rest = format!(" and {} more", skipped.len() - n);
        if said.len() + one.len() + rest.len() > MAX_SKIPPED_TEXT_BYTES {
            return said + &rest;
        }
        said += &one;
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_fields_are_named_within_a_bound() {
        let field = |name: &'static str, why| Skipped { device: "d".into(), name: name.into(), why };
        let two = [field("burner", SkipReason::Text), field("x\"y", SkipReason::Null)];
        assert_eq!(
            name_skipped(&two),
            r#"skipped: "burner" (a string that is not a number), "x\"y" (no value)"#
        );
        let long = "n".repeat(256);
        let many: Vec<Skipped<'_>> = (0..4_096)
            .map(|_| Skipped { device: "d".into(), name: long.as_str().into(), why: SkipReason::BadName })
            .collect();
        let said = name_skipped(&many);
        assert!(said.len() <= MAX_SKIPPED_TEXT_BYTES && said.ends_with(" more"), "{said}");
    }
}
