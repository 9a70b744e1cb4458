//! The seal: what keeps whoever runs the broker between a site and the cloud blind and powerless.
//!
//! **Frame.** `version (1) | direction (1) | secret id (8) | salt (32) | counter (8) | seq (8) | sealed
//! message and tag`, integers little-endian. The message is bincode behind its own version byte
//! ([`crate::frame`]), sealed with ChaCha20-Poly1305 (as fast as it gets on boxes without AES instructions).
//! The additional data is the whole header, then the shard and the site, which stand in the topic and not in the frame.
//!
//! **Keys.** `data key = HKDF-SHA256(salt, site secret, label | direction | site)`. Each [`Sealer`] draws
//! its own random 256-bit salt when it is made, and counts its frames; the count is the nonce.
//!
//! - Invariant: no key meets a nonce twice. A restart, a restored disk or a failover makes a new sealer,
//!   so a new salt, so a new key; within a sealer the counter only grows, and its end is an error.
//! - Invariant: a frame opens only as what it was sealed as: same site, shard, seq, direction, secret and
//!   version. It can't be moved, renumbered or reflected.
//! - Invariant: one site's secret opens nothing of another site; the opener looks a secret up by
//!   (site, secret id), never by id alone.
//!
//! A frame that is replayed as it was does open. Both sides are made for that: batches are applied once
//! by their seq, cursors and `first_kept` only grow. Therefore a site that is created anew, and starts to count at 1
//! again, needs a new secret; else its broker could answer with confirmations of the old site.
//!
//! Secrets change without a pause: the opener knows the old and the new one, frames name theirs by a
//! public id. Left out: forward secrecy (a stolen secret opens recorded frames), and protection of a
//! process that is itself resumed twice from one memory image (a live snapshot of a virtual machine),
//! which would count on from the same nonce.
//!
//! Sources: RFC 5869 (HKDF), RFC 8439 (ChaCha20-Poly1305), RFC 5116 section 3.2 (counted nonces).

use crate::frame;
use crate::ids::{ShardId, SiteId};
use crate::uplink::{Down, MAX_BATCH_BYTES, Up};
use bincode::{Decode, Encode};
use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};
use ring_compat::aead::{Aead, ChaCha20Poly1305, KeyInit, Payload};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::HashMap;
use std::fmt;
use std::io::{Read, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// Version of the frame and of the key derivation.
pub const SEAL_VERSION: u8 = 1;

/// The length of a site secret.
pub const SECRET_BYTES: usize = 32;

/// How much longer a sealed frame is than the message in it.
pub const SEAL_OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

/// The longest sealed frame: the largest batch, what [`Up`] puts around it, and the seal.
pub const MAX_SEALED_BYTES: usize = MAX_BATCH_BYTES + 64 + SEAL_OVERHEAD_BYTES;

/// How many derived keys an [`Opener`] remembers for each site: one for each peer's process start that it
/// has lately heard. Forgetting one costs a derivation, nothing else.
pub const MAX_CACHED_KEYS_ENTRIES: usize = 64;

const SALT_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const HEADER_BYTES: usize = 1 + 1 + 8 + SALT_BYTES + 8 + 8;
const MAX_SECRET_FILE_BYTES: u64 = 4096;
/// 32 random bytes hold fewer different ones than this once in 10^40 draws; a hand-made secret often does.
const MIN_DIFFERENT_BYTES: usize = 8;

const ID_LABEL: &[u8] = b"selvedge secret id v1";
const DATA_LABEL: &[u8] = b"selvedge uplink data key v1";
const LINK_LABEL: &[u8] = b"selvedge peer link psk v1";

/// What a site's gateways and its nodes share: 256 random bits. Never printed, neither by `Debug` nor when
/// settings are serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct SiteSecret([u8; SECRET_BYTES]);

/// The public name of a secret: a short one-way image of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretId(pub [u8; 8]);

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Why there is no secret. Never holds any of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Not 64 hexadecimal digits.
    #[error(
        "a site secret is 64 hexadecimal digits, this has {found} characters{}; make one with `openssl rand -hex 32`",
        if *.found == 64 { ", not all of them hexadecimal" } else { "" }
    )]
    Form {
        /// How many characters were given.
        found: usize,
    },
    /// 64 digits that nobody drew at random.
    #[error("this site secret is not random; make one with `openssl rand -hex 32`")]
    NotRandom,
    /// The file can't be read or made.
    #[error("the site secret's file {path}: {why}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// The file is open to others.
    #[error("the site secret's file {path} (mode {mode:03o}) can be read by others; run `chmod 600 {path}`")]
    FileOpenToOthers {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// What the file holds is no secret.
    #[error("the site secret's file {path}: {why}")]
    FileContent {
        /// Which file.
        path: PathBuf,
        /// What is wrong with its content.
        why: Box<SecretError>,
    },
    /// The environment variable is not set.
    #[error("the environment variable {0} is not set (wanted: a site secret, 64 hexadecimal digits)")]
    NoVariable(String),
    /// The system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    NoRandomness,
}

