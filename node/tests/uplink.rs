//! A whole node with its embedded broker, spoken to as a gateway speaks to it.

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, Publish, QoS};
use selvedge_node::node::Node;
use selvedge_node::settings::{NodeSettings, SiteSettings};
use selvedge_seal::{Opener, Sealer, SiteSecret};
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::ids::{ShardId, SiteId};
use selvedge_types::sequences::Sequences;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{Batch, Down, LostBatch, Part, StreamName, Up, ack_topic, up_topic};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const SHARD: ShardId = ShardId(3);
/// How long anything may take before the test gives up; nothing waits for it otherwise.
const PATIENCE_MS: u64 = 30_000;
/// How often an edge asks again.
const RESEND_MS: u64 = 200;

fn site() -> SiteId {
    SiteId::new("plant-7").unwrap()
}

fn settings(folder: &Path, secret: &SiteSecret) -> NodeSettings {
    let mut settings = NodeSettings { data_dir: folder.to_owned(), ..NodeSettings::default() };
    settings.http.port = 0;
    settings.uplink.host = "127.0.0.1".into();
    settings.uplink.port = 0;
    settings.uplink.username = "gateway".into();
    settings.uplink.password = "hunter2".into();
    settings.sites = vec![SiteSettings {
        name: site(),
        secret: Some(secret.clone()),
        secret_file: None,
        accept_secret_files: vec![],
    }];
    settings
}

struct Gateway {
    client: AsyncClient,
    heard: mpsc::Receiver<Publish>,
    polling: JoinHandle<()>,
    sealer: Sealer<Up>,
    opener: Opener<Down>,
}

impl Gateway {
    fn new(broker: SocketAddr, secret: &SiteSecret) -> Self {
        let mut options = MqttOptions::new("gateway-1", broker.ip().to_string(), broker.port());
        options.set_credentials("gateway", "hunter2").set_max_packet_size(256 * 1024, 256 * 1024);
        let (client, events) = AsyncClient::new(options, 64);
        client.try_subscribe(ack_topic(&site(), SHARD), QoS::AtLeastOnce).unwrap();
        let mut opener = Opener::new();
        opener.add(&site(), secret);
        let (hear, heard) = mpsc::channel(64);
        let polling = tokio::spawn(poll(events, hear));
        Self { client, heard, polling, sealer: Sealer::new(secret, &site()).unwrap(), opener }
    }

    fn send(&self, shard: ShardId, bytes: Vec<u8>) {
        self.client.try_publish(up_topic(&site(), shard), QoS::AtLeastOnce, false, bytes).unwrap();
    }

    fn batch(&mut self, seq: u64) -> Vec<u8> {
        let body = batch(seq).encode();
        self.sealer.seal(SHARD, seq, &Up::Batch { first_kept: 1, last: 4, body }).unwrap()
    }

