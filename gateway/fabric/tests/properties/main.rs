//! What holds for every placement, every message and every history of a disk, tried on many.

mod codecs;
mod log_recovery;
mod ring;

#[path = "../../../fuzz/bodies/source.rs"]
mod source;
