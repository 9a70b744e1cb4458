//! The identity of this gateway: what `init` writes into its data folder, and what the gateway remembers of its
//! peers.
//!
//! There are seven small files, the first four in JSON that an operator can read, and `admission.json` if the gateway
//! joined a running site ([`crate::admission`]):
//! - `identity.json`: site, gateway, membership hash and this data folder's random incarnation. It is written once,
//!   last of all, so that its presence means that `init` was completed.
//! - `start.json`: how often the process was started; it is raised and on disk before the process sends anything.
//! - `peers.json`: the mark of the incarnation, the key and the last start of each peer that this gateway has met; it is
//!   on disk before a peer is answered (see [`selvedge_fabric::link::admit`]).
//! - `link-key.json`: the private key of this gateway's links, which no error and no log shows. `init` makes it; a data
//!   folder of a release without keys gets one at its next start.
//! - `log-floor`: a position that the log has reached (see [`selvedge_log::Floor`]); the log raises it. `init` creates
//!   it, so that a log that is gone can be told from one that has not begun.
//! - `replica-marks`: which replicas are here and which were given up (see [`selvedge_log::ReplicaMarks`]); the log's keeper
//!   writes it.
//! - `lock`: locked while a process uses the directory.
//!
//! A file is replaced as a whole: the new one is written beside it, fsynced and renamed, and the directory is fsynced.
//! A failed write leaves the old file, so it may be tried again.
//!
//! Invariant: no two runs of a process on one data folder have the same start.

use crate::static_key::StaticKey;
use ring::rand::{SecureRandom, SystemRandom};
use selvedge_fabric::directory::GatewayKey;
use selvedge_fabric::link::{
    Hello, Incarnation, Known, KnownPeer, MAX_START, Mark, PROTOCOL_NEWEST, PROTOCOL_OLDEST, PeerRefusal,
    admit,
};
use selvedge_guard::private;
use selvedge_log::{Floor, LogError, RealDisk};
use selvedge_types::ids::{GatewayId, SiteId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Format version of the four JSON files.
pub const IDENTITY_VERSION: u32 = 1;

/// The largest of these files that is read, in bytes.
pub const MAX_IDENTITY_FILE_BYTES: u64 = 1024 * 1024;

/// How many peers are remembered. Of more, those with the lowest ids that the site does not have any more are forgotten.
pub const MAX_KNOWN_PEERS_ENTRIES: usize = 1024;

const IDENTITY: &str = "identity.json";
const LINK_KEY: &str = "link-key.json";
const START: &str = "start.json";
const PEERS: &str = "peers.json";
const LOCK: &str = "lock";

/// The facts about this gateway in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub site: SiteId,
    pub gateway: GatewayId,
    /// A hash of the membership and of the settings that all gateways of a site must agree on.
    pub membership: [u8; 32],
}

/// A data folder in use by this process.
#[derive(Debug)]
pub struct Identity {
    dir: PathBuf,
    expected: Expected,
    incarnation: Incarnation,
    start: u64,
    run: u64,
    key: StaticKey,
    peers: BTreeMap<GatewayId, Known>,
    _lock: File,
}

/// A data folder that is locked and checked, but in which this start is not counted yet.
#[derive(Debug)]
pub struct FoundIdentity {
    dir: PathBuf,
    expected: Expected,
    incarnation: Incarnation,
    /// The number of the coming start.
    start: u64,
    /// `None` in a data folder of a release without keys.
    key: Option<StaticKey>,
    peers: BTreeMap<GatewayId, Known>,
    lock: File,
}

impl FoundIdentity {
    /// The random incarnation of this data folder.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Counts this start of the process; the count is on disk when this returns.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn start(self) -> Result<Identity, IdentityError> {
        let Self { dir, expected, incarnation, start, key, peers, lock } = self;
        let key = match key {
            Some(key) => key,
            None => make_key(&dir)?,
        };
        write(&dir, START, &StartFile { format: IDENTITY_VERSION, start })?;
        let run = u64::from_le_bytes(random()?);
        Ok(Identity { dir, expected, incarnation, start, run, key, peers, _lock: lock })
    }
}

/// The identity in the files of the log and of the stores beside it, which keeps those of another directory from being
/// used.
pub fn log_identity(incarnation: Incarnation) -> selvedge_log::LogIdentity {
    incarnation.0.to_le_bytes()
}

