//! Three gateway processes on free ports, killed when the test ends. No node: offline is normal.

use selvedge_shared::seal::SiteSecret;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a condition may take to come true.
const WAIT: Duration = Duration::from_secs(30);

pub struct Site {
    dir: tempfile::TempDir,
    gateways: Vec<Option<Child>>,
    mqtt: Vec<u16>,
    http: Vec<u16>,
}

/// Ports that are free now, all different.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|l| l.local_addr().unwrap().port()).collect()
}

impl Site {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = free_ports(10);
        let secret = dir.path().join("secret");
        SiteSecret::generate().unwrap().create_file(&secret).unwrap();
        let member = |i: usize| format!("{{ id = {}, peer = \"127.0.0.1:{}\" }}", i + 1, ports[i]);
        for i in 0..3 {
            let settings = format!(
                "[site]\nname = \"test\"\nsecret_file = {secret:?}\nshards = 8\ngateways = [{}, {}, {}]\n\
                 [gateway]\nid = {}\ndata_dir = {:?}\n[peer]\nbind = \"127.0.0.1:{}\"\n\
                 [mqtt]\nbind = \"127.0.0.1:{}\"\n[http]\nbind = \"127.0.0.1:{}\"\n\
                 [uplink]\nport = {}\n[log]\nsegment_mib = 1\nkeep_free_mib = 0\n",
                member(0),
                member(1),
                member(2),
                i + 1,
                dir.path().join(format!("data-{i}")),
                ports[i],
                ports[3 + i],
                ports[6 + i],
                ports[9],
            );
            std::fs::write(dir.path().join(format!("{i}.toml")), settings).unwrap();
        }
        let (mqtt, http) = (ports[3..6].to_vec(), ports[6..9].to_vec());
        let mut site = Self { dir, gateways: vec![None, None, None], mqtt, http };
        for i in 0..3 {
            site.spawn(i);
        }
        site.until("all gateways are ready", || (0..3).all(|i| site.is_ready(i)));
        site
    }

    fn spawn(&mut self, i: usize) {
        let child = Command::new(env!("CARGO_BIN_EXE_selvedge-gateway"))
            .arg("--config")
            .arg(self.dir.path().join(format!("{i}.toml")))
            .stderr(Stdio::null())
            .spawn();
        self.gateways[i] = Some(child.unwrap());
    }

    /// SIGKILL.
    pub fn kill(&mut self, i: usize) {
        if let Some(mut child) = self.gateways[i].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn restart(&mut self, i: usize) {
        self.spawn(i);
        self.until("a restarted gateway is ready", || self.is_ready(i));
    }

    pub fn mqtt(&self, i: usize) -> u16 {
        self.mqtt[i]
    }

    pub fn is_ready(&self, i: usize) -> bool {
        self.get(i, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// How many readings of a device are counted, by a linearizable query at gateway `i`.
    pub fn count(&self, i: usize, device: &str) -> u64 {
        let path = format!("/v1/aggregates?device={device}&from=2020-01-01T00:00:00Z");
        let mut count = None;
        self.until("a query is answered", || {
            let answer = self.get(i, &path).unwrap_or_default();
            let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
            let windows: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
            let windows = windows["aggregates"]
                .as_array()
                .map(|list| list.iter().filter_map(|w| w["count"].as_u64()).sum());
            count = windows;
            count.is_some()
        });
        count.unwrap()
    }

    /// Waits for a condition.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < WAIT, "not within {WAIT:?}: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn get(&self, i: usize, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http[i])).ok()?;
        stream.set_read_timeout(Some(WAIT)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for i in 0..3 {
            self.kill(i);
        }
    }
}
