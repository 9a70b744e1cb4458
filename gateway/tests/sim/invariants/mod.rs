//! What must hold, one file each. A violation panics with what was found.

pub mod agreement;
pub mod ballots;
pub mod bounds;
pub mod catches_up;
pub mod complete;
pub mod contents;
pub mod corruption;
pub mod counted_once;
pub mod detector;
pub mod kept;
pub mod lanes;
pub mod lost;
pub mod mended;
pub mod progress;
pub mod reached;
pub mod reads;
pub mod seals;
pub mod state;
pub mod time;
pub mod uplink;
pub mod wills;
