//! The web pages: how they are served, what their scripts reckon, and what a person sees in a browser.

mod browser;

use browser::{Browser, program};
use rumqttc::{AsyncClient, EventLoop, MqttOptions, QoS};
use selvedge_guard::access::Scope;
use selvedge_node::node::Node;
use selvedge_node::settings::{NodeSettings, SiteSettings, TokenSettings};
use selvedge_node::web::{FILES, PAGE, PAGES};
use selvedge_seal::{Sealer, SiteSecret};
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::ids::{GatewayId, ShardId, SiteId};
use selvedge_types::report::{
    Led, MovePhase, Report, ReportedMember, ReportedMove, ReportedState, place, report_topic,
};
use selvedge_types::sequences::Sequences;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{Batch, Part, StreamName, Up, up_topic};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

/// All that a browser loads for all pages, at most.
const MOST_BYTES: usize = 120_000;
const PATIENCE_MS: u64 = 30_000;
const AGAIN_MS: u64 = 100;
const SHARD: ShardId = ShardId(3);
const SHARDS: u16 = 64;
const WIDTH_MS: i64 = 10_000;
const NASTY: &str = "<img src=x onerror=alert(1)>";
const TOKEN: &str = "a token that is long enough to be one";

fn site() -> SiteId {
    SiteId::new("plant-7").unwrap()
}

fn settings(folder: &Path, secret: &SiteSecret) -> NodeSettings {
    let mut settings = NodeSettings { data_dir: folder.to_owned(), ..NodeSettings::default() };
    settings.http.port = 0;
    settings.uplink.host = "127.0.0.1".into();
    settings.uplink.port = 0;
    let (secret, secret_file) = (Some(secret.clone()), None);
    settings.sites = vec![SiteSettings { name: site(), secret, secret_file, accept_secret_files: vec![] }];
    settings
}

/// Status, headers and body.
async fn get(http: SocketAddr, path: &str, more: &str) -> (u16, BTreeMap<String, String>, String) {
    let mut socket = tokio::net::TcpStream::connect(http).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n{more}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let pairs = lines.map(|line| line.split_once(": ").unwrap());
    (status, pairs.map(|(k, v)| (k.to_lowercase(), v.to_string())).collect(), body.to_string())
}

