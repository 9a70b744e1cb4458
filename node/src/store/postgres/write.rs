//! Writing: many batches in one transaction, each counted once, whichever node it came to.
//!
//! The rows of a shard's windows are read and written while its row of `shard_progress` is locked. Should that ever not hold
//! (one device in the batches of two shards), the transaction fails rather than lose something: a row that is new is inserted and
//! nothing else, a row that was read is updated only if it is still at the revision that was read.

use super::super::{StoreError, sequences_bytes, sequences_from, whole};
use super::link::{Postgres, PostgresConnection, WRITE_MS};
use super::{At, LEDGER_ID, ROW, held, ledger_id, schema, window_at};
use selvedge_node_core::incoming::Incoming;
use selvedge_node_core::passed::{DOUBT_AFTER_MS, Doubt, Passed, Seen};
use selvedge_node_core::progress::{BatchSpan, MAX_HOLES_ENTRIES};
use selvedge_node_core::stage::{
    self, Applied, Change, SeriesIds, SeriesKey, ShardKey, Stage, StoredShard, StreamSeen,
};
use selvedge_node_core::stored::StoredWindow;
use selvedge_node_core::totals::Totals;
use selvedge_types::ids::{ShardId, SiteId};
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{LedgerId, LostBatch, SiteIncarnation};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement, Transaction};

/// How long a transaction may take in all.
pub const TRANSACTION_MS: u64 = 2 * WRITE_MS;

/// The one connection of this node that writes.
pub struct PostgresWriter {
    server: Arc<Postgres>,
    /// None until it is needed, and after a failure.
    session: Option<Box<Session>>,
}

struct Session {
    link: PostgresConnection,
    ledger: LedgerId,
    statements: Statements,
    series: SeriesIds,
}

impl PostgresWriter {
    pub(super) fn new(server: Arc<Postgres>) -> Self {
        Self { server, session: None }
    }

    pub async fn apply(&mut self, messages: &Arc<[Incoming]>, now: EpochMs) -> Result<Applied, StoreError> {
        let (session, server) = (self.session.take(), &self.server);
        let work = async {
            let mut session = match session {
                Some(session) => session,
                None => Box::new(Session::new(server).await?),
            };
            let applied = session.transact(messages, now).await?;
            Ok::<_, StoreError>((session, applied))
        };
        let limit = Duration::from_millis(TRANSACTION_MS);
        let (session, applied) =
            tokio::time::timeout(limit, work).await.map_err(|_| StoreError::Silent)??;
        self.session = Some(session);
        Ok(applied)
    }
}

impl Session {
    async fn new(server: &Postgres) -> Result<Self, StoreError> {
        let mut link = server.link_to_write().await?;
        // While there was no connection, a newer release may have been at it.
        schema::version(&link).await?;
        let statements = Statements::prepare(&mut link).await?;
        let ledger = ledger_id(&link.client.query_one(LEDGER_ID, &[]).await?)?;
        Ok(Self { link, ledger, statements, series: SeriesIds::default() })
    }

    async fn transact(&mut self, messages: &[Incoming], now: EpochMs) -> Result<Applied, StoreError> {
        let Self { link, ledger, statements, series } = self;
        series.bound();
        let tx = Tx { tx: link.client.transaction().await?, statements, now };
        let stage = Stage::new(messages, tx.lock(messages).await?);
        let changed = stage.changes();
        let unknown: Vec<_> = stage.unknown_series(series).into_iter().collect();
        if !unknown.is_empty() {
            for (key, id) in tx.series_ids(unknown).await? {
                series.insert(key, id);
            }
        }
        let (windows, rollups) = stage.rows(series);
        let written = windows.len();
        let windows = windows
            .into_iter()
            .map(|((series, start), row)| (RowPlace { series, start, span_ms: None }, row));
        let rollup = |((span, start, series), row)| (RowPlace { series, start, span_ms: Some(span) }, row);
        let (windows, rollups) = (windows.collect(), rollups.into_iter().map(rollup).collect());
        let streams = stage.streams(series);
        tokio::try_join!(
            biased;
            tx.put(&statements.windows, windows),
            tx.put(&statements.rollups, rollups),
            tx.pass(&streams)
        )?;
        let (mut applied, changes) = stage.finish(written);
        applied.ledger = *ledger;
        if changed {
            tx.save(&changes).await?;
            tx.tx.commit().await?;
        } else {
            tx.tx.rollback().await?;
        }
        Ok(applied)
    }
}

