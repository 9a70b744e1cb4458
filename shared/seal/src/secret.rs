//! The site secret: how it is made, kept in a file, named and never shown, and how keys are derived from it.

use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};
#[cfg(unix)]
use selvedge_guard::private::is_private;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The length of a site secret.
pub const SECRET_BYTES: usize = 32;

const MAX_SECRET_FILE_BYTES: u64 = 4096;

/// 32 random bytes hold fewer different ones than this once in 10^36 draws; a hand-made secret often does.
const MIN_DIFFERENT_BYTES: usize = 8;

const ID_LABEL: &[u8] = b"selvedge secret id v1";

/// What a site's gateways and its nodes share: 256 random bits. Never printed, neither by `Debug` nor when
/// settings are serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct SiteSecret(pub(super) [u8; SECRET_BYTES]);

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
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    #[error("the site secret's file {path} (mode {mode:03o}) can be read by others; run `chmod 600 {path}`")]
    FileOpenToOthers {
        path: PathBuf,
        /// The permission bits that it has, such as 0o644.
        mode: u32,
    },
    /// What the file holds is no secret.
    #[error("the site secret's file {path}: {why}")]
    FileContent {
        path: PathBuf,
        /// What is wrong with its content.
        why: Box<SecretError>,
    },
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
            if meta.is_dir() {
                return Err(failed(std::io::ErrorKind::IsADirectory.into()));
            }
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

    /// A public name for the secret, derived from it one way.
    pub fn id(&self) -> SecretId {
        SecretId(self.derive(&[], &[ID_LABEL]))
    }

    pub(super) fn derive<const N: usize>(&self, salt: &[u8], info: &[&[u8]]) -> [u8; N] {
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
