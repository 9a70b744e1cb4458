//! No key meets a nonce twice: a frame of the same salt and counter is the same frame.

use selvedge_types::sealed::SEAL_OVERHEAD_BYTES;
use std::collections::BTreeMap;

/// `version | direction | secret id (8) | salt (32) | counter (8)`: see shared/seal/src/lib.rs.
const NONCE: std::ops::Range<usize> = 2..50;

#[derive(Default)]
pub struct Seals(BTreeMap<Vec<u8>, u64>);

impl Seals {
    pub fn check(&mut self, frame: &[u8]) {
        assert!(frame.len() >= SEAL_OVERHEAD_BYTES);
        let body = frame
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
        let known = *self.0.entry(frame[NONCE].to_vec()).or_insert(body);
        assert!(known == body, "a key and a nonce are used for two frames");
    }
}
