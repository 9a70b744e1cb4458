//! How often outside input may cause a line in the log: a few lines for each reason and span, then a count of those left out.
//!
//! A stranger who is refused a thousand times a second costs a few lines a minute. For each reason a span begins with its
//! first line. The first [`SPAN_LINES_ENTRIES`] of a span are written, the others are counted, and the count is part of the first line
//! after the span, or of a line of its own that [`LogLimit::ended`] asks for.
//!
//! Invariant: at most [`SPAN_LINES_ENTRIES`] lines and one count are written for each reason in [`SPAN_MS`], and each line is either written
//! or counted once. Limit: it tracks [`REASONS_ENTRIES`] reasons; lines for further ones are dropped until one of these is quiet.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// How long a span lasts, in milliseconds.
pub const SPAN_MS: u64 = 60_000;

/// How many lines of a span are written for each reason.
pub const SPAN_LINES_ENTRIES: u64 = 3;

/// How many reasons are tracked at a time.
pub const REASONS_ENTRIES: usize = 64;

/// Lines like one that were left out before it. Displayed, it goes behind that line: empty if there are none, otherwise such as
/// ` (and 4,211 more like it in 60 s)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeftOut(pub u64);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return Ok(());
        }
        let digits = self.0.to_string();
        f.write_str(" (and ")?;
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        write!(f, " more like it in {} s)", SPAN_MS / 1_000)
    }
}

#[derive(Debug)]
struct Span {
    since_ms: u64,
    lines: u64,
    left_out: u64,
}

impl Span {
    fn has_ended(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.since_ms) >= SPAN_MS
    }
}

/// The core: stepped with the time, of any clock that never goes back.
#[derive(Debug)]
pub struct LogLimit<R> {
    spans: BTreeMap<R, Span>,
}

impl<R> Default for LogLimit<R> {
    fn default() -> Self {
        Self { spans: BTreeMap::new() }
    }
}

impl<R: Ord> LogLimit<R> {
    /// A line for this reason is due. Given: it is to be written, with what was left out before it. None: it is counted.
    pub fn note(&mut self, now_ms: u64, reason: R) -> Option<LeftOut> {
        if let Some(span) = self.spans.get_mut(&reason) {
            if span.has_ended(now_ms) {
                let left_out = LeftOut(span.left_out);
                *span = Span { since_ms: now_ms, lines: 1, left_out: 0 };
                return Some(left_out);
            }
            if span.lines >= SPAN_LINES_ENTRIES {
                span.left_out += 1;
                return None;
            }
            span.lines += 1;
            return Some(LeftOut::default());
        }
        if self.spans.len() >= REASONS_ENTRIES {
            self.spans.retain(|_, span| span.left_out > 0 || !span.has_ended(now_ms));
        }
        if self.spans.len() >= REASONS_ENTRIES {
            return None;
        }
        self.spans.insert(reason, Span { since_ms: now_ms, lines: 1, left_out: 0 });
        Some(LeftOut::default())
    }

    /// Reasons whose span is over without a line since, and how many lines were left out: each to be written in a line of its own.
    pub fn ended(&mut self, now_ms: u64) -> Vec<(R, LeftOut)> {
        self.spans
            .extract_if(.., |_, span| span.has_ended(now_ms))
            .filter(|(_, span)| span.left_out > 0)
            .map(|(reason, span)| (reason, LeftOut(span.left_out)))
            .collect()
    }

    /// When [`LogLimit::ended`] has something to say, if no line comes before.
    pub fn deadline_ms(&self) -> Option<u64> {
        let counting = self.spans.values().filter(|span| span.left_out > 0);
        counting.map(|span| span.since_ms.saturating_add(SPAN_MS)).min()
    }
}

/// The same for many threads, with a clock.
#[derive(Debug)]
pub struct SharedLogLimit {
    limit: Mutex<LogLimit<&'static str>>,
    start: Instant,
}

impl Default for SharedLogLimit {
    fn default() -> Self {
        Self { limit: Mutex::default(), start: Instant::now() }
    }
}

impl SharedLogLimit {
    /// Does what [`LogLimit::note`] does, at the present time.
    pub fn note(&self, reason: &'static str) -> Option<LeftOut> {
        let now_ms = self.now_ms();
        self.limit.lock().unwrap_or_else(PoisonError::into_inner).note(now_ms, reason)
    }

    /// Does what [`LogLimit::ended`] does, at the present time.
    pub fn ended(&self) -> Vec<(&'static str, LeftOut)> {
        let now_ms = self.now_ms();
        self.limit.lock().unwrap_or_else(PoisonError::into_inner).ended(now_ms)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    /// A flood of one reason beside a quiet one, second by second.
    #[test]
    fn a_flood_costs_a_few_lines_a_span_and_loses_no_count() {
        let (mut limit, mut log) = (LogLimit::default(), String::new());
        for now_ms in (0..130_000).step_by(10) {
            for (reason, left_out) in limit.ended(now_ms) {
                writeln!(log, "{now_ms} {reason}: no more{left_out}").unwrap();
            }
            if now_ms < 100_000
                && let Some(left_out) = limit.note(now_ms, "flood")
            {
                writeln!(log, "{now_ms} flood{left_out}").unwrap();
            }
            if now_ms % 50_000 == 0
                && let Some(left_out) = limit.note(now_ms, "quiet")
            {
                writeln!(log, "{now_ms} quiet{left_out}").unwrap();
            }
        }
        let want = "0 flood\n0 quiet\n10 flood\n20 flood\n50000 quiet\n60000 flood: no more (and 5,997 more like it in 60 s)\n\
                    60000 flood\n60010 flood\n60020 flood\n100000 quiet\n\
                    120000 flood: no more (and 3,997 more like it in 60 s)\n";
        assert_eq!(log, want);
        assert_eq!(limit.deadline_ms(), None);
    }

    #[test]
    fn the_first_line_after_a_span_tells_what_was_left_out() {
        let mut limit = LogLimit::default();
        let said: Vec<_> = (0..1_004).map(|now_ms| limit.note(now_ms, "a".to_string())).collect();
        assert_eq!(said.iter().flatten().count(), 3);
        assert_eq!(limit.deadline_ms(), Some(SPAN_MS));
        assert_eq!(limit.note(SPAN_MS - 1, "a".to_string()), None);
        let left_out = limit.note(SPAN_MS, "a".to_string()).unwrap();
        assert_eq!(left_out.to_string(), " (and 1,002 more like it in 60 s)");
        assert_eq!(LeftOut(7).to_string(), " (and 7 more like it in 60 s)");
        assert_eq!(LeftOut(1_234_567).to_string(), " (and 1,234,567 more like it in 60 s)");
        assert!(limit.ended(2 * SPAN_MS).is_empty());
    }

    #[test]
    fn reasons_are_bounded_and_a_quiet_one_makes_room() {
        let mut limit = LogLimit::default();
        let said = (0..2 * REASONS_ENTRIES).filter(|n| limit.note(0, *n).is_some()).count();
        assert_eq!(said, REASONS_ENTRIES);
        assert!(limit.note(SPAN_MS, usize::MAX).is_some());
    }
}