struct Statements {
    claim: Statement,
    lock: Statement,
    beyond: Statement,
    holes: Statement,
    hashes: Statement,
    device: Statement,
    series: Statement,
    series_ids: Statement,
    windows: Table,
    rollups: Table,
    streams: Statement,
    pass: Statement,
    doubt: Statement,
    doubt_ahead: Statement,
    pass_ahead: Statement,
    clear: Statement,
    progress: Statement,
    applied: Statement,
    forget: Statement,
    filled: Statement,
    opened: Statement,
}

/// The columns of a row beside its key, and the types of arrays of them.
const COLUMNS: [(&str, &str); 24] = [
    ("count", "bigint"),
    ("min", "float8"),
    ("max", "float8"),
    ("first_ms", "bigint"),
    ("first_slot", "bigint"),
    ("first_index", "bigint"),
    ("first", "float8"),
    ("last_ms", "bigint"),
    ("last_slot", "bigint"),
    ("last_index", "bigint"),
    ("last", "float8"),
    ("fingerprint", "bigint"),
    ("late_count", "bigint"),
    ("revision", "bigint"),
    ("set_aside", "bigint"),
    ("missing", "bigint"),
    ("sequences", "bytea"),
    ("spread", "bytea"),
    ("sum", "float8"),
    ("mean", "float8"),
    ("stddev", "float8"),
    ("p50", "float8"),
    ("p90", "float8"),
    ("p99", "float8"),
];

type Columns = [(&'static str, &'static str)];
const WINDOW_KEY: &Columns = &[("series_id", "bigint"), ("start", "timestamptz")];
const ROLLUP_KEY: &Columns = &[("series_id", "bigint"), ("start", "timestamptz"), ("span_ms", "bigint")];

/// Where a row lies; a span of a roll-up, or none of a window.
struct RowPlace {
    series: i64,
    start: EpochMs,
    span_ms: Option<i64>,
}

/// What is done with the rows of a table.
struct Table {
    select: Statement,
    insert: Statement,
    update: Statement,
}

