//! The spread of readings: their exact sums and, where one is kept, their sketch.
//!
//! New readings wait in a short list and go into both together: adding many numbers of about the same size takes a few integer
//! operations each, and the sketch sorts them once. An open window with few readings holds nothing but the list.
//!
//! Invariant: waiting readings don't show. Spreads of the same readings are equal, and encode to the same bytes.

use crate::exact::ExactSum;
use crate::sketch::Sketch;
use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};
use std::borrow::Cow;

/// How many readings wait to be taken in together.
pub const FRESH_ENTRIES: usize = 128;

/// How the readings of a window are spread.
#[derive(Debug, Clone)]
pub(crate) struct Spread {
    /// Readings that are not in `settled` yet.
    fresh: Vec<f64>,
    settled: Option<Box<Settled>>,
    /// Whether there is a sketch of every reading.
    sketched: bool,
}

/// The exact sums of some readings and, where one is kept, their sketch.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Settled {
    pub sum: ExactSum,
    pub squares: ExactSum,
    /// Empty where none is kept.
    pub sketch: Sketch,
}

impl Spread {
    /// Of one reading, with a sketch or without.
    pub fn of(value: f64, sketched: bool) -> Self {
        Self { fresh: vec![value], settled: None, sketched }
    }

    /// Takes in a reading.
    pub fn add(&mut self, value: f64) {
        if self.fresh.len() == self.fresh.capacity() {
            // Most windows hold few readings or many.
            let len = self.fresh.len();
            self.fresh.reserve_exact((3 * len).max(4).min(FRESH_ENTRIES - len));
        }
        self.fresh.push(value);
        if self.fresh.len() >= FRESH_ENTRIES {
            self.take_fresh();
        }
    }

    /// Adds the readings of another spread.
    pub fn merge(&mut self, other: &Self) {
        self.settle();
        let others = other.settled();
        let settled = self.settled.get_or_insert_default();
        settled.sum.merge(&others.sum);
        settled.squares.merge(&others.squares);
        self.sketched &= other.sketched;
        if self.sketched {
            settled.sketch.merge(&others.sketch);
        } else {
            settled.sketch = Sketch::default();
        }
    }

    /// Takes in all that waits, for a spread that is asked, merged or written soon: each of these is quicker then.
    pub fn settle(&mut self) {
        self.take_fresh();
        self.fresh = Vec::new();
    }

    fn take_fresh(&mut self) {
        if !self.fresh.is_empty() {
            self.settled.get_or_insert_default().take(&mut self.fresh, self.sketched);
            self.fresh.clear();
        }
    }

    /// All values in settled form; copies only while some are fresh.
    pub fn settled(&self) -> Cow<'_, Settled> {
        match &self.settled {
            Some(settled) if self.fresh.is_empty() => Cow::Borrowed(settled),
            some => {
                let mut settled = some.as_deref().cloned().unwrap_or_default();
                settled.take(&mut self.fresh.clone(), self.sketched);
                Cow::Owned(settled)
            }
        }
    }

    /// Whether there is a sketch of every reading.
    pub fn is_sketched(&self) -> bool {
        self.sketched
    }

    /// Writes it: the exact sums, unless all readings are equal, then the sketch, with the least and the greatest reading left out.
    pub fn encode_within<E: Encoder>(&self, min: f64, max: f64, to: &mut E) -> Result<(), EncodeError> {
        if min == max {
            return self.sketched.encode(to);
        }
        let settled = self.settled();
        settled.sum.encode(to)?;
        settled.squares.encode(to)?;
        self.sketched.encode(to)?;
        if self.sketched { settled.sketch.encode_within(to) } else { Ok(()) }
    }

    /// How many bytes [`Spread::encode_within`] writes.
    pub fn encoded_bytes(&self, min: f64, max: f64) -> usize {
        if min == max {
            return 1;
        }
        let settled = self.settled();
        let sketch = if self.sketched { settled.sketch.encoded_bytes() } else { 0 };
        settled.sum.encoded_bytes() + settled.squares.encoded_bytes() + 1 + sketch
    }

    /// Reads what [`Spread::encode_within`] wrote for this number of readings.
    pub fn decode_within<D: Decoder>(
        count: u64,
        min: f64,
        max: f64,
        from: &mut D,
    ) -> Result<Self, DecodeError> {
        let mut settled = Settled::default();
        let equal = min == max;
        if equal {
            settled.sum.add_times(min, count);
            settled.squares.add_square_times(min, count);
        } else {
            settled.sum = ExactSum::decode(from)?;
            settled.squares = ExactSum::decode(from)?;
        }
        let sketched = bool::decode(from)?;
        if sketched {
            settled.sketch =
                if equal { Sketch::of(min, count) } else { Sketch::decode_within(min, max, from)? };
        }
        Ok(Self { fresh: Vec::new(), settled: Some(Box::new(settled)), sketched })
    }
}

impl PartialEq for Spread {
    fn eq(&self, other: &Self) -> bool {
        self.sketched == other.sketched && self.settled() == other.settled()
    }
}

impl Settled {
    fn take(&mut self, fresh: &mut [f64], sketched: bool) {
        ExactSum::add_all(fresh, &mut self.sum, &mut self.squares);
        if sketched {
            self.sketch.add_all(fresh);
        }
    }
}
