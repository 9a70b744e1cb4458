//! Roll-ups: what windows of a stream that start in the same minute, hour or day add up to.
//!
//! They are kept by the transaction that counts the windows, for each width that divides the span, and hold
//! nothing that windows don't: whatever is asked of them could be asked of the windows, of which there are more. A window that is
//! as long as the span is there too, so that a roll-up holds all that there is.
//!
//! - Invariant: a row of a roll-up is the merge of all stored windows of its series that start within its span.

use selvedge_types::time::EpochMs;

/// What is kept: minutes, hours and days, the narrower first; each divides the next.
pub const ROLLUPS_MS: [i64; 3] = [MINUTE_MS, HOUR_MS, DAY_MS];

/// The narrowest roll-up, in milliseconds.
pub const MINUTE_MS: i64 = 60_000;

/// The one that most widths divide and that streams are merged over best.
pub const HOUR_MS: i64 = 3_600_000;

/// The widest: a day, in UTC.
pub const DAY_MS: i64 = 86_400_000;

/// The roll-ups that windows of this width add to.
pub fn spans_of(width_ms: i64) -> impl Iterator<Item = i64> {
    ROLLUPS_MS.into_iter().filter(move |span| width_ms > 0 && span % width_ms == 0)
}

/// Whether there are roll-ups to `span_ms` of windows of this width.
pub fn is_kept(span_ms: i64, width_ms: i64) -> bool {
    spans_of(width_ms).any(|span| span == span_ms)
}

/// The last multiple of `span_ms` that is not after `time`.
pub fn floor(time: EpochMs, span_ms: i64) -> EpochMs {
    EpochMs(time.0.div_euclid(span_ms) * span_ms)
}

/// A stretch of time, and what answers for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// A roll-up, or the windows themselves.
    pub span_ms: Option<i64>,
    pub from: EpochMs,
    /// Where it has ended.
    pub to: EpochMs,
}

/// The roll-ups that can answer for spans of `every_ms` over windows of `width_ms`, and have fewer rows.
pub fn useful(every_ms: i64, width_ms: i64) -> Vec<i64> {
    spans_of(width_ms).filter(|span| every_ms % span == 0 && *span > width_ms).collect()
}

/// Covers `from..to` by segments in order of time: as much as can be by the last of `spans` (each of which divides the
/// next), what is left at the ends by those before it, and in the end by windows.
pub fn cover(spans: &[i64], from: EpochMs, to: EpochMs) -> Vec<Segment> {
    if from >= to {
        return vec![];
    }
    let Some((span, narrower)) = spans.split_last() else {
        return vec![Segment { span_ms: None, from, to }];
    };
    let (first, end) = (floor(from.plus(span - 1), *span), floor(to, *span));
    if first >= end {
        return cover(narrower, from, to);
    }
    let mut all = cover(narrower, from, first);
    all.push(Segment { span_ms: Some(*span), from: first, to: end });
    all.extend(cover(narrower, end, to));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: i64 = MINUTE_MS;
    const H: i64 = HOUR_MS;
    const D: i64 = 24 * H;

    fn covered(spans: &[i64], from: i64, to: i64) -> Vec<(i64, i64, i64)> {
        let all = cover(spans, EpochMs(from), EpochMs(to));
        all.iter().map(|s| (s.span_ms.unwrap_or(0), s.from.0, s.to.0)).collect()
    }

    #[test]
    fn what_is_narrower_fills_what_days_leave() {
        let all = [
            (0, 1, M),
            (M, M, H),
            (H, H, D),
            (D, D, 3 * D),
            (H, 3 * D, 3 * D + 2 * H),
            (0, 3 * D + 2 * H, 3 * D + 2 * H + 7),
        ];
        assert_eq!(covered(&ROLLUPS_MS, 1, 3 * D + 2 * H + 7), all);
        assert_eq!(covered(&ROLLUPS_MS, D, 2 * D), [(D, D, 2 * D)]);
        assert_eq!(covered(&ROLLUPS_MS, -D - H, -D + H), [(H, -D - H, -D + H)]);
        assert_eq!(covered(&[H, D], 1, H + 1), [(0, 1, H + 1)], "no whole hour");
        assert_eq!(covered(&[], 0, D), [(0, 0, D)]);
        assert_eq!(covered(&ROLLUPS_MS, D, D), []);
    }

    #[test]
    fn only_what_divides_is_rolled_up_and_only_what_saves_is_used() {
        let kept = |width| spans_of(width).collect::<Vec<_>>();
        assert_eq!((kept(10_000), kept(90_000)), (vec![M, H, D], vec![H, D]));
        assert_eq!((kept(H), kept(2 * H)), (vec![H, D], vec![D]));
        assert_eq!((kept(7_000), kept(0), kept(2 * D)), (vec![], vec![], vec![]));
        assert_eq!((useful(H, 10_000), useful(7 * D, 10_000)), (vec![M, H], vec![M, H, D]));
        assert_eq!((useful(H, H), useful(M, 10_000), useful(D, H)), (vec![], vec![M], vec![D]));
    }
}
