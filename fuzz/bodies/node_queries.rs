//! Query strings of the node's HTTP API, of whatever bytes: a query within its bounds, or a parameter and a few words about it.
//! What an answer gives to go on from is read back as it was.

use crate::source::Source;
use actix_web::web::Query;
use selvedge_node::api::read_ask;
use selvedge_node_core::params::{NamesPlace, WindowPlace};
use selvedge_node_core::query::{AGGREGATE_PARAMETERS, AggregateQuery};
use selvedge_node_core::stored::SeriesInfo;
use selvedge_types::ids::SiteId;
use selvedge_types::params::{BadParameter, MAX_LIMIT_ENTRIES, Parameters};
use selvedge_types::pattern::{MAX_PATTERN_BYTES, MAX_STARS_ENTRIES, MAX_TEXT_BYTES, Pattern};
use selvedge_types::question::{MAX_ROWS, MAX_WAIT_MS, SiteWindowPlace};
use selvedge_types::time::{EpochMs, MAX_DURATION_MS, TIME_RANGE, duration_text, parse_duration_ms};

/// The longest that is told about a wrong parameter.
const MAX_SAID_BYTES: usize = 1_000;

const KEYS: [&str; 12] = [
    "device",
    "stream",
    "from",
    "to",
    "every",
    "limit",
    "after",
    "consistency",
    "policy",
    "timeout",
    "format",
    "x",
];

const VALUES: [&str; 44] = [
    "press-4",
    "press-*",
    "*",
    "\\*",
    "1d",
    "1w",
    "1mo",
    "3mo",
    "7d",
    "1h",
    "30m",
    "10s",
    "1ms",
    "366d",
    "120mo",
    "Europe/Berlin",
    "Asia/Kolkata",
    "America/New_York",
    "Asia/Beirut",
    "Pacific/Apia",
    "Antarctica/Troll",
    "UTC",
    "2026-01-01T00:00:00Z",
    "2026-03-29T01:00:00 01:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999Z",
    "1764000000000",
    "1764000000s",
    "none",
    "null",
    "previous",
    "linear",
    "0.5",
    "site",
    "device,stream",
    "count,mean",
    "p99",
    "10000",
    "1",
    "stale",
    "linearizable",
    "1.0",
    "61-62",
    "5s",
];

/// The pairs of a query string: written as an address writes them, or given as they are.
fn pairs(source: &mut Source, keys: &[&str]) -> Vec<(String, String)> {
    if source.byte() < 64 {
        let text = source.text(2_000);
        return Query::<Vec<(String, String)>>::from_query(&text).map(Query::into_inner).unwrap_or_default();
    }
    let mut all = vec![];
    while !source.is_empty() && all.len() < 14 {
        let key = if source.byte() < 240 { source.pick(keys).to_string() } else { source.text(60) };
        let value = match source.below(8) {
            0 => source.text(60),
            1 => source.time(1_764_000_000_000).to_string(),
            2 => format!(
                "{}{}",
                source.number(1),
                source.pick(&["ms", "s", "m", "h", "d", "w", "mo", "", "."])
            ),
            3 => EpochMs(source.time(1_764_000_000_000)).to_string(),
            4 => format!("{}.{}.{}", source.time(0), source.below(9), source.text(9)),
            _ => source.pick(&VALUES).to_string(),
        };
        // Twice is refused at once, and so is seldom tried.
        if source.byte() < 8 || !all.iter().any(|(given, _)| *given == key) {
            all.push((key, value));
        }
    }
    all
}

