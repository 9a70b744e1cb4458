//! What the API looks up beyond windows: streams by patterns, their newest windows, their first and last times, where
//! windows are missing, and the holes of shards.

use super::statement::{BoundValue, Columns, Dialect, Statement, ask};
use super::{Hole, Reader, StoreError, StreamProgress};
use selvedge_node_core::params::WantedStreams;
use selvedge_node_core::stored::{SeriesInfo, StoredWindow};
use selvedge_types::time::{EpochMs, MAX_DURATION_MS};
use selvedge_types::uplink::LostBatch;
use std::collections::HashMap;

/// The first value of a statement, a whole number, in its text.
fn first_value(dialect: Dialect) -> &'static str {
    if dialect == Dialect::Sqlite { "?1" } else { "$1::bigint" }
}

/// A view's text with what a stream's lengths of windows say together in the places of `{MOST column}`, and what a device's streams
/// add up to in those of `{SUM column}`: each reading is in all lengths of its stream.
pub(super) fn with_sums(mut text: String) -> String {
    for column in ["readings", "late_count", "set_aside", "missing"] {
        let most = format!(
            "(SELECT max(n.{column}) FROM series AS n WHERE n.device_id = s.device_id AND n.stream = s.stream) AS {column}"
        );
        let sum = format!(
            "(SELECT CAST(sum(most) AS bigint) FROM (SELECT max(n.{column}) AS most FROM series AS n \
             WHERE n.device_id = d.device_id GROUP BY n.stream) AS all_streams) AS {column}"
        );
        text = text.replace(&format!("{{MOST {column}}}"), &most).replace(&format!("{{SUM {column}}}"), &sum);
    }
    text
}

/// Which devices: those of these sites alone (of all, if nothing is said), as far as they are wanted.
#[derive(Debug, Clone, Default)]
pub struct Seek {
    /// The sites that may be shown.
    pub sites: Option<std::sync::Arc<[String]>>,
    /// What is asked for.
    pub wanted: WantedStreams,
}

/// A device's stream at one width, and from when to when there is something of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesTimes {
    pub series: SeriesInfo,
    /// When the node first heard of the device.
    pub device_seen: EpochMs,
    /// The time of the first reading in its oldest window that is not behind its time ([`BEFORE_SEEN_MS`]).
    pub first: Option<EpochMs>,
    /// The time of the last reading in its newest window.
    pub last: Option<EpochMs>,
    /// How many readings are in its windows.
    pub readings: u64,
    /// How many of them came late.
    pub late: u64,
    /// How many others the site set aside.
    pub set_aside: u64,
    /// How many sequence numbers are missing between them; nothing if they have none.
    pub missing: Option<u64>,
}

/// A series with its newest window.
pub type Newest = (SeriesInfo, StoredWindow);

/// The columns of a series, as [`series_info`] reads them.
pub(super) const SERIES: &str = "s.series_id, d.site, d.name, s.stream, s.width_ms, s.passed_ms, \
     EXISTS (SELECT 1 FROM doubt AS x WHERE x.series_id = s.series_id)";

/// How many columns these are.
const SERIES_COLUMNS: usize = 7;

/// A window that starts later than this beyond what its stream has passed, and beyond the node's clock, is ahead of its time: a clock
/// was wrong. (What a stream is told to have passed may lie behind, while its site does not know the time.)
pub const AHEAD_OF_STREAM_MS: i64 = 3_600_000;

/// And so is one that starts later than this beyond the node's clock, whatever its stream has passed.
pub const AHEAD_OF_CLOCK_MS: i64 = 86_400_000;

/// The most stretches in doubt of a stream that a query looks at: the latest.
pub const MAX_DOUBTS_ENTRIES: u32 = 1_000;

/// Of how many series the stretches in doubt are read at a time.
const DOUBTFUL_ENTRIES: usize = 200;

