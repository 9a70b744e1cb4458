use super::*;

const DAY_MS: i64 = 86_400_000;

fn read(text: &str) -> Result<AggregateQuery, BadParameter> {
    let pair = |p: &str| p.split_once('=').map(|(k, v)| (k.to_string(), v.to_string())).unwrap();
    let pairs = text.split('&').filter(|p| !p.is_empty()).map(pair).collect();
    AggregateQuery::read(&Parameters::new(pairs, &AGGREGATE_PARAMETERS)?)
}

fn series(id: i64, stream: &str, width_ms: i64) -> SeriesInfo {
    let (site, device, stream) = ("a".into(), "d".into(), stream.into());
    SeriesInfo { id, site, device, stream, width_ms, passed: EpochMs(0), doubtful: false }
}

fn chosen(query: &str, all: &[SeriesInfo]) -> Result<Vec<i64>, BadParameter> {
    Ok(read(query)?.choose(all.to_vec())?.iter().map(|s| s.id).collect())
}

#[test]
fn parameters_are_read_in_all_their_forms() {
    let q = read("device=d&from=2025-11-24T16:00:00Z&to=1764000000250&every=1m&limit=5&after=7.-3").unwrap();
    assert_eq!((q.from, q.to), (EpochMs(1_764_000_000_000), EpochMs(1_764_000_000_250)));
    assert_eq!((q.every, q.limit), (Some(Grid::Every(60_000)), 5));
    assert_eq!(q.after, Some(WindowPlace { series: 7, start: EpochMs(-3) }));
    let offset = read("device=d&from=2025-11-24T17:00:00 01:00").unwrap();
    assert_eq!(offset.from, EpochMs(1_764_000_000_000), "an offset's plus may come as a space");
    for (text, ms) in [("10s", 10_000), ("1h", 3_600_000), ("2d", 2 * DAY_MS), ("250ms", 250), ("7", 7)] {
        assert_eq!(read(&format!("device=d&every={text}")).unwrap().every, Some(Grid::Every(ms)));
    }
    assert_eq!(
        [10_000, 90_000, 3_600_000, DAY_MS, 250].map(duration_text),
        ["10s", "90s", "1h", "1d", "250ms"]
    );
}

#[test]
fn a_bad_parameter_is_named_with_what_would_be_right() {
    for (text, parameter, right) in [
        ("group_by=all&every=1h", "group_by", "site, device, stream"),
        ("group_by=site", "every", "is needed"),
        ("fn=mean,middle", "fn", "count, sum"),
        ("every=1h&fill=null", "from", "is needed"),
        ("every=1h&from=0&to=1d&fill=null", "to", "RFC 3339"),
        ("every=1h&from=0&to=86400000&fill=zero", "fill", "linear"),
        ("every=1s&from=0&to=86400000&fill=0", "every", "86400 spans"),
        ("device=", "device", "empty"),
        ("device=d&form=1", "form", "from"),
        ("device=d&device=e", "device", "twice"),
        ("device=d&from=yesterday", "from", "RFC 3339"),
        ("device=d&from=5&to=5", "to", "after `from`"),
        ("device=d&every=1 minute", "every", "10s"),
        ("device=d&every=0", "every", "10s"),
        ("device=d&every=99999999999999999d", "every", "366d"),
        ("device=d&width=x", "width", "10s"),
        ("device=d&every=15s&width=10s", "every", "multiple"),
        ("device=d&limit=0", "limit", "1 to 10000"),
        ("device=d&limit=10001", "limit", "1 to 10000"),
        ("device=d&after=x", "after", "`next`"),
    ] {
        let error = read(text).unwrap_err();
        assert_eq!(error.parameter, parameter, "{text}");
        assert!(error.why.contains(right), "{text}: {error}");
    }
}

#[test]
fn the_widest_stored_width_that_divides_every_is_chosen() {
    let all = [series(1, "s", 1_000), series(2, "s", 10_000), series(3, "s", 60_000), series(4, "t", 10_000)];
    assert_eq!(chosen("device=d", &all), Ok(vec![1, 4]));
    assert_eq!(chosen("device=d&every=1h", &all), Ok(vec![3, 4]));
    assert_eq!(chosen("device=d&every=30s", &all), Ok(vec![2, 4]));
    assert_eq!(chosen("device=d&width=10s", &all), Ok(vec![2, 4]));
    let error = chosen("device=d&every=15s", &all).unwrap_err();
    assert_eq!(error.parameter, "every");
    assert!(error.why.contains("\"t\" of device \"d\" of site a is stored at 10s"), "{error}");
    assert_eq!(chosen("device=d&width=1m", &all).unwrap_err().parameter, "width");
    assert_eq!(chosen("device=d&every=100001s&width=1s", &all[..1]).unwrap_err().parameter, "every");
}

#[test]
fn what_is_merged_is_read_from_roll_ups_where_all_have_them() {
    let hour = rollup::HOUR_MS;
    let read_of = |text: &str, widths: &[i64]| {
        let all: Vec<_> = widths.iter().map(|width| series(1, "s", *width)).collect();
        let query = read(text).unwrap();
        let segments = query.merged_segments(&all, query.from)?;
        Ok::<_, BadParameter>(segments.iter().map(|s| (s.span_ms, s.from.0, s.to.0)).collect::<Vec<_>>())
    };
    let day = format!("group_by=site&from=0&to={DAY_MS}");
    assert_eq!(read_of(&format!("{day}&every=1h"), &[10_000, hour]), Ok(vec![(Some(hour), 0, DAY_MS)]));
    assert_eq!(read_of(&format!("{day}&every=1d"), &[10_000]), Ok(vec![(Some(DAY_MS), 0, DAY_MS)]));
    assert_eq!(read_of(&format!("{day}&every=7s"), &[7_000]), Ok(vec![(None, 0, DAY_MS)]));
    let cut = read_of("group_by=site&every=1h&from=1000&to=7200000", &[10_000]);
    assert_eq!(cut.unwrap().last(), Some(&(Some(hour), hour, 2 * hour)));
    let many = vec![1_000; 200];
    assert!(read_of(&format!("{day}&every=1h"), &many).is_ok());
    let error = read_of("group_by=site&every=1h&from=1000&to=7200000", &vec![100; 4_000]).unwrap_err();
    assert!(error.why.contains("more than 100000") && error.why.contains("whole minutes, hours"), "{error}");
    let error = read_of(&format!("{day}&every=7s"), &vec![7_000; 5_001]).unwrap_err();
    assert!(error.why.contains("more than 5000"), "{error}");
}
