//! How fast a node is at scale: applies batches until its database holds so many windows, then asks a running node
//! over HTTP, many times, and prints medians and p99.
//!
//! ```text
//! cargo run --release -p selvedge-node --example scale -- --windows 10000000
//! ```
//!
//! The batches go through the task that applies them in a node, up to 64 in a transaction, each on disk before the next.
//! A batch holds what one shard's devices close at a time; `--steps-per-batch 30` makes them as full as those that
//! an edge has kept while it was offline. With `--data-dir` the database is kept, and asked again without being
//! filled; so is one on PostgreSQL, which `--database` names:
//!
//! ```text
//! .ci/postgres start /tmp/pg
//! cargo run --release -p selvedge-node --example scale -- --windows 10000000 --database postgres://...
//! ```

use clap::Parser;
use selvedge_node::apply::{self, Confirmations, QUEUE_ENTRIES};
use selvedge_node::live::Live;
use selvedge_node::node::Node;
use selvedge_node::settings::{NodeSettings, SiteSettings};
use selvedge_node::stats::Stats;
use selvedge_node::store::{self, Reader, Writer};
use selvedge_node_core::incoming::{Incoming, IncomingBatch};
use selvedge_seal::SiteSecret;
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::ids::{ShardId, SiteId};
use selvedge_types::sequences::Sequences;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{Batch, MAX_BATCH_BYTES, Part, StreamName};
use serde_json::json;
use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const SHARDS: u64 = 64;
const WIDTH_MS: i64 = 10_000;
/// 2025-11-24T00:00:00Z.
const START_MS: i64 = 1_763_942_400_000;
const DAY_MS: i64 = 86_400_000;
const READINGS_PER_WINDOW: u32 = 5;

/// Measures how fast a node applies batches and answers queries.
#[derive(Parser)]
struct Options {
    /// How many windows the database is to hold
    #[arg(long, default_value_t = 100_000)]
    windows: u64,
    /// Of how many devices, of one stream each
    #[arg(long, default_value_t = 1_000)]
    devices: u64,
    /// How many windows of each device are in a batch
    #[arg(long, default_value_t = 1)]
    steps_per_batch: u64,
    /// Keep a sketch of each window's values
    #[arg(long)]
    sketches: bool,
    /// How often each query is asked
    #[arg(long, default_value_t = 100)]
    requests: usize,
    /// Keep the database there; one that is there already is not filled again
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// The address of a PostgreSQL database to use instead of SQLite
    #[arg(long, value_name = "postgres://...")]
    database: Option<String>,
    /// One JSON object on the last line
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let temporary = tempfile::tempdir()?;
    let folder = options.data_dir.as_deref().unwrap_or(temporary.path());
    let settings = settings(folder, options.database.as_deref())?;
    let database = settings.database()?;
    let opening = Instant::now();
    let (writer, reader) = store::open(&database).await?;
    let opened_s = opening.elapsed().as_secs_f64();
    let empty = reader.series(None, None, None, 1).await?.is_empty();
    // The last one that leaves an SQLite file puts its log into it.
    let filled = match empty {
        true => Some(fill(writer, reader, &options).await?),
        false => {
            drop(reader);
            writer.close().await?;
            None
        }
    };
    let bytes = match &options.database {
        Some(address) => postgres_bytes(address).await?,
        None => std::fs::metadata(folder.join("selvedge.db"))?.len(),
    };
    println!("database             {:>10.1} MB, opened in {opened_s:.2} s", bytes as f64 / 1e6);

    let node = Node::start(settings.check()?, None).await?;
    let mut asked = vec![];
    println!(
        "{:<34} {:>8} {:>10} {:>10} {:>10} {:>10}",
        "query", "rows", "kB", "median ms", "p99 ms", "max ms"
    );
    for (name, path) in queries() {
        let measured = ask(node.http, &path, &options).await.map_err(|e| format!("{name}: {e}"))?;
        let Measured { rows, bytes, median_ms, p99_ms, max_ms } = measured;
        let kb = bytes as f64 / 1e3;
        println!("{name:<34} {rows:>8} {kb:>10.1} {median_ms:>10.2} {p99_ms:>10.2} {max_ms:>10.2}");
        asked.push(json!({ "query": name, "path": path, "rows": rows, "bytes": bytes,
            "median_ms": median_ms, "p99_ms": p99_ms, "max_ms": max_ms }));
    }
    node.stop().await?;
    if options.json {
        let all = json!({ "windows": options.windows, "devices": options.devices, "database_bytes": bytes,
            "opened_s": opened_s, "filled": filled, "queries": asked });
        println!("{all}");
    }
    Ok(())
}

