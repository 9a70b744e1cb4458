//! The node's settings: a TOML file, `SELVEDGE_NODE_*` variables and the command line (see
//! [`selvedge_config`]).

mod http;

pub use http::SqlSettings;
pub use selvedge_guard::access::TokenSettings;

use crate::lake;
use crate::lake::schedule::LakeSettings;
use crate::store::{Database, Postgres};
use selvedge_config::SettingsLoadError;
use selvedge_guard::access::Access;
use selvedge_guard::private::read_secret;
use selvedge_mqtt::broker::Credentials;
use selvedge_seal::{SecretError, SiteSecret};
use selvedge_types::ids::SiteId;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// The prefix of the node's environment variables: `SELVEDGE_NODE_HTTP__PORT` sets `http.port`.
pub const ENV_PREFIX: &str = "SELVEDGE_NODE";

/// Everything that can be set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSettings {
    /// The folder of the database, if it is SQLite.
    pub data_dir: PathBuf,
    /// `sqlite`, or the address of a PostgreSQL database: `postgres://user:password@host:5432/database`.
    pub database: DatabaseAddress,
    /// PostgreSQL by TLS: a file (PEM) with the certificates that the server's must come from; empty for those that
    /// the system trusts.
    pub database_ca_file: PathBuf,
    /// PostgreSQL: whether a server on another machine is spoken to without TLS, the password and all.
    pub database_plaintext: bool,
    /// PostgreSQL: whether windows lie in a hypertable of TimescaleDB.
    pub timescale: bool,
    /// What is logged: a `tracing` filter such as `info` or `selvedge_node=debug,info`.
    pub log: String,
    pub http: HttpSettings,
    /// The section `uplink`: the broker that batches come from.
    pub uplink: UplinkSettings,
    /// The target of exports.
    pub lake: LakeSettings,
    /// The sites that this node serves.
    pub sites: Vec<SiteSettings>,
}

/// Which database, in words; may hold a password, which is not shown.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DatabaseAddress(pub String);

impl std::fmt::Debug for DatabaseAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.split(':').next().unwrap_or_default())
    }
}

/// The section `http`: the address of the query API, and who may use it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// The address that it listens on.
    pub host: IpAddr,
    /// The port that it listens on; 0 takes a free one.
    pub port: u16,
    /// Whether all that reach a `host` that is not loopback may ask without a token.
    pub open: bool,
    /// The tokens that admit requests; without any, everybody who reaches the port may ask.
    pub tokens: Vec<TokenSettings>,
    /// Names that it is reached by, besides its addresses and names of local networks. Matters as long as there are no tokens.
    pub hosts: Vec<String>,
    pub sql: SqlSettings,
}

impl Default for HttpSettings {
    fn default() -> Self {
        let host = IpAddr::from([127, 0, 0, 1]);
        Self { host, port: 8080, open: false, tokens: vec![], hosts: vec![], sql: SqlSettings::default() }
    }
}

/// The section `uplink`: the broker that batches come from.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkSettings {
    /// `embedded`: the node is the broker, and gateways connect to it. `external`: there is one elsewhere.
    pub broker: String,
    /// Embedded: the address to listen on. External: the broker's name or address.
    pub host: String,
    /// Embedded: the port to listen on, 0 takes a free one. External: the broker's port.
    pub port: u16,
    /// The user name for the broker; empty for none. Embedded: what gateways must show, needed unless `host` is loopback.
    pub username: String,
    /// The password that goes with it; a file is better.
    pub password: String,
    /// The file that holds it instead.
    pub password_file: PathBuf,
    /// The client id at an external broker; empty makes one up, which is right unless the broker lists allowed ones.
    pub client_id: String,
    /// External: the name of a group of nodes that share the work, each message going to one of them; they need one database,
    /// on PostgreSQL. Empty: this node hears everything.
    pub share: String,
}

impl std::fmt::Debug for UplinkSettings {
    /// Leaves the password out: settings are logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UplinkSettings")
            .field("broker", &self.broker)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("username", &self.username)
            .field("client_id", &self.client_id)
            .field("share", &self.share)
            .finish_non_exhaustive()
    }
}

