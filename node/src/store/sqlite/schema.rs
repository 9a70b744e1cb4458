//! The tables, and how they come to be: one list of numbered steps, each applied once in its transaction.
//!
//! For people there are views with plain names: `devices`, `streams`, `windows`, `minute`, `hour`, `day`, `holes`, `shards`.
//! The tables below them are compact: row numbers for names, milliseconds since 1970 for times.
//!
//! Roll-ups lie in order of time, unlike windows: what all devices of a fleet send now goes into the same few pages, and
//! an hour of the fleet is read in one piece. For one device an hour is a search in the tree.
//!
//! Windows and roll-ups refer to series by numbers that only this program makes; a foreign key would look each up again.

use super::super::find;
use super::super::statement::Dialect;
use super::super::{NEVER, StoreError};
use rusqlite::{Connection, TransactionBehavior};

/// The steps; a step is never changed once it was released, only followed by another.
const STEPS: &[&str] = &[
    r"
CREATE TABLE device (
    device_id     INTEGER PRIMARY KEY,
    site          TEXT NOT NULL,
    name          TEXT NOT NULL,
    shard         INTEGER NOT NULL, -- whose batches bring its windows
    first_seen_ms INTEGER NOT NULL,
    UNIQUE (site, name)
) STRICT;
CREATE INDEX device_name ON device (name);
CREATE INDEX device_shard ON device (site, shard);

CREATE TABLE series (
    -- A stream of a device at one length of windows. How far the stream has come is the same in all its lengths.
    series_id  INTEGER PRIMARY KEY,
    device_id  INTEGER NOT NULL REFERENCES device,
    stream     TEXT NOT NULL,
    width_ms   INTEGER NOT NULL,
    passed_ms  INTEGER NOT NULL DEFAULT {NEVER}, -- the stream's last watermark in the batches up to the shard's cursor
    passed_seq INTEGER NOT NULL DEFAULT 0,       -- the batch that brought it
    ahead_ms   INTEGER,                          -- the watermark in a batch beyond a gap: counts once the gap has closed
    ahead_seq  INTEGER,
    set_back   INTEGER NOT NULL DEFAULT 0,       -- how often the watermark went back
    readings   INTEGER NOT NULL DEFAULT 0,       -- in all windows of this length
    late_count INTEGER NOT NULL DEFAULT 0,       -- how many of them came after their window had closed
    set_aside  INTEGER NOT NULL DEFAULT 0,       -- how many others the site set aside
    missing    INTEGER,                          -- sequence numbers between them; NULL where they have none
    sequences  BLOB,                             -- which numbers they have, in the latest boots
    missing_before INTEGER NOT NULL DEFAULT 0,   -- how many of `missing` are of earlier ones
    UNIQUE (device_id, stream, width_ms)
) STRICT;

CREATE TABLE doubt (
    -- Stretches of a series of which batches in `hole` may have held readings.
    series_id INTEGER NOT NULL,
    from_ms   INTEGER NOT NULL, -- how far the stream had come before these batches (after them, if that is less)
    to_ms     INTEGER NOT NULL, -- and after them
    first_seq INTEGER NOT NULL, -- the first and the last of the batches
    last_seq  INTEGER NOT NULL,
    PRIMARY KEY (series_id, from_ms, first_seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE series_window (
    -- Windows; the view `windows` is for people. A figure that can't be computed is NULL.
    series_id    INTEGER NOT NULL,
    start_ms     INTEGER NOT NULL,
    {ROW}
    PRIMARY KEY (series_id, start_ms)
) STRICT, WITHOUT ROWID;

CREATE TABLE series_rollup (
    -- Windows added up to minutes, hours and days; the views `minute`, `hour` and `day` are for people.
    span_ms      INTEGER NOT NULL,
    start_ms     INTEGER NOT NULL,
    series_id    INTEGER NOT NULL,
    {ROW}
    PRIMARY KEY (span_ms, start_ms, series_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE shard_progress (
    site            TEXT NOT NULL,
    shard           INTEGER NOT NULL,
    cursor          INTEGER NOT NULL, -- all batches up to it are applied, or in a hole
    edge_first_kept INTEGER NOT NULL, -- the lowest batch that the edge still has
    edge_last       INTEGER NOT NULL, -- the highest that it has cut
    batches_applied INTEGER NOT NULL,
    changed_ms      INTEGER NOT NULL,
    conflict_seq    INTEGER,          -- a batch number that came with two contents: nothing is confirmed until this is NULL
    PRIMARY KEY (site, shard)
) STRICT, WITHOUT ROWID;

CREATE TABLE applied_batch (
    -- The batches beyond the cursor, and the newest up to it.
    site       TEXT NOT NULL,
    shard      INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    applied_ms INTEGER NOT NULL,
    parts      INTEGER NOT NULL,
    body_hash  INTEGER NOT NULL,
    PRIMARY KEY (site, shard, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE hole (
    site      TEXT NOT NULL,
    shard     INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq  INTEGER NOT NULL,
    found_ms  INTEGER NOT NULL,
    PRIMARY KEY (site, shard, first_seq)
) STRICT, WITHOUT ROWID;

CREATE VIEW devices AS
-- The devices that have ever sent something.
SELECT d.site,
       d.name AS device,
       (SELECT count(DISTINCT s.stream) FROM series AS s WHERE s.device_id = d.device_id) AS streams,
       strftime('%Y-%m-%dT%H:%M:%fZ', d.first_seen_ms / 1000.0, 'unixepoch') AS first_seen, -- when its first batch came
       {SUM readings},   -- counted, in all windows
       {SUM late_count}, -- how many of them came after their window had closed
       {SUM set_aside},  -- how many others the site set aside: not counted, kept in its quarantine
       {SUM missing}     -- how many sequence numbers are missing between them; NULL where they have none
FROM device AS d;

CREATE VIEW streams AS
-- The streams of each device, with the shortest of their windows.
SELECT d.site, d.name AS device, s.stream,
       s.width_ms / 1000.0 AS length, -- of its shortest windows, in seconds
       (SELECT count(*) FROM series AS n WHERE n.device_id = s.device_id AND n.stream = s.stream) AS lengths, -- how many there are
       strftime('%Y-%m-%dT%H:%M:%fZ', {OLDEST} / 1000.0, 'unixepoch') AS first_window, -- the start of the earliest that is not behind its time
       strftime('%Y-%m-%dT%H:%M:%fZ', {NEWEST} / 1000.0, 'unixepoch') AS last_window, -- the start of the latest that is not ahead of its time
       strftime('%Y-%m-%dT%H:%M:%fZ', s.passed_ms / 1000.0, 'unixepoch') AS watermark, -- the watermark of the stream
       {MOST readings},   -- counted, in all windows
       {MOST late_count}, -- how many of them came after their window had closed
       {MOST set_aside},  -- how many others the site set aside: not counted, kept in its quarantine
       {MOST missing}     -- how many sequence numbers are missing between them; NULL where they have none
FROM series AS s JOIN device AS d USING (device_id)
WHERE s.width_ms = (SELECT min(n.width_ms) FROM series AS n WHERE n.device_id = s.device_id AND n.stream = s.stream);

CREATE VIEW windows AS
-- The windows of each stream, where there are several lengths the shortest: each reading once. A span of time is found fast by
-- start_ms, and by device or stream.
SELECT d.site, d.name AS device, s.stream,
       {FACE s.width_ms}
FROM series_window AS w JOIN series AS s USING (series_id) JOIN device AS d USING (device_id)
WHERE (SELECT 1 FROM series AS f JOIN series_window AS n ON n.series_id = f.series_id
       AND n.start_ms >= w.start_ms AND n.start_ms < w.start_ms + s.width_ms
       WHERE f.device_id = s.device_id AND f.stream = s.stream AND f.width_ms < s.width_ms LIMIT 1) IS NULL;

CREATE VIEW windows_all AS
-- The windows of all lengths: each reading once for each length of its stream's windows.
SELECT d.site, d.name AS device, s.stream,
       {FACE s.width_ms}
FROM series_window AS w JOIN series AS s USING (series_id) JOIN device AS d USING (device_id);

CREATE VIEW minute AS
-- Windows of at most a minute that divide it, added up for each stream: each reading once.
SELECT d.site, d.name AS device, s.stream, s.width_ms / 1000.0 AS window_length,
       {FACE w.span_ms}
FROM series_rollup AS w JOIN series AS s USING (series_id) JOIN device AS d USING (device_id) WHERE w.span_ms = 60000 AND {ONCE};

CREATE VIEW hour AS
-- Windows of at most an hour that divide it, added up for each stream: each reading once.
SELECT d.site, d.name AS device, s.stream, s.width_ms / 1000.0 AS window_length,
       {FACE w.span_ms}
FROM series_rollup AS w JOIN series AS s USING (series_id) JOIN device AS d USING (device_id) WHERE w.span_ms = 3600000 AND {ONCE};

CREATE VIEW day AS
-- Windows of at most a day (UTC) that divide it, added up for each stream: each reading once.
SELECT d.site, d.name AS device, s.stream, s.width_ms / 1000.0 AS window_length,
       {FACE w.span_ms}
FROM series_rollup AS w JOIN series AS s USING (series_id) JOIN device AS d USING (device_id) WHERE w.span_ms = 86400000 AND {ONCE};

CREATE VIEW holes AS
-- Batches that never came and that the edge no longer has: what they held is missing here for good. Each shard numbers its own batches.
SELECT site, shard, first_seq AS first_batch, last_seq AS last_batch, last_seq - first_seq + 1 AS batches,
       strftime('%Y-%m-%dT%H:%M:%fZ', found_ms / 1000.0, 'unixepoch') AS found
FROM hole;

CREATE VIEW shards AS
-- How far each shard of each site has come.
SELECT site, shard,
       cursor AS confirmed_batch, -- all batches up to it are applied, or in `holes`
       edge_last AS last_batch,   -- the highest that the site was known to have when something changed last
       batches_applied,
       strftime('%Y-%m-%dT%H:%M:%fZ', changed_ms / 1000.0, 'unixepoch') AS changed,
       conflict_seq AS conflict_batch -- came with two contents: nothing is confirmed until it is cleared in shard_progress
FROM shard_progress;
",
    r"
CREATE TABLE lake_export (
    -- The exported days: their target, and the node that writes them.
    target         TEXT NOT NULL,
    site           TEXT NOT NULL,
    width_ms       INTEGER NOT NULL,
    day_ms         INTEGER NOT NULL,
    revisions      INTEGER,          -- the sum of its windows' revisions before they were read; NULL: never written
    windows        INTEGER,
    bytes          INTEGER,
    exported_ms    INTEGER,
    owner          TEXT NOT NULL,    -- the node that writes it, or wrote it last
    lease_until_ms INTEGER NOT NULL, -- until then no other node writes it
    PRIMARY KEY (target, site, width_ms, day_ms)
) STRICT, WITHOUT ROWID;
",
    r"
-- What the site says of a batch that it has lost itself; NULL where the database lacks what the site had confirmed before.
ALTER TABLE hole ADD COLUMN readings INTEGER;
ALTER TABLE hole ADD COLUMN parts INTEGER;
ALTER TABLE hole ADD COLUMN from_ms INTEGER;
ALTER TABLE hole ADD COLUMN to_ms INTEGER;

DROP VIEW holes;
CREATE VIEW holes AS
-- Batches that never came and that the edge no longer has: what they held is missing here for good. Each shard numbers its own batches.
SELECT site, shard, first_seq AS first_batch, last_seq AS last_batch, last_seq - first_seq + 1 AS batches,
       strftime('%Y-%m-%dT%H:%M:%fZ', found_ms / 1000.0, 'unixepoch') AS found,
       parts IS NOT NULL AS lost_at_site, -- 1 when every replica at the site has lost it; 0 when a database had it, and this one has not
       readings,                          -- how many readings it held, and in how many parts of windows; NULL where that is not known
       parts,
       strftime('%Y-%m-%dT%H:%M:%fZ', from_ms / 1000.0, 'unixepoch') AS windows_from, -- where the earliest of its windows starts
       strftime('%Y-%m-%dT%H:%M:%fZ', to_ms / 1000.0, 'unixepoch') AS windows_to      -- where the latest of them ends
FROM hole;
",
    r"
CREATE TABLE ledger (
    -- The id of this ledger; a restored copy of the database has the same. A site trims what it keeps only for the ledger that it has admitted.
    id BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;
INSERT INTO ledger (id) VALUES (randomblob(16));
",
    r"
-- The known incarnation of the site (its generation and its random part), and the number that is added to its batch numbers here.
ALTER TABLE shard_progress ADD COLUMN incarnation BLOB NOT NULL DEFAULT (zeroblob(24));
ALTER TABLE shard_progress ADD COLUMN base INTEGER NOT NULL DEFAULT 0;
",
];

/// The columns of a window or roll-up beside its key. Those from `sum` on follow from the others and are there to be read.
const ROW: &str = "count        INTEGER NOT NULL,
    min          REAL NOT NULL,
    max          REAL NOT NULL,
    first_ms     INTEGER NOT NULL, -- the earliest reading: its time, slot and index in its shard's log, value
    first_slot   INTEGER NOT NULL,
    first_index  INTEGER NOT NULL,
    first        REAL NOT NULL,
    last_ms      INTEGER NOT NULL, -- the latest
    last_slot    INTEGER NOT NULL,
    last_index   INTEGER NOT NULL,
    last         REAL NOT NULL,
    fingerprint  INTEGER NOT NULL, -- of all values, in any order
    late_count   INTEGER NOT NULL,
    revision     INTEGER NOT NULL, -- how many parts it was merged from
    set_aside    INTEGER NOT NULL,
    missing      INTEGER,          -- NULL where readings are not numbered
    sequences    BLOB,             -- which numbers they have
    spread       BLOB NOT NULL,    -- their exact sum, that of their squares, and a sketch if one is kept
    sum          REAL,             -- NULL if it is beyond the greatest double
    mean         REAL NOT NULL,
    stddev       REAL NOT NULL,
    p50          REAL,
    p90          REAL,
    p99          REAL,";

/// The same as people read it; `{SPAN}` is its length in milliseconds.
const FACE: &str = "strftime('%Y-%m-%dT%H:%M:%fZ', w.start_ms / 1000.0, 'unixepoch') AS start,
       w.start_ms,                      -- the same in milliseconds since 1970
       {SPAN} / 1000.0 AS length,       -- in seconds
       w.count,                         -- how many readings
       w.sum, w.min, w.max,             -- of their values; a sum beyond the greatest double is NULL
       w.first, w.last,                 -- the value of the earliest and of the latest reading
       w.mean,
       w.stddev,                        -- of all readings, not of a sample
       w.p50, w.p90, w.p99,             -- the readings of ranks ceil(0.5 count) and so on, or close to them; NULL unless the site keeps sketches
       w.revision,                      -- how often it was changed; late readings make it more than 1
       w.late_count,                    -- how many readings came after the window had closed
       w.set_aside,                     -- how many readings the site set aside meanwhile: not counted, kept in its quarantine
       w.missing,                       -- how many sequence numbers are missing between its readings; NULL where they have none
       s.passed_ms >= w.start_ms + {SPAN} AND ((SELECT 1 FROM doubt LIMIT 1) IS NULL OR (SELECT 1 FROM doubt AS x
           WHERE x.series_id = s.series_id AND x.from_ms < w.start_ms + {SPAN} AND x.to_ms > w.start_ms LIMIT 1) IS NULL)
           AS complete,                 -- 1 when the stream has passed its end and no lost batch may have held some of it
       strftime('%Y-%m-%dT%H:%M:%fZ', w.first_ms / 1000.0, 'unixepoch') AS first_time,
       strftime('%Y-%m-%dT%H:%M:%fZ', w.last_ms / 1000.0, 'unixepoch') AS last_time,
       strftime('%Y-%m-%dT%H:%M:%fZ', s.passed_ms / 1000.0, 'unixepoch') AS watermark, -- the watermark of the stream by now
       w.fingerprint                    -- the same for the same values in any order";

/// Of the roll-ups of several lengths of a stream's windows to the same span the one with the most readings; of equal ones that of
/// the shortest windows.
const ONCE: &str = "(SELECT 1 FROM series AS f JOIN series_rollup AS n \
     ON n.span_ms = w.span_ms AND n.start_ms = w.start_ms AND n.series_id = f.series_id \
     WHERE f.device_id = s.device_id AND f.stream = s.stream AND f.series_id <> s.series_id \
     AND (n.count > w.count OR n.count = w.count AND f.width_ms < s.width_ms) LIMIT 1) IS NULL";

fn step(text: &str) -> String {
    let newest = find::newest_start(Dialect::Sqlite, "1000 * CAST(strftime('%s', 'now') AS INTEGER)");
    let mut text = find::with_sums(text.to_string())
        .replace("{ROW}", ROW)
        .replace("{ONCE}", ONCE)
        .replace("{NEWEST}", &newest)
        .replace("{OLDEST}", &find::oldest_start(Dialect::Sqlite))
        .replace("{NEVER}", &NEVER.0.to_string());
    for span in ["s.width_ms", "w.span_ms"] {
        text = text.replace(&format!("{{FACE {span}}}"), &FACE.replace("{SPAN}", span));
    }
    text
}

/// Brings the database to this release's tables.
///
/// # Errors
/// When the database can't be written, or a newer release has already moved it on.
pub fn migrate(db: &mut Connection) -> Result<(), StoreError> {
    db.execute_batch("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY) STRICT")?;
    loop {
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: i64 =
            tx.query_row("SELECT coalesce(max(version), 0) FROM schema_version", [], |row| row.get(0))?;
        let done = usize::try_from(found).unwrap_or(usize::MAX);
        if done > STEPS.len() {
            return Err(StoreError::Newer { found, known: STEPS.len() });
        }
        let Some(text) = STEPS.get(done) else { return Ok(()) };
        if found > 0 {
            tracing::info!(
                from = found,
                "migrating the database to a newer schema; the more windows it holds, the longer this takes"
            );
        }
        tx.execute_batch(&step(text))?;
        tx.execute("INSERT INTO schema_version (version) VALUES (?)", [found + 1])?;
        tx.commit()?;
    }
}
