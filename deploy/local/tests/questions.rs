//! A node asks a site of three gateways, all real processes, what it was not sent yet: while all live, after one was killed, and when
//! a minority is left.

#[path = "../../../gateway/tests/gateways/client.rs"]
mod client;

use client::{Client, Hello, PUBACK};
use selvedge_seal::SiteSecret;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a condition may take to come true; nothing waits for it otherwise.
const PATIENCE: Duration = Duration::from_secs(60);
const DEVICES: usize = 6;
const READINGS: i64 = 40;
/// The hour in which everything is measured.
const HOUR_MS: i64 = 1_764_000_000_000 / 3_600_000 * 3_600_000;

/// A process of this binary, which does not outlive the test.
struct Running(Child);

impl Running {
    fn start(program: &str, config: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-local"));
        command.arg(program).arg("--config").arg(config);
        // It ends when its standard input closes.
        Self(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(if std::env::var_os("SHOW").is_some() { Stdio::inherit() } else { Stdio::null() })
                .spawn()
                .unwrap(),
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

struct World {
    gateways: Vec<Option<Running>>,
    _node: Running,
    mqtt: Vec<u16>,
    http: Vec<u16>,
    node: u16,
    _dir: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        SiteSecret::generate().unwrap().create_file(&secret).unwrap();
        let first = selvedge_ports::claim(11).unwrap();
        let ports: Vec<u16> = (first..first + 11).collect();
        let (peer, mqtt, http) = (&ports[..3], &ports[3..6], &ports[6..9]);
        let (node, uplink) = (ports[9], ports[10]);
        let put = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let data = |name: &str| dir.path().join(name);
        let settings = format!(
            "data_dir = {:?}\n[http]\nport = {node}\n[uplink]\nhost = \"127.0.0.1\"\nport = {uplink}\n\
             [[sites]]\nname = \"test\"\nsecret_file = {secret:?}\n",
            data("node")
        );
        let running = Running::start("node", &put("node.toml", settings));
        let members: Vec<_> =
            (0..3).map(|i| format!("{{ id = {}, peer = \"127.0.0.1:{}\" }}", i + 1, peer[i])).collect();
        let gateways = (0..3).map(|i| {
            // Windows of an hour stay open, and those of ten seconds wait for a minute to be sent.
            let settings = format!(
                "[site]\nname = \"test\"\nsecret_file = {secret:?}\nshards = 8\ngateways = [{}]\n\
                 [gateway]\nid = {}\ndata_dir = {:?}\n[peer]\nbind = \"127.0.0.1:{}\"\n\
                 [mqtt]\nbind = \"127.0.0.1:{}\"\n[http]\nbind = \"127.0.0.1:{}\"\n[uplink]\nport = {uplink}\n\
                 [rules]\nwindows_ms = [10000, 3600000]\nidle_close_ms = 3600000\ncut_after_ms = 60000\n\
                 [log]\nsegment_mib = 1\nkeep_free_mib = 0\n",
                members.join(", "),
                i + 1,
                data(&format!("gateway-{i}")),
                peer[i],
                mqtt[i],
                http[i],
            );
            Some(Running::start("gateway", &put(&format!("gateway-{i}.toml"), settings)))
        });
        let gateways = gateways.collect();
        Self { gateways, _node: running, mqtt: mqtt.into(), http: http.into(), node, _dir: dir }
    }

    /// The status and the JSON of an answer; nothing if there is none.
    fn get(port: u16, path: &str) -> Option<(u16, Value)> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split_whitespace().nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).unwrap_or_default()))
    }

    /// What the node says about the edge.
    fn ask(&self, query: &str) -> (u16, Value) {
        Self::get(self.node, &format!("/v1/sites/test/aggregates?{query}")).expect("the node lives")
    }

    fn site(&self) -> Value {
        Self::get(self.node, "/v1/sites/test").unwrap_or_default().1
    }

    /// SIGKILL.
    fn kill(&mut self, i: usize) {
        self.gateways[i] = None;
    }

    /// Every device publishes its readings, a second apart, at one gateway or the other.
    fn publish(&self) {
        for device in 0..DEVICES {
            let id = format!("press-{device}");
            let mut client = Client::connect(self.mqtt[device % 3], Hello::clean(&id)).unwrap();
            for n in 0..READINGS {
                let reading = format!("{{\"value\":{n},\"ts\":{}}}", HOUR_MS + n * 1_000);
                client.publish(&format!("d/{id}/force"), &reading, 1, n as u16 + 1, false);
                client.packet(PUBACK);
            }
        }
    }
}