/// One site. Exactly one of `secret` and `secret_file` is needed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteSettings {
    pub name: SiteId,
    /// Its secret; a file is better.
    #[serde(default)]
    pub secret: Option<SiteSecret>,
    /// The file that holds its secret.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// Files with further secrets that frames of this site may be sealed with, while its secret changes.
    #[serde(default)]
    pub accept_secret_files: Vec<PathBuf>,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("selvedge-node-data"),
            database: DatabaseAddress("sqlite".to_string()),
            database_ca_file: PathBuf::new(),
            database_plaintext: false,
            timescale: false,
            log: "info".to_string(),
            http: HttpSettings::default(),
            uplink: UplinkSettings {
                broker: "embedded".to_string(),
                host: "127.0.0.1".to_string(),
                port: 18830,
                username: String::new(),
                password: String::new(),
                password_file: PathBuf::new(),
                client_id: String::new(),
                share: String::new(),
            },
            lake: LakeSettings { url: String::new(), every_minutes: 60, settle_hours: 6 },
            sites: vec![],
        }
    }
}

/// Why the node can't be run with these settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The settings don't load.
    #[error(transparent)]
    Load(#[from] SettingsLoadError),
    /// A setting has a value that can't be used.
    #[error("the setting `{key}`: {why}")]
    Wrong {
        key: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// A site's secret is missing or can't be read.
    #[error("the secret of site {site} (setting `sites`): {why}")]
    Secret {
        site: SiteId,
        /// What is wrong with it.
        why: SecretError,
    },
}

/// A site with its secrets.
#[derive(Debug, Clone)]
pub struct ServedSite {
    pub name: SiteId,
    /// What confirmations are sealed with.
    pub secret: SiteSecret,
    /// What else its frames may be sealed with.
    pub also_accepted: Vec<SiteSecret>,
}

/// The broker that batches come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerChoice {
    /// This node's own, listening here.
    Embedded(SocketAddr),
    External,
}

/// Settings that were checked, and what they name, read once. A node starts from these alone.
#[derive(Debug)]
pub struct Checked {
    /// As they were read.
    pub settings: NodeSettings,
    /// The sites to serve, at least one.
    pub sites: Vec<ServedSite>,
    /// The broker between them and the node.
    pub broker: BrokerChoice,
    /// What an external broker is shown, or the embedded one asks for.
    pub credentials: Option<Credentials>,
    pub database: Database,
    /// Who may ask over HTTP.
    pub access: Access,
}

impl NodeSettings {
    /// The database.
    ///
    /// # Errors
    /// When it is none that there is; never repeats the address, which may hold a password.
    pub fn database(&self) -> Result<Database, SettingsError> {
        let wrong = |key: &str, why: String| SettingsError::Wrong { key: key.into(), why };
        let address = self.database.0.as_str();
        match address {
            "sqlite" if self.timescale => {
                Err(wrong("timescale", "is true, but the database is SQLite; set it to false".into()))
            }
            "sqlite" => Ok(Database::sqlite(&self.data_dir)),
            _ if address.starts_with("postgres://") || address.starts_with("postgresql://") => {
                let mut server = Postgres::parse(address, self.database_plaintext)
                    .map_err(|why| wrong("database", why))?;
                server.timescale = self.timescale;
                let file = &self.database_ca_file;
                server.ca_file = (!file.as_os_str().is_empty()).then(|| file.clone());
                Ok(Database::Postgres(Box::new(server)))
            }
            _ => Err(wrong(
                "database",
                "is neither `sqlite` nor an address that starts with postgres://".into(),
            )),
        }
    }

    /// Loads the settings; `overrides` are (dotted key, value).
    ///
    /// # Errors
    /// When a source can't be read, or says something that does not exist or is of the wrong type.
    pub fn load(file: Option<&Path>, overrides: &[(String, String)]) -> Result<Self, SettingsError> {
        Ok(selvedge_config::load(file, ENV_PREFIX, overrides)?)
    }

