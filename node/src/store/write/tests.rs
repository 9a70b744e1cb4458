use super::*;
use crate::store::{Reader, open};
use selvedge_shared::aggregate::Sample;
use std::path::Path;

fn site() -> SiteId {
    SiteId::new("plant-7").unwrap()
}

fn part(stream: u32, start: i64, values: &[f64]) -> Part {
    let sample = |(i, v): (usize, &f64)| Sample {
        time: EpochMs(start + i as i64),
        slot: 1,
        index: i as u32,
        value: *v,
    };
    let mut all = values.iter().enumerate().map(sample).map(Aggregate::of);
    let mut aggregate = all.next().unwrap();
    all.for_each(|one| aggregate.merge(&one));
    Part { stream, width_ms: 10_000, start: EpochMs(start), aggregate, late: 0, watermark: EpochMs(start) }
}

fn batch(parts: Vec<Part>) -> Batch {
    let name = |s: &str| StreamName { device: "press-1".into(), stream: s.into() };
    Batch { streams: vec![name("temp"), name("force")], parts }
}

fn message(seq: u64, first_kept: u64, batch: Batch) -> Incoming {
    let body_hash = xxhash_rust::xxh3::xxh3_64(&batch.encode());
    let content = Some(Content { seq, batch, body_hash });
    Incoming { site: site(), shard: ShardId(3), first_kept, last: seq, content }
}

/// Batch `seq` holds one reading of value `seq` in the one window, and one in a window of its own.
fn numbered(seq: u64) -> Incoming {
    let own = part(1, seq as i64 * 10_000, &[1.0]);
    message(seq, 1, batch(vec![part(0, 0, &[seq as f64]), own]))
}

fn beacon(first_kept: u64, last: u64) -> Incoming {
    Incoming { site: site(), shard: ShardId(3), first_kept, last, content: None }
}

async fn window(reader: &Reader, stream: &str, start: i64) -> crate::store::StoredWindow {
    let series = reader.series(None, Some("press-1"), Some(stream), 9).await.unwrap();
    assert_eq!(series.len(), 1);
    reader.windows(series[0].id, EpochMs(start), EpochMs(start + 1), 9).await.unwrap().rows.remove(0)
}

async fn total(reader: &Reader) -> (u64, f64) {
    let all = window(reader, "temp", 0).await.aggregate;
    (all.count, all.sum)
}

async fn apply(writer: &mut Writer, messages: &[Incoming]) -> Applied {
    writer.apply(messages, EpochMs(1_764_000_000_000)).await.unwrap()
}

fn cursor(applied: &Applied) -> Option<u64> {
    applied.cursors.get(&(site(), ShardId(3))).copied()
}

/// The process ends without closing anything, and a new one opens the same files.
async fn crash(writer: Writer, reader: Reader, folder: &Path) -> (Writer, Reader) {
    drop((writer, reader));
    open(folder).await.unwrap()
}

#[tokio::test]
async fn each_batch_counts_once_in_any_order_and_across_crashes() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, mut reader) = open(folder.path()).await.unwrap();
    use Outcome::{Applied as New, Duplicate};
    let steps: [(&[u64], &[Outcome], u64); 5] = [
        (&[3, 1, 1], &[New, New, Duplicate], 1),
        (&[3, 1], &[Duplicate, Duplicate], 1),
        (&[5, 2], &[New, New], 3),
        (&[1, 2, 3, 4, 5], &[Duplicate, Duplicate, Duplicate, New, Duplicate], 5),
        (&[5, 4, 3], &[Duplicate; 3], 5),
    ];
    for (seqs, outcomes, expected) in steps {
        let messages: Vec<_> = seqs.iter().map(|seq| numbered(*seq)).collect();
        let applied = apply(&mut writer, &messages).await;
        assert_eq!((applied.outcomes.as_slice(), cursor(&applied)), (outcomes, Some(expected)));
        (writer, reader) = crash(writer, reader, folder.path()).await;
    }
    assert_eq!(total(&reader).await, (5, 15.0));
    let merged = window(&reader, "temp", 0).await;
    assert_eq!((merged.parts, merged.late), (5, 0));
    for seq in 1..=5 {
        assert_eq!(window(&reader, "force", seq * 10_000).await.aggregate.count, 1);
    }
    let status = reader.shards().await.unwrap();
    assert_eq!((status[0].batches_applied, status[0].missing, status[0].given_up), (5, 0, 0));
}

