//! Three gateway processes on free ports, killed when the last test that uses them ends. There is no node: being
//! offline is normal.

#![allow(dead_code, reason = "several tests share this, and each uses a part of it")]

use selvedge_seal::SiteSecret;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a condition may take to come true.
const WAIT: Duration = Duration::from_secs(30);

/// The settings of a site's gateways, in a folder of their own.
#[derive(Clone)]
pub struct Plan {
    dir: Arc<tempfile::TempDir>,
    pub peer: Vec<u16>,
    pub mqtt: Vec<u16>,
    pub http: Vec<u16>,
}

impl Plan {
    /// Writes the settings of `count` gateways.
    pub fn new(count: usize) -> Self {
        Self::settings(count, count, None)
    }

    /// Writes the settings of `count` gateways, of which the first ones begin the site and the others join it. Each of
    /// these needs a token in its [`Plan::token_file`].
    pub fn growing(first: usize, count: usize) -> Self {
        Self::settings(first, count, None)
    }

    /// The same, but gateway `from` reaches gateway `to` at the port that `at` gives.
    pub fn wired(count: usize, at: impl Fn(usize, usize) -> u16) -> Self {
        Self::settings(count, count, Some(&|from, to, _| at(from, to)))
    }

    /// The same, but two gateways know each other at a port where nobody is.
    pub fn apart(count: usize, pair: [usize; 2]) -> Self {
        let nobody = selvedge_ports::claim(1).unwrap();
        let cut = |from, to| pair == [from, to] || pair == [to, from];
        Self::settings(count, count, Some(&|from, to, port| if cut(from, to) { nobody } else { port }))
    }

    fn settings(begin: usize, count: usize, at: Option<&dyn Fn(usize, usize, u16) -> u16>) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        SiteSecret::generate().unwrap().create_file(&dir.path().join("secret")).unwrap();
        let first = selvedge_ports::claim(3 * count as u16 + 1).unwrap();
        let ports: Vec<u16> = (first..=first + 3 * count as u16).collect();
        let part = |n: usize| ports[n * count..(n + 1) * count].to_vec();
        let plan = Self { dir, peer: part(0), mqtt: part(1), http: part(2) };
        let nobody = ports[3 * count];
        for i in 0..count {
            let settings = format!(
                "[site]\nname = \"test\"\nsecret_file = {:?}\nshards = 8\ngateways = {}\n\
                 [gateway]\n{}\ndata_dir = {:?}\n[peer]\nbind = \"127.0.0.1:{}\"\n\
                 [mqtt]\nbind = \"127.0.0.1:{}\"\n[http]\nbind = \"127.0.0.1:{}\"\n\
                 [uplink]\nport = {nobody}\n[log]\nsegment_mib = 1\nkeep_free_mib = 0\n",
                plan.dir.path().join("secret"),
                plan.members(begin, |to| at.filter(|_| to != i).map_or(plan.peer[to], |at| at(
                    i,
                    to,
                    plan.peer[to]
                ))),
                match i < begin {
                    true => format!("id = {}", i + 1),
                    false => format!("join_token_file = {:?}", plan.token_file(i)),
                },
                plan.data(i),
                plan.peer[i],
                plan.mqtt[i],
                plan.http[i],
            );
            std::fs::write(plan.file(i), settings).unwrap();
        }
        plan
    }

    /// The first `count` gateways in the form of `site.gateways`.
    fn members(&self, count: usize, port: impl Fn(usize) -> u16) -> String {
        let member = |i: usize| format!("{{ id = {}, peer = \"127.0.0.1:{}\" }}", i + 1, port(i));
        format!("[{}]", (0..count).map(member).collect::<Vec<_>>().join(", "))
    }

    /// The file with the token of a gateway that joins.
    pub fn token_file(&self, i: usize) -> PathBuf {
        self.dir.path().join(format!("token-{i}"))
    }

    /// Gateway `i`'s data folder.
    pub fn data(&self, i: usize) -> PathBuf {
        self.dir.path().join(format!("data-{i}"))
    }

    /// Gateway `i`'s settings file.
    fn file(&self, i: usize) -> PathBuf {
        self.dir.path().join(format!("{i}.toml"))
    }

    /// The folder of all files.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The command that starts gateway `i`.
    pub fn command(&self, i: usize) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-gateway"));
        command.arg("--config").arg(self.file(i)).stdin(Stdio::null()).stdout(Stdio::null());
        // Both thread layouts are tested, whatever this machine has.
        command.arg("--set").arg(format!("gateway.threads={}", 1 + 3 * (i % 2)));
        command
    }

    /// Starts gateway `i`.
    pub fn started(&self, i: usize) -> Running {
        self.started_with(i, &[])
    }

    /// Starts gateway `i` with these further settings.
    pub fn started_with(&self, i: usize, set: &[&str]) -> Running {
        let mut command = self.command(i);
        set.iter().for_each(|pair| _ = command.arg("--set").arg(pair));
        Running(command.stderr(Stdio::null()).spawn().unwrap())
    }

    /// Starts gateway `i`, which must refuse. Returns its status and its output.
    pub fn refused(&self, i: usize, set: &[&str]) -> (ExitStatus, String) {
        let mut command = self.command(i);
        for pair in set {
            command.arg("--set").arg(pair);
        }
        let mut gateway = Running(command.env("RUST_LOG", "error").stderr(Stdio::piped()).spawn().unwrap());
        let mut status = None;
        until("the gateway ends by itself", || {
            status = gateway.0.try_wait().unwrap();
            status.is_some()
        });
        let mut said = String::new();
        gateway.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status.unwrap(), said)
    }

    pub fn is_ready(&self, i: usize) -> bool {
        self.get(i, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    fn get(&self, i: usize, path: &str) -> Option<String> {
        self.request(i, "GET", path)
    }

    fn request(&self, i: usize, method: &str, path: &str) -> Option<String> {
        self.ask(i, method, path, "Host: x\r\n")
    }

    /// The answer of gateway `i` to a request with these header lines.
    pub fn ask(&self, i: usize, method: &str, path: &str, headers: &str) -> Option<String> {
        self.exchange(i, &format!("{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"))
    }

    fn exchange(&self, i: usize, request: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http[i])).ok()?;
        stream.set_read_timeout(Some(WAIT)).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// The answer of gateway `i` to an order: the status, and JSON.
    pub fn order(&self, i: usize, method: &str, path: &str) -> (u16, Value) {
        status_and_json(&self.request(i, method, path).unwrap_or_default())
    }

    /// The answer of gateway `i` to a POST of this body.
    pub fn post(&self, i: usize, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let head = format!("Host: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        let answer =
            self.exchange(i, &format!("POST {path} HTTP/1.1\r\n{head}Connection: close\r\n\r\n{body}"));
        status_and_json(&answer.unwrap_or_default())
    }

    /// The answer of gateway `i` as JSON; null if there is none.
    pub fn json(&self, i: usize, path: &str) -> Value {
        self.answered(i, "GET", path)
    }

    /// The answer of gateway `i` to a request of this method as JSON; null if there is none.
    pub fn answered(&self, i: usize, method: &str, path: &str) -> Value {
        let answer = self.request(i, method, path).unwrap_or_default();
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap_or_default()).unwrap_or_default()
    }
}

