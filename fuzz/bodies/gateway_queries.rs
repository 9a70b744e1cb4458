//! Query strings of a gateway's HTTP API, of whatever bytes: a question within its bounds, or a parameter and a few words about it.

use crate::source::Source;
use actix_web::web::Query;
use selvedge_gateway::actors::http::quarantine;
use selvedge_types::ids::MAX_NAME_BYTES;
use selvedge_types::params::{MAX_LIMIT_ENTRIES, Parameters};
use selvedge_types::pattern::{MAX_TEXT_BYTES, Pattern};
use selvedge_types::question::{SITE_PARAMETERS, SiteQuery, SiteWindowPlace};

/// The longest that is told about a wrong parameter.
const MAX_SAID_BYTES: usize = 1_000;

const KEYS: [&str; 10] =
    ["device", "stream", "from", "to", "every", "consistency", "policy", "limit", "after", "tz"];

const VALUES: [&str; 20] = [
    "press-4",
    "press-*",
    "*",
    "\\*",
    "1h",
    "10s",
    "1ms",
    "49d",
    "366d",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999Z",
    "1764000000000",
    "1764000000s",
    "2026-01-01T00:00:00 01:00",
    "stale",
    "linearizable",
    "p2c",
    "random",
    "10000",
    "5.1.ab",
];

pub fn run(source: &mut Source) {
    let mut given = vec![];
    if source.byte() < 64 {
        let text = source.text(2_000);
        given = Query::<Vec<(String, String)>>::from_query(&text).map(Query::into_inner).unwrap_or_default();
    }
    while !source.is_empty() && given.len() < 14 {
        let key = if source.byte() < 240 { source.pick(&KEYS).to_string() } else { source.text(60) };
        let value = match source.below(8) {
            0 => source.text(60),
            1 => source.time(1_764_000_000_000).to_string(),
            2 => format!("{}{}", source.number(1), source.pick(&["ms", "s", "m", "h", "d", ""])),
            3 => "n".repeat(source.below(3 * MAX_NAME_BYTES)),
            4 => {
                let device = source.text(2 * MAX_NAME_BYTES);
                format!("{}.{}.{device}", source.time(0), source.below(device.len() + 2))
            }
            _ => source.pick(&VALUES).to_string(),
        };
        if let Some((shard, id)) = quarantine::place(&value) {
            assert_eq!(quarantine::place(&format!("{shard}-{id}")), Some((shard, id)));
        }
        // Twice is refused at once, and so is seldom tried.
        if source.byte() < 8 || !given.iter().any(|(known, _)| *known == key) {
            given.push((key, value));
        }
    }
    match Parameters::new(given, &SITE_PARAMETERS).and_then(|p| SiteQuery::read(&p)) {
        Err(bad) => {
            assert!(bad.parameter.chars().count() <= 40, "{bad}");
            assert!(!bad.why.is_empty() && bad.why.len() <= MAX_SAID_BYTES, "{bad}");
        }
        Ok((query, _)) => {
            assert!(query.from < query.to && !query.device.is_empty());
            for name in [Some(&query.device), query.stream.as_ref()].into_iter().flatten() {
                assert!(name.len() <= MAX_TEXT_BYTES && Pattern::parse(name).is_ok(), "{name}");
            }
            assert!(query.every_ms.is_none_or(|every| every > 0));
            assert!((1..=MAX_LIMIT_ENTRIES).contains(&query.limit));
            assert!(query.after.as_ref().is_none_or(SiteWindowPlace::is_sound));
        }
    }
}