#[tokio::test]
async fn a_transaction_that_does_not_commit_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, reader) = open(folder.path()).await.unwrap();
    apply(&mut writer, &[numbered(1)]).await;
    {
        let mut tx = writer.db.as_mut().unwrap().begin_with("BEGIN IMMEDIATE").await.unwrap();
        let known = HashMap::new();
        let two = [numbered(2), numbered(3)];
        let (applied, changed) = stage(&mut tx, &two, EpochMs(0), &known, &mut HashMap::new()).await.unwrap();
        assert!(changed);
        assert_eq!(cursor(&applied), Some(3), "as it would be");
    }
    let (mut writer, reader) = crash(writer, reader, folder.path()).await;
    assert_eq!(total(&reader).await, (1, 1.0));
    assert_eq!(reader.shards().await.unwrap()[0].cursor, 1);
    let applied = apply(&mut writer, &[numbered(2), numbered(3)]).await;
    assert_eq!(applied.outcomes, [Outcome::Applied; 2]);
    assert_eq!(total(&reader).await, (3, 6.0));
}

#[tokio::test]
async fn merging_in_the_database_is_merging_of_aggregates() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, reader) = open(folder.path()).await.unwrap();
    let prints = [i64::MAX, i64::MAX, 1, i64::MIN, i64::MIN, -1, 0, -1, i64::MIN, i64::MAX, 7, i64::MIN + 1];
    let mut expected: Option<Aggregate> = None;
    let mut state = 1u64;
    for (i, print) in prints.iter().enumerate() {
        let mut random = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let values: Vec<f64> = (0..4).map(|_| random(100) as f64 - 50.0).collect();
        let mut one = part(0, 0, &values);
        let a = &mut one.aggregate;
        a.fingerprint = *print as u64;
        (a.first.time, a.first.slot, a.first.index) =
            (EpochMs(random(3) as i64), random(3), random(9) as u32);
        (a.last.time, a.last.slot, a.last.index) = (EpochMs(random(3) as i64), random(3), random(9) as u32);
        match &mut expected {
            Some(all) => all.merge(a),
            none => *none = Some(a.clone()),
        }
        apply(&mut writer, &[message(i as u64 + 1, 1, batch(vec![one]))]).await;
        assert_eq!(Some(window(&reader, "temp", 0).await.aggregate), expected, "after part {i}");
    }
}

#[tokio::test]
async fn counts_stop_at_their_end_and_odd_values_do_not_block_a_shard() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, reader) = open(folder.path()).await.unwrap();
    let mut huge = part(0, 0, &[f64::INFINITY]);
    huge.aggregate.count = i64::MAX as u64;
    huge.late = i64::MAX as u64;
    let odd = part(0, 0, &[f64::NAN, f64::NEG_INFINITY, f64::MAX]);
    let messages =
        [huge.clone(), odd, huge].into_iter().zip(1..).map(|(p, seq)| message(seq, 1, batch(vec![p])));
    for one in messages {
        assert_eq!(apply(&mut writer, &[one]).await.outcomes, [Outcome::Applied]);
    }
    let stored = window(&reader, "temp", 0).await;
    assert_eq!((stored.aggregate.count, stored.late, stored.parts), (i64::MAX as u64, i64::MAX as u64, 3));
    assert!(stored.aggregate.sum.is_nan());
    assert_eq!((stored.aggregate.min, stored.aggregate.max), (f64::NEG_INFINITY, f64::INFINITY));
}

#[tokio::test]
async fn holes_are_recorded_passed_over_and_filled_by_what_comes_late() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, reader) = open(folder.path()).await.unwrap();
    apply(&mut writer, &[numbered(1), numbered(5)]).await;
    let applied = apply(&mut writer, &[beacon(8, 9)]).await;
    assert_eq!((cursor(&applied), applied.given_up), (Some(7), 5));
    let (mut writer, reader) = crash(writer, reader, folder.path()).await;
    let late = apply(&mut writer, &[numbered(3), numbered(3), numbered(1)]).await;
    assert_eq!(late.outcomes, [Outcome::Applied, Outcome::Duplicate, Outcome::Duplicate]);
    assert_eq!((cursor(&late), late.given_up), (Some(7), 0));
    let (_writer, reader) = crash(writer, reader, folder.path()).await;
    let status = reader.shards().await.unwrap();
    assert_eq!((status[0].given_up, status[0].cursor, status[0].batches_applied), (4, 7, 3));
    assert_eq!(total(&reader).await, (3, 9.0));
}