/// Waits for a condition.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn counts(answer: &Value) -> Vec<u64> {
    answer["aggregates"].as_array().into_iter().flatten().filter_map(|row| row["count"].as_u64()).collect()
}

#[test]
fn a_node_asks_a_site_for_what_it_was_not_sent() {
    let mut world = World::start();
    until("the node lives", || world.site()["site"] == "test");
    until("three gateways report, and lead all shards", || {
        let site = world.site();
        site["live"] == 3 && site["shards_led"] == 8
    });
    let site = world.site();
    for shard in site["shards"].as_array().unwrap() {
        let replicas: Vec<_> = shard["replicas"].as_array().unwrap().iter().map(|r| r.as_u64()).collect();
        assert!(replicas.len() == 3 && replicas.contains(&shard["leader"].as_u64()), "{shard}");
    }
    assert_eq!(Value::from(3), site["gateways"].as_array().unwrap().len());
    world.publish();

    // The node has nothing of it, and the edge all: an open hour, and finer than that.
    let stored = World::get(world.node, "/v1/aggregates?device=press-1").unwrap().1;
    assert_eq!(counts(&stored), Vec::<u64>::new());
    for consistency in ["linearizable", "stale"] {
        let more = format!("consistency={consistency}&policy=least_loaded");
        let ask = |every: &str| {
            let query = format!("device=press-1&stream=force&every={every}&{more}");
            let mut found = Value::Null;
            // A stale answer may lag behind.
            until("the edge has all readings", || {
                found = world.ask(&query).1;
                consistency == "linearizable" || counts(&found).iter().sum::<u64>() == READINGS as u64
            });
            found
        };
        let hour = ask("1h");
        assert_eq!(counts(&hour), [READINGS as u64], "{hour}");
        let row = &hour["aggregates"][0];
        assert_eq!((&row["start_ms"], &row["closed"]), (&HOUR_MS.into(), &false.into()));
        assert_eq!((&hour["source"], &hour["partial"]), (&"edge".into(), &false.into()));
        let fine = ask("10s");
        assert_eq!(counts(&fine), [10, 10, 10, 10], "{fine}");
        assert_eq!(
            (&fine["aggregates"][0]["closed"], &fine["aggregates"][3]["closed"]),
            (&true.into(), &false.into())
        );
    }

    // All devices, through all shards, in order; and page by page.
    let (status, all) = world.ask("device=press-*&every=1h");
    assert_eq!((status, counts(&all)), (200, vec![READINGS as u64; DEVICES]));
    let names: Vec<_> =
        all["aggregates"].as_array().unwrap().iter().map(|row| row["device"].clone()).collect();
    assert_eq!(names, (0..DEVICES).map(|d| Value::from(format!("press-{d}"))).collect::<Vec<_>>());
    let (mut after, mut rows) = (String::new(), vec![]);
    loop {
        let page = world.ask(&format!("device=*&stream=f*&every=10s&limit=7{after}")).1;
        rows.extend(counts(&page));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(rows, vec![10; 4 * DEVICES]);
    let (_, direct) = World::get(
        world.http[2],
        "/v1/aggregates?device=press-*&every=1h&from=2020-01-01T00:00:00Z&policy=random",
    )
    .unwrap();
    assert_eq!((counts(&direct), &direct["partial"]), (vec![READINGS as u64; DEVICES], &false.into()));

    // One gateway is killed: whoever is asked first, an answer comes.
    world.kill(0);
    for _ in 0..3 {
        let (status, found) = world.ask("device=press-*&every=1h&policy=round_robin&timeout=6s");
        assert_eq!((status, counts(&found)), (200, vec![READINGS as u64; DEVICES]), "{found}");
        assert_ne!(found["gateway"], 1);
    }

    // A minority is left: it can't be sure, and says what it knows to whom that is enough.
    world.kill(1);
    until("the last gateway is asked", || {
        world.ask("device=press-*&every=1h&consistency=stale&timeout=1s&policy=least_loaded").0 == 200
    });
    let (status, found) =
        world.ask("device=press-*&every=1h&consistency=stale&timeout=4s&policy=least_loaded");
    assert_eq!((status, &found["gateway"], &found["partial"]), (200, &3.into(), &false.into()), "{found}");
    assert_eq!(counts(&found).len(), DEVICES);
    let (status, found) = world.ask("device=press-*&every=1h&timeout=1500ms&policy=least_loaded");
    assert_eq!((status, counts(&found)), (504, vec![]), "{found}");
}
