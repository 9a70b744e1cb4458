//! A gateway's settings: those of its site, on which all gateways must agree, and its own.

use selvedge_config::SettingsLoadError;
use selvedge_fabric::decode::{Decoder, TopicMapError, TopicRule, defaults_behind};
use selvedge_fabric::directory::{
    FirstGateway, GatewayAddresses, Genesis, MAX_ADDRESS_BYTES, MAX_ZONE_BYTES,
};
use selvedge_fabric::machine::{BadRule, CountingRules};
use selvedge_fabric::ring::{DEFAULT_REPLICAS, DEFAULT_SHARDS, MAX_GATEWAYS, RingError};
use selvedge_guard::access::{Access, Door, Scope, TokenSettings, WrongDoor};
use selvedge_guard::private::read_secret;
use selvedge_seal::{SecretError, SiteSecret};
use selvedge_types::balance::Policy;
use selvedge_types::frame;
use selvedge_types::ids::{BadSiteName, GatewayId, SiteId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The prefix of the environment variables that override settings.
pub const ENVIRONMENT_PREFIX: &str = "SELVEDGE_GATEWAY";

/// The value of `mqtt.balance` by which only draining gateways send clients away.
const BALANCE_OFF: &str = "off";

/// All settings of a gateway, one field for each section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Facts on which all gateways of the site agree for good.
    pub site: Site,
    /// Facts of this gateway alone.
    pub gateway: Own,
    /// Where devices connect, and the bounds of a connection.
    pub mqtt: Mqtt,
    /// Where operators and programs send requests.
    pub http: Http,
    /// Where the other gateways connect to.
    pub peer: Peer,
    /// The broker that carries results to the nodes.
    pub uplink: UplinkTo,
    /// How readings are counted. May be changed: the site's leaders make changed rules known.
    pub rules: CountingRules,
    /// Which topics carry which streams; searched before the default topics.
    pub topics: Vec<TopicRule>,
    /// Whether the default topics apply too, after `topics`.
    pub default_topics: bool,
    /// How the log is kept.
    pub log: LogSettings,
}

/// Facts on which all gateways of the site agree for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Site {
    pub name: String,
    /// A file with the site's secret: 64 hexadecimal digits.
    pub secret_file: PathBuf,
    /// The gateways with which the site begins. Gateways that join later are not listed.
    pub gateways: Vec<SiteGateway>,
    /// For a gateway that joins: addresses (host and port) where gateways of the site listen for each other, any of which it
    /// asks. Empty: those of `site.gateways`.
    pub seeds: Vec<String>,
    /// The number of shards over which the site's streams are spread.
    pub shards: u16,
    /// The number of gateways that keep each shard.
    pub replicas: usize,
}

/// One gateway of the site, as all of them list it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteGateway {
    pub id: u16,
    /// Where it listens for the other gateways: host and port.
    pub peer: String,
    /// Its share of replicas relative to the others.
    #[serde(default = "one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

/// Facts of this gateway alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Own {
    /// Its number in the site. A gateway that joins gets its number from the site, whatever this says.
    pub id: u16,
    /// A file with a one-time token (`selvedge gateway invite`): this gateway joins a running site instead of being one of its
    /// first. Once it has joined, the file is not read any more, and this may stay set.
    pub join_token_file: PathBuf,
    /// Gateways with the same zone are likely to fail together, so that a shard's replicas are spread over zones. Empty: it
    /// shares no zone.
    pub zone: String,
    /// The folder of its log, snapshots, batches and identity.
    pub data_dir: PathBuf,
    /// Thread layout for this many cores; 0 uses all that are available.
    pub threads: u16,
}

/// Where devices connect, and the bounds of a connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mqtt {
    pub bind: SocketAddr,
    /// The address that the site tells MQTT 5 clients of this gateway, host and port. Empty: the host of this gateway's
    /// `peer` in `site.gateways`, and the port of `bind`.
    pub advertise: String,
    /// By which policy a gateway with more than its share of the site's connections sends new MQTT 5 clients to others:
    /// `off`, or one of [`Policy::NAMES`]. A gateway that drains sends clients away in any case.
    pub balance: String,
    /// The most connections at a time.
    pub max_connections: usize,
    /// The most connections from one client address; 0 sets no bound beyond `max_connections`. Many devices may share
    /// an address, behind a router or a bridge.
    pub max_connections_per_address: usize,
    /// The largest packet of a client, in bytes.
    pub max_packet_bytes: u32,
    /// The longest keep alive, in seconds. A client that asks for none, or for a longer one, gets this. The CONNACK
    /// tells MQTT 5 clients; an older client is closed when nothing was heard from it for one and a half times this.
    pub max_keepalive_s: u16,
    /// How long a connection may take to send CONNECT, in milliseconds.
    pub connect_wait_ms: u64,
    /// How many bytes may wait for one subscriber that is slow. Beyond that a message of QoS 0 is dropped, and a
    /// message of QoS 1 closes the connection.
    pub delivery_queue_bytes: usize,
}

