//! Frames: bincode behind one byte of format version, for everything that is stored or sent.
//!
//! Decoding is strict: an unknown version, a byte too few, a byte too many or a length that claims more
//! than the limit is an error that names what was being read.

use bincode::error::DecodeError;
use bincode::{BorrowDecode, Decode, Encode};

/// The most bytes that one frame may claim while it is decoded; also the largest frame that is made.
pub const MAX_FRAME_BYTES: usize = 8 * 1024 * 1024;

/// The room that a frame is begun with; most need no more.
const USUAL_BYTES: usize = 512;

const FORM: bincode::config::Configuration = bincode::config::standard();

/// What is wrong with a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No byte at all.
    #[error("{0}: the frame is empty")]
    Empty(&'static str),
    /// A version that this release does not know.
    #[error(
        "{what}: format version {found} is unknown, this release reads {known}; a newer release wrote it"
    )]
    Version {
        /// What was being read.
        what: &'static str,
        found: u8,
        /// The version that is known.
        known: u8,
    },
    /// Bytes that do not decode.
    #[error("{what}: the frame does not decode: {why}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// What the decoder says.
        why: String,
    },
}

/// A frame of `value` in format `version`. Integers are variable-length, little-endian.
pub fn encode<T: Encode>(version: u8, value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(USUAL_BYTES);
    out.push(version);
    append(&mut out, value);
    out
}

/// Puts `value`, in the form that it has within a frame, behind one.
pub fn append<T: Encode>(frame: &mut Vec<u8>, value: &T) {
    let written = bincode::encode_into_std_write(value, frame, FORM);
    debug_assert!(written.is_ok(), "writing to memory does not fail");
}

/// The size of an unsigned integer within a frame.
pub fn varint_bytes(n: u64) -> usize {
    match n {
        0..251 => 1,
        251..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

/// The size of a value within a frame.
pub fn encoded_bytes<T: Encode>(value: &T) -> usize {
    let mut size = bincode::enc::write::SizeWriter::default();
    match bincode::encode_into_writer(value, &mut size, FORM) {
        Ok(()) => size.bytes_written,
        Err(_) => usize::MAX, // counting does not fail
    }
}

/// Reads a frame back. `what` names it in errors.
///
/// # Errors
/// [`FrameError`] when it is empty, of another version, malformed, or longer than what it holds.
pub fn decode<T: Decode<()>>(what: &'static str, known: u8, bytes: &[u8]) -> Result<T, FrameError> {
    read(what, known, bytes, |body| bincode::decode_from_slice(body, FORM.with_limit::<MAX_FRAME_BYTES>()))
}

/// As [`decode`], for what is read with the help of something that stands elsewhere.
///
/// # Errors
/// As [`decode`].
pub fn decode_within<C, T: Decode<C>>(
    what: &'static str,
    known: u8,
    bytes: &[u8],
    context: C,
) -> Result<T, FrameError> {
    let form = FORM.with_limit::<MAX_FRAME_BYTES>();
    read(what, known, bytes, |body| bincode::decode_from_slice_with_context(body, form, context))
}

/// As [`decode`], for what borrows from the frame's bytes.
///
/// # Errors
/// As [`decode`].
pub fn view<'a, T: BorrowDecode<'a, ()>>(
    what: &'static str,
    known: u8,
    bytes: &'a [u8],
) -> Result<T, FrameError> {
    read(what, known, bytes, |body| {
        bincode::borrow_decode_from_slice(body, FORM.with_limit::<MAX_FRAME_BYTES>())
    })
}

/// As [`view`], for a frame that more follows. Gives how many bytes it takes, too.
///
/// # Errors
/// As [`decode`], but for what follows it.
pub fn view_first<'a, T: BorrowDecode<'a, ()>>(
    what: &'static str,
    known: u8,
    bytes: &'a [u8],
) -> Result<(T, usize), FrameError> {
    let body = body(what, known, bytes)?;
    view_part(what, body).map(|(value, used)| (value, used + 1))
}

/// Reads what [`append`] wrote at the beginning of `bytes`. Gives how many of them it takes, too.
///
/// # Errors
/// When it is malformed.
pub fn view_part<'a, T: BorrowDecode<'a, ()>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<(T, usize), FrameError> {
    let read = bincode::borrow_decode_from_slice(bytes, FORM.with_limit::<MAX_FRAME_BYTES>());
    read.map_err(|e| FrameError::Malformed { what, why: e.to_string() })
}

fn body<'a>(what: &'static str, known: u8, bytes: &'a [u8]) -> Result<&'a [u8], FrameError> {
    let (&found, body) = bytes.split_first().ok_or(FrameError::Empty(what))?;
    if found == known { Ok(body) } else { Err(FrameError::Version { what, found, known }) }
}

fn read<'a, T>(
    what: &'static str,
    known: u8,
    bytes: &'a [u8],
    form: impl FnOnce(&'a [u8]) -> Result<(T, usize), DecodeError>,
) -> Result<T, FrameError> {
    let body = body(what, known, bytes)?;
    let malformed = |why: String| FrameError::Malformed { what, why };
    let (value, used) = form(body).map_err(|e| malformed(e.to_string()))?;
    if used != body.len() {
        return Err(malformed(format!("{} bytes too many", body.len() - used)));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_round_trips_and_every_damage_is_an_error() {
        let bytes = encode(3, &(7u32, "x".to_string()));
        assert_eq!(decode::<(u32, String)>("test", 3, &bytes).unwrap(), (7, "x".to_string()));
        assert_eq!(decode::<(u32, String)>("test", 3, &[]), Err(FrameError::Empty("test")));
        assert!(matches!(decode::<(u32, String)>("test", 4, &bytes), Err(FrameError::Version { .. })));
        assert!(decode::<(u32, String)>("test", 3, &bytes[..bytes.len() - 1]).is_err());
        let longer = [bytes, vec![0]].concat();
        assert!(
            decode::<(u32, String)>("test", 3, &longer).unwrap_err().to_string().contains("1 bytes too many")
        );
    }

    #[test]
    fn a_length_that_claims_the_world_is_refused_before_it_is_allocated() {
        let mut bytes = vec![1, 253];
        bytes.extend(u64::MAX.to_le_bytes());
        assert!(decode::<Vec<u8>>("test", 1, &bytes).is_err());
    }
}