fn names(columns: &Columns) -> String {
    columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Parameters `$1`, `$2`, ..., one array for each column.
fn arrays(columns: &Columns) -> String {
    let array = |(n, (_, ty)): (usize, &(&str, &str))| format!("${}::{ty}[]", n + 1);
    columns.iter().enumerate().map(array).collect::<Vec<_>>().join(", ")
}

impl Table {
    async fn prepare(client: &Client, table: &str, key: &Columns) -> Result<Self, tokio_postgres::Error> {
        let same =
            key.iter().map(|(name, _)| format!("w.{name} = k.{name}")).collect::<Vec<_>>().join(" AND ");
        let select = format!(
            "SELECT k.n, {ROW} FROM unnest({}) WITH ORDINALITY AS k ({}, n) JOIN {table} AS w ON {same}",
            arrays(key),
            names(key)
        );
        let all = [key, &COLUMNS].concat();
        let insert = format!(
            "INSERT INTO {table} ({all}) SELECT {all} FROM unnest({}) AS k ({all})",
            arrays(&all),
            all = names(&all)
        );
        let with_was = [all.as_slice(), &[("was", "bigint")]].concat();
        let set = COLUMNS.iter().map(|(name, _)| format!("{name} = k.{name}")).collect::<Vec<_>>().join(", ");
        let update = format!(
            "UPDATE {table} AS w SET {set} FROM unnest({}) AS k ({}) WHERE {same} AND w.revision = k.was",
            arrays(&with_was),
            names(&with_was)
        );
        Ok(Self {
            select: client.prepare(&select).await?,
            insert: client.prepare(&insert).await?,
            update: client.prepare(&update).await?,
        })
    }
}

const SHARDS: &str = "unnest($1::text[], $2::int[]) AS k (site, shard)";

impl Statements {
    async fn prepare(link: &mut PostgresConnection) -> Result<Self, tokio_postgres::Error> {
        let client = &link.client;
        let claim = "INSERT INTO shard_progress (site, shard, cursor, edge_first_kept, edge_last, batches_applied, changed_ms) \
             SELECT site, shard, 0, 0, 0, 0, $3 FROM unnest($1::text[], $2::int[]) WITH ORDINALITY AS k (site, shard, n) \
             ORDER BY n ON CONFLICT DO NOTHING";
        let lock = format!(
            "SELECT p.site, p.shard, p.cursor, p.edge_first_kept, p.edge_last, p.conflict_seq, p.incarnation, p.base \
             FROM shard_progress AS p JOIN {SHARDS} ON p.site = k.site AND p.shard = k.shard \
             ORDER BY p.site, p.shard FOR UPDATE OF p"
        );
        let beyond = format!(
            "SELECT p.site, p.shard, b.seq FROM {SHARDS} JOIN shard_progress AS p ON p.site = k.site AND p.shard = k.shard \
             JOIN applied_batch AS b ON b.site = p.site AND b.shard = p.shard AND b.seq > p.cursor"
        );
        let holes = format!(
            "SELECT k.site, k.shard, h.first_seq, h.last_seq FROM {SHARDS} CROSS JOIN LATERAL \
             (SELECT first_seq, last_seq FROM hole WHERE hole.site = k.site AND hole.shard = k.shard \
              ORDER BY first_seq DESC LIMIT {MAX_HOLES_ENTRIES}) AS h"
        );
        let hashes = "SELECT b.site, b.shard, b.seq, b.body_hash FROM unnest($1::text[], $2::int[], $3::bigint[]) AS k (site, shard, seq) \
             JOIN shard_progress AS p ON p.site = k.site AND p.shard = k.shard \
             JOIN applied_batch AS b ON b.site = k.site AND b.shard = k.shard AND b.seq = p.base + k.seq";
        let device = "INSERT INTO device (site, name, shard, first_seen_ms) SELECT DISTINCT ON (k.site, k.name) k.site, k.name, \
             k.shard, $4::bigint FROM unnest($1::text[], $2::text[], $3::int[]) AS k (site, name, shard) ON CONFLICT DO NOTHING";
        let named = "unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) WITH ORDINALITY AS k (site, name, stream, width_ms, n) \
             JOIN device AS d ON d.site = k.site AND d.name = k.name";
        let series = format!(
            "INSERT INTO series (device_id, stream, width_ms) SELECT d.device_id, k.stream, k.width_ms FROM {named} \
             ON CONFLICT DO NOTHING"
        );
        let series_ids = format!(
            "SELECT s.series_id FROM {named} JOIN series AS s \
             ON s.device_id = d.device_id AND s.stream = k.stream AND s.width_ms = k.width_ms ORDER BY k.n"
        );
        // The one of all widths that knows most comes first: a width that is new knows nothing.
        let streams = "SELECT k.n, n.series_id, n.passed_ms, n.passed_seq, n.ahead_ms, n.ahead_seq, n.readings, \
             n.late_count, n.set_aside, n.sequences, n.missing_before, n.set_back FROM unnest($1::bigint[]) WITH ORDINALITY AS k (series_id, n) JOIN series AS s ON s.series_id = k.series_id \
             JOIN series AS n ON n.device_id = s.device_id AND n.stream = s.stream ORDER BY k.n, n.passed_seq DESC";
        let pass = "UPDATE series AS s SET passed_ms = k.passed_ms, passed_seq = k.passed_seq, ahead_ms = k.ahead_ms, \
             ahead_seq = k.ahead_seq, readings = k.readings, late_count = k.late_count, set_aside = k.set_aside, \
             missing = k.missing, sequences = k.sequences, missing_before = k.missing_before, set_back = k.set_back \
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], \
             $8::bigint[], $9::bigint[], $10::bytea[], $11::bigint[], $12::bigint[]) AS k (series_id, passed_ms, passed_seq, ahead_ms, ahead_seq, \
             readings, late_count, set_aside, missing, sequences, missing_before, set_back) WHERE s.series_id = k.series_id";
        let doubt = "INSERT INTO doubt SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) \
             ON CONFLICT DO NOTHING";
        // Streams whose newest batch was beyond a gap that has closed: they have come as far as that batch says, and what the hole
        // may have held of them, if the gap became one, is in doubt.
        let closed = "unnest($1::text[], $2::int[], $3::bigint[]) AS k (site, shard, cursor) \
             JOIN device AS d ON d.site = k.site AND d.shard = k.shard \
             JOIN series AS s ON s.device_id = d.device_id AND s.ahead_seq <= k.cursor";
        let doubt_ahead = format!(
            "INSERT INTO doubt SELECT s.series_id, least(s.passed_ms, s.ahead_ms), greatest(s.passed_ms, s.ahead_ms) + {DOUBT_AFTER_MS}, min(h.first_seq), max(h.last_seq) \
             FROM {closed} JOIN hole AS h ON h.site = d.site AND h.shard = d.shard AND h.first_seq > s.passed_seq \
             AND h.last_seq < s.ahead_seq GROUP BY s.series_id ON CONFLICT DO NOTHING"
        );
        let pass_ahead = format!(
            "UPDATE series AS u SET passed_ms = u.ahead_ms, set_back = u.set_back + (u.ahead_ms < u.passed_ms)::int, \
             passed_seq = u.ahead_seq, ahead_ms = NULL, ahead_seq = NULL FROM {closed} WHERE u.series_id = s.series_id"
        );
        // What a hole that is filled after all had left in doubt.
        let clear = "DELETE FROM doubt AS x USING unnest($1::text[], $2::int[]) AS k (site, shard) \
             JOIN device AS d ON d.site = k.site AND d.shard = k.shard JOIN series AS s ON s.device_id = d.device_id \
             WHERE x.series_id = s.series_id AND NOT EXISTS (SELECT 1 FROM hole AS h WHERE h.site = k.site AND h.shard = k.shard \
             AND h.first_seq <= x.last_seq AND h.last_seq >= x.first_seq)";
        let progress = "UPDATE shard_progress AS p SET cursor = k.cursor, edge_first_kept = k.first_kept, edge_last = k.last, \
             batches_applied = p.batches_applied + k.applied, conflict_seq = k.conflict, changed_ms = $8, \
             incarnation = k.incarnation, base = k.base FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[], $5::bigint[], \
             $6::bigint[], $7::bigint[], $9::bytea[], $10::bigint[]) \
             AS k (site, shard, cursor, first_kept, last, applied, conflict, incarnation, base) WHERE p.site = k.site AND p.shard = k.shard";
        let applied = "INSERT INTO applied_batch (site, shard, seq, parts, body_hash, applied_ms) \
             SELECT k.site, k.shard, k.seq, k.parts, k.hash, $6::bigint \
             FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[], $5::bigint[]) AS k (site, shard, seq, parts, hash)";
        let forget = "DELETE FROM applied_batch AS b USING unnest($1::text[], $2::int[], $3::bigint[]) AS k (site, shard, seq) \
             WHERE b.site = k.site AND b.shard = k.shard AND b.seq <= k.seq";
        let filled = "DELETE FROM hole AS h USING unnest($1::text[], $2::int[], $3::bigint[]) AS k (site, shard, first) \
             WHERE h.site = k.site AND h.shard = k.shard AND h.first_seq = k.first";
        let opened = "INSERT INTO hole (site, shard, first_seq, last_seq, found_ms, readings, parts, from_ms, to_ms) \
             SELECT k.site, k.shard, k.first, k.last, $5::bigint, k.readings, k.parts, k.from_ms, k.to_ms \
             FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[]) \
             AS k (site, shard, first, last, readings, parts, from_ms, to_ms)";
        Ok(Self {
            claim: client.prepare(claim).await?,
            lock: client.prepare(&lock).await?,
            beyond: client.prepare(&beyond).await?,
            holes: client.prepare(&holes).await?,
            hashes: client.prepare(hashes).await?,
            device: client.prepare(device).await?,
            series: client.prepare(&series).await?,
            series_ids: client.prepare(&series_ids).await?,
            windows: Table::prepare(client, "series_window", WINDOW_KEY).await?,
            rollups: Table::prepare(client, "series_rollup", ROLLUP_KEY).await?,
            streams: client.prepare(streams).await?,
            pass: client.prepare(pass).await?,
            doubt: client.prepare(doubt).await?,
            doubt_ahead: client.prepare(&doubt_ahead).await?,
            pass_ahead: client.prepare(&pass_ahead).await?,
            clear: client.prepare(clear).await?,
            progress: client.prepare(progress).await?,
            applied: client.prepare(applied).await?,
            forget: client.prepare(forget).await?,
            filled: client.prepare(filled).await?,
            opened: client.prepare(opened).await?,
        })
    }
}

/// A transaction under way. What does not wait for each other is sent at once; of several errors the first is told (`biased`), since the
/// others only say that the transaction is over.
struct Tx<'a> {
    tx: Transaction<'a>,
    statements: &'a Statements,
    now: EpochMs,
}

