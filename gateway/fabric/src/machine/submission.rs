//! Submissions: what a gateway has accepted for a shard, and how it is encoded. Every replica decodes every
//! submission of its shard. Nearly all items are publishes of one reading, so the form of those is short and
//! quick to read.
//!
//! A frame with the streams' names, their makers and the number of items comes first; the items follow. A
//! reading is one byte of flags for the fields that it has, the index of its stream, its value in eight
//! bytes, and then its time, sequence number and boot, where it has them. Whole numbers are encoded as
//! LEB128: seven bits in each byte, the lowest first, with the eighth bit set in every byte but the last.
//! Times use ZigZag encoding (0, -1, 1, -2 ...), so that times shortly before 1970 are short as well. Any
//! other item is the byte [`OTHER`] and its bincode encoding.

use super::command::{Item, Reading};
use super::sessions::MAX_CLIENT_BYTES;
use bincode::{BorrowDecode, Decode, Encode};
use selvedge_types::frame::{self, FrameError};
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::StreamName;

/// Format version of [`Submission`] frames. A release refuses any other version.
pub const SUBMISSION_VERSION: u8 = 6;

const WHAT: &str = "submission";

/// The flags of a reading's optional fields.
const TIME: u8 = 1;
const SEQ: u8 = 2;
const BOOT: u8 = 4;
/// The byte that comes before any other item.
const OTHER: u8 = 8;

/// The items that one gateway has accepted for one shard, in the order of arrival. `Name` is the type of a
/// stream's name: shared where a submission is encoded, borrowed where it is decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission<Name = StreamName> {
    /// The streams that readings refer to by index.
    pub streams: Vec<Name>,
    /// The clients of those streams that may be new, in ascending order of the streams.
    pub makers: Vec<Maker>,
    pub items: Vec<Item>,
}

/// The client that names a stream which may be new; if it is, this client makes it known.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Maker {
    /// An index into the submission's streams.
    pub stream: u32,
    /// The client id. It is empty for all clients without an id of their own, which therefore count as one.
    pub client: String,
}

/// A stream's name that borrows from the bytes of a [`Submission`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct NameRef<'a> {
    pub device: &'a str,
    pub stream: &'a str,
}

impl<Name> Default for Submission<Name> {
    fn default() -> Self {
        Self { streams: Vec::new(), makers: Vec::new(), items: Vec::new() }
    }
}

impl<Name: Encode> Submission<Name> {
    /// The bytes that [`Submission::decode`] reads.
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
    /// Reads the bytes that [`Submission::encode`] wrote.
    ///
    /// # Errors
    /// The frame is damaged or has another version, or a reading refers to a stream that is not listed.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let ((streams, makers, count), used): ((Vec<NameRef<'a>>, Vec<Maker>, u64), usize) =
            frame::view_first(WHAT, SUBMISSION_VERSION, bytes)?;
        let mut rest = Rest(&bytes[used..]);
        // An item takes at least one byte, so a false count allocates no more than that.
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

    /// The name of a stream that readings refer to, with the client if the stream may be new.
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

/// The bytes that are still to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    /// A whole number in its shortest form. `None` if it is cut short, longer than necessary, or has more
    /// than 64 bits.
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
