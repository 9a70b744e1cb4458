//! What operators see of the MQTT edge of a real gateway: which clients are connected, how connections end, and what
//! the log says about it.

mod gateways {
    pub mod client;
    pub mod site;
}

use gateways::client::{Client, DISCONNECT, Hello, PINGRESP, PUBACK};
use gateways::site::{Plan, Running, Site, until};
use selvedge_fabric::session::CONNECT_WAIT_MS;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A site of one gateway, whose log goes to a file.
struct Alone {
    plan: Plan,
    log: PathBuf,
    _process: Running,
}

impl Alone {
    fn start() -> Self {
        Self::with_files("unlimited")
    }

    /// A gateway that may have this many files open.
    fn with_files(most: &str) -> Self {
        let plan = Plan::new(1);
        let log = plan.path().join("log");
        let file = std::fs::File::create(&log).unwrap();
        let command = plan.command(0);
        let mut limited = Command::new("sh");
        limited.args(["-c", "[ $0 = unlimited ] || ulimit -n $0; exec \"$@\"", most]);
        limited
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let process = Running::spawn(limited.env("RUST_LOG", "info").stderr(Stdio::from(file)));
        until("the gateway is ready", || plan.is_ready(0));
        Self { plan, log, _process: process }
    }

    /// The lines of the log that contain all of these texts.
    fn lines(&self, wanted: &[&str]) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.lines().filter(|line| wanted.iter().all(|w| line.contains(w))).map(str::to_string).collect()
    }

    fn raw(&self, bytes: &[u8]) -> TcpStream {
        let mut socket = TcpStream::connect(("127.0.0.1", self.plan.mqtt[0])).unwrap();
        socket.write_all(bytes).unwrap();
        socket
    }
}

