//! The tables and views, as in SQLite (see there for what they are made of), with comments for every one of them.
//!
//! `start` is a `timestamptz` in the tables themselves, so that an index finds what a view is asked for. Texts are ordered by
//! their bytes, as in SQLite and in Rust.

use super::super::find;
use super::super::statement::Dialect;
use super::super::{NEVER, StoreError};
use super::link::{Postgres, PostgresConnection};
use std::time::Duration;
use tokio::time::Instant;

/// The steps; a step is never changed once it was released, only followed by another.
const STEPS: &[&str] = &[
    r#"
CREATE TABLE device (
    device_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site          text COLLATE "C" NOT NULL,
    name          text COLLATE "C" NOT NULL,
    shard         integer NOT NULL,
    first_seen_ms bigint NOT NULL,
    UNIQUE (site, name)
);
CREATE INDEX device_name ON device (name);
CREATE INDEX device_shard ON device (site, shard);

CREATE TABLE series (
    series_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id  bigint NOT NULL REFERENCES device,
    stream     text COLLATE "C" NOT NULL,
    width_ms   bigint NOT NULL,
    passed_ms  bigint NOT NULL DEFAULT {NEVER},
    passed_seq bigint NOT NULL DEFAULT 0,
    ahead_ms   bigint,
    ahead_seq  bigint,
    set_back   bigint NOT NULL DEFAULT 0,
    readings   bigint NOT NULL DEFAULT 0,
    late_count bigint NOT NULL DEFAULT 0,
    set_aside  bigint NOT NULL DEFAULT 0,
    missing    bigint,
    sequences  bytea,
    missing_before bigint NOT NULL DEFAULT 0,
    UNIQUE (device_id, stream, width_ms)
) WITH (fillfactor = 70);

CREATE TABLE doubt (
    series_id bigint NOT NULL,
    from_ms   bigint NOT NULL,
    to_ms     bigint NOT NULL,
    first_seq bigint NOT NULL,
    last_seq  bigint NOT NULL,
    PRIMARY KEY (series_id, from_ms, first_seq)
);

CREATE TABLE series_window (
    series_id    bigint NOT NULL,
    start        timestamptz NOT NULL,
    {ROW}
    PRIMARY KEY (series_id, start)
) WITH (fillfactor = 90);

CREATE TABLE series_rollup (
    span_ms      bigint NOT NULL,
    start        timestamptz NOT NULL,
    series_id    bigint NOT NULL,
    {ROW}
    PRIMARY KEY (span_ms, start, series_id)
) WITH (fillfactor = 70);

CREATE TABLE shard_progress (
    site            text COLLATE "C" NOT NULL,
    shard           integer NOT NULL,
    cursor          bigint NOT NULL,
    edge_first_kept bigint NOT NULL,
    edge_last       bigint NOT NULL,
    batches_applied bigint NOT NULL,
    changed_ms      bigint NOT NULL,
    conflict_seq    bigint,
    PRIMARY KEY (site, shard)
) WITH (fillfactor = 50);

CREATE TABLE applied_batch (
    site       text COLLATE "C" NOT NULL,
    shard      integer NOT NULL,
    seq        bigint NOT NULL,
    applied_ms bigint NOT NULL,
    parts      bigint NOT NULL,
    body_hash  bigint NOT NULL,
    PRIMARY KEY (site, shard, seq)
);

CREATE TABLE hole (
    site      text COLLATE "C" NOT NULL,
    shard     integer NOT NULL,
    first_seq bigint NOT NULL,
    last_seq  bigint NOT NULL,
    found_ms  bigint NOT NULL,
    PRIMARY KEY (site, shard, first_seq)
);

CREATE VIEW devices AS
SELECT d.site, d.name AS device,
       (SELECT count(DISTINCT s.stream) FROM series AS s WHERE s.device_id = d.device_id) AS streams,
       {TIME d.first_seen_ms} AS first_seen,
       {SUM readings}, {SUM late_count}, {SUM set_aside}, {SUM missing}
FROM device AS d;

CREATE VIEW streams AS
SELECT d.site, d.name AS device, s.stream, s.width_ms / 1000::float8 AS length,
       (SELECT count(*) FROM series AS n WHERE n.device_id = s.device_id AND n.stream = s.stream) AS lengths,
       {OLDEST} AS first_window, {NEWEST} AS last_window, {WATERMARK} AS watermark,
       {MOST readings}, {MOST late_count}, {MOST set_aside}, {MOST missing}
FROM series AS s JOIN device AS d USING (device_id)
WHERE s.width_ms = (SELECT min(n.width_ms) FROM series AS n WHERE n.device_id = s.device_id AND n.stream = s.stream);

CREATE VIEW windows AS
SELECT d.site, d.name AS device, s.stream, {FACE s.width_ms}
FROM series_window AS w JOIN series AS s USING (series_id) JOIN device AS d USING (device_id)
WHERE (SELECT 1 FROM series AS f JOIN series_window AS n ON n.series_id = f.series_id
       AND n.start >= w.start AND n.start < w.start + s.width_ms * interval '1 millisecond'
       WHERE f.device_id = s.device_id AND f.stream = s.stream AND f.width_ms < s.width_ms LIMIT 1) IS NULL;

CREATE VIEW windows_all AS
SELECT d.site, d.name AS device, s.stream, {FACE s.width_ms}
FROM series_window AS w JOIN series AS s USING (series_id) JOIN device AS d USING (device_id);

CREATE VIEW minute AS
SELECT d.site, d.name AS device, s.stream, s.width_ms / 1000::float8 AS window_length, {FACE w.span_ms}
FROM series_rollup AS w JOIN series AS s USING (series_id) JOIN device AS d USING (device_id) WHERE w.span_ms = 60000 AND {ONCE};

CREATE VIEW hour AS
SELECT d.site, d.name AS device, s.stream, s.width_ms / 1000::float8 AS window_length, {FACE w.span_ms}
FROM series_rollup AS w JOIN series AS s USING (series_id) JOIN device AS d USING (device_id) WHERE w.span_ms = 3600000 AND {ONCE};

CREATE VIEW day AS
SELECT d.site, d.name AS device, s.stream, s.width_ms / 1000::float8 AS window_length, {FACE w.span_ms}
FROM series_rollup AS w JOIN series AS s USING (series_id) JOIN device AS d USING (device_id) WHERE w.span_ms = 86400000 AND {ONCE};

CREATE VIEW holes AS
SELECT site, shard, first_seq AS first_batch, last_seq AS last_batch, last_seq - first_seq + 1 AS batches,
       {TIME found_ms} AS found
FROM hole;

CREATE VIEW shards AS
SELECT site, shard, cursor AS confirmed_batch, edge_last AS last_batch, batches_applied, {TIME changed_ms} AS changed,
       conflict_seq AS conflict_batch
FROM shard_progress;

COMMENT ON TABLE device IS 'Devices; the view devices is for people.';
COMMENT ON COLUMN device.shard IS 'The shard of the site whose batches bring its windows.';
COMMENT ON TABLE series IS 'A stream of a device at one length of windows; the view streams is for people.';
COMMENT ON COLUMN series.passed_ms IS 'The last watermark of the stream in the batches up to the cursor of its shard; the same in all its lengths.';
COMMENT ON COLUMN series.passed_seq IS 'The batch with that watermark.';
COMMENT ON COLUMN series.ahead_ms IS 'The watermark in a batch beyond a gap: counts once the gap has closed.';
COMMENT ON COLUMN series.ahead_seq IS 'The batch beyond the gap.';
COMMENT ON COLUMN series.set_back IS 'How often the watermark went back.';
COMMENT ON COLUMN series.readings IS 'The number of readings in all windows of this length; the next three columns likewise.';
COMMENT ON COLUMN series.sequences IS 'The sequence numbers of the readings, in the latest boots.';
COMMENT ON COLUMN series.missing_before IS 'The number of missing sequence numbers of earlier boots.';
COMMENT ON TABLE doubt IS 'Stretches of a series whose readings lost batches may have held: from the watermark of its stream before them to the watermark after them.';
COMMENT ON TABLE series_window IS 'Windows; the view windows is for people. A figure that can''t be computed is NULL.';
COMMENT ON TABLE series_rollup IS 'Windows added up to minutes, hours and days; the views minute, hour and day are for people.';
COMMENT ON TABLE shard_progress IS 'Which batches of each shard are applied; the view shards is for people.';
COMMENT ON COLUMN shard_progress.cursor IS 'All batches up to it are applied, or in a hole.';
COMMENT ON COLUMN shard_progress.edge_first_kept IS 'The lowest batch that the site still had when something changed last.';
COMMENT ON COLUMN shard_progress.edge_last IS 'The highest batch that the site had cut when something changed last.';
COMMENT ON COLUMN shard_progress.conflict_seq IS 'A batch number that came with two contents: the node confirms nothing of the shard until this is NULL again.';
COMMENT ON TABLE applied_batch IS 'The batches beyond the cursor, and the newest up to it.';
COMMENT ON TABLE hole IS 'Batches that never came and that the site no longer has; the view holes is for people.';
COMMENT ON TABLE schema_version IS 'The steps that made these tables; a node brings them to its own, and refuses newer ones.';

COMMENT ON VIEW devices IS 'The devices that have ever sent something.';
COMMENT ON COLUMN devices.streams IS 'The number of its streams.';
COMMENT ON COLUMN devices.first_seen IS 'When its first batch came.';
COMMENT ON VIEW streams IS 'The streams of each device, with the shortest of their windows.';
COMMENT ON COLUMN streams.length IS 'The length of its shortest windows, in seconds.';
COMMENT ON COLUMN streams.lengths IS 'The number of different lengths of its windows.';
COMMENT ON COLUMN streams.first_window IS 'The start of the earliest window that is not behind its time.';
COMMENT ON COLUMN streams.last_window IS 'The start of the latest window that is not ahead of its time.';
COMMENT ON COLUMN streams.watermark IS 'The watermark of the stream.';
COMMENT ON COLUMN devices.readings IS 'The number of counted readings, in all windows.';
COMMENT ON COLUMN devices.late_count IS 'The number of these that came after their window had closed.';
COMMENT ON COLUMN devices.set_aside IS 'The number of other readings that the site set aside: not counted, but kept in its quarantine.';
COMMENT ON COLUMN devices.missing IS 'The number of sequence numbers missing between the readings; empty if they have none.';
COMMENT ON COLUMN streams.readings IS 'The number of counted readings, in all windows.';
COMMENT ON COLUMN streams.late_count IS 'The number of these that came after their window had closed.';
COMMENT ON COLUMN streams.set_aside IS 'The number of other readings that the site set aside: not counted, but kept in its quarantine.';
COMMENT ON COLUMN streams.missing IS 'The number of sequence numbers missing between the readings; empty if they have none.';
COMMENT ON VIEW windows IS 'The windows of each stream, where there are several lengths the shortest: each reading once.';
COMMENT ON VIEW windows_all IS 'The windows of all lengths: each reading once for each length of the windows of its stream.';
COMMENT ON VIEW minute IS 'Windows of at most a minute that divide it, added up for each stream: each reading once.';
COMMENT ON VIEW hour IS 'Windows of at most an hour that divide it, added up for each stream: each reading once.';
COMMENT ON VIEW day IS 'Windows of at most a day (UTC) that divide it, added up for each stream: each reading once.';
COMMENT ON VIEW holes IS 'Batches that never came and that the site no longer has: what they held is missing here for good. Each shard numbers its own batches.';
COMMENT ON COLUMN holes.first_batch IS 'The number of the first batch that is missing.';
COMMENT ON COLUMN holes.last_batch IS 'The number of the last batch that is missing.';
COMMENT ON COLUMN holes.batches IS 'The number of batches.';
COMMENT ON COLUMN holes.found IS 'When the node found that they are missing.';
COMMENT ON VIEW shards IS 'How far each shard of each site has come.';
COMMENT ON COLUMN shards.confirmed_batch IS 'All batches up to it are applied, or in holes.';
COMMENT ON COLUMN shards.last_batch IS 'The highest batch that the site was known to have when something changed last.';
COMMENT ON COLUMN shards.conflict_batch IS 'A batch number that came with two contents: the node confirms nothing of the shard until shard_progress.conflict_seq is cleared.';
{COMMENTS windows}{COMMENTS windows_all}{COMMENTS minute}{COMMENTS hour}{COMMENTS day}
COMMENT ON COLUMN minute.window_length IS 'The length of the windows that were added up, in seconds.';
COMMENT ON COLUMN hour.window_length IS 'The length of the windows that were added up, in seconds.';
COMMENT ON COLUMN day.window_length IS 'The length of the windows that were added up, in seconds.';
"#,
    r#"
CREATE TABLE lake_export (
    target         text COLLATE "C" NOT NULL,
    site           text COLLATE "C" NOT NULL,
    width_ms       bigint NOT NULL,
    day_ms         bigint NOT NULL,
    revisions      bigint,
    windows        bigint,
    bytes          bigint,
    exported_ms    bigint,
    owner          text NOT NULL,
    lease_until_ms bigint NOT NULL,
    PRIMARY KEY (target, site, width_ms, day_ms)
);
COMMENT ON TABLE lake_export IS 'The exported days: their target, and the node that writes them.';
"#,
    r#"
ALTER TABLE hole ADD COLUMN readings bigint, ADD COLUMN parts bigint, ADD COLUMN from_ms bigint, ADD COLUMN to_ms bigint;
COMMENT ON COLUMN hole.parts IS 'What the site says of a batch that it has lost itself; NULL where the database lacks what the site had confirmed before.';

CREATE OR REPLACE VIEW holes AS
SELECT site, shard, first_seq AS first_batch, last_seq AS last_batch, last_seq - first_seq + 1 AS batches,
       {TIME found_ms} AS found, parts IS NOT NULL AS lost_at_site, readings, parts,
       {TIME from_ms} AS windows_from, {TIME to_ms} AS windows_to
FROM hole;
COMMENT ON COLUMN holes.lost_at_site IS 'True if every replica at the site has lost them; false if another database had them and this one has not.';
COMMENT ON COLUMN holes.readings IS 'The number of readings in them; NULL if unknown.';
COMMENT ON COLUMN holes.parts IS 'The number of parts of windows in them; NULL if unknown.';
COMMENT ON COLUMN holes.windows_from IS 'The start of the earliest window in them; NULL if unknown.';
COMMENT ON COLUMN holes.windows_to IS 'The end of the latest window in them; NULL if unknown.';
"#,
    r#"
CREATE TABLE ledger (id uuid PRIMARY KEY);
INSERT INTO ledger (id) VALUES (gen_random_uuid());
COMMENT ON TABLE ledger IS 'The id of this ledger; a restored copy of the database has the same. A site trims what it keeps only for the ledger that it has admitted.';
"#,
    r#"
ALTER TABLE shard_progress ADD COLUMN incarnation bytea NOT NULL DEFAULT decode(repeat('00', 24), 'hex');
ALTER TABLE shard_progress ADD COLUMN base bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN shard_progress.incarnation IS 'The known incarnation of the site: its generation and its random part.';
COMMENT ON COLUMN shard_progress.base IS 'The number that is added to its batch numbers here.';
"#,
];