/// Each by name; `{device}` stands for another device in each request.
fn queries() -> Vec<(&'static str, String)> {
    let day = format!("from={START_MS}&to={}", START_MS + DAY_MS);
    let hour = format!("from={START_MS}&to={}", START_MS + 3_600_000);
    // From and to somewhere within a window.
    let odd = |length: i64| format!("from={}&to={}", START_MS + 1_234_567, START_MS + 1_234_567 + length);
    let device = "/v1/aggregates?device={device}";
    vec![
        ("device, hour, as stored", format!("{device}&{hour}")),
        ("device, day, as stored", format!("{device}&{day}&limit=10000")),
        ("device, day, every=1m", format!("{device}&{day}&every=1m&limit=10000")),
        ("device, day, every=1h", format!("{device}&{day}&every=1h")),
        ("device, all, every=1h", format!("{device}&every=1h")),
        ("device, odd day, every=1h", format!("{device}&{}&every=1h", odd(DAY_MS))),
        ("device, odd hour, every=1h", format!("{device}&{}&every=1h", odd(3_600_000))),
        ("each device, day, every=1h", format!("/v1/aggregates?{day}&every=1h&limit=10000")),
        ("each device, day, every=1d", format!("/v1/aggregates?{day}&every=1d&limit=10000")),
        ("fleet, day, every=1h", format!("/v1/aggregates?stream=temperature&{day}&every=1h&group_by=stream")),
        ("fleet, all, every=1h", "/v1/aggregates?every=1h&group_by=stream".to_string()),
        ("fleet, all, every=1d", "/v1/aggregates?every=1d&group_by=stream".to_string()),
    ]
}

