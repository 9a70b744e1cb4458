//! What MQTT 5 allows and the codec refuses: put right in a packet's raw bytes before the codec reads them.
//!
//! - CONNECT without a client id may do without clean start, which makes no difference to a session that nobody had before.
//! - A Message Expiry Interval may be 0: the message goes to whoever listens now and is kept for nobody. That is how messages are
//!   routed here anyway, so 0 becomes 1, which the codec takes.
//!
//! Each function leaves bytes alone that it can't follow: the codec says what is wrong with them.

use bytes::BytesMut;

const PUBLISH: u8 = 0x30;
const CLEAN_START: u8 = 0x02;
const WILL: u8 = 0x04;

/// A number of one to four bytes at `at`, and where it ends.
pub(super) fn number(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut number = 0;
    for n in 0..4 {
        let byte = *bytes.get(at + n)?;
        number |= usize::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Some((number, at + n + 1));
        }
    }
    None
}

/// The end of a text or bytes at `at`, with their length before them.
fn behind_text(bytes: &[u8], at: usize) -> Option<usize> {
    let length = bytes.get(at..at + 2)?;
    Some(at + 2 + usize::from(u16::from_be_bytes([length[0], length[1]])))
}

/// Whether the packet at the start is there as a whole, or is one that the codec refuses by its first bytes. While it is not, the
/// codec must not be asked: it would take a part of it, and the next bytes would no longer be the start of a packet.
pub(super) fn is_whole(input: &[u8], max_packet_bytes: u32) -> bool {
    match number(input, 1) {
        Some((length, _)) if length > max_packet_bytes as usize => true,
        Some((length, start)) => input.len() >= start + length,
        None => input.len() > 4,
    }
}

/// Puts a PUBLISH right that is there as a whole.
pub(super) fn mend_publish(input: &mut BytesMut) {
    if input.first().is_some_and(|first| first & 0xf0 == PUBLISH) {
        let mend = |input: &mut BytesMut| {
            let (length, start) = number(input, 1)?;
            let numbered = if input.first()? & 0x06 == 0 { 0 } else { 2 };
            let properties = behind_text(input, start)? + numbered;
            // Most have none.
            if *input.get(properties)? == 0 {
                return None;
            }
            mend_properties(input.get_mut(..start + length)?, properties)
        };
        mend(input);
    }
}

/// Puts a CONNECT right that is there as a whole, and whose flags are here.
pub(super) fn mend_connect(input: &mut BytesMut, flags_at: usize) -> Option<()> {
    let flags = *input.get(flags_at)?;
    // Behind the keep alive.
    let (length, start) = number(input, flags_at + 3)?;
    let client_id = start + length;
    if input.get(client_id..client_id + 2) == Some(&[0, 0]) {
        *input.get_mut(flags_at)? |= CLEAN_START;
    }
    if flags & WILL != 0 {
        let will = behind_text(input, client_id)?;
        mend_properties(input, will)?;
    }
    Some(())
}

/// Makes an expiry of 0 among the properties at `at` one of a second.
fn mend_properties(bytes: &mut [u8], at: usize) -> Option<()> {
    let (length, mut at) = number(bytes, at)?;
    let properties = bytes.get_mut(..at + length)?;
    while let Some(property) = properties.get(at) {
        at += 1;
        at = match property {
            0x01 => at + 1,                                                 // Payload Format Indicator
            0x03 | 0x08 | 0x09 => behind_text(properties, at)?, // Content Type, Response Topic, Correlation Data
            0x0b => number(properties, at)?.1,                  // Subscription Identifier
            0x18 => at + 4,                                     // Will Delay Interval
            0x23 => at + 2,                                     // Topic Alias
            0x26 => behind_text(properties, behind_text(properties, at)?)?, // User Property
            0x02 => {
                let expiry = properties.get_mut(at..at + 4)?;
                if expiry == [0; 4] {
                    expiry.copy_from_slice(&[0, 0, 0, 1]);
                }
                at + 4
            }
            _ => return None,
        };
    }
    Some(())
}
