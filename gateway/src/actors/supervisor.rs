//! The supervisor: a gateway of which a part has stopped must not go on as if it were whole.
//!
//! An actor stops only by a defect (a panic ends it alone, and its mailbox with it). Its state can't be
//! trusted any more, while what is on disk can: so the process ends, and whoever started it starts it again.

use crate::actors::process::end_process;
use crate::actors::pulse;
use actix::{Actor, Context};

/// How often the parts are looked at.
const LOOK_MS: u64 = 500;

/// One part: its name, and whether it still takes messages.
pub type Part = (String, Box<dyn Fn() -> bool>);

/// The supervisor.
pub struct Supervisor {
    parts: Vec<Part>,
}

impl Supervisor {
    /// Watches these parts.
    pub fn new(parts: Vec<Part>) -> Self {
        Self { parts }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        pulse::every(ctx, LOOK_MS, |actor| {
            for (name, lives) in &actor.parts {
                if !lives() {
                    end_process(&format!("{name} has stopped, which is a defect"));
                }
            }
        });
    }
}
