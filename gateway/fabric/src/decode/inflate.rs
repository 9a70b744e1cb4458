//! Compressed Sparkplug B payloads: a payload within a payload. The outer one is marked by its uuid, and its
//! body is the compressed inner one.
//!
//! The metric `algorithm` may name GZIP or DEFLATE. Senders disagree on whether DEFLATE includes zlib's
//! header, so the decoder looks at the bytes themselves.

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use selvedge_types::sparkplug::{MetricValue, Payload};
use std::io::Read;

/// The uuid that marks a compressed payload.
const COMPRESSED: &str = "SPBV1.0_COMPRESSED";

/// The most bytes that a compressed payload may hold once it is inflated.
pub const MAX_INFLATED_BYTES: usize = 1024 * 1024;

/// Why a compressed payload can't be read.
pub(super) enum InflateError {
    /// The body is empty, damaged or compressed in another way.
    Unreadable(String),
    /// It holds more than [`MAX_INFLATED_BYTES`].
    TooLarge,
}

/// Whether a payload is only the envelope of a compressed one.
pub(super) fn is_compressed(payload: &Payload) -> bool {
    payload.uuid.as_deref() == Some(COMPRESSED)
}

/// The bytes of the payload within.
pub(super) fn inflate(payload: &Payload) -> Result<Vec<u8>, InflateError> {
    let wrong = |what: &str| Err(InflateError::Unreadable(what.into()));
    let algorithm = payload.metrics.iter().find(|m| m.name.as_deref() == Some("algorithm"));
    if let Some(MetricValue::Text(name)) = algorithm.and_then(|m| m.value.as_ref())
        && !["GZIP", "DEFLATE"].iter().any(|known| known.eq_ignore_ascii_case(name))
    {
        return wrong("its compression is neither GZIP nor DEFLATE");
    }
    let Some(body) = payload.body.as_deref().filter(|body| !body.is_empty()) else {
        return wrong("it says that it is compressed, but its body is empty");
    };
    let limit = MAX_INFLATED_BYTES as u64 + 1;
    let mut out = Vec::new();
    let read = match *body {
        [0x1f, 0x8b, ..] => MultiGzDecoder::new(body).take(limit).read_to_end(&mut out),
        [first, second, ..] if first & 15 == 8 && u16::from_be_bytes([first, second]) % 31 == 0 => {
            ZlibDecoder::new(body).take(limit).read_to_end(&mut out)
        }
        _ => DeflateDecoder::new(body).take(limit).read_to_end(&mut out),
    };
    match read {
        Ok(_) if out.len() > MAX_INFLATED_BYTES => Err(InflateError::TooLarge),
        Ok(_) => Ok(out),
        Err(_) => wrong("its compressed body is damaged"),
    }
}
