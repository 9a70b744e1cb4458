//! What holds for every placement and every message, tried on many.

mod codecs;
mod ring;

#[path = "../../../../fuzz/bodies/source.rs"]
mod source;
