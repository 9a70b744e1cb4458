//! The seal: authenticated encryption that keeps the broker between a site and the cloud from reading, altering or replaying
//! messages.
//!
//! **Frame.** `version (1) | direction (1) | secret id (8) | salt (32) | counter (8) | seq (8) | site incarnation (24) | sealed
//! message and tag`, integers little-endian. The message is bincode behind its own version byte
//! ([`selvedge_types::frame`]), sealed with ChaCha20-Poly1305 (as fast as it gets on boxes without AES instructions).
//! The additional data is the whole header, then the shard and the site, which stand in the topic and not in the frame.
//!
//! **Keys.** `data key = HKDF-SHA256(salt, site secret, label | direction | site incarnation | site)`. Each [`Sealer`] draws
//! its own random 256-bit salt when it is made, and counts its frames; the count is the nonce.
//!
//! - Invariant: no key meets a nonce twice. A restart, a restored disk or a failover makes a new sealer,
//!   so a new salt, so a new key; within a sealer the counter only grows, and its end is an error.
//! - Invariant: a frame opens only as what it was sealed as: same site and incarnation of it, shard, seq, direction, secret and
//!   version. It can't be moved, renumbered or reflected.
//! - Invariant: one site's secret opens nothing of another site; the opener looks a secret up by
//!   (site, secret id), never by id alone.
//!
//! Reports, questions and answers ([`selvedge_types::report`], [`selvedge_types::question`]) are sealed in the same way: a gateway's number stands
//! for the shard, and what else they are bound to for the seq.
//!
//! A frame that is replayed as it was does open. Both sides are made for that: batches are applied once
//! by their seq, cursors and `first_kept` only grow, old reports count for nothing, a question is answered once. A site that is created
//! anew, and starts to count at 1 again, is another incarnation: frames of the old one don't count in it, even under the same secret.
//! Reports, questions and answers are of no incarnation: they are bound to starts of processes.
//!
//! Secrets change without a pause: the opener knows the old and the new one, frames name theirs by a
//! public id. Left out: forward secrecy (a stolen secret opens recorded frames), and protection of a
//! process that is itself resumed twice from one memory image (a live snapshot of a virtual machine),
//! which would count on from the same nonce.
//!
//! Sources: RFC 5869 (HKDF), RFC 8439 (ChaCha20-Poly1305), RFC 5116 section 3.2 (counted nonces).

mod secret;

pub use secret::{SECRET_BYTES, SecretError, SecretId, SiteSecret};

use ring::rand::{SecureRandom, SystemRandom};
use ring_compat::aead::{Aead, ChaCha20Poly1305, KeyInit, Payload};
use selvedge_types::canary::{self, Canary};
use selvedge_types::frame;
use selvedge_types::ids::{ShardId, SiteId};
use selvedge_types::sealed::{HEADER_BYTES, SALT_BYTES, SEAL_OVERHEAD_BYTES, Sealable};
use selvedge_types::uplink::SiteIncarnation;
use std::collections::HashMap;
use std::marker::PhantomData;

/// Version of the frame and of the key derivation.
pub const SEAL_VERSION: u8 = 2;

/// How many derived keys an [`Opener`] remembers for each site: one for each peer's process start that it
/// has lately heard. Forgetting one costs a derivation, nothing else.
pub const MAX_CACHED_KEYS_ENTRIES: usize = 128;

const DATA_LABEL: &[u8] = b"selvedge uplink data key v2";
const LINK_LABEL: &[u8] = b"selvedge peer link psk v1";

/// The pre-shared key of the links between a site's gateways: from the same secret, under its own label.
pub fn link_psk(secret: &SiteSecret, site: &SiteId) -> [u8; 32] {
    secret.derive(&[], &[LINK_LABEL, site.as_str().as_bytes()])
}