impl SiteSecret {
    /// A new secret from the operating system's randomness.
    ///
    /// # Errors
    /// When the operating system has none.
    pub fn generate() -> Result<Self, SecretError> {
        let mut bytes = [0; SECRET_BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| SecretError::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// From 64 hexadecimal digits; space around them is ignored.
    ///
    /// # Errors
    /// When it is anything else, or plainly not random (such as the same digit 64 times).
    pub fn from_hex(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        let form = || SecretError::Form { found: text.chars().count() };
        let digits: Option<Vec<u8>> = text.chars().map(|c| Some(c.to_digit(16)? as u8)).collect();
        let digits = digits.filter(|d| d.len() == 2 * SECRET_BYTES).ok_or_else(form)?;
        let mut bytes = [0; SECRET_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().fold(0, |high, low| high << 4 | low);
        }
        let different: std::collections::BTreeSet<u8> = bytes.iter().copied().collect();
        if different.len() < MIN_DIFFERENT_BYTES {
            return Err(SecretError::NotRandom);
        }
        Ok(Self(bytes))
    }

    /// From a file that holds the 64 digits and that only its owner may read (a file of root's may also be
    /// readable to the process's group, which is how containers are handed secrets).
    ///
    /// # Errors
    /// When the file can't be read, is open to others (on Unix) or holds no secret.
    pub fn from_file(path: &Path) -> Result<Self, SecretError> {
        let failed = |why| SecretError::File { path: path.to_owned(), why };
        let file = std::fs::File::open(path).map_err(failed)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let meta = file.metadata().map_err(failed)?;
            if !is_private(meta.mode(), meta.uid()) {
                let mode = meta.mode() & 0o777;
                return Err(SecretError::FileOpenToOthers { path: path.to_owned(), mode });
            }
        }
        let mut bytes = Vec::new();
        file.take(MAX_SECRET_FILE_BYTES).read_to_end(&mut bytes).map_err(failed)?;
        Self::from_hex(&String::from_utf8_lossy(&bytes))
            .map_err(|why| SecretError::FileContent { path: path.to_owned(), why: Box::new(why) })
    }

    /// From an environment variable that holds the 64 digits.
    ///
    /// # Errors
    /// When it is not set or holds no secret.
    pub fn from_env(variable: &str) -> Result<Self, SecretError> {
        let text = std::env::var(variable).map_err(|_| SecretError::NoVariable(variable.to_string()))?;
        Self::from_hex(&text)
    }

    /// Writes the secret to a new file that only its owner may read, and flushes it to disk.
    ///
    /// # Errors
    /// When the file exists already or can't be written.
    pub fn create_file(&self, path: &Path) -> Result<(), SecretError> {
        let failed = |why| SecretError::File { path: path.to_owned(), why };
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(0o600);
        }
        let mut file = options.open(path).map_err(failed)?;
        writeln!(file, "{}", self.reveal_hex()).and_then(|()| file.sync_all()).map_err(failed)
    }

    /// The secret itself, as 64 hexadecimal digits: for handing it to another process, never for a log.
    pub fn reveal_hex(&self) -> String {
        use std::fmt::Write as _;
        self.0.iter().fold(String::with_capacity(2 * SECRET_BYTES), |mut out, b| {
            let _ = write!(out, "{b:02x}");
            out
        })
    }