pub fn run(source: &mut Source) {
    match source.below(4) {
        0 => texts(source),
        1 => {
            let given = pairs(source, &KEYS);
            let site = SiteId::new("plant-7").expect("a name");
            match read_ask(site, given) {
                Err(bad) => check_bad(&bad),
                Ok(ask) => {
                    let about = &ask.about;
                    assert!(about.from < about.to && (1..=MAX_ROWS).contains(&about.limit));
                    assert!(about.device.len() <= MAX_TEXT_BYTES && !about.device.is_empty());
                    assert!(about.stream.as_ref().is_none_or(|s| s.len() <= MAX_TEXT_BYTES));
                    assert!(about.every_ms.is_none_or(|every| every > 0));
                    assert!(ask.wait_ms <= u64::from(MAX_WAIT_MS));
                }
            }
        }
        _ => {
            let given = pairs(source, &AGGREGATE_PARAMETERS);
            let read = Parameters::new(given, &AGGREGATE_PARAMETERS).and_then(|p| AggregateQuery::read(&p));
            match read {
                Err(bad) => check_bad(&bad),
                Ok(query) => aggregates(source, &query),
            }
        }
    }
}

fn check_bad(bad: &BadParameter) {
    assert!(bad.parameter.chars().count() <= 40, "{bad}");
    assert!(!bad.why.is_empty() && bad.why.len() <= MAX_SAID_BYTES, "{bad}");
}

fn check_pattern(pattern: &Pattern) {
    assert!(pattern.covers(pattern), "{pattern:?}");
    if let Some(name) = pattern.exact() {
        assert!(pattern.matches(name));
    }
}

fn aggregates(source: &mut Source, query: &AggregateQuery) {
    let (earliest, latest) = (EpochMs(*TIME_RANGE.start()), EpochMs(*TIME_RANGE.end()).plus(1));
    assert!(earliest <= query.from && query.from < query.to && query.to <= latest);
    assert!((1..=MAX_LIMIT_ENTRIES).contains(&query.limit));
    [&query.wanted.site, &query.wanted.device, &query.wanted.stream]
        .into_iter()
        .flatten()
        .for_each(check_pattern);
    let spans = query.spans();
    assert!(spans >= 1, "no span between {} and {}", query.from, query.to);
    if query.fill.is_some() {
        assert!(spans <= i64::from(query.limit));
    }
    if let Some(every) = &query.every {
        assert!(every.divisor_ms() >= 1 && every.longest_ms() >= 1);
        let length = query.to.0 - query.from.0;
        for at in [query.from, EpochMs(query.to.0 - 1), query.from.plus(source.time(0).rem_euclid(length))] {
            let (start, end) = (every.start(at), every.end(every.start(at)));
            assert!(start <= at && at < end, "{at} is not within {start} to {end} of {every:?}");
            assert_eq!(every.start(start), start, "{at} of {every:?}");
            assert_eq!(every.start(EpochMs(end.0 - 1)), start, "{at} of {every:?}");
            assert!(end.0 - start.0 <= every.longest_ms(), "{start} to {end} of {every:?}");
            // Of what windows there can be: none is of before 1970 unless it was asked for.
            if start >= query.from.max(EpochMs(0)) && end <= query.to {
                assert_eq!(start.0.rem_euclid(every.divisor_ms()), 0, "{start} of {every:?}");
            }
            let _ = every.local(at);
        }
        let _ = every.misfit();
    }
    let widths = [1, 7, 1_000, 10_000, 60_000, 3_600_000, 86_400_000, i64::from(u32::MAX)];
    let mut series = vec![];
    for device in ["a", "b"] {
        for width_ms in widths {
            if source.flag() {
                let (site, stream) = ("plant-7".to_string(), "t".to_string());
                let (id, device) = (series.len() as i64, device.to_string());
                series.push(SeriesInfo {
                    id,
                    site,
                    device,
                    stream,
                    width_ms,
                    passed: EpochMs(0),
                    doubtful: false,
                });
            }
        }
    }
    let streams = 2;
    let chosen = match query.choose(series) {
        Err(bad) => return check_bad(&bad),
        Ok(chosen) => chosen,
    };
    assert!(chosen.len() <= streams);
    for one in &chosen {
        assert!(query.width_ms.is_none_or(|width| width == one.width_ms));
        assert!(query.every.as_ref().is_none_or(|every| every.divisor_ms() % one.width_ms == 0));
        covers(query, &query.segments(one.width_ms, query.from));
    }
    match query.merged_segments(&chosen, query.from) {
        Err(bad) => check_bad(&bad),
        Ok(segments) => covers(query, &segments),
    }
}