#[tokio::test]
async fn another_content_under_a_used_number_is_not_counted_and_ends_confirmations() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, reader) = open(folder.path()).await.unwrap();
    apply(&mut writer, &[numbered(1), numbered(2)]).await;
    let other = message(2, 1, batch(vec![part(0, 0, &[77.0])]));
    let applied = apply(&mut writer, &[other]).await;
    assert_eq!((applied.outcomes.as_slice(), cursor(&applied)), ([Outcome::Conflict].as_slice(), None));
    let (mut writer, reader) = crash(writer, reader, folder.path()).await;
    assert_eq!(cursor(&apply(&mut writer, &[beacon(1, 2)]).await), None, "a beacon gets no answer either");
    assert_eq!(reader.shards().await.unwrap()[0].conflict, Some(2));
    assert_eq!(total(&reader).await, (2, 3.0));
}

#[tokio::test]
async fn a_beacon_is_answered_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, reader) = open(folder.path()).await.unwrap();
    let applied = apply(&mut writer, &[beacon(1, 0)]).await;
    assert_eq!((applied.outcomes.as_slice(), cursor(&applied)), ([Outcome::Beacon].as_slice(), Some(0)));
    assert_eq!(reader.shards().await.unwrap(), []);
}

#[tokio::test]
async fn shards_and_sites_are_counted_apart() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, reader) = open(folder.path()).await.unwrap();
    let mut elsewhere = numbered(1);
    elsewhere.site = SiteId::new("other").unwrap();
    let mut shard = numbered(1);
    shard.shard = ShardId(4);
    let applied = apply(&mut writer, &[numbered(1), elsewhere, shard]).await;
    assert_eq!(applied.outcomes, [Outcome::Applied; 3]);
    assert_eq!(reader.series(None, Some("press-1"), Some("temp"), 9).await.unwrap().len(), 2);
    assert_eq!(reader.shards().await.unwrap().len(), 3);
}

#[tokio::test]
async fn only_the_newest_batches_stay_listed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, _reader) = open(folder.path()).await.unwrap();
    let many: Vec<_> = (1..=KEPT_BATCHES_ENTRIES + 10).map(|seq| message(seq, 1, batch(vec![]))).collect();
    apply(&mut writer, &many).await;
    let listed: (i64, i64) = sqlx::query_as("SELECT count(*), min(seq) FROM applied_batch")
        .fetch_one(writer.db.as_mut().unwrap())
        .await
        .unwrap();
    assert_eq!(listed, (KEPT_BATCHES_ENTRIES as i64, 11));
}

#[tokio::test]
async fn the_view_reads_as_one_expects() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, _reader) = open(folder.path()).await.unwrap();
    let all = (1..=150).map(|n| part(0, n * 10_000, &[2.0, 4.0])).collect();
    assert_eq!(apply(&mut writer, &[message(1, 1, batch(all))]).await.windows, 150);
    let row: (String, String, String, i64, String, i64, f64) = sqlx::query_as(
        "SELECT site, device, stream, width_ms, start, count, mean FROM window_aggregate ORDER BY start_ms LIMIT 1",
    )
    .fetch_one(writer.db.as_mut().unwrap())
    .await
    .unwrap();
    let expected = ("plant-7", "press-1", "temp", 10_000, "1970-01-01T00:00:10.000Z", 2, 3.0);
    assert_eq!(
        (row.0.as_str(), row.1.as_str(), row.2.as_str(), row.3, row.4.as_str(), row.5, row.6),
        expected
    );
}