    /// Its public name.
    pub fn id(&self) -> SecretId {
        SecretId(self.derive(&[], &[ID_LABEL]))
    }

    fn derive<const N: usize>(&self, salt: &[u8], info: &[&[u8]]) -> [u8; N] {
        struct Length(usize);
        impl hkdf::KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        let mut out = [0; N];
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
            .extract(&self.0)
            .expand(info, Length(N))
            .and_then(|okm| okm.fill(&mut out));
        assert!(derived.is_ok(), "HKDF-SHA256 gives up to 8160 bytes and we ask for at most 32");
        out
    }
}

impl fmt::Debug for SiteSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteSecret(redacted, id {})", self.id())
    }
}

impl Serialize for SiteSecret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str("(redacted)")
    }
}

impl<'de> Deserialize<'de> for SiteSecret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from).map_err(|_| serde::de::Error::custom("a secret is a text"))?;
        Self::from_hex(&text).map_err(serde::de::Error::custom)
    }
}

/// Whether a file of this mode and owner is closed to others.
#[cfg(unix)]
fn is_private(mode: u32, owner: u32) -> bool {
    let group_may_read = owner == 0;
    mode & if group_may_read { 0o037 } else { 0o077 } == 0
}

/// The pre-shared key of the links between a site's gateways: from the same secret, under its own label.
pub fn link_psk(secret: &SiteSecret, site: &SiteId) -> [u8; 32] {
    secret.derive(&[], &[LINK_LABEL, site.as_str().as_bytes()])
}

/// What can be sealed: [`Up`] and [`Down`], each under keys of its own direction.
pub trait Message: Encode + Decode<()> {
    /// The direction's byte in the frame.
    const DIRECTION: u8;
    /// The message's name in errors.
    const WHAT: &'static str;
}

impl Message for Up {
    const DIRECTION: u8 = 1;
    const WHAT: &'static str = "uplink message";
}

impl Message for Down {
    const DIRECTION: u8 = 2;
    const WHAT: &'static str = "confirmation";
}

/// Why a frame was not made or not opened. Never holds anything of the frame's content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Too short, too long, or authentic but not decodable.
    #[error("malformed: {0}")]
    Malformed(String),
    /// A version of the seal that this release does not know.
    #[error("seal version {0} is unknown, this release reads {SEAL_VERSION}")]
    Version(u8),
    /// A frame of the other direction, or of none.
    #[error("this frame goes the other way")]
    Direction,
    /// No secret of that id is known for the site.
    #[error("no secret with id {0} is known for this site")]
    UnknownSecret(SecretId),
    /// Altered, moved, renumbered or forged.
    #[error("not authentic: altered, moved from elsewhere, or sealed for another site")]
    NotAuthentic,
    /// The message is longer than [`MAX_SEALED_BYTES`] allows.
    #[error("the message has {0} bytes sealed, the most is {MAX_SEALED_BYTES}")]
    TooLarge(usize),
    /// The sealer has used its last nonce.
    #[error("this sealer has used up its nonces; make a new one")]
    Exhausted,
    /// The system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    NoRandomness,
}

impl SealError {
    /// A short fixed word for the kind of error, to count it under.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Version(_) => "version",
            Self::Direction => "direction",
            Self::UnknownSecret(_) => "unknown_secret",
            Self::NotAuthentic => "not_authentic",
            Self::TooLarge(_) => "too_large",
            Self::Exhausted => "exhausted",
            Self::NoRandomness => "no_randomness",
        }
    }
}

/// Seals the messages of one direction of one site. One for each process start.
pub struct Sealer<M> {
    cipher: ChaCha20Poly1305,
    site: SiteId,
    secret: SecretId,
    salt: [u8; SALT_BYTES],
    next: u64,
    direction: PhantomData<fn(M)>,
}

impl<M: Message> Sealer<M> {
    /// A sealer with a fresh salt.
    ///
    /// # Errors
    /// [`SealError::NoRandomness`].
    pub fn new(secret: &SiteSecret, site: &SiteId) -> Result<Self, SealError> {
        let mut salt = [0; SALT_BYTES];
        SystemRandom::new().fill(&mut salt).map_err(|_| SealError::NoRandomness)?;
        Ok(Self::with_salt(secret, site, salt))
    }