/// Why a data folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// `init` was called on a directory that has an identity.
    #[error(
        "{0} belongs to a gateway already; to start afresh, choose an empty data folder and a new gateway id"
    )]
    Exists(PathBuf),
    /// `open` was called on a directory that has none.
    #[error("{0} holds no gateway; run `init` first, or correct the data folder in the settings")]
    Absent(PathBuf),
    /// The directory was made for something other than the settings say.
    #[error("{dir} was made for {what} {found}, but the settings say {wanted}; {help}")]
    Differs {
        dir: PathBuf,
        /// The fact that differs, such as `site`.
        what: &'static str,
        /// The value in the directory.
        found: String,
        /// The value in the settings.
        wanted: String,
        /// Advice for the operator.
        help: &'static str,
    },
    /// The settings have the gateway join, but it is one of its site's first.
    #[error(
        "{0} holds a gateway that is one of its site's first and did not join; remove gateway.join_token_file from its settings, or \
         choose an empty data folder for a new gateway"
    )]
    Founder(PathBuf),
    /// Another process uses the directory.
    #[error("{0} is in use by another process; stop that one first")]
    InUse(PathBuf),
    /// A file is missing, or does not read.
    #[error(
        "{file}: {why}; restore nothing from a copy: give this gateway an empty data folder and a new id"
    )]
    Damaged { file: PathBuf, why: String },
    /// A file has the known format version, but content that this release does not write.
    #[error("{file}: {why}; nothing was changed: run the release that wrote it, or a newer one")]
    Unreadable {
        file: PathBuf,
        /// The parser's error, in words.
        why: String,
    },
    /// The operating system reported an error.
    #[error("{file}: {why}; check that the disk has room and that this user may write there")]
    Io { file: PathBuf, why: io::Error },
    /// The log's floor can't be created.
    #[error(transparent)]
    Floor(#[from] LogError),
    /// Others can read the file of the links' key.
    #[error("{0}")]
    KeyOpenToOthers(String),
    /// This program was built without the curve of the links' keys.
    #[error("this program can't compute X25519; build it with the features that its Cargo.toml names")]
    NoCurve,
    /// The operating system provides no random numbers.
    #[error("the operating system gave no random bytes")]
    NoRandomness,
}

#[derive(Serialize, Deserialize)]
struct IdentityFile {
    format: u32,
    site: String,
    gateway: u16,
    incarnation: String,
    membership: String,
}

#[derive(Serialize, Deserialize)]
struct StartFile {
    format: u32,
    start: u64,
}

#[derive(Serialize, Deserialize)]
struct PeersFile {
    format: u32,
    peers: BTreeMap<u16, PeerEntry>,
}

#[derive(Serialize, Deserialize)]
struct PeerEntry {
    mark: String,
    start: u64,
    run: u64,
    /// Absent in records of a release without keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct KeyFile {
    format: u32,
    /// 64 hexadecimal digits. Any value is taken here, because the parser's error about a wrong one would show it.
    private: serde_json::Value,
}

impl Identity {
    /// Whether a directory has an identity.
    pub fn exists(dir: &Path) -> bool {
        dir.join(IDENTITY).exists()
    }

    /// Makes a directory this gateway's, with a new incarnation. It is not in use afterwards: see [`Identity::open`].
    ///
    /// # Errors
    /// When it already belongs to a gateway, is in use, or can't be written.
    pub fn init(dir: &Path, expected: &Expected) -> Result<(), IdentityError> {
        let _lock = lock_new(dir)?;
        make_key(dir)?;
        write_identity(dir, expected, random_incarnation()?)
    }

    /// Takes a directory into use: [`Identity::find`] and [`FoundIdentity::start`].
    ///
    /// # Errors
    /// Those of both.
    pub fn open(dir: &Path, expected: &Expected) -> Result<Self, IdentityError> {
        Self::find(dir, expected)?.start()
    }