    /// Asks with beacons until the node has confirmed `wanted`.
    async fn until_confirmed(&mut self, wanted: u64) {
        let asking = async {
            let mut ask = tokio::time::interval(Duration::from_millis(RESEND_MS));
            loop {
                let publish = tokio::select! {
                    publish = self.heard.recv() => publish.expect("the connection holds"),
                    _ = ask.tick() => {
                        let beacon = Up::Beacon { first_kept: 1, last: 4 };
                        let bytes = self.sealer.seal(SHARD, 0, &beacon).unwrap();
                        self.client.try_publish(up_topic(&site(), SHARD), QoS::AtLeastOnce, false, bytes).unwrap();
                        continue;
                    }
                };
                let (seq, Down::Confirm { cursor, .. }) =
                    self.opener.open(&site(), SHARD, &publish.payload).unwrap();
                assert_eq!(seq, cursor);
                assert!(cursor <= wanted, "{cursor} is more than was sent");
                if cursor == wanted {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_millis(PATIENCE_MS), asking).await.unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.polling.abort();
    }
}

/// Polls in a task of its own: a poll that is dropped half way leaves its connection behind, and the next one would
/// find its client id taken, or be the one that is closed.
async fn poll(mut events: EventLoop, hear: mpsc::Sender<Publish>) {
    loop {
        if let Event::Incoming(Packet::Publish(publish)) = events.poll().await.unwrap()
            && hear.send(publish).await.is_err()
        {
            return;
        }
    }
}

/// One reading of value `seq`.
fn batch(seq: u64) -> Batch {
    let sample = Sample { time: EpochMs(seq as i64), slot: seq, index: 0, value: seq as f64 };
    let part = Part {
        stream: 0,
        width_ms: 10_000,
        start: EpochMs(0),
        aggregate: Aggregate::of(sample),
        late: 0,
        watermark: EpochMs(10_000),
        set_aside: 0,
        sequences: Sequences::default(),
    };
    Batch { streams: vec![StreamName { device: "press-1".into(), stream: "temp".into() }], parts: vec![part] }
}

async fn get(http: SocketAddr, path: &str) -> Value {
    ask(http, &format!("GET {path} HTTP/1.1\r\nHost: node\r\n")).await
}

/// The answer's body to what these lines begin.
async fn ask(http: SocketAddr, lines: &str) -> Value {
    let mut socket = tokio::net::TcpStream::connect(http).await.unwrap();
    let request = format!("{lines}Connection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

async fn counted(node: &Node) -> (Value, Value) {
    let body = get(node.http, "/v1/aggregates?device=press-1&stream=temp").await;
    (body["aggregates"][0]["count"].clone(), body["aggregates"][0]["sum"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_counted_once_confirmed_and_kept_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let secret = SiteSecret::generate().unwrap();
    let node = Node::start(settings(folder.path(), &secret).check().unwrap(), None).await.unwrap();
    let mut gateway = Gateway::new(node.broker.unwrap(), &secret);
    gateway.until_confirmed(0).await;

    let frames: Vec<_> = [1, 2, 3].map(|seq| gateway.batch(seq)).into();
    let mut tampered = frames[0].clone();
    *tampered.last_mut().unwrap() ^= 1;
    gateway.send(SHARD, tampered);
    gateway.send(ShardId(4), frames[0].clone());
    let foreign = SiteSecret::generate().unwrap();
    let forged =
        Sealer::new(&foreign, &site()).unwrap().seal(SHARD, 1, &Up::Beacon { first_kept: 1, last: 4 });
    gateway.send(SHARD, forged.unwrap());
    for at in [2, 1, 1, 0, 2] {
        gateway.send(SHARD, frames[at].clone());
    }
    gateway.until_confirmed(3).await;
    assert_eq!(counted(&node).await, (3.into(), 6.0.into()));
    let status = get(node.http, "/v1/status").await;
    assert_eq!(status["refused"], serde_json::json!({ "not_authentic": 2, "unknown_secret": 1 }));
    assert_eq!(status["sites"][0]["shards"][0]["cursor"], 3);
    assert_eq!(get(node.http, "/readyz").await["status"], "ready");
    drop(gateway);
    node.stop().await.unwrap();

    // Recorded frames, played again to a node that has lost all its memory but its disk.
    let node = Node::start(settings(folder.path(), &secret).check().unwrap(), None).await.unwrap();
    let mut gateway = Gateway::new(node.broker.unwrap(), &secret);
    gateway.until_confirmed(3).await;
    for frame in frames {
        gateway.send(SHARD, frame);
    }
    // One shard's messages stay in order, so the replayed ones are through when this one is.
    let next = gateway.batch(4);
    gateway.send(SHARD, next);
    gateway.until_confirmed(4).await;
    assert_eq!(counted(&node).await, (4.into(), 10.0.into()));
    drop(gateway);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_the_embedded_broker_neither_closes_nor_replaces_the_nodes_ears() {
    let folder = tempfile::tempdir().unwrap();
    let secret = SiteSecret::generate().unwrap();
    let mut settings = settings(folder.path(), &secret);
    settings.uplink.client_id = "node".into();
    let node = Node::start(settings.check().unwrap(), None).await.unwrap();
    let address = node.broker.unwrap();
    let mut gateway = Gateway::new(address, &secret);
    gateway.until_confirmed(0).await;
    // Clients that call themselves as the node would elsewhere; one of them sends as fast as it can.
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut polling = vec![];
    let mut flood = None;
    for role in ["", "-ack", "-reports", "-ask"] {
        let mut options = MqttOptions::new(format!("node{role}"), address.ip().to_string(), address.port());
        options.set_credentials("gateway", "hunter2").set_max_packet_size(256 * 1024, 256 * 1024);
        let (client, events) = AsyncClient::new(options, 8);
        client.subscribe(format!("x/{role}"), QoS::AtMostOnce).await.unwrap();
        let (hear, heard) = mpsc::channel(64);
        polling.push((tokio::spawn(poll(events, hear)), heard));
        let mut stopped = stopped.clone();
        flood.get_or_insert_with(|| {
            tokio::spawn(async move {
                let mut sent = 0;
                while !*stopped.borrow_and_update() {
                    for (topic, qos) in [("up/3", QoS::AtMostOnce), ("ack/3", QoS::AtLeastOnce)] {
                        let topic = format!("selvedge/{}/{topic}", site());
                        client.publish(topic, qos, false, vec![0; 200_000]).await.unwrap();
                        sent += 1;
                    }
                }
                sent
            })
        });
    }
    for seq in 1..=4 {
        let frame = gateway.batch(seq);
        gateway.send(SHARD, frame);
        gateway.until_confirmed(seq).await;
    }
    stop.send_replace(true);
    assert!(flood.unwrap().await.unwrap() > 0);
    for (task, _) in polling {
        assert!(!task.is_finished(), "no connection of theirs was taken over, by the node for one");
        task.abort();
    }
    assert_eq!(counted(&node).await, (4.into(), 10.0.into()));
    drop(gateway);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_the_site_has_lost_is_a_hole_that_people_see() {
    let folder = tempfile::tempdir().unwrap();
    let secret = SiteSecret::generate().unwrap();
    let node = Node::start(settings(folder.path(), &secret).check().unwrap(), None).await.unwrap();
    let mut gateway = Gateway::new(node.broker.unwrap(), &secret);
    gateway.until_confirmed(0).await;
    let lost = LostBatch { readings: 7, parts: 2, from: EpochMs(20_000), to: EpochMs(40_000) };
    let message = Up::Lost { first_kept: 1, last: 4, lost };
    let frames = [gateway.batch(1), gateway.sealer.seal(SHARD, 2, &message).unwrap(), gateway.batch(3)];
    for frame in frames {
        gateway.send(SHARD, frame);
    }
    gateway.until_confirmed(3).await;
    assert_eq!(counted(&node).await, (2.into(), 4.0.into()));
    let hole = &get(node.http, "/v1/sites/plant-7").await["holes"][0];
    assert_eq!((&hole["shard"], &hole["first_seq"], &hole["last_seq"]), (&3.into(), &2.into(), &2.into()));
    assert_eq!(
        (&hole["lost_at_site"], &hole["readings"], &hole["parts"]),
        (&true.into(), &7.into(), &2.into())
    );
    assert_eq!(hole["windows_to"], "1970-01-01T00:00:40.000Z");
    assert_eq!(get(node.http, "/v1/status").await["batches_given_up"], 1);
    drop(gateway);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_page_of_somebody_else_gets_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let secret = SiteSecret::generate().unwrap();
    let mut settings = settings(folder.path(), &secret);
    settings.http.sql.enabled = true;
    settings.http.hosts = vec!["node.example.com".into()];
    let node = Node::start(settings.check().unwrap(), None).await.unwrap();
    let own = format!("127.0.0.1:{}", node.http.port());
    let sql = "Content-Type: text/plain\r\nContent-Length: 8\r\n";
    let refused = [
        "GET /v1/devices HTTP/1.1\r\nHost: rebound.example\r\n".to_string(),
        format!("POST /v1/sql HTTP/1.1\r\nHost: {own}\r\nOrigin: http://evil.example\r\n{sql}"),
        format!("POST /v1/sql HTTP/1.1\r\nHost: {own}\r\nSec-Fetch-Site: same-site\r\n{sql}"),
    ];
    for lines in refused {
        let body = ask(node.http, &lines).await;
        assert_eq!(
            (&body["status"], &body["type"]),
            (&403.into(), &"/docs#problem-stranger".into()),
            "{lines}"
        );
    }
    for host in [&own, "node.example.com", "localhost"] {
        let lines = format!("GET /v1/status HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n");
        assert!(ask(node.http, &lines).await["sites"].is_array(), "{host}");
    }
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_named_with_its_setting() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let good = settings(folder.path(), &SiteSecret::generate().unwrap());
    let (mut http, mut uplink) = (good.clone(), good);
    http.http.port = address.port();
    uplink.uplink.port = address.port();
    for (settings, key) in [(http, "`http.port`"), (uplink, "`uplink.port`")] {
        let said = Node::start(settings.check().unwrap(), None).await.err().unwrap().to_string();
        assert!(said.contains(&address.to_string()) && said.contains(key), "{said}");
    }
}