const ROW: &str = "count        bigint NOT NULL,
    min          double precision NOT NULL,
    max          double precision NOT NULL,
    first_ms     bigint NOT NULL,
    first_slot   bigint NOT NULL,
    first_index  bigint NOT NULL,
    first        double precision NOT NULL,
    last_ms      bigint NOT NULL,
    last_slot    bigint NOT NULL,
    last_index   bigint NOT NULL,
    last         double precision NOT NULL,
    fingerprint  bigint NOT NULL,
    late_count   bigint NOT NULL,
    revision     bigint NOT NULL,
    set_aside    bigint NOT NULL,
    missing      bigint,
    sequences    bytea,
    spread       bytea NOT NULL,
    sum          double precision,
    mean         double precision NOT NULL,
    stddev       double precision NOT NULL,
    p50          double precision,
    p90          double precision,
    p99          double precision,";

const FACE: &str = "w.start, {SPAN} / 1000::float8 AS length, w.count, w.sum, w.min, w.max, w.first, w.last,
       w.mean, w.stddev, w.p50, w.p90, w.p99, w.revision, w.late_count,
       w.set_aside, w.missing,
       {WATERMARK} >= w.start + {SPAN} * interval '1 millisecond' AND ((SELECT 1 FROM doubt LIMIT 1) IS NULL
       OR (SELECT 1 FROM doubt AS x WHERE x.series_id = s.series_id AND {TIME x.from_ms} < w.start + {SPAN} * interval '1 millisecond'
           AND {TIME x.to_ms} > w.start LIMIT 1) IS NULL) AS complete,
       {TIME w.first_ms} AS first_time, {TIME w.last_ms} AS last_time, {WATERMARK} AS watermark, w.fingerprint";