    fn with_salt(secret: &SiteSecret, site: &SiteId, salt: [u8; SALT_BYTES]) -> Self {
        let cipher = cipher(secret, site, M::DIRECTION, &salt);
        Self { cipher, site: site.clone(), secret: secret.id(), salt, next: 0, direction: PhantomData }
    }

    /// Seals `message` as number `seq` of `shard`. A beacon or a confirmation takes the number it speaks of.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] or [`SealError::Exhausted`].
    pub fn seal(&mut self, shard: ShardId, seq: u64, message: &M) -> Result<Vec<u8>, SealError> {
        let plain = frame::encode(SEAL_VERSION, message);
        let length = plain.len() + SEAL_OVERHEAD_BYTES;
        if length > MAX_SEALED_BYTES {
            return Err(SealError::TooLarge(length));
        }
        let counter = self.next;
        self.next = counter.checked_add(1).ok_or(SealError::Exhausted)?;
        let header = Header { secret: self.secret, salt: self.salt, counter, seq };
        let mut out = Vec::with_capacity(length);
        header.write(M::DIRECTION, &mut out);
        let aad = additional_data(&out, &self.site, shard);
        let sealed = self.cipher.encrypt(&nonce(counter).into(), Payload { msg: &plain, aad: &aad });
        out.extend(sealed.map_err(|_| SealError::TooLarge(length))?);
        Ok(out)
    }
}

/// Opens the messages of one direction, for any number of sites.
pub struct Opener<M> {
    sites: HashMap<SiteId, SiteKeys>,
    direction: PhantomData<fn() -> M>,
}

#[derive(Default)]
struct SiteKeys {
    secrets: Vec<SiteSecret>,
    /// Least recently used first; only keys that have opened something.
    keys: Vec<(SecretId, [u8; SALT_BYTES], ChaCha20Poly1305)>,
}

impl<M> Default for Opener<M> {
    fn default() -> Self {
        Self { sites: HashMap::new(), direction: PhantomData }
    }
}

impl<M: Message> Opener<M> {
    /// An opener that knows no secret yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a secret known for a site. A site may have several, while they change.
    pub fn add(&mut self, site: &SiteId, secret: &SiteSecret) {
        let secrets = &mut self.sites.entry(site.clone()).or_default().secrets;
        if !secrets.contains(secret) {
            secrets.push(secret.clone());
        }
    }

    /// Opens a frame that came for (site, shard), and says the seq it was sealed with.
    ///
    /// # Errors
    /// Every [`SealError`] that is about a frame; it says which check failed first.
    pub fn open(&mut self, site: &SiteId, shard: ShardId, bytes: &[u8]) -> Result<(u64, M), SealError> {
        if bytes.len() > MAX_SEALED_BYTES {
            return Err(SealError::TooLarge(bytes.len()));
        }
        let (header_bytes, sealed) = bytes
            .split_at_checked(HEADER_BYTES)
            .ok_or_else(|| SealError::Malformed(format!("{} bytes are no frame", bytes.len())))?;
        let header = Header::read(M::DIRECTION, header_bytes)?;
        let unknown = SealError::UnknownSecret(header.secret);
        let keys = self.sites.get_mut(site).ok_or(unknown.clone())?;
        let (entry, known) = match keys.keys.iter().position(|k| k.0 == header.secret && k.1 == header.salt) {
            Some(at) => (keys.keys.remove(at), true),
            None => {
                let secret = keys.secrets.iter().find(|s| s.id() == header.secret).ok_or(unknown)?;
                let cipher = cipher(secret, site, M::DIRECTION, &header.salt);
                ((header.secret, header.salt, cipher), false)
            }
        };
        let aad = additional_data(header_bytes, site, shard);
        let plain = entry.2.decrypt(&nonce(header.counter).into(), Payload { msg: sealed, aad: &aad });
        // A forger's salts never push out the keys of honest senders.
        if known || plain.is_ok() {
            if keys.keys.len() >= MAX_CACHED_KEYS_ENTRIES {
                keys.keys.remove(0);
            }
            keys.keys.push(entry);
        }
        let plain = plain.map_err(|_| SealError::NotAuthentic)?;
        let message = frame::decode(M::WHAT, SEAL_VERSION, &plain);
        Ok((header.seq, message.map_err(|e| SealError::Malformed(e.to_string()))?))
    }
}

