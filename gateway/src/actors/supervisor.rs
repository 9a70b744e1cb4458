//! The supervisor: a gateway must not continue when one of its parts has stopped.
//!
//! An actor stops only because of a defect (a panic ends it alone, and its mailbox with it). Its state can't be trusted
//! any more, while what is on disk can. So the process ends, and its service manager starts it again.

use crate::actors::process::end_process;
use crate::actors::pulse;
use crate::actors::replicas::Replicas;
use actix::{Actor, Context};
use std::sync::Arc;

/// How often the parts are checked.
const LOOK_MS: u64 = 500;

/// One part: its name, and whether it still takes messages.
pub type SupervisedPart = (String, Box<dyn Fn() -> bool>);

/// Ends the process if a part of it has stopped.
pub struct Supervisor {
    parts: Vec<SupervisedPart>,
    replicas: Arc<Replicas>,
}

impl Supervisor {
    /// A supervisor of these parts, and of all replicas.
    pub fn new(parts: Vec<SupervisedPart>, replicas: Arc<Replicas>) -> Self {
        Self { parts, replicas }
    }

    /// The first part that takes no messages any more.
    fn gone(&self) -> Option<String> {
        let part = self.parts.iter().find(|(_, lives)| !lives()).map(|(name, _)| name.clone());
        let replicas = self.replicas.all();
        let replica = || replicas.iter().find(|(_, ways)| !ways.events.connected());
        part.or_else(|| replica().map(|(shard, _)| format!("shard {shard}")))
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        pulse::every(ctx, LOOK_MS, |actor| {
            if let Some(name) = actor.gone() {
                end_process(&format!("{name} has stopped, which is a bug"));
            }
        });
    }
}
