//! What tells one data folder of a gateway from another.

use bincode::{Decode, Encode};
use std::fmt;

/// Identifies a gateway's data folder: drawn at `init`, kept for good, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Incarnation(pub u128);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Incarnation {
    /// The hash of the incarnation that others remember.
    pub fn mark(&self) -> Mark {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(b"selvedge incarnation");
        context.update(&self.0.to_le_bytes());
        let hash = context.finish();
        let start = hash.as_ref().first_chunk().copied().unwrap_or_default();
        Mark(u128::from_le_bytes(start))
    }
}

/// A hash of an incarnation, which does not reveal the incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(pub u128);

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