struct Header {
    secret: SecretId,
    salt: [u8; SALT_BYTES],
    counter: u64,
    seq: u64,
}

impl Header {
    fn write(&self, direction: u8, out: &mut Vec<u8>) {
        out.extend([SEAL_VERSION, direction]);
        out.extend(self.secret.0);
        out.extend(self.salt);
        out.extend(self.counter.to_le_bytes());
        out.extend(self.seq.to_le_bytes());
    }

    fn read(direction: u8, bytes: &[u8]) -> Result<Self, SealError> {
        let mut rest = bytes;
        let [version, way] = take(&mut rest)?;
        if version != SEAL_VERSION {
            return Err(SealError::Version(version));
        }
        if way != direction {
            return Err(SealError::Direction);
        }
        Ok(Self {
            secret: SecretId(take(&mut rest)?),
            salt: take(&mut rest)?,
            counter: u64::from_le_bytes(take(&mut rest)?),
            seq: u64::from_le_bytes(take(&mut rest)?),
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], SealError> {
    let (head, tail) =
        rest.split_first_chunk::<N>().ok_or_else(|| SealError::Malformed("the header is cut off".into()))?;
    *rest = tail;
    Ok(*head)
}

fn cipher(secret: &SiteSecret, site: &SiteId, direction: u8, salt: &[u8]) -> ChaCha20Poly1305 {
    let key: [u8; 32] = secret.derive(salt, &[DATA_LABEL, &[direction], site.as_str().as_bytes()]);
    ChaCha20Poly1305::new(&key.into())
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// The header has a fixed length and so has the shard; the site is the rest.
fn additional_data(header: &[u8], site: &SiteId, shard: ShardId) -> Vec<u8> {
    [header, &shard.0.to_le_bytes(), site.as_str().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(n: u8) -> SiteSecret {
        SiteSecret(std::array::from_fn(|i| n ^ (i as u8)))
    }

    fn site(name: &str) -> SiteId {
        SiteId::new(name).unwrap()
    }

    fn opener<M: Message>() -> Opener<M> {
        let mut opener = Opener::new();
        opener.add(&site("a"), &secret(1));
        opener.add(&site("b"), &secret(2));
        opener
    }

    fn beacon() -> Up {
        Up::Beacon { first_kept: 3, last: 9 }
    }

    fn up_sealer() -> Sealer<Up> {
        Sealer::with_salt(&secret(1), &site("a"), [7; SALT_BYTES])
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn a_frame_has_these_bytes() {
        let mut up = up_sealer();
        let frames: Vec<String> = (0..2).map(|_| hex(&up.seal(ShardId(5), 9, &beacon()).unwrap())).collect();
        let mut down: Sealer<Down> = Sealer::with_salt(&secret(1), &site("a"), [7; SALT_BYTES]);
        let confirm = hex(&down.seal(ShardId(5), 9, &Down::Confirm { cursor: 9 }).unwrap());
        assert_eq!(
            frames[0],
            "0101a25ab994c9f13e920707070707070707070707070707070707070707070707070707070707070707000000000000000009000000000000008fbe34bb8139d25c4c7f27c28dd3608e48bc0527"
        );
        assert_eq!(
            frames[1],
            "0101a25ab994c9f13e92070707070707070707070707070707070707070707070707070707070707070701000000000000000900000000000000816fe0cdaa2c13df8b31ac18c5908716be26b3e0"
        );
        assert_eq!(
            confirm,
            "0102a25ab994c9f13e9207070707070707070707070707070707070707070707070707070707070707070000000000000000090000000000000030a3d896f8a708a5989fb857df5a90535f2bb0"
        );
        assert_eq!(
            hex(&link_psk(&secret(1), &site("a"))),
            "85d673e337902a3de72b81850787ace5bb869188a955e11a933c27d25513dd6a"
        );
        assert_eq!(secret(1).id().to_string(), "a25ab994c9f13e92");
    }

    #[test]
    fn what_was_sealed_opens_with_its_seq() {
        let mut sealer = Sealer::<Up>::new(&secret(1), &site("a")).unwrap();
        let mut opener = opener::<Up>();
        for seq in 1..=3 {
            let bytes = sealer.seal(ShardId(5), seq, &beacon()).unwrap();
            assert_eq!(opener.open(&site("a"), ShardId(5), &bytes), Ok((seq, beacon())));
        }
    }

    #[test]
    fn a_frame_with_any_bit_flipped_or_any_byte_missing_is_refused() {
        let mut opener = opener::<Up>();
        let good = up_sealer().seal(ShardId(5), 9, &beacon()).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let refused = opener.open(&site("a"), ShardId(5), &bad).unwrap_err();
            let expected = match bit / 8 {
                0 => matches!(refused, SealError::Version(_)),
                1 => refused == SealError::Direction,
                2..10 => matches!(refused, SealError::UnknownSecret(_)),
                _ => refused == SealError::NotAuthentic,
            };
            assert!(expected, "bit {bit}: {refused}");
        }
        for cut in 0..good.len() {
            assert!(opener.open(&site("a"), ShardId(5), &good[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [good, vec![0]].concat();
        assert_eq!(opener.open(&site("a"), ShardId(5), &longer), Err(SealError::NotAuthentic));
        let huge = vec![0; MAX_SEALED_BYTES + 1];
        assert_eq!(opener.open(&site("a"), ShardId(5), &huge), Err(SealError::TooLarge(huge.len())));
    }

    #[test]
    fn a_frame_opens_nowhere_but_where_it_belongs() {
        let good = up_sealer().seal(ShardId(5), 9, &beacon()).unwrap();
        let mut opener = opener::<Up>();
        assert_eq!(opener.open(&site("a"), ShardId(6), &good), Err(SealError::NotAuthentic));
        // Its secret is not one of site b's, nor of a site nobody knows.
        for other in ["b", "c"] {
            let refused = opener.open(&site(other), ShardId(5), &good);
            assert_eq!(refused, Err(SealError::UnknownSecret(secret(1).id())));
        }
        // Even if both sites share a secret, a frame of one is none of the other's.
        opener.add(&site("b"), &secret(1));
        assert_eq!(opener.open(&site("b"), ShardId(5), &good), Err(SealError::NotAuthentic));
        // Renumbered: the seq stands in the header's last eight bytes.
        let mut renumbered = good.clone();
        renumbered[HEADER_BYTES - 8] = 10;
        assert_eq!(opener.open(&site("a"), ShardId(5), &renumbered), Err(SealError::NotAuthentic));
        assert!(opener.open(&site("a"), ShardId(5), &good).is_ok());
    }

    #[test]
    fn a_reflected_frame_is_refused_even_with_its_direction_rewritten() {
        let mut reflected = up_sealer().seal(ShardId(5), 9, &beacon()).unwrap();
        let mut opener = opener::<Down>();
        assert_eq!(opener.open(&site("a"), ShardId(5), &reflected), Err(SealError::Direction));
        reflected[1] = Down::DIRECTION;
        assert_eq!(opener.open(&site("a"), ShardId(5), &reflected), Err(SealError::NotAuthentic));
    }

    #[test]
    fn no_nonce_and_no_salt_comes_twice() {
        let mut sealer = up_sealer();
        let first = sealer.seal(ShardId(5), 9, &beacon()).unwrap();
        assert_ne!(first, sealer.seal(ShardId(5), 9, &beacon()).unwrap());
        let salts: Vec<_> = (0..2).map(|_| Sealer::<Up>::new(&secret(1), &site("a")).unwrap().salt).collect();
        assert_ne!(salts[0], salts[1]);
        sealer.next = u64::MAX;
        assert_eq!(sealer.seal(ShardId(5), 9, &beacon()), Err(SealError::Exhausted));
        assert_eq!(sealer.seal(ShardId(5), 9, &beacon()), Err(SealError::Exhausted), "for good");
    }

    #[test]
    fn the_largest_batch_fits_and_a_larger_one_is_refused() {
        let body = |n| Up::Batch { first_kept: u64::MAX, last: u64::MAX, body: vec![0; n] };
        let mut sealer = up_sealer();
        assert!(sealer.seal(ShardId(5), 9, &body(MAX_BATCH_BYTES)).unwrap().len() <= MAX_SEALED_BYTES);
        let refused = sealer.seal(ShardId(5), 9, &body(MAX_BATCH_BYTES + 100));
        assert!(matches!(refused, Err(SealError::TooLarge(_))));
    }

    #[test]
    fn remembered_keys_are_bounded_and_forged_salts_displace_none() {
        let mut opener = opener::<Up>();
        let frame = |n: u8| {
            let mut sealer: Sealer<Up> = Sealer::with_salt(&secret(1), &site("a"), [n; SALT_BYTES]);
            sealer.seal(ShardId(5), 9, &beacon()).unwrap()
        };
        opener.open(&site("a"), ShardId(5), &frame(0)).unwrap();
        for n in 1..200 {
            let mut forged = frame(n);
            *forged.last_mut().unwrap() ^= 1;
            assert_eq!(opener.open(&site("a"), ShardId(5), &forged), Err(SealError::NotAuthentic));
        }
        assert_eq!(opener.sites[&site("a")].keys.len(), 1);
        for n in 0..200 {
            opener.open(&site("a"), ShardId(5), &frame(n)).unwrap();
        }
        let keys = &opener.sites[&site("a")].keys;
        assert_eq!(keys.len(), MAX_CACHED_KEYS_ENTRIES);
        assert_eq!(keys.last().map(|k| k.1[0]), Some(199));
    }

    #[test]
    fn secrets_change_without_a_pause() {
        let (old, new) = (secret(1), secret(3));
        let mut opener = opener::<Up>();
        opener.add(&site("a"), &new);
        for s in [old, new] {
            let bytes = Sealer::<Up>::new(&s, &site("a")).unwrap().seal(ShardId(5), 9, &beacon()).unwrap();
            assert!(opener.open(&site("a"), ShardId(5), &bytes).is_ok());
        }
    }

    #[test]
    fn a_secret_is_read_from_hex_and_never_shown() {
        let made = SiteSecret::generate().unwrap();
        let text = made.reveal_hex();
        assert_eq!(SiteSecret::from_hex(&format!(" {}\n", text.to_uppercase())).unwrap(), made);
        let shown = format!("{made:?} {}", serde_json::to_string(&made).unwrap());
        assert!(!shown.contains(&text) && !shown.contains(&text[..16]), "{shown}");
        for bad in ["", "abc", &text[1..], &format!("{}g", &text[1..]), &format!("{text}00"), "ä"] {
            let said = SiteSecret::from_hex(bad).unwrap_err().to_string();
            assert!(said.contains("openssl rand -hex 32"), "{said}");
        }
        for bad in ["0".repeat(64), "12".repeat(32)] {
            assert!(matches!(SiteSecret::from_hex(&bad), Err(SecretError::NotRandom)));
        }
        let said = serde_json::from_str::<SiteSecret>(&format!("\"{text}0\"")).unwrap_err().to_string();
        assert!(!said.contains(&text[..16]), "{said}");
    }

    #[test]
    fn a_secret_file_is_made_private_and_refused_when_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let made = SiteSecret::generate().unwrap();
        made.create_file(&path).unwrap();
        assert_eq!(SiteSecret::from_file(&path).unwrap(), made);
        assert!(made.create_file(&path).is_err(), "an existing secret is not overwritten");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            let said = SiteSecret::from_file(&path).unwrap_err().to_string();
            assert!(said.contains("chmod 600") && !said.contains(&made.reveal_hex()), "{said}");
            assert!(is_private(0o100600, 1000) && is_private(0o100440, 0));
            assert!(!is_private(0o100640, 1000) && !is_private(0o100460, 0) && !is_private(0o100604, 0));
        }
        assert!(SiteSecret::from_file(&folder.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}