/// Where the newest window of series `s` starts that is not ahead of its time; the newest of all if all are. `now` is an
/// expression: the node's clock in milliseconds since 1970.
pub(super) fn newest_start(dialect: Dialect, now: &str) -> String {
    let start = dialect.start();
    let (least, most) = if dialect == Dialect::Sqlite { ("min", "max") } else { ("least", "greatest") };
    let newest = |until: &str| {
        let until = match dialect {
            _ if until.is_empty() => String::new(),
            Dialect::Sqlite => format!(" AND n.{start} <= {until}"),
            Dialect::Postgres => {
                format!(" AND n.{start} <= timestamptz 'epoch' + ({until}) * interval '1 millisecond'")
            }
        };
        format!("(SELECT max(n.{start}) FROM series_window AS n WHERE n.series_id = s.series_id{until})")
    };
    let clock = format!("{now} + {AHEAD_OF_CLOCK_MS}");
    let stream = format!("{least}({most}(s.passed_ms, {now}) + {AHEAD_OF_STREAM_MS}, {clock})");
    format!("coalesce({}, {}, {})", newest(&stream), newest(&clock), newest(""))
}

/// A window that starts earlier than this before the node first heard of its device is behind its time: a clock was wrong, unless
/// windows join it to what came later, none so far from the next.
pub const BEFORE_SEEN_MS: i64 = MAX_DURATION_MS;

/// Where the oldest window of series `s` of device `d` starts that is not behind its time; the oldest of all if all are, as in a
/// recording.
pub(super) fn oldest_start(dialect: Dialect) -> String {
    let start = dialect.start();
    let seen = format!("d.first_seen_ms - {BEFORE_SEEN_MS}");
    let (seen, far) = match dialect {
        Dialect::Sqlite => (seen, BEFORE_SEEN_MS.to_string()),
        Dialect::Postgres => (
            format!("timestamptz 'epoch' + ({seen}) * interval '1 millisecond'"),
            format!("{BEFORE_SEEN_MS} * interval '1 millisecond'"),
        ),
    };
    let one = |which: &str, of: &str| {
        format!("(SELECT {which}(n.{start}) FROM series_window AS n WHERE n.series_id = s.series_id{of})")
    };
    let (oldest, all) = (one("min", &format!(" AND n.{start} >= {seen}")), one("min", ""));
    let before = one("max", &format!(" AND n.{start} < {seen}"));
    format!("coalesce(CASE WHEN {before} >= {oldest} - {far} THEN {all} ELSE {oldest} END, {all})")
}

pub(super) fn series_info<C: Columns>(row: &C) -> Result<SeriesInfo, C::Error> {
    Ok(SeriesInfo {
        id: row.whole(0)?,
        site: row.text(1)?,
        device: row.text(2)?,
        stream: row.text(3)?,
        width_ms: row.whole(4)?,
        passed: EpochMs(row.whole(5)?),
        doubtful: row.flag(6)?,
    })
}

fn doubt_of<C: Columns>(row: &C) -> Result<(i64, EpochMs, EpochMs), C::Error> {
    Ok((row.whole(2)?, EpochMs(row.whole(0)?), EpochMs(row.whole(1)?)))
}

fn two_times<C: Columns>(row: &C) -> Result<(EpochMs, EpochMs), C::Error> {
    Ok((EpochMs(row.whole(0)?), EpochMs(row.whole(1)?)))
}

fn series_times<C: Columns>(row: &C) -> Result<SeriesTimes, C::Error> {
    Ok(SeriesTimes {
        series: series_info(row)?,
        device_seen: EpochMs(row.whole(SERIES_COLUMNS)?),
        first: row.whole_if_any(SERIES_COLUMNS + 1)?.map(EpochMs),
        last: row.whole_if_any(SERIES_COLUMNS + 2)?.map(EpochMs),
        readings: row.whole(SERIES_COLUMNS + 3)? as u64,
        late: row.whole(SERIES_COLUMNS + 4)? as u64,
        set_aside: row.whole(SERIES_COLUMNS + 5)? as u64,
        missing: row.whole_if_any(SERIES_COLUMNS + 6)?.map(|missing| missing as u64),
    })
}

fn newest_of<C: Columns>(row: &C) -> Result<Newest, C::Error> {
    Ok((series_info(row)?, row.window(SERIES_COLUMNS)?))
}

fn start<C: Columns>(row: &C) -> Result<Option<EpochMs>, C::Error> {
    row.start_if_any(0)
}

fn hole<C: Columns>(row: &C) -> Result<Hole, C::Error> {
    Ok(Hole {
        site: row.text(0)?,
        shard: row.whole(1)? as u16,
        first: row.whole(2)? as u64,
        last: row.whole(3)? as u64,
        found: EpochMs(row.whole(4)?),
        lost: match (row.whole_if_any(5)?, row.whole_if_any(6)?, row.whole_if_any(7)?, row.whole_if_any(8)?) {
            (Some(readings), Some(parts), Some(from), Some(to)) => Some(LostBatch {
                readings: readings as u64,
                parts: parts as u32,
                from: EpochMs(from),
                to: EpochMs(to),
            }),
            _ => None,
        },
    })
}

