//! The settings files of the site's processes, written into its folder at every start.

use crate::folder::Folder;
use crate::options::Options;
use selvedge_seal::SiteSecret;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddrV4;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The name of the local site.
pub const SITE: &str = "local";

/// The width of its windows in milliseconds.
pub const WINDOW_MS: u32 = 10_000;

/// Topic rules for the gateways, besides the built-in ones.
const TOPICS: [(&str, &str); 2] = [("senml/{device}", "senml-json"), ("senml-cbor/{device}", "senml-cbor")];

/// The paths of what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// In the order of the gateways' numbers.
    pub gateways: Vec<PathBuf>,
    pub node: PathBuf,
}

/// What gateways call themselves at the node's broker.
const UPLINK_USERNAME: &str = "gateways";

/// Writes all settings files, and the site's secret and its password for the node's broker if it has none yet.
///
/// # Errors
/// Names the file that can't be written.
pub fn write(options: &Options, folder: &Folder) -> Result<Files, String> {
    let drawn = |name: &str| {
        let path = folder.at(name);
        if !path.exists() {
            let made = SiteSecret::generate().and_then(|new| new.create_file(&path));
            made.map_err(|e| e.to_string())?;
        }
        Ok::<PathBuf, String>(path)
    };
    let secrets = Secrets { site: drawn(SITE_SECRET)?, uplink: drawn(UPLINK_PASSWORD)? };
    let node = put(folder.path(), "node.toml", &node_toml(options, folder.path(), &secrets))?;
    let peer = |i: u16| {
        let port = folder.kept.peer_ports.get(usize::from(i)).copied().unwrap_or(0);
        SocketAddrV4::new(options.gateway_host(i), port)
    };
    let gateways = (0..options.gateways).map(|index| {
        let text =
            gateway_toml(options, folder.path(), &secrets, index, peer(index), &first(options, peer, index));
        put(folder.path(), &format!("gateway-{}.toml", index + 1), &text)
    });
    Ok(Files { gateways: gateways.collect::<Result<_, _>>()?, node })
}

/// Writes the settings of a gateway that joins at box `index`, where it listens for the others at this port, and the
/// token. Returns the path of the settings.
///
/// # Errors
/// Names the file that can't be written.
pub fn write_joining(
    options: &Options,
    folder: &Path,
    index: u16,
    port: u16,
    token: &str,
    seeds: &serde_json::Value,
) -> Result<PathBuf, String> {
    let token_file = folder.join(format!("gateway-{}.token", index + 1));
    let mut open = OpenOptions::new();
    let written = open.create(true).truncate(true).write(true).mode(0o600).open(&token_file);
    let written = written.and_then(|mut file| file.write_all(token.as_bytes()));
    written.map_err(|e| format!("{}: {e}", token_file.display()))?;
    let entry = EntryLines {
        site: format!("seeds = {seeds}\n"),
        gateway: format!("join_token_file = {}\n", quoted(&token_file)),
    };
    let secrets = Secrets { site: folder.join(SITE_SECRET), uplink: folder.join(UPLINK_PASSWORD) };
    let peer = SocketAddrV4::new(options.gateway_host(index), port);
    let text = gateway_toml(options, folder, &secrets, index, peer, &entry);
    put(folder, &format!("gateway-{}.toml", index + 1), &text)
}