    /// Reads the secrets and checks what the types can't.
    ///
    /// # Errors
    /// Names the first setting that is wrong.
    fn served(&self) -> Result<Vec<ServedSite>, SettingsError> {
        let wrong = |key: &str, why: &str| SettingsError::Wrong { key: key.into(), why: why.into() };
        if self.sites.is_empty() {
            let example =
                "[[sites]] with `name = \"plant-7\"` and `secret_file = \"/etc/selvedge/plant-7.secret\"`";
            return Err(wrong("sites", &format!("there is none; add {example}")));
        }
        let mut sites: Vec<ServedSite> = vec![];
        for (i, site) in self.sites.iter().enumerate() {
            if sites.iter().any(|s| s.name == site.name) {
                return Err(wrong(&format!("sites[{i}].name"), &format!("{} is listed twice", site.name)));
            }
            let failed = |why| SettingsError::Secret { site: site.name.clone(), why };
            let secret = match (&site.secret, &site.secret_file) {
                (Some(secret), None) => secret.clone(),
                (None, Some(file)) => SiteSecret::from_file(file).map_err(failed)?,
                _ => {
                    let why = format!("site {} needs either `secret_file` or `secret`", site.name);
                    return Err(wrong(&format!("sites[{i}]"), &why));
                }
            };
            let also = site.accept_secret_files.iter().map(|file| SiteSecret::from_file(file));
            let also_accepted = also.collect::<Result<_, _>>().map_err(failed)?;
            sites.push(ServedSite { name: site.name.clone(), secret, also_accepted });
        }
        Ok(sites)
    }

