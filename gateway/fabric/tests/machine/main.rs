//! What users and proofs rely on in the state machine of a shard.

mod bounds;
mod dedup;
mod golden;
mod names;
mod random;
mod recent;
mod retiring;
mod scripts;
mod support;
mod time;
mod windows;