/// Where operators and programs send requests, and which of them are answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub bind: SocketAddr,
    /// The address that the site lists for this API, host and port. Empty: as for `mqtt.advertise`.
    #[serde(default)]
    pub advertise: String,
    /// Whether requests need no token although `bind` is not a loopback address.
    #[serde(default)]
    pub open: bool,
    /// The accepted tokens; without any, every request that reaches the port is answered.
    #[serde(default)]
    pub tokens: Vec<TokenSettings>,
    /// Host names by which the gateway is reached, besides its addresses and the names of local networks. Used only
    /// while there are no tokens.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// Where the other gateways connect to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Peer {
    pub bind: SocketAddr,
    /// Host and port at which the other gateways reach this one. Empty: what `site.gateways` says, or, for a gateway that joins,
    /// `bind`.
    pub advertise: String,
}

/// The broker that carries results to the nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UplinkTo {
    pub host: String,
    pub port: u16,
    /// The user name at the broker; empty if it wants none.
    pub username: String,
    /// A file with the password for the broker; empty if it wants none.
    pub password_file: PathBuf,
    /// For each shard: its leader slows devices down while more results than this, in MiB, are unconfirmed.
    pub outbox_budget_mib: u64,
}

/// How the log is kept, and read again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// Length of a log segment in MiB, claimed when it is made.
    pub segment_mib: u64,
    /// No new segment is claimed if less than this would stay free on the disk, in MiB.
    pub keep_free_mib: u64,
    /// Beyond this many segments, snapshots are made early so that the oldest segments can go.
    pub max_segments: u64,
    /// The rate, in bytes per second, at which stored files are read again, so that rot is noticed while peers can
    /// repair it; 0 turns this off.
    pub scrub_bytes_per_s: u64,
    /// How long records gather before they are written, in milliseconds. It spares flash where readings come slowly,
    /// and delays every acknowledgement by as much. Under load, records gather for
    /// [`selvedge_fabric::commit::BUSY_DELAY_MS`] in any case.
    pub commit_delay_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            site: Site::default(),
            gateway: Own::default(),
            mqtt: Mqtt::default(),
            http: Http {
                bind: local(8081),
                advertise: String::new(),
                open: false,
                tokens: Vec::new(),
                hosts: Vec::new(),
            },
            peer: Peer::default(),
            uplink: UplinkTo::default(),
            rules: CountingRules::default(),
            topics: Vec::new(),
            default_topics: true,
            log: LogSettings::default(),
        }
    }
}

impl Default for Site {
    fn default() -> Self {
        Self {
            name: "site".into(),
            secret_file: "site-secret".into(),
            gateways: vec![SiteGateway { id: 1, peer: "127.0.0.1:7081".into(), weight: 1 }],
            seeds: Vec::new(),
            shards: DEFAULT_SHARDS,
            replicas: DEFAULT_REPLICAS,
        }
    }
}

impl Site {
    /// What these settings say otherwise than the site that this gateway has joined. Values that are the defaults say
    /// nothing.
    pub fn contradicts(&self, genesis: &Genesis) -> Option<String> {
        let other = |found: usize, of_site: usize, default: usize| found != of_site && found != default;
        let shards = (usize::from(self.shards), usize::from(genesis.shards), usize::from(DEFAULT_SHARDS));
        let replicas = (self.replicas, genesis.replicas, DEFAULT_REPLICAS);
        let said = [("site.shards", shards), ("site.replicas", replicas)].into_iter();
        let said = said.filter(|(_, (found, of_site, default))| other(*found, *of_site, *default));
        let said: Vec<_> = said
            .map(|(key, (found, of_site, _))| format!("{key} is {found} here and {of_site} in the site"))
            .collect();
        let all = said.join(", ");
        (!all.is_empty()).then(|| format!("{all}: the site's value holds, so remove the setting here"))
    }
}