    /// Checks that a directory is the one in the settings, and locks it. It changes nothing (except that it creates the
    /// empty lock file), so that everything else there can be read before this counts as a start.
    ///
    /// # Errors
    /// When the directory belongs to another gateway or another release, is damaged, or is in use.
    pub fn find(dir: &Path, expected: &Expected) -> Result<FoundIdentity, IdentityError> {
        if !Self::exists(dir) {
            return Err(IdentityError::Absent(dir.into()));
        }
        let lock = lock(dir)?;
        let found: IdentityFile = read(dir, IDENTITY)?;
        let same = |what, found: &str, wanted: &str, help| {
            let (dir, found, wanted) = (dir.to_path_buf(), found.to_string(), wanted.to_string());
            if found == wanted {
                Ok(())
            } else {
                Err(IdentityError::Differs { dir, what, found, wanted, help })
            }
        };
        let other = "correct the settings, or choose the data folder of that gateway";
        same("site", &found.site, expected.site.as_str(), other)?;
        same("gateway", &format!("g{}", found.gateway), &expected.gateway.to_string(), other)?;
        same(
            "a membership and site settings with hash",
            &found.membership,
            &hex(&expected.membership),
            "put back the gateways, shards and site settings that the site was created with",
        )?;
        let incarnation = Incarnation(number(dir, IDENTITY, &found.incarnation)?);
        let peers: PeersFile = read(dir, PEERS)?;
        let known = |(id, p): (u16, PeerEntry)| {
            let mark = Mark(number(dir, PEERS, &p.mark)?);
            let key = p.key.map(|text| {
                let bad = || damaged(dir, PEERS, "a key is not 64 hexadecimal digits");
                bytes(&text).map(GatewayKey).ok_or_else(bad)
            });
            Ok((GatewayId(id), Known { mark, start: p.start, run: p.run, key: key.transpose()? }))
        };
        let peers = peers.peers.into_iter().map(known).collect::<Result<_, IdentityError>>()?;
        let before: StartFile = read(dir, START)?;
        let next = before.start.checked_add(1).filter(|start| *start <= MAX_START);
        let start = next.ok_or_else(|| damaged(dir, START, "the start counter is at its end"))?;
        let key = find_key(dir)?;
        let (dir, expected) = (dir.to_path_buf(), expected.clone());
        Ok(FoundIdentity { dir, expected, incarnation, start, key, peers, lock })
    }

    /// The name of the site.
    pub fn site(&self) -> &SiteId {
        &self.expected.site
    }

    /// The number of this gateway in its site.
    pub fn gateway(&self) -> GatewayId {
        self.expected.gateway
    }

    /// The random incarnation of this data folder.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The public key of this gateway's links, which it announces to its site's directory.
    pub fn public_key(&self) -> GatewayKey {
        self.key.public()
    }

    pub(crate) fn static_key(&self) -> &StaticKey {
        &self.key
    }

    /// The number of this start of the process, from 1: the `start` of its [`selvedge_fabric::machine::Origin`].
    pub fn start(&self) -> u64 {
        self.start
    }

    /// How this gateway introduces itself to its peers.
    pub fn hello(&self) -> Hello {
        Hello {
            oldest: PROTOCOL_OLDEST,
            newest: PROTOCOL_NEWEST,
            site: self.expected.site.to_string(),
            membership: self.expected.membership,
            gateway: self.expected.gateway,
            incarnation: self.incarnation,
            start: self.start,
            run: self.run,
        }
    }

    /// Admits a peer, authenticated by this key, if it is the one that is named and known; anything new about it is on
    /// disk when this returns. Blocks on the disk. `present` are the peers that the site has now.
    ///
    /// # Errors
    /// When the peer is not the one that is named and known, or the new facts can't be written.
    pub fn admit(
        &mut self,
        named: &KnownPeer,
        them: &Hello,
        key: GatewayKey,
        present: &BTreeSet<GatewayId>,
    ) -> Result<(), PeerRefusal> {
        let Some(met) = admit(named, self.peers.get(&them.gateway), them, key)? else { return Ok(()) };
        let mut peers = self.peers.clone();
        peers.insert(them.gateway, met);
        let beyond = peers.len().saturating_sub(MAX_KNOWN_PEERS_ENTRIES);
        let gone: Vec<_> = peers.keys().filter(|p| !present.contains(p)).take(beyond).copied().collect();
        gone.iter().for_each(|p| _ = peers.remove(p));
        let entry = |(id, k): (&GatewayId, &Known)| {
            let key = k.key.map(|key| key.to_string());
            (id.0, PeerEntry { mark: k.mark.to_string(), start: k.start, run: k.run, key })
        };
        let file = PeersFile { format: IDENTITY_VERSION, peers: peers.iter().map(entry).collect() };
        write(&self.dir, PEERS, &file).map_err(|e| {
            tracing::error!("can't write what this gateway knows of its peers: {e}");
            PeerRefusal(format!("{} can't write its data folder at the moment", self.expected.gateway))
        })?;
        self.peers = peers;
        Ok(())
    }
}