impl Tx<'_> {
    /// Locks the shards that are heard, always in the same order, and reads them.
    async fn lock(&self, messages: &[Incoming]) -> Result<BTreeMap<ShardKey, StoredShard>, StoreError> {
        let s = self.statements;
        let heard = stage::heard(messages);
        // A shard that only asks needs no row.
        let writes = |key: &ShardKey| {
            let of_it = messages.iter().filter(|m| (&m.site, m.shard) == (&key.0, key.1));
            of_it.into_iter().any(|m| m.content.is_some() || m.lost.is_some() || m.first_kept > 1)
        };
        let (sites, shards) = columns(heard.keys().filter(|key| writes(key)));
        self.tx.execute(&s.claim, &[&sites, &shards, &self.now.0]).await?;
        let (sites, shards) = columns(heard.keys());
        let locked = self.tx.query(&s.lock, &[&sites, &shards]).await?;
        let asked: Vec<_> =
            heard.iter().flat_map(|(key, seqs)| seqs.iter().map(move |seq| (key, seq))).collect();
        let (of_sites, of_shards) = columns(asked.iter().map(|(key, _)| *key));
        let seqs: Vec<i64> = asked.iter().map(|(_, seq)| whole(**seq)).collect();
        let shards: [&(dyn ToSql + Sync); 2] = [&sites, &shards];
        let batches: [&(dyn ToSql + Sync); 3] = [&of_sites, &of_shards, &seqs];
        let (beyond, holes, hashes) = tokio::try_join!(
            biased;
            self.tx.query(&s.beyond, &shards),
            self.tx.query(&s.holes, &shards),
            self.tx.query(&s.hashes, &batches),
        )?;
        let mut all: BTreeMap<ShardKey, StoredShard> =
            heard.into_keys().map(|key| (key, StoredShard::default())).collect();
        let number = |row: &Row, at: usize| Ok::<_, StoreError>(row.try_get::<_, i64>(at)? as u64);
        for row in &locked {
            let Some(shard) = all.get_mut(&key_of(row)?) else { continue };
            (shard.cursor, shard.first_kept, shard.last) =
                (number(row, 2)?, number(row, 3)?, number(row, 4)?);
            shard.conflict = row.try_get::<_, Option<i64>>(5)?.map(|seq| seq as u64);
            let incarnation = row.try_get::<_, &[u8]>(6)?.try_into().unwrap_or_default();
            (shard.incarnation, shard.base) = (SiteIncarnation::from_bytes(incarnation), number(row, 7)?);
        }
        for row in &beyond {
            let Some(shard) = all.get_mut(&key_of(row)?) else { continue };
            shard.beyond.push(number(row, 2)?);
        }
        for row in &holes {
            let Some(shard) = all.get_mut(&key_of(row)?) else { continue };
            shard.holes.push(BatchSpan { first: number(row, 2)?, last: number(row, 3)? });
        }
        for row in &hashes {
            let Some(shard) = all.get_mut(&key_of(row)?) else { continue };
            shard.hashes.insert(number(row, 2)?, number(row, 3)?);
        }
        Ok(all)
    }

    async fn series_ids(&self, keys: Vec<(SeriesKey, ShardId)>) -> Result<Vec<(SeriesKey, i64)>, StoreError> {
        let s = self.statements;
        let (keys, shards): (Vec<SeriesKey>, Vec<i32>) =
            keys.into_iter().map(|(key, shard)| (key, i32::from(shard.0))).unzip();
        let sites: Vec<&str> = keys.iter().map(|(site, _, _)| site.as_str()).collect();
        let devices: Vec<Cow<'_, str>> = keys.iter().map(|(_, name, _)| held(&name.device)).collect();
        let streams: Vec<Cow<'_, str>> = keys.iter().map(|(_, name, _)| held(&name.stream)).collect();
        let widths: Vec<i64> = keys.iter().map(|(_, _, width)| i64::from(*width)).collect();
        self.tx.execute(&s.device, &[&sites, &devices, &shards, &self.now.0]).await?;
        self.tx.execute(&s.series, &[&sites, &devices, &streams, &widths]).await?;
        let ids = self.tx.query(&s.series_ids, &[&sites, &devices, &streams, &widths]).await?;
        if ids.len() != keys.len() {
            return Err(StoreError::Changed);
        }
        let ids = ids.iter().map(|row| row.try_get(0)).collect::<Result<Vec<i64>, _>>()?;
        Ok(keys.into_iter().zip(ids).collect())
    }

    /// Records how far streams have come, in all their series, and what these add up to.
    async fn pass(&self, streams: &[StreamSeen<'_>]) -> Result<(), StoreError> {
        if streams.is_empty() {
            return Ok(());
        }
        let s = self.statements;
        let ids: Vec<i64> = streams.iter().map(|stream| stream.series).collect();
        let stored = self.tx.query(&s.streams, &[&ids]).await?;
        let mut now: BTreeMap<i64, (Passed, Option<Doubt>)> = BTreeMap::new();
        let (mut series, mut at, mut seqs, mut ahead) = (vec![], vec![], vec![], (vec![], vec![]));
        let mut set_back = vec![];
        let (mut of, mut from, mut to, mut first, mut last) = (vec![], vec![], vec![], vec![], vec![]);
        let mut sums: Vec<Totals> = vec![];
        for row in &stored {
            let (n, id): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            let Some(stream) = usize::try_from(n - 1).ok().and_then(|n| streams.get(n)) else { continue };
            let before = passed_at(row)?;
            let (passed, doubt) = *now.entry(n).or_insert_with(|| stream.advance(before));
            let mut totals = totals_at(row)?;
            if let Some(more) = stream.totals.get(&id) {
                totals.merge(more);
            }
            sums.push(totals);
            series.push(id);
            at.push(passed.at.0);
            seqs.push(whole(passed.seq));
            set_back.push(whole(passed.set_back));
            ahead.0.push(passed.ahead.map(|seen| seen.watermark.0));
            ahead.1.push(passed.ahead.map(|seen| whole(seen.seq)));
            if let Some(doubt) = doubt {
                of.push(id);
                from.push(doubt.from.0);
                to.push(doubt.to.0);
                first.push(whole(doubt.batches.first));
                last.push(whole(doubt.batches.last));
            }
        }
        let of_all = |get: fn(&Totals) -> u64| sums.iter().map(|one| whole(get(one))).collect::<Vec<i64>>();
        let (readings, late) = (of_all(|one| one.readings), of_all(|one| one.late));
        let (set_aside, before) = (of_all(|one| one.set_aside), of_all(|one| one.missing_before));
        let missing: Vec<Option<i64>> = sums.iter().map(|one| one.missing().map(whole)).collect();
        let sequences: Vec<_> = sums.iter().map(|one| sequences_bytes(&one.sequences)).collect();
        let all: [&(dyn ToSql + Sync); 12] = [
            &series, &at, &seqs, &ahead.0, &ahead.1, &readings, &late, &set_aside, &missing, &sequences,
            &before, &set_back,
        ];
        self.tx.execute(&s.pass, &all).await?;
        if !of.is_empty() {
            self.tx.execute(&s.doubt, &[&of, &from, &to, &first, &last]).await?;
        }
        Ok(())
    }

    /// Merges what is stored into rows, and writes them back.
    async fn put(&self, table: &Table, mut rows: Vec<(RowPlace, StoredWindow)>) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let stored = self.tx.query(&table.select, &refer(&keys(rows.iter().map(|(place, _)| place)))).await?;
        let mut was = vec![None; rows.len()];
        for row in &stored {
            let at = row.try_get::<_, i64>(0)? as usize - 1;
            let before = window_at(row, 1)?;
            was[at] = Some(whole(before.parts));
            stage::merge(&mut rows[at].1, before);
        }
        let (mut old, mut new, mut revisions) = (vec![], vec![], vec![]);
        for ((place, row), was) in rows.iter().zip(was) {
            match was {
                Some(revision) => {
                    old.push((place, row));
                    revisions.push(revision);
                }
                None => new.push((place, row)),
            }
        }
        let inserted = async {
            let none = new.is_empty();
            if none { Ok(0) } else { self.tx.execute(&table.insert, &refer(&arrays_of(&new))).await }
        };
        let updated = async {
            if old.is_empty() {
                return Ok(0);
            }
            let mut parameters = arrays_of(&old);
            parameters.push(Box::new(revisions));
            self.tx.execute(&table.update, &refer(&parameters)).await
        };
        let (_, updated) = tokio::try_join!(biased; inserted, updated)?;
        if updated == old.len() as u64 { Ok(()) } else { Err(StoreError::Changed) }
    }

    /// Records how the shards' progress changes.
    async fn save(&self, changes: &[Change]) -> Result<(), StoreError> {
        let s = self.statements;
        let of =
            |get: fn(&Change) -> u64| changes.iter().map(|change| whole(get(change))).collect::<Vec<i64>>();
        let (sites, shards) = columns(changes.iter().map(|change| &change.key));
        let (cursors, kept, lasts) = (of(|c| c.cursor), of(|c| c.first_kept), of(|c| c.last));
        let (counts, forget) = (of(|c| c.applied.len() as u64), of(|c| c.forget));
        let conflicts: Vec<Option<i64>> = changes.iter().map(|change| change.conflict.map(whole)).collect();
        let incarnations: Vec<_> = changes.iter().map(|c| c.incarnation.to_bytes().to_vec()).collect();
        let bases = of(|c| c.base);
        let progress: [&(dyn ToSql + Sync); 10] = [
            &sites,
            &shards,
            &cursors,
            &kept,
            &lasts,
            &counts,
            &conflicts,
            &self.now.0,
            &incarnations,
            &bases,
        ];

        let applied: Vec<_> =
            changes.iter().flat_map(|c| c.applied.iter().map(move |one| (&c.key, one))).collect();
        let (of_sites, of_shards) = columns(applied.iter().map(|(key, _)| *key));
        let seqs: Vec<i64> = applied.iter().map(|(_, one)| whole(one.seq)).collect();
        let parts: Vec<i64> = applied.iter().map(|(_, one)| one.parts as i64).collect();
        let hashes: Vec<i64> = applied.iter().map(|(_, one)| one.hash as i64).collect();
        let batches: [&(dyn ToSql + Sync); 6] = [&of_sites, &of_shards, &seqs, &parts, &hashes, &self.now.0];

        let forget: [&(dyn ToSql + Sync); 3] = [&sites, &shards, &forget];
        let (updated, _, _) = tokio::try_join!(
            biased;
            self.tx.execute(&s.progress, &progress),
            self.tx.execute(&s.applied, &batches),
            self.tx.execute(&s.forget, &forget),
        )?;
        if updated != changes.len() as u64 {
            return Err(StoreError::Changed);
        }
        let filled: Vec<_> =
            changes.iter().flat_map(|c| c.filled.iter().map(move |first| (&c.key, first))).collect();
        if !filled.is_empty() {
            let (sites, shards) = columns(filled.iter().map(|(key, _)| *key));
            let firsts: Vec<i64> = filled.iter().map(|(_, first)| whole(**first)).collect();
            self.tx.execute(&s.filled, &[&sites, &shards, &firsts]).await?;
        }
        let opened: Vec<_> =
            changes.iter().flat_map(|c| c.opened.iter().map(move |hole| (&c.key, hole))).collect();
        if !opened.is_empty() {
            let (sites, shards) = columns(opened.iter().map(|(key, _)| *key));
            let firsts: Vec<i64> = opened.iter().map(|(_, (hole, _))| whole(hole.first)).collect();
            let lasts: Vec<i64> = opened.iter().map(|(_, (hole, _))| whole(hole.last)).collect();
            let of = |get: fn(LostBatch) -> i64| -> Vec<Option<i64>> {
                opened.iter().map(|(_, (_, lost))| lost.map(get)).collect()
            };
            let (readings, parts) = (of(|lost| whole(lost.readings)), of(|lost| lost.parts.into()));
            let (from, to) = (of(|lost| lost.from.0), of(|lost| lost.to.0));
            let holes: [&(dyn ToSql + Sync); 9] =
                [&sites, &shards, &firsts, &lasts, &self.now.0, &readings, &parts, &from, &to];
            self.tx.execute(&s.opened, &holes).await?;
        }
        let closed: Vec<_> = changes.iter().filter(|change| change.gap_closed).collect();
        if !closed.is_empty() {
            let (sites, shards) = columns(closed.iter().map(|change| &change.key));
            let cursors: Vec<i64> = closed.iter().map(|change| whole(change.cursor)).collect();
            self.tx.execute(&s.doubt_ahead, &[&sites, &shards, &cursors]).await?;
            self.tx.execute(&s.pass_ahead, &[&sites, &shards, &cursors]).await?;
        }
        if !filled.is_empty() {
            let (sites, shards) = columns(filled.iter().map(|(key, _)| *key));
            self.tx.execute(&s.clear, &[&sites, &shards]).await?;
        }
        Ok(())
    }
}

