//! The supervisor: a gateway must not continue when one of its parts has stopped.
//!
//! An actor stops only because of a defect (a panic ends it alone, and its mailbox with it). Its state can't be trusted
//! any more, while what is on disk can. So the process ends, and its service manager starts it again.

use crate::actors::process::end_process;
use crate::actors::pulse;
use actix::{Actor, Context};

/// How often the parts are checked.
const LOOK_MS: u64 = 500;

/// One part: its name, and whether it still takes messages.
pub type SupervisedPart = (String, Box<dyn Fn() -> bool>);

/// Ends the process if a part of it has stopped.
pub struct Supervisor {
    parts: Vec<SupervisedPart>,
}

impl Supervisor {
    /// A supervisor of these parts.
    pub fn new(parts: Vec<SupervisedPart>) -> Self {
        Self { parts }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        pulse::every(ctx, LOOK_MS, |actor| {
            for (name, lives) in &actor.parts {
                if !lives() {
                    end_process(&format!("{name} has stopped, which is a bug"));
                }
            }
        });
    }
}
