//! A PUBLISH of MQTT 3 that is larger than the limit. There is no word for that in MQTT 3, and a client that is closed for it sends it
//! again for ever: so its topic and its packet id are read, its payload is discarded as it comes, and it is handed up without it.
//!
//! Invariant: what is held of one is what stands before its payload, at most [`MAX_HEAD_BYTES`].

use super::lenient::number;
use bytes::{Buf, BytesMut};
use bytestring::ByteString;
use selvedge_types::mqtt::QoS;
use selvedge_types::mqtt::{CloseReason, Oversize, TooLarge};
use selvedge_types::topic::{self, MAX_TOPIC_BYTES};
use std::num::NonZeroU16;

/// Fixed header, topic with its length, packet id.
const MAX_HEAD_BYTES: usize = 5 + 2 + u16::MAX as usize + 2;

/// A PUBLISH whose payload is being discarded.
pub(super) struct Discarding {
    left_bytes: u64,
    publish: Box<Oversize>,
}

impl Discarding {
    /// Begins with the PUBLISH at the start of the input; none: more bytes are needed.
    pub fn begin(input: &mut BytesMut, most: u32) -> Result<Option<Self>, CloseReason> {
        let malformed = |what| Err(CloseReason::Malformed(what));
        let (Some(&first), Some((length, start))) = (input.first(), number(input, 1)) else {
            return Ok(None);
        };
        let qos = match first >> 1 & 3 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            2 => QoS::ExactlyOnce,
            _ => return malformed("a PUBLISH of QoS 3"),
        };
        let Some(of) = input.get(start..start + 2) else { return Ok(None) };
        let topic_bytes = usize::from(u16::from_be_bytes([of[0], of[1]]));
        let topic_end = start + 2 + topic_bytes;
        let head = topic_end + if qos == QoS::AtMostOnce { 0 } else { 2 };
        if head > start + length {
            return malformed("a packet that does not decode");
        }
        debug_assert!(head <= MAX_HEAD_BYTES);
        let Some(bytes) = input.get(start + 2..head) else { return Ok(None) };
        let (name, id) = bytes.split_at(topic_bytes);
        let Ok(name) = std::str::from_utf8(name) else { return malformed("text that is not UTF-8") };
        let packet_id = match *id {
            [high, low] => match NonZeroU16::new(u16::from_be_bytes([high, low])) {
                None => return malformed("a packet id of 0"),
                id => id,
            },
            _ => None,
        };
        if topic::check_name(name).is_err_and(|e| !e.is_bound()) {
            return Err(CloseReason::TopicName);
        }
        let left_bytes = (start + length - head) as u64;
        let publish = Box::new(Oversize {
            token: 0,
            topic: shown(name),
            payload_bytes: left_bytes,
            qos,
            dup: first & 8 != 0,
            packet_id,
            why: TooLarge::Packet { bytes: length as u64, most },
        });
        input.advance(head);
        Ok(Some(Self { left_bytes, publish }))
    }

    /// Discards what has come; whether that was the end of it.
    pub fn discard(&mut self, input: &mut BytesMut) -> bool {
        let now = usize::try_from(self.left_bytes).unwrap_or(usize::MAX).min(input.len());
        input.advance(now);
        self.left_bytes -= now as u64;
        self.left_bytes == 0
    }

    /// The publish, when all of it was discarded.
    pub fn into_publish(self) -> Box<Oversize> {
        self.publish
    }
}

/// Cuts a topic to what is handed up.
pub(super) fn shown(topic: &str) -> ByteString {
    topic[..topic.floor_char_boundary(MAX_TOPIC_BYTES)].into()
}