/// One after the other, without a gap, and few.
fn covers(query: &AggregateQuery, segments: &[selvedge_node_core::rollup::Segment]) {
    assert!(segments.len() <= 7, "{segments:?}");
    let mut at = query.from;
    for segment in segments {
        assert!(segment.from == at && segment.from < segment.to, "{segments:?}");
        at = segment.to;
    }
    assert_eq!(at, query.to, "{segments:?}");
}

/// The forms of single values: what is written is read back.
pub fn texts(source: &mut Source) {
    let text = source.text(600);
    if let Ok(at) = EpochMs::parse_asked(&text) {
        assert!(TIME_RANGE.contains(&at.0));
        assert_eq!(EpochMs::parse(&at.to_string()), Ok(at), "{text:?}");
        assert_eq!(EpochMs::parse_asked(&at.to_string()), Ok(at), "{text:?}");
    } else if let Err(why) = EpochMs::parse_asked(&text) {
        assert!(why.to_string().len() <= MAX_SAID_BYTES);
    }
    match parse_duration_ms(&text) {
        Ok(ms) => {
            assert!((1..=MAX_DURATION_MS).contains(&ms));
            assert_eq!(parse_duration_ms(&duration_text(ms)), Ok(ms));
        }
        Err(why) => assert!(why.to_string().len() <= MAX_SAID_BYTES),
    }
    match Pattern::parse(&text) {
        Ok(pattern) => {
            assert!(
                text.len() <= MAX_TEXT_BYTES
                    && (pattern.exact().is_some() || text.len() <= MAX_PATTERN_BYTES)
            );
            check_pattern(&pattern);
            let name = source.text(40);
            let stars = text.matches('*').count();
            if !text.contains('\\') && stars <= MAX_STARS_ENTRIES {
                assert_eq!(pattern.matches(&name), stands_for(&text, &name), "{text:?} of {name:?}");
            }
            assert!(pattern.glob().len() <= 3 * text.len() && pattern.like().len() <= 2 * text.len());
            if let Some(after) = pattern.after_prefix() {
                assert!(after.as_str() > pattern.prefix() && !after.starts_with(pattern.prefix()));
            }
        }
        Err(why) => assert!(!why.is_empty() && why.len() <= MAX_SAID_BYTES),
    }
    // A name of which every star and backslash is escaped stands for itself.
    let escaped = text.replace('\\', "\\\\").replace('*', "\\*");
    assert_eq!(Pattern::read(&escaped).exact(), Some(text.as_str()));
    if let Some(place) = SiteWindowPlace::parse(&text) {
        assert_eq!(SiteWindowPlace::parse(&place.to_string()), Some(place));
    }
    if let Some(place) = WindowPlace::parse(&text) {
        assert_eq!(WindowPlace::parse(&place.to_string()), Some(place));
    }
    let place = WindowPlace { series: source.time(0), start: EpochMs(source.time(0)) };
    assert_eq!(WindowPlace::parse(&place.to_string()), Some(place));
    for names in 1..4 {
        if let Some(place) = NamesPlace::parse(&text, names) {
            assert_eq!(NamesPlace::parse(&place.to_string(), names), Some(place));
        }
    }
    let place = NamesPlace(vec![text, source.text(20)]);
    assert_eq!(NamesPlace::parse(&place.to_string(), 2), Some(place));
}

/// Whether a pattern without escapes stands for a name, tried in every way.
fn stands_for(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((literal, rest)) => name.strip_prefix(literal).is_some_and(|name| {
            let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.into_iter().any(|at| stands_for(rest, &name[at..]))
        }),
    }
}
