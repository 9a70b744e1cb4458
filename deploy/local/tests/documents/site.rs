//! A site of its own on free ports in a temporary folder, and what a page's commands do there.

use crate::client::{Client, Hello, PUBACK};
use crate::page::words;
use rustix::process::{Pid, Signal, kill_process};
use selvedge_ports::claim;
use selvedge_seal::SiteSecret;
use selvedge_types::time::EpochMs;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long anything may take to come true; nothing waits for it otherwise.
pub const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// The ports that pages name, and those that stand for them here.
struct Ports {
    mqtt: u16,
    http: u16,
    node: u16,
    uplink: u16,
}

impl Ports {
    fn free() -> Self {
        let (mqtt, http) = (claim(3).unwrap(), claim(3).unwrap());
        Self { mqtt, http, node: claim(1).unwrap(), uplink: claim(1).unwrap() }
    }

    fn options(&self) -> [String; 8] {
        let named = [
            ("--mqtt-port", self.mqtt),
            ("--http-port", self.http),
            ("--node-port", self.node),
            ("--uplink-port", self.uplink),
        ];
        let mut options = named.iter().flat_map(|(name, port)| [name.to_string(), port.to_string()]);
        std::array::from_fn(|_| options.next().unwrap_or_default())
    }

    fn instead_of(&self, named: u16) -> u16 {
        match named {
            1883..=1885 => self.mqtt + named - 1883,
            8081..=8083 => self.http + named - 8081,
            8080 => self.node,
            18830 => self.uplink,
            other => panic!("no page should name port {other}"),
        }
    }
}

/// Runs a site to its end, with the options that a page gives it; what it printed.
pub fn run_to_its_end(options: &[String]) -> Result<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-local"));
    let output =
        command.args(Ports::free().options()).args(options).env("TMPDIR", dir.path()).output().unwrap();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    if output.status.success() { Ok(said) } else { Err(format!("{}\n{said}", output.status)) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub struct Site {
    process: Child,
    ports: Ports,
    dir: tempfile::TempDir,
}

impl Site {
    pub fn start(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = Ports::free();
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-local"));
        let output = File::create(dir.path().join("output")).unwrap();
        command.args(ports.options()).args(options).env("TMPDIR", dir.path());
        let process =
            command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
        Self { process, ports, dir }
    }

    /// What the site has printed so far.
    pub fn printed(&self) -> String {
        let printed = std::fs::read_to_string(self.dir.path().join("output")).unwrap();
        printed.replace(&*self.dir.path().to_string_lossy(), "/tmp")
    }

    /// The site's own folder within the temporary one.
    fn folder(&self) -> PathBuf {
        let mut entries = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.find(|path| path.is_dir() && path.join("node.toml").exists()).expect("the site has a folder")
    }

    /// Does what a page's command does, with this site's ports and folders in place of the page's.
    pub fn perform(&self, command: &str) -> Result<String, String> {
        let words = words(command);
        let (program, arguments) = words.split_first().ok_or("an empty command")?;
        match program.as_str() {
            "curl" => self.curl(arguments),
            "mosquitto_pub" => self.publish(arguments),
            "selvedge-node" => self.start_program("node", arguments),
            "selvedge-gateway" => self.start_program("gateway", arguments),
            "selvedge" => self.ask(arguments),
            "sqlite3" => run(Command::new("sqlite3").args(arguments).current_dir(self.folder().join("node"))),
            _ => Err("the test does not know this program".to_string()),
        }
    }

    fn start_program(&self, program: &str, arguments: &[String]) -> Result<String, String> {
        let lake = self.dir.path().join("lake");
        let mut arguments: Vec<String> =
            arguments.iter().map(|word| word.replace("/srv/lake", &lake.to_string_lossy())).collect();
        // The page's day is over for its reader, and far from this site's.
        if let Some(at) = arguments.iter().position(|word| word == "--to-day") {
            arguments[at + 1] = tomorrow();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-local"));
        run(command.arg(program).args(arguments).current_dir(self.folder()))
    }

    /// What the operators' command prints of this site.
    fn ask(&self, arguments: &[String]) -> Result<String, String> {
        let gateway = format!("http://127.0.0.1:{}", self.ports.instead_of(8081));
        let words =
            ["selvedge", "--gateway", &gateway].into_iter().chain(arguments.iter().map(String::as_str));
        selvedge_ctl::run(words.map(OsString::from)).map_err(|failure| failure.to_string())
    }

    fn publish(&self, arguments: &[String]) -> Result<String, String> {
        let option = |name: &str| {
            let at = arguments.iter().position(|word| word == name)?;
            arguments.get(at + 1).map(String::as_str)
        };
        let of = |name| option(name).ok_or(format!("mosquitto_pub without {name}"));
        if of("-q")? != "1" || !arguments.iter().any(|word| word == "-c") {
            return Err("the test only knows persistent sessions and QoS 1".to_string());
        }
        let port = of("-p")?.parse().map_err(|_| "no port")?;
        let mut client = Client::connect(self.ports.instead_of(port), Hello::persistent(of("-i")?))
            .map_err(|code| format!("refused with {code}"))?;
        client.publish(of("-t")?, of("-m")?, 1, 1, false);
        client.packet(PUBACK);
        Ok(String::new())
    }

    /// What `curl` would print, for the few of its options that pages use.
    fn curl(&self, arguments: &[String]) -> Result<String, String> {
        let (mut url, mut body, mut headers, mut method, mut streams) = (None, None, vec![], None, false);
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-N" => streams = true,
                "-H" => headers.push(words.next().ok_or("-H without a header")?.clone()),
                "-d" => body = words.next().cloned(),
                "-X" => method = words.next().cloned(),
                option if option.starts_with('-') => return Err(format!("the test does not know {option}")),
                _ => url = Some(word.strip_prefix("http://").unwrap_or(word)),
            }
        }
        let url = url.ok_or("curl without an address")?;
        let (host, path) = url.split_at(url.find('/').unwrap_or(url.len()));
        let port = host.split_once(':').and_then(|(_, port)| port.parse().ok()).ok_or("no port")?;
        let method = method.unwrap_or(if body.is_some() { "POST" } else { "GET" }.to_string());
        let body = body.unwrap_or_default();
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let failed = |e: std::io::Error| e.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports.instead_of(port))).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {host}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let (mut answer, until) = (Vec::new(), Instant::now() + PATIENCE);
        loop {
            let mut some = [0; 4096];
            let read = stream.read(&mut some).map_err(failed)?;
            answer.extend(&some[..read]);
            let (status, body) = taken_apart(&text(&answer));
            // A stream does not end by itself: the first event will do.
            let event = body.find("id:").and_then(|start| Some(start + body[start..].find("\n\n")?));
            match event.filter(|_| streams) {
                Some(end) => return Ok(body[..end].to_string()),
                None if read > 0 && Instant::now() < until => {}
                None if status == "200" && !streams => return Ok(body),
                None => return Err(format!("{status}: {body}")),
            }
        }
    }
}

