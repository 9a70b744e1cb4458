//! Single values in JSON payloads.

use super::{SkipReason, number};
use std::borrow::Cow;

/// A single value of a document.
#[derive(Debug)]
pub(super) enum Scalar<'a> {
    Int(i64),
    Uint(u64),
    Float(f64),
    Bool(bool),
    Text(Cow<'a, str>),
    Null,
    /// Not a single value, or one that is no number; its content is skipped.
    Skip(SkipReason),
}

impl Scalar<'_> {
    pub(super) fn what_is_wrong(&self, why: SkipReason) -> String {
        match self {
            Self::Text(text) => number::what_is_wrong(text.trim_ascii().as_bytes()),
            _ => format!("the value is {why}"),
        }
    }
}