const WATERMARK: &str = "{TIME s.passed_ms}";

const COMMENTS: &[(&str, &str)] = &[
    ("site", "The site of the device."),
    ("device", "The device."),
    ("stream", "The stream of the device."),
    ("start", "The start of the window."),
    ("length", "The length, in seconds."),
    ("count", "The number of readings."),
    ("sum", "The sum of the values; empty if a double can''t hold it."),
    ("min", "The least value."),
    ("max", "The greatest value."),
    ("first", "The value of the earliest reading."),
    ("last", "The value of the latest reading."),
    ("mean", "The arithmetic mean."),
    ("stddev", "The standard deviation of all readings, not of a sample."),
    (
        "p50",
        "The reading of rank ceil(0.5 count) in ascending order, or close to it; empty if the site keeps no sketch.",
    ),
    (
        "p90",
        "The reading of rank ceil(0.9 count) in ascending order, or close to it; empty if the site keeps no sketch.",
    ),
    (
        "p99",
        "The reading of rank ceil(0.99 count) in ascending order, or close to it; empty if the site keeps no sketch.",
    ),
    ("revision", "The number of parts that were merged; late readings add some."),
    ("late_count", "The number of readings that came after the window had closed."),
    (
        "set_aside",
        "The number of readings that the site set aside meanwhile: not counted, but kept in its quarantine.",
    ),
    ("missing", "The number of sequence numbers missing between its readings; empty if they have none."),
    ("complete", "Whether the stream has passed its end, and no lost batch may have held readings of it."),
    ("first_time", "When the earliest reading was measured."),
    ("last_time", "When the latest reading was measured."),
    ("watermark", "The watermark of the stream by now."),
    ("fingerprint", "A hash of the values: equal for equal values, in any order."),
];

