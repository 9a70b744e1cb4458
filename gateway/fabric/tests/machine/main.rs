//! The behaviour of a shard's state machine that users and proofs rely on.

#![allow(clippy::disallowed_methods)] // Scripts are files, and what takes long is measured.

mod bounds;
mod dedup;
mod generations;
mod golden;
mod names;
mod random;
mod recent;
mod retiring;
mod scripts;
mod support;
mod time;
mod windows;