/// Locks a folder, made if there is none, that must not be a gateway's yet.
pub(crate) fn lock_new(dir: &Path) -> Result<File, IdentityError> {
    fs::create_dir_all(dir).map_err(|why| IdentityError::Io { file: dir.into(), why })?;
    let lock = lock(dir)?;
    if Identity::exists(dir) { Err(IdentityError::Exists(dir.into())) } else { Ok(lock) }
}

/// Draws an incarnation for a data folder.
pub(crate) fn random_incarnation() -> Result<Incarnation, IdentityError> {
    Ok(Incarnation(u128::from_le_bytes(random()?)))
}

/// Writes all that makes a locked folder, which has a key already, this gateway's.
pub(crate) fn write_identity(
    dir: &Path,
    expected: &Expected,
    incarnation: Incarnation,
) -> Result<(), IdentityError> {
    write(dir, PEERS, &PeersFile { format: IDENTITY_VERSION, peers: BTreeMap::new() })?;
    write(dir, START, &StartFile { format: IDENTITY_VERSION, start: 0 })?;
    let disk = RealDisk::open(dir).map_err(|why| IdentityError::Io { file: dir.into(), why })?;
    Floor::create(Arc::new(disk), log_identity(incarnation))?;
    let identity = IdentityFile {
        format: IDENTITY_VERSION,
        site: expected.site.to_string(),
        gateway: expected.gateway.0,
        incarnation: incarnation.to_string(),
        membership: hex(&expected.membership),
    };
    write(dir, IDENTITY, &identity)?;
    // The entry of the directory itself, in case it was just created.
    match dir.canonicalize().ok().and_then(|d| d.parent().map(Path::to_path_buf)) {
        Some(parent) => sync_dir(&parent),
        None => Ok(()),
    }
}

/// Writes a new key for this gateway's links.
pub(crate) fn make_key(dir: &Path) -> Result<StaticKey, IdentityError> {
    let key = StaticKey::new(random()?).ok_or(IdentityError::NoCurve)?;
    write(dir, LINK_KEY, &KeyFile { format: IDENTITY_VERSION, private: hex(key.private()).into() })?;
    tracing::info!(public = %key.public(), "made a key for the links of this gateway");
    Ok(key)
}

/// The key of this gateway's links, if the data folder has one.
pub(crate) fn find_key(dir: &Path) -> Result<Option<StaticKey>, IdentityError> {
    let file = dir.join(LINK_KEY);
    match File::open(&file) {
        Ok(open) => private::check_private(&open, &file).map_err(IdentityError::KeyOpenToOthers)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(IdentityError::Io { file, why }),
    }
    let KeyFile { private, .. } = read(dir, LINK_KEY)?;
    let Some(private) = private.as_str() else {
        return Err(IdentityError::Unreadable { file, why: "the key is not text".to_string() });
    };
    let bad = || damaged(dir, LINK_KEY, "the key is not 64 hexadecimal digits");
    StaticKey::new(bytes(private).ok_or_else(bad)?).ok_or(IdentityError::NoCurve).map(Some)
}

fn lock(dir: &Path) -> Result<File, IdentityError> {
    let file = dir.join(LOCK);
    let io = |why| IdentityError::Io { file: file.clone(), why };
    let handle = OpenOptions::new().create(true).truncate(false).write(true).open(&file).map_err(io)?;
    match handle.try_lock() {
        Ok(()) => Ok(handle),
        Err(TryLockError::WouldBlock) => Err(IdentityError::InUse(dir.into())),
        Err(TryLockError::Error(why)) => Err(io(why)),
    }
}

/// The part that every version of these files has.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

