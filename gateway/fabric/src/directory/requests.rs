//! Idempotency of operators' requests: a repeated request gets the outcome of the first.

use super::command::{DirectoryCommand, RequestKey};
use super::outcome::DirectoryOutcome;
use bincode::{Decode, Encode};
use selvedge_types::frame;
use std::collections::VecDeque;
use xxhash_rust::xxh3::xxh3_64;

/// How many requests are remembered. A request that is repeated after as many others is applied again.
pub const MAX_REQUESTS_ENTRIES: usize = 128;

/// The last requests: key, fingerprint of the command, and outcome. A refusal is an outcome too; after mending its
/// cause, an operator needs another key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub(super) struct Requests(VecDeque<(RequestKey, u64, DirectoryOutcome)>);

impl Requests {
    /// The fingerprint and the outcome of a remembered request.
    pub fn known(&self, key: RequestKey) -> Option<(u64, &DirectoryOutcome)> {
        self.0.iter().find(|(of, ..)| *of == key).map(|(_, fingerprint, outcome)| (*fingerprint, outcome))
    }

    pub fn note(&mut self, key: RequestKey, fingerprint: u64, outcome: DirectoryOutcome) {
        self.0.push_back((key, fingerprint, outcome));
        while self.0.len() > MAX_REQUESTS_ENTRIES {
            self.0.pop_front();
        }
    }

    pub fn is_sound(&self) -> bool {
        self.0.len() <= MAX_REQUESTS_ENTRIES
    }
}

/// A hash of the parts of a command that come from the operator, which must be equal in all requests with one key. It
/// leaves out what the gateway added.
pub(super) fn fingerprint(command: &DirectoryCommand) -> u64 {
    match command {
        DirectoryCommand::Remove { gateway, force, .. } => {
            let asked = DirectoryCommand::Remove { gateway: *gateway, force: *force, unsound: Vec::new() };
            xxh3_64(&frame::encode(0, &asked))
        }
        command => xxh3_64(&frame::encode(0, command)),
    }
}