/// Random bytes of the operating system.
///
/// # Errors
/// [`SealError::NoRandomness`].
pub fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| SealError::NoRandomness)?;
    Ok(bytes)
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
    #[error("this frame was sealed for the other direction")]
    Direction,
    /// No secret of that id is known for the site.
    #[error("no secret with id {0} is known for this site")]
    UnknownSecret(SecretId),
    /// Altered, moved, renumbered or forged.
    #[error("not authentic: altered, moved from elsewhere, or sealed for another site")]
    NotAuthentic,
    /// The message is longer than [`Sealable::MAX_BYTES`] allows.
    #[error("the sealed message has {0} bytes, which is too long")]
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
    secret: SiteSecret,
    secret_id: SecretId,
    site: SiteId,
    salt: [u8; SALT_BYTES],
    /// For what was sealed last: the shards of a site mostly have one incarnation.
    cipher: (SiteIncarnation, ChaCha20Poly1305),
    next: u64,
    direction: PhantomData<fn(M)>,
}

impl<M: Sealable> Sealer<M> {
    /// A sealer with a fresh salt.
    ///
    /// # Errors
    /// [`SealError::NoRandomness`].
    pub fn new(secret: &SiteSecret, site: &SiteId) -> Result<Self, SealError> {
        let salt = match canary::makes(Canary::NonceUsedAgain) {
            true => [0; SALT_BYTES],
            false => random()?,
        };
        Ok(Self::with_salt(secret, site, salt))
    }

    fn with_salt(secret: &SiteSecret, site: &SiteId, salt: [u8; SALT_BYTES]) -> Self {
        let none = SiteIncarnation::default();
        let cipher = (none, cipher(secret, site, none, M::DIRECTION, &salt));
        let (secret_id, secret, site) = (secret.id(), secret.clone(), site.clone());
        Self { secret, secret_id, site, salt, cipher, next: 0, direction: PhantomData }
    }

    /// Seals `message` as number `seq` of `shard`, of no incarnation.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] or [`SealError::Exhausted`].
    pub fn seal(&mut self, shard: ShardId, seq: u64, message: &M) -> Result<Vec<u8>, SealError> {
        self.seal_of(SiteIncarnation::default(), shard, seq, message)
    }

    /// Seals `message` as number `seq` of `shard` in this incarnation of the site. A beacon or a confirmation takes the number it
    /// speaks of.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] or [`SealError::Exhausted`].
    pub fn seal_of(
        &mut self,
        incarnation: SiteIncarnation,
        shard: ShardId,
        seq: u64,
        message: &M,
    ) -> Result<Vec<u8>, SealError> {
        let plain = frame::encode(M::VERSION, message);
        let length = plain.len() + SEAL_OVERHEAD_BYTES;
        if length > M::MAX_BYTES {
            return Err(SealError::TooLarge(length));
        }
        let counter = self.next;
        self.next = counter.checked_add(1).ok_or(SealError::Exhausted)?;
        if self.cipher.0 != incarnation {
            let cipher = cipher(&self.secret, &self.site, incarnation, M::DIRECTION, &self.salt);
            self.cipher = (incarnation, cipher);
        }
        let header = Header { secret: self.secret_id, salt: self.salt, counter, seq, incarnation };
        let mut out = Vec::with_capacity(length);
        header.write(M::DIRECTION, &mut out);
        let aad = additional_data(&out, &self.site, shard);
        let sealed = self.cipher.1.encrypt(&nonce(counter).into(), Payload { msg: &plain, aad: &aad });
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
    keys: Vec<(KeyName, ChaCha20Poly1305)>,
}

/// What a key is derived from, beside what all of an opener's have in common.
type KeyName = (SecretId, SiteIncarnation, [u8; SALT_BYTES]);

impl<M> Default for Opener<M> {
    fn default() -> Self {
        Self { sites: HashMap::new(), direction: PhantomData }
    }
}

impl<M: Sealable> Opener<M> {
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