async fn postgres_bytes(address: &str) -> Result<u64> {
    let (client, connection) = tokio_postgres::connect(address, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    // Without it the planner knows a table that was just filled only when autovacuum gets to it.
    client.batch_execute("ANALYZE").await?;
    let bytes: i64 = client.query_one("SELECT pg_database_size(current_database())", &[]).await?.get(0);
    Ok(bytes as u64)
}

fn settings(folder: &Path, database: Option<&str>) -> Result<NodeSettings> {
    let mut settings = NodeSettings { data_dir: folder.to_owned(), ..NodeSettings::default() };
    if let Some(address) = database {
        settings.database.0 = address.to_string();
    }
    settings.http.port = 0;
    settings.uplink.host = "127.0.0.1".into();
    settings.uplink.port = 0;
    let secret = Some(SiteSecret::generate()?);
    settings.sites =
        vec![SiteSettings { name: site()?, secret, secret_file: None, accept_secret_files: vec![] }];
    Ok(settings)
}

fn site() -> Result<SiteId> {
    Ok(SiteId::new("plant-7")?)
}

fn device(n: u64) -> String {
    format!("device-{n:05}")
}

/// Applies batches until the windows are there.
async fn fill(writer: Writer, reader: Reader, options: &Options) -> Result<serde_json::Value> {
    let (queue, waiting) = mpsc::channel(QUEUE_ENTRIES);
    let stats = Arc::new(Stats::default());
    // Nobody listens, so that nothing is told, and the reader is given up.
    let (live, _) = Live::new(reader, EpochMs::from(SystemTime::now()));
    let writer = tokio::spawn(apply::run(writer, waiting, Arc::new(Confirmations::default()), stats, live));
    let steps = options.windows.div_ceil(options.devices);
    let (mut batches, mut windows, mut tenths) = (0u64, 0u64, vec![]);
    let (start, mut tenth, mut before) = (Instant::now(), Instant::now(), 0);
    for (seq, first) in (1..).zip((0..steps).step_by(options.steps_per_batch.max(1) as usize)) {
        let last = (first + options.steps_per_batch.max(1)).min(steps);
        for shard in 0..SHARDS.min(options.devices) {
            let batch = batch(shard, first..last, options);
            if seq == 1 && batch.encode().len() > MAX_BATCH_BYTES {
                return Err("a batch would be larger than an edge cuts it; fewer steps".into());
            }
            windows += batch.parts.len() as u64;
            batches += 1;
            let content = Some(IncomingBatch { seq, batch, body_hash: seq });
            let one = Incoming {
                site: site()?,
                incarnation: Default::default(),
                shard: ShardId(shard as u16),
                first_kept: 1,
                last: seq,
                content,
                lost: None,
            };
            queue.send(one).await.map_err(|_| "the writer ended")?;
        }
        if windows >= (tenths.len() as u64 + 1) * options.windows / 10 {
            tenths.push(((windows - before) as f64 / tenth.elapsed().as_secs_f64()).round());
            (tenth, before) = (Instant::now(), windows);
        }
    }
    drop(queue);
    writer.await??;
    let seconds = start.elapsed().as_secs_f64();
    let rate = |n: u64| n as f64 / seconds;
    println!(
        "applied              {batches:>10} batches of {:.1} windows in {seconds:.1} s",
        windows as f64 / batches as f64
    );
    println!("                     {:>10.0} batches/s", rate(batches));
    println!("                     {:>10.0} windows/s; by tenths {tenths:?}", rate(windows));
    Ok(json!({ "batches": batches, "windows": windows, "seconds": seconds, "batches_per_s": rate(batches),
        "windows_per_s": rate(windows), "windows_per_s_by_tenths": tenths }))
}

/// What the devices of a shard have closed.
fn batch(shard: u64, steps: std::ops::Range<u64>, options: &Options) -> Batch {
    let devices: Vec<u64> = (shard..options.devices).step_by(SHARDS as usize).collect();
    let name = |n: &u64| StreamName { device: device(*n), stream: "temperature".into() };
    let parts = steps.flat_map(|step| {
        devices.iter().enumerate().map(move |(at, n)| part(at as u32, *n, step, options.sketches))
    });
    Batch { streams: devices.iter().map(name).collect(), parts: parts.collect() }
}

fn part(stream: u32, device: u64, step: u64, sketches: bool) -> Part {
    let start = EpochMs(START_MS + step as i64 * WIDTH_MS);
    let sample = |index: u32| {
        let value = (device as f64 / 97.0 + step as f64 / 31.0 + f64::from(index)).sin() * 20.0 + 20.0;
        let time = start.plus(i64::from(index) * WIDTH_MS / i64::from(READINGS_PER_WINDOW));
        Sample { time, slot: step * 10 + u64::from(index), index, value }
    };
    let mut aggregate = if sketches { Aggregate::sketched(sample(0)) } else { Aggregate::of(sample(0)) };
    (1..READINGS_PER_WINDOW).for_each(|index| aggregate.add(sample(index)));
    Part {
        stream,
        width_ms: WIDTH_MS as u32,
        start,
        aggregate,
        late: 0,
        watermark: start.plus(WIDTH_MS + 2_000),
        set_aside: 0,
        sequences: Sequences::default(),
    }
}

struct Measured {
    rows: usize,
    bytes: usize,
    median_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

/// Asks many times, one after the other, each on a connection of its own.
async fn ask(http: SocketAddr, path: &str, options: &Options) -> Result<Measured> {
    let (mut took, mut body) = (Vec::with_capacity(options.requests), String::new());
    for n in 0..options.requests as u64 {
        // Spread over the devices, so that not the same pages are read again.
        let path = path.replace("{device}", &device(n * 7919 % options.devices));
        let start = Instant::now();
        body = get(http, &path).await?;
        took.push(start.elapsed());
    }
    took.sort();
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let rank = |part: f64| ms(took[((took.len() as f64 * part).ceil() as usize).clamp(1, took.len()) - 1]);
    let answer: serde_json::Value = serde_json::from_str(&body)?;
    let rows = answer["aggregates"].as_array().map_or(0, Vec::len);
    Ok(Measured { rows, bytes: body.len(), median_ms: rank(0.5), p99_ms: rank(0.99), max_ms: rank(1.0) })
}

async fn get(http: SocketAddr, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(http).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = vec![];
    socket.read_to_end(&mut answer).await?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    match head.starts_with("HTTP/1.1 200") {
        true => Ok(body.to_string()),
        false => Err(format!("{path}: {answer}").into()),
    }
}