impl Reader {
    /// The series that are wanted, at most `limit`, by site, device, stream and width.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find(&self, seek: &Seek, limit: u32) -> Result<Vec<SeriesInfo>, StoreError> {
        ask!(self, |dialect| series(dialect, seek, limit), series_info)
    }

    /// How far the stream of a series has come, and what of it is in doubt.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn progress(&self, series: &SeriesInfo) -> Result<StreamProgress, StoreError> {
        let mut progress = StreamProgress::to(series.passed);
        if series.doubtful {
            progress.doubts = ask!(self, |dialect| doubts(dialect, series.id), two_times)?;
        }
        Ok(progress)
    }

    /// The same of many series, by their row numbers.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn progress_of(
        &self,
        series: impl Iterator<Item = &SeriesInfo>,
    ) -> Result<HashMap<i64, StreamProgress>, StoreError> {
        let mut all: HashMap<i64, StreamProgress> = HashMap::new();
        let mut doubtful = vec![];
        for one in series {
            all.insert(one.id, StreamProgress::to(one.passed));
            doubtful.extend(one.doubtful.then_some(one.id));
        }
        doubtful.sort_unstable();
        for few in doubtful.chunks(DOUBTFUL_ENTRIES) {
            let (Some(first), Some(last)) = (few.first(), few.last()) else { continue };
            // Those between are doubtful too, or have none.
            for (id, from, to) in ask!(self, |dialect| doubts_between(dialect, *first, *last), doubt_of)? {
                if let Some(progress) = all.get_mut(&id) {
                    progress.doubts.push((from, to));
                }
            }
        }
        Ok(all)
    }

    /// All wanted series of the wanted devices after the one named (site and device), at most `limit` devices, in the
    /// same order.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find_devices(
        &self,
        seek: &Seek,
        after: (&str, &str),
        now: EpochMs,
        limit: u32,
    ) -> Result<Vec<SeriesTimes>, StoreError> {
        ask!(self, |dialect| devices(dialect, seek, after, now, limit), series_times)
    }

    /// The newest window of each wanted stream after the one named (site, device, stream), at its narrowest width, at most
    /// `limit`. Windows that are ahead of their time ([`AHEAD_OF_STREAM_MS`], [`AHEAD_OF_CLOCK_MS`]) only where there are no others.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn newest(
        &self,
        seek: &Seek,
        after: [&str; 3],
        now: EpochMs,
        limit: u32,
    ) -> Result<Vec<Newest>, StoreError> {
        ask!(self, |dialect| newest(dialect, seek, after, now, limit), newest_of)
    }

    /// Where the windows of a series start that start in `from..to`, at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn starts(
        &self,
        series: i64,
        from: EpochMs,
        to: EpochMs,
        limit: u32,
    ) -> Result<Vec<EpochMs>, StoreError> {
        let starts = ask!(self, |dialect| starts(dialect, series, from, to, limit), start)?;
        Ok(starts.into_iter().flatten().collect())
    }

    /// Where the last window of a series before `from` starts.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn before(&self, series: i64, from: EpochMs) -> Result<Option<EpochMs>, StoreError> {
        let rows = ask!(self, |dialect| before(dialect, series, from), start)?;
        Ok(rows.first().copied().flatten())
    }

    /// Where the newest window of a series starts, as [`Reader::newest`] finds it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn newest_start(&self, series: i64, now: EpochMs) -> Result<Option<EpochMs>, StoreError> {
        let statement = |dialect| {
            let text = format!(
                "SELECT {} FROM series AS s WHERE s.series_id = ",
                newest_start(dialect, first_value(dialect))
            );
            let mut all = Statement::with(dialect, &text, BoundValue::Whole(now.0));
            all.whole(series);
            all
        };
        let rows = ask!(self, statement, start)?;
        Ok(rows.first().copied().flatten())
    }

    /// The holes of these sites that were found at or after `since`, the newest first, at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find_holes(
        &self,
        sites: &[String],
        since: EpochMs,
        limit: u32,
    ) -> Result<Vec<Hole>, StoreError> {
        ask!(self, |dialect| holes(dialect, sites, since, limit), hole)
    }
}

