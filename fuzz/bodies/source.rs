//! A fuzzer's bytes as a row of choices. When they are used up, every further choice is 0.

/// What is left of the bytes.
pub struct Source<'a>(&'a [u8]);

#[allow(dead_code)] // each target takes some of these
impl<'a> Source<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// 0 up to, not including, `n`.
    pub fn below(&mut self, n: usize) -> usize {
        let more = if n > 256 { usize::from(self.byte()) << 8 } else { 0 };
        (more | usize::from(self.byte())) % n.max(1)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub fn u64(&mut self) -> u64 {
        (0..8).fold(0, |n, _| n << 8 | u64::from(self.byte()))
    }

    /// A number: small, at an edge, close to one that makes sense, or any.
    pub fn number(&mut self, near: u64) -> u64 {
        match self.byte() {
            n @ 0..64 => u64::from(n),
            n @ 64..128 => near.wrapping_add(u64::from(n)).wrapping_sub(96),
            n @ 128..192 => 1u64 << (n - 128),
            n @ 192..240 => u64::MAX >> (n - 192),
            240..248 => u64::MAX,
            _ => self.u64(),
        }
    }

    /// A time, as [`Source::number`] makes numbers.
    pub fn time(&mut self, near: i64) -> i64 {
        self.number(near as u64) as i64
    }

    /// A value: small, an edge of doubles, or any.
    pub fn float(&mut self) -> f64 {
        match self.byte() {
            n @ 0..200 => f64::from(n) - 100.0,
            200..210 => f64::MAX,
            210..220 => f64::MIN,
            220..225 => f64::NAN,
            225..230 => f64::INFINITY,
            230..235 => -0.0,
            _ => f64::from_bits(self.u64()),
        }
    }

    /// At most `most` bytes, after a length.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let wanted = self.below(most + 1).min(self.0.len());
        let (taken, rest) = self.0.split_at(wanted);
        self.0 = rest;
        taken
    }

    /// A text of at most `most` bytes, of whatever characters.
    pub fn text(&mut self, most: usize) -> String {
        let mut text = String::from_utf8_lossy(self.bytes(most)).into_owned();
        while text.len() > most {
            text.pop();
        }
        text
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
