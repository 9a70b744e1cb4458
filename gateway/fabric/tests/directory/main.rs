//! Tests of the directory: its bytes, its answers, its invariants, and that its planner reaches the wanted placement.

#![allow(clippy::disallowed_methods)] // Scripts are files.

mod convergence;
mod golden;
mod hostile;
mod limits;
mod random;
mod scripts;
mod site;

#[path = "../../../paxos/tests/seeded/mod.rs"]
mod seeded;

#[path = "../support/golden.rs"]
mod golden_scripts;

#[path = "../../../../fuzz/bodies/source.rs"]
#[allow(dead_code)]
mod source;