impl Default for Peer {
    fn default() -> Self {
        Self { bind: SocketAddr::from(([127, 0, 0, 1], 7081)), advertise: String::new() }
    }
}

impl Default for Own {
    fn default() -> Self {
        let (join_token_file, zone) = (PathBuf::new(), String::new());
        Self { id: 1, join_token_file, zone, data_dir: "data".into(), threads: 0 }
    }
}

impl Default for Mqtt {
    fn default() -> Self {
        let bind = SocketAddr::from(([0, 0, 0, 0], 1883));
        Self {
            bind,
            advertise: String::new(),
            balance: BALANCE_OFF.into(),
            max_connections: 10_000,
            max_connections_per_address: 0,
            max_packet_bytes: 256 * 1024,
            max_keepalive_s: 3_600,
            connect_wait_ms: 10_000,
            delivery_queue_bytes: 8 * 1024 * 1024,
        }
    }
}

impl Default for UplinkTo {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 18830,
            username: String::new(),
            password_file: PathBuf::new(),
            outbox_budget_mib: 64,
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            segment_mib: 16,
            keep_free_mib: 64,
            max_segments: 16,
            scrub_bytes_per_s: 1024 * 1024,
            commit_delay_ms: 0,
        }
    }
}

/// Why a gateway's settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A key is unknown, or its value does not parse.
    #[error(transparent)]
    Config(#[from] SettingsLoadError),
    /// The name of the site is not valid.
    #[error("site.name: {0}")]
    Name(#[from] BadSiteName),
    /// The site's secret can't be read.
    #[error("site.secret_file: {0}")]
    Secret(#[from] SecretError),
    /// The address and the tokens of the HTTP API do not fit together.
    #[error(transparent)]
    Door(#[from] WrongDoor),
    /// The file with the password for the uplink's broker can't be read.
    #[error("uplink.password_file: {0}")]
    Password(String),
    /// The site's gateways, shards and replicas do not fit together.
    #[error("site: {0}")]
    Ring(#[from] RingError),
    /// `gateway.id` is not the id of one of the site's gateways.
    #[error("gateway.id is {0}, but site.gateways names {1:?}: set it to one of these")]
    NotOfTheSite(u16, Vec<u16>),
    /// A counting rule is not valid.
    #[error(transparent)]
    Rules(#[from] BadRule),
    /// A topic rule is not valid.
    #[error(transparent)]
    Topics(#[from] TopicMapError),
    /// A text that is not valid.
    #[error("{key} is {found:?}: {right}")]
    Text {
        key: String,
        found: String,
        /// What a valid text looks like.
        right: String,
    },
    /// A number that is out of range.
    #[error("{key} is {value}: set it to {right}")]
    Number {
        key: &'static str,
        value: u64,
        /// The valid range, in words.
        right: &'static str,
    },
}

impl SettingsError {
    /// The setting that is wrong, where it is one that has loaded.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Text { key, .. } => Some(key),
            Self::Number { key, .. } => Some(key),
            Self::Name(_) => Some("site.name"),
            Self::Secret(_) => Some("site.secret_file"),
            Self::Password(_) => Some("uplink.password_file"),
            Self::NotOfTheSite(..) => Some("gateway.id"),
            Self::Config(_) | Self::Door(_) | Self::Ring(_) | Self::Rules(_) | Self::Topics(_) => None,
        }
    }
}

/// Settings that were checked, and what was derived from them.
pub struct Checked {
    /// The settings as they were read.
    pub settings: Settings,
    pub site: SiteId,
    /// How this gateway comes to its site.
    pub entry: SiteEntry,
    /// Topic map and payload decoders.
    pub decoder: Decoder,
    pub secret: SiteSecret,
    /// The password for the uplink's broker, if it wants one.
    pub password: Option<String>,
    /// Which requests over HTTP are allowed.
    pub access: Access,
}

/// How a gateway comes to its site.
pub enum SiteEntry {
    /// The settings begin the site with it.
    Founds {
        me: GatewayId,
        genesis: Genesis,
        /// Where the site's gateways listen for each other, as this one reaches them.
        peers: BTreeMap<GatewayId, String>,
    },
    /// It joins a running site with a token, or did so before; its data folder says which.
    Joins {
        /// Where gateways of the site listen for each other.
        seeds: Vec<String>,
        /// Where this gateway is reached by the others.
        address: String,
    },
}

/// A hash of what all gateways of a site agree on for good: its name, and the gateways, shards and replicas with which
/// it began.
pub fn membership_hash(site: &SiteId, genesis: &Genesis) -> [u8; 32] {
    let mut facts: Vec<_> = genesis.gateways.iter().map(|g| (g.id.0, g.weight)).collect();
    facts.sort_unstable();
    let facts = frame::encode(1, &(site.clone(), genesis.shards, genesis.replicas as u64, facts));
    let mut hash = [0; 32];
    hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, &facts).as_ref());
    hash
}

fn text(key: &str, found: &str, right: &str) -> SettingsError {
    SettingsError::Text { key: key.to_string(), found: found.to_string(), right: right.to_string() }
}

/// Whether the text can be the name of a host, or an IPv4 address.
fn is_host(host: &str) -> bool {
    let is_letter = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
    !host.is_empty() && host.chars().all(is_letter)
}

/// Whether the text is such a host, or an IPv6 address in brackets.
fn is_peer_host(host: &str) -> bool {
    is_host(host) || host.starts_with('[') && host.ends_with(']') && address(host).is_some()
}

/// The address, if the host is one and not a name.
fn address(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

/// Checks an address at which a gateway is reached by others.
fn check_peer(key: &str, peer: &str) -> Result<(), SettingsError> {
    let wrong = |right: &str| Err(text(key, peer, right));
    let Some(host) = reachable(peer) else {
        return wrong("give host and port, such as 10.0.0.11:7081 or [fd00::11]:7081");
    };
    if address(host).is_some_and(|ip| ip.is_unspecified()) {
        return wrong(
            "no gateway can be reached at that address; give the one that the other gateways connect to",
        );
    }
    Ok(())
}

/// Host and port that others can connect to, if the text gives them.
fn reachable(text: &str) -> Option<&str> {
    let port = |p: &str| p.parse::<u16>().is_ok_and(|p| p > 0);
    let (host, _) = text.rsplit_once(':').filter(|(host, p)| is_peer_host(host) && port(p))?;
    Some(host)
}

/// Whether two listeners can't have these addresses at the same time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (one, other) = (a.ip().to_canonical(), b.ip().to_canonical());
    // A listener on all of IPv6 takes all of IPv4, too.
    let takes = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    a.port() == b.port() && (one == other || takes(one, other) || takes(other, one))
}

impl Mqtt {
    /// The policy that `balance` names; `None` if it is off.
    pub fn policy(&self) -> Option<Policy> {
        Policy::parse(&self.balance)
    }
}

impl Settings {
    /// Reads the settings: defaults, then the file, then the environment, then `overrides`.
    ///
    /// # Errors
    /// Names the key that is wrong, and what would be right.
    pub fn load(file: Option<&Path>, overrides: &[(String, String)]) -> Result<Self, SettingsError> {
        Ok(selvedge_config::load(file, ENVIRONMENT_PREFIX, overrides)?)
    }

    /// Checks the texts that name a folder, a host or an address.
    fn check_addresses(&self) -> Result<(), SettingsError> {
        let wrong = |key: &str, found: &str, right: &str| Err(text(key, found, right));
        if self.gateway.data_dir.as_os_str().is_empty() {
            return wrong("gateway.data_dir", "", "name a folder");
        }
        let uplink = &self.uplink;
        if !is_host(&uplink.host) && uplink.host.parse::<IpAddr>().is_err() {
            let right = "give the name or address of the broker; its port goes to uplink.port";
            return wrong("uplink.host", &uplink.host, right);
        }
        if uplink.username.is_empty() && !uplink.password_file.as_os_str().is_empty() {
            return wrong("uplink.username", "", "a password needs a user name; set both or neither");
        }
        self.check_peers()?;
        self.check_advertised()?;
        self.check_ports()
    }

    /// Checks the addresses that this gateway announces for devices and programs.
    fn check_advertised(&self) -> Result<(), SettingsError> {
        for (key, given) in
            [("mqtt.advertise", &self.mqtt.advertise), ("http.advertise", &self.http.advertise)]
        {
            let is_right = |host: &str| {
                given.len() <= MAX_ADDRESS_BYTES && !address(host).is_some_and(|ip| ip.is_unspecified())
            };
            if !given.is_empty() && !reachable(given).is_some_and(is_right) {
                let right =
                    "give host and port as others reach them, such as 10.0.0.11:1883, or leave it empty";
                return Err(text(key, given, right));
            }
        }
        Ok(())
    }

    /// The addresses that this gateway announces to its site; `peer` is its own in `site.gateways`.
    pub fn announced(&self, peer: &str) -> GatewayAddresses {
        let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host);
        let is_local =
            host.eq_ignore_ascii_case("localhost") || address(host).is_some_and(|ip| ip.is_loopback());
        let announced = |given: &str, bind: SocketAddr| match given.is_empty() {
            false => given.to_string(),
            // No other machine reaches a listener on a loopback address.
            true if bind.ip().is_loopback() && !is_local => String::new(),
            true => format!("{host}:{}", bind.port()),
        };
        GatewayAddresses {
            peer: peer.to_string(),
            mqtt: announced(&self.mqtt.advertise, self.mqtt.bind),
            http: announced(&self.http.advertise, self.http.bind),
        }
    }

    /// Checks the addresses by which the site's gateways reach each other.
    fn check_peers(&self) -> Result<(), SettingsError> {
        for (i, gateway) in self.site.gateways.iter().enumerate() {
            let (key, peer) = (format!("site.gateways[{i}].peer"), gateway.peer.as_str());
            check_peer(&key, peer)?;
            if self.site.gateways.iter().take(i).any(|other| other.peer.eq_ignore_ascii_case(peer)) {
                let right = "another gateway of the site has that address; give each its own";
                return Err(text(&key, peer, right));
            }
        }
        for (i, seed) in self.site.seeds.iter().enumerate() {
            check_peer(&format!("site.seeds[{i}]"), seed)?;
        }
        if self.site.seeds.len() > MAX_GATEWAYS {
            let (value, right) = (self.site.seeds.len() as u64, "at most 64 addresses");
            return Err(SettingsError::Number { key: "site.seeds", value, right });
        }
        if !self.peer.advertise.is_empty() {
            check_peer("peer.advertise", &self.peer.advertise)?;
        }
        let zone = &self.gateway.zone;
        if zone.len() > MAX_ZONE_BYTES || zone.chars().any(char::is_control) {
            let right = format!("give at most {MAX_ZONE_BYTES} bytes without control characters");
            return Err(text("gateway.zone", zone, &right));
        }
        Ok(())
    }

    /// How this gateway comes to its site.
    fn entry(&self) -> Result<SiteEntry, SettingsError> {
        if !self.gateway.join_token_file.as_os_str().is_empty() {
            let listed = || self.site.gateways.iter().map(|g| g.peer.clone()).collect();
            let seeds = if self.site.seeds.is_empty() { listed() } else { self.site.seeds.clone() };
            let bind = self.peer.bind;
            let address = match self.peer.advertise.as_str() {
                "" if bind.ip().is_unspecified() => {
                    let right = "give host and port at which the other gateways reach this one, such as 10.0.0.14:7081: peer.bind \
                                 takes all of its addresses, and names none";
                    return Err(text("peer.advertise", "", right));
                }
                "" => bind.to_string(),
                advertised => advertised.to_string(),
            };
            return Ok(SiteEntry::Joins { seeds, address });
        }
        let first =
            |g: &SiteGateway| FirstGateway { id: GatewayId(g.id), weight: g.weight, peer: g.peer.clone() };
        let genesis = Genesis {
            shards: self.site.shards,
            replicas: self.site.replicas,
            gateways: self.site.gateways.iter().map(first).collect(),
        };
        genesis.ring()?;
        let me = GatewayId(self.gateway.id);
        if !genesis.gateways.iter().any(|g| g.id == me) {
            return Err(SettingsError::NotOfTheSite(me.0, genesis.gateways.iter().map(|g| g.id.0).collect()));
        }
        let peers = genesis.gateways.iter().map(|g| (g.id, g.peer.clone())).collect();
        Ok(SiteEntry::Founds { me, genesis, peers })
    }

    /// Checks that no two listeners of this gateway share an address, and that the broker is not one of them.
    fn check_ports(&self) -> Result<(), SettingsError> {
        let binds =
            [("mqtt.bind", self.mqtt.bind), ("http.bind", self.http.bind), ("peer.bind", self.peer.bind)];
        for (i, (key, bind)) in binds.iter().enumerate() {
            let found = bind.to_string();
            if bind.port() == 0 {
                return Err(text(
                    key,
                    &found,
                    "others could not find a port that changes with every start; give a fixed one",
                ));
            }
            if let Some((other, at)) = binds.iter().take(i).find(|(_, at)| overlap(*at, *bind)) {
                let right = format!("{other} = {at} takes that address too; give each its own port");
                return Err(text(key, &found, &right));
            }
        }
        let broker = match self.uplink.host.eq_ignore_ascii_case("localhost") {
            true => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            false => address(&self.uplink.host),
        };
        let is_here = |at: SocketAddr, broker: IpAddr| {
            at.port() == self.uplink.port
                && (at.ip() == broker || at.ip().is_unspecified() && broker.is_loopback())
        };
        if let Some((key, at)) = broker.and_then(|broker| binds.iter().find(|(_, at)| is_here(*at, broker))) {
            let right = format!(
                "this gateway listens there itself ({key} = {at}); give the broker that the nodes are connected to"
            );
            return Err(text(
                "uplink.host",
                &format!("{}, port {}", self.uplink.host, self.uplink.port),
                &right,
            ));
        }
        Ok(())
    }

    /// Checks how the settings fit together, and reads the secret.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn check(self) -> Result<Checked, SettingsError> {
        let site = SiteId::new(self.site.name.clone())?;
        let entry = self.entry()?;
        self.rules.validate()?;
        self.rules.validate_overrides()?;
        let mut topics = self.topics.clone();
        if self.default_topics {
            topics.extend(defaults_behind(&self.topics));
        }
        let decoder = Decoder::new(topics)?;
        let within = |key, value: u64, range: std::ops::RangeInclusive<u64>, right| {
            if range.contains(&value) { Ok(()) } else { Err(SettingsError::Number { key, value, right }) }
        };
        self.check_addresses()?;
        within("gateway.threads", self.gateway.threads.into(), 0..=256, "at most 256, 0 uses all cores")?;
        within("uplink.port", self.uplink.port.into(), 1..=65_535, "the broker's port, 1 to 65535")?;
        within("log.segment_mib", self.log.segment_mib, 1..=1024, "1 to 1024")?;
        within("log.max_segments", self.log.max_segments, 3..=4096, "3 to 4096")?;
        let rates = 0..=1024 * 1024 * 1024;
        within("log.scrub_bytes_per_s", self.log.scrub_bytes_per_s, rates, "0 (never) to 1073741824")?;
        within("log.keep_free_mib", self.log.keep_free_mib, 0..=1 << 20, "at most 1048576")?;
        within("log.commit_delay_ms", self.log.commit_delay_ms, 0..=1_000, "at most 1000")?;
        within("uplink.outbox_budget_mib", self.uplink.outbox_budget_mib, 1..=1 << 20, "1 to 1048576")?;
        within("mqtt.max_connections", self.mqtt.max_connections as u64, 1..=1_000_000, "1 to 1000000")?;
        let of_address = self.mqtt.max_connections_per_address as u64;
        within("mqtt.max_connections_per_address", of_address, 0..=1_000_000, "0 to 1000000")?;
        if self.mqtt.balance != BALANCE_OFF && self.mqtt.policy().is_none() {
            let right = format!("set off, {}", Policy::NAMES);
            return Err(text("mqtt.balance", &self.mqtt.balance, &right));
        }
        within("mqtt.max_packet_bytes", self.mqtt.max_packet_bytes.into(), 128..=1 << 20, "128 to 1048576")?;
        within("mqtt.max_keepalive_s", self.mqtt.max_keepalive_s.into(), 10..=65_535, "10 to 65535")?;
        within("mqtt.connect_wait_ms", self.mqtt.connect_wait_ms, 1_000..=60_000, "1000 to 60000")?;
        let queue = self.mqtt.delivery_queue_bytes as u64;
        within("mqtt.delivery_queue_bytes", queue, 65_536..=16_777_216, "65536 to 16777216")?;
        let Http { bind, open, tokens, .. } = &self.http;
        let (ip, scopes) = (bind.ip(), &Scope::OF_GATEWAY);
        let access = Door { key: "http.bind", ip, open: *open, tokens, scopes }.access()?;
        let secret = SiteSecret::from_file(&self.site.secret_file)?;
        let password = match self.uplink.password_file.as_os_str().is_empty() {
            true => None,
            false => Some(read_secret(&self.uplink.password_file).map_err(SettingsError::Password)?),
        };
        Ok(Checked { site, entry, decoder, secret, password, access, settings: self })
    }
}