/// Nodes that start at once bring the tables on one after the other.
pub const LOCK: i64 = 0x5e1f_ed6e;

/// How long a starting node waits for its server: one that starts too, or is restarted.
pub const START_WAIT_MS: u64 = 30_000;

const START_RETRY_MS: u64 = 1_000;

/// Of the roll-ups of several lengths of a stream's windows to the same span the one with the most readings; of equal ones that of
/// the shortest windows.
const ONCE: &str = "(SELECT 1 FROM series AS f JOIN series_rollup AS n \
     ON n.span_ms = w.span_ms AND n.start = w.start AND n.series_id = f.series_id \
     WHERE f.device_id = s.device_id AND f.stream = s.stream AND f.series_id <> s.series_id \
     AND (n.count > w.count OR n.count = w.count AND f.width_ms < s.width_ms) LIMIT 1) IS NULL";

fn step(text: &str) -> String {
    let newest = find::newest_start(Dialect::Postgres, "(1000 * extract(epoch from now()))::bigint");
    let mut text = find::with_sums(text.to_string())
        .replace("{ROW}", ROW)
        .replace("{ONCE}", ONCE)
        .replace("{NEWEST}", &newest)
        .replace("{OLDEST}", &find::oldest_start(Dialect::Postgres))
        .replace("{NEVER}", &NEVER.0.to_string());
    for span in ["s.width_ms", "w.span_ms"] {
        text = text.replace(&format!("{{FACE {span}}}"), &FACE.replace("{SPAN}", span));
    }
    for view in ["windows", "windows_all", "minute", "hour", "day"] {
        let comment =
            |(column, what): &(&str, &str)| format!("COMMENT ON COLUMN {view}.{column} IS '{what}';\n");
        let comments: String = COMMENTS.iter().map(comment).collect();
        text = text.replace(&format!("{{COMMENTS {view}}}"), &comments);
    }
    let mut text = text.replace("{WATERMARK}", WATERMARK);
    while let Some((before, rest)) = text.split_once("{TIME ") {
        let Some((ms, after)) = rest.split_once('}') else { break };
        text = format!("{before}(timestamptz 'epoch' + {ms} * interval '1 millisecond'){after}");
    }
    text
}

