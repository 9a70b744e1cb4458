//! Requests of operators, so that one that is sent again counts once.

use super::command::{DirectoryCommand, RequestKey};
use super::outcome::DirectoryOutcome;
use bincode::{Decode, Encode};
use selvedge_types::frame;
use std::collections::VecDeque;
use xxhash_rust::xxh3::xxh3_64;

/// How many requests are remembered.
pub const MAX_REQUESTS_ENTRIES: usize = 128;

/// The last requests with what became of them, refusals included: whoever has mended the cause asks under another key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub(super) struct Requests(VecDeque<(RequestKey, u64, DirectoryOutcome)>);

impl Requests {
    /// The fingerprint and the outcome of a request that is known.
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

/// What two requests with one key must have in common: all that the operator said, and nothing that a gateway added.
pub(super) fn fingerprint(command: &DirectoryCommand) -> u64 {
    match command {
        DirectoryCommand::Remove { gateway, force, .. } => {
            let asked = DirectoryCommand::Remove { gateway: *gateway, force: *force, unsound: Vec::new() };
            xxh3_64(&frame::encode(0, &asked))
        }
        command => xxh3_64(&frame::encode(0, command)),
    }
}