type Parameters = Vec<Box<dyn ToSql + Sync + Send>>;

fn refer(parameters: &Parameters) -> Vec<&(dyn ToSql + Sync)> {
    parameters.iter().map(|one| one.as_ref() as &(dyn ToSql + Sync)).collect()
}

/// Arrays of the columns of a key.
fn keys<'a>(places: impl Iterator<Item = &'a RowPlace>) -> Parameters {
    let (mut series, mut starts, mut spans) = (vec![], vec![], vec![]);
    for place in places {
        series.push(place.series);
        starts.push(At(place.start));
        spans.extend(place.span_ms);
    }
    let mut all: Parameters = vec![Box::new(series), Box::new(starts)];
    if !spans.is_empty() {
        all.push(Box::new(spans));
    }
    all
}

/// Arrays of all columns of rows: their keys and [`COLUMNS`].
fn arrays_of(rows: &[(&RowPlace, &StoredWindow)]) -> Parameters {
    let wholes = |get: &dyn Fn(&StoredWindow) -> i64| {
        Box::new(rows.iter().map(|(_, row)| get(row)).collect::<Vec<i64>>()) as Box<dyn ToSql + Sync + Send>
    };
    let reals = |get: &dyn Fn(&StoredWindow) -> Option<f64>| {
        let all: Vec<Option<f64>> = rows.iter().map(|(_, row)| get(row)).collect();
        Box::new(all) as Box<dyn ToSql + Sync + Send>
    };
    let spreads: Vec<Vec<u8>> = rows.iter().map(|(_, row)| row.aggregate.spread()).collect();
    let missing: Vec<Option<i64>> = rows.iter().map(|(_, row)| row.sequences.missing().map(whole)).collect();
    let sequences: Vec<Option<Vec<u8>>> =
        rows.iter().map(|(_, row)| sequences_bytes(&row.sequences)).collect();
    let mut all = keys(rows.iter().map(|(place, _)| *place));
    all.extend([
        wholes(&|row| whole(row.aggregate.count)),
        reals(&|row| Some(row.aggregate.min)),
        reals(&|row| Some(row.aggregate.max)),
        wholes(&|row| row.aggregate.first.time.0),
        wholes(&|row| whole(row.aggregate.first.slot)),
        wholes(&|row| row.aggregate.first.index.into()),
        reals(&|row| Some(row.aggregate.first.value)),
        wholes(&|row| row.aggregate.last.time.0),
        wholes(&|row| whole(row.aggregate.last.slot)),
        wholes(&|row| row.aggregate.last.index.into()),
        reals(&|row| Some(row.aggregate.last.value)),
        wholes(&|row| row.aggregate.fingerprint as i64),
        wholes(&|row| whole(row.late)),
        wholes(&|row| whole(row.parts)),
        wholes(&|row| whole(row.set_aside)),
        Box::new(missing),
        Box::new(sequences),
        Box::new(spreads),
        reals(&|row| row.aggregate.sum()),
        reals(&|row| Some(row.aggregate.mean())),
        reals(&|row| Some(row.aggregate.stddev())),
        reals(&|row| row.aggregate.quantile(50)),
        reals(&|row| row.aggregate.quantile(90)),
        reals(&|row| row.aggregate.quantile(99)),
    ]);
    all
}