/// The status and the JSON of an answer.
fn status_and_json(answer: &str) -> (u16, Value) {
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    (status, serde_json::from_str(body).unwrap_or_default())
}

/// A process that does not outlive its test.
pub struct Running(Child);

impl Running {
    /// Starts a process.
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// Sends SIGKILL to the one process that this one has started; then this one must end by itself.
    pub fn kill_child(&mut self) {
        let pid = self.0.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let child = children.split_whitespace().next().and_then(|c| c.parse().ok());
        let child = child.and_then(rustix::process::Pid::from_raw).expect("it has a child");
        rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
        until("it ends with its child", || self.0.try_wait().unwrap().is_some());
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Sends SIGSTOP.
    pub fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended already
        let _ = self.0.wait();
    }
}

/// A running site.
pub struct Site {
    gateways: Vec<Option<Running>>,
    plan: Plan,
    set: &'static [&'static str],
}

/// The site of all tests that kill no process.
static SHARED: Mutex<Weak<Site>> = Mutex::new(Weak::new());

impl Site {
    /// A site for this test alone.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// A site for this test alone, with these settings.
    pub fn with(set: &'static [&'static str]) -> Self {
        let mut site = Self { plan: Plan::new(3), gateways: vec![None, None, None], set };
        for i in 0..3 {
            site.spawn(i);
        }
        until("all gateways are ready", || (0..3).all(|i| site.is_ready(i)));
        site
    }

    /// A site that tests share while one of them runs: each uses client ids and topics of its own.
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let site = Arc::new(Self::start());
            *shared = Arc::downgrade(&site);
            site
        })
    }

    fn spawn(&mut self, i: usize) {
        self.gateways[i] = Some(self.plan.started_with(i, self.set));
    }

    /// Sends SIGKILL to gateway `i`.
    pub fn kill(&mut self, i: usize) {
        self.gateways[i] = None;
    }

    pub fn restart(&mut self, i: usize) {
        self.spawn(i);
        until("a restarted gateway is ready", || self.is_ready(i));
    }

    pub fn mqtt(&self, i: usize) -> u16 {
        self.plan.mqtt[i]
    }

    pub fn is_ready(&self, i: usize) -> bool {
        self.plan.is_ready(i)
    }

    /// As [`Plan::ask`].
    pub fn ask(&self, i: usize, method: &str, path: &str, headers: &str) -> Option<String> {
        self.plan.ask(i, method, path, headers)
    }

    pub fn json(&self, i: usize, path: &str) -> Value {
        self.plan.json(i, path)
    }

    pub fn delete(&self, i: usize, path: &str) -> Value {
        self.plan.answered(i, "DELETE", path)
    }

    /// The answer of gateway `i` to an order: the status, and JSON.
    pub fn order(&self, i: usize, method: &str, path: &str) -> (u16, Value) {
        self.plan.order(i, method, path)
    }

    /// The quarantined publishes of a client, as gateway `i` lists them, once there are `count` of them.
    pub fn quarantined(&self, i: usize, client: &str, count: usize) -> Vec<Value> {
        let mut entries = Vec::new();
        until("its publishes are in the quarantine", || {
            let listed = self.json(i, &format!("/v1/quarantine?client={client}"))["entries"].take();
            entries = listed.as_array().cloned().unwrap_or_default();
            entries.len() == count
        });
        entries
    }

    /// The number of counted readings of a device, by a linearizable query at gateway `i`.
    pub fn count(&self, i: usize, device: &str) -> u64 {
        let path = format!("/v1/aggregates?device={device}&from=2020-01-01T00:00:00Z&limit=10000");
        let mut count = None;
        until("a query is answered", || {
            let windows = self.json(i, &path)["aggregates"].take();
            count = windows.as_array().map(|list| list.iter().filter_map(|w| w["count"].as_u64()).sum());
            count.is_some()
        });
        count.unwrap()
    }
}

/// Waits for a condition.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < WAIT, "not within {WAIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