fn put(folder: &Path, name: &str, text: &str) -> Result<PathBuf, String> {
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

const SITE_SECRET: &str = "site-secret";
const UPLINK_PASSWORD: &str = "uplink-password";

/// How a gateway comes to the site, as lines of its settings.
struct EntryLines {
    /// In the section `site`.
    site: String,
    /// In the section `gateway`.
    gateway: String,
}

/// One of the gateways with which the site begins.
fn first(options: &Options, peer: impl Fn(u16) -> SocketAddrV4, index: u16) -> EntryLines {
    let members = (0..options.gateways)
        .map(|i| format!("  {{ id = {}, peer = \"{}\", weight = 1 }},\n", i + 1, peer(i)));
    EntryLines {
        site: format!("gateways = [\n{}]\n", members.collect::<String>()),
        gateway: format!("id = {}\n", index + 1),
    }
}

/// The name of the data folder of the gateway at box `index`.
pub fn data(index: u16) -> String {
    format!("gateway-{}", index + 1)
}

/// A path as a quoted TOML string.
fn quoted(path: &Path) -> String {
    // JSON's quoting is valid for TOML's basic strings.
    serde_json::Value::from(path.to_string_lossy().as_ref()).to_string()
}

/// The files with them.
struct Secrets {
    site: PathBuf,
    uplink: PathBuf,
}

fn node_toml(options: &Options, folder: &Path, secrets: &Secrets) -> String {
    format!(
        "data_dir = {data}\n\n[http]\nhost = \"{host}\"\nport = {http}\nopen = {open}\n\n\
         [uplink]\nbroker = \"embedded\"\nhost = \"{host}\"\nport = {uplink}\n\
         username = \"{UPLINK_USERNAME}\"\npassword_file = {password}\n\n\
         [[sites]]\nname = \"{SITE}\"\nsecret_file = {secret}\n",
        data = quoted(&folder.join("node")),
        host = options.node_host(),
        http = options.node_port,
        // Only network namespaces of this machine reach an address that is not loopback.
        open = !options.node_host().is_loopback(),
        uplink = options.uplink_port,
        secret = quoted(&secrets.site),
        password = quoted(&secrets.uplink),
    )
}

fn gateway_toml(
    options: &Options,
    folder: &Path,
    secrets: &Secrets,
    index: u16,
    peer: SocketAddrV4,
    entry: &EntryLines,
) -> String {
    let topics = TOPICS
        .map(|(topic, decoder)| format!("[[topics]]\ntopic = \"{topic}\"\ndecoder = \"{decoder}\"\n\n"));
    let EntryLines { site, gateway } = entry;
    format!(
        "[site]\nname = \"{SITE}\"\nsecret_file = {secret}\n{site}\n\
         [gateway]\n{gateway}data_dir = {data}\n\n\
         [mqtt]\nbind = \"{mqtt}\"\n\n[http]\nbind = \"{http}\"\nopen = {open}\n\n[peer]\nbind = \"{peer}\"\n\n\
         [uplink]\nhost = \"{node}\"\nport = {uplink}\n\
         username = \"{UPLINK_USERNAME}\"\npassword_file = {password}\n\n\
         [rules]\nwindows_ms = [{WINDOW_MS}]\nallowed_lateness_ms = 2000\nidle_close_ms = 5000\nlate_flush_ms = 2000\n\n\
         {topics}",
        secret = quoted(&secrets.site),
        password = quoted(&secrets.uplink),
        data = quoted(&folder.join(data(index))),
        mqtt = options.mqtt(index),
        http = options.http(index),
        // Only network namespaces of this machine reach an address that is not loopback.
        open = !options.gateway_host(index).is_loopback(),
        node = options.node_host(),
        uplink = options.uplink_port,
        topics = topics.concat(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use firmware_sim::fleet::KINDS;
    use firmware_sim::payload::{Content, encode};
    use selvedge_fabric::decode::Decoded;
    use selvedge_gateway::settings::SiteEntry;
    use selvedge_types::time::EpochMs;

    /// A site's files, and what the first gateway makes of its own.
    fn written(dir: &tempfile::TempDir, more: &[&str]) -> (Files, selvedge_gateway::settings::Checked) {
        let path = dir.path().join("a \"quoted\" folder");
        let data = path.to_string_lossy().to_string();
        let options = [&["x", "--data-dir", &data], more].concat();
        let options = Options::try_parse_from(options).unwrap();
        let folder = Folder::open(&options, &[]).unwrap();
        let files = write(&options, &folder).unwrap();
        let settings = selvedge_gateway::settings::Settings::load(Some(&files.gateways[0]), &[]).unwrap();
        (files, settings.check().unwrap())
    }

    #[test]
    fn the_programs_take_the_files_as_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let (files, first) = written(&dir, &["--gateways", "5"]);
        for (i, file) in files.gateways.iter().enumerate() {
            let settings = selvedge_gateway::settings::Settings::load(Some(file), &[]).unwrap();
            assert_eq!(usize::from(settings.mqtt.bind.port()), 1883 + i);
            assert_eq!(usize::from(settings.http.bind.port()), 8081 + i);
            let peer = settings.site.gateways.get(i).unwrap().peer.clone();
            assert_eq!(peer, settings.peer.bind.to_string());
            let checked = settings.check().unwrap();
            let (SiteEntry::Founds { me, genesis, .. }, SiteEntry::Founds { genesis: of_first, .. }) =
                (checked.entry, &first.entry)
            else {
                panic!("they are the first")
            };
            assert_eq!(usize::from(me.0), i + 1);
            assert_eq!(genesis, *of_first);
        }
        let node = selvedge_node::settings::NodeSettings::load(Some(&files.node), &[]).unwrap();
        let node = node.check().unwrap();
        assert_eq!((&node.sites[0].name, node.sites[0].secret.id()), (&first.site, first.secret.id()));
        let password = node.credentials.map(|own| own.password);
        assert_eq!(password, first.password, "also where the node's address can be reached by others");
        let (again, _) = written(&dir, &["--gateways", "5"]);
        assert_eq!(again, files, "a second start finds its secret");
    }

    #[test]
    fn a_gateway_that_joins_takes_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let (files, first) = written(&dir, &[]);
        let folder = files.node.parent().unwrap();
        let options = Options::try_parse_from(["x", "--grow-every", "9s"]).unwrap();
        let seeds = serde_json::json!(["127.0.0.1:7001", "127.0.0.1:7002"]);
        let file = write_joining(&options, folder, 3, 7009, &"5f".repeat(32), &seeds).unwrap();
        let settings = selvedge_gateway::settings::Settings::load(Some(&file), &[]).unwrap();
        assert_eq!(settings.mqtt.bind.port(), 1886);
        let token = std::fs::read_to_string(&settings.gateway.join_token_file).unwrap();
        assert_eq!(token, "5f".repeat(32));
        let checked = settings.check().unwrap();
        assert_eq!(checked.secret.id(), first.secret.id());
        let SiteEntry::Joins { seeds, address } = checked.entry else { panic!("it joins") };
        assert_eq!((seeds.len(), address.as_str()), (2, "127.0.0.1:7009"));
    }

    #[test]
    fn a_gateway_reads_every_kind_of_payload_as_the_ledger_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let decoder = written(&dir, &[]).1.decoder;
        // Digits that only an exact reader gets right.
        let values = [90.14558029999999, 92.27798059999999, 0.1, -3.0];
        for kind in KINDS {
            for time in [Some(1_764_000_000_250), None] {
                let time = kind.form.carried(time);
                let all: Vec<(&str, f64)> =
                    kind.streams.iter().zip(values).map(|((stream, _), v)| (*stream, v)).collect();
                let some = if kind.form.holds_all_streams() { all.len() } else { 1 };
                let content = Content { device: "x-01", values: &all[..some], time, seq: 7, boot: 99 };
                let (topic, payload) = encode(kind.form, &content);
                let decoded = decoder.decode(EpochMs(1_764_000_000_900), &topic, &payload);
                let Decoded::Readings { list, skipped, rebirth: None } = decoded else {
                    panic!("{topic}: {decoded:?}")
                };
                assert!(skipped.is_empty(), "{topic}: {skipped:?}");
                assert_eq!(list.len(), some);
                for (reading, (stream, value)) in list.iter().zip(&all) {
                    assert_eq!(reading.device, kind.form.device_name("x-01"), "{topic}");
                    assert_eq!((reading.stream.as_ref(), reading.time), (*stream, time), "{topic}");
                    assert_eq!(reading.value.to_bits(), value.to_bits(), "{topic}: {}", reading.value);
                    let numbered = kind.form.has_seq().then_some((7, 99));
                    assert_eq!(reading.seq.zip(reading.boot), numbered, "{topic}");
                }
            }
        }
    }

    #[test]
    fn every_process_gets_its_own_ports_and_folder() {
        let options = Options::try_parse_from(["x"]).unwrap();
        let secrets = Secrets { site: "/x y/s".into(), uplink: "/x y/p".into() };
        let peer = |i: u16| SocketAddrV4::new(options.gateway_host(i), 7001 + i);
        let first = first(&options, peer, 1);
        let text = gateway_toml(&options, Path::new("/x y"), &secrets, 1, peer(1), &first);
        for line in [
            "id = 2",
            "data_dir = \"/x y/gateway-2\"",
            "bind = \"127.0.0.1:1884\"",
            "bind = \"127.0.0.1:8082\"",
            "bind = \"127.0.0.1:7002\"",
            "port = 18830",
            "  { id = 3, peer = \"127.0.0.1:7003\", weight = 1 },",
            "username = \"gateways\"",
            "password_file = \"/x y/p\"",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        let node = node_toml(&options, Path::new("/x"), &secrets);
        for line in [
            "port = 8080",
            "port = 18830",
            "secret_file = \"/x y/s\"",
            "password_file = \"/x y/p\"",
            "data_dir = \"/x/node\"",
        ] {
            assert!(node.lines().any(|l| l == line), "{line}\n{node}");
        }
    }
}