/// Arrays of shards' names.
fn columns<'a>(keys: impl Iterator<Item = &'a ShardKey>) -> (Vec<String>, Vec<i32>) {
    keys.map(|(site, shard)| (site.to_string(), i32::from(shard.0))).unzip()
}

/// How far a stream has come, from the third column on, and in the twelfth.
fn passed_at(row: &Row) -> Result<Passed, StoreError> {
    let ahead = row.try_get::<_, Option<i64>>(4)?.zip(row.try_get::<_, Option<i64>>(5)?);
    let ahead = ahead.map(|(ms, seq)| Seen { seq: seq as u64, watermark: EpochMs(ms) });
    let (seq, set_back) = (row.try_get::<_, i64>(3)? as u64, row.try_get::<_, i64>(11)? as u64);
    Ok(Passed { at: EpochMs(row.try_get(2)?), seq, ahead, set_back })
}

/// What a series adds up to, from the seventh column on.
fn totals_at(row: &Row) -> Result<Totals, StoreError> {
    let whole = |at: usize| Ok::<_, StoreError>(row.try_get::<_, i64>(at)? as u64);
    let sequences = sequences_from(row.try_get::<_, Option<&[u8]>>(9)?)?;
    let (readings, late, set_aside, missing_before) = (whole(6)?, whole(7)?, whole(8)?, whole(10)?);
    Ok(Totals { readings, late, set_aside, sequences, missing_before })
}

/// The shard that a row names first.
fn key_of(row: &Row) -> Result<ShardKey, StoreError> {
    let (site, shard): (String, i32) = (row.try_get(0)?, row.try_get(1)?);
    let site = SiteId::new(&site).map_err(|_| StoreError::Changed)?;
    Ok((site, ShardId(shard as u16)))
}
