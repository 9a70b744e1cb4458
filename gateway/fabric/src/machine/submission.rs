//! What a gateway took in for a shard, and its form: every replica reads it in every slot, so the form of what nearly all items are, a
//! publish of one reading, is made to be read quickly and to be short.
//!
//! A frame of the streams' names, their makers and the number of items is followed by the items. A reading is a byte that says which
//! of its fields are there, its stream, its value as eight bytes, then its time, sequence number and boot, where it has them.
//! Whole numbers take as many groups of seven bits as they need, the lowest first, each but the last with the eighth bit set; times
//! alternate in sign (0, -1, 1, -2 ...), so that those before 1970 are short as well. Any other item is the byte
//! [`OTHER`] and what bincode makes of it.

use super::command::{Item, Reading};
use super::sessions::MAX_CLIENT_BYTES;
use bincode::{BorrowDecode, Decode, Encode};
use selvedge_types::frame::{self, FrameError};
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::StreamName;

/// Format version of [`Submission`] frames.
pub const SUBMISSION_VERSION: u8 = 6;

const WHAT: &str = "submission";

/// The fields that a reading has.
const TIME: u8 = 1;
const SEQ: u8 = 2;
const BOOT: u8 = 4;
/// What stands before any other item.
const OTHER: u8 = 8;

/// What one gateway took in for one shard, in the order in which it came. `Name` is a stream's name: who encodes has it
/// shared, who decodes only looks at it.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission<Name = StreamName> {
    /// The streams that readings name by index.
    pub streams: Vec<Name>,
    /// The clients of streams that may be new, in the order of the streams.
    pub makers: Vec<Maker>,
    /// In order.
    pub items: Vec<Item>,
}

/// Who names a stream that may be new, and so would make it known.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Maker {
    /// Which of the submission's streams.
    pub stream: u32,
    /// The client id; empty for all clients without one of their own.
    pub client: String,
}

/// A stream's name within the bytes of a [`Submission`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct NameRef<'a> {
    /// As in [`StreamName`].
    pub device: &'a str,
    /// As in [`StreamName`].
    pub stream: &'a str,
}

impl<Name> Default for Submission<Name> {
    fn default() -> Self {
        Self { streams: Vec::new(), makers: Vec::new(), items: Vec::new() }
    }
}

impl<Name: Encode> Submission<Name> {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let head = (&self.streams, &self.makers, self.items.len() as u64);
        let mut bytes = frame::encode(SUBMISSION_VERSION, &head);
        for item in &self.items {
            match item {
                Item::Reading(reading) => put_reading(reading, &mut bytes),
                other => {
                    bytes.push(OTHER);
                    frame::append(&mut bytes, other);
                }
            }
        }
        bytes
    }
}

impl<'a> Submission<NameRef<'a>> {
    /// From bytes.
    ///
    /// # Errors
    /// When the frame is damaged or of another version, or a reading names a stream that is not there.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let ((streams, makers, count), used): ((Vec<NameRef<'a>>, Vec<Maker>, u64), usize) =
            frame::view_first(WHAT, SUBMISSION_VERSION, bytes)?;
        let mut rest = Rest(&bytes[used..]);
        // No item takes less than a byte.
        let room = usize::try_from(count).unwrap_or(usize::MAX).min(rest.0.len());
        let mut items = Vec::with_capacity(room);
        for _ in 0..count {
            let item = match rest.byte().ok_or_else(cut_short)? {
                OTHER => rest.other()?,
                kind if kind & !(TIME | SEQ | BOOT) == 0 => {
                    Item::Reading(rest.reading(kind).ok_or_else(cut_short)?)
                }
                kind => return Err(malformed(format!("there is no kind {kind} of item"))),
            };
            if item.readings().iter().any(|r| r.stream as usize >= streams.len()) {
                return Err(malformed("a reading names a stream that is not there"));
            }
            items.push(item);
        }
        if !rest.0.is_empty() {
            return Err(malformed(format!("{} bytes too many", rest.0.len())));
        }
        let ordered = makers.windows(2).all(|w| w[0].stream < w[1].stream);
        let there = makers.last().is_none_or(|m| (m.stream as usize) < streams.len());
        if !ordered || !there || makers.iter().any(|m| m.client.len() > MAX_CLIENT_BYTES) {
            return Err(malformed("the clients of its streams can't be"));
        }
        Ok(Self { streams, makers, items })
    }

    /// A stream that readings name, and the client of one that may be new.
    pub fn named(&self, stream: u32) -> Option<(NameRef<'a>, Option<&str>)> {
        let name = *self.streams.get(stream as usize)?;
        let maker = self.makers.binary_search_by_key(&stream, |m| m.stream).ok();
        Some((name, maker.map(|at| self.makers[at].client.as_str())))
    }
}

fn malformed(why: impl Into<String>) -> FrameError {
    FrameError::Malformed { what: WHAT, why: why.into() }
}

fn cut_short() -> FrameError {
    malformed("it ends within an item")
}

fn put_reading(reading: &Reading, to: &mut Vec<u8>) {
    let Reading { stream, time, value, seq, boot } = reading;
    let flag = |there: bool, flag: u8| if there { flag } else { 0 };
    to.push(flag(time.is_some(), TIME) | flag(seq.is_some(), SEQ) | flag(boot.is_some(), BOOT));
    put_number(u64::from(*stream), to);
    to.extend_from_slice(&value.to_le_bytes());
    if let Some(time) = time {
        put_number((time.0 << 1 ^ time.0 >> 63) as u64, to);
    }
    for number in [seq, boot].into_iter().flatten() {
        put_number(*number, to);
    }
}

fn put_number(mut n: u64, to: &mut Vec<u8>) {
    while n >= 0x80 {
        to.push(n as u8 | 0x80);
        n >>= 7;
    }
    to.push(n as u8);
}

/// What is left to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    /// In its shortest form; nothing if it is cut short, longer than it needs to be, or has more than 64 bits.
    fn number(&mut self) -> Option<u64> {
        let mut n = 0;
        for (at, byte) in self.0.iter().enumerate().take(10) {
            n |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                let shortest = at == 0 || *byte != 0;
                return Some(n).filter(|_| shortest && (at < 9 || *byte == 1));
            }
        }
        None
    }

    fn reading(&mut self, fields: u8) -> Option<Reading> {
        let stream = u32::try_from(self.number()?).ok()?;
        let (value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        let mut field = |flag: u8| Some(if fields & flag == 0 { None } else { Some(self.number()?) });
        let (time, seq, boot) = (field(TIME)?, field(SEQ)?, field(BOOT)?);
        let time = time.map(|n| EpochMs((n >> 1) as i64 ^ -((n & 1) as i64)));
        Some(Reading { stream, time, value: f64::from_le_bytes(*value), seq, boot })
    }

    fn other(&mut self) -> Result<Item, FrameError> {
        let (item, used) = frame::view_part(WHAT, self.0)?;
        self.0 = &self.0[used..];
        match item {
            Item::Reading(_) => Err(malformed("a reading in the form of other items")),
            other => Ok(other),
        }
    }
}