/// Brings the database to this release's tables.
///
/// # Errors
/// When the server can't be reached for [`START_WAIT_MS`], the tables can't be written, or a newer release has already moved
/// them on.
pub async fn migrate(server: &Postgres) -> Result<(), StoreError> {
    let mut link = reach(server).await?;
    // Ends with the connection.
    link.client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
    let exists: bool =
        link.client.query_one("SELECT to_regclass('schema_version') IS NOT NULL", &[]).await?.get(0);
    if !exists {
        let table = "CREATE TABLE schema_version (version bigint PRIMARY KEY, done timestamptz NOT NULL DEFAULT now())";
        link.client.batch_execute(table).await?;
    }
    loop {
        let found = version(&link).await?;
        let done = usize::try_from(found).unwrap_or(usize::MAX);
        let Some(text) = STEPS.get(done) else { break };
        if found > 0 {
            tracing::info!(
                from = found,
                "migrating the database to a newer schema; the more windows it holds, the longer this takes"
            );
        }
        let tx = link.client.transaction().await?;
        tx.batch_execute(&step(text)).await?;
        tx.execute("INSERT INTO schema_version (version) VALUES ($1)", &[&(found + 1)]).await?;
        tx.commit().await?;
    }
    if server.timescale {
        hypertable(&link).await?;
    }
    warn_of_settings(&link).await
}

