//! Errors of the log and of the stores beside it.

use std::io;

/// Why the log or a store beside it refused an operation.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another process has the data folder open.
    #[error("{name} is locked: another process uses this data folder; stop it first")]
    Locked { name: String },
    /// Another gateway wrote the file, or another incarnation of this one.
    #[error(
        "{name} belongs to another gateway or incarnation (it says {found}, this one is {ours}); a copied or restored folder must not be used, return under a new id instead"
    )]
    Foreign {
        name: String,
        /// The identity in the file, in hexadecimal.
        found: String,
        /// The identity that was expected, in hexadecimal.
        ours: String,
    },
    /// Another release wrote the file, and it is intact: this is not damage.
    #[error(
        "{name}: format version {found} is unknown, this release reads {known}; nothing was changed: run the release that wrote it, or a newer one"
    )]
    Version {
        name: String,
        found: u32,
        /// The version that this release reads.
        known: u32,
    },
    /// The checksum is right and the version is known, but the content does not decode: this is not damage.
    #[error(
        "{name}: its checksum is right, but this release can't read it: {why}; nothing was changed: run the release that wrote it, or a newer one"
    )]
    Unreadable {
        name: String,
        /// What did not decode.
        why: String,
    },
    /// More than fits into one operation. Nothing was written.
    #[error("{what} of {bytes} bytes is over the limit of {limit} bytes")]
    TooLarge { what: &'static str, bytes: u64, limit: u64 },
    /// The disk is full, or no more files may be opened. Nothing of this call counts as written; everything before it
    /// stands.
    #[error(
        "no room for {what}: the disk is full, or this process has as many files open as it may; free some space, or raise the limit of \
         open files (LimitNOFILE=)"
    )]
    Full {
        /// The operation that found no room.
        what: String,
    },
    /// An earlier write or fsync failed, so what the disk holds since then is unknown.
    #[error(
        "the log stopped for good after a failed write or fsync ({why}); restart the gateway so that it reads what the disk really holds"
    )]
    Poisoned {
        /// The text of the first error.
        why: String,
    },
    /// A stored file does not hold what was written.
    #[error("{name} is damaged: {why}; its content must come from a peer")]
    Damaged {
        name: String,
        /// How the damage showed.
        why: String,
    },
    /// An immutable file was to be written again with other content.
    #[error("{name} exists with other content and is never rewritten")]
    Conflict { name: String },
    /// A setting is out of range.
    #[error("setting {setting} = {value} is outside of {least} to {most}")]
    Setting {
        setting: &'static str,
        value: u64,
        /// The lowest value that works.
        least: u64,
        /// The highest value that works.
        most: u64,
    },
    /// The operating system reported an error.
    #[error("{doing} {name}: {source}")]
    Io {
        /// The operation, as a verb: `syncing`.
        doing: &'static str,
        /// The file or folder.
        name: String,
        source: io::Error,
    },
}

impl LogError {
    pub(crate) fn io(doing: &'static str, name: &str, source: io::Error) -> Self {
        if is_full(&source) {
            Self::Full { what: format!("{doing} {name}") }
        } else {
            Self::Io { doing, name: name.to_string(), source }
        }
    }

    /// Whether another release, gateway or incarnation wrote the file. It is not damaged, so its content must be
    /// neither believed nor replaced.
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Version { .. } | Self::Unreadable { .. } | Self::Foreign { .. })
    }

    /// Whether the only cause is that there is no room now.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Whether the log as it stands can't take this much at once.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::TooLarge { .. })
    }
}

/// Whether the operating system reports a lack of room: on the disk, or for one more open file of this process or of
/// the whole system.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let files = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        || files.contains(&error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_open_files_is_no_room() {
        for errno in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE, rustix::io::Errno::NOSPC] {
            let error = LogError::io("making", "segment", errno.into());
            assert!(error.is_full(), "{error}");
        }
        assert!(!LogError::io("making", "segment", rustix::io::Errno::IO.into()).is_full());
    }
}