    /// Opens a frame of no incarnation that came for (site, shard), and says the seq it was sealed with.
    ///
    /// # Errors
    /// Every [`SealError`] that is about a frame; it says which check failed first.
    pub fn open(&mut self, site: &SiteId, shard: ShardId, bytes: &[u8]) -> Result<(u64, M), SealError> {
        match self.open_of(site, shard, bytes)? {
            (incarnation, seq, message) if incarnation == SiteIncarnation::default() => Ok((seq, message)),
            _ => Err(SealError::Malformed(format!("a {} has no incarnation", M::WHAT))),
        }
    }

    /// Opens a frame that came for (site, shard), and says the incarnation of the site and the seq it was sealed with.
    ///
    /// # Errors
    /// As [`Opener::open`].
    pub fn open_of(
        &mut self,
        site: &SiteId,
        shard: ShardId,
        bytes: &[u8],
    ) -> Result<(SiteIncarnation, u64, M), SealError> {
        if bytes.len() > M::MAX_BYTES {
            return Err(SealError::TooLarge(bytes.len()));
        }
        let (header_bytes, sealed) = bytes
            .split_at_checked(HEADER_BYTES)
            .ok_or_else(|| SealError::Malformed(format!("{} bytes are not a frame", bytes.len())))?;
        let header = Header::read(M::DIRECTION, header_bytes)?;
        let unknown = SealError::UnknownSecret(header.secret);
        let keys = self.sites.get_mut(site).ok_or(unknown.clone())?;
        let name = (header.secret, header.incarnation, header.salt);
        let (entry, known) = match keys.keys.iter().position(|key| key.0 == name) {
            Some(at) => (keys.keys.remove(at), true),
            None => {
                let secret = keys.secrets.iter().find(|s| s.id() == header.secret).ok_or(unknown)?;
                let cipher = cipher(secret, site, header.incarnation, M::DIRECTION, &header.salt);
                ((name, cipher), false)
            }
        };
        let aad = additional_data(header_bytes, site, shard);
        let plain = entry.1.decrypt(&nonce(header.counter).into(), Payload { msg: sealed, aad: &aad });
        // A forger's salts never push out the keys of honest senders.
        if known || plain.is_ok() {
            if keys.keys.len() >= MAX_CACHED_KEYS_ENTRIES {
                keys.keys.remove(0);
            }
            keys.keys.push(entry);
        }
        let plain = plain.map_err(|_| SealError::NotAuthentic)?;
        let message: M =
            frame::decode(M::WHAT, M::VERSION, &plain).map_err(|e| SealError::Malformed(e.to_string()))?;
        message.check().map_err(|why| SealError::Malformed(format!("{}: {why}", M::WHAT)))?;
        Ok((header.incarnation, header.seq, message))
    }
}

struct Header {
    secret: SecretId,
    salt: [u8; SALT_BYTES],
    counter: u64,
    seq: u64,
    incarnation: SiteIncarnation,
}

impl Header {
    fn write(&self, direction: u8, out: &mut Vec<u8>) {
        out.extend([SEAL_VERSION, direction]);
        out.extend(self.secret.0);
        out.extend(self.salt);
        out.extend(self.counter.to_le_bytes());
        out.extend(self.seq.to_le_bytes());
        out.extend(self.incarnation.to_bytes());
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
            incarnation: SiteIncarnation::from_bytes(take(&mut rest)?),
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], SealError> {
    let (head, tail) =
        rest.split_first_chunk::<N>().ok_or_else(|| SealError::Malformed("the header is cut off".into()))?;
    *rest = tail;
    Ok(*head)
}

fn cipher(
    secret: &SiteSecret,
    site: &SiteId,
    incarnation: SiteIncarnation,
    direction: u8,
    salt: &[u8],
) -> ChaCha20Poly1305 {
    let info: [&[u8]; 4] = [DATA_LABEL, &[direction], &incarnation.to_bytes(), site.as_str().as_bytes()];
    let key: [u8; 32] = secret.derive(salt, &info);
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
mod tests;