pub(crate) fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<T, IdentityError> {
    let file = dir.join(name);
    let damaged = |why: String| IdentityError::Damaged { file: file.clone(), why };
    let mut text = String::new();
    match File::open(&file).and_then(|f| f.take(MAX_IDENTITY_FILE_BYTES + 1).read_to_string(&mut text)) {
        Ok(n) if n as u64 <= MAX_IDENTITY_FILE_BYTES => {}
        Ok(_) => return Err(damaged(format!("is longer than {MAX_IDENTITY_FILE_BYTES} bytes"))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(damaged("is missing".to_string())),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(damaged("is not text".to_string())),
        Err(why) => return Err(IdentityError::Io { file, why }),
    }
    // The version first: the other content of a file of another version is unknown here.
    let Format { format } =
        serde_json::from_str(&text).map_err(|e| damaged(format!("can't be parsed: {e}")))?;
    match format {
        IDENTITY_VERSION => serde_json::from_str(&text).map_err(|e| IdentityError::Unreadable {
            file: file.clone(),
            why: format!("can't be parsed: {e}"),
        }),
        other => Err(IdentityError::Differs {
            dir: dir.into(),
            what: "format version",
            found: other.to_string(),
            wanted: IDENTITY_VERSION.to_string(),
            help: "run the release that wrote it, or a newer one",
        }),
    }
}

pub(crate) fn write<T: Serialize>(dir: &Path, name: &str, value: &T) -> Result<(), IdentityError> {
    let (file, beside) = (dir.join(name), dir.join(format!("{name}.new")));
    let io = |why| IdentityError::Io { file: file.clone(), why };
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| io(e.into()))?;
    text.push(b'\n');
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut out = options.open(&beside).map_err(io)?;
    out.write_all(&text).and_then(|()| out.sync_all()).map_err(io)?;
    fs::rename(&beside, &file).map_err(io)?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> Result<(), IdentityError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|why| IdentityError::Io { file: dir.into(), why })
}

fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| IdentityError::NoRandomness)?;
    Ok(bytes)
}

/// Parses an incarnation or a mark.
pub(crate) fn number(dir: &Path, name: &str, text: &str) -> Result<u128, IdentityError> {
    let bad = || damaged(dir, name, "an incarnation or a mark is not 32 hexadecimal digits");
    bytes(text).map(u128::from_be_bytes).ok_or_else(bad)
}

pub(crate) fn damaged(dir: &Path, name: &str, why: &str) -> IdentityError {
    IdentityError::Damaged { file: dir.join(name), why: why.to_string() }
}