#[test]
fn who_is_connected_and_how_the_last_ones_left_is_shown_counted_and_logged_within_bounds() {
    let gateway = Alone::start();
    let mut stays = Client::connect(gateway.plan.mqtt[0], Hello::clean("stays").v5()).unwrap();
    stays.publish("d/stays/x", "1", 1, 1, false);
    stays.packet(PUBACK);
    for _ in 0..20 {
        let _first = Client::connect(gateway.plan.mqtt[0], Hello::clean("loops")).unwrap();
        let _again = Client::connect(gateway.plan.mqtt[0], Hello::clean("loops")).unwrap();
    }
    let mut large = gateway.raw(b"\x10\x11\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x04huge");
    assert_eq!(large.read(&mut [0; 1]).unwrap(), 1);
    large.write_all(b"\x32\x80\x80\x40\x00\x05d/h/x\x00\x01\x00").unwrap();
    let mut stranger = gateway.raw(b"GET / HTTP/1.1\r\n\r\n");
    let _ = stranger.read(&mut [0; 1]);
    let mut seen = serde_json::Value::Null;
    until("all ends are noted", || {
        seen = gateway.plan.json(0, "/v1/clients");
        let count = |reason: &str| seen["left_by_reason"][reason].as_u64().unwrap_or(0);
        count("taken_over") + count("gone") >= 40 && count("packet_too_large") == 1 && count("malformed") == 1
    });
    let connected = &seen["clients"][0];
    assert_eq!((connected["client"].as_str(), connected["version"].as_str()), (Some("stays"), Some("5")));
    assert_eq!(
        (connected["publishes_in"].as_u64(), connected["state"].as_str()),
        (Some(1), Some("connected"))
    );
    assert!(connected["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(connected["since_ms"].as_i64().unwrap() > 0 && connected["bytes_in"].as_u64().unwrap() > 0);
    let left = seen["left"].as_array().unwrap();
    let of = |reason: &str| left.iter().find(|l| l["reason"] == reason).unwrap();
    assert_eq!(of("packet_too_large")["topic"], "d/h/x");
    assert_eq!(of("packet_too_large")["packet_bytes"], 1_048_576);
    assert_eq!(of("packet_too_large")["setting"], "mqtt.max_packet_bytes = 262144");
    assert_eq!(of("packet_too_large")["client"], "huge");
    assert_eq!(of("malformed")["client"], serde_json::Value::Null);
    assert!(left.len() <= 16 * 4, "{}", left.len());

    let metrics = gateway.plan.ask(0, "GET", "/metrics", "Host: x\r\n").unwrap();
    assert!(
        metrics.contains("selvedge_connections_ended_total{reason=\"packet_too_large\"} 1\n"),
        "{metrics}"
    );
    let lines =
        gateway.lines(&["MQTT connection ended", "huge", "d/h/x", "1048576 bytes", "mqtt.max_packet_bytes"]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let loops = gateway.lines(&["MQTT connection ended", "\"loops\""]);
    assert!((1..=6).contains(&loops.len()), "{loops:?}");

    // One page, with one client.
    assert_eq!(gateway.plan.json(0, "/v1/clients?client=hug*")["clients"], serde_json::json!([]));
    assert_eq!(gateway.plan.json(0, "/v1/clients?client=hug*")["left"].as_array().unwrap().len(), 1);
    let _second = Client::connect(gateway.plan.mqtt[0], Hello::clean("second")).unwrap();
    let page = gateway.plan.json(0, "/v1/clients?limit=1");
    assert_eq!((page["clients"][0]["client"].as_str(), &page["truncated"]), (Some("stays"), &true.into()));
    let next = gateway.plan.json(0, &format!("/v1/clients?after={}", page["next"].as_str().unwrap()));
    assert_eq!((next["clients"][0]["client"].as_str(), &next["truncated"]), (Some("second"), &false.into()));
    let (status, told) = gateway.plan.order(0, "GET", "/v1/clients?limit=0");
    assert_eq!((status, &told["parameter"]), (400, &"limit".into()));
}

#[test]
fn no_file_descriptors_are_no_room_and_end_nothing() {
    let gateway = Alone::with_files("100");
    let mut device = Client::connect(gateway.plan.mqtt[0], Hello::clean("files")).unwrap();
    // More silent connections than there are descriptors.
    let connect = |port| TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut silent: Vec<_> = (0..150).map(|_| connect(gateway.plan.http[0])).collect();
    // Which of the two listeners takes the last descriptor is not determined, and silent requests are closed after some
    // seconds: further ones come until there is no descriptor for a device.
    let mut devices = Vec::new();
    until("it has said that no connection can be accepted", || {
        silent.push(connect(gateway.plan.http[0]));
        devices.push(connect(gateway.plan.mqtt[0]));
        !gateway.lines(&["can't accept an MQTT connection"]).is_empty()
    });
    let mut late = devices.pop().unwrap();
    for n in 1..=50u16 {
        device.publish("d/files/x", "1", 1, n, false);
        assert_eq!(device.packet(PUBACK), n.to_be_bytes());
    }
    drop((silent, devices));
    late.write_all(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04late").unwrap();
    let mut said = [0; 4];
    late.read_exact(&mut said).unwrap();
    assert_eq!(said, [0x20, 2, 0, 0]);
    until("it answers again", || gateway.plan.is_ready(0));
    assert!(gateway.lines(&["can't accept an MQTT connection"]).len() <= 3);
}

#[test]
fn a_wrong_uplink_address_shows_in_readiness_metrics_and_log() {
    let gateway = Alone::start();
    until("the broker is given up for now", || {
        let ready = gateway.plan.ask(0, "GET", "/readyz", "Host: x\r\n").unwrap();
        ready.contains("uplink: the broker at 127.0.0.1:") && ready.contains("uplink.host")
    });
    let metrics = gateway.plan.ask(0, "GET", "/metrics", "Host: x\r\n").unwrap();
    assert!(metrics.contains("selvedge_uplink_trouble 1\n"), "{metrics}");
    assert!(metrics.contains("selvedge_uplink_connected 0\n"), "{metrics}");
    let about = |line: &str| -> Vec<String> {
        let lines = metrics.lines().filter_map(|found| found.strip_prefix(line));
        lines.filter_map(|rest| rest.split(' ').next()).map(str::to_string).collect()
    };
    assert_eq!(about("# HELP "), about("# TYPE "), "each metric has its HELP");
    assert!((1..=3).contains(&gateway.lines(&["uplink: the broker at"]).len()));
}

#[test]
fn broken_requests_and_strangers_on_the_peers_port_cost_a_few_lines() {
    let gateway = Alone::start();
    for _ in 0..30 {
        for port in [gateway.plan.http[0], gateway.plan.peer[0], gateway.plan.mqtt[0]] {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let _ = socket.write_all(b"\x16\x03\x01\x00\xee nonsense \r\n\r\n");
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let _ = socket.read(&mut [0; 64]);
        }
    }
    let lines = gateway.lines(&[]);
    assert!(lines.len() < 30, "{} lines: {lines:#?}", lines.len());
    assert_eq!(gateway.lines(&["a connection was refused"]).len(), 3);
    assert_eq!(gateway.lines(&["not MQTT"]).len(), 3);
}

#[test]
fn clients_that_try_again_without_a_majority_are_refused_and_none_is_thrown_out_when_it_is_back() {
    let mut site = Site::start();
    site.kill(1);
    site.kill(2);
    let names: Vec<String> = (0..20).map(|n| format!("again-{n}")).collect();
    let all_refused = || {
        let tries = names.iter().map(|name| || Client::connect(site.mqtt(0), Hello::persistent(name)).err());
        std::thread::scope(|scope| {
            let tries: Vec<_> = tries.map(|again| scope.spawn(again)).collect();
            tries.into_iter().all(|again| again.join().unwrap() == Some(3))
        })
    };
    until("a majority is missed", all_refused);
    // A client that tries again does not even wait: no request of it remains for the majority.
    until("nobody waits for a shard", || {
        all_refused()
            && site.json(0, "/v1/clients")["left"].as_array().is_some_and(|left| {
                let last = left.iter().filter(|l| l["reason"] == "refused_unavailable");
                last.take(16).all(|l| l["lasted_ms"].as_u64().unwrap() < CONNECT_WAIT_MS)
            })
    });
    assert_eq!(site.json(0, "/v1/clients")["clients"], serde_json::json!([]));
    site.restart(1);
    let mut clients: Vec<Client> = Vec::new();
    for name in &names {
        until("it comes in", || match Client::connect(site.mqtt(0), Hello::persistent(name)) {
            Ok(client) => {
                clients.push(client);
                true
            }
            Err(_) => false,
        });
    }
    for client in &mut clients {
        client.ping();
        client.packet(PINGRESP);
    }
    let left = site.json(0, "/v1/clients")["left_by_reason"].take();
    assert_eq!(left["taken_over"], serde_json::Value::Null, "{left}");
}

#[test]
fn what_is_larger_than_a_bound_is_answered_and_set_aside() {
    let gateway = Alone::start();
    let mut socket = gateway.raw(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05large");
    let mut said = [0; 4];
    socket.read_exact(&mut said).unwrap();
    // 1 MiB in MQTT 3.1.1, three times: each is acknowledged, and what follows it counts.
    for id in 1..=3u8 {
        socket.write_all(&[&b"\x32\x80\x80\x40\x00\x09d/large/x\x00"[..], &[id]].concat()).unwrap();
        socket.write_all(&vec![b'1'; 1_048_576 - 13]).unwrap();
        socket.read_exact(&mut said).unwrap();
        assert_eq!(said, [0x40, 2, 0, id]);
    }
    let long = "t".repeat(1_500);
    let length = 2 + long.len() + 2 + 1;
    let topic = (long.len() as u16).to_be_bytes();
    socket.write_all(&[&head_of(length)[..], &topic, long.as_bytes(), &[0, 9], b"1"].concat()).unwrap();
    socket.read_exact(&mut said).unwrap();
    assert_eq!(said, [0x40, 2, 0, 9]);
    socket.write_all(b"\x32\x0e\x00\x09d/large/x\x00\x0a1").unwrap();
    socket.read_exact(&mut said).unwrap();
    assert_eq!(said, [0x40, 2, 0, 10]);
    let mut entries = serde_json::Value::Null;
    until("they are in the quarantine", || {
        entries = gateway.plan.json(0, "/v1/quarantine?client=large")["entries"].take();
        entries.as_array().is_some_and(|list| list.len() == 4)
    });
    let why: Vec<_> = entries.as_array().unwrap().iter().map(|e| e["why"].as_str().unwrap()).collect();
    assert!(why.iter().any(|why| why.contains("1500 bytes, 1024 are allowed")), "{why:?}");
    assert!(why.iter().any(|why| why.contains("1048576 bytes, 262144 are allowed")), "{why:?}");
    // MQTT 5 has a reason code for a topic. For packets the gateway announced its limit, and closes with the reason.
    let mut v5 = Client::connect(gateway.plan.mqtt[0], Hello::clean("large-5").v5()).unwrap();
    v5.send_raw(&[&head_of(length + 1)[..], &topic, long.as_bytes(), &[0, 9, 0], b"1"].concat());
    assert_eq!(v5.packet(PUBACK)[..3], [0, 9, 0x97]);
    v5.send_raw(b"\x32\x80\x80\x40\x00\x09d/large/x\x00\x01\x00");
    assert_eq!(v5.packet(DISCONNECT).first(), Some(&0x95));
}

/// The fixed header of a publish of QoS 1 with this many bytes behind it.
fn head_of(length: usize) -> [u8; 3] {
    [0x32, length as u8 | 0x80, (length >> 7) as u8]
}
