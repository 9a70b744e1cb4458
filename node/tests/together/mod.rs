//! Servers, nodes and an edge for tests of several nodes. Whatever was started is killed when its value is dropped.

use fastrand::Rng;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, Publish, QoS};
use selvedge_seal::{Opener, Sealer, SiteSecret};
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::ids::{ShardId, SiteId};
use selvedge_types::sequences::Sequences;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{Batch, Down, Part, StreamName, Up, ack_topic, up_topic};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

pub const WIDTH_MS: u32 = 10_000;
const START_MS: i64 = 1_764_000_000_000;
const DEVICES: u64 = 5;
/// How many batches of a shard are under way at once.
const AHEAD: u64 = 12;
const RESEND_MS: u64 = 300;
const TICK_MS: u64 = 10;
/// How long a server or a node may take to start.
const START_WAIT_MS: u64 = 60_000;

pub fn site() -> SiteId {
    SiteId::new("plant-7").unwrap()
}

/// Both servers, or nothing and a word why.
pub fn servers() -> Option<(Cluster, Mosquitto)> {
    let Some(mosquitto) = Mosquitto::start() else {
        eprintln!("left out: there is no mosquitto (on Debian: apt-get install mosquitto)");
        return None;
    };
    if !script().arg("check").status().is_ok_and(|status| status.success()) {
        eprintln!("left out: there is no PostgreSQL (on Debian: apt-get install postgresql)");
        return None;
    }
    Some((Cluster::new(), mosquitto))
}

fn script() -> Command {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    Command::new(root.join("../.ci/postgres"))
}

/// A PostgreSQL of the test's own.
pub struct Cluster {
    folder: tempfile::TempDir,
    pub address: String,
}

impl Cluster {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The server may run as another user.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut cluster = Self { folder, address: String::new() };
        cluster.address = cluster.start();
        cluster
    }

    fn server(&self) -> PathBuf {
        self.folder.path().join("server")
    }

    pub fn start(&self) -> String {
        let done = script().arg("start").arg(self.server()).stderr(Stdio::inherit()).output().unwrap();
        assert!(done.status.success(), "the database server does not start");
        String::from_utf8(done.stdout).unwrap().trim().to_string()
    }

    pub fn stop(&self, mode: &str) {
        assert!(script().arg("stop").arg(self.server()).arg(mode).status().unwrap().success());
    }

    /// Keeps a copy of all its files.
    pub fn copy(&self) {
        self.cp("server/data", "copy");
    }

    /// Puts the copy in the place of its files.
    pub fn restore(&self) {
        std::fs::remove_dir_all(self.server().join("data")).unwrap();
        self.cp("copy", "server/data");
    }

    fn cp(&self, from: &str, to: &str) {
        let [from, to] = [from, to].map(|name| self.folder.path().join(name));
        assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    }

    pub async fn connect(&self) -> tokio_postgres::Client {
        let (client, connection) =
            tokio_postgres::connect(&self.address, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = script().arg("stop").arg(self.server()).arg("immediate").status();
    }
}

