//! The kinds of sealed messages, and the bytes that a seal adds. The crate `selvedge-seal` does the sealing.

use crate::uplink::{Down, MAX_BATCH_BYTES, SiteIncarnation, Up};
use bincode::{Decode, Encode};

/// The salt of a sealer's key, in the frame's header.
pub const SALT_BYTES: usize = 32;
/// What authenticates the frame, at its end.
const TAG_BYTES: usize = 16;
/// Version, direction, secret, salt, number, sequence number and site incarnation: what stands before the sealed message.
pub const HEADER_BYTES: usize = 1 + 1 + 8 + SALT_BYTES + 8 + 8 + SiteIncarnation::BYTES;

/// How much longer a sealed frame is than the message in it.
pub const SEAL_OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

/// The longest sealed frame of the uplink: the largest batch, what [`Up`] puts around it, and the seal.
pub const MAX_SEALED_BYTES: usize = MAX_BATCH_BYTES + 64 + SEAL_OVERHEAD_BYTES;

/// What can be sealed, each kind under keys of its own direction: [`Up`] 1, [`Down`] 2, reports 3, questions 4, answers 5.
pub trait Sealable: Encode + Decode<()> {
    /// The direction's byte in the frame.
    const DIRECTION: u8;
    /// The message's name in errors.
    const WHAT: &'static str;
    /// The version of the message's own form.
    const VERSION: u8 = 1;
    /// The longest sealed frame of such messages.
    const MAX_BYTES: usize = MAX_SEALED_BYTES;

    /// What decodes and can't be meant is refused like what does not decode.
    ///
    /// # Errors
    /// Says what is wrong with it.
    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

impl Sealable for Up {
    const DIRECTION: u8 = 1;
    const WHAT: &'static str = "uplink message";
    const VERSION: u8 = 2;
}

impl Sealable for Down {
    const DIRECTION: u8 = 2;
    const WHAT: &'static str = "confirmation";
    const VERSION: u8 = 2;
}