    /// Which broker to use.
    ///
    /// # Errors
    /// When `uplink.broker` is neither, or `uplink.host` does not go with it.
    fn broker(&self) -> Result<BrokerChoice, SettingsError> {
        let wrong = |key: &str, why: String| SettingsError::Wrong { key: key.into(), why };
        let host = self.uplink.host.as_str();
        match self.uplink.broker.as_str() {
            "embedded" => {
                let parsed: Result<IpAddr, _> = host.parse();
                let why = || {
                    format!("{host:?} is not an address to listen on; give one such as 0.0.0.0 or 127.0.0.1")
                };
                Ok(BrokerChoice::Embedded(
                    (parsed.map_err(|_| wrong("uplink.host", why()))?, self.uplink.port).into(),
                ))
            }
            "external" if host.is_empty() || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) => {
                Err(wrong("uplink.host", format!("{host:?} is not a broker; give its name or address")))
            }
            "external" => Ok(BrokerChoice::External),
            other => Err(wrong("uplink.broker", format!("{other:?} is neither `embedded` nor `external`"))),
        }
    }

    /// What this node shows an external broker, or its own one asks for: user name and password.
    ///
    /// # Errors
    /// When one is there without the other, the password's file can't be read or is open to others, or a broker that others can
    /// reach would let in everybody.
    fn credentials(&self, broker: &BrokerChoice) -> Result<Option<Credentials>, SettingsError> {
        let wrong = |key: &str, why: String| SettingsError::Wrong { key: key.into(), why };
        let UplinkSettings { username, password, password_file, .. } = &self.uplink;
        let password = match (password.as_str(), password_file.as_os_str().is_empty()) {
            ("", true) => None,
            (password, true) => Some(password.to_string()),
            ("", false) => {
                let read = read_secret(password_file);
                Some(read.map_err(|why| wrong("uplink.password_file", why))?)
            }
            _ => {
                let why = "there is an `uplink.password` as well; set one of them".to_string();
                return Err(wrong("uplink.password_file", why));
            }
        };
        if let BrokerChoice::Embedded(address) = broker
            && !address.ip().is_loopback()
            && (username.is_empty() || password.is_none())
        {
            let why = format!(
                "is {}, which others can reach, and the embedded broker does not ask for a password: set `uplink.username` and \
                 `uplink.password_file` (and the same at the gateways), or listen on 127.0.0.1",
                address.ip()
            );
            return Err(wrong("uplink.host", why));
        }
        match (username.is_empty(), password) {
            (true, None) => Ok(None),
            (true, Some(_)) => {
                Err(wrong("uplink.username", "there is a password without it; set both or neither".into()))
            }
            (false, password) => {
                let (username, password) = (username.clone(), password.unwrap_or_default());
                Ok(Some(Credentials { username, password }))
            }
        }
    }

    /// Checks everything that can be checked without starting, and reads the secrets.
    ///
    /// # Errors
    /// Names the first setting that is wrong.
    pub fn check(self) -> Result<Checked, SettingsError> {
        let wrong = |key: &str, why: String| Err(SettingsError::Wrong { key: key.into(), why });
        if self.data_dir.as_os_str().is_empty() {
            return wrong("data_dir", "is empty; name a folder".into());
        }
        if self.uplink.host.contains(char::is_whitespace) {
            return wrong("uplink.host", format!("{:?} has a space in it", self.uplink.host));
        }
        let broker = self.broker()?;
        if broker == BrokerChoice::External && self.uplink.port == 0 {
            return wrong("uplink.port", "is 0; give the broker's port".into());
        }
        if broker != BrokerChoice::External && self.uplink.port != 0 && self.uplink.port == self.http.port {
            let why = format!("is {}, as `http.port` is; give each a port of its own", self.http.port);
            return wrong("uplink.port", why);
        }
        let sql = &self.http.sql;
        for (key, value) in [
            ("http.sql.timeout_ms", sql.timeout_ms),
            ("http.sql.limit_rows", sql.limit_rows.into()),
            ("http.sql.limit_bytes", sql.limit_bytes),
        ] {
            if sql.enabled && value == 0 {
                return wrong(key, "is 0, so that no query could be answered".into());
            }
        }
        let sites = self.served()?;
        let access = self.access()?;
        let database = self.database()?;
        let wrong = |why: &str| Err(SettingsError::Wrong { key: "uplink.share".into(), why: why.into() });
        if !self.uplink.share.is_empty() {
            if self.uplink.share.contains(['/', '+', '#']) {
                return wrong("is not the name of a group; it may not hold / + #");
            }
            if broker != BrokerChoice::External {
                return wrong(
                    "is set, but the broker is embedded, which one node has for itself; set `uplink.broker` to `external` \
                     for several nodes at one broker, or leave it empty",
                );
            }
        }
        let wrong = |key: &str, why: String| SettingsError::Wrong { key: key.into(), why };
        selvedge_config::check_log_filter(&self.log).map_err(|why| wrong("log", why))?;
        if !self.lake.url.is_empty() {
            lake::target::check_address(&self.lake.url).map_err(|why| wrong("lake.url", why.to_string()))?;
        }
        if self.lake.every_minutes == 0 {
            return Err(wrong("lake.every_minutes", "is 0; 60 looks once an hour".into()));
        }
        let credentials = self.credentials(&broker)?;
        Ok(Checked { sites, broker, credentials, database, access, settings: self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(pairs: &[(&str, &str)]) -> NodeSettings {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        selvedge_config::load_from(None, ENV_PREFIX, [], &pairs).unwrap()
    }

    fn said(pairs: &[(&str, &str)]) -> String {
        load(pairs).check().unwrap_err().to_string()
    }

    #[test]
    fn the_example_file_loads() {
        let path = std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap())
            .join("../deploy/node.toml");
        let settings: NodeSettings = selvedge_config::load_from(Some(&path), ENV_PREFIX, [], &[]).unwrap();
        assert_eq!(settings.sites[0].name.as_str(), "plant-7");
        assert_eq!(settings.broker().unwrap(), BrokerChoice::Embedded(([127, 0, 0, 1], 18830).into()));
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let secret = SiteSecret::generate().unwrap().reveal_hex();
        let site = format!("[{{ name = \"a\", secret = \"{secret}\" }}]");
        let twice =
            format!("[{{ name = \"a\", secret = \"{secret}\" }}, {{ name = \"a\", secret = \"{secret}\" }}]");
        assert!(load(&[("sites", &site)]).check().is_ok());
        assert!(load(&[("sites", &site), ("log", "selvedge_node=debug, warn")]).check().is_ok());
        for (key, value, named) in [
            ("log", "verbose", "\"verbose\" is not a level"),
            ("log", "", "\"\" is not a level"),
            ("log", "selvedge_node=loud", "\"loud\""),
            ("data_dir", "", "`data_dir`"),
            ("uplink.host", "my broker", "`uplink.host`"),
            ("uplink.port", "8080", "`uplink.port`"),
        ] {
            let text = said(&[("sites", &site), (key, value)]);
            assert!(text.contains(named), "{key} = {value}: {text}");
        }
        let external = [("sites", site.as_str()), ("uplink.broker", "external"), ("uplink.host", "h")];
        assert!(said(&[&external[..], &[("uplink.port", "0")]].concat()).contains("`uplink.port`"));
        assert!(said(&[]).contains("`sites`: there is none"));
        assert!(said(&[("sites", "[{ name = \"a\" }]")]).contains("`secret_file` or `secret`"));
        assert!(said(&[("sites", &twice)]).contains("`sites[1].name`: a is listed twice"));
        assert!(said(&[("sites", &site), ("uplink.broker", "own")]).contains("`external`"));
        assert!(said(&[("sites", &site), ("uplink.host", "plant")]).contains("`uplink.host`"));
        let nowhere = [("sites", site.as_str()), ("uplink.broker", "external"), ("uplink.host", "0.0.0.0")];
        assert!(said(&nowhere).contains("`uplink.host`"));
        assert!(said(&[("sites", &site), ("uplink.password", "x")]).contains("`uplink.username`"));
        assert!(
            said(&[("sites", &site), ("uplink.share", "nodes")]).contains("`uplink.broker` to `external`")
        );
        let external = [("sites", site.as_str()), ("uplink.broker", "external"), ("uplink.host", "h")];
        assert!(said(&[&external[..], &[("uplink.share", "a/b")]].concat()).contains("`uplink.share`"));
        assert!(said(&[("sites", &site), ("database", "mysql://h/x")]).contains("postgres://"));
        assert!(said(&[("sites", &site), ("database", "postgres://me@h:x/y")]).contains("`database`"));
        assert!(said(&[("sites", &site), ("timescale", "true")]).contains("`timescale`"));
        let file = said(&[("sites", "[{ name = \"a\", secret_file = \"/nowhere/x\" }]")]);
        assert!(file.contains("site a") && file.contains("/nowhere/x"), "{file}");
    }

    #[cfg(unix)]
    #[test]
    fn a_broker_that_others_reach_asks_for_a_password() {
        use std::os::unix::fs::PermissionsExt;
        let secret = SiteSecret::generate().unwrap().reveal_hex();
        let site = format!("[{{ name = \"a\", secret = \"{secret}\" }}]");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let put = |mode| {
            std::fs::write(&path, "hunter2\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        put(0o600);
        let file = path.to_str().unwrap();
        for host in ["0.0.0.0", "::", "10.0.0.1"] {
            let at = [("sites", site.as_str()), ("uplink.host", host)];
            let with = |more: &[(&str, &str)]| load(&[&at[..], more].concat()).check();
            for more in [&[][..], &[("uplink.username", "gateways")]] {
                let said = with(more).unwrap_err().to_string();
                for named in ["`uplink.host`", "`uplink.username`", "`uplink.password_file`", host] {
                    assert!(said.contains(named), "{said}");
                }
            }
            with(&[("uplink.username", "gateways"), ("uplink.password_file", file)]).unwrap();
            with(&[("uplink.username", "gateways"), ("uplink.password", "hunter2")]).unwrap();
        }
        let both = [("sites", site.as_str()), ("uplink.username", "a"), ("uplink.password_file", file)];
        assert_eq!(
            load(&both).check().unwrap().credentials,
            Some(Credentials { username: "a".to_string(), password: "hunter2".to_string() }),
            "also on loopback, if they are set"
        );
        let said = said(&[&both[..], &[("uplink.password", "x")]].concat());
        assert!(said.contains("`uplink.password_file`"), "{said}");
        put(0o644);
        let said = load(&both).check().unwrap_err().to_string();
        assert!(said.contains("`uplink.password_file`") && said.contains("chmod 600"), "{said}");
    }

    #[test]
    fn no_secret_shows() {
        let secret = SiteSecret::generate().unwrap().reveal_hex();
        let site = format!("[{{ name = \"a\", secret = \"{secret}\" }}]");
        let database = ("database", "postgres://me:hunter2@db/plant");
        let settings =
            load(&[("sites", &site), ("uplink.username", "me"), ("uplink.password", "hunter2"), database]);
        let shown = format!("{settings:?} {:?}", settings.clone().check());
        assert!(!shown.contains(&secret) && !shown.contains("hunter2"), "{shown}");
    }
}