/// A broker of the test's own.
pub struct Mosquitto {
    child: Child,
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl Mosquitto {
    fn start() -> Option<Self> {
        let program =
            ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto", "mosquitto"];
        let program = program.into_iter().find(|name| {
            Command::new(name).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
        })?;
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..5 {
            let port = selvedge_ports::claim(1).unwrap();
            let file = folder.path().join("mosquitto.conf");
            std::fs::write(
                &file,
                format!("listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n"),
            )
            .unwrap();
            let mut child = Command::new(program).arg("-c").arg(&file).stderr(Stdio::null()).spawn().unwrap();
            let end = Instant::now() + Duration::from_millis(START_WAIT_MS);
            while Instant::now() < end && child.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Some(Self { child, port, _folder: folder });
                }
                std::thread::sleep(Duration::from_millis(TICK_MS));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("mosquitto does not start");
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node as a person runs it.
pub struct NodeProcess {
    child: Child,
    /// What it says.
    lines: RefCell<(Receiver<String>, Vec<String>)>,
    _folder: tempfile::TempDir,
}

impl NodeProcess {
    pub fn start(cluster: &Cluster, mosquitto: &Mosquitto, secret: &SiteSecret) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-node"));
        command.current_dir(folder.path()).env_clear();
        command.env("SELVEDGE_NODE_DATABASE", &cluster.address);
        command.env("SELVEDGE_NODE_HTTP__PORT", "0");
        let sites = format!("[{{ name = \"{}\", secret = \"{}\" }}]", site(), secret.reveal_hex());
        command.env("SELVEDGE_NODE_SITES", sites);
        for (key, value) in [("BROKER", "external"), ("HOST", "127.0.0.1"), ("SHARE", "nodes")] {
            command.env(format!("SELVEDGE_NODE_UPLINK__{key}"), value);
        }
        command.env("SELVEDGE_NODE_UPLINK__PORT", mosquitto.port.to_string());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        let (hear, lines) = channel();
        let verbose = std::env::var_os("SELVEDGE_TEST_LOG").is_some();
        std::thread::spawn(move || {
            // Reads on when nobody listens any more: a full pipe would stop the node.
            for line in said.lines().map_while(Result::ok) {
                if verbose {
                    eprintln!("{line}");
                }
                let _ = hear.send(line);
            }
        });
        Self { child, lines: RefCell::new((lines, vec![])), _folder: folder }
    }

    /// The line with these words, whether it was said or is to come.
    fn wait_for(&self, words: &str) -> String {
        let end = Instant::now() + Duration::from_millis(START_WAIT_MS);
        let (lines, said) = &mut *self.lines.borrow_mut();
        loop {
            if let Some(line) = said.iter().find(|line| line.contains(words)) {
                return line.clone();
            }
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => said.push(line),
                Err(_) => panic!("a node did not say {words:?} but {said:#?}"),
            }
        }
    }

    /// Where it answers.
    pub fn http(&self) -> SocketAddr {
        let line = self.wait_for("queries: http://");
        let (_, rest) = line.split_once("http://").unwrap();
        rest.split('/').next().unwrap().parse().unwrap()
    }

    pub fn wait_until_hearing(&self) {
        self.wait_for("receiving from 1 sites");
    }

    /// As a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the edge has to send.
pub struct Source {
    pub secret: SiteSecret,
    /// For each shard, its batches from 1 on.
    shards: Vec<Vec<Batch>>,
}

type Key = (String, String, EpochMs);
/// For each window, how many parts it has and what they add up to.
type Windows = BTreeMap<Key, (u64, Aggregate)>;

impl Source {
    /// Some windows get further parts in later batches, as late readings make them.
    pub fn new(random: &mut Rng, shards: u16, batches: u64) -> Self {
        let batch = |random: &mut Rng, shard: u16, seq: u64| {
            let name = |device: String, stream: &str| StreamName { device, stream: stream.into() };
            let devices = |n| format!("device-{shard}-{n}");
            let mut streams: Vec<_> =
                (0..DEVICES).flat_map(|n| [name(devices(n), "whole"), name(devices(n), "real")]).collect();
            // A device that is new with this batch.
            streams.push(name(format!("late-{shard}-{seq}"), "whole"));
            let parts = (0..streams.len() as u32).map(|stream| {
                let step = seq as i64 - random.u64(..4.min(seq)) as i64;
                let start = EpochMs(START_MS + step * i64::from(WIDTH_MS));
                let sample = |random: &mut Rng, index| {
                    let value = random.u64(..100_000) as f64;
                    let whole = streams[stream as usize].stream == "whole";
                    let time = start.plus(random.u64(..u64::from(WIDTH_MS)) as i64);
                    Sample { time, slot: seq, index, value: if whole { value } else { value / 7.0 } }
                };
                let mut aggregate = Aggregate::sketched(sample(random, 0));
                for index in 1..=random.u64(..6) as u32 {
                    aggregate.add(sample(random, index));
                }
                let watermark = EpochMs(START_MS + seq as i64 * i64::from(WIDTH_MS));
                let (set_aside, sequences) = (0, Sequences::default());
                Part {
                    stream,
                    width_ms: WIDTH_MS,
                    start,
                    late: 0,
                    watermark,
                    aggregate,
                    set_aside,
                    sequences,
                }
            });
            let parts = parts.collect();
            Batch { streams, parts }
        };
        let shards = (0..shards).map(|shard| (1..=batches).map(|seq| batch(random, shard, seq)).collect());
        let shards = shards.collect();
        Self { secret: SiteSecret::generate().unwrap(), shards }
    }

    pub fn windows(&self) -> Windows {
        self.windows_but(0..=0)
    }

    /// Without these batches.
    pub fn windows_but(&self, left_out: RangeInclusive<u64>) -> Windows {
        self.added_up(left_out, |start| start)
    }

    pub fn rollups(&self, span_ms: i64) -> Windows {
        self.added_up(0..=0, |start| EpochMs(start.0.div_euclid(span_ms) * span_ms))
    }

    fn added_up(&self, left_out: RangeInclusive<u64>, place: impl Fn(EpochMs) -> EpochMs) -> Windows {
        let mut all = Windows::new();
        let batches = self.shards.iter().flat_map(|batches| batches.iter().zip(1u64..));
        for (batch, _) in batches.filter(|(_, seq)| !left_out.contains(seq)) {
            for part in &batch.parts {
                let name = &batch.streams[part.stream as usize];
                let key = (name.device.clone(), name.stream.clone(), place(part.start));
                let add = |(parts, all): &mut (u64, Aggregate)| {
                    *parts += 1;
                    all.merge(&part.aggregate);
                };
                all.entry(key).and_modify(add).or_insert_with(|| (1, part.aggregate.clone()));
            }
        }
        all
    }
}

struct Lane {
    shard: ShardId,
    bodies: Vec<Vec<u8>>,
    cursor: u64,
    sent: BTreeMap<u64, Instant>,
}

/// The uplink of a site.
pub struct Edge {
    client: AsyncClient,
    heard: mpsc::Receiver<Publish>,
    sealer: Sealer<Up>,
    opener: Opener<Down>,
    lanes: Vec<Lane>,
    random: Rng,
}

impl Edge {
    pub fn new(mosquitto: &Mosquitto, source: &Source, random: Rng) -> Self {
        let mut options = MqttOptions::new("edge", "127.0.0.1", mosquitto.port);
        options.set_max_packet_size(256 * 1024, 256 * 1024);
        let (client, events) = AsyncClient::new(options, 256);
        let (hear, heard) = mpsc::channel(1024);
        let lane = |(shard, batches): (usize, &Vec<Batch>)| Lane {
            shard: ShardId(shard as u16),
            bodies: batches.iter().map(Batch::encode).collect(),
            cursor: 0,
            sent: BTreeMap::new(),
        };
        let lanes: Vec<_> = source.shards.iter().enumerate().map(lane).collect();
        for lane in &lanes {
            client.try_subscribe(ack_topic(&site(), lane.shard), QoS::AtLeastOnce).unwrap();
        }
        tokio::spawn(poll(events, hear));
        let mut opener = Opener::new();
        opener.add(&site(), &source.secret);
        let sealer = Sealer::new(&source.secret, &site()).unwrap();
        Self { client, heard, sealer, opener, lanes, random }
    }

    /// Sends all batches from `first_kept` to `last` of each shard until they are confirmed; says how many messages that took.
    /// What was confirmed is forgotten at once. Tells how many batches are confirmed as it goes.
    pub async fn run_until_confirmed(
        mut self,
        last: u64,
        first_kept: u64,
        progress: watch::Sender<u64>,
    ) -> u64 {
        let mut sent = 0;
        self.lanes.iter_mut().for_each(|lane| lane.cursor = first_kept - 1);
        let mut ticks = tokio::time::interval(Duration::from_millis(TICK_MS));
        while self.lanes.iter().any(|lane| lane.cursor < last) {
            tokio::select! {
                publish = self.heard.recv() => self.confirmed(&publish.expect("the broker stays"), last),
                _ = ticks.tick() => sent += self.send(last).await,
            }
            progress.send_replace(self.lanes.iter().map(|lane| lane.cursor).sum());
        }
        let _ = self.client.disconnect().await;
        sent
    }

    fn confirmed(&mut self, publish: &Publish, last: u64) {
        let lane =
            self.lanes.iter_mut().find(|lane| ack_topic(&site(), lane.shard) == publish.topic).unwrap();
        let (seq, Down::Confirm { cursor, .. }) =
            self.opener.open(&site(), lane.shard, &publish.payload).unwrap();
        assert_eq!(seq, cursor);
        assert!(cursor <= last, "{cursor} is more than was sent");
        // Nodes that share the work may be overtaken by each other.
        lane.cursor = lane.cursor.max(cursor);
        lane.sent.retain(|seq, _| *seq > cursor);
    }

    /// Sends what is due, in any order, some of it twice.
    async fn send(&mut self, last: u64) -> u64 {
        let now = Instant::now();
        let mut due = vec![];
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            for seq in lane.cursor + 1..=last.min(lane.cursor + AHEAD) {
                let is_due = |sent: &Instant| now.duration_since(*sent) >= Duration::from_millis(RESEND_MS);
                if lane.sent.get(&seq).is_none_or(is_due) {
                    lane.sent.insert(seq, now);
                    due.push((at, seq));
                    if self.random.u64(..10) == 0 {
                        due.push((at, seq));
                    }
                }
            }
        }
        for i in (1..due.len()).rev() {
            due.swap(i, self.random.u64(..i as u64 + 1) as usize);
        }
        for (at, seq) in &due {
            let lane = &self.lanes[*at];
            let body = lane.bodies[*seq as usize - 1].clone();
            let up = Up::Batch { first_kept: lane.cursor + 1, last, body };
            let bytes = self.sealer.seal(lane.shard, *seq, &up).unwrap();
            self.client.publish(up_topic(&site(), lane.shard), QoS::AtLeastOnce, false, bytes).await.unwrap();
        }
        due.len() as u64
    }
}

async fn poll(mut events: EventLoop, hear: mpsc::Sender<Publish>) {
    while let Ok(event) = events.poll().await {
        if let Event::Incoming(Packet::Publish(publish)) = event
            && hear.send(publish).await.is_err()
        {
            return;
        }
    }
}

pub fn get(http: SocketAddr, path: &str) -> Value {
    let mut socket = TcpStream::connect(http).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}
