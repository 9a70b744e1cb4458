//! The steps of a reading's way through a gateway, each to be measured by itself.
//!
//! A step is run again and again on what it keeps, as the core that it drives is: so it shows a steady state, not the
//! first run. What goes in is made outside of what is measured, and what comes out is dropped outside, for the next step
//! takes it over. Two mixes of readings mark the ends of what a shard meets: see [`load::Mix`].
//!
//! Like the tests, they are built with the canaries, whose questions cost a program that is shipped nothing: a nanosecond or so
//! for each.

mod forward;
mod frames;
mod intake;
mod load;
mod log;
mod machine;
mod mqtt;
mod paxos;
mod shard;

use std::path::Path;

/// Something that is measured.
pub trait Step {
    /// What a run takes.
    type Input;
    /// What it gives.
    type Output;

    /// Gets ready for the next run; not measured.
    fn prepare(&mut self) -> Self::Input;

    /// What is measured.
    fn run(&mut self, input: Self::Input) -> Self::Output;
}

/// Measures steps.
pub trait Measure {
    /// `count` is how many readings (or what the name says) one run is for.
    fn step<S: Step>(&mut self, name: &str, count: u32, make: impl Fn() -> S);

    /// One that waits for a disk, and is given an empty folder. Not for all who measure.
    fn on_disk<S: Step>(&mut self, _name: &str, _count: u32, _make: impl Fn(&Path) -> S) {}
}

/// All steps in the order of a reading's way.
pub fn all(m: &mut impl Measure) {
    mqtt::steps(m);
    intake::steps(m);
    forward::steps(m);
    paxos::steps(m);
    log::steps(m);
    machine::steps(m);
    shard::steps(m);
    frames::steps(m);
}