/// The status and the body of an answer, as far as it is there.
fn taken_apart(answer: &str) -> (String, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.split_whitespace().nth(1).unwrap_or_default().to_string();
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return (status, body.to_string());
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap_or_default();
        let Some(chunk) = after.get(..length).filter(|chunk| !chunk.is_empty()) else { break };
        whole += chunk;
        rest = after[length..].trim_start_matches("\r\n");
    }
    (status, whole)
}

fn tomorrow() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(86_400);
    EpochMs(i64::try_from(now.as_millis()).unwrap())
        .to_string()
        .split('T')
        .next()
        .unwrap_or_default()
        .to_string()
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| e.to_string())?;
    let (said, why) = (text(&output.stdout), text(&output.stderr));
    if output.status.success() { Ok(said) } else { Err(format!("{}: {said}{why}", output.status)) }
}

/// Checks a settings file that a page shows: the program that it is for accepts it.
pub fn check_settings(program: &str, settings: &str) -> Result<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let file: &Path = &dir.path().join("settings.toml");
    std::fs::write(file, settings).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-local"));
    let secret = dir.path().join("secret");
    SiteSecret::generate().unwrap().create_file(&secret).unwrap();
    let secret = format!("site.secret_file={}", secret.display());
    run(command.arg(program).args(["--check-config", "--set", &secret, "--config"]).arg(file))
}

/// Tries until a page's command prints what the page shows: a site needs a while until it has windows.
///
/// # Errors
/// What it printed last.
pub fn until_it_prints(
    mut perform: impl FnMut() -> Result<String, String>,
    enough: impl Fn(&str) -> bool,
) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    loop {
        match perform() {
            Ok(printed) if enough(&printed) => return Ok(()),
            Ok(last) | Err(last) if Instant::now() >= until => return Err(last),
            _ => std::thread::sleep(POLL),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Ctrl-C: it then stops its own processes. It may have ended by itself.
        if let Some(pid) = Pid::from_raw(self.process.id().cast_signed()) {
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = self.process.wait();
    }
}