#[test]
fn nothing_is_loaded_from_elsewhere_or_made_of_markup_and_all_is_small() {
    // The name of a namespace is no address.
    let namespaces = ["http://www.w3.org/2000/svg"];
    let mut bytes = 0;
    for file in FILES.iter().chain([&PAGE]) {
        bytes += file.body.len();
        let mut rest = file.body.to_string();
        for known in namespaces {
            rest = rest.replace(known, "");
        }
        for forbidden in ["://", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!rest.contains(forbidden), "{}: {forbidden}", file.path);
        }
        for (at, _) in rest.match_indices("from \"").chain(rest.match_indices("import(\"")) {
            let from = rest[at..].split('"').nth(1).unwrap();
            assert!(from.starts_with("./") || from.starts_with("../"), "{}: {from}", file.path);
        }
    }
    assert!(!PAGE.body.contains("style=") && !PAGE.body.contains(" on"), "no inline style or script");
    assert!(PAGE.body.matches("<script").count() == PAGE.body.matches("<script src=").count() + 1);
    assert!(bytes < MOST_BYTES, "{bytes}");
    // Every file is served.
    let folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("src/web/files");
    for (folder, at) in [(folder.clone(), "/web/"), (folder.join("pages"), "/web/pages/")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let path = format!("{at}{name}");
            let served = FILES.iter().any(|file| file.path == path);
            assert!(served || ["page.html", "pages"].contains(&name.as_str()), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_and_files_come_with_their_type_policy_and_tag() {
    let folder = tempfile::tempdir().unwrap();
    let secret = SiteSecret::generate().unwrap();
    let mut settings = settings(folder.path(), &secret);
    settings.http.tokens = vec![token()];
    let node = Node::start(settings.check().unwrap(), None).await.unwrap();
    let odd = ["/devices/plant-7/~..", "/devices/plant-7/a%2Fb%3F%23%25", "/streams/plant-7/new%0Aline/%2A"];
    let all = PAGES.iter().map(|path| path.replace(['{', '}'], "")).chain(odd.map(str::to_string));
    let all = all.map(|path| (path, &PAGE));
    for (path, file) in all.chain(FILES.iter().map(|file| (file.path.to_string(), file))) {
        let (status, headers, body) = get(node.http, &path, "").await;
        assert_eq!(status, 200, "{path}: pages tell nothing, so they need no token");
        assert_eq!(headers["content-type"], file.content_type, "{path}");
        assert!(body == file.body, "{path}");
        let policy = &headers["content-security-policy"];
        assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["cache-control"], "no-cache");
        let tag = &headers["etag"];
        let (status, again, body) = get(node.http, &path, &format!("If-None-Match: {tag}\r\n")).await;
        assert_eq!((status, &again["etag"], body.as_str()), (304, tag, ""), "{path}");
        assert_eq!(get(node.http, &path, "If-None-Match: \"other\"\r\n").await.0, 200);
    }
    let (status, headers, _) = get(node.http, "/web/pages/none.js", "").await;
    assert_eq!((status, headers["content-type"].as_str()), (404, "application/problem+json"));
    assert_eq!(get(node.http, "/v1/sites", "").await.0, 401, "data needs one");
    node.stop().await.unwrap();
}

#[test]
fn the_scripts_reckon_right() {
    let Some(program) = program("node") else {
        eprintln!("left out: there is no node (on Debian: apt-get install nodejs)");
        return;
    };
    let folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let done = Command::new(program).arg("--test").arg(folder.join("tests/web/reckon.mjs")).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

fn token() -> TokenSettings {
    let digest = selvedge_guard::access::TokenDigest::of(TOKEN).to_string();
    TokenSettings {
        name: "a person".into(),
        token_sha256: Some(digest),
        token_file: None,
        scopes: vec![Scope::Read, Scope::Live],
        sites: vec![],
    }
}

/// A site of three gateways, as the node hears it.
struct Edge {
    client: AsyncClient,
    polling: JoinHandle<()>,
    up: Sealer<Up>,
    reports: Sealer<Report>,
    n: u64,
    seq: u64,
}

impl Edge {
    fn new(broker: SocketAddr, secret: &SiteSecret) -> Self {
        let mut options = MqttOptions::new("edge", broker.ip().to_string(), broker.port());
        options.set_max_packet_size(256 * 1024, 256 * 1024);
        let (client, events) = AsyncClient::new(options, 64);
        let (up, reports) = (Sealer::new(secret, &site()).unwrap(), Sealer::new(secret, &site()).unwrap());
        Self { client, polling: tokio::spawn(poll(events)), up, reports, n: 0, seq: 0 }
    }

    /// All gateways report; the last of them is in trouble.
    fn report(&mut self) {
        self.n += 1;
        let member = |g| ReportedMember {
            state: if g == 3 { ReportedState::Draining } else { ReportedState::Active },
            wanted: if g == 3 { 0 } else { SHARDS },
            ..ReportedMember::active(GatewayId(g), 1)
        };
        for gateway in [1, 2, 3] {
            let of = GatewayId(gateway);
            let led = (0..SHARDS).filter(|shard| shard % 3 + 1 == gateway).map(|shard| Led {
                shard: ShardId(shard),
                cursor: 7,
                last: 9,
                outbox_bytes: 2_048,
                waiting_parts: 1,
                waiting_ms: 0,
            });
            let report = Report {
                gateway: of,
                start: 1,
                n: self.n,
                uptime_ms: 1_000 * self.n,
                at: EpochMs::from(SystemTime::now()),
                release: "0.1.0".into(),
                trouble: (gateway == 3).then(|| "its disk is full".into()),
                members: [1, 2, 3].map(member).into(),
                shards: SHARDS,
                placed: (0..SHARDS).flat_map(|s| [0, 1, 2].map(|r| ((s + r) % 3) as u8)).collect(),
                led: led.collect(),
                directory_slot: self.n,
                paused: false,
                moves: vec![ReportedMove {
                    shard: Some(ShardId(5)),
                    since: 7,
                    leaves: Some(GatewayId(3)),
                    comes: Some(GatewayId(1)),
                    phase: MovePhase::Learning,
                    done_bytes: 25,
                    total_bytes: 100,
                }],
                connections: 5,
                acked: 1_234,
                questions: 0,
                question_ms: 0,
                skipped: Vec::new(),
            };
            let bytes = self.reports.seal(place(of), self.n, &report).unwrap();
            self.client.try_publish(report_topic(&site(), of), QoS::AtLeastOnce, false, bytes).unwrap();
        }
    }

    /// Windows of one device's stream: each a start, a value and how many of its readings were late.
    fn send(&mut self, device: &str, windows: &[(i64, f64, u64)]) {
        let part = |&(start, value, late): &(i64, f64, u64)| {
            let start = EpochMs(start);
            let mut aggregate = Aggregate::of(Sample { time: start.plus(1), slot: 1, index: 0, value });
            aggregate.merge(&Aggregate::of(Sample {
                time: start.plus(2),
                slot: 1,
                index: 1,
                value: value + 5.0,
            }));
            let watermark = start.plus(WIDTH_MS);
            let (width_ms, set_aside, sequences) = (WIDTH_MS as u32, 0, Sequences::default());
            Part { stream: 0, width_ms, start, aggregate, late, watermark, set_aside, sequences }
        };
        let name = StreamName { device: device.into(), stream: "temp".into() };
        let body = Batch { streams: vec![name], parts: windows.iter().map(part).collect() }.encode();
        self.seq += 1;
        let batch = Up::Batch { first_kept: 1, last: self.seq, body };
        let bytes = self.up.seal(SHARD, self.seq, &batch).unwrap();
        self.client.try_publish(up_topic(&site(), SHARD), QoS::AtLeastOnce, false, bytes).unwrap();
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.polling.abort();
    }
}

async fn poll(mut events: EventLoop) {
    while events.poll().await.is_ok() {}
}

/// Reports until the node has heard it: what is published before it listens is lost.
async fn until_heard(node: &Node, edge: &mut Edge) {
    let hearing = async {
        loop {
            edge.report();
            if get(node.http, "/v1/sites", "").await.2.contains("\"live\":3") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
        }
    };
    tokio::time::timeout(Duration::from_millis(PATIENCE_MS), hearing).await.unwrap();
}

async fn until_stored(node: &Node, device: &str) {
    let storing = async {
        while get(node.http, &format!("/v1/devices?q={device}"), "").await.2.contains("\"devices\":[]") {
            tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
        }
    };
    tokio::time::timeout(Duration::from_millis(PATIENCE_MS), storing).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_sees_sites_devices_and_streams() {
    let Some(mut browser) = Browser::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let secret = SiteSecret::generate().unwrap();
    let node = Node::start(settings(folder.path(), &secret).check().unwrap(), None).await.unwrap();
    let mut edge = Edge::new(node.broker.unwrap(), &secret);
    until_heard(&node, &mut edge).await;
    let now = EpochMs::from(SystemTime::now()).0;
    let start = now - now.rem_euclid(WIDTH_MS) - 40 * WIDTH_MS;
    let at = |n: i64| start + n * WIDTH_MS;
    // Forty windows, of which three are missing, and one has late readings.
    let there = (0..40).filter(|n| !(20..23).contains(n));
    let windows: Vec<_> = there.map(|n| (at(n), n as f64, u64::from(n == 10) * 2)).collect();
    edge.send("press-1", &windows);
    edge.send(NASTY, &windows);
    until_stored(&node, "img").await;
    let url = |path: &str| format!("http://{}{path}", node.http);

    // The overview: what is wrong comes first.
    browser.open(&url("/"));
    browser.until("document.querySelector('.problems li').innerText.includes('its disk is full')", true);
    browser.until("document.querySelectorAll('.site .hour').length", 2);
    browser.until("document.querySelector('.site .hour .strip').children.length", 60);
    browser
        .until("document.querySelector('.site h4').textContent", "Completeness of the last hour, 2 streams");

    // The site: a ring, its legend, its table.
    edge.report();
    browser.open(&url("/sites/plant-7"));
    browser.until("document.querySelectorAll('.ring .led').length", 64);
    browser.until("document.querySelectorAll('.ring .kept').length", 128);
    browser.until("document.querySelectorAll('.gateways li').length", 3);
    browser.until("document.querySelectorAll('.scroll tbody tr').length", 64);
    // What moves: a bar in the list and one outside the ring, and a draining gateway with what it has yet to lose.
    browser.until("document.querySelectorAll('.ring .moving').length", 1);
    browser.until(
        "document.querySelector('.moves li').textContent.replace(/\\s+/g, ' ')",
        "shard 53→1learning, 25 B of 100 B (25%)",
    );
    browser.until("document.querySelectorAll('.gateways .state-word').length", 1);
    let held = "document.querySelector('.gateways li .held').textContent";
    browser.until(held, "64 replicas, 0 when all moves are done");
    browser.value("document.querySelector('.ring').focus()");
    browser.press("ArrowRight");
    browser.until(
        "document.querySelector('.said').textContent",
        "Shard 0: gateway 1 leads, replicas on 2, 3, 2 batches in its outbox.",
    );
    browser.value("document.querySelector('[data-column=\"0\"]').click()");
    browser.until("document.querySelector('.scroll tbody th').textContent", "63");

    // The devices: what is searched is found, and a name is a name.
    browser.open(&url("/devices"));
    browser.until("document.querySelectorAll('.stack tbody tr').length", 2);
    browser.value("document.getElementById('q').focus()");
    browser.keys("IMG");
    browser.until("document.querySelectorAll('.stack tbody tr').length", 1);
    browser.until("document.querySelector('.stack tbody th').textContent", NASTY);
    browser.value("document.querySelector('.stack tbody th a').click()");
    browser.until("document.querySelector('h1').textContent", NASTY);
    browser.until("document.querySelector('.stream .big').textContent.startsWith('44')", true);
    browser.until("document.querySelectorAll('main img').length", 0);

    // The stream: band, mean, the gap, the late mark; then what comes in.
    browser.open(&url("/streams/plant-7/press-1/temp"));
    browser.until("document.querySelector('.plot .band').getAttribute('d').match(/M/g).length", 2);
    browser.until("document.querySelector('.plot .mean').getAttribute('d').match(/M/g).length", 2);
    browser.until("document.querySelectorAll('.plot .gap').length > 0", true);
    browser.until("document.querySelectorAll('.plot .late').length", 1);
    browser.until("document.querySelector('.told').textContent.includes('3 windows are missing')", true);
    browser.until("document.querySelector('.state').dataset.state", "live");
    browser.value("window.sameDocument = true");
    edge.send("press-1", &[(at(40), 977.0, 0)]);
    browser.until("document.querySelector('.readout').textContent.includes('max982')", true);
    browser.until("window.sameDocument", true);
    browser.value("document.querySelector('.plot').focus()");
    browser.press("Home");
    browser.until("document.querySelector('.readout').textContent.includes('max5')", true);
    // A drag over the newest fifth of the chart.
    let place = browser.value("(() => { const b = document.querySelector('.plot').getBoundingClientRect(); return [b.left + b.width * 0.8, b.top + 100, b.right - 20] })()");
    let [a, y, b] = [0, 1, 2].map(|i| place[i].as_f64().unwrap());
    browser.drag((a, y), (b, y));
    browser.until("[...document.querySelectorAll('.chart button')].find(b => b.textContent === 'Back from zoom').hidden", false);

    // A name that browsers take for a step in a path has a page like any other.
    edge.send("..", &windows[..1]);
    until_stored(&node, "..").await;
    browser.open(&url("/devices?q=.."));
    browser.until("document.querySelectorAll('.stack tbody tr').length", 1);
    browser.value("document.querySelector('.stack tbody th a').click()");
    browser.until("document.querySelector('h1').textContent", "..");
    browser.until("document.querySelector('.stream h3').textContent", "temp");

    // Another theme holds for the next page.
    browser.value("document.getElementById('theme').click()");
    let chosen = browser.value("document.documentElement.dataset.theme");
    browser.open(&url("/sites/nowhere"));
    browser.until("document.querySelector('[role=alert]').textContent.includes('nowhere')", true);
    assert_eq!(browser.value("document.documentElement.dataset.theme"), chosen);
    let refused = |text: &String| !text.contains("/v1/sites/nowhere");
    browser.complaints.retain(refused);
    assert_eq!(browser.complaints, Vec::<String>::new());
    drop((browser, edge));
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_token_is_asked_for_it_once() {
    let Some(mut browser) = Browser::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path(), &SiteSecret::generate().unwrap());
    settings.http.tokens = vec![token()];
    let node = Node::start(settings.check().unwrap(), None).await.unwrap();
    browser.open(&format!("http://{}/", node.http));
    for typed in ["not the token that was given out", TOKEN] {
        browser.until("document.querySelectorAll('dialog[open]').length", 1);
        browser.until("document.activeElement.id", "token");
        browser.keys(typed);
        browser.value("document.querySelector('dialog form').requestSubmit()");
    }
    browser.until("document.querySelector('.site h3').textContent", "plant-7");
    browser.open(&format!("http://{}/devices", node.http));
    browser.until("document.querySelector('.empty h2').textContent", "No devices yet");
    browser.until("document.querySelectorAll('dialog').length", 0);
    drop(browser);
    node.stop().await.unwrap();
}