/// Series that are wanted, by site, device, stream and width.
fn series(dialect: Dialect, seek: &Seek, limit: u32) -> Statement {
    let text = format!("SELECT {SERIES} FROM series AS s JOIN device AS d USING (device_id) WHERE 1 = 1");
    let mut all = Statement::new(dialect, &text);
    all.devices(seek.sites.as_deref(), &seek.wanted).matches("s.stream", seek.wanted.stream.as_ref());
    all.push(" ORDER BY d.site, d.name, s.stream, s.width_ms").limit(limit);
    all
}

/// All series of the wanted devices after the one named, at most `limit` devices, with their times.
fn devices(dialect: Dialect, seek: &Seek, after: (&str, &str), now: EpochMs, limit: u32) -> Statement {
    let (start, newest) = (dialect.start(), newest_start(dialect, first_value(dialect)));
    let oldest = oldest_start(dialect);
    let text = format!(
        "SELECT {SERIES}, d.first_seen_ms, \
         (SELECT w.first_ms FROM series_window AS w WHERE w.series_id = s.series_id AND w.{start} = {oldest}), \
         (SELECT w.last_ms FROM series_window AS w WHERE w.series_id = s.series_id AND w.{start} = {newest}), \
         s.readings, s.late_count, s.set_aside, s.missing \
         FROM (SELECT d.* FROM device AS d WHERE (d.site, d.name) > ("
    );
    let mut all = Statement::with(dialect, &text, BoundValue::Whole(now.0));
    all.words(after.0).push(", ").words(after.1).push(")");
    all.devices(seek.sites.as_deref(), &seek.wanted);
    if let Some(stream) = &seek.wanted.stream {
        all.push(" AND EXISTS (SELECT 1 FROM series AS s WHERE s.device_id = d.device_id");
        all.matches("s.stream", Some(stream)).push(")");
    }
    all.push(" ORDER BY d.site, d.name").limit(limit);
    all.push(") AS d JOIN series AS s USING (device_id) WHERE 1 = 1");
    all.matches("s.stream", seek.wanted.stream.as_ref());
    all.push(" ORDER BY d.site, d.name, s.stream, s.width_ms");
    all
}

/// The newest window of each wanted stream after the one named (site, device, stream), at its narrowest width.
fn newest(dialect: Dialect, seek: &Seek, after: [&str; 3], now: EpochMs, limit: u32) -> Statement {
    let (start, row) = (dialect.start(), dialect.row());
    let newest = newest_start(dialect, first_value(dialect));
    let text = format!(
        "SELECT {SERIES}, {row} FROM series AS s JOIN device AS d USING (device_id) \
         JOIN series_window AS w ON w.series_id = s.series_id AND w.{start} = {newest} \
         WHERE NOT EXISTS (SELECT 1 FROM series AS n WHERE n.device_id = s.device_id AND n.stream = s.stream \
         AND n.width_ms < s.width_ms) AND (d.site, d.name, s.stream) > ("
    );
    let mut all = Statement::with(dialect, &text, BoundValue::Whole(now.0));
    all.words(after[0]).push(", ").words(after[1]).push(", ").words(after[2]).push(")");
    all.devices(seek.sites.as_deref(), &seek.wanted).matches("s.stream", seek.wanted.stream.as_ref());
    all.push(" ORDER BY d.site, d.name, s.stream").limit(limit);
    all
}

/// Where the windows of a series start, in `from..to`.
fn starts(dialect: Dialect, series: i64, from: EpochMs, to: EpochMs, limit: u32) -> Statement {
    let start = dialect.start();
    let text = format!("SELECT {start} FROM series_window WHERE series_id = ");
    let mut all = Statement::new(dialect, &text);
    all.whole(series).push(&format!(" AND {start} >= ")).start(from);
    all.push(&format!(" AND {start} < ")).start(to).push(&format!(" ORDER BY {start}")).limit(limit);
    all
}

/// The stretches that are in doubt of the series with these row numbers and those between.
fn doubts_between(dialect: Dialect, first: i64, last: i64) -> Statement {
    let mut all = Statement::new(dialect, "SELECT from_ms, to_ms, series_id FROM doubt WHERE series_id >= ");
    all.whole(first).push(" AND series_id <= ").whole(last).push(" ORDER BY series_id, from_ms DESC");
    all.limit(DOUBTFUL_ENTRIES as u32 * MAX_DOUBTS_ENTRIES);
    all
}