/// The version of the tables.
///
/// # Errors
/// When they are newer than this release, or can't be read.
pub async fn version(link: &PostgresConnection) -> Result<i64, StoreError> {
    let row = link.client.query_one("SELECT coalesce(max(version), 0) FROM schema_version", &[]).await?;
    let found: i64 = row.try_get(0)?;
    if usize::try_from(found).unwrap_or(usize::MAX) > STEPS.len() {
        return Err(StoreError::Newer { found, known: STEPS.len() });
    }
    Ok(found)
}

/// A connection, once the server answers.
async fn reach(server: &Postgres) -> Result<PostgresConnection, StoreError> {
    let end = Instant::now() + Duration::from_millis(START_WAIT_MS);
    loop {
        match server.link_to_migrate().await {
            Err(error) if error.may_pass() && Instant::now() < end => {
                tracing::warn!(%error, "waiting for the database");
                tokio::time::sleep(Duration::from_millis(START_RETRY_MS)).await;
            }
            done => return done,
        }
    }
}

/// Puts windows into a hypertable, if they are not in one.
async fn hypertable(link: &PostgresConnection) -> Result<(), StoreError> {
    let there = link.client.query_opt("SELECT FROM pg_extension WHERE extname = 'timescaledb'", &[]).await?;
    if there.is_none() {
        return Err(StoreError::NoTimescale);
    }
    let make = "SELECT create_hypertable('series_window', 'start', chunk_time_interval => interval '7 days', \
                migrate_data => true, if_not_exists => true)";
    Ok(link.client.batch_execute(make).await?)
}

/// What makes a server forget what it has confirmed is nothing that a node could make good.
async fn warn_of_settings(link: &PostgresConnection) -> Result<(), StoreError> {
    let sql = "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'";
    for row in link.client.query(sql, &[]).await? {
        let name: String = row.try_get(0)?;
        tracing::warn!(
            "the database server runs with {name} = off: after a power cut it may have lost batches that were confirmed"
        );
    }
    Ok(())
}
