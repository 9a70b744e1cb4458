//! Properties of every placement and every message, checked on many random ones.

mod codecs;
mod ring;

#[path = "../../../../fuzz/bodies/source.rs"]
mod source;
