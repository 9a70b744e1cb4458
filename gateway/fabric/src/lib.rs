//! A site's sans-IO cores: protocol and state, with no clock, no randomness, no network and no disk.
//!
//! The host steps a core with the time and an event. The core returns effects, whose type says what may leave at
//! once, what must be persisted, and what may leave only after that.

pub mod agreement;
pub mod commit;
pub mod configuration;
pub mod decode;
pub mod detector;
pub mod detour;
pub mod directory;
pub mod forward;
pub mod link;
pub mod machine;
pub mod node_questions;
mod not_counted;
pub mod peer;
pub mod reach;
pub mod record;
pub mod recovery;
pub mod redirection;
pub mod replica;
pub mod ring;
pub mod session;
pub mod shard;
pub mod site_questions;
pub mod site_state;
pub mod skips;
pub mod steward;
pub mod unmapped;
pub mod uplink;
pub mod wills;