/// Where the last window of a series before `from` starts.
fn before(dialect: Dialect, series: i64, from: EpochMs) -> Statement {
    let start = dialect.start();
    let mut all =
        Statement::new(dialect, &format!("SELECT max({start}) FROM series_window WHERE series_id = "));
    all.whole(series).push(&format!(" AND {start} < ")).start(from);
    all
}

/// The stretches of a series that are in doubt.
fn doubts(dialect: Dialect, series: i64) -> Statement {
    let mut all = Statement::new(dialect, "SELECT from_ms, to_ms FROM doubt WHERE series_id = ");
    all.whole(series).push(" ORDER BY from_ms DESC").limit(MAX_DOUBTS_ENTRIES);
    all
}

/// The holes of these sites that were found at or after `since`, the newest first.
fn holes(dialect: Dialect, sites: &[String], since: EpochMs, limit: u32) -> Statement {
    let text = "SELECT site, CAST(shard AS bigint), first_seq, last_seq, found_ms, readings, parts, from_ms, to_ms FROM hole WHERE found_ms >= ";
    let mut all = Statement::new(dialect, text);
    all.whole(since.0).sites("site", Some(sites));
    all.push(" ORDER BY found_ms DESC, site, shard, first_seq").limit(limit);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_types::pattern::Pattern;

    #[test]
    fn patterns_become_what_an_index_serves() {
        let condition = |dialect, text: &str| {
            let mut all = Statement::new(dialect, "");
            all.matches("name", Some(&Pattern::parse(text).unwrap()));
            let values: Vec<_> = all
                .values
                .iter()
                .map(|v| match v {
                    BoundValue::Text(text) => text.clone(),
                    BoundValue::TextIfAny(_) | BoundValue::WholeIfAny(_) => {
                        unreachable!("no pattern binds one")
                    }
                    BoundValue::Whole(n) | BoundValue::Start(EpochMs(n)) => n.to_string(),
                })
                .collect();
            (all.text, values.join(" "))
        };
        let is = |text: &str, values: &str| (text.to_string(), values.to_string());
        use Dialect::{Postgres, Sqlite};
        assert_eq!(condition(Sqlite, "a"), is(" AND name = ?1", "a"));
        assert_eq!(condition(Postgres, "a*"), is(" AND name >= $1 AND name < $2", "a b"));
        assert_eq!(condition(Sqlite, "*a"), is(" AND name GLOB ?1", "*a"));
        assert_eq!(
            condition(Postgres, "a*c"),
            is(" AND name >= $1 AND name < $2 AND name LIKE $3", "a b a%c")
        );
        assert_eq!(condition(Sqlite, "*"), is("", ""));
    }

    #[tokio::test]
    async fn a_name_and_what_stands_before_a_star_are_searched_in_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let _open = crate::store::open(&crate::store::Database::sqlite(folder.path())).await.unwrap();
        let db = rusqlite::Connection::open(folder.path().join("selvedge.db")).unwrap();
        for (device, expected) in [
            ("press-7", "SEARCH d USING INDEX device_name (name=?)"),
            ("press-*", "SEARCH d USING INDEX device_name (name>? AND name<?)"),
            ("press-*-7", "SEARCH d USING INDEX device_name (name>? AND name<?)"),
        ] {
            let wanted =
                WantedStreams { device: Some(Pattern::parse(device).unwrap()), ..WantedStreams::default() };
            let seek = Seek { sites: None, wanted };
            let all = [
                series(Dialect::Sqlite, &seek, 9),
                newest(Dialect::Sqlite, &seek, [""; 3], EpochMs(0), 9),
                devices(Dialect::Sqlite, &seek, ("", ""), EpochMs(0), 9),
            ];
            for statement in all {
                let mut query = db.prepare(&format!("EXPLAIN QUERY PLAN {}", statement.text)).unwrap();
                let values = rusqlite::params_from_iter(&statement.values);
                let steps = query.query_map(values, |row| row.get::<_, String>(3)).unwrap();
                let steps: Vec<String> = steps.map(Result::unwrap).collect();
                assert!(steps.iter().any(|step| step == expected), "{device}: {steps:?}");
            }
        }
    }
}