#[tokio::test]
async fn the_ledger_gives_every_window_once_page_by_page() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, reader) = open(folder.path()).await.unwrap();
    apply(&mut writer, &(1..=20).map(numbered).collect::<Vec<_>>()).await;
    let mut after = crate::store::WindowKey { series: 0, start: EpochMs(i64::MIN) };
    let mut seen = vec![];
    loop {
        let page = reader.ledger(Some("plant-7"), Some(10_000), after, 6).await.unwrap();
        assert!(page.windows.iter().all(|w| page.series.iter().any(|s| s.id == w.0.series)));
        seen.extend(page.windows.iter().map(|w| w.0));
        let Some(last) = page.windows.last().filter(|_| page.more) else { break };
        after = last.0;
    }
    let distinct: BTreeSet<_> = seen.iter().copied().collect();
    assert_eq!((seen.len(), distinct.len()), (21, 21));
    assert_eq!(
        reader
            .ledger(Some("none"), None, crate::store::WindowKey { series: 0, start: EpochMs(0) }, 6)
            .await
            .unwrap()
            .windows,
        []
    );
    let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(
        "EXPLAIN QUERY PLAN SELECT s.series_id, w.start_ms FROM series AS s CROSS JOIN series_window AS w ON w.series_id = s.series_id \
         WHERE s.series_id >= 1 AND (w.series_id, w.start_ms) > (1, 2) ORDER BY s.series_id, w.start_ms LIMIT 5",
    )
    .fetch_all(writer.db.as_mut().unwrap())
    .await
    .unwrap();
    assert!(
        !plan.iter().any(|step| step.3.contains("TEMP B-TREE")),
        "a page must not sort everything: {plan:?}"
    );
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, _reader) = open(folder.path()).await.unwrap();
    sqlx::query("INSERT INTO schema_version VALUES (99)").execute(writer.db.as_mut().unwrap()).await.unwrap();
    let refused = open(folder.path()).await.err().unwrap();
    assert!(refused.to_string().contains("99"), "{refused}");
}

#[tokio::test]
async fn a_full_disk_costs_a_wait_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, reader) = open(folder.path()).await.unwrap();
    apply(&mut writer, &[numbered(1)]).await;
    // SQLite rolls a transaction back on its own when it finds no room.
    let pages = "PRAGMA max_page_count = 1";
    sqlx::query(pages).execute(writer.db.as_mut().unwrap()).await.unwrap();
    let many: Vec<_> = (2..200).map(numbered).collect();
    let error = writer.apply(&many, EpochMs(0)).await.unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
    // The next connection has room.
    assert_eq!(cursor(&apply(&mut writer, &many).await), Some(199));
    assert_eq!(total(&reader).await.0, 199);
}

#[tokio::test]
async fn a_database_without_roll_ups_is_given_them() {
    type Row = (i64, i64, i64, i64, f64, f64, f64, i64, i64, i64, i64, i64);
    let roll_ups = async |writer: &mut Writer| -> Vec<Row> {
        sqlx::query_as(
            "SELECT span_ms, start_ms, series_id, count, sum, min, max, first_slot, last_ms, fingerprint, parts, watermark_ms \
             FROM series_rollup ORDER BY span_ms, start_ms, series_id",
        )
        .fetch_all(writer.db.as_mut().unwrap())
        .await
        .unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, reader) = open(folder.path()).await.unwrap();
    for seq in 1..=40i64 {
        let parts = (0..30).map(|n| {
            let mut part =
                part((n % 2) as u32, (seq * 7 + n * 13 - 300) * 600_000, &[(seq * n) as f64, -3.0]);
            part.width_ms = [600_000, 1_200_000, 7_200_000, 7_000, 3_600_000][(n % 5) as usize];
            part
        });
        apply(&mut writer, &[message(seq as u64, 1, batch(parts.collect()))]).await;
    }
    let kept = roll_ups(&mut writer).await;
    assert!(kept.iter().any(|row| row.10 > 1) && kept.iter().any(|row| row.1 < 0), "{kept:?}");
    let back = "DROP VIEW rollup_aggregate; DROP TABLE series_rollup; DROP INDEX device_name; \
                DELETE FROM schema_version WHERE version = 2";
    sqlx::raw_sql(back).execute(writer.db.as_mut().unwrap()).await.unwrap();
    let (mut writer, _reader) = crash(writer, reader, folder.path()).await;
    assert_eq!(roll_ups(&mut writer).await, kept);
    let named: (String, String, i64) =
        sqlx::query_as("SELECT device, start, span_ms FROM rollup_aggregate WHERE span_ms = 86400000 AND start_ms = 0 LIMIT 1")
            .fetch_one(writer.db.as_mut().unwrap())
            .await
            .unwrap();
    assert_eq!(named, ("press-1".into(), "1970-01-01T00:00:00.000Z".into(), 86_400_000));
}