/// Parses exactly this many bytes of two hexadecimal digits each.
pub(crate) fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |at: usize| text.as_bytes().get(at).and_then(|b| char::from(*b).to_digit(16));
    let mut all = [0; N];
    for (i, byte) in all.iter_mut().enumerate() {
        *byte = u8::try_from(digit(2 * i)? * 16 + digit(2 * i + 1)?).ok()?;
    }
    (text.len() == 2 * N).then_some(all)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(site: &str, gateway: u16, hash: u8) -> Expected {
        let site = SiteId::new(site).unwrap();
        Expected { site, gateway: GatewayId(gateway), membership: [hash; 32] }
    }

    #[test]
    fn a_directory_keeps_its_identity_and_counts_its_starts() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("data");
        let me = expected("plant-7", 2, 9);
        assert!(matches!(Identity::open(&dir, &me), Err(IdentityError::Absent(_))));
        Identity::init(&dir, &me).unwrap();
        assert!(matches!(Identity::init(&dir, &me), Err(IdentityError::Exists(_))));
        let first = Identity::open(&dir, &me).unwrap();
        assert!(matches!(Identity::open(&dir, &me), Err(IdentityError::InUse(_))));
        let (start, incarnation, run) = (first.start(), first.incarnation(), first.hello().run);
        drop(first);
        let second = Identity::open(&dir, &me).unwrap();
        assert_eq!((start, second.start()), (1, 2));
        assert_eq!(incarnation, second.incarnation());
        assert_ne!(run, second.hello().run);
    }

    #[test]
    fn other_settings_on_existing_data_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        Identity::init(dir.path(), &expected("plant-7", 2, 9)).unwrap();
        for (other, says) in [
            (
                expected("plant-8", 2, 9),
                "was made for site plant-7, but the settings say plant-8; correct the settings",
            ),
            (
                expected("plant-7", 3, 9),
                "was made for gateway g2, but the settings say g3; correct the settings",
            ),
            (expected("plant-7", 2, 8), "but the settings say 0808"),
        ] {
            let said = Identity::open(dir.path(), &other).unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
        }
        assert_eq!(
            Identity::open(dir.path(), &expected("plant-7", 2, 9)).unwrap().start(),
            1,
            "a refused opening is no start"
        );
    }

    #[test]
    fn what_is_known_of_a_peer_outlives_the_process() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (me, other) = (expected("plant-7", 1, 9), expected("plant-7", 2, 9));
        Identity::init(a.path(), &me).unwrap();
        Identity::init(b.path(), &other).unwrap();
        let peer = Identity::open(b.path(), &other).unwrap().hello();
        let admit = |a: &mut Identity, peer: &Hello, key| {
            let present = BTreeSet::from([GatewayId(2)]);
            a.admit(&KnownPeer::at("box:7000".to_string()), peer, GatewayKey([key; 32]), &present)
        };
        admit(&mut Identity::open(a.path(), &me).unwrap(), &peer, 7).unwrap();
        let text = fs::read_to_string(a.path().join(PEERS)).unwrap();
        assert!(
            !text.contains(&peer.incarnation.to_string()),
            "it would let who has the file greet as g2: {text}"
        );

        fs::remove_dir_all(b.path()).unwrap();
        Identity::init(b.path(), &other).unwrap();
        let emptied = Identity::open(b.path(), &other).unwrap().hello();
        let mut again = Identity::open(a.path(), &me).unwrap();
        let said = admit(&mut again, &emptied, 7).unwrap_err().to_string();
        assert!(said.contains("g2 has another data folder than before"), "{said}");
        let said = admit(&mut again, &peer, 8).unwrap_err().to_string();
        assert!(said.contains("g2 has another key than before"), "{said}");
        admit(&mut again, &peer, 7).unwrap();
    }

    #[test]
    fn a_record_of_a_release_without_keys_takes_the_first_key_that_is_met() {
        let dir = tempfile::tempdir().unwrap();
        let me = expected("plant-7", 1, 9);
        Identity::init(dir.path(), &me).unwrap();
        let them = Hello { gateway: GatewayId(2), ..Identity::open(dir.path(), &me).unwrap().hello() };
        let record = |key: &str| {
            let (mark, start, run) = (them.incarnation.mark(), them.start, them.run);
            format!(
                "{{\"format\":1,\"peers\":{{\"2\":{{\"mark\":\"{mark}\",\"start\":{start},\"run\":{run}{key}}}}}}}"
            )
        };
        fs::write(dir.path().join(PEERS), record("")).unwrap();
        let unnamed = KnownPeer::at("box:7000".to_string());
        let (key, present) = (GatewayKey([7; 32]), BTreeSet::from([GatewayId(2)]));
        Identity::open(dir.path(), &me).unwrap().admit(&unnamed, &them, key, &present).unwrap();
        assert!(fs::read_to_string(dir.path().join(PEERS)).unwrap().contains(&key.to_string()));
        fs::write(dir.path().join(PEERS), record(",\"key\":\"07\"")).unwrap();
        let said = Identity::open(dir.path(), &me).unwrap_err().to_string();
        assert!(said.contains("a key is not 64 hexadecimal digits"), "{said}");
    }

    #[test]
    fn of_too_many_peers_those_that_the_site_has_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let me = expected("plant-7", 1, 9);
        Identity::init(dir.path(), &me).unwrap();
        let mut identity = Identity::open(dir.path(), &me).unwrap();
        let (hello, unnamed) = (identity.hello(), KnownPeer::at("box:7000".to_string()));
        let key = GatewayKey([7; 32]);
        let known = Known { mark: hello.incarnation.mark(), start: 1, run: 1, key: Some(key) };
        identity.peers = (2..2 + MAX_KNOWN_PEERS_ENTRIES as u16).map(|p| (GatewayId(p), known)).collect();
        let new = GatewayId(5_000);
        let present = BTreeSet::from([GatewayId(2), new]);
        identity.admit(&unnamed, &Hello { gateway: new, ..hello }, key, &present).unwrap();
        let kept = |p: u16| identity.peers.contains_key(&GatewayId(p));
        assert!(kept(2) && !kept(3) && kept(4) && kept(5_000));
        assert_eq!(identity.peers.len(), MAX_KNOWN_PEERS_ENTRIES);
    }

    #[test]
    fn the_key_of_the_links_is_made_once_and_shown_to_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let me = expected("plant-7", 1, 9);
        Identity::init(dir.path(), &me).unwrap();
        let path = dir.path().join(LINK_KEY);
        let first = Identity::open(dir.path(), &me).unwrap();
        let secret = hex(first.static_key().private());
        assert!(!format!("{first:?}").contains(&secret));
        let public = first.public_key();
        drop(first);
        assert_eq!(Identity::open(dir.path(), &me).unwrap().public_key(), public);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            let said = Identity::open(dir.path(), &me).unwrap_err().to_string();
            assert!(said.contains("run `chmod 600"), "{said}");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        for (text, says) in [
            (format!("{{\"format\":1,\"private\":\"{secret}0\"}}"), "not 64 hexadecimal digits"),
            (format!("{{\"format\":1,\"private\":[\"{secret}\"]}}"), "the key is not text"),
            (format!("{{\"format\":2,\"private\":\"{secret}\"}}"), "format version 2"),
            (format!("{{\"format\":1,\"private\":\"{secret}"), "can't be parsed"),
            (format!("{{\"format\":1,\"secret\":\"{secret}\"}}"), "nothing was changed"),
        ] {
            fs::write(&path, text).unwrap();
            let said = Identity::open(dir.path(), &me).unwrap_err().to_string();
            assert!(said.contains(says) && !said.contains(&secret), "{said}");
        }
        // As a release without keys left it.
        fs::remove_file(&path).unwrap();
        drop(Identity::find(dir.path(), &me).unwrap());
        assert!(!path.exists(), "what is only looked at is not changed");
        let made = Identity::open(dir.path(), &me).unwrap().public_key();
        assert!(made != public && Identity::open(dir.path(), &me).unwrap().public_key() == made);
    }

    #[test]
    fn damaged_files_are_named_and_never_panic() {
        let dir = tempfile::tempdir().unwrap();
        let me = expected("plant-7", 2, 9);
        for (file, text) in [
            (IDENTITY, "{"),
            (
                IDENTITY,
                "{\"format\":1,\"site\":\"plant-7\",\"gateway\":2,\"incarnation\":\"+1\",\"membership\":\"\"}",
            ),
            (START, "{\"format\":1,\"start\":18446744073709551615}"),
            (START, "\u{0}"),
            (PEERS, "{\"format\":1,\"peers\":{\"2\":{\"mark\":\"é\",\"start\":1,\"run\":1}}}"),
            (PEERS, "[]"),
        ] {
            fs::remove_dir_all(dir.path()).unwrap();
            Identity::init(dir.path(), &me).unwrap();
            fs::write(dir.path().join(file), text).unwrap();
            let said = Identity::open(dir.path(), &me).unwrap_err().to_string();
            assert!(said.contains(file) || said.contains("hash"), "{said}");
        }
        fs::remove_file(dir.path().join(PEERS)).unwrap();
        assert!(Identity::open(dir.path(), &me).unwrap_err().to_string().contains("is missing"));
    }

    #[test]
    fn a_newer_format_is_said_to_be_one() {
        let dir = tempfile::tempdir().unwrap();
        let me = expected("plant-7", 2, 9);
        Identity::init(dir.path(), &me).unwrap();
        fs::write(dir.path().join(START), "{\"format\":2,\"start\":1}").unwrap();
        let said = Identity::open(dir.path(), &me).unwrap_err().to_string();
        assert!(said.contains("format version 2") && said.contains("newer"), "{said}");
    }

    #[test]
    fn what_another_release_wrote_is_no_damage_and_counts_no_start() {
        let dir = tempfile::tempdir().unwrap();
        let me = expected("plant-7", 2, 9);
        for (text, says) in [
            ("{\"format\":2,\"begun\":[1]}", "format version 2"),
            ("{\"format\":1,\"begun\":[1]}", "nothing was changed"),
        ] {
            for file in [IDENTITY, START, PEERS] {
                fs::remove_dir_all(dir.path()).unwrap();
                Identity::init(dir.path(), &me).unwrap();
                fs::write(dir.path().join(file), text).unwrap();
                let said = Identity::open(dir.path(), &me).unwrap_err().to_string();
                assert!(said.contains(says) && !said.contains("new id"), "{file}: {said}");
                assert_eq!(fs::read_to_string(dir.path().join(file)).unwrap(), text);
            }
        }
        fs::remove_dir_all(dir.path()).unwrap();
        Identity::init(dir.path(), &me).unwrap();
        drop(Identity::find(dir.path(), &me).unwrap());
        assert_eq!(Identity::open(dir.path(), &me).unwrap().start(), 1, "what is only looked at is no start");
    }
}
